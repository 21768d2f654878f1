"""What does it cost to remove a weight? The error of a layer over two of its weights, in real numbers."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.figure import Figure

from ..figures import COLOURS
from ..methods.sensitivity import output_error
from .sketch import WORDS

BLUE, ORANGE, GREEN = COLOURS[:3]


def removed(weights: torch.Tensor, hessian: torch.Tensor, refitted: bool) -> torch.Tensor:
    """Two weights after the second has been set to zero.

    Args:
        weights: (2,).
        hessian: (2, 2), the second moment of their inputs.
        refitted: the first becomes what makes up best for the second (Optimal Brain Surgeon), or stays.
    """
    first = weights[0] + (weights[1] * hessian[0, 1] / hessian[0, 0] if refitted else 0)
    return torch.stack([first, torch.zeros_like(first)])


def contours_of_removal(weights: torch.Tensor, hessian: torch.Tensor) -> Figure:
    """The error around two weights, and two ways to be without the second: alone, and made up for.

    Args:
        weights: (2,) float64.
        hessian: (2, 2) float64.
    """
    across = float(max(weights[0].abs(), removed(weights, hessian, refitted=True)[0].abs()))
    x = torch.linspace(-0.25 * across, 1.5 * across, 121, dtype=torch.float64)
    y = float(weights[1]) * torch.linspace(-0.4, 1.4, 121, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), 2).reshape(-1, 2)
    error = output_error(grid - weights, hessian).reshape(121, 121)
    figure, axes = plt.subplots(figsize=(7.6, 4.2), layout="constrained", facecolor="white")
    levels = np.geomspace(float(error.max()) / 600, float(error.max()), 8)
    axes.contour(x, y, error, levels=levels, colors="#bbbbbb", linewidths=1)
    axes.axhline(0, color="#333333", linewidth=1)
    axes.plot(*weights, "o", color=BLUE, markersize=9)
    axes.annotate("the trained weights", weights, (10, 6), textcoords="offset points", fontsize=WORDS)
    for refitted, colour, words in (
        (False, ORANGE, "w₂ = 0, w₁ stays"),
        (True, GREEN, "w₂ = 0, w₁ makes up"),
    ):
        end = removed(weights, hessian, refitted)
        axes.annotate("", end, weights, arrowprops={"arrowstyle": "-|>", "color": colour, "linewidth": 1.6})
        axes.plot(*end, "s", color=colour, markersize=9)
        cost = float(output_error((end - weights)[None], hessian)[0])
        axes.annotate(
            f"{words}\nerror {cost:.3f}", end, (0, -14), textcoords="offset points", fontsize=WORDS,
            color=colour, ha="left" if refitted else "right", va="top",
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},
        )  # fmt: skip
    axes.set_xlabel("weight w₁", fontsize=WORDS)
    axes.set_ylabel("weight w₂, to be removed", fontsize=WORDS)
    axes.spines[["top", "right"]].set_visible(False)
    plt.close(figure)
    return figure
