"""The notebooks in Colab, as far as possible: google.colab and pip are stand-ins, GitHub is a folder."""

import json
import os
import re
import secrets
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import NO_NETWORK, THREADS, copy_working_tree
from nbclient import NotebookClient
from nbformat import NotebookNode

from modelcompression import REPOSITORY, ROOT, runner

NOTEBOOK = ROOT / "hw1_baseline" / "baseline.ipynb"
# As Colab's module of that name: https://github.com/googlecolab/colabtools/blob/main/google/colab/userdata.py
USERDATA = """
import json, os

class SecretNotFoundError(Exception): pass
class NotebookAccessError(Exception): pass

def get(key):
    secrets = json.loads(os.environ["SECRETS_OF_THE_TEST"])
    if key not in secrets:
        raise SecretNotFoundError(f"Secret {key} does not exist.")
    if secrets[key] is None:
        raise NotebookAccessError(f"Notebook does not have access to secret {key}")
    return secrets[key]
"""
PIP = '#!/bin/sh\necho "$@" >> "$PIP_LOG"\nexit "$(cat "$PIP_LOG.status" 2>/dev/null || echo 0)"\n'
TOKEN = secrets.token_hex(20)


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Environment in which the repository's URL leads to a commit of this working tree."""
    remote = copy_working_tree(tmp_path_factory.mktemp("github"))
    author = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    subprocess.run(["git", *author, "commit", "--quiet", "--message", "now"], cwd=remote, check=True)
    url = f"https://github.com/{REPOSITORY}"
    return {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{remote.as_uri()}.insteadOf",
        "GIT_CONFIG_VALUE_0": url,
    }


@pytest.fixture
def machine(github: dict[str, str], tmp_path: Path, weights: Path) -> dict[str, str]:
    """Environment of a Colab machine: nothing of this project is there, and no image can be fetched."""
    package, programs, profile = (tmp_path / name for name in ("packages/google/colab", "bin", "ipython"))
    startup = profile / "profile_default" / "startup"
    for folder in (package, programs, startup, tmp_path / "content"):
        folder.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "userdata.py").write_text(USERDATA)
    (startup / "colab.py").write_text("import google.colab")
    (programs / "pip").write_text(PIP)
    (programs / "pip").chmod(0o755)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("MC_", "PYTEST_"))}
    own = {
        "PYTHONPATH": str(tmp_path / "packages"),
        "PATH": f"{programs}:{os.environ['PATH']}",
        "PIP_LOG": str(tmp_path / "pip.log"),
        "IPYTHONDIR": str(profile),
        "MC_ASSETS": str(weights.parents[1]),
    }
    return kept | github | NO_NETWORK | own


def opened_in_colab(tmp_path: Path, until: str, *then: str) -> NotebookNode:
    """The notebook up to the cell with ``until``, on a few images, its /content in a folder of the test."""
    document = nbformat.read(NOTEBOOK, as_version=4)
    (bootstrap,) = (cell for cell in document.cells if "bootstrap" in cell.metadata.get("tags", []))
    assert bootstrap.source == runner.bootstrap() and bootstrap.source.count('"/content/') == 1
    bootstrap.source = bootstrap.source.replace('"/content/', f'"{tmp_path}/content/')
    last = next(index for index, cell in enumerate(document.cells) if until in cell.source)
    del document.cells[last + 1 :]
    parameters = next(
        i for i, cell in enumerate(document.cells) if "parameters" in cell.metadata.get("tags", [])
    )
    given = nbformat.v4.new_code_cell(f"SMOKE, THREADS = True, {THREADS}")
    document.cells.insert(parameters + 1, given)
    document.cells += [bootstrap.copy(), *map(nbformat.v4.new_code_cell, then)]
    return document


def run(document: NotebookNode, machine: dict[str, str], tmp_path: Path, found: dict[str, str | None]) -> str:
    """Execute it in a kernel of that machine; return all it printed."""
    folder = {"metadata": {"path": str(tmp_path / "content")}}
    client = NotebookClient(document, kernel_name="python3", timeout=300, resources=folder)
    client.execute(env=machine | {"SECRETS_OF_THE_TEST": json.dumps(found)})
    outputs = [output for cell in document.cells for output in cell.get("outputs", [])]
    assert TOKEN not in json.dumps(outputs)
    return "".join(output.get("text", "") for output in outputs)


