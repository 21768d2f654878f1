"""Do the numbers belong together? Contradictions between results.csv, git, the notebooks and the gallery.

What holds for every row is always checked. What makes rows belong together is checked for the rows of a
campaign, which say themselves that they do: one commit and one machine, named in their column ``campaign``.
"""

from __future__ import annotations

import html
import json
import re
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
from PIL import Image

from modelcompression.goals import CONFIRMED
from rows import BASELINE, GALLERY, MACHINE, headline, machine_name, machines, published_campaign
from tables import notebook_of

# What a number may differ by: both sides are rounded, to these digits at most.
PRINTED = {"map50_95": 6e-5, "latency_ms": 0.06, "size_mb": 6e-3}
PAIRS = [
    ("baseline_latency_ms", "latency_ms", "speedup"),
    ("baseline_pipeline_ms", "pipeline_ms", "pipeline_speedup"),
]
SKEW = 0.15  # a median of ratios is near the ratio of medians, not equal to it
SENTENCE = re.compile(
    r"^(?P<name>.+): mAP50-95 (?P<map50_95>\d\.\d+)(?: \(.*? %\))?, (?:[\d.]+ → )?(?P<latency_ms>[\d.]+) ms"
    r"(?: \(.*?×\))?, (?P<size_mb>[\d.]+) MB$"
)
TITLES = {"mAP50-95": "map50_95", "ms": "latency_ms", "MB": "size_mb"}


def contradictions(root: Path, rows: pd.DataFrame) -> Iterator[str]:
    """One line for each, with what to do.

    Args:
        root: of the repository, with its history, notebooks and gallery.
        rows: results.csv.
    """
    if rows.empty:
        return
    yield from _ratios(rows)
    yield from _commits(root, rows)
    published = machines(rows)[0]
    if published_campaign(published):
        shown = headline(rows)
        yield from _campaign(shown)
        yield from _notebooks(root, shown, "git checkout it, or make publish HW=all")
    others = rows[rows["network"] != ""].sort_values("finished")  # a notebook shows one machine, the latest
    yield from _notebooks(root, others.drop_duplicates("experiment", keep="last").sort_index())
    yield from _gallery(root, rows)


def _ratios(rows: pd.DataFrame) -> Iterator[str]:
    """Milliseconds stand beside those of the original timed with them, and make the ratio."""
    for _, row in rows[rows["experiment"] != BASELINE].iterrows():
        for kind in ("", CONFIRMED):
            for names in PAIRS:
                before, after, ratio = (row[f"{kind}{name}"] for name in names)
                if pd.notna(after) and pd.isna(before):
                    yield f"{_named(row)} has {kind}{names[1]} without {kind}{names[0]}: measure it again"
                elif abs(before / after / ratio - 1) > SKEW:
                    yield (
                        f"{_named(row)}: {before:.1f} → {after:.1f} ms is not {ratio:.2f}× as "
                        f"{kind}{names[2]} says: measure it again"
                    )


def _commits(root: Path, rows: pd.DataFrame) -> Iterator[str]:
    """The code of campaigns and of confirmations can be looked up, where there is a history to look in."""
    top = _git(root, "rev-parse", "--show-toplevel")  # of another repository, should this one lie within
    history = (
        top
        and Path(top).samefile(root)
        and _git(root, "rev-parse", "HEAD")
        and _git(root, "rev-parse", "--is-shallow-repository") == "false"
    )
    columns = {"git_commit": rows[rows["campaign"] != ""], f"{CONFIRMED}git_commit": rows}
    for column, some in columns.items():
        for commit, group in some[some[column] != ""].groupby(column):
            who = _named(group.iloc[0])
            if commit.endswith("-dirty"):
                yield f"{who} was measured with changes after {commit[:-6]}: commit them and measure again"
            elif history and _git(root, "merge-base", "--is-ancestor", commit, "HEAD") is None:
                yield f"{who} was measured by {commit}, which is not in the history: measure again"


