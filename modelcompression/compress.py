"""Somebody's own detector, smaller and faster: the recipes that won, applied to any detector of ultralytics'.

    modelcompression compress best.pt --data my.yaml --for both --max-loss 1%

*fast* is an INT8 graph for OpenVINO, as homeworks 2 and 5 make it; *small* a packed checkpoint with
second-order rounding, as homework 4 makes it, as small as the bound on the loss allows; *both* is one file
with both in it. Everything is tuned on the training photographs, and judged on those of the validation set.
What misses the bound there makes room for the next finer form, a few times: the report says how often.
"""

from __future__ import annotations

import copy
import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from . import differences, files
from .dataset import MOST, from_folder, from_yaml
from .detector import Detector, TorchDetector
from .errors import ModelCompressionError
from .fetch import sha256
from .judge import TIMING, Judge
from .machine import commit, cpu, source_digest, versions
from .measure.footprint import bits_per_weight, shipped, size_mb
from .measure.fresh import PROCESSES
from .measure.kept import Kept
from .methods import quantization
from .methods.lean import LeanDetector
from .own_model import own_model, require_packable
from .packed import checkpoint
from .recipes import Rounder, described, exported_graph, grids, int8_attempts, whole_folder
from .subject import Subject
from .tracking.store import RunRecord
from .tracking.targets import resolve_target
from .tracking.tracker import Tracker
from .verdict import Loss, Outcome, detecting, loss, predicting, write_report

GOALS = ("fast", "small", "both")
DEFAULT_LOSS = {True: 0.01, False: 0.05}  # with labels: of mAP50-95; without: of the agreement
SCALE, FINEST, COARSEST = 0.03, 0.004, 0.12  # of the steps, relative to sensitivity^-power
SEARCHES = 4
FINER_BY = 2**0.5
SHOWN = 3  # photographs of the report
FINER = 2  # checkpoints at most that get an INT8 graph, until one is within the bound
LOOKS = 3  # at the photographs that judge, until a form is within the bound there: more would choose by them
# What steps cost, in photographs evaluated.
QUANTIZING, COLLECTING, ROUNDING = 2, 6, 150


class CompressionError(ModelCompressionError, ValueError):
    """A model cannot be compressed as wished; the message says why and what can be done."""


@dataclass(frozen=True)
class Wish:
    """What the command line asks for.

    weights, trusted, sha256: as for :func:`.own_model.own_model`.
    data, images: one of them is given.
    goal: of ``GOALS``.
    max_loss: as a share, or None.
    size: of the input in pixels; None: as trained.
    smoke: one step where many are needed for a good result; such runs enter no table.
    """

    weights: Path
    data: Path | None = None
    images: Path | None = None
    goal: str = "both"
    max_loss: float | None = None
    out: Path | None = None
    trusted: bool = False
    sha256: str | None = None
    threads: int = 2
    size: int | None = None
    smoke: bool = False


