"""From a healed student to files worth shipping: INT8 graphs of it, and a record of where it comes from.

with_int8("healed.mcpk", "small_and_fast.mcpk", assets.image_set("coco128"))
record("small_and_fast.mcpk", found, start="small.mcpk", device="cuda", photographs=355)
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

import openvino
import torch

from .. import files
from ..assets import ImageSet
from ..machine import commit, cpu
from ..packed import checkpoint, container
from ..packed.tensors import Half
from ..subject import Subject
from .healing import Healed
from .quantization import int8


def with_int8(file: Path | str, target: Path | str, images: ImageSet, size: int = 640) -> Path:
    """A packed checkpoint together with its INT8 graph; the weights stay those of the file.

    Args:
        file: a packed checkpoint, with an INT8 graph or without; the new one is made for its own weights.
        images: to calibrate the ranges of the activations on.
        size: of the square input in pixels.

    Raises:
        PackedCheckpointError: not a packed checkpoint.
        OSError: the target cannot be written; a previous one is kept.
    """
    tensors = {name: part for name, part in container.tensors(file).items() if not isinstance(part, Half)}
    graph = _quantized(file, images, size, bias_correction=False)  # the weights are on their grid already
    return checkpoint.save(target, checkpoint.load(file).model, tensors, int8=graph)


def int8_alone(file: Path | str, target: Path | str, images: ImageSet, size: int = 640) -> Path:
    """The INT8 graph of a packed checkpoint whose weights are on no grid: ``.xml``, and a ``.bin`` beside it.

    Arguments as for :func:`with_int8`.

    Raises:
        PackedCheckpointError: not a packed checkpoint.
    """
    openvino.save_model(_quantized(file, images, size, bias_correction=True), target)
    return Path(target)


def _quantized(file: Path | str, images: ImageSet, size: int, bias_correction: bool) -> openvino.Model:
    model = checkpoint.load(file).model
    with tempfile.TemporaryDirectory() as folder:
        exported = checkpoint.export(model, Path(folder, f"{Path(file).stem}.xml"), size)
        graph = openvino.Core().read_model(exported)
        return int8(graph, images, bias_correction=bias_correction, subject=Subject.of(model))


def record(file: Path | str, healed: Healed, start: Path | str, **about: Any) -> Path:
    """Write ``.json`` beside a file: how it was made.

    Args:
        start: the file that was healed.
        about: what else is worth knowing, ``device`` among it: its name is written down.

    Raises:
        OSError: it cannot be written; a previous one is kept.
    """
    device = torch.device(about.pop("device"))
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else cpu().name
    steps, seconds, *_ = healed.history[-1]
    content = {
        "commit": commit(), "device": name, **about, "steps": steps, "minutes": round(seconds / 60, 1),
        "nats before": healed.before, "nats after": healed.after, "start": Path(start).name,
        "sha256 of the start": hashlib.sha256(Path(start).read_bytes()).hexdigest(),
        "history": healed.history,
    }  # fmt: skip
    target = Path(file).with_suffix(".json")
    files.replace({target: (json.dumps(content, indent=1) + "\n").encode()})
    return target
