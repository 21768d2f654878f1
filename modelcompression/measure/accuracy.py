"""How right is it? Precision, recall, mAP50, mAP50-95, and how sure are we of a difference?

One protocol for every row: square letterbox, RGB, /255; confidence above 0.001, multi-label NMS at IoU
0.7, at most 300 detections an image. Matching and metrics follow ultralytics' validator (non-maximum
suppression, greedy matching at IoU 0.5 … 0.95, 101-point average precision), with boxes mapped back to
the pixels of the original image, so that detectors of any input size are compared on equal terms.
As in COCO's own protocol, detections inside a crowd region count neither for nor against a detector.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pandas as pd
import torch
from torchvision.ops import nms
from tqdm import tqdm
from ultralytics.utils.metrics import ap_per_class, box_iou
from ultralytics.utils.ops import xywh2xyxy

from ..assets import ImageSet, Sample
from ..detector import Detector
from ..images import forget, prepared, seen, to_original
from ..subject import class_names
from .shards import spread

CONFIDENCE, NMS_IOU, MAX_DETECTIONS = 0.001, 0.7, 300
FEW_CANDIDATES, MAX_CANDIDATES = 2000, 30_000  # some detectors find everything a little everywhere
APART = 7680  # pixels, as in ultralytics: boxes of different classes never overlap
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """Everything one detector did on one image set, image by image.

    Attributes:
        detections: per image (n, 6) float32: x1, y1, x2, y2 in original pixels, confidence, class;
            in descending order of confidence, without those inside crowd regions.
        correct: per image (n, 10) bool: true positive at IoU 0.5, 0.55, … 0.95.
        targets: per image (m,) int: annotated classes.
    """

    images: ImageSet
    detections: list[np.ndarray]
    correct: list[np.ndarray]
    targets: list[np.ndarray]

    @cached_property
    def _per_class(self) -> tuple:
        stacked = np.concatenate(self.detections)
        return ap_per_class(
            np.concatenate(self.correct),
            _distinct(stacked[:, 4]),
            stacked[:, 5],
            np.concatenate(self.targets),
        )

    @property
    def precision(self) -> float:
        """Mean precision over classes, at the confidence where the mean F1 is highest."""
        return _mean(self._per_class[2])

    @property
    def recall(self) -> float:
        """Mean recall over classes, at the same confidence."""
        return _mean(self._per_class[3])

    @property
    def map50(self) -> float:
        """Mean average precision at IoU 0.5."""
        return _mean(self._per_class[5][:, 0])

    @property
    def map50_95(self) -> float:
        """Mean average precision over IoU 0.5 … 0.95, COCO's main metric."""
        return _mean(self._per_class[5])

    @property
    def map_by_iou(self) -> tuple[np.ndarray, np.ndarray]:
        """The ten IoU thresholds (10,), and the mean average precision at each (10,)."""
        found = self._per_class[5]
        return IOU_THRESHOLDS, found.mean(0) if len(found) else np.zeros(len(IOU_THRESHOLDS))

    @property
    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Recall (1000,) and precision at IoU 0.5 averaged over classes (1000,)."""
        return self._per_class[10], self._per_class[11].mean(0)

    def per_class(self) -> pd.DataFrame:
        """Objects, precision, recall, AP50 and AP50-95 of each class that occurs, best first."""
        _, _, precision, recall, _, ap, classes, *_ = self._per_class
        names = self.images.names or tuple(class_names().values())
        counts = np.bincount(np.concatenate(self.targets).astype(int), minlength=len(names))
        table = pd.DataFrame(
            {
                "class": [names[index] for index in classes],
                "objects": counts[classes],
                "precision": precision,
                "recall": recall,
                "ap50": ap[:, 0],
                "ap50_95": ap.mean(1),
            }
        )
        return table.sort_values("ap50_95", ascending=False, ignore_index=True)


def evaluate(
    detector: Detector, images: ImageSet, size: int = 640, progress: bool = True, square: bool = True
) -> Evaluation:
    """Run a detector over an image set, one image at a time; shards of it may run elsewhere (`shards`).

    Args:
        size: long side of the input in pixels, a multiple of 32.
        square: pad to a square, or only to the nearest rectangle, see ``letterbox``; a detector that
            stretches sees neither.

    Raises:
        ValueError: bad size.
        AssetError: an image cannot be decoded.
        ClusterError: the cluster that should do it is out of reach.
    """
    if size < 32 or size % 32:
        raise ValueError(f"the input size must be a multiple of 32, not {size}")
    detections, correct = [], []
    bar = tqdm(
        total=len(images),
        desc=images.name,
        unit="image",
        disable=not progress,
        leave=False,
        mininterval=1,
    )
    with bar:
        for judged in spread(partial(_judge, size, square), detector, images.samples, forget):
            for found, right in judged:
                detections.append(found)
                correct.append(right)
            bar.update(len(judged))
    return Evaluation(images, detections, correct, [s.classes for s in images.samples])


def _judge(
    size: int, square: bool, detector: Detector, samples: Sequence[Sample]
) -> list[tuple[np.ndarray, np.ndarray]]:
    """Per image, the detections and which of them are right, as in `Evaluation`."""
    judged = []
    for sample in samples:
        pixels, scale, offset = seen(detector, sample.path, size, square)
        raw = detector(prepared(detector, pixels))
        found = suppress(raw, iou=detector.subject.nms_iou(NMS_IOU))[0]
        found[:, :4] = to_original(found[:, :4], scale, offset)
        right = match(found, sample)
        counted = right[:, 0] | ~inside_crowd(found, sample)
        judged.append((found[counted], right[counted]))
    return judged


def suppress(raw: np.ndarray, confidence: float = CONFIDENCE, iou: float = NMS_IOU) -> list[np.ndarray]:
    """Multi-label non-maximum suppression of a raw head output (N, 4 + classes, anchors).

    As ultralytics', but of equal scores, which integers often give, the first always comes first: what
    survives depends on neither a CPU's way of sorting nor what else is imported.

    Returns:
        per image (n, 6) float32: x1, y1, x2, y2 in input pixels, confidence, class.
    """
    return [_suppressed(torch.from_numpy(image), confidence, iou).numpy() for image in raw]


def _suppressed(image: torch.Tensor, confidence: float, iou: float) -> torch.Tensor:
    """The suppression goes from the most confident one down.

    So if few candidates yield all detections that an image may have, more would change nothing.
    """
    boxes, scores = xywh2xyxy(image[:4].T), image[4:].T
    anchors, classes = torch.where(scores > confidence)
    scores, order = scores[anchors, classes].sort(descending=True, stable=True)
    for limit in (FEW_CANDIDATES, MAX_CANDIDATES):
        first = order[:limit]
        own = classes[first].float()[:, None]
        kept = nms(boxes[anchors[first]] + APART * own, scores[:limit], iou)[:MAX_DETECTIONS]
        if len(kept) == MAX_DETECTIONS or len(order) <= limit:
            break
    found = torch.cat([boxes[anchors[first]], scores[:limit, None], own], 1)
    return found[kept]


def match(detections: np.ndarray, sample: Sample) -> np.ndarray:
    """Greedy matching: each detection, most confident first, takes its best free box of its class.

    Args:
        detections: (n, 6), in descending order of confidence.

    Returns:
        (n, 10) bool: a true positive at each of the IoU thresholds.
    """
    correct = np.zeros((len(detections), len(IOU_THRESHOLDS)), bool)
    if not len(detections) or not len(sample.boxes):
        return correct
    iou = box_iou(torch.from_numpy(sample.boxes).float(), torch.from_numpy(detections[:, :4])).numpy()
    iou = iou * (sample.classes[:, None] == detections[None, :, 5])
    taken = np.zeros((len(sample.boxes), len(IOU_THRESHOLDS)), bool)
    levels = np.arange(len(IOU_THRESHOLDS))
    for index in np.flatnonzero((iou >= IOU_THRESHOLDS[0]).any(0)):
        free = np.where(taken, 0, iou[:, index, None])
        best = free.argmax(0)
        correct[index] = free[best, levels] >= IOU_THRESHOLDS
        taken[best, levels] |= correct[index]
    return correct


def inside_crowd(detections: np.ndarray, sample: Sample) -> np.ndarray:
    """Which detections lie, by at least half of their area, in a crowd region of their class.

    COCO marks a dense group ("a crowd of people") with one region; what is found in there is neither
    right nor wrong (Lin et al. 2014; ``iscrowd`` in COCOeval).

    Returns:
        (n,) bool.
    """
    inside = np.zeros(len(detections), bool)
    corners, areas = detections[:, :4], np.prod(detections[:, 2:4] - detections[:, :2], axis=1)
    for category, *region in sample.crowd:
        overlap = np.minimum(corners[:, 2:], region[2:]) - np.maximum(corners[:, :2], region[:2])
        shared = np.prod(np.clip(overlap, 0, None), axis=1)
        inside |= (detections[:, 5] == category) & (shared >= areas / 2)
    return inside


def _distinct(confidences: np.ndarray) -> np.ndarray:
    """float64: of equal ones the first is a hair larger, so that how a CPU sorts changes no metric."""
    order = np.argsort(-confidences, kind="stable")
    ordered, places = confidences[order].astype(float), np.arange(len(order))
    first = np.maximum.accumulate(np.where(np.diff(ordered, prepend=np.nan) != 0, places, 0))
    found = np.empty(len(order))
    found[order] = ordered - 1e-15 * (places - first)
    return found


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if np.size(values) else 0.0
