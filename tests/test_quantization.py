"""The published numbers against their references, and the INT8 methods of homework 2 in small."""

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import openvino
import pytest
from conftest import THREADS

from modelcompression import ROOT, assets
from modelcompression.detector import Detector, OnnxDetector, OpenVinoDetector
from modelcompression.images import letterbox, to_batch
from modelcompression.machine import cpu
from modelcompression.measure import accuracy, agreement, footprint
from modelcompression.methods import qdq, quantization

SIZE, CALIBRATION_IMAGES, JUDGED_IMAGES = 320, 8, 24
HEAD_END = [quantization.float_end(), r"^/model\.22/cv[23]\.\d/cv[23]\.\d\.2/"]


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


REFERENCES = rows_of(Path(__file__).with_name("reference_metrics.csv"))


@pytest.fixture(scope="module")
def calibration() -> assets.ImageSet:
    """A few images of coco128 where it can be had without a download, else the demo photos."""
    images = assets.image_set("coco128" if os.environ.get("MC_ASSETS") else "demo")
    return images.first(CALIBRATION_IMAGES)


@pytest.fixture(scope="module")
def photographs(calibration) -> list[np.ndarray]:
    """(1, 3, 320, 320) each."""
    paths = [sample.path for sample in calibration.samples]
    return [to_batch(letterbox(path, SIZE)[0]) for path in paths]


@pytest.fixture(scope="module")
def openvino_int8(exported, calibration, tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("int8") / "int8.xml"
    openvino.save_model(quantization.int8(openvino.Core().read_model(exported["fp32"]), calibration), file)
    return file


@pytest.fixture(scope="module")
def prepared(exported, tmp_path_factory) -> Path:
    return qdq.prepared_for_qdq(exported["onnx"], tmp_path_factory.mktemp("qdq") / "prepared.onnx")


@pytest.fixture(scope="module")
def onnx_int8(prepared, photographs) -> Path:
    target = prepared.with_name("int8.onnx")
    return qdq.static_int8(prepared, target, photographs, qdq.nodes_like(prepared, HEAD_END))


@pytest.fixture(scope="module")
def truth(exported, report_set) -> assets.ImageSet:
    """Photographs annotated with what the float32 model finds on them."""
    images = report_set.first(JUDGED_IMAGES)
    detector = OpenVinoDetector(exported["fp32"], THREADS)
    return agreement.as_truth(accuracy.evaluate(detector, images, SIZE, progress=False))


def agrees(detector: Detector, truth: assets.ImageSet) -> float:
    return agreement.agreement(detector, truth, SIZE)


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda r: f"{r['experiment']}: {r['metric']}")
def test_published_rows_stay_within_tolerance_of_the_reference(reference) -> None:
    rows = [r for r in rows_of(ROOT / "results/results.csv") if r["experiment"] == reference["experiment"]]
    if not rows:
        pytest.skip("not published yet")
    expected, tolerance = float(reference["value"]), float(reference["tolerance"])
    for row in rows:
        measured = float(row[reference["metric"]])
        assert measured == pytest.approx(expected, abs=tolerance), f"{row['cpu']} ({row['isa']})"


def test_references_name_the_cpu_they_come_from() -> None:
    assert all(row["cpu"] and row["isa"] for row in REFERENCES)


def test_int8_in_openvino_detects_what_float32_does(openvino_int8, truth) -> None:
    detector = OpenVinoDetector(openvino_int8, THREADS)
    assert detector.execution_precision == "int8, rest f32"
    assert agrees(detector, truth) > 0.85


def test_what_is_named_stays_in_float_and_biases_only_change_if_corrected(exported, calibration) -> None:
    def inputs_quantized(graph: openvino.Model) -> set[str]:
        """Convolutions whose activations pass through a quantizer."""
        found = (op for op in graph.get_ops() if op.get_type_name() == "Convolution")
        return {
            op.get_friendly_name()
            for op in found
            if op.input_value(0).get_node().get_type_name() == "FakeQuantize"
        }

    def biases(graph: openvino.Model) -> list[np.ndarray]:
        adds = (op for op in graph.get_ordered_ops() if op.get_type_name() == "Add")
        constants = (op.input_value(1).get_node() for op in adds)
        return [op.data for op in constants if op.get_type_name() == "Constant"]

    read, few = openvino.Core().read_model, calibration.first(2)
    plain = quantization.int8(read(exported["fp32"]), few, also_float="^/model.0/", bias_correction=False)
    corrected = quantization.int8(read(exported["fp32"]), few)
    left = inputs_quantized(corrected) - inputs_quantized(plain)
    assert len(left) == 1 and left.pop().startswith("/model.0/")
    assert not any("dfl" in name for name in inputs_quantized(corrected))
    original = biases(read(exported["fp32"]))
    assert all(np.array_equal(a, b) for a, b in zip(original, biases(plain), strict=True))
    assert any(not np.array_equal(a, b) for a, b in zip(original, biases(corrected), strict=True))


