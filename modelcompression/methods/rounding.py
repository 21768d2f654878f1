"""Weight-only rounding: a convolution's weights onto a grid, at the least cost for what it computes.

Rounding each weight to the nearest grid point minimises the error of the weights. What matters is the
error of the outputs, ``e H eᵀ`` with the statistics H of :mod:`.sensitivity`. Error feedback (Hassibi & Stork
1993, "Optimal Brain Surgeon"; Frantar et al. 2022, "GPTQ", https://arxiv.org/abs/2210.17323) rounds one input
after the other and moves those not yet rounded so that they make up for the error as well as they can.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import torch

from ..errors import ModelCompressionError
from .sensitivity import Factor, damped, inverse_factor, left_over, output_error

BLOCK = 64
# At high rates an entropy-coded step Δ costs s Δ²/12, which halves twice with each bit more; a bit is
# therefore worth 2 ln 2 · s Δ²/12 (Gersho & Gray 1992, chapter 9).
WORTH_OF_A_BIT = 2 * math.log(2) / 12


class RoundingError(ModelCompressionError, ValueError):
    """Weights, steps and statistics do not belong together; the message says how."""


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
    steps, count = torch.stack([*candidates]), len(candidates)
    limits = torch.as_tensor(largest).expand(len(weight)).repeat(count)
    several = weight.repeat(count, 1)  # rows do not depend on each other: all candidates in one pass
    found = feedback(several, steps.flatten(), factor, limits)
    errors = output_error(found * steps.flatten()[:, None] - several, hessian)
    best, rows = errors.view(count, -1).argmin(0), torch.arange(len(weight))
    return found.view(count, *weight.shape)[best, rows], steps[best, rows]


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
