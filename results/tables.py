"""The Markdown that stands between the markers of both READMEs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from captions import CAPTIONS
from modelcompression.cards import cards
from modelcompression.goals import (
    CONFIRMED,
    DELTA,
    GOALS,
    PIPELINE,
    SPEEDUP,
    evidence,
    is_confirmed,
    loss_limits,
    opponent,
    winner,
)
from rows import (
    ACCURACY,
    BASELINE,
    CONFIRMED_IMAGES,
    FIGURES,
    FIRST_NUMBERS,
    GALLERY,
    MACHINE,
    headline,
    machine_of,
    machines,
    of_this_network,
    over_opponent,
)

ELSEWHERE = [("speedup", 0.03), ("both", 0.03)]  # the goals that another machine's line names
ANSWERS = [("size_ratio", 0.03), *ELSEWHERE, ("speedup", 0.01)]  # those of the first table
SAME_OUTPUT = 0.002  # an interval narrower than this belongs to a model with the original's output


def answer(rows: pd.DataFrame, readme: str) -> str:
    """Markdown of a README's first screen: what one gains, and what one loses.

    Nothing before the first compressed model. Arguments as of ``block``.
    """
    say = CAPTIONS[readme]
    if rows.empty:
        return ""
    shown = headline(rows)
    if shown["map50_95_delta"].isna().all():
        return ""
    known = is_confirmed(shown)
    looked_at = shown.loc[known, CONFIRMED_IMAGES].min() if known.any() else _images(shown)
    how = say["confirmed" if known.any() else "unconfirmed"].format(images=f"{looked_at:.0f}")
    gain = say["gain"].format(**machine_of(machines(rows)[0]))
    return "\n" + "\n\n".join([gain, _goal_table(shown, say, ANSWERS, True), say["units"], how]) + "\n"


def block(rows: pd.DataFrame, original: pd.DataFrame, readme: str) -> str:
    """Markdown of one README's results.

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
    images = _images(shown)
    parts = [
        *_trust(shown, images, say),
        *(f"![{say['figures'][name]}]({path})" for name, path in FIGURES.items()),
        f"{say['gallery']}:",
        f"![{say['pictured']}]({GALLERY})",
        say["more"],
        say["all"],
        say["machine"].format(images=images, **machine_of(published)),
        _main_table(shown, images, say),
    ]
    if shown["map50_95_delta"].notna().any():
        parts += [say["every"], _goal_table(shown, say, GOALS)]
    parts += [say["other"].format(**machine_of(group), found=_fast(group, say)) for group in others]
    parts += _small_from_the_start(rows, shown, say)
    parts += [say["coco128"], say["upper"], _coco128_table(shown, original, say), say["changed"]]
    return "\n" + "\n\n".join(parts) + "\n"


def _images(shown: pd.DataFrame) -> int:
    """How many photographs most rows were measured on."""
    return int(shown["images"].mode()[0])


def _trust(shown: pd.DataFrame, images: int, say: dict) -> list[str]:
    """Whether to believe the tables; nothing before the first compressed model."""
    width = (shown["map50_95_delta_hi"] - shown["map50_95_delta_lo"]).dropna()
    if width.empty:
        return []
    telling = width[width > SAME_OUTPUT]
    return [
        say["trust"].format(
            images=images,
            same=(shown["map50_95_delta_hi"] >= 0).sum(),
            count=len(width),
            half=number(100 * (telling if len(telling) else width).median() / 2, ".1f"),
        )
    ]


def _small_from_the_start(rows: pd.DataFrame, shown: pd.DataFrame, say: dict) -> list[str]:
    """What other networks, small by design, find in as few bytes, and on their machine as fast."""
    if rows["network"].eq("").all():
        return []
    rows, shown = (x.assign(link=[_link(r, say) for _, r in x.iterrows()]) for x in (rows, shown))
    others, compressed = rows[rows["network"] != ""], of_this_network(rows).dropna(subset=DELTA)
    said = []
    least = others.loc[others["size_mb"].idxmin()]
    as_small = shown.dropna(subset=DELTA)[lambda ours: ours["size_mb"] <= least["size_mb"]]
    if len(as_small):
        best = as_small.loc[as_small["map50_95"].idxmax()]
        more = number(100 * (best["map50_95"] / least["map50_95"] - 1), "+.0f") + " %"
        said.append(say["small"].format(least=least, best=best, more=more))
    nano = others.loc[others["speedup"].idxmax()]
    there = (compressed[MACHINE] == nano[MACHINE]).all(axis=1)
    as_right = compressed[there & (compressed["map50_95"] >= nano["map50_95"])]
    if len(as_right):
        fast = as_right.loc[as_right["speedup"].idxmax()]
        said.append(say["small and fast"].format(nano=nano, fast=fast, **nano[MACHINE]))
    return [" ".join(said)] if said else []


def _goal_table(
    shown: pd.DataFrame, say: dict, goals: list[tuple[str, float]], with_opponent: bool = False
) -> str:
    """What to take for which goal, and in what it executes; last, what to take without this project."""
    rows = evidence(shown)
    named = [
        (f"{say['goals'][gain]}, {say['goals'][loss]}", winner(rows, gain, loss)) for gain, loss in goals
    ]
    if with_opponent:
        named = [*_at_once(named), (say["opponent"], opponent(rows))]
    head = [say["goal"], say["take"], "Δ, %", say["limit"], say["size"], say["times"], say["pipeline"]]
    lines = []
    for goal, row in named:
        if row is None:
            lines.append([goal, say["nobody"], *["–"] * (len(head) - 2)])
            continue
        limit = number(100 * loss_limits(rows)[row.name], "z.1f")
        take = f"{_link(row, say)}{_file(row)}<br><sub>{row['execution_precision']}</sub>"
        times = [_interval(row[columns], ".2f") for columns in (SPEEDUP, PIPELINE)]
        lines.append([goal, take, _interval(100 * row[DELTA], "+z.1f"), limit, _size(row), *times])
    return _table(head, lines, words=2)


