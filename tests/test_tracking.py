"""Tracking against a real MLflow server with passwords, and against its absence."""

import os
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import mlflow_server
import pytest
import torture
from mlflow import MlflowClient
from mlflow.entities import Run
from mlflow_server import PASSWORD, USER, free_port

from modelcompression.tracking import history, targets
from modelcompression.tracking.history import finished_runs
from modelcompression.tracking.store import EXPERIMENT, RunRecord
from modelcompression.tracking.sync import sync
from modelcompression.tracking.targets import Target, TrackingError, local_target, resolve_target
from modelcompression.tracking.tracker import Tracker

VARIABLES = [
    *("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"),
    *("DAGSHUB_USER_TOKEN", "DAGSHUB_REPO"),
]
UPLOAD = b"PUT /api/2.0/mlflow-artifacts/"
FINISH = b"POST /api/2.0/mlflow/runs/update"
PATIENT = 10  # seconds until a notebook goes on without its server


@pytest.fixture(autouse=True)
def store(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Every test has a local store of its own and no server; the environment is restored afterwards."""
    for name in VARIABLES:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setenv("MC_STORE", str(tmp_path / "store"))
    return tmp_path / "store"


@pytest.fixture
def made_store(store: Path, empty_database: Path) -> None:
    """The test's local store exists, without runs."""
    store.mkdir()
    shutil.copy(empty_database, store)


@pytest.fixture
def reachable(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server is configured, with the right credentials."""
    return configure(monkeypatch, server)


@pytest.fixture
def line(server: str) -> Iterator["Line"]:
    line = Line(int(server.rsplit(":", 1)[1]))
    yield line
    line.cut()


class Line:
    """A connection to the server that can be cut, or made silent, when a certain request passes."""

    def __init__(self, port: int) -> None:
        self._server = port
        self._port = 0
        self.mend()

    def mend(self) -> None:
        """Open, or open again under the same address."""
        self.cut_before = self.cut_after = self.silent_before = b"no request"
        self._is_last = False
        self.has_fallen_silent = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self.address = f"http://127.0.0.1:{self._port}"
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        for end in self._sockets:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self._server))
                self._sockets += [client, server]
                for work in (self._ask, self._answer):
                    threading.Thread(target=work, args=(client, server), daemon=True).start()

    def _ask(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(1 << 16):
                if data.startswith(self.cut_before):
                    return self.cut()
                if data.startswith(self.silent_before):
                    return self.has_fallen_silent.set()
                self._is_last = self._is_last or data.startswith(self.cut_after)
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := server.recv(1 << 16):
                if self._is_last:
                    return self.cut()
                client.sendall(data)
            client.shutdown(socket.SHUT_WR)


@dataclass
class Stopwatch:
    seconds: float = 0.0

    def __enter__(self) -> "Stopwatch":
        self._start = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.monotonic() - self._start


def configure(monkeypatch: pytest.MonkeyPatch, address: str, password: str = PASSWORD) -> str:
    for name, value in mlflow_server.environment(address, password).items():
        monkeypatch.setenv(name, value)
    return address


def record(folder: Path, name: str = "OpenVINO", **metrics: float) -> RunRecord:
    file = folder / "model.bin"
    file.write_bytes(b"weights of " + name.encode())
    (folder / "per_class.csv").write_text("class,map50\ncat,0.5\n")
    found = {"map50": 0.5, "latency_ms": 29.25} | metrics
    return RunRecord(
        name, found, {"bits": "8"}, {"cpu": "Xeon", "experiment": name}, (file, folder / "per_class.csv")
    )


def stored(uri: str, homework: str) -> dict[str, list[Run]]:
    """Key "parents": runs of that name; "children": theirs, of any status."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(EXPERIMENT)
    runs = list(client.search_runs([experiment.experiment_id], max_results=5000))
    parents = [run for run in runs if run.info.run_name == homework]
    ids = {run.info.run_id for run in parents}
    return {
        "parents": parents,
        "children": [run for run in runs if run.data.tags.get("mlflow.parentRunId") in ids],
    }


def experiments(homework: str, server: str) -> list[str]:
    """What `finished_runs` returns of one homework, be it on the server or local."""
    parents = stored(server, homework)["parents"] + stored(local_target().uri, homework)["parents"]
    runs = finished_runs()
    return runs[runs["tags.mlflow.parentRunId"].isin([p.info.run_id for p in parents])]["experiment"].tolist()


def names_and_statuses(runs: list[Run]) -> list[tuple[str, str]]:
    return sorted((run.info.run_name, run.info.status) for run in runs)


def assert_whole(uri: str, run: Run, tmp_path: Path) -> None:
    """The run has everything that `record` gave it."""
    assert run.info.status == "FINISHED"
    assert run.data.metrics == {"map50": 0.5, "latency_ms": 29.25}
    assert run.data.params == {"bits": "8"}
    assert run.data.tags["cpu"] == "Xeon" and run.data.tags["experiment"] == run.info.run_name
    client = MlflowClient(uri)
    artifacts = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"model.bin", "per_class.csv"}
    path = client.download_artifacts(run.info.run_id, "model.bin", str(tmp_path))
    assert Path(path).read_bytes() == b"weights of " + run.info.run_name.encode()


def one_warning(capsys: pytest.CaptureFixture, *words: str) -> None:
    printed = capsys.readouterr()
    (warning,) = printed.err.splitlines()
    assert warning.startswith("warning: ") and "make sync" in warning
    for word in words:
        assert word in warning
    assert PASSWORD not in printed.err + printed.out


# Target


def colab(monkeypatch: pytest.MonkeyPatch, get: Callable[[str], str]) -> None:
    module = types.ModuleType("google.colab")
    module.userdata = types.SimpleNamespace(get=get)
    monkeypatch.setitem(sys.modules, "google.colab", module)


def test_targets_come_in_the_documented_order(monkeypatch, store) -> None:
    assert resolve_target() == local_target()
    assert resolve_target().uri == f"sqlite:///{store}/mlflow.db"
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "s3cret")
    assert resolve_target().uri == "https://dagshub.com/PredelinaAsya/ModelCompression.mlflow"
    # pragma: allowlist nextline secret
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == os.environ["MLFLOW_TRACKING_PASSWORD"] == "s3cret"
    monkeypatch.setenv("DAGSHUB_REPO", "somebody/fork")
    assert resolve_target().uri == "https://dagshub.com/somebody/fork.mlflow"
    assert "s3cret" not in repr(resolve_target())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://mlflow.example.org/")
    assert resolve_target() == Target(
        "https://mlflow.example.org", "the MLflow server https://mlflow.example.org"
    )


