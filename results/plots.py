"""The figures, as SVG text: made from results.csv alone, the same bytes each time."""

from __future__ import annotations

import io

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator
from scipy.optimize import isotonic_regression

from rows import BASELINE, DELTA

TICKS_MB = [0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 24]
LABEL_INCHES = 0.2


def pareto(shown: pd.DataFrame, machine: str) -> str:
    """SVG: mAP50-95 against size, one point an experiment, coloured by speed-up, on white.

    Many points share a place (one file, several runtimes), so the names stand in the margins, each
    with a dot of its own colour and a line to its point. Whiskers: interval of the difference to the
    original model.
    """
    is_reference = shown["experiment"].eq(BASELINE) & shown["latency_ms"].notna()
    speed = shown["speedup"].mask(is_reference, 1.0).to_numpy()
    original = shown["map50_95"] / (1 + shown["map50_95_delta"])
    low, high = (original * (1 + shown[column]) for column in DELTA[1:])
    dots = {
        "norm": Normalize(np.nanmin([1, *speed]), np.nanmax([2, *speed])),
        "cmap": mpl.colormaps["viridis"].with_extremes(bad="white"),
        "edgecolors": "#555555",
        "plotnonfinite": True,  # not measured on this machine: white
    }
    with mpl.rc_context({"svg.hashsalt": "modelcompression"}):
        figure = Figure(figsize=(6, max(5, LABEL_INCHES * len(shown) + 1.5)))
        axes = figure.subplots()
        axes.vlines(shown["size_mb"], low, high, color="#bbbbbb", zorder=1)
        points = axes.scatter(shown["size_mb"], shown["map50_95"], 60, speed, zorder=3, **dots)
        axes.set(xscale="log", xlabel="size of the shipped files, MB")
        axes.set_title("mAP50-95 on COCO val2017", loc="left", fontsize=10)
        axes.set_xticks(TICKS_MB, [f"{tick:g}" for tick in TICKS_MB])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set(xlim=shown["size_mb"].agg(["min", "max"]) * [1 / 1.4, 1.4], ylim=_heights(axes.get_ylim()))
        axes.grid(alpha=0.25)
        title = f"times faster than the original model on {machine}"
        figure.colorbar(points, ax=axes, location="bottom", pad=0.12, aspect=50, label=title)
        _margin_labels(axes, shown, speed, dots)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return buffer.getvalue()


def _heights(limits: tuple[float, float]) -> tuple[float, float]:
    """Limits at least a hundredth apart to either side: noise must not fill the figure."""
    middle = sum(limits) / 2
    return min(limits[0], middle - 0.01), max(limits[1], middle + 0.01)


def _margin_labels(axes: Axes, shown: pd.DataFrame, speed: np.ndarray, dots: dict) -> None:
    inches = axes.get_window_extent().height / axes.figure.dpi
    to_axes = axes.transData + axes.transAxes.inverted()
    places = to_axes.transform(shown[["size_mb", "map50_95"]].to_numpy())
    inside = {"transform": axes.transAxes, "clip_on": False}
    for is_left, margin, align, shift in ((True, -0.15, "right", -8), (False, 1.06, "left", 8)):
        side = np.flatnonzero((places[:, 0] < 0.45) == is_left)
        if not len(side):
            continue
        side = side[np.argsort(-places[side, 1], kind="stable")]
        heights = spread(places[side, 1], LABEL_INCHES / inches)
        axes.scatter([margin] * len(side), heights, 40, speed[side], **inside, **dots)
        for index, height in zip(side, heights, strict=True):
            x, y = places[index]
            axes.plot([x, margin], [y, height], color="#cccccc", linewidth=0.7, zorder=0, **inside)
            factor = "" if np.isnan(speed[index]) else f"  {speed[index]:.2f}×"
            axes.annotate(
                shown["experiment"].iloc[index] + factor, (margin, height), (shift, 0),
                "axes fraction", "offset points", ha=align, va="center",
            )  # fmt: skip


def spread(heights: np.ndarray, gap: float) -> np.ndarray:
    """The heights nearest to the given ones (least squares) that are ``gap`` apart.

    Args:
        heights: (n,), n ≥ 1, descending. The result stays within [0, 1] if that has room for it.
    """
    steps = gap * np.arange(len(heights))
    moved = isotonic_regression(heights + steps, increasing=False).x
    return np.clip(moved, steps[-1], max(1, steps[-1])) - steps
