"""Healing: weights stay on their grid, the distance falls, interruptions cost nothing, val2017 stays out."""

import copy
import shutil
from pathlib import Path

import cv2
import numpy as np
import openvino
import pytest
import torch
from conftest import THREADS

from modelcompression import ROOT
from modelcompression.dataset import from_folder
from modelcompression.detector import load_yolo
from modelcompression.grid import nearest_exponents, step_sizes
from modelcompression.images import letterbox, planes, to_batch
from modelcompression.methods import album, healing, shipping
from modelcompression.methods.album import Album, HealingError, photographs_in
from modelcompression.methods.distance import distance
from modelcompression.methods.healing import Exam, asker, heal, schedule
from modelcompression.methods.lean import LeanDetector
from modelcompression.methods.patients import LARGEST_BIAS, Patient
from modelcompression.methods.teacher import Teacher, shrunk
from modelcompression.methods.transport import Transport
from modelcompression.network import convolutions, undecoded
from modelcompression.packed import checkpoint
from modelcompression.packed.tensors import Grid, Half
from modelcompression.subject import Subject

SIZE = 64


@pytest.fixture(scope="module")
def original(weights) -> torch.nn.Module:
    return load_yolo(weights)


@pytest.fixture(scope="module")
def teacher(original) -> Teacher:
    return Teacher(original, "cpu")


@pytest.fixture(scope="module")
def tensors(original) -> dict[str, Grid]:
    """A coarse grid for each layer, rounded to the nearest."""
    return on_coarse_grids(original)


def on_coarse_grids(model: torch.nn.Module) -> dict[str, Grid]:
    found = {}
    for name, module in convolutions(model).items():
        weight = module.weight.detach().numpy()
        exponents = nearest_exponents(np.full(len(weight), 0.7 * weight.std()))
        steps = step_sizes(exponents)[:, None, None, None]
        found[f"{name}.weight"] = Grid(np.rint(weight / steps).astype(int), exponents)
    return found


