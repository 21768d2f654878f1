"""How does any runtime look the same? ``detector(batch)`` → raw head output.

Three runtimes (PyTorch, ONNX Runtime, OpenVINO) behind one face: a float32 batch (N, channels, H, W),
RGB or grey, values in 0…1, goes in; the head's float32 output (N, 4 + classes, anchors) comes out, for
YOLOv8n (N, 84, anchors): 4 box numbers (centre x, centre y, width, height in input pixels) and the class
scores of each anchor. A detector that ``takes_pixels`` is given the uint8 pixels themselves, (N, H, W, 3).
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from .errors import ModelCompressionError
from .machine import cpu
from .subject import YOLOV8N, Subject

PROBE = 64  # pixels, or twice the largest stride
BEST = 300  # detections that a head without suppression gives


class DetectorError(ModelCompressionError, RuntimeError):
    """A model cannot be loaded or is no detector of its subject; the message says what to do."""


class Detector(Protocol):
    """What every runtime offers.

    ``execution_precision`` is the number format the CPU computes in, which need not be the one that
    the file stores. ``subject`` says what is detected, and how the network sees a photograph.
    """

    runtime: str
    execution_precision: str
    threads: int
    takes_pixels: bool
    subject: Subject

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """What ``images.prepared`` makes of images → (N, 4 + classes, anchors) float32, the caller's own."""
        ...


class TorchDetector:
    """A PyTorch model: eager, BatchNorm folded into the convolutions.

    Args:
        source: path of an ultralytics checkpoint (its sha256 checked beforehand: it is a pickle), or
            a ready ``torch.nn.Module``.
        threads: intra-op threads.
        channels_last: keep activations and weights in NHWC order, which oneDNN's kernels prefer.
        precision: ``f32``, or ``bf16``: convolutions under ``torch.autocast``.
        subject: what the model detects; YOLOv8n's classes of COCO by default.
    """

    runtime = "PyTorch"
    takes_pixels = False

    def __init__(
        self,
        source: Path | Any,
        threads: int = 2,
        channels_last: bool = False,
        precision: str = "f32",
        subject: Subject = YOLOV8N,
    ) -> None:
        torch = library("torch")
        self.subject = subject
        self.threads = positive(threads)
        if precision not in ("f32", "bf16"):
            raise DetectorError(f"PyTorch computes in f32 or bf16 on a CPU, not in {precision}")
        self.execution_precision = _executable(precision)
        self.model = load_yolo(source) if isinstance(source, str | Path) else source.eval()
        self._layout = torch.channels_last if channels_last else torch.contiguous_format
        self.model.to(memory_format=self._layout)
        if channels_last:
            self.runtime = "PyTorch, channels_last"
        try_out(self, "the model")

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        import torch

        # PyTorch has one pool for the whole process; another detector may have resized it.
        if torch.get_num_threads() != self.threads:
            torch.set_num_threads(self.threads)
        half = torch.autocast("cpu", torch.bfloat16, enabled=self.execution_precision == "bf16")
        with torch.inference_mode(), half:
            images = torch.from_numpy(batch).contiguous(memory_format=self._layout)
            output = self.model(images)
        found = output[0] if isinstance(output, tuple | list) else output
        return as_scores(found.float().numpy(), self.subject)


class FromFile:
    """Travels to other processes as its constructor's arguments: they read the same file there."""

    def __new__(cls, path: Path | str, *arguments: Any, **named: Any) -> Self:
        self = super().__new__(cls)
        self._constructor = partial(cls, Path(path).absolute(), *arguments, **named)
        return self

    def __reduce__(self) -> tuple[partial, tuple]:
        return self._constructor, ()


