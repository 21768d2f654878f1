"""results.csv: which runs count, how the file is written and read, what belongs to which machine."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from modelcompression.errors import ModelCompressionError

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
FIGURES = {name: f"results/figures/{name}.svg" for name in ("pareto", "forest", "speed")}
GALLERY, GALLERY_LOSS = "results/figures/gallery.jpg", 0.03  # see gallery.py


class ResultsError(ModelCompressionError, RuntimeError):
    """The results cannot be read or written; the message says what to do. Nothing was changed."""


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


def first_table(root: Path) -> pd.DataFrame:
    """The team's first table on coco128, as it was published; sparsity as a fraction."""
    text = (root / FIRST_TABLE).read_text(encoding="utf8")
    return parse(text, FIRST_NUMBERS)


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


def machine_name(row: pd.Series) -> str:
    """CPU, instruction set and threads of a row, in words."""
    return f"{row['cpu']} ({row['isa']}), threads: {row['threads']}"


def machine_of(group: pd.DataFrame) -> dict[str, str]:
    return group.sort_values("finished").iloc[-1][["cpu", "isa", "threads"]].to_dict()
