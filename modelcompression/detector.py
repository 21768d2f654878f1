"""How does any runtime look the same? ``detector(batch)`` → raw head output.

Three runtimes (PyTorch, ONNX Runtime, OpenVINO) behind one face: a float32 batch (N, 3, H, W), RGB,
values in 0…1, goes in; the YOLOv8 head's float32 output (N, 84, anchors) comes out: 4 box numbers
(centre x, centre y, width, height in input pixels) and 80 class scores for each anchor. A detector that
``takes_pixels`` is given the uint8 pixels themselves, (N, H, W, 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import numpy as np

from .errors import ModelCompressionError
from .machine import cpu

CHANNELS = 84
STRIDES = (8, 16, 32)
PROBE = (1, 3, 64, 64)


class DetectorError(ModelCompressionError, RuntimeError):
    """A model cannot be loaded or is no YOLOv8 detector for COCO; the message says what to do."""


class Detector(Protocol):
    """What every runtime offers.

    ``execution_precision`` is the number format the CPU computes in, which need not be the one that
    the file stores. ``strides`` are the pixels a side of a cell at each scale; a detector that ``stretches``
    was trained on photographs stretched to its input, not padded.
    """

    runtime: str
    execution_precision: str
    threads: int
    takes_pixels: bool
    stretches: bool
    strides: tuple[int, ...]

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """What ``images.prepared`` makes of images → (N, 84, anchors) float32, a copy the caller owns."""
        ...


class TorchDetector:
    """A PyTorch model: eager, BatchNorm folded into the convolutions.

    Args:
        source: path of an ultralytics checkpoint (its sha256 checked beforehand: it is a pickle), or
            a ready ``torch.nn.Module``.
        threads: intra-op threads.
        channels_last: keep activations and weights in NHWC order, which oneDNN's kernels prefer.
        precision: ``f32``, or ``bf16``: convolutions under ``torch.autocast``.
    """

    runtime = "PyTorch"
    takes_pixels = False
    stretches = False
    strides = STRIDES

    def __init__(
        self, source: Path | Any, threads: int = 2, channels_last: bool = False, precision: str = "f32"
    ) -> None:
        torch = library("torch")
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
        return (output[0] if isinstance(output, tuple | list) else output).float().numpy()


class FromFile:
    """Travels to other processes as its constructor's arguments: they read the same file there."""

    stretches = False
    strides = STRIDES

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
    """

    runtime = "ONNX Runtime"
    takes_pixels = False

    def __init__(self, path: Path | str, threads: int = 2, exact: bool | None = None) -> None:
        ort = library("onnxruntime")
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
        return self.session.run(None, {self._input: batch})[0]


class OpenVinoDetector(FromFile):
    """An OpenVINO ``.xml`` (with its ``.bin``), or an ``.onnx`` file, compiled for the CPU.

    Args:
        precision: ``f32``, ``bf16`` or ``f16``: the format in which what is not quantized executes.
            It is pinned because OpenVINO's own default is bf16 wherever the CPU has AMX: twice as
            fast and not the same numbers.
        shape: fixed input shape for a model exported with free dimensions; None leaves it as it is.
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
    ) -> None:
        self.threads = positive(threads)
        self.path = existing(path)
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
        return self.compiled(batch)[0]


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
    """The fused, float32, evaluation-mode ``torch.nn.Module`` of an ultralytics checkpoint."""
    ultralytics = library("ultralytics")
    try:
        yolo = ultralytics.YOLO(str(existing(path)), task="detect")
    except DetectorError:
        raise
    except Exception as error:
        raise DetectorError(f"{path} is no ultralytics checkpoint: {reason_of(error)}") from None
    return yolo.model.float().fuse(verbose=False).eval()


def library(module: str) -> Any:
    try:
        return __import__(module)
    except ImportError:
        raise DetectorError(f"{module} is not installed: pip install -r requirements.txt") from None


def existing(path: Path | str) -> Path:
    path = Path(path)
    if not path.is_file():
        raise DetectorError(f"{path} does not exist: export the model first")
    return path


def positive(threads: int) -> int:
    if not isinstance(threads, int) or threads < 1:
        raise DetectorError(f"threads must be a whole number from 1, not {threads!r}")
    return threads


def try_out(detector: Detector, name: str, shape: Sequence[int | None] = (None,) * 4) -> None:
    """One forward pass on grey pixels: a model of another shape is noticed here, not after hours.

    Args:
        shape: the input shape (N, 3, H, W); None where the model leaves a dimension free.

    Raises:
        DetectorError: the model does not take that input or does not give (N, 84, anchors) for it.
    """
    if len(shape) != 4 or shape[1] not in (3, None):
        raise DetectorError(f"{name} takes an input of shape {tuple(shape)}, not (N, 3, H, W)")
    batch, _, height, width = (given or free for given, free in zip(shape, PROBE, strict=True))
    anchors = sum(-(-height // stride) * -(-width // stride) for stride in detector.strides)
    size = f"{batch}×3×{height}×{width}"
    try:
        grey = np.full((batch, 3, height, width), 0.5, np.float32)
        output = detector(np.uint8(255 * grey).transpose(0, 2, 3, 1) if detector.takes_pixels else grey)
    except Exception as error:
        raise DetectorError(f"{name} cannot run on an input of {size}: {reason_of(error)}") from None
    if output.shape != (batch, CHANNELS, anchors):
        raise DetectorError(
            f"{name} gives {output.shape} for an input of {size}, not {(batch, CHANNELS, anchors)}: "
            "it is no YOLOv8 detector for COCO's 80 classes"
        )


def reason_of(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1][:200] if lines else ''}"
