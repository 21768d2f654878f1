"""Few distinct weights, and few bytes for them: k-means in one dimension, and steps by sensitivity.

Clustering (Han et al. 2016, "Deep Compression", https://arxiv.org/abs/1510.00149) replaces each weight by
one of k centroids. A uniform grid with entropy coding needs no codebook and beats it at equal bytes: at
high rates no set of centroids does better than equal steps (Gish & Pierce 1968).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch

from ..errors import ModelCompressionError
from ..grid import nearest_exponents, step_sizes
from .rounding import descend, feedback
from .sensitivity import Factor, Statistics, effective_sensitivity

CELLS = 512
SWEEPS = 2
SMALLEST_SENSITIVITY = 1e-3  # of its layer's mean: a channel nobody listens to still gets a finite step
# Where the search for a scale begins: at so many bits a weight with this one. For a bit less it doubles about
# once, as it should at high rates.
FIRST_BITS, FIRST_SCALE, DOUBLINGS = 3.194, 0.03, 1.0144
TOLERANCE = 0.01


class ClusteringError(ModelCompressionError, ValueError):
    """Values cannot be clustered as asked; the message says why."""


def kmeans(
    values: np.ndarray, k: int, weights: np.ndarray | None = None, iterations: int = 300
) -> np.ndarray:
    """Centroids of one-dimensional k-means.

    In one dimension clusters are intervals, and dynamic programming finds the best ones (Fisher 1958; Wang &
    Song 2011, "Ckmeans.1d.dp"). It would be exact on single values. Here it runs on cells of values, which is
    faster and nearly as good: ``CELLS`` of equal width, for the tails, cut further at ``CELLS`` quantiles,
    for the middle. Lloyd's iterations (1982) on the values then move the borders to where they belong.
    There is no random start.

    Args:
        values: numbers, of any shape.
        k: number of clusters, at least 1; fewer are returned if there are fewer distinct values.
        weights: importance of each value, of the same shape, non-negative; None: all equal.

    Returns:
        (≤ k,) float64, ascending.

    Raises:
        ClusteringError: no values, values that are not finite, weights that do not fit, or k below 1.
    """
    values = np.asarray(values, np.float64).ravel()
    weights = np.ones_like(values) if weights is None else np.asarray(weights, np.float64).ravel()
    if k < 1:
        raise ClusteringError(f"k must be at least 1, not {k}")
    if not len(values) or not np.isfinite(values).all():
        raise ClusteringError("k-means needs at least one value, and finite ones only")
    if weights.shape != values.shape or not (np.isfinite(weights) & (weights >= 0)).all():
        raise ClusteringError("weights must be non-negative, one for each value")
    order = np.argsort(values, kind="stable")
    values, weights = values[order], weights[order]
    if not weights.any():
        weights = np.ones_like(values)
    distinct = np.unique(values)
    if len(distinct) <= k:
        return distinct
    mass = np.concatenate([[0], np.cumsum(weights)])
    moment = np.concatenate([[0], np.cumsum(weights * values)])
    centroids = _optimal(values, weights, k)
    for _ in range(iterations):
        edges = np.searchsorted(values, (centroids[1:] + centroids[:-1]) / 2)
        edges = np.concatenate([[0], edges, [len(values)]])
        inside = np.diff(mass[edges])
        moved = np.where(inside > 0, np.diff(moment[edges]) / np.where(inside > 0, inside, 1), centroids)
        if np.allclose(moved, centroids, rtol=0, atol=1e-7 * (values[-1] - values[0])):
            break
        centroids = moved
    return np.unique(centroids)


def assign(values: np.ndarray, centroids: np.ndarray) -> np.ndarray:
    """Index of the nearest of the ascending centroids, for values of any shape; of two equal the lower."""
    middles = (np.asarray(centroids[1:], np.float64) + np.asarray(centroids[:-1], np.float64)) / 2
    return np.searchsorted(middles, values)


def _optimal(values: np.ndarray, weights: np.ndarray, k: int) -> np.ndarray:
    """The k centroids of least squared error on cells of ascending values, by dynamic programming."""
    width = ((values - values[0]) / (values[-1] - values[0]) * CELLS).astype(int)
    rank = np.arange(len(values)) * CELLS // len(values)
    cells = np.unique(width + rank, return_inverse=True)[1]
    sums = [np.concatenate([[0], np.cumsum(np.bincount(cells, weights * values**p))]) for p in range(3)]
    mass, moment, energy = (np.subtract.outer(s, s).T for s in sums)  # [i, j]: of cells i … j - 1
    cost = energy - np.square(moment) / np.where(mass > 0, mass, 1)
    cost[np.tril_indices(len(cost), -1)] = np.inf
    best, starts = cost[0], []
    for _ in range(k - 1):
        total = best[:, None] + cost
        starts.append(total.argmin(0))
        best = total.min(0)
    edges = [len(cost) - 1]
    for start in reversed(starts):
        edges.append(start[edges[-1]])
    edges = np.array([*edges, 0])[::-1]
    first, last = edges[:-1], edges[1:]
    used = mass[first, last] > 0
    return moment[first, last][used] / mass[first, last][used]


def sensitivity_exponents(
    statistics: Mapping[str, Statistics], factors: Mapping[str, Factor], scale: float, power: float
) -> dict[str, np.ndarray]:
    """Step exponents for every channel of every layer: step = scale · sensitivity^-power.

    Equal slopes of loss against bits ask for a power of 1/2; 0 is the same step everywhere. Sensitivities
    are taken relative to their geometric mean over all channels.
    """
    found = {name: effective_sensitivity(statistics[name], factors[name]) for name in statistics}
    found = {n: s.clamp(min=float(s.mean()) * SMALLEST_SENSITIVITY + 1e-30) for n, s in found.items()}
    mean = torch.cat(list(found.values())).log().mean().exp()
    return {name: nearest_exponents(scale * (s / mean).numpy() ** -power) for name, s in found.items()}


def first_scale(bits: float) -> float:
    """About the scale of the steps with which a file takes so many bits a weight, as YOLOv8n's does."""
    return FIRST_SCALE * 2 ** (DOUBLINGS * (FIRST_BITS - bits))


