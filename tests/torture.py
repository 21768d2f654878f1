"""Nothing is lost: make things fail while runs and files are written, then count what is missing.

And no architecture is: networks of all kinds are compressed, and have to detect what they detected.

    make torture                              # all parts, in about ten minutes
    python tests/torture.py kills --seed 7    # one part, other moments

The last line says how many faults were injected and how much was lost; the exit code is 1 if anything was.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.synchronize import Barrier, Event
from pathlib import Path

import forgery
import mlflow_server
import nbformat
import numpy as np
import pandas as pd
import psutil
import round_trip
import shapes
import torch
from mlflow import MlflowClient
from mlflow.entities import Run
from networks import random_network
from ultralytics.nn.tasks import DetectionModel

from modelcompression import ROOT, files, runner
from modelcompression.packed import checkpoint, container
from modelcompression.packed.tensors import Grid
from modelcompression.terminal import one_line
from modelcompression.tracking import store, targets
from modelcompression.tracking.history import finished_runs
from modelcompression.tracking.store import RECORD_ID, RunRecord
from modelcompression.tracking.sync import sync
from modelcompression.tracking.targets import TrackingError
from modelcompression.tracking.tracker import Tracker

sys.path.insert(0, str(ROOT / "results"))

import aggregate
from captions import CAPTIONS
from modelcompression.goals import PIPELINE, SPEEDUP
from rows import FIRST_TABLE, METRICS, MILLISECONDS, REPORT_IMAGES, ResultsError, read_rows

os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
HOMEWORK = "hw9_torture"
TAGS = {
    **{"homework": HOMEWORK, "dataset": "coco-val", "smoke": "false", "cpu": "Test CPU", "isa": "AVX2"},
    **{"threads": "2", "runtime": "PyTorch", "execution_precision": "f32", "git_commit": "0" * 12},
    **{"versions": "torch 2"},
}
RATIOS = [*SPEEDUP, *PIPELINE]
TIMED = [*MILLISECONDS, *RATIOS]
SILENCE = store.DEADLINE + 1  # seconds: longer than a notebook waits
WAIT = 120  # seconds for any child process
NOTEBOOK = "hw1_baseline"
# The longest first, so that no process is idle at the end.
OTHERS = ("yolov8s", "yolo11s", "yolo26n", "yolov8n-p2", "yolov10n", "yolo11n", "yolov5n")
MEDIUM = "yolov8m"

# Children are forked from a process that has imported everything: what is killed is work, not imports.
children = get_context("forkserver")
children.set_forkserver_preload([__name__, "modelcompression.tracking.tracker"])


@dataclass
class Toll:
    """What one part injected, how many runs and files had to survive it, and which did not."""

    faults: int = 0
    guarded: int = 0
    lost: list[str] = field(default_factory=list)
    remark: str = ""

    def expect(self, is_there: bool, what: str) -> None:
        self.guarded += 1
        if not is_there:
            self.lost.append(what)

    def add(self, other: Toll) -> None:
        self.faults += other.faults
        self.guarded += other.guarded
        self.lost += other.lost


# What is logged, and whether it is all there


def experiment(name: str, folder: Path) -> RunRecord:
    """One experiment with two artifacts. All but its speed follows from its name."""
    metrics, model = _expected(name)
    speed = _timed(10 + time.monotonic() % 50)
    listing = b"class,map50\ncat,0.5\n"
    files.replace({folder / f"{name}.bin": model, folder / "per_class.csv": listing})
    artifacts = (folder / f"{name}.bin", folder / "per_class.csv")
    return RunRecord(name, metrics | speed, {"seed": name}, TAGS | {"experiment": name}, artifacts)


def _timed(milliseconds: float) -> dict[str, float]:
    """As fast as the original."""
    return dict.fromkeys(MILLISECONDS, milliseconds) | dict.fromkeys(RATIOS, 1.0)


def _expected(name: str) -> tuple[dict[str, float], bytes]:
    """Metrics that do not depend on the clock, and the model's file."""
    generator = random.Random(name)
    keys = [key for key in METRICS if key not in TIMED]
    metrics = {key: round(generator.uniform(0.1, 0.9), 4) for key in keys}
    return metrics | {"images": REPORT_IMAGES}, generator.randbytes(generator.randrange(200_000))


