"""The file of a packed checkpoint: its layout, and a reader that checks everything before it is used.

File format, version 2 (all integers little-endian)::

    offset  bytes
    0       4     magic "MCPK"
    4       1     version, 2
    5       4     H, length of the header
    9       H     header: JSON in UTF-8, deflated (zlib, RFC 1950)
    9 + H   …     sections, one after the other, each as long as the header says
    end-32  32    SHA-256 of all that precedes

The header is an object with the keys

* ``architecture``: an object with the fields of :class:`.architecture.Architecture`: the network's layers
  with BatchNorm folded, its input channels and class names. Layer types and activations are names from that
  module's lists, everything else is data; ``class_width`` and ``size`` are left out
  where they are null;
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
  ``[offset, role, tensor name]``, the role being ``symbols`` (as int8), or ``scales``, ``bias`` or, of a
  convolution left in float, ``weights`` (as float32).
  The scales are the steps, except in channels with a symbol beyond ±127: these are divided by
  largest / 127, rounded, and the scale multiplied by it. In the first convolution the limit is ±63: CPUs
  without VNNI add two products in 16 bits, and its inputs, pixels, are up to 255 often enough for
  2 · 255 · 127 to saturate (NNCF halves the range of the same weights).

All symbols of a file share one :class:`.coding.Coder`, all exponents another, in the order of ``tensors``;
columns of a convolution's matrix are grouped by input channel. There is no pickle and nothing to
execute. Every length is checked before it is used, the digest before anything else; a file may declare at
most ``WEIGHTS_A_BYTE`` weights for each of its bytes, or ``FREE_WEIGHTS``.

Version 1 differs in the architecture, which is the text ``yolov8n.yaml`` and stands for :func:`.yolov8n`, and
in the roles, which lack ``weights``. It is read for ever and no longer written.
"""

from __future__ import annotations

import hashlib
import json
import math
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import files
from .architecture import MOST_WEIGHTS, Architecture, yolov8n
from .coding import LIMIT, Coder, CodingError
from .tensors import SECTIONS, Codebook, Grid, Half, PackedCheckpointError, Sparse, decoded, encoded, require

MAGIC, VERSION = b"MCPK", 2
FIRST_ARCHITECTURE = "yolov8n.yaml"  # the only one of version 1
LARGEST_HEADER = 2**19
# What a hostile header can make a reader allocate: twice YOLOv8n, or in proportion to what was sent.
FREE_WEIGHTS, WEIGHTS_A_BYTE = 2**23, 64
LONGEST_ROW = 2**20  # the coder holds some hundred bytes for each value of a row
DIGEST = 32


def store(
    path: Path,
    architecture: Architecture,
    state: Mapping[str, np.ndarray],
    tensors: Mapping[str, Grid | Codebook | Sparse],
    int8: bytes | None = None,
) -> Path:
    """Write tensors, in the order of ``state``; those not in ``tensors`` as float16.

    Args:
        int8: the section of an INT8 graph.

    Raises:
        PackedCheckpointError: a tensor does not fit its parameter, or the format.
        OSError: the file cannot be written; a previous one is kept.
    """
    unknown = sorted(set(tensors) - set(state))
    require(not unknown, f"the model has no parameter '{unknown[0] if unknown else ''}'")
    coders = Coder(), Coder()
    entries, sections = [], []
    for name, value in state.items():
        shape = tuple(value.shape)
        try:
            kind, parts = encoded(tensors.get(name, value), shape, coders)
        except (CodingError, PackedCheckpointError) as error:
            raise PackedCheckpointError(f"{name}: {error}") from None
        entries.append([name, kind, list(shape), [len(part) for part in parts]])
        sections += parts
    graphs = {} if int8 is None else {"int8": [len(int8)]}
    header = {"architecture": architecture.data(), "tensors": entries, "graphs": graphs}
    return _write(path, header, b"".join(sections) + (int8 or b""))


def _write(path: Path, header: dict[str, Any], body: bytes) -> Path:
    _check_size(header["tensors"], len(body))
    text = json.dumps(header, separators=(",", ":"), allow_nan=False).encode()
    require(len(text) <= LARGEST_HEADER, f"the header has {len(text)} bytes, more than {LARGEST_HEADER}")
    packed = zlib.compress(text, 9)
    data = MAGIC + bytes([VERSION]) + len(packed).to_bytes(4, "little") + packed + body
    files.replace({path: data + hashlib.sha256(data).digest()})
    return path


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
    header, body = opened(path)
    return decoded_tensors(path, header, body)


