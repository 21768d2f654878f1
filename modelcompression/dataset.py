"""Somebody's own photographs, as ultralytics' data sets describe them or as a mere folder: image sets."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from .assets import ImageSet, Sample
from .fetch import AssetError

FORMATS = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}
FEWEST = 8  # photographs: six to calibrate, two to look at
EVERY = 4  # photograph of a folder is looked at, the others calibrate


def from_yaml(file: Path, names: Sequence[str], most: int) -> tuple[ImageSet, ImageSet]:
    """The training and the validation set of a YAML in ultralytics' format, for a model with these classes.

    Paths in it may be relative to the YAML, to the current folder or to ultralytics' ``datasets_dir``. Labels
    may be boxes or polygons, which stand for the boxes around them.

    Args:
        most: photographs of each set, evenly spaced.

    Raises:
        AssetError: no such file, other classes than the model's, no photographs, a malformed label.
    """
    described = _described(file)
    found = described.get("names")
    listed = [str(x) for x in (found.values() if isinstance(found, dict) else found or [])]
    if len(listed) != len(names):
        raise AssetError(
            f"{file} has {len(listed)} classes, the model {len(names)}: use the model's own data set"
        )
    for number, (theirs, ours) in enumerate(zip(listed, names, strict=True)):
        if theirs != ours:
            raise AssetError(
                f"class {number} is '{theirs}' in {file} and '{ours}' in the model: are they a pair?"
            )
    return tuple(_split(file, described, split, tuple(names), most) for split in ("train", "val"))


def from_folder(folder: Path, names: Sequence[str], most: int) -> tuple[ImageSet, ImageSet]:
    """Photographs without labels: three of four to calibrate with, the fourth to look at.

    Raises:
        AssetError: no such folder, or fewer than ``FEWEST`` photographs in it.
    """
    if not folder.is_dir():
        raise AssetError(f"{folder} is no folder: give one with photographs")
    paths = _photographs(folder)
    if len(paths) < FEWEST:
        raise AssetError(f"{folder} holds {len(paths)} photographs, at least {FEWEST} are needed")
    shown = paths[EVERY - 1 :: EVERY]
    used = [path for number, path in enumerate(paths) if number % EVERY != EVERY - 1]
    return tuple(
        ImageSet(name, tuple(_sample(path, []) for path in _spaced(group, most)), tuple(names))
        for name, group in ((f"{folder.name} (calibration)", used), (f"{folder.name} (report)", shown))
    )


def _described(file: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(file.read_text(encoding="utf8"))
    except OSError as error:
        raise AssetError(f"{file} cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise AssetError(f"{file} is no YAML file: {str(error).splitlines()[0][:100]}") from None
    if not isinstance(found, dict) or not {"names", "train", "val"} <= set(found):
        raise AssetError(f"{file} describes no data set: it needs the keys names, train and val")
    return found


def _split(file: Path, described: dict[str, Any], split: str, names: tuple[str, ...], most: int) -> ImageSet:
    wanted = described[split] if isinstance(described[split], list) else [described[split]]
    paths = [path for entry in wanted for path in _entry(file, str(described.get("path") or ""), str(entry))]
    if len(paths) < FEWEST:
        raise AssetError(f"'{split}' of {file} has {len(paths)} photographs, at least {FEWEST} are needed")
    chosen = _spaced(paths, most)
    samples = tuple(_sample(path, _rows(_labels(path), len(names))) for path in chosen)
    if not any(len(sample.classes) for sample in samples):
        raise AssetError(
            f"no photograph of '{split}' in {file} has a label file, such as {_labels(chosen[0])}"
        )
    return ImageSet(f"{file.stem}, {split}", samples, names)


def _entry(file: Path, base: str, entry: str) -> list[Path]:
    from ultralytics.utils import SETTINGS

    roots = [file.resolve().parent, Path.cwd(), Path(SETTINGS["datasets_dir"])]
    tried = [root / base / entry for root in roots]
    for place in tried:
        if place.is_dir():
            return _photographs(place)
        if place.is_file():
            lines = place.read_text(encoding="utf8").split("\n")
            return [(place.parent / line.strip()).resolve() for line in lines if line.strip()]
    raise AssetError(
        f"{file} names '{entry}', which is neither {' nor '.join(dict.fromkeys(map(str, tried)))}"
    )


def _photographs(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in FORMATS and path.is_file())


def _spaced(paths: Sequence[Path], most: int) -> list[Path]:
    places = np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int)
    return [paths[place] for place in places]


def _labels(path: Path) -> Path:
    """Where ultralytics looks for the labels of a photograph."""
    before, images, after = str(path).rpartition("/images/")
    return Path(f"{before}/labels/{after}" if images else path).with_suffix(".txt")


def _rows(path: Path, classes: int) -> list[list[float]]:
    """``class xc yc w h`` or ``class x1 y1 x2 y2 x3 y3 …`` a line, relative to the photograph."""
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError):
        raise AssetError(f"{path} cannot be read as text in UTF-8: save it anew") from None
    return [_row(path, number, line, classes) for number, line in enumerate(lines, 1) if line.strip()]


def _row(path: Path, number: int, line: str, classes: int) -> list[float]:
    words = line.split()
    is_number = all(re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", word) for word in words)
    category, *rest = [float(word) for word in words] if is_number else [-1.0]
    if len(rest) >= 6 and len(rest) % 2 == 0:
        corners = np.array(rest).reshape(-1, 2)
        rest = [*(corners.min(0) + corners.max(0)) / 2, *np.ptp(corners, axis=0)]
    inside = len(rest) == 4 and all(-1e-3 <= value <= 1.001 for value in rest) and min(rest[2:]) > 0
    if category not in range(classes) or not inside:
        raise AssetError(
            f"{path}:{number}: '{line[:60]}' is not 'class xc yc w h' with class 0…{classes - 1} and a box "
            "inside the image: correct the line"
        )
    return [category, *map(float, rest)]


def _sample(path: Path, rows: list[list[float]]) -> Sample:
    image = cv2.imread(str(path))
    if image is None:
        raise AssetError(f"{path} cannot be decoded as an image: replace or remove it")
    height, width = image.shape[:2]
    table = np.asarray(rows, float).reshape(-1, 5)
    half = table[:, 3:] / 2
    boxes = np.hstack([table[:, 1:3] - half, table[:, 1:3] + half]) * [width, height, width, height]
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    return Sample(path, width, height, table[:, 0].astype(int), boxes, areas, np.zeros((0, 5)))
