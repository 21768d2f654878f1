"""Which file do I deploy on this CPU? ``python -m modelcompression.recommend``

How right a compressed model is does not depend on the CPU, how fast it is does. So accuracy and size are
taken from the runs in the tracking store, and the runs' own files are timed here, in pairs with the
original model. What this CPU cannot execute, or whose file is out of reach, is named with the reason.
"""

from __future__ import annotations

import argparse
import re
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from tqdm import tqdm

from . import assets
from .accuracy import Interval, fit, prepared, to_batch
from .assets import AssetError
from .detector import Detector, DetectorError, LeanDetector, OnnxDetector, OpenVinoDetector, TorchDetector
from .goals import GOALS, winner
from .latency import cpu, time_pairs
from .tracking import TrackingError, artifacts, finished_runs, resolve_target

PAIRS = 15
RUNTIMES = {"OpenVINO": ".xml", "OpenVINO, lean graph": ".xml", "ONNX Runtime": ".onnx"}
WORDS = {"size_ratio": "smallest file", "speedup": "fastest", "both": "small and fast"}


class NothingToRecommend(RuntimeError):
    """There is no published file to choose from; the message says where files come from."""


def candidates(runs: pd.DataFrame) -> pd.DataFrame:
    """The latest run of each experiment that ships a file for a runtime, evaluated on COCO.

    Args:
        runs: as ``tracking.finished_runs`` returns them, oldest first.

    Returns:
        one row an experiment, its metrics under their own names.

    Raises:
        NothingToRecommend: there is none.
    """
    needed = {"tags.runtime", "tags.dataset", "metrics.map50_95_delta"}
    if needed <= set(runs):
        counts = runs["tags.runtime"].isin(RUNTIMES) & (runs["tags.dataset"] == "coco-val")
        runs = runs[counts & (runs.get("tags.smoke") != "true")].dropna(subset="metrics.map50_95_delta")
    else:
        runs = runs[:0]
    if runs.empty:
        raise NothingToRecommend(
            f"{resolve_target().description} holds no exported model: make run HW=hw5_export makes some"
        )
    return runs.drop_duplicates("experiment", keep="last").rename(
        columns=lambda c: c.removeprefix("metrics.")
    )


def load(run: pd.Series, files: list[Path], threads: int) -> Detector:
    """The detector of a run, as it was measured.

    Raises:
        DetectorError: the file is missing, or this CPU does not execute its precision.
    """
    suffix = RUNTIMES[run["tags.runtime"]]
    path = next((file for file in files if file.suffix == suffix), None)
    if path is None:
        raise DetectorError(f"its run has no {suffix} file")
    if suffix == ".onnx":
        return OnnxDetector(path, threads)
    kind = LeanDetector if run["tags.runtime"] == LeanDetector.runtime else OpenVinoDetector
    return kind(path, threads, precision=re.sub(r".*rest ", "", run["tags.execution_precision"]))


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
        detector = load(run, artifacts(run["run_id"], Path(folder)), original.threads)
        square = run.get("params.input_shape") != "rectangle"
        found = time_pairs(
            original, detector, batches(detector, int(run["params.input_size"]), square), PAIRS
        )
    return found.variant.median, found.speedup


def timed(runs: pd.DataFrame, original: Detector) -> tuple[pd.DataFrame, dict[str, str]]:
    """The candidates with the speeds of this CPU, and why others were left out."""
    rows, skipped = [], {}
    for _, run in tqdm(list(runs.iterrows()), "timing", unit="model", leave=False):
        try:
            ms, speedup = speed_here(run, original)
        except (DetectorError, TrackingError) as reason:
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
            limit = "within the noise" if loss is None else f"≤ {loss:.0%}"
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


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--threads", type=int, default=min(2, cpu().cores), help="threads of every runtime")
    threads = parser.parse_args(arguments).threads
    if not 1 <= threads <= cpu().cores:
        parser.error(f"--threads must be 1…{cpu().cores} on this machine, not {threads}")
    runs = candidates(finished_runs())
    print(f"{cpu()}; {threads} threads; {len(runs)} models of {resolve_target().description}")
    rows, skipped = timed(runs, TorchDetector(assets.weights(), threads))
    for experiment, reason in skipped.items():
        print(f"skipped: {experiment}: {reason}")
    if rows.empty:
        raise NothingToRecommend("no model could be timed here, see above")
    print(advice(rows).to_string(index=False))


if __name__ == "__main__":
    try:
        main()
    except (NothingToRecommend, AssetError, DetectorError, TrackingError) as error:
        sys.exit(f"error: {error}")
