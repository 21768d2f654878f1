"""What does a quantizer do? To a histogram, and to numbers that must share one range."""

from __future__ import annotations

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figures import COLOURS
from .sketch import WORDS, arrow, block, note, paper

BLUE, ORANGE = COLOURS[:2]


def on_levels(values: np.ndarray, low: float, high: float, bits: int) -> np.ndarray:
    """Values rounded to the nearest of 2^bits levels from low to high (affine quantization), same shape."""
    step = (high - low) / (2**bits - 1)
    return low + step * np.clip(np.rint((values - low) / step), 0, 2**bits - 1)


def histograms(bits: int = 4, outlier: float = 6.0) -> Figure:
    """Bell-shaped numbers before a quantizer, after it, and after it if one number lies far outside.

    Args:
        bits: of the quantizer; its range reaches from the lowest to the highest number.
        outlier: where the one number lies; the others are within about -2.5 … 2.5.
    """
    values = np.random.default_rng(0).normal(size=4000)
    values = values[np.abs(values) < 2.5]
    with_outlier = np.append(values, outlier)
    figure, panels = plt.subplots(3, 1, figsize=(7.5, 5.6), layout="constrained", sharex=True)
    figure.set_facecolor("white")
    panels[0].hist(values, bins=80, color="#999999")
    panels[0].set_title("the numbers in float32", fontsize=11, loc="left")
    _spikes(panels[1], values, bits, BLUE, f"rounded to {bits} bits")
    _spikes(panels[2], with_outlier, bits, ORANGE, f"the same, with one more number at {outlier:g}")
    panels[2].annotate(
        "the outlier", (outlier, 0), (outlier, 0.45), textcoords=("data", "axes fraction"), ha="center",
        fontsize=WORDS, arrowprops={"arrowstyle": "-|>", "color": "#333333"},
    )  # fmt: skip
    panels[2].set_xlabel("value", fontsize=WORDS)
    for axes in panels:
        axes.set_yticks([])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(labelsize=WORDS)
    plt.close(figure)
    return figure


def _spikes(axes: Axes, values: np.ndarray, bits: int, colour: str, title: str) -> None:
    low, high = values.min(), values.max()
    found, counts = np.unique(np.round(on_levels(values, low, high, bits), 9), return_counts=True)
    levels = np.linspace(low, high, 2**bits)
    axes.bar(found, counts, width=0.09, color=colour)
    axes.plot(levels, np.zeros_like(levels), "|", color="black", markersize=10, clip_on=False)
    step = (high - low) / (2**bits - 1)
    axes.set_title(f"{title}: {2**bits} levels, a step of {step:.2f}", fontsize=11, loc="left")


def shared_range(
    boxes: tuple[float, ...] = (312.4, 87.9), scores: tuple[float, ...] = (0.51, 0.93)
) -> Figure:
    """Boxes and scores in one tensor: 8 bits for 0 … 640 leave nothing of a score; two ranges do.

    Args:
        boxes: coordinates in pixels, 0 … 640.
        scores: 0 … 1.
    """

    def words(numbers: np.ndarray, digits: int) -> str:
        return ", ".join(f"{x:.{digits}f}" for x in numbers)

    b, s = np.array(boxes), np.array(scores)
    together, apart = on_levels(s, 0, 640, 8), on_levels(s, 0, 1, 8)
    figure, axes = paper(7.8, 3.3)
    block(axes, 0.1, 2.2, 1.8, 0.8, f"boxes\n{words(b, 1)}", "blue")
    block(axes, 0.1, 0.3, 1.8, 0.8, f"scores\n{words(s, 2)}", "orange")
    block(axes, 2.6, 1.15, 1.9, 1.0, "one tensor,\none range: 0…640\n256 levels", "yellow")
    block(axes, 5.5, 2.2, 2.2, 0.8, f"boxes\n{words(on_levels(b, 0, 640, 8), 1)}", "blue")
    block(axes, 5.5, 1.2, 2.2, 0.8, f"scores\n{words(together, 2)}", "pink")
    block(axes, 5.5, 0.1, 2.2, 0.8, f"scores, range 0…1\n{words(apart, 2)}", "green")
    arrow(axes, (1.9, 2.5), (2.6, 1.85))
    arrow(axes, (1.9, 0.85), (2.6, 1.45))
    arrow(axes, (4.5, 1.85), (5.5, 2.5))
    arrow(axes, (4.5, 1.6), (5.5, 1.6))
    arrow(axes, (1.9, 0.5), (5.5, 0.5))
    note(axes, 3.7, 0.68, "or a range of their own", ha="center")
    return figure
