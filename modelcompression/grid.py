"""Uniform grids through zero: a step is a power of 2^(1/8), the same float32 on every platform."""

from __future__ import annotations

import numpy as np


def step_sizes(exponents: np.ndarray) -> np.ndarray:
    """``2^(e / 8)`` as float32, from eight correctly rounded roots: the same on every platform."""
    root = np.sqrt(2.0)
    eighth = np.sqrt(np.sqrt(root))
    powers = np.cumprod([1.0] + [eighth] * 7)
    exponents = np.asarray(exponents, np.int64)
    return np.ldexp(powers[exponents % 8], exponents // 8).astype(np.float32)


def nearest_exponents(steps: np.ndarray) -> np.ndarray:
    """The nearest step exponents, ``round(8 log2(step))``; 0 for a step of 0, as of a row of zeros."""
    return np.rint(8 * np.log2(np.where(np.asarray(steps) > 0, steps, 1))).astype(np.int64)
