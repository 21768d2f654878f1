"""What is a detection? A box with a name: chosen among a network's outputs, drawn, written as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import cv2
import numpy as np

CONFIDENCE, NMS_IOU, MOST_BOXES = 0.25, 0.7, 300  # as `yolo predict`
COLOURS = [(0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (230, 159, 0)]


@dataclass(frozen=True)
class Box:
    """One object: the name of its class, the confidence (0…1), two corners in pixels of the photograph."""

    name: str
    confidence: float
    x1: float
    y1: float
    x2: float
    y2: float

    def __str__(self) -> str:
        corners = f"{self.x1:.0f}, {self.y1:.0f}, {self.x2:.0f}, {self.y2:.0f}"
        return f"{self.name} {self.confidence:.2f} [{corners}]"


def best_boxes(rows: np.ndarray, confidence: float, iou: float = NMS_IOU) -> np.ndarray:
    """Non-maximum suppression with one class for each anchor, the settings of ``yolo predict``.

    Args:
        rows: (anchors, 4 + classes): centre x, centre y, width, height, class scores.
        confidence: anchors whose best score is not above it are left out.
        iou: of two boxes of one class that overlap by more, the less confident one goes.

    Returns:
        (n, 6): x1, y1, x2, y2, confidence, class; most confident first.
    """
    category = rows[:, 4:].argmax(1)
    sure = rows[np.arange(len(rows)), 4 + category]
    chosen = np.flatnonzero(sure > confidence)
    centre, extent = rows[chosen, :2], rows[chosen, 2:4]
    corner, sure, category = centre - extent / 2, sure[chosen], category[chosen]
    boxes = np.hstack([corner, extent]).astype(float)
    kept = cv2.dnn.NMSBoxesBatched(boxes, sure.astype(float), category.astype(int), 0.0, iou)
    kept = np.asarray(kept, int).ravel()[:MOST_BOXES]
    return np.column_stack([corner, corner + extent, sure, category])[kept]


def draw_boxes(pixels: np.ndarray, boxes: Sequence[Box]) -> np.ndarray:
    """A copy of (H, W, 3) uint8 RGB pixels with boxes and their names drawn, the most confident on top.

    A name that would hide that of a more confident box stands below it.
    """
    picture = np.ascontiguousarray(pixels).copy()
    height, width = picture.shape[:2]
    line = max(1, round(max(height, width) / 400))
    scale, font = max(height, width) / 1400 + 0.15, cv2.FONT_HERSHEY_SIMPLEX
    names = sorted({box.name for box in boxes})
    colours = [COLOURS[names.index(box.name) % len(COLOURS)] for box in boxes]
    for box, colour in zip(reversed(boxes), reversed(colours), strict=True):
        corners = (round(box.x1), round(box.y1)), (round(box.x2), round(box.y2))
        cv2.rectangle(picture, *corners, colour, line)
    taken: list[tuple[float, float, float]] = []
    for box, colour in zip(boxes, colours, strict=True):
        label = f"{box.name} {box.confidence:.2f}"
        (wide, tall), below = cv2.getTextSize(label, font, scale, line)
        left, base = max(0, min(round(box.x1), width - wide)), max(round(box.y1), tall + below)
        base = free_height(base, left, left + wide, tall + below, taken, height)
        cv2.rectangle(picture, (left, base - tall - below), (left + wide, base), colour, -1)
        cv2.putText(picture, label, (left, base - below), font, scale, (255, 255, 255), line, cv2.LINE_AA)
    return picture


def free_height(
    base: float, left: float, right: float, tall: float, taken: list[tuple[float, float, float]], most: float
) -> float:
    """The first height from ``base`` down to ``most``, in label heights, where none is hidden; else ``base``.

    Args:
        base: of the label's lower edge; it grows downward, as all these numbers in pixels of the picture.
        left, right: of the label.
        tall: a label's height.
        taken: left, right and lower edge of those that are placed; this one is added.
    """
    free = base
    while free <= most and any(left < e and s < right and abs(free - b) <= tall for s, e, b in taken):
        free += tall + 1
    free = free if free <= most else base
    taken.append((left, right, free))
    return free


def as_data(boxes: Sequence[Box]) -> list[dict[str, str | float]]:
    """Boxes for JSON."""
    return [asdict(box) for box in boxes]


def in_words(boxes: Sequence[Box]) -> str:
    """``1 bus, 4 person``, or that there is nothing."""
    counts = Counter(box.name for box in boxes)
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing found"