def is_whole(client: MlflowClient, run: Run) -> bool:
    """Does a finished run have everything that `experiment` gave it?"""
    name = run.info.run_name
    metrics, model = _expected(name)
    with tempfile.TemporaryDirectory() as folder, suppress(OSError, store.MlflowException):
        file = Path(client.download_artifacts(run.info.run_id, f"{name}.bin", folder))
        return (
            run.info.status == "FINISHED"
            and metrics.items() <= run.data.metrics.items()
            and set(TIMED) <= set(run.data.metrics)
            and run.data.params == {"seed": name}
            and TAGS.items() <= run.data.tags.items()
            and file.read_bytes() == model
            and len(client.list_artifacts(run.info.run_id)) == 2
        )
    return False


def stored(uri: str, homework: str) -> tuple[list[Run], list[Run]]:
    """All runs of homeworks of this name in one store, of any status: parents, experiments."""
    client = MlflowClient(uri)
    found = client.get_experiment_by_name(store.EXPERIMENT)
    runs = list(client.search_runs([found.experiment_id], max_results=10_000)) if found else []
    parents = [run for run in runs if run.info.run_name.startswith(homework)]
    ids = {run.info.run_id for run in parents}
    return parents, [run for run in runs if run.data.tags.get("mlflow.parentRunId") in ids]


def _path(experiment: Run) -> tuple[str, str]:
    return experiment.data.tags["mlflow.parentRunId"], experiment.info.run_name


@contextmanager
def environment(**variables: str) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name)
            if value is not None:
                os.environ[name] = value


def local_only(store: Path) -> dict[str, str]:
    """The variables that make a local store the target of runs."""
    none = {"MLFLOW_TRACKING_URI": "", "DAGSHUB_USER_TOKEN": ""}
    return none | {"MC_STORE": str(store), "DAGSHUB_CLIENT_TOKENS_CACHE": str(store / "no_sign_in")}


def start(variables: dict[str, str], work: Callable, *arguments: object) -> BaseProcess:
    process = children.Process(target=_child, args=(variables, work, *arguments))
    with environment(PYTHONPATH=os.pathsep.join(sys.path)):  # all that Python 3.11's server knows of ours
        process.start()
    return process


def _child(variables: dict[str, str], work: Callable, *arguments: object) -> None:
    with environment(**variables):
        work(*arguments)


# (a) Many writers at once


def writers(folder: Path, server: str, processes: int = 8, runs: int = 20) -> Toll:
    """Processes that start together, each logging every run to the local store and to the server."""
    toll, homework = Toll(), f"{HOMEWORK}_writers"
    variables = mlflow_server.environment("") | local_only(folder / "store")
    barrier = children.Barrier(processes)
    started = [
        start(variables, _write_twice, barrier, server, homework, folder / str(index), runs)
        for index in range(processes)
    ]
    for process in started:
        process.join(WAIT + 2 * processes * runs)
        toll.expect(process.exitcode == 0, f"a writer ended with {process.exitcode}")
    with environment(**variables):
        local = targets.local_target().uri
        for place, uri in {"local store": local, "server": server}.items():
            parents, experiments = stored(uri, homework)
            client = MlflowClient(uri)
            names = {_path(run) for run in experiments if is_whole(client, run)}
            ended = [run for run in parents if run.info.status == "FINISHED"]
            toll.guarded += processes * runs
            toll.lost += [f"a run of {place}"] * (processes * runs - len(names))
            toll.expect(len(ended) == processes == len(parents), f"parents in {place}: {len(ended)}")
            toll.expect(len(experiments) == processes * runs, f"doubled runs in {place}")
            toll.remark += f"{place} {len(names)} of {processes * runs} complete; "
    toll.remark += f"{processes} processes at once"
    return toll


