"""modelcompression/shards.py: whoever computes a shard, and whoever dies over it, no bit changes."""

import itertools
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from conftest import THREADS
from distributed import Client
from tqdm import tqdm

from modelcompression import ROOT
from modelcompression.assets import ImageSet
from modelcompression.detector import Detector, DetectorError, OnnxDetector, OpenVinoDetector, TorchDetector
from modelcompression.images import letterbox, prepared
from modelcompression.measure import accuracy, shards
from modelcompression.measure.accuracy import Evaluation
from modelcompression.measure.shards import ClusterError, ShardError
from modelcompression.methods.lean import LeanDetector

SIZE = 320


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "SHARD", 2)


@pytest.fixture(scope="module")
def images(demo: ImageSet) -> ImageSet:
    return ImageSet("demo, again and again", demo.samples * 4)


@pytest.fixture(scope="module")
def detectors(weights: Path, exported: dict[str, Path]) -> dict[str, Detector]:
    return {
        "PyTorch": TorchDetector(weights, THREADS),
        "channels_last": TorchDetector(weights, THREADS, channels_last=True),
        "ONNX Runtime": OnnxDetector(exported["onnx"], THREADS, exact=False),
        "OpenVINO": OpenVinoDetector(exported["fp32"], threads=THREADS, hint="THROUGHPUT"),
        "lean graph": LeanDetector(exported["fp32"], THREADS),
        "fixed shape": OpenVinoDetector(exported["onnx"], THREADS, shape=(1, 3, SIZE, SIZE)),
    }


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started_scheduler(tmp_path_factory.mktemp("dask")) as (_, address):
        yield address


@contextmanager
def started_scheduler(folder: Path) -> Iterator[tuple[subprocess.Popen, str]]:
    options = ["--host", "127.0.0.1", "--port", "0", "--dashboard-address", "127.0.0.1:0"]
    process = dask("scheduler", *options, "--scheduler-file", str(file := folder / "scheduler.json"))
    try:
        wait_for(file.exists)
        with Client(scheduler_file=str(file), timeout=30, set_as_default=False) as client:
            address = client.scheduler.address
        yield process, address
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def workers(scheduler: str) -> Iterator[dict[str, subprocess.Popen]]:
    with started_workers(scheduler, first="2", second="1") as found:
        yield found


@contextmanager
def started_workers(scheduler: str, **threads: str) -> Iterator[dict[str, subprocess.Popen]]:
    """Processes by their names, of so many threads; without the nanny that would replace a dead one."""
    options = ["--no-nanny", "--no-dashboard"]
    found = {
        name: dask("worker", scheduler, *options, "--name", name, "--nthreads", count)
        for name, count in threads.items()
    }
    try:
        with Client(scheduler, timeout=30, set_as_default=False) as client:
            wait_for(lambda: len(client.scheduler_info()["workers"]) == len(threads))
        yield found
    finally:
        for process in found.values():
            process.kill()
            process.wait()


def dask(*arguments: str) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "dask", *arguments], env=environment, stderr=subprocess.DEVNULL
    )


