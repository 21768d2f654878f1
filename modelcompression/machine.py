"""On what was this measured? The CPU, the versions of what matters, the commit of the code."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from . import ROOT

PACKAGES = ["torch", "ultralytics", "onnxruntime", "openvino", "mlflow", "numpy", "opencv-python"]


@dataclass(frozen=True)
class Cpu:
    """The processor: its name, its best instruction set for neural networks, its usable logical cores."""

    name: str
    isa: str
    cores: int

    @property
    def saturates(self) -> bool:
        """Whether its fastest sum of two INT8 products, unsigned by signed, is cut off at 16 bits.

        So it is on x86 without VNNI (``vpmaddubsw``, Intel's Software Developer's Manual, volume 2).
        """
        return "VNNI" not in self.isa and self.isa not in ("AMX", "NEON")

    def __str__(self) -> str:
        return f"{self.name}, {self.isa}, {self.cores} cores"


def cpu() -> Cpu:
    """The CPU of this machine (asking takes about a second, once), and the cores that may be used now."""
    return Cpu(*_processor(), usable_cores())


@cache
def _processor() -> tuple[str, str]:
    import cpuinfo

    facts = cpuinfo.get_cpu_info()
    flags = set(facts.get("flags", []))
    classes = {
        "AMX": {"amx_tile", "amx_int8"},
        "AVX-512 VNNI": {"avx512_vnni", "avx512vnni"},
        "AVX-VNNI": {"avx_vnni"},
        "AVX-512": {"avx512f"},
        "AVX2": {"avx2"},
        "NEON": {"asimd", "neon"},
    }
    isa = next((name for name, needed in classes.items() if flags & needed), facts.get("arch", "?"))
    return facts.get("brand_raw", "unknown CPU"), isa


def usable_cores(root: Path = Path("/")) -> int:
    """Logical cores that this process may use: those of its affinity (``taskset``), within the CPU quotas of
    its control groups (containers, ``systemd-run -p CPUQuota=``), in whole cores but at least one.

    Args:
        root: where ``proc`` and ``sys`` are.
    """
    try:
        allowed = len(os.sched_getaffinity(0))
    except (AttributeError, OSError):  # macOS, Windows
        allowed = os.cpu_count() or 1
    return max(1, min([allowed, *map(int, _quotas(root))]))


def _quotas(root: Path) -> Iterator[float]:
    """CPU time per time, of this process's control group and of those above, in both versions of Linux' own.

    Source: the kernel's admin-guide/cgroup-v2.rst (``cpu.max``) and scheduler/sched-bwc.rst.
    """
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup"
        mounts = [top / controllers, top / "cpu"] if controllers else [top, top / "unified"]
        for mount in mounts:
            inside = mount / group.lstrip("/")
            for folder in (inside, *inside.parents):
                if not folder.is_relative_to(mount):
                    break
                limit = _text(folder / "cpu.max").split()
                limit = limit or [
                    _text(folder / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")
                ]
                with suppress(ValueError, ZeroDivisionError):  # "max", or no such file
                    if (quota := float(limit[0]) / float(limit[1])) > 0:
                        yield quota


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf8")
    except OSError:
        return ""


def campaign() -> str:
    """Of which campaign is what runs now? Empty outside of one.

    A campaign is one publication of all notebooks from one clean commit on one machine: ``runner.run`` names
    it ``COMMIT, CPU, instruction set`` in ``MC_CAMPAIGN``, where the notebooks' processes find it.
    """
    return os.environ.get("MC_CAMPAIGN", "").strip()


def versions() -> str:
    """Of the packages that numbers depend on, as far as they are installed."""
    found = []
    for package in PACKAGES:
        with suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return ", ".join(found)


def commit() -> str:
    """The commit of the code, marked when the working tree differs; empty outside a checkout of its own.

    A repository around this one, or one that ``GIT_DIR`` names, is another's; without the program git nothing
    is known.
    """
    elsewhere = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR")
    environment = {name: value for name, value in os.environ.items() if name not in elsewhere}

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, env=environment, capture_output=True, check=False)
        return done.stdout.decode(errors="replace").strip()

    try:
        top = git("rev-parse", "--show-toplevel")
        if not top or not os.path.samefile(top, ROOT):
            return ""
        found = git("rev-parse", "--verify", "--short=12", "HEAD")
        changed = git("status", "--porcelain", "--untracked-files=normal", "--", "modelcompression", "hw*")
    except OSError:
        return ""
    return found + ("-dirty" if found and changed else "")


@cache
def source_digest(package: Path = Path(__file__).parent) -> str:
    """Another one for other code, where no commit says so: installed, or changed since the commit."""
    found = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        found.update(f"{path.relative_to(package)} {path.stat().st_size} ".encode() + path.read_bytes())
    return found.hexdigest()