def _write_twice(barrier: Barrier, server: str, homework: str, folder: Path, runs: int) -> None:
    barrier.wait(WAIT)
    with ExitStack() as stack:
        trackers = []
        for uri in ("", server):
            os.environ["MLFLOW_TRACKING_URI"] = uri
            trackers.append(stack.enter_context(Tracker(homework, TAGS)))
        for index in range(runs):
            record = experiment(f"run{index}", folder)
            for tracker in trackers:
                tracker.log(record)


# (b) Kills


def kills(folder: Path, trials: int = 20, seed: int = 0, experiments: int = 5) -> Toll:
    """A homework from an empty store to its table, killed somewhere in between and run again."""
    toll, generator = Toll(), random.Random(seed)
    names = [f"experiment{index}" for index in range(experiments)]
    undisturbed = _scratch(folder / "undisturbed")
    process, seconds = _homework(undisturbed, names), time.monotonic()
    process.join(WAIT)
    seconds = time.monotonic() - seconds
    reference = _table(undisturbed)
    toll.expect(process.exitcode == 0 and list(reference.index) == names, "the undisturbed run")
    moments, trial = [], 0
    while toll.faults < trials:
        root, moment = _scratch(folder / str(trial)), generator.uniform(0, seconds)
        process = _homework(root, names)
        time.sleep(moment)
        process.kill()
        process.join()
        trial += 1
        if process.exitcode == 0:
            continue  # it was faster this time
        toll.faults += 1
        moments.append(moment)
        _check_killed(toll, root, f"killed after {moment:.2f} s")
        process = _homework(root, names)
        process.join(WAIT)
        toll.expect(process.exitcode == 0, f"rerun after {moment:.2f} s ended with {process.exitcode}")
        if process.exitcode:
            continue
        rerun = _table(root)
        for name in names:
            same = name in rerun.index and rerun.loc[name].equals(reference.loc[name])
            toll.expect(same, f"{name} after {moment:.2f} s")
    toll.remark = f"after {', '.join(f'{moment:.1f}' for moment in moments)} of {seconds:.1f} s"
    return toll


def _scratch(root: Path) -> Path:
    """A repository with empty tables."""
    for name in (FIRST_TABLE, *CAPTIONS):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, root / name)
    return root


def _homework(root: Path, names: list[str]) -> BaseProcess:
    """A child that has just begun to work."""
    has_begun = children.Event()
    process = start(local_only(root / "store"), _work, root, names, has_begun)
    has_begun.wait(WAIT)
    return process


def _work(root: Path, names: list[str], has_begun: Event) -> None:
    has_begun.set()
    with Tracker(HOMEWORK, TAGS) as tracker, (root / "logged").open("a") as logged:
        for name in names:
            tracker.log(experiment(name, root / "build"))
            print(name, file=logged, flush=True)
    aggregate.regenerate(root, finished_runs())


def _table(root: Path) -> pd.DataFrame:
    """The rows that do not depend on the clock, by experiment; the READMEs agree with them."""
    aggregate.check(root)
    return read_rows(root).set_index("experiment").drop(columns=[*TIMED, "finished", "run_id"])


def _check_killed(toll: Toll, root: Path, when: str) -> None:
    """The store opens, what had been logged is whole, what had not is not in the table."""
    with environment(**local_only(root / "store")):
        target = targets.local_target()
        try:
            finished = set(finished_runs()["run_id"])
            aggregate.regenerate(root, finished_runs())
            rows = _table(root)
        except (TrackingError, ResultsError) as error:
            return toll.expect(False, f"{when}: {error}")
        _, runs = stored(target.uri, HOMEWORK) if target.database.exists() else ([], [])
        whole = {run.info.run_name for run in runs if is_whole(MlflowClient(target.uri), run)}
        logged = (root / "logged").read_text().split() if (root / "logged").exists() else []
        for name in logged:
            toll.expect(name in whole, f"{when}: {name} had been logged")
        halves = [run for run in runs if run.info.run_name not in whole]
        toll.expect(not finished & {run.info.run_id for run in halves}, f"{when}: a half run is read")
        toll.expect(set(rows.index) == whole, f"{when}: table {sorted(rows.index)}, whole {sorted(whole)}")


# (b) Kills of a real notebook