class OnnxDetector(FromFile):
    """An ``.onnx`` file under ONNX Runtime's CPU provider.

    Args:
        exact: add up INT8 products by instructions that cannot saturate, at some of the speed. None: only
            where the CPU's fastest ones do (`machine.Cpu.saturates`) and the same file would detect worse;
            on other CPUs it changes no output and only costs time.
        subject: what the file was made of.
    """

    runtime = "ONNX Runtime"
    takes_pixels = False

    def __init__(
        self, path: Path | str, threads: int = 2, exact: bool | None = None, subject: Subject = YOLOV8N
    ) -> None:
        ort = library("onnxruntime")
        self.subject = subject
        self.threads = positive(threads)
        self.path = existing(path)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.exact = cpu().saturates if exact is None else exact
        options.add_session_config_entry("session.x64quantprecision", "1" if self.exact else "0")
        try:
            self.session = ort.InferenceSession(str(self.path), options, providers=["CPUExecutionProvider"])
        except Exception as error:
            raise DetectorError(f"{self.path} is no readable ONNX model: {reason_of(error)}") from None
        self.execution_precision = "int8, rest f32" if _has_quantizers(self.path) else "f32"
        self._input = self.session.get_inputs()[0].name
        free = self.session.get_inputs()[0].shape  # names stand for free dimensions
        try_out(self, str(path), [d if isinstance(d, int) else None for d in free])

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return as_scores(self.session.run(None, {self._input: batch})[0], self.subject)


class OpenVinoDetector(FromFile):
    """An OpenVINO ``.xml`` (with its ``.bin``), or an ``.onnx`` file, compiled for the CPU.

    Args:
        path: the file; or the folder that ``YOLO(…).export(format="openvino")`` returns.
        precision: ``f32``, ``bf16`` or ``f16``: the format in which what is not quantized executes.
            It is pinned because OpenVINO's own default is bf16 wherever the CPU has AMX: twice as
            fast and not the same numbers.
        shape: fixed input shape for a model exported with free dimensions; None leaves it as it is.
        subject: what the file was made of.
    """

    runtime = "OpenVINO"
    takes_pixels = False

    def __init__(
        self,
        path: Path | str,
        threads: int = 2,
        precision: str = "f32",
        hint: str = "LATENCY",
        shape: tuple[int, ...] | None = None,
        subject: Subject = YOLOV8N,
    ) -> None:
        self.subject = subject
        self.threads = positive(threads)
        self.path = openvino_file(path)
        settings = openvino_settings(threads, precision, hint)
        core = library("openvino").Core()
        try:
            model = core.read_model(self.path)
            if shape:
                model.reshape(list(shape))
            self.compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise DetectorError(f"{self.path} is no readable model: {reason_of(error)}") from None
        self.execution_precision = openvino_precision(self.compiled, model)
        dims = [d.get_length() if d.is_static else None for d in model.inputs[0].partial_shape]
        try_out(self, str(path), dims)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return as_scores(self.compiled(batch)[0], self.subject)


def as_scores(output: np.ndarray, subject: Subject) -> np.ndarray:
    """What a head gives, in the form that all detectors give: (N, 4 + classes, anchors).

    A head that needs no suppression gives its best detections (N, n, 6): two corners, score, class.
    """
    if not subject.end2end or output.ndim != 3 or output.shape[2] != 6:
        return output
    corners, score, category = output[..., :4], output[..., 4], output[..., 5]
    found = np.zeros((len(output), 4 + subject.classes, output.shape[1]), np.float32)
    found[:, :2] = ((corners[..., :2] + corners[..., 2:]) / 2).transpose(0, 2, 1)
    found[:, 2:4] = (corners[..., 2:] - corners[..., :2]).transpose(0, 2, 1)
    np.put_along_axis(found[:, 4:], category.astype(int)[:, None], score[:, None], 1)
    return found


def openvino_settings(threads: int, precision: str, hint: str) -> dict[str, Any]:
    return {
        "PERFORMANCE_HINT": hint,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": _executable(precision),
    }


def openvino_precision(compiled: Any, model: Any) -> str:
    rest = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
    has_integers = any(op.get_type_name() == "FakeQuantize" for op in model.get_ops())
    return f"int8, rest {rest}" if has_integers else rest


def _has_quantizers(path: Path) -> bool:
    """Whether an ``.onnx`` file quantizes activations; integer weights alone compute in f32."""
    nodes = library("onnx").load(path, load_external_data=False).graph.node
    return any(node.op_type in ("QuantizeLinear", "DynamicQuantizeLinear") for node in nodes)


