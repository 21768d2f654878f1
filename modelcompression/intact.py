"""Is a file a whole photograph, and how large is it once decoded?"""

from __future__ import annotations

from pathlib import Path

import cv2
from PIL import Image

from .fetch import AssetError


def require_whole(path: Path) -> None:
    """Decode a photograph to its last row.

    Raises:
        AssetError: it is cut off, empty or no photograph.
    """
    try:
        with path.open("rb") as file, Image.open(file) as image:
            image.load()
    # Ultralytics has taught Pillow to look for a further decoder: of what none can read, it says ImportError.
    except Exception:
        raise AssetError(f"{path} is no whole photograph: replace or delete it") from None


def decoded_size(path: Path) -> tuple[int, int]:
    """Width and height in pixels as detectors get the photograph, turned as its EXIF orientation says.

    Raises:
        AssetError: it is cut off, empty or no photograph.
    """
    require_whole(path)
    pixels = cv2.imread(str(path), cv2.IMREAD_COLOR_RGB)
    if pixels is None:
        raise AssetError(f"{path} is no whole photograph: replace or delete it")
    height, width = pixels.shape[:2]
    return width, height
