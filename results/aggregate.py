"""Turn finished runs into results.csv, the tables of both READMEs and the figure.

    python results/aggregate.py            # read the runs, regenerate everything
    python results/aggregate.py --check    # do the READMEs still say what results.csv says?

``results.csv`` is committed and is the union of all runs that ever counted, so that a clone without
runs of its own loses no row. Tables and figure are made from it alone.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.optimize import isotonic_regression

ROOT = Path(__file__).resolve().parents[1]
BASELINE = "Original model"
REPORT_SET, REPORT_IMAGES = "coco-val", 281

ACCURACY = ["precision", "recall", "map50", "map50_95"]
DELTA = ["map50_95_delta", "map50_95_delta_lo", "map50_95_delta_hi"]
SPEEDUP = ["speedup", "speedup_lo", "speedup_hi"]
MILLISECONDS = ["latency_ms", "latency_p90_ms", "baseline_latency_ms"]
SIZE = ["size_mb", "size_ratio", "sparsity", "bits_per_weight"]
METRICS = ACCURACY + DELTA + [f"coco128_{key}" for key in ACCURACY] + MILLISECONDS + SPEEDUP + SIZE
MACHINE = ["cpu", "isa", "threads"]
FIRST_NUMBERS = [*ACCURACY, "latency_ms", "size_mb", "sparsity"]
COLUMNS = [
    *("experiment", "homework", *METRICS, "runtime", "execution_precision", "cpu", "isa", "threads"),
    *("dataset", "images", "git_commit", "versions", "finished", "run_id"),
]
NUMBERS = [*METRICS, "images"]
NEEDED = ["experiment", "homework", *MACHINE, "finished", "map50_95", "latency_ms", "size_mb"]

CSV, FIRST_TABLE = "results/results.csv", "results/original.csv"
FIGURE = "results/figures/pareto.svg"
TICKS_MB = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24]
LABEL_INCHES = 0.2
MARKERS = "<!-- results:start -->", "<!-- results:end -->"

CAPTIONS = {
    "README.md": {
        "baseline": BASELINE,
        "empty": "No runs yet: `make run HW=all` fills this in.",
        "machine": "On **{cpu}** ({isa}), threads: {threads}; batch 1, 640×640; "
        "{images} images of COCO val2017.",
        "experiment": "Experiment",
        "ms": "CPU ms<br>executes in",
        "times": "× faster",
        "size": "MB<br>(× smaller)",
        "zeros": "Zeros, %",
        "reference": "reference",
        "images": "images",
        "figure": "Accuracy against size of the shipped files, coloured by speed-up",
        "other": "Speed on **{cpu}** ({isa}), threads: {threads}:",
        "coco128": "### coco128: the first table and now",
        "upper": "Upper line: the first table, compiled by hand. Lower line, bold: now.",
        "changed": "What changed in between: images are letterboxed to a square instead of a rectangle, they "
        "are the original JPEGs rather than re-encoded ones, sizes are bytes on disk rather than in memory, "
        "and the CPU is another one, so the milliseconds of the two lines do not compare.",
    },
    "README.ru.md": {
        "baseline": f"Исходная модель ({BASELINE})",
        "empty": "Запусков ещё нет: таблицу заполнит `make run HW=all`.",
        "machine": "На **{cpu}** ({isa}), потоков: {threads}; батч 1, 640×640; "
        "изображений COCO val2017: {images}.",
        "experiment": "Эксперимент",
        "ms": "CPU, мс<br>вычисляется в",
        "times": "× быстрее",
        "size": "МБ<br>(× меньше)",
        "zeros": "Нули, %",
        "reference": "эталон",
        "images": "изображений",
        "figure": "Точность и размер отправляемых файлов, цвет – ускорение",
        "other": "Скорость на **{cpu}** ({isa}), потоков: {threads}:",
        "coco128": "### coco128: первая таблица и сейчас",
        "upper": "Верхняя строка – первая таблица, составленная вручную; нижняя, жирная – сейчас.",
        "changed": "Что изменилось: изображения вписываются в квадрат, а не в прямоугольник, это исходные "
        "JPEG, а не пережатые, размеры – байты на диске, а не в памяти, и CPU другой, поэтому "
        "миллисекунды двух строк несравнимы.",
    },
}


class ResultsError(RuntimeError):
    """The results cannot be read or written; the message says what to do. Nothing was changed."""


# Runs → rows


def rows_of(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs that count, in the columns of results.csv.

    Smoke runs, runs on other images than the report set or on fewer, and incomplete ones do not.

    Args:
        runs: finished runs, as ``modelcompression.tracking.finished_runs`` returns them.
    """
    source = {column: f"tags.{column}" for column in COLUMNS}
    source |= {column: f"metrics.{column}" for column in NUMBERS}
    source |= {"experiment": "experiment", "finished": "end_time", "run_id": "run_id"}
    rows = pd.DataFrame({column: runs.get(source[column]) for column in COLUMNS}, index=runs.index)
    rows[NUMBERS] = rows[NUMBERS].astype(float)
    full = (rows["dataset"] == REPORT_SET) & (rows["images"] >= REPORT_IMAGES)
    rows = rows[full & (runs.get("tags.smoke") != "true")].dropna(subset=NEEDED)
    rows = rows.sort_values("finished", kind="stable")
    times = pd.to_datetime(rows["finished"], utc=True)
    return rows.assign(finished=times.dt.strftime("%Y-%m-%dT%H:%M:%SZ"))


