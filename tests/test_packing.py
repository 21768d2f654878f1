"""The packed checkpoint: what goes in comes out, and what is not right is refused with a reason."""

import copy
import json
import logging
import lzma
import os
import resource
import subprocess
import sys
import zlib
from pathlib import Path

import nncf
import numpy as np
import openvino
import pytest
import torch
from conftest import THREADS
from forgery import (
    SMALLEST,
    edited_architectures,
    edited_bytes,
    header_of,
    outcome,
    resealed,
    with_header,
    with_object,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_network
from torch import nn
from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel, SegmentationModel

from modelcompression import network
from modelcompression.detector import OpenVinoDetector, TorchDetector
from modelcompression.grid import nearest_exponents, step_sizes
from modelcompression.measure import accuracy, footprint
from modelcompression.packed import architecture, checkpoint, container, graphs, tensors
from modelcompression.packed.architecture import Architecture
from modelcompression.packed.tensors import Codebook, Grid, PackedCheckpointError, Sparse


class Tiny(nn.Module):
    """Stands in for a model whose shapes are free: 3×3, 1×1 and a bias."""

    def __init__(self, outputs: int = 4, inputs: int = 3) -> None:
        super().__init__()
        self.wide = nn.Conv2d(inputs, outputs, 3)
        self.narrow = nn.Conv2d(outputs, 2, 1, bias=False)
        self.thin = nn.Conv2d(2, outputs, 3, bias=False)


def grid(shape: tuple[int, ...], generator: np.random.Generator, scale: float = 2) -> Grid:
    rows = 1 if len(shape) == 1 else shape[0]
    symbols = np.rint(generator.laplace(0, scale, shape)).astype(np.int64)
    return Grid(symbols, generator.integers(-80, 8, rows))


def sparse(shape: tuple[int, ...], generator: np.random.Generator, zeros: float) -> Sparse:
    return Sparse((generator.normal(size=shape) * (generator.random(shape) >= zeros)).astype(np.float16))


def packed(path: Path, seed: int = 0) -> tuple[Path, dict[str, Grid | Codebook | Sparse]]:
    """A small file with all kinds of tensors."""
    generator, model = np.random.default_rng(seed), Tiny()
    tensors = {
        "wide.weight": grid((4, 3, 3, 3), generator),
        "wide.bias": grid((4,), generator),
        "narrow.weight": Codebook(
            generator.integers(0, 5, (2, 4, 1, 1)), np.sort(generator.normal(size=5)).astype(np.float16)
        ),
        "thin.weight": sparse((4, 2, 3, 3), generator, 0.5),
    }
    return stored(path, model, tensors), tensors


def stored(path: Path, model: nn.Module, tensors: dict[str, Grid | Codebook | Sparse]) -> Path:
    """Tensors of any shapes, whatever the architecture says: only :func:`checkpoint.load` compares them."""
    return container.store(path, SMALLEST, checkpoint._parameters(model), tensors)


def smallest() -> DetectionModel:
    """The network of ``SMALLEST`` with random weights, BatchNorm folded."""
    torch.manual_seed(0)
    model = DetectionModel(described(SMALLEST), verbose=False).eval().fuse(verbose=False)
    for convolution in network.convolutions(model).values():
        convolution.weight.data *= 3  # so that signals do not die away from layer to layer
    return model


def described(architecture: Architecture) -> dict:
    return copy.deepcopy(architecture.description())


@settings(max_examples=60, deadline=None)
@given(
    st.integers(0, 10**6), st.integers(1, 12), st.integers(1, 9), st.sampled_from([0, 0.2, 2, 300, 10**6]),
    st.integers(1, 300),
)  # fmt: skip
def test_any_tensor_of_any_kind_comes_back_exactly(tmp_path_factory, seed, outputs, inputs, scale, k) -> None:
    generator, model = np.random.default_rng(seed), Tiny(outputs, inputs)
    centroids = np.sort(generator.normal(size=k)).astype(np.float16)
    tensors = {
        "wide.weight": grid((outputs, inputs, 3, 3), generator, scale),
        "narrow.weight": Codebook(generator.integers(0, k, (2, outputs, 1, 1)), centroids),
        "thin.weight": sparse((outputs, 2, 3, 3), generator, k / 300),
    }
    path = stored(tmp_path_factory.mktemp("packed") / "x.mcpk", model, tensors)
    found = container.read(path)
    for name, tensor in tensors.items():
        assert found[name].dtype == np.float32 and np.array_equal(found[name], tensor.values())
    bias = model.wide.bias.detach().numpy()
    assert np.array_equal(found["wide.bias"], bias.astype(np.float16).astype(np.float32))


@pytest.mark.parametrize(("shape", "rows"), [((7,), 1), ((6, 1, 3, 3), 6)])
def test_a_fine_grid_has_a_step_for_each_row_and_fits_into_int8(shape: tuple[int, ...], rows: int) -> None:
    values = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    values[-1] = 0
    fine = Grid.fine(values)
    assert fine.exponents.shape == (rows,) and np.abs(fine.symbols).max() <= 127
    given, found = (x.reshape(rows, -1) for x in (values, fine.values()))
    assert (np.abs(found - given).max(1) <= np.abs(given).max(1) / 220).all()


def test_a_row_of_next_to_nothing_costs_no_bits_on_a_fine_grid() -> None:
    fine = Grid.fine(np.array([[1e-10, -1e-10], [1e-30, 0], [0.5, 1.0]], np.float32))
    assert np.abs(fine.symbols[:2]).max() <= 2 and np.abs(fine.exponents).max() < 480
    assert np.abs(fine.symbols[2]).max() > 100


def test_zeros_cost_no_more_than_a_bit_and_save_sixteen(tmp_path: Path) -> None:
    generator, model = np.random.default_rng(0), Tiny(256, 256)
    sizes = {}
    for zeros in (0, 0.1, 0.5, 0.9):
        tensors = {"wide.weight": sparse((256, 256, 3, 3), generator, zeros)}
        sizes[zeros] = checkpoint.inspect(stored(tmp_path / "x.mcpk", model, tensors))["bits each"].iloc[0]
    entropy = {z: -z * np.log2(z) - (1 - z) * np.log2(1 - z) for z in (0.1, 0.5, 0.9)}
    assert sizes[0] < 16.2
    for zeros, bits in entropy.items():
        assert sizes[zeros] == pytest.approx(16 * (1 - zeros) + bits, rel=0.02)


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first, _ = packed(tmp_path / "a.mcpk")
    torch.manual_seed(1)
    second, _ = packed(tmp_path / "b.mcpk")
    assert first.read_bytes() == second.read_bytes()


def test_steps_are_the_nearest_float32_of_powers_of_two() -> None:
    every = np.arange(-tensors.LARGEST_EXPONENT, tensors.LARGEST_EXPONENT + 1)
    exact = np.exp2(every / 8)
    assert np.allclose(step_sizes(every), exact, rtol=1.2e-7, atol=0)
    assert np.array_equal(nearest_exponents(step_sizes(every)), every)
    assert nearest_exponents(np.array([0.0, 1.0])).tolist() == [0, 0]  # a row of zeros has any step
    assert step_sizes(np.array([-16, 0, 24])).tolist() == [0.25, 1, 8]


# --- refusing -----------------------------------------------------------------------------------


def refused(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(PackedCheckpointError) as caught:
        container.read(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    return message


def test_every_flip_and_every_cut_is_refused(tmp_path: Path) -> None:
    path, _ = packed(tmp_path / "x.mcpk")
    data, generator = path.read_bytes(), np.random.default_rng(0)
    damaged = tmp_path / "damaged.mcpk"
    for place in range(len(data)):
        flipped = bytearray(data)
        flipped[place] ^= int(generator.integers(1, 256))
        refused(damaged, bytes(flipped))
        refused(damaged, data[:place])
    refused(damaged, data + b"\0")


def test_forged_files_are_refused_or_decode_within_bounds(tmp_path: Path) -> None:
    """2,000 edits with a digest that fits: never another exception, never a weight that is not finite."""
    path, _ = packed(tmp_path / "x.mcpk")
    forgeries = edited_bytes(path.read_bytes(), np.random.default_rng(1), 2000)
    found = [outcome(tmp_path / "forged.mcpk", data) for data in forgeries]
    assert found.count("refused") > 1000 and found.count("accepted") > 20


def test_forged_architectures_are_refused_or_are_a_detector(tmp_path: Path) -> None:
    """300 edits of what is built: no name is looked up, nothing is evaluated, nothing large is allocated."""
    path = checkpoint.save(tmp_path / "x.mcpk", smallest(), {})
    forgeries = edited_architectures(path.read_bytes(), np.random.default_rng(0), 300)
    found = [outcome(tmp_path / "forged.mcpk", data, load=True) for data in forgeries]
    assert found.count("refused") > 200 and found.count("accepted") > 5


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda h: h["tensors"][0].__setitem__(2, [2**20, 2**9, 3, 3]), "weights in"),
        (lambda h: h["tensors"][0].__setitem__(2, [2**21]), "rows are too long"),
        (lambda h: h["tensors"][0].__setitem__(2, [1, 2**21, 1, 1]), "rows are too long"),
        (lambda h: h["tensors"][0].__setitem__(2, [4, 3, 3, -3]), "of shape"),
        (lambda h: h["tensors"][0].__setitem__(2, [4, 3, 3, 3.0]), "of shape"),
        (lambda h: h["tensors"][0].__setitem__(2, []), "of shape"),
        (lambda h: h["tensors"][0].__setitem__(2, [4, 3, 3, 4]), "decode|left over"),
        (lambda h: h["tensors"][0].__setitem__(3, [-8, 8]), "sections of"),
        (lambda h: h["tensors"][0].__setitem__(3, [10**15, 8]), "sections of|the header says"),
        (lambda h: h["tensors"][0].__setitem__(3, [True, 8]), "sections of"),
        (lambda h: h["tensors"][0].__setitem__(1, "pickle"), "unknown kind"),
        (lambda h: h["tensors"][0].__setitem__(0, 7), "no text"),
        (lambda h: h["tensors"].append(h["tensors"][0]), "twice"),
        (lambda h: h["tensors"].append("x"), "no list of four"),
        (lambda h: h.update(tensors={}), "no list"),
        (lambda h: h.update(extra=1), "other keys"),
        (lambda h: h.update(architecture="yolov8n.yaml"), "is no object"),
        (lambda h: h["architecture"].update(extra=1), "other keys"),
        (lambda h: h["architecture"].pop("names"), "other keys"),
        (lambda h: h["architecture"].update(activation=["torch.nn.ReLU()"]), "not on the list"),
        (lambda h: h["architecture"].update(activation="SiLU"), "no list of parts of the activation"),
        (lambda h: h["architecture"].update(activation=["PReLU"]), "not on the list"),
        (lambda h: h["architecture"].update(scale="yolov8n"), "scale"),
        (lambda h: h["architecture"].update(width=1e9), "width"),
        (lambda h: h["architecture"].update(depth=float("nan")), "damaged|depth"),
        (lambda h: h["architecture"].update(channels=0), "channels"),
        (lambda h: h["architecture"].update(size=10**6), "pixels"),
        (lambda h: h["architecture"].update(size="640"), "pixels"),
        (lambda h: h["architecture"].update(names=[]), "class names"),
        (lambda h: h["architecture"].update(names=[1, 2]), "class name"),
        (lambda h: h["architecture"]["layers"][0].__setitem__(2, "Segment"), "not on the list"),
        (lambda h: h["architecture"]["layers"][0].__setitem__(2, "nn.Module"), "not on the list"),
        (lambda h: h["architecture"]["layers"][-1].__setitem__(2, "Conv"), "not on the list"),
        (lambda h: h["architecture"]["layers"][0].__setitem__(0, 3), "reads"),
        (lambda h: h["architecture"]["layers"][2].__setitem__(1, 10**6), "repeated"),
        (lambda h: h["architecture"]["layers"][0][3].__setitem__(0, 10**6), "argument"),
        (lambda h: h["architecture"]["layers"][0][3].__setitem__(1, "1 + 1"), "argument"),
        (lambda h: h.update(graphs=[]), "graphs"),
    ],
)
def test_an_absurd_header_is_refused(tmp_path: Path, edit, reason: str) -> None:
    path, _ = packed(tmp_path / "x.mcpk")
    data = path.read_bytes()
    header = header_of(data)
    edit(header)
    message = refused(path, with_header(data, zlib.compress(json.dumps(header).encode())))
    assert any(part in message for part in reason.split("|"))


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (zlib.compress(bytes(2**26)), "too large"),  # 64 MB of zeros in 64 kB
        (zlib.compress(b"[" * 200_000), "damaged"),
        (zlib.compress(b'{"tensors": NaN}'), "other keys"),
        (zlib.compress(b"\xff"), "damaged"),
        (zlib.compress(b"3"), "no object"),
        (b"not deflated", "damaged"),
        (b"", "cut off"),
    ],
)
def test_a_header_that_is_none_is_refused(tmp_path: Path, header: bytes, reason: str) -> None:
    path, _ = packed(tmp_path / "x.mcpk")
    assert reason in refused(path, with_header(path.read_bytes(), header))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "does not start with MCPK"),
        (b"MCPK", "cut off"),
        (b"PK\x03\x04" + bytes(100), "does not start with MCPK"),
        (b"MCPK\x09" + bytes(100), "newer than 2"),
        (b"MCPK\x00" + bytes(100), "does not exist"),
    ],
)
def test_a_foreign_file_is_refused(tmp_path: Path, data: bytes, reason: str) -> None:
    assert reason in refused(tmp_path / "x.mcpk", data)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(PackedCheckpointError, match="cannot be read: No such file"):
        checkpoint.load(tmp_path / "none.mcpk")


