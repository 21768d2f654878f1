"""Every command that the READMEs and CONTRIBUTING.md name works: executed in a scratch copy, or checked."""

import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import NO_NETWORK, THREADS, copy_working_tree
from mlflow import MlflowClient

from modelcompression import ROOT, runner, skeleton
from modelcompression.detector import load_yolo
from modelcompression.packed import checkpoint
from modelcompression.packed.tensors import PackedCheckpointError
from modelcompression.tracking.store import EXPERIMENT

DOCUMENTS = ("README.md", "README.ru.md", "CONTRIBUTING.md")
COMMAND = re.compile(r"`((?:make|pip|python|modelcompression|\.venv/bin/\w+) [^`]+)`")
# Not executed: only that what they call exists.
CHECKED = {
    "make run": "minutes",
    "make run HW=all": "an hour",
    "make run HW=hw7_example": "minutes",
    "make run TORCH_INDEX=https://download.pytorch.org/whl/cpu": "installs from the network",
    "make publish": "names a target",
    "make publish HW=hw7_example": "needs the images of COCO",
    "make test": "is this suite",
    "make recommend": "needs published runs: test_recommend.py has some",
    "make torture": "minutes: test_torture.py has a small dose",
    "make sync": "needs a server: test_tracking.py has one",
    "make ui": "runs until Ctrl-C",
    "pip install pre-commit && pre-commit install": "installs from the network",
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


@pytest.mark.parametrize("command", CHECKED)
def test_what_a_command_calls_exists(command: str, shell: Shell) -> None:
    if "make" in command.split():
        printed = shell(command.replace("make ", "make -n ", 1))
        modules = re.findall(r"-m (\w[\w.]*)(.*)", printed)
        scripts = re.findall(r"python (\S+\.py)", printed)
        for module, arguments in modules:
            known = Path(importlib.util.find_spec(module).origin).read_text(encoding="utf8")
            if not module.startswith("modelcompression"):
                known = shell(f"python -m {module} --help")
            assert [option for option in options(arguments) if option not in known] == []
        assert modules or scripts
        assert all((ROOT / script).is_file() for script in scripts)
    elif "dask" in command:
        program, subcommand, *_ = command.split()
        printed = shell(f"{program} {subcommand} --help")
        assert [option for option in options(command) if option not in printed] == []
    elif "pre-commit" in command:  # not a package of ours, but its hooks' programs are
        programs = re.findall(r"entry: (\S+)", (ROOT / ".pre-commit-config.yaml").read_text())
        assert programs and all(shell(f"ls {program}") for program in programs)
    else:
        *_, constraints, package = command.split()
        assert f"\n{package}==" in (ROOT / constraints).read_text()


def options(command: str) -> list[str]:
    return [word for word in command.split() if word.startswith("--")]


def test_the_contributors_path(scratch: Path, shell: Shell) -> None:
    """CONTRIBUTING.md, line by line: a new homework with its row and its test, then one more method."""
    contributing = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf8")
    recipe = section(contributing, "Add a homework")
    for line in shell_lines(recipe):
        if line not in CHECKED:
            assert EXECUTED[line] in shell(line), line
        if line.startswith("make homework"):
            replace_in(scratch / "hw7_example/example.ipynb", "THREADS = 2", f"THREADS = {THREADS}")
    assert "passed" in shell(".venv/bin/python -m pytest -q tests/test_readme.py")
    assert "Example, 6 bits" in executed_text(scratch)
    assert list(logged(scratch)) == ["Example, 6 bits"]
    (query,) = blocks(recipe, "python")
    assert "Example, 6 bits" in shell(f".venv/bin/python - <<'END'\n{as_script(query)}\nEND")

    (method,) = blocks(section(contributing, "Add a method to a homework"), "python")
    insert_before_table(scratch / "hw7_example/example.ipynb", method)
    shell("make smoke HW=hw7_example")
    runs = logged(scratch)
    assert runs["Example, 4 bits"]["size_mb"] < runs["Example, 6 bits"]["size_mb"]
    assert "Example, 4 bits" in executed_text(scratch)
    # A smoke run never enters a table, however often they are regenerated.
    assert EXECUTED["make table"] in shell("make table")
    assert "Example" not in (scratch / "results/results.csv").read_text(encoding="utf8")


def executed_text(scratch: Path) -> str:
    """What the notebook shows by ``hw.table()``."""
    path = scratch / "results/executed/smoke/hw7_example_example.ipynb"
    cells = nbformat.read(path, as_version=4).cells
    (shown,) = (cell.outputs[0]["data"]["text/plain"] for cell in cells if cell.source == "hw.table()")
    return shown


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


@pytest.mark.parametrize("command", ["make help", "modelcompression inspect small.mcpk"])
def test_a_command_of_the_readme(command: str, scratch: Path, shell: Shell, weights: Path) -> None:
    checkpoint.save(scratch / "small.mcpk", load_yolo(weights), {})
    assert EXECUTED[command] in shell(command)


def test_help_lists_every_target(shell: Shell) -> None:
    targets = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    assert [target for target in targets if f"make {target} " not in shell("make help")] == []


def test_the_python_of_the_readme(tmp_path: Path, monkeypatch, weights: Path) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint.save("small.mcpk", load_yolo(weights), {})
    (example,) = blocks((ROOT / "README.md").read_text(encoding="utf8"), "python")
    with pytest.raises(PackedCheckpointError, match="INT8"):  # this one carries no INT8 graph
        exec(example, names := {})
    assert names["yolo"].model


@pytest.mark.parametrize("name", ["hw1_baseline", "hw6", "example", "hw6_../x", "all", "hw6_Two Words"])
def test_a_name_that_is_taken_or_none_creates_nothing(name: str) -> None:
    before = pd.Series({path: path.stat().st_mtime_ns for path in ROOT.glob("[hRt]*/*")})
    with pytest.raises(runner.RunnerError, match="hw7_example") as error:
        skeleton.create(name)
    assert "\n" not in str(error.value)
    assert before.equals(pd.Series({path: path.stat().st_mtime_ns for path in ROOT.glob("[hRt]*/*")}))