def _git(root: Path, *words: str) -> str | None:
    """What git answers; None if it refuses, or is not there."""
    try:
        done = subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return None if done.returncode else done.stdout.strip()


def _campaign(shown: pd.DataFrame) -> Iterator[str]:
    """The main table is of one commit and one machine, those that its campaign names."""
    for _, row in shown.iterrows():
        code = f"{row['git_commit']}, {row['cpu']}, {row['isa']}"
        if row["campaign"] != code:
            yield f"{_named(row)} is of {code}, not of its campaign {row['campaign']}: make publish HW=all"
    if len(shown[["git_commit", *MACHINE]].drop_duplicates()) > 1:
        yield "the main table is of several machines or commits: make publish HW=all"


def _notebooks(root: Path, shown: pd.DataFrame, cure: str = "publish it again") -> Iterator[str]:
    """Every one of these rows is printed in its notebook; wherever it is printed, it has the same numbers.

    Some notebooks time others' models again, as they all do the original: their milliseconds are their own.
    """
    notebooks = [str(path.relative_to(root)) for path in root.glob("hw*_*/*.ipynb")]
    printed = {path: _printed(root / path) for path in {*notebooks, *map(notebook_of, shown["homework"])}}
    for _, row in shown.iterrows():
        name, own = row["experiment"], notebook_of(row["homework"])
        if name not in printed[own]:
            yield f"{own} prints no row of {name}: {cure}"
        for path in sorted(printed):
            for key, value in (pair for numbers in printed[path].get(name, ()) for pair in numbers.items()):
                if path != own and key == "latency_ms":
                    continue
                if not abs(value - row[key]) <= PRINTED[key] + 1e-5 * abs(row[key]):
                    yield f"{path} prints for {name} {key} {value:g}, results.csv has {row[key]:g}: {cure}"


def _printed(path: Path) -> dict[str, list[dict[str, float]]]:
    """Experiment → numbers by column of results.csv, once for each time that the notebook prints them."""
    found: dict[str, list[dict[str, float]]] = defaultdict(list)
    if not path.is_file():
        return found
    cells = json.loads(path.read_text(encoding="utf8"))["cells"]
    for output in (output for cell in cells for output in cell.get("outputs", ())):
        for line in "".join(output.get("text", ())).splitlines():
            if match := SENTENCE.match(line):
                numbers = match.groupdict()
                found[numbers.pop("name")].append({key: float(value) for key, value in numbers.items()})
        table = "".join(output.get("data", {}).get("text/html", ()))
        if "<th>mAP50-95</th>" in table and "<th>Experiment</th>" in table:
            for name, numbers in _of_table(table):
                found[name].append(numbers)
    return found


def _of_table(table: str) -> Iterator[tuple[str, dict[str, float]]]:
    """Rows of ``Homework.table`` in HTML."""
    lines = [
        [html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", line, re.DOTALL)]
        for line in re.findall(r"<tr[^>]*>(.*?)</tr>", table, re.DOTALL)
    ]
    head = lines[0]
    for line in lines[2:]:
        cells = dict(zip(head, line, strict=False))
        numbers = {key: cells[title].rpartition(" ")[2] for title, key in TITLES.items() if title in cells}
        yield line[0], {key: float(number) for key, number in numbers.items()}


def _gallery(root: Path, rows: pd.DataFrame) -> Iterator[str]:
    """The models that are pictured have rows; with a campaign, they are of it."""
    path = root / GALLERY
    if not path.is_file():
        return
    with Image.open(path) as picture:
        runs = set(picture.info.get("comment", b"").decode("ascii", "replace").split())
    published = machines(rows)[0]
    planned = published_campaign(published) != ""
    known = set((headline(rows) if planned else rows)["run_id"])
    if (planned and not runs) or not runs <= known:
        yield f"{GALLERY} shows runs that are not in the tables: make gallery"


def _named(row: pd.Series) -> str:
    return f"{row['experiment']} on {machine_name(row)}"
