"""The published numbers against their references, and the INT8 methods of homework 2 in small."""

import csv
import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import openvino
import pytest
from conftest import THREADS
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

from modelcompression import ROOT, assets
from modelcompression.detector import Detector, OnnxDetector, OpenVinoDetector
from modelcompression.images import letterbox, to_batch
from modelcompression.machine import cpu
from modelcompression.measure import accuracy, footprint
from modelcompression.methods import quantization

SIZE, CALIBRATION_IMAGES, JUDGED_IMAGES = 320, 8, 24
HEAD_END = rf"{quantization.FLOAT_END}|^/model\.22/cv[23]\.\d/cv[23]\.\d\.2/"


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf8", newline="") as file:
        return list(csv.DictReader(file))


REFERENCES = rows_of(Path(__file__).with_name("reference_metrics.csv"))


class Photographs(CalibrationDataReader):
    def __init__(self, batches: list[np.ndarray]) -> None:
        self.remaining = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        batch = next(self.remaining, None)
        return None if batch is None else {"images": batch}


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


def qdq(exported, photographs, folder: Path, kept: str | None) -> Path:
    """The ONNX file in INT8, with the nodes whose name or output matches ``kept`` in float."""
    nodes = onnx.load(exported["onnx"]).graph.node
    names = [n.name for n in nodes if kept and (re.search(kept, n.name) or re.search(kept, n.output[0]))]
    file = folder / "qdq.onnx"
    quantize_static(
        exported["onnx"],
        file,
        Photographs(photographs),
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        nodes_to_exclude=names,
        extra_options={"CalibMovingAverage": True},
    )
    return file


@pytest.fixture(scope="module")
def onnx_int8(exported, photographs, tmp_path_factory) -> Path:
    return qdq(exported, photographs, tmp_path_factory.mktemp("qdq"), HEAD_END)


@pytest.fixture(scope="module")
def agreement(exported, report_set):
    """A function: mAP50-95 of a detector when the float32 model's confident detections are the truth."""
    images = report_set.first(JUDGED_IMAGES)
    reference = accuracy.evaluate(OpenVinoDetector(exported["fp32"], THREADS), images, SIZE, progress=False)
    samples = []
    for sample, found in zip(images.samples, reference.detections, strict=True):
        sure = found[found[:, 4] > 0.25]
        boxes, classes = sure[:, :4].astype(float), sure[:, 5].astype(int)
        samples.append(dataclasses.replace(sample, boxes=boxes, classes=classes, areas=boxes[:, 0]))
    judged = assets.ImageSet("agreement", tuple(samples))

    def of(detector: Detector) -> float:
        return accuracy.evaluate(detector, judged, SIZE, progress=False).map50_95

    return of


def executed(file: Path, folder: Path) -> Counter:
    """Operators that ONNX Runtime runs for a file, after its fusions."""
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath = str(folder / "executed.onnx")
    options.log_severity_level = 3
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    return Counter(node.op_type for node in onnx.load(folder / "executed.onnx").graph.node)


@pytest.mark.parametrize("reference", REFERENCES, ids=lambda row: f"{row['experiment']}: {row['metric']}")
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


def test_int8_in_openvino_detects_what_float32_does(openvino_int8, agreement) -> None:
    detector = OpenVinoDetector(openvino_int8, THREADS)
    assert detector.execution_precision == "int8, rest f32"
    assert agreement(detector) > 0.85


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


def test_int8_in_onnx_runtime_detects_what_float32_does(onnx_int8, agreement) -> None:
    detector = OnnxDetector(onnx_int8, THREADS)
    assert detector.execution_precision == "int8, rest f32"
    assert agreement(detector) > 0.85


@pytest.mark.skipif(cpu().saturates, reason="without VNNI the fast sums of ONNX Runtime are other sums")
def test_exact_sums_change_no_output_where_the_cpu_does_not_saturate(onnx_int8, photographs) -> None:
    fast, exact = (OnnxDetector(onnx_int8, THREADS, exact=wish) for wish in (False, True))
    for batch in photographs[:3]:
        assert np.array_equal(fast(batch), exact(batch))


def test_one_scale_for_boxes_and_scores_wipes_out_the_scores(exported, photographs, tmp_path) -> None:
    whole = OnnxDetector(qdq(exported, photographs, tmp_path, kept=None), THREADS)
    scores = whole(photographs[0])[:, 4:]
    assert len(np.unique(scores)) <= 2


def test_onnx_runtime_fuses_the_quantizers_into_integer_convolutions(onnx_int8, tmp_path) -> None:
    operators = executed(onnx_int8, tmp_path)
    assert operators["QLinearConv"] > 5 * operators["Conv"]


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
