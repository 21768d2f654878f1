"""Which channels of a C2f block can leave, and what leaves with them? As `methods.channels` finds it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import nn
from ultralytics.nn.modules import C2f
from ultralytics.nn.modules.block import Bottleneck

from ..methods.channels import groups
from .sketch import arrow, block, note, paper

GREEN = "#00704f"
HEIGHT = 2.5  # inches of one block
Readers = Mapping[str, tuple[tuple[str, int], ...]]


def c2f_couplings(model: nn.Module, layers: Sequence[int] | None = None) -> Figure | None:
    """C2f blocks with one bottleneck each: green convolutions may lose channels, grey ones may not.

    Blocks that are built on C2f, such as YOLO11's C3k2, have the same parts.

    Args:
        model: as for :func:`groups`.
        layers: their numbers in the network; None: the narrowest block with a residual addition and the
            narrowest without one, as far as there are any.

    Returns:
        None if there is no block to draw.

    Raises:
        ChannelError: no such model.
    """
    readers = {name: group.readers for group in groups(model) for name, _ in group.producers}
    layers = _narrowest(model) if layers is None else layers
    if not layers:
        return None
    figure, axes = paper(8, HEIGHT * len(layers) + 0.3)
    for row, number in enumerate(layers):
        _block(axes, HEIGHT * (len(layers) - 1 - row) + 0.65, model.model[number], readers)
    note(axes, 0.1, 0.2, "green: its output channels may leave, with all that reads them.  grey: they stay.")
    return figure


def _narrowest(model: nn.Module) -> list[int]:
    found: dict[bool, C2f] = {}
    for layer in model.model:
        if not isinstance(layer, C2f) or [type(inner) for inner in layer.m] != [Bottleneck]:
            continue
        added, width = layer.m[0].add, layer.cv2.conv.out_channels
        if added not in found or width < found[added].cv2.conv.out_channels:
            found[added] = layer
    return sorted(layer.i for layer in found.values())


def _block(axes: Axes, y: float, layer: nn.Module, readers: Readers) -> None:
    name, bottleneck = f"model.{layer.i}", layer.m[0]
    convolutions = {
        "cv1": (layer.cv1, f"{name}.cv1.conv", (0.75, y + 0.75)),
        "m.0.cv1": (bottleneck.cv1, f"{name}.m.0.cv1.conv", (2.95, y + 0.25)),
        "m.0.cv2": (bottleneck.cv2, f"{name}.m.0.cv2.conv", (4.3, y + 0.25)),
        "cv2": (layer.cv2, f"{name}.cv2.conv", (6.85, y + 0.75)),
    }
    for label, (module, full, (left, low)) in convolutions.items():
        words = f"{label}\n{module.conv.out_channels} channels"
        block(axes, left, low, 1.1, 0.62, words, "green" if full in readers else "plain")
    addition = " with a residual addition" if bottleneck.add else ", nothing is added"
    note(axes, 0.1, y + 2.0, f"{name}: a {type(layer).__name__} block{addition}", weight="bold")
    block(axes, 1.95, y + 1.2, 0.75, 0.45, "half")
    block(axes, 1.95, y + 0.5, 0.75, 0.45, "half")
    block(axes, 5.95, y + 0.3, 0.72, 1.35, "concat")
    arrow(axes, (0.15, y + 1.06), (0.75, y + 1.06))
    for height in (1.42, 0.72):
        arrow(axes, (1.85, y + 1.06), (1.95, y + height))
    arrow(axes, (2.7, y + 1.42), (5.95, y + 1.42))
    arrow(axes, (2.7, y + 0.88), (5.95, y + 1.12))
    arrow(axes, (2.7, y + 0.6), (2.95, y + 0.6))
    arrow(axes, (4.05, y + 0.56), (4.3, y + 0.56), colour=_colour(f"{name}.m.0.cv1.conv", readers))
    _bottleneck_end(axes, y, bottleneck.add, _colour(f"{name}.m.0.cv2.conv", readers))
    arrow(axes, (6.67, y + 1.06), (6.85, y + 1.06))
    note(axes, 0.1, y - 0.1, _sentence(f"{name}.cv2.conv", readers), colour=GREEN)


def _bottleneck_end(axes: Axes, y: float, added: bool, colour: str) -> None:
    if not added:
        arrow(axes, (5.4, y + 0.56), (5.95, y + 0.56), colour=colour)
        return
    block(axes, 5.5, y + 0.4, 0.32, 0.32, "+")
    arrow(axes, (5.4, y + 0.56), (5.5, y + 0.56), colour=colour)
    arrow(axes, (5.82, y + 0.56), (5.95, y + 0.56))
    axes.plot([2.33, 2.33, 5.66], [y + 0.5, y + 0.13, y + 0.13], color="#333333", linewidth=1.4)
    arrow(axes, (5.66, y + 0.13), (5.66, y + 0.4))


def _colour(producer: str, readers: Readers) -> str:
    return GREEN if producer in readers else "#333333"


def _sentence(producer: str, readers: Readers) -> str:
    """Who reads the block's output: nobody leaves alone."""
    if producer not in readers:
        return "all channels of cv2 stay"
    found = [
        name.removesuffix(".conv") + (f" (from channel {first})" if first else "")
        for name, first in readers[producer]
    ]
    return "cv2 is read by " + ", ".join(found)
