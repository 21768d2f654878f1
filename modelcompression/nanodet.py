"""Was a network that was small from the start the better choice? NanoDet-Plus-m, an opponent for YOLOv8n.

A detector of 1.17 million parameters for 416×416 pixels (RangiLyu 2021, https://github.com/RangiLyu/nanodet,
Apache-2.0), as files of ncnn (https://github.com/Tencent/ncnn): a ``.param`` that lists the layers and a
``.bin`` with their weights, in float16 or in INT8. It runs in ncnn, and, rebuilt from the same files, in
OpenVINO.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from .detector import (
    DetectorError,
    FromFile,
    existing,
    library,
    openvino_precision,
    openvino_settings,
    positive,
    reason_of,
    try_out,
)
from .fetch import AssetError, download, roots, verify
from .ncnn_file import Layer, layers
from .subject import Subject

PARAMETERS = 1_186_346  # with BatchNorm folded
SIZE = 416
STRIDES = (8, 16, 32, 64)
SIDES, BINS = 4, 8
SUBJECT = Subject(strides=STRIDES, bins=BINS, parameters=PARAMETERS, stretches=True)
OUTPUTS = ("cls{}", "dis{}_pre")  # of each scale: class probabilities, logits of the distances
MEAN, DEVIATION = (103.53, 116.28, 123.675), (57.375, 57.12, 58.395)  # of blue, green, red
CHECKSUMS = {
    "nanodet-plus-m_416.param": "b93f9ff62a189aaaf00792d52bbaf20ad56ebaf2c49c8dac8d7c335d8464c362",
    "nanodet-plus-m_416.bin": "c8c23ffb33f3a39b76051516829e0ad6bfdccc77bde70700dee045580afecd24",
    "nanodet-plus-m_416_int8.param": "4e183b10cecf79d94a4ae1e6dfe26533695b6206f81674bc5484073f5ee6ce32",
    "nanodet-plus-m_416_int8.bin": "1d289656d6bfe563342520e305f139a9fb1702cc2bc843082a7c0f806e35eb00",
}
NAMES = {"float16": "nanodet-plus-m_416", "int8": "nanodet-plus-m_416_int8"}
# Calibrated by a third party with ncnn's own tools. Of the float16 files no page is known that offers them.
INT8_URL = (
    "https://raw.githubusercontent.com/Deepdive543443/Detkit-NCNN-3ds/"
    "388648dfa178561baf6fa03f37189a933e5c8a12/romfs/models"  # pragma: allowlist secret
)


def ncnn_files(weights: str) -> Path:
    """Path of the ``.param`` with the ``.bin`` beside it, found or fetched, both verified.

    Args:
        weights: ``float16`` or ``int8``.

    Raises:
        AssetError: other weights, files that are changed, or neither here nor within reach.
    """
    if weights not in NAMES:
        raise AssetError(f"NanoDet-Plus-m comes with weights in {' or '.join(NAMES)}, not in {weights}")
    names = [f"{NAMES[weights]}{suffix}" for suffix in (".param", ".bin")]
    folders = [root / "nanodet" for root in roots()]
    here = [folder for folder in folders if all((folder / name).is_file() for name in names)]
    folder = here[0] if here else folders[-1]
    if not here and weights != "int8":
        raise AssetError(f"{names[0]} and {names[1]} are not here: put them into {folder}")
    for name in names:
        if here:
            verify(folder / name, CHECKSUMS[name])
        else:
            download(f"{INT8_URL}/{name}", folder / name, CHECKSUMS[name])
    return folder / names[0]


def _network(param: Path) -> list[Layer]:
    """The layers, if they are a NanoDet-Plus; ncnn dies of a wish for an output that is not there."""
    found = list(layers(param))
    missing = {name.format(stride) for stride in STRIDES for name in OUTPUTS}
    missing -= {output for layer in found for output in layer.outputs}
    if missing:
        raise DetectorError(f"{param} is no NanoDet-Plus: it has no output {min(missing)}")
    return found


class NcnnDetector(FromFile):
    """NanoDet-Plus-m in ncnn, from a ``.param`` and the ``.bin`` beside it; floats compute in float32."""

    runtime = "ncnn"
    takes_pixels = True
    subject = SUBJECT

    def __init__(self, path: Path | str, threads: int = 2) -> None:
        ncnn = _ncnn()
        self.threads = positive(threads)
        self.path = existing(path)
        self._net = ncnn.Net()
        self._net.opt.num_threads = threads
        for half in ("fp16_packed", "fp16_storage", "fp16_arithmetic", "bf16_storage", "bf16_packed"):
            setattr(self._net.opt, f"use_{half}", False)
        weights = existing(self.path.with_suffix(".bin"))
        integers = any(x.weight is not None and x.weight.dtype == np.int8 for x in _network(self.path))
        if self._net.load_param(str(self.path)) or self._net.load_model(str(weights)):
            raise DetectorError(f"{path} is no network that ncnn can read")
        self.execution_precision = "int8, rest f32" if integers else "f32"
        try_out(self, str(path), (1, 3, SIZE, SIZE))

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return np.stack([self._one(np.ascontiguousarray(pixels)) for pixels in batch])

    def _one(self, pixels: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 → (84, anchors)."""
        ncnn, (height, width, _) = _ncnn(), pixels.shape
        image = ncnn.Mat.from_pixels(pixels, ncnn.Mat.PixelType.PIXEL_RGB2BGR, width, height)
        image.substract_mean_normalize(list(MEAN), [1 / x for x in DEVIATION])
        extractor = self._net.create_extractor()
        extractor.input("data", image)
        outputs = [
            [np.array(extractor.extract(name.format(stride))[1]) for stride in STRIDES] for name in OUTPUTS
        ]
        scores, logits = (np.concatenate([x.reshape(len(x), -1) for x in maps], 1) for maps in outputs)
        return np.concatenate([boxes(logits, *_points(height, width)), scores])