def test_colab_secrets_are_found(monkeypatch) -> None:
    colab(monkeypatch, {"DAGSHUB_USER_TOKEN": "s3cret", "DAGSHUB_REPO": "a/b"}.__getitem__)
    assert resolve_target().uri == "https://dagshub.com/a/b.mlflow"
    # pragma: allowlist nextline secret
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "s3cret"


@pytest.mark.parametrize("missing", [KeyError, PermissionError, TimeoutError])
def test_colab_without_secrets_stays_local(monkeypatch, missing) -> None:
    def get(name: str) -> str:
        raise missing(name)

    colab(monkeypatch, get)
    assert resolve_target() == local_target()


def test_credentials_leave_the_uri(monkeypatch) -> None:
    # pragma: allowlist nextline secret
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:p%40ss@mlflow.example.org:8443/prefix")
    target = resolve_target()
    assert target.uri == "https://mlflow.example.org:8443/prefix"
    assert os.environ["MLFLOW_TRACKING_USERNAME"] == "me"
    # pragma: allowlist nextline secret
    assert os.environ["MLFLOW_TRACKING_PASSWORD"] == "p@ss"
    assert "ss" not in repr(target).replace("description", "")


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("MLFLOW_TRACKING_URI", "localhost:5000", "must start with http://"),
        # pragma: allowlist nextline secret
        ("MLFLOW_TRACKING_URI", "htps://me:hidden@example.org", "must start with http://"),
        ("MLFLOW_TRACKING_URI", "https://me:hid/den@example.org", "percent-encoded"),
        # pragma: allowlist nextline secret
        ("MLFLOW_TRACKING_URI", "https://me:hidden@", "names no host"),
        # pragma: allowlist nextline secret
        ("MLFLOW_TRACKING_URI", "https://me:hidden@[example.org", "not a valid URL"),
        ("DAGSHUB_REPO", "https://dagshub.com/hidden", "owner/repository"),
    ],
)
def test_a_wrong_setting_is_one_clear_line_without_its_value(monkeypatch, name, value, says) -> None:
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "token")
    monkeypatch.setenv(name, value)
    with pytest.raises(TrackingError, match=says) as error:
        resolve_target()
    assert "\n" not in str(error.value) and "hid" not in str(error.value)


