"""What kind of mistakes does a detector make? Missed, misplaced, confused, seen twice, invented.

Kinds and thresholds are those of TIDE (Bolya et al. 2020, "TIDE: A General Toolbox for Identifying Object
Detection Errors", https://arxiv.org/abs/2008.08115), at the confidence from which a detection is shown. Its
background errors, and its rare errors of class *and* place, are one kind here, *invented*.
"""

from __future__ import annotations

import numpy as np
import torch
from ultralytics.utils.metrics import box_iou

from ..assets import Sample
from .accuracy import Evaluation
from .agreement import SURE

RIGHT_PLACE, SOME_PLACE = 0.5, 0.1  # IoU from which a box is in the right place, and from which nearby
FATES = ("found", "misplaced", "confused", "missed")  # of an annotated object
KINDS = ("right", "misplaced", "confused", "duplicate", "invented")  # of a detection


def judged(detections: np.ndarray, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """What became of each object of a photograph, and of what kind each confident detection is.

    Args:
        detections: (n, 6): x1, y1, x2, y2 in pixels of the photograph, confidence, class; in descending order
            of confidence.
        sample: the photograph with m annotated objects.

    Returns:
        (m,) names of ``FATES``: an object is *found* by a detection of its class with IoU 0.5 or more, each
        detection taking the best object that is free; else *confused* if another class is seen there; else
        *misplaced* if its class is seen at IoU 0.1 to 0.5; else *missed*.
        (k,) names of ``KINDS`` for the k detections above confidence 0.25.
    """
    sure = detections[detections[:, 4] > SURE]
    iou = box_iou(torch.from_numpy(sure[:, :4]).double(), torch.from_numpy(sample.boxes).double()).numpy()
    same = sure[:, 5, None] == sample.classes[None, :]
    fates = np.full(len(sample.boxes), "missed", dtype=object)
    kinds = np.full(len(sure), "invented", dtype=object)
    if not iou.size:
        return fates, kinds
    for number, overlap in enumerate(np.where(same, iou, 0)):
        free = np.where(fates == "found", 0, overlap)
        if free.max() >= RIGHT_PLACE:
            fates[free.argmax()], kinds[number] = "found", "right"
    alike, unlike = np.where(same, iou, 0), np.where(same, 0, iou)
    wrong = kinds != "right"
    nearby = (alike >= SOME_PLACE) & (alike < RIGHT_PLACE)
    for kind, applies in [
        ("duplicate", alike.max(1) >= RIGHT_PLACE),
        ("confused", unlike.max(1) >= RIGHT_PLACE),
        ("misplaced", nearby.any(1) & (alike.max(1) < RIGHT_PLACE)),
    ]:  # the last one that applies, as in TIDE
        kinds[wrong & applies] = kind
    blamed = {"misplaced": nearby, "confused": unlike >= RIGHT_PLACE}
    for fate, pairs in blamed.items():
        fates[(fates != "found") & pairs[kinds == fate].any(0)] = fate
    return fates, kinds


def fates(evaluation: Evaluation) -> np.ndarray:
    """(objects,) names of ``FATES`` for all annotated objects, photograph by photograph."""
    return _all_judged(evaluation)[0]


def mistakes(evaluation: Evaluation) -> dict[str, int]:
    """How many objects were found, misplaced, confused, missed; how many detections are superfluous."""
    objects, detections = _all_judged(evaluation)
    counts = {fate: int((objects == fate).sum()) for fate in FATES}
    return counts | {kind: int((detections == kind).sum()) for kind in ("duplicate", "invented")}


def _all_judged(evaluation: Evaluation) -> tuple[np.ndarray, np.ndarray]:
    """``judged`` of all photographs, one after the other."""
    pairs = zip(evaluation.detections, evaluation.images.samples, strict=True)
    objects, detections = zip(*(judged(*pair) for pair in pairs), strict=True)
    return np.concatenate(objects), np.concatenate(detections)
