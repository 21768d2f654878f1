"""What ``modelcompression recommend`` takes into account, times and says."""

import json

import numpy as np
import pandas as pd
import pytest
from conftest import THREADS

from modelcompression import assets, cards, recommend, shipped_models
from modelcompression.detector import DetectorError, OnnxDetector, OpenVinoDetector, TorchDetector, load_yolo
from modelcompression.measure.agreement import agreement, as_truth
from modelcompression.measure.footprint import shipped
from modelcompression.methods.lean import LeanDetector
from modelcompression.packed import checkpoint
from modelcompression.recommend import NothingToRecommend, candidates, detector_of
from modelcompression.shipped_models import NothingToTake
from modelcompression.tracking.history import finished_runs
from modelcompression.tracking.store import RunRecord
from modelcompression.tracking.tracker import Tracker

METRICS = {
    **{"map50_95_delta": -0.004, "map50_95_delta_lo": -0.02, "map50_95_delta_hi": 0.01},
    **{"size_mb": 6.0, "size_ratio": 1.0, "speedup": 99.0, "speedup_lo": 98.0, "speedup_hi": 100.0},
}
TAGS = {"dataset": "coco-val", "smoke": "false", "execution_precision": "f32"}
SQUARE = {"input_size": "320", "input_shape": "square"}


def log(experiment: str, runtime: str, files=(), params=SQUARE, agreement=None, **tags: str) -> None:
    tracker = Tracker("hw9_test")
    tagged = TAGS | {"runtime": runtime} | tags
    metrics = METRICS if agreement is None else {**METRICS, "agreement": agreement}
    tracker.log(RunRecord(experiment, metrics, dict(params), tagged, tuple(files)))
    tracker.finish()


