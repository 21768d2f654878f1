"""What ``modelcompression detect`` does: it looks, and says, draws or lists what is there."""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

import cv2
import numpy as np
from tqdm import tqdm

from . import files
from .boxes import as_data, draw_boxes, in_words
from .detect import Model
from .errors import ModelCompressionError
from .frames import PictureError, film, is_film, photograph, photographs

QUALITY = 92  # of a JPEG


class SaveError(ModelCompressionError, RuntimeError):
    """A picture cannot be saved there; the message says what to do."""


class Looking:
    """One call of ``detect``.

    Args:
        save: folder for pictures and videos with boxes; None: nothing is written.
        lines: JSON on the standard output, a line for each picture, and nothing else there.
    """

    def __init__(self, model: Model, save: Path | None = None, lines: bool = False) -> None:
        self._model, self._save, self._lines = model, save, lines
        self._given: set[tuple[int, int]] = set()
        self._taken: set[str] = set()
        self._seconds: dict[tuple[int, ...], list[float]] = {}
        self._looked = 0

    def at(self, sources: Sequence[str]) -> None:
        """Look at photographs, folders, videos, and cameras by their number.

        What cannot be read is named on the standard error; all else is looked at.

        Raises:
            PictureError: something could not be read.
            SaveError: a picture cannot be saved, or would take the place of a given one.
            DetectorError: the network does not fit.
        """
        failed: list[PictureError] = []
        self._given = set(_identities(sources)) if self._save else set()
        for source in sources:
            with _noted(failed):
                if is_film(source):
                    self._film(source)
                    continue
                for path in photographs(source):
                    with _noted(failed):
                        self._photograph(path)
        if len(failed) == 1 and not self._looked:
            raise failed[0]
        for error in failed:
            print(f"warning: {error}", file=sys.stderr)
        if failed:
            raise PictureError(f"{len(failed)} of what was given could not be read, see above")

    def _photograph(self, path: Path) -> None:
        pixels = photograph(path)
        self._looked += 1
        start = time.perf_counter()
        found = self._model(pixels)
        self._seconds.setdefault(pixels.shape, []).append(time.perf_counter() - start)
        if self._lines:
            print(json.dumps({"source": str(path), "boxes": as_data(found)}), flush=True)
        else:
            print(f"{path}: {in_words(found)}", flush=True)
        if self._save:
            target = self._target(path, ".png" if path.suffix.lower() == ".png" else ".jpg")
            picture = cv2.cvtColor(draw_boxes(pixels, found), cv2.COLOR_RGB2BGR)
            quality = [cv2.IMWRITE_JPEG_QUALITY, QUALITY] if target.suffix == ".jpg" else []
            _, data = cv2.imencode(target.suffix, picture, quality)
            files.replace({target: data.tobytes()})

    def _film(self, source: str) -> None:
        """Until it ends; Ctrl-C ends it, too."""
        shown = film(source)
        self._looked += 1
        number, began = 0, 0.0
        named = source if Path(source).exists() else shown.name.replace(" ", "-")  # camera-0
        target = self._target(Path(named), ".mp4") if self._save else None
        bar = tqdm(shown.frames, shown.name, shown.length or None, unit=" frames", leave=False)
        with suppress(KeyboardInterrupt), _video(target, shown.rate) as keep, bar:
            for number, pixels in enumerate(bar, 1):
                found = self._model(pixels)
                if self._lines:
                    line = {"source": source, "frame": number - 1, "boxes": as_data(found)}
                    print(json.dumps(line), flush=True)
                if target:
                    keep(draw_boxes(pixels, found))
                began = began or time.perf_counter()  # what prepares the network does not count
        rate = (number - 1) / (time.perf_counter() - began)
        said = f"{shown.name}: {number} frames" + (f", {rate:.1f} frames a second" if number > 1 else "")
        print(said, file=sys.stderr if self._lines else sys.stdout)

    def _target(self, source: Path, suffix: str) -> Path:
        """A file of the same name in the folder for pictures; a second one of that name gets a number.

        Raises:
            SaveError: one of the given files has that name.
        """
        names = (f"{source.stem}{f'-{n}' if n > 1 else ''}{suffix}" for n in itertools.count(1))
        name = next(name for name in names if name.casefold() not in self._taken)
        self._taken.add(name.casefold())  # on some disks, a.jpg and A.jpg are one file
        target = self._save / name
        if target.exists() and _identity(target) in self._given:
            raise SaveError(f"{target} would be overwritten: save into another folder than {self._save}")
        return target

    def summary(self) -> str:
        """How fast photographs were; the first of a shape, for which the network is prepared, left out."""
        shapes = self._seconds.values()
        said = f"{sum(map(len, shapes))} photograph(s) in {sum(map(sum, shapes)):.1f} s"
        others = [seconds for found in shapes for seconds in found[1:]]
        return said + (f", {1000 * median(others):.0f} ms each (median)" if others else "")


def _identity(path: Path) -> tuple[int, int]:
    """The same for two names of one file."""
    found = path.stat()
    return found.st_dev, found.st_ino


def _identities(sources: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Of all files that were given, those in folders included."""
    for source in map(Path, sources):
        paths = source.iterdir() if source.is_dir() else [source]
        yield from (_identity(path) for path in paths if path.exists())


@contextmanager
def _noted(failed: list[PictureError]) -> Iterator[None]:
    try:
        yield
    except PictureError as error:
        failed.append(error)


@contextmanager
def _video(target: Path | None, rate: float) -> Iterator[Callable[[np.ndarray], None]]:
    """A function that takes frames; the file appears under its name when it is whole.

    Raises:
        SaveError, OSError: it cannot be written.
    """
    if target is None:
        yield lambda _: None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = target.with_name(f".{target.stem}.new.mp4")
    writer: list[cv2.VideoWriter] = []

    def keep(pixels: np.ndarray) -> None:
        if not writer:
            height, width = pixels.shape[:2]
            opened = cv2.VideoWriter(str(aside), cv2.VideoWriter.fourcc(*"mp4v"), rate, (width, height))
            if not opened.isOpened():
                raise SaveError(f"{target} cannot be written as a video")
            writer.append(opened)
        writer[0].write(cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR))

    try:
        yield keep
    finally:
        for opened in writer:
            opened.release()
        if writer:
            os.replace(aside, target)