def merge(committed: pd.DataFrame, fresh: pd.DataFrame, first: Iterable[str]) -> pd.DataFrame:
    """The union of both: of each experiment on each machine, the run that finished last.

    In the order of the tables: experiments of the ``first`` table, then by homework and name.
    """
    filled = [part for part in (committed, fresh) if len(part)] or [committed]
    rows = pd.concat(filled).sort_values("finished", kind="stable")
    rows = rows.drop_duplicates(["experiment", *MACHINE], keep="last")
    place = {name: index for index, name in enumerate(first)}
    rank = [place.get(name, len(place)) for name in rows["experiment"]]
    rows = rows.assign(rank=rank).sort_values(["rank", "homework", "experiment", *MACHINE])
    return rows[COLUMNS].reset_index(drop=True)


def csv_text(rows: pd.DataFrame) -> str:
    """results.csv: five significant digits, milliseconds to two decimals."""
    text = rows.astype(object)
    for column in NUMBERS:
        form = "{:.2f}" if column in MILLISECONDS else "{:.5g}"
        text[column] = ["" if pd.isna(value) else form.format(value) for value in rows[column]]
    return text.to_csv(index=False, lineterminator="\n")


def parse(text: str, numbers: list[str]) -> pd.DataFrame:
    """A table from CSV text: the named columns are numbers (empty: NaN), all others strings."""
    raw = pd.read_csv(io.StringIO(text), dtype=str, keep_default_na=False)
    if not isinstance(raw.index, pd.RangeIndex):  # pandas took the surplus fields for row names
        raise ValueError("a line has more fields than the first one")
    kept = {column: raw[column].replace("", "nan").astype(float) for column in numbers}
    return raw.assign(**kept)


def read_rows(root: Path) -> pd.DataFrame:
    """The rows of the committed results.csv; none if there is no such file yet.

    Raises:
        ResultsError: the file is damaged, for example by an unresolved merge.
    """
    path = root / CSV
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    try:
        text = path.read_text(encoding="utf8")
        if text.partition("\n")[0].split(",") != COLUMNS:
            raise ValueError("its first line does not name the expected columns")
        rows = parse(text, NUMBERS)
        blank = (rows[NEEDED].isna() | rows[NEEDED].eq("")).any(axis=1)
        if blank.any():
            raise ValueError(f"row {blank.argmax() + 1} is incomplete")
        return rows
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise ResultsError(f"{CSV} is damaged: {reason}; repair it by hand or with git checkout") from None


# Rows → tables


