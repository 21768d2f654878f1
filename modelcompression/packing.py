"""The packed checkpoint: write, read, refuse. The smallest file that still is the whole model.

    save("small.mcpk", model, {"model.0.conv.weight": Grid(symbols, exponents), ...})
    yolo = load("small.mcpk")
    inspect("small.mcpk")
    to_openvino("small.mcpk", "folder")

From a shell: ``python -m modelcompression.packing inspect FILE``.

File format, version 1 (all integers little-endian)::

    offset  bytes
    0       4     magic "MCPK"
    4       1     version, 1
    5       4     H, length of the header
    9       H     header: JSON in UTF-8, deflated (zlib, RFC 1950)
    9 + H   …     sections, one after the other, each as long as the header says
    end-32  32    SHA-256 of all that precedes

The header is an object with the keys

* ``architecture``: an ultralytics model description with BatchNorm folded, such as ``yolov8n.yaml``;
* ``tensors``: in order, ``[name, kind, shape, lengths of its sections in bytes]``, the name being that of the
  PyTorch parameter, the kind one of

  - ``grid``, two sections: the symbols q and the step exponents e, both coded as in :mod:`.coding`, the
    symbols as a matrix of shape[0] rows (a vector as one row), the exponents as one row of differences, the
    first to 0. A row has the step ``2^(e / 8)``, rounded to float32; a vector has one exponent. The
    weight is ``float32(q) · step``;
  - ``codebook``, two sections: symbols coded in the same way, and the float16 centroids. The weight is
    ``centroids[q + z]``, where z is the index of the centroid with the smallest magnitude (the first one);
  - ``sparse``, two sections: which weights are not zero, as symbols 0 and 1 coded in the same way, and these
    weights as float16;
  - ``half``, one section: the weights as float16.

  Convolutions may have fewer channels than the architecture says (structured pruning), never more.

* ``graphs``: ``{}`` or ``{"int8": [length]}``, one more section behind the tensors': an execution graph for
  OpenVINO with quantized activations, so that no image is needed to run in INT8. It is an LZMA stream (xz)
  of: length of a list (4 bytes), the list as JSON, length of OpenVINO's ``.xml`` (4 bytes), the ``.xml``,
  and its ``.bin``. Of the ``.bin`` all parts are zeroed that follow from the tensors; the list names them as
  ``[offset, role, tensor name]``, the role being ``symbols`` (as int8), ``scales`` or ``bias`` (as float32).
  The scales are the steps, except in channels with a symbol beyond ±127: these are divided by
  largest / 127, rounded, and the scale multiplied by it. In the first convolution the limit is ±63: CPUs
  without VNNI add two products in 16 bits, and its inputs, pixels, are up to 255 often enough for
  2 · 255 · 127 to saturate (NNCF halves the range of the same weights).

All symbols of a file share one :class:`.coding.Coder`, all exponents another, in the order of ``tensors``;
columns of a convolution's matrix are grouped by input channel. There is no pickle and nothing to
execute. Every length is checked before it is used, the digest before anything else.
"""

from __future__ import annotations

import copy
import hashlib
import json
import lzma
import sys
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd

from . import files
from .coding import LIMIT, Coder, CodingError

if TYPE_CHECKING:
    import openvino
    import torch
    from ultralytics import YOLO

MAGIC, VERSION = b"MCPK", 1
ARCHITECTURES = ("yolov8n.yaml",)
LARGEST_HEADER = 2**18
MOST_ELEMENTS = 2**23  # twice YOLOv8n: what a hostile header can make a reader allocate
LARGEST_EXPONENT = 480  # 2^60: with the largest symbol still a finite float32
LARGEST_GRAPH = 2**24
LARGEST_SYMBOL = {"model.0.conv.weight": 63}  # in an INT8 graph; of all other tensors 127
DIGEST = 32


class PackedCheckpointError(ValueError):
    """The file is no packed checkpoint of this version, or damaged; the message says what is wrong."""


