"""What did compression cost? A bound on the loss, with labels or without, and the report of a compression."""

from __future__ import annotations

import html
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from . import files
from .assets import ImageSet, Sample
from .measure.accuracy import Evaluation, match
from .measure.intervals import resampled_map

SHOWN = 0.25  # confidence of detections that an application would show
RESAMPLES = 1000


@dataclass(frozen=True)
class Loss:
    """How much worse than the original, as a share; ``bound`` is the one-sided 95 % bound over images.

    labelled: of mAP50-95; otherwise of the agreement with the original's detections above ``SHOWN``.
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
        before, after = (resampled_map(found, RESAMPLES, seed) for found in (original, variant))
        changes = 1 - after[before > 0] / before[before > 0]
        whole = 1 - variant.map50_95 / original.map50_95
        return Loss(whole, float(np.percentile(changes, 95)), True)
    pairs = np.array([_agreement(*found) for found in zip(
        variant.detections, original.detections, original.images.samples, strict=True)])  # fmt: skip
    draws = np.random.default_rng(seed).integers(0, len(pairs), (RESAMPLES, len(pairs)))
    sums = pairs[draws].sum(1)
    shares = 1 - sums[:, 0] / np.maximum(sums[:, 1], 1)
    value = 1 - pairs[:, 0].sum() / max(pairs[:, 1].sum(), 1)
    return Loss(float(value), float(np.percentile(shares, 95)), False)


def _agreement(ours: np.ndarray, theirs: np.ndarray, sample: Sample) -> tuple[float, float]:
    """Twice the detections that both show (IoU from 0.5, same class), and all that either shows."""
    ours, theirs = (found[found[:, 4] > SHOWN] for found in (ours, theirs))
    classes, boxes = theirs[:, 5].astype(int), theirs[:, :4].astype(float)
    wanted = replace(sample, classes=classes, boxes=boxes, areas=np.zeros(len(theirs)))
    return 2 * float(match(ours, wanted)[:, 0].sum()), float(len(ours) + len(theirs))


@dataclass(frozen=True)
class Outcome:
    """One compressed form: its files, how it runs, and what was measured of it.

    lines: of Python that run it.
    """

    name: str
    files: tuple[Path, ...]
    megabytes: float
    loss: Loss
    speedup: str
    milliseconds: float
    lines: tuple[str, ...]
    detections: Evaluation


def write_report(
    folder: Path, title: str, facts: Sequence[str], outcomes: Sequence[Outcome], tried: Sequence[str]
) -> list[Path]:
    """``report.md`` and ``report.html`` with the same content."""
    head = ["", "MB", "loss (bound)", "× faster than eager PyTorch", "ms a photograph"]
    rows = [
        [
            outcome.name, f"{outcome.megabytes:.2f}",
            f"{100 * outcome.loss.value:+.2f} % ({100 * outcome.loss.bound:+.2f} %)",
            outcome.speedup, f"{outcome.milliseconds:.1f}",
        ]
        for outcome in outcomes
    ]  # fmt: skip
    ways = [(outcome.name, "\n".join(outcome.lines)) for outcome in outcomes if outcome.lines]
    table = "\n".join("| " + " | ".join(row) + " |" for row in (head, ["---", *["--:"] * 4], *rows))
    text = [f"# {title}", *facts, table, "## How to run them"]
    text += [f"{name}:\n\n```python\n{lines}\n```" for name, lines in ways]
    text += ["## What was tried", "\n".join(f"- {line}" for line in tried)]
    cells = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in (head, *rows)
    )
    page = [f"<h1>{html.escape(title)}</h1>", *(f"<p>{html.escape(fact)}</p>" for fact in facts)]
    page += [f"<table>{cells}</table>", "<h2>How to run them</h2>"]
    page += [f"<p>{html.escape(name)}</p><pre>{html.escape(lines)}</pre>" for name, lines in ways]
    page += [
        '<h2>Detections</h2><img src="detections.jpg" alt="the same photographs as each model sees them">'
    ]
    page += ["<h2>What was tried</h2><ul>", *(f"<li>{html.escape(line)}</li>" for line in tried), "</ul>"]
    rules = "body{font:16px sans-serif;margin:2em}td{padding:.2em 1em}img{max-width:100%}"
    style = f"<meta charset=utf-8><style>{rules}</style>"
    written = {
        folder / "report.md": "\n\n".join(text) + "\n",
        folder / "report.html": style + "\n".join(page),
    }
    files.replace({path: content.encode() for path, content in written.items()})
    return list(written)


def most_telling(images: ImageSet, original: Evaluation, count: int = 3) -> list[int]:
    """Photographs on which the original shows most."""
    shown = [int((found[:, 4] > SHOWN).sum()) for found in original.detections]
    return sorted(range(len(images)), key=lambda i: -shown[i])[:count]