def machines(rows: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows by machine; first the published one: with most experiments, among equals the latest."""
    groups = [group for _, group in rows.groupby(MACHINE)]
    return sorted(groups, key=lambda g: (len(g), g["finished"].max()), reverse=True)


def headline(rows: pd.DataFrame) -> pd.DataFrame:
    """One row an experiment, from the published machine, in the order of the rows.

    What only other machines measured is the latest of theirs, its speed blanked: a column of speeds
    belongs to one CPU.
    """
    published = machines(rows)[0]
    elsewhere = rows[~rows["experiment"].isin(published["experiment"])].sort_values("finished")
    elsewhere = elsewhere.drop_duplicates("experiment", keep="last")
    elsewhere = elsewhere.assign(**dict.fromkeys(MILLISECONDS + SPEEDUP, float("nan")))
    return pd.concat([published, elsewhere]).sort_index()


def block(rows: pd.DataFrame, original: pd.DataFrame, readme: str) -> str:
    """Markdown between the markers of one README.

    Args:
        rows: results.csv.
        original: the first table, see ``results/original.csv``.
        readme: ``README.md`` or ``README.ru.md``, which decides the language.
    """
    say = CAPTIONS[readme]
    if rows.empty:
        return f"\n{say['empty']}\n"
    published, *others = machines(rows)
    shown = headline(rows)
    images = int(shown["images"].mode()[0])
    parts = [
        say["machine"].format(images=images, **_machine(published)),
        _main_table(shown, images, say),
        f"![{say['figure']}]({FIGURE})",
    ]
    for group in others:
        parts += [say["other"].format(**_machine(group)), _speed_table(group, say)]
    parts += [say["coco128"], say["upper"], _coco128_table(shown, original, say), say["changed"]]
    return "\n" + "\n\n".join(parts) + "\n"


def _machine(group: pd.DataFrame) -> dict[str, str]:
    return group.sort_values("finished").iloc[-1][["cpu", "isa", "threads"]].to_dict()


def _main_table(shown: pd.DataFrame, images: int, say: dict[str, str]) -> str:
    head = [say["experiment"], "P", "R", "mAP50", "mAP50-95", "Δ, %"]
    head += [say[key] for key in ("ms", "times", "size", "zeros")]
    return _table(head, [_main_cells(row, images, say) for _, row in shown.iterrows()])


def _main_cells(row: pd.Series, images: int, say: dict[str, str]) -> list[str]:
    is_reference = row["experiment"] == BASELINE
    name = _link(row, say)
    if row["images"] != images:
        name += f"<br>({row['images']:.0f} {say['images']})"
    ms, times = _speed(row)
    size = _number(row["size_mb"], ".2f")
    return [
        name,
        *(_number(row[key], ".3f") for key in ACCURACY[:3]),
        _number(row["map50_95"], ".4f"),
        say["reference"] if is_reference else _interval(100 * row[DELTA], "+z.2f"),
        ms if ms == "–" else f"{ms}<br><sub>{row['execution_precision']}</sub>",
        times,
        size if is_reference else f"{size}<br>({_number(row['size_ratio'], '.2f')}×)",
        _number(100 * row["sparsity"], ".2f"),
    ]


def _speed_table(group: pd.DataFrame, say: dict[str, str]) -> str:
    lines = [[_link(row, say), *_speed(row)] for _, row in group.iterrows()]
    return _table([say["experiment"], say["ms"].partition("<br>")[0], say["times"]], lines)


def _coco128_table(shown: pd.DataFrame, original: pd.DataFrame, say: dict[str, str]) -> str:
    ms, size = (say[key].partition("<br>")[0] for key in ("ms", "size"))
    head = ["P", "R", "mAP50", "mAP50-95", ms, size, say["zeros"]]
    forms = [".3f"] * 4 + [".1f", ".2f", ".2f"]
    after = [f"coco128_{key}" for key in ACCURACY] + FIRST_NUMBERS[4:]
    percent = np.array([1] * 6 + [100])
    measured = shown.set_index("experiment")
    lines = []
    for _, row in original.iterrows():
        name = row["experiment"]
        was = percent * row[FIRST_NUMBERS].astype(float)
        now = percent * measured[after].reindex([name]).iloc[0]
        pairs = zip(was, now, forms, strict=True)
        cells = [f"{_number(a, form)}<br>**{_number(b, form)}**" for a, b, form in pairs]
        lines.append([say["baseline"] if name == BASELINE else name, *cells])
    return _table([say["experiment"], *head], lines)


def _speed(row: pd.Series) -> tuple[str, str]:
    ms = _number(row["latency_ms"], ".1f")
    return ms, "1" if row["experiment"] == BASELINE and ms != "–" else _interval(row[SPEEDUP], ".2f")


def _link(row: pd.Series, say: dict[str, str]) -> str:
    """The experiment's name, leading to its notebook: hw5_export → hw5_export/export.ipynb.

    A homework's further notebook is named in full: hw5_export/fastest → hw5_export/fastest.ipynb.
    """
    name = say["baseline"] if row["experiment"] == BASELINE else row["experiment"]
    folder, _, further = row["homework"].partition("/")
    return f"[{name}]({folder}/{further or folder.partition('_')[2]}.ipynb)"


def _table(head: list[str], lines: list[list[str]]) -> str:
    rule = ["---"] + ["--:"] * (len(head) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def _number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form).replace("-", "−")


def _interval(values: pd.Series, form: str) -> str:
    if values.isna().any():
        return "–"
    value, low, high = (_number(v, form) for v in values)
    return f"{value}<br><sub>[{low}, {high}]</sub>"


# Rows → figure


def pareto(shown: pd.DataFrame, machine: str) -> str:
    """SVG: mAP50-95 against size, one point an experiment, coloured by speed-up, on white.

    Many points share a place (one file, several runtimes), so the names stand in the margins, each
    with a dot of its own colour and a line to its point. Whiskers: interval of the difference to the
    original model.
    """
    is_reference = shown["experiment"].eq(BASELINE) & shown["latency_ms"].notna()
    speed = shown["speedup"].mask(is_reference, 1.0).to_numpy()
    original = shown["map50_95"] / (1 + shown["map50_95_delta"])
    low, high = (original * (1 + shown[column]) for column in DELTA[1:])
    dots = {
        "norm": Normalize(np.nanmin([1, *speed]), np.nanmax([2, *speed])),
        "cmap": mpl.colormaps["viridis"].with_extremes(bad="white"),
        "edgecolors": "#555555",
        "plotnonfinite": True,  # not measured on this machine: white
    }
    with mpl.rc_context({"svg.hashsalt": "modelcompression"}):
        figure = Figure(figsize=(6, max(5, LABEL_INCHES * len(shown) + 1.5)))
        axes = figure.subplots()
        axes.vlines(shown["size_mb"], low, high, color="#bbbbbb", zorder=1)
        points = axes.scatter(shown["size_mb"], shown["map50_95"], 60, speed, zorder=3, **dots)
        axes.set(xscale="log", xlabel="size of the shipped files, MB")
        axes.set_title("mAP50-95 on COCO val2017", loc="left", fontsize=10)
        axes.set_xticks(TICKS_MB, [f"{tick:g}" for tick in TICKS_MB])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlim=shown["size_mb"].agg(["min", "max"]) * [1 / 1.4, 1.4], ylim=_heights(axes.get_ylim()))
        axes.grid(alpha=0.25)
        title = f"times faster than the original model on {machine}"
        figure.colorbar(points, ax=axes, location="bottom", pad=0.12, aspect=50, label=title)
        _margin_labels(axes, shown, speed, dots)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def _heights(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits at least a hundredth apart to either side: noise must not fill the figure."""
    middle = sum(limits) / 2
    return min(limits[0], middle - 0.01), max(limits[1], middle + 0.01)


def _margin_labels(axes: Axes, shown: pd.DataFrame, speed: np.ndarray, dots: dict) -> None:
    inches = axes.get_window_extent().height / axes.figure.dpi
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform(shown[["size_mb", "map50_95"]].to_numpy())
    inside = {"transform": axes.transAxes, "clip_on": False}
    for is_left, margin, align, shift in ((True, -0.15, "right", -8), (False, 1.06, "left", 8)):
        side = np.flatnonzero((places[:, 0] < 0.45) == is_left)
        if not len(side):
            continue
        side = side[np.argsort(-places[side, 1], kind="stable")]
        heights = spread(places[side, 1], LABEL_INCHES / inches)
        axes.scatter([margin] * len(side), heights, 40, speed[side], **inside, **dots)
        for index, height in zip(side, heights, strict=True):
            x, y = places[index]
            axes.plot([x, margin], [y, height], color="#cccccc", linewidth=0.7, zorder=0, **inside)
            factor = "" if np.isnan(speed[index]) else f"  {speed[index]:.2f}×"
            axes.annotate(
                shown["experiment"].iloc[index] + factor, (margin, height), (shift, 0),
                "axes fraction", "offset points", ha=align, va="center",
            )  # fmt: skip


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """The heights nearest to the given ones (least squares) that are ``gap`` apart.

    Args:
        heights: (n,), n ≥ 1, descending. The result stays within [0, 1] if that has room for it.
    """
    steps = gap * np.arange(len(heights))
    moved = isotonic_regression(heights + steps, increasing=False).x
    return np.clip(moved, steps[-1], max(1, steps[-1])) - steps


# Files


def with_block(root: Path, readme: str, fresh: str) -> str:
    """The README's text, what stands between its markers replaced by ``fresh``.

    Raises:
        ResultsError: the file or one of its two markers is missing, or a marker stands twice.
    """
    path = root / readme
    if not path.exists():
        raise ResultsError(f"{readme} is missing: restore it with git checkout")
    text = path.read_text(encoding="utf8")
    for marker in MARKERS:
        if text.count(marker) != 1:
            raise ResultsError(f"{readme} must contain '{marker}' once, not {text.count(marker)} times")
    start, end = text.index(MARKERS[0]) + len(MARKERS[0]), text.index(MARKERS[1])
    if start > end:
        raise ResultsError(f"{readme} has '{MARKERS[1]}' before '{MARKERS[0]}': swap them")
    return text[:start] + "\n" + fresh + "\n" + text[end:]


def readmes(root: Path, rows: pd.DataFrame) -> dict[str, str]:
    """File name → its text with regenerated tables."""
    original = first_table(root)
    return {name: with_block(root, name, block(rows, original, name)) for name in CAPTIONS}


def first_table(root: Path) -> pd.DataFrame:
    """The team's first table on coco128, as it was published; sparsity as a fraction."""
    text = (root / FIRST_TABLE).read_text(encoding="utf8")
    return parse(text, FIRST_NUMBERS)


def regenerate(root: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Write results.csv, figure and README tables; return the rows.

    Everything is made before anything is written.
    """
    names = first_table(root)["experiment"]
    text = csv_text(merge(read_rows(root), rows_of(runs), names))
    rows = parse(text, NUMBERS)
    files = {CSV: text} | readmes(root, rows)
    if len(rows):
        files[FIGURE] = pareto(headline(rows), _machine(machines(rows)[0])["cpu"])
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(path.name + ".new")
        aside.write_text(content, encoding="utf8")
        os.replace(aside, path)
    return rows


def check(root: Path) -> None:
    """Do READMEs and figure belong to results.csv?

    Raises:
        ResultsError: they do not.
    """
    rows = merge(read_rows(root), pd.DataFrame(), first_table(root)["experiment"])
    for name, text in readmes(root, rows).items():
        if text != (root / name).read_text(encoding="utf8"):
            raise ResultsError(f"{name} differs from what {CSV} says: run `make table`")
    if len(rows) and not (root / FIGURE).exists():
        raise ResultsError(f"{FIGURE} is missing: run `make table`")


def report(rows: pd.DataFrame, homeworks: list[str]) -> str:
    """What results.csv holds of these homeworks, for a terminal."""
    found = rows[rows["homework"].str.partition("/")[0].isin(homeworks)]
    if found.empty:
        wanted = f"complete runs on at least {REPORT_IMAGES} images of COCO val2017"
        return f"{CSV} has no row of {', '.join(homeworks)}: it takes {wanted}"
    shown = {
        "experiment": found["experiment"],
        "mAP50-95": [_number(x, ".4f") for x in found["map50_95"]],
        "Δ %": [_number(100 * x, "+z.2f") for x in found["map50_95_delta"]],
        "ms": [_number(x, ".1f") for x in found["latency_ms"]],
        "× faster": [_number(x, ".2f") for x in found["speedup"]],
        "MB": [_number(x, ".2f") for x in found["size_mb"]],
        "cpu": found["cpu"],
    }
    return pd.DataFrame(shown).to_string(index=False)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="only compare; exit 1 on a difference")
    parser.add_argument("--print", nargs="+", metavar="HW", help="show the rows of these homeworks, too")
    wish = parser.parse_args(arguments)
    if wish.check:
        return check(ROOT)
    from modelcompression.tracking import TrackingError, finished_runs  # MLflow takes seconds to import

    try:
        runs = finished_runs()
    except TrackingError as error:
        raise ResultsError(str(error)) from None
    rows = regenerate(ROOT, runs)
    if wish.print:
        print(report(rows, wish.print))
    print(f"{CSV}: {len(rows)} rows; tables and figure regenerated")


if __name__ == "__main__":
    try:
        main()
    except ResultsError as error:
        sys.exit(f"error: {error}")
