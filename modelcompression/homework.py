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
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from IPython.display import Image, Markdown

from . import ROOT, differences, figures
from .assets import ImageSet, image_set, report_and_calibration
from .dataset import MOST, from_yaml
from .detector import Detector, try_out
from .fetch import UnreachableError, sha256
from .files import own_folder
from .images import letterbox, planes
from .machine import campaign, commit, cpu, versions
from .measure.accuracy import Evaluation, evaluate
from .measure.agreement import as_truth
from .measure.footprint import all_shipped, require_loadable
from .measure.fresh import forward_inputs
from .measure.intervals import paired_bootstrap
from .measure.kept import Kept
from .measure.latency import time_pairs
from .measure.pipeline import View, time_pipelines
from .measurement import Measurement, absolute_metrics, relative_metrics, require_found, row, sentence
from .own_model import PACKED, own_model
from .parameters import ParameterError, require_valid
from .subject import YOLOV8N, Subject, class_names
from .subject import weights as yolov8n
from .tracking.login import sign_in
from .tracking.store import RunRecord
from .tracking.targets import resolve_target
from .tracking.tracker import Tracker

BASELINE = "Original model"
INPUT_SIZE, SMOKE_SIZE = 640, 320
WORTH_A_PIPELINE = 1.3  # times the original's forward speed, from which an application may notice
SHOWN = 12  # photographs of a data set of one's own, in place of the demo photographs


