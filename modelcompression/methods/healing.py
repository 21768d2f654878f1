"""Healing: what compression broke, training mends; the file stays as small as it was.

A student (:class:`.patients.Patient`), with weights on the grids of a packed file or with free ones, learns
to detect what the original detects, from photographs without labels (:class:`.album.Album`). The loss is
:func:`.distance.distance`, the divergence between both models' detections (Hinton et al. 2015,
https://arxiv.org/abs/1503.02531). Many steps help most, and annealing: a large part of the gain comes when
the rate goes to zero. So a budget is planned to its end, and an interrupted healing goes on where it was.

    patient = Patient(checkpoint.load("small.mcpk").model, container.tensors("small.mcpk"))
    album = Album(photographs_in("folder").paths, device=patient.device)
    found = heal(patient, Teacher(original), album, minutes=60, state="small.state")
    checkpoint.save("healed.mcpk", found.model, found.tensors)
"""

from __future__ import annotations

import io
import math
import pickle
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from .. import files
from ..packed.tensors import Grid
from .album import Album, HealingError, photographs_in
from .patients import Patient
from .teacher import Teacher, shrunk
from .transport import Transport

__all__ = ["Album", "Exam", "Healed", "HealingError", "Patient", "Teacher", "heal", "photographs_in"]

WARM_UP = 20  # steps
SAVED_EVERY = 180  # seconds
CHECKED_EVERY = 10  # steps
EXAMINED_AT = (0.2, 0.4, 0.6, 0.7, 0.8, 0.85, 0.9, 0.925, 0.95, 0.97, 0.98, 0.99, 1.0)
RECORDED_AFTER = 3  # steps
TOGETHER = 8


@dataclass(frozen=True)
class Healed:
    """What healing has found.

    model: the best state by held-out distance, on the CPU in evaluation mode.
    tensors: for a student on grids all its tensors, biases included, as ``checkpoint.save`` takes them.
    before, after: distance on held-out photographs, nats an image.
    history: (steps, seconds, loss, distance on held-out photographs) of each examination.
    """

    model: nn.Module
    tensors: dict[str, Grid] | None
    before: float
    after: float
    history: tuple[tuple[int, float, float, float], ...]


class Exam:
    """Held-out photographs and what the teacher detects on them, for students of one input size.

    Args:
        size: of the students' input; None: the photographs' own.
    """

    def __init__(self, album: Album, teacher: Teacher, size: int | None = None) -> None:
        pictures = album.held_out()
        asked = asker(teacher, album.size, size)
        found = [asked(part, True) for part in pictures.split(TOGETHER)]
        self._wanted = {key: torch.cat([part[key] for part in found]) for key in found[0]}
        self._pictures = shrunk(pictures, size)

    def __call__(self, patient: Patient) -> float:
        """Distance in nats an image."""
        return patient.examine(self._pictures, self._wanted)


def asker(teacher: Teacher, theirs: int, ours: int | None) -> Callable[..., dict[str, torch.Tensor]]:
    """The teacher's answer to pictures of its own size, on the anchors of a student's: see ``Teacher``."""
    if ours is None or ours == theirs:
        return teacher
    transport = Transport(theirs, ours, teacher.device, teacher.strides, teacher.bins)
    return lambda pictures, exact=False: transport(teacher(pictures, exact))


