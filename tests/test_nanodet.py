"""NanoDet: ncnn's files are read whole, both runtimes agree, boxes come back from a stretched photograph."""

import pickle
import struct
from pathlib import Path

import numpy as np
import openvino
import pytest
from conftest import THREADS

from modelcompression import nanodet
from modelcompression.detector import DetectorError
from modelcompression.fetch import AssetError
from modelcompression.images import prepared, seen, to_original
from modelcompression.measure.accuracy import evaluate
from modelcompression.measure.footprint import bits_per_weight, shipped, size_mb, sparsity
from modelcompression.ncnn_file import MAGIC, layers

TINY = """\
{magic}
5 6
Input                data     0 1 data
Convolution          first    1 1 data a 0=4 1=1 5=1 6=12 8=2 9=2 -23310=1,2.5e-01
ConvolutionDepthWise second   1 1 a b 0=4 1=3 3=2 4=1 5=1 6=36 7=4
Slice                halves   1 2 b c d -23300=2,-233,-233
Concat               again    2 1 c d cls8 0=0
"""


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """An INT8 convolution with its scales, and a depthwise one in float16."""
    (tmp_path / "tiny.param").write_text(TINY.format(magic=MAGIC))
    integers = struct.pack("<I", 0x000D4B38) + np.arange(12, dtype=np.int8).tobytes()
    scales = np.ones(4 + 1, np.float32).tobytes()
    halves = struct.pack("<I", 0x01306B47) + (np.arange(36) % 2).astype(np.float16).tobytes()
    bias = np.full(4, 0.5, np.float32).tobytes()
    (tmp_path / "tiny.bin").write_bytes(integers + bias + scales + halves + bias)
    return tmp_path / "tiny.param"


def test_weights_of_every_kind_are_read(tiny: Path) -> None:
    _, first, second, halves, _ = layers(tiny)
    assert first.weight.dtype == np.int8 and first.weight.shape == (1, 4, 3, 1, 1)
    assert second.weight.dtype == np.float16 and second.weight.shape == (4, 1, 1, 3, 3)
    assert first.weight.flatten().tolist() == list(range(12)) and second.weight.mean() == 0.5
    assert second.bias.tolist() == [0.5] * 4
    assert first.numbers[10] == [0.25] and halves.numbers[0] == [-233, -233]
    assert sparsity(tiny) == pytest.approx((1 + 18) / 48)
    assert [file.suffix for file in shipped(tiny)] == [".param", ".bin"]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda param: param.with_suffix(".bin").write_bytes(b"xx"), "no network of ncnn"),
        (lambda param: param.with_suffix(".bin").open("ab").write(b"more"), "4 bytes too many"),
        (lambda param: param.with_suffix(".bin").unlink(), "does not exist"),
        (lambda param: param.write_text("<html>"), "no network of ncnn: .*begins with <html>"),
        (lambda param: param.write_text(f"{MAGIC}\n1 1\nConvolution first"), "no network of ncnn"),
    ],
)
def test_damaged_files_are_one_line(tiny: Path, damage, says: str) -> None:
    damage(tiny)
    with pytest.raises(DetectorError, match=says) as caught:
        list(layers(tiny))
    assert "\n" not in str(caught.value)


def test_another_network_of_ncnn_is_refused(tiny: Path) -> None:
    with pytest.raises(DetectorError, match=r"no NanoDet-Plus: it has no output cls16"):
        nanodet.openvino_graph(tiny)
    pytest.importorskip("ncnn")
    with pytest.raises(DetectorError, match=r"no NanoDet-Plus: it has no output cls16"):
        nanodet.NcnnDetector(tiny)


def test_a_box_is_the_mean_of_its_distances() -> None:
    logits = np.full((4, 8, 1), -30.0, np.float32)
    for side, distance in enumerate((1, 2, 3, 4)):
        logits[side, distance] = 0
    logits[0, 3] = 0  # left: half 1, half 3
    points, strides = np.float32([[80], [40]]), np.float32([8])
    left, top, right, bottom = 80 - 16, 40 - 16, 80 + 24, 40 + 32
    box = [(left + right) / 2, (top + bottom) / 2, right - left, bottom - top]
    assert nanodet.boxes(logits.reshape(32, 1), points, strides).flatten() == pytest.approx(box)


