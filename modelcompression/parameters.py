"""Are a notebook's parameters in their range? Asked before any long work starts."""

from __future__ import annotations

import os
import re
from pathlib import Path

from .detector import is_taken_literally
from .errors import ModelCompressionError
from .fetch import roots
from .files import FolderError
from .machine import cpu

KINDS = {"WEIGHTS": "a detector's .pt file", "DATA": "the YAML of its data set"}


class ParameterError(ModelCompressionError, ValueError):
    """A notebook parameter is wrong; the message says which and what it may be."""


def require_valid(name: str, smoke: bool, n_images: int | None, threads: int, root: Path) -> None:
    """Check what every notebook hands to :class:`.homework.Homework`.

    Raises:
        ParameterError: a parameter is out of range.
        FolderError: ultralytics would read other files than those in ``root`` or among the assets.
    """
    if not re.fullmatch(r"hw\d+_\w+(/\w+)?", name):
        raise ParameterError(f"homework '{name}' is not named like hw3_pruning or hw5_export/more")
    if not isinstance(smoke, bool):
        raise ParameterError(f"SMOKE must be True or False, not {smoke!r}")
    if not smoke and os.environ.get("MC_SMOKE"):  # of `runner.execute`
        raise ParameterError("this is a smoke run: the notebook must pass smoke=SMOKE to Homework")
    if n_images is not None and not (_is_whole(n_images) and 1 <= n_images <= 5000):
        raise ParameterError(f"N_IMAGES must be None or a whole number 1…5000, not {n_images!r}")
    for folder in (root, *roots()):
        if not is_taken_literally(folder / "yolov8n.pt"):
            raise FolderError(f"{folder}: ultralytics drops apostrophes from paths; rename the folder")
    cores = cpu().cores
    if not _is_whole(threads):
        raise ParameterError(f"THREADS must be a whole number, not {threads!r}")
    if not 1 <= threads <= cores:
        raise ParameterError(f"THREADS must be 1…{cores}, the cores that this process may use, not {threads}")


def require_integer(low: int, high: int, **given: object) -> None:
    """Check parameters of one notebook, by their names: whole numbers from ``low`` to ``high``.

    Raises:
        ParameterError: one is not.
    """
    for name, value in given.items():
        if not _is_whole(value) or not low <= value <= high:
            raise ParameterError(f"{name} must be a whole number {low}…{high}, not {value!r}")


def require_number(low: float, high: float, **given: object) -> None:
    """Check parameters of one notebook, by their names: numbers from ``low`` to ``high``.

    Raises:
        ParameterError: one is not.
    """
    for name, value in given.items():
        if not (_is_whole(value) or isinstance(value, float)) or not low <= value <= high:
            raise ParameterError(f"{name} must be a number {low}…{high}, not {value!r}")


def require_numbers(low: float, high: float, **given: object) -> None:
    """Check parameters of one notebook, by their names: lists of numbers from ``low`` to ``high``, not empty.

    Raises:
        ParameterError: one is not.
    """
    for name, values in given.items():
        if not isinstance(values, list) or not values:
            raise ParameterError(f"{name} must be a list of numbers {low}…{high}, not {values!r}")
        for value in values:
            require_number(low, high, **{f"each of {name}": value})


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def own_subject(weights: Path | None, data: Path | None, trust: bool) -> dict[str, str | bool]:
    """The parameters with which every notebook compresses another model; none if neither file is given.

    Raises:
        ParameterError: a file is not there.
    """
    given = {name: path for name, path in (("WEIGHTS", weights), ("DATA", data)) if path}
    for name, path in given.items():
        if not path.is_file():
            raise ParameterError(f"{path} does not exist: give {KINDS[name]}")
    # A notebook runs in its own folder.
    return {name: str(path.absolute()) for name, path in given.items()} | ({"TRUST": trust} if given else {})
