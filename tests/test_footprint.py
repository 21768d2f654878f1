import copy
from pathlib import Path

import numpy as np
import onnx
import openvino
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from modelcompression.detector import DetectorError, load_yolo
from modelcompression.errors import ModelCompressionError
from modelcompression.measure import footprint
from modelcompression.measure.footprint import ShippingError
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


@pytest.fixture
def external(exported, tmp_path) -> Path:
    """The model as an ``.onnx`` whose weights lie in a file beside it."""
    model = onnx.load(exported["onnx"])
    file = tmp_path / "external.onnx"
    onnx.save_model(model, file, save_as_external_data=True, location="external.data", size_threshold=1024)
    return file


def test_external_data_count_and_ship(external, exported) -> None:
    files = [external, external.with_suffix(".data")]
    assert footprint.shipped(external) == files
    for ships in ([external], files, files[::-1], [str(external)] * 2):
        assert footprint.size_mb(ships) == sum(file.stat().st_size for file in files) / 2**20
    assert footprint.size_mb([external]) == pytest.approx(footprint.size_mb([exported["onnx"]]), rel=0.01)
    assert footprint.bits_per_weight([external]) == pytest.approx(32, rel=0.02)
    footprint.require_loadable(files)
    with pytest.raises(ShippingError, match=r"external\.onnx does not load from what it ships"):
        footprint.require_loadable([external])
    files[1].unlink()
    with pytest.raises(ShippingError, match=r"external\.data does not exist"):
        footprint.size_mb([external])


def test_external_data_of_a_subgraph_count(tmp_path) -> None:
    """Tensors lie in nodes' attributes, too."""
    value = numpy_helper.from_array(np.ones(9, np.float32), "inner")
    onnx.external_data_helper.set_external_data(value, "inner.data")
    value.ClearField("raw_data")
    inner = helper.make_node("Constant", [], ["y"], value=value)
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, [9])
    body = helper.make_graph([inner], "body", [], [output])
    choice = helper.make_node("If", ["x"], ["z"], then_branch=body, else_branch=body)
    ends = [[helper.make_tensor_value_info("x", TensorProto.BOOL, [])],
            [helper.make_tensor_value_info("z", TensorProto.FLOAT, [9])]]  # fmt: skip
    (tmp_path / "m.onnx").write_bytes(
        helper.make_model(helper.make_graph([choice], "g", *ends)).SerializeToString()
    )
    with pytest.raises(ShippingError, match=r"inner\.data does not exist"):
        footprint.shipped(tmp_path / "m.onnx")
    (tmp_path / "inner.data").write_bytes(bytes(36))
    assert [file.name for file in footprint.shipped(tmp_path / "m.onnx")] == ["m.onnx", "inner.data"]


@pytest.mark.parametrize("location", ["data/weights", "../weights"])
def test_external_data_that_do_not_lie_beside_are_refused(external, location) -> None:
    """A run's files lie side by side: there the runtime would not find them."""
    model = onnx.load(external, load_external_data=False)
    place = external.parent / location
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(external.with_suffix(".data").read_bytes())
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    external.write_bytes(model.SerializeToString())
    with pytest.raises(ShippingError, match="beside it"):
        footprint.shipped(external)


def test_a_graph_without_its_weights_and_a_folder(exported, tmp_path) -> None:
    xml = exported["fp16"]
    assert footprint.size_mb([xml]) == footprint.size_mb(footprint.shipped(xml))
    with pytest.raises(ShippingError, match="does not load"):
        footprint.require_loadable([xml])
    folder = tmp_path / "yolov8n_openvino_model"
    folder.mkdir()
    with pytest.raises(DetectorError, match="holds 0"):
        footprint.size_mb([folder])
    for file in footprint.shipped(xml):
        (folder / file.name).write_bytes(file.read_bytes())
    assert footprint.size_mb([folder]) == footprint.size_mb([xml])
    same = [*footprint.shipped(xml), *footprint.shipped(folder)]
    with pytest.raises(ShippingError, match="two files of one name"):
        footprint.require_loadable(same)


@pytest.mark.parametrize("suffix", [".onnx", ".xml", ".pt", ".mcpk"])
def test_what_is_no_model_does_not_ship(suffix, tmp_path) -> None:
    file = tmp_path / f"broken{suffix}"
    file.write_bytes(b"\x00garbage" * 50)
    file.with_suffix(".bin").write_bytes(b"")
    with pytest.raises(ModelCompressionError, match="broken") as error:
        footprint.require_loadable(footprint.shipped(file))
    assert "\n" not in str(error.value)


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