@dataclass(frozen=True)
class Grid:
    """Weights on a uniform grid through zero.

    symbols: integers, of the weight's shape.
    exponents: (shape[0],) integers; row r has the step ``2^(exponents[r] / 8)``. One for a vector.
    """

    symbols: np.ndarray
    exponents: np.ndarray

    def values(self) -> np.ndarray:
        """float32 weights."""
        shape = (-1,) + (1,) * (self.symbols.ndim - 1)
        return self.symbols.astype(np.float32) * steps(self.exponents).reshape(shape)


@dataclass(frozen=True)
class Codebook:
    """Weights that take only a few values.

    indices: integers 0…K-1, of the weight's shape.
    centroids: (K,) float16, ascending.
    """

    indices: np.ndarray
    centroids: np.ndarray

    def values(self) -> np.ndarray:
        """float32 weights."""
        return self.centroids.astype(np.float32)[self.indices]


@dataclass(frozen=True)
class Sparse:
    """Weights of which many are exactly zero; only the others are stored.

    halves: float16, of the weight's shape.
    """

    halves: np.ndarray

    def values(self) -> np.ndarray:
        """float32 weights."""
        return self.halves.astype(np.float32)


@dataclass(frozen=True)
class Half:
    """Weights stored as float16."""

    halves: np.ndarray

    def values(self) -> np.ndarray:
        """float32 weights."""
        return self.halves.astype(np.float32)


