"""How much of what a network looks at is grey? A square letterbox and a rectangle, on a photograph."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..assets import ImageSet, Sample
from ..images import letterbox
from .sketch import note, paper

PANEL = 3.0  # inches: the long side of an input


def grey_share(sample: Sample, size: int = 640, square: bool = True, stride: int = 32) -> float:
    """Which share of the input's pixels is padding and not photograph, 0…1.

    Args:
        size: long side of the input, pixels.
        square, stride: as for ``letterbox``.

    Raises:
        AssetError: the photograph cannot be decoded.
    """
    canvas, scale, _ = letterbox(sample.path, size, square, stride)
    sides = np.minimum(np.ceil(np.array([sample.width, sample.height]) * scale), size)
    return 1 - float(sides.prod()) / (canvas.shape[0] * canvas.shape[1])


def square_and_rectangle(images: ImageSet, size: int = 640, stride: int = 32) -> Figure:
    """The photograph with most padding, both ways; below, the mean over all photographs.

    Args:
        images: photographs that may be shown.
        size, stride: as for ``grey_share``.
    """
    sample = max(images.samples, key=lambda s: grey_share(s, size))
    figure, axes = paper(7.2, PANEL + 1.2)
    for left, title, square in ((0.3, "square", True), (3.9, "rectangle", False)):
        pixels = letterbox(sample.path, size, square, stride)[0]
        height, width = pixels.shape[:2]
        _panel(axes, pixels, left, 0.65)
        mean = np.mean([grey_share(s, size, square, stride) for s in images.samples])
        words = f"{title}, {width}×{height}: {grey_share(sample, size, square, stride):.0%} grey"
        note(axes, left, PANEL + 0.9, words, weight="bold")
        note(axes, left, 0.35, f"mean of {len(images)} photographs: {mean:.0%} grey")
    return figure


def _panel(axes: Axes, pixels: np.ndarray, left: float, bottom: float) -> None:
    """An image whose long side is ``PANEL`` inches, in the middle of a square of that side."""
    height, width = (side / max(pixels.shape[:2]) * PANEL for side in pixels.shape[:2])
    x, y = left + (PANEL - width) / 2, bottom + (PANEL - height) / 2
    axes.imshow(pixels, extent=(x, x + width, y, y + height), zorder=2)
    axes.plot([x, x + width, x + width, x, x], [y, y, y + height, y + height, y], color="#555555", zorder=3)
    axes.set(xlim=(0, axes.figure.get_figwidth()), ylim=(0, axes.figure.get_figheight()))
