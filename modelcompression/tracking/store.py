"""One target, opened: runs are written and read, and a server that stumbles is asked again."""

from __future__ import annotations

import itertools
import logging
import os
import sqlite3
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

import requests
from filelock import FileLock
from mlflow import MlflowClient
from mlflow.entities import LifecycleStage, Metric, Param, Run, RunTag
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_STATE
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from .targets import Target, TrackingError

EXPERIMENT = "yolov8n-compression"
RECORD_ID = "mc.record_id"  # tag: one run, wherever it is stored
SYNCED_TO = "mc.synced_to"  # tag of a local run: the server that has it
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"  # environment variable, seconds
DEADLINE = 5  # seconds that a notebook gives a server for an answer, repeated requests included
PATIENCE = 60  # seconds that sync gives it
FIRST_PAUSE = 0.25  # seconds before a request is repeated; every further pause is twice as long
SERVER_ERRORS = (MlflowException, OSError)  # the latter includes requests' errors and TimeoutError
STORE_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)
T = TypeVar("T")

# MLflow's own defaults wait 120 s and retry 7 times before an unreachable server is given up; it would
# also create a run once more when only the answer was lost. `Store` repeats requests itself.
os.environ.setdefault(TIMEOUT, str(DEADLINE))
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # an error is raised as well


@dataclass(frozen=True)
class RunRecord:
    """All that is logged of one experiment; ``name`` is its row in the tables."""

    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    artifacts: tuple[Path, ...]


class Store:
    """The experiment in one target: runs are written into it and read from it.

    Writes into SQLite take turns through a lock file: MLflow's own waiting does not cover two processes
    that create the schema, or that turn from reading to writing, at the same moment.

    Raises:
        TrackingError: the local store cannot be opened. A server is not contacted yet.
    """

    def __init__(self, target: Target) -> None:
        self.target = target
        database = target.database
        self.artifacts = database and database.parent / "mlartifacts"
        try:
            if database:
                database.parent.mkdir(parents=True, exist_ok=True)
            self.lock = FileLock(f"{database}.lock", timeout=PATIENCE) if database else nullcontext()
            with self.lock:
                if database:
                    _prepare_database(database)
                self.client = MlflowClient(target.uri)
                if database:
                    _move_artifacts(database, self.artifacts)
        except STORE_ERRORS as error:
            raise TrackingError(f"{target.description} cannot be opened: {first_line(error)}") from None

    def contact(self) -> str | None:
        """The experiment's id; None if nobody has created it yet.

        Raises:
            MlflowException, OSError: no server answers within `DEADLINE`, or somebody deleted the experiment.
        """
        found = self._ask(lambda: self.client.get_experiment_by_name(EXPERIMENT), promptly=True)
        if found and found.lifecycle_stage == LifecycleStage.DELETED:
            raise MlflowException(
                f"its experiment {EXPERIMENT} was deleted; MLFLOW_TRACKING_URI={self.target.uri} "
                f"mlflow experiments restore --experiment-id {found.experiment_id} brings it back",
                INVALID_STATE,
            )
        return found and found.experiment_id

    def begin(self, record: RunRecord, record_id: str, start: int, parent: str | None = None) -> str:
        """Create a run, RUNNING, with its tags; return its id. Times are in milliseconds, Unix time."""
        tags = {**record.tags, RECORD_ID: record_id}
        if parent:
            tags[MLFLOW_PARENT_RUN_ID] = parent
        attempts = itertools.count()

        def search() -> list[Run]:
            return self.client.search_runs([experiment], f"tags.`{RECORD_ID}` = '{record_id}'")

        def create() -> Run:
            found = next(attempts) and self._ask(search)  # the last attempt's answer may have been lost
            return found[0] if found else self.client.create_run(experiment, start, tags, record.name)

        with self.lock:
            experiment = self.contact() or self._create_experiment()
            return self._ask(create).info.run_id

    def complete(self, run_id: str, record: RunRecord, end: int) -> None:
        """Write all the rest, the status last: a run that counts as finished is whole."""
        metrics = [Metric(key, float(value), end, 0) for key, value in record.metrics.items()]
        params = [Param(key, str(value)) for key, value in record.params.items()]
        with self.lock:
            self._ask(lambda: self.client.log_batch(run_id, metrics, params))
            for path in record.artifacts:
                self._ask(partial(self.client.log_artifact, run_id, str(path)))
            self.end(run_id, "FINISHED", end)

    def end(self, run_id: str, status: str, end: int) -> None:
        with self.lock:
            self._ask(lambda: self.client.set_terminated(run_id, status, end))

    def annotate(self, run_id: str, metrics: Mapping[str, float], tags: Mapping[str, str]) -> None:
        """Add metrics and tags to a run that has finished, all in one request; sync will send them, too."""
        when = now()
        values = [Metric(key, float(value), when, 0) for key, value in metrics.items()]
        unsent = {SYNCED_TO: ""} if self.target.is_local else {}
        named = [RunTag(key, value) for key, value in {**tags, **unsent}.items()]
        with self.lock:
            self._ask(lambda: self.client.log_batch(run_id, values, tags=named))

    def mark(self, run: Run, server: Target) -> None:
        """Note on a local run that the server has it."""
        with self.lock:
            self.client.set_tag(run.info.run_id, SYNCED_TO, server.uri)

    def runs(self) -> list[Run]:
        """The project's runs of any status, oldest first."""
        experiment = self.contact()
        search = partial(self.client.search_runs, [experiment], order_by=["attributes.start_time ASC"])
        found: list[Run] = []
        token = None
        while experiment:
            page = self._ask(partial(search, page_token=token))
            found += [run for run in page if RECORD_ID in run.data.tags]
            token = page.token
            if not token:
                break
        return found

    def files(self, run: Run) -> list[Path]:
        """What was logged with a run of this local store."""
        folder = Path(local_file_uri_to_path(run.info.artifact_uri))
        beside = self.artifacts and self.artifacts / run.info.run_id / "artifacts"
        if (
            beside and beside.is_dir()
        ):  # the path is absolute, and this store may be a copy that nobody may write
            folder = beside
        return sorted(folder.iterdir()) if folder.is_dir() else []

    def _create_experiment(self) -> str:
        artifacts = self.artifacts and str(self.artifacts)
        try:
            return self._ask(lambda: self.client.create_experiment(EXPERIMENT, artifacts))
        except MlflowException:
            if found := self.contact():  # somebody else was faster
                return found
            raise

    def _ask(self, call: Callable[[], T], promptly: bool = False) -> T:
        """What the client returns. A server that stumbles is asked again, until its time is over.

        Args:
            call: may be repeated without harm.
            promptly: each time, give up after `DEADLINE`.
        """
        if self.target.is_local:
            return call()
        end = time.monotonic() + float(os.environ[TIMEOUT])
        pause = FIRST_PAUSE
        while True:
            try:
                return _within(DEADLINE, call) if promptly else call()
            except SERVER_ERRORS as error:
                if not _is_passing(error) or time.monotonic() + pause > end:
                    raise
            time.sleep(pause)
            pause *= 2


