"""Every command that the READMEs and CONTRIBUTING.md name works: executed in a scratch copy, or checked."""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import NO_NETWORK, THREADS, copy_working_tree
from mlflow import MlflowClient

from modelcompression import ROOT, cards, runner, skeleton
from modelcompression.detector import load_yolo
from modelcompression.packed import checkpoint
from modelcompression.packed.tensors import PackedCheckpointError
from modelcompression.tracking.store import EXPERIMENT

sys.path.insert(0, str(ROOT / "results"))

import models
from rows import read_rows

DOCUMENTS = ["README.md", "README.ru.md", "CONTRIBUTING.md"]
DOCUMENTS += [f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")]
COMMAND = re.compile(r"`((?:make|pip|python|modelcompression|\.venv/bin/\w+) [^`]+)`")
# Not executed: only that what they call exists.
CHECKED = {
    "make run": "minutes",
    "make run HW=all": "an hour",
    "make run HW=hw7_example": "minutes",
    "make run HW=hw4_clustering/bytes": "minutes",
    "make run TORCH_INDEX=https://download.pytorch.org/whl/cpu": "installs from the network",
    "make publish": "names a target",
    "make publish HW=hw7_example": "needs the images of COCO",
    'make publish HW="all hw5_export/smaller_network"': "an hour",
    "make test": "is this suite",
    "make confirm": "needs runs and the images of COCO: test_confirm.py has some",
    "modelcompression confirm models/small.mcpk --json found.json": "likewise",
    "make gallery": "needs the runs of the tables: test_gallery.py has some",
    "modelcompression --help": "test_cli.py has every command",
    ".venv/bin/python results/aggregate.py --check": "is a part of make lint",
    'make models NAME=small FROM="its experiment"': "needs a run: test_models.py has one",
    "make models": "test_models.py",
    "make lab": "runs until Ctrl-C",
    "pip install .": "installs from the network",
    'pip install -e ".[all]"': "likewise",
    "modelcompression detect": "test_detect.py",
    "modelcompression detect photo.jpg --model FILE_OR_FOLDER": "likewise",
    "modelcompression compress best.pt --data my.yaml --trust": "test_compress.py",
    "modelcompression compress best.pt --data my.yaml --max-loss 1% --trust": "likewise",
    "modelcompression compress best.pt --images photos --trust": "likewise",
    "modelcompression run hw4_clustering --weights best.pt --data my.yaml --trust": "test_own_subject.py",
    "modelcompression login": "needs a browser: test_login.py has a server",
    "make recommend": "needs published runs: test_recommend.py has some",
    "make torture": "minutes: test_torture.py has a small dose",
    "make nightly": "minutes: test_own_subject.py has a few of its notebooks",
    "make sync": "needs a server: test_tracking.py has one",
    "make ui": "runs until Ctrl-C",
    ".venv/bin/pip install pre-commit && .venv/bin/pre-commit install": "installs from the network",
    ".venv/bin/pip install -c constraints.txt distributed": "installs from the network",
    ".venv/bin/dask scheduler": "runs until Ctrl-C: test_shards.py has one",
    ".venv/bin/dask worker tcp://SCHEDULER:8786 --nthreads 1": "runs until Ctrl-C",
    "DASK_SCHEDULER_ADDRESS=tcp://SCHEDULER:8786 make run": "needs that cluster",
}
# Executed, with what they print.
EXECUTED = {
    "make help": "make homework",
    "make homework HW=hw7_example": "hw7_example/example.ipynb",
    "make smoke HW=hw7_example": "1 notebook(s) in",
    ".venv/bin/python -m pytest -k hw7_example": "passed",
    "make lint": "All checks passed!",
    "make table": "report.html regenerated",
    "modelcompression inspect small.mcpk": "model.0.conv.weight",
    "modelcompression models": "tiny ",
    "modelcompression --help": "detect",
    "modelcompression detect photo.jpg --save boxes": "photo.jpg: ",
}
Shell = Callable[[str], str]


def section(document: str, title: str) -> str:
    return document.split(f"\n## {title}\n")[1].split("\n## ")[0]


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", text, re.S)


def shell_lines(text: str) -> list[str]:
    lines = "\n".join(blocks(text, "bash")).splitlines()
    return [command for line in lines if (command := line.split("#")[0].strip())]


def named() -> set[str]:
    texts = [(ROOT / name).read_text(encoding="utf8") for name in DOCUMENTS]
    prose = [re.sub(r"```.*?```", "", text, flags=re.S) for text in texts]
    inline = [command for text in prose for command in COMMAND.findall(text)]
    return {*inline, *(command for text in texts for command in shell_lines(text))}


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory, weights: Path) -> Path:
    """A copy of the working tree under version control of its own, with this environment as its .venv."""
    copy = copy_working_tree(tmp_path_factory.mktemp("scratch") / "ModelCompression")
    (copy / ".venv").mkdir()
    for path in Path(sys.prefix).iterdir():
        if path.suffix != ".stamp":
            (copy / ".venv" / path.name).symlink_to(path)
    for stamp in ("run.stamp", "test.stamp"):
        (copy / ".venv" / stamp).touch()
    (copy / "assets" / "weights").mkdir(parents=True)
    (copy / "assets" / "weights" / weights.name).symlink_to(weights)
    return copy


