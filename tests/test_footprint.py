import copy

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from modelcompression.detector import DetectorError, load_yolo
from modelcompression.measure import footprint
from modelcompression.subject import PARAMETERS


def test_size_is_bytes_on_disk_of_everything_shipped(exported) -> None:
    files = footprint.shipped(exported["fp32"])
    assert [file.suffix for file in files] == [".xml", ".bin"]
    assert footprint.size_mb(files) == sum(len(file.read_bytes()) for file in files) / 2**20
    assert footprint.bits_per_weight(files) == pytest.approx(32, rel=0.02)
    assert 16 < footprint.bits_per_weight(footprint.shipped(exported["fp16"])) < 17.5


def test_a_model_ships_all_of_its_files(exported, tmp_path) -> None:
    lonely = tmp_path / "model.xml"
    lonely.write_bytes(exported["fp32"].read_bytes())
    with pytest.raises(FileNotFoundError, match=r"model\.bin"):
        footprint.shipped(lonely)


def test_parameter_count_is_the_fused_model(weights) -> None:
    assert sum(p.numel() for p in load_yolo(weights).parameters()) == PARAMETERS


def test_zeros_are_counted_alike_in_every_format(weights, tmp_path) -> None:
    model = copy.deepcopy(load_yolo(weights))
    convolutions = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d)]
    for convolution in convolutions:
        weight = convolution.weight.data
        weight.view(-1)[: weight.numel() // 4] = 0
    expected = footprint.sparsity(model)
    assert expected == pytest.approx(0.25, abs=1e-3)
    onnx = tmp_path / "model.onnx"
    torch.onnx.export(model, torch.zeros(1, 3, 64, 64), onnx, dynamo=False, verbose=False)
    graph = openvino.convert_model(onnx)
    openvino.save_model(graph, tmp_path / "model.xml", compress_to_fp16=True)
    for file in (onnx, tmp_path / "model.xml"):
        assert footprint.sparsity(file) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("stored", [np.float16, np.int8])
def test_weights_are_found_behind_a_cast_and_behind_a_dequantizer(stored, tmp_path) -> None:
    weight = np.arange(-2, 6).reshape(2, 4, 1, 1).astype(stored)
    tensors = {"stored": weight}
    if stored is np.int8:
        tensors |= {"scale": np.full(2, 0.5, np.float32), "zero": np.zeros(2, np.int8)}
        unpack = helper.make_node("DequantizeLinear", list(tensors), ["weight"], axis=0)
    else:
        unpack = helper.make_node("Cast", ["stored"], ["weight"], to=TensorProto.FLOAT)
    convolution = helper.make_node("Conv", ["x", "weight"], ["y"])
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, depth, 8, 8])
        for name, depth in (("x", 4), ("y", 2))
    ]
    initializers = [numpy_helper.from_array(values, name) for name, values in tensors.items()]
    graph = helper.make_graph([unpack, convolution], "tiny", ends[:1], ends[1:], initializers)
    onnx.save(helper.make_model(graph), tmp_path / "tiny.onnx")
    (found,) = footprint.convolution_weights(tmp_path / "tiny.onnx")
    assert found.dtype == stored and (found == weight).all()
    assert footprint.sparsity(tmp_path / "tiny.onnx") == 1 / 8


def test_the_original_has_no_zeros(weights) -> None:
    assert footprint.sparsity(weights) < 1e-4


def test_nothing_to_count_is_an_error(tmp_path) -> None:
    with pytest.raises(DetectorError, match="no convolution"):
        footprint.sparsity(torch.nn.Linear(2, 2))
    with pytest.raises(DetectorError, match="cannot look for weights"):
        footprint.sparsity(tmp_path / "model.zip")
