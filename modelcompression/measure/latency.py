"""How fast is it? Two detectors in turn in one process, and the CPU they ran on.

A machine's speed drifts (temperature, neighbours), so milliseconds of two processes are no basis for
a ratio. Here baseline and variant alternate, and the ratio is taken pair by pair.

What an interval within one process cannot show is luck that stays with a process. For eager PyTorch
that is the C library's allocator: depending on what else lies on the heap, it hands freed activations
back to the system, and every pass then pays thousands of page faults to get them again (up to a third
of its time). So the allocator is told to keep what is freed: the best case of every runtime.
"""

from __future__ import annotations

import ctypes
import platform
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..detector import Detector
from .intervals import Interval, ratio_interval

WARM_UPS = 5  # untimed passes of each detector before the first pair, but no more than there are pairs


@dataclass(frozen=True)
class Timing:
    """Milliseconds of each timed forward pass."""

    samples: np.ndarray

    @property
    def median(self) -> float:
        """Median, ms."""
        return float(np.median(self.samples))

    @property
    def p90(self) -> float:
        """90th percentile, ms."""
        return float(np.percentile(self.samples, 90))


@dataclass(frozen=True)
class Comparison:
    """Timings of the same number of passes of both, and how many times faster the variant is."""

    baseline: Timing
    variant: Timing
    speedup: Interval

    @property
    def ratios(self) -> np.ndarray:
        """(pairs,): the baseline's time over the variant's, pair by pair."""
        return self.baseline.samples / self.variant.samples


def time_pairs(
    baseline: Detector,
    variant: Detector,
    batch: np.ndarray | Sequence[tuple[np.ndarray, np.ndarray]],
    pairs: int = 40,
    seed: int = 0,
) -> Comparison:
    """Time two detectors in alternation on the same batch, or on the same photographs.

    Each timed pass follows an untimed one of the same detector: caches are warm and the other
    runtime's worker threads, which spin for a while after their work, have gone to sleep.

    Args:
        batch: (N, channels, H, W) float32; or, for detectors that take their input differently, a pair of
            batches for each of several photographs (the baseline's, the variant's), used in turn.
        pairs: timed passes of each.

    Returns:
        the timings in ms, and the median of the pair ratios baseline/variant (above 1: the variant
        is faster) with a bootstrap 95 % interval.
    """
    if pairs < 1:
        raise ValueError(f"pairs must be at least 1, not {pairs}")
    keep_freed_memory()
    detectors, batches = (baseline, variant), [(batch, batch)] if isinstance(batch, np.ndarray) else batch
    for detector, given in zip(detectors, batches[0], strict=True):
        for _ in range(min(WARM_UPS, pairs)):
            detector(given)
    times = np.empty((pairs, 2))
    for pair in range(pairs):
        for column, given in enumerate(batches[pair % len(batches)]):
            detectors[column](given)
            start = time.perf_counter_ns()
            detectors[column](given)
            times[pair, column] = (time.perf_counter_ns() - start) / 1e6
    speedup = ratio_interval([times[:, 0] / times[:, 1]], seed=seed)
    return Comparison(Timing(times[:, 0]), Timing(times[:, 1]), speedup)


def keep_freed_memory(keep: bool = True) -> None:
    """Let glibc's allocator keep freed memory for the next pass, or (False) return it as eagerly as it can.

    See ``man 3 mallopt``. Does nothing on other systems.
    """
    if not sys.platform.startswith("linux") or platform.libc_ver()[0] != "glibc":
        return
    trim_threshold, mmap_threshold, mmap_max = -1, -3, -4
    options = (
        {mmap_max: 0, trim_threshold: 2**31 - 1}
        if keep
        else {mmap_max: 2**16, mmap_threshold: 2**17, trim_threshold: 2**17}
    )
    for option, value in options.items():
        ctypes.CDLL(None).mallopt(option, value)
