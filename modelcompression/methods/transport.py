"""What would the teacher say if it saw a smaller image? Its maps, brought onto the student's anchors.

The anchors of a YOLO are the cells of grids, three in YOLOv8; with a smaller input, each grid has fewer,
larger cells (larger in the picture, that is: a cell is always 8, 16 or 32 of its own pixels). For a student
at another input size the teacher's answer on the same picture is therefore moved:

* class scores are interpolated bilinearly, as logits;
* a box side is a distribution over distances from the anchor, in cells; YOLOv8 has 16 of them. Its edges
  have a place in the picture: from there, they are measured anew from the student's anchor, in the student's
  cells. A distance between two whole numbers is split between both, so that the expected one is kept. A head
  without distributions gives the distance itself, and that is measured anew. Of the four teacher's anchors
  around one of the student, those that are sure of an object count more: boxes of anchors beside an object
  mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F

from ..subject import YOLOV8N

SMALLEST = 1e-9  # probability, of which the logarithm is taken
UNSURE = 1e-4  # the least confidence, so that weights never add up to zero


class Transport:
    """From the anchors of one square input to those of another.

    Args:
        theirs, ours: sides of the teacher's and the student's square input in pixels, multiples of the
            largest stride.
        device: of the maps.
        strides, bins: of the head, as in :class:`..subject.Subject`.

    Raises:
        ValueError: a side that is no multiple of the largest stride.
    """

    def __init__(
        self,
        theirs: int,
        ours: int,
        device: torch.device | str = "cpu",
        strides: Sequence[int] = YOLOV8N.strides,
        bins: int = YOLOV8N.bins,
    ) -> None:
        largest = max(strides)
        if theirs % largest or ours % largest or min(theirs, ours) < largest:
            raise ValueError(f"input sides must be multiples of {largest}, not {theirs} and {ours}")
        self._levels = [_Axis(theirs // s, ours // s, bins, torch.device(device)) for s in strides]

    @torch.no_grad()
    def __call__(self, raw: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``scores`` (N, classes, anchors) and ``boxes`` (N, 4 · bins, anchors): logits on our anchors."""
        counts = [level.theirs**2 for level in self._levels]
        scores = raw["scores"].float().split(counts, 2)
        boxes = raw["boxes"].float().split(counts, 2)
        moved = [_moved(*maps) for maps in zip(self._levels, scores, boxes, strict=True)]
        return {key: torch.cat([maps[at] for maps in moved], 2) for at, key in enumerate(("scores", "boxes"))}


class _Axis:
    """One direction of one grid: for each of our cells, two of theirs, and how distances change between them.

    cells: two (ours,) int64.
    shares: two (ours,) of the bilinear weights.
    matrices: two (2 sides, ours, bins of ours, bins of theirs): what becomes of each distance to the near
        side (left or top), which grows when the anchor moves away from it, and to the far side, which
        shrinks. With one bin (2 sides, ours, 1, 2): a distance's factor, and what is added to it.
    """

    def __init__(self, theirs: int, ours: int, bins: int, device: torch.device) -> None:
        self.theirs, self.ours, self.bins = theirs, ours, bins
        exact = (torch.arange(ours, dtype=torch.float64) + 0.5) * theirs / ours - 0.5
        inside = exact.clamp(0, theirs - 1)
        low = inside.floor().long()
        high = (low + 1).clamp(max=theirs - 1)
        share = inside - low
        self.cells = [cell.to(device) for cell in (low, high)]
        self.shares = [part.float().to(device) for part in (1 - share, share)]
        self.matrices = [self._matrix(exact - cell).float().to(device) for cell in (low, high)]

    def _matrix(self, away: torch.Tensor) -> torch.Tensor:
        ratio, bins = self.ours / self.theirs, torch.arange(self.bins, dtype=torch.float64)
        shifts = torch.stack([away, -away])[:, :, None] * ratio
        if self.bins == 1:
            return torch.stack([torch.full_like(shifts, ratio), shifts], 3)
        distances = (bins * ratio + shifts).clamp(0, self.bins - 1)
        return (1 - (distances[:, :, None] - bins[:, None]).abs()).clamp(min=0)


def _moved(axis: _Axis, scores: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One grid's (N, classes, theirs²) and (N, 4 · bins, theirs²) → (…, ours²)."""
    scores = scores.unflatten(2, (axis.theirs, axis.theirs))
    sides = boxes.unflatten(2, (axis.theirs, axis.theirs)).unflatten(1, (4, axis.bins))
    sides = torch.cat([sides, torch.ones_like(sides)], 2) if axis.bins == 1 else sides.softmax(2)
    sure = scores.sigmoid().amax(1) + UNSURE
    weighted, total = {}, 0
    for row, (rows, tall) in enumerate(zip(axis.cells, axis.shares, strict=True)):
        for column, (columns, wide) in enumerate(zip(axis.cells, axis.shares, strict=True)):
            weight = sure[:, rows][:, :, columns] * tall[:, None] * wide
            weighted[row, column] = sides[..., rows, :][..., columns] * weight[:, None, None]
            total = total + weight
    upright = [weighted[0, c][:, 0::2] + weighted[1, c][:, 0::2] for c in (0, 1)]  # left and right
    level = [weighted[r, 0][:, 1::2] + weighted[r, 1][:, 1::2] for r in (0, 1)]  # top and bottom
    pairs = list(zip(axis.matrices, upright, level, strict=True))
    across = sum(torch.einsum("sxok,nskyx->nsoyx", matrix, sides) for matrix, sides, _ in pairs)
    along = sum(torch.einsum("syok,nskyx->nsoyx", matrix, sides) for matrix, _, sides in pairs)
    moved = torch.stack([across, along], 2).flatten(1, 2) / total[:, None, None]  # left, top, right, bottom
    moved = moved if axis.bins == 1 else moved.clamp(min=SMALLEST).log()
    size = (axis.ours, axis.ours)
    scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    return scores.flatten(2), moved.flatten(1, 2).flatten(2)
