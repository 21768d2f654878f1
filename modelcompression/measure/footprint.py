"""How big is it? Bytes of the files one would ship, true zeros, bits per weight."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..detector import DetectorError
from ..ncnn_file import layers
from ..packed import container
from ..subject import PARAMETERS

MEGABYTE = 2**20


def shipped(path: Path | str) -> list[Path]:
    """All files that belong to a model: an OpenVINO ``.xml`` and a ``.param`` of ncnn bring their ``.bin``.

    Raises:
        FileNotFoundError: a file is missing.
    """
    path = Path(path)
    files = [path, path.with_suffix(".bin")] if path.suffix in (".xml", ".param") else [path]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(f"{file} does not exist: a model ships all of its files")
    return files


def size_mb(files: Iterable[Path | str]) -> float:
    """Bytes on disk of all files, in MB of 2^20 bytes as in the original table."""
    return sum(Path(file).stat().st_size for file in files) / MEGABYTE


def bits_per_weight(files: Iterable[Path | str], parameters: int = PARAMETERS) -> float:
    """All shipped bits over the parameters before compression, YOLOv8n's 3,151,904: 32 for plain float32."""
    return size_mb(files) * MEGABYTE * 8 / parameters


def sparsity(model: Path | str | Any) -> float:
    """Share of exact zeros among the convolution weights, counted on what is shipped.

    Args:
        model: a ``torch.nn.Module``, an ``.onnx``, an OpenVINO ``.xml``, a ``.param`` of ncnn or a packed
            checkpoint.
    """
    zeros = total = 0
    for weight in convolution_weights(model):
        zeros += weight.size - np.count_nonzero(weight)
        total += weight.size
    if not total:
        raise DetectorError(f"{model} has no convolution weights to count")
    return zeros / total


def convolution_weights(model: Path | str | Any) -> Iterator[np.ndarray]:
    """The weight arrays of all convolutions, as stored (float16 and integers are left as they are)."""
    if not isinstance(model, str | Path):
        return _torch_weights(model)
    path = Path(model)
    readers = {
        ".onnx": _onnx_weights,
        ".xml": _openvino_weights,
        ".pt": _checkpoint_weights,
        ".mcpk": _packed_weights,
        ".param": _ncnn_weights,
    }
    if path.suffix not in readers:
        raise DetectorError(f"{path}: cannot look for weights in a '{path.suffix}' file")
    return readers[path.suffix](path)


def _torch_weights(model: Any) -> Iterator[np.ndarray]:
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            yield module.weight.detach().cpu().numpy()


def _checkpoint_weights(path: Path) -> Iterator[np.ndarray]:
    from ..detector import load_yolo

    return _torch_weights(load_yolo(path))


def _packed_weights(path: Path) -> Iterator[np.ndarray]:

    return (value for value in container.read(path).values() if value.ndim == 4)


def _ncnn_weights(path: Path) -> Iterator[np.ndarray]:
    return (layer.weight for layer in layers(path) if layer.weight is not None)


def _onnx_weights(path: Path) -> Iterator[np.ndarray]:
    import onnx
    from onnx import numpy_helper

    graph = onnx.load(path).graph
    stored = {tensor.name: tensor for tensor in graph.initializer}
    producers = {output: node for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type == "Conv":
            name = node.input[1]
            while name not in stored:  # through Cast and DequantizeLinear
                name = producers[name].input[0]
            yield numpy_helper.to_array(stored[name])


def _openvino_weights(path: Path) -> Iterator[np.ndarray]:
    import openvino

    for node in openvino.Core().read_model(path).get_ordered_ops():
        if node.get_type_name() in ("Convolution", "GroupConvolution"):
            source = node.input_value(1).get_node()
            while source.get_type_name() != "Constant":  # through Convert, Subtract, Multiply
                source = source.input_value(0).get_node()
            yield source.get_data()
