"""Distillation: it repairs, it keeps zeros, and an interrupted one leaves the model as it was."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import THREADS

from modelcompression.detector import TorchDetector, load_yolo
from modelcompression.images import letterbox, to_batch
from modelcompression.methods import distillation
from modelcompression.methods.album import Album
from modelcompression.methods.distance import distance as moved
from modelcompression.methods.distillation import DistillationError
from modelcompression.network import convolutions
from modelcompression.packed import checkpoint

MODELS = Path(__file__).parent / "models"


@pytest.fixture(scope="module")
def teacher(weights) -> torch.nn.Module:
    return load_yolo(weights)


@pytest.fixture(scope="module")
def damaged(teacher) -> torch.nn.Module:
    """The smallest fifth of each layer's weights gone, and noise on the others."""
    model, generator = copy.deepcopy(teacher), torch.Generator().manual_seed(0)
    for module in convolutions(model).values():
        weight = module.weight.data
        noise = 1 + 0.05 * torch.randn(weight.shape, generator=generator)
        module.weight.data = torch.where(weight.abs() < weight.abs().quantile(0.2), 0.0, weight * noise)
    return model


@pytest.fixture(scope="module")
def album(report_set) -> Album:
    """A few photographs, each several times: that they are held out as well is of no importance here."""
    paths = [sample.path for sample in report_set.first(6).samples]
    return Album((paths * 16)[:16], 192)


def damaged_from(first: int, teacher: torch.nn.Module, damaged: torch.nn.Module) -> torch.nn.Module:
    """The teacher with the layers from one number on damaged."""
    model = copy.deepcopy(teacher)
    for number in range(first, len(model.model)):
        model.model[number] = copy.deepcopy(damaged.model[number])
    return model


def test_it_repairs_and_keeps_zeros(teacher, damaged, album, report_set) -> None:
    x = torch.from_numpy(to_batch(letterbox(report_set.samples[0].path, 320)[0]))

    def distance(model: torch.nn.Module) -> float:
        with torch.no_grad():
            return float(moved(copy.deepcopy(model)(x)[1], copy.deepcopy(teacher)(x)[1]))

    before = copy.deepcopy(damaged.state_dict())
    repaired, losses = distillation.distill(damaged, teacher, album, 25, 3e-3, batch=3)
    assert len(losses) == 25 and distance(repaired) < 0.7 * distance(damaged)
    for name, module in convolutions(repaired).items():
        zero = damaged.get_submodule(name).weight == 0
        assert zero.any() and torch.equal(module.weight == 0, zero)
    assert all(torch.equal(value, before[name]) for name, value in damaged.state_dict().items())


@pytest.mark.parametrize("name", ["yolo11n-shapes", "yolov10n-shapes", "yolo26n-shapes"])
def test_other_networks_are_repaired_down_to_their_first_layer(name: str, album) -> None:
    """With attention, and with heads that suppress their own duplicates."""
    teacher = checkpoint.load(MODELS / f"{name}.mcpk").model
    student = copy.deepcopy(teacher)
    for module in convolutions(student).values():
        module.weight.data *= 0.9
    repaired, losses = distillation.distill(student, teacher, album, 12, 3e-3, batch=2)
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3])
    assert not torch.equal(*(next(iter(convolutions(m).values())).weight for m in (repaired, student)))


def test_layers_that_compression_left_alone_stay_as_they_are(teacher, damaged, album) -> None:
    student = damaged_from(21, teacher, damaged)
    repaired, losses = distillation.distill(student, teacher, album, 25, 3e-3, batch=3)
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    for number, pair in enumerate(zip(repaired.model, student.model, strict=True)):
        ours, before = ([p.detach() for p in layer.parameters()] for layer in pair)
        learnt = not all(torch.equal(a, b) for a, b in zip(ours, before, strict=True))
        assert learnt == (number >= 21)


def test_what_both_models_share_is_what_each_computes(teacher, damaged) -> None:
    student = damaged_from(18, teacher, damaged)
    images = torch.rand(2, 3, 96, 64, generator=torch.Generator().manual_seed(0))
    first = distillation._first_changed(student, teacher)
    shared, wanted = distillation._seen(copy.deepcopy(teacher), first, images)
    with torch.no_grad():
        continued = distillation._run(copy.deepcopy(student).model[first:], shared)[-1][1]
        whole = {"theirs": copy.deepcopy(teacher)(images)[1], "ours": copy.deepcopy(student)(images)[1]}
    assert first == 18
    for key in ("scores", "boxes"):
        assert torch.allclose(wanted[key], whole["theirs"][key], atol=1e-4)
        assert torch.allclose(continued[key], whole["ours"][key], atol=1e-4)


def test_a_batch_is_used_as_often_as_asked(teacher, damaged, album, monkeypatch) -> None:
    asked = []

    def batch(step: int, count: int) -> torch.Tensor:
        asked.append(step)
        return torch.zeros(count, 3, 64, 64)

    monkeypatch.setattr(album, "batch", batch)
    for uses, steps in ((1, [0, 1, 2, 3, 4, 5]), (3, [0, 3])):
        asked.clear()
        _, losses = distillation.distill(damaged, teacher, album, 6, batch=1, uses=uses)
        assert (asked, len(losses)) == (steps, 6)
    with pytest.raises(DistillationError, match="at least once"):
        distillation.distill(damaged, teacher, album, 6, uses=0)


def test_a_model_that_has_run_can_be_trained_and_run_again(teacher, damaged, album) -> None:
    for model in (teacher, damaged):
        TorchDetector(copy.deepcopy(model))
    used = TorchDetector(copy.deepcopy(damaged), THREADS).model
    repaired, _ = distillation.distill(used, teacher, album, 1, batch=1)
    assert not any(parameter.requires_grad for parameter in repaired.parameters())
    assert TorchDetector(repaired, THREADS)(np.zeros((1, 3, 64, 64), np.float32)).shape == (1, 84, 84)


def test_an_interrupted_run_leaves_the_student_alone(teacher, damaged, album) -> None:
    before = copy.deepcopy(damaged.state_dict())

    def interrupted(steps: range):
        yield 0
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        distillation.distill(damaged, teacher, album, 5, batch=1, progress=interrupted)
    assert all(torch.equal(value, before[name]) for name, value in damaged.state_dict().items())
    assert not any(parameter.requires_grad for parameter in damaged.parameters())


def test_a_rate_that_destroys_is_named(teacher, damaged, album) -> None:
    with pytest.raises(DistillationError, match="lower the rate"):
        distillation.distill(damaged, teacher, album, 30, rate=1e9, batch=1)
