"""Structured pruning: couplings of the real graph, promised savings, files that load anywhere."""

import copy
import subprocess
import sys

import numpy as np
import pytest
import torch
from conftest import THREADS
from torch import nn
from ultralytics import YOLO

from modelcompression.detector import TorchDetector, load_yolo
from modelcompression.images import letterbox, to_batch
from modelcompression.measure import accuracy
from modelcompression.methods import channels, distance, sensitivity
from modelcompression.methods.channels import ChannelError, Narrowing
from modelcompression.methods.sensitivity import Statistics
from modelcompression.network import convolutions, resize
from modelcompression.packed import checkpoint
from modelcompression.packed.tensors import PackedCheckpointError


@pytest.fixture(scope="module")
def measured(weights, report_set) -> tuple[nn.Module, dict[str, Statistics]]:
    model = load_yolo(weights)
    photographs = (to_batch(letterbox(s.path, 320)[0]) for s in report_set.first(6).samples)
    return model, sensitivity.collect(model, photographs, positions=400)


@pytest.fixture(scope="module")
def slightly(measured) -> tuple[nn.Module, Narrowing]:
    narrowing = Narrowing(*measured)
    narrowing.narrow(0.95)
    return narrowing.model_now(), narrowing


@pytest.fixture(scope="module")
def narrowed(slightly) -> tuple[nn.Module, Narrowing]:
    """From there on: what channels cost takes long to find out for the first time."""
    _, narrowing = slightly
    narrowing.narrow(0.9)
    return narrowing.model_now(), narrowing


def test_groups_follow_concatenations_upsampling_and_pooling(measured) -> None:
    found = {group.producer: group.readers for group in channels.groups(measured[0])}
    assert found["model.6.cv2.conv"] == (("model.7.conv", 0), ("model.12.cv1.conv", 256))
    assert found["model.9.cv1.conv"] == tuple(("model.9.cv2.conv", 128 * part) for part in range(4))
    assert found["model.12.m.0.cv2.conv"] == (("model.12.cv2.conv", 128),)
    assert found["model.15.cv2.conv"][1:] == (("model.22.cv2.0.0.conv", 0), ("model.22.cv3.0.0.conv", 0))
    assert "model.4.m.0.cv2.conv" not in found  # added to its own input
    assert "model.4.cv1.conv" not in found  # split into halves
    assert "model.22.cv3.0.2" not in found  # the classes


def test_silencing_a_group_changes_only_what_its_readers_read(measured) -> None:
    # Zeros in a channel and zeros in what reads it must be the same model, for every group.
    model, _ = measured
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    for group in channels.groups(model):
        outputs = []
        for silenced in ("producer", "readers"):
            candidate = copy.deepcopy(model)
            if silenced == "producer":
                module = candidate.get_submodule(group.producer)
                module.weight.data[3], module.bias.data[3] = 0, 0  # SiLU(0) = 0
            for reader, first in group.readers if silenced == "readers" else ():
                candidate.get_submodule(reader).weight.data[:, first + 3] = 0
            with torch.no_grad():
                outputs.append(candidate(x)[1]["scores"])
        assert torch.allclose(*outputs, atol=1e-4), group


def test_multiplications_fall_by_what_is_claimed(measured, narrowed) -> None:
    model, narrowing = narrowed
    before, after = channels.multiplications(measured[0]), channels.multiplications(model)
    assert before == 4_371_456_000  # 8.7 GFLOPs, as ultralytics says
    assert after == narrowing.multiplications() <= 0.9 * before
    assert after > 0.8 * before
    parameters = [sum(p.numel() for p in m.parameters()) for m in (measured[0], model)]
    assert parameters[1] < parameters[0]


@pytest.mark.parametrize("size", [320, 640])
def test_the_narrow_model_runs_at_any_size(narrowed, size: int) -> None:
    output = TorchDetector(narrowed[0], THREADS)(np.full((1, 3, size, size), 0.5, np.float32))
    assert output.shape == (1, 84, 21 * (size // 32) ** 2) and np.isfinite(output).all()


def test_whole_units_go(measured, narrowed) -> None:
    for name, module in convolutions(narrowed[0]).items():
        assert (measured[0].get_submodule(name).out_channels - module.out_channels) % 16 == 0


def test_refitting_and_choosing_keep_the_detections_near(measured, slightly, report_set) -> None:
    model, found = measured
    x = torch.from_numpy(to_batch(letterbox(report_set.samples[0].path, 320)[0]))
    arbitrary = Narrowing(model, found)
    while arbitrary.multiplications() > 0.95 * channels.multiplications(model):
        group = next(g for g in arbitrary.groups if arbitrary.outputs[g.producer].sum() > 32)
        arbitrary._remove(group, arbitrary.outputs[group.producer].nonzero()[:16, 0])
    with torch.no_grad():
        near, far = (
            float(distance.distance(narrow(x)[1], model(x)[1]))
            for narrow in (slightly[0], arbitrary.model_now())
        )
    assert near < 0.02 * far  # without a refit, or with the dearest channels of a group, it is 0.03 to 0.04


def test_a_narrow_model_survives_its_file_in_a_fresh_process(narrowed, tmp_path) -> None:
    model, _ = narrowed
    path = checkpoint.save(tmp_path / "narrow.mcpk", model, {})
    batch = np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32)
    np.save(tmp_path / "batch.npy", batch)
    code = (
        "import numpy as np\n"
        "from modelcompression.packed import checkpoint\n"
        "from modelcompression.detector import TorchDetector\n"
        f"detector = TorchDetector(checkpoint.load({str(path)!r}).model, {THREADS})\n"
        "np.save('output.npy', detector(np.load('batch.npy')))"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, capture_output=True)
    here = TorchDetector(checkpoint.load(path).model, THREADS)(batch)
    assert np.allclose(np.load(tmp_path / "output.npy"), here, atol=1e-3)
    halves = TorchDetector(model, THREADS)(batch)
    assert np.abs(here - halves)[:, 4:].max() < 0.02


def test_channels_that_do_not_fit_together_are_refused(narrowed, tmp_path) -> None:
    broken = copy.deepcopy(narrowed[0])
    module = broken.get_submodule("model.3.conv")
    resize(module, module.weight[:-8], module.bias[:-8])
    with pytest.raises(PackedCheckpointError, match="do not fit"):
        checkpoint.save(tmp_path / "broken.mcpk", broken, {})


def test_a_share_out_of_reach_says_so(measured) -> None:
    with pytest.raises(ChannelError, match="less than 128 channels"):
        Narrowing(*measured, unit=128).narrow(0.01)


def test_a_narrow_model_still_detects(narrowed, measured, report_set) -> None:
    images = report_set.first(6)
    narrow, dense = TorchDetector(narrowed[0], THREADS), TorchDetector(copy.deepcopy(measured[0]), THREADS)
    found, original = (accuracy.evaluate(d, images, 320, progress=False).map50_95 for d in (narrow, dense))
    assert found > 0.85 * original  # without a refit 0.75


def test_what_is_no_detection_model_or_not_folded_is_refused() -> None:
    for other, says in ((nn.Conv2d(3, 3, 1), "no detection model"), (YOLO("yolov8n.yaml").model, "fold")):
        with pytest.raises(ChannelError, match=says):
            channels.groups(other)
    assert channels.groups(YOLO("yolov8s.yaml").model.fuse(verbose=False).eval())
