"""Where do runs go? DagsHub, any MLflow server, or SQLite in the repository.

    tracker = Tracker("hw5_export", tags)
    tracker.log(RunRecord("OpenVINO", metrics, params, tags, artifacts))
    tracker.finish()

The target comes from the environment, see `resolve_target`. A server that stumbles is asked again; when it
goes on failing, before or during a run, the rest of the run goes to the local store and ``make sync``
sends it later. What ties the copies together is the tag ``mc.record_id``, drawn once for a run and the
same wherever that run is written: sync completes what the server holds by halves and sends nothing that
it holds already.
"""

from __future__ import annotations

import argparse
import atexit
import itertools
import logging
import os
import re
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
from urllib.parse import unquote, urlsplit

import pandas as pd
import requests
from filelock import FileLock, Timeout
from mlflow import MlflowClient
from mlflow.entities import Metric, Param, Run, RunStatus
from mlflow.exceptions import MlflowException
from mlflow.utils.file_utils import local_file_uri_to_path
from mlflow.utils.mlflow_tags import MLFLOW_PARENT_RUN_ID
from sqlalchemy.exc import SQLAlchemyError

from . import REPOSITORY, ROOT

EXPERIMENT = "yolov8n-compression"
RECORD_ID = "mc.record_id"  # tag: one run, wherever it is stored
SYNCED_TO = "mc.synced_to"  # tag of a local run: the server that has it
TIMEOUT = "MLFLOW_HTTP_REQUEST_TIMEOUT"  # environment variable, seconds
DEADLINE = 5  # seconds that a notebook gives a server for an answer, repeated requests included
PATIENCE = 60  # seconds that sync gives it
FIRST_PAUSE = 0.25  # seconds before a request is repeated; every further pause is twice as long
SERVER_ERRORS = (MlflowException, OSError)  # the latter includes requests' errors and TimeoutError
STORE_ERRORS = (MlflowException, SQLAlchemyError, sqlite3.Error, OSError)

# MLflow's own defaults wait 120 s and retry 7 times before an unreachable server is given up; it would
# also create a run once more when only the answer was lost. `_Store` repeats requests itself.
os.environ.setdefault(TIMEOUT, str(DEADLINE))
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # an error is raised as well

T = TypeVar("T")


class TrackingError(RuntimeError):
    """Runs cannot be written, read or sent; the message says why. It never contains credentials."""


@dataclass(frozen=True)
class Target:
    """Where runs go. Neither field contains credentials: those are in MLflow's environment variables."""

    uri: str
    description: str

    @property
    def is_local(self) -> bool:
        return self.uri.startswith(("sqlite:", "file:"))

    @property
    def database(self) -> Path | None:
        """The SQLite file, if it is one."""
        return Path(self.uri.removeprefix("sqlite:///")) if self.uri.startswith("sqlite:") else None


@dataclass(frozen=True)
class RunRecord:
    """All that is logged of one experiment; ``name`` is its row in the tables."""

    name: str
    metrics: Mapping[str, float]
    params: Mapping[str, str]
    tags: Mapping[str, str]
    artifacts: tuple[Path, ...]


# Target


def resolve_target() -> Target:
    """The first of: ``MLFLOW_TRACKING_URI``, DagsHub if ``DAGSHUB_USER_TOKEN`` is set, the local store.

    The DagsHub names are looked up in the environment, then among the Colab secrets. Credentials found in
    a URI or a token move to ``MLFLOW_TRACKING_USERNAME`` and ``_PASSWORD``, where MLflow reads them.

    Raises:
        TrackingError: a variable has a value that cannot be right.
    """
    if uri := os.environ.get("MLFLOW_TRACKING_URI", "").strip():
        return _target_of(uri)
    if token := _setting("DAGSHUB_USER_TOKEN"):
        return _dagshub(token, _setting("DAGSHUB_REPO") or REPOSITORY)
    return local_target()


def local_target() -> Target:
    """The store in the repository, or in the folder ``MC_STORE``; it also keeps what a server refused."""
    return _sqlite(Path(os.environ.get("MC_STORE", "")) / "mlflow.db")


