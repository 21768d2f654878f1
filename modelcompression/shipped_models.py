"""What to take on this CPU, without any run: the files of ``models/``, ultralytics' exports, the original.

Only times are measured here. What a file loses is on its card; ultralytics' exports carry no card, their rows
are in the README's table.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
from IPython.utils.capture import capture_output
from tqdm import tqdm

from . import assets
from .boxes import CONFIDENCE, best_boxes
from .cards import cards
from .detect import Model
from .detector import Detector, DetectorError, OpenVinoDetector, TorchDetector
from .errors import ModelCompressionError
from .fetch import AssetError
from .images import fit, prepared, to_original
from .measure.footprint import MEGABYTE, shipped, size_mb
from .measure.latency import Comparison, time_pairs
from .subject import weights

INPUT_SIZE, PAIRS = 640, 15
EXPORTS = {"int8": {"int8": True}, "half": {"half": True}}  # `yolo export format=openvino`, and its options
ORIGINAL = "the original, eager PyTorch"


class NothingToTake(ModelCompressionError, RuntimeError):
    """Neither a model in ``models/`` nor the original's weights are here; the message says what to do."""


@dataclass(frozen=True)
class Contender:
    """One way to run YOLOv8n.

    Attributes:
        lost: what is known of its accuracy, in words.
        command: what a user types to have it.
    """

    name: str
    detector: Detector
    square: bool
    megabytes: float
    lost: str
    command: str

    def given(self, pixels: np.ndarray) -> np.ndarray:
        """What the detector takes of a photograph, (H, W, 3) uint8 RGB."""
        return prepared(self.detector, fit(pixels, INPUT_SIZE, self.square)[0])

    def boxes(self, jpeg: np.ndarray) -> np.ndarray:
        """From the bytes of a JPEG file to boxes in its pixels: all that an application waits for."""
        small, scale, offset = fit(cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB), INPUT_SIZE, self.square)
        found = best_boxes(self.detector(prepared(self.detector, small))[0].T, CONFIDENCE)
        return to_original(found[:, :4], scale, offset)


def recommend_shipped(threads: int) -> None:
    """Time what can be had without a run, on this CPU; print it and the command to type.

    Raises:
        NothingToTake: there is nothing to compare.
    """
    with tempfile.TemporaryDirectory() as folder:
        found = [*_original(threads)]
        with_weights = bool(found)
        found += _of_cards(threads)
        if with_weights:
            found += _exported_by_ultralytics(Path(folder), threads, EXPORTS)
        if len(found) < 2:
            raise NothingToTake("models/ holds nothing to compare: make run HW=hw5_export makes models")
        reference, *others = found
        timed = {
            one.name: _times(reference, one) for one in tqdm(others, "timing", unit="model", leave=False)
        }
    print(f"in turn with {reference.name}, on the demo photos; 95 % intervals")
    by_name = {one.name: one for one in others}
    order = sorted(timed, key=lambda name: timed[name][1].speedup.value, reverse=True)
    print(pd.DataFrame([_line(by_name[name], *timed[name]) for name in order]).to_string(index=False))
    best = by_name[order[0]] if timed[order[0]][1].speedup.value > 1 else reference
    print(f"fastest from JPEG to boxes: {best.name}; to have it:\n{best.command}")


def _original(threads: int) -> Iterator[Contender]:
    try:
        file = weights()
    except AssetError as error:
        print(f"left out, the original and its exports: {error}")
        return
    command = "yolo predict model=yolov8n.pt source=photo.jpg"
    yield Contender(ORIGINAL, TorchDetector(file, threads), True, size_mb([file]), "0", command)


def _of_cards(threads: int) -> Iterator[Contender]:
    for card in cards():
        command = f"modelcompression detect photo.jpg --model {card.name} --threads {threads}"
        detector = Model(card.file, threads=threads).detector
        yield Contender(card.name, detector, False, card.size / MEGABYTE, _lost(card.default), command)


def _lost(row: dict[str, Any]) -> str:
    """The change of mAP50-95 on a card, in per cent, the confirmed one if there is one."""
    prefix = "confirmed_" if row.get("confirmed_map50_95_delta") is not None else ""
    values = [row.get(f"{prefix}map50_95_delta{end}") for end in ("", "_lo", "_hi")]
    if None in values:
        return "not measured"
    value, low, high = (100 * v for v in values)
    return f"{value:+.1f} [{low:+.1f}, {high:+.1f}]"


def _exported_by_ultralytics(
    folder: Path, threads: int, exports: Mapping[str, Mapping[str, bool]]
) -> Iterator[Contender]:
    """Calibrated on the demo photos: that suffices for a graph whose speed is asked for, not its accuracy."""
    from ultralytics import YOLO

    data = assets.save_as_yolo(assets.image_set("demo"), folder / "demo")
    for name, options in tqdm(exports.items(), "exporting", unit="model", leave=False):
        copy = folder / name / "yolov8n.pt"
        copy.parent.mkdir()
        shutil.copyfile(weights(), copy)
        extra = {"data": str(data)} if "int8" in options else {}
        with capture_output():
            YOLO(copy).export(format="openvino", imgsz=640, verbose=False, **options, **extra)
        (graph,) = copy.parent.glob("*/*.xml")
        command = f"yolo export model=yolov8n.pt format=openvino {name}=True"
        yield Contender(
            f"ultralytics' export, {name}", _unasked(graph, threads), True, size_mb(shipped(graph)),
            "see the README's table", command,
        )  # fmt: skip


def _unasked(graph: Path, threads: int) -> OpenVinoDetector:
    """As ultralytics runs it, which leaves it to OpenVINO to compute in bf16 where the CPU has it."""
    try:
        return OpenVinoDetector(graph, threads, "bf16")
    except DetectorError:
        return OpenVinoDetector(graph, threads)


def _times(reference: Contender, one: Contender) -> tuple[Comparison, Comparison]:
    """Of a forward pass, and from JPEG to boxes."""
    files = [sample.path for sample in assets.image_set("demo").samples if sample.path.suffix == ".jpg"]
    jpegs = [np.frombuffer(path.read_bytes(), np.uint8) for path in files]
    images = [cv2.imdecode(jpeg, cv2.IMREAD_COLOR_RGB) for jpeg in jpegs]
    batches = [(reference.given(image), one.given(image)) for image in images]
    forward = time_pairs(reference.detector, one.detector, batches, PAIRS)
    return forward, time_pairs(reference.boxes, one.boxes, [(jpeg, jpeg) for jpeg in jpegs], PAIRS)


def _line(one: Contender, forward: Comparison, whole: Comparison) -> dict[str, str]:
    return {
        "model": one.name,
        "MB": f"{one.megabytes:.2f}",
        "Δ mAP50-95, %": one.lost,
        "ms forward": f"{forward.variant.median:.1f}",
        "× faster": _with_interval(forward),
        "ms, JPEG to boxes": f"{whole.variant.median:.1f}",
        "× faster, JPEG to boxes": _with_interval(whole),
    }


def _with_interval(found: Comparison) -> str:
    speed = found.speedup
    return f"{speed.value:.2f} [{speed.low:.2f}, {speed.high:.2f}]"
