"""Turn finished runs into results.csv, the tables of both READMEs, the figures and report.html.

    python results/aggregate.py            # read the runs, regenerate everything
    python results/aggregate.py --check    # do the READMEs say what results.csv says, and does that hold?

``results.csv`` is committed and is the union of all runs that ever counted, so that a clone without
runs of its own loses no row. All else is made from it alone.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import pandas as pd

from captions import CAPTIONS
from modelcompression.campaign import published
from modelcompression.files import replace
from modelcompression.terminal import script
from models import card_files, check_models
from page import PAGE, page
from plots import figures
from provenance import contradictions
from rows import (
    CSV,
    GALLERY,
    NUMBERS,
    REPORT_IMAGES,
    ResultsError,
    csv_text,
    first_table,
    merge,
    parse,
    read_rows,
    rows_of,
)
from tables import answer, block, number

ROOT = Path(__file__).resolve().parents[1]
MARKERS = "<!-- {}:start -->", "<!-- {}:end -->"


def with_block(text: str, readme: str, name: str, fresh: str) -> str:
    """A README's text, what stands between the two markers of that name replaced by ``fresh``.

    Raises:
        ResultsError: one of the markers is missing, or stands twice.
    """
    first, last = (marker.format(name) for marker in MARKERS)
    for marker in (first, last):
        if text.count(marker) != 1:
            raise ResultsError(f"{readme} must contain '{marker}' once, not {text.count(marker)} times")
    start, end = text.index(first) + len(first), text.index(last)
    if start > end:
        raise ResultsError(f"{readme} has '{last}' before '{first}': swap them")
    return text[:start] + "\n" + fresh + "\n" + text[end:]


def readme_of(root: Path, readme: str, rows: pd.DataFrame, original: pd.DataFrame) -> str:
    """A README with both of its blocks as results.csv wants them.

    Raises:
        ResultsError: it is missing, or a marker is.
    """
    path = root / readme
    if not path.exists():
        raise ResultsError(f"{readme} is missing: restore it with git checkout")
    text = with_block(path.read_text(encoding="utf8"), readme, "answer", answer(rows, readme))
    return with_block(text, readme, "results", block(rows, original, readme))


def made_of(root: Path, rows: pd.DataFrame) -> dict[str, str]:
    """File name → text of all that is made of results.csv: READMEs, and with any row figures and page."""
    original = first_table(root)
    files = {name: readme_of(root, name, rows, original) for name in CAPTIONS}
    if len(rows):
        drawn = figures(rows)
        gallery = root / GALLERY
        photos = gallery.read_bytes() if gallery.exists() else None
        files |= drawn | {PAGE: page(rows, drawn, photos)}
    return files


def regenerate(root: Path, runs: pd.DataFrame) -> pd.DataFrame:
    """Write results.csv and all that is made of it; return the rows.

    Everything is made before anything is written, and written aside before anything is replaced.

    Raises:
        ResultsError: the runs or files are damaged, or the disk is full.
    """
    names, before, fresh = first_table(root)["experiment"], read_rows(root), rows_of(runs)
    ended = fresh["campaign"].isin(published(root) | set(before["campaign"]))
    fresh["campaign"] = fresh["campaign"].where(ended, "")  # one that was cut off replaces nothing
    text = csv_text(merge(before, fresh, names))
    rows = parse(text, NUMBERS)
    files = {CSV: text} | made_of(root, rows) | card_files(root, rows, runs)
    try:
        replace({root / name: content.encode() for name, content in files.items()})
    except OSError as error:
        raise ResultsError(str(error)) from None
    return rows


def check(root: Path) -> None:
    """Do READMEs, figures and page belong to results.csv, and do its rows belong together?

    Raises:
        ResultsError: they do not.
    """
    rows = merge(read_rows(root), pd.DataFrame(), first_table(root)["experiment"])
    files = made_of(root, rows)
    for name, text in files.items():
        if not (root / name).exists():
            raise ResultsError(f"{name} is missing: run `make table`")
        if text != (root / name).read_text(encoding="utf8"):
            raise ResultsError(f"{name} differs from what {CSV} says: run `make table`")
    check_models(root, rows)
    found = list(contradictions(root, rows))
    if found:
        more = f" (and {len(found) - 1} more contradictions)" if found[1:] else ""
        raise ResultsError(found[0] + more)


def report(rows: pd.DataFrame, homeworks: list[str]) -> str:
    """What results.csv holds of these homeworks, for a terminal."""
    found = rows[rows["homework"].str.partition("/")[0].isin(homeworks)]
    if found.empty:
        wanted = f"complete runs on at least {REPORT_IMAGES} images of COCO val2017"
        return f"{CSV} has no row of {', '.join(homeworks)}: it takes {wanted}"
    shown = {
        "experiment": found["experiment"],
        "mAP50-95": [number(x, ".4f") for x in found["map50_95"]],
        "Δ %": [number(100 * x, "+z.2f") for x in found["map50_95_delta"]],
        "ms, original": [number(x, ".1f") for x in found["baseline_latency_ms"]],
        "ms": [number(x, ".1f") for x in found["latency_ms"]],
        "× faster": [number(x, ".2f") for x in found["speedup"]],
        "MB": [number(x, ".2f") for x in found["size_mb"]],
        "cpu": found["cpu"] + ", " + found["isa"],
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
    from modelcompression.tracking.history import finished_runs  # MLflow takes seconds to import

    rows = regenerate(ROOT, finished_runs())
    if wish.print:
        print(report(rows, wish.print))
    print(f"{CSV}: {len(rows)} rows; tables, figures and report.html regenerated")


if __name__ == "__main__":
    script(main)
