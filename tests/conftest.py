"""Shared pieces: the weights, a few photographs, exported models, one evaluation of the original."""

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import mlflow_server
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from secret_scan import project_files
from ultralytics import YOLO
from xdist.scheduler import LoadScopeScheduling

from modelcompression import ROOT, assets, runner, subject
from modelcompression.detector import TorchDetector
from modelcompression.grid import nearest_exponents, step_sizes
from modelcompression.images import letterbox, to_batch
from modelcompression.measure import accuracy
from modelcompression.methods import quantization
from modelcompression.network import convolutions
from modelcompression.packed import checkpoint
from modelcompression.packed.tensors import Grid
from modelcompression.tracking import history

# `make test` has several processes of one thread each.
THREADS = int(os.environ.get("OMP_NUM_THREADS") or min(2, os.cpu_count() or 1))


NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")  # a proxy that is not there


def copy_working_tree(target: Path) -> Path:
    """Copy what is, or could be, under version control; the copy is under version control of its own."""
    if not shutil.which("git"):
        pytest.skip("needs the program git")
    for path in project_files():
        copy = target / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, copy)
    for command in (["git", "init", "--quiet", "--initial-branch", "main"], ["git", "add", "--all"]):
        subprocess.run(command, cwd=target, check=True)
    return target


class RunsAndFiles(LoadScopeScheduling):
    """Each run of a notebook goes to the process that is free; files, which share fixtures, stay together.

    A run that the homework's own test file asks for goes with that file: one process executes it once.
    """

    def _split_scope(self, nodeid: str) -> str:
        file, _, test = nodeid.partition("::")
        if not test.startswith("test_smoke_run["):
            return file
        notebook = test.removeprefix("test_smoke_run[").removesuffix("]")
        own = f"tests/test_{notebook.split('/')[0]}.py"
        asked = (ROOT / own).is_file() and notebook in (ROOT / own).read_text("utf8")
        return own if asked and file == "tests/test_notebooks.py" else nodeid


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return RunsAndFiles(config, log)