def decoded_tensors(
    path: Path | str, header: dict[str, Any], body: bytes
) -> dict[str, Grid | Codebook | Sparse | Half]:
    """The same of a file already :func:`opened`."""
    coders = Coder(), Coder()
    found, start = {}, 0
    for name, kind, shape, lengths in header["tensors"]:
        parts = []
        for length in lengths:
            parts.append(body[start : start + length])
            start += length
        try:
            found[name] = decoded(kind, tuple(shape), parts, coders)
        except (CodingError, PackedCheckpointError) as error:
            raise PackedCheckpointError(f"{path}: tensor '{name}': {error}") from None
    return found


def opened(path: Path | str) -> tuple[dict[str, Any], bytes]:
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
    require(data[:4] == MAGIC, "this is no packed checkpoint (it does not start with MCPK)")
    require(len(data) >= 9 + DIGEST, f"cut off after {len(data)} bytes")
    require(data[4] <= VERSION, f"written in version {data[4]} of the format, newer than {VERSION}: update")
    require(data[4] >= 1, f"version {data[4]} of the format does not exist")
    content, digest = data[:-DIGEST], data[-DIGEST:]
    require(hashlib.sha256(content).digest() == digest, "damaged: the SHA-256 digest does not match")
    length = int.from_bytes(content[5:9], "little")
    require(9 + length <= len(content), f"a header of {length} bytes does not fit into the file")
    header, body = _header(content[9 : 9 + length], data[4]), content[9 + length :]
    _check_size(header["tensors"], len(body))
    declared = sum(sum(lengths) for _, _, _, lengths in header["tensors"])
    declared += sum(sum(lengths) for lengths in header["graphs"].values())
    require(declared == len(body), f"the sections are {len(body)} bytes, the header says {declared}")
    return header, body


def _check_size(entries: list[list[Any]], sent: int) -> None:
    weights = sum(int(np.prod(shape, dtype=object)) for _, _, shape, _ in entries)
    most = min(max(FREE_WEIGHTS, WEIGHTS_A_BYTE * sent), MOST_WEIGHTS)
    require(weights <= most, f"more than {most} weights in {sent} bytes")


def _header(packed: bytes, version: int) -> dict[str, Any]:
    """The header as an object whose every field has been checked; its architecture as an ``Architecture``."""
    try:
        inflater = zlib.decompressobj()
        text = inflater.decompress(packed, LARGEST_HEADER)
        require(inflater.eof and not inflater.unused_data, "the header is too large or cut off")
        header = json.loads(text.decode())
    except (zlib.error, ValueError, RecursionError) as error:
        raise PackedCheckpointError(f"the header is damaged: {str(error)[:100]}") from None
    require(isinstance(header, dict), "the header is no object")
    require(set(header) == {"architecture", "tensors", "graphs"}, "the header has other keys")
    header["architecture"] = _architecture(header["architecture"], version)
    require(isinstance(header["tensors"], list), "the tensors are no list")
    names = set()
    for entry in header["tensors"]:
        _check_entry(entry)
        require(entry[0] not in names, f"tensor '{entry[0]:.50}' twice")
        names.add(entry[0])
    _check_graphs(header["graphs"])
    return header


def _architecture(data: Any, version: int) -> Architecture:
    if version > 1:
        return Architecture.checked(data)
    require(data == FIRST_ARCHITECTURE, f"an architecture other than {FIRST_ARCHITECTURE}: {data!r:.50}")
    return yolov8n()


def _check_entry(entry: Any) -> None:
    require(isinstance(entry, list) and len(entry) == 4, "a tensor's entry is no list of four")
    name, kind, shape, lengths = entry
    require(isinstance(name, str), "a tensor's name is no text")
    require(isinstance(kind, str) and kind in SECTIONS, f"tensor '{name:.50}' of unknown kind {kind!r:.50}")
    require(naturals(shape, 1) and 1 <= len(shape) <= 4, f"tensor '{name:.50}' of shape {shape!r:.50}")
    row = math.prod(shape[1:] or shape)
    require(row <= LONGEST_ROW, f"tensor '{name:.50}' of shape {shape!r:.50}: its rows are too long")
    fits = naturals(lengths, 0) and len(lengths) == SECTIONS[kind]
    require(fits, f"tensor '{name:.50}' has sections of {lengths!r:.50} bytes")


def naturals(values: Any, least: int) -> bool:
    return isinstance(values, list) and all(type(v) is int and least <= v < LIMIT for v in values)


def _check_graphs(graphs: Any) -> None:
    fits = isinstance(graphs, dict) and set(graphs) <= {"int8"}
    fits = fits and all(naturals(lengths, 1) and len(lengths) == 1 for lengths in graphs.values())
    require(fits, "graphs of an unknown kind")
