import copy
import os
import re
import subprocess
import sys

import numpy as np
import onnx
import pandas as pd
import pytest
import torch
from conftest import THREADS

from modelcompression import ROOT, homework
from modelcompression.detector import DetectorError, OnnxDetector, TorchDetector
from modelcompression.errors import ModelCompressionError
from modelcompression.fetch import sha256
from modelcompression.files import FolderError
from modelcompression.homework import Homework, ParameterError
from modelcompression.measure import accuracy
from modelcompression.measure.footprint import shipped
from modelcompression.measure.intervals import Interval
from modelcompression.measure.latency import Comparison, Timing
from modelcompression.measurement import Measurement
from modelcompression.methods.lean import LeanDetector
from modelcompression.parameters import require_integer, require_number, require_numbers
from modelcompression.tracking import history

sys.path.insert(0, str(ROOT / "results"))

from rows import METRICS


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


@pytest.mark.parametrize("wrong", [0, 13, 2.0, True, "2", None])
def test_a_wrong_whole_number_is_named(wrong: object) -> None:
    require_integer(1, 12, STEPS=1, PHOTOGRAPHS=12)
    with pytest.raises(ParameterError, match=re.escape(f"STEPS must be a whole number 1…12, not {wrong!r}")):
        require_integer(1, 12, PHOTOGRAPHS=3, STEPS=wrong)


@pytest.mark.parametrize("wrong", [0.4, 1.01, float("nan"), True, "0.6", None, [0.6]])
def test_a_wrong_number_is_named(wrong: object) -> None:
    require_number(0.5, 1, SHARE=0.5, OTHER=1)
    with pytest.raises(ParameterError, match=re.escape(f"SHARE must be a number 0.5…1, not {wrong!r}")):
        require_number(0.5, 1, SHARE=wrong)


@pytest.mark.parametrize(("wrong", "says"), [([], "[]"), (3, "3"), ([3, 9], "9"), ([3, "4"], "'4'")])
def test_a_wrong_list_of_numbers_is_named(wrong: object, says: str) -> None:
    require_numbers(2, 8, BITS=[2, 3.5, 8])
    with pytest.raises(ParameterError, match=rf"BITS must be .*number.* 2…8, not {re.escape(says)}$"):
        require_numbers(2, 8, BITS=wrong)


def test_the_baseline_comes_first_and_threads_must_match(demo_only, eager, exported) -> None:
    hw = Homework("hw9_test", smoke=True, threads=THREADS)
    with pytest.raises(ParameterError, match="measure 'Original model' first"):
        hw.measure("ONNX", eager, ships=[exported["onnx"]])
    other = TorchDetector(eager.model, THREADS)
    other.threads = THREADS + 1
    with pytest.raises(ParameterError, match="same number"):
        hw.measure("Original model", other, ships=[exported["onnx"]])


def test_no_more_threads_than_the_process_may_use(tmp_path) -> None:
    """As under ``taskset -c 0``."""
    code = "from modelcompression.homework import Homework; Homework('hw9_test', smoke=True, threads=2)"
    limited = f"import os; os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})\n{code}"
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MC_STORE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", limited], env=environment, capture_output=True, text=True)
    assert "ParameterError: THREADS must be 1…1, the cores that this process may use, not 2" in done.stderr
    assert os.listdir(tmp_path) == []


