"""What can stand for a weight in a packed checkpoint, and the bytes of each kind (see :mod:`.container`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from ..errors import ModelCompressionError
from ..grid import nearest_exponents, step_sizes
from .coding import Coder

LARGEST_EXPONENT = 480  # 2^60: with the largest symbol still a finite float32
NOTHING = 1e-8  # a row whose weights are all smaller becomes zeros, or nearly, and costs no bits
FINE = 120  # the largest symbol, about: some room is left below int8's 127 for the rounding of the step


class PackedCheckpointError(ModelCompressionError, ValueError):
    """The file is no packed checkpoint of this version, or damaged; the message says what is wrong."""


@dataclass(frozen=True)
class Grid:
    """Weights on a uniform grid through zero.

    symbols: integers, of the weight's shape.
    exponents: (shape[0],) integers; row r has the step ``2^(exponents[r] / 8)``. One for a vector.
    """

    symbols: np.ndarray
    exponents: np.ndarray

    @classmethod
    def fine(cls, values: np.ndarray, largest: int = FINE) -> Self:
        """The nearest grid of about eight bits: for biases, and for weights that are too few to save at.

        Args:
            values: float32, of any shape; a step for each index of the first dimension, one for a vector.
            largest: symbol of each step, about.
        """
        rows = 1 if values.ndim == 1 else len(values)
        extremes = np.abs(values).reshape(rows, -1).max(1)
        exponents = nearest_exponents(np.maximum(extremes, NOTHING) / largest)
        ones = cls(np.ones_like(values), exponents)
        return cls(np.rint(values / ones.values()).astype(int), exponents)

    def values(self) -> np.ndarray:
        """float32 weights."""
        shape = (-1,) + (1,) * (self.symbols.ndim - 1)
        return self.symbols.astype(np.float32) * step_sizes(self.exponents).reshape(shape)


@dataclass(frozen=True)
class Codebook:
    """Weights that take only a few values.

    indices: integers 0…K-1, of the weight's shape.
    centroids: (K,) float16, ascending.
    """

    indices: np.ndarray
    centroids: np.ndarray

    def values(self) -> np.ndarray:
        """float32 weights."""
        return self.centroids.astype(np.float32)[self.indices]


@dataclass(frozen=True)
class Sparse:
    """Weights of which many are exactly zero; only the others are stored.

    halves: float16, of the weight's shape.
    """

    halves: np.ndarray

    def values(self) -> np.ndarray:
        """float32 weights."""
        return self.halves.astype(np.float32)


@dataclass(frozen=True)
class Half:
    """Weights stored as float16."""

    halves: np.ndarray

    def values(self) -> np.ndarray:
        """float32 weights."""
        return self.halves.astype(np.float32)


def encoded(
    tensor: Grid | Codebook | Sparse | np.ndarray, shape: tuple[int, ...], coders: tuple[Coder, Coder]
) -> tuple[str, list[bytes]]:
    """Kind and sections of one tensor."""
    if isinstance(tensor, Grid):
        rows = 1 if len(shape) == 1 else shape[0]
        require(tensor.symbols.shape == shape, f"symbols of shape {tensor.symbols.shape}, not {shape}")
        require(tensor.exponents.shape == (rows,), f"{tensor.exponents.shape} exponents for {rows} rows")
        limit = LARGEST_EXPONENT
        require(np.abs(tensor.exponents).max() <= limit, f"a step exponent beyond ±{limit}")
        differences = np.diff(tensor.exponents, prepend=0)[None]
        matrix, group = _matrix(shape)
        return "grid", [
            coders[0].encode(tensor.symbols.reshape(matrix), group),
            coders[1].encode(differences),
        ]
    if isinstance(tensor, Codebook):
        centroids = np.asarray(tensor.centroids)
        require(tensor.indices.shape == shape, f"indices of shape {tensor.indices.shape}, not {shape}")
        require(centroids.dtype == np.float16, f"centroids must be float16, not {centroids.dtype}")
        require(bool(np.isfinite(centroids).all()), "a centroid is not a finite float16")
        inside = (tensor.indices >= 0) & (tensor.indices < len(centroids))
        require(bool(inside.all()), f"an index outside 0…{len(centroids) - 1}")
        matrix, group = _matrix(shape)
        centred = tensor.indices.astype(np.int64) - _centre(centroids)
        return "codebook", [
            coders[0].encode(centred.reshape(matrix), group),
            centroids.astype("<f2").tobytes(),
        ]
    if isinstance(tensor, Sparse):
        halves = tensor.halves
        require(halves.shape == shape, f"weights of shape {halves.shape}, not {shape}")
        require(halves.dtype == np.float16, f"weights must be float16, not {halves.dtype}")
        require(bool(np.isfinite(halves).all()), "a weight is not a finite float16")
        matrix, group = _matrix(shape)
        kept = (halves != 0).astype(np.int64).reshape(matrix)
        return "sparse", [coders[0].encode(kept, group), halves[halves != 0].astype("<f2").tobytes()]
    with np.errstate(over="ignore"):  # refused below
        half = tensor.astype("<f2")
    require(bool(np.isfinite(half).all()), "a weight is not a finite float16")
    return "half", [half.tobytes()]


def decoded(
    kind: str, shape: tuple[int, ...], parts: list[bytes], coders: tuple[Coder, Coder]
) -> Grid | Codebook | Sparse | Half:
    if kind == "half":
        require(len(parts[0]) == 2 * int(np.prod(shape)), f"{len(parts[0])} bytes for shape {shape}")
        halves = np.frombuffer(parts[0], "<f2").astype(np.float16).reshape(shape)
        require(bool(np.isfinite(halves).all()), "a weight is not finite")
        return Half(halves)
    matrix, group = _matrix(shape)
    symbols = coders[0].decode(parts[0], matrix, group).reshape(shape)
    if kind == "sparse":
        return _sparse(symbols, parts[1])
    if kind == "grid":
        differences = coders[1].decode(parts[1], (1, matrix[0]))[0]
        exponents = np.cumsum(differences)
        require(np.abs(exponents).max() <= LARGEST_EXPONENT, "a step is absurdly large or small")
        return Grid(symbols, exponents)
    require(0 < len(parts[1]) <= 2**17 and len(parts[1]) % 2 == 0, f"a codebook of {len(parts[1])} bytes")
    centroids = np.frombuffer(parts[1], "<f2").astype(np.float16)
    require(bool(np.isfinite(centroids).all()), "a centroid is not finite")
    indices = symbols + _centre(centroids)
    inside = (indices >= 0) & (indices < len(centroids))
    require(bool(inside.all()), f"an index outside 0…{len(centroids) - 1}")
    return Codebook(indices, centroids)


def _sparse(kept: np.ndarray, stored: bytes) -> Sparse:
    require(bool(np.isin(kept, (0, 1)).all()), "a weight is neither kept nor removed")
    count = int(kept.sum())
    require(len(stored) == 2 * count, f"{len(stored)} bytes for {count} weights")
    values = np.frombuffer(stored, "<f2").astype(np.float16)
    require(bool(np.isfinite(values).all() and (values != 0).all()), "a kept weight is zero or not finite")
    halves = np.zeros(kept.shape, np.float16)
    halves[kept == 1] = values
    return Sparse(halves)


SECTIONS = {"grid": 2, "codebook": 2, "sparse": 2, "half": 1}


def _matrix(shape: tuple[int, ...]) -> tuple[tuple[int, int], int]:
    """How a tensor is laid out for coding: (rows, columns), and columns of one input channel."""
    if len(shape) == 1:
        return (1, shape[0]), 1
    rows, columns = shape[0], int(np.prod(shape[1:]))
    return (rows, columns), int(np.prod(shape[2:]))


def _centre(centroids: np.ndarray) -> int:
    return int(np.abs(centroids.astype(np.float32)).argmin())


def require(condition: bool, reason: str) -> None:
    if not condition:
        raise PackedCheckpointError(reason)
