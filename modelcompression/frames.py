"""Where do pictures come from? A photograph, a folder of them, a video, a camera."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from .errors import ModelCompressionError

PHOTOGRAPHS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
WANTED = "give a photograph, a folder, a video or a camera's number"
CAMERA_RATE = 30.0  # frames a second, where a camera does not say


class PictureError(ModelCompressionError, RuntimeError):
    """There is no picture to look at; the message says what to do."""


@dataclass(frozen=True)
class Film:
    """A video file or a camera.

    Attributes:
        name: of the file, or ``camera 0``.
        rate: frames a second, as it says itself.
        length: in frames; 0 if it has no end, or does not say.
        frames: (H, W, 3) uint8 RGB, one after the other; can be read once.
    """

    name: str
    rate: float
    length: int
    frames: Iterator[np.ndarray]


def photograph(path: Path | str) -> np.ndarray:
    """(H, W, 3) uint8 RGB pixels of an image file, turned upright as its EXIF data say.

    Raises:
        PictureError: there is no such file, or it is no image.
    """
    try:
        data = np.frombuffer(Path(path).read_bytes(), np.uint8)
    except OSError as error:
        raise PictureError(f"{path} cannot be read: {error.strerror}") from None
    image = None
    with _silence(), suppress(cv2.error):
        image = cv2.imdecode(data, cv2.IMREAD_COLOR_RGB)
    if image is None:
        raise PictureError(f"{path} is no photograph that can be decoded ({', '.join(PHOTOGRAPHS)})")
    return image


def photographs(source: str) -> list[Path]:
    """A file as it is; of a folder, the photographs in it by name.

    Raises:
        PictureError: there is neither, or the folder holds none.
    """
    path = Path(source)
    if not path.is_dir():
        if not path.exists():
            raise PictureError(f"{path} does not exist: {WANTED}")
        return [path]
    found = sorted(p for p in path.iterdir() if p.suffix.lower() in PHOTOGRAPHS and p.is_file())
    if not found:
        raise PictureError(f"{path} holds no photograph ({', '.join(PHOTOGRAPHS)})")
    return found


def photographs_below(folder: Path) -> list[Path]:
    """All photographs in a folder and in those within it, by path; none is opened."""
    return sorted(p for p in folder.rglob("*") if p.suffix.lower() in PHOTOGRAPHS and p.is_file())


def is_film(source: str) -> bool:
    """Whether a source is a video file, or the number of a camera rather than a file of that name."""
    path = Path(source)
    return path.suffix.lower() in VIDEOS or (source.isdecimal() and not path.exists())


def film(source: str) -> Film:
    """A video file or a camera, opened.

    Raises:
        PictureError: OpenCV cannot open it.
    """
    camera = source.isdecimal() and not Path(source).exists()
    if not camera and not Path(source).is_file():
        raise PictureError(f"{source} does not exist: {WANTED}")
    if camera and int(source) >= 2**31:  # OpenCV takes no larger number
        raise PictureError(f"camera {source} is not there: {WANTED}")
    with _silence():
        opened = cv2.VideoCapture(int(source) if camera else source)
        started, first = opened.read()
    if not started:
        opened.release()
        what = (
            f"camera {source} is not there or in use" if camera else f"{source} is no video that can be read"
        )
        raise PictureError(f"{what}: {WANTED}")
    rate = opened.get(cv2.CAP_PROP_FPS)
    length = 0 if camera else max(0, int(opened.get(cv2.CAP_PROP_FRAME_COUNT)))
    name = f"camera {source}" if camera else source
    return Film(name, rate if 1 <= rate <= 1000 else CAMERA_RATE, length, _frames(opened, first))


def _frames(opened: cv2.VideoCapture, frame: np.ndarray) -> Iterator[np.ndarray]:
    try:
        there = True
        while there:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
            there, frame = opened.read()
    finally:
        opened.release()


@contextmanager
def _silence() -> Iterator[None]:
    """OpenCV tells on the terminal what it tried; what matters is raised."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
    before = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(before)
