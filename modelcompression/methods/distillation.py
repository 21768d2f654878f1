"""Repair by distillation: a compressed model learns to detect what the original detects. No labels.

The loss is :func:`.distance.distance`, the divergence between both models' detections (Hinton et al. 2015,
https://arxiv.org/abs/1503.02531, with the box distributions of Li et al. 2020), on the pictures of an
:class:`.album.Album`. It differs from :mod:`.healing` in what it leaves out: layers that compression has not
touched are not trained, and what they make of a picture is computed once for several steps. That pays on a
CPU. It has a budget of steps only, and a weight may go anywhere, grid or not.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from ..errors import ModelCompressionError
from ..network import convolutions, logits, sources
from .album import Album
from .distance import distance

WARM_UP = 20
REMEMBERED = 24  # batches


class DistillationError(ModelCompressionError, ValueError):
    """Distillation cannot start; the message says why."""


def distill(
    student: nn.Module,
    teacher: nn.Module,
    album: Album,
    steps: int,
    rate: float = 1e-3,
    batch: int = 8,
    uses: int = 1,
    progress: Callable[[range], Iterable[int]] = iter,
) -> tuple[nn.Module, list[float]]:
    """Train a compressed model towards the original's detections. Weights that are zero stay zero.

    Adam, its step for each tensor in proportion to the size of that tensor's weights, warmed up and then
    lowered along a cosine. Layers before the first one that compression has changed have nothing to repair:
    they stay as they are, and both models share what they compute.

    Args:
        student: ultralytics' detection model in evaluation mode, BatchNorm folded; it is not changed.
        teacher: the original, likewise.
        album: what both look at, on the CPU; what it holds out is not used.
        steps: of the optimiser.
        rate: largest step, relative to the root mean square of a tensor's weights.
        batch: photographs a step.
        uses: steps that each batch is used for, on average. What the teacher and the shared layers make of it
            is computed once, so the more layers are shared, the cheaper another use is.
        progress: wraps the range of steps, such as ``tqdm``.

    Returns:
        a new model, and the loss of each step in nats an image.

    Raises:
        DistillationError: the loss is not finite: the rate is too large; or ``uses`` is less than one.
    """
    if uses < 1:
        raise DistillationError(f"a batch is used at least once, not {uses} times")
    student, teacher = _fresh(student), _fresh(teacher)
    first = _first_changed(student, teacher)
    groups, kept = _parameters(student.model[first:])
    optimiser = torch.optim.Adam(groups, betas=(0.9, 0.99))
    losses: list[float] = []
    remembered: list[tuple[list[Any], Mapping[str, torch.Tensor]]] = []
    generator = torch.Generator().manual_seed(0)
    for step in progress(range(steps)):
        for group in optimiser.param_groups:
            group["lr"] = rate * group["size"] * _schedule(step, steps)
        if step % uses == 0:
            seen = _seen(teacher, first, album.batch(step, batch))
            remembered = [*remembered, seen][-REMEMBERED if uses > 1 else -1 :]
        shared, wanted = remembered[int(torch.randint(len(remembered), (), generator=generator))]
        with torch.enable_grad():
            loss = distance(logits(_run(student.model[first:], shared)[-1]), wanted)
            optimiser.zero_grad()
            loss.backward()
        losses.append(loss.item())
        if not math.isfinite(losses[-1]):
            raise DistillationError(f"the loss is not finite after {step} steps: lower the rate of {rate:g}")
        for weight, mask in kept:
            weight.grad.mul_(mask)
        optimiser.step()
    for parameter in student.parameters():
        parameter.requires_grad_(False).grad = None
    return _fresh(student).to(memory_format=torch.contiguous_format), losses


def _first_changed(student: nn.Module, teacher: nn.Module) -> int:
    """Number of the first layer whose parameters are not the teacher's; 0 if all are."""
    for number, pair in enumerate(zip(student.model, teacher.model, strict=True)):
        ours, theirs = (list(layer.parameters()) for layer in pair)
        if any(a.shape != b.shape or not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)):
            return number
    return 0


@torch.no_grad()
def _seen(
    teacher: nn.Module, first: int, images: torch.Tensor
) -> tuple[list[Any], Mapping[str, torch.Tensor]]:
    """What layers before ``first`` make of images, as far as it is read later, and the teacher's outputs."""
    images = images.contiguous(memory_format=torch.channels_last)
    shared, later = _run(teacher.model[:first], [images]), teacher.model[first:]
    raw = logits(_run(later, shared)[-1])
    read = {source + 1 for layer in later for source in sources(layer)}
    kept = [output if number in read else None for number, output in enumerate(shared)]
    return kept, raw


def _run(layers: Iterable[nn.Module], outputs: list[Any]) -> list[Any]:
    """The outputs of the image and of all layers before, continued by those of these layers."""
    outputs = list(outputs)
    for layer in layers:
        found = [outputs[source + 1] for source in sources(layer)]
        outputs.append(layer(found if isinstance(layer.f, list) else found[0]))
    return outputs


def _fresh(model: nn.Module) -> nn.Module:
    """A copy that forgets the input size which the head has seen last, perhaps in inference mode."""
    model = copy.deepcopy(model).eval().to(memory_format=torch.channels_last)
    model.model[-1].shape = None
    return model


def _parameters(model: nn.Module) -> tuple[list[dict], list[tuple[nn.Parameter, torch.Tensor]]]:
    """Adam's groups with the size of each tensor, and the masks of weights that are not zero."""
    groups, kept = [], []
    for module in convolutions(model).values():
        weight, bias = module.weight.requires_grad_(True), module.bias.requires_grad_(True)
        mask = weight.detach() != 0
        used = weight.detach()[mask]
        size = float(used.square().mean().sqrt()) if len(used) else 0.0
        groups += [{"params": [weight], "size": size}, {"params": [bias], "size": size}]
        kept.append((weight, mask))
    return groups, kept


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * step / steps)) / 2
