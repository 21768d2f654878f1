"""Send the runs of the local store to the configured server, once each, whatever interrupts it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout
from mlflow.entities import Run, RunStatus
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID

from .store import (
    RECORD_ID,
    SERVER_ERRORS,
    SYNCED_TO,
    RunRecord,
    Store,
    is_finished,
    local_runs,
    patience,
    reason,
)
from .targets import Target, TrackingError, local_target, resolve_target


def sync() -> int:
    """Send the runs of the local store that the configured server does not have; return how many.

    Parents come along with their experiments, times and statuses as they were. Counted are experiments.
    May be interrupted at any moment and repeated at will.

    Raises:
        TrackingError: no server is configured, it fails, or another sync is running.
    """
    server, local = resolve_target(), local_target()
    if server.is_local:
        raise TrackingError(
            "no tracking server is configured: set MLFLOW_TRACKING_URI or DAGSHUB_USER_TOKEN, or sign in "
            "(`modelcompression login`)"
        )
    store = Store(server)
    with _only_sync(local):
        try:
            with patience(store):
                sending = _Sending(store, local)
                for parent in sending.pending():
                    sending.send(parent)
        except SERVER_ERRORS as error:
            raise TrackingError(f"{server.description} {reason(error)}; run sync again later") from None
    return sending.sent


@contextmanager
def _only_sync(local: Target) -> Iterator[None]:
    local.database.parent.mkdir(parents=True, exist_ok=True)
    try:
        held = FileLock(f"{local.database}.sync.lock", timeout=0).acquire()
    except Timeout:
        raise TrackingError("another sync is running: wait until it has finished") from None
    with held:
        yield


class _Sending:
    """One sync: what the server has, what it lacks, how much has been sent."""

    def __init__(self, server: Store, local: Target) -> None:
        self.sent = 0
        self._server = server
        found = sorted(server.runs(), key=is_finished)  # a finished run outweighs its unfinished twin
        self._there = {run.data.tags[RECORD_ID]: run for run in found}
        self._runs = local_runs(local)
        self._local = Store(local) if self._runs else None

    def pending(self) -> Iterator[Run]:
        """Local parents that have ended but are not marked, or that have an experiment to send."""
        for run in self._runs:
            is_parent = MLFLOW_PARENT_RUN_ID not in run.data.tags
            has_ended = RunStatus.is_terminated(RunStatus.from_string(run.info.status))
            if is_parent and ((has_ended and self._is_new(run)) or self._children(run)):
                yield run

    def send(self, parent: Run) -> None:
        parent_id = self._begin(parent)
        for child in self._children(parent):
            there = self._there.get(child.data.tags[RECORD_ID])
            if there and is_finished(there):
                self._add(child, there)
            else:
                run_id = self._begin(child, parent_id)
                self._server.complete(run_id, self._record(child), child.info.end_time)
                self.sent += 1
            self._local.mark(child, self._server.target)
        if parent.info.end_time:
            self._server.end(parent_id, parent.info.status, parent.info.end_time)
            self._local.mark(parent, self._server.target)

    def _add(self, run: Run, there: Run) -> None:
        """What was added to a run after the server had received it."""
        record = self._record(run)
        metrics = dict(record.metrics.items() - there.data.metrics.items())
        tags = dict(record.tags.items() - there.data.tags.items())
        if metrics or tags:
            self._server.annotate(there.info.run_id, metrics, tags)

    def _children(self, parent: Run) -> list[Run]:
        return [
            run
            for run in self._runs
            if run.data.tags.get(MLFLOW_PARENT_RUN_ID) == parent.info.run_id
            and is_finished(run)
            and self._is_new(run)
        ]

    def _is_new(self, run: Run) -> bool:
        return run.data.tags.get(SYNCED_TO) != self._server.target.uri

    def _begin(self, run: Run, parent_id: str | None = None) -> str:
        """The id of the run's copy on the server, created unless an earlier attempt has done so."""
        record_id = run.data.tags[RECORD_ID]
        if there := self._there.get(record_id):
            return there.info.run_id
        return self._server.begin(self._record(run), record_id, run.info.start_time, parent_id)

    def _record(self, run: Run) -> RunRecord:
        """A local run as it was logged."""
        tags = {
            key: value
            for key, value in run.data.tags.items()
            if key != SYNCED_TO and not key.startswith("mlflow.")
        }
        files = tuple(self._local.files(run))
        return RunRecord(run.info.run_name, run.data.metrics, run.data.params, tags, files)
