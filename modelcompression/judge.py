"""How good is a form of somebody's own model? Loss, distance, speed, each kept on disk once it is known."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path

import numpy as np
from tqdm import tqdm

from .assets import ImageSet
from .detector import Detector
from .fetch import sha256
from .measure.accuracy import Evaluation, evaluate
from .measure.footprint import size_mb
from .measure.fresh import PAIRS, PROCESSES, speedup, time_in_fresh_process
from .measure.kept import Kept
from .measure.pipeline import View
from .measurement import require_found
from .terminal import BAR
from .verdict import Outcome, Speed, loss, moved

DISTANCES = 16  # photographs
TIMING = 60  # what a process of timings costs, in photographs evaluated


class Judge:
    """Measures forms of a model against the original.

    Args:
        original: the model as it was given.
        tuning, judged: photographs that choose, and those that have the last word.
        size: of the input in pixels.
        kept: where parts of the measurement are kept.
        effort: of everything that will be done, in photographs evaluated, for the remaining time.
        processes: that a form is timed in.
    """

    def __init__(
        self,
        original: Detector,
        tuning: ImageSet,
        judged: ImageSet,
        size: int,
        kept: Kept,
        effort: int,
        processes: int = PROCESSES,
    ) -> None:
        self._original, self._tuning, self._judged = original, tuning, judged
        self._size, self._kept, self.processes = size, kept, processes
        self.bar = tqdm(total=effort, mininterval=1, bar_format=BAR, leave=False)

    @cached_property
    def before(self) -> Evaluation:
        """The original on the photographs that tune."""
        return self.evaluated("the original", lambda: self._original, self._tuning)

    @cached_property
    def after(self) -> Evaluation:
        """The original on those that judge."""
        return self.evaluated("the original", lambda: self._original, self._judged)

    def original(self, ships: Sequence[Path]) -> Outcome:
        """What all others are compared with.

        Raises:
            NothingFoundError: it finds nothing that is right.
        """
        require_found(self.before)
        require_found(self.after)
        nothing = loss(self.after, self.after)
        return Outcome("original", tuple(ships), size_mb(ships), nothing, 0.0, None, (), self.after)

    def evaluated(
        self, name: str, make: Callable[[], Detector], images: ImageSet, square: bool = True, which: str = ""
    ) -> Evaluation:
        """A detector, made only if it has to be, on photographs; ``which`` tells it from its namesakes."""
        key = f"{name} {which} {square}"
        with self.step(name, len(images)):
            found = self._kept.evaluation(key, images)
            if found is None:
                found = evaluate(make(), images, self._size, progress=False, square=square)
                self._kept.keep_evaluation(key, found)
        return found

    def outcome(
        self, name: str, detector: Detector, written: list[Path], lines: tuple[str, ...], square: bool | None
    ) -> Outcome:
        """Loss, distance and speed of a form; ``square`` is None if it runs as the original does."""
        which = " ".join(sha256(path) for path in written)
        found = self.evaluated(name, lambda: detector, self._judged, square is not False, which)
        distance = moved(detector, self._original, self._judged.first(DISTANCES), self._size)
        speed = None if square is None else self._speed(which, detector, square)
        lost = loss(found, self.after)
        found_so = lost, distance, speed, lines, found, square is not False
        return Outcome(name, tuple(written), size_mb(written), *found_so)

    @contextmanager
    def step(self, doing: str, effort: int) -> Iterator[None]:
        """Tell what is being done, and that it is."""
        self.bar.set_description(doing)
        yield
        self.bar.update(effort)

    def _speed(self, which: str, detector: Detector, square: bool) -> Speed:
        paths = self._judged.paths(PAIRS)
        key = f"{which} {square} {detector.threads} {[sha256(path) for path in paths]}"
        own, usual, found = View(self._size, square), View(self._size), []
        for number in range(self.processes):
            with self.step(f"timing, process {number + 1} of {self.processes}", TIMING):
                times = self._kept.times(f"{key} {number}")
                if times is None:
                    times = time_in_fresh_process(self._original, detector, paths, own, PAIRS, usual)
                    self._kept.keep_times(f"{key} {number}", times)
                found.append(times)
        forward, pipeline = (np.stack([getattr(t, part) for t in found]) for part in ("forward", "pipeline"))
        medians = [tuple(map(float, np.median(times, axis=(0, 1)))) for times in (forward, pipeline)]
        return Speed(speedup(forward), medians[0], speedup(pipeline), medians[1])
