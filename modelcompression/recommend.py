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
from .fetch import sha256
from .goals import CONFIRMED, GOALS, is_confirmed, unmet, winner
from .images import fit, prepared, to_batch
from .machine import cpu
from .measure.accuracy import evaluate
from .measure.agreement import OTHER, agreement, as_truth
from .measure.latency import time_pairs
from .methods.lean import LeanDetector
from .packed import checkpoint
from .packed.tensors import PackedCheckpointError
from .shipped_models import recommend_shipped
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
    """
    if not {"tags.dataset", "metrics.map50_95_delta"} <= set(runs):
        return runs[:0]
    counts = (runs["tags.dataset"] == "coco-val") & (runs.get("tags.smoke") != "true")
    runs = runs[counts].dropna(subset="metrics.map50_95_delta")
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


def verified(run: pd.Series, files: Iterable[Path]) -> list[Path]:
    """The artifacts of a run, after a look at whether the model's files are those that it was measured on.

    Raises:
        DetectorError: a file is missing or another one by now.
    """
    there = {path.name: path for path in files}
    logged = run.get("params.sha256")
    for entry in logged.split(", ") if isinstance(logged, str) else ():
        name, _, digest = entry.rpartition(" ")
        if name not in there:
            raise DetectorError(f"{name} is missing among the files of its run: run its notebook again")
        if sha256(there[name]) != digest:
            raise DetectorError(f"{name} is not the file that was measured, but changed or damaged since")
    return list(there.values())


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


def seen_here(run: pd.Series, original: Detector, truth: assets.ImageSet) -> dict[str, float]:
    """What a model does on this CPU: ``ms`` of a forward pass beside ``ms_original``, ``speedup`` with
    ``low`` and ``high``, and its ``agreement_here`` with the original on the demo photographs.
    """
    with tempfile.TemporaryDirectory() as folder:
        fetched, unpacked = Path(folder, "fetched"), Path(folder, "unpacked")
        fetched.mkdir()
        files = verified(run, artifacts(run["run_id"], fetched))
        detector = detector_of(run, files, unpacked, original.threads)
        found = time_pairs(original, detector, batches(detector, *view(run)), PAIRS)
        here = {"agreement_here": agreement(detector, truth, *view(run))}
    speedup = found.speedup
    here |= {"ms": found.variant.median, "ms_original": found.baseline.median}
    here |= {"speedup": speedup.value, "low": speedup.low, "high": speedup.high}
    return here


def timed(runs: pd.DataFrame, original: Detector) -> tuple[pd.DataFrame, dict[str, str]]:
    """The candidates with the speeds of this CPU, and why others were left out."""
    rows, skipped = [], {}
    truth = as_truth(evaluate(original, assets.image_set("demo"), progress=False))
    for _, run in tqdm(list(runs.iterrows()), "timing", unit="model", leave=False):
        try:
            here = seen_here(run, original, truth)
        except (DetectorError, PackedCheckpointError, TrackingError) as reason:
            skipped[run["experiment"]] = str(reason)
            continue
        rows.append(pd.Series(run.to_dict() | here))
    return pd.DataFrame(rows).reset_index(drop=True), skipped


def otherwise(rows: pd.DataFrame) -> pd.DataFrame:
    """The models that detect otherwise on this CPU than where they were measured, by ``agreement``.

    Runs from before agreement was logged are not among them: nobody can tell.
    """
    if "agreement" not in rows:
        return rows[:0]
    return rows[(rows["agreement"] - rows["agreement_here"]).abs() > OTHER]


def advice(rows: pd.DataFrame) -> pd.DataFrame:
    """What to take for which goal: one line a goal, formatted for reading."""
    lines = []
    for gain, loss in GOALS:
        row = winner(rows, gain, loss)
        if row is not None:
            kind = CONFIRMED if is_confirmed(rows)[row.name] else ""
            delta, low, high = (100 * row[f"{kind}map50_95_delta{end}"] for end in ("", "_lo", "_hi"))
            lines.append(
                {
                    "goal": WORDS[gain],
                    "loss": f"≤ {loss:.0%}",
                    "take": row["experiment"],
                    "executes in": row["tags.execution_precision"],
                    "Δ mAP50-95, %": f"{delta:+.1f} [{low:+.1f}, {high:+.1f}]",
                    "confirmed": "yes" if kind else "no",
                    "MB": f"{row['size_mb']:.2f}",
                    "ms": f"{row['ms_original']:.1f} → {row['ms']:.1f}",
                    "× faster here": f"{row['speedup']:.2f} [{row['low']:.2f}, {row['high']:.2f}]",
                }
            )
    return pd.DataFrame(lines)


def recommend(threads: int | None = None) -> None:
    """Time the published models on this CPU and print what to take for which goal.

    Where the store holds no compressed model whose run counts, those of ``models/`` are timed instead.

    Raises:
        NothingToRecommend: there is no model, or none that can be timed here.
        AssetError, TrackingError: the weights or the store are out of reach.
    """
    threads = threads or min(2, cpu().cores)
    if threads > cpu().cores:
        raise NothingToRecommend(f"threads must be 1…{cpu().cores} on this machine, not {threads}")
    runs = candidates(finished_runs())
    if runs.empty:
        print(f"{resolve_target().description} holds no compressed model; {cpu()}; {threads} threads")
        return recommend_shipped(threads)
    print(f"{cpu()}; {threads} threads; {len(runs)} models of {resolve_target().description}")
    rows, skipped = timed(runs, TorchDetector(weights(), threads))
    for experiment, reason in skipped.items():
        print(f"skipped: {experiment}: {reason}")
    if rows.empty:
        raise NothingToRecommend("no model could be timed here, see above")
    for _, row in otherwise(rows).iterrows():
        print(
            f"warning: {row['experiment']} detects otherwise on this CPU: it agrees to "
            f"{row['agreement_here']:.3f} with the original, {row['agreement']:.3f} where it was measured; "
            "its accuracy is unknown here, so it is not recommended"
        )
    sound = rows.drop(otherwise(rows).index)
    for goal, loss in unmet(sound):
        print(f"{WORDS[goal]}, loss ≤ {loss:.0%}: no model is sure to keep within that")
    if len(found := advice(sound)):
        print(found.to_string(index=False))
