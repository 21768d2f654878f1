"""From a photograph to boxes, with a packed checkpoint and nothing else.

    from modelcompression.detect import Model

    model = Model("models/small.mcpk")
    print(model("photo.jpg"))
    model.drawn("photo.jpg").save("boxes.jpg")

A file that holds an INT8 graph runs under OpenVINO as a lean graph, on rectangles: neither PyTorch nor
ultralytics is loaded, and the model is ready within about a second. Any other runs under PyTorch.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .boxes import CONFIDENCE, Box, best_boxes, draw_boxes
from .cards import model_file
from .detector import Detector, DetectorError, openvino_settings, positive, reason_of
from .frames import photograph
from .images import fit, prepared, to_original
from .packed.container import opened
from .packed.graphs import unpacked_graph
from .subject import class_names

if TYPE_CHECKING:
    from PIL.Image import Image


class Model:
    """A packed checkpoint, ready to detect.

    Args:
        model: path of a ``.mcpk`` file, or the name of one in ``models/``; None: the fastest of ``models/``.
        confidence: boxes with less are left out; 0…1.
        size: long side of the network's input in pixels, a multiple of 32.
        threads: None: one for each core that this process may use.

    Raises:
        ModelMissing: there is no such file.
        PackedCheckpointError: it is no packed checkpoint, or damaged.
        DetectorError: an argument is out of range, or the network is no YOLOv8 detector.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        confidence: float = CONFIDENCE,
        size: int = 640,
        threads: int | None = None,
    ) -> None:
        if not 0 < confidence < 1:
            raise DetectorError(f"confidence must be between 0 and 1, not {confidence}")
        if size < 32 or size % 32:
            raise DetectorError(f"the input size must be a multiple of 32, not {size}")
        self.path = model_file(model)
        self.confidence, self.size = confidence, size
        self.names = class_names()
        self.detector = self._loaded(_cores() if threads is None else threads)

    def __call__(self, picture: str | Path | np.ndarray) -> list[Box]:
        """What is in a photograph.

        Args:
            picture: a path, or (H, W, 3) uint8 RGB pixels.

        Returns:
            the boxes, most confident first, at most 300.

        Raises:
            PictureError: the file is not there, or no photograph.
        """
        pixels = _pixels(picture)
        small, scale, offset = fit(pixels, self.size, square=False)
        rows = self.detector(prepared(self.detector, small))[0].T
        found = best_boxes(rows, self.confidence)
        corners = to_original(found[:, :4], scale, offset)
        height, width = pixels.shape[:2]
        corners = np.clip(corners, 0, [width, height, width, height])
        return [
            Box(self.names[int(category)], round(float(sure), 4), *(round(float(x), 1) for x in box))
            for box, (sure, category) in zip(corners, found[:, 4:], strict=True)
        ]

    def drawn(self, picture: str | Path | np.ndarray) -> Image:
        """A photograph with its boxes, which a notebook shows and ``.save("boxes.jpg")`` keeps."""
        from PIL import Image

        pixels = _pixels(picture)
        return Image.fromarray(draw_boxes(pixels, self(pixels)))

    def _loaded(self, threads: int) -> Detector:
        header, _ = opened(self.path)
        if "int8" not in header["graphs"]:
            from .detector import TorchDetector
            from .packed import checkpoint

            return TorchDetector(checkpoint.load(self.path).model, threads)
        return _Lean(self.path, threads, 4 + len(self.names))


class _Lean:
    """The INT8 graph of a packed checkpoint, compiled when photographs of a new shape come.

    Unlike ``LeanDetector`` it writes no file and compiles nothing to try it out, so that the first
    photograph is seen early.
    """

    runtime, execution_precision = "OpenVINO, lean graph", "int8, rest f32"
    takes_pixels, stretches, strides = True, False, (8, 16, 32)

    def __init__(self, path: Path, threads: int, columns: int) -> None:
        self._path, self._columns, self.threads = path, columns, threads
        self._settings = openvino_settings(positive(threads), "f32", "LATENCY")
        self._graph = unpacked_graph(path)
        self._compiled: dict[tuple[int, ...], Any] = {}

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        if batch.shape not in self._compiled:
            self._compiled[batch.shape] = self._compile(*batch.shape[:3])
        return self._compiled[batch.shape](batch)[0].transpose(0, 2, 1)

    def _compile(self, batch: int, height: int, width: int) -> Any:
        import openvino

        from .methods.lean import lean

        core = openvino.Core()
        try:
            graph = lean(core.read_model(*self._graph), height, width, batch)
        except (ValueError, RuntimeError) as error:
            raise DetectorError(f"{self._path} has no lean form: {reason_of(error)}") from None
        classes, names = graph.output(0).shape[2] - 4, self._columns - 4
        if classes != names:
            raise DetectorError(f"{self._path} detects {classes} classes, but has {names} names")
        return core.compile_model(graph, "CPU", self._settings)


def _pixels(picture: str | Path | np.ndarray) -> np.ndarray:
    if not isinstance(picture, np.ndarray):
        return photograph(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise DetectorError(f"pixels must be (H, W, 3) uint8 RGB, not {picture.shape} {picture.dtype}")
    return picture


def _cores() -> int:
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
