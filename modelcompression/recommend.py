"""Which file do I deploy on this CPU? ``modelcompression recommend``

How right a compressed model is hardly depends on the CPU, how fast it is does. So accuracy and size are
taken from the runs in the tracking store, and the runs' own files are timed here, in pairs with the
original model. What this CPU cannot execute, or whose file is out of reach, is named with the reason.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from . import assets
from .detector import Detector, DetectorError, OnnxDetector, OpenVinoDetector, TorchDetector
from .errors import ModelCompressionError
from .goals import GOALS, winner
from .images import fit, prepared, to_batch
from .machine import cpu
from .measure.intervals import Interval
from .measure.latency import time_pairs
from .methods.lean import LeanDetector
from .packed import checkpoint
from .packed.tensors import PackedCheckpointError
from .subject import weights
from .tracking.history import artifacts, finished_runs
from .tracking.targets import TrackingError, resolve_target

PAIRS = 15
WORDS = {"size_ratio": "smallest file", "speedup": "fastest", "both": "small and fast"}


class NothingToRecommend(ModelCompressionError, RuntimeError):
    """There is no published file to choose from; the message says where files come from."""


def candidates(runs: pd.DataFrame) -> pd.DataFrame:
    """The latest run of each experiment that was evaluated on COCO and compared with the original.

    Args:
        runs: as ``history.finished_runs`` returns them, oldest first.

    Returns:
        one row an experiment, its metrics under their own names.

    Raises:
        NothingToRecommend: there is none.
    """
    if {"tags.dataset", "metrics.map50_95_delta"} <= set(runs):
        counts = (runs["tags.dataset"] == "coco-val") & (runs.get("tags.smoke") != "true")
        runs = runs[counts].dropna(subset="metrics.map50_95_delta")
    else:
        runs = runs[:0]
    if runs.empty:
        raise NothingToRecommend(
            f"{resolve_target().description} holds no compressed model: make run HW=hw5_export makes some"
        )
    return runs.drop_duplicates("experiment", keep="last").rename(
        columns=lambda c: c.removeprefix("metrics.")
    )


def detector_of(run: pd.Series, files: Iterable[Path], folder: Path, threads: int = 2) -> Detector:
    """The detector of a run, as it was measured.

    Args:
        run: a row of ``finished_runs``.
        files: the run's artifacts.
        folder: where a packed checkpoint may be unpacked.

    Raises:
        DetectorError: no file can be loaded, this CPU does not execute its precision, or the run is one
            of another network.
    """
    if isinstance(network := run.get("params.network"), str):
        raise DetectorError(f"it is another network, {network}, only there to be compared with")
    found = {path.suffix: path for path in files}
    runtime, executes = run["tags.runtime"], run["tags.execution_precision"]
    graph = found.get(".xml") or found.get(".onnx")
    if packed := found.get(".mcpk"):
        if not runtime.startswith("OpenVINO"):
            return TorchDetector(checkpoint.load(packed).model, threads)
        graph = checkpoint.to_openvino(packed, folder, "int8" if executes.startswith("int8") else "f32")
    if not graph:  # a .pt is a pickle: only the original's is known by its sha256
        raise DetectorError("its run holds no .mcpk, .xml or .onnx")
    if runtime == OnnxDetector.runtime:
        return OnnxDetector(graph, threads)
    kind = LeanDetector if runtime == LeanDetector.runtime else OpenVinoDetector
    return kind(graph, threads, precision=executes.split()[-1])


def view(run: pd.Series) -> tuple[int, bool]:
    """How a run's detector was shown photographs: the input size, and whether as squares."""
    return int(run["params.input_size"]), run.get("params.input_shape") != "rectangle"


def batches(detector: Detector, size: int, square: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """What the original model and a candidate are fed: noise in the shapes of listed photographs."""
    generator = np.random.default_rng(0)
    shapes = [(entry["height"], entry["width"]) for entry in assets.listing("coco-val")]
    chosen = [(640, 640)] if square else shapes[:: len(shapes) // PAIRS]
    noise = [generator.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in chosen]
    return [(to_batch(fit(n, 640)[0]), prepared(detector, fit(n, size, square)[0])) for n in noise]


def speed_here(run: pd.Series, original: Detector) -> tuple[float, Interval]:
    """Milliseconds of a forward pass, and times the original model's speed, on this CPU."""
    with tempfile.TemporaryDirectory() as folder:
        fetched, unpacked = Path(folder, "fetched"), Path(folder, "unpacked")
        fetched.mkdir()
        detector = detector_of(run, artifacts(run["run_id"], fetched), unpacked, original.threads)
        found = time_pairs(original, detector, batches(detector, *view(run)), PAIRS)
    return found.variant.median, found.speedup


def timed(runs: pd.DataFrame, original: Detector) -> tuple[pd.DataFrame, dict[str, str]]:
    """The candidates with the speeds of this CPU, and why others were left out."""
    rows, skipped = [], {}
    for _, run in tqdm(list(runs.iterrows()), "timing", unit="model", leave=False):
        try:
            ms, speedup = speed_here(run, original)
        except (DetectorError, PackedCheckpointError, TrackingError) as reason:
            skipped[run["experiment"]] = str(reason)
            continue
        here = {"ms": ms, "speedup": speedup.value, "low": speedup.low, "high": speedup.high}
        rows.append(pd.Series(run.to_dict() | here))
    return pd.DataFrame(rows), skipped


def advice(rows: pd.DataFrame) -> pd.DataFrame:
    """What to take for which goal: one line a goal, formatted for reading."""
    lines = []
    for gain, loss in GOALS:
        row = winner(rows, gain, loss)
        if row is not None:
            limit = f"≤ {loss:.0%}" if loss else "nothing"
            delta, low, high = (100 * row[f"map50_95_delta{end}"] for end in ("", "_lo", "_hi"))
            lines.append(
                {
                    "goal": WORDS[gain],
                    "loss": limit,
                    "take": row["experiment"],
                    "executes in": row["tags.execution_precision"],
                    "Δ mAP50-95, %": f"{delta:+.1f} [{low:+.1f}, {high:+.1f}]",
                    "MB": f"{row['size_mb']:.2f}",
                    "ms": f"{row['ms']:.1f}",
                    "× faster here": f"{row['speedup']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
                }
            )
    return pd.DataFrame(lines)


def recommend(threads: int | None = None) -> None:
    """Time the published models on this CPU and print what to take for which goal.

    Raises:
        NothingToRecommend: there is no model, or none that can be timed here.
        AssetError, TrackingError: the weights or the store are out of reach.
    """
    threads = threads or min(2, cpu().cores)
    if threads > cpu().cores:
        raise NothingToRecommend(f"threads must be 1…{cpu().cores} on this machine, not {threads}")
    runs = candidates(finished_runs())
    print(f"{cpu()}; {threads} threads; {len(runs)} models of {resolve_target().description}")
    rows, skipped = timed(runs, TorchDetector(weights(), threads))
    for experiment, reason in skipped.items():
        print(f"skipped: {experiment}: {reason}")
    if rows.empty:
        raise NothingToRecommend("no model could be timed here, see above")
    print(advice(rows).to_string(index=False))