# The local store


def test_the_local_store_keeps_everything(store, tmp_path, capfd) -> None:
    assert finished_runs().empty and not store.exists(), "reading creates nothing"
    with Tracker("hw5_export", {"homework": "hw5_export"}) as tracker:
        run_id = tracker.log(record(tmp_path))
        tracker.log(record(tmp_path, "ONNX"))
    printed = capfd.readouterr()
    assert printed.out + printed.err == "", "MLflow's own messages"

    runs = finished_runs()
    assert runs["experiment"].tolist() == ["OpenVINO", "ONNX"]
    row = runs.iloc[0]
    assert row["run_id"] == run_id and row["metrics.latency_ms"] == 29.25
    assert row["params.bits"] == "8" and row["tags.cpu"] == "Xeon"
    assert abs(time.time() - row["end_time"].timestamp()) < 60
    found = stored(resolve_target().uri, "hw5_export")
    assert names_and_statuses(found["parents"]) == [("hw5_export", "FINISHED")]
    for child in found["children"]:
        assert Path(child.info.artifact_uri).is_relative_to(store / "mlartifacts")
    assert_whole(
        resolve_target().uri, next(run for run in found["children"] if run.info.run_id == run_id), tmp_path
    )


def test_an_uri_of_a_local_database_is_the_store(monkeypatch, tmp_path, store) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mine.db")
    monkeypatch.chdir(tmp_path)
    with Tracker("hw5_export") as tracker:
        tracker.log(record(tmp_path))
    assert finished_runs()["experiment"].tolist() == ["OpenVINO"]
    assert list((tmp_path / "mlartifacts").rglob("model.bin")) and not store.exists()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///runs.db")
    assert resolve_target().database == targets.ROOT / "runs.db", "the same file for every notebook"
    assert resolve_target().description == "the local store runs.db"


@pytest.mark.usefixtures("made_store")
def test_a_notebook_that_fails_is_failed_and_keeps_its_experiments(tmp_path) -> None:
    with pytest.raises(ZeroDivisionError), Tracker("hw3_pruning") as tracker:
        tracker.log(record(tmp_path))
        raise ZeroDivisionError
    found = stored(resolve_target().uri, "hw3_pruning")
    assert names_and_statuses(found["parents"]) == [("hw3_pruning", "FAILED")]
    assert finished_runs()["experiment"].tolist() == ["OpenVINO"]


@pytest.mark.usefixtures("made_store")
def test_a_process_that_ends_early_leaves_no_running_parent(tmp_path) -> None:
    code = "from modelcompression.tracking.tracker import Tracker; Tracker('hw4_clustering'); 1 / 0"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.endswith("ZeroDivisionError: division by zero\n")
    found = stored(resolve_target().uri, "hw4_clustering")
    assert names_and_statuses(found["parents"]) == [("hw4_clustering", "FAILED")]


@pytest.mark.usefixtures("made_store")
def test_a_record_that_cannot_be_written_whole_is_refused(tmp_path) -> None:
    whole = record(tmp_path)
    (tmp_path / "other").mkdir()
    namesake = record(tmp_path / "other").artifacts
    with Tracker("hw5_export") as tracker:
        with pytest.raises(FileNotFoundError, match=r"artifact of Gone does not exist.*gone\.bin"):
            tracker.log(RunRecord("Gone", {}, {}, {}, (tmp_path / "gone.bin",)))
        with pytest.raises(ValueError, match=r"two artifacts of Twins are named model\.bin"):
            tracker.log(RunRecord("Twins", {}, {}, {}, (*whole.artifacts, namesake[0])))
    assert not stored(resolve_target().uri, "hw5_export")["children"]


