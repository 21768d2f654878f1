"""Pruning by second-order cost: which weights can go, and what the remaining ones make up for.

Setting a weight to zero costs what it changes in the detections, after the weights left over have made up for
it as well as they can (Hassibi & Stork 1993, "Optimal Brain Surgeon"). For one filter with the second
moment ``H`` of its inputs and the set A of weights it still has, removing weight j costs

    w_j² / (H_AA⁻¹)_jj                                                            (OBS, eq. 7)

and the best remaining weights are the least-squares solution on A. :mod:`.rounding` measures H and what an
output error of each channel is worth, in nats of the detections, so costs compare across all layers: which
layer gives up how much follows from one price for the whole network.

Two ways to choose: :func:`one_pass` decides column by column as SparseGPT does (Frantar & Alistarh 2023,
https://arxiv.org/abs/2301.00774), in seconds; :func:`prune` removes the cheapest weights in several rounds,
each with exact costs and an exact refit.

A weight matrix is (rows, n): a row for each output channel, n = in_channels · k · k inputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import ModelCompressionError
from ..network import convolutions
from .rounding import with_feedback
from .sensitivity import Factor, Statistics, damped, inverse_factor, left_over, worth

ATTEMPTS = 40  # at the price of :func:`one_pass`
Weights = Mapping[str, torch.Tensor]
Pattern = Callable[[Mapping[str, torch.Tensor], float], dict[str, torch.Tensor]]


class PruningError(ModelCompressionError, ValueError):
    """Weights, statistics and the wish do not go together; the message says how."""


@dataclass(frozen=True)
class Refit:
    """Weights that make up for those removed, see :func:`refit`.

    weight: (rows, n) float64, zero where not kept.
    costs: (rows, n) float64, nats an image for removing one weight more; 0 for those removed.
    """

    weight: torch.Tensor
    costs: torch.Tensor


def matrices(model: nn.Module) -> dict[str, torch.Tensor]:
    """Copies of all convolution weights that :func:`.sensitivity.collect` looks at, as (rows, n) matrices."""
    return {n: m.weight.detach().flatten(1).clone() for n, m in convolutions(model).items() if m.groups == 1}


def insert(model: nn.Module, weights: Weights) -> nn.Module:
    """Write (rows, n) matrices back into a model's convolutions; return it."""
    for name, weight in weights.items():
        target = model.get_submodule(name).weight
        target.data = weight.to(target.dtype).reshape(target.shape).contiguous()
    return model


def share_of_zeros(weights: Weights) -> float:
    """Share of exact zeros among all weights."""
    total = sum(weight.numel() for weight in weights.values())
    return sum(int((weight == 0).sum()) for weight in weights.values()) / total


def one_pass(
    weights: Weights,
    statistics: Mapping[str, Statistics],
    share: float,
    factors: Mapping[str, Factor] | None = None,
) -> dict[str, torch.Tensor]:
    """Second-order pruning in one pass over the columns, with one price for all layers.

    A weight goes if what it costs, made up for by the columns after it, is below the price; the price is
    searched so that the share of zeros is met to 0.2 %.

    Args:
        weights: by layer (rows, n).
        statistics: of :func:`.sensitivity.collect`.
        share: of zeros among all weights, 0…1.
        factors: of :func:`.sensitivity.inverse_factor`, if they are known already.

    Returns:
        by layer (rows, n) float64.
    """
    _check(weights, statistics, share)
    factors = factors or {name: inverse_factor(statistics[name].hessian) for name in weights}

    def pruned(price: float) -> dict[str, torch.Tensor]:
        return {
            name: _one_pass(weight, factors[name], worth(statistics[name]), price)
            for name, weight in weights.items()
        }

    # Feedback changes the costs as it goes, so aim as far beside the share as the last attempt fell short.
    unchanged = [_costs(w, factors[name], worth(statistics[name])).flatten() for name, w in weights.items()]
    prices, aim = torch.cat(unchanged).sort().values, share
    for _ in range(ATTEMPTS):
        found = pruned(float(prices[min(round(aim * len(prices)), len(prices) - 1)]))
        missed = share - share_of_zeros(found)
        if abs(missed) < 0.002:
            break
        aim = min(1.0, max(0.0, aim + missed))
    return found


def _costs(weight: torch.Tensor, factor: Factor, worth: torch.Tensor) -> torch.Tensor:
    """(rows, n): what each weight costs if only the columns after it make up for it, nats an image."""
    return weight.double().square() * left_over(factor) * worth[:, None]


def _one_pass(weight: torch.Tensor, factor: Factor, worth: torch.Tensor, price: float) -> torch.Tensor:
    energy = left_over(factor)

    def choose(value: torch.Tensor, column: int) -> torch.Tensor:
        return torch.where(value.square() * energy[column] * worth < price, 0.0, value)

    return with_feedback(weight, factor, choose)


