"""The INT8 graph inside a packed checkpoint: all of it that does not follow from the tensors."""

from __future__ import annotations

import json
import lzma
import math
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from ..grid import step_sizes
from .container import naturals, opened, tensors
from .tensors import Codebook, Grid, Half, PackedCheckpointError, Sparse, require

if TYPE_CHECKING:
    import openvino

LARGEST_GRAPH = 2**24  # bytes, besides four for each weight
LARGEST_SYMBOL = {"model.0.conv.weight": 63}  # in an INT8 graph; of all other tensors 127


def packed_graph(
    graph: openvino.Model, tensors: Mapping[str, Grid | Codebook | Sparse | np.ndarray]
) -> bytes:
    """The section of an INT8 graph, after putting the packed symbols into its convolutions."""
    graph = graph.clone()
    _insert_symbols(graph, tensors)
    xml, weights = _serialized(graph)
    derived = [
        (len(part), role, name, part)
        for name, tensor in tensors.items()
        for role, part in _derived(name, tensor).items()
    ]
    places, rest = [], bytearray(weights)
    constants = sorted(_constants(xml))
    for size, role, name, part in derived:
        for offset in (o for o, s in constants if s == size and weights[o : o + s] == part):
            places.append([offset, role, name])
            rest[offset : offset + size] = bytes(size)
    found = {name for _, role, name in places if role in ("symbols", "weights")}
    missing = [n for n, t in tensors.items() if "symbols" in _derived(n, t) and n not in found]
    require(not missing, f"the INT8 graph has no convolution with the weights of {missing[:1]}")
    listed = json.dumps(sorted(places), separators=(",", ":")).encode()
    parts = (len(listed).to_bytes(4, "little"), listed, len(xml).to_bytes(4, "little"), xml, bytes(rest))
    return lzma.compress(b"".join(parts), preset=9 | lzma.PRESET_EXTREME)


def _insert_symbols(
    graph: openvino.Model, tensors: Mapping[str, Grid | Codebook | Sparse | np.ndarray]
) -> None:
    """Replace each convolution's int8 weights and scales by the symbols and steps they came from."""
    import openvino.opset13 as ops

    grids = {n: t for n, t in tensors.items() if isinstance(t, Grid) and t.symbols.ndim == 4}
    for node in graph.get_ordered_ops():
        if node.get_type_name() not in ("Convolution", "GroupConvolution"):
            continue
        scaled = node.input_value(1).get_node()
        converted = scaled.input_value(0).get_node() if scaled.get_input_size() else None
        if converted is None or converted.get_type_name() != "Convert":
            continue  # a convolution left in float
        stored = converted.input_value(0).get_node()
        factor = scaled.input_value(1).get_node()
        values = stored.data.astype(np.float32) * factor.data
        values = values.reshape(-1, *values.shape[-3:])  # a group convolution has its groups in front
        name = _nearest(values, grids)
        if name is None:
            continue  # the constant that decodes box distances
        grid = grids[name]
        symbols, scales = _as_int8(name, grid)
        stored.output(0).replace(ops.constant(symbols.reshape(stored.data.shape)).output(0))
        scaled.input(1).replace_source_output(ops.constant(scales.reshape(factor.data.shape)).output(0))


def _nearest(values: np.ndarray, grids: Mapping[str, Grid]) -> str | None:
    """The name of the grid with these values but for int8 rounding; None if none has that shape.

    Names in a graph are the exporter's and no help.
    """
    errors = {
        name: float(np.square(grid.values() - values).sum())
        for name, grid in grids.items()
        if grid.symbols.shape == values.shape
    }
    best = min(errors, key=errors.__getitem__, default=None)
    fits = best is None or errors[best] < 0.02 * np.square(values).sum() + 1e-12
    require(bool(fits), "a convolution of the INT8 graph has weights of another model")
    return best


def _as_int8(name: str, grid: Grid) -> tuple[np.ndarray, np.ndarray]:
    """int8 symbols and the float32 scale of each channel: the grid itself, where it fits into int8.

    A channel with larger symbols is rounded once more, so that its largest one becomes ±127, in the first
    convolution ±63.
    """
    shape = (-1,) + (1,) * (grid.symbols.ndim - 1)
    largest = np.abs(grid.symbols).reshape(len(grid.symbols), -1).max(1)
    limit = LARGEST_SYMBOL.get(name, 127)
    shrink = np.maximum(largest, limit) / limit  # float64, the same on every platform
    symbols = np.rint(grid.symbols / shrink.reshape(shape)).astype(np.int8)
    return symbols, (step_sizes(grid.exponents) * shrink).astype(np.float32)


