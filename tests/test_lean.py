"""The lean graph detects what the exported one detects, in any rectangle."""

import dataclasses
import platform

import numpy as np
import openvino
import pytest
from conftest import THREADS
from openvino import opset13 as ops

from modelcompression.detector import DetectorError, OpenVinoDetector
from modelcompression.images import letterbox, prepared, to_batch, to_original
from modelcompression.measure.accuracy import evaluate
from modelcompression.measure.latency import time_pairs
from modelcompression.methods import quantization
from modelcompression.methods.lean import LeanDetector, lean


@pytest.fixture(scope="module")
def detector(exported) -> LeanDetector:
    return LeanDetector(exported["fp32"], THREADS)


@pytest.fixture(scope="module")
def quantized(exported, demo, tmp_path_factory):
    path = tmp_path_factory.mktemp("quantized") / "int8.xml"
    graph = openvino.Core().read_model(exported["fp32"])
    openvino.save_model(quantization.int8(graph, demo.first(2)), path)
    return path


def differences(path, pixels: np.ndarray) -> tuple[float, float]:
    """The largest difference of a box number (pixels) and of a score to the graph as it was exported."""
    plain, other = OpenVinoDetector(path, THREADS), LeanDetector(path, THREADS)
    found = np.abs(plain(prepared(plain, pixels)) - other(prepared(other, pixels)))
    return found[:, :4].max(), found[:, 4:].max()


def test_the_lean_graph_gives_the_same_output(exported, demo) -> None:
    boxes, scores = differences(exported["fp32"], letterbox(demo.samples[0].path, 320)[0])
    assert boxes < 0.02
    assert scores < 1e-4


def test_a_quantized_graph_keeps_its_roundings(quantized, demo) -> None:
    boxes, scores = differences(quantized, letterbox(demo.samples[0].path, 320)[0])
    assert boxes < 0.02
    assert scores < 1e-4
    assert LeanDetector(quantized, THREADS).execution_precision == "int8, rest f32"


def test_a_rectangle_is_what_the_original_model_makes_of_it(detector, eager, demo) -> None:
    sample = next(s for s in demo.samples if s.width != s.height)
    pixels = letterbox(sample.path, 320, square=False)[0]
    assert pixels.shape[0] != pixels.shape[1]
    found = np.abs(detector(prepared(detector, pixels)) - eager(to_batch(pixels)))
    assert found[:, :4].max() < 0.05
    assert found[:, 4:].max() < 1e-3


def test_several_images_at_a_time(detector, demo) -> None:
    images = [letterbox(sample.path, 320)[0] for sample in demo.samples[:2]]
    both = detector(prepared(detector, *images))
    alone = [detector(prepared(detector, image))[0] for image in images]
    assert both == pytest.approx(np.stack(alone), abs=1e-3)


def test_rectangles_pad_the_short_side_to_the_stride_only(demo) -> None:
    for sample in demo.samples:
        pixels, scale, (left, top) = letterbox(sample.path, 320, square=False)
        height, width = pixels.shape[:2]
        assert max(height, width) == 320
        assert height % 32 == width % 32 == 0
        assert height - sample.height * scale < 33 and width - sample.width * scale < 33
        inside = sample.boxes * scale + [left, top, left, top]
        assert to_original(inside, scale, (left, top)) == pytest.approx(sample.boxes, abs=1)


def test_rectangles_detect_as_well_as_squares(detector, demo) -> None:
    squares, rectangles = (evaluate(detector, demo, 320, False, square) for square in (True, False))
    assert rectangles.map50 == pytest.approx(squares.map50, abs=0.1)
    assert rectangles.map50 > 0.3


