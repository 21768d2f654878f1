"""Weight-only rounding: a convolution's weights onto a grid, at the least cost for what it computes.

Rounding each weight to the nearest grid point minimises the error of the weights. What matters is the
error of the outputs: with ``H = E[x xᵀ]`` over the unfolded inputs ``x`` of a convolution, changing a filter
by ``e`` changes its output by ``e H eᵀ`` in the mean square. Error feedback (Hassibi & Stork 1993, "Optimal
Brain Surgeon"; Frantar et al. 2022, "GPTQ", https://arxiv.org/abs/2210.17323) rounds one input after the
other and moves those not yet rounded so that they make up for the error as well as they can.

Two things are taken from the network's end instead of from the layer alone, both from the gradients
``g`` that a random probe of the detections sends back to the layer's outputs (no labels; the second
moment of such gradients is the Gauss-Newton matrix of the distance between two models' detections):

* a position counts as much as the detections depend on it: ``H = E[g² x xᵀ]`` (compare Kim et al. 2025,
  "GuidedQuant", https://arxiv.org/abs/2505.07004);
* an output channel is as sensitive as the detections depend on it, which says where bits are worth most.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

DAMPING = 0.01
BLOCK = 64
# At high rates an entropy-coded step Δ costs s Δ²/12, which halves twice with each bit more; a bit is
# therefore worth 2 ln 2 · s Δ²/12 (Gersho & Gray 1992, chapter 9).
WORTH_OF_A_BIT = 2 * math.log(2) / 12


class RoundingError(ValueError):
    """Weights, steps and statistics do not belong together; the message says how."""


@dataclass(frozen=True)
class Statistics:
    """What calibration images say about one convolution with n = in_channels / groups · k · k inputs.

    hessian: (n, n) float64, ``E[g² x xᵀ]``, with ``g²`` the mean over the output channels.
    mean: (n,) float64, ``E[x]``.
    sensitivity: (out_channels,) float64, the mean squared gradient of the probe with respect to a weight of
        that channel: noise of variance v on its n weights moves the detections by ``n v sensitivity / 2``.
    """

    hessian: torch.Tensor
    mean: torch.Tensor
    sensitivity: torch.Tensor


@dataclass(frozen=True)
class Factor:
    """What error feedback needs of a Hessian, see :func:`inverse_factor`.

    order: (n,) the inputs, those with most energy first: they are rounded while many others are left to
        make up for it ("act-order" of GPTQ).
    upper: (n, n) upper triangular U with ``UᵀU = (H + d)⁻¹``, in that order; ``U[j, j] ** -2`` is what an
        error on the j-th input costs when all later ones make up for it.
    """

    order: torch.Tensor
    upper: torch.Tensor


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """The convolutions with learnt weights: all but the constant one that decodes box distances."""
    return {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Conv2d) and not name.endswith("dfl.conv")
    }


# --- statistics -------------------------------------------------------------------------------


def collect(
    model: nn.Module, batches: Iterable[np.ndarray], positions: int = 1200, seed: int = 0
) -> dict[str, Statistics]:
    """Statistics of every convolution from calibration images.

    Args:
        model: YOLOv8 in evaluation mode, BatchNorm folded, fresh from :func:`.detector.load_yolo`: in
            inference mode, ultralytics' head caches tensors that cannot be differentiated.
        batches: (N, 3, H, W) float32 each.
        positions: of each feature map at most so many random positions are used.
        seed: of the probes and positions.

    Raises:
        RoundingError: no images, or a model that has run in inference mode.
    """
    generator = torch.Generator().manual_seed(seed)
    layers = convolutions(model)
    sums = {name: _Sums(module) for name, module in layers.items()}
    seen: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def remember(name: str):
        def hook(module: nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
            output.retain_grad()
            seen[name] = (inputs[0].detach(), output)

        return hook

    handles = [module.register_forward_hook(remember(name)) for name, module in layers.items()]
    count = 0
    try:
        for module in layers.values():
            module.weight.requires_grad_(True)
        for batch in batches:
            count += len(batch)
            with torch.enable_grad():
                probe(model(torch.from_numpy(batch))[1], generator).backward()
            for name, (inputs, output) in seen.items():
                sums[name].add(inputs, output.grad, positions, generator)
            seen.clear()
    except RuntimeError as error:
        if "Inference tensors" in str(error):
            raise RoundingError("this model has already run in inference mode: load it anew") from None
        raise
    finally:
        for handle in handles:
            handle.remove()
        for module in layers.values():
            module.weight.requires_grad_(False)
            module.weight.grad = None
    if not count:
        raise RoundingError("statistics need at least one image")
    return {name: total.statistics(count) for name, total in sums.items()}


def probe(raw: Mapping[str, torch.Tensor], generator: torch.Generator) -> torch.Tensor:
    """A random scalar whose squared gradients are, in expectation, the Gauss-Newton diagonal of ``distance``.

    With random signs ε the gradient ``B ε`` has the second moment ``B Bᵀ``: for a class score
    ``B = √(p (1 - p))``, for the distribution of a box side ``B = diag(√q) - q √qᵀ``, times the root of
    the anchor's confidence.

    Args:
        raw: the head's undecoded outputs, ``scores`` (N, 80, A) logits and ``boxes`` (N, 64, A) logits.
    """
    scores, boxes = raw["scores"], _sides(raw["boxes"])
    p, q = scores.detach().sigmoid(), boxes.detach().softmax(2)
    upstream = (p * (1 - p)).sqrt() * _signs(p.shape, generator)
    root = q.sqrt() * _signs(q.shape, generator)
    confidence = p.amax(1)[:, None, None]
    sideways = (root - q * (root * q.sqrt()).sum(2, keepdim=True)) * confidence.sqrt()
    return (scores * upstream).sum() + (boxes * sideways).sum()


def distance(raw: Mapping[str, torch.Tensor], reference: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """How far detections have moved, in nats an image: label-free, and with less noise than an mAP.

    The Kullback-Leibler divergence from the reference model's to this model's outputs: of every class
    score as a Bernoulli variable, and of every box side's distribution, weighted by the reference's
    confidence in that anchor. Arguments as for :func:`probe`.
    """
    ours, theirs = raw["scores"], reference["scores"]
    p = theirs.sigmoid()
    classes = p * (F.logsigmoid(theirs) - F.logsigmoid(ours))
    classes = classes + (1 - p) * (F.logsigmoid(-theirs) - F.logsigmoid(-ours))
    log_q = _sides(reference["boxes"]).log_softmax(2)
    sides = (log_q.exp() * (log_q - _sides(raw["boxes"]).log_softmax(2))).sum(2)
    return (classes.sum() + (sides * p.amax(1)[:, None]).sum()) / len(ours)


class Reference:
    """The original's detections on some photographs: how far have those of another model moved?

    Args:
        model: ultralytics' detection model in evaluation mode.
        batches: (1, 3, H, W) float32 each.
    """

    def __init__(self, model: nn.Module, batches: Iterable[np.ndarray]) -> None:
        self._batches = [torch.from_numpy(batch) for batch in batches]
        with torch.no_grad():
            outputs = [model(batch)[1] for batch in self._batches]
        self._detections = [{key: output[key] for key in ("scores", "boxes")} for output in outputs]

    @torch.no_grad()
    def distance(self, candidate: nn.Module, count: int | None = None) -> float:
        """Mean :func:`distance` over the first ``count`` photographs, or all; no model is changed."""
        candidate = copy.deepcopy(candidate).to(memory_format=torch.channels_last)
        pairs = zip(self._batches[:count], self._detections[:count], strict=True)
        return float(np.mean([distance(candidate(batch)[1], found) for batch, found in pairs]))


def _sides(boxes: torch.Tensor) -> torch.Tensor:
    """(N, 64, A) → (N, 4 sides, 16 distances, A)."""
    return boxes.unflatten(1, (4, -1))


def _signs(shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    return torch.randint(0, 2, shape, generator=generator) * 2.0 - 1


class _Sums:
    """Running sums of one convolution over images."""

    def __init__(self, module: nn.Conv2d) -> None:
        self._module = module
        inputs = module.weight[0].numel()
        self._hessian = torch.zeros(inputs, inputs)
        self._mean = torch.zeros(inputs, dtype=torch.float64)
        self._sensitivity = torch.zeros(module.out_channels, dtype=torch.float64)

    def add(
        self, maps: torch.Tensor, gradients: torch.Tensor, positions: int, generator: torch.Generator
    ) -> None:
        """One batch: (N, C, H, W) inputs and the gradients at the outputs."""
        for feature_map, gradient in zip(maps, gradients.flatten(2), strict=True):
            total = gradient.shape[1]
            used = torch.randperm(total, generator=generator)[:positions]
            patches = _patches(feature_map, self._module, used)
            squares = gradient[:, used].square() * (total / len(used))
            self._hessian.addmm_(patches * squares.mean(0), patches.T)
            self._mean += patches.mean(1)
        slope = self._module.weight.grad
        self._sensitivity += slope.square().flatten(1).mean(1).double()
        self._module.weight.grad = None

    def statistics(self, images: int) -> Statistics:
        hessian = self._hessian.double() / images
        return Statistics((hessian + hessian.T) / 2, self._mean / images, self._sensitivity / images)


def _patches(feature_map: torch.Tensor, module: nn.Conv2d, positions: torch.Tensor) -> torch.Tensor:
    """(C · k · k, P): what the filters see at the given output positions of a (C, H, W) map."""
    size, stride, padding = module.kernel_size[0], module.stride[0], module.padding[0]
    padded = F.pad(feature_map, (padding,) * 4)
    windows = padded.unfold(1, size, stride).unfold(2, size, stride)
    width = windows.shape[2]
    return windows[:, positions // width, positions % width].permute(0, 2, 3, 1).flatten(0, 2)


# --- rounding ---------------------------------------------------------------------------------


def nearest(
    weight: torch.Tensor, steps: torch.Tensor, largest: int | torch.Tensor | None = None
) -> torch.Tensor:
    """(rows, n) weights → the nearest symbols q of ``q · steps``, limited to -largest - 1 … largest.

    Args:
        steps: (rows,), positive.
        largest: one number, or one for each row.

    Returns:
        (rows, n) float64 of whole numbers.
    """
    _check(weight, steps)
    return _limited((weight.double() / steps.double()[:, None]).round(), largest)


def feedback(
    weight: torch.Tensor,
    steps: torch.Tensor,
    factor: Factor,
    largest: int | torch.Tensor | None = None,
    price: torch.Tensor | None = None,
) -> torch.Tensor:
    """Rounding with second-order error feedback (GPTQ).

    Args:
        weight: (rows, n).
        steps: (rows,), positive.
        factor: of :func:`inverse_factor`.
        largest: symbols are limited to -largest - 1 … largest; one number, or one for each row.
        price: (rows, n) bits that one more unit of magnitude costs. A symbol is then made smaller where
            the saved bits are worth more than the error, at the exchange rate of high-rate theory.

    Returns:
        (rows, n) float64 of whole numbers.
    """
    _check(weight, steps)
    shrink = None
    if price is not None:
        shrink = _shrinkage(price, left_over(factor), factor)

    def choose(exact: torch.Tensor, column: int) -> torch.Tensor:
        return _limited(_shrunk(exact, shrink, column).round(), largest)

    return with_feedback(weight.double() / steps.double()[:, None], factor, choose)


def with_feedback(
    weight: torch.Tensor, factor: Factor, choose: Callable[[torch.Tensor, int], torch.Tensor]
) -> torch.Tensor:
    """Replace a weight matrix column by column; the columns still to come make up for each error.

    Args:
        weight: (rows, n).
        factor: of :func:`inverse_factor`.
        choose: what replaces a column's (rows,) values; its second argument is the column's number.

    Returns:
        (rows, n) float64, the chosen values.
    """
    upper = factor.upper
    if upper.shape != (weight.shape[1],) * 2:
        raise RoundingError(f"a factor for {len(upper)} inputs, but weights for {weight.shape[1]}")
    left = weight.double()[:, factor.order]
    chosen = torch.empty_like(left)
    for start in range(0, left.shape[1], BLOCK):
        end = min(start + BLOCK, left.shape[1])
        errors = torch.zeros_like(left[:, start:end])
        for place in range(start, end):
            column = int(factor.order[place])
            chosen[:, column] = choose(left[:, place], column)
            error = (left[:, place] - chosen[:, column]) / upper[place, place]
            left[:, place:end] -= torch.outer(error, upper[place, place:end])
            errors[:, place - start] = error
        left[:, end:] -= errors @ upper[start:end, end:]
    return chosen


def descend(
    weight: torch.Tensor,
    steps: torch.Tensor,
    symbols: torch.Tensor,
    hessian: torch.Tensor,
    largest: int | torch.Tensor | None = None,
    price: torch.Tensor | None = None,
    sweeps: int = 4,
) -> torch.Tensor:
    """Coordinate descent from given symbols: each in turn becomes the best one while all others stay.

    Feedback decides every symbol before it knows how the later ones will be rounded; here they are known.
    Without a price the (damped) output error never rises. Compare Behdin et al. 2023, "QuantEase"
    (https://arxiv.org/abs/2309.01885).

    Args:
        symbols: (rows, n) to start from; they are not changed.
        hessian: (n, n). Other arguments as for :func:`feedback`.
        sweeps: through all columns.

    Returns:
        (rows, n) float64 of whole numbers.
    """
    _check(weight, steps)
    factor, curvature = inverse_factor(hessian), damped(hessian)
    shrink = None if price is None else _shrinkage(price, curvature.diagonal(), factor)
    found, target = symbols.double().clone(), weight.double() / steps.double()[:, None]
    for _ in range(sweeps):
        slope = ((found - target) @ curvature).float()
        for column in factor.order.tolist():
            exact = found[:, column] - slope[:, column] / curvature[column, column]
            new = _limited(_shrunk(exact, shrink, column).round(), largest)
            moved = (new != found[:, column]).nonzero()[:, 0]
            if len(moved):
                change = (new - found[:, column])[moved]
                slope[moved] += torch.outer(change, curvature[column]).float()
                found[:, column] = new
    return found


def left_over(factor: Factor) -> torch.Tensor:
    """(n,): what an error on each input costs when all later ones make up for it."""
    found = torch.empty_like(factor.upper.diagonal())
    found[factor.order] = factor.upper.diagonal() ** -2.0
    return found


def _shrinkage(price: torch.Tensor, energy: torch.Tensor, factor: Factor) -> torch.Tensor:
    """(rows, n): by how much an exact symbol is worth making smaller, at the given energy of its error."""
    importance = energy / left_over(factor).log().mean().exp()
    return WORTH_OF_A_BIT * price.double() / (2 * importance)


def _shrunk(exact: torch.Tensor, shrink: torch.Tensor | None, column: int) -> torch.Tensor:
    if shrink is None:
        return exact
    return exact.sign() * (exact.abs() - shrink[:, column]).clamp(min=0)


def feedback_best_step(
    weight: torch.Tensor,
    candidates: Sequence[torch.Tensor],
    hessian: torch.Tensor,
    factor: Factor,
    largest: int | torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:func:`feedback` with each of several steps; every channel keeps the one with the least output error.

    Args:
        candidates: steps, (rows,) each.
        hessian: (n, n), to judge by.

    Returns:
        symbols (rows, n) and steps (rows,).
    """
    found = [feedback(weight, steps, factor, largest) for steps in candidates]
    changes = [q * steps[:, None] - weight for q, steps in zip(found, candidates, strict=True)]
    best = torch.stack([output_error(change, hessian) for change in changes]).argmin(0)
    rows = torch.arange(len(weight))
    return torch.stack(found)[best, rows], torch.stack([*candidates])[best, rows]


def inverse_factor(hessian: torch.Tensor, damping: float = DAMPING) -> Factor:
    """Prepare error feedback: invert H + d, d being ``damping`` times H's mean diagonal.

    Args:
        hessian: (n, n), symmetric, positive semidefinite.

    Raises:
        RoundingError: the Hessian is not finite.
    """
    if not torch.isfinite(hessian).all():
        raise RoundingError("the Hessian is not finite: an image produced NaN or infinite activations")
    order = hessian.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped(hessian, damping)[order][:, order]))
    return Factor(order, torch.linalg.cholesky(inverse, upper=True))


