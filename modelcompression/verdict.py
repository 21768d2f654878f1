"""What did compression cost? A bound on the loss, with labels or without, and the report of a compression."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import mistune
import numpy as np
import torch

from . import files
from .assets import ImageSet, Sample
from .detector import Detector, TorchDetector
from .images import letterbox, prepared
from .measure.accuracy import Evaluation, match
from .measure.intervals import Interval, loss_bound
from .measure.pipeline import CONFIDENCE
from .methods.distance import distance
from .network import unchosen

RESAMPLES = 1000
STYLE = "body{font:16px sans-serif;margin:2em}td,th{padding:.2em .7em;text-align:right}img{max-width:100%}"


@dataclass(frozen=True)
class Loss:
    """How much worse than the original, as a share; ``bound`` is the one-sided 95 % bound over images.

    labelled: of mAP50-95; otherwise of the agreement with the original's detections above ``CONFIDENCE``.
    """

    value: float
    bound: float
    labelled: bool

    def __str__(self) -> str:
        what = "mAP50-95" if self.labelled else "agreement with the original"
        return (
            f"{100 * self.value:+.2f} % of {what} lost, at most {100 * self.bound:+.2f} % (95 % confidence)"
        )


def loss(variant: Evaluation, original: Evaluation, seed: int = 0) -> Loss:
    """The loss on labelled photographs, or else on what the original detects."""
    if any(len(sample.classes) for sample in original.images.samples):
        whole = 1 - variant.map50_95 / original.map50_95
        return Loss(whole, loss_bound(variant, original, RESAMPLES, seed), True)
    pairs = np.array([_agreement(*found) for found in zip(
        variant.detections, original.detections, original.images.samples, strict=True)])  # fmt: skip
    draws = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    sums = pairs[draws].sum(1)
    sums = sums[sums[:, 1] > 0]  # photographs on which nothing is shown say nothing
    value = 1 - pairs[:, 0].sum() / pairs[:, 1].sum()
    return Loss(float(value), float(np.percentile(1 - sums[:, 0] / sums[:, 1], 95)), False)


def _agreement(ours: np.ndarray, theirs: np.ndarray, sample: Sample) -> tuple[float, float]:
    """Twice the detections that both show (IoU from 0.5, same class), and all that either shows."""
    ours, theirs = (found[found[:, 4] > CONFIDENCE] for found in (ours, theirs))
    classes, boxes = theirs[:, 5].astype(int), theirs[:, :4].astype(float)
    wanted = replace(sample, classes=classes, boxes=boxes, areas=np.zeros(len(theirs)))
    return 2 * float(match(ours, wanted)[:, 0].sum()), float(len(ours) + len(theirs))


def moved(detector: Detector, original: Detector, images: ImageSet, size: int) -> float:
    """How far all scores and boxes have moved, in nats a photograph (:func:`.methods.distance.distance`).

    Of what runtimes give, the logits of the scores can be had again, the distributions of box sides cannot:
    each corner stands for a normal distribution. All anchors are compared, not only a head's best.
    """
    every = original.subject.strides
    anchors = [replace(original.subject, strides=(stride,)).anchors(size, size) for stride in every]
    strides = np.repeat(np.float32(every), anchors)
    found = []
    for sample in images.samples:
        pixels = letterbox(sample.path, size)[0]
        ours, theirs = (_logits(every_anchor(one, pixels), strides) for one in (detector, original))
        found.append(float(distance(ours, theirs)))
    return float(np.mean(found))


def every_anchor(detector: Detector, pixels: np.ndarray) -> np.ndarray:
    """(1, 4 + classes, anchors): of a head without suppression not only its best, in their order."""
    batch = prepared(detector, pixels)
    if not isinstance(detector, TorchDetector):
        return detector(batch)
    with unchosen(detector.model):
        return detector(batch)


def _logits(output: np.ndarray, strides: np.ndarray) -> dict[str, torch.Tensor]:
    centre, extent = output[:, :2], output[:, 2:4]
    corners = np.concatenate([centre - extent / 2, centre + extent / 2], 1) / strides
    scores = torch.from_numpy(output[:, 4:].copy()).clamp(1e-7, 1 - 1e-7).logit()
    return {"scores": scores, "boxes": torch.from_numpy(corners)}


@dataclass(frozen=True)
class Speed:
    """Times the original's, in forward passes and from JPEG to boxes; medians of both in milliseconds."""

    forward: Interval
    forward_ms: tuple[float, float]
    pipeline: Interval
    pipeline_ms: tuple[float, float]

    def metrics(self) -> dict[str, float]:
        """By the names of the MLflow schema."""
        names = ("baseline_latency_ms", "latency_ms", "baseline_pipeline_ms", "pipeline_ms")
        found = dict(zip(names, self.forward_ms + self.pipeline_ms, strict=True))
        for name, interval in (("speedup", self.forward), ("pipeline_speedup", self.pipeline)):
            found |= {name: interval.value, f"{name}_lo": interval.low, f"{name}_hi": interval.high}
        return found