def boxes(logits: np.ndarray, points: np.ndarray, strides: np.ndarray) -> np.ndarray:
    """Expected distances to the four sides → boxes (Li et al. 2020, Generalized Focal Loss).

    Args:
        logits: (4 · 8, anchors) of the distances 0…7 in strides to the left, upper, right, lower side.
        points: (2, anchors) x, y in pixels from which they are measured.
        strides: (anchors,) pixels.

    Returns:
        (4, anchors): centre x, centre y, width, height in pixels.
    """
    bins = logits.reshape(SIDES, BINS, -1)
    bins = np.exp(bins - bins.max(1, keepdims=True))
    distances = np.einsum("sba,b->sa", bins, np.arange(BINS, dtype=np.float32)) / bins.sum(1) * strides
    first, second = points - distances[:2], points + distances[2:]
    return np.concatenate([(first + second) / 2, second - first]).astype(np.float32)


@cache
def _points(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The cells' upper left corners (2, anchors) as x, y in pixels, and their strides (anchors,)."""
    places, strides = [], []
    for stride in STRIDES:
        y, x = np.mgrid[: -(-height // stride), : -(-width // stride)] * stride
        places.append(np.stack([x, y]).reshape(2, -1))
        strides.append(np.full(x.size, stride))
    return np.concatenate(places, 1).astype(np.float32), np.concatenate(strides).astype(np.float32)


def _ncnn() -> Any:
    try:
        return library("ncnn")
    except DetectorError:
        raise DetectorError("ncnn is not installed: pip install ncnn") from None


def openvino_graph(param: Path, height: int = SIZE, width: int = SIZE) -> Any:
    """The same network as an ``openvino.Model``: layer by layer, boxes decoded in the graph.

    Args:
        param: of float weights.

    Returns:
        a graph that takes (1, height, width, 3) uint8 RGB and gives (1, anchors, 84) float32. Operations
        made of a layer bear its name, perhaps with an ending (``conv_77/bias``).

    Raises:
        DetectorError: the weights are integers, or the network has a layer unknown here.
    """
    from openvino import Model, opset13

    pixels = opset13.parameter([1, height, width, 3], np.uint8, "pixels")
    planes = opset13.transpose(opset13.convert(pixels, "f32"), [0, 3, 1, 2])
    channels = opset13.gather(planes, np.array([2, 1, 0]), 1)
    mean, deviation = (np.float32(values).reshape(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    blobs = {"data": opset13.divide(opset13.subtract(channels, mean), deviation).output(0)}
    for layer in _network(param):
        if layer.type not in ("Input", "Permute"):
            found = _translated(layer, [blobs[name] for name in layer.inputs])
            if layer.type != "Split":
                found[0].get_node().set_friendly_name(layer.name)
            blobs |= zip(layer.outputs, found, strict=True)
    scores, logits = (
        opset13.concat([_rows(blobs[name.format(stride)]) for stride in STRIDES], 1) for name in OUTPUTS
    )
    output = opset13.concat([_boxes(logits, *_points(height, width)), scores], 2)
    return Model([output.output(0)], [pixels], "nanodet")


def _translated(layer: Layer, inputs: list[Any]) -> list[Any]:
    """Outputs of one layer of ncnn, in OpenVINO's operations."""
    from openvino import opset13 as ops

    first = inputs[0]
    match layer.type:
        case "Convolution" | "ConvolutionDepthWise":
            return [_convolution(layer, first)]
        case "Pooling":
            kernel, stride, pad = ([layer.number(key)] * 2 for key in (1, 2, 3))
            return [ops.max_pool(first, stride, [1, 1], pad, pad, kernel).output(0)]
        case "Split":
            return [first] * len(layer.outputs)
        case "Concat":
            return [ops.concat(inputs, 1).output(0)]
        case "Slice":
            given = [int(size) for size in layer.numbers[0]]
            if given[0] < 0:
                return ops.split(first, 1, len(given)).outputs()
            return ops.variadic_split(first, 1, [*given[:-1], -1]).outputs()
        case "ShuffleChannel":
            _, channels, height, width = first.get_shape()
            groups = layer.number(0)
            apart = ops.reshape(first, [1, groups, channels // groups, height, width], False)
            mixed = ops.transpose(apart, [0, 2, 1, 3, 4])
            return [ops.reshape(mixed, [1, channels, height, width], False).output(0)]
        case "Interp":
            size = [side * 2 for side in list(first.get_shape())[2:]]
            return [ops.interpolate(first, size, "linear_onnx", "sizes", axes=[2, 3]).output(0)]
        case "BinaryOp":
            return [ops.add(*inputs).output(0)]
        case "Sigmoid":
            return [ops.sigmoid(first).output(0)]
    raise DetectorError(f"{layer.name}: ncnn's layer {layer.type} has no translation here")


def _convolution(layer: Layer, given: Any) -> Any:
    from openvino import opset13 as ops

    if layer.weight.dtype == np.int8:
        raise DetectorError(f"{layer.name}: integer weights stay in ncnn; take the file with float weights")
    weight, (stride, pad) = layer.weight.astype(np.float32), (layer.number(3, 1), layer.number(4))
    convolve, weight = (ops.convolution, weight[0]) if len(weight) == 1 else (ops.group_convolution, weight)
    pads, name = [pad] * 2, f"{layer.name}/multiply"
    output = convolve(given, weight, [stride] * 2, pads, pads, [1, 1], name=name)
    output = ops.add(output, layer.bias.reshape(1, -1, 1, 1), name=f"{layer.name}/bias")
    if slope := layer.numbers.get(10):
        output = ops.prelu(output, np.float32(slope))
    return output.output(0)


def _rows(blob: Any) -> Any:
    """(1, C, H, W) → (1, H · W, C)."""
    from openvino import opset13 as ops

    return ops.reshape(ops.transpose(blob, [0, 2, 3, 1]), [1, -1, list(blob.get_shape())[1]], False)


def _boxes(logits: Any, points: np.ndarray, strides: np.ndarray) -> Any:
    """As `boxes`, with anchors first: (1, anchors, 4 · 8) → (1, anchors, 4)."""
    from openvino import opset13 as ops

    bins = ops.softmax(ops.reshape(logits, [1, -1, SIDES, BINS], False), 3)
    expected = ops.matmul(bins, np.arange(BINS, dtype=np.float32)[:, None], False, False)
    distances = ops.multiply(ops.reshape(expected, [1, -1, SIDES], False), strides[None, :, None])
    left_top, right_bottom = ops.split(distances, 2, 2).outputs()
    first, second = ops.subtract(points.T[None], left_top), ops.add(points.T[None], right_bottom)
    middle = ops.multiply(ops.add(first, second), np.float32(0.5))
    return ops.concat([middle, ops.subtract(second, first)], 2)


class NanoDetOpenVino(FromFile):
    """An OpenVINO ``.xml`` made of `openvino_graph`.

    Args:
        precision: as for ``OpenVinoDetector``.
    """

    runtime = "OpenVINO"
    takes_pixels = True
    subject = SUBJECT

    def __init__(self, path: Path | str, threads: int = 2, precision: str = "f32") -> None:
        self.threads = positive(threads)
        self.path = existing(path)
        settings = openvino_settings(threads, precision, "LATENCY")
        core = library("openvino").Core()
        try:
            model = core.read_model(self.path)
            self._compiled = core.compile_model(model, "CPU", settings)
        except RuntimeError as error:
            raise DetectorError(f"{self.path} is no readable model: {reason_of(error)}") from None
        self.execution_precision = openvino_precision(self._compiled, model)
        try_out(self, str(path), (1, 3, SIZE, SIZE))

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        return self._compiled(batch)[0].transpose(0, 2, 1)
