"""How fast is it in an application? From the bytes of a JPEG to boxes, stage by stage, two detectors in turn.

A forward pass that became six times faster leaves the rest of the work as it was (Amdahl 1967), so a reader's
program gains less. Both sides go the whole way here, on the same photographs, each in its own input size and
shape.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import pandas as pd

from ..detector import Detector
from ..images import fit, prepared, stretch, to_original
from .accuracy import NMS_IOU, suppress
from .intervals import Interval, ratio_interval
from .latency import WARM_UPS, keep_freed_memory

STAGES = ("decode", "letterbox", "forward", "boxes")
CONFIDENCE = 0.25  # what an application shows, as ultralytics' predict; evaluation keeps far more


@dataclass(frozen=True)
class View:
    """How a detector is shown photographs: the long side of its input, and whether padded to a square."""

    size: int = 640
    square: bool = True


USUAL = View()  # of the baseline


@dataclass(frozen=True)
class PipelineComparison:
    """Milliseconds (rounds, stages) of both, in the order of `STAGES`, and how many times faster it is."""

    baseline: np.ndarray
    variant: np.ndarray
    speedup: Interval

    @property
    def ratios(self) -> np.ndarray:
        """(rounds,): the baseline's whole way over the variant's, photograph by photograph."""
        return self.baseline.sum(axis=1) / self.variant.sum(axis=1)

    def stages(self) -> pd.DataFrame:
        """Median milliseconds of each stage and of the whole way, for reading."""
        sides = {"baseline": self.baseline, "variant": self.variant}
        rows = {
            name: [*np.median(times, axis=0), np.median(times.sum(axis=1))] for name, times in sides.items()
        }
        return pd.DataFrame(rows, index=[*STAGES, "all"]).T


def jpeg_to_boxes(detector: Detector, jpeg: bytes, view: View) -> tuple[np.ndarray, np.ndarray]:
    """The whole way once.

    Returns:
        (n, 6) float32: x1, y1, x2, y2 in pixels of the photograph, confidence, class; and the milliseconds
        (stages,) that it took.
    """
    marks = [time.perf_counter_ns()]
    image = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR_RGB)
    marks.append(time.perf_counter_ns())
    if detector.subject.stretches:
        pixels, scale, offset = stretch(image, view.size)
    else:
        pixels, scale, offset = fit(image, view.size, view.square, detector.subject.multiple)
    batch = prepared(detector, pixels)
    marks.append(time.perf_counter_ns())
    raw = detector(batch)
    marks.append(time.perf_counter_ns())
    found = suppress(raw, CONFIDENCE, detector.subject.nms_iou(NMS_IOU))[0]
    found[:, :4] = to_original(found[:, :4], scale, offset)
    marks.append(time.perf_counter_ns())
    return found, np.diff(marks) / 1e6


def time_pipelines(
    baseline: Detector,
    variant: Detector,
    jpegs: Sequence[bytes],
    view: View,
    rounds: int = 30,
    seed: int = 0,
    baseline_view: View = USUAL,
) -> PipelineComparison:
    """Time two detectors in alternation from JPEG to boxes.

    As in ``time_pairs``, each timed round follows an untimed one of the same detector.

    Args:
        jpegs: contents of photographs, used in turn.
        view, baseline_view: of the variant and of the baseline.
        rounds: timed photographs of each, at least 1.
    """
    if rounds < 1 or not jpegs:
        raise ValueError(f"{rounds} rounds on {len(jpegs)} photographs: at least one of each is needed")
    keep_freed_memory()
    sides = (baseline, baseline_view), (variant, view)
    for detector, own in sides:
        for jpeg in (jpegs * WARM_UPS)[: min(WARM_UPS, rounds)]:
            jpeg_to_boxes(detector, jpeg, own)
    times = np.empty((2, rounds, len(STAGES)))
    for index in range(rounds):
        jpeg = jpegs[index % len(jpegs)]
        for side, (detector, own) in enumerate(sides):
            jpeg_to_boxes(detector, jpeg, own)
            times[side, index] = jpeg_to_boxes(detector, jpeg, own)[1]
    ratios = times[0].sum(axis=1) / times[1].sum(axis=1)
    return PipelineComparison(times[0], times[1], ratio_interval([ratios], seed=seed))