def test_a_stretched_photograph_gives_its_boxes_back(demo) -> None:
    class Stretching:
        subject = nanodet.SUBJECT

    sample = next(s for s in demo.samples if s.width != s.height)
    pixels, scale, offset = seen(Stretching(), sample.path, 96)
    assert pixels.shape == (96, 96, 3)
    corners = np.array([[0, 0, 96, 96], [24, 48, 48, 96]], float)
    whole = to_original(corners, scale, offset)
    assert whole[0] == pytest.approx([0, 0, sample.width, sample.height])
    assert whole[1] == pytest.approx(
        [sample.width / 4, sample.height / 2, sample.width / 2, sample.height], abs=1e-6
    )


def test_files_that_are_not_the_listed_ones_are_refused(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(nanodet, "roots", lambda: [tmp_path])
    with pytest.raises(AssetError, match="float16 or int8, not in int4"):
        nanodet.ncnn_files("int4")
    with pytest.raises(AssetError, match="put them into"):
        nanodet.ncnn_files("float16")
    (tmp_path / "nanodet").mkdir()
    for suffix in (".param", ".bin"):
        (tmp_path / "nanodet" / f"nanodet-plus-m_416{suffix}").write_text("other")
    with pytest.raises(AssetError, match="not the original file"):
        nanodet.ncnn_files("float16")


@pytest.fixture(scope="module")
def files() -> dict[str, Path]:
    pytest.importorskip("ncnn")
    try:
        return {kind: nanodet.ncnn_files(kind) for kind in nanodet.NAMES}
    except AssetError as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def in_ncnn(files) -> nanodet.NcnnDetector:
    return nanodet.NcnnDetector(files["float16"], THREADS)


@pytest.fixture(scope="module")
def rebuilt(files, tmp_path_factory) -> nanodet.NanoDetOpenVino:
    path = tmp_path_factory.mktemp("rebuilt") / "nanodet.xml"
    openvino.save_model(nanodet.openvino_graph(files["float16"]), path, compress_to_fp16=False)
    return nanodet.NanoDetOpenVino(path, THREADS)


def test_the_rebuilt_network_is_the_same(in_ncnn, rebuilt, demo) -> None:
    pixels = prepared(in_ncnn, seen(in_ncnn, demo.samples[0].path, nanodet.SIZE)[0])
    outputs = [detector(pixels) for detector in (in_ncnn, rebuilt)]
    assert outputs[0].shape == (1, 84, 52**2 + 26**2 + 13**2 + 7**2)
    difference = np.abs(outputs[0] - outputs[1])
    assert difference[:, 4:].max() < 1e-3
    assert difference[:, :4].max() < 0.5


def test_it_detects_like_the_original_model(in_ncnn, rebuilt, demo, demo_report) -> None:
    """Input order, scaling and decoding are right: half a cell more costs a third of mAP50-95."""
    found = [evaluate(detector, demo, nanodet.SIZE, progress=False) for detector in (in_ncnn, rebuilt)]
    assert found[0].map50 == pytest.approx(found[1].map50, abs=0.02)
    assert found[0].map50 > demo_report.map50 / 2
    assert found[0].map50_95 > 0.65 * found[0].map50


def test_integers_and_floats_are_told_apart(files, in_ncnn) -> None:
    integers = nanodet.NcnnDetector(files["int8"], THREADS)
    assert (in_ncnn.execution_precision, integers.execution_precision) == ("f32", "int8, rest f32")
    assert size_mb(shipped(files["int8"])) < 0.6 * size_mb(shipped(files["float16"]))
    assert 0 < sparsity(files["float16"]) < 0.1
    for file in files.values():
        arrays = [a for layer in layers(file) for a in (layer.weight, layer.bias) if a is not None]
        assert sum(array.size for array in arrays) == nanodet.PARAMETERS
    assert bits_per_weight(shipped(files["int8"]), nanodet.PARAMETERS) == pytest.approx(8, abs=1)


def test_it_travels_to_other_processes(in_ncnn, demo) -> None:
    pixels = prepared(in_ncnn, seen(in_ncnn, demo.samples[0].path, nanodet.SIZE)[0])
    again = pickle.loads(pickle.dumps(in_ncnn))
    assert (again(pixels) == in_ncnn(pixels)).all()


def test_without_ncnn_the_message_says_what_to_install(files, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ncnn", None)
    with pytest.raises(DetectorError, match="pip install ncnn"):
        nanodet.NcnnDetector(files["float16"])


def test_integer_weights_have_no_openvino_graph(files) -> None:
    with pytest.raises(DetectorError, match="take the file with float weights"):
        nanodet.openvino_graph(files["int8"])
