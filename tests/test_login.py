"""Signing in to DagsHub with its own client, against a server on loopback; and publishing to it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
import torture
from click.testing import CliRunner, Result
from dagshub.auth import tokens
from dagshub_server import PREFIX, DagsHub, dagshub
from mlflow import MlflowClient
from mlflow_server import PASSWORD, USER

from modelcompression import REPOSITORY, ROOT, homework, runner
from modelcompression.cli import cli
from modelcompression.tracking import login
from modelcompression.tracking.history import finished_runs
from modelcompression.tracking.store import EXPERIMENT, RunRecord
from modelcompression.tracking.sync import sync
from modelcompression.tracking.targets import local_target, resolve_target
from modelcompression.tracking.tracker import Tracker

NAMES = ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "DAGSHUB_USER_TOKEN")


@pytest.fixture
def hub(server: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[DagsHub]:
    """Nobody is signed in."""
    with dagshub(server) as hub:
        for name in NAMES:
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
        monkeypatch.setenv("MC_STORE", str(tmp_path / "store"))
        monkeypatch.setenv("DAGSHUB_CLIENT_HOST", hub.address)
        monkeypatch.setenv("DAGSHUB_CLIENT_TOKENS_CACHE", str(tmp_path / "client" / "tokens"))
        monkeypatch.setenv("BROWSER", "true")
        fresh_process()
        yield hub
    fresh_process()


def fresh_process() -> None:
    """Nothing is remembered of what DagsHub has accepted."""
    login._accepted.cache_clear()
    tokens._token_storage = None


def signed_in() -> Result:
    done = CliRunner().invoke(cli, ["login"])
    fresh_process()
    return done


def logged() -> Tracker:
    tracker = Tracker("hw9_test")
    tracker.log(RunRecord("Kept", {"map50": 0.5}, {}, {}, ()))
    tracker.finish()
    return tracker


def test_torture_leaves_the_server_of_who_is_signed_in_alone(hub: DagsHub, tmp_path: Path) -> None:
    signed_in()
    assert not resolve_target().is_local
    with torture.environment(**torture.local_only(tmp_path)):
        fresh_process()
        assert resolve_target().is_local


def test_a_sign_in_is_kept_by_the_client_and_runs_go_to_dagshub(hub: DagsHub, tmp_path: Path) -> None:
    done = signed_in()
    assert done.exit_code == 0, done.output
    page = f"{hub.address}/{REPOSITORY}/experiments"
    assert done.stdout.splitlines()[-1] == f"signed in; runs go to DagsHub, {page}"
    assert "fresh" in (tmp_path / "client/tokens").read_text() and "fresh" not in done.output
    assert not list(ROOT.glob("*token*"))
    assert logged().target.description == f"DagsHub, {page}"
    assert any(line.startswith(f"POST {PREFIX}/api/2.0/mlflow/runs/create") for line in hub.asked)
    before = len(hub.asked)
    assert signed_in().exit_code == 0
    assert not any("oauth" in line for line in hub.asked[before:]), "once is enough"


def test_a_notebook_signs_in_if_it_is_asked_to(monkeypatch) -> None:
    asked = []
    monkeypatch.setattr(homework, "sign_in", lambda: asked.append("now"))
    homework.Homework("hw9_test", smoke=True, threads=1).finish()
    assert asked == []
    homework.Homework("hw9_test", smoke=True, threads=1, login=True).finish()
    assert asked == ["now"]


def test_a_refused_sign_in_is_one_line(hub: DagsHub) -> None:
    hub.issues = None
    done = signed_in()
    assert done.exit_code == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert "did not sign you in" in error and "403" in error


@pytest.mark.parametrize("why", ["wrong", "expired", "revoked", "unreachable"])
def test_a_token_that_is_not_accepted_keeps_the_run_locally(hub, monkeypatch, capsys, why: str) -> None:
    hub.lifetime = timedelta(seconds=-1) if why == "expired" else hub.lifetime
    assert signed_in().exit_code == 0
    if why == "wrong":
        path = Path(os.environ["DAGSHUB_CLIENT_TOKENS_CACHE"])
        path.write_text(path.read_text().replace("fresh", "stale"))
    elif why == "unreachable":
        path = Path(os.environ["DAGSHUB_CLIENT_TOKENS_CACHE"])
        path.write_text(path.read_text().replace(hub.address, "http://127.0.0.1:9"))
        monkeypatch.setenv("DAGSHUB_CLIENT_HOST", "http://127.0.0.1:9")
    else:
        hub.tokens.clear()
    capsys.readouterr()
    assert logged().target.is_local
    (warning,) = capsys.readouterr().err.strip().splitlines()
    says = "cannot be reached" if why == "unreachable" else "`modelcompression login` signs in again"
    assert says in warning and "runs are kept in the local store" in warning
    assert finished_runs(local_target())["experiment"].tolist() == ["Kept"]


def test_a_wrong_token_in_the_environment_keeps_the_run_locally(hub, monkeypatch, capsys) -> None:
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "wr0ng")
    assert logged().target.is_local
    (warning,) = capsys.readouterr().err.strip().splitlines()
    assert "refuses the credentials (401)" in warning and "wr0ng" not in warning
    assert finished_runs(local_target())["experiment"].tolist() == ["Kept"]


def test_a_run_without_dagshub_does_not_pay_for_the_client(hub: DagsHub) -> None:
    code = "import sys; from modelcompression.tracking.targets import resolve_target; resolve_target(); "
    code += "print('dagshub' in sys.modules, 'httpx' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "False False", done.stderr


def test_a_damaged_token_file_is_nobody_signed_in(hub: DagsHub, capsys) -> None:
    path = Path(os.environ["DAGSHUB_CLIENT_TOKENS_CACHE"])
    path.parent.mkdir(parents=True)
    path.write_bytes(b"\xff\xfe")
    assert login.kept_token() == ""
    path.write_text(f"{hub.address}: [")
    assert login.kept_token() == login.kept_token() == ""
    assert capsys.readouterr().err.count("warning: ") == 1


# --- publishing ---------------------------------------------------------------------------------


@pytest.fixture
def publishing(hub: DagsHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """A run that the local store has, a token, and a publication that needs no computation; what it did."""
    (tmp_path / "model.bin").write_bytes(b"weights")
    tracker = Tracker("hw1_baseline")
    record = RunRecord(f"Published {tmp_path.name}", {"map50": 0.5}, {}, {}, (tmp_path / "model.bin",))
    tracker.log(record)
    tracker.finish()
    hub.tokens.add("t0ken")
    monkeypatch.setenv("DAGSHUB_USER_TOKEN", "t0ken")
    done: list[str] = []
    monkeypatch.setattr(runner, "fetch_needed", lambda *_: None)
    monkeypatch.setattr(runner, "_executed", lambda notebook, *how: notebook)
    monkeypatch.setattr(runner, "publish", lambda executed: done.append("published"))

    def results(script: str, arguments: list[str]) -> None:
        done.extend([script, *finished_runs()["run_id"]])

    monkeypatch.setattr(runner, "_results", results)
    return done


def on_server(server: str, name: str) -> list:
    address = server.replace("http://", f"http://{USER}:{PASSWORD.replace('/', '%2F')}@")
    client = MlflowClient(address)
    found = client.get_experiment_by_name(EXPERIMENT)
    return [run for run in client.search_runs([found.experiment_id]) if run.info.run_name == name]


def test_publishing_sends_the_very_runs_of_the_table(publishing, server: str, tmp_path: Path, capsys) -> None:
    runner.run("hw1_baseline", publishing=True)
    assert "1 experiment(s) of the local store sent to DagsHub" in capsys.readouterr().out
    (there,) = on_server(server, f"Published {tmp_path.name}")
    assert publishing[:2] == ["published", "aggregate.py"] and there.info.run_id in publishing[2:]
    assert there.info.status == "FINISHED"


def test_refused_artifacts_leave_the_tables_as_they_were(publishing, hub, server, tmp_path: Path) -> None:
    hub.refuses = "mlflow-artifacts"
    with pytest.raises(runner.RunnerError, match="make sync") as error:
        runner.run("hw1_baseline", publishing=True)
    assert "\n" not in str(error.value) and "t0ken" not in str(error.value)
    assert publishing == ["published"], "the executed notebooks are not lost"
    hub.refuses = ""
    assert sync() == 1
    (there,) = on_server(server, f"Published {tmp_path.name}")
    assert there.info.status == "FINISHED"
    assert json.dumps(publishing) == '["published"]'
