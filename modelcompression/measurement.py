"""One experiment of a notebook: all that is known about it, as metrics and in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .detector import Detector
from .errors import ModelCompressionError
from .measure.accuracy import Evaluation
from .measure.footprint import bits_per_weight, size_mb, sparsity
from .measure.intervals import Interval
from .measure.latency import Comparison
from .measure.pipeline import CONFIDENCE


class NothingFoundError(ModelCompressionError, ValueError):
    """With an original that finds nothing nothing can be compared; the message says why that may be."""


@dataclass(frozen=True)
class Measurement:
    """All that is known about one experiment; ``metrics`` has the keys of the MLflow schema."""

    experiment: str
    detector: Detector
    report: Evaluation = field(repr=False)  # every detection: megabytes, should a notebook show this
    calibration: Evaluation = field(repr=False)
    demo: Evaluation = field(repr=False)  # photographs that may be shown
    delta: Interval | None
    timing: Comparison | None = field(repr=False)
    metrics: dict[str, float]


def require_found(original: Evaluation) -> None:
    """Notice that nothing can be compared with the original before anything is.

    Raises:
        NothingFoundError: nothing that it finds there is right; without labels: it would show nothing.
    """
    labelled = any(len(sample.classes) for sample in original.images.samples)
    shown = any((found[:, 4] > CONFIDENCE).any() for found in original.detections)
    if not (original.map50_95 if labelled else shown):
        raise NothingFoundError(
            f"the original finds nothing on {original.images.name}: are these photographs, and their labels, "
            "its own?"
        )


def absolute_metrics(
    report: Evaluation,
    calibration: Evaluation,
    timing: Comparison,
    files: Sequence[Path],
    parameters: int,
) -> dict[str, float]:
    """What is known of one model by itself, with the keys of the MLflow schema."""
    return {
        "images": len(report.images),
        "precision": report.precision,
        "recall": report.recall,
        "map50": report.map50,
        "map50_95": report.map50_95,
        "coco128_precision": calibration.precision,
        "coco128_recall": calibration.recall,
        "coco128_map50": calibration.map50,
        "coco128_map50_95": calibration.map50_95,
        "latency_ms": timing.variant.median,
        "latency_p90_ms": timing.variant.p90,
        "size_mb": size_mb(files),
        "sparsity": sparsity(files[0]),
        "bits_per_weight": bits_per_weight(files, parameters),
    }


def relative_metrics(
    metrics: dict[str, float], delta: Interval, timing: Comparison, baseline: Measurement
) -> dict[str, float]:
    """What is known of it in comparison with the baseline, likewise."""
    return {
        "map50_95_delta": delta.value,
        "map50_95_delta_lo": delta.low,
        "map50_95_delta_hi": delta.high,
        "baseline_latency_ms": timing.baseline.median,
        "speedup": timing.speedup.value,
        "speedup_lo": timing.speedup.low,
        "speedup_hi": timing.speedup.high,
        "size_ratio": baseline.metrics["size_mb"] / metrics["size_mb"],
    }


def row(found: Measurement) -> dict[str, str]:
    """A row of the notebook's table, formatted for reading."""
    m = found.metrics
    relative = found.delta is not None and found.timing is not None
    ms = f"{m['latency_ms']:.1f}"
    return {
        "Experiment": found.experiment,
        "P": f"{m['precision']:.3f}",
        "R": f"{m['recall']:.3f}",
        "mAP50": f"{m['map50']:.3f}",
        "mAP50-95": f"{m['map50_95']:.4f}",
        "Δ % [95 % CI]": _percent(found.delta) if relative else "–",
        "coco128 mAP50-95": f"{m['coco128_map50_95']:.4f}",
        "ms": f"{m['baseline_latency_ms']:.1f} → {ms}" if relative else ms,
        "× faster [95 % CI]": str(found.timing.speedup) if relative else "–",
        "executes in": found.detector.execution_precision,
        "MB": f"{m['size_mb']:.2f}",
        "zeros %": f"{100 * m['sparsity']:.2f}",
    }


def sentence(found: Measurement) -> str:
    """The same in one line."""
    shown = row(found)
    delta = f" ({shown['Δ % [95 % CI]']} %)" if found.delta else ""
    speed = f" ({shown['× faster [95 % CI]']}×)" if found.delta else ""
    return (
        f"{found.experiment}: mAP50-95 {shown['mAP50-95']}{delta}, {shown['ms']} ms{speed}, {shown['MB']} MB"
    )


def _percent(x: Interval) -> str:
    value, low, high = (format(100 * bound, "+z.2f") for bound in (x.value, x.low, x.high))
    return f"{value} [{low}, {high}]".replace("-", "−")
