"""The gallery: what the original, the smallest and the fastest model see on the same photographs.

    python results/gallery.py              # from the artifacts of the runs that results.csv names

The models are chosen by rule, not by name: see ``goals.winner``. The photographs are those demo photos that
may be shown anywhere: public domain or CC0.
"""

from __future__ import annotations

import os
import sys
import tempfile
import textwrap
from pathlib import Path

import pandas as pd
from mlflow.artifacts import download_artifacts
from mlflow.exceptions import MlflowException

from modelcompression import ROOT, assets, figures, packing, tracking
from modelcompression.accuracy import evaluate
from modelcompression.detector import (
    Detector,
    DetectorError,
    OnnxDetector,
    OpenVinoDetector,
    TorchDetector,
)
from rows import BASELINE, GALLERY, GALLERY_LOSS, ResultsError, headline, read_rows

PHOTOS = ("astronaut", "chelsea", "coffee", "grace_hopper")
COLUMN, DPI, QUALITY = 2.6, 140, 70  # inches, dots an inch, JPEG quality: less than 200 kB together


def chosen(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Title → row of each model that is shown: the original, the smallest, the fastest.

    Raises:
        ResultsError: results.csv has no compressed model yet.
    """
    shown = headline(rows)
    found = {}
    for word, gain in (("smallest", "size_ratio"), ("fastest", "speedup")):
        row = winner(shown, gain, GALLERY_LOSS)
        if row is None:
            raise ResultsError("results.csv names no smallest or fastest model yet: run a homework first")
        found.setdefault(row["experiment"], (row, []))[1].append(word)
    original = shown[shown["experiment"] == BASELINE].iloc[0]
    titles = {f"{BASELINE}\n{original['size_mb']:.2f} MB": original}
    for row, words in found.values():
        facts = f"{' and '.join(words)}: {row['size_mb']:.2f} MB, {row['speedup']:.1f}× the speed"
        titles[f"{textwrap.fill(row['experiment'], 36)}\n{facts}"] = row
    return titles


def detector_of(row: pd.Series, folder: Path) -> Detector:
    """The model of a row, as it was measured, from the files of its run.

    Args:
        folder: where a packed checkpoint may be unpacked.

    Raises:
        ResultsError: the run, or a file that could be loaded, is not in the store.
        DetectorError: this CPU cannot execute it, or it is no detector.
    """
    if row["experiment"] == BASELINE:
        return TorchDetector(assets.weights())
    files = {path.suffix: path for path in artifacts(row["run_id"]).iterdir()}
    is_openvino = row["runtime"].startswith("OpenVINO")
    precision = row["execution_precision"].split()[-1]
    if packed := files.get(".mcpk"):
        if is_openvino:
            stored = "int8" if row["execution_precision"].startswith("int8") else "f32"
            return OpenVinoDetector(packing.to_openvino(packed, folder, stored), precision=precision)
        return TorchDetector(packing.load(packed).model)
    graph = files.get(".xml") or files.get(".onnx")
    if not graph:  # a .pt is a pickle: only the original's is known by its sha256
        raise ResultsError(f"the run of {row['experiment']} holds no .mcpk, .xml or .onnx to draw it from")
    return OpenVinoDetector(graph, precision=precision) if is_openvino else OnnxDetector(graph)


def artifacts(run_id: str) -> Path:
    """The folder with a run's files: of the local store, or downloaded from the tracking server.

    Raises:
        ResultsError: neither has the run.
    """
    folder = tracking.local_target().database.parent / "mlartifacts" / run_id / "artifacts"
    if folder.is_dir():
        return folder
    target = tracking.resolve_target()
    try:
        if not target.is_local:
            return Path(download_artifacts(run_id=run_id, tracking_uri=target.uri))
    except (MlflowException, OSError) as error:
        print(f"warning: {target.description}: {error}", file=sys.stderr)
    raise ResultsError(
        f"run {run_id} is not in {target.description}: draw the gallery where the run was made, "
        "or name its store in MC_STORE or MLFLOW_TRACKING_URI"
    )


def draw(detectors: dict[str, Detector]) -> bytes:
    """JPEG: a row for each photograph, a column for each detector.

    Args:
        detectors: title of the column → detector.
    """
    demo = assets.image_set("demo")
    photos = tuple(sample for sample in demo.samples if sample.path.stem in PHOTOS)
    images = assets.ImageSet(demo.name, photos)
    found = {title: evaluate(one, images, progress=False).detections for title, one in detectors.items()}
    return figures.as_jpeg(figures.detections_grid(photos, found, COLUMN), QUALITY, DPI).data


def main() -> None:
    """Choose, load, draw, write."""
    with tempfile.TemporaryDirectory() as folder:
        titles = chosen(read_rows(ROOT))
        models = {title: detector_of(row, Path(folder) / row["run_id"]) for title, row in titles.items()}
        image = draw(models)
    path = ROOT / GALLERY
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".new")
    aside.write_bytes(image)
    os.replace(aside, path)
    print(f"{GALLERY}: {len(image) / 1000:.0f} kB, {'; '.join(row['experiment'] for row in titles.values())}")


if __name__ == "__main__":
    try:
        main()
    except (ResultsError, DetectorError, packing.PackedCheckpointError, tracking.TrackingError) as error:
        sys.exit(f"error: {error}")