def test_without_git_a_run_goes_on(demo_only, eager, weights, monkeypatch, capsys, tmp_path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    hw = Homework("hw9_git", smoke=True, threads=THREADS)
    assert "commit    unknown: this is no git checkout, or there is no git" in capsys.readouterr().out
    hw.measure("Original model", eager, ships=[weights])
    hw.finish()
    runs = history.finished_runs()
    assert set(runs[runs["tags.homework"] == "hw9_git"]["tags.git_commit"]) == {""}


def test_two_runs_of_a_homework_have_a_folder_each(demo_only, tmp_path, capsys) -> None:
    first = Homework("hw9_test", smoke=True, threads=THREADS)
    assert Homework("hw9_test", smoke=True, threads=THREADS).folder == first.folder  # the cell is run again
    assert "another process" not in capsys.readouterr().out
    code = f"""
from pathlib import Path
from modelcompression.files import own_folder
folder, lock = own_folder(Path({str(first.folder)!r}))
input(folder)"""
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    pipes = dict.fromkeys(("stdin", "stdout"), subprocess.PIPE)
    command = [sys.executable, "-u", "-c", code]
    others = [subprocess.Popen(command, env=environment, text=True, **pipes) for _ in range(2)]
    said = [other.stdout.readline() for other in others]
    assert all("another process uses" in line for line in said)
    found = sorted(path.name for path in first.folder.parent.iterdir())
    assert found == ["hw9_test", "hw9_test-2", "hw9_test-3"]
    others[0].kill()
    others[0].wait()
    again = subprocess.run(command, env=environment, input="\n", capture_output=True, text=True)
    assert again.stdout.split(": another")[0] == said[0].split(": another")[0]  # a dead process holds nothing
    others[1].communicate("\n")


def test_a_folder_that_cannot_be_written_is_one_clear_error(demo_only, tmp_path) -> None:
    (tmp_path / "build").write_text("a file in the way")
    with pytest.raises(FolderError, match=r"build/hw9_test cannot be written .*writable") as error:
        Homework("hw9_test", smoke=True, threads=THREADS)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("which", ["the repository", "MC_ASSETS"])
def test_a_path_that_ultralytics_misreads_is_refused(which, demo_only, tmp_path, monkeypatch) -> None:
    (tmp_path / "o'neil").mkdir()
    if which == "MC_ASSETS":
        monkeypatch.setenv("MC_ASSETS", str(tmp_path / "o'neil"))
    else:
        monkeypatch.setattr(homework, "ROOT", tmp_path / "o'neil")
    with pytest.raises(FolderError, match="apostrophes"):
        Homework("hw9_test", smoke=True, threads=THREADS)
    assert not (tmp_path / "build").exists() and os.listdir(tmp_path / "o'neil") == []


def test_what_ships_is_what_is_logged(demo_only, eager, weights, exported, tmp_path) -> None:
    hw = Homework("hw9_ships", smoke=True, threads=THREADS)
    hw.measure("Original model", eager, ships=[weights], log=False)
    file = tmp_path / "external.onnx"
    model = onnx.load(exported["onnx"])
    onnx.save_model(model, file, save_as_external_data=True, location="external.data", size_threshold=1024)
    hw.measure("External", eager, ships=[file])
    runs = history.finished_runs().set_index("experiment")
    names = {path.name for path in history.artifacts(runs.loc["External", "run_id"], tmp_path)}
    assert names == {"external.onnx", "external.data", "per_class.csv", "precision_recall.svg"}
    assert runs.loc["External", "metrics.size_mb"] == pytest.approx(12.1, abs=0.1)
    (tmp_path / "external.data").write_bytes(b"cut off")
    for ships in ([file], [tmp_path / "none.onnx"], [exported["fp32"].with_suffix(".bin")], [tmp_path]):
        with pytest.raises(ModelCompressionError):
            hw.measure("Not all there", eager, ships=ships)
    assert "Not all there" not in hw.measurements


def test_measure_logs_everything_a_row_needs(demo_only, eager, weights, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("MC_STORE", str(tmp_path))
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
    later = ("confirmed_", "coco128_", "pipeline_", "baseline_pipeline_")  # or on COCO, or if it is fast
    wanted = {f"metrics.{name}" for name in METRICS if not name.startswith(later)}
    assert wanted <= set(row.dropna().index)
    report = accuracy.evaluate(channels_last, hw.images, hw.size, progress=False)
    for key in ("precision", "recall", "map50", "map50_95"):
        assert row[f"metrics.{key}"] == pytest.approx(getattr(report, key)), key
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
    demo_only, eager, weights, exported, monkeypatch
) -> None:
    def forward(baseline, variant, batches, pairs) -> Comparison:
        ratio = 1.3 if variant.runtime == LeanDetector.runtime else 1.29
        times = (Timing(np.full(pairs, ms)) for ms in (10 * ratio, 10))
        return Comparison(*times, Interval(ratio, ratio, ratio))

    monkeypatch.setattr(homework, "time_pairs", forward)
    hw = Homework("hw9_test", smoke=True, threads=THREADS)
    hw.measure("Original model", eager, ships=[weights], log=False)
    files = shipped(exported["fp32"])
    lean = LeanDetector(exported["fp32"], THREADS)
    fast = hw.measure("Fast", lean, ships=files, size=160, square=False).metrics
    slow = hw.measure("Slow", eager, ships=[weights]).metrics
    hw.finish()
    assert not any("pipeline" in key for key in slow)
    assert 0 < fast["pipeline_speedup_lo"] <= fast["pipeline_speedup"] <= fast["pipeline_speedup_hi"]
    assert fast["pipeline_ms"] > 0 and fast["baseline_pipeline_ms"] > 0
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


def test_a_study_that_measures_nothing_ends_as_well(demo_only, weights, capsys) -> None:
    hw = Homework("hw9_test", smoke=True, threads=THREADS, weights=weights)
    hw.finish()
    assert hw.own and "Logged to" in capsys.readouterr().out


def test_a_campaign_looks_with_the_original_once(demo_only, eager, weights, monkeypatch) -> None:
    looked = []

    def evaluate(detector, images, *args, **kwargs):
        looked.append(images.name)
        return accuracy.evaluate(detector, images, *args, **kwargs)

    monkeypatch.setattr(homework, "evaluate", evaluate)

    def original(name: str) -> Measurement:
        hw = Homework(name, smoke=True, threads=THREADS)
        return hw.measure("Original model", eager, ships=[weights], log=False)

    alone = original("hw7_test")
    monkeypatch.setenv("MC_CAMPAIGN", "c0ffee, CPU, AVX2")
    first = original("hw8_test")
    looked.clear()
    again = original("hw9_test")
    assert looked == ["demo"], "only at what is shown"
    assert again.report.map50_95 == first.report.map50_95 == alone.report.map50_95
    monkeypatch.setenv("MC_CAMPAIGN", "decaf, CPU, AVX2")
    original("hw9_test")
    assert len(looked) == 1 + 3


def test_a_model_of_another_input_size_is_refused(demo_only, eager, weights, exported, monkeypatch) -> None:
    monkeypatch.setattr(homework, "SMOKE_SIZE", 640)
    hw = Homework("hw9_test", smoke=True, threads=THREADS)
    hw.measure("Original model", eager, ships=[weights], log=False)
    with pytest.raises(DetectorError, match="640"):
        hw.measure("ONNX", OnnxDetector(exported["onnx"], THREADS), ships=[exported["onnx"]])
