"""What is in an ncnn network? Layers, read from its ``.param``, and weights, read from its ``.bin``.

Source: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .detector import DetectorError, existing, reason_of

MAGIC = "7767517"
HALF, INT8 = 0x01306B47, 0x000D4B38  # the words before an array in a .bin; 0: float32


@dataclass(frozen=True, eq=False)
class Layer:
    """A line of a ``.param`` file, and of a convolution the arrays that the ``.bin`` has for it."""

    type: str
    name: str
    inputs: list[str]
    outputs: list[str]
    numbers: dict[int, list[float]]
    weight: np.ndarray | None = field(default=None, repr=False)  # (groups, out, in, k, k), as stored
    bias: np.ndarray | None = field(default=None, repr=False)  # (groups · out,) float32

    def number(self, key: int, default: int = 0) -> int:
        return int(self.numbers.get(key, [default])[0])


def layers(param: Path) -> Iterator[Layer]:
    """The layers of an ncnn network, in the order of execution.

    Source: https://github.com/Tencent/ncnn/wiki/param-and-model-file-structure.

    Raises:
        DetectorError: the files are no network of ncnn, or do not belong together.
    """
    try:
        data = memoryview(existing(param.with_suffix(".bin")).read_bytes())
        lines = existing(param).read_text(encoding="ascii").splitlines()
        if lines[0] != MAGIC:
            raise ValueError(f"it begins with {lines[0][:20]}, not with {MAGIC}")
        for line in lines[2:]:
            layer = _parsed(line.split())
            if layer.type.startswith("Convolution"):
                layer, data = _with_arrays(layer, data)
            yield layer
    except (ValueError, IndexError, ZeroDivisionError) as error:
        raise DetectorError(f"{param} is no network of ncnn: {reason_of(error)}") from None
    if len(data):
        raise DetectorError(f"{param.with_suffix('.bin')} has {len(data)} bytes too many: not its .param")


def _parsed(words: list[str]) -> Layer:
    kind, name, n_inputs, n_outputs = words[0], words[1], int(words[2]), int(words[3])
    blobs, settings = words[4 : 4 + n_inputs + n_outputs], words[4 + n_inputs + n_outputs :]
    numbers = {}
    for setting in settings:
        key, values = int(setting.split("=")[0]), [float(x) for x in setting.split("=")[1].split(",")]
        # The keys of arrays count downwards from -23300; their first value is the length.
        numbers[-23300 - key if key < 0 else key] = values[1:] if key < 0 else values
    return Layer(kind, name, blobs[:n_inputs], blobs[n_inputs:], numbers)


def _with_arrays(layer: Layer, data: memoryview) -> tuple[Layer, memoryview]:
    """A convolution with its weight and bias, and the bytes that follow them."""
    outputs, kernel, groups, scaled = (layer.number(key, default) for key, default in _CONVOLUTION)
    word, data = int.from_bytes(data[:4], "little"), data[4:]
    if word not in (HALF, INT8, 0):
        raise ValueError(f"{layer.name}: weights of an unknown kind {word:#x}")
    dtype, size = {HALF: np.float16, INT8: np.int8, 0: np.float32}[word], layer.number(6)
    weight, data = _array(data, dtype, size)
    bias, data = _array(data, np.float32, outputs)
    if scaled:  # a scale for each row of the weights, one for the input, from 100 on one for the output
        _, data = _array(data, np.float32, (outputs if groups == 1 else groups) + 1 + (scaled > 100))
    shape = groups, outputs // groups, -1, kernel, kernel
    arrays = {"weight": weight.reshape(shape), "bias": bias}
    return Layer(*(vars(layer) | arrays).values()), data


_CONVOLUTION = ((0, 0), (1, 0), (7, 1), (8, 0))  # keys and defaults: channels, kernel, groups, INT8 scales


def _array(data: memoryview, dtype: type, size: int) -> tuple[np.ndarray, memoryview]:
    values = np.frombuffer(data, dtype, size)
    return values, data[-(-values.nbytes // 4) * 4 :]