def test_a_damaged_local_store_is_one_clear_error_and_is_kept(store) -> None:
    store.mkdir()
    (store / "mlflow.db").write_text("this is no database" * 100)
    with Stopwatch() as watch, pytest.raises(TrackingError, match=r"mlflow\.db cannot be opened") as error:
        Tracker("hw5_export")
    assert watch.seconds < PATIENT and "\n" not in str(error.value)
    assert (store / "mlflow.db").read_text().startswith("this is no database")


def test_a_store_whose_creation_was_interrupted_is_made_again(store, tmp_path, monkeypatch) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(os, "replace", killed)
        Tracker("hw5_export")
    assert finished_runs().empty
    with Tracker("hw5_export") as tracker:
        tracker.log(record(tmp_path))
    assert finished_runs()["experiment"].tolist() == ["OpenVINO"]
    assert not list(store.glob("*.new*"))


def test_a_store_that_cannot_be_written_is_one_clear_error(made_store, tmp_path) -> None:
    with Tracker("hw5_export") as tracker:
        tracker.log(record(tmp_path))
        with torture.limited_files(tmp_path, 1000), pytest.raises(TrackingError) as error:
            tracker.log(record(tmp_path, "Too much"))
    assert re.fullmatch("the local store .* cannot be written: [^\n]{5,80}", str(error.value))
    assert finished_runs()["experiment"].tolist() == ["OpenVINO"]


def test_processes_that_start_together_share_a_store(tmp_path) -> None:
    code = f"""
from pathlib import Path
from modelcompression.tracking.store import EXPERIMENT, RunRecord
from modelcompression.tracking.tracker import Tracker
with Tracker("hw9_together") as tracker:
    for index in range(4):
        tracker.log(RunRecord(str(index), {{"map50": 0.5}}, {{}}, {{}}, (Path({__file__!r}),)))
"""
    processes = [subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE) for _ in range(3)]
    for process in processes:
        _, printed = process.communicate(timeout=100)
        assert process.returncode == 0 and printed == b"", printed.decode()
    found = stored(resolve_target().uri, "hw9_together")
    assert names_and_statuses(found["parents"]) == [("hw9_together", "FINISHED")] * 3
    assert len(finished_runs()) == 12


# A server


def test_with_a_server_runs_go_there(reachable, tmp_path, store, capsys) -> None:
    with Tracker("hw_there") as tracker:
        tracker.log(record(tmp_path))
        assert tracker.target.uri == reachable
    found = stored(reachable, "hw_there")
    assert names_and_statuses(found["parents"]) == [("hw_there", "FINISHED")]
    (child,) = found["children"]
    assert child.info.run_id in finished_runs()["run_id"].tolist()
    assert not (store / "mlflow.db").exists() and capsys.readouterr() == ("", "")
    assert_whole(reachable, child, tmp_path)


def test_a_server_that_stumbles_is_asked_again(server, monkeypatch, tmp_path, store, capsys) -> None:
    with mlflow_server.faulty(server, 0.35, seed=1, silence=0) as (address, done):
        configure(monkeypatch, address)
        with Tracker("hw_stumbling") as tracker:
            for name in ("One", "Two"):
                tracker.log(record(tmp_path, name))
    assert done.total() - done[""] > 5
    assert not store.exists() and capsys.readouterr() == ("", "")
    configure(monkeypatch, server)
    found = stored(server, "hw_stumbling")
    assert names_and_statuses(found["parents"]) == [("hw_stumbling", "FINISHED")]
    assert names_and_statuses(found["children"]) == [("One", "FINISHED"), ("Two", "FINISHED")], "not doubled"
    for child in found["children"]:
        assert_whole(server, child, tmp_path)


