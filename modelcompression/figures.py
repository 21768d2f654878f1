"""How does it look? The few pictures that several notebooks share, in one style.

Figures are drawn on white, so that they read the same on light and dark pages.
"""

from __future__ import annotations

import io
from itertools import pairwise

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .measure.accuracy import Evaluation
from .measure.latency import Timing

COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00"]  # Okabe & Ito
SHOWN_CONFIDENCE = 0.25


def precision_recall(
    variant: Evaluation, name: str, baseline: Evaluation | None = None, baseline_name: str = ""
) -> Figure:
    """Precision against recall at IoU 0.5, mean over classes; the baseline dashed behind it."""
    figure, axes = _figure(4.6, 3.4)
    if baseline is not None:
        axes.plot(*baseline.precision_recall, color="#999999", linestyle="--", label=baseline_name)
    axes.plot(*variant.precision_recall, color=COLOURS[0], label=name)
    axes.set(xlabel="recall", ylabel="precision at IoU 0.5", xlim=(0, 1), ylim=(0, 1.02))
    axes.legend(frameon=False)
    return closed(figure)


def latency_distribution(timings: dict[str, Timing]) -> Figure:
    """Every timed pass as a dot, a row for each detector; median marked, p90 as a tick."""
    figure, axes = _figure(7, 0.8 + 0.55 * len(timings))
    generator = np.random.default_rng(0)
    for row, timing in enumerate(timings.values()):
        colour = COLOURS[row % len(COLOURS)]
        jitter = row + generator.uniform(-0.22, 0.22, len(timing.samples))
        axes.plot(timing.samples, jitter, ".", color=colour, alpha=0.45, markersize=5)
        axes.plot([timing.median] * 2, [row - 0.36, row + 0.36], color=colour, linewidth=2.5)
        axes.plot([timing.p90] * 2, [row - 0.2, row + 0.2], color=colour, linewidth=1.2)
        axes.annotate(
            f"{timing.median:.1f} ms", (timing.median, row - 0.36), xytext=(4, 1),
            textcoords="offset points", fontsize=9, color=colour, va="bottom",
        )  # fmt: skip
    axes.set_yticks(range(len(timings)), list(timings))
    axes.set(xlabel="milliseconds a forward pass (thick: median, thin: 90th percentile)")
    axes.set_ylim(len(timings) - 0.4, -0.75)
    axes.set_xlim(left=0)
    return closed(figure)


def waterfall(start: str, milliseconds: float, speedups: dict[str, float]) -> Figure:
    """Where the time went: a bar for what is left after each step, and what the step took away above it.

    Args:
        start: what the milliseconds belong to.
        milliseconds: before the first step.
        speedups: step → how many times faster than the start all steps up to this one are, in order.
    """
    times = milliseconds / np.array([1, *speedups.values()])
    figure, axes = _figure(1.6 + 1.1 * len(times), 3.4)
    axes.bar(range(len(times)), times, width=0.62, color=["#999999"] + [COLOURS[0]] * len(speedups))
    for step, (before, after) in enumerate(pairwise(times), 1):
        change, faster = abs(before - after), before >= after
        colour = COLOURS[2] if faster else COLOURS[1]
        axes.bar(step, change, bottom=min(before, after), width=0.62, color=colour, alpha=0.35)
        axes.plot([step - 1.31, step + 0.31], [before] * 2, color="#999999", linewidth=0.8)
        label = f"{before / after:.2f}×\n{'−' if faster else '+'}{change:.1f} ms"
        axes.text(step, max(before, after), label, ha="center", va="bottom", fontsize=9, color=colour)
    for step, time in enumerate(times):
        axes.text(step, time / 2, f"{time:.1f}", ha="center", va="center", fontsize=9, color="white")
    axes.set_xticks(range(len(times)), [start, *speedups], fontsize=9)
    axes.set(ylabel="ms a forward pass", ylim=(0, 1.18 * times.max()))
    return closed(figure)


def as_jpeg(figure: Figure, quality: int = 80, dpi: int = 110) -> Image:
    """A figure of photographs for a notebook: a tenth of the PNG's bytes."""
    data = io.BytesIO()
    figure.savefig(data, format="jpeg", dpi=dpi, pil_kwargs={"quality": quality})
    return Image(data.getvalue(), format="jpeg")


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure, axes = plt.subplots(figsize=(width, height), layout="constrained")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(alpha=0.25)
    return figure, axes


def closed(figure: Figure) -> Figure:
    """Detach the figure from pyplot: a notebook then shows it once, when a cell returns it."""
    plt.close(figure)
    return figure