@pytest.mark.parametrize(
    ("name", "tensor", "reason"),
    [
        ("nothing", Grid(np.zeros(4, int), np.zeros(1, int)), "no parameter"),
        ("wide.bias", Grid(np.zeros(5, int), np.zeros(1, int)), "symbols of shape"),
        ("wide.bias", Grid(np.zeros(4, int), np.zeros(4, int)), "exponents for 1 rows"),
        ("wide.bias", Grid(np.zeros(4, int), np.array([5000])), "beyond"),
        ("wide.bias", Grid(np.full(4, 2**30), np.zeros(1, int)), "smaller than"),
        ("wide.bias", Codebook(np.full(4, 3), np.zeros(3, np.float16)), "outside 0…2"),
        ("wide.bias", Codebook(np.zeros(4, int), np.array([np.inf], np.float16)), "not a finite"),
        ("wide.bias", Codebook(np.zeros(4, int), np.zeros(3)), "must be float16"),
    ],
)
def test_a_tensor_that_does_not_fit_is_not_written(tmp_path: Path, name: str, tensor, reason: str) -> None:
    with pytest.raises(PackedCheckpointError, match=reason):
        stored(tmp_path / "x.mcpk", Tiny(), {name: tensor})
    assert not os.listdir(tmp_path)


def test_a_weight_beyond_float16_is_not_written(tmp_path: Path) -> None:
    model = smallest()
    with torch.no_grad():
        model.model[0].conv.bias[0] = 1e6
    with pytest.raises(PackedCheckpointError, match="finite float16"):
        checkpoint.save(tmp_path / "x.mcpk", model, {})


