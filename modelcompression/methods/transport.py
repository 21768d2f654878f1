"""What would the teacher say if it saw a smaller image? Its maps, brought onto the student's anchors.

YOLOv8's anchors are the cells of three grids; with a smaller input, each grid has fewer, larger cells (larger
in the picture, that is: a cell is always 8, 16 or 32 of its own pixels). For a student at another input size
the teacher's answer on the same picture is therefore moved:

* class scores are interpolated bilinearly, as logits;
* a box side is a distribution over 16 distances from the anchor, in cells. Its edges have a place in the
  picture: from there, they are measured anew from the student's anchor, in the student's cells. A distance
  between two whole numbers is split between both, so that the expected one is kept. Of the four teacher's
  anchors around one of the student, those that are sure of an object count more: boxes of anchors beside an
  object mean nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F

STRIDES = (8, 16, 32)
BINS = 16
SMALLEST = 1e-9  # probability, of which the logarithm is taken
UNSURE = 1e-4  # the least confidence, so that weights never add up to zero


class Transport:
    """From the anchors of one square input to those of another.

    Args:
        theirs, ours: sides of the teacher's and the student's square input in pixels, multiples of 32.
        device: of the maps.

    Raises:
        ValueError: a side that is no multiple of 32.
    """

    def __init__(self, theirs: int, ours: int, device: torch.device | str = "cpu") -> None:
        if theirs % STRIDES[-1] or ours % STRIDES[-1] or min(theirs, ours) < STRIDES[-1]:
            raise ValueError(f"input sides must be multiples of {STRIDES[-1]}, not {theirs} and {ours}")
        self._levels = [_Axis(theirs // stride, ours // stride, torch.device(device)) for stride in STRIDES]

    @torch.no_grad()
    def __call__(self, raw: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """``scores`` (N, classes, anchors) and ``boxes`` (N, 64, anchors): logits on our anchors."""
        counts = [level.theirs**2 for level in self._levels]
        scores = raw["scores"].float().split(counts, 2)
        boxes = raw["boxes"].float().split(counts, 2)
        moved = [_moved(*maps) for maps in zip(self._levels, scores, boxes, strict=True)]
        return {key: torch.cat([maps[at] for maps in moved], 2) for at, key in enumerate(("scores", "boxes"))}


class _Axis:
    """One direction of one grid: for each of our cells, two of theirs, and how distances change between them.

    cells: two (ours,) int64.
    shares: two (ours,) of the bilinear weights.
    matrices: two (2 sides, ours, 16 ours, 16 theirs): what becomes of each distance to the near side (left or
        top), which grows when the anchor moves away from it, and to the far side, which shrinks.
    """

    def __init__(self, theirs: int, ours: int, device: torch.device) -> None:
        self.theirs, self.ours = theirs, ours
        exact = (torch.arange(ours, dtype=torch.float64) + 0.5) * theirs / ours - 0.5
        inside = exact.clamp(0, theirs - 1)
        low = inside.floor().long()
        high = (low + 1).clamp(max=theirs - 1)
        share = inside - low
        self.cells = [cell.to(device) for cell in (low, high)]
        self.shares = [part.float().to(device) for part in (1 - share, share)]
        self.matrices = [self._matrix(exact - cell).float().to(device) for cell in (low, high)]

    def _matrix(self, away: torch.Tensor) -> torch.Tensor:
        ratio, bins = self.ours / self.theirs, torch.arange(BINS, dtype=torch.float64)
        shifts = torch.stack([away, -away])[:, :, None] * ratio
        distances = (bins * ratio + shifts).clamp(0, BINS - 1)
        return (1 - (distances[:, :, None] - bins[:, None]).abs()).clamp(min=0)


def _moved(axis: _Axis, scores: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """One grid's (N, classes, theirs²) and (N, 64, theirs²) → (…, ours²)."""
    scores = scores.unflatten(2, (axis.theirs, axis.theirs))
    sides = boxes.unflatten(2, (axis.theirs, axis.theirs)).unflatten(1, (4, BINS)).softmax(2)
    sure = scores.sigmoid().amax(1) + UNSURE
    weighted, total = {}, 0
    for row, (rows, tall) in enumerate(zip(axis.cells, axis.shares, strict=True)):
        for column, (columns, wide) in enumerate(zip(axis.cells, axis.shares, strict=True)):
            weight = sure[:, rows][:, :, columns] * tall[:, None] * wide
            weighted[row, column] = sides[..., rows, :][..., columns] * weight[:, None, None]
            total = total + weight
    moved = torch.empty_like(weighted[0, 0])
    upright = [weighted[0, c][:, 0::2] + weighted[1, c][:, 0::2] for c in (0, 1)]  # left and right
    level = [weighted[r, 0][:, 1::2] + weighted[r, 1][:, 1::2] for r in (0, 1)]  # top and bottom
    pairs = list(zip(axis.matrices, upright, level, strict=True))
    moved[:, 0::2] = sum(torch.einsum("sxok,nskyx->nsoyx", matrix, sides) for matrix, sides, _ in pairs)
    moved[:, 1::2] = sum(torch.einsum("syok,nskyx->nsoyx", matrix, sides) for matrix, _, sides in pairs)
    distribution = (moved / total[:, None, None]).clamp(min=SMALLEST).log()
    size = (axis.ours, axis.ours)
    scores = F.interpolate(scores, size, mode="bilinear", align_corners=False)
    return scores.flatten(2), distribution.flatten(1, 2).flatten(2)
