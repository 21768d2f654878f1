import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from modelcompression import ROOT, machine
from modelcompression.machine import cpu
from modelcompression.measure import latency
from modelcompression.measure.latency import time_pairs

BATCH = np.zeros((1, 3, 8, 8), np.float32)


class Clock:
    """Instead of the machine's own, which other processes disturb."""

    def __init__(self) -> None:
        self.now = 0

    def perf_counter_ns(self) -> int:
        return self.now


class Sleeper:
    runtime, execution_precision, threads = "sleep", "f32", 1

    def __init__(self, milliseconds: float, calls: list[str], name: str, clock: Clock | None = None) -> None:
        self.nanoseconds, self.calls, self.name = round(1e6 * milliseconds), calls, name
        self.clock = clock or Clock()

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        self.calls.append(self.name)
        disturbance = 20 if len(self.calls) % 11 == 0 else 1
        self.clock.now += disturbance * self.nanoseconds
        return batch


def test_ratio_of_known_durations(monkeypatch) -> None:
    calls: list[str] = []
    clock = Clock()
    monkeypatch.setattr(latency, "time", clock)
    found = time_pairs(Sleeper(6, calls, "a", clock), Sleeper(2, calls, "b", clock), BATCH, pairs=15)
    assert found.speedup.value == pytest.approx(3) == found.baseline.median / found.variant.median
    assert found.speedup.low <= found.speedup.value <= found.speedup.high
    assert found.baseline.median == pytest.approx(6), "what disturbs a pass now and then does not count"
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


@pytest.mark.slow
def test_a_script_that_new_processes_cannot_import_is_told_so(tmp_path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from modelcompression.measure.fresh import time_in_fresh_process\n"
        "from modelcompression.measure.pipeline import USUAL\n"
        "time_in_fresh_process(None, None, [], USUAL, 1)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True)
    said = done.stderr.splitlines()[-1]
    assert (
        "FreshProcessError: " in said
        and "if memory was short" in said
        and '`if __name__ == "__main__":`' in said
    )


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
