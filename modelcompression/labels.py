"""What does a label file say? YOLO's format: ``class xc yc w h`` a line, relative to the image."""

from __future__ import annotations

import codecs
from pathlib import Path

from .fetch import AssetError

CLASSES = 80
TOLERANCE = 1e-3  # by which a box may stick out of its image


def read_labels(path: Path) -> list[list[float]]:
    """Read a YOLO label file: ``class xc yc w h`` a line, relative to the image; blank lines are skipped.

    Raises:
        AssetError: a line without five numbers, a class outside 0…79, a box outside the image; a file
            that is no text in UTF-8 (or UTF-16 that says so).
    """
    return parse_labels(path.read_bytes(), str(path))


def parse_labels(data: bytes, name: str) -> list[list[float]]:
    """The rows of a label file; ``name`` stands in the errors of `read_labels`."""
    encoding = "utf-16" if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        raise AssetError(f"{name} is no text in UTF-8: save it in that encoding") from None
    numbered = [(number, line) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    return [_row(line, f"{name}:{number}") for number, line in numbered]


def _row(line: str, place: str) -> list[float]:
    try:
        if not line.isascii() or "_" in line:  # float() would read 1_0, and digits of other scripts
            raise ValueError
        category, *box = (float(word) for word in line.split())
    except ValueError:
        category, box = -1.0, []
    x, y, w, h = box if len(box) == 4 else (-1.0,) * 4
    inside = w > 0 and h > 0 and min(x - w / 2, y - h / 2) >= -TOLERANCE
    inside = inside and max(x + w / 2, y + h / 2) <= 1 + TOLERANCE
    if category not in range(CLASSES) or not inside:
        raise AssetError(
            f"{place}: {line.strip()[:60]!r} is not 'class xc yc w h' "
            "with class 0…79 and a box inside the image: correct the line"
        )
    return [int(category), *box]
