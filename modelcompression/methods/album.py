"""Photographs to learn from without labels: any folder of them, none of val2017, never twice the same.

A few hundred photographs are soon known by heart, so they are seen in mosaics, at random scales, mirrored
and in changed colours. All of that is computed where the training is, on a GPU or not, by the same code.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F

from ..errors import ModelCompressionError
from ..frames import photographs_below

FEWEST = 16
HELD_OUT = 32
HELD_OUT_SHARE = 8  # of fewer photographs, one in so many
MOSAIC_SHARE = 0.25
SCALES = 0.6, 1.3
COLOUR = 0.2
GREY = 114
REPORTED_ON = ("coco-val.jsonl", "coco-val-more.jsonl")


class HealingError(ModelCompressionError, ValueError):
    """Healing cannot start or go on; the message says why."""


@dataclass(frozen=True)
class Folder:
    """Photographs found in a folder.

    paths: those to learn from, by name.
    left_out: how many others are of val2017, on which results are reported.
    """

    paths: tuple[Path, ...]
    left_out: int

    def __str__(self) -> str:
        return f"{len(self.paths)} photographs, {self.left_out} of val2017 left out"


def photographs_in(folder: Path | str) -> Folder:
    """All images of a folder and the folders in it, without those of val2017.

    An image is of val2017 if its name is the id of one of the package's reporting photographs, or if it lies
    in a folder of that name.

    Raises:
        HealingError: the folder does not exist or holds no image to learn from.
    """
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise HealingError(f"{folder} is not a folder")
    found = photographs_below(folder)
    reported = _reported_ids()
    kept = [
        p for p in found if p.stem not in reported and "val2017" not in p.relative_to(folder.parent).parts
    ]
    if not kept:
        raise HealingError(f"{folder} holds no photographs to learn from ({len(found)} of val2017)")
    return Folder(tuple(kept), len(found) - len(kept))


def _reported_ids() -> set[str]:
    listed = (resources.files("modelcompression") / "coco" / name for name in REPORTED_ON)
    lines = [line for file in listed if file.is_file() for line in file.read_text().splitlines()]
    return {Path(json.loads(line)["file"]).stem for line in lines}


class Album:
    """Photographs in memory, none larger than ``size``; a fixed part of them is never trained on.

    Args:
        paths: of images, in any order.
        size: side of the square inputs in pixels.
        seed: the same seed gives the same batches.
        device: where the photographs lie and the batches are made.
        channels: of the pictures: 3, RGB, or 1, grey values.

    Raises:
        HealingError: too few photographs, one cannot be read, or other numbers of channels.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        size: int = 640,
        seed: int = 0,
        device: torch.device | str = "cpu",
        channels: int = 3,
    ) -> None:
        if len(paths) < FEWEST:
            raise HealingError(f"healing needs at least {FEWEST} photographs, not {len(paths)}")
        if channels not in (1, 3):
            raise HealingError(f"photographs have 3 channels or 1, the detector wants {channels}")
        self.size, self.device, self._seed, self._channels = size, torch.device(device), seed, channels
        by_name = sorted(paths, key=lambda path: (path.name, path))
        order = np.random.default_rng(0).permutation(len(by_name))
        count = min(HELD_OUT, len(order) // HELD_OUT_SHARE)
        self._held_out = [self._loaded(by_name[index]) for index in order[:count]]
        self._images = [self._loaded(by_name[index]) for index in order[count:]]

    def __len__(self) -> int:
        return len(self._images)

    def batch(self, step: int, count: int) -> torch.Tensor:
        """The pictures of one step: (count, channels, size, size) float32 in 0…1."""
        random = np.random.default_rng((self._seed, step))
        pictures = self._grey(count)
        for picture in pictures:
            for part in self._parts(picture, random):
                self._place(part, random)
        gains = (
            1 + random.uniform(-COLOUR, COLOUR, (count, 1)) + random.uniform(-COLOUR, COLOUR, (count, 3)) / 2
        )
        gains = gains[:, : self._channels].astype(np.float32)
        gains = torch.from_numpy(gains).to(self.device, non_blocking=True)
        return pictures.mul_(gains[:, :, None, None]).clamp_(0, 255).div_(255)

    def held_out(self) -> torch.Tensor:
        """What is never trained on, centred on grey: (n, channels, size, size) float32 in 0…1."""
        pictures = self._grey(len(self._held_out))
        for picture, image in zip(pictures, self._held_out, strict=True):
            top, left = ((self.size - side) // 2 for side in image.shape[1:])
            picture[:, top : top + image.shape[1], left : left + image.shape[2]] = image
        return pictures.div_(255)

    def _grey(self, count: int) -> torch.Tensor:
        shape = (count, self._channels, self.size, self.size)
        return torch.full(shape, float(GREY), device=self.device)

    def _parts(self, picture: torch.Tensor, random: np.random.Generator) -> list[torch.Tensor]:
        if random.random() >= MOSAIC_SHARE:
            return [picture]
        y, x = (random.uniform(0.3, 0.7, 2) * self.size).astype(int)
        return [picture[:, :y, :x], picture[:, :y, x:], picture[:, y:, :x], picture[:, y:, x:]]

    def _place(self, canvas: torch.Tensor, random: np.random.Generator) -> None:
        """Put a random photograph somewhere onto a canvas, cut where it does not fit."""
        image = self._images[random.integers(len(self._images))]
        mirrored, scale = random.random() < 0.5, random.uniform(*SCALES)
        height, width = (max(1, round(side * scale)) for side in image.shape[1:])
        image = F.interpolate(image[None].float(), (height, width), mode="bilinear", align_corners=False)[0]
        image = image.flip(2) if mirrored else image
        room = canvas.shape[1] - height, canvas.shape[2] - width
        y, x = (int(random.integers(min(0, r), max(0, r) + 1)) for r in room)
        target, source = canvas[:, max(0, y) :, max(0, x) :], image[:, max(0, -y) :, max(0, -x) :]
        height, width = (min(pair) for pair in zip(target.shape[1:], source.shape[1:], strict=True))
        target[:, :height, :width] = source[:, :height, :width]

    def _loaded(self, path: Path) -> torch.Tensor:
        """(channels, height, width) uint8, the longer side ``size`` pixels."""
        image = cv2.imread(str(path), cv2.IMREAD_COLOR)
        if image is None:
            raise HealingError(f"{path} is no readable image")
        scale = self.size / max(image.shape[:2])
        if scale != 1:
            sides = [min(self.size, max(1, round(side * scale))) for side in image.shape[1::-1]]
            image = cv2.resize(image, sides, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
        if self._channels == 1:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)[..., None]
        return torch.from_numpy(np.ascontiguousarray(image[:, :, ::-1].transpose(2, 0, 1))).to(self.device)
