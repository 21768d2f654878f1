"""In which ways can a detection be wrong? A sketch of each, judged by the code that counts them."""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from ultralytics.utils.metrics import box_iou

from ..assets import Sample
from ..measure.mistakes import RIGHT_PLACE, judged
from .sketch import note, paper

CAT, DOG = 15, 16
OBJECT = (0.45, 0.45, 1.25, 1.15)  # x1, y1, x2, y2 in inches of a panel
SKETCHES: list[tuple[str, list[tuple[float, float, int]]]] = [  # shifts to the right and up, and the class
    ("right", [(0.08, 0.06, CAT)]),
    ("misplaced", [(0.36, 0.24, CAT)]),
    ("confused", [(0.08, 0.06, DOG)]),
    ("duplicate", [(0.04, 0.06, CAT), (0.14, -0.1, CAT)]),
    ("missed", []),
    ("invented", [(1.0, 0.1, CAT)]),
]
NAMES = {CAT: "cat", DOG: "dog"}


def kinds_of_mistakes() -> Figure:
    """An annotated cat, and what a detector may make of it; with the overlap (IoU) of each detection."""
    width, height = 2.55, 2.1
    figure, axes = paper(3 * width, 2 * height + 0.35)
    for place, (title, found) in enumerate(SKETCHES):
        left, bottom = place % 3 * width, (1 - place // 3) * height + 0.35
        verdict = _verdict(title, found)
        note(axes, left + width / 2, bottom + 1.85, title, weight="bold", ha="center", size=12)
        note(axes, left + width / 2, bottom + 0.1, verdict, ha="center")
        _box(axes, left, bottom, OBJECT, "#009e73", "-")
        for right, up, category in found:
            box = (OBJECT[0] + right, OBJECT[1] + up, OBJECT[2] + right, OBJECT[3] + up)
            _box(axes, left, bottom, box, "#d55e00", "--")
            level = box[3] if up >= 0 else box[1]
            note(axes, left + box[2] + 0.05, bottom + level, NAMES[category], colour="#d55e00")
    note(axes, 0.3, 0.15, "green: an annotated cat", colour="#007a57")
    note(axes, 3 * width - 0.3, 0.15, "dashed: what the detector says", colour="#b34f00", ha="right")
    return figure


def _verdict(title: str, found: list[tuple[float, float, int]]) -> str:
    """The overlap of the last detection, after the code has judged the sketch to be what its title says."""
    box = np.array([OBJECT])
    sample = Sample("sketch", 3, 3, np.array([CAT]), box, np.array([0.5]), np.empty((0, 5)))
    rows = [(*(box[0] + [right, up, right, up]), 0.9 - 0.1 * i, c) for i, (right, up, c) in enumerate(found)]
    fates, kinds = judged(np.array(rows).reshape(-1, 6), sample)
    if title not in (*kinds[-1:], *([] if found else fates)):
        raise ValueError(f"the sketch of {title} is judged {kinds}, {fates}")
    if not rows:
        return "nothing there"
    iou = float(box_iou(torch.tensor([rows[-1][:4]]), torch.from_numpy(box)))
    sign = "≥" if iou >= RIGHT_PLACE else "<"
    return f"IoU {iou:.2f} {sign} {RIGHT_PLACE}"


def _box(axes: Axes, left: float, bottom: float, box: tuple[float, ...], colour: str, line: str) -> None:
    x1, y1, x2, y2 = box
    look = {"fill": False, "edgecolor": colour, "linestyle": line, "linewidth": 2.2}
    axes.add_patch(Rectangle((left + x1, bottom + y1), x2 - x1, y2 - y1, **look))
