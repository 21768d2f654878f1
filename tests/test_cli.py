"""The one command: help, usage errors, one-line errors, terminals that are not UTF-8."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from modelcompression import ROOT, __version__
from modelcompression.cli import cli

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
