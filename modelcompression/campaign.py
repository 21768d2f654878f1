"""A campaign: all notebooks published together. What has it done already, and how long will it take?"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import nbformat
import pandas as pd

from . import files, machine
from .tracking.history import finished_runs

MOMENT = 0.05  # minutes; no notebook is executed in less
KEY = "modelcompression"  # in a notebook's metadata: ``campaign`` and ``minutes``


def noted(notebook: Path) -> dict:
    """What is noted in a notebook's metadata; nothing if it is not there or cannot be read."""
    try:
        return dict(nbformat.read(notebook, as_version=4).metadata.get(KEY, {}))
    except Exception:  # nbformat's own errors, and whatever else its reader stumbles over
        return {}


def mark(executed: Path, campaign: str, minutes: float) -> None:
    """Note in a notebook, executed to its end, which campaign it belongs to and how long it took."""
    document = nbformat.read(executed, as_version=4)
    lasting = {key: value for key, value in noted(executed).items() if key != "campaign"}  # of its source
    marks = {"minutes": round(minutes, 1)} | ({"campaign": campaign} if campaign else {})
    document.metadata[KEY] = lasting | marks
    files.replace({executed: (nbformat.writes(document) + "\n").encode()})


def published(root: Path) -> set[str]:
    """The campaigns that a repository's notebooks are of. Another one has not come to its end."""
    found = {noted(notebook).get("campaign") for notebook in root.glob("hw*_*/*.ipynb")}
    return found - {None}


def known_rows(root: Path) -> pd.DataFrame:
    """What other notebooks have measured: ``results/results.csv`` of a repository.

    Within a campaign, the rows of this class of CPU are those that the campaign itself has measured so far: a
    notebook must not draw what the table will no longer say.

    Returns:
        Numbers in the units of results.csv: fractions, milliseconds, megabytes.

    Raises:
        TrackingError: within a campaign, the local store cannot be opened.
    """
    rows = pd.read_csv(root / "results" / "results.csv")
    if not (running := machine.campaign()):
        return rows
    runs = finished_runs()
    ours = runs.get("tags.campaign", pd.Series("", runs.index)) == running
    runs = runs[ours].drop_duplicates("experiment", keep="last")
    elsewhere = rows[rows["isa"] != machine.cpu().isa]
    if runs.empty:
        return elsewhere
    sources = {column: (column, f"metrics.{column}", f"tags.{column}") for column in rows}
    found = {column: [name for name in names if name in runs] for column, names in sources.items()}
    fresh = pd.DataFrame({column: runs[names[0]] for column, names in found.items() if names})
    return pd.concat([elsewhere, fresh.assign(threads=fresh["threads"].astype(int))], ignore_index=True)


def discard(executed: Iterable[Path]) -> None:
    """A campaign has come to its end: its copies are published, and who asks for it again measures again."""
    for copy in executed:
        copy.unlink(missing_ok=True)


class Progress:
    """Says before each notebook how many minutes have passed, and about how many are to come.

    Args:
        notebooks: all that are asked for, in their order; what each took the last time stands in its
            metadata. Those that a campaign had executed before it was cut off take no time now.
    """

    def __init__(self, notebooks: Sequence[Path]) -> None:
        self._notebooks, self._began = list(notebooks), []
        self._minutes = [noted(notebook).get("minutes") for notebook in notebooks]

    def before(self, notebook: Path) -> str:
        """One line, without an end of line."""
        place, known = self._notebooks.index(notebook), self._minutes
        self._began.append(time.time() / 60)
        passed = self._began[-1] - self._began[0]
        line = f"[{place + 1} of {len(known)}] {notebook.parent.name}/{notebook.stem}, after {passed:.0f} min"
        if None in known:
            return line
        took = [end - start for start, end in pairwise(self._began)]
        executed = sum(minutes for minutes, now in zip(known, took, strict=False) if now > MOMENT)
        speed = passed / executed if executed else 1
        return f"{line}, about {speed * sum(known[place:]):.0f} min to go"