def test_a_fresh_machine_clones_installs_once_and_measures(machine, tmp_path) -> None:
    where = "print(modelcompression.__file__)\nhw.finish()"
    document = opened_in_colab(tmp_path, 'hw.measure("Original model"', where)
    printed = run(document, machine, tmp_path, {})
    clone = tmp_path / "content" / REPOSITORY.split("/")[1]
    assert str(clone / "modelcompression/__init__.py") in printed
    assert "Original model: mAP50-95" in printed
    assert "Logged to the local store mlflow.db" in printed and (clone / "mlflow.db").is_file()
    (install,) = (tmp_path / "pip.log").read_text().splitlines()  # though the cell ran twice
    assert install.split()[0] == "install" and Path(install.split()[-1]) == clone / "requirements.txt"
    assert (clone / "requirements.txt").read_bytes() == (ROOT / "requirements.txt").read_bytes()


def shell(machine: dict[str, str], tmp_path: Path) -> tuple[int, str]:
    """Run the bootstrap cell alone, in a new process of that machine; its status and what it says."""
    cell = runner.bootstrap().replace('"/content/', f'"{tmp_path}/content/')
    command = [sys.executable, "-m", "IPython", "--colors=NoColor", "-c", f"import google.colab\n{cell}"]
    done = subprocess.run(
        command, cwd=tmp_path, env=machine, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    return done.returncode, done.stdout


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    return tmp_path / "content" / REPOSITORY.split("/")[1]


def test_an_installation_that_failed_is_done_again(machine, tmp_path, clone) -> None:
    status = tmp_path / "pip.log.status"
    status.write_text("1")
    for _ in range(2):
        code, said = shell(machine, tmp_path)
        assert code and "the installation failed, see above: run this cell again" in said
    status.unlink()
    (clone / "mine.txt").write_text("")
    assert shell(machine, tmp_path)[0] == 0
    assert shell(machine, tmp_path)[0] == 0
    assert len((tmp_path / "pip.log").read_text().splitlines()) == 3
    assert (clone / "mine.txt").exists()


@pytest.mark.parametrize("left", ["half of a clone", "an empty folder"])
def test_a_clone_that_was_interrupted_is_made_again(left, machine, tmp_path, clone) -> None:
    git = tmp_path / "bin" / "git"
    git.write_text('#!/bin/sh\nfor last; do :; done\nmkdir -p "$last/.git"; touch "$last/.git/x"; exit 137\n')
    git.chmod(0o755)
    code, said = shell(machine, tmp_path)
    assert code and "run this cell again" in said
    git.unlink()
    if left == "an empty folder":
        clone.mkdir()
    assert shell(machine, tmp_path)[0] == 0
    assert (clone / "modelcompression/__init__.py").is_file()
    assert {path.name for path in clone.parent.iterdir()} == {clone.name, f"{clone.name}.installed"}


def test_secrets_lead_to_dagshub_and_are_never_shown(machine, tmp_path) -> None:
    """One kernel: first the notebook has no access to them, then it has."""
    document = opened_in_colab(tmp_path, "hw = Homework(")
    *_, bench, _ = document.cells
    access = f"os.environ['SECRETS_OF_THE_TEST'] = os.environ['LATER']\n{bench.source}\nhw.finish()"
    document.cells += map(nbformat.v4.new_code_cell, ("hw.finish()", access))
    later = {"LATER": json.dumps({"DAGSHUB_USER_TOKEN": TOKEN, "DAGSHUB_REPO": "some/fork"})}
    printed = run(document, machine | later, tmp_path, {"DAGSHUB_USER_TOKEN": None})
    places = re.findall("^tracking  (the local store|DagsHub, .*some/fork/)", printed, re.M)
    assert places == ["the local store", "DagsHub, https://dagshub.com/some/fork/"]
    # DagsHub is out of reach here: nothing is lost.
    assert printed.count("Logged to the local store mlflow.db") == 2
