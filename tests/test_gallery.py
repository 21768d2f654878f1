"""The gallery shows who won, as measured, on photographs that may be shown."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from modelcompression import ROOT, cards
from modelcompression.detector import DetectorError
from modelcompression.fetch import sha256
from modelcompression.goals import evidence, loss_limits
from modelcompression.measure.accuracy import evaluate
from modelcompression.tracking import history
from modelcompression.tracking.store import RunRecord
from modelcompression.tracking.tracker import Tracker

sys.path.insert(0, str(ROOT / "results"))

from gallery import DETECTED, Shown, chosen, draw, shown_of
from rows import BASELINE, GALLERY, ResultsError, headline, read_rows


@pytest.fixture
def row() -> pd.Series:
    """A compressed model of results.csv, but of a run that this store must first hold."""
    rows = read_rows(ROOT)
    return rows[rows["experiment"] != BASELINE].iloc[0].copy()


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, empty_database: Path) -> Path:
    """An empty local store."""
    monkeypatch.setenv("MC_STORE", str(tmp_path))
    shutil.copy(empty_database, tmp_path)
    return tmp_path


def log(row: pd.Series, *files: Path, runtime: str = "OpenVINO", executes: str = "f32") -> None:
    """Give the row a run with these artifacts."""
    tags = {"runtime": runtime, "execution_precision": executes}
    record = RunRecord("Any", {}, {"input_size": "320", "input_shape": "rectangle"}, tags, files)
    with Tracker("hw5_export", {}) as tracker:
        row["run_id"] = tracker.log(record)


def test_original_smallest_and_fastest_are_chosen_by_their_numbers() -> None:
    rows = read_rows(ROOT)
    original, *others = chosen(rows).values()
    assert original["experiment"] == BASELINE and others
    shown = evidence(headline(rows))
    fits = shown[loss_limits(shown) <= 0.03]
    titles = " ".join(list(chosen(rows))[1:])
    assert "smallest" in titles and "fastest" in titles
    assert min(row["size_mb"] for row in others) == fits["size_mb"].min()
    with pytest.raises(ResultsError, match="run a homework first"):
        chosen(rows[rows["experiment"] == BASELINE])


def test_a_model_comes_back_as_it_was_measured(store, row, exported, batch, eager) -> None:
    log(row, exported["fp32"], exported["fp32"].with_suffix(".bin"))
    shown = shown_of(row, history.finished_runs(), store)
    assert (shown.detector.runtime, shown.size, shown.square) == ("OpenVINO", 320, False)
    assert np.abs(shown.detector(batch) - eager(batch)).max() < 0.1


def test_a_model_to_take_home_stands_in_for_its_run(store, row, packed_int8, demo, monkeypatch) -> None:
    monkeypatch.setattr(cards, "ROOT", store)
    row["run_id"], row["runtime"] = "f" * 32, "OpenVINO, lean graph"
    facts = {"what": "", "sha256": "", "size": 1, "licence": "", "made": {}}
    (store / "models").mkdir()
    (store / "models/tiny.mcpk").write_bytes(packed_int8.read_bytes())
    (store / "models/tiny.json").write_text(json.dumps({"name": "tiny", **facts, "rows": [row.to_dict()]}))
    shown = shown_of(row, history.finished_runs(), store)
    assert (shown.detector.runtime, shown.size, shown.square) == ("OpenVINO, lean graph", 640, False)
    assert len(evaluate(shown.detector, demo.first(1), 320, False, False).detections[0])


def test_a_missing_run_or_a_pickle_is_one_clear_error(store, row, tmp_path) -> None:
    with pytest.raises(ResultsError, match="MC_STORE") as error:
        shown_of(row, history.finished_runs(), store)
    assert "\n" not in str(error.value)
    pickle = tmp_path / "model.pt"
    pickle.write_bytes(b"cos\nsystem\n")
    log(row, pickle)
    with pytest.raises(DetectorError, match=r"holds no \.mcpk, \.xml or \.onnx"):
        shown_of(row, history.finished_runs(), store)


def test_the_picture_is_drawn_and_the_committed_one_is_small(eager, tmp_path) -> None:
    path = tmp_path / "gallery.jpg"
    path.write_bytes(draw({"Original": Shown(eager), "Again": Shown(eager)}))
    with Image.open(path) as picture, Image.open(ROOT / GALLERY) as committed:
        assert picture.format == committed.format == "JPEG"
        assert picture.width > 600 and committed.width > 600
    assert (ROOT / GALLERY).stat().st_size <= 200_000


def test_the_readme_shows_what_the_model_of_the_repository_detects() -> None:
    model = cards.model_file(None)
    assert sha256(model).encode() in (ROOT / DETECTED).read_bytes()[:200]
    for name in ("README.md", "README.ru.md"):
        assert DETECTED in (ROOT / name).read_text(encoding="utf8")
