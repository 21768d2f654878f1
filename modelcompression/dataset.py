"""Somebody's own photographs, as ultralytics' data sets describe them or as a mere folder: image sets."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml

from .assets import ImageSet, Sample
from .fetch import AssetError
from .frames import photographs_below
from .labels import read_labels

MOST = 200  # photographs to tune with, and to judge with, unless another number is wished for
FEWEST = 8  # photographs: six to calibrate, two to look at
EVERY = 4  # photograph of a folder is looked at, the others calibrate


def from_yaml(
    file: Path, names: Sequence[str], most: int, to_judge: int | None = None
) -> tuple[ImageSet, ImageSet]:
    """The training and the validation set of a YAML in ultralytics' format, for a model with these classes.

    Photographs that are in both sets, as in ultralytics' small samples, would judge what they have tuned:
    then every fourth of all judges. Paths in the file may be relative to the YAML, to the current folder or
    to ultralytics' ``datasets_dir``. Labels may be boxes or polygons, which stand for the boxes around them.

    Args:
        most: photographs of each set, evenly spaced.
        to_judge: of the validation set, if that is to be another number.

    Raises:
        AssetError: no such file, other classes than the model's, no photographs, a malformed label.
    """
    described = _described(file)
    found = described.get("names")
    if not isinstance(found, dict | list):
        raise AssetError(f"{file}: names has to be a list of the names of classes")
    listed = [str(x) for x in (found.values() if isinstance(found, dict) else found)]
    if len(listed) != len(names):
        raise AssetError(
            f"{file} has {len(listed)} classes, the model {len(names)}: use the model's own data set"
        )
    for number, (theirs, ours) in enumerate(zip(listed, names, strict=True)):
        if theirs != ours:
            raise AssetError(
                f"class {number} is '{theirs}' in {file} and '{ours}' in the model: are they a pair?"
            )
    train, val = (_listed(file, described, part) for part in ("train", "val"))
    tuning, judging = ({path.resolve(): path for path in paths} for paths in (train, val))
    if tuning.keys() & judging.keys():
        train, val = _apart(sorted((tuning | judging).values()))
    parts = (("train", train, most), ("val", val, to_judge or most))
    return tuple(_annotated(file, part, paths, tuple(names), count) for part, paths, count in parts)


def from_folder(
    folder: Path, names: Sequence[str], most: int, without: Path | None = None
) -> tuple[ImageSet, ImageSet]:
    """Photographs without labels: three of four to calibrate with, the fourth to look at.

    Args:
        most: photographs of each set, evenly spaced.
        without: a folder whose pictures do not count, should it lie within.

    Raises:
        AssetError: no such folder, or fewer than ``FEWEST`` photographs in it.
    """
    if not folder.is_dir():
        raise AssetError(f"{folder} is no folder: give one with photographs")
    paths = photographs_below(folder)
    if without:
        paths = [path for path in paths if not path.resolve().is_relative_to(without.resolve())]
    if len(paths) < FEWEST:
        raise AssetError(f"{folder} holds {len(paths)} photographs: give at least {FEWEST}")
    return tuple(
        ImageSet(
            f"{folder.name}, {part}", tuple(_sample(path, []) for path in _spaced(group, most)), tuple(names)
        )
        for part, group in zip(("to tune", "to judge"), _apart(paths), strict=True)
    )


def _apart(paths: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Three of four to tune with, the fourth to judge with."""
    tuning = [path for number, path in enumerate(paths) if number % EVERY != EVERY - 1]
    return tuning, list(paths[EVERY - 1 :: EVERY])


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


def _listed(file: Path, described: dict[str, Any], part: str) -> list[Path]:
    wanted = described[part] if isinstance(described[part], list) else [described[part]]
    paths = [path for entry in wanted for path in _entry(file, str(described.get("path") or ""), str(entry))]
    if len(paths) < FEWEST:
        raise AssetError(f"'{part}' of {file} has {len(paths)} photographs: give at least {FEWEST}")
    return paths


def _annotated(file: Path, part: str, paths: list[Path], names: tuple[str, ...], most: int) -> ImageSet:
    chosen = _spaced(paths, most)
    samples = tuple(_sample(path, _rows(_labels(path), len(names))) for path in chosen)
    if not any(len(sample.classes) for sample in samples):
        raise AssetError(
            f"no photograph of '{part}' in {file} has a label file, such as {_labels(chosen[0])}"
        )
    return ImageSet(f"{file.stem}, {part}", samples, names)


def _entry(file: Path, base: str, entry: str) -> list[Path]:
    from ultralytics.utils import SETTINGS

    roots = [file.resolve().parent, Path.cwd(), Path(SETTINGS["datasets_dir"])]
    readings = [entry, entry.removeprefix("../")]  # Roboflow's YAMLs lie beside what they call ../train
    tried = [root / base / reading for root in roots for reading in readings]
    for place in tried:
        if place.is_dir():
            return photographs_below(place)
        if place.is_file():
            return _of_list(place)
    raise AssetError(
        f"{file} names '{entry}', but there is no {' and no '.join(dict.fromkeys(map(str, tried)))}: correct "
        "its path"
    )


def _of_list(file: Path) -> list[Path]:
    """The photographs that a text file names, links as they are: labels lie beside them."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError:
        raise AssetError(f"{file} is no list of photographs in UTF-8: save it as such") from None
    return [Path(os.path.abspath(file.parent / line.strip())) for line in lines if line.strip()]


def _spaced(paths: Sequence[Path], most: int) -> list[Path]:
    places = np.linspace(0, len(paths) - 1, min(most, len(paths))).round().astype(int)
    return [paths[place] for place in places]


def _labels(path: Path) -> Path:
    """Where ultralytics looks for the labels of a photograph."""
    before, images, after = str(path).rpartition(f"{os.sep}images{os.sep}")
    return (Path(before, "labels", after) if images else path).with_suffix(".txt")


def _rows(path: Path, classes: int) -> list[list[float]]:
    """As ultralytics reads them: boxes may stick out of a photograph, and one without a file has none."""
    return read_labels(path, classes, overhang=0.5) if path.is_file() else []


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
