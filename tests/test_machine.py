"""On what was this measured? Cores that may be used, and whose commit it is."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from modelcompression import machine

CORES = len(os.sched_getaffinity(0))
GIT = ["git", "-c", "user.name=test", "-c", "user.email=test@example.org"]
needs_git = pytest.mark.skipif(not shutil.which("git"), reason="no git")


def limits(root: Path, groups: str, files: dict[str, str]) -> Path:
    """A folder like /, with the control groups of this process and the limits of some."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{text}\n")
    return root


def v1(folder: str, quota: str) -> dict[str, str]:
    return {f"{folder}/cpu.cfs_quota_us": quota, f"{folder}/cpu.cfs_period_us": "100000"}


UNIT = "0::/user.slice/a.scope\n"
QUOTAS = {
    "none": ("", {}, CORES),
    "a container": ("0::/\n", {"cpu.max": "100000 100000"}, 1),
    "half a core": ("0::/\n", {"cpu.max": "50000 100000"}, 1),
    "one and a half": ("0::/\n", {"cpu.max": "150000 100000"}, 1),
    "no limit": ("0::/\n", {"cpu.max": "max 100000"}, CORES),
    "more than there are": ("0::/\n", {"cpu.max": "9900000 100000"}, CORES),
    "a unit": (UNIT, {"user.slice/a.scope/cpu.max": "100000 100000"}, 1),
    "the slice around it": (UNIT, {"user.slice/cpu.max": "100000 100000"}, 1),
    "another slice": (UNIT, {"other.slice/cpu.max": "100000 100000"}, CORES),
    "version 1": ("3:cpu,cpuacct:/box\n1:name=systemd:/\n", v1("cpu,cpuacct/box", "100000"), 1),
    "version 1 of another": ("3:cpu,cpuacct:/\n1:name=systemd:/\n", v1("cpu,cpuacct/box", "100000"), CORES),
    "version 1, no limit": ("1:cpu:/\n0::/\n", v1("cpu", "-1"), CORES),
    "a container that sees its host's group": ("2:cpu:/docker/0123\n", v1("cpu", "100000"), 1),
}


@pytest.mark.parametrize("kind", QUOTAS)
def test_quotas_of_control_groups_count(kind: str, tmp_path: Path) -> None:
    groups, files, cores = QUOTAS[kind]
    assert machine.usable_cores(limits(tmp_path, groups, files)) == cores


def test_the_affinity_counts_at_any_time() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert machine.cpu().cores == 1 and "1 cores" in str(machine.cpu())
    finally:
        os.sched_setaffinity(0, before)
    assert machine.cpu().cores <= len(before)


@pytest.fixture
def repository(tmp_path: Path, monkeypatch) -> Path:
    """A repository with one commit, in which the project might lie."""
    root = tmp_path / "outer"
    (root / "modelcompression").mkdir(parents=True)
    (root / "modelcompression" / "x.py").write_text("1")
    for command in (["init", "--quiet"], ["add", "--all"], ["commit", "--quiet", "--message", "1"]):
        subprocess.run([*GIT, *command], cwd=root, check=True)
    monkeypatch.setattr(machine, "ROOT", root)
    return root


@needs_git
def test_a_commit_is_the_projects_own(repository: Path, tmp_path: Path, monkeypatch) -> None:
    known = machine.commit()
    assert len(known) == 12 and int(known, 16)
    (repository / "modelcompression" / "x.py").write_text("2")
    assert machine.commit() == f"{known}-dirty"
    inside = repository / "unzipped"
    inside.mkdir()
    monkeypatch.setattr(machine, "ROOT", inside)
    assert machine.commit() == ""
    link = tmp_path / "link"
    link.symlink_to(repository)
    monkeypatch.setattr(machine, "ROOT", link)
    assert machine.commit() == f"{known}-dirty"
    for name, value in (("GIT_DIR", repository / ".git"), ("GIT_WORK_TREE", tmp_path)):  # as in a git hook
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit() == ""


@needs_git
def test_what_no_commit_holds_is_a_change(repository: Path) -> None:
    known = machine.commit()
    (repository / "hw7_new").mkdir()
    (repository / "notes.txt").write_text("measures nothing")
    assert machine.commit() == known
    (repository / "hw7_new" / "new.ipynb").write_text("{}")
    assert machine.commit() == f"{known}-dirty"


@needs_git
def test_a_repository_without_a_commit_has_none(tmp_path: Path, monkeypatch) -> None:
    subprocess.run(["git", "init", "--quiet"], cwd=tmp_path, check=True)
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    assert machine.commit() == ""


@pytest.mark.parametrize("program", [None, "not executable", "not git"])
def test_without_git_nothing_is_known(program: str | None, tmp_path: Path, monkeypatch) -> None:
    if program:
        (tmp_path / "git").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "git").chmod(0o755 if program == "not git" else 0o644)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert machine.commit() == ""


def test_other_code_has_another_digest_without_git(tmp_path: Path) -> None:
    def digest(text: str, name: str = "one.py") -> str:
        (tmp_path / name).write_text(text)
        machine.source_digest.cache_clear()
        return machine.source_digest(tmp_path)

    first = digest("X = 1\n")
    assert digest("X = 2\n") != first == digest("X = 1\n") == digest("no code", "notes.txt")
    assert digest("", "two.py") != first
    machine.source_digest.cache_clear()