def test_credentials_in_the_uri_work_and_appear_nowhere(server, monkeypatch, tmp_path, capsys) -> None:
    quoted = PASSWORD.replace("/", "%2F")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.replace("://", f"://{USER}:{quoted}@"))
    with Tracker("hw_uri") as tracker:
        tracker.log(record(tmp_path))
    found = stored(server, "hw_uri")
    assert names_and_statuses(found["children"]) == [("OpenVINO", "FINISHED")]
    for text in (repr(tracker.target), str(found), *capsys.readouterr()):
        assert PASSWORD not in text and quoted not in text


def blocked(_: str) -> tuple[str, str]:
    """A server that accepts connections and then says nothing."""
    silent = socket.create_server(("127.0.0.1", 0))
    threading.Timer(30, silent.close).start()
    return f"http://127.0.0.1:{silent.getsockname()[1]}", "does not answer"


def absent(_: str) -> tuple[str, str]:
    return f"http://127.0.0.1:{free_port()}", "cannot be reached"


def refusing(server: str) -> tuple[str, str]:
    # pragma: allowlist nextline secret
    return server.replace("://", "://admin:wr0ng@"), "refuses the credentials (401)"


@pytest.mark.usefixtures("made_store")
@pytest.mark.parametrize("fault", [blocked, absent, refusing])
def test_a_server_that_fails_from_the_start_costs_ten_seconds_and_no_run(
    fault, server, monkeypatch, tmp_path, capsys
) -> None:
    homework = f"hw_{fault.__name__}"
    address, says = fault(server)
    configure(monkeypatch, address)
    with Stopwatch() as watch, Tracker(homework, {"homework": homework}) as tracker:
        tracker.log(record(tmp_path))
    assert watch.seconds < PATIENT
    one_warning(capsys, says)
    assert tracker.target == local_target()
    with Stopwatch() as watch:
        assert finished_runs()["experiment"].tolist() == ["OpenVINO"]
    assert watch.seconds < PATIENT and "wr0ng" not in capsys.readouterr().err
    with Stopwatch() as watch, pytest.raises(TrackingError, match=says.split("(")[0]) as error:
        sync()
    assert watch.seconds < PATIENT and "\n" not in str(error.value) and "wr0ng" not in str(error.value)

    configure(monkeypatch, server)
    before = stored(local_target().uri, homework)
    assert sync() == 1 and sync() == 0
    found = stored(server, homework)
    assert names_and_statuses(found["parents"]) == [(homework, "FINISHED")]
    assert found["parents"][0].data.tags["homework"] == homework
    (child,) = found["children"]
    assert_whole(server, child, tmp_path)
    assert child.info.end_time == before["children"][0].info.end_time
    assert child.info.start_time == before["children"][0].info.start_time


@pytest.mark.usefixtures("made_store")
def test_a_server_that_dies_between_experiments_loses_none(
    line, server, monkeypatch, tmp_path, capsys
) -> None:
    configure(monkeypatch, line.address)
    with Tracker("hw_between") as tracker:
        tracker.log(record(tmp_path, "Before"))
        line.cut()
        with Stopwatch() as watch:
            tracker.log(record(tmp_path, "After"))
        tracker.log(record(tmp_path, "Later"))
    assert watch.seconds < PATIENT
    one_warning(capsys, "cannot be reached")

    line.mend()
    assert sorted(experiments("hw_between", server)) == ["After", "Before", "Later"]
    assert sync() == 2 and sync() == 0
    found = stored(server, "hw_between")
    assert names_and_statuses(found["parents"]) == [("hw_between", "FINISHED")], "one parent for all"
    assert [run.info.run_name for run in reversed(found["children"])] == ["Before", "After", "Later"]
    for child in found["children"]:
        assert_whole(server, child, tmp_path)
    assert sorted(experiments("hw_between", server)) == ["After", "Before", "Later"]