def schedule(step: int, progress: float) -> float:
    """Share of the largest rate: a short warm-up by steps, then a cosine to zero over the budget's 0…1."""
    return min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def heal(
    patient: Patient,
    teacher: Teacher,
    album: Album,
    *,
    steps: int | None = None,
    minutes: float | None = None,
    batch: int = 16,
    state: Path | str | None = None,
    progress: bool = True,
) -> Healed:
    """Train a student towards the original's detections, within a budget of steps or of minutes.

    Args:
        album: on the teacher's and the patient's device.
        steps, minutes: the budget, one of them. At its end the rate is zero.
        batch: photographs a step.
        state: a file that is written every few minutes, and from which an interrupted healing goes on;
            minutes already spent count. It stays when all is done: the same call then returns at once.
        progress: show a bar with the remaining time.

    Raises:
        HealingError: no budget or two; the state is not readable or that of another student; the loss is not
            finite; teacher and student are not the same kind of detector.
        ValueError: an input side is no multiple of the largest stride.
        OSError: the state cannot be written.
    """
    if (steps is None) == (minutes is None) or (steps or minutes or 0) <= 0:
        raise HealingError("healing needs a budget: a number of steps, or minutes, one of them and positive")
    size = patient.size
    asked, exam = asker(teacher, album.size, size), Exam(album, teacher, size)
    run = _Run(patient, None if state is None else Path(state))
    if not run.resumed:
        run.before = exam(patient)
    bar = tqdm(
        total=1.0, disable=not progress, bar_format="healing {percentage:3.0f}% {bar} {remaining}{postfix}"
    )
    with bar, _own_stream(patient.device), run:
        while (done := run.step / steps if steps else run.seconds() / (60 * minutes)) < 1:
            images = album.batch(run.step, batch)
            wanted, images = asked(images), shrunk(images, size)
            if run.fresh == RECORDED_AFTER and patient.device.type == "cuda":
                patient.record(images, wanted)
            patient.learn(images, wanted, schedule(run.step, done))
            run.count()
            due = [share for share in EXAMINED_AT if run.examined < share <= done]
            if due:
                run.examine(exam, due[-1])
                bar.set_postfix_str(f", held-out {run.history[-1][3]:.2f} nats")
            bar.update(done - bar.n)
        run.examine(exam, 1.0)
    model, tensors = patient.healed()
    return Healed(model, tensors, run.before, patient.best, tuple(run.history))


class _Run:
    """Steps and time spent, on this and earlier calls; as a context it saves what was reached."""

    def __init__(self, patient: Patient, path: Path | None) -> None:
        self._patient, self._path = patient, path
        self.step, self.fresh, self.examined, self.before = 0, 0, 0.0, math.nan
        self.history: list[tuple[int, float, float, float]] = []
        self._spent, self._started = 0.0, time.monotonic()
        self.resumed = path is not None and path.exists()
        if self.resumed:
            self._restore(_read(path))
        self._saved = time.monotonic()

    def __enter__(self) -> _Run:
        self._started = time.monotonic()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None or kind is KeyboardInterrupt:
            self._save()

    def seconds(self) -> float:
        return self._spent + time.monotonic() - self._started

    def count(self) -> None:
        """One more step is done; look now and then whether all is well, and save."""
        self.step, self.fresh = self.step + 1, self.fresh + 1
        if self.step % CHECKED_EVERY == 0:
            self._check()
        if time.monotonic() > self._saved + SAVED_EVERY:
            self._save()

    def examine(self, exam: Exam, share: float) -> None:
        self._check()
        if self.examined < share:
            held_out = exam(self._patient)
            self.history.append((self.step, self.seconds(), float(self._patient.loss), held_out))
            self.examined = share

    def _check(self) -> None:
        loss = float(self._patient.loss)
        if not math.isfinite(loss):
            rate = self._patient.rate
            raise HealingError(f"the loss is not finite after {self.step} steps: lower the rate of {rate:g}")

    def _save(self) -> None:
        if self._path is not None:
            about = {"step": self.step, "seconds": self.seconds(), "examined": self.examined}
            about |= {"before": self.before, "history": self.history}
            content = io.BytesIO()
            torch.save({**about, "patient": self._patient.state()}, content)
            files.replace({self._path: content.getvalue()})
            self._saved = time.monotonic()

    def _restore(self, found: Mapping[str, Any]) -> None:
        self._patient.restore(found["patient"])
        self.step, self._spent = found["step"], found["seconds"]
        self.examined, self.before, self.history = found["examined"], found["before"], found["history"]


def _read(path: Path) -> Mapping[str, Any]:
    try:
        found = torch.load(path, weights_only=True, map_location="cpu")
        if {"patient", "step", "seconds", "examined", "before", "history"} <= set(found):
            return found
    except (OSError, RuntimeError, EOFError, ValueError, TypeError, pickle.UnpicklingError):
        pass
    raise HealingError(f"{path} is no state of a healing: remove it to begin anew") from None


@contextmanager
def _own_stream(device: torch.device) -> Iterator[None]:
    """On a GPU a stream of its own, without which no graph of operations can be recorded."""
    with torch.cuda.stream(torch.cuda.Stream()) if device.type == "cuda" else nullcontext():
        yield
