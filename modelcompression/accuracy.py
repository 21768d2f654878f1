"""How right is it? Precision, recall, mAP50, mAP50-95, and how sure are we of a difference?

One protocol for every row: square letterbox, RGB, /255; confidence above 0.001, multi-label NMS at IoU
0.7, at most 300 detections an image. Matching and metrics follow ultralytics' validator (non-maximum
suppression, greedy matching at IoU 0.5 … 0.95, 101-point average precision), with boxes mapped back to
the pixels of the original image, so that detectors of any input size are compared on equal terms.
As in COCO's own protocol, detections inside a crowd region count neither for nor against a detector.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import torch
import torchvision  # noqa: F401  (ultralytics' NMS takes torchvision's, 20 times faster, only if it is loaded)
from tqdm import tqdm
from ultralytics.utils.metrics import ap_per_class, box_iou
from ultralytics.utils.nms import non_max_suppression

from .assets import AssetError, ImageSet, Sample, class_names
from .detector import Detector
from .shards import spread

CONFIDENCE, NMS_IOU, MAX_DETECTIONS = 0.001, 0.7, 300
IOU_THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALL_POINTS = np.linspace(0, 1, 101)
PADDING_GREY = 114


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95 % confidence bounds."""

    value: float
    low: float
    high: float


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
            np.concatenate(self.correct), stacked[:, 4], stacked[:, 5], np.concatenate(self.targets)
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
    def precision_recall(self) -> tuple[np.ndarray, np.ndarray]:
        """Recall (1000,) and precision at IoU 0.5 averaged over classes (1000,)."""
        return self._per_class[10], self._per_class[11].mean(0)

    def per_class(self) -> pd.DataFrame:
        """Objects, precision, recall, AP50 and AP50-95 of each class that occurs, best first."""
        _, _, precision, recall, _, ap, classes, *_ = self._per_class
        counts = np.bincount(np.concatenate(self.targets).astype(int), minlength=80)
        table = pd.DataFrame(
            {
                "class": [class_names()[index] for index in classes],
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
        square: pad to a square, or only to the nearest rectangle, see ``letterbox``.

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
        for judged in spread(partial(_judge, size, square), detector, images.samples, letterbox.cache_clear):
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
        pixels, scale, offset = letterbox(sample.path, size, square)
        raw = detector(prepared(detector, pixels))
        found = suppress(raw)[0]
        found[:, :4] = to_original(found[:, :4], scale, offset)
        right = match(found, sample)
        counted = right[:, 0] | ~inside_crowd(found, sample)
        judged.append((found[counted], right[counted]))
    return judged


# --- one image --------------------------------------------------------------------------------


@lru_cache(maxsize=1024)
def letterbox(path: Path, size: int, square: bool = True) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Decode an image file and ``fit`` it. Cached: every experiment looks at the same photographs.

    Raises:
        AssetError: the file cannot be decoded.
    """
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise AssetError(f"{path} cannot be decoded as an image: replace or remove it")
    canvas, scale, offset = fit(image, size, square)
    canvas.flags.writeable = False
    return canvas, scale, offset


def fit(image: np.ndarray, size: int, square: bool = True) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Scale the long side of (H, W, 3) uint8 pixels to ``size``, pad the short side with grey.

    Rounds as ultralytics' dataset does.

    Args:
        square: pad to ``size``, or only to the next multiple of 32, the network's largest stride.

    Returns:
        pixels (height, width, 3), the scale factor, and the padding (left, top) in pixels.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = (min(int(np.ceil(x * scale)), size) for x in (width, height))
    if scale != 1:
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    full_width, full_height = (size if square else -(-x // 32) * 32 for x in (new_width, new_height))
    left, top = round((full_width - new_width) / 2 - 0.1), round((full_height - new_height) / 2 - 0.1)
    canvas = np.full((full_height, full_width, 3), PADDING_GREY, np.uint8)
    canvas[top : top + new_height, left : left + new_width] = image
    return canvas, scale, (left, top)


def to_batch(*images: np.ndarray) -> np.ndarray:
    """Stack (H, W, 3) uint8 RGB images into a (N, 3, H, W) float32 batch with values in 0…1."""
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2), dtype=np.float32) / 255


def prepared(detector: Detector, *images: np.ndarray) -> np.ndarray:
    """Stack (H, W, 3) uint8 RGB images into what a detector takes: pixels, or ``to_batch`` of them."""
    return np.stack(images) if detector.takes_pixels else to_batch(*images)


def suppress(raw: np.ndarray, confidence: float = CONFIDENCE) -> list[np.ndarray]:
    """Multi-label non-maximum suppression of a raw head output (N, 84, anchors).

    Returns:
        per image (n, 6) float32: x1, y1, x2, y2 in input pixels, confidence, class.
    """
    kept = non_max_suppression(
        torch.from_numpy(raw), confidence, NMS_IOU, multi_label=True, max_det=MAX_DETECTIONS,
        max_time_img=60,  # never leave boxes out because the machine is slow
    )  # fmt: skip
    return [found.numpy() for found in kept]


def to_original(boxes: np.ndarray, scale: float, offset: tuple[int, int]) -> np.ndarray:
    """Map (n, 4) x1, y1, x2, y2 boxes from letterbox pixels to those of the original image."""
    return (boxes - [*offset, *offset]) / scale


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


# --- how sure are we? -------------------------------------------------------------------------


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
    if [s.path for s in variant.images.samples] != [s.path for s in baseline.images.samples]:
        raise ValueError("a paired comparison needs both evaluations on the same images")
    if not baseline.map50_95:
        raise ValueError("the baseline detects nothing: a relative change has no meaning")
    reference = resampled_map(baseline, resamples, seed)
    telling = reference > 0  # a resample without a single object says nothing
    changes = resampled_map(variant, resamples, seed)[telling] / reference[telling] - 1
    low, high = np.percentile(changes, [2.5, 97.5])
    return Interval(variant.map50_95 / baseline.map50_95 - 1, float(low), float(high))


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
        self._targets = np.stack(
            [np.bincount(t.astype(int), minlength=80) for t in evaluation.targets], axis=1
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


# --- the second opinion -----------------------------------------------------------------------


def coco_eval(evaluation: Evaluation) -> dict[str, float]:
    """The same detections judged by COCOeval (faster-coco-eval), crowd regions ignored as COCO does.

    Returns:
        ``map50_95``, ``map50``, ``map75`` and by object size ``small`` (below 32² px), ``medium``,
        ``large`` (above 96² px); -1 where no such object exists.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO(_coco_ground_truth(evaluation.images))
        judge = COCOeval_faster(truth, truth.loadRes(_coco_detections(evaluation)), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    names = ["map50_95", "map50", "map75", "small", "medium", "large"]
    return dict(zip(names, map(float, judge.stats[:6]), strict=True))


def _coco_ground_truth(images: ImageSet) -> dict:
    annotations: list[dict] = []
    for index, sample in enumerate(images.samples):
        rows = [
            (category, box, area, 0)
            for category, box, area in zip(sample.classes, sample.boxes, sample.areas, strict=True)
        ]
        rows += [(row[0], row[1:], (row[3] - row[1]) * (row[4] - row[2]), 1) for row in sample.crowd]
        for category, (x1, y1, x2, y2), area, crowd in rows:
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": index,
                    "category_id": int(category),
                    "bbox": [float(x1), float(y1), float(x2 - x1), float(y2 - y1)],
                    "area": float(area),
                    "iscrowd": crowd,
                }
            )
    return {
        "images": [
            {"id": index, "width": s.width, "height": s.height} for index, s in enumerate(images.samples)
        ],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in class_names().items()],
    }


def _coco_detections(evaluation: Evaluation) -> np.ndarray:
    """(n, 7): image, x, y, width, height, score, class."""
    rows = []
    for index, found in enumerate(evaluation.detections):
        corner, far = found[:, :2], found[:, 2:4]
        image = np.full((len(found), 1), index)
        rows.append(np.hstack([image, corner, far - corner, found[:, 4:6]]))
    return np.concatenate(rows).astype(float)


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if np.size(values) else 0.0
