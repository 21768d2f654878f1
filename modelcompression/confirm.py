"""Do the winners hold? ``modelcompression confirm``: more photographs, fresh processes, the shipped files.

What a notebook measures on 281 photographs and in one process is good to choose by, not to promise by. Here
the models that are recommended, what a user would do instead, and the first table's rows are evaluated on
1,000 photographs of val2017 or more, and timed in five fresh processes, forward and from JPEG to boxes.
What is found is added to the models' own runs, each model's when all of it is known.

Until the end, evaluations and timings are kept in ``build/confirm``: a killed confirmation goes on there.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from . import ROOT
from .assets import ImageSet, image_set, report_and_calibration
from .campaign import published
from .detector import Detector, DetectorError, TorchDetector, try_out
from .errors import ModelCompressionError
from .fetch import AssetError, sha256
from .files import replace
from .goals import CONFIRMED, shortlist
from .machine import commit, cpu, source_digest, versions
from .measure.accuracy import Evaluation, evaluate
from .measure.footprint import shipped
from .measure.fresh import PAIRS, PROCESSES, Times, speedup, time_in_fresh_process
from .measure.intervals import Interval, loss_bound, paired_bootstrap
from .measure.kept import Kept
from .measure.pipeline import View
from .methods.lean import LeanDetector
from .packed.checkpoint import to_openvino
from .packed.container import opened
from .packed.tensors import PackedCheckpointError
from .recommend import detector_of, verified, view
from .subject import USUAL_SIZE, weights
from .terminal import BAR
from .tracking.history import annotate, artifacts, finished_runs
from .tracking.targets import TrackingError, resolve_target

IMAGES, RESAMPLES = 1000, 1000
SMOKE_IMAGES, SMOKE_PROCESSES, SMOKE_PAIRS = 4, 2, 2
CHUNK = 1000  # photographs evaluated at a time; after a kill, so many at most are evaluated again
WORTH = 150  # a timing process takes about as long as the evaluation of so many photographs
PACKED, MODEL_FILES = ".mcpk", {".mcpk", ".xml", ".bin", ".onnx", ".pt"}
REFUSED = (DetectorError, PackedCheckpointError, TrackingError, AssetError)


class ConfirmError(ModelCompressionError, RuntimeError):
    """A model cannot be confirmed; the message says why, and what to do."""


@dataclass(frozen=True)
class Candidate:
    """A model to confirm: its run (of a plain file, what ``detect`` makes of it), its files, and those that
    it was made of: a graph that is exported once more has other bytes."""

    name: str
    run: pd.Series
    files: tuple[Path, ...]
    made_of: tuple[Path, ...]
    threads: int

    @property
    def key(self) -> str:
        """The same for the same files, executed and shown photographs in the same way."""
        how = [self.run[f"tags.{key}"] for key in ("runtime", "execution_precision")]
        digests = [f"{path.name} {sha256(path)}" for path in sorted(self.made_of)]
        return repr([*how, *view(self.run), self.threads, *digests])


@dataclass(frozen=True)
class Confirmation:
    """What is known of one model now. Fractions and ratios against the original; times in ms."""

    name: str
    images: int
    delta: Interval
    loss_bound: float
    speedup: Interval
    pipeline_speedup: Interval
    latency_ms: float
    baseline_latency_ms: float
    pipeline_ms: float
    baseline_pipeline_ms: float

    def metrics(self) -> dict[str, float]:
        """By the names of the MLflow schema."""
        found = {key: value for key, value in asdict(self).items() if isinstance(value, int | float)}
        for name in ("delta", "speedup", "pipeline_speedup"):
            interval, key = getattr(self, name), "map50_95_delta" if name == "delta" else name
            found |= {key: interval.value, f"{key}_lo": interval.low, f"{key}_hi": interval.high}
        return {f"{CONFIRMED}{key}": float(value) for key, value in found.items()}

    def row(self) -> dict[str, str]:
        """Formatted for reading."""
        low, high = 100 * self.delta.low, 100 * self.delta.high
        return {
            "model": self.name,
            "Δ mAP50-95, %": f"{100 * self.delta.value:+z.2f} [{low:+z.2f}, {high:+z.2f}]",
            "loss at most, %": f"{100 * self.loss_bound:z.2f}",
            "forward, ms": f"{self.baseline_latency_ms:.1f} → {self.latency_ms:.1f}",
            "× faster": str(self.speedup),
            "JPEG to boxes, ms": f"{self.baseline_pipeline_ms:.1f} → {self.pipeline_ms:.1f}",
            "× faster, all": str(self.pipeline_speedup),
        }


def confirm(
    wanted: Sequence[str] = (), images: int = IMAGES, smoke: bool = False, target: Path | None = None
) -> list[Confirmation]:
    """Confirm models, print what was found, and add it to their runs.

    Args:
        wanted: experiments of the tracking store, or paths of packed checkpoints, which need no run; none:
            the models worth it (``goals.shortlist``) among the runs of this CPU.
        images: of val2017, from 1,000.
        smoke: a handful of photographs and repetitions through the same code, for smoke runs only.
        target: also written to this file: JSON, a list of what was found, by the names of the MLflow schema.

    Raises:
        ConfirmError: nothing can be confirmed, or (at the end, after all others) not all that was wanted.
        AssetError: weights or photographs are damaged or out of reach.
        FreshProcessError, TrackingError, OSError: interrupted, or the file cannot be written; what is known
            is kept for the next time.
    """
    started = time.time()
    photographs = _photographs(images, smoke)
    with tempfile.TemporaryDirectory() as folder:
        chosen, refused = _candidates(wanted, smoke, Path(folder))
        for reason in refused:
            print(f"left out: {reason}", file=sys.stderr)
        if not chosen:
            raise ConfirmError("no model can be confirmed, see above")
        if commit().endswith("-dirty"):
            print("note: the code differs from its commit, and the tables want a commit", file=sys.stderr)
        print(f"{cpu()}; {len(photographs)} images of {photographs.name}; {len(chosen)} models")
        work = _Work(photographs, Path(folder), smoke, len(chosen))
        with work.bar:
            found = [work.confirmed(candidate) for candidate in chosen]
    print(pd.DataFrame([one.row() for one in found]).to_string(index=False))
    if target:
        made = {
            "dataset": photographs.name,
            "cpu": str(cpu()),
            "git_commit": commit(),
            "versions": versions(),
        }
        listed = [{"model": one.name, **one.metrics(), **made} for one in found]
        replace({target: json.dumps(listed, indent=1).encode()})
    work.kept.forget()
    print(
        f"{len(found)} models on {len(photographs)} images in {(time.time() - started) / 60:.1f} min; "
        "make table takes what was added to runs into the tables"
    )
    if refused:
        raise ConfirmError(f"{len(refused)} of {len(refused) + len(found)} models were left out, see above")
    return found


class _Work:
    """One confirmation: photographs, what is known already, how much remains."""

    def __init__(self, photographs: ImageSet, folder: Path, smoke: bool, models: int) -> None:
        self._photographs, self._folder = photographs, folder
        self._processes, self._pairs = (SMOKE_PROCESSES, SMOKE_PAIRS) if smoke else (PROCESSES, PAIRS)
        identity = [source_digest(), versions(), str(cpu()), self._pairs, photographs.digest]
        self.kept = Kept(ROOT / "build" / "confirm", repr(identity))
        steps = len(photographs) * (models + 1) + WORTH * self._processes * models
        self.bar = tqdm(total=steps, mininterval=1, bar_format=BAR)

    def confirmed(self, candidate: Candidate) -> Confirmation:
        """Evaluate and time one model, and write what was found to its run."""
        self.bar.set_description(candidate.name)
        reference, own = self._reference, View(*view(candidate.run))
        report = self._evaluation(candidate.key, partial(self._load, candidate, 1), own)
        times = self._times(candidate, own)
        forward = np.stack([one.forward for one in times])
        pipeline = np.stack([one.pipeline for one in times])
        found = Confirmation(
            name=candidate.name,
            images=len(self._photographs),
            delta=paired_bootstrap(report, reference, RESAMPLES),
            loss_bound=loss_bound(report, reference, RESAMPLES),
            speedup=speedup(forward),
            pipeline_speedup=speedup(pipeline),
            baseline_latency_ms=float(np.median(forward[..., 0])),
            latency_ms=float(np.median(forward[..., 1])),
            baseline_pipeline_ms=float(np.median(pipeline[..., 0])),
            pipeline_ms=float(np.median(pipeline[..., 1])),
        )
        if run_id := candidate.run.get("run_id"):
            annotate(run_id, found.metrics(), {f"{CONFIRMED}git_commit": commit()})
        return found

    @cached_property
    def _reference(self) -> Evaluation:
        return self._evaluation("the original", partial(TorchDetector, weights(), 1), View())

    def _evaluation(self, key: str, load: Callable[[], Detector], own: View) -> Evaluation:
        """Part by part; with detectors of one thread, the cores share the photographs (``shards``)."""
        samples, detector, parts = self._photographs.samples, None, []
        for start in range(0, len(samples), CHUNK):
            images = ImageSet(self._photographs.name, samples[start : start + CHUNK])
            name = f"{key}, photographs from {start}"
            part = self.kept.evaluation(name, images)
            if part is None:
                detector = detector or load()
                part = evaluate(detector, images, own.size, progress=False, square=own.square)
                self.kept.keep_evaluation(name, part)
            parts.append(part)
            self.bar.update(len(images))
        return Evaluation(
            self._photographs,
            [found for part in parts for found in part.detections],
            [right for part in parts for right in part.correct],
            [classes for part in parts for classes in part.targets],
        )

    def _times(self, candidate: Candidate, own: View) -> list[Times]:
        paths = self._photographs.paths(self._pairs)
        found, detectors = [], None
        for number in range(self._processes):
            name = f"{candidate.key}, process {number}"
            times = self.kept.times(name)
            if times is None:
                if detectors is None:
                    original = TorchDetector(weights(), candidate.threads)
                    detectors = original, self._load(candidate, candidate.threads)
                times = time_in_fresh_process(*detectors, paths, own, self._pairs)
                self.kept.keep_times(name, times)
            found.append(times)
            self.bar.update(WORTH)
        return found

    def _load(self, candidate: Candidate, threads: int) -> Detector:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        return detector_of(candidate.run, candidate.files, folder, threads)


def _photographs(images: int, smoke: bool) -> ImageSet:
    """Before anything else, so that missing or damaged ones cost no time."""
    if not smoke:
        return image_set("coco-val", images)
    return report_and_calibration()[0].first(SMOKE_IMAGES)


def _candidates(wanted: Sequence[str], smoke: bool, folder: Path) -> tuple[list[Candidate], list[str]]:
    """The models to confirm, each loaded once and tried out, and why others are left out."""
    from_runs = not wanted or not all(map(_is_file, wanted))
    runs = _that_count(finished_runs(), smoke) if from_runs else pd.DataFrame()
    found, refused = [], []
    for name in dict.fromkeys(wanted or _worth_it(runs, smoke)):
        try:
            aside = Path(tempfile.mkdtemp(dir=folder))
            one = _of_file(Path(name), aside) if _is_file(name) else _of_run(name, runs, aside)
            size, _ = view(one.run)
            unpacked = Path(tempfile.mkdtemp(dir=folder))
            try_out(detector_of(one.run, one.files, unpacked, one.threads), name, (1, 3, size, size))
            found.append(one)
        except (*REFUSED, ConfirmError) as reason:
            refused.append(f"{name}: {reason}")
    return found, refused


def _that_count(runs: pd.DataFrame, smoke: bool) -> pd.DataFrame:
    """Full runs on the report set, or smoke runs; of models that were compared with the original.

    Last is what the tables show: those of a campaign after all others, each kind by time.
    """
    if not {"tags.smoke", "tags.dataset", "metrics.map50_95_delta"} <= set(runs):
        return runs[:0]
    kind = runs["tags.smoke"] == "true" if smoke else runs["tags.smoke"] != "true"
    counts = kind & (smoke | (runs["tags.dataset"] == "coco-val"))
    runs = runs[counts].dropna(subset="metrics.map50_95_delta")
    campaign = runs.get("tags.campaign", pd.Series("", runs.index))
    campaign = campaign.where(campaign.isin(published(ROOT)), "")  # not of one that was cut off
    runs = runs.assign(**{"tags.campaign": campaign})
    return runs.loc[(campaign != "").sort_values(kind="stable").index]


def _worth_it(runs: pd.DataFrame, smoke: bool) -> list[str]:
    """The shortlist of what was measured on this CPU, in its latest campaign if there was one."""
    if runs.empty:
        raise ConfirmError(
            f"{resolve_target().description} holds no {'smoke runs' if smoke else 'runs'} to confirm: "
            f"make {'smoke' if smoke else 'run'} HW=hw5_export makes some"
        )
    here = runs[(runs["tags.cpu"] == cpu().name) & (runs["tags.isa"] == cpu().isa)]
    if here.empty:
        others = ", ".join(sorted({f"{run['tags.cpu']} ({run['tags.isa']})" for _, run in runs.iterrows()}))
        raise ConfirmError(
            f"all runs were made on {others}, this is {_here()}: confirm there, or run them here"
        )
    campaign = here["tags.campaign"]
    latest = here[campaign == campaign.iloc[-1]].drop_duplicates("experiment", keep="last")
    return shortlist(latest.rename(columns=lambda c: c.removeprefix("metrics.")))


def _of_run(name: str, runs: pd.DataFrame, folder: Path) -> Candidate:
    """The latest run of an experiment on this CPU, with its files, fetched into the folder if need be."""
    known = runs[runs["experiment"] == name] if len(runs) else runs
    if known.empty:
        where = resolve_target().description
        raise ConfirmError(f"{where} holds no run of it that counts: check the name, or make the run first")
    here = known[(known["tags.cpu"] == cpu().name) & (known["tags.isa"] == cpu().isa)]
    if here.empty:
        run = known.iloc[-1]
        made = f"{run['tags.cpu']} ({run['tags.isa']})"
        raise ConfirmError(f"its run was made on {made}, this is {_here()}: confirm it there, or run it here")
    run = here.iloc[-1]
    threads = int(run.get("tags.threads", 0))
    if not 1 <= threads <= cpu().cores:
        raise ConfirmError(f"its run had {threads} threads, this machine has {cpu().cores} cores")
    files = [path for path in verified(run, artifacts(run["run_id"], folder)) if path.suffix in MODEL_FILES]
    return Candidate(name, run, tuple(files), tuple(files), threads)


def _of_file(path: Path, folder: Path) -> Candidate:
    """A packed checkpoint in its lean graph, INT8 if it carries that (so ``detect`` runs it), on rectangles.

    It is unpacked into the folder.
    """
    if not path.is_file():
        raise ConfirmError("there is no such file")
    header, _ = opened(path)
    size = header["architecture"].size or USUAL_SIZE
    executes = "int8, rest f32" if "int8" in header["graphs"] else "f32"
    graph = to_openvino(path, folder, executes.partition(",")[0])
    tags = {"tags.runtime": LeanDetector.runtime, "tags.execution_precision": executes}
    run = pd.Series({**tags, "params.input_size": size, "params.input_shape": "rectangle"})
    return Candidate(path.name, run, tuple(shipped(graph)), (path,), min(2, cpu().cores))


def _is_file(name: str) -> bool:
    return name.endswith(PACKED)


def _here() -> str:
    return f"{cpu().name} ({cpu().isa})"