def _within(seconds: float, call: Callable[[], T]) -> T:
    """What ``call`` returns or raises; TimeoutError if it takes longer.

    The HTTP timeout alone does not bound name resolution, nor a server that answers in trickles.
    """
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(call())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future.result(seconds)


def _is_passing(error: Exception) -> bool:
    """May the same request succeed a little later? MLflow calls lost connections status 500."""
    code = status(error)
    return code is None or code >= 500 or code in (408, 429)


def _prepare_database(path: Path) -> None:
    """A new database is made aside: MLflow never opens a schema whose creation was interrupted.

    Raises:
        sqlite3.Error: what there is, is no database. MLflow would retry for a minute before it says so.
    """
    if not path.exists():
        for left in path.parent.glob(f"{path.name}.*.new*"):
            left.unlink()
        windows = os.name == "nt"  # renames no file that is open, and MLflow keeps it open
        aside = path if windows else path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
        MlflowClient(f"sqlite:///{aside}")
        if not windows:
            os.replace(aside, path)
    connection = sqlite3.connect(path, timeout=PATIENCE)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    finally:
        connection.close()


def _move_artifacts(database: Path, artifacts: Path) -> None:
    """Let a store that has been moved or copied write its artifacts beside its database, and find them there.

    MLflow keeps absolute paths and has no call to change them. Artifacts that are not there keep their paths.
    """
    connection = sqlite3.connect(database, timeout=PATIENCE)
    try:
        with connection, suppress(sqlite3.OperationalError):  # read-only: `Store.files` finds them, too
            rows = connection.execute("SELECT experiment_id, artifact_location FROM experiments").fetchall()
            for experiment, location in rows:
                before = Path(local_file_uri_to_path(location or ""))
                if not before.is_absolute() or before.name != artifacts.name or before == artifacts:
                    continue  # in place, or not of our making: s3://…
                update = "UPDATE experiments SET artifact_location = ? WHERE experiment_id = ?"
                connection.execute(update, (str(artifacts), experiment))
                query = "SELECT run_uuid FROM runs WHERE experiment_id = ?"
                for (run,) in connection.execute(query, (experiment,)).fetchall():
                    folder = artifacts / run / "artifacts"
                    if folder.is_dir():
                        update = "UPDATE runs SET artifact_uri = ? WHERE run_uuid = ?"
                        connection.execute(update, (str(folder), run))
    finally:
        connection.close()


def local_runs(target: Target) -> list[Run]:
    """The runs of a local store; reading does not create it."""
    if target.database and not target.database.exists():
        return []
    try:
        return Store(target).runs()
    except STORE_ERRORS as error:
        raise TrackingError(f"{target.description} cannot be read: {first_line(error)}") from None


def is_finished(run: Run) -> bool:
    return run.info.status == "FINISHED"


@contextmanager
def patience(server: Store) -> Iterator[None]:
    """Once a server has answered, it may take its time: nobody's measurement is waiting."""
    server.contact()
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = str(PATIENCE)
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before


def reason(error: Exception) -> str:
    """What went wrong with a server, as the predicate of a sentence."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError | requests.Timeout):
        return "does not answer"
    if isinstance(cause, requests.ConnectionError):
        return "cannot be reached"
    if (code := status(error)) in (401, 403):
        return f"refuses the credentials ({code})"
    if isinstance(cause, requests.exceptions.RetryError):
        return f"fails ({cause.args[0].reason})"  # "too many 503 error responses"
    return f"fails ({first_line(error)})"


def status(error: Exception) -> int | None:
    """The HTTP status in an error, if there is one."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code
    return error.get_http_status_code() if isinstance(error, MlflowException) else None


def first_line(error: Exception) -> str:
    error = getattr(error.__cause__ or error, "orig", error)  # SQLAlchemy's messages are pages long
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:300]


def now() -> int:
    return time.time_ns() // 1_000_000


def warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
