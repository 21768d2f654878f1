"""What is a diagram made of? Paper, blocks, arrows and words, in one style.

Coordinates are inches from the lower left corner. Everything is drawn on white with words of at least
ten points, so that it reads the same on light and dark pages and on a phone.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

WORDS = 10.5  # points
TINTS = {  # light enough for black words
    "plain": "#eeeeee",
    "blue": "#cfe5f3",
    "orange": "#fbe0cc",
    "green": "#cdeee2",
    "pink": "#f3dcea",
    "yellow": "#fdf3c6",
}
Place = tuple[float, float]


def paper(width: float, height: float) -> tuple[Figure, Axes]:
    """An empty sheet, in inches; at most 8 wide to be read in a notebook."""
    figure = plt.figure(figsize=(width, height), facecolor="white")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    plt.close(figure)
    return figure, axes


def block(
    axes: Axes, x: float, y: float, width: float, height: float, words: str, tint: str = "plain"
) -> Place:
    """A box with words in it; gives back its centre.

    Args:
        x, y: its lower left corner.
        tint: a key of ``TINTS``.
    """
    shape = FancyBboxPatch(
        (x + 0.04, y + 0.04), width - 0.08, height - 0.08, boxstyle="round,pad=0.04",
        facecolor=TINTS[tint], edgecolor="#555555", linewidth=1,
    )  # fmt: skip
    axes.add_patch(shape)
    centre = (x + width / 2, y + height / 2)
    axes.text(*centre, words, ha="center", va="center", fontsize=WORDS, color="black")
    return centre


def arrow(
    axes: Axes, start: Place, end: Place, words: str = "", bend: float = 0, colour: str = "#333333"
) -> None:
    """An arrow, words beside its middle; ``bend`` is matplotlib's arc3 radius."""
    bow = f"arc3,rad={bend}"
    look = {"arrowstyle": "-|>", "mutation_scale": 12, "color": colour, "linewidth": 1.4}
    axes.add_patch(FancyArrowPatch(start, end, connectionstyle=bow, shrinkA=0, shrinkB=0, **look))
    if words:
        middle = ((start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + 0.06)
        axes.text(*middle, words, ha="center", va="bottom", fontsize=WORDS, color=colour)


def note(
    axes: Axes, x: float, y: float, words: str, colour: str = "#333333", size: float = WORDS, **how: str
) -> None:
    """Words without a box; ``how`` goes to matplotlib's ``text`` (``ha``, ``va``, ``weight``)."""
    axes.text(x, y, words, fontsize=size, color=colour, **({"va": "center"} | how))