@dataclass(frozen=True)
class Outcome:
    """One form of a model: its files, how it runs, and what was measured of it.

    distance: of :func:`moved`, nats.
    speed: None if it runs as the original does.
    square: whether it was shown photographs padded to squares, or else to rectangles.
    lines: of Python that run it.
    """

    name: str
    files: tuple[Path, ...]
    megabytes: float
    loss: Loss
    distance: float
    speed: Speed | None
    lines: tuple[str, ...]
    detections: Evaluation
    square: bool = True

    def __str__(self) -> str:
        faster = f"{self.speed.pipeline.value:.2f} × faster, " if self.speed else ""
        return f"{self.name}: {self.megabytes:.2f} MB, {faster}{self.loss}"


def detecting(model: Path, square: bool) -> tuple[str, ...]:
    """Lines of Python that run a model as ``detect`` does."""
    shape = ", square=True" if square else ""
    return (
        "from modelcompression.detect import Model",
        f"model = Model({_quoted(model)}{shape})",
        'model.drawn("photo.jpg").save("boxes.jpg"); print(model("photo.jpg"))',
    )


def predicting(file: Path, size: int) -> tuple[str, ...]:
    """Lines of Python that run a packed checkpoint as ultralytics does."""
    return (
        "from modelcompression.packed import checkpoint",
        f"yolo = checkpoint.load({_quoted(file)})  # as any YOLO of ultralytics'",
        f'yolo.predict("photo.jpg", imgsz={size})[0].show()',
    )


def _quoted(path: Path) -> str:
    """As a string of Python: a backslash of Windows would escape what follows it."""
    return json.dumps(path.as_posix(), ensure_ascii=False)


HEAD = ("", "MB", "× smaller", "lost, %", "at most, %", "nats", "network, ms", "× faster", "JPEG → boxes, ms",
        "× faster")  # fmt: skip


def _row(one: Outcome, original: Outcome) -> list[str]:
    size = [one.name, f"{one.megabytes:.2f}", f"{original.megabytes / one.megabytes:.2f}"]
    if one is original:
        return [*size, *["–"] * 7]
    cost = [f"{100 * one.loss.value:+z.2f}", f"{100 * one.loss.bound:+z.2f}", f"{one.distance:.2f}"]
    if not one.speed:
        return [*size, *cost, "as the original", "–", "as the original", "–"]
    parts = ((one.speed.forward_ms, one.speed.forward), (one.speed.pipeline_ms, one.speed.pipeline))
    speed = [text for ms, x in parts for text in (f"{ms[0]:.1f} → {ms[1]:.1f}", str(x))]
    return [*size, *cost, *speed]


def write_report(
    folder: Path, title: str, facts: Sequence[str], outcomes: Sequence[Outcome], tried: Sequence[str]
) -> list[Path]:
    """``report.md``, and ``report.html`` made of it.

    Raises:
        OSError: they cannot be written; previous ones are kept.
    """
    rows = [HEAD, *(_row(one, outcomes[0]) for one in outcomes)]
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    table = "\n".join([lines[0], "| --- |" + " --: |" * (len(HEAD) - 1), *lines[1:]])
    text = [f"# {title}", *facts, table, "## How to run them"]
    for one in outcomes[1:]:
        code = "\n".join(one.lines)
        text += [f"{one.name}: {', '.join(str(path) for path in one.files)}", f"```python\n{code}\n```"]
    text += ["## Detections", "![the same photographs as each model sees them](detections.jpg)"]
    text += ["## What was tried", "\n".join(f"- {line}" for line in tried)]
    whole = "\n\n".join(text) + "\n"
    page = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>\n"
    page += mistune.create_markdown(plugins=["table"])(whole)
    files.replace({folder / "report.md": whole.encode(), folder / "report.html": page.encode()})
    return [folder / "report.md", folder / "report.html"]
