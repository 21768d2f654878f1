"""On what was this measured? The CPU, the versions of what matters, the commit of the code."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version

from . import ROOT

PACKAGES = ["torch", "ultralytics", "onnxruntime", "openvino", "mlflow", "numpy", "opencv-python"]


@dataclass(frozen=True)
class Cpu:
    """The processor: its name, its best instruction set for neural networks, its logical cores."""

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


@cache
def cpu() -> Cpu:
    """The CPU of this machine (asking takes about a second, once)."""
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
    return Cpu(facts.get("brand_raw", "unknown CPU"), isa, os.cpu_count() or 1)


def versions() -> str:
    """Of the packages that numbers depend on."""
    return ", ".join(f"{package} {version(package)}" for package in PACKAGES)


def commit() -> str:
    """The commit of the code, marked when the working tree differs; empty outside a checkout."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=False)
        return done.stdout.strip()

    changed = git("status", "--porcelain", "--untracked-files=no", "--", "modelcompression", "hw*")
    return git("rev-parse", "--short=12", "HEAD") + ("-dirty" if changed else "")
