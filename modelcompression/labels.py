"""What does a label file say? YOLO's format: ``class xc yc w h`` a line, relative to the image.

A line may also be a polygon, ``class x1 y1 x2 y2 x3 y3 …``, as data sets for segmentation have it: it stands
for the box around it, as ultralytics' detectors read it.
"""

from __future__ import annotations

import codecs
from pathlib import Path

from .fetch import AssetError

CLASSES = 80
TOLERANCE = 1e-3  # by which a box may stick out of its image


def read_labels(path: Path, classes: int = CLASSES, overhang: float = TOLERANCE) -> list[list[float]]:
    """Read a YOLO label file: a box for each line, relative to the image; blank lines are skipped.

    Args:
        classes: how many there are.
        overhang: by how much of the image a box may stick out of it.

    Raises:
        AssetError: a line that is no box or polygon, an unknown class, a box outside the image; a file that
            is no text in UTF-8 (or UTF-16 that says so).
    """
    return parse_labels(path.read_bytes(), str(path), classes, overhang)


def parse_labels(
    data: bytes, name: str, classes: int = CLASSES, overhang: float = TOLERANCE
) -> list[list[float]]:
    """The rows of a label file; ``name`` stands in the errors of `read_labels`."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise AssetError(f"{name} is no text in UTF-8: save it in that encoding") from None
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [_row(line, f"{name}:{number}", classes, overhang) for number, line in numbered]


def _row(line: str, place: str, classes: int, overhang: float) -> list[float]:
    try:
        if not line.isascii() or "_" in line:  # float() would read 1_0, and digits of other scripts
            raise ValueError
        category, *box = (float(word) for word in line.split())
    except ValueError:
        category, box = -1.0, []
    if len(box) >= 6 and len(box) % 2 == 0:
        box = _around(box)
    x, y, w, h = box if len(box) == 4 else (-1.0,) * 4
    inside = 0 < w <= 1 + TOLERANCE and 0 < h <= 1 + TOLERANCE
    inside = inside and min(x - w / 2, y - h / 2) >= -overhang
    inside = inside and max(x + w / 2, y + h / 2) <= 1 + overhang
    if category not in range(classes) or not inside:
        raise AssetError(
            f"{place}: {line.strip()[:60]!r} is not 'class xc yc w h' "
            f"with class 0…{classes - 1} and a box inside the image: correct the line"
        )
    return [int(category), *box]


def _around(polygon: list[float]) -> list[float]:
    """The box around x1, y1, x2, y2, …"""
    sides = [(min(values), max(values)) for values in (polygon[::2], polygon[1::2])]
    return [(low + high) / 2 for low, high in sides] + [high - low for low, high in sides]