def scale_for(bits: float, bits_at: Callable[[float], float], tries: int = 8) -> float:
    """The scale of the steps with which a file takes the wished number of bits a weight, or up to 1 % less.

    Each step supposes that doubling the scale saves about a bit; or, once that has left more than a quarter
    of what was missed, as much as it has just saved (the secant method).

    Args:
        bits: as wished.
        bits_at: scale → bits a weight; a larger scale makes a smaller file.
        tries: at most so many files are made.

    Returns:
        the first scale that fits, or else the one tried whose file comes nearest.
    """
    scale, doublings, before = first_scale(bits), DOUBLINGS, None
    missed: dict[float, float] = {}
    for _ in range(tries):
        found = bits_at(scale)
        if (1 - TOLERANCE) * bits < found <= bits:
            return scale
        now = found - (1 - TOLERANCE / 2) * bits
        if now in missed.values():  # steps are powers of 2^(1/8): no file lies in between if all are one
            break
        missed[scale] = now
        if before is not None and abs(now) > abs(before) / 4:
            doublings *= float(np.clip(before / (before - now), 0.5, 2))
        before = now
        scale *= 2 ** (doublings * now)
    return min(missed, key=lambda tried: abs(missed[tried]))


def round_for_bytes(
    weight: torch.Tensor, hessian: torch.Tensor, factor: Factor, step_exponents: np.ndarray, thrift: float
) -> np.ndarray:
    """Symbols of one layer under entropy coding: bits are saved where they cost least.

    Error feedback first, then coordinate descent from what it has found.

    Args:
        weight: (rows, n).
        hessian: (n, n).
        factor: of :func:`.sensitivity.inverse_factor`.
        step_exponents: (rows,), see :func:`.grid.step_sizes`.
        thrift: 0 ignores what symbols cost; 1 follows high-rate theory.

    Returns:
        (rows, n) int64.
    """
    column = torch.from_numpy(step_sizes(step_exponents)).double()
    symbols = feedback(weight, column, factor)
    if thrift:
        symbols = feedback(weight, column, factor, price=thrift * price(symbols))
        symbols = descend(weight, column, symbols, hessian, price=thrift * price(symbols), sweeps=SWEEPS)
    return symbols.numpy().astype(np.int64)


def price(symbols: torch.Tensor) -> torch.Tensor:
    """(rows, n): bits that one more unit of magnitude costs, if magnitudes are geometric.

    The expected magnitude m of a symbol is its row's mean times its column's, relative to all. A two-sided
    geometric distribution of mean magnitude m decays by ``(√(1 + m²) - 1) / m`` with each unit.
    """
    magnitude = symbols.abs().double() + 0.02
    m = magnitude.mean(1, keepdim=True) * magnitude.mean(0, keepdim=True) / magnitude.mean()
    return -(((1 + m * m).sqrt() - 1) / m).log2()
