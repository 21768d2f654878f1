"""Two pictures of the README: what ``detect`` draws, and the gallery: what the original, the smallest and the
fastest model see on the same photographs.

    python results/gallery.py              # from the artifacts of the runs that results.csv names

The models are chosen by rule, not by name: see ``goals.winner``. The photographs are those on which they
differ most, of the demo photos that may be shown anywhere.
"""

from __future__ import annotations

import io
import tempfile
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from modelcompression import ROOT, assets, differences, subject
from modelcompression.cards import cards
from modelcompression.detect import Model
from modelcompression.detector import Detector, TorchDetector
from modelcompression.fetch import sha256
from modelcompression.files import replace
from modelcompression.goals import evidence, winner
from modelcompression.measure.accuracy import Evaluation, evaluate
from modelcompression.methods.lean import LeanDetector
from modelcompression.recommend import detector_of, view
from modelcompression.terminal import script
from modelcompression.tracking import history, targets
from rows import BASELINE, GALLERY, GALLERY_LOSS, ResultsError, headline, read_rows

PHOTOS = 2
DETECTED, PHOTO = "results/figures/detected.jpg", "coffee"


def chosen(rows: pd.DataFrame) -> dict[str, pd.Series]:
    """Title → row of each model that is shown: the original, the smallest, the fastest.

    Raises:
        ResultsError: results.csv has no compressed model yet.
    """
    shown = headline(rows)
    found = {}
    for word, gain in (("smallest", "size_ratio"), ("fastest", "speedup")):
        row = winner(evidence(shown), gain, GALLERY_LOSS)
        if row is None:
            raise ResultsError("results.csv names no smallest or fastest model yet: run a homework first")
        found.setdefault(row["experiment"], (row, []))[1].append(word)
    original = shown[shown["experiment"] == BASELINE].iloc[0]
    titles = {f"{BASELINE}\n{original['size_mb']:.2f} MB": original}
    for row, words in found.values():
        facts = f"{' and '.join(words)}: {row['size_mb']:.2f} MB, {row['speedup']:.1f}× the speed"
        titles[f"{textwrap.fill(row['experiment'], 36)}\n{facts}"] = row
    return titles


@dataclass(frozen=True)
class Shown:
    """A detector, and how it is shown photographs."""

    detector: Detector
    size: int = 640
    square: bool = True


def shown_of(row: pd.Series, runs: pd.DataFrame, folder: Path) -> Shown:
    """The model of a row, as it was measured, from the files of its run or from ``models/``.

    Args:
        runs: of the store, as ``history.finished_runs`` returns them.
        folder: where files may be fetched and unpacked.

    Raises:
        ResultsError: the run is not in the store, and no model to take home was measured by it.
        TrackingError, DetectorError: its files are not, or this CPU cannot execute them.
    """
    if row["experiment"] == BASELINE:
        return Shown(TorchDetector(subject.weights()))
    found = runs[runs["run_id"] == row["run_id"]]
    if found.empty:
        for card in cards():
            if card.default.get("run_id") == row["run_id"]:
                square = row["runtime"] != LeanDetector.runtime
                return Shown(Model(card.file, threads=2).detector, square=square)
        raise ResultsError(
            f"run {row['run_id']} is not in {targets.resolve_target().description}: draw the gallery where "
            "the run was made, or name its store in MC_STORE or MLFLOW_TRACKING_URI"
        )
    run, fetched = found.iloc[0], folder / row["run_id"]
    fetched.mkdir(parents=True)
    detector = detector_of(run, history.artifacts(row["run_id"], fetched), fetched / "unpacked")
    return Shown(detector, *view(run))


def draw(models: dict[str, Shown]) -> bytes:
    """JPEG: a row for each photograph, a column for each model, under its title; the original comes first."""
    demo = assets.image_set("demo")

    def seen(one: Shown) -> Evaluation:
        return evaluate(one.detector, demo, one.size, progress=False, square=one.square)

    original, *others = map(seen, models.values())
    columns = dict(zip(list(models)[1:], others, strict=True))
    return differences.picture(original, columns, subject.class_names(), PHOTOS).data


def detected() -> bytes:
    """JPEG: what ``modelcompression detect`` draws with its default model, signed with its hash."""
    model, picture = Model(), io.BytesIO()
    (photo,) = (sample.path for sample in assets.image_set("demo").samples if sample.path.stem == PHOTO)
    model.drawn(photo).save(picture, "jpeg", quality=85)
    return signed(picture.getvalue(), [sha256(model.path)])


def signed(jpeg: bytes, origins: list[str]) -> bytes:
    """The same picture with a comment (JPEG's COM segment, ITU-T T.81, B.2.4.5): runs, or a model's hash."""
    text = " ".join(origins).encode()
    return jpeg[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + jpeg[2:]


def main() -> None:
    """Choose, load, draw, write."""
    titles, runs = chosen(read_rows(ROOT)), history.finished_runs()
    with tempfile.TemporaryDirectory() as folder:
        image = draw({title: shown_of(row, runs, Path(folder)) for title, row in titles.items()})
    image = signed(image, [row["run_id"] for row in titles.values()])
    try:
        replace({ROOT / GALLERY: image, ROOT / DETECTED: detected()})
    except OSError as error:
        raise ResultsError(str(error)) from None
    print(f"{GALLERY}: {len(image) / 1000:.0f} kB, {'; '.join(row['experiment'] for row in titles.values())}")


if __name__ == "__main__":
    script(main)