def test_int8_in_onnx_runtime_detects_what_float32_does(onnx_int8, truth) -> None:
    detector = OnnxDetector(onnx_int8, THREADS)
    assert detector.execution_precision == "int8, rest f32"
    assert agrees(detector, truth) > 0.85


def test_exact_sums_change_no_output_where_the_cpu_does_not_saturate(onnx_int8, photographs) -> None:
    if cpu().saturates:  # asking takes a second, and is not for every process that collects this
        pytest.skip("without VNNI the fast sums of ONNX Runtime are other sums")
    fast, exact = (OnnxDetector(onnx_int8, THREADS, exact=wish) for wish in (False, True))
    for batch in photographs[:3]:
        assert np.array_equal(fast(batch), exact(batch))


def test_one_scale_for_boxes_and_scores_wipes_out_the_scores(prepared, photographs, tmp_path) -> None:
    file = qdq.static_int8(prepared, tmp_path / "whole.onnx", photographs[:2])
    whole = OnnxDetector(file, THREADS)
    scores = whole(photographs[0])[:, 4:]
    assert len(np.unique(scores)) <= 2


def test_onnx_runtime_fuses_the_quantizers_into_integer_convolutions(onnx_int8, prepared) -> None:
    operators = qdq.executed_operators(onnx_int8)
    assert operators["QLinearConv"] > 5 * operators["Conv"]
    assert qdq.executed_operators(prepared)["QLinearConv"] == 0


def test_ranges_in_front_of_a_silu_begin_where_they_are_told_to(
    onnx_int8, prepared, photographs, tmp_path
) -> None:
    cut = qdq.ranges_from(onnx_int8, prepared, -6)
    assert cut and set(cut) < set(qdq.ranges_from(onnx_int8, prepared, -2))
    assert qdq.ranges_from(onnx_int8, prepared, -1000) == {}
    kept = qdq.nodes_like(prepared, HEAD_END)
    file = qdq.static_int8(prepared, tmp_path / "cut.onnx", photographs[:2], kept, overrides=cut)
    assert not set(cut) & set(qdq.ranges_from(file, prepared, -6.1))


def test_float16_weights_are_half_the_file_and_the_same_detections(prepared, photographs, tmp_path) -> None:
    half = qdq.float16_weights(prepared, tmp_path / "half.onnx")
    assert 0.48 < footprint.size_mb([half]) / footprint.size_mb([prepared]) < 0.55
    before, after = (OnnxDetector(file, THREADS)(photographs[0]) for file in (prepared, half))
    assert 0 < np.abs(before[:, 4:] - after[:, 4:]).max() < 0.02


def test_nodes_are_chosen_by_their_names_or_outputs(prepared) -> None:
    assert len(qdq.nodes_like(prepared, ["^/model.0/"])) >= 2
    assert len(qdq.nodes_like(prepared, ["^output0$"])) == 1
    assert qdq.nodes_like(prepared, []) == []
    with pytest.raises(ValueError, match="no such matches no node of"):
        qdq.nodes_like(prepared, ["^/model.0/", "^no such"])


def test_int8_files_are_a_quarter_and_their_weights_are_counted(openvino_int8, onnx_int8, exported) -> None:
    for file, original in ((openvino_int8, exported["fp32"]), (onnx_int8, exported["onnx"])):
        ratio = footprint.size_mb(footprint.shipped(file)) / footprint.size_mb(footprint.shipped(original))
        assert 0.25 < ratio < 0.32
        weights = list(footprint.convolution_weights(file))
        assert len(weights) == len(list(footprint.convolution_weights(original)))
        assert sum(weight.dtype == np.int8 for weight in weights) > 50
        zeros = sum((weight == 0).sum() for weight in weights)
        assert footprint.sparsity(file) == zeros / sum(weight.size for weight in weights) > 0


@pytest.mark.parametrize("kind", ["OpenVino", "Onnx"])
def test_a_shipped_file_loads_by_itself(kind, openvino_int8, onnx_int8, tmp_path) -> None:
    model = {"OpenVino": openvino_int8, "Onnx": onnx_int8}[kind]
    for file in footprint.shipped(model):
        shutil.copy(file, tmp_path)
    code = (
        "import json\n"
        f"from modelcompression.detector import {kind}Detector\n"
        f"detector = {kind}Detector({model.name!r}, {THREADS})\n"
        "print(json.dumps(detector.execution_precision))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MC_")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path,
        env=environment,
    )  # fmt: skip
    assert json.loads(done.stdout) == "int8, rest f32"
