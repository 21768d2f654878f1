import os
import pickle
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from conftest import THREADS
from onnx import TensorProto, helper

from modelcompression import detector
from modelcompression.detector import DetectorError, OnnxDetector, OpenVinoDetector, TorchDetector, load_yolo
from modelcompression.machine import Cpu
from modelcompression.methods.lean import LeanDetector


def test_three_runtimes_agree_on_the_raw_output(eager, weights, exported, batch) -> None:
    reference = eager(batch)
    assert reference.shape == (1, 84, 2100) and reference.dtype == np.float32
    others = [
        TorchDetector(weights, THREADS, channels_last=True),
        OnnxDetector(exported["onnx"], THREADS),
        OpenVinoDetector(exported["fp32"], THREADS),
    ]
    for other in others:
        output = other(batch)
        assert output[:, :4] == pytest.approx(reference[:, :4], abs=0.05), other.runtime
        assert output[:, 4:] == pytest.approx(reference[:, 4:], abs=1e-3), other.runtime


def test_an_output_is_not_overwritten_by_the_next_call(eager, exported, batch) -> None:
    for each in (eager, OnnxDetector(exported["onnx"]), OpenVinoDetector(exported["fp32"])):
        first = each(batch)
        kept = first.copy()
        each(1 - batch)
        assert (first == kept).all(), each.runtime


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one core")
def test_thread_count_is_the_detectors_own(eager, exported, batch) -> None:
    one, two = TorchDetector(eager.model, 1), TorchDetector(eager.model, 2)
    for each in (one, two, one):
        each(batch)
        assert torch.get_num_threads() == each.threads
    compiled = OpenVinoDetector(exported["fp32"], 1).compiled
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1
    options = OnnxDetector(exported["onnx"], 1).session.get_session_options()
    assert options.intra_op_num_threads == 1


def test_free_shape_can_be_fixed_at_load(exported, batch) -> None:
    fixed = OpenVinoDetector(exported["onnx"], THREADS, shape=(1, 3, 320, 320))
    assert fixed(batch).shape == (1, 84, 2100)


def test_execution_precision_is_what_the_cpu_was_told(exported) -> None:
    assert OpenVinoDetector(exported["fp16"]).execution_precision == "f32"
    assert OnnxDetector(exported["onnx"]).execution_precision == "f32"
    with pytest.raises(DetectorError, match="choose one of"):
        OpenVinoDetector(exported["fp32"], precision="int3")


@pytest.mark.parametrize(
    ("isa", "exact", "entry"),
    [
        *(("AVX2", None, "1"), ("AVX-512", None, "1"), ("AVX-512 VNNI", None, "0"), ("AVX-VNNI", None, "0")),
        *(("AMX", None, "0"), ("NEON", None, "0"), ("AMX", True, "1"), ("AVX2", False, "0")),
    ],
)
def test_onnx_runtime_sums_int8_products_exactly_where_it_matters(
    isa, exact, entry, exported, monkeypatch
) -> None:
    monkeypatch.setattr(detector, "cpu", lambda: Cpu("Any", isa, 2))
    options = OnnxDetector(exported["onnx"], exact=exact).session.get_session_options()
    assert options.get_session_config_entry("session.x64quantprecision") == entry


@pytest.mark.parametrize("build", [TorchDetector, OnnxDetector, OpenVinoDetector])
def test_missing_and_corrupt_files_are_one_clear_error(build, tmp_path) -> None:
    suffix = {TorchDetector: ".pt", OnnxDetector: ".onnx", OpenVinoDetector: ".xml"}[build]
    with pytest.raises(DetectorError, match="does not exist"):
        build(tmp_path / f"nothing{suffix}")
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(b"\x00garbage" * 50)
    with pytest.raises(DetectorError, match=r"no readable|no ultralytics") as error:
        build(broken)
    assert "\n" not in str(error.value)


OTHER = {"o'neil/yolov8n.pt": "oneil/yolov8n.pt", "yolov5n.pt": "yolov5nu.pt", "yolov8n": "yolov8n.pt"}


