"""No picture in a committed notebook shows a photograph whose licence forbids it, as COCO's do."""

import base64
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import cv2
import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest

from modelcompression import ROOT
from modelcompression.assets import CREDITS, image_set, report_and_calibration
from modelcompression.figures import as_jpeg, closed

SHOWN = {*CREDITS, "flower"}
NOTEBOOKS = sorted(ROOT.glob("hw*_*/*.ipynb"))
SIDE = 24  # pixels of a thumbnail; boxes and labels hardly change it
ALIKE = 0.8  # correlation of thumbnails; the demonstration photographs stay below .78
SMALLEST = 60  # pixels of a side; less is a label, or a gap between two


def thumbnail(pixels: np.ndarray) -> np.ndarray:
    """(SIDE * SIDE,): grey values without mean and contrast."""
    small = cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_AREA).astype(float).ravel()
    return (small - small.mean()) / (np.linalg.norm(small - small.mean()) + 1e-9)


@cache
def photographs() -> tuple[list[str], np.ndarray]:
    """Names and thumbnails (n, SIDE * SIDE) of the photographs that notebooks work with."""
    paths = [sample.path for images in report_and_calibration() for sample in images.samples]
    paths += [sample.path for sample in image_set("demo").samples if sample.path.stem not in SHOWN]
    found = [thumbnail(cv2.imread(str(path), cv2.IMREAD_REDUCED_GRAYSCALE_4)) for path in paths]
    return [path.name for path in paths], np.stack(found)


def parts(pixels: np.ndarray) -> Iterator[np.ndarray]:
    """What white lines from edge to edge separate, across and down in turn (recursive X-Y cut, Nagy 1984)."""
    for axis in (0, 1):
        inked = pixels.min(axis=1 - axis) < 235
        edges = np.flatnonzero(np.diff(np.concatenate([[0], inked, [0]])))
        if len(edges) > 2 or np.diff(edges) < pixels.shape[axis]:
            for start, stop in edges.reshape(-1, 2):
                yield from parts(pixels[start:stop] if axis == 0 else pixels[:, start:stop])
            return
    if min(pixels.shape) >= SMALLEST:
        yield pixels


def shown(picture: bytes) -> set[str]:
    """Names of the photographs that are in a picture and may not be."""
    pixels = cv2.imdecode(np.frombuffer(picture, np.uint8), cv2.IMREAD_GRAYSCALE)
    names, known = photographs()
    return {names[i] for part in parts(pixels) for i in np.flatnonzero(known @ thumbnail(part) > ALIKE)}


def pictures(notebook: Path) -> list[bytes]:
    outputs = [o for c in nbformat.read(notebook, as_version=4).cells for o in c.get("outputs", [])]
    data = [output.get("data", {}) for output in outputs]
    return [base64.b64decode(d[kind]) for d in data for kind in ("image/jpeg", "image/png") if kind in d]


@pytest.fixture(scope="module")
def coco() -> None:
    if report_and_calibration()[0].name == "demo":
        pytest.skip("COCO's photographs are out of reach")


def grid(paths: list[Path]) -> bytes:
    """A figure as notebooks draw them: photographs side by side, a title and a box on each."""
    figure, axes = plt.subplots(1, len(paths), figsize=(3 * len(paths), 3), layout="constrained")
    for place, path in zip(axes, paths, strict=True):
        place.imshow(cv2.imread(str(path), cv2.IMREAD_COLOR_RGB))
        place.add_patch(plt.Rectangle((40, 40), 200, 160, fill=False, edgecolor="red", linewidth=2))
        place.text(40, 40, "person 0.91", fontsize=6, bbox={"facecolor": "red"})
        place.set_title("a model")
        place.set_axis_off()
    return as_jpeg(closed(figure)).data


def test_a_photograph_of_coco_is_recognized_in_a_grid_of_others(coco) -> None:
    report, calibration = report_and_calibration()
    ours = [sample.path for sample in image_set("demo").samples if sample.path.stem in SHOWN]
    assert shown(grid(ours)) == set()
    for images in (report, calibration):
        for sample in images.samples[3:100:16]:
            assert sample.path.name in shown(grid([ours[0], sample.path, ours[-1]]))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=[str(path.relative_to(ROOT)) for path in NOTEBOOKS])
def test_no_photograph_is_shown_that_may_not_be(notebook: Path, coco) -> None:
    assert {name for picture in pictures(notebook) for name in shown(picture)} == set()