def _derived(name: str, tensor: Grid | Codebook | Sparse | Half | np.ndarray) -> dict[str, bytes]:
    """The parts of a graph's ``.bin`` that follow from one tensor."""
    if isinstance(tensor, Grid) and tensor.symbols.ndim == 4:
        symbols, scales = _as_int8(name, tensor)
        whole = tensor.values().astype("<f4").tobytes()
        return {"symbols": symbols.tobytes(), "scales": scales.astype("<f4").tobytes(), "weights": whole}
    if name.endswith((".bias", ".weight")):
        values = tensor.astype(np.float16) if isinstance(tensor, np.ndarray) else tensor.values()
        return {"bias" if name.endswith(".bias") else "weights": values.astype("<f4").tobytes()}
    return {}


def _serialized(graph: openvino.Model) -> tuple[bytes, bytes]:
    import openvino

    with tempfile.TemporaryDirectory() as aside:
        file = Path(aside) / "graph.xml"
        openvino.save_model(graph, file, compress_to_fp16=False)
        return file.read_bytes(), file.with_suffix(".bin").read_bytes()


def _constants(xml: bytes) -> set[tuple[int, int]]:
    """(offset, size) of every constant in the ``.bin``."""
    data = (layer.find("data") for layer in ElementTree.fromstring(xml).iter("layer"))
    return {(int(d.get("offset")), int(d.get("size"))) for d in data if d is not None and d.get("offset")}


def unpacked_graph(path: Path | str) -> tuple[bytes, bytes]:
    """``.xml`` and ``.bin`` of a file's INT8 graph."""
    header, body = opened(path)
    try:
        require("int8" in header["graphs"], "holds no INT8 graph: save it with int8=…")
        inflater = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=2**27)
        weights = sum(math.prod(shape) for _, _, shape, _ in header["tensors"])
        data = inflater.decompress(body[-header["graphs"]["int8"][0] :], LARGEST_GRAPH + 4 * weights)
        require(inflater.eof and not inflater.unused_data, "the INT8 graph is too large or cut off")
        listed, data = _prefixed(data)
        xml, rest = _prefixed(data)
        whole, stored, places = bytearray(rest), tensors(path), json.loads(listed)
        require(isinstance(places, list), "the INT8 graph has no list of parts")
        start = end = 0
        derived: dict[str, dict[str, bytes]] = {}  # a short list may ask for a large tensor a million times
        for place in places:
            offset, part = _place(place, stored, derived)
            if (offset, offset + len(part)) == (start, end):
                continue
            require(offset >= end, "parts of the INT8 graph overlap")
            require(offset + len(part) <= len(whole), "the INT8 graph has a part outside its weights")
            start, end = offset, offset + len(part)
            whole[start:end] = part
        return xml, bytes(whole)
    except (lzma.LZMAError, ValueError, RecursionError) as error:
        reason = str(error).removeprefix(f"{path}: ")[:200]
        raise PackedCheckpointError(f"{path}: {reason}") from None


def _prefixed(data: bytes) -> tuple[bytes, bytes]:
    """A length-prefixed part, and what follows it."""
    end = 4 + int.from_bytes(data[:4], "little")
    require(end <= len(data), "the INT8 graph is cut off")
    return data[4:end], data[end:]


def _place(
    place: Any, stored: Mapping[str, Grid | Codebook | Sparse | Half], derived: dict[str, dict[str, bytes]]
) -> tuple[int, bytes]:
    fits = isinstance(place, list) and len(place) == 3 and naturals(place[:1], 0)
    fits = fits and all(isinstance(text, str) for text in place[1:]) and place[2] in stored
    require(fits, "the INT8 graph refers to an unknown tensor")
    if place[2] not in derived:
        derived[place[2]] = _derived(place[2], stored[place[2]])
    parts = derived[place[2]]
    require(place[1] in parts, f"the INT8 graph wants {place[1]!r:.20} of '{place[2]:.50}'")
    return place[0], parts[place[1]]
