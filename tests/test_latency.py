import platform
import subprocess
import sys
import time

import numpy as np
import pytest

from modelcompression import machine
from modelcompression.machine import cpu
from modelcompression.measure.latency import time_pairs

BATCH = np.zeros((1, 3, 8, 8), np.float32)


class Sleeper:
    runtime, execution_precision, threads = "sleep", "f32", 1

    def __init__(self, milliseconds: float, calls: list[str], name: str) -> None:
        self.seconds, self.calls, self.name = milliseconds / 1e3, calls, name

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.calls.append(self.name)
        end = time.perf_counter() + self.seconds
        while time.perf_counter() < end:
            pass
        return batch


def test_ratio_of_known_durations() -> None:
    calls: list[str] = []
    found = time_pairs(Sleeper(6, calls, "a"), Sleeper(2, calls, "b"), BATCH, pairs=15)
    assert found.speedup.value == pytest.approx(3, rel=0.15)
    assert found.speedup.low <= found.speedup.value <= found.speedup.high
    assert found.baseline.median == pytest.approx(6, rel=0.15)
    assert found.variant.p90 >= found.variant.median


def test_passes_alternate_after_the_warm_up() -> None:
    calls: list[str] = []
    time_pairs(Sleeper(0, calls, "a"), Sleeper(0, calls, "b"), BATCH, pairs=3)
    assert "".join(calls) == "aaabbb" + "aabb" * 3
    calls.clear()
    time_pairs(Sleeper(0, calls, "a"), Sleeper(0, calls, "b"), BATCH, pairs=7)
    assert "".join(calls) == "aaaaabbbbb" + "aabb" * 7


COUNT_FAULTS = """
from resource import RUSAGE_SELF, getrusage
import numpy as np
from modelcompression.measure.latency import keep_freed_memory

for keep in (False, True):
    keep_freed_memory(keep)
    np.ones(2**21, np.uint8)
    before = getrusage(RUSAGE_SELF).ru_minflt
    for _ in range(5):
        np.ones(2**21, np.uint8)
    print(getrusage(RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="glibc's allocator only")
def test_kept_memory_causes_no_page_faults() -> None:
    """In a process of its own: what else lies on the heap decides, which is the point."""
    done = subprocess.run([sys.executable, "-c", COUNT_FAULTS], capture_output=True, text=True, check=True)
    returned, kept = map(int, done.stdout.split())
    assert kept < 100 < 2000 < returned


def test_pairs_must_be_positive() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        time_pairs(Sleeper(0, [], "a"), Sleeper(0, [], "b"), BATCH, pairs=0)


def test_the_cpu_has_a_name_and_an_instruction_set() -> None:
    found = cpu()
    assert found.name and found.isa and found.cores >= 1


@pytest.mark.parametrize(
    ("flags", "isa"),
    [(["avx2", "avx512f", "avx512_vnni", "amx_tile"], "AMX"), (["avx2", "avx512_vnni"], "AVX-512 VNNI"),
     (["sse4_2", "avx2"], "AVX2"), (["asimd"], "NEON"), ([], "X86_64")],
)  # fmt: skip
def test_isa_is_the_best_the_flags_allow(monkeypatch, flags, isa) -> None:
    import cpuinfo

    facts = {"flags": flags, "arch": "X86_64", "brand_raw": "Test CPU"}
    monkeypatch.setattr(cpuinfo, "get_cpu_info", lambda: facts)
    assert machine._processor.__wrapped__() == ("Test CPU", isa)