@pytest.mark.parametrize("name", [*OTHER, " yolov8n.pt ", "YOLOV8N.PT", "https:/x/yolov8n.pt", "[a]/*.pt"])
def test_exactly_the_file_that_is_named_is_opened(name, weights, tmp_path, monkeypatch) -> None:
    """Ultralytics would strip, correct or complete these names, and unpickle what lies there."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_bytes(weights.read_bytes())
    if name in OTHER:
        (tmp_path / OTHER[name]).parent.mkdir(exist_ok=True)
        torch.save({"model": Bomb()}, tmp_path / OTHER[name])
    for path in (Path(name), tmp_path / name):
        model = load_yolo(path)
        assert model.pt_path == str(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


class Bomb:
    """An object whose unpickling leaves a trace in the current folder."""

    def __reduce__(self):
        return open, ("exploded", "w")


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov8n.yml", "model.onnx", "model.txt"])
def test_no_name_makes_a_network(name, tmp_path) -> None:
    file = tmp_path / name
    file.write_text("nc: 80\nactivation: open('exploded', 'w')\nbackbone: []\nhead: []\n")
    with pytest.raises(DetectorError, match=rf"{name} is no ultralytics checkpoint") as error:
        load_yolo(file)
    assert "\n" not in str(error.value) and "/checkpoint" not in str(error.value)


def test_a_temporary_folder_that_ultralytics_would_misread_is_refused(weights, tmp_path, monkeypatch) -> None:
    (tmp_path / "o'neil").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "o'neil"))
    with pytest.raises(DetectorError, match="TMPDIR"):
        load_yolo(weights)


def test_the_folder_of_an_export_is_taken(exported, tmp_path, batch) -> None:
    folder = tmp_path / "yolov8n_openvino_model"
    folder.mkdir()
    for suffix in (".xml", ".bin"):
        (folder / f"yolov8n{suffix}").write_bytes(exported["fp16"].with_suffix(suffix).read_bytes())
    (folder / "metadata.yaml").write_text("")
    expected = OpenVinoDetector(exported["fp16"], THREADS)(batch)
    for given in (folder, f"{folder}/"):  # export returns a string
        assert (OpenVinoDetector(given, THREADS)(batch) == expected).all()
        assert pickle.loads(pickle.dumps(LeanDetector(given, THREADS))).threads == THREADS
    (folder / "other.xml").write_text("")
    with pytest.raises(DetectorError, match="holds 2"):
        OpenVinoDetector(folder)
    with pytest.raises(DetectorError, match="holds 0"):
        OpenVinoDetector(tmp_path)


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2"])
def test_threads_are_a_positive_whole_number(eager, threads) -> None:
    with pytest.raises(DetectorError, match="whole number"):
        TorchDetector(eager.model, threads)


def _onnx_of_shape(path, shape):
    node = helper.make_node("Relu", ["x"], ["y"])
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy"]
    graph = helper.make_graph([node], "other", ends[:1], ends[1:])
    opsets = [helper.make_opsetid("", 17)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), path)
    return path


@pytest.mark.parametrize("shape", [(1, 3, 64, 64), (1, 1, 64, 64), (1, 10)])
@pytest.mark.parametrize("build", [OnnxDetector, OpenVinoDetector])
def test_a_model_of_another_shape_is_refused(build, shape, tmp_path) -> None:
    with pytest.raises(DetectorError, match=r"no YOLO detector|not \(N, 3, H, W\)"):
        build(_onnx_of_shape(tmp_path / "other.onnx", shape))


def test_a_torch_model_of_another_kind_is_refused() -> None:
    with pytest.raises(DetectorError, match="no YOLO detector"):
        TorchDetector(torch.nn.Conv2d(3, 84, 1))


@pytest.mark.parametrize(("module", "build"), [("onnxruntime", "Onnx"), ("openvino", "OpenVino")])
def test_a_missing_runtime_says_how_to_get_it(module, build, exported) -> None:
    code = (
        f"import sys; sys.modules['{module}'] = None\n"
        f"from modelcompression.detector import {build}Detector as D, DetectorError\n"
        f"try: D({str(exported['onnx'])!r})\n"
        "except DetectorError as e: print(e)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == f"{module} is not installed: pip install -r requirements.txt"


def test_pytorch_never_computes_in_another_format_than_asked(weights, batch, eager) -> None:
    with pytest.raises(DetectorError, match="not in f16"):
        TorchDetector(weights, THREADS, precision="f16")
    try:
        half = TorchDetector(weights, THREADS, precision="bf16")
    except DetectorError as reason:
        assert "does not execute bf16" in str(reason)
    else:
        difference = np.abs(half(batch) - eager(batch))[:, 4:].max()
        assert half.execution_precision == "bf16" and 0 < difference < 0.2