def wait_for(condition: Callable[[], object], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def evaluate(detector: Detector, images: ImageSet) -> Evaluation:
    return accuracy.evaluate(detector, images, SIZE, progress=False)


def assert_identical(found: Evaluation, expected: Evaluation, name: str = "") -> None:
    for part in ("detections", "correct", "targets"):
        pairs = zip(getattr(found, part), getattr(expected, part), strict=True)
        assert all(a.dtype == b.dtype and a.tobytes() == b.tobytes() for a, b in pairs), f"{part} {name}"
    assert found.map50_95 == expected.map50_95 > 0.3


def test_every_detector_can_travel(detectors, demo) -> None:
    pixels = letterbox(demo.samples[0].path, SIZE)[0]
    for name, detector in detectors.items():
        copy, given = pickle.loads(pickle.dumps(detector)), prepared(detector, pixels)
        assert (copy(given) == detector(given)).all(), name
        for attribute in ("runtime", "threads", "execution_precision"):
            assert getattr(copy, attribute) == getattr(detector, attribute), name
    hint = pickle.loads(pickle.dumps(detectors["OpenVINO"])).compiled.get_property("PERFORMANCE_HINT")
    assert str(hint).endswith("THROUGHPUT")


def test_a_relative_path_is_right_in_another_folder(exported, batch, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(exported["onnx"].parent)
    packed = pickle.dumps(OnnxDetector(exported["onnx"].name, THREADS))
    monkeypatch.chdir(tmp_path)
    assert pickle.loads(packed)(batch).shape == (1, 84, 2100)


def test_local_processes_change_no_bit(weights, demo, monkeypatch) -> None:
    detector = TorchDetector(weights, 1)
    expected = evaluate(detector, demo)
    monkeypatch.setattr(shards, "WORTH_A_PROCESS", len(demo) // 2)
    monkeypatch.setattr(shards, "cpu_count", lambda: 2)
    assert_identical(evaluate(detector, demo), expected)


@pytest.mark.parametrize(
    ("cores", "threads", "count", "processes"),
    [(2, 2, 5000, 1), (8, 2, 281, 1), (8, 2, 1000, 2), (8, 2, 5000, 4), (64, 2, 5000, 10), (1, 2, 5000, 1)],
)
def test_processes_are_as_many_as_pay(cores, threads, count, processes, monkeypatch) -> None:
    monkeypatch.setattr(shards, "cpu_count", lambda: cores)
    assert shards._processes(type("Detector", (), {"threads": threads}), count) == processes


spans: list[tuple[float, float]] = []


def timed(detector: None, cut: int) -> None:
    start = time.monotonic()
    time.sleep(0.02)
    spans.append((start, time.monotonic()))


def test_a_process_computes_one_shard_at_a_time() -> None:
    """A Dask worker may have several threads; OpenVINO's requests and PyTorch's thread pool have one user."""
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(shards._travelling(timed, None, int), range(4)))
    assert len(spans) == 4
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(sorted(spans)))


def test_a_cluster_that_cannot_be_used_is_one_clear_line(eager, demo, scheduler, monkeypatch) -> None:
    monkeypatch.setattr(shards, "PATIENCE", 1)
    for address, says in (
        ("tcp://127.0.0.1:9", "no Dask scheduler answers at tcp://127.0.0.1:9"),
        ("nonsense://x", "no Dask scheduler answers"),
        (scheduler, f"start `dask worker {scheduler}`"),
    ):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        with pytest.raises(ClusterError, match=says) as error:
            evaluate(eager, demo)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ClusterError, match="pip install distributed"):
        evaluate(eager, demo)


def test_a_cluster_changes_no_bit(detectors, demo, scheduler, workers, monkeypatch) -> None:
    expected = {name: evaluate(detector, demo) for name, detector in detectors.items()}
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", scheduler)
    for name, detector in detectors.items():
        assert_identical(evaluate(detector, demo), expected[name], name)


def test_a_new_file_under_the_same_path_is_read_again(
    exported, demo, scheduler, workers, tmp_path, monkeypatch
) -> None:
    found = []
    for kind in ("fp32", "fp16"):
        for suffix in (".xml", ".bin"):
            copy = tmp_path / f"new{suffix}"
            copy.write_bytes(exported[kind].with_suffix(suffix).read_bytes())
            copy.replace(tmp_path / f"model{suffix}")
        detector = OpenVinoDetector(tmp_path / "model.xml", THREADS)
        expected = evaluate(detector, demo)
        with monkeypatch.context() as environment:
            environment.setenv("DASK_SCHEDULER_ADDRESS", scheduler)
            found.append(evaluate(detector, demo))
        assert_identical(found[-1], expected)
    assert any(a.tobytes() != b.tobytes() for a, b in zip(*(f.detections for f in found), strict=True))