def test_a_full_disk_keeps_the_file_that_was_there(tmp_path: Path, monkeypatch) -> None:
    path, tensors = packed(tmp_path / "x.mcpk")
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space"):
        stored(path, Tiny(), tensors)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["x.mcpk"]


# --- the whole model ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(eager: TorchDetector, tmp_path_factory) -> tuple[Path, dict[str, Grid]]:
    """YOLOv8n at 6 bits or so, packed."""
    tensors = {}
    for name, value in checkpoint._parameters(eager.model).items():
        rows = 1 if value.ndim == 1 else len(value)
        largest = np.abs(value.reshape(rows, -1)).max(1) + 1e-6
        exponents = nearest_exponents(largest / (127 if value.ndim == 1 else 31))
        shape = (-1,) + (1,) * (value.ndim - 1)
        tensors[name] = Grid(np.rint(value / step_sizes(exponents).reshape(shape)).astype(int), exponents)
    return checkpoint.save(tmp_path_factory.mktemp("whole") / "n.mcpk", eager.model, tensors), tensors


def test_a_loaded_model_has_exactly_the_packed_weights(whole) -> None:
    path, tensors = whole
    state = checkpoint.load(path).model.state_dict()
    for name, tensor in tensors.items():
        assert np.array_equal(state[name].numpy(), tensor.values())


