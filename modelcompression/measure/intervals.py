"""How sure are we of a difference? Bootstrap over images and over processes, and what an interval is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from .accuracy import Evaluation

RECALL_POINTS = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % confidence bounds."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """As the tables show a ratio: two decimals, bounds in square brackets."""
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]"


def paired_bootstrap(
    variant: Evaluation, baseline: Evaluation, resamples: int = 1000, seed: int = 0
) -> Interval:
    """Relative change of mAP50-95 from ``baseline`` to ``variant`` with its 95 % interval.

    Images are drawn with replacement, the same ones for both detectors, so that what makes an image
    hard cancels out (Efron & Tibshirani 1993, chapter 13: percentile intervals).

    Returns:
        fractions: -0.01 is a loss of 1 %.

    Raises:
        ValueError: the two were not evaluated on the same images, or the baseline finds nothing.
    """
    low, high = np.percentile(_changes(variant, baseline, resamples, seed), [2.5, 97.5])
    return Interval(variant.map50_95 / baseline.map50_95 - 1, float(low), float(high))


def loss_bound(variant: Evaluation, baseline: Evaluation, resamples: int = 1000, seed: int = 0) -> float:
    """What is lost of mAP50-95 at most: the one-sided 95 % bound, from the draws of ``paired_bootstrap``.

    Returns:
        a fraction of the baseline, positive for a loss: 0.01 is a loss of 1 %.
    """
    return -float(np.percentile(_changes(variant, baseline, resamples, seed), 5))


def ratio_interval(ratios: Sequence[np.ndarray], resamples: int = 2000, seed: int = 0) -> Interval:
    """The median of pair ratios from one process or several with its 95 % interval.

    Some luck stays with a process (where its memory lies), so pairs of one process are no independent
    measurements: processes are drawn with replacement, and then pairs within each (two-stage bootstrap,
    Davison & Hinkley 1997, section 3.8). With few processes such an interval is still a little narrow.

    Args:
        ratios: of each process (pairs,), as many from each.
    """
    table = np.stack(ratios)
    processes, pairs = table.shape
    generator = np.random.default_rng(seed)
    drawn = generator.integers(0, processes, (resamples, processes, 1))
    within = generator.integers(0, pairs, (resamples, processes, pairs))
    low, high = np.percentile(np.median(table[drawn, within], axis=(1, 2)), [2.5, 97.5])
    return Interval(float(np.median(table)), float(low), float(high))


def _changes(variant: Evaluation, baseline: Evaluation, resamples: int, seed: int) -> np.ndarray:
    """Relative changes of mAP50-95 on random draws of the images."""
    if [s.path for s in variant.images.samples] != [s.path for s in baseline.images.samples]:
        raise ValueError("a paired comparison needs both evaluations on the same images")
    if not baseline.map50_95:
        raise ValueError("the baseline detects nothing: a relative change has no meaning")
    reference = resampled_map(baseline, resamples, seed)
    telling = reference > 0  # a resample without a single object says nothing
    return resampled_map(variant, resamples, seed)[telling] / reference[telling] - 1


@lru_cache(maxsize=4)  # the baseline is compared with every variant
def resampled_map(evaluation: Evaluation, resamples: int, seed: int) -> np.ndarray:
    """(resamples,): mAP50-95 of random draws of as many images, with replacement."""
    generator = np.random.default_rng(seed)
    weighted = _WeightedMap(evaluation)
    count = len(evaluation.images)
    draws = (np.bincount(generator.integers(0, count, count), minlength=count) for _ in range(resamples))
    return np.array([weighted(draw) for draw in draws])


class _WeightedMap:
    """mAP50-95 with image multiplicities: ultralytics' metric, sorted only once for all resamples."""

    def __init__(self, evaluation: Evaluation) -> None:
        stacked = np.concatenate(evaluation.detections)
        correct = np.concatenate(evaluation.correct)
        counts = [len(found) for found in evaluation.detections]
        image = np.repeat(np.arange(len(counts)), counts)
        order = np.argsort(-stacked[:, 4], kind="stable")
        stacked, correct, image = stacked[order], correct[order], image[order]
        classes = 1 + max((int(t.max()) for t in evaluation.targets if len(t)), default=0)
        self._targets = np.stack(
            [np.bincount(t.astype(int), minlength=classes) for t in evaluation.targets], axis=1
        )
        self._classes = []
        for category in np.flatnonzero(self._targets.any(1)):
            chosen = np.flatnonzero(stacked[:, 5] == category)
            # Not only at IoU 0.5: there, the box of a tight late detection may be claimed already.
            hits = np.flatnonzero(correct[chosen].any(1))
            # Behind the last hit recall stands still: nothing there changes the area.
            chosen = chosen[: hits[-1] + 1 if len(hits) else 0]
            self._classes.append((category, image[chosen], correct[chosen].astype(float)))

    def __call__(self, draws: np.ndarray) -> float:
        objects = self._targets @ draws
        scores = [
            _average_precision(correct, draws[image], objects[category])
            for category, image, correct in self._classes
            if objects[category]
        ]
        return float(np.mean(scores)) if scores else 0.0


def _average_precision(correct: np.ndarray, weight: np.ndarray, objects: int) -> float:
    """101-point AP averaged over the IoU thresholds; ``weight`` counts each detection's image."""
    used = weight > 0
    if not used.any():
        return 0.0
    weight = weight[used]
    hits = np.cumsum(correct[used] * weight[:, None], axis=0)
    precision = hits / np.cumsum(weight)[:, None]
    count, levels = len(weight), correct.shape[1]
    recall, envelope = np.zeros((levels, count + 3)), np.zeros((levels, count + 3))
    recall[:, 1:-2], recall[:, -2], recall[:, -1] = hits.T / objects, hits[-1] / objects, 1
    envelope[:, 0], envelope[:, 1:-2] = 1, np.maximum.accumulate(precision[::-1], axis=0)[::-1].T
    curves = [np.interp(RECALL_POINTS, x, y) for x, y in zip(recall, envelope, strict=True)]
    return float(np.trapezoid(curves, RECALL_POINTS).mean())
