"""How far have detections moved? A divergence in nats, and the random probe that has its curvature."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from ..network import undecoded

SPREAD = 0.5  # strides


def probe(raw: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """A random scalar whose squared gradients are, in expectation, the Gauss-Newton diagonal of ``distance``.

    With random signs ε the gradient ``B ε`` has the second moment ``B Bᵀ``: for a class score
    ``B = √(p (1 - p))``, for the distribution of a box side ``B = diag(√q) - q √qᵀ``, times the root of
    the anchor's confidence.

    Args:
        raw: the head's undecoded outputs, ``scores`` (N, classes, A) and ``boxes`` (N, 4 · bins, A), logits.
    """
    scores, boxes = raw["scores"], sides(raw["boxes"])
    p, q = scores.detach().sigmoid(), boxes.detach().softmax(2)
    upstream = (p * (1 - p)).sqrt() * _signs(p.shape, generator)
    if q.shape[2] == 1:
        sideways = _signs(q.shape, generator) * p.amax(1)[:, None, None].sqrt() / SPREAD
        return (scores * upstream).sum() + (boxes * sideways).sum()
    root = q.sqrt() * _signs(q.shape, generator)
    confidence = p.amax(1)[:, None, None]
    sideways = (root - q * root.sum(2, keepdim=True)) * confidence.sqrt()
    return (scores * upstream).sum() + (boxes * sideways).sum()


def distance(raw: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How far detections have moved, in nats an image: label-free, and with less noise than an mAP.

    The Kullback-Leibler divergence from the reference model's to this model's outputs: of every class
    score as a Bernoulli variable, and of every box side's distribution, weighted by the reference's
    confidence in that anchor. Where the head gives distances themselves (one bin), each stands for a normal
    distribution with a standard deviation of ``SPREAD`` strides. Arguments as for :func:`probe`.
    """
    classes, moved = parts(raw, reference)
    return (classes.sum() + moved.sum()) / len(classes)


def parts(
    raw: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]
) -> tuple[torch.Tensor, torch.Tensor]:
    """What :func:`distance` adds up, in nats: (N, classes, A) of the scores, (N, 4, A) of the box sides."""
    ours, theirs = raw["scores"], reference["scores"]
    p = theirs.sigmoid()
    classes = p * (F.logsigmoid(theirs) - F.logsigmoid(ours))
    classes = classes + (1 - p) * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
    log_q = sides(reference["boxes"]).log_softmax(2)
    if log_q.shape[2] == 1:
        change = raw["boxes"] - reference["boxes"]
        return classes, change.square() / (2 * SPREAD**2) * p.amax(1)[:, None]
    moved = (log_q.exp() * (log_q - sides(raw["boxes"]).log_softmax(2))).sum(2)
    return classes, moved * p.amax(1)[:, None]


class Reference:
    """The original's detections on some photographs: how far have those of another model moved?

    Args:
        model: ultralytics' detection model in evaluation mode.
        batches: (1, channels, H, W) float32 each.
    """

    def __init__(self, model: nn.Module, batches: Iterable[np.ndarray]) -> None:
        self._batches = [torch.from_numpy(batch) for batch in batches]
        with torch.no_grad():
            self._detections = [undecoded(model, batch) for batch in self._batches]

    @torch.no_grad()
    def distance(self, candidate: nn.Module, count: int | None = None) -> float:
        """Mean :func:`distance` over the first ``count`` photographs, or all; no model is changed."""
        candidate = copy.deepcopy(candidate).to(memory_format=torch.channels_last)
        pairs = zip(self._batches[:count], self._detections[:count], strict=True)
        return float(np.mean([distance(undecoded(candidate, batch), found) for batch, found in pairs]))


def sides(boxes: torch.Tensor) -> torch.Tensor:
    """(N, 4 · bins, A) → (N, 4 sides, bins, A)."""
    return boxes.unflatten(1, (4, -1))


def _signs(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1
