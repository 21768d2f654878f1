"""The one command: help, usage errors, one-line errors, terminals that are not UTF-8."""

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from click.testing import CliRunner

from modelcompression import ROOT, __version__, files
from modelcompression.cli import cli
from modelcompression.terminal import one_line

COMMANDS = list(cli.commands)


def called(*words: str, encoding: str = "utf8", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command as a user would, in a terminal of that encoding."""
    env = {**os.environ, "PYTHONIOENCODING": encoding, "PYTHONUTF8": "0", **environment}
    command = [sys.executable, "-m", "modelcompression", *words]
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, check=False)


def test_every_command_has_help_with_an_example() -> None:
    assert {"run", "publish", "smoke", "new", "assets", "recommend", "inspect", "sync", "ui"} <= set(COMMANDS)
    for name in COMMANDS:
        done = CliRunner().invoke(cli, [name, "--help"])
        assert done.exit_code == 0
        assert f"Example: modelcompression {name}" in " ".join(done.output.split())


def test_the_version_names_commit_and_cpu() -> None:
    said = called("--version").stdout.decode()
    assert said.startswith(f"modelcompression {__version__}, commit ")
    assert "\nCPU " in said and "\nversions  torch " in said


@pytest.mark.parametrize(
    "words",
    [["bogus"], ["run"], ["inspect"], ["recommend", "--threads", "0"], ["ui", "--port", "x"], ["--x"]],
)
def test_a_wrong_command_line_is_status_2(words: list[str]) -> None:
    assert CliRunner().invoke(cli, words).exit_code == 2


def test_what_the_user_can_put_right_is_one_line_and_status_1(tmp_path: Path) -> None:
    for words in (["inspect", str(tmp_path / "none")], ["run", "hw0_none"], ["new", "hw1_baseline"]):
        done = called(*words)
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"error: ")


@pytest.mark.parametrize("encoding", ["cp1251", "ascii"])
def test_other_terminals_show_replaced_characters(encoding: str) -> None:
    for words in (["run", "×−≤"], ["where"]):
        done = called(*words, encoding=encoding)
        assert b"Traceback" not in done.stderr and b"UnicodeEncodeError" not in done.stderr
        done.stdout.decode(encoding), done.stderr.decode(encoding)


def test_a_notebook_can_be_watched_in_any_terminal(tmp_path: Path) -> None:
    """What its cells print passes through the terminal of the runner."""
    document = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("print('3.7× ≤ до')")])
    nbformat.write(document, tmp_path / "draft.ipynb")
    code = f"""
from pathlib import Path
from modelcompression import runner, terminal
runner.ROOT = runner.EXECUTED = Path({str(tmp_path)!r})
terminal.script(lambda: runner.execute(runner.ROOT / "draft.ipynb"))"""
    env = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=True)
    assert b"3.7?" in done.stdout


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "a copy"), (errno.EACCES, "permissions"), (errno.EIO, "x: ")],
)
def test_errors_of_the_system_say_what_to_do(number: int, says: str) -> None:
    line = one_line(OSError(number, os.strerror(number), "x"))
    assert says in line and line.startswith("x: ") and "\n" not in line


def test_what_is_not_installed_is_named_with_what_installs_it() -> None:
    code = "import sys; sys.modules['pandas'] = None; from modelcompression.cli import main; main()"
    command = [sys.executable, "-c", code, "inspect", "small.mcpk"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith('error: pandas is not installed: pip install -e ".[all]" in a clone of ')


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"set -o pipefail; {sys.executable} -m modelcompression models | true"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert "error" not in done.stderr


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    """Not a device either: as root, /dev/null would become a file."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(OSError, match=f"{name} cannot be written: it is a folder or a device"):
            files.replace({tmp_path / "first": b"new", tmp_path / name: b"new"})
    assert sorted(os.listdir(tmp_path)) == ["folder", "pipe"] and not os.listdir(tmp_path / "folder")


def test_installed_it_writes_into_the_users_folder(tmp_path: Path) -> None:
    """Not among Python's packages; in a clone, into the clone."""
    assert (ROOT / "pyproject.toml").is_file()
    package = tmp_path / "site-packages" / "modelcompression"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "modelcompression" / "__init__.py", package)
    code = "import modelcompression; print(modelcompression.ROOT)"
    env = os.environ | {
        "PYTHONPATH": str(package.parent),
        "HOME": str(tmp_path),
        "USERPROFILE": str(tmp_path),
    }
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.stdout.strip() == str(tmp_path / ".modelcompression"), done.stderr