def quantizer_graph(high: float, levels: int = 256) -> tuple[openvino.Model, openvino.Model]:
    """An input quantizer and a sum over the planes, as exported and with ``_pixels_in``."""
    from modelcompression.methods.lean import _pixels_in

    graphs = []
    for is_lean in (False, True):
        planes = ops.parameter([1, 3, 32, 32], np.float32, "images")
        bounds = [ops.constant(np.float32(value)) for value in (0, high, 0, high)]
        output = ops.relu(ops.fake_quantize(planes, *bounds, levels))
        graph = openvino.Model([output.output(0)], [planes], "quantizer")
        if is_lean:
            pixels = _pixels_in(graph)
            graph = openvino.Model(graph.get_results(), [pixels], "lean")
        graphs.append(graph)
    return graphs[0], graphs[1]


@pytest.mark.parametrize(("high", "levels"), [(1.0, 256), (0.9989, 256), (0.9, 256), (1.0, 16)])
def test_an_input_quantizer_rounds_pixels_as_it_rounded_planes(high: float, levels: int) -> None:
    plain, rebuilt = quantizer_graph(high, levels)
    pixels = np.arange(3 * 32 * 32, dtype=np.uint8).reshape(1, 32, 32, 3)
    core = openvino.Core()
    expected = core.compile_model(plain, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(to_batch(pixels[0]))[0]
    found = core.compile_model(rebuilt, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(pixels)[0]
    assert found == pytest.approx(expected, abs=1e-6)


def before_the_first_convolution(detector: LeanDetector) -> set[tuple[str, str]]:
    """What is executed between the pixels and the first convolution: kinds and precisions."""
    executed = detector.compiled((1, 320, 320, 3)).get_runtime_model().get_ordered_ops()

    def said(node: openvino.Node) -> tuple[str, str]:
        facts = node.get_rt_info()
        return facts["layerType"].astype(str), facts["outputPrecisions"].astype(str)

    node = next(node for node in executed if said(node)[0] == "Convolution")
    found = set()
    while node.inputs():
        node = node.input_value(0).get_node()
        found.add(said(node))
    return found


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs have other kernels")
def test_the_first_int8_convolution_reads_the_pixels_themselves(quantized, detector) -> None:
    kinds = before_the_first_convolution(LeanDetector(quantized, THREADS))
    assert kinds <= {("Input", "u8"), ("Reorder", "u8")}  # no division and no quantizer is left
    assert any(precision == "f32" for _, precision in before_the_first_convolution(detector))


def test_wrong_shapes_and_graphs_are_one_clear_error(exported, tmp_path) -> None:
    detector = LeanDetector(exported["fp32"], THREADS)
    with pytest.raises(DetectorError, match="multiples of 32"):
        detector(np.zeros((1, 320, 333, 3), np.uint8))
    planes = ops.parameter([1, 3, 32, 32], np.float32, "images")
    other = openvino.Model([ops.relu(planes).output(0)], [planes], "other")
    openvino.save_model(other, tmp_path / "other.xml")
    with pytest.raises(DetectorError, match="no detection head"):
        LeanDetector(tmp_path / "other.xml", THREADS)
    with pytest.raises(ValueError, match="no detection head"):
        lean(other, 64, 64)
    with pytest.raises(DetectorError, match="does not exist"):
        LeanDetector(tmp_path / "missing.xml", THREADS)
    with pytest.raises(DetectorError, match="does not execute f8"):
        LeanDetector(exported["fp32"], THREADS, precision="f8")


def test_each_side_of_a_pair_is_fed_its_own_batches_in_turn(eager) -> None:
    seen: dict[str, list[int]] = {"square": [], "rectangle": []}

    @dataclasses.dataclass
    class Recorder:
        name: str

        def __call__(self, batch: np.ndarray) -> None:
            seen[self.name].append(batch.shape[1])

    fed = [(np.zeros((1, n)), np.zeros((1, 10 * n))) for n in (1, 2)]
    found = time_pairs(Recorder("square"), Recorder("rectangle"), fed, pairs=4)
    assert len(found.variant.samples) == 4
    assert set(seen["square"]) == {1, 2}
    assert set(seen["rectangle"]) == {10, 20}
    assert seen["rectangle"][-8:] == [10, 10, 20, 20, 10, 10, 20, 20]