@pytest.fixture(scope="module")
def shell(scratch: Path) -> Shell:
    """Run a line in the scratch copy, demo photos only; return what it prints."""
    ours = ("MC_", "PYTEST_", "MAKE")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    environment |= NO_NETWORK | {"MC_ASSETS": "", "PYTHONPATH": str(scratch)}
    environment["PATH"] = f"{scratch / '.venv/bin'}:{environment['PATH']}"

    def run(line: str) -> str:
        done = subprocess.run(
            ["bash", "-c", line], cwd=scratch, env=environment, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}"
        return done.stdout

    return run


def test_each_command_is_executed_or_checked() -> None:
    assert named() - {"make run HW=…"} <= EXECUTED.keys() | CHECKED.keys()


def test_a_new_homework_finds_what_its_test_needs(shell: Shell) -> None:
    """From a fresh clone, where the recipe's next command is pytest."""
    assert "-r requirements-test.txt" in shell("make -n -B homework HW=hw7_example")


@pytest.mark.parametrize("command", CHECKED)
def test_what_a_command_calls_exists(command: str, shell: Shell) -> None:
    if "make" in command.split():
        printed = shell(command.replace("make ", "make -n ", 1))
        modules = re.findall(r"-m (\w[\w.]*)(.*)", printed)
        scripts = re.findall(r"python (\S+\.py)", printed)
        for module, arguments in modules:
            if module == "modelcompression":
                known = shell(f"modelcompression {arguments.split()[0]} --help")
            else:
                known = shell(f"PYTEST_ADDOPTS=--noconftest python -m {module} --help")
            assert [option for option in options(arguments) if option not in known] == []
        programs = re.findall(r"^\.venv/bin/(jupyter lab) hw", printed, re.M)
        assert modules or scripts or programs
        assert all((ROOT / script).is_file() for script in scripts)
    elif "dask" in command or command.startswith(("modelcompression", ".venv/bin/python results")):
        program, subcommand, *_ = command.split()
        printed = shell(f"{program} {subcommand} --help")
        assert [option for option in options(command) if option not in printed] == []
        if program == "modelcompression" and not subcommand.startswith("-"):
            assert "Example: modelcompression" in printed
    elif "pre-commit" in command:  # not a package of ours, but its hooks' programs are
        programs = re.findall(r"entry: (\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
        assert programs and all(shell(f"ls {program}") for program in programs)
    elif command in ("pip install .", 'pip install -e ".[all]"'):
        described = (ROOT / "pyproject.toml").read_text()
        assert "modelcompression = " in described and "optional-dependencies.all" in described
    else:
        *_, constraints, package = command.split()
        assert f"\n{package}==" in (ROOT / constraints).read_text()


def options(command: str) -> list[str]:
    return [word for word in command.split() if word.startswith("--")]


def test_the_contributors_path(scratch: Path, shell: Shell) -> None:
    """CONTRIBUTING.md, line by line: a new homework with its row, one more method, and its tests."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    recipe = section(contributing, "Add a homework")
    notebook = scratch / "hw7_example/example.ipynb"
    (method,) = blocks(section(contributing, "Add a method to a homework"), "python")
    for line in shell_lines(recipe):
        if line not in CHECKED:
            assert EXECUTED[line] in shell(line), line
        if line.startswith("make homework"):
            replace_in(notebook, "THREADS = 2", f"THREADS = {THREADS}")
        if line.startswith("make smoke"):
            assert list(shown(scratch)) == ["Original model", "Example, 6 bits"]
            insert_before_table(notebook, method)  # the tests, which come next, run it
    assert "passed" in shell(".venv/bin/python -m pytest -q --noconftest tests/test_readme.py")
    sizes = shown(scratch)
    assert sizes["Example, 4 bits"] < sizes["Example, 6 bits"] < sizes["Original model"]
    assert list(logged(scratch)) == ["Example, 6 bits"]  # tests log elsewhere
    (query,) = blocks(recipe, "python")
    assert "Example, 6 bits" in shell(f".venv/bin/python - <<'END'\n{as_script(query)}\nEND")
    # A smoke run never enters a table, however often they are regenerated.
    assert EXECUTED["make table"] in shell("make table")
    assert "Example" not in (scratch / "results/results.csv").read_text(encoding="utf8")


def shown(scratch: Path) -> dict[str, float]:
    """Megabytes of each experiment, as the executed notebook prints them; its table has a row for each."""
    path = scratch / "results/executed/smoke/hw7_example_example.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    (table,) = (cell.outputs[0]["data"]["text/plain"] for cell in cells if cell.source == "hw.table()")
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    printed = "".join(o.text for o in outputs if o.get("name") == "stdout")
    found = dict(re.findall(r"^(.+): mAP50-95 .* ([\d.]+) MB$", printed, re.M))
    assert all(name in table for name in found)
    return {name: float(megabytes) for name, megabytes in found.items()}


def logged(scratch: Path) -> dict[str, dict[str, float]]:
    """The experiments in the scratch copy's own MLflow store, asked by a plain MLflow query."""
    client = MlflowClient(f"sqlite:///{scratch}/mlflow.db")
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    runs = client.search_runs([experiment], "tags.homework = 'hw7_example' and tags.smoke = 'true'")
    return {run.info.run_name: run.data.metrics for run in runs if run.data.metrics}


def as_script(cell: str) -> str:
    """A notebook cell as a script: its last line is printed."""
    *lines, last = cell.strip().splitlines()
    return "\n".join([*lines, f"print({last}.to_string())"])


def replace_in(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf8")
    assert text.count(old) == 1
    path.write_text(text.replace(old, new), encoding="utf8")


def insert_before_table(path: Path, source: str) -> None:
    document = nbformat.read(path, as_version=4)
    table = next(index for index, cell in enumerate(document.cells) if cell.source == "hw.table()")
    document.cells.insert(table, nbformat.v4.new_code_cell(source.strip()))
    nbformat.write(document, path)


@pytest.fixture
def at_home(scratch: Path, packed_int8: Path, demo) -> Path:
    """The scratch copy with a packed file, a model to take home and a photograph."""
    shutil.copy(packed_int8, scratch / "small.mcpk")
    models.take(scratch, "tiny", packed_int8, {}, read_rows(ROOT)[:0])
    (photograph,) = (sample.path for sample in demo.samples if sample.path.stem == "zidane")
    shutil.copy(photograph, scratch / "photo.jpg")
    return scratch


@pytest.mark.parametrize("command", [name for name in EXECUTED if name.startswith("modelcompression")])
def test_a_command_of_the_readme(command: str, at_home: Path, shell: Shell) -> None:
    assert EXECUTED[command] in shell(command)
    if "--save" in command:
        assert (at_home / "boxes" / "photo.jpg").is_file()


def test_help_lists_every_target(shell: Shell) -> None:
    assert EXECUTED["make help"] in shell("make help")
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert [target for target in targets if f"make {target} " not in shell("make help")] == []


def test_the_python_of_the_readme(at_home: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(at_home)
    monkeypatch.setattr(cards, "ROOT", at_home)
    (example,) = blocks((ROOT / "README.md").read_text(encoding="utf8"), "python")
    exec(example, names := {})
    assert names["model"].path.name == f"{cards.fastest().name}.mcpk"
    assert "Box(name='person'" in capsys.readouterr().out


def test_the_python_of_the_page_on_packed_checkpoints(tmp_path: Path, monkeypatch, weights: Path) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save("small.mcpk", load_yolo(weights), {})
    (example,) = blocks((ROOT / "docs/packed.md").read_text(encoding="utf8"), "python")
    with pytest.raises(PackedCheckpointError, match="INT8"):  # this one carries no INT8 graph
        exec(example, names := {})
    assert names["yolo"].model


@pytest.fixture
def programs(tmp_path: Path) -> Callable[..., str]:
    """A PATH in which folders come in this order, each with programs of this content, and what make needs."""

    def path(*folders: dict[str, str]) -> str:
        for number, content in enumerate(folders):
            (tmp_path / f"bin {number}").mkdir()
            for name, text in content.items():
                file = tmp_path / f"bin {number}" / name
                file.write_text(f"#!/bin/bash\n{text}\n")
                file.chmod(0o755)
        (tmp_path / "system").mkdir()
        for name in ("make", "bash", "cat"):
            (tmp_path / "system" / name).symlink_to(shutil.which(name))
        return ":".join(
            [*(str(tmp_path / f"bin {n}") for n in range(len(folders))), str(tmp_path / "system")]
        )

    return path


SHIM = 'echo "pyenv: python3.11: command not found" >&2; exit 127'
OLD = '[[ "$2" == *"(3, 11)"* ]] && exit 1; exit 0'
NO_VENV = '[[ "$2" == *venv* ]] && exit 1; exit 0'
GOOD = 'if [[ "$1" == -c ]]; then exit 0; fi; echo "ran $0 $*"; exit 3'


def make_run(tmp_path: Path, path: str, *given: str) -> str:
    """What `make run` says in a folder without .venv."""
    folder = tmp_path / "checkout"
    folder.mkdir(exist_ok=True)
    for name in (
        "Makefile",
        "requirements.txt",
        "requirements-detect.txt",
        "constraints.txt",
        "pyproject.toml",
    ):
        shutil.copy(ROOT / name, folder)
    command = ["make", "run", *given]
    done = subprocess.run(command, cwd=folder, env={"PATH": path}, capture_output=True, text=True)
    assert done.returncode and not (folder / ".venv").exists()
    return done.stdout


@pytest.mark.parametrize(
    "bad", [SHIM, OLD, NO_VENV, "exec /no/such/interpreter", "kill -9 $$", "cat; exit 1"]
)
@pytest.mark.parametrize("name", ["python3.11", "python3"])
def test_a_python_that_does_not_work_is_passed_over(bad: str, name: str, programs, tmp_path: Path) -> None:
    path = programs({"python3.11": bad, "python3": bad}, {name: GOOD})
    assert f"ran {tmp_path}/bin 1/{name} -m venv .venv" in make_run(tmp_path, path)


def test_no_python_or_a_wrong_one_is_one_clear_line(programs, tmp_path: Path) -> None:
    path = programs({"python3": SHIM, "python3.11": OLD}, {"python": NO_VENV})
    (line,) = make_run(tmp_path, path).splitlines()
    assert line.startswith("error: no Python 3.11 or newer with the module venv") and "PYTHON=" in line
    for folder, name, says in ((0, "python3", "does not run"), (0, "python3.11", "is older"),
                               (1, "python", "no module venv"), (1, "none", "does not run")):  # fmt: skip
        (line,) = make_run(tmp_path, path, f"PYTHON={tmp_path}/bin {folder}/{name}").splitlines()
        assert line.startswith("error: ") and says in line


@pytest.mark.parametrize("name", ["hw1_baseline", "hw6", "example", "hw6_../x", "all", "hw6_Two Words"])
def test_a_name_that_is_taken_or_none_creates_nothing(name: str) -> None:
    before = pd.Series({path: path.stat().st_mtime_ns for path in ROOT.glob("[hRt]*/*")})
    with pytest.raises(runner.RunnerError, match="hw7_example") as error:
        skeleton.create(name)
    assert "\n" not in str(error.value)
    assert before.equals(pd.Series({path: path.stat().st_mtime_ns for path in ROOT.glob("[hRt]*/*")}))
