"""A data set of shapes in YOLO format, drawn from a seed: real detectors learn it in minutes.

    python tests/shapes.py DIR --train 1200 --val 200 --size 160 --classes 5 --seed 0

Every image depends on the seed, its part and its number only: more training images change no other image.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from itertools import product, starmap
from pathlib import Path

import cv2
import numpy as np
import yaml

CLASSES = ("circle", "square", "triangle", "star", "ring")
PARTS = ("train", "val")
OBJECTS = (1, 8)  # an image
RADII = (0.05, 0.22)  # of an object's outer circle, in sides of the image
VISIBLE = 0.6  # of every object, whatever is drawn over it
CONTRAST = 45  # grey levels between an object and what is under it, so that one channel is enough
LUMA = (0.114, 0.587, 0.299)  # of blue, green and red
ATTEMPTS = 30  # to place an object before it is left out
FINE = 4  # drawn this much larger, then averaged: smooth edges that no version of OpenCV draws otherwise

Box = tuple[int, float, float, float, float]  # class; centre and size in sides of the image


def mask_of(name: str, radius: float, angle: float, waist: float) -> np.ndarray:
    """How much of each pixel a shape covers, 0 to 1.

    Args:
        radius: of the circle around the shape, in pixels.
        angle: in radians.
        waist: inner radius of a star or a ring, 0 to 1: both have more than one look.
    """
    side = 2 * int(np.ceil(radius)) + 2
    canvas = np.zeros((side * FINE, side * FINE), np.uint8)
    middle, outer = side * FINE / 2, radius * FINE
    if name in ("circle", "ring"):
        centre = (round(middle), round(middle))
        cv2.circle(canvas, centre, round(outer), 255, cv2.FILLED)
        if name == "ring":
            cv2.circle(canvas, centre, round(outer * waist), 0, cv2.FILLED)
    else:
        corners = {"triangle": 3, "square": 4, "star": 10}[name]
        turns = angle + 2 * np.pi * np.arange(corners) / corners
        radii = np.full(corners, outer)
        if name == "star":
            radii[1::2] *= 0.8 * waist
        points = middle + radii[:, None] * np.stack([np.cos(turns), np.sin(turns)], axis=1)
        cv2.fillPoly(canvas, [np.rint(points).astype(np.int32)], 255)
    return cv2.resize(canvas, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A background: two colours, patches, lines that belong to no object, noise."""
    first, second = rng.uniform(20, 235, (2, 3))
    rows, columns = np.mgrid[:size, :size] / size
    angle = rng.uniform(0, 2 * np.pi)
    slope = np.clip(0.5 + (rows - 0.5) * np.sin(angle) + (columns - 0.5) * np.cos(angle), 0, 1)[..., None]
    image = first * slope + second * (1 - slope)
    for cells in (4, 16):
        patches = rng.normal(0, 14, (cells, cells, 3)).astype(np.float32)
        image += cv2.resize(patches, (size, size), interpolation=cv2.INTER_LINEAR)
    image = np.clip(image, 0, 255).astype(np.uint8)
    for _ in range(rng.integers(0, 6)):
        start, end = rng.integers(0, size, (2, 2)).tolist()
        cv2.line(image, start, end, rng.integers(0, 256, 3).tolist(), int(rng.integers(1, 3)))
    return image.astype(np.float32)