def _sqlite(path: Path) -> Target:
    """Relative to the repository: notebooks run in their own folders, but share one file."""
    database = (ROOT / path).resolve()
    shown = database.name if database.parent == ROOT else database
    return Target(f"sqlite:///{database}", f"the local store {shown}")


def _target_of(uri: str) -> Target:
    if uri.startswith("sqlite:///"):
        return _sqlite(Path(uri.removeprefix("sqlite:///")))
    if uri.startswith("file:"):
        return Target(uri, f"the local store {uri}")
    if not re.match("https?://", uri):
        raise TrackingError(
            "MLFLOW_TRACKING_URI must start with http://, https:// or sqlite:/// (see README.md)"
        )
    try:
        parts = urlsplit(uri)
    except ValueError:  # its message may repeat the URI
        raise TrackingError("MLFLOW_TRACKING_URI is not a valid URL") from None
    credentials, _, host = parts.netloc.rpartition("@")
    safe = parts._replace(netloc=host).geturl().rstrip("/")
    if "@" in safe:
        raise TrackingError(
            "MLFLOW_TRACKING_URI: special characters of the password must be percent-encoded; "
            "or set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD instead"
        )
    if not host:
        raise TrackingError("MLFLOW_TRACKING_URI names no host: it should look like https://example.org")
    user, colon, password = credentials.partition(":")
    if user:
        os.environ["MLFLOW_TRACKING_USERNAME"] = unquote(user)
    if colon:
        os.environ["MLFLOW_TRACKING_PASSWORD"] = unquote(password)
    return Target(safe, f"the MLflow server {safe}")


def _dagshub(token: str, repository: str) -> Target:
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise TrackingError("DAGSHUB_REPO must look like owner/repository")
    os.environ["MLFLOW_TRACKING_USERNAME"] = os.environ["MLFLOW_TRACKING_PASSWORD"] = token
    page = f"https://dagshub.com/{repository}"
    return Target(f"{page}.mlflow", f"DagsHub, {page}/experiments")


def _setting(name: str) -> str:
    """An environment variable, or else the Colab secret of that name; empty if there is neither."""
    if not os.environ.get(name) and "google.colab" in sys.modules:
        # Missing, access denied, no notebook attached: each has an exception class of its own.
        with suppress(Exception):
            from google.colab import userdata

            os.environ[name] = userdata.get(name)  # kept: every look-up may open a dialogue
    return os.environ.get(name, "").strip()


# One target, opened


class _Store:
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
        except STORE_ERRORS as error:
            raise TrackingError(f"{target.description} cannot be opened: {_first_line(error)}") from None

    def contact(self) -> str | None:
        """The experiment's id; None if nobody has created it yet.

        Raises:
            MlflowException, OSError: no server answers within `DEADLINE`.
        """
        found = self._ask(lambda: self.client.get_experiment_by_name(EXPERIMENT), promptly=True)
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
        if not folder.is_dir():  # the path is absolute: the store may have moved since
            folder = self.artifacts / run.info.run_id / "artifacts"
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
    status = _status(error)
    return status is None or status >= 500 or status in (408, 429)


def _prepare_database(path: Path) -> None:
    """A new database is made aside: MLflow never opens a schema whose creation was interrupted.

    Raises:
        sqlite3.Error: what there is, is no database. MLflow would retry for a minute before it says so.
    """
    if not path.exists():
        for left in path.parent.glob(f"{path.name}.*.new*"):
            left.unlink()
        aside = path.with_name(f"{path.name}.{uuid.uuid4().hex}.new")
        MlflowClient(f"sqlite:///{aside}")
        os.replace(aside, path)
    connection = sqlite3.connect(path, timeout=PATIENCE)
    try:
        connection.execute("SELECT count(*) FROM sqlite_master")
    finally:
        connection.close()


def _local_runs(target: Target) -> list[Run]:
    """The runs of a local store; reading does not create it."""
    if target.database and not target.database.exists():
        return []
    return _Store(target).runs()