def _at_once(named: list[tuple[str, pd.Series | None]]) -> list[tuple[str, pd.Series | None]]:
    """The same list with the goals that one model meets in one line."""
    lines: dict[object, tuple[str, pd.Series | None]] = {}
    for goal, row in named:
        key = goal if row is None else row.name
        before = lines[key][0] + "<br>" if key in lines else ""
        lines[key] = before + goal, row
    return list(lines.values())


def _file(row: pd.Series) -> str:
    """Markdown that leads to the file of ``models/`` that a row was measured with; empty if there is none."""
    machine = ["experiment", "cpu", "isa"]
    for card in cards():
        if any([measured[key] for key in machine] == list(row[machine]) for measured in card.rows):
            return f"<br>[models/{card.file.name}](models/{card.name}.md)"
    return ""


def _main_table(shown: pd.DataFrame, images: int, say: dict) -> str:
    ratios, name = over_opponent(shown)
    head = [say["experiment"], "P", "R", "mAP50", "mAP50-95", "Δ, %", say["ms"], say["times"]]
    head += [say["over"].format(name=name or say["opponent"]), say["size"], say["zeros"]]
    lines = []
    for homework, rows in shown.groupby("homework"):
        lines.append([f"**[{homework}]({notebook_of(homework)})**", *[""] * (len(head) - 1)])
        lines += [_main_cells(row, ratios[index], images, say) for index, row in rows.iterrows()]
    return _table(head, lines)


def _main_cells(row: pd.Series, over: float, images: int, say: dict) -> list[str]:
    is_reference = row["experiment"] == BASELINE
    name = _link(row, say)
    if row["images"] != images:
        name += f"<br>({row['images']:.0f} {say['images']})"
    ms, times = _speed(row)
    delta = say["reference"] if is_reference else _interval(100 * row[DELTA], "+z.2f")
    if pd.notna(row[CONFIRMED_IMAGES]):
        again = row[[f"{CONFIRMED}{key}" for key in DELTA]]
        delta += f"<br>{say['again']}: {_interval(100 * again, '+z.2f')}"
    if pd.notna(row["pipeline_speedup"]):
        times += f"<br>JPEG → {say['pipeline'].rpartition(' ')[2]}: {_interval(row[PIPELINE], '.2f')}"
    return [
        name,
        *(number(row[key], ".3f") for key in ACCURACY[:3]),
        number(row["map50_95"], ".4f"),
        delta,
        ms if ms == "–" else f"{ms}<br><sub>{row['execution_precision']}</sub>",
        times,
        number(over, ".2f"),
        _size(row),
        number(100 * row["sparsity"], ".2f"),
    ]


def _fast(group: pd.DataFrame, say: dict) -> str:
    """What gains most speed on a machine, in words."""
    rows, found = evidence(group), []
    for gain, loss in ELSEWHERE:
        if (row := winner(rows, gain, loss)) is not None:
            goal = f"{say['goals'][gain]}, {say['goals'][loss]}"
            found.append(f"{goal}: {_link(row, say)}, {number(row['speedup'], '.2f')}×")
    return "; ".join(found) or say["nobody"]


def _coco128_table(shown: pd.DataFrame, original: pd.DataFrame, say: dict[str, str]) -> str:
    ms, size = say["milliseconds"], say["size"].partition("<br>")[0]
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
        cells = [f"{number(a, form)}<br>**{number(b, form)}**" for a, b, form in pairs]
        lines.append([say["baseline"] if name == BASELINE else name, *cells])
    return _table([say["experiment"], *head], lines)


def _size(row: pd.Series) -> str:
    size = number(row["size_mb"], ".2f")
    return size if row["experiment"] == BASELINE else f"{size}<br>({number(row['size_ratio'], '.2f')}×)"


def _speed(row: pd.Series) -> tuple[str, str]:
    """Milliseconds beside those of the original timed with it, and their ratio."""
    ms = number(row["latency_ms"], ".1f")
    if row["experiment"] == BASELINE:
        return ms, "–" if ms == "–" else "1"
    if ms != "–":
        ms = f"{number(row['baseline_latency_ms'], '.1f')}\u00a0→\u00a0{ms}"
    return ms, _interval(row[SPEEDUP], ".2f")


def _link(row: pd.Series, say: dict[str, str]) -> str:
    """The experiment's name, leading to its notebook."""
    name = say["baseline"] if row["experiment"] == BASELINE else row["experiment"]
    return f"[{name}]({notebook_of(row['homework'])})"


def notebook_of(homework: str) -> str:
    """hw5_export → hw5_export/export.ipynb; a further notebook is named: hw5_export/fastest → ….ipynb."""
    folder, _, further = homework.partition("/")
    return f"{folder}/{further or folder.partition('_')[2]}.ipynb"


def _table(head: list[str], lines: list[list[str]], words: int = 1) -> str:
    """Markdown; all but the first ``words`` columns hold numbers."""
    rule = ["---"] * words + ["--:"] * (len(head) - words)
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, rule, *lines])


def number(value: float, form: str) -> str:
    return "–" if pd.isna(value) else format(value, form).replace("-", "−")


def _interval(values: pd.Series, form: str) -> str:
    if values.isna().any():
        return "–"
    value, low, high = (number(v, form) for v in values)
    return f"{value}<br><sub>[{low},\u00a0{high}]</sub>"  # unbroken in a narrow column
