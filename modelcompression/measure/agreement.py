"""Does it still detect what the original detects? A check that needs no annotation, in seconds.

The original's confident detections are taken for the truth. A file that agrees less on another CPU than where
it was measured computes something else there, so its measured accuracy says nothing about that CPU.
"""

from __future__ import annotations

from dataclasses import replace

from ..assets import ImageSet
from ..detector import Detector
from .accuracy import Evaluation, evaluate

SURE = 0.25  # confidence from which a detection of the original counts as true
OTHER = 0.03  # rounding moves agreement on another CPU by less; saturated sums cost far more


def as_truth(reference: Evaluation) -> ImageSet:
    """The evaluated photographs, annotated with what was found on them."""
    samples = []
    for sample, found in zip(reference.images.samples, reference.detections, strict=True):
        sure = found[found[:, 4] > SURE]
        boxes = sure[:, :4].astype(float)
        areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
        classes = sure[:, 5].astype(int)
        samples.append(replace(sample, boxes=boxes, classes=classes, areas=areas))
    images = reference.images
    return ImageSet(f"{images.name}, as detected", tuple(samples), images.names)


def agreement(detector: Detector, truth: ImageSet, size: int = 640, square: bool = True) -> float:
    """mAP50-95 of a detector on photographs annotated by ``as_truth``, 0…0.995: this average reaches no 1."""
    return evaluate(detector, truth, size, progress=False, square=square).map50_95