def test_a_loaded_model_detects_what_was_measured_before_saving(whole, eager, report_set) -> None:
    path, tensors = whole
    import copy

    model = copy.deepcopy(eager.model)
    state = {name: torch.from_numpy(tensor.values()) for name, tensor in tensors.items()}
    model.load_state_dict(state, strict=False)
    few = report_set.first(6)
    before = accuracy.evaluate(TorchDetector(model, eager.threads), few, progress=False)
    after = accuracy.evaluate(TorchDetector(checkpoint.load(path).model, eager.threads), few, progress=False)
    assert after.map50_95 == before.map50_95 > 0


def test_inspect_accounts_for_every_byte(whole) -> None:
    path, tensors = whole
    table = checkpoint.inspect(path)
    assert table["bytes"].iloc[-1] == path.stat().st_size == table["bytes"].iloc[:-1].sum()
    assert set(tensors) <= set(table["tensor"])
    assert 4 < table["bits each"].iloc[-1] < 6.5


def test_it_works_in_a_fresh_process_without_images(whole, tmp_path: Path) -> None:
    path, _ = whole
    code = f"from modelcompression.packed import checkpoint; print(len(checkpoint.load({str(path)!r}).names))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.stdout.strip().endswith("80"), done.stderr
    shown = subprocess.run(
        [sys.executable, "-m", "modelcompression", "inspect", str(path)],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert "model.0.conv.weight" in shown.stdout and "the whole file" in shown.stdout
    wrong = subprocess.run(
        [sys.executable, "-m", "modelcompression", "inspect", str(tmp_path / "no")],
        capture_output=True, text=True, cwd=tmp_path,
    )  # fmt: skip
    assert wrong.returncode and wrong.stderr.startswith("error: ") and wrong.stderr.count("\n") == 1


@pytest.fixture(scope="module")
def fast(whole, eager, tmp_path_factory) -> tuple[Path, Path, Path]:
    """The packed file with an INT8 graph, that graph as NNCF made it, and the float model in OpenVINO."""
    path, tensors = whole
    folder = tmp_path_factory.mktemp("fast")
    torch.set_num_threads(2)
    exported = checkpoint.to_openvino(path, folder, "f32")
    assert torch.get_num_threads() == 2, "ultralytics' export lowers it"
    nncf.set_log_level(logging.ERROR)
    quantized = nncf.quantize(
        openvino.Core().read_model(exported),
        nncf.Dataset([np.full((1, 3, 640, 640), 0.5, np.float32)]),
        subset_size=1,
        preset=nncf.QuantizationPreset.MIXED,
        advanced_parameters=nncf.AdvancedQuantizationParameters(disable_bias_correction=True),
    )
    openvino.save_model(quantized, folder / "nncf.xml")
    return (
        checkpoint.save(folder / "fast.mcpk", eager.model, tensors, int8=quantized),
        folder / "nncf.xml",
        exported,
    )


def test_an_int8_graph_computes_with_exactly_the_packed_symbols(whole, fast, tmp_path: Path) -> None:
    _, tensors = whole
    unpacked = checkpoint.to_openvino(fast[0], tmp_path)
    stored = {weight.tobytes() for weight in footprint.convolution_weights(unpacked)}
    kept = [t for t in tensors.values() if t.symbols.ndim == 4 and np.abs(t.symbols).max() <= 127]
    assert len(kept) == 63
    assert all(tensor.symbols.astype(np.int8).tobytes() in stored for tensor in kept)


def test_a_channel_too_fine_for_int8_is_rounded_once_more() -> None:
    grid = Grid(np.array([[[[100]], [[-50]]], [[[508]], [[-6]]]]), np.array([0, 0]))
    symbols, scales = graphs._as_int8("model.1.conv.weight", grid)
    assert symbols.reshape(2, 2).tolist() == [[100, -50], [127, -2]] and scales.tolist() == [1, 4]


def test_two_products_of_white_pixels_do_not_saturate_16_bits() -> None:
    grid = Grid(np.array([[[[127]], [[126]]], [[[40]], [[-63]]]]), np.array([0, 8]))
    symbols, scales = graphs._as_int8("model.0.conv.weight", grid)
    assert 2 * 255 * np.abs(symbols.astype(int)).max() < 2**15
    assert np.allclose(symbols * scales.reshape(2, 1, 1, 1), grid.values(), atol=scales.max() / 2)
    assert np.array_equal(symbols[1], grid.symbols[1])  # these fit as they are
    written_and_read = graphs._derived("model.0.conv.weight", grid)["symbols"]
    assert written_and_read == symbols.tobytes()


def test_an_int8_graph_adds_little_and_detects_like_the_one_it_came_from(whole, fast, tmp_path: Path) -> None:
    packed_file, by_nncf, _ = fast
    assert packed_file.stat().st_size < whole[0].stat().st_size + 80_000
    detector = OpenVinoDetector(checkpoint.to_openvino(packed_file, tmp_path), THREADS)
    assert detector.execution_precision == "int8, rest f32"
    batch = np.random.default_rng(0).random((1, 3, 640, 640), dtype=np.float32)
    boxes, theirs = (d(batch)[:, :4] for d in (detector, OpenVinoDetector(by_nncf, THREADS)))
    assert np.abs(boxes - theirs).mean() < 8  # pixels of 640; activations have one scale for all boxes


def test_the_float_export_has_the_packed_weights(whole, fast) -> None:
    stored = sorted(weight.sum(dtype=np.float64) for weight in footprint.convolution_weights(fast[2]))
    ours = sorted(t.values().sum(dtype=np.float64) for t in whole[1].values() if t.symbols.ndim == 4)
    assert np.allclose([s for s in stored if s != 120], ours, atol=1e-3)  # 120 = 0 + … + 15 decodes distances


def test_a_forged_graph_is_refused(fast, tmp_path: Path) -> None:
    data, generator = fast[0].read_bytes(), np.random.default_rng(0)
    forged = tmp_path / "forged.mcpk"
    length = header_of(data)["graphs"]["int8"][0]
    for _ in range(40):
        edited = bytearray(data)
        edited[-32 - int(generator.integers(1, length))] ^= int(generator.integers(1, 256))
        forged.write_bytes(resealed(bytes(edited)))
        with pytest.raises(PackedCheckpointError):
            checkpoint.to_openvino(forged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "edit",
    [
        *(lambda places, v=value: v for value in (5, None, True, "x", {}, [5], [[0, "symbols"]])),
        lambda places: [[*places[0][:2], "nothing"]],
        lambda places: [[places[0][0], "nothing", places[0][2]]],
        lambda places: [[-1, *places[0][1:]]],
        lambda places: [[10**9, *places[0][1:]]],
        lambda places: [*places, [places[-1][0] + 1, *places[-1][1:]]],
        lambda places: places[::-1],
    ],
)
def test_a_graph_with_a_forged_list_of_parts_is_refused(fast, tmp_path: Path, edit) -> None:
    data = fast[0].read_bytes()
    header = header_of(data)
    length = header["graphs"]["int8"][0]
    plain = lzma.decompress(data[-32 - length : -32])
    end = 4 + int.from_bytes(plain[:4], "little")
    listed = json.dumps(edit(json.loads(plain[4:end]))).encode()
    section = lzma.compress(len(listed).to_bytes(4, "little") + listed + plain[end:])
    header["graphs"]["int8"][0] = len(section)
    forged = tmp_path / "forged.mcpk"
    forged.write_bytes(with_object(data[: -32 - length] + section + bytes(32), header))
    with pytest.raises(PackedCheckpointError):
        checkpoint.to_openvino(forged, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_file_without_a_graph_says_so(whole, tmp_path: Path) -> None:
    with pytest.raises(PackedCheckpointError, match="no INT8 graph"):
        checkpoint.to_openvino(whole[0], tmp_path)
    with pytest.raises(PackedCheckpointError, match="precision must be"):
        checkpoint.to_openvino(whole[0], tmp_path, "int4")


def test_zeros_are_counted_on_the_packed_file(whole) -> None:
    path, tensors = whole
    symbols = [t.symbols for t in tensors.values() if t.symbols.ndim == 4]
    zeros = sum((s == 0).sum() for s in symbols)
    assert footprint.sparsity(path) == zeros / sum(s.size for s in symbols)


def test_tensors_of_another_architecture_are_refused_on_loading(tmp_path: Path) -> None:
    path, _ = packed(tmp_path / "x.mcpk")
    with pytest.raises(PackedCheckpointError, match="not those of its architecture"):
        checkpoint.load(path)


def test_batch_norm_must_be_folded_first(tmp_path: Path) -> None:
    with pytest.raises(PackedCheckpointError, match="BatchNorm"):
        checkpoint.save(tmp_path / "x.mcpk", nn.Sequential(nn.BatchNorm2d(3)), {})


# --- the architecture ---------------------------------------------------------------------------


ARCHITECTURES = {
    **{
        name: {}
        for name in ("yolov5nu", "yolov8n", "yolov8s", "yolo11n", "yolov8n-p2", "yolov10n", "yolo26n")
    },
    **{"yolo12n": {}, "yolov9t": {}},
    "yolov8n, ReLU": {"activation": nn.ReLU()},
    "yolo11n, LeakyReLU": {"activation": nn.LeakyReLU(0.2)},
    "yolov8n, grey": {"channels": 1},
    "yolo26n, one-to-many head": {"end2end": False},
    **{f"{name}, fine-tuned": {"tuned_from": 80} for name in ("yolov8n", "yolo11n", "yolov10n", "yolo26n")},
}


@pytest.mark.parametrize("wish", ARCHITECTURES)
def test_what_is_loaded_computes_what_was_saved(wish: str, tmp_path: Path, monkeypatch) -> None:
    name = wish.split(",")[0].replace("v5nu", "v5n")
    model = random_network(f"{name}.yaml", **ARCHITECTURES[wish])
    path = checkpoint.save(tmp_path / "any.mcpk", model, {})
    monkeypatch.chdir(tmp_path)
    generator = torch.get_rng_state()
    loaded = checkpoint.load(path)
    assert torch.equal(torch.get_rng_state(), generator), "loading draws no random weights"
    image = torch.rand(1, ARCHITECTURES[wish].get("channels", 3), 96, 64)
    halved = model.half().float()
    with torch.no_grad():
        assert torch.allclose(loaded.model(image)[0], halved(image)[0], rtol=1e-3, atol=1e-3)
    assert loaded.names == model.names and loaded.model.end2end == model.end2end
    assert Conv.default_act is not ARCHITECTURES[wish].get("activation")


@pytest.mark.parametrize(("trained", "kept"), [(640, None), (100, 128), ([96, 160], 160)])
def test_a_file_knows_for_which_size_it_was_trained(trained, kept: int | None, tmp_path: Path) -> None:
    """Rounded up to what its strides ask for; ultralytics' own size takes no byte."""
    model = smallest()
    model.args = {"imgsz": trained}
    path = checkpoint.save(tmp_path / "x.mcpk", model, {})
    assert header_of(path.read_bytes())["architecture"].get("size") == kept
    loaded = checkpoint.load(path)
    assert loaded.overrides["imgsz"] == loaded.model.args["imgsz"] == (kept or 640), "what predict takes"
    assert checkpoint.save(tmp_path / "y.mcpk", loaded.model, {}).read_bytes() == path.read_bytes()


TRAP = """
nc: 2
activation: open('executed', 'w') or torch.nn.ReLU()
backbone: [[-1, 1, Conv, [16, 3, 2]]]
head: [[[0], 1, Detect, [nc]]]
"""


def test_a_description_in_the_current_folder_is_no_concern(whole, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("yolov8.yaml", "yolov8n.yaml", "n.yaml", "packed.yaml"):
        Path(name).write_text(TRAP, encoding="utf8")
    loaded = checkpoint.load(whole[0])
    assert len(loaded.names) == 80 and len(loaded.model.model) == 23 and not Path("executed").exists()
    assert type(loaded.model.model[0].act) is nn.SiLU


def test_a_file_of_version_1_is_read(whole, tmp_path: Path, monkeypatch) -> None:
    """The tensors are the same; its architecture is a name, for which nobody looks."""
    monkeypatch.chdir(tmp_path)
    Path("yolov8n.yaml").write_text(TRAP, encoding="utf8")
    data = whole[0].read_bytes()
    first = with_object(data, header_of(data) | {"architecture": "yolov8n.yaml"})
    Path("first.mcpk").write_bytes(resealed(first[:4] + b"\x01" + first[5:]))
    image = torch.rand(1, 3, 64, 64)
    old, new = checkpoint.load("first.mcpk"), checkpoint.load(whole[0])
    with torch.no_grad():
        assert torch.equal(old.model(image)[0], new.model(image)[0]) and old.names == new.names
    Path("other.mcpk").write_bytes(resealed(data[:4] + b"\x01" + data[5:]))
    with pytest.raises(PackedCheckpointError, match=r"other than yolov8n\.yaml"):
        checkpoint.load("other.mcpk")


def exchanged(model: nn.Module) -> nn.Module:
    """One layer computes something else than the description says, with the same parameters."""
    model.model[0].act = nn.ReLU()
    return model


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (lambda: Tiny(), "not a Tiny"),
        (lambda: nn.Sequential(nn.Conv2d(3, 3, 1)), "not a Sequential"),
        (lambda: random_network("yolov8n.yaml", nn.PReLU()), "activation PReLU cannot be packed"),
        (lambda: exchanged(random_network("yolov8n.yaml")), "mixes activations"),
        (
            lambda: SegmentationModel("yolov8n-seg.yaml", verbose=False).eval().fuse(verbose=False),
            "'Segment'",
        ),
    ],
)
def test_what_would_not_come_back_is_not_written(model, reason: str, tmp_path: Path) -> None:
    with pytest.raises(PackedCheckpointError, match=reason) as caught:
        checkpoint.save(tmp_path / "x.mcpk", model(), {})
    assert not os.listdir(tmp_path) and "\n" not in str(caught.value)


def test_a_model_that_its_description_does_not_describe_is_not_written(tmp_path: Path) -> None:
    """Parameters and activation are the same, outputs are not."""
    model = smallest()
    model.model[3].mode, model.model[3].size, model.model[3].scale_factor = "bilinear", None, 2
    with pytest.raises(PackedCheckpointError, match="would give back another network"):
        checkpoint.save(tmp_path / "x.mcpk", model, {})


@pytest.mark.parametrize(
    ("edit", "reason"),
    [
        (lambda layers: layers.__setitem__(1, [-1, 64, "C3k2", [8192, True, 8.0]]), "more than"),
        (lambda layers: layers[3][3].__setitem__(1, 64), "too large"),
        (
            lambda layers: layers.__setitem__(slice(1, 1), [[-1, 64, "C3k2", [8, True, 0.5]]] * 99),
            "layers with their repeats",
        ),
        (lambda layers: layers[4].__setitem__(0, [-1, 2]), "fit together"),
        (
            lambda layers: layers.__setitem__(3, [-1, 64, "nn.Upsample", [None, 2, "nearest"]]),
            "too large|fit",
        ),
        (lambda layers: layers[0][3].__setitem__(1, 5), "not those of its architecture"),
    ],
)
def test_an_architecture_that_cannot_be_built_costs_no_memory(edit, reason: str, tmp_path: Path) -> None:
    data = checkpoint.save(tmp_path / "x.mcpk", smallest(), {}).read_bytes()
    header = header_of(data)
    edit(header["architecture"]["layers"])
    (tmp_path / "x.mcpk").write_bytes(with_object(data, header))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(PackedCheckpointError, match=reason):
        checkpoint.load(tmp_path / "x.mcpk")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**18  # kB


def test_a_graph_may_be_as_large_as_its_weights(packed_int8: Path, monkeypatch) -> None:
    """The limit against what unpacks without end is meant for the rest of it."""
    xml, weights = graphs.unpacked_graph(packed_int8)
    monkeypatch.setattr(graphs, "LARGEST_GRAPH", len(xml) + 2**16)
    assert len(weights) > graphs.LARGEST_GRAPH - len(xml)
    assert graphs.unpacked_graph(packed_int8) == (xml, weights)


def test_a_small_file_declares_no_large_model(tmp_path: Path) -> None:
    path, _ = packed(tmp_path / "x.mcpk")
    data = path.read_bytes()
    header = header_of(data)
    header["tensors"][0][2] = [4096, 4096, 1, 1]
    assert "weights in" in refused(path, with_object(data, header))


def test_yolov8n_is_the_description_of_version_1(eager) -> None:
    assert architecture.architecture_of(eager.model) == architecture.yolov8n()
