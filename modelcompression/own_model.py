"""May this file be opened, and is it a detector? Somebody's own model, before anything is done with it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from .detector import DetectorError, load_yolo
from .errors import ModelCompressionError
from .fetch import sha256
from .packed import checkpoint
from .packed.architecture import HEADS, architecture_of
from .packed.tensors import PackedCheckpointError
from .subject import WEIGHTS_SHA256

if TYPE_CHECKING:
    from torch import nn

PACKED = ".mcpk"
# What ultralytics' other heads do, for those who wonder why they are refused.
OTHER_TASKS = {
    "Segment": "segmentation", "Segment26": "segmentation", "Pose": "pose estimation",
    "Pose26": "pose estimation", "OBB": "rotated boxes", "OBB26": "rotated boxes",
    "Classify": "classification", "RTDETRDecoder": "RT-DETR",
}  # fmt: skip


class OwnModelError(ModelCompressionError, ValueError):
    """A model is not opened, or is none that can be compressed; the message says why and what can be done."""


def own_model(weights: Path, trusted: bool = False, digest: str | None = None) -> nn.Module:
    """A detection model of ultralytics', BatchNorm folded, float32.

    A ``.pt`` file is a pickle: opening it runs what its author put in. So somebody has to stand for it.

    Args:
        weights: a ``.pt`` checkpoint, or a packed one (``.mcpk``), which is data and needs no trust.
        trusted: whoever calls stands for the file.
        digest: the file's sha256, or the first eight digits of it or more, as its author tells.

    Raises:
        OwnModelError: there is no such file, nobody stands for it, it needs code that is not here, or it is
            no detector.
        DetectorError: it is no checkpoint.
        PackedCheckpointError: a packed checkpoint is damaged, or the model's parts cannot be packed.
    """
    if not weights.is_file():
        raise OwnModelError(f"{weights} does not exist: give the .pt file of a trained detector")
    if weights.suffix == PACKED:
        return checkpoint.load(weights).model
    if weights.suffix != ".pt":
        raise OwnModelError(f"{weights} is no .pt file: give the checkpoint that training has written")
    _require_trust(weights, trusted, digest)
    try:
        model = load_yolo(weights)
    except DetectorError as error:
        missing = error.__context__
        if isinstance(missing, ImportError) or "Can't get attribute" in str(missing):
            raise OwnModelError(
                f"{weights} needs code that is not here ({missing}): install what its layers come from"
            ) from None
        raise
    head = type(model.model[-1]).__name__ if hasattr(model, "model") else type(model).__name__
    if head not in HEADS:
        does = f" ({OTHER_TASKS[head]})" if head in OTHER_TASKS else ""
        raise OwnModelError(
            f"{weights} ends in {head}{does}: only detectors, with the heads {' and '.join(HEADS)}, are "
            "compressed: YOLOv5u to YOLO26"
        )
    try:
        architecture_of(model)
    except PackedCheckpointError as error:
        raise PackedCheckpointError(f"{weights}: {error}") from None
    return model


def require_packable(model: nn.Module) -> None:
    """Notice before any long work that a model would not come back from a packed checkpoint.

    Raises:
        PackedCheckpointError: it would not, for example as its head was made for other classes.
    """
    with tempfile.TemporaryDirectory() as folder:
        checkpoint.save(Path(folder, "whole.mcpk"), model, {})


def _require_trust(weights: Path, trusted: bool, digest: str | None) -> None:
    found = sha256(weights)
    if digest is not None:
        wanted = digest.strip().lower()
        if len(wanted) < 8 or set(wanted) - set("0123456789abcdef"):
            raise OwnModelError(f"'{digest}' is no sha256: give its 64 hexadecimal digits, or the first 8")
        if not found.startswith(wanted):
            raise OwnModelError(f"{weights} has the sha256 {found}, not {digest}: it is another file")
    elif not trusted and found != WEIGHTS_SHA256:
        raise OwnModelError(
            f"{weights} is a pickle, and opening it runs whatever its author put in: add --trust if it is "
            "your own (TRUST = True in a notebook), or --sha256 with the hash that its author tells you"
        )