def paint(rng: np.random.Generator, under: float, side: int) -> np.ndarray:
    """A colour, plain, shaded or striped, that stands out from the grey level `under`."""
    while True:
        colour = rng.uniform(0, 255, 3)
        if abs(colour @ LUMA - under) >= CONTRAST:
            break
    fill = np.broadcast_to(colour, (side, side, 3)).copy()
    look = rng.integers(3)
    if look == 1:
        fill += np.linspace(-25, 25, side)[:, None, None]
    elif look == 2:
        fill[:, np.arange(side) // rng.integers(2, 5) % 2 == 0] += rng.choice([-18, 18])
    return fill.astype(np.float32)


def draw(rng: np.random.Generator, size: int, classes: int) -> tuple[np.ndarray, list[Box]]:
    """An image (BGR) and its objects; the later cover the earlier, but never too much of one."""
    image = texture(rng, size)
    covers: list[np.ndarray] = []  # of all objects so far, what of them can be seen
    areas: list[float] = []
    boxes: list[Box] = []
    for _ in range(rng.integers(OBJECTS[0], OBJECTS[1] + 1)):
        label = int(rng.integers(classes))
        radius = size * np.exp(rng.uniform(*np.log(RADII)))
        shape = mask_of(CLASSES[label], radius, rng.uniform(0, 2 * np.pi), rng.uniform(0.45, 0.75))
        side = len(shape)
        for _ in range(ATTEMPTS):
            top, left = (int(x) for x in rng.integers(-side // 5, size - side + side // 5 + 1, 2))
            y, x = slice(max(top, 0), min(top + side, size)), slice(max(left, 0), min(left + side, size))
            inside = (slice(y.start - top, y.stop - top), slice(x.start - left, x.stop - left))
            cover = shape[inside]
            remaining = [seen.sum() - (seen[y, x] * cover).sum() for seen in covers]
            if np.greater_equal([*remaining, cover.sum()], VISIBLE * np.array([*areas, shape.sum()])).all():
                break
        else:
            continue
        for seen in covers:
            seen[y, x] *= 1 - cover
        covers.append(np.zeros((size, size), np.float32))
        covers[-1][y, x] = cover
        areas.append(float(shape.sum()))
        boxes.append((label, *box_of(covers[-1])))
        grey = float((image[y, x] @ LUMA * cover).sum() / cover.sum())
        part, alpha = image[y, x], cover[..., None]
        image[y, x] = part * (1 - alpha) + paint(rng, grey, side)[inside] * alpha
    image += rng.normal(0, rng.uniform(2, 10), image.shape)
    return np.clip(np.rint(image), 0, 255).astype(np.uint8), boxes


def box_of(cover: np.ndarray) -> tuple[float, float, float, float]:
    """Centre and size, in sides of the image, of what is at least half covered."""
    rows, columns = np.nonzero(cover >= min(0.5, cover.max()))
    low, high = np.array([columns.min(), rows.min()]), np.array([columns.max() + 1, rows.max() + 1])
    x, y, width, height = np.concatenate([(low + high) / 2, high - low]) / len(cover)
    return float(x), float(y), float(width), float(height)


def example(
    part: str, number: int, size: int = 160, classes: int = 5, seed: int = 0, grey: bool = False
) -> tuple[np.ndarray, list[Box]]:
    """One image of a data set, BGR or, if `grey`, of one channel, and its objects."""
    rng = np.random.default_rng([seed, PARTS.index(part), number])
    image, boxes = draw(rng, size, classes)
    return (cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) if grey else image), boxes


def save(folder: Path, part: str, number: int, *how: int) -> None:
    """Write one image and its labels; `how` as of `example`."""
    image, boxes = example(part, number, *how)
    path = folder / "images" / part / f"{number:05d}.png"
    if not cv2.imwrite(str(path), image):
        raise OSError(f"{path} cannot be written")
    lines = (f"{label} " + " ".join(f"{x:.6f}" for x in box) + "\n" for label, *box in boxes)
    (folder / "labels" / part / f"{number:05d}.txt").write_text("".join(lines))


def write(
    folder: Path,
    train: int = 1200,
    val: int = 200,
    size: int = 160,
    classes: int = 5,
    seed: int = 0,
    grey: bool = False,
    starmap: Callable = starmap,
) -> Path:
    """Write a data set and return its YAML.

    Args:
        train: number of training images.
        val: number of validation images.
        size: of the side of an image, in pixels.
        classes: how many of `CLASSES`.
        grey: images of one channel.
        starmap: that of a `multiprocessing.Pool` to draw many images at a time.
    """
    for kind, part in product(("images", "labels"), PARTS):
        (folder / kind / part).mkdir(parents=True, exist_ok=True)
    how = (size, classes, seed, grey)
    jobs = [(folder, part, n, *how) for part, m in zip(PARTS, (train, val), strict=True) for n in range(m)]
    list(starmap(save, jobs))
    description = {
        **{"path": str(folder.resolve()), "train": "images/train", "val": "images/val"},
        **{"names": dict(enumerate(CLASSES[:classes])), "channels": 1 if grey else 3},
    }
    path = folder / "data.yaml"
    path.write_text(yaml.safe_dump(description, sort_keys=False))
    return path


def main(arguments: Sequence[str] | None = None) -> None:
    """Write a data set from the command line."""
    parser = argparse.ArgumentParser(description="A data set of shapes in YOLO format.")
    parser.add_argument("folder", type=Path, metavar="DIR")
    parser.add_argument("--train", type=int, default=1200, help="training images (%(default)s)")
    parser.add_argument("--val", type=int, default=200, help="validation images (%(default)s)")
    parser.add_argument("--size", type=int, default=160, help="side of an image in pixels (%(default)s)")
    parser.add_argument("--classes", type=int, default=5, choices=range(1, len(CLASSES) + 1))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--grey", "--gray", action="store_true", help="images of one channel")
    print(write(**vars(parser.parse_args(arguments))))


if __name__ == "__main__":
    main()