def damped(hessian: torch.Tensor, damping: float = DAMPING) -> torch.Tensor:
    """(n, n) float64: the Hessian plus ``damping`` times its mean diagonal, so that it can be inverted."""
    mean = float(hessian.diagonal().mean())
    return hessian.double() + damping * (mean if mean > 0 else 1.0) * torch.eye(len(hessian)).double()


def output_error(change: torch.Tensor, hessian: torch.Tensor) -> torch.Tensor:
    """(rows,): ``e H eᵀ`` of (rows, n) changes of the weights."""
    return ((change.double() @ hessian.double()) * change.double()).sum(1)


def expected_distance(change: torch.Tensor, statistics: Statistics) -> torch.Tensor:
    """(rows,): how far (rows, n) changes of one layer will move the detections, in nats an image.

    Half of ``output_error``, each row by its own sensitivity instead of the layer's.
    """
    return output_error(change, statistics.hessian) * worth(statistics)


def worth(statistics: Statistics) -> torch.Tensor:
    """(rows,): how far one unit of ``output_error`` moves the detections, in nats an image."""
    diagonal = float(statistics.hessian.diagonal().mean()) or 1.0
    return statistics.sensitivity / (2 * diagonal)


def bias_correction(change: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """(rows,): what to add to the biases so that the mean output stays (Nagel et al. 2019, eq. 17)."""
    return -(change.double() @ mean.double())


# --- steps ------------------------------------------------------------------------------------


def steps_for_bits(weight: torch.Tensor, bits: int | torch.Tensor) -> torch.Tensor:
    """(rows,) float64: the step of each output channel with which its largest weight just fits.

    Args:
        weight: (rows, n).
        bits: one number, or one for each channel.
    """
    full = weight.abs().amax(1).double() / largest_symbol(bits)
    return torch.where(full > 0, full, 1.0)  # an all-zero channel: any step stores it


def largest_symbol(bits: int | torch.Tensor) -> int | torch.Tensor:
    """Symbols of b bits are -2^(b-1) … 2^(b-1) - 1; for one number of bits or for each channel its own."""
    if not 2 <= int(torch.as_tensor(bits).min()) <= int(torch.as_tensor(bits).max()) <= 16:
        raise RoundingError(f"bits must be 2…16, not {bits}")
    return 2 ** (bits - 1) - 1


def allot(
    costs: Mapping[str, torch.Tensor], sizes: Mapping[str, int], choices: Sequence[int], mean_bits: float
) -> dict[str, torch.Tensor]:
    """Bits for each output channel so that the sum of the costs is small at a given mean.

    Each channel takes the bits that minimise cost + λ · bits · n, with one price λ of a bit for all, found by
    bisection: no other choice of that many bits costs less (Shoham & Gersho 1988).

    Args:
        costs: by layer (rows, len(choices)), what each choice of bits costs a channel.
        sizes: by layer, the weights n of one channel.
        choices: bits, ascending.
        mean_bits: bits a weight on average, at most.

    Returns:
        by layer (rows,) int64.

    Raises:
        RoundingError: even the fewest bits are above that mean.
    """
    if mean_bits < choices[0]:
        raise RoundingError(f"a mean of {mean_bits:g} bits is below the {choices[0]} of the smallest choice")
    bits = torch.tensor(choices)
    total = sum(sizes[name] * len(cost) for name, cost in costs.items())

    def chosen(price: float) -> dict[str, torch.Tensor]:
        return {n: bits[(cost + price * sizes[n] * bits).argmin(1)] for n, cost in costs.items()}

    def mean(found: Mapping[str, torch.Tensor]) -> float:
        return sum(float(b.sum()) * sizes[name] for name, b in found.items()) / total

    low, high = -60.0, 60.0  # log2 of the price
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean(chosen(2**middle)) > mean_bits else (low, middle)
    return chosen(2**high)


def effective_sensitivity(statistics: Statistics, factor: Factor) -> torch.Tensor:
    """(out_channels,): the sensitivity to rounding once error feedback has made up for what it can.

    Feedback turns the arithmetic mean of the input energies (the Hessian's diagonal) into the
    geometric mean of what each input adds to those after it (the diagonal of its LDL decomposition).
    """
    left = (factor.upper.diagonal() ** -2.0).log().mean().exp()
    mean = statistics.hessian.diagonal().mean()
    return statistics.sensitivity * (left / mean if mean > 0 else 1.0)


def _limited(symbols: torch.Tensor, largest: int | torch.Tensor | None) -> torch.Tensor:
    if largest is None:
        return symbols
    bound = torch.as_tensor(largest, dtype=symbols.dtype)
    bound = bound.reshape(bound.shape + (1,) * (symbols.ndim - bound.ndim)) if bound.ndim else bound
    return torch.minimum(torch.maximum(symbols, -bound - 1), bound)


def _check(weight: torch.Tensor, steps: torch.Tensor) -> None:
    if weight.ndim != 2 or steps.shape != (weight.shape[0],):
        raise RoundingError(f"steps of shape {tuple(steps.shape)} for weights of {tuple(weight.shape)}")
    if not (torch.isfinite(steps).all() and (steps > 0).all()):
        raise RoundingError("steps must be positive and finite")
