"""How does a photograph become a batch? Letterbox or rectangle, planes or pixels, and boxes back again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from threading import Lock

import cv2
import numpy as np
from cachetools import LRUCache, cached

from .detector import Detector
from .fetch import AssetError

PADDING_GREY = 114
REMEMBERED = 1.2e9  # bytes: a thousand photographs of 640 pixels


@cached(LRUCache(REMEMBERED, getsizeof=lambda found: found[0].nbytes), lock=Lock(), info=True)
def letterbox(
    path: Path, size: int, square: bool = True, stride: int = 32
) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Decode an image file and ``fit`` it. Cached: every experiment looks at the same photographs.

    Raises:
        AssetError: the file cannot be decoded.
    """
    canvas, scale, offset = fit(_decoded(path), size, square, stride)
    canvas.flags.writeable = False
    return canvas, scale, offset


def forget() -> None:
    """Free the memory of what ``letterbox`` remembers; other processes find this function by its name."""
    letterbox.cache_clear()


def _decoded(path: Path) -> np.ndarray:
    image = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise AssetError(f"{path} cannot be decoded as an image: replace or remove it")
    return image


def fit(
    image: np.ndarray, size: int, square: bool = True, stride: int = 32
) -> tuple[np.ndarray, float, tuple[int, int]]:
    """Scale the long side of (H, W, 3) uint8 pixels to ``size``, pad the short side with grey.

    Rounds as ultralytics' dataset does.

    Args:
        square: pad to ``size``, or only to the next multiple of ``stride``, the network's largest.

    Returns:
        pixels (height, width, 3), the scale factor, and the padding (left, top) in pixels.
    """
    height, width = image.shape[:2]
    scale = size / max(height, width)
    new_width, new_height = (min(int(np.ceil(x * scale)), size) for x in (width, height))
    if scale != 1:
        image = cv2.resize(image, (new_width, new_height), interpolation=cv2.INTER_LINEAR)
    full_width, full_height = (size if square else -(-x // stride) * stride for x in (new_width, new_height))
    left, top = round((full_width - new_width) / 2 - 0.1), round((full_height - new_height) / 2 - 0.1)
    canvas = np.full((full_height, full_width, 3), PADDING_GREY, np.uint8)
    canvas[top : top + new_height, left : left + new_width] = image
    return canvas, scale, (left, top)


def stretch(image: np.ndarray, size: int) -> tuple[np.ndarray, tuple[float, float], tuple[int, int]]:
    """Scale both sides of (H, W, 3) uint8 pixels to ``size``, whatever their ratio.

    Returns:
        pixels (size, size, 3), the scale factors of x and y, no padding.
    """
    height, width = image.shape[:2]
    pixels = cv2.resize(image, (size, size), interpolation=cv2.INTER_LINEAR)
    return pixels, (size / width, size / height), (0, 0)


def seen(
    detector: Detector, path: Path, size: int, square: bool = True
) -> tuple[np.ndarray, float | tuple[float, float], tuple[int, int]]:
    """What a detector sees of an image file: ``letterbox``, or ``stretch`` if it was trained on that.

    Raises:
        AssetError: the file cannot be decoded.
    """
    if detector.subject.stretches:
        return stretch(_decoded(path), size)
    return letterbox(path, size, square, detector.subject.multiple)


def to_batch(*images: np.ndarray) -> np.ndarray:
    """Stack (H, W, 3) uint8 RGB images into a (N, 3, H, W) float32 batch with values in 0…1."""
    return np.ascontiguousarray(np.stack(images).transpose(0, 3, 1, 2), dtype=np.float32) / 255


def planes(channels: int, *images: np.ndarray) -> np.ndarray:
    """:func:`to_batch`, of grey values if the detector's input has one channel."""
    return to_batch(*_in_channels(channels, images))


def prepared(detector: Detector, *images: np.ndarray) -> np.ndarray:
    """Stack (H, W, 3) uint8 RGB images into what a detector takes: pixels, or ``to_batch`` of them."""
    channels = detector.subject.channels
    return np.stack(_in_channels(channels, images)) if detector.takes_pixels else planes(channels, *images)


def _in_channels(channels: int, images: Sequence[np.ndarray]) -> Sequence[np.ndarray]:
    if channels == 3:
        return images
    if channels != 1:
        raise AssetError(f"photographs have 3 channels or 1, the detector wants {channels}")
    return [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None] for image in images]


def to_original(boxes: np.ndarray, scale: float | tuple[float, float], offset: tuple[int, int]) -> np.ndarray:
    """Map (n, 4) x1, y1, x2, y2 boxes from the pixels of `seen` to those of the original image."""
    return (boxes - [*offset, *offset]) / np.resize(scale, 4)
