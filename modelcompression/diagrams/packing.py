"""How do weights become bytes? A codebook, and a grid under an entropy coder, on a handful of weights."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figures import COLOURS
from ..grid import step_sizes
from ..methods.clustering import assign, kmeans
from ..packed.coding import information
from .sketch import arrow, block, note, paper

LEFT, RIGHT = 1.75, 7.8  # inches, where the columns of numbers lie


def codebook_of(weights: np.ndarray, clusters: int) -> Figure:
    """Weights on a line, each in the colour of its centroid, and what a file keeps of them.

    Args:
        weights: (n,) a handful, ascending.
        clusters: at most four.
    """
    centroids = kmeans(weights, clusters)
    indices = assign(weights, centroids)
    figure, axes = paper(8, 3.05)
    low, high = float(weights.min()), float(weights.max())

    def place(value: float) -> float:
        return LEFT + 0.3 + (value - low) / (high - low) * (RIGHT - LEFT - 0.6)

    note(axes, 0.1, 2.55, "weights", weight="bold")
    note(axes, 0.1, 1.75, "centroids", weight="bold")
    axes.plot([LEFT, RIGHT], [2.55, 2.55], color="#999999", linewidth=1)
    for value, index in zip(weights, indices, strict=True):
        colour = COLOURS[index]
        axes.plot(place(value), 2.55, "o", color=colour, markersize=8)
        arrow(axes, (place(value), 2.45), (place(centroids[index]), 1.95), colour=colour)
    for centroid, colour in zip(centroids, COLOURS, strict=False):
        axes.plot(place(centroid), 1.88, "s", color=colour, markersize=9)
        note(axes, place(centroid), 1.62, f"{centroid:.2f}".replace("-", "−"), colour, ha="center")
    note(axes, 0.1, 0.95, "indices", weight="bold")
    _row(axes, 0.7, [str(index) for index in indices], "blue")
    kept = f"the file keeps {len(centroids)} centroids and {len(indices)} indices"
    note(axes, (LEFT + RIGHT) / 2, 0.3, kept, ha="center")
    return figure


def grid_and_coder(weights: np.ndarray, exponent: int) -> Figure:
    """Weights, the integers that they become on a grid, and the bits that the package's coder spends on each.

    Args:
        weights: (n,) a handful.
        exponent: of the grid's step, see ``grid.step_sizes``.
    """
    step = float(step_sizes(np.array([exponent]))[0])
    integers = np.rint(weights / step).astype(int)
    bits = information(integers)
    figure, axes = paper(8, 3.9)
    note(axes, 0.1, 3.5, "weights", weight="bold")
    _row(axes, 3.25, [f"{x:.2f}".replace("-", "−") for x in weights], "plain")
    note(axes, 0.1, 2.95, f"divided by the step {step:.2f}, rounded")
    note(axes, 0.1, 2.4, "integers", weight="bold")
    centres = _row(axes, 2.15, [f"{x:d}".replace("-", "−") for x in integers], "yellow")
    note(axes, 0.1, 1.85, "the rarer an integer, the more bits")
    note(axes, 0.1, 1.2, "bits", weight="bold")
    for centre, count in zip(centres, bits, strict=True):
        height = 0.85 * count / bits.max()
        axes.bar(centre, height, 0.36, bottom=0.75, color="#0072b2")
        note(axes, centre, 0.62, f"{count:.1f}", ha="center", va="top")
    mean = f"{bits.mean():.1f} bits a weight instead of 32"
    note(axes, (LEFT + RIGHT) / 2, 0.2, mean, ha="center", weight="bold")
    return figure


def _row(axes: Axes, y: float, words: list[str], tint: str) -> list[float]:
    """A row of small boxes; gives back their centres."""
    width = (RIGHT - LEFT) / len(words)
    return [block(axes, LEFT + i * width, y, width, 0.5, text, tint)[0] for i, text in enumerate(words)]
