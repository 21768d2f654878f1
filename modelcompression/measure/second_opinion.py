"""What does COCOeval say of the same detections? A check of our own metrics by somebody else's."""

from __future__ import annotations

import contextlib
import io

import numpy as np

from ..assets import ImageSet
from ..subject import class_names
from .accuracy import Evaluation


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
    names = dict(enumerate(images.names)) if images.names else class_names()
    return {
        "images": [
            {"id": index, "width": s.width, "height": s.height} for index, s in enumerate(images.samples)
        ],
        "annotations": annotations,
        "categories": [{"id": index, "name": name} for index, name in names.items()],
    }


def _coco_detections(evaluation: Evaluation) -> np.ndarray:
    """(n, 7): image, x, y, width, height, score, class."""
    rows = []
    for index, found in enumerate(evaluation.detections):
        corner, far = found[:, :2], found[:, 2:4]
        image = np.full((len(found), 1), index)
        rows.append(np.hstack([image, corner, far - corner, found[:, 4:6]]))
    return np.concatenate(rows).astype(float)
