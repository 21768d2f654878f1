"""How does error feedback work? Three weights, one after the other, in real numbers."""

from __future__ import annotations

import torch
from matplotlib.figure import Figure

from ..methods.rounding import with_feedback
from ..methods.sensitivity import inverse_factor
from .sketch import arrow, block, note, paper

WEIGHTS = (0.4, 0.45, 0.3)
ALIKE = 0.9  # correlation of each two inputs


def three_weights(weights: tuple[float, ...] = WEIGHTS, alike: float = ALIKE) -> list[list[float]]:
    """What stands in a row of three weights after 0, 1, 2, 3 roundings to whole numbers with error feedback.

    Args:
        weights: three numbers.
        alike: how the inputs go together: the correlation of each two.

    Returns:
        four rows of three numbers; in the last one all are whole.
    """
    hessian = alike * torch.ones(3, 3, dtype=torch.float64) + (1 - alike) * torch.eye(3, dtype=torch.float64)
    factor = inverse_factor(hessian, damping=1e-9)
    rows = [list(weights)]
    for done in (1, 2, 3):
        columns = factor.order.tolist()[:done]
        kept: dict[int, float] = {}

        def choose(exact: torch.Tensor, column: int, columns=columns, kept=kept) -> torch.Tensor:
            kept[column] = float(exact)
            return exact.round() if column in columns else exact

        chosen = with_feedback(torch.tensor([weights], dtype=torch.float64), factor, choose)
        rows.append([float(chosen[0, i]) for i in range(3)])
    return rows


def error_feedback() -> Figure:
    """Nearest rounding loses the sum of three weights; with error feedback the later ones make up for it."""
    rows, width = three_weights(), 1.75
    figure, axes = paper(7.9, 4.75)
    nearest = [float(round(x)) for x in WEIGHTS]
    lines = [("weights", rows[0]), *((f"round w{i}", rows[i]) for i in (1, 2, 3)), ("nearest", nearest)]
    heights = [3.85, 2.95, 2.05, 1.15, 0.1]
    for number, ((title, row), y) in enumerate(zip(lines, heights, strict=True)):
        note(axes, 0.1, y + 0.3, title, weight="bold")
        for place, value in enumerate(row):
            whole = number == 4 or place < number
            tint = "plain" if number == 0 else "orange" if number == 4 else "green" if whole else "yellow"
            words = f"{value:.0f}" if whole else f"{value:.2f}"
            block(axes, 1.25 + place * width, y, 1.05, 0.6, words, tint)
        note(axes, 1.25 + 3 * width, y + 0.3, f"sum {sum(row):.2f}")
    for step in (1, 2):
        error = rows[step - 1][step - 1] - rows[step][step - 1]
        start = (1.25 + (step - 1) * width + 1.05, heights[step] + 0.3)
        arrow(axes, start, (1.25 + step * width, heights[step] + 0.3), f"{error:+.2f}".replace("-", "−"))
    axes.plot([0.1, 7.8], [0.93, 0.93], color="#999999", linewidth=1, linestyle=":")
    return figure