def _executable(precision: str) -> str:
    """The floating-point format, if this CPU executes it.

    Raises:
        DetectorError: it does not; the runtimes would compute in f32, or slowly, without a word.
    """
    if precision == "f32":
        return precision
    spelling = {"FP32": "f32", "BF16": "bf16", "FP16": "f16"}
    capabilities = library("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    supported = {"f32"} | {spelling[name] for name in capabilities if name in spelling}
    if precision not in supported:
        raise DetectorError(
            f"this CPU does not execute {precision}: choose one of {', '.join(sorted(supported))}"
        )
    return precision


def load_yolo(path: Path | str) -> Any:
    """The fused, float32, evaluation-mode ``torch.nn.Module`` of an ultralytics checkpoint.

    Exactly this file is opened. Ultralytics itself takes a path for a name that it may complete, correct
    (``yolov5n.pt`` → ``yolov5nu.pt``) or strip of apostrophes, and then unpickles what it finds there.

    Raises:
        DetectorError: there is no such file, or it is no checkpoint.
    """
    ultralytics = library("ultralytics")
    path = existing(path)
    with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
        copy = Path(folder, "checkpoint.pt")
        if not is_taken_literally(copy):
            raise DetectorError(f"TMPDIR={tempfile.gettempdir()}: set it to a folder without an apostrophe")
        shutil.copyfile(path, copy)
        try:
            yolo = ultralytics.YOLO(copy, task="detect")
        except Exception as error:
            reason = reason_of(error).replace(str(copy), path.name)
            raise DetectorError(f"{path} is no ultralytics checkpoint: {reason}") from None
    yolo.model.pt_path = str(path.absolute())
    return yolo.model.float().fuse(verbose=False).eval()


def is_taken_literally(path: Path) -> bool:
    """Whether ultralytics opens the file of this path, and not that of one similar to it."""
    checks = library("ultralytics").utils.checks
    return checks.check_yolov5u_filename(str(path).strip().replace("'", ""), verbose=False) == str(path)


def library(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise DetectorError(f"{module} is not installed: pip install -r requirements.txt") from None


def existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise DetectorError(f"{path} does not exist: check the path, or export the model first")
    return path


def openvino_file(path: Path | str) -> Path:
    """The file of an OpenVINO model; of a folder, the only ``.xml`` in it.

    Raises:
        DetectorError: there is none, or a folder with several.
    """
    path = Path(path)
    if not path.is_dir():
        return existing(path)
    found = sorted(path.glob("*.xml"))
    if len(found) != 1:
        raise DetectorError(f"the folder {path} holds {len(found)} .xml files, not one: name the file")
    return found[0]


def positive(threads: int) -> int:
    if not isinstance(threads, int) or threads < 1:
        raise DetectorError(f"threads must be a whole number from 1, not {threads!r}")
    return threads


def try_out(detector: Detector, name: str, shape: Sequence[int | None] = (None,) * 4) -> None:
    """One forward pass on grey pixels: a model of another shape is noticed here, not after hours.

    Args:
        shape: the input shape (N, channels, H, W); None where the model leaves a dimension free.

    Raises:
        DetectorError: the model does not take that input or does not give (N, 4 + classes, anchors) for it.
    """
    subject = detector.subject
    channels, side = subject.channels, max(PROBE, 2 * max(subject.strides))
    if len(shape) != 4 or shape[1] not in (channels, None):
        raise DetectorError(f"{name} takes an input of shape {tuple(shape)}, not (N, {channels}, H, W)")
    free_sizes = (1, channels, side, side)
    batch, _, height, width = (given or free for given, free in zip(shape, free_sizes, strict=True))
    anchors = subject.anchors(height, width)
    expected = (batch, 4 + subject.classes, anchors)
    size = f"{batch}×{channels}×{height}×{width}"
    try:
        grey = np.full((batch, channels, height, width), 0.5, np.float32)
        output = detector(np.uint8(255 * grey).transpose(0, 2, 3, 1) if detector.takes_pixels else grey)
    except Exception as error:
        raise DetectorError(f"{name} cannot run on an input of {size}: {reason_of(error)}") from None
    fits = output.shape == expected
    if subject.end2end and output.ndim == 3:
        fits = output.shape[:2] == expected[:2] and output.shape[2] in (anchors, min(BEST, anchors))
    if not fits:
        kind = "COCO's 80 classes" if subject.names is None else f"these {subject.classes} classes"
        raise DetectorError(
            f"{name} gives {output.shape} for an input of {size}, not {expected}: "
            f"it is no YOLO detector for {kind}"
        )


def reason_of(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else ''}"
