"""One ``measure()`` that evaluates, times, sizes and logs one experiment; all notebooks call it.

    hw = Homework("hw5_export")
    hw.measure("Original model", TorchDetector(weights), ships=[weights], log=False)
    hw.measure("OpenVINO", OpenVinoDetector(xml), ships=shipped(xml))
    hw.finish()

The first experiment measured is the reference of all others: accuracy deltas are paired over images,
speed-ups over alternating passes in this very process.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Markdown

from . import ROOT, figures
from .assets import report_and_calibration
from .detector import Detector, try_out
from .errors import ModelCompressionError
from .images import letterbox, prepared, seen, to_batch
from .machine import commit, cpu, versions
from .measure.accuracy import Evaluation, evaluate
from .measure.footprint import bits_per_weight, size_mb, sparsity
from .measure.intervals import Interval, paired_bootstrap
from .measure.latency import Comparison, time_pairs
from .subject import PARAMETERS
from .tracking.store import RunRecord
from .tracking.targets import resolve_target
from .tracking.tracker import Tracker

BASELINE = "Original model"
INPUT_SIZE = 640


class ParameterError(ModelCompressionError, ValueError):
    """A notebook parameter is wrong; the message says which and what it may be."""


@dataclass(frozen=True)
class Measurement:
    """All that is known about one experiment; ``metrics`` has the keys of the MLflow schema."""

    experiment: str
    detector: Detector
    report: Evaluation = field(repr=False)  # every detection: megabytes, should a notebook show this
    calibration: Evaluation = field(repr=False)
    delta: Interval | None
    timing: Comparison | None = field(repr=False)
    metrics: dict[str, float]


class Homework:
    """One execution of a homework's notebook: its image sets, its reference model, its MLflow run.

    Args:
        name: the homework's folder, such as ``hw3_pruning``; for a further notebook in it
            ``hw5_export/fastest``.
        smoke: a handful of images and few repetitions through the same code; such runs are tagged and
            never enter a table.
        n_images: images of val2017 to report on; None: the 281 listed ones.
        threads: threads of every runtime.

    Raises:
        ParameterError: a parameter out of range, before any long work starts.
        AssetError: images or weights are damaged or out of reach.
    """

    def __init__(self, name: str, smoke: bool = False, n_images: int | None = None, threads: int = 2) -> None:
        self.name = name
        self.smoke = smoke
        self.threads = threads
        self._check(n_images)
        self.images, self.calibration = report_and_calibration(n_images)
        if smoke:
            self.images, self.calibration = self.images.first(6), self.calibration.first(4)
        self.pairs, self.resamples = (4, 50) if smoke else (30, 500)
        self.folder = ROOT / "build" / name
        self.folder.mkdir(parents=True, exist_ok=True)
        self.measurements: dict[str, Measurement] = {}
        self._banner()
        self.tracker = Tracker(name, self._tags())

    def measure(
        self,
        experiment: str,
        detector: Detector,
        ships: Sequence[Path | str],
        params: Mapping[str, Any] | None = None,
        log: bool = True,
        size: int = INPUT_SIZE,
        square: bool = True,
        parameters: int = PARAMETERS,
    ) -> Measurement:
        """Evaluate on both image sets, time against the baseline, size, and log one experiment.

        Args:
            experiment: the row's name in the results table.
            ships: the files a user would deploy; the first one holds the weights.
            params: what the method was run with, for the experiment page.
            log: False leaves it out of the tables: it is only measured.
            size: long side of the detector's input; the baseline keeps its own, 640.
            square: False pads photographs to rectangles (``letterbox``) and times the median
                photograph of the report set instead of one square.
            parameters: of the network before it was compressed; one that is not YOLOv8n has its own.
        """
        baseline = self._baseline_for(experiment, detector)
        try_out(detector, experiment, (1, 3, size, size))
        report = evaluate(detector, self.images, size, square=square)
        calibration = evaluate(detector, self.calibration, size, square=square)
        delta = timing = None
        if baseline:
            delta = paired_bootstrap(report, baseline.report, self.resamples)
        reference = baseline.detector if baseline else detector
        timing = time_pairs(reference, detector, self.batches(detector, size, square), self.pairs)
        metrics = _metrics(report, calibration, timing, ships, parameters)
        if baseline and delta:
            metrics |= _relative_metrics(metrics, delta, timing, baseline)
        found = Measurement(experiment, detector, report, calibration, delta, timing, metrics)
        self.measurements[experiment] = found
        if log:
            form = "stretched" if detector.stretches else "square" if square else "rectangle"
            shape = {"input_size": size, "input_shape": form}
            self._log(found, ships, shape | dict(params or {}))
        print(_sentence(found))
        return found

    @property
    def baseline(self) -> Measurement:
        """The measurement all others are compared with."""
        return self.measurements[BASELINE]

    def batch(self) -> np.ndarray:
        """(1, 3, 640, 640): the first report image, what every latency is measured on."""
        return to_batch(letterbox(self.images.samples[0].path, INPUT_SIZE)[0])

    def batches(
        self, detector: Detector, size: int = INPUT_SIZE, square: bool = True
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """What ``time_pairs`` feeds the baseline and a detector: the first report image, each its own way.

        With ``square=False`` it is photographs from all over the report set, since their rectangles differ.
        """
        samples = self.images.samples
        chosen = samples[:1] if square else samples[:: max(1, len(samples) // self.pairs)]
        return [
            (
                to_batch(letterbox(sample.path, INPUT_SIZE)[0]),
                prepared(detector, seen(detector, sample.path, size, square)[0]),
            )
            for sample in chosen
        ]

    def table(self) -> pd.DataFrame:
        """What this execution measured, one row an experiment, formatted for reading."""
        rows = [_row(found) for found in self.measurements.values()]
        return pd.DataFrame(rows).set_index("Experiment")

    def summary(self) -> Markdown:
        """A line for each compressed model: what it weighs and what it lost."""
        lines = []
        for name, found in self.measurements.items():
            if found.delta:
                size, delta = f"{found.metrics['size_mb']:.2f} MB", found.delta
                interval = f"[{delta.low:+.1%}, {delta.high:+.1%}]"
                lines.append(f"- **{name}**: {size}, mAP50-95 {delta.value:+.1%} {interval}")
        return Markdown("\n".join(lines))

    def finish(self) -> None:
        """Close the MLflow run and say where to look at it."""
        self.tracker.finish()
        print(f"Logged to {self.tracker.target.description}.")

    def _check(self, n_images: int | None) -> None:
        if not re.fullmatch(r"hw\d+_\w+(/\w+)?", self.name):
            raise ParameterError(f"homework '{self.name}' is not named like hw3_pruning or hw5_export/more")
        if not isinstance(self.smoke, bool):
            raise ParameterError(f"SMOKE must be True or False, not {self.smoke!r}")
        if n_images is not None and (
            isinstance(n_images, bool) or not isinstance(n_images, int) or not 1 <= n_images <= 5000
        ):
            raise ParameterError(f"N_IMAGES must be None or a whole number 1…5000, not {n_images!r}")
        cores = cpu().cores
        if isinstance(self.threads, bool) or not isinstance(self.threads, int):
            raise ParameterError(f"THREADS must be a whole number, not {self.threads!r}")
        if not 1 <= self.threads <= cores:
            raise ParameterError(f"THREADS must be 1…{cores} on this machine, not {self.threads}")

    def _baseline_for(self, experiment: str, detector: Detector) -> Measurement | None:
        if detector.threads != self.threads:
            raise ParameterError(
                f"{experiment} runs on {detector.threads} threads, this homework on {self.threads}: "
                "a ratio needs the same number"
            )
        if experiment == BASELINE:
            return None
        if BASELINE not in self.measurements:
            raise ParameterError(f"measure '{BASELINE}' first: everything is compared with it")
        return self.baseline

    def _banner(self) -> None:
        print(f"CPU       {cpu()}; {self.threads} threads are used")
        print(f"versions  {versions()}")
        for role, images in (("report", self.images), ("calibrate", self.calibration)):
            print(f"{role:9} {len(images)} images of {images.name}")
        print(f"tracking  {resolve_target().description}{' (smoke run)' if self.smoke else ''}")

    def _tags(self) -> dict[str, str]:
        return {
            "homework": self.name,
            "dataset": self.images.name,
            "cpu": cpu().name,
            "isa": cpu().isa,
            "threads": str(self.threads),
            "git_commit": commit(),
            "versions": versions(),
            "smoke": str(self.smoke).lower(),
        }

    def _log(self, found: Measurement, ships: Sequence[Path | str], params: dict) -> None:
        folder = self.folder / re.sub(r"\W+", "_", found.experiment).strip("_").lower()
        folder.mkdir(parents=True, exist_ok=True)
        found.report.per_class().round(4).to_csv(folder / "per_class.csv", index=False)
        curve = folder / "precision_recall.svg"
        baseline = None if found.experiment == BASELINE else self.baseline.report
        figures.precision_recall(found.report, found.experiment, baseline, BASELINE).savefig(curve)
        tags = self._tags() | {
            "experiment": found.experiment,
            "runtime": found.detector.runtime,
            "execution_precision": found.detector.execution_precision,
        }
        protocol = {"latency_pairs": self.pairs, "batch": 1}
        logged = {key: str(value) for key, value in (protocol | params).items()}
        artifacts = (*map(Path, ships), folder / "per_class.csv", curve)
        self.tracker.log(RunRecord(found.experiment, found.metrics, logged, tags, artifacts))


def _metrics(
    report: Evaluation,
    calibration: Evaluation,
    timing: Comparison,
    ships: Sequence[Path | str],
    parameters: int,
) -> dict[str, float]:
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
        "size_mb": size_mb(ships),
        "sparsity": sparsity(ships[0]),
        "bits_per_weight": bits_per_weight(ships, parameters),
    }


def _relative_metrics(
    metrics: dict[str, float], delta: Interval, timing: Comparison, baseline: Measurement
) -> dict[str, float]:
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


def _row(found: Measurement) -> dict[str, str]:
    m = found.metrics
    relative = found.delta is not None and found.timing is not None
    return {
        "Experiment": found.experiment,
        "P": f"{m['precision']:.3f}",
        "R": f"{m['recall']:.3f}",
        "mAP50": f"{m['map50']:.3f}",
        "mAP50-95": f"{m['map50_95']:.4f}",
        "Δ % [95 % CI]": _percent(found.delta) if relative else "–",
        "coco128 mAP50-95": f"{m['coco128_map50_95']:.4f}",
        "ms": f"{m['latency_ms']:.1f}",
        "× faster [95 % CI]": _times(found.timing.speedup) if relative else "–",
        "executes in": found.detector.execution_precision,
        "MB": f"{m['size_mb']:.2f}",
        "zeros %": f"{100 * m['sparsity']:.2f}",
    }


def _sentence(found: Measurement) -> str:
    row = _row(found)
    delta = f" ({row['Δ % [95 % CI]']} %)" if found.delta else ""
    speed = f" ({row['× faster [95 % CI]']}×)" if found.delta else ""
    return f"{found.experiment}: mAP50-95 {row['mAP50-95']}{delta}, {row['ms']} ms{speed}, {row['MB']} MB"


def _percent(x: Interval) -> str:
    value, low, high = (format(100 * bound, "+z.2f") for bound in (x.value, x.low, x.high))
    return f"{value} [{low}, {high}]".replace("-", "−")


def _times(x: Interval) -> str:
    return f"{x.value:.2f} [{x.low:.2f}, {x.high:.2f}]"
