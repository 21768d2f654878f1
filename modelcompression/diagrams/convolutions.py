"""Why are some networks small from the start? An ordinary convolution and a depthwise separable one."""

from __future__ import annotations

from matplotlib.figure import Figure

from .sketch import arrow, block, note, paper


def ordinary_and_separable(channels: int, side: int = 3) -> Figure:
    """Both from as many channels to as many, with their numbers of weights.

    Args:
        channels: in and out.
        side: of the window that an output pixel looks at.
    """
    window = side * side
    every = (f"{side}×{side} pixels of every channel", channels * channels * window, "orange")
    alone = (f"{side}×{side} pixels of one channel", channels * window, "green")
    mixing = ("1×1: mixes the channels", channels * channels, "green")
    rows = ((1.95, "ordinary", [every]), (0.35, "depthwise separable", [alone, mixing]))
    figure, axes = paper(8, 3.4)
    for y, title, steps in rows:
        total = sum(weights for _, weights, _ in steps)
        note(axes, 0.15, y + 1.1, f"{title}: {total:,} weights", weight="bold")
        _, middle = block(axes, 0.15, y, 1.1, 0.8, f"{channels}\nchannels")
        width = 4.9 if len(steps) == 1 else 2.3
        right = 1.25
        for words, weights, tint in steps:
            x = right + 0.3
            block(axes, x, y, width, 0.8, f"{words}\n{weights:,} weights", tint)
            arrow(axes, (right - 0.02, middle), (x + 0.02, middle))
            right = x + width
        block(axes, 6.75, y, 1.1, 0.8, f"{channels}\nchannels")
        arrow(axes, (right - 0.02, middle), (6.77, middle))
    return figure