def compress(wish: Wish) -> list[Outcome]:
    """Apply the recipes, write the files and the report, log the runs; return the original and all forms.

    Raises:
        ModelCompressionError: bad input, in one line, before any long work starts.
        OSError: the folder for the files cannot be written.
    """
    resolve_target()  # a wrong address of the runs' server
    work = Work(wish)
    with work.judge.bar:
        outcomes = [work.judge.original((wish.weights,))]
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
        if wish.goal not in GOALS:
            raise CompressionError(f"--for is {', '.join(GOALS)}, not {wish.goal}")
        if (wish.data is None) == (wish.images is None):
            raise CompressionError("say what the model sees: --data my.yaml, or else --images FOLDER")
        self.model = own_model(wish.weights, wish.trusted, wish.sha256)
        if wish.goal != "fast":
            require_packable(self.model)
        self.subject = Subject.of(self.model)
        self.out, names = wish.out or Path(f"{self.name}-compressed"), self.subject.names
        self.tuning, self.judged = (
            from_yaml(wish.data, names, MOST)
            if wish.data
            else from_folder(wish.images, names, MOST, without=self.out)
        )
        self.labelled = wish.data is not None
        self.most = DEFAULT_LOSS[self.labelled] if wish.max_loss is None else wish.max_loss
        self.size = self.subject.input_size(self.model, wish.size)
        self.model.args = {**getattr(self.model, "args", {}), "imgsz": self.size}  # its files say so
        made_of = [sha256(path) for path in (wish.weights, *(s.path for s in self.tuning.samples))]
        identity = f"{source_digest()} {versions()} {self.size} {made_of}"
        self.folder = self.out / ".work" / hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        all_square = all(sample.width == sample.height for sample in self.tuning.samples)
        self.shapes = (False,) if all_square else (False, True)  # a square photograph's rectangle is one
        self.tried: list[str] = []
        self._rounder = Rounder(self.model, self.tuning, self.size)
        eager = TorchDetector(copy.deepcopy(self.model), wish.threads, subject=self.subject)
        kept = Kept(self.folder / "measured", str(cpu()))
        self.searches, count = (1, 1) if wish.smoke else (SEARCHES, PROCESSES)
        self.judge = Judge(eager, self.tuning, self.judged, self.size, kept, self._effort(count), count)

    def _effort(self, processes: int) -> int:
        tuned, judged, goal = len(self.tuning), len(self.judged), self.wish.goal
        fast = QUANTIZING * tuned + tuned + 2 * judged + processes * TIMING
        small = COLLECTING * tuned + self.searches * (ROUNDING + tuned) + 2 * judged
        return tuned + judged + (goal != "small") * fast + (goal != "fast") * small + (goal == "both") * fast

    def fast(self) -> Outcome:
        """INT8, with as little in float as the loss allows; on rectangles where that holds."""
        path = self._made("float", lambda folder: exported_graph(self.model, folder, self.size, self.name))
        *_, graph, square = self._quantized(path, "fast")
        folder = self.out / f"{self.name}-fast_openvino_model"
        file = folder / f"{self.name}-fast.xml"
        copied = {file.with_suffix(end): graph.with_suffix(end).read_bytes() for end in (".xml", ".bin")}
        files.replace(copied | {folder / "metadata.yaml": described(self.subject, self.size)})
        return self.judge.outcome("fast", self._lean(file), shipped(file), detecting(folder, square), square)

    def small(self) -> Outcome:
        """The smallest packed checkpoint whose loss is within the bound."""
        candidates = self._finer_and_finer(self._search())
        best = self._holding(candidates)
        self.candidates = itertools.chain([best], candidates)
        file = self.out / f"{self.name}-small.mcpk"
        files.replace({file: best.read_bytes()})
        return self.judge.outcome("small", self._torch(file), [file], predicting(file, self.size), None)

    def both(self) -> Outcome:
        """The smallest checkpoint whose own INT8 graph is within the bound as well; that graph inside."""
        import openvino

        found = []
        for packed in itertools.islice(self.candidates, FINER):
            name = packed.stem
            export = partial(checkpoint.to_openvino, packed, precision="f32", size=self.size)
            make = partial(whole_folder, write=export, name=f"{name}.xml")
            path = self._made(f"float-{name}", make)
            form = self._quantized(path, f"both-{name}", on_grid=True)
            found.append((packed, *form))
            if form[1] <= self.most:
                break
        packed, *_, graph, square = min(found, key=lambda one: (one[1], max(one[2], self.most)))
        file = self.out / f"{self.name}-small-and-fast.mcpk"
        whole = self.folder / f"{graph.parent.name}.mcpk"
        if not whole.is_file():
            checkpoint.save(whole, self.model, grids(packed), openvino.Core().read_model(graph))
        files.replace({file: whole.read_bytes()})
        unpacked = checkpoint.to_openvino(file, self.folder / "unpacked")
        return self.judge.outcome(
            "small and fast", self._lean(unpacked), [file], detecting(file, square), square
        )

    def report(self, outcomes: list[Outcome]) -> None:
        """``report.md``, ``report.html`` and ``detections.jpg``."""
        original, *others = outcomes
        names = dict(enumerate(self.judged.names))
        columns = {one.name: one.detections for one in others}
        picture = differences.picture(original.detections, columns, names, SHOWN)
        files.replace({self.out / "detections.jpg": picture.data})
        facts = [
            f"{self.subject.classes} classes, {self.subject.parameters:,} parameters, {self.size} px. Tuned "
            f"on {len(self.tuning)} photographs, judged on {len(self.judged)} others. {cpu()}, threads: "
            f"{self.wish.threads}.",
            "Loss: of mAP50-95 on the validation set." if self.labelled else
            "There are no labels: loss means less agreement with what the original shows, not less mAP.",
            f"Bound asked for: {100 * self.most:g} %. *At most*: the one-sided 95 % bound. Distance: how far "
            "all scores and boxes have moved, in nats a photograph.",
            "What misses the bound on the photographs that judge makes room for something finer, at most "
            f"{LOOKS - 1} times (see the end); each makes *at most* a little less sure than 95 %.",
            f"Speed: in turn with the original in PyTorch, in {self.judge.processes} processes; of the "
            "network alone, and from the bytes of a photograph to boxes.",
        ]  # fmt: skip
        facts += [
            f"**{one.name}: the bound is not met ({one.loss}).** Ask for a larger --max-loss, or give more "
            "photographs, which make the bound tighter."
            for one in outcomes[1:] if one.loss.bound > self.most
        ]  # fmt: skip
        write_report(self.out, f"{self.name}, compressed", facts, outcomes, self.tried)

    def log(self, outcomes: list[Outcome]) -> None:
        """One run for each form, with a tag that keeps them apart from YOLOv8n's."""
        tags = {
            "homework": "compress", "subject": self.name, "dataset": self.judged.name,
            "smoke": str(self.wish.smoke).lower(), "cpu": cpu().name, "isa": cpu().isa,
            "threads": str(self.wish.threads), "git_commit": commit(), "versions": versions(),
        }  # fmt: skip
        with Tracker("compress", tags) as tracker:
            for one in outcomes[1:]:
                kind = "map50_95" if self.labelled else "agreement"
                metrics = {
                    "images": len(self.judged), "size_mb": one.megabytes, "distance": one.distance,
                    "bits_per_weight": bits_per_weight(one.files, self.subject.parameters),
                    f"{kind}_loss": one.loss.value, f"{kind}_loss_bound": one.loss.bound,
                } | (one.speed.metrics() if one.speed else {})  # fmt: skip
                if self.labelled:
                    metrics["map50_95"] = one.detections.map50_95
                experiment = f"{self.name}, {one.name}"
                artifacts = (*one.files, self.out / "report.md", self.out / "detections.jpg")
                params = {"input_size": str(self.size), "max_loss": str(self.most)}
                tracker.log(
                    RunRecord(experiment, metrics, params, tags | {"experiment": experiment}, artifacts)
                )

    def _made(self, name: str, make: Callable[[Path], Path]) -> Path:
        """The ``.xml`` in a folder of its own, made only if it is not there yet."""
        folder = self.folder / name
        found = sorted(folder.glob("*.xml"))
        return found[0] if found else make(folder)

    def _lean(self, path: Path) -> Detector:
        return LeanDetector(path, self.wish.threads, subject=self.subject)

    def _torch(self, path: Path) -> Detector:
        return TorchDetector(checkpoint.load(path).model, self.wish.threads, subject=self.subject)

    def _quantized(self, path: Path, name: str, on_grid: bool = False) -> tuple[bool, float, Path, bool]:
        """The first INT8 graph within the bound, else the best of those judged, else of all.

        Args:
            on_grid: the weights lose nothing more in INT8, so that there is no bias to correct.

        Returns: whether it was never judged, its bound, its path, whether it needs squares.
        """
        found: list[tuple[bool, float, Path, bool]] = []
        looks = 0
        for label, pattern, corrected in int8_attempts(path, self.subject, on_grid):
            which = f"{name}-{len(found)}"
            with self.judge.step(f"{name}: INT8", QUANTIZING * len(self.tuning)):
                graph = self._made(which, partial(self._quantize, path, pattern, corrected))
            for square in self.shapes:
                make = partial(self._lean, graph)
                lost = loss(self.judge.evaluated(name, make, self.tuning, square, which), self.judge.before)
                shape = "squares" if square else "rectangles"
                form = f"{name.partition('-')[0]}, INT8, {shape}, {label}"
                self.tried.append(f"{form}: {lost}")
                if judged := lost.bound <= self.most:
                    lost, looks = self._last_word(form, name, make, shipped(graph), square), looks + 1
                found.append((not judged, lost.bound, graph, square))
                if lost.bound <= self.most or looks == LOOKS:
                    return min(found)
        return min(found)

    def _last_word(
        self, form: str, name: str, make: Callable, files: list[Path], square: bool = True
    ) -> Loss:
        """The loss on the photographs that judge, of a form that those which tune have found good enough."""
        which = " ".join(sha256(path) for path in files)
        lost = loss(self.judge.evaluated(name, make, self.judged, square, which), self.judge.after)
        self.tried.append(f"{form}, judged: {lost}")
        return lost

    def _quantize(self, path: Path, also_float: str, corrected: bool, folder: Path) -> Path:
        import openvino

        graph = openvino.Core().read_model(path)
        quantized = quantization.int8(graph, self.tuning, also_float, corrected, self.subject)
        write = partial(openvino.save_model, quantized)
        return whole_folder(folder, lambda aside: write(aside / "int8.xml"), "int8.xml")

    def _holding(self, candidates: Iterator[Path]) -> Path:
        """The first checkpoint that is within the bound on the photographs that judge, too; else the best."""
        seen: list[tuple[float, Path]] = []
        for file in itertools.islice(candidates, LOOKS):
            form = f"small, {size_mb([file]):.3f} MB"
            lost = self._last_word(form, "small", partial(self._torch, file), [file])
            seen.append((lost.bound, file))
            if lost.bound <= self.most:
                break
        return min(seen, key=lambda one: max(one[0], self.most))[1]

    def _finer_and_finer(self, within: list[float]) -> Iterator[Path]:
        """Checkpoints with steps of these scales, then with finer ones."""
        yield from map(self._candidate, within)
        scale = within[-1]
        while (scale := scale / FINER_BY) > FINEST:
            yield self._candidate(scale)

    def _search(self) -> list[float]:
        """Scales of checkpoints within the bound, the coarsest first: bisection of their logarithm."""
        low, high, scale = np.log2(FINEST), np.log2(COARSEST), np.log2(SCALE)
        within: list[float] = []
        for _ in range(self.searches):
            file = self._candidate(float(2**scale))
            judged = self.judge.evaluated(file.stem, partial(self._torch, file), self.tuning, True)
            lost = loss(judged, self.judge.before)
            self.tried.append(f"small, {size_mb([file]):.3f} MB: {lost}")
            if lost.bound <= self.most:
                within.insert(0, float(2**scale))
                low = scale
            else:
                high = scale
            scale = (low + high) / 2
        return within or [FINEST]

    def _candidate(self, scale: float) -> Path:
        file = self.folder / f"small-{scale:.6f}.mcpk"
        if not file.is_file() and not self._rounder.has_statistics:
            with self.judge.step("what matters to the detections", COLLECTING * len(self.tuning)):
                self._rounder.collect()
        with self.judge.step(f"rounding at {scale:.4f}", ROUNDING):
            return file if file.is_file() else self._rounder.write(file, scale)