@pytest.mark.usefixtures("made_store")
@pytest.mark.parametrize("moment", [UPLOAD, FINISH])
def test_a_server_that_dies_within_a_record_keeps_no_half(
    moment, line, server, monkeypatch, tmp_path, capsys
) -> None:
    homework = f"hw_within_{moment.decode()[:3]}"
    configure(monkeypatch, line.address)
    with Tracker(homework) as tracker:
        line.cut_before = moment
        with Stopwatch() as watch:
            tracker.log(record(tmp_path, "Cut"))
    assert watch.seconds < PATIENT
    one_warning(capsys)
    line.mend()
    (half,) = stored(server, homework)["children"]
    assert half.info.status == "RUNNING"
    assert experiments(homework, server) == ["Cut"]

    assert sync() == 1 and sync() == 0
    (child,) = stored(server, homework)["children"]
    assert child.info.run_id == half.info.run_id, "completed, not doubled"
    assert_whole(server, child, tmp_path)


@pytest.mark.usefixtures("made_store")
def test_a_record_that_arrived_although_the_answer_was_lost_is_not_sent_again(
    line, server, monkeypatch, tmp_path, capsys
) -> None:
    configure(monkeypatch, line.address)
    with Tracker("hw_lost_answer") as tracker:
        line.cut_after = FINISH
        tracker.log(record(tmp_path))
    one_warning(capsys)
    line.mend()
    assert names_and_statuses(stored(server, "hw_lost_answer")["children"]) == [("OpenVINO", "FINISHED")]
    assert experiments("hw_lost_answer", server) == ["OpenVINO"]
    assert sync() == 0
    assert names_and_statuses(stored(server, "hw_lost_answer")["children"]) == [("OpenVINO", "FINISHED")]
    assert names_and_statuses(stored(server, "hw_lost_answer")["parents"]) == [("hw_lost_answer", "FINISHED")]


@pytest.mark.usefixtures("made_store")
def test_a_sync_killed_in_the_middle_of_a_run_is_taken_up_again(line, server, monkeypatch, tmp_path) -> None:
    with Tracker("hw_killed") as tracker:
        tracker.log(record(tmp_path, "One"))
        tracker.log(record(tmp_path, "Two"))
    configure(monkeypatch, line.address)
    line.silent_before = UPLOAD
    process = subprocess.Popen([sys.executable, "-m", "modelcompression", "sync"], cwd=targets.ROOT)
    assert line.has_fallen_silent.wait(60)
    with pytest.raises(TrackingError, match="another sync is running"):
        sync()
    process.kill()
    process.wait(10)
    line.cut()
    line.mend()
    (half,) = stored(server, "hw_killed")["children"]
    assert half.info.status == "RUNNING"
    assert sorted(experiments("hw_killed", server)) == ["One", "Two"]

    assert sync() == 2 and sync() == 0
    found = stored(server, "hw_killed")
    assert names_and_statuses(found["parents"]) == [("hw_killed", "FINISHED")]
    assert names_and_statuses(found["children"]) == [("One", "FINISHED"), ("Two", "FINISHED")]
    for child in found["children"]:
        assert_whole(server, child, tmp_path)


@pytest.mark.usefixtures("made_store")
def test_sync_during_a_run_sends_what_is_finished_and_later_the_rest(server, monkeypatch, tmp_path) -> None:
    tracker = Tracker("hw_meanwhile")
    tracker.log(record(tmp_path, "One"))
    configure(monkeypatch, server)
    assert sync() == 1
    assert names_and_statuses(stored(server, "hw_meanwhile")["parents"]) == [("hw_meanwhile", "RUNNING")]
    tracker.log(record(tmp_path, "Two"))
    tracker.finish()
    assert sync() == 1 and sync() == 0
    found = stored(server, "hw_meanwhile")
    assert names_and_statuses(found["parents"]) == [("hw_meanwhile", "FINISHED")]
    assert names_and_statuses(found["children"]) == [("One", "FINISHED"), ("Two", "FINISHED")]


def test_a_store_that_has_moved_is_sent_with_its_artifacts(
    server, made_store, store, monkeypatch, tmp_path
) -> None:
    with Tracker("hw_moved") as tracker:
        tracker.log(record(tmp_path))
    monkeypatch.setenv("MC_STORE", str(store.rename(tmp_path / "elsewhere")))
    configure(monkeypatch, server)
    assert sync() == 1
    (child,) = stored(server, "hw_moved")["children"]
    assert_whole(server, child, tmp_path)


