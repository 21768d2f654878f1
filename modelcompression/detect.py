"""From a photograph to boxes, with a packed checkpoint and nothing else.

    from modelcompression.detect import Model

    model = Model("models/small.mcpk")
    print(model("photo.jpg"))
    model.drawn("photo.jpg").save("boxes.jpg")

A file that holds an INT8 graph runs under OpenVINO as a lean graph, on rectangles: neither PyTorch nor
ultralytics is loaded, and the model is ready within about a second. Any other runs under PyTorch.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .boxes import CONFIDENCE, NMS_IOU, Box, best_boxes, draw_boxes
from .cards import model_file
from .detector import Detector, DetectorError, openvino_file, openvino_settings, positive, reason_of
from .frames import photograph
from .images import fit, prepared, to_original
from .machine import usable_cores
from .packed.container import opened
from .packed.graphs import unpacked_graph
from .subject import YOLOV8N, Subject, class_names

if TYPE_CHECKING:
    from PIL.Image import Image


class Model:
    """A packed checkpoint, ready to detect.

    Args:
        model: path of a ``.mcpk`` file, the name of one in ``models/``, or a folder as ``compress`` writes,
            with an OpenVINO graph that came by way of ONNX and its ``metadata.yaml``; None: the fastest of
            ``models/``.
        confidence: boxes with less are left out; 0…1.
        size: long side of the network's input in pixels, a multiple of its largest stride (of 32 at least);
            None: that of the file's INT8 graph, or else that of its training.
        threads: None: one for each core that this process may use.
        square: pad photographs to squares instead of rectangles, for models that detect better so.

    Raises:
        ModelMissing: there is no such file.
        PackedCheckpointError: it is no packed checkpoint, or damaged.
        DetectorError: an argument is out of range, or the network is no detector of ultralytics'.
    """

    def __init__(
        self,
        model: str | Path | None = None,
        confidence: float = CONFIDENCE,
        size: int | None = None,
        threads: int | None = None,
        square: bool = False,
    ) -> None:
        if not 0 < confidence < 1:
            raise DetectorError(f"confidence must be between 0 and 1, not {confidence}")
        if size is not None:
            _check_size(size, YOLOV8N.multiple)  # of other networks it is no smaller
        self.path = Path(model) if model and Path(model).is_dir() else model_file(model)
        self.confidence, self._square = confidence, square
        self.detector, own = _loaded(self.path, usable_cores() if threads is None else threads)
        self.names = self.detector.subject.names or tuple(class_names().values())
        self.size = own if size is None else size
        _check_size(self.size, self.detector.subject.multiple)

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
        small, scale, offset = fit(pixels, self.size, self._square, self.detector.subject.multiple)
        rows = self.detector(prepared(self.detector, small))[0].T
        found = best_boxes(rows, self.confidence, self.detector.subject.nms_iou(NMS_IOU))
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


def _loaded(path: Path, threads: int) -> tuple[Detector, int]:
    """A detector, and the size of its input unless another is wished for."""
    if path.is_dir():
        file = openvino_file(path)
        names, end2end = _described(path / "metadata.yaml")
        lean = _Lean(path, (str(file), str(file.with_suffix(".bin"))), threads, names, end2end)
        return lean, lean.size
    header, _ = opened(path)
    if "int8" in header["graphs"]:
        architecture = header["architecture"]
        names = tuple(architecture.names)
        lean = _Lean(path, unpacked_graph(path), threads, names, architecture.end2end)
        return lean, lean.size
    from .detector import TorchDetector
    from .packed import checkpoint

    model = checkpoint.load(path).model
    return TorchDetector(model, threads, subject=Subject.of(model)), model.args["imgsz"]


def _described(file: Path) -> tuple[tuple[str, ...], bool]:
    """Class names from what ultralytics writes beside an exported graph, and whether it needs suppression."""
    import yaml

    try:
        found = yaml.safe_load(file.read_text(encoding="utf8"))
        return tuple(str(name) for name in found["names"].values()), bool(found.get("end2end"))
    except (OSError, yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError, AttributeError):
        raise DetectorError(
            f"{file} does not name the classes: give the whole folder that the export has written"
        ) from None


def _check_size(size: int, multiple: int) -> None:
    if size < multiple or size % multiple:
        raise DetectorError(f"the input size must be a multiple of {multiple}, not {size}")


class _Lean:
    """An exported graph, compiled when photographs of a new shape come.

    Unlike ``LeanDetector`` it writes no file and compiles nothing to try it out, so that the first
    photograph is seen early.
    """

    runtime = "OpenVINO, lean graph"
    takes_pixels = True

    def __init__(
        self, path: Path, graph: tuple[Any, Any], threads: int, names: tuple[str, ...], end2end: bool
    ) -> None:
        import openvino

        from .methods.lean import strides_of

        self._path, self._graph, self.threads = path, graph, threads
        self._settings = openvino_settings(positive(threads), "f32", "LATENCY")
        self._compiled: dict[tuple[int, ...], Any] = {}
        try:
            read = openvino.Core().read_model(*graph)
            strides = strides_of(read)
            _, channels, *sides = read.inputs[0].shape
        except (ValueError, RuntimeError, IndexError) as error:
            raise DetectorError(f"{path} has no lean form: {reason_of(error)}") from None
        integers = any(op.get_type_name() == "FakeQuantize" for op in read.get_ops())
        self.execution_precision = "int8, rest f32" if integers else "f32"
        self.size = max(sides)
        self.subject = Subject(names, len(names), channels, strides, end2end=end2end)

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
        classes = graph.output(0).shape[2] - 4
        if classes != self.subject.classes:
            names = self.subject.classes
            raise DetectorError(f"{self._path} detects {classes} classes, but has {names} names")
        return core.compile_model(graph, "CPU", self._settings)


def _pixels(picture: str | Path | np.ndarray) -> np.ndarray:
    if not isinstance(picture, np.ndarray):
        return photograph(picture)
    if picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3 or not picture.size:
        raise DetectorError(f"pixels must be (H, W, 3) uint8 RGB, not {picture.shape} {picture.dtype}")
    return picture
