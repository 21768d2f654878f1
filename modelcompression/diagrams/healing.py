"""How does a packed file learn? A teacher, a student on a grid, and the exact weights behind it."""

from __future__ import annotations

from matplotlib.figure import Figure

from .sketch import arrow, block, note, paper


def teacher_and_student() -> Figure:
    """One step of healing: what is compared, and where the gradient goes."""
    figure, axes = paper(8, 3.3)
    block(axes, 0.1, 1.85, 1.25, 0.75, "photograph,\nno label")
    block(axes, 2.0, 2.4, 1.75, 0.75, "teacher:\nthe original", "blue")
    block(axes, 2.0, 1.3, 1.75, 0.75, "student:\non its grid", "orange")
    block(axes, 4.4, 2.4, 1.5, 0.75, "classes,\nbox sides", "blue")
    block(axes, 4.4, 1.3, 1.5, 0.75, "classes,\nbox sides", "orange")
    block(axes, 6.6, 1.85, 1.3, 0.75, "distance,\nin nats", "yellow")
    for y in (2.775, 1.675):
        arrow(axes, (1.35, 2.225), (2.0, y))
        arrow(axes, (3.75, y), (4.4, y))
        arrow(axes, (5.9, y), (6.6, 2.225))
    block(axes, 2.0, 0.1, 1.75, 0.75, "exact weights\nbehind it", "green")
    arrow(axes, (2.875, 0.85), (2.875, 1.3))
    note(axes, 2.95, 1.07, "rounded")
    axes.plot([7.25, 7.25], [1.85, 0.475], color="#d55e00", linewidth=1.4)
    arrow(axes, (7.25, 0.475), (3.75, 0.475), "gradient, as if nothing were rounded", colour="#d55e00")
    return figure