# Writing


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
        self._record_id, self._start = uuid.uuid4().hex, _now()
        self._opened: tuple[_Store, str] | None = None
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
        record_id, now = uuid.uuid4().hex, _now()

        def write() -> str:
            store, parent = self._open()
            run_id = store.begin(record, record_id, now, parent)
            store.complete(run_id, record, now)
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
        now = _now()

        def write() -> None:
            store, parent = self._open()
            store.end(parent, status, now)

        self._or_locally(write)

    def _abandon(self) -> None:
        with suppress(Exception):  # the process is ending: nobody is left to tell
            self._end("FAILED")

    def _open(self) -> tuple[_Store, str]:
        """The target's store and the id of the parent run in it."""
        if not self._opened:
            store = _Store(self.target)
            self._opened = store, store.begin(self._parent, self._record_id, self._start)
        return self._opened

    def _or_locally(self, write: Callable[[], T]) -> T:
        """Write to the target; if that is a server and it fails, locally from now on."""
        if not self.target.is_local:
            try:
                return write()
            except SERVER_ERRORS as error:
                server, self.target, self._opened = self.target, local_target(), None
                _warn(
                    f"{server.description} {_reason(error)}; runs are kept in {self.target.description}, "
                    "`make sync` sends them later"
                )
        try:
            return write()
        except STORE_ERRORS as error:
            raise TrackingError(
                f"{self.target.description} cannot be written: {_first_line(error)}"
            ) from None


def _check_artifacts(record: RunRecord) -> None:
    names = [path.name for path in record.artifacts]
    for path in record.artifacts:
        if not path.exists():
            raise FileNotFoundError(f"artifact of {record.name} does not exist: {path}")
        if names.count(path.name) > 1:
            raise ValueError(f"two artifacts of {record.name} are named {path.name}: rename one")


def _now() -> int:
    return time.time_ns() // 1_000_000


# Reading


def finished_runs(target: Target | None = None) -> pd.DataFrame:
    """Every finished experiment, in the order they finished.

    Where the target is a server, local runs that it does not have yet are included; if it cannot be
    reached, a warning is printed and only local ones are returned.

    Returns:
        Columns ``run_id``, ``experiment``, ``start_time``, ``end_time`` (UTC), and one for each metric,
        parameter and tag: ``metrics.map50``, ``params.bits``, ``tags.cpu``. Numbers are floats, all else
        strings.

    Raises:
        TrackingError: the local store cannot be opened.
    """
    target = target or resolve_target()
    runs = _local_runs(target) if target.is_local else _everywhere(target)
    rows = [_row(run) for run in runs if _is_finished(run) and MLFLOW_PARENT_RUN_ID in run.data.tags]
    columns = ["run_id", "experiment", "start_time", "end_time"]
    table = pd.DataFrame(rows) if rows else pd.DataFrame(columns=columns)
    return table.sort_values("end_time", kind="stable", ignore_index=True)


def artifacts(run_id: str, folder: Path) -> list[Path]:
    """The files that were logged with a run; those on a server are fetched into ``folder``.

    Raises:
        TrackingError: neither the target nor the local store has the run, or its files are gone.
    """
    for target in dict.fromkeys([resolve_target(), local_target()]):
        store = _Store(target)
        try:
            if target.is_local:
                return store.files(store.client.get_run(run_id))
            store._ask(partial(store.client.download_artifacts, run_id, "", str(folder)))
            return sorted(folder.iterdir())
        except SERVER_ERRORS:
            continue
    raise TrackingError(f"the files of run {run_id} are out of reach")


def _everywhere(server: Target) -> list[Run]:
    local = _local_runs(local_target())
    store = _Store(server)
    try:
        with _patience(store):
            remote = store.runs()
    except SERVER_ERRORS as error:
        _warn(f"{server.description} {_reason(error)}; only runs of {local_target().description} are read")
        return local
    there = {run.data.tags[RECORD_ID] for run in remote if _is_finished(run)}
    return remote + [
        run
        for run in local
        if run.data.tags.get(SYNCED_TO) != server.uri and run.data.tags[RECORD_ID] not in there
    ]