def notebook_kills(folder: Path, seed: int = 0) -> Toll:
    """A smoke run whose kernel is killed, one killed with all its processes, then one left in peace."""
    toll, generator = Toll(), random.Random(seed)
    undisturbed, killed = folder / "undisturbed", folder / "killed"
    begin = time.monotonic()
    printed = _end(_smoke(undisturbed))
    seconds = time.monotonic() - begin
    reference = _latest(undisturbed)
    toll.expect(len(reference) > 0, f"the undisturbed run: {printed}")
    moments = []
    for victim in ("kernel", "all"):
        process = _smoke(killed)
        while not (victims := _processes(process, victim)):  # the kernel starts after seconds of imports
            time.sleep(0.1)
        moment = generator.uniform(0, 0.5) * seconds
        time.sleep(moment)
        for one in victims:
            one.kill()
        printed = _end(process)
        toll.faults += process.returncode != 0
        toll.expect(process.returncode != 0, f"it ended before its {victim} was killed")
        if victim == "kernel":
            is_clear = printed.splitlines()[-1].startswith("error: the process that ran")
            toll.expect(is_clear, f"a clear error, not {printed}")
        moments.append(f"{victim} {moment:.0f} s after its start")
        for name, run in _latest(killed).iterrows():
            toll.expect(_accuracies(run).equals(_accuracies(reference.loc[name])), f"{name}, {moments[-1]}")
    _end(_smoke(killed))
    rerun = _latest(killed)
    for name, run in reference.iterrows():
        is_same = name in rerun.index and _accuracies(run).equals(_accuracies(rerun.loc[name]))
        toll.expect(is_same, f"{name} in the rerun")
    toll.remark = f"{NOTEBOOK} in smoke mode, {seconds:.0f} s: {', '.join(moments)}"
    return toll


def _smoke(store: Path) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-m", "modelcompression", "smoke", NOTEBOOK],
        cwd=ROOT, env=os.environ | local_only(store), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def _end(process: subprocess.Popen) -> str:
    return process.communicate(timeout=3 * WAIT)[0]


def _processes(runner_process: subprocess.Popen, victim: str) -> list[psutil.Process]:
    """What to kill, once a kernel is there."""
    whole = psutil.Process(runner_process.pid)
    kernels = [p for p in whole.children(recursive=True) if "ipykernel_launcher" in " ".join(p.cmdline())]
    return kernels if victim == "kernel" or not kernels else [whole, *kernels]


def _latest(store: Path) -> pd.DataFrame:
    """The latest finished run of each experiment."""
    with environment(**local_only(store)):
        return finished_runs().drop_duplicates("experiment", keep="last").set_index("experiment")


def _accuracies(run: pd.Series) -> pd.Series:
    timed = [f"metrics.{key}" for key in TIMED]
    return run[[key for key in run.index if key.startswith("metrics.") and key not in timed]].astype(float)


# (c) A full disk


