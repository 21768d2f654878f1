"""Somebody's own detector, smaller and faster: the recipes that won, applied to any detector of ultralytics'.

    modelcompression compress best.pt --data my.yaml --for both --max-loss 1%

*fast* is an INT8 graph for OpenVINO, as homeworks 2 and 5 make it; *small* a packed checkpoint with
second-order rounding, as homework 4 makes it, as small as the bound on the loss allows; *both* is one file
with both in it. Everything is tuned on the training photographs, and judged on those of the validation set.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from . import figures, files
from .assets import ImageSet
from .dataset import from_folder, from_yaml
from .detector import Detector, DetectorError, OpenVinoDetector, TorchDetector, load_yolo
from .errors import ModelCompressionError
from .fetch import sha256
from .images import letterbox, prepared
from .machine import commit, cpu, versions
from .measure.accuracy import Evaluation, evaluate
from .measure.footprint import bits_per_weight, size_mb
from .measure.latency import time_pairs
from .methods import quantization
from .methods.lean import LeanDetector
from .packed import checkpoint
from .packed.architecture import architecture_of
from .recipes import Rounder, exported_graph, grids, loading_lines, whole_folder
from .subject import WEIGHTS_SHA256, Subject
from .tracking.store import RunRecord
from .tracking.tracker import Tracker
from .verdict import Loss, Outcome, loss, most_telling, write_report

GOALS = ("fast", "small", "both")
MOST = 200  # photographs to calibrate with, and to judge with
DEFAULT_LOSS = {True: 0.01, False: 0.05}  # with labels: of mAP50-95; without: of the agreement
SCALE, FINEST, COARSEST = 0.03, 0.004, 0.12  # of the steps, relative to sensitivity^-power
SEARCHES = 4
# What stays in float, one attempt after the other, until the loss is within the bound.
IN_FLOAT = {
    "nothing but the head's arithmetic": "",
    "attention": r"/attn/",
    "attention and the head's last convolutions": r"/attn/|/(?:one2one_)?cv[23]\.\d\.2/",
    "attention and the whole head": r"/attn/|^/model\.{head}/",
}


class CompressionError(ModelCompressionError, ValueError):
    """A model cannot be compressed as wished; the message says why and what can be done."""


@dataclass(frozen=True)
class Wish:
    """What the command line asks for; ``data`` or ``images`` is given, ``max_loss`` is a share or None."""

    weights: Path
    data: Path | None
    images: Path | None
    goal: str
    max_loss: float | None
    out: Path
    trusted: bool
    sha256: str | None
    threads: int
    size: int | None = None


def compress(wish: Wish) -> list[Outcome]:
    """Apply the recipes, write the files and the report, log the runs.

    Raises:
        ModelCompressionError: bad input, in one line, before any long work starts.
    """
    work = Work(wish)
    outcomes = [work.original()]
    if wish.goal in ("fast", "both"):
        outcomes.append(work.fast())
    if wish.goal in ("small", "both"):
        outcomes.append(work.small())
    if wish.goal == "both":
        outcomes.append(work.both())
    work.report(outcomes)
    work.log(outcomes)
    return outcomes


class Work:
    """One compression. Whatever took long is kept in ``OUT/.work``, so a second start goes on from there."""

    def __init__(self, wish: Wish) -> None:
        self.wish, self.name = wish, wish.weights.stem
        self.model = _model(wish)
        self.subject = Subject.of(self.model)
        read, place = (from_yaml, wish.data) if wish.data else (from_folder, wish.images)
        if place is None:
            raise CompressionError("say what the model sees: --data my.yaml, or --images FOLDER")
        self.tuning, self.judged = read(place, self.subject.names, MOST)
        self.labelled = wish.data is not None
        self.most = DEFAULT_LOSS[self.labelled] if wish.max_loss is None else wish.max_loss
        largest = max(self.subject.strides)
        asked = wish.size or getattr(self.model, "args", {}).get("imgsz", 640)
        self.size = -(-int(max(asked) if isinstance(asked, list | tuple) else asked) // largest) * largest
        digest = hashlib.sha256(f"{sha256(wish.weights)} {self.size}".encode())
        digest.update(" ".join(str(sample.path) for sample in self.tuning.samples).encode())
        self.folder = wish.out / ".work" / digest.hexdigest()[:16]
        self.tried: list[str] = []
        self._rounder = Rounder(self.model, self.tuning, self.size)
        self.eager = TorchDetector(copy.deepcopy(self.model), wish.threads, subject=self.subject)

    def judge(self, detector: Detector, images: ImageSet, square: bool = True) -> Evaluation:
        return evaluate(detector, images, self.size, square=square)

    @cached_property
    def before(self) -> Evaluation:
        """The original on the photographs that tune."""
        return self.judge(self.eager, self.tuning)

    @cached_property
    def after(self) -> Evaluation:
        """The original on those that judge."""
        found = self.judge(self.eager, self.judged)
        if self.labelled and not found.map50_95:
            raise CompressionError("the original finds nothing on these photographs: are these its labels?")
        return found

    def original(self) -> Outcome:
        timed = time_pairs(self.eager, self.eager, [(b, b) for b in self._batches(self.eager)], pairs=6)
        shipped, nothing = (self.wish.weights,), loss(self.after, self.after)
        return Outcome("original", shipped, size_mb(shipped), nothing,
                       "1", timed.baseline.median, (), self.after)  # fmt: skip

    def fast(self) -> Outcome:
        """INT8, with as little in float as the loss allows; lean and on rectangles where that holds."""
        path = self._kept("float", lambda folder: exported_graph(self.model, folder, self.size, self.name))
        graph, square = self._quantized(path, "fast")
        folder = self.wish.out / f"{self.name}-fast_openvino_model"
        described = {
            "task": "detect", "stride": max(self.subject.strides), "batch": 1, "args": {"nms": False},
            "imgsz": [self.size, self.size], "names": dict(enumerate(self.subject.names)),
            "channels": self.subject.channels,
        }  # fmt: skip
        file = folder / f"{self.name}-fast.xml"
        copied = {file.with_suffix(end): graph.with_suffix(end).read_bytes() for end in (".xml", ".bin")}
        files.replace(copied | {folder / "metadata.yaml": yaml.safe_dump(described).encode()})
        detector = self._detector(file, square)
        lines = (
            "from ultralytics import YOLO",
            f'yolo = YOLO("{folder}", task="detect")',
            'yolo("photo.jpg")',
        )
        return self._outcome("fast", detector, [file, file.with_suffix(".bin")], lines, square is not False)

    def small(self) -> Outcome:
        """The smallest packed checkpoint whose loss is within the bound."""
        self.packed = self._search()
        file = self.wish.out / f"{self.name}-small.mcpk"
        files.replace({file: self.packed.read_bytes()})
        detector = TorchDetector(checkpoint.load(file).model, self.wish.threads, subject=self.subject)
        return self._outcome("small", detector, [file], loading_lines(file))

    def both(self) -> Outcome:
        """The small checkpoint with its own INT8 graph inside."""
        path = self._kept(
            f"float-{self.packed.stem}",
            lambda folder: checkpoint.to_openvino(self.packed, folder, "f32", self.size),
        )
        graph, square = self._quantized(path, f"both-{self.packed.stem}", bias_correction=False)
        file = self.wish.out / f"{self.name}-small-and-fast.mcpk"
        import openvino

        checkpoint.save(file, self.model, grids(self.packed), openvino.Core().read_model(graph))
        unpacked = checkpoint.to_openvino(file, self.folder / "unpacked")
        lines = ("from modelcompression.packed import checkpoint",
                 f'graph = checkpoint.to_openvino("{file}", "folder")',
                 f'yolo = checkpoint.load("{file}")')  # fmt: skip
        return self._outcome(
            "small and fast", self._detector(unpacked, square), [file], lines, square is not False
        )

    def report(self, outcomes: list[Outcome]) -> None:
        shown = most_telling(self.judged, self.after)
        columns = {outcome.name: outcome.detections for outcome in outcomes}
        picture = figures.side_by_side(self.judged, shown, columns)
        files.replace({self.wish.out / "detections.jpg": picture.data})
        facts = [
            f"{self.subject.classes} classes, {self.subject.parameters:,} parameters, {self.size} px; "
            f"{len(self.tuning)} photographs to tune, {len(self.judged)} others to judge; {cpu()}.",
            "Loss: of mAP50-95 on the validation set." if self.labelled else
            "There are no labels: loss means less agreement with what the original shows, not less mAP.",
            f"Bound asked for: {100 * self.most:g} %. In brackets the one-sided 95 % bound. "
            "Speed: forward passes in alternation with the original's, in one process.",
        ]  # fmt: skip
        facts += [f"{o.name}: the bound is not met: {o.loss}." for o in outcomes if o.loss.bound > self.most]
        write_report(self.wish.out, f"{self.name}, compressed", facts, outcomes, self.tried)

    def log(self, outcomes: list[Outcome]) -> None:
        tags = {
            "homework": "compress", "dataset": self.judged.name, "cpu": cpu().name, "isa": cpu().isa,
            "threads": str(self.wish.threads), "git_commit": commit(), "versions": versions(),
            "smoke": "false",
            "subject": self.name,
        }  # fmt: skip
        with Tracker("compress", tags) as tracker:
            for outcome in outcomes[1:]:
                kind = "map50_95" if self.labelled else "agreement"
                metrics = {
                    "images": len(self.judged), "size_mb": outcome.megabytes,
                    "latency_ms": outcome.milliseconds,
                    "bits_per_weight": bits_per_weight(outcome.files, self.subject.parameters),
                    f"{kind}_loss": outcome.loss.value, f"{kind}_loss_bound": outcome.loss.bound,
                }  # fmt: skip
                named = tags | {"experiment": f"{self.name}, {outcome.name}"}
                tracker.log(
                    RunRecord(named["experiment"], metrics, {"size": str(self.size)}, named, outcome.files)
                )

    def _batches(self, detector: Detector, square: bool = True) -> list[np.ndarray]:
        few = self.judged.samples[:6]
        return [prepared(detector, letterbox(sample.path, self.size, square)[0]) for sample in few]

    def _outcome(
        self, name: str, detector: Detector, written: list[Path], lines: tuple[str, ...], square: bool = True
    ) -> Outcome:
        found = self.judge(detector, self.judged, square)
        pairs = list(zip(self._batches(self.eager), self._batches(detector, square), strict=True))
        timed = time_pairs(self.eager, detector, pairs, pairs=24)
        speed = f"{timed.speedup.value:.2f} [{timed.speedup.low:.2f}, {timed.speedup.high:.2f}]"
        return Outcome(name, tuple(written), size_mb(written), loss(found, self.after), speed,
                       timed.variant.median, lines, found)  # fmt: skip

    def _kept(self, name: str, make: Callable[[Path], Path]) -> Path:
        """The ``.xml`` in a folder of its own, made only if it is not there yet."""
        folder = self.folder / name
        found = sorted(folder.glob("*.xml"))
        return found[0] if found else make(folder)

    def _detector(self, path: Path, square: bool | None) -> Detector:
        kind = OpenVinoDetector if square is None else LeanDetector
        return kind(path, self.wish.threads, subject=self.subject)

    def _quantized(self, path: Path, name: str, **how: Any) -> tuple[Path, bool | None]:
        """The first INT8 graph within the bound; it runs lean on rectangles, lean on squares or as it is."""
        import openvino

        best: tuple[float, Path, bool | None] | None = None
        for label, pattern in IN_FLOAT.items():
            also = pattern.replace("{head}", str(self.subject.head))
            graph = openvino.Core().read_model(path)
            names = [op.get_friendly_name() for op in graph.get_ordered_ops()]
            if "/attn/" in also and label == "attention" and not any("/attn/" in name for name in names):
                continue
            make = partial(self._quantize, graph, also, how)
            found = self._kept(f"{name}-{list(IN_FLOAT).index(label)}", make)
            for square in (False, True, None):
                how_it_runs = {False: "lean, rectangles", True: "lean, squares", None: "as exported"}[square]
                try:
                    lost = self._tuning_loss(self._detector(found, square), square is not False)
                except DetectorError as error:
                    self.tried.append(f"{name}, {how_it_runs}: {error}")
                    continue
                self.tried.append(f"{name}, INT8, in float {label}, {how_it_runs}: {lost}")
                if best is None or lost.bound < best[0]:
                    best = lost.bound, found, square
                if lost.bound <= self.most:
                    return found, square
        return best[1], best[2]

    def _quantize(self, graph: Any, also_float: str, how: dict[str, Any], folder: Path) -> Path:
        import openvino

        quantized = quantization.int8(graph, self.tuning, also_float, subject=self.subject, **how)
        return whole_folder(
            folder, lambda aside: openvino.save_model(quantized, aside / "int8.xml"), "int8.xml"
        )

    def _tuning_loss(self, detector: Detector, square: bool = True) -> Loss:
        return loss(self.judge(detector, self.tuning, square), self.before)

    def _search(self) -> Path:
        """The coarsest steps within the bound, by bisection of their logarithm."""
        low, high, scale = np.log2(FINEST), np.log2(COARSEST), np.log2(SCALE)
        best: Path | None = None
        for _ in range(SEARCHES):
            file = self._candidate(float(2**scale))
            detector = TorchDetector(checkpoint.load(file).model, self.wish.threads, subject=self.subject)
            lost = self._tuning_loss(detector)
            self.tried.append(f"small, {size_mb([file]):.3f} MB: {lost}")
            if lost.bound <= self.most:
                best, low = file, scale
            else:
                high = scale
            scale = (low + high) / 2
        return best or self._candidate(FINEST)

    def _candidate(self, scale: float) -> Path:
        file = self.folder / f"small-{scale:.6f}.mcpk"
        return file if file.is_file() else self._rounder.write(file, scale)


def _model(wish: Wish) -> torch.nn.Module:
    """The fused network, after it is clear that opening the file was meant."""
    if not wish.weights.is_file():
        raise CompressionError(f"{wish.weights} does not exist: give the .pt file of a trained detector")
    found = sha256(wish.weights)
    if wish.sha256 and not found.startswith(wish.sha256.lower()):
        raise CompressionError(
            f"{wish.weights} has the sha256 {found}, not {wish.sha256}: it is another file"
        )
    if not (wish.trusted or wish.sha256 or found == WEIGHTS_SHA256):
        raise CompressionError(
            f"{wish.weights} is a pickle, opening it runs what its author put in: add --trust if it is your "
            "own, or --sha256 with the hash its author tells you"
        )
    model = load_yolo(wish.weights)
    head = type(model.model[-1]).__name__ if hasattr(model, "model") else type(model).__name__
    if head not in ("Detect", "v10Detect"):
        raise CompressionError(
            f"{wish.weights} ends in {head}: only detectors (Detect, v10Detect) are compressed"
        )
    architecture_of(model)
    return model