def steps(exponents: np.ndarray) -> np.ndarray:
    """``2^(e / 8)`` as float32, from eight correctly rounded roots: the same on every platform."""
    root = np.sqrt(2.0)
    eighth = np.sqrt(np.sqrt(root))
    powers = np.cumprod([1.0] + [eighth] * 7)
    exponents = np.asarray(exponents, np.int64)
    return np.ldexp(powers[exponents % 8], exponents // 8).astype(np.float32)


def exponents(steps: np.ndarray) -> np.ndarray:
    """The nearest step exponents, ``round(8 log2(step))``."""
    return np.rint(8 * np.log2(steps)).astype(np.int64)


# --- write ------------------------------------------------------------------------------------


def save(
    path: Path | str,
    model: torch.nn.Module,
    tensors: Mapping[str, Grid | Codebook | Sparse],
    int8: openvino.Model | None = None,
) -> Path:
    """Write a packed checkpoint. The same input gives the same bytes.

    Args:
        model: YOLOv8n with BatchNorm folded (:func:`.detector.load_yolo`); what is not in ``tensors`` is
            taken from it and stored as float16.
        tensors: by parameter name, what replaces the model's weights.
        int8: the execution graph of that model quantized by NNCF, for :func:`to_openvino`. Its convolutions
            then compute with exactly the packed symbols, in channels where these fit into int8. Biases that
            differ from the packed ones (by NNCF's bias correction) are stored with the graph.

    Raises:
        PackedCheckpointError: a tensor does not fit the model, or does not fit the format.
        OSError: the file cannot be written; a previous one is kept.
    """
    state = _parameters(model)
    unknown = sorted(set(tensors) - set(state))
    if unknown:
        raise PackedCheckpointError(f"the model has no parameter '{unknown[0]}'")
    coders = Coder(), Coder()
    entries, sections = [], []
    for name, value in state.items():
        tensor = tensors.get(name, value)
        shape = tuple(value.shape)
        try:
            kind, parts = _encoded(tensor, shape, coders)
        except (CodingError, PackedCheckpointError) as error:
            raise PackedCheckpointError(f"{name}: {error}") from None
        entries.append([name, kind, list(shape), [len(part) for part in parts]])
        sections += parts
    graphs: dict[str, list[int]] = {}
    if int8 is not None:
        sections.append(_packed_graph(int8, {**state, **tensors}))
        graphs["int8"] = [len(sections[-1])]
    header = {"architecture": ARCHITECTURES[0], "tensors": entries, "graphs": graphs}
    return _write(Path(path), header, b"".join(sections))


def _encoded(
    tensor: Grid | Codebook | Sparse | np.ndarray, shape: tuple[int, ...], coders: tuple[Coder, Coder]
) -> tuple[str, list[bytes]]:
    """Kind and sections of one tensor."""
    if isinstance(tensor, Grid):
        rows = 1 if len(shape) == 1 else shape[0]
        _require(tensor.symbols.shape == shape, f"symbols of shape {tensor.symbols.shape}, not {shape}")
        _require(tensor.exponents.shape == (rows,), f"{tensor.exponents.shape} exponents for {rows} rows")
        limit = LARGEST_EXPONENT
        _require(np.abs(tensor.exponents).max() <= limit, f"a step exponent beyond ±{limit}")
        differences = np.diff(tensor.exponents, prepend=0)[None]
        matrix, group = _matrix(shape)
        return "grid", [
            coders[0].encode(tensor.symbols.reshape(matrix), group),
            coders[1].encode(differences),
        ]
    if isinstance(tensor, Codebook):
        centroids = np.asarray(tensor.centroids)
        _require(tensor.indices.shape == shape, f"indices of shape {tensor.indices.shape}, not {shape}")
        _require(centroids.dtype == np.float16, f"centroids must be float16, not {centroids.dtype}")
        _require(bool(np.isfinite(centroids).all()), "a centroid is not a finite float16")
        inside = (tensor.indices >= 0) & (tensor.indices < len(centroids))
        _require(bool(inside.all()), f"an index outside 0…{len(centroids) - 1}")
        matrix, group = _matrix(shape)
        centred = tensor.indices.astype(np.int64) - _centre(centroids)
        return "codebook", [
            coders[0].encode(centred.reshape(matrix), group),
            centroids.astype("<f2").tobytes(),
        ]
    if isinstance(tensor, Sparse):
        halves = tensor.halves
        _require(halves.shape == shape, f"weights of shape {halves.shape}, not {shape}")
        _require(halves.dtype == np.float16, f"weights must be float16, not {halves.dtype}")
        _require(bool(np.isfinite(halves).all()), "a weight is not a finite float16")
        matrix, group = _matrix(shape)
        kept = (halves != 0).astype(np.int64).reshape(matrix)
        return "sparse", [coders[0].encode(kept, group), halves[halves != 0].astype("<f2").tobytes()]
    with np.errstate(over="ignore"):  # refused below
        half = tensor.astype("<f2")
    _require(bool(np.isfinite(half).all()), "a weight is not a finite float16")
    return "half", [half.tobytes()]


def _parameters(model: torch.nn.Module) -> dict[str, np.ndarray]:
    """All weights that define the model: not the constant that decodes box distances."""
    if any("running_mean" in name for name in model.state_dict()):
        raise PackedCheckpointError("the model has BatchNorm layers: fold them first (load_yolo does)")
    return {
        name: value.detach().cpu().numpy()
        for name, value in model.state_dict().items()
        if not name.endswith("dfl.conv.weight")
    }


def _write(path: Path, header: dict[str, Any], body: bytes) -> Path:
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    _require(len(text) <= LARGEST_HEADER, f"the header has {len(text)} bytes, more than {LARGEST_HEADER}")
    packed = zlib.compress(text, 9)
    data = MAGIC + bytes([VERSION]) + len(packed).to_bytes(4, "little") + packed + body
    files.replace({path: data + hashlib.sha256(data).digest()})
    return path


# --- read -------------------------------------------------------------------------------------


def load(path: Path | str) -> YOLO:
    """A packed checkpoint as an ultralytics ``YOLO``, ready to predict, export or validate.

    Raises:
        PackedCheckpointError: not a packed checkpoint, of a later version, or damaged.
    """
    tensors = read(path)
    import torch
    from ultralytics import YOLO

    from .assets import class_names

    yolo = YOLO(ARCHITECTURES[0], task="detect")
    yolo.model.names = class_names()
    yolo.model.float().fuse(verbose=False).eval()
    state = {name: torch.from_numpy(tensor) for name, tensor in tensors.items()}
    try:
        _fit(yolo.model, state)
    except PackedCheckpointError as error:
        raise PackedCheckpointError(f"{path}: {error}") from None
    return yolo


def _fit(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put weights into a model whose convolutions may have more channels than they."""
    import torch

    from .channels import resize

    expected = _parameters(model)
    wrong = sorted(set(state) ^ set(expected))
    _require(not wrong, f"its tensors are not those of YOLOv8n, starting at {wrong[:1]}")
    for name, value in expected.items():
        found, full = tuple(state[name].shape), value.shape
        fits = len(found) == len(full) and found[2:] == full[2:]
        fits = fits and all(few <= many for few, many in zip(found, full, strict=True))
        _require(fits, f"its tensors are not those of YOLOv8n, starting at {name}: {found}, not {full}")
    names = {name.rpartition(".")[0] for name, value in expected.items()}
    for name in (n for n in names if state[f"{n}.weight"].shape != expected[f"{n}.weight"].shape):
        resize(model.get_submodule(name), state[f"{name}.weight"], state[f"{name}.bias"])
    try:
        model.load_state_dict(state, strict=False)
        with torch.no_grad():
            copy.deepcopy(model)(torch.zeros(1, 3, 64, 64))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise PackedCheckpointError(f"channels of neighbouring layers do not fit: {reason}") from None


def read(path: Path | str) -> dict[str, np.ndarray]:
    """The float32 weights of a packed checkpoint by parameter name.

    Raises:
        PackedCheckpointError: as :func:`load`.
    """
    return {name: tensor.values() for name, tensor in tensors(path).items()}


def tensors(path: Path | str) -> dict[str, Grid | Codebook | Sparse | Half]:
    """What a packed checkpoint stores, by parameter name: symbols and steps, not yet weights.

    Raises:
        PackedCheckpointError: as :func:`load`.
    """
    header, body = _open(path)
    coders = Coder(), Coder()
    found, start = {}, 0
    for name, kind, shape, lengths in header["tensors"]:
        parts = []
        for length in lengths:
            parts.append(body[start : start + length])
            start += length
        try:
            found[name] = _decoded(kind, tuple(shape), parts, coders)
        except (CodingError, PackedCheckpointError) as error:
            raise PackedCheckpointError(f"{path}: tensor '{name}': {error}") from None
    return found


def _decoded(
    kind: str, shape: tuple[int, ...], parts: list[bytes], coders: tuple[Coder, Coder]
) -> Grid | Codebook | Sparse | Half:
    if kind == "half":
        _require(len(parts[0]) == 2 * int(np.prod(shape)), f"{len(parts[0])} bytes for shape {shape}")
        halves = np.frombuffer(parts[0], "<f2").astype(np.float16).reshape(shape)
        _require(bool(np.isfinite(halves).all()), "a weight is not finite")
        return Half(halves)
    matrix, group = _matrix(shape)
    symbols = coders[0].decode(parts[0], matrix, group).reshape(shape)
    if kind == "sparse":
        return _sparse(symbols, parts[1])
    if kind == "grid":
        differences = coders[1].decode(parts[1], (1, matrix[0]))[0]
        exponents = np.cumsum(differences)
        _require(np.abs(exponents).max() <= LARGEST_EXPONENT, "a step is absurdly large or small")
        return Grid(symbols, exponents)
    _require(0 < len(parts[1]) <= 2**17 and len(parts[1]) % 2 == 0, f"a codebook of {len(parts[1])} bytes")
    centroids = np.frombuffer(parts[1], "<f2").astype(np.float16)
    _require(bool(np.isfinite(centroids).all()), "a centroid is not finite")
    indices = symbols + _centre(centroids)
    inside = (indices >= 0) & (indices < len(centroids))
    _require(bool(inside.all()), f"an index outside 0…{len(centroids) - 1}")
    return Codebook(indices, centroids)


def _sparse(kept: np.ndarray, stored: bytes) -> Sparse:
    _require(bool(np.isin(kept, (0, 1)).all()), "a weight is neither kept nor removed")
    count = int(kept.sum())
    _require(len(stored) == 2 * count, f"{len(stored)} bytes for {count} weights")
    values = np.frombuffer(stored, "<f2").astype(np.float16)
    _require(bool(np.isfinite(values).all() and (values != 0).all()), "a kept weight is zero or not finite")
    halves = np.zeros(kept.shape, np.float16)
    halves[kept == 1] = values
    return Sparse(halves)


# --- execution graphs ---------------------------------------------------------------------------


def to_openvino(path: Path | str, folder: Path | str, precision: str = "int8") -> Path:
    """Unpack for OpenVINO: write ``.xml`` and ``.bin`` into ``folder``, return the path of the ``.xml``.

    Args:
        precision: ``int8`` takes the graph out of the file and needs neither PyTorch nor an image; ``f32``
            and ``f16`` export the loaded model, with weights stored in that format.

    Raises:
        PackedCheckpointError: as :func:`load`, or the file holds no INT8 graph.
    """
    _require(
        precision in ("int8", "f32", "f16"), f"precision must be int8, f32 or f16, not {precision!r:.20}"
    )
    folder = Path(folder)
    if precision != "int8":
        return _exported(load(path), folder, half=precision == "f16")
    xml, weights = _unpacked_graph(path)
    file = folder / f"{Path(path).stem}.xml"
    files.replace({file.with_suffix(".bin"): weights, file: xml})
    return file


def _exported(yolo: YOLO, folder: Path, half: bool) -> Path:
    import openvino
    import torch

    file, threads = folder / "yolov8n.xml", torch.get_num_threads()
    try:
        with tempfile.TemporaryDirectory() as aside:
            yolo.model.pt_path = str(Path(aside) / "yolov8n.pt")  # ultralytics exports beside it
            exported = yolo.export(format="onnx", imgsz=640, simplify=True, verbose=False)
            openvino.save_model(openvino.convert_model(exported), file, compress_to_fp16=half)
    finally:
        torch.set_num_threads(threads)  # which the export has lowered, for all that follows
    return file


def _packed_graph(
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
    found = {name for _, role, name in places if role == "symbols"}
    missing = [n for n, t in tensors.items() if "symbols" in _derived(n, t) and n not in found]
    _require(not missing, f"the INT8 graph has no convolution with the weights of {missing[:1]}")
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
        if node.get_type_name() != "Convolution":
            continue
        scaled = node.input_value(1).get_node()
        converted = scaled.input_value(0).get_node() if scaled.get_input_size() else None
        if converted is None or converted.get_type_name() != "Convert":
            continue  # a convolution left in float
        stored = converted.input_value(0).get_node()
        factor = scaled.input_value(1).get_node()
        values = stored.data.astype(np.float32) * factor.data
        name = _nearest(values, grids)
        if name is None:
            continue  # the constant that decodes box distances
        grid = grids[name]
        symbols, scales = _as_int8(name, grid)
        stored.output(0).replace(ops.constant(symbols).output(0))
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
    _require(bool(fits), "a convolution of the INT8 graph has weights of another model")
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
    return symbols, (steps(grid.exponents) * shrink).astype(np.float32)


def _derived(name: str, tensor: Grid | Codebook | Sparse | Half | np.ndarray) -> dict[str, bytes]:
    """The parts of a graph's ``.bin`` that follow from one tensor."""
    if isinstance(tensor, Grid) and tensor.symbols.ndim == 4:
        symbols, scales = _as_int8(name, tensor)
        return {"symbols": symbols.tobytes(), "scales": scales.astype("<f4").tobytes()}
    if name.endswith(".bias"):
        values = tensor.astype(np.float16) if isinstance(tensor, np.ndarray) else tensor.values()
        return {"bias": values.astype("<f4").tobytes()}
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


def _unpacked_graph(path: Path | str) -> tuple[bytes, bytes]:
    """``.xml`` and ``.bin`` of a file's INT8 graph."""
    header, body = _open(path)
    try:
        _require("int8" in header["graphs"], "holds no INT8 graph: save it with int8=…")
        inflater = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=2**27)
        data = inflater.decompress(body[-header["graphs"]["int8"][0] :], LARGEST_GRAPH)
        _require(inflater.eof and not inflater.unused_data, "the INT8 graph is too large or cut off")
        listed, data = _prefixed(data)
        xml, rest = _prefixed(data)
        weights, stored = bytearray(rest), tensors(path)
        for place in json.loads(listed):
            offset, part = _place(place, stored)
            _require(offset + len(part) <= len(weights), "the INT8 graph has a part outside its weights")
            weights[offset : offset + len(part)] = part
        return xml, bytes(weights)
    except (lzma.LZMAError, ValueError, RecursionError) as error:
        reason = str(error).removeprefix(f"{path}: ")[:200]
        raise PackedCheckpointError(f"{path}: {reason}") from None


def _prefixed(data: bytes) -> tuple[bytes, bytes]:
    """A length-prefixed part, and what follows it."""
    end = 4 + int.from_bytes(data[:4], "little")
    _require(end <= len(data), "the INT8 graph is cut off")
    return data[4:end], data[end:]


def _place(place: Any, stored: Mapping[str, Grid | Codebook | Sparse | Half]) -> tuple[int, bytes]:
    fits = isinstance(place, list) and len(place) == 3 and _naturals(place[:1], 0)
    fits = fits and all(isinstance(text, str) for text in place[1:]) and place[2] in stored
    _require(fits, "the INT8 graph refers to an unknown tensor")
    parts = _derived(place[2], stored[place[2]])
    _require(place[1] in parts, f"the INT8 graph wants {place[1]!r:.20} of '{place[2]:.50}'")
    return place[0], parts[place[1]]


def inspect(path: Path | str) -> pd.DataFrame:
    """What takes how much: a row for each tensor, and one each for header, graphs and the whole file.

    Returns:
        columns ``tensor``, ``kind``, ``shape``, ``bytes``, ``bits each``.

    Raises:
        PackedCheckpointError: as :func:`load`; the symbols themselves are not decoded.
    """
    header, body = _open(path)
    total = Path(path).stat().st_size
    rows = [
        (name, kind, "×".join(map(str, shape)), sum(lengths), int(np.prod(shape)))
        for name, kind, shape, lengths in header["tensors"]
    ]
    weights = sum(row[4] for row in rows)
    graphs = sum(sum(lengths) for lengths in header["graphs"].values())
    rows += [("graphs", "", "", graphs, 0), ("header and digest", "", "", total - len(body), 0)]
    rows += [("the whole file", "", "", total, weights)]
    table = pd.DataFrame(rows, columns=["tensor", "kind", "shape", "bytes", "elements"])
    bits = 8 * table["bytes"] / table["elements"].where(table["elements"] > 0)
    return table.drop(columns="elements").assign(**{"bits each": bits.round(3)})


def _open(path: Path | str) -> tuple[dict[str, Any], bytes]:
    """Header and sections, checked: digest, version, and that the lengths fill the file exactly."""
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise PackedCheckpointError(f"{path} cannot be read: {error.strerror}") from None
    try:
        return _checked(data)
    except PackedCheckpointError as error:
        raise PackedCheckpointError(f"{path}: {error}") from None


def _checked(data: bytes) -> tuple[dict[str, Any], bytes]:
    _require(data[:4] == MAGIC, "this is no packed checkpoint (it does not start with MCPK)")
    _require(len(data) >= 9 + DIGEST, f"cut off after {len(data)} bytes")
    _require(data[4] <= VERSION, f"written in version {data[4]} of the format, newer than {VERSION}: update")
    _require(data[4] == VERSION, f"version {data[4]} of the format does not exist")
    content, digest = data[:-DIGEST], data[-DIGEST:]
    _require(hashlib.sha256(content).digest() == digest, "damaged: the SHA-256 digest does not match")
    length = int.from_bytes(content[5:9], "little")
    _require(9 + length <= len(content), f"a header of {length} bytes does not fit into the file")
    header, body = _header(content[9 : 9 + length]), content[9 + length :]
    declared = sum(sum(lengths) for _, _, _, lengths in header["tensors"])
    declared += sum(sum(lengths) for lengths in header["graphs"].values())
    _require(declared == len(body), f"the sections are {len(body)} bytes, the header says {declared}")
    return header, body


def _header(packed: bytes) -> dict[str, Any]:
    """The header as an object whose every field has been checked."""
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(packed, LARGEST_HEADER)
        _require(inflater.eof and not inflater.unused_data, "the header is too large or cut off")
        header = json.loads(text.decode())
    except (zlib.error, ValueError, RecursionError) as error:
        raise PackedCheckpointError(f"the header is damaged: {str(error)[:100]}") from None
    _require(isinstance(header, dict), "the header is no object")
    _require(set(header) == {"architecture", "tensors", "graphs"}, "the header has other keys")
    known = header["architecture"] in ARCHITECTURES
    _require(known, f"an architecture other than {', '.join(ARCHITECTURES)}: {header['architecture']!r:.50}")
    _require(isinstance(header["tensors"], list), "the tensors are no list")
    names, elements = set(), 0
    for entry in header["tensors"]:
        _check_entry(entry)
        _require(entry[0] not in names, f"tensor '{entry[0]:.50}' twice")
        names.add(entry[0])
        elements += int(np.prod(entry[2], dtype=object))
        _require(elements <= MOST_ELEMENTS, f"more than {MOST_ELEMENTS} weights")
    _check_graphs(header["graphs"])
    return header


def _check_entry(entry: Any) -> None:
    _require(isinstance(entry, list) and len(entry) == 4, "a tensor's entry is no list of four")
    name, kind, shape, lengths = entry
    _require(isinstance(name, str), "a tensor's name is no text")
    _require(isinstance(kind, str) and kind in SECTIONS, f"tensor '{name:.50}' of unknown kind {kind!r:.50}")
    _require(_naturals(shape, 1) and 1 <= len(shape) <= 4, f"tensor '{name:.50}' of shape {shape!r:.50}")
    fits = _naturals(lengths, 0) and len(lengths) == SECTIONS[kind]
    _require(fits, f"tensor '{name:.50}' has sections of {lengths!r:.50} bytes")


def _naturals(values: Any, least: int) -> bool:
    return isinstance(values, list) and all(type(v) is int and least <= v < LIMIT for v in values)


SECTIONS = {"grid": 2, "codebook": 2, "sparse": 2, "half": 1}


def _check_graphs(graphs: Any) -> None:
    fits = isinstance(graphs, dict) and set(graphs) <= {"int8"}
    fits = fits and all(_naturals(lengths, 1) and len(lengths) == 1 for lengths in graphs.values())
    _require(fits, "graphs of an unknown kind")


def _matrix(shape: tuple[int, ...]) -> tuple[tuple[int, int], int]:
    """How a tensor is laid out for coding: (rows, columns), and columns of one input channel."""
    if len(shape) == 1:
        return (1, shape[0]), 1
    rows, columns = shape[0], int(np.prod(shape[1:]))
    return (rows, columns), int(np.prod(shape[2:]))


def _centre(centroids: np.ndarray) -> int:
    return int(np.abs(centroids.astype(np.float32)).argmin())


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise PackedCheckpointError(reason)


def main(arguments: list[str] | None = None) -> None:
    """``inspect FILE``: print what the file holds."""
    match sys.argv[1:] if arguments is None else arguments:
        case ["inspect", file]:
            print(inspect(file).to_string(index=False, na_rep=""))
        case _:
            raise PackedCheckpointError("usage: python -m modelcompression.packing inspect FILE")


if __name__ == "__main__":
    try:
        main()
    except PackedCheckpointError as error:
        sys.exit(f"error: {error}")
