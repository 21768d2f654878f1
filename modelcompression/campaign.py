"""A campaign: all notebooks published together. Which has it executed already, and how long will it take?"""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import nbformat

from . import files

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
    marks = {"minutes": round(minutes, 1)} | ({"campaign": campaign} if campaign else {})
    document.metadata[KEY] = noted(executed) | marks
    files.replace({executed: (nbformat.writes(document) + "\n").encode()})


class Progress:
    """Says before each notebook how many minutes have passed, and about how many are to come.

    Args:
        notebooks: all that will be executed; what each took the last time stands in its metadata.
    """

    def __init__(self, notebooks: Sequence[Path]) -> None:
        self._notebooks, self._start = list(notebooks), time.time()
        self._minutes = [noted(notebook).get("minutes") for notebook in notebooks]

    def before(self, notebook: Path) -> str:
        """One line, without an end of line."""
        place = self._notebooks.index(notebook)
        passed, known = (time.time() - self._start) / 60, self._minutes
        line = f"[{place + 1} of {len(known)}] {notebook.parent.name}/{notebook.stem}, after {passed:.0f} min"
        if None in known:
            return line
        speed = passed / done if (done := sum(known[:place])) else 1
        return f"{line}, about {speed * sum(known[place:]):.0f} min to go"