@pytest.mark.usefixtures("made_store")
@pytest.mark.parametrize("how", ["moved", "copied"])
def test_a_store_elsewhere_keeps_its_artifacts_beside_it(store, tmp_path, monkeypatch, how) -> None:
    with Tracker("hw_before") as tracker:
        tracker.log(record(tmp_path, "Before"))
    before = {path for path in store.rglob("*") if path.is_file()}
    elsewhere = tmp_path / "else where" / "store"
    elsewhere.parent.mkdir()
    shutil.move(store, elsewhere) if how == "moved" else shutil.copytree(store, elsewhere)
    monkeypatch.setenv("MC_STORE", str(elsewhere))
    with Tracker("hw_after") as tracker:
        tracker.log(record(tmp_path, "After"))
    assert before == {path for path in store.rglob("*") if path.is_file()} or how == "moved"
    assert store.exists() == (how == "copied")
    shutil.rmtree(store, ignore_errors=True)
    runs = finished_runs().set_index("experiment")
    for name in ("Before", "After"):
        files = history.artifacts(runs.loc[name, "run_id"], tmp_path)
        assert files and all(file.is_relative_to(elsewhere) for file in files)
        assert_whole(
            local_target().uri, MlflowClient(local_target().uri).get_run(runs.loc[name, "run_id"]), tmp_path
        )


@pytest.mark.usefixtures("made_store")
def test_a_copied_store_that_nobody_may_write_reads_its_own_files(store, tmp_path, monkeypatch) -> None:
    with Tracker("hw_copied") as tracker:
        tracker.log(record(tmp_path))
    copy = shutil.copytree(store, tmp_path / "copy")
    monkeypatch.setenv("MC_STORE", str(copy))
    (run_id,) = finished_runs()["run_id"]
    database = copy / "mlflow.db"
    database.write_bytes((store / "mlflow.db").read_bytes())  # as it was before it was opened here
    monkeypatch.setattr("modelcompression.tracking.store._move_artifacts", lambda *_: None)
    assert all(file.is_relative_to(copy) for file in history.artifacts(run_id, tmp_path))


@pytest.mark.usefixtures("made_store")
def test_artifacts_that_the_user_keeps_elsewhere_stay_there(store, tmp_path) -> None:
    MlflowClient(local_target().uri).create_experiment(EXPERIMENT, str(tmp_path / "big disk"))
    with Tracker("hw_elsewhere") as tracker:
        tracker.log(record(tmp_path))
    assert len(list((tmp_path / "big disk").glob("*/artifacts/model.bin"))) == 1


@pytest.mark.usefixtures("made_store")
def test_a_deleted_experiment_says_how_to_get_it_back(store, tmp_path, monkeypatch) -> None:
    with Tracker("hw_deleted") as tracker:
        tracker.log(record(tmp_path))
    client = MlflowClient(local_target().uri)
    found = client.get_experiment_by_name(EXPERIMENT).experiment_id
    client.delete_experiment(found)
    for call in (lambda: Tracker("hw_deleted"), lambda: tracker.log(record(tmp_path)), finished_runs):
        with pytest.raises(TrackingError, match=f"restore --experiment-id {found}") as error:
            call()
        assert "\n" not in str(error.value)
    command = re.search(r"MLFLOW_TRACKING_URI=(\S+) mlflow (.*) brings", str(error.value))
    environment = os.environ | {"MLFLOW_TRACKING_URI": command[1]}
    subprocess.run([sys.executable, "-m", "mlflow", *command[2].split()], env=environment, check=True)
    assert len(finished_runs()) == 1


@pytest.mark.parametrize("name", ["a?b", "?", "a%20b", "a%3Fb", "a\nb"])
def test_a_folder_that_no_url_can_name_is_one_clear_error(name, tmp_path, monkeypatch) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.setenv("MC_STORE", str(folder))
    for call in (local_target, lambda: Tracker("hw_url"), finished_runs):
        with pytest.raises(TrackingError, match="MC_STORE") as error:
            call()
        assert "\n" not in str(error.value)
    assert os.listdir(tmp_path) == [name] and os.listdir(folder) == []