@pytest.fixture
def empty_store(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MC_STORE", str(tmp_path / "empty"))


def test_a_store_without_a_counting_run_is_as_good_as_none(empty_store, monkeypatch) -> None:
    log("Smoke", "OpenVINO", smoke="true")
    asked = []
    monkeypatch.setattr(recommend, "recommend_shipped", asked.append)
    recommend.recommend(THREADS)
    assert asked == [THREADS]


def test_without_any_run_the_shipped_models_are_timed(
    empty_store, packed_int8, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(cards, "ROOT", tmp_path)
    monkeypatch.setattr(shipped_models, "PAIRS", 2)
    monkeypatch.setattr(shipped_models, "INPUT_SIZE", 320)
    monkeypatch.setattr(shipped_models, "EXPORTS", {})
    with pytest.raises(NothingToTake, match="make run"):
        recommend.recommend(THREADS)
    row = {"map50_95_delta": -0.01, "map50_95_delta_lo": -0.02, "map50_95_delta_hi": 0.0}
    facts = {"what": "", "sha256": "", "size": 2**20, "licence": "", "made": {}}
    (tmp_path / "models").mkdir()
    (tmp_path / "models/tiny.mcpk").write_bytes(packed_int8.read_bytes())
    (tmp_path / "models/tiny.json").write_text(json.dumps({"name": "tiny", **facts, "rows": [row]}))
    recommend.recommend(THREADS)
    *_, header, line, best, command = capsys.readouterr().out.strip().splitlines()
    assert "JPEG to boxes" in header and "tiny 1.00 -1.0 [-2.0, +0.0]" in " ".join(line.split())
    fastest = "tiny" if float(line.split()[-3]) > 1 else "the original, eager PyTorch"
    assert best == f"fastest from JPEG to boxes: {fastest}; to have it:"
    assert (
        fastest != "tiny" or command == f"modelcompression detect photo.jpg --model tiny --threads {THREADS}"
    )


def test_what_ultralytics_exports_is_timed_by_its_own_graph(tmp_path) -> None:
    (half,) = shipped_models._exported_by_ultralytics(tmp_path, THREADS, {"half": {"half": True}})
    assert 6 < half.megabytes < 6.6 and half.command.endswith("format=openvino half=True")
    (jpeg,) = (
        np.fromfile(s.path, np.uint8) for s in assets.image_set("demo").samples if s.path.stem == "bus"
    )
    assert len(half.boxes(jpeg)) >= 4


def test_only_full_runs_with_a_file_for_a_runtime_count() -> None:
    log("Kept", "OpenVINO", threads="1")
    log("Kept", "OpenVINO", threads="2")
    log("Smoke", "OpenVINO", smoke="true")
    log("Demo photos", "OpenVINO", dataset="demo")
    found = candidates(finished_runs())
    assert found["experiment"].tolist() == ["Kept"]
    assert found["tags.threads"].tolist() == ["2"], "the latest"
    assert found["size_mb"].tolist() == [6.0]


@pytest.mark.parametrize(
    ("runtime", "key", "kind"),
    [
        ("OpenVINO", "fp32", OpenVinoDetector),
        ("OpenVINO, lean graph", "fp32", LeanDetector),
        ("ONNX Runtime", "onnx", OnnxDetector),
    ],
)
def test_a_run_is_loaded_as_it_was_measured(exported, tmp_path, runtime: str, key: str, kind: type) -> None:
    run = pd.Series({"tags.runtime": runtime, "tags.execution_precision": "int8, rest f32"})
    assert type(detector_of(run, shipped(exported[key]), tmp_path, THREADS)) is kind


def test_a_packed_checkpoint_is_loaded_by_its_runtime(weights, tmp_path) -> None:
    file = checkpoint.save(tmp_path / "any.mcpk", load_yolo(weights), {})
    for runtime, kind in (("PyTorch", TorchDetector), ("OpenVINO", OpenVinoDetector)):
        run = pd.Series({"tags.runtime": runtime, "tags.execution_precision": "f32"})
        assert type(detector_of(run, [file], tmp_path / runtime, THREADS)) is kind


def test_what_cannot_run_here_says_why(exported, tmp_path) -> None:
    run = pd.Series({"tags.runtime": "OpenVINO", "tags.execution_precision": "int8, rest f8"})
    with pytest.raises(DetectorError, match="does not execute f8"):
        detector_of(run, shipped(exported["fp32"]), tmp_path, THREADS)
    with pytest.raises(DetectorError, match=r"holds no \.mcpk, \.xml or \.onnx"):
        detector_of(run, [tmp_path / "model.pt"], tmp_path, THREADS)


def test_another_network_is_no_candidate(exported, tmp_path) -> None:
    run = pd.Series(
        {
            "tags.runtime": "OpenVINO",
            "tags.execution_precision": "f32",
            "params.network": "NanoDet-Plus-m",
        }
    )
    with pytest.raises(DetectorError, match="another network, NanoDet-Plus-m"):
        detector_of(run, shipped(exported["fp32"]), tmp_path, THREADS)
    run["params.network"] = float("nan")  # what a run without that parameter has in a table with others
    assert type(detector_of(run, shipped(exported["fp32"]), tmp_path, THREADS)) is OpenVinoDetector


def test_the_files_are_timed_on_this_cpu(exported, capsys, monkeypatch) -> None:
    monkeypatch.setattr(recommend, "PAIRS", 3)
    log("Lean", "OpenVINO, lean graph", shipped(exported["fp32"]), {**SQUARE, "input_shape": "rectangle"})
    log("Lost", "OpenVINO")
    recommend.recommend(THREADS)
    said = capsys.readouterr().out
    assert "skipped: Lost: its run holds no .mcpk, .xml or .onnx" in said
    line = next(line for line in said.splitlines() if "fastest" in line and "≤ 3%" in line)
    assert "Lean" in line and "-0.4 [-2.0, +1.0]" in line
    assert "99.00" not in said, "the logged speed-up belongs to another CPU"


def test_a_model_that_detects_otherwise_here_is_named_and_not_recommended(
    exported, demo_report, capsys, monkeypatch
) -> None:
    """As packed files did whose sums saturate on CPUs without VNNI."""
    monkeypatch.setattr(recommend, "PAIRS", 3)
    logged = agreement(OpenVinoDetector(exported["fp32"], THREADS), as_truth(demo_report), 320)
    log("Same here", "OpenVINO", shipped(exported["fp32"]), agreement=logged)
    log("Other here", "OpenVINO", shipped(exported["fp32"]), agreement=logged + 0.1)
    recommend.recommend(THREADS)
    said = capsys.readouterr().out
    assert f"warning: Other here detects otherwise on this CPU: it agrees to {logged:.3f}" in said
    assert "warning: Same here" not in said
    assert not any("Other here" in line for line in said.splitlines() if line.lstrip().startswith("fastest"))


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(NothingToRecommend, match=r"threads must be 1…\d+ on this machine, not 9999"):
        recommend.recommend(9999)