class Homework:
    """One execution of a homework's notebook: its image sets, its reference model, its MLflow run.

    Args:
        name: the homework's folder, such as ``hw3_pruning``; for a further notebook in it
            ``hw5_export/fastest``.
        smoke: a handful of images and few repetitions through the same code; such runs are tagged and
            never enter a table.
        n_images: to report on; with ``data``, of each set. None: the 281 listed of val2017, or up to 200.
        threads: threads of every runtime.
        login: sign in to DagsHub in the browser first, see ``tracking.login``.
        weights: the ``.pt`` file of a detector of one's own; None or empty: YOLOv8n. Its rows are kept apart
            from YOLOv8n's, and enter no table but `table`.
        data: the YAML of its data set; None or empty: COCO, if it has COCO's classes.
        trust: ``weights`` is a pickle that may run code, and yours.

    Attributes:
        weights, own: the checkpoint that is compressed, and whether it is one of one's own.
        subject: what is compressed.
        size: of the square that the original sees, in pixels; in a smoke run not more than 320.

    Raises:
        OwnModelError: the weights are not trusted, or no detector.
        ParameterError: a parameter out of range, before any long work starts.
        LoginError: DagsHub does not sign in.
        FolderError: the repository cannot be written, or ultralytics would read other files than those there.
        AssetError: images or weights are damaged or out of reach.
    """

    def __init__(
        self,
        name: str,
        smoke: bool = False,
        n_images: int | None = None,
        threads: int = 2,
        login: bool = False,
        weights: Path | str | None = None,
        data: Path | str | None = None,
        trust: bool = False,
    ) -> None:
        self.name, self.smoke, self.threads = name, smoke, threads
        require_valid(name, smoke, n_images, threads, ROOT)
        if data and not weights:
            raise ParameterError("DATA describes the photographs of a model of your own: set WEIGHTS as well")
        if login:
            sign_in()
        self.folder, self._lock = own_folder(ROOT / "build" / name)
        self.subject, self.size = YOLOV8N, INPUT_SIZE
        self.own = bool(weights)
        self.weights = Path(weights) if weights else yolov8n()
        if self.own:
            self._look_at_own(trust, data)
        if data:
            self.calibration, self.images = from_yaml(Path(data), self.subject.names, MOST, n_images)
        else:
            self.images, self.calibration = report_and_calibration(n_images)
        if smoke:
            self.size = min(self.size, SMOKE_SIZE)
            self.images, self.calibration = self.images.handful(6), self.calibration.handful(4)
        self.pairs, self.resamples = (1, 50) if smoke else (30, 500)
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
        size: int | None = None,
        square: bool = True,
        parameters: int | None = None,
    ) -> Measurement:
        """Evaluate on both image sets, time against the baseline, size, and log one experiment.

        Args:
            experiment: the row's name in the results table.
            ships: the files a user would deploy; the first one holds the weights. What a runtime opens
                along with them (`shipped`) counts, too.
            params: what the method was run with, for the experiment page.
            log: False leaves it out of the tables: it is only measured.
            size: long side of the detector's input; None: the baseline's, which keeps its own.
            square: False pads photographs to rectangles (``letterbox``) and times the median
                photograph of the report set instead of one square.
            parameters: of the network before it was compressed; None: the subject's.

        Raises:
            ParameterError: another number of threads, or no baseline yet.
            DetectorError: the detector does not run on this input.
            ShippingError: a file is missing, or what ships does not load by itself.
            NothingFoundError: the baseline finds nothing that is right.
        """
        baseline = self._baseline_for(experiment, detector)
        size = size or self.size
        try_out(detector, experiment, (1, detector.subject.channels, size, size))
        files = all_shipped(ships)
        require_loadable(files)
        view, digest = View(size, square), "" if baseline else sha256(files[0])
        report, calibration = (self._seen(detector, x, view, digest) for x in (self.images, self.calibration))
        if not baseline:
            require_found(report)
        seen = self._truth if baseline else self.images.first(SHOWN) if self.own else image_set("demo")
        demo = evaluate(detector, seen, size, progress=False, square=square)
        delta = paired_bootstrap(report, baseline.report, self.resamples) if baseline else None
        reference = baseline.detector if baseline else detector
        timing = time_pairs(reference, detector, self.batches(detector, size, square), self.pairs)
        metrics = absolute_metrics(report, calibration, timing, files, parameters or self.subject.parameters)
        if baseline and delta:
            metrics |= relative_metrics(metrics, delta, timing, baseline)
            metrics["agreement"] = demo.map50_95
            if timing.speedup.value >= WORTH_A_PIPELINE:
                metrics |= self._pipeline_metrics(detector, view)
        found = Measurement(experiment, detector, report, calibration, demo, delta, timing, metrics)
        self.measurements[experiment] = found
        if log:
            form = "stretched" if detector.subject.stretches else "square" if square else "rectangle"
            shape = {"input_size": size, "input_shape": form}
            self._log(found, files, shape | dict(params or {}))
        print(sentence(found))
        return found

    @property
    def baseline(self) -> Measurement:
        """The measurement all others are compared with."""
        return self.measurements[BASELINE]

    def batch(self) -> np.ndarray:
        """(1, channels, size, size): the first report image, what every latency is measured on."""
        return self.seen(self.images.samples[0].path)

    def seen(self, photograph: Path) -> np.ndarray:
        """(1, channels, size, size), float32, 0…1: a photograph as the original sees it."""
        return planes(self.subject.channels, letterbox(photograph, self.size)[0])

    @cached_property
    def photographs(self) -> list[Path]:
        """All that may be learned from: those to calibrate with; for COCO 259 more of its training set.

        These have no labels, and a smoke run leaves them out.
        """
        found = [sample.path for sample in self.calibration.samples]
        if self.calibration.name == "coco128" and not self.smoke:
            try:
                found += [sample.path for sample in image_set("coco-train-extra").samples]
            except UnreachableError as error:
                print(f"{error}\nGoing on without these photographs to learn from.")
        return found

    def batches(
        self, detector: Detector, size: int | None = None, square: bool = True
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """What ``time_pairs`` feeds the baseline and a detector: the first report image, each its own way.

        With ``square=False`` it is photographs from all over the report set, since their rectangles differ.
        """
        baseline = self.measurements[BASELINE].detector if BASELINE in self.measurements else detector
        views = View(size or self.size, square), View(self.size)
        return forward_inputs(baseline, detector, self.images.paths(self.pairs), *views)

    def table(self) -> pd.DataFrame:
        """What this execution measured, one row an experiment, formatted for reading."""
        rows = [row(found) for found in self.measurements.values()]
        table = pd.DataFrame(rows).set_index("Experiment")
        return table.rename(columns=lambda name: name.replace("coco128", "training")) if self.own else table

    def summary(self) -> Markdown:
        """A line for each compressed model: what it weighs and what it lost."""
        lines = []
        for name, found in self.measurements.items():
            if found.delta:
                size, delta = f"{found.metrics['size_mb']:.2f} MB", found.delta
                interval = f"[{delta.low:+.1%}, {delta.high:+.1%}]"
                lines.append(f"- **{name}**: {size}, mAP50-95 {delta.value:+.1%} {interval}")
        return Markdown("\n".join(lines))

    def changes(self, *experiments: str, count: int = 2) -> Image:
        """What some models see differently from the original, on the photographs that differ most.

        These are the demo photographs, or some of the data set of a model of one's own.
        """
        others = {name: self.measurements[name].demo for name in experiments}
        names = dict(enumerate(self.subject.names)) if self.subject.names else class_names()
        return differences.picture(self.baseline.demo, others, names, count)

    def changed(self) -> pd.DataFrame:
        """How many objects on the same photographs each model sees the same, moved, lost, new."""
        models = {name: found.demo for name, found in self.measurements.items() if found.delta}
        return pd.DataFrame(
            {name: differences.counted(self.baseline.demo, x) for name, x in models.items()}
        ).T

    def finish(self) -> None:
        """Close the MLflow run and say where to look at it."""
        self.tracker.finish()
        if self.own and self.measurements:  # whose rows are in no other table
            print(self.table().T.to_string())
        print(f"Logged to {self.tracker.target.description}.")

    def _seen(self, detector: Detector, images: ImageSet, view: View, original: str) -> Evaluation:
        """An evaluation. A campaign looks with the original once (its sha256): all notebooks ask for that."""
        look = partial(evaluate, detector, images, view.size, square=view.square)
        if not (original and campaign()):
            return look()
        identity = {name: tag for name, tag in self._tags().items() if name != "homework"}
        kept = Kept(ROOT / "build" / "original", repr(identity))
        part = repr((original, detector.runtime, view))
        if (found := kept.evaluation(part, images)) is None:
            kept.keep_evaluation(part, found := look())
        return found

    @cached_property
    def _truth(self) -> ImageSet:
        """Photographs with what the original finds on them, which every CPU can look at again."""
        return as_truth(self.baseline.demo)

    def _pipeline_metrics(self, detector: Detector, view: View) -> dict[str, float]:
        jpegs = [path.read_bytes() for path in self.images.paths(self.pairs)]
        sides, usual = (self.baseline.detector, detector), View(self.size)
        found = time_pipelines(*sides, jpegs, view, self.pairs, baseline_view=usual)
        return {
            "pipeline_ms": float(np.median(found.variant.sum(axis=1))),
            "baseline_pipeline_ms": float(np.median(found.baseline.sum(axis=1))),
            "pipeline_speedup": found.speedup.value,
            "pipeline_speedup_lo": found.speedup.low,
            "pipeline_speedup_hi": found.speedup.high,
        }

    def _look_at_own(self, trust: bool, data: Path | str | None) -> None:
        if self.weights.suffix == PACKED:
            raise ParameterError(
                f"{self.weights} is compressed already: WEIGHTS is the .pt file of a training"
            )
        model = own_model(self.weights, trust)
        self.subject = Subject.of(model)
        self.size = self.subject.input_size(model)
        if not data and dict(enumerate(self.subject.names)) != class_names():
            raise ParameterError(
                f"{self.weights} has other classes than COCO: set DATA to the YAML of its data set as well"
            )

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
        if self.own:
            print(f"model     {self.weights}, {self.subject.classes} classes, {self.size} px")
        print(f"CPU       {cpu()}; {self.threads} threads are used")
        print(f"versions  {versions()}")
        print(f"commit    {commit() or 'unknown: this is no git checkout, or there is no git'}")
        for role, images in (("report", self.images), ("calibrate", self.calibration)):
            print(f"{role:9} {len(images)} images of {images.name}")
        print(f"tracking  {resolve_target().description}{' (smoke run)' if self.smoke else ''}")

    def _tags(self) -> dict[str, str]:
        own = {"subject": self.weights.stem} if self.own else {}
        return own | {
            "homework": self.name,
            "dataset": self.images.name,
            "cpu": cpu().name,
            "isa": cpu().isa,
            "threads": str(self.threads),
            "git_commit": commit(),
            "campaign": campaign(),
            "versions": versions(),
            "smoke": str(self.smoke).lower(),
        }

    def _log(self, found: Measurement, files: Sequence[Path], params: dict) -> None:
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
        digests = {"sha256": ", ".join(f"{path.name} {sha256(path)}" for path in files)}
        logged = {key: str(value) for key, value in (protocol | digests | params).items()}
        artifacts = (*files, folder / "per_class.csv", curve)
        self.tracker.log(RunRecord(found.experiment, found.metrics, logged, tags, artifacts))