@pytest.fixture(scope="module")
def photographs(tmp_path_factory, report_set) -> list[Path]:
    """Sixteen files made of the few photographs at hand."""
    folder, random = tmp_path_factory.mktemp("photographs"), np.random.default_rng(0)
    images = [cv2.imread(str(sample.path)) for sample in report_set.first(4).samples]
    for number in range(16):
        image = cv2.resize(images[number % len(images)], (2 * SIZE, 2 * SIZE))
        top, left = random.integers(0, SIZE // 2, 2)
        cv2.imwrite(str(folder / f"{number:02}.png"), image[top:, left:])
    return sorted(folder.iterdir())


@pytest.fixture(scope="module")
def pictures(photographs) -> Album:
    return Album(photographs, SIZE)


def run(patient: Patient, teacher: Teacher, pictures: Album, steps: int = 6, **how) -> healing.Healed:
    return heal(patient, teacher, pictures, steps=steps, batch=2, progress=False, **how)


# --- training ---------------------------------------------------------------------------------


def test_weights_stay_on_their_grid_and_the_distance_falls(
    original, teacher, tensors, pictures, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(healing, "EXAMINED_AT", ())
    found = run(Patient(original, tensors, device="cpu", rate=0.03), teacher, pictures, 60)
    assert found.after < found.before and [row[0] for row in found.history] == [60]
    moved = 0
    for name, module in convolutions(found.model).items():
        grid = found.tensors[f"{name}.weight"]
        assert np.array_equal(grid.exponents, tensors[f"{name}.weight"].exponents)
        assert np.array_equal(module.weight.numpy(), grid.values())
        assert np.array_equal(module.bias.numpy(), found.tensors[f"{name}.bias"].values())
        moved += int((grid.symbols != tensors[f"{name}.weight"].symbols).sum())
    assert moved > 0
    packed = checkpoint.save(tmp_path / "healed.mcpk", found.model, found.tensors)
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        ours, read = found.model(x)[0], checkpoint.load(packed).model(x)[0]
    assert torch.allclose(ours, read, atol=1e-3)


def test_the_distance_is_that_of_the_model_that_comes_out(original, teacher, tensors, pictures) -> None:
    found = run(Patient(original, tensors, device="cpu"), teacher, pictures, 2)
    held_out = pictures.held_out()
    with torch.no_grad():
        theirs, ours = copy.deepcopy(original)(held_out)[1], found.model(held_out)[1]
    assert float(distance(ours, theirs)) == pytest.approx(found.after, rel=0.02)


def test_free_weights_heal_for_a_smaller_image_and_zeros_stay(original, teacher, pictures) -> None:
    student = copy.deepcopy(original)
    for module in convolutions(student).values():
        module.weight.data[module.weight.abs() < 0.3 * module.weight.std()] = 0
    before = copy.deepcopy(student.state_dict())
    found = run(Patient(student, size=32, device="cpu"), teacher, pictures, 16)
    assert found.tensors is None and found.after < 0.95 * found.before
    for name, module in convolutions(found.model).items():
        assert torch.equal(module.weight == 0, student.get_submodule(name).weight == 0)
    assert all(torch.equal(value, before[key]) for key, value in student.state_dict().items())


@pytest.mark.parametrize("name", ["yolo11n-shapes", "yolov10n-shapes", "yolo26n-shapes"])
def test_other_heads_heal_from_the_first_layer_on(name: str, pictures, tmp_path: Path) -> None:
    """Depthwise convolutions, heads that suppress their own duplicates, heads without distributions."""
    model = checkpoint.load(ROOT / "tests" / "models" / f"{name}.mcpk").model
    tensors, teacher = on_coarse_grids(model), Teacher(model, "cpu")
    patient = Patient(model, tensors, size=SIZE // 2, device="cpu")
    images, losses = pictures.batch(0, 4), []
    small, wanted = shrunk(images, SIZE // 2), asker(teacher, SIZE, SIZE // 2)(images)
    for _ in range(12):
        patient.learn(small, wanted, 1.0)
        losses.append(float(patient.loss))
    assert losses[-1] < 0.95 * losses[0]
    assert patient._gradients[: model.model[0].conv.weight.numel()].any()
    patient.examine(small, wanted)
    healed, grids = patient.healed()
    packed = checkpoint.load(checkpoint.save(tmp_path / "healed.mcpk", healed, grids)).model
    with torch.no_grad():
        ours, read = undecoded(healed, small), undecoded(packed, small)
    assert all(torch.allclose(ours[key], read[key], atol=1e-3) for key in ours)


def test_an_untrained_student_is_the_packed_one(original, tensors) -> None:
    model, grids = Patient(original, tensors, device="cpu").healed()
    for name, grid in tensors.items():
        assert np.array_equal(grids[name].symbols, grid.symbols)
    x = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    packed = copy.deepcopy(original)
    packed.load_state_dict({n: torch.from_numpy(grid.values()) for n, grid in grids.items()}, strict=False)
    with torch.no_grad():
        assert torch.allclose(model(x)[0], packed(x)[0], atol=1e-3)


def test_an_overflowing_gradient_is_skipped(original, tensors) -> None:
    patient = Patient(original, tensors, device="cpu")
    before, patient._half = patient._latents.clone(), torch.float16
    patient._rate.fill_(1.0)
    patient._gradients.fill_(1.0)[7] = torch.inf
    scale = float(patient._scale.fill_(64))
    patient._update()
    assert torch.equal(patient._latents, before) and float(patient._scale) == scale / 2
    patient._gradients.fill_(1.0)
    patient._update()
    assert (patient._latents < before).all() and float(patient._scale) == scale / 2


def test_the_rate_warms_up_and_ends_at_zero() -> None:
    assert schedule(0, 0.0) == pytest.approx(1 / healing.WARM_UP)
    assert schedule(100, 0.0) == 1 and schedule(100, 0.5) == pytest.approx(0.5)
    assert schedule(100, 1.0) == pytest.approx(0) and schedule(100, 2.0) == pytest.approx(0)


def test_a_budget_in_minutes_ends(original, teacher, tensors, pictures) -> None:
    budget = 0.02
    found = heal(
        Patient(original, tensors, device="cpu"), teacher, pictures, minutes=budget, batch=2, progress=False
    )
    assert found.history[-1][0] >= 1 and found.history[-1][1] >= 60 * budget


def test_biases_get_about_a_thousand_levels() -> None:
    bias = np.random.default_rng(0).normal(size=40).astype(np.float32)
    grid = Grid.fine(bias, LARGEST_BIAS)
    assert 450 <= np.abs(grid.symbols).max() <= 550
    assert np.abs(grid.values() - bias).max() <= 0.51 * step_sizes(grid.exponents)[0]
    assert not Grid.fine(np.zeros(3, np.float32), LARGEST_BIAS).values().any()


# --- interruption -----------------------------------------------------------------------------


def test_an_interrupted_healing_goes_on_as_if_nothing_had_been(
    original, teacher, tensors, pictures, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(healing, "CHECKED_EVERY", 1)
    whole = run(Patient(original, tensors, device="cpu", rate=0.05), teacher, pictures)
    state, batch = tmp_path / "healing.state", pictures.batch

    def interrupted(step: int, count: int) -> torch.Tensor:
        if step == 3:
            raise KeyboardInterrupt
        return batch(step, count)

    monkeypatch.setattr(pictures, "batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(Patient(original, tensors, device="cpu", rate=0.05), teacher, pictures, state=state)
    monkeypatch.undo()
    patient = Patient(original, tensors, device="cpu", rate=0.05)
    resumed = run(patient, teacher, pictures, state=state)
    assert resumed.before == whole.before and resumed.after == pytest.approx(whole.after, rel=1e-3)
    assert [row[0] for row in resumed.history] == [row[0] for row in whole.history]
    different = sum(
        int((grid.symbols != resumed.tensors[name].symbols).sum()) for name, grid in whole.tensors.items()
    )
    assert different < 30  # sums in another order may tip a weight that lies between two grid points
    again = run(Patient(original, tensors, device="cpu", rate=0.05), teacher, pictures, state=state)
    assert again.after == resumed.after and len(again.history) == len(resumed.history)
    assert [path.name for path in tmp_path.iterdir()] == ["healing.state"]


def test_a_state_is_only_for_its_student(original, teacher, tensors, pictures, tmp_path) -> None:
    state = tmp_path / "healing.state"
    run(Patient(original, tensors, device="cpu"), teacher, pictures, 1, state=state)
    with pytest.raises(HealingError, match="another student"):
        run(Patient(original, device="cpu"), teacher, pictures, 1, state=state)
    kept = state.read_bytes()
    for broken in (b"", b"no state", kept[:1000], pickled_nonsense()):
        state.write_bytes(broken)
        with pytest.raises(HealingError, match="no state of a healing") as error:
            run(Patient(original, tensors, device="cpu"), teacher, pictures, 1, state=state)
        assert "\n" not in str(error.value)


def pickled_nonsense() -> bytes:
    import io

    content = io.BytesIO()
    torch.save({"step": 3}, content)
    return content.getvalue()


# --- refusals ---------------------------------------------------------------------------------


def test_budgets_and_losses_that_make_no_sense(original, teacher, tensors, pictures, monkeypatch) -> None:
    patient = Patient(original, tensors, device="cpu")
    for budget in ({}, {"steps": 3, "minutes": 1}, {"steps": 0}, {"minutes": -1.0}):
        with pytest.raises(HealingError, match="budget"):
            heal(patient, teacher, pictures, **budget)
    patient = Patient(original, tensors, device="cpu", rate=1e6)
    with pytest.raises(HealingError, match="not finite"):
        run(patient, teacher, pictures, 20)


def test_a_student_that_does_not_detect_the_same(original, teacher, tensors, pictures) -> None:
    other = copy.deepcopy(original)
    for branch in other.model[-1].cv3:
        branch[2] = torch.nn.Conv2d(branch[2].in_channels, 7, 1)
    other.model[-1].nc = 7
    with pytest.raises(HealingError, match="no such detector"):
        run(Patient(other, device="cpu"), teacher, pictures, 1)
    wrong = {name: Grid(grid.symbols[:, :1], grid.exponents) for name, grid in tensors.items()}
    other = {name: Half(grid.values().astype(np.float16)) for name, grid in tensors.items()}
    for given in (wrong, other):
        with pytest.raises(HealingError, match="no grid of the shape"):
            Patient(original, given, device="cpu")


# --- photographs ------------------------------------------------------------------------------


def test_too_few_photographs(photographs, tmp_path) -> None:
    for count in (0, 3):
        with pytest.raises(HealingError, match=f"at least 16 photographs, not {count}"):
            Album(photographs[:count], SIZE)
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(b"no image")
    with pytest.raises(HealingError, match="no readable image"):
        Album([*photographs, broken], SIZE)


def test_photographs_of_val2017_are_left_out(photographs, tmp_path) -> None:
    folder = tmp_path / "mine"
    (folder / "val2017").mkdir(parents=True)
    for name in ("a.JPG", "000000000139.jpg", "val2017/other.png", "notes.txt", "b.tiff"):
        shutil.copy(photographs[0], folder / name)
    found = photographs_in(folder)
    assert [path.name for path in found.paths] == ["a.JPG", "b.tiff"]
    assert str(found) == "2 photographs, 2 of val2017 left out"
    (folder / "a.JPG").unlink(), (folder / "b.tiff").unlink()
    with pytest.raises(HealingError, match="no photographs to learn from"):
        photographs_in(folder)
    with pytest.raises(HealingError, match="is not a folder"):
        photographs_in(folder / "nowhere")


def test_batches_are_reproducible_and_never_show_what_is_held_out(photographs) -> None:
    one, other = Album(photographs, SIZE), Album(photographs[::-1], SIZE)
    assert len(one) == 14 and one.held_out().shape == (2, 3, SIZE, SIZE)
    assert torch.equal(one.batch(5, 3), other.batch(5, 3))
    assert not torch.equal(one.batch(5, 3), Album(photographs, SIZE, seed=1).batch(5, 3))
    assert torch.equal(one.held_out(), other.held_out())
    assert not torch.equal(one.batch(5, 3), one.batch(6, 3))
    batch = one.batch(0, 8)
    assert batch.shape == (8, 3, SIZE, SIZE) and batch.min() >= 0 and batch.max() <= 1
    taken = [path for path in one._held_out if any(torch.equal(path, image) for image in one._images)]
    assert not taken


def test_held_out_photographs_are_seen_as_when_measured(photographs) -> None:
    shown = Album(photographs, SIZE)
    names = sorted(photographs, key=lambda path: path.name)
    index = int(np.random.default_rng(0).permutation(16)[0])
    wanted = to_batch(letterbox(names[index], SIZE)[0])[0]
    assert np.abs(shown.held_out()[0].numpy() - wanted).mean() < 0.05


def test_a_grey_detector_learns_from_grey_pictures(photographs) -> None:
    shown = Album(photographs, SIZE, channels=1)
    assert shown.batch(0, 3).shape == (3, 1, SIZE, SIZE)
    index = int(np.random.default_rng(0).permutation(16)[0])
    wanted = planes(1, letterbox(photographs[index], SIZE)[0])[0]
    assert np.abs(shown.held_out()[0].numpy() - wanted).mean() < 0.05
    with pytest.raises(HealingError, match="3 channels or 1, the detector wants 6"):
        Album(photographs, SIZE, channels=6)


def test_a_mosaic_has_four_parts(photographs, monkeypatch) -> None:
    monkeypatch.setattr(album, "MOSAIC_SHARE", 1.0)
    shown = Album(photographs, SIZE)
    parts = shown._parts(torch.zeros(3, SIZE, SIZE), np.random.default_rng(0))
    assert len(parts) == 4 and sum(part[0].numel() for part in parts) == SIZE * SIZE


# --- another input size -----------------------------------------------------------------------


def test_transport_between_equal_sizes_changes_nothing(teacher, pictures) -> None:
    found = teacher(pictures.batch(0, 2), exact=True)
    moved = Transport(SIZE, SIZE)(found)
    assert torch.allclose(moved["scores"], found["scores"], atol=1e-5)
    assert abs(float(distance(moved, found))) < 1e-3


@pytest.mark.parametrize(
    ("ours", "strides", "bins"),
    [
        (512, (8, 16, 32), 16), (576, (8, 16, 32), 16), (640, (8, 16, 32), 16),
        (512, (8, 16, 32, 64), 16), (576, (8, 16, 32), 1),
    ],
)  # fmt: skip
def test_transported_boxes_stay_where_they_are(ours: int, strides: tuple[int, ...], bins: int) -> None:
    """The teacher's anchors inside a box are sure of it; so are the student's, in their own pixels."""
    box = torch.tensor([300.0, 310.0, 400.0, 420.0])
    centres, _ = grid_of(640, strides)
    sure = (centres > box[:2]).all(1) & (centres < box[2:]).all(1)
    scores = torch.where(sure, 9.0, -20.0).expand(1, 2, -1)
    transport = Transport(640, ours, "cpu", strides, bins)
    moved = transport({"scores": scores, "boxes": pointing_at(box, 640, strides, bins)})
    found, centres = edges(moved["boxes"], ours, strides, bins)
    box = box * ours / 640
    inside = (centres > box[:2] + 32).all(1) & (centres < box[2:] - 32).all(1)
    assert inside.sum() > 5
    assert torch.allclose(found[inside], box.expand(int(inside.sum()), 4), atol=0.1)


def grid_of(size: int, every: tuple[int, ...]) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres of the anchors (A, 2) in pixels, and strides (A, 1)."""
    centres, strides = [], []
    for stride in every:
        y, x = torch.meshgrid(*[torch.arange(size // stride) + 0.5] * 2, indexing="ij")
        centres.append(torch.stack([x, y], -1).reshape(-1, 2) * stride)
        strides.append(torch.full((x.numel(), 1), float(stride)))
    return torch.cat(centres), torch.cat(strides)


def pointing_at(box: torch.Tensor, size: int, strides: tuple[int, ...], bins: int) -> torch.Tensor:
    """(1, 4 · bins, A): each side's distance, or split between two whole numbers."""
    centres, strides = grid_of(size, strides)
    distances = torch.cat([centres - box[:2], box[2:] - centres], 1) / strides
    if bins == 1:
        return distances.T[None]
    distances = distances.clamp(0, 15)
    hats = (1 - (distances[:, :, None] - torch.arange(16)).abs()).clamp(min=1e-9)
    return hats.log().flatten(1).T[None]


def edges(
    boxes: torch.Tensor, size: int, strides: tuple[int, ...], bins: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Edges (A, 4) in pixels, and centres (A, 2)."""
    centres, strides = grid_of(size, strides)
    distances = boxes[0].T
    if bins > 1:
        distances = distances.unflatten(1, (4, bins)).softmax(2) @ torch.arange(float(bins))
    distances = distances * strides
    return torch.cat([centres - distances[:, :2], centres + distances[:, 2:]], 1), centres


def test_sides_that_are_no_multiples_of_32() -> None:
    with pytest.raises(ValueError, match="multiples of 32"):
        Transport(640, 500)


def test_an_int8_graph_is_that_of_its_own_detector(pictures, photographs, tmp_path: Path) -> None:
    file = ROOT / "tests" / "models" / "yolo11n-shapes.mcpk"
    subject = Subject.of(checkpoint.load(file).model)
    images, _ = from_folder(photographs[0].parent, subject.names, 4)
    made = shipping.int8_alone(file, tmp_path / "alone.xml", images, 2 * SIZE)
    packed = shipping.with_int8(file, tmp_path / "with.mcpk", images, 2 * SIZE)
    for graph in (made, checkpoint.to_openvino(packed, tmp_path)):
        assert openvino.Core().read_model(graph).input(0).shape == [1, 3, 2 * SIZE, 2 * SIZE]
        detector = LeanDetector(graph, THREADS, subject=subject)
        assert detector.execution_precision == "int8, rest f32"
    head = f"/model.{subject.head}/"
    names = [op.get_friendly_name() for op in openvino.Core().read_model(made).get_ops()]
    assert not [name for name in names if name.startswith(f"{head}dfl") and "fq_" in name]


def test_a_smaller_image_costs_something(original, teacher, pictures) -> None:
    assert Exam(pictures, teacher)(Patient(original, device="cpu")) == pytest.approx(0, abs=1e-3)
    assert Exam(pictures, teacher, 32)(Patient(original, size=32, device="cpu")) > 0.05