def test_what_a_worker_does_not_find_is_one_clear_line(
    demo, exported, scheduler, workers, tmp_path, monkeypatch
) -> None:
    copy = tmp_path / "model.onnx"
    copy.write_bytes(exported["onnx"].read_bytes())
    detector = OnnxDetector(copy, THREADS)
    copy.unlink()
    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", scheduler)
    with pytest.raises(DetectorError, match=r"does not exist.*the same files") as error:
        evaluate(detector, demo)
    assert "\n" not in str(error.value)


def test_a_worker_killed_in_the_middle_loses_nothing(
    detectors, images, scheduler, workers, monkeypatch
) -> None:
    expected = evaluate(detectors["PyTorch"], images)
    killed_at = []
    with Client(scheduler, set_as_default=False) as watch:
        address = next(a for a, w in watch.scheduler_info()["workers"].items() if w["name"] == "second")

        class KillingBar(tqdm):
            def update(self, n: float = 1) -> None:
                super().update(n)
                if self.n >= len(images) / 3 and not killed_at:
                    wait_for(lambda: watch.processing().get(address))
                    os.kill(workers["second"].pid, signal.SIGKILL)
                    killed_at.append(self.n)

        monkeypatch.setattr(accuracy, "tqdm", KillingBar)
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", scheduler)
        found = accuracy.evaluate(detectors["PyTorch"], images, SIZE)
    assert workers["second"].wait(10) == -signal.SIGKILL
    assert 0 < killed_at[0] < len(images)
    assert_identical(found, expected)


@pytest.mark.parametrize(
    ("who", "what", "says"),
    [
        ("workers", signal.SIGKILL, "has no workers: start `dask worker"),
        ("scheduler", signal.SIGKILL, "does not answer: start it"),
        ("scheduler", signal.SIGSTOP, "does not answer: start it"),
    ],
)
def test_nobody_waits_for_a_cluster_that_is_gone(who, what, says, demo, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "PATIENCE", 1)
    with started_scheduler(tmp_path) as (process, address), started_workers(address, only="1") as workers:
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        end = partial({"scheduler": process, "workers": workers["only"]}[who].send_signal, what)
        threading.Timer(2, end).start()
        with pytest.raises(ClusterError, match=says) as error:
            list(shards.spread(lambda detector, cut: time.sleep(600), None, demo.samples, int))
        assert address in str(error.value) and "\n" not in str(error.value)


def test_workers_whose_memory_is_full_are_named(demo, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(shards, "PATIENCE", 2)
    monkeypatch.setenv("DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE", "0.001")
    with started_scheduler(tmp_path) as (_, address), started_workers(address, full="1"):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        with pytest.raises(ClusterError, match="paused: give them more memory"):
            list(shards.spread(lambda detector, cut: time.sleep(600), None, demo.samples, int))


def test_a_worker_that_cannot_do_it_is_one_clear_line(demo, scheduler, workers, monkeypatch) -> None:
    def work(detector: object, cut: object) -> None:
        raise ImportError("no module\nof that name")

    monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", scheduler)
    with pytest.raises(ClusterError, match=r"failed; is its commit.*ImportError: of that name$"):
        list(shards.spread(work, None, demo.samples, int))


def test_a_local_process_that_dies_is_one_clear_line(eager, demo, monkeypatch) -> None:
    monkeypatch.setattr(shards, "_processes", lambda *_: 2)
    with pytest.raises(ShardError, match="one of 2 processes died"):
        list(shards.spread(lambda detector, cut: os._exit(1), eager, demo.samples, int))


def test_images_that_kill_every_worker_are_not_given_to_more(demo, tmp_path, monkeypatch) -> None:
    def work(detector: object, cut: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "0")
    with started_scheduler(tmp_path) as (_, address), started_workers(address, one="1", two="1"):
        monkeypatch.setenv("DASK_SCHEDULER_ADDRESS", address)
        with pytest.raises(ClusterError, match="died over the same images") as error:
            list(shards.spread(work, None, demo.samples, int))
        assert "\n" not in str(error.value)