# Files whose tests load models, start servers or train: `make check` leaves them to `make test`.
SLOW = {
    "accuracy",
    "channels",
    "colab",
    "compress",
    "commands",
    "confirm",
    "couplings",
    "detect",
    "detector",
    "distillation",
    "gallery",
    "healing",
    "homework",
    "hw4_clustering",
    "hw6_distillation",
    "lean",
    "login",
    "models",
    "nanodet",
    "packing",
    "pipeline",
    "pruning",
    "quantization",
    "recommend",
    "report",
    "rounding",
    "shards",
    "torture",
    "tracking",
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Runs of notebooks come first: with short tests at the end, no process is idle for long."""
    for item in items:
        if "smoke_run" in item.fixturenames or item.path.stem.removeprefix("test_") in SLOW:
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: "smoke_run" not in item.fixturenames)


@pytest.fixture(autouse=True)
def own_threads() -> None:
    """No test computes with the number of threads that another has set."""
    torch.set_num_threads(THREADS)


@pytest.fixture(autouse=True, scope="session")
def own_store(tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test writes into the user's runs or talks to the user's server or cluster."""
    for name in ("MLFLOW_TRACKING_URI", "DAGSHUB_USER_TOKEN", "DAGSHUB_REPO", "DASK_SCHEDULER_ADDRESS"):
        os.environ.pop(name, None)
    os.environ["MC_STORE"] = str(tmp_path_factory.mktemp("store"))
    os.environ["DAGSHUB_CLIENT_TOKENS_CACHE"] = str(tmp_path_factory.mktemp("signed_out") / "tokens")


@dataclass(frozen=True)
class SmokeRun:
    """A notebook executed in smoke mode, and the rows it logged, by experiment."""

    document: nbformat.NotebookNode
    rows: pd.DataFrame


@pytest.fixture(scope="session")
def smoke_run(
    own_store: None, empty_database: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., SmokeRun]:
    """Execute a notebook in smoke mode into a store of its own; once a process, whoever asks."""

    @cache
    def run(notebook: Path, **parameters: object) -> SmokeRun:
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("MC_STORE", str(tmp_path_factory.mktemp("smoke")))
            shutil.copy(empty_database, os.environ["MC_STORE"])
            if parameters:  # another process may be executing it without
                environment.setattr(runner, "EXECUTED", tmp_path_factory.mktemp("executed"))
            given = {"THREADS": THREADS} | parameters
            executed = runner.execute(notebook, smoke=True, parameters=given)
            document = nbformat.read(executed, as_version=4)
            return SmokeRun(document, history.finished_runs(subject=history.ANY).set_index("experiment"))

    return run


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return mlflow_server.empty_database(tmp_path_factory.mktemp("schema"))


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Iterator[str]:
    """The address of a tracking server; what tests log there must not depend on each other."""
    with mlflow_server.running(tmp_path_factory.mktemp("server"), empty_database) as address:
        yield address


@pytest.fixture(scope="session")
def weights() -> Path:
    return subject.weights()


@pytest.fixture(scope="session")
def demo() -> assets.ImageSet:
    return assets.image_set("demo")


@pytest.fixture(scope="session")
def report_set() -> assets.ImageSet:
    """Half of coco-val where it can be had without a download, the demo photos otherwise."""
    if not os.environ.get("MC_ASSETS"):
        return assets.image_set("demo")
    return assets.image_set("coco-val").first(140)


@pytest.fixture(scope="session")
def eager(weights: Path) -> TorchDetector:
    return TorchDetector(weights, THREADS)


@pytest.fixture(scope="session")
def report(eager: TorchDetector, report_set: assets.ImageSet) -> accuracy.Evaluation:
    """At 320 px: what is asked of it holds for any size, and a look takes a quarter of the time."""
    return accuracy.evaluate(eager, report_set, 320, progress=False)


@pytest.fixture(scope="session")
def demo_report(eager: TorchDetector, demo: assets.ImageSet) -> accuracy.Evaluation:
    return accuracy.evaluate(eager, demo, progress=False)


@pytest.fixture(scope="session")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The original model as ``.onnx`` and OpenVINO ``.xml`` (float32 and float16) at 320 px."""
    import openvino

    folder = tmp_path_factory.mktemp("exported")
    copy = folder / "yolov8n.pt"
    copy.write_bytes(weights.read_bytes())
    onnx = Path(YOLO(copy).export(format="onnx", imgsz=320, simplify=True, verbose=False))
    graph = openvino.convert_model(onnx)
    openvino.save_model(graph, folder / "fp32.xml", compress_to_fp16=False)
    openvino.save_model(graph, folder / "fp16.xml", compress_to_fp16=True)
    return {"onnx": onnx, "fp32": folder / "fp32.xml", "fp16": folder / "fp16.xml"}


@pytest.fixture(scope="session")
def packed_int8(
    eager: TorchDetector, exported: dict[str, Path], demo: assets.ImageSet, tmp_path_factory
) -> Path:
    """The original model as a packed checkpoint of 8 bits a weight, its INT8 graph inside."""
    import openvino

    tensors = {}
    for name, layer in convolutions(eager.model).items():
        weight = layer.weight.detach().numpy()
        exponents = nearest_exponents(np.abs(weight).reshape(len(weight), -1).max(1) / 126)
        symbols = np.rint(weight / step_sizes(exponents).reshape(-1, 1, 1, 1)).astype(int)
        tensors[f"{name}.weight"] = Grid(np.clip(symbols, -127, 127), exponents)
    graph = openvino.Core().read_model(exported["fp32"])
    int8 = quantization.int8(graph, demo.first(2), bias_correction=False)
    return checkpoint.save(tmp_path_factory.mktemp("packed") / "int8.mcpk", eager.model, tensors, int8=int8)


@pytest.fixture(scope="session")
def batch(demo: assets.ImageSet) -> np.ndarray:
    """(1, 3, 320, 320): one photograph."""
    return to_batch(letterbox(demo.samples[0].path, 320)[0])