def prune(
    weights: Weights,
    statistics: Mapping[str, Statistics],
    shares: Sequence[float],
    kept: Mapping[str, torch.Tensor] | None = None,
    pattern: Pattern | None = None,
) -> dict[str, torch.Tensor]:
    """Second-order pruning in rounds: exact costs, remove the cheapest, refit, again.

    The costs hold for one weight at a time; of many that stand in for each other only some may go, which
    the next round notices.

    Args:
        weights: by layer (rows, n).
        statistics: of :func:`.sensitivity.collect`.
        shares: of zeros among all weights after each round, ascending.
        kept: where to start from: by layer (rows, n) bool; all by default.
        pattern: costs and share → what is kept; single weights by default, see :func:`cheapest`.

    Returns:
        by layer (rows, n) float64.

    Raises:
        PruningError: shares that do not ascend, or statistics of other layers.
    """
    if not shares or list(shares) != sorted(shares):
        raise PruningError(f"shares must ascend from round to round, not {list(shares)}")
    _check(weights, statistics, shares[-1])
    pattern = pattern or cheapest
    kept = kept or {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    for share in shares:
        costs = {n: refit(w, kept[n], statistics[n]).costs for n, w in weights.items()}
        kept = pattern(costs, share)
    return {n: refit(w, kept[n], statistics[n], costs=False).weight for n, w in weights.items()}


def refit(weight: torch.Tensor, kept: torch.Tensor, statistics: Statistics, costs: bool = True) -> Refit:
    """The least-squares weights on a mask, and what it costs to remove each of them, too.

    Args:
        weight: (rows, n), the original weights.
        kept: (rows, n) bool.
        statistics: of that layer.
        costs: False leaves them out and saves their time.
    """
    hessian = damped(statistics.hessian).float()
    wanted = weight.float() @ hessian
    fitted, cost = torch.zeros_like(wanted), torch.zeros_like(wanted)
    masks, numbers = kept.unique(dim=0, return_inverse=True)  # rows of one mask share its factor
    for number, mask in enumerate(masks):
        columns, rows = mask.nonzero()[:, 0], (numbers == number).nonzero()
        if not len(columns):
            continue
        root = torch.linalg.cholesky(hessian[columns][:, columns])
        found = torch.cholesky_solve(wanted[rows, columns].T, root).T
        fitted[rows, columns] = found
        if costs:
            cost[rows, columns] = found.square() / torch.cholesky_inverse(root).diagonal()
    return Refit(fitted.double(), cost.double() * worth(statistics)[:, None])


def cheapest(costs: Weights, share: float) -> dict[str, torch.Tensor]:
    """Keep all but the cheapest weights of the whole network: (rows, n) bool by layer."""
    everything = torch.cat([cost.flatten() for cost in costs.values()])
    count = round(share * len(everything))
    if not count:
        return {name: torch.ones_like(cost, dtype=torch.bool) for name, cost in costs.items()}
    removed = torch.zeros(len(everything), dtype=torch.bool)
    removed[everything.argsort(stable=True)[:count]] = True
    parts = removed.split([cost.numel() for cost in costs.values()])
    return {name: ~part.reshape(cost.shape) for (name, cost), part in zip(costs.items(), parts, strict=True)}


def blocks(rows: int, inputs: int, kernels: Mapping[str, int]) -> Pattern:
    """A pattern of whole blocks: ``rows`` output channels × ``inputs`` input channels go together.

    Layers whose channels do not divide into blocks stay dense.

    Args:
        kernels: by layer, k · k.
    """

    def pattern(costs: Weights, share: float) -> dict[str, torch.Tensor]:
        views = {name: _blocked(cost, rows, inputs, kernels[name]) for name, cost in costs.items()}
        whole = {name: view for name, view in views.items() if view is not None}
        sums = {name: view.sum((1, 3)) for name, view in whole.items()}
        total = sum(cost.numel() for cost in costs.values())
        blocked = sum(view.numel() for view in whole.values())
        chosen = cheapest({n: s.flatten(1) for n, s in sums.items()}, min(1.0, share * total / blocked))
        kept = {name: torch.ones_like(cost, dtype=torch.bool) for name, cost in costs.items()}
        for name, keep in chosen.items():
            spread = keep.reshape(sums[name].shape)[:, None, :, None].expand_as(whole[name])
            kept[name] = spread.reshape(costs[name].shape)
        return kept

    return pattern


def two_of_four(kernels: Mapping[str, int]) -> Pattern:
    """The 2:4 pattern of NVIDIA's sparse tensor cores: of four neighbouring input channels two stay.

    It has one share, a half; layers whose input channels do not divide by four stay dense.
    """

    def pattern(costs: Weights, share: float) -> dict[str, torch.Tensor]:
        kept = {}
        for name, cost in costs.items():
            view = _blocked(cost, 1, 4, kernels[name])
            if view is None:
                kept[name] = torch.ones_like(cost, dtype=torch.bool)
                continue
            ranks = view.argsort(dim=3, stable=True).argsort(dim=3)
            kept[name] = (ranks >= 2).reshape(cost.shape)
        return kept

    return pattern


def _blocked(matrix: torch.Tensor, rows: int, inputs: int, kernel: int) -> torch.Tensor | None:
    """(R, C · k · k) → (R / rows, rows, C / inputs, inputs, k · k), or None if that leaves a rest."""
    channels = matrix.shape[1] // kernel
    if matrix.shape[0] % rows or channels % inputs:
        return None
    return matrix.reshape(matrix.shape[0] // rows, rows, channels // inputs, inputs, kernel)


def _check(weights: Weights, statistics: Mapping[str, Statistics], share: float) -> None:
    if not 0 <= share < 1:
        raise PruningError(f"the share of zeros must be in 0…1, below 1, not {share:g}")
    for name, weight in weights.items():
        if name not in statistics:
            raise PruningError(f"there are no statistics of {name}: collect them from the same model")
        if len(statistics[name].hessian) != weight.shape[1]:
            raise PruningError(
                f"{name} has {weight.shape[1]} inputs, its statistics {len(statistics[name].hessian)}"
            )