def full_disk(folder: Path, times: int = 10, seed: int = 0, is_real: bool = False) -> Toll:
    """Replace results.csv, READMEs, figure, packed file and notebook while there is too little room.

    Args:
        times: for each of the writers, with another amount of room.
        is_real: ``folder`` is a small file system of its own, which is filled up. Otherwise the room is
            what the operating system lets a process write into one file (RLIMIT_FSIZE), which needs no
            privileges: too long a file fails in ``write`` with EFBIG instead of ENOSPC.
    """
    toll, generator = Toll(), random.Random(seed)
    limited = filled if is_real else limited_files
    for prepare, error in PREPARED.items():
        place = folder / prepare.__name__
        place.mkdir()
        write = prepare(place)
        write(0)
        before = contents(place)
        largest = max(len(data) for data in before.values())
        for _ in range(times):
            room, message = generator.randrange(largest), ""
            with limited(folder, room):
                try:
                    write(1)
                except error as raised:
                    message = str(raised)
            toll.faults += 1
            is_clear = "cannot be written: " in message and "\n" not in message
            toll.expect(is_clear, f"a clear error with room for {room} bytes, not {message!r}")
            after = contents(place)
            for path in before.keys() | after.keys():
                toll.expect(before.get(path) == after.get(path), f"{path.name} with room for {room} bytes")
        write(1)
        toll.expect(before != contents(place), "nothing was written with room again")
    _check_store(toll, folder, limited, [generator.randrange(20_000) for _ in range(times // 3)])
    toll.remark = "a full tmpfs" if is_real else "RLIMIT_FSIZE"
    return toll


def full_disk_for_real(folder: Path, times: int, seed: int) -> Toll:
    """The same on a tmpfs of 4 MB, in a namespace of its own; none if this system allows no such thing."""
    mount = 'mount -t tmpfs -o size=4m none "$1" && shift && exec "$@"'
    wanted = json.dumps({"folder": str(folder), "times": times, "seed": seed})
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", mount, "sh", str(folder)]
    with suppress(FileNotFoundError):
        if subprocess.run([*command, "true"], capture_output=True, check=False).returncode == 0:
            again = [*command, sys.executable, __file__, "--on-tmpfs", wanted]
            done = subprocess.run(again, stdout=subprocess.PIPE, check=True)
            return Toll(**json.loads(done.stdout.splitlines()[-1]))
    return Toll(remark="no tmpfs without privileges here")


@contextmanager
def limited_files(_: Path, room: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def filled(folder: Path, room: int) -> Iterator[None]:
    filler = folder / "filler"
    state = os.statvfs(folder)
    filler.write_bytes(bytes(max(0, state.f_bavail * state.f_frsize - room)))
    try:
        yield
    finally:
        filler.unlink()


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _tables(folder: Path) -> Callable[[int], None]:
    root = _scratch(folder)
    names = [f"experiment{index}" for index in range(12)]

    def write(version: int) -> None:
        rows = [_row(name, version) for name in names]
        aggregate.regenerate(root, pd.DataFrame(rows))

    return write


def _row(name: str, version: int) -> dict[str, object]:
    metrics, _ = _expected(f"{name} {version}")
    metrics |= _timed(10.0 + version)
    row = {"experiment": name, "run_id": name, "end_time": pd.Timestamp(2026, 5, 1 + version, tz="UTC")}
    row |= {f"metrics.{key}": value for key, value in metrics.items()}
    return row | {f"tags.{key}": value for key, value in TAGS.items()}


def _packed(folder: Path) -> Callable[[int], None]:
    state = {"weight": np.zeros((64, 32, 3, 3), np.float32)}

    def write(version: int) -> None:
        symbols = np.random.default_rng(version).integers(-7, 8, (64, 32, 3, 3))
        tensors = {"weight": Grid(symbols, np.zeros(64, np.int64))}
        container.store(folder / "small.mcpk", forgery.SMALLEST, state, tensors)

    return write


def _notebook(folder: Path) -> Callable[[int], None]:
    target = folder / "hw9_torture" / "torture.ipynb"
    executed = [folder.with_name(f"executed{version}.ipynb") for version in (0, 1)]
    for version, path in enumerate(executed):
        cell = nbformat.v4.new_code_cell("x")
        cell.outputs = [nbformat.v4.new_output("stream", text=str(version) * 100_000)]
        nbformat.write(nbformat.v4.new_notebook(cells=[cell]), path)

    def write(version: int) -> None:
        runner.publish({target: executed[version]})

    return write


PREPARED = {_tables: ResultsError, _packed: OSError, _notebook: runner.RunnerError}


def _check_store(toll: Toll, folder: Path, limited: Callable, rooms: list[int]) -> None:
    """A run that the disk has no room for: one clear error; earlier and later ones are whole."""
    kept = ["before"]
    with (
        environment(**local_only(folder / "store")),
        Tracker(HOMEWORK, TAGS) as tracker,
    ):
        tracker.log(experiment("before", folder.parent))
        for room in rooms:
            record, message = experiment(f"later{room}", folder.parent), ""
            with limited(folder, room):
                try:
                    tracker.log(record)
                except TrackingError as raised:
                    message = str(raised)
            toll.faults += 1
            is_clear = "cannot be written: " in message and "\n" not in message
            toll.expect(is_clear, f"a clear error with room for {room} bytes, not {message!r}")
            tracker.log(record)
            kept.append(record.name)
        client = MlflowClient(tracker.target.uri)
        whole = [
            run.info.run_name for run in stored(tracker.target.uri, HOMEWORK)[1] if is_whole(client, run)
        ]
        for name in kept:
            toll.expect(whole.count(name) == 1, f"{name} in a store that was full")
        toll.expect(sorted(finished_runs()["experiment"]) == sorted(kept), "what a full store returns")


# (d) A server that fails


def failing_server(
    folder: Path, server: str, homeworks: int = 6, runs: int = 3, share: float = 0.5, seed: int = 0
) -> Toll:
    """Homeworks that log through a proxy which fails, and then sync through it until sync succeeds."""
    toll, homework = Toll(), f"{HOMEWORK}_failing"
    with mlflow_server.faulty(server, share, seed, SILENCE) as (address, done):
        variables = mlflow_server.environment(address) | {"MC_STORE": str(folder / "store")}
        names = [f"{homework}{index}" for index in range(homeworks)]
        started = [start(variables, _log, name, folder / name, runs) for name in names]
        for process in started:
            process.join(WAIT + 10 * runs)
            toll.expect(process.exitcode == 0, f"a homework ended with {process.exitcode}")
        with environment(**mlflow_server.environment(server)):
            at_once = sum(run.info.status == "FINISHED" for run in stored(server, homework)[1])
        syncs, exitcode = 0, 1
        while exitcode and syncs < 20:
            process = start(variables, _sync)
            process.join(10 * WAIT)
            syncs, exitcode = syncs + 1, process.exitcode
        toll.expect(exitcode == 0, f"sync ended with {exitcode}, {syncs} times")
    toll.faults = done.total() - done[""]
    with environment(**mlflow_server.environment(server)):
        parents, experiments = stored(server, homework)
        client = MlflowClient(server)
        whole = {
            run.data.tags["mlflow.parentRunId"] + run.info.run_name: is_whole(client, run)
            for run in experiments
        }
        toll.guarded += homeworks * (runs + 1)
        toll.lost += ["a run"] * (homeworks * runs - len(whole))
        ended = {run.info.run_name for run in parents if run.info.status == "FINISHED"}
        toll.lost += ["a parent"] * (homeworks - len(ended))
        for found in (parents, experiments):
            doubled = len(found) - len({run.data.tags[RECORD_ID] for run in found})
            toll.expect(not doubled, f"{doubled} doubled")
        toll.expect(len(experiments) == homeworks * runs, f"{len(experiments)} experiments")
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(done.items()) if kind)
    toll.remark = (
        f"{toll.faults} of {done.total()} requests failed ({kinds}); {at_once} of {homeworks * runs} runs "
        f"arrived at once, the rest after {syncs} × sync"
    )
    return toll


def _log(homework: str, folder: Path, runs: int) -> None:
    with Tracker(homework, TAGS) as tracker:
        for index in range(runs):
            tracker.log(experiment(f"run{index}", folder))


def _sync() -> None:
    try:
        sync()
    except TrackingError as error:
        sys.exit(f"error: {error}")


# (f) Architectures


def architectures(folder: Path) -> Toll:
    """Networks of their real width through ``compress --for both`` and back; a medium one only packed.

    Those with a file in tests/models have learnt something, the others have random weights. YOLOv8n goes this
    way in `make test`, in the notebook about a model of one's own.
    """
    toll = Toll(remark=f"{', '.join(OTHERS)} compressed, {MEDIUM} packed")
    photographs = shapes.write(folder / "shapes", train=0, val=8).parent / "images/val"
    processes = min(2, os.cpu_count() or 1)
    with ProcessPoolExecutor(processes, mp_context=children, initializer=_say_nothing) as pool:
        for what in pool.map(partial(_comes_back, folder, photographs), (*OTHERS, MEDIUM)):
            toll.expect(not what, what)
    return toll


def _say_nothing() -> None:
    """Exports are talkative."""
    for stream in (1, 2):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    torch.set_num_threads(1)


def _comes_back(folder: Path, photographs: Path, name: str) -> str:
    """What did not; empty if all is well."""
    own, learnt = folder / name, ROOT / "tests/models" / f"{name}-shapes.mcpk"
    own.mkdir()
    try:
        model = checkpoint.load(learnt).model if learnt.is_file() else random_network(f"{name}.yaml")
        if name == MEDIUM:
            round_trip.require_export(model, own, next(photographs.iterdir()), size=96)
        else:
            round_trip.require_round_trip(model, own, photographs, size=96)
    except Exception as error:  # whatever it is, the next one has its turn
        return f"{name}: {type(error).__name__}: {one_line(error)}"
    return ""


# Command line


def main(arguments: list[str] | None = None) -> int:
    """Run the parts, print what each did; the number of things lost."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("part", nargs="?", choices=[*PARTS, "all"], default="all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--on-tmpfs", type=json.loads, help=argparse.SUPPRESS)
    wish = parser.parse_args(arguments)
    if wanted := wish.on_tmpfs:  # by `full_disk_for_real`
        wanted["folder"] = Path(wanted["folder"])
        print(json.dumps(asdict(full_disk(**wanted, is_real=True))))
        return 0
    total = Toll()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        for name in PARTS if wish.part == "all" else [wish.part]:
            begin = time.monotonic()
            own = Path(folder) / name / "work"
            own.mkdir(parents=True)
            toll = PARTS[name](own, wish.seed, stack)
            total.add(toll)
            seconds = time.monotonic() - begin
            print(
                f"{name:9}{seconds:4.0f} s  {toll.faults:4} faults, {len(toll.lost)} lost: {toll.remark}",
                flush=True,
            )
            for what in toll.lost:
                print(f"{'':17}LOST: {what}")
    checked = f"{total.guarded} runs, files and messages checked"
    print(f"{total.faults} faults injected; {checked}; {len(total.lost)} lost")
    return len(total.lost)


# (e) Packed checkpoints that somebody has tampered with


def forged_files(folder: Path, tensors: int = 9000, architectures: int = 2000, seed: int = 0) -> Toll:
    """Forged files are refused in one line, or are finite weights: never a crash, never another exception."""
    toll, generator = Toll(), np.random.default_rng(seed)
    model = DetectionModel(copy.deepcopy(forgery.SMALLEST.description()), verbose=False).eval()
    data = checkpoint.save(folder / "x.mcpk", model.fuse(verbose=False), {}).read_bytes()
    parts = [
        ("tensors", forgery.edited_bytes(data, generator, tensors), False),
        ("architecture", forgery.edited_architectures(data, generator, architectures), True),
    ]
    remarks = []
    for name, forgeries, load in parts:
        found = []
        for number, forged in enumerate(forgeries):
            toll.faults += 1
            try:
                found.append(forgery.outcome(folder / "forged.mcpk", forged, load))
            except Exception as error:  # what must not happen is what is counted
                found.append(f"{type(error).__name__} for {name} {number}")
            toll.expect(found[-1] in ("refused", "accepted"), found[-1])
        remarks.append(f"{found.count('refused')} of {len(found)} forged {name} refused")
    toll.remark = "; ".join(remarks)
    return toll


def _server(folder: Path, stack: ExitStack) -> str:
    (folder / "server").mkdir()
    return stack.enter_context(mlflow_server.running(folder / "server", mlflow_server.empty_database(folder)))


PARTS: dict[str, Callable[[Path, int, ExitStack], Toll]] = {
    "writers": lambda folder, seed, stack: writers(folder, _server(folder, stack)),
    "kills": lambda folder, seed, stack: kills(folder, seed=seed),
    "notebook": lambda folder, seed, stack: notebook_kills(folder, seed),
    "disk": lambda folder, seed, stack: full_disk(folder, seed=seed),
    "tmpfs": lambda folder, seed, stack: full_disk_for_real(folder, 10, seed),
    "packed": lambda folder, seed, stack: forged_files(folder, seed=seed),
    "server": lambda folder, seed, stack: failing_server(folder, _server(folder, stack), seed=seed),
    "networks": lambda folder, seed, stack: architectures(folder),
}


if __name__ == "__main__":
    sys.exit(bool(main()))
