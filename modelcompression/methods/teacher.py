"""What does the original detect? The model to learn from, and how models are run while learning."""

from __future__ import annotations

import copy

import torch
import torch.nn.functional as F
from torch import nn

from ..network import undecoded


def best_device() -> torch.device:
    """A CUDA GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def half_precision(device: torch.device) -> torch.dtype | None:
    """The short format in which this device trains fast: float16, bfloat16, or None where only float32 is."""
    if device.type == "cuda":
        return torch.float16  # finer than bfloat16; the loss is scaled
    native = any(getattr(torch.cpu, f"_is_{name}_supported", bool)() for name in ("avx512_bf16", "amx_tile"))
    return torch.bfloat16 if device.type == "cpu" and native else None


class Teacher:
    """The original: what it detects on a batch is what students should detect.

    Args:
        model: ultralytics' detection model in evaluation mode, BatchNorm folded; it is not changed.
        device: None finds a GPU.

    Attributes:
        strides, bins: of its head, as in :class:`..subject.Subject`.
    """

    def __init__(self, model: nn.Module, device: torch.device | str | None = None) -> None:
        self.device = torch.device(device or best_device())
        head = model.model[-1]
        self.strides, self.bins = tuple(int(stride) for stride in head.stride), head.reg_max
        self._model = raw_model(model).to(self.device)
        self._half = half_precision(self.device)

    @torch.no_grad()
    def __call__(self, images: torch.Tensor, exact: bool = False) -> dict[str, torch.Tensor]:
        """(N, channels, H, W) → ``scores`` (N, classes, anchors), ``boxes`` (N, 4 · bins, anchors): logits.

        Both are float32.

        Args:
            exact: compute in float32.
        """
        return detect(self._model, images, None if exact else self._half)


def shrunk(images: torch.Tensor, size: int | None) -> torch.Tensor:
    """(N, channels, H, W) pictures as a student of that input size sees them."""
    if size is None or size == images.shape[2]:
        return images
    return F.interpolate(images, (size, size), mode="bilinear", align_corners=False)


def raw_model(model: nn.Module) -> nn.Module:
    """A copy, channels last, for `detect`; if it can, its head decodes no boxes, which takes time."""
    model = copy.deepcopy(model).eval().float().to(memory_format=torch.channels_last)
    head = model.model[-1]
    head.training = not head.end2end  # in training, no gradient passes a head that suppresses its duplicates
    head.shape = None
    return model


def detect(model: nn.Module, images: torch.Tensor, half: torch.dtype | None) -> dict[str, torch.Tensor]:
    """A ``raw_model``'s ``scores`` and ``boxes`` as float32 logits, its convolutions computed in ``half``."""
    images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, half, enabled=half is not None, cache_enabled=False):
        return {key: value.float() for key, value in undecoded(model, images).items()}
