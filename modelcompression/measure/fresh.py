"""How fast in a process of its own? Timings that share neither memory nor luck with others.

``latency`` and ``pipeline`` compare within one process; here each comparison gets a new one, so that what
stays with a process can be seen, and averaged.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import cloudpickle
import numpy as np

from ..detector import Detector
from ..errors import ModelCompressionError
from ..images import prepared, seen
from .intervals import Interval, ratio_interval
from .latency import time_pairs
from .pipeline import USUAL, View, time_pipelines

PROCESSES, PAIRS = 5, 15  # of a timing that others may rely on


class FreshProcessError(ModelCompressionError, RuntimeError):
    """A timing process did not live to the end; the message says what to do."""


@dataclass(frozen=True)
class Times:
    """Milliseconds (pairs, 2) of baseline and variant in one process: forward passes, whole pipelines."""

    forward: np.ndarray
    pipeline: np.ndarray


def time_in_fresh_process(
    baseline: Detector,
    variant: Detector,
    photographs: Sequence[Path],
    view: View,
    pairs: int,
    baseline_view: View = USUAL,
) -> Times:
    """Load both detectors in a new process, time them there in alternation, forward and from JPEG to boxes.

    Args:
        photographs: used in turn; squares are timed on the first one alone in the forward pass, as they all
            take the same time.
        view, baseline_view: how each is shown them.

    Raises:
        FreshProcessError: the process was killed, or cannot start.
        DetectorError, AssetError: a file is gone by now.
    """
    detectors = cloudpickle.dumps((baseline, variant))
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        try:
            return pool.submit(_time, detectors, list(photographs), view, pairs, baseline_view).result()
        except BrokenProcessPool:
            raise FreshProcessError(
                "the process that times a model has died: run it again if memory was short; a script of your "
                'own has to begin its work below `if __name__ == "__main__":`'
            ) from None


def forward_inputs(
    baseline: Detector,
    detector: Detector,
    photographs: Sequence[Path],
    view: View,
    baseline_view: View = USUAL,
) -> list[tuple[np.ndarray, np.ndarray]]:
    """What ``time_pairs`` feeds the baseline and a detector, each its own view.

    One square is as good as another, so only the first; rectangles differ, so all.
    """
    sides = (baseline, baseline_view), (detector, view)
    return [
        tuple(prepared(one, seen(one, path, own.size, own.square)[0]) for one, own in sides)
        for path in photographs[: 1 if view.square else None]
    ]


def speedup(samples: Sequence[np.ndarray], seed: int = 0) -> Interval:
    """How many times faster, from (pairs, 2) milliseconds of several processes; see ``ratio_interval``."""
    return ratio_interval([times[:, 0] / times[:, 1] for times in samples], seed=seed)


def _time(detectors: bytes, photographs: list[Path], view: View, pairs: int, baseline_view: View) -> Times:
    baseline, variant = pickle.loads(detectors)
    inputs = forward_inputs(baseline, variant, photographs, view, baseline_view)
    forward = time_pairs(baseline, variant, inputs, pairs)
    jpegs = [path.read_bytes() for path in photographs]
    pipeline = time_pipelines(baseline, variant, jpegs, view, pairs, baseline_view=baseline_view)
    return Times(
        np.column_stack([forward.baseline.samples, forward.variant.samples]),
        np.column_stack([pipeline.baseline.sum(axis=1), pipeline.variant.sum(axis=1)]),
    )
