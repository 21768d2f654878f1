"""What did compression change? Two models' detections of one photograph, only the differences in colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

import cv2
import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from ultralytics.utils.metrics import box_iou

from .assets import CREDITS, Sample
from .boxes import free_height
from .figures import SHOWN_CONFIDENCE, as_jpeg, closed
from .measure.accuracy import Evaluation

FOUND_AGAIN, UNMOVED = 0.5, 0.85  # IoU from which a box is the same object's, and in the same place
STYLES = {  # colours of Okabe & Ito, and a line of its own for those who see no colours
    "same": ("#bbbbbb", "-"),
    "moved": ("#e69f00", "-."),
    "lost": ("#d55e00", "--"),
    "new": ("#0072b2", ":"),
}
LABEL = 9.5  # points


@dataclass(frozen=True)
class Change:
    """One object: ``kind`` is a key of ``STYLES``; the box is x1, y1, x2, y2 in pixels of the photograph."""

    kind: str
    box: np.ndarray
    category: int


def changes(before: np.ndarray, after: np.ndarray) -> list[Change]:
    """How confident detections of one photograph differ.

    A detection is found again by one of its class that overlaps it by an IoU of 0.5 or more; pairs of largest
    overlap first. The box of a moved object is where it is afterwards.

    Args:
        before: (n, 6) of the original: x1, y1, x2, y2, confidence, class.
        after: (m, 6) of the other model.
    """
    before, after = (found[found[:, 4] > SHOWN_CONFIDENCE] for found in (before, after))
    corners = (torch.from_numpy(found[:, :4]).double() for found in (before, after))
    overlap = box_iou(*corners).numpy() * (before[:, None, 5] == after[None, :, 5])
    found, pairs = [], {}
    for place in np.argsort(-overlap, axis=None, kind="stable"):
        i, j = np.unravel_index(place, overlap.shape)
        if overlap[i, j] < FOUND_AGAIN:
            break
        if i not in pairs and j not in pairs.values():
            pairs[i] = j
            found.append(
                Change("same" if overlap[i, j] >= UNMOVED else "moved", after[j, :4], int(after[j, 5]))
            )
    found += [Change("lost", x[:4], int(x[5])) for i, x in enumerate(before) if i not in pairs]
    found += [Change("new", x[:4], int(x[5])) for j, x in enumerate(after) if j not in pairs.values()]
    return found


def counted(before: Evaluation, after: Evaluation) -> dict[str, int]:
    """How many objects of all photographs are the same, moved, lost, new."""
    kinds = [c.kind for pair in zip(before.detections, after.detections, strict=True) for c in changes(*pair)]
    return {kind: kinds.count(kind) for kind in STYLES}


def most_different(before: Evaluation, others: Sequence[Evaluation], count: int) -> list[int]:
    """The photographs on which most objects moved, came or went, most first; of the demonstration photographs
    only those that may be shown.
    """
    everything = before.images.name != "demo"
    different = {
        i: sum(c.kind != "same" for other in others for c in changes(found, other.detections[i]))
        for i, (sample, found) in enumerate(zip(before.images.samples, before.detections, strict=True))
        if everything or sample.path.stem in CREDITS
    }
    return sorted(different, key=lambda i: -different[i])[:count]


def picture(
    before: Evaluation, others: Mapping[str, Evaluation], names: Mapping[int, str], count: int = 2
) -> Image:
    """The photographs that differ most, a row each; the original first, then a column for each other model.

    Args:
        before: of the original, on the demonstration photographs or on somebody's own.
        others: title → evaluation of the same photographs.
        names: of the classes, by number.
        count: of photographs.
    """
    rows = most_different(before, list(others.values()), count)
    samples = [before.images.samples[i] for i in rows]
    ratios = [min(1.25, sample.height / sample.width) for sample in samples]
    columns = 1 + len(others)
    width = max(2.9, 8.8 / columns)
    figure, grid = plt.subplots(
        len(rows), columns, squeeze=False, layout="constrained", height_ratios=ratios,
        figsize=(width * columns, width * sum(ratios) + 0.8),
    )  # fmt: skip
    for axes, sample, row in zip(grid, samples, rows, strict=True):
        found = before.detections[row]
        _draw(axes[0], sample, [c for c in changes(found, found[:0])], names, as_original=True)
        for place, other in zip(axes[1:], others.values(), strict=True):
            _draw(place, sample, changes(found, other.detections[row]), names)
    for axes, title in zip(grid[0], ["original", *others], strict=True):
        axes.set_title(fill(title, round(10 * width)), fontsize=11)
    _legend(figure, [CREDITS[sample.path.stem] for sample in samples if before.images.name == "demo"])
    return as_jpeg(closed(figure))


def _draw(
    axes: Axes, sample: Sample, found: list[Change], names: Mapping[int, str], as_original: bool = False
) -> None:
    axes.imshow(cv2.imread(str(sample.path), cv2.IMREAD_COLOR_RGB))
    axes.set_axis_off()
    axes.set_xlim(0, sample.width)
    axes.set_ylim(sample.height, 0)
    labels: list[tuple[float, float, float]] = []
    for change in found:
        colour, line = ("#009e73", "-") if as_original else STYLES[change.kind]
        x1, y1, x2, y2 = change.box
        width = 1.2 if change.kind == "same" else 2.4
        axes.add_patch(
            plt.Rectangle(
                (x1, y1), x2 - x1, y2 - y1, fill=False, edgecolor=colour, linestyle=line, linewidth=width
            )
        )
        if change.kind == "same":
            continue
        left, right = max(0, x1), max(0, x1) + _label_width(names[change.category], sample)
        tall = _label_height(sample)
        y = free_height(max(y1, tall), left, right, tall, labels, sample.height)
        axes.text(
            left, y, names[change.category], fontsize=LABEL, color="white", va="bottom", clip_on=True,
            bbox={"facecolor": colour, "edgecolor": "none", "pad": 1.2, "alpha": 0.9},
        )  # fmt: skip


def _label_height(sample: Sample) -> float:
    """In pixels of the photograph, where the picture has three columns; less room is needed with fewer."""
    return 0.065 * max(sample.width, sample.height / 1.25)


def _label_width(name: str, sample: Sample) -> float:
    """Likewise."""
    return (0.02 + 0.029 * len(name)) * max(sample.width, sample.height / 1.25)


def _legend(figure: Figure, credits: Sequence[str]) -> None:
    lines = [
        Line2D([], [], color=c, linestyle=s, linewidth=2.4, label=kind) for kind, (c, s) in STYLES.items()
    ]
    figure.legend(
        handles=lines, loc="outside lower center", ncols=len(lines), frameon=False, fontsize=10,
        title=f"photographs: {', '.join(credits)}" if credits else None, title_fontsize=7,
    )  # fmt: skip
