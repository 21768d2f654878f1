"""Packed checkpoints that somebody has tampered with, each with a digest that fits."""

import copy
import hashlib
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from modelcompression.packed import checkpoint, container
from modelcompression.packed.architecture import Architecture
from modelcompression.packed.tensors import PackedCheckpointError

# A detector with all that is special: layers that repeat, split, add up and are concatenated, two scales.
SMALLEST = Architecture(
    layers=[
        [-1, 1, "Conv", [8, 3, 4]],
        [-1, 2, "C3k2", [16, True, 0.5]],
        [-1, 1, "Conv", [16, 3, 2]],
        [-1, 1, "nn.Upsample", [None, 2, "nearest"]],
        [[-1, 1], 1, "Concat", [1]],
        [-1, 1, "C2f", [16, True]],
        [[5, 2], 1, "Detect", ["nc"]],
    ],
    depth=1.0, width=1.0, max_channels=1024, scale="n", activation=["SiLU"], reg_max=4, end2end=False,
    channels=3, names=["one", "two"],
)  # fmt: skip
WILD = [
    *(0, 1, -1, 2, 7, 1.5, -0.5, 1e308, 10**9, 2**63, True, False, None, "nc", "nearest", "", "x" * 300),
    *(
        "torch.nn.ReLU()",
        "__import__('os').system('true')",
        "Segment",
        "nn.Linear",
        "Conv",
        "Detect",
        "Concat",
    ),
    *([], {}, [1], [-1, 5], [[]], ["nc"], ["SiLU"], ["LeakyReLU", 0.1], ["PReLU"], [None, 2, "nearest"]),
]


def resealed(data: bytes) -> bytes:
    """With a digest that fits: what a forger would send."""
    return data[:-32] + hashlib.sha256(data[:-32]).digest()


def with_header(data: bytes, header: bytes) -> bytes:
    old = int.from_bytes(data[5:9], "little")
    return resealed(data[:5] + len(header).to_bytes(4, "little") + header + data[9 + old :])


def header_of(data: bytes) -> dict[str, Any]:
    return json.loads(zlib.decompress(data[9 : 9 + int.from_bytes(data[5:9], "little")]))


def with_object(data: bytes, header: dict[str, Any]) -> bytes:
    return with_header(data, zlib.compress(json.dumps(header).encode()))


def edited_bytes(data: bytes, generator: np.random.Generator, count: int) -> Iterator[bytes]:
    """One to three bytes changed, removed or inserted."""
    for _ in range(count):
        edited = bytearray(data[:-32])
        for _ in range(generator.integers(1, 4)):
            place = int(generator.integers(4, len(edited)))
            match generator.integers(3):
                case 0:
                    edited[place] = int(generator.integers(256))
                case 1:
                    del edited[place : place + int(generator.integers(1, 9))]
                case 2:
                    edited[place:place] = generator.bytes(int(generator.integers(1, 9)))
        yield resealed(bytes(edited) + bytes(32))


def edited_architectures(data: bytes, generator: np.random.Generator, count: int) -> Iterator[bytes]:
    """One or two values of the architecture, at any depth, replaced, doubled or removed."""
    header = header_of(data)
    for _ in range(count):
        edited = copy.deepcopy(header)
        for _ in range(generator.integers(1, 3)):
            places = list(_places(edited["architecture"]))
            holder, key = places[generator.integers(len(places))]
            match generator.integers(4):
                case 0 if isinstance(holder, list):
                    holder.insert(key, copy.deepcopy(holder[key]))
                case 1:
                    del holder[key]
                case 2 if type(holder[key]) in (int, float):
                    holder[key] = holder[key] * int(generator.integers(2, 99))
                case _:
                    holder[key] = copy.deepcopy(WILD[generator.integers(len(WILD))])
            if not edited["architecture"]:
                break
        yield with_object(data, edited)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    keys = value if isinstance(value, dict) else range(len(value))
    for key in list(keys):
        yield value, key
        if isinstance(value[key], dict | list):
            yield from _places(value[key])


def outcome(path: Path, data: bytes, load: bool = False) -> str:
    """``refused``, in one short line, or ``accepted``, with finite weights only; anything else is raised.

    Args:
        load: the whole model, not only its tensors.
    """
    path.write_bytes(data)
    try:
        if load:
            values = [value.numpy() for value in checkpoint.load(path).model.state_dict().values()]
        else:
            values = list(container.read(path).values())
    except PackedCheckpointError as error:
        assert "\n" not in str(error) and len(str(error)) < 500, str(error)
        return "refused"
    assert all(np.isfinite(value).all() for value in values)
    return "accepted"
