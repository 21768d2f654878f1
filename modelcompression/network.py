"""The network as PyTorch holds it: its convolutions, which layer reads which, and other widths for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

ATTENTION = ("Attention", "AAttn")  # ultralytics' layers, in YOLOv10 to YOLO26


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions with learnt weights: all but the constant one that decodes box distances."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not name.endswith("dfl.conv")
    }


def depthwise(module: nn.Conv2d) -> bool:
    """Does it have one filter for each channel, which reads that channel alone?"""
    return module.groups == module.in_channels == module.out_channels > 1


def attends(model: nn.Module) -> bool:
    """Has it attention? Sizes in it are then constants of an exported graph, unless the export is dynamic."""
    return any(type(module).__name__ in ATTENTION for module in model.modules())


def undecoded(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """The head's raw outputs, logits: ``scores`` (N, classes, anchors) and ``boxes`` (N, 4 · bins, anchors).

    Of a model with two heads, those of the one that is left (BatchNorm folded) or else of the one that needs
    non-maximum suppression.
    """
    return logits(model(batch))


def logits(output: Any) -> dict[str, torch.Tensor]:
    """Of all that a detection model gives, what :func:`undecoded` says."""
    found = output if isinstance(output, dict) else output[1]  # a head in training decodes no boxes
    if "one2many" in found:
        found = found["one2many"] or found["one2one"]
    return {key: found[key] for key in ("scores", "boxes")}


@contextmanager
def unchosen(model: nn.Module) -> Iterator[None]:
    """For so long a head that suppresses its own duplicates gives what it chooses from, as all others do.

    That is (N, 4 + classes, anchors) with centre, width and height of boxes, instead of its best detections.
    """

    def like_others(rows: torch.Tensor) -> torch.Tensor:
        first, second, scores = rows.transpose(1, 2).tensor_split((2, 4), 1)
        return torch.cat([(first + second) / 2, second - first, scores], 1)

    head = model.model[-1]
    head.postprocess = like_others
    try:
        yield
    finally:
        del head.postprocess


def sources(layer: nn.Module) -> list[int]:
    """Numbers of the layers that a layer reads; ultralytics writes -1 for the one before."""
    listed = [layer.f] if isinstance(layer.f, int) else layer.f
    return [layer.i - 1 if source == -1 else source for source in listed]


def resize(module: nn.Conv2d, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Give a convolution other weights, possibly of other channel numbers."""
    module.weight = nn.Parameter(weight.contiguous(), requires_grad=False)
    module.bias = None if bias is None else nn.Parameter(bias.contiguous(), requires_grad=False)
    if depthwise(module):
        module.groups = weight.shape[0]
    module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
