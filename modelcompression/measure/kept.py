"""What was measured before somebody pulled the plug? Parts of a long measurement, on disk."""

from __future__ import annotations

import hashlib
import io
import shutil
import zipfile
import zlib
from pathlib import Path

import numpy as np

from .. import files
from ..assets import ImageSet
from .accuracy import Evaluation
from .fresh import Times


class Kept:
    """A folder of parts of one measurement; each appears whole or not at all.

    Args:
        folder: holds the parts, and nothing else.
        identity: everything that the parts depend on together, such as code and machine. Parts of another
            identity are not found; they are removed with the first new one.
    """

    def __init__(self, folder: Path, identity: str) -> None:
        self._root, self._folder = folder, folder / _digest(identity)

    def evaluation(self, name: str, images: ImageSet) -> Evaluation | None:
        """The evaluation of these photographs, annotated as they are, if there is one."""
        part = self._read(f"{name} {images.digest}")
        if part is None:
            return None
        cuts = np.cumsum(part["counts"])[:-1]
        found, correct = (np.split(part[key], cuts) for key in ("detections", "correct"))
        return Evaluation(images, found, correct, [sample.classes for sample in images.samples])

    def keep_evaluation(self, name: str, evaluation: Evaluation) -> None:
        """Write an evaluation.

        Raises:
            OSError: the disk is full, for example.
        """
        counts = [len(found) for found in evaluation.detections]
        found, correct = np.concatenate(evaluation.detections), np.concatenate(evaluation.correct)
        name = f"{name} {evaluation.images.digest}"
        self._write(name, counts=np.array(counts), detections=found, correct=correct)

    def times(self, name: str) -> Times | None:
        """The timings of one process, if there are any."""
        part = self._read(name)
        return None if part is None else Times(part["forward"], part["pipeline"])

    def keep_times(self, name: str, times: Times) -> None:
        """Write the timings of one process; raises as ``keep_evaluation``."""
        self._write(name, forward=times.forward, pipeline=times.pipeline)

    def forget(self) -> None:
        """The measurement is complete: remove all parts."""
        shutil.rmtree(self._root, ignore_errors=True)

    def _read(self, name: str) -> dict[str, np.ndarray] | None:
        path = self._folder / f"{_digest(name)}.npz"
        try:
            with np.load(path, allow_pickle=False) as part:
                return dict(part)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error):  # none, or damaged
            return None

    def _write(self, name: str, **arrays: np.ndarray) -> None:
        for other in self._root.glob("*"):
            if other != self._folder:
                shutil.rmtree(other, ignore_errors=True)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        files.replace({self._folder / f"{_digest(name)}.npz": buffer.getvalue()})


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]
