import copy

import pandas as pd
import pytest
import torch
from conftest import THREADS

from modelcompression import homework
from modelcompression.detector import DetectorError, OnnxDetector, TorchDetector
from modelcompression.fetch import sha256
from modelcompression.homework import Homework, ParameterError
from modelcompression.measure.footprint import shipped
from modelcompression.methods.lean import LeanDetector
from modelcompression.tracking import history


@pytest.fixture
def demo_only(monkeypatch, demo, tmp_path):
    """Every homework in this module runs on the demo photos and writes into its own folder."""
    monkeypatch.setattr(homework, "report_and_calibration", lambda n: (demo.first(n or len(demo)), demo))
    monkeypatch.setattr(homework, "ROOT", tmp_path)


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"smoke": "yes"}, "SMOKE must be True or False"),
        ({"n_images": 0}, "N_IMAGES must be None or a whole number"),
        ({"n_images": 2.5}, "N_IMAGES"),
        ({"n_images": 5001}, "N_IMAGES"),
        ({"n_images": True}, "N_IMAGES"),
        ({"threads": 0}, "THREADS must be 1"),
        ({"threads": 1000}, "THREADS must be 1"),
        ({"threads": "2"}, "THREADS must be a whole number"),
        ({"name": "../elsewhere"}, "not named like"),
    ],
)
def test_a_wrong_parameter_is_one_clear_error_before_any_work(wrong, says, demo_only) -> None:
    with pytest.raises(ParameterError, match=says) as error:
        Homework(**({"name": "hw9_test"} | wrong))
    assert "\n" not in str(error.value)


def test_the_baseline_comes_first_and_threads_must_match(demo_only, eager, exported) -> None:
    hw = Homework("hw9_test", smoke=True, threads=THREADS)
    with pytest.raises(ParameterError, match="measure 'Original model' first"):
        hw.measure("ONNX", eager, ships=[exported["onnx"]])
    other = TorchDetector(eager.model, THREADS)
    other.threads = THREADS + 1
    with pytest.raises(ParameterError, match="same number"):
        hw.measure("Original model", other, ships=[exported["onnx"]])


def test_measure_logs_everything_a_row_needs(demo_only, eager, weights, tmp_path) -> None:
    hw = Homework("hw9_test", smoke=True, threads=THREADS)
    hw.measure("Original model", eager, ships=[weights])
    channels_last = TorchDetector(weights, THREADS, channels_last=True)
    found = hw.measure("Another layout", channels_last, ships=[weights], params={"layout": "NHWC"})
    assert len(repr(found)) < 2_000  # a notebook may end a cell with it
    hw.measure("Not for the table", channels_last, ships=[weights], log=False)
    hw.finish()

    runs = history.finished_runs().set_index("experiment")
    assert sorted(runs.index) == ["Another layout", "Original model"]
    row = runs.loc["Another layout"]
    for key, value in found.metrics.items():
        assert row[f"metrics.{key}"] == pytest.approx(value), key
    assert row["tags.dataset"] == "demo" and row["tags.smoke"] == "true"
    assert row["tags.execution_precision"] == "f32" and row["tags.threads"] == str(THREADS)
    assert row["params.layout"] == "NHWC"
    assert abs(row["metrics.map50_95_delta"]) < 0.05
    assert row["metrics.map50_95_delta_lo"] <= row["metrics.map50_95_delta_hi"]
    assert row["metrics.size_ratio"] == 1
    reference = runs.loc["Original model"]
    assert pd.isna(reference["metrics.speedup"]) and pd.isna(reference["metrics.map50_95_delta"])
    assert list(hw.table().index) == ["Original model", "Another layout", "Not for the table"]


def test_a_fast_model_is_timed_from_jpeg_to_boxes_a_slow_one_is_not(
    demo_only, eager, weights, exported
) -> None:
    hw = Homework("hw9_test", smoke=True, threads=THREADS)
    hw.measure("Original model", eager, ships=[weights], log=False)
    files = shipped(exported["fp32"])
    lean = LeanDetector(exported["fp32"], THREADS)
    fast = hw.measure("Fast", lean, ships=files, size=160, square=False).metrics
    slow = hw.measure("Slow", eager, ships=[weights]).metrics
    hw.finish()
    assert fast["speedup"] > 1.3 and not any("pipeline" in key for key in slow)
    assert fast["pipeline_speedup_lo"] <= fast["pipeline_speedup"] <= fast["pipeline_speedup_hi"]
    assert fast["latency_ms"] < fast["pipeline_ms"] < fast["baseline_pipeline_ms"]
    assert fast["agreement"] < 0.9 < slow["agreement"] <= 1
    row = history.finished_runs().set_index("experiment").loc["Fast"]
    assert row["metrics.pipeline_ms"] == fast["pipeline_ms"]
    assert row["params.sha256"] == ", ".join(f"{path.name} {sha256(path)}" for path in files)


def test_a_worse_model_is_reported_as_worse(demo_only, eager, weights) -> None:
    hw = Homework("hw9_test", smoke=True, threads=THREADS)
    hw.measure("Original model", eager, ships=[weights], log=False)
    damaged = copy.deepcopy(eager.model)
    for module in damaged.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.weight.data[module.weight.abs() < 0.4 * module.weight.std()] = 0
    found = hw.measure("Damaged", TorchDetector(damaged, THREADS), ships=[weights], log=False)
    assert found.metrics["map50_95_delta"] < -0.05
    (line,) = hw.summary().data.splitlines()
    size, lost = found.metrics["size_mb"], found.metrics["map50_95_delta"]
    assert line.startswith(f"- **Damaged**: {size:.2f} MB, mAP50-95 {lost:.1%} [")


def test_a_model_of_another_input_size_is_refused(demo_only, eager, weights, exported) -> None:
    hw = Homework("hw9_test", smoke=True, threads=THREADS)
    hw.measure("Original model", eager, ships=[weights], log=False)
    with pytest.raises(DetectorError, match="640"):
        hw.measure("ONNX", OnnxDetector(exported["onnx"], THREADS), ships=[exported["onnx"]])
