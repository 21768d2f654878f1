"""How big is it? Bytes of the files one would ship, true zeros, bits per weight."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..detector import DetectorError, openvino_file, reason_of
from ..errors import ModelCompressionError
from ..ncnn_file import layers
from ..packed import container
from ..subject import PARAMETERS

MEGABYTE = 2**20


class ShippingError(ModelCompressionError, FileNotFoundError):
    """What should be shipped is not all there, or does not load by itself; the message says what is wrong."""


def shipped(path: Path | str) -> list[Path]:
    """All files that a runtime opens when it loads a model, the model itself first.

    An OpenVINO ``.xml`` and a ``.param`` of ncnn bring their ``.bin``, an ``.onnx`` the files with its
    external data; the folder that ``YOLO(…).export(format="openvino")`` returns stands for its ``.xml``.

    Raises:
        ShippingError: a file is missing, or external data do not lie beside their ``.onnx``.
    """
    path = Path(path)
    path = openvino_file(path) if path.is_dir() else path
    if not path.is_file():
        raise ShippingError(f"{path} does not exist: a model ships all of its files")
    files = [path]
    if path.suffix in (".xml", ".param"):
        files.append(path.with_suffix(".bin"))
    elif path.suffix == ".onnx":
        files += [path.parent / location for location in _external_data(path)]
    for file in files:
        if file.parent != path.parent:
            raise ShippingError(f"{path} keeps data in {file}: save them beside it, or all in one file")
        if not file.is_file():
            raise ShippingError(f"{file} does not exist: a model ships all of its files")
    return files


def all_shipped(ships: Iterable[Path | str]) -> list[Path]:
    """The files of all models, each once; see `shipped`."""
    return list(dict.fromkeys(file for path in ships for file in shipped(path)))


def require_loadable(files: Sequence[Path]) -> None:
    """Load the first file, a model, from copies of all in an empty folder, as whoever gets them has to.

    Raises:
        ShippingError: two files have the same name, or the model does not load there.
        DetectorError: it has no convolution weights.
    """
    names = [file.name for file in files]
    if len(set(names)) < len(names):
        raise ShippingError(f"{', '.join(map(str, files))}: two files of one name cannot be shipped")
    with tempfile.TemporaryDirectory() as folder:
        copies = [Path(shutil.copyfile(file, Path(folder, file.name))) for file in files]
        try:
            weights = list(convolution_weights(copies[0]))
        except DetectorError:
            raise
        except Exception as error:
            raise ShippingError(f"{files[0]} does not load from what it ships: {reason_of(error)}") from None
    if not weights:
        raise DetectorError(f"{files[0]} has no convolution weights to count")


def size_mb(files: Iterable[Path | str]) -> float:
    """Bytes on disk of all files, those that they need (`shipped`) included, in MB of 2^20 bytes as in the
    original table."""
    return sum(file.stat().st_size for file in all_shipped(files)) / MEGABYTE


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


def _external_data(path: Path) -> list[str]:
    """Where, relative to an ``.onnx`` file, the tensors lie that are not in it."""
    import onnx
    from google.protobuf.message import DecodeError
    from onnx import external_data_helper

    try:
        model = onnx.load(path, load_external_data=False)
    except DecodeError:
        raise ShippingError(f"{path} is no readable ONNX model") from None
    tensors = filter(external_data_helper.uses_external_data, _tensors(model))
    return list(dict.fromkeys(external_data_helper.ExternalDataInfo(t).location for t in tensors))


def _tensors(message: Any) -> Iterator[Any]:
    """All tensors in a protobuf message of ONNX: initializers, attributes, those of subgraphs."""
    from onnx import TensorProto

    for field, value in message.ListFields():
        if field.message_type:
            for part in [value] if hasattr(value, "ListFields") else value:
                if isinstance(part, TensorProto):
                    yield part
                else:
                    yield from _tensors(part)


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
