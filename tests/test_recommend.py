"""What ``modelcompression recommend`` takes into account, times and says."""

import pandas as pd
import pytest
from conftest import THREADS

from modelcompression import recommend
from modelcompression.detector import DetectorError, OnnxDetector, OpenVinoDetector, TorchDetector, load_yolo
from modelcompression.measure.footprint import shipped
from modelcompression.methods.lean import LeanDetector
from modelcompression.packed import checkpoint
from modelcompression.recommend import NothingToRecommend, candidates, detector_of
from modelcompression.tracking.history import finished_runs
from modelcompression.tracking.store import RunRecord
from modelcompression.tracking.tracker import Tracker

METRICS = {
    **{"map50_95_delta": -0.004, "map50_95_delta_lo": -0.02, "map50_95_delta_hi": 0.01},
    **{"size_mb": 6.0, "size_ratio": 1.0, "speedup": 99.0, "speedup_lo": 98.0, "speedup_hi": 100.0},
}
TAGS = {"dataset": "coco-val", "smoke": "false", "execution_precision": "f32"}
SQUARE = {"input_size": "320", "input_shape": "square"}


def log(experiment: str, runtime: str, files=(), params=SQUARE, **tags: str) -> None:
    tracker = Tracker("hw9_test")
    tagged = TAGS | {"runtime": runtime} | tags
    tracker.log(RunRecord(experiment, METRICS, dict(params), tagged, tuple(files)))
    tracker.finish()


def test_an_empty_store_says_how_to_fill_it() -> None:
    with pytest.raises(NothingToRecommend, match="make run HW=hw5_export"):
        recommend.recommend()


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
    line = next(line for line in said.splitlines() if "fastest" in line and "≤ 1%" in line)
    assert "Lean" in line and "-0.4 [-2.0, +1.0]" in line
    assert "99.00" not in said, "the logged speed-up belongs to another CPU"


def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(NothingToRecommend, match=r"threads must be 1…\d+ on this machine, not 9999"):
        recommend.recommend(9999)
