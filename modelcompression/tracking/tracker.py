"""Write runs while a notebook executes: to the configured target, to the local store once that fails.

    tracker = Tracker("hw5_export", tags)
    tracker.log(RunRecord("OpenVINO", metrics, params, tags, artifacts))
    tracker.finish()

A server that goes on failing, before or during a run, is left alone: the rest of the run goes to the local
store and ``make sync`` sends it later. What ties the copies together is the tag ``mc.record_id``, drawn once
for a run and the same wherever that run is written: sync completes what the server holds by halves and sends
nothing that it holds already.
"""

from __future__ import annotations

import atexit
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress

from .store import (
    SERVER_ERRORS,
    STORE_ERRORS,
    RunRecord,
    Store,
    T,
    first_line,
    now,
    reason,
    warn,
)
from .targets import TrackingError, local_target, resolve_target


class Tracker:
    """The runs of one notebook execution: a parent run, and a child for each experiment.

    As a context manager it ends FAILED if an exception leaves the block; so does a tracker whose process
    ends without `finish`.

    Args:
        homework: name of the parent run, such as ``hw3_pruning``.
        tags: tags of the parent run.

    Attributes:
        target: where runs go now; the local store after a server has failed.

    Raises:
        TrackingError: the environment names no usable target, or the local store cannot be opened.
    """

    def __init__(self, homework: str, tags: Mapping[str, str] | None = None) -> None:
        self._parent = RunRecord(homework, {}, {}, dict(tags or {}), ())
        self._record_id, self._start = uuid.uuid4().hex, now()
        self._opened: tuple[Store, str] | None = None
        self._ended = False
        self.target = resolve_target()
        self._or_locally(self._open)
        atexit.register(self._abandon)

    def log(self, record: RunRecord) -> str:
        """Write one experiment as a child run; return the run's id.

        Raises:
            FileNotFoundError: an artifact does not exist.
            ValueError: two artifacts have the same name. Nothing is written in either case.
        """
        _check_artifacts(record)
        record_id, start = uuid.uuid4().hex, now()

        def write() -> str:
            store, parent = self._open()
            run_id = store.begin(record, record_id, start, parent)
            store.complete(run_id, record, start)
            return run_id

        return self._or_locally(write)

    def finish(self) -> None:
        """End the parent run."""
        self._end("FINISHED")

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._end("FAILED" if kind else "FINISHED")

    def _end(self, status: str) -> None:
        if self._ended:
            return
        self._ended = True
        atexit.unregister(self._abandon)
        end = now()

        def write() -> None:
            store, parent = self._open()
            store.end(parent, status, end)

        self._or_locally(write)

    def _abandon(self) -> None:
        with suppress(Exception):  # the process is ending: nobody is left to tell
            self._end("FAILED")

    def _open(self) -> tuple[Store, str]:
        """The target's store and the id of the parent run in it."""
        if not self._opened:
            store = Store(self.target)
            self._opened = store, store.begin(self._parent, self._record_id, self._start)
        return self._opened

    def _or_locally(self, write: Callable[[], T]) -> T:
        """Write to the target; if that is a server and it fails, locally from now on."""
        if not self.target.is_local:
            try:
                return write()
            except SERVER_ERRORS as error:
                server, self.target, self._opened = self.target, local_target(), None
                warn(
                    f"{server.description} {reason(error)}; runs are kept in {self.target.description}, "
                    "`make sync` sends them later"
                )
        try:
            return write()
        except STORE_ERRORS as error:
            raise TrackingError(f"{self.target.description} cannot be written: {first_line(error)}") from None


def _check_artifacts(record: RunRecord) -> None:
    names = [path.name for path in record.artifacts]
    for path in record.artifacts:
        if not path.exists():
            raise FileNotFoundError(f"artifact of {record.name} does not exist: {path}")
        if names.count(path.name) > 1:
            raise ValueError(f"two artifacts of {record.name} are named {path.name}: rename one")