@pytest.mark.parametrize("name", ["a#b", "100% sure", "о'нил", 'a"b', "a;b&c=d:e"])
def test_other_folders_hold_a_store(name, tmp_path, monkeypatch, empty_database) -> None:
    folder = tmp_path / "s" / name
    folder.mkdir(parents=True)
    shutil.copy(empty_database, folder)
    monkeypatch.setenv("MC_STORE", str(folder))
    with Tracker("hw_url") as tracker:
        tracker.log(record(tmp_path))
    (run_id,) = finished_runs()["run_id"]
    assert all(file.is_relative_to(folder) for file in history.artifacts(run_id, tmp_path))
    assert os.listdir(tmp_path / "s") == [name]


@pytest.mark.usefixtures("made_store")
def test_a_run_deleted_on_the_server_does_not_come_back(reachable, monkeypatch, tmp_path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with Tracker("hw_deleted") as tracker:
        tracker.log(record(tmp_path))
    configure(monkeypatch, reachable)
    assert sync() == 1
    (child,) = stored(reachable, "hw_deleted")["children"]
    MlflowClient(reachable).delete_run(child.info.run_id)
    assert sync() == 0 and not stored(reachable, "hw_deleted")["children"]
    assert experiments("hw_deleted", reachable) == []


def test_the_files_of_a_run_come_from_the_server_or_the_local_store(reachable, monkeypatch, tmp_path) -> None:
    fetched = tmp_path / "fetched"
    fetched.mkdir()
    logged = record(tmp_path)
    with Tracker("hw_remote") as tracker:
        remote = tracker.log(logged)
    found = history.artifacts(remote, fetched)
    assert [path.name for path in found] == sorted(path.name for path in logged.artifacts)
    assert {path.read_bytes() for path in found} == {path.read_bytes() for path in logged.artifacts}
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with Tracker("hw_local") as tracker:
        local = tracker.log(logged)
    configure(monkeypatch, reachable)
    assert len(history.artifacts(local, tmp_path / "unused")) == len(logged.artifacts)
    with pytest.raises(TrackingError, match="out of reach"):
        history.artifacts("0" * 32, fetched)


@pytest.mark.usefixtures("made_store")
def test_what_is_added_to_a_run_later_arrives_wherever_it_is(reachable, monkeypatch, tmp_path) -> None:
    with Tracker("hw_added") as tracker:
        remote = tracker.log(record(tmp_path, "Remote"))
    history.annotate(remote, {"confirmed_images": 1000}, {"confirmed_git_commit": "abc"})
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with Tracker("hw_added") as tracker:
        local = tracker.log(record(tmp_path, "Local"))
    configure(monkeypatch, reachable)
    assert sync() == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    history.annotate(local, {"confirmed_images": 2000}, {"confirmed_git_commit": "def"})
    with pytest.raises(TrackingError, match="cannot be added to"):
        history.annotate("0" * 32, {}, {})
    configure(monkeypatch, reachable)
    assert sync() == 0, "no experiment is sent twice"
    runs = {run.info.run_name: run.data for run in stored(reachable, "hw_added")["children"]}
    assert {name: data.metrics["confirmed_images"] for name, data in runs.items()} == {
        "Remote": 1000,
        "Local": 2000,
    }
    assert runs["Local"].tags["confirmed_git_commit"] == "def" and runs["Local"].metrics["map50"] == 0.5


# Command line


def command_line(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "modelcompression", *words],
        cwd=targets.ROOT, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_where_names_the_target_without_credentials(monkeypatch) -> None:
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "s3cret")
    done = command_line("where")
    assert done.stdout == "DagsHub, https://dagshub.com/PredelinaAsya/ModelCompression/experiments\n"
    assert "s3cret" not in done.stderr and done.returncode == 0


def test_sync_without_a_server_says_what_to_set(store) -> None:
    done = command_line("sync")
    assert done.returncode == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: no tracking server is configured: set MLFLOW_TRACKING_URI or")
    assert not store.exists()
