"""What must be here before a notebook starts? A download belongs there, with its progress on the terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from .assets import image_set
from .fetch import UnreachableError, roots
from .subject import weights

LEARNING = "hw.photographs"  # in the source of a notebook that learns from more than it calibrates with


def fetch_needed(
    notebooks: Iterable[Path], publishing: bool, smoke: bool, parameters: Mapping | None = None
) -> None:
    """Fetch weights and photographs, unless they are here or somebody's own take their place.

    Args:
        publishing: nothing may be missing; otherwise the demo photographs do as well.
        smoke: with what it learns from anyway.
        parameters: of the notebooks: ``WEIGHTS`` and ``DATA`` are own ones.

    Raises:
        AssetError: weights, or photographs that are needed, are damaged or out of reach.
    """
    if os.environ.get("MC_ASSETS", "").strip():
        os.environ["MC_ASSETS"] = str(roots()[0])  # notebooks run in their own folders
    given = parameters or {}
    if given.get("DATA"):
        return
    if not given.get("WEIGHTS"):
        weights()
    learns = not smoke and any(LEARNING in path.read_text(encoding="utf8") for path in notebooks)
    for names, instead in (
        (("coco-val", "coco128"), "with the demo photos"),
        (("coco-train-extra",) if learns else (), "without these photographs to learn from"),
    ):
        try:
            for name in names:
                image_set(name)
        except UnreachableError as error:
            if publishing:
                raise
            print(f"{error}\nGoing on {instead}.", file=sys.stderr)