def _row(run: Run) -> dict[str, object]:
    start, end = (pd.to_datetime(t, unit="ms", utc=True) for t in (run.info.start_time, run.info.end_time))
    row = {"run_id": run.info.run_id, "experiment": run.info.run_name, "start_time": start, "end_time": end}
    for kind in ("metrics", "params", "tags"):
        row |= {f"{kind}.{key}": value for key, value in getattr(run.data, kind).items()}
    return row


def _is_finished(run: Run) -> bool:
    return run.info.status == "FINISHED"


# Sending


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
            "no tracking server is configured: set MLFLOW_TRACKING_URI or DAGSHUB_USER_TOKEN (see README.md)"
        )
    store = _Store(server)
    with _only_sync(local):
        try:
            with _patience(store):
                sending = _Sending(store, local)
                for parent in sending.pending():
                    sending.send(parent)
        except SERVER_ERRORS as error:
            raise TrackingError(f"{server.description} {_reason(error)}; run sync again later") from None
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

    def __init__(self, server: _Store, local: Target) -> None:
        self.sent = 0
        self._server = server
        found = sorted(server.runs(), key=_is_finished)  # a finished run outweighs its unfinished twin
        self._there = {run.data.tags[RECORD_ID]: run for run in found}
        self._runs = _local_runs(local)
        self._local = _Store(local) if self._runs else None

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
            if not (there and _is_finished(there)):
                run_id = self._begin(child, parent_id)
                self._server.complete(run_id, self._record(child), child.info.end_time)
                self.sent += 1
            self._local.mark(child, self._server.target)
        if parent.info.end_time:
            self._server.end(parent_id, parent.info.status, parent.info.end_time)
            self._local.mark(parent, self._server.target)

    def _children(self, parent: Run) -> list[Run]:
        return [
            run
            for run in self._runs
            if run.data.tags.get(MLFLOW_PARENT_RUN_ID) == parent.info.run_id
            and _is_finished(run)
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


@contextmanager
def _patience(server: _Store) -> Iterator[None]:
    """Once a server has answered, it may take its time: nobody's measurement is waiting."""
    server.contact()
    before = os.environ[TIMEOUT]
    os.environ[TIMEOUT] = str(PATIENCE)
    try:
        yield
    finally:
        os.environ[TIMEOUT] = before


# Words


def _reason(error: Exception) -> str:
    """What went wrong with a server, as the predicate of a sentence."""
    cause = error.__cause__ or error.__context__ or error
    if isinstance(error, TimeoutError) or isinstance(cause, TimeoutError | requests.Timeout):
        return "does not answer"
    if isinstance(cause, requests.ConnectionError):
        return "cannot be reached"
    if (status := _status(error)) in (401, 403):
        return f"refuses the credentials ({status})"
    if isinstance(cause, requests.exceptions.RetryError):
        return f"fails ({cause.args[0].reason})"  # "too many 503 error responses"
    return f"fails ({_first_line(error)})"


def _status(error: Exception) -> int | None:
    """The HTTP status in an error, if there is one."""
    if isinstance(error, requests.HTTPError):
        return error.response.status_code
    return error.get_http_status_code() if isinstance(error, MlflowException) else None


def _first_line(error: Exception) -> str:
    error = getattr(error.__cause__ or error, "orig", error)  # SQLAlchemy's messages are pages long
    lines = str(error).splitlines() or [type(error).__name__]
    return lines[0][:200]


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _ui(port: int = 5000) -> None:
    target = resolve_target()
    if not target.is_local:
        target = local_target()
    print(f"{target.description}: http://127.0.0.1:{port} (Ctrl-C ends it)", flush=True)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", target.uri, "--port", str(port)]
    os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")  # a dozen processes for nothing
    os.execv(sys.executable, command)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument(
        "command",
        choices=["where", "sync", "ui"],
        help="where do runs go; send local runs to the server; show local runs in a browser",
    )
    command = parser.parse_args(arguments).command
    if command == "where":
        print(resolve_target().description)
    elif command == "sync":
        sent = sync()
        print(f"{sent} experiment(s) sent to {resolve_target().description}")
    else:
        _ui()


if __name__ == "__main__":
    try:
        main()
    except TrackingError as error:
        sys.exit(f"error: {error}")
