"""Rounding: never worse than nearest where it counts, exact where it can be, calm about odd layers."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from modelcompression.detector import TorchDetector, load_yolo
from modelcompression.images import letterbox, to_batch
from modelcompression.methods import distance, rounding, sensitivity
from modelcompression.methods.rounding import RoundingError
from modelcompression.network import convolutions


def layer(seed: int, rows: int = 8, inputs: int = 27, images: int = 200) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (rows, n) and the second moment (n, n) of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(inputs, inputs, generator=generator) * torch.logspace(0, -1.5, inputs)
    x = torch.randn(images, inputs, generator=generator) @ mixing
    return torch.randn(rows, inputs, generator=generator), (x.T @ x / images).double()


def error(
    symbols: torch.Tensor, steps: torch.Tensor, weight: torch.Tensor, hessian: torch.Tensor
) -> torch.Tensor:
    return sensitivity.output_error(symbols * steps[:, None] - weight, hessian)


def test_feedback_is_much_better_on_correlated_inputs() -> None:
    weight, hessian = layer(0, rows=64)
    steps = rounding.steps_for_bits(weight, 3)
    found = rounding.feedback(weight, steps, sensitivity.inverse_factor(hessian))
    plain = rounding.nearest(weight, steps)
    assert error(found, steps, weight, hessian).mean() < 0.6 * error(plain, steps, weight, hessian).mean()


def damped(hessian: torch.Tensor) -> torch.Tensor:
    return hessian + sensitivity.DAMPING * hessian.diagonal().mean() * torch.eye(len(hessian))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 6), st.integers(1, 12), st.integers(1, 80), st.booleans())
def test_descent_never_raises_the_error(
    seed: int, bits: int, rows: int, inputs: int, from_feedback: bool
) -> None:
    weight, hessian = layer(seed, rows, inputs)
    steps, largest = rounding.steps_for_bits(weight, bits), rounding.largest_symbol(bits)
    start = rounding.nearest(weight, steps, largest)
    if from_feedback:
        start = rounding.feedback(weight, steps, sensitivity.inverse_factor(hessian), largest)
    before = start.clone()
    found = rounding.descend(weight, steps, start, hessian, largest)
    errors = [error(symbols, steps, weight, damped(hessian)) for symbols in (found, start)]
    assert (errors[0] <= errors[1] * (1 + 1e-4) + 1e-9).all() and torch.equal(start, before)
    assert found.min() >= -largest - 1 and found.max() <= largest


def test_descent_improves_on_nearest_and_stays_where_nothing_can_be_gained() -> None:
    weight, hessian = layer(0, rows=64)
    steps = rounding.steps_for_bits(weight, 3)
    plain = rounding.nearest(weight, steps)
    found = rounding.descend(weight, steps, plain, hessian, sweeps=20)
    assert error(found, steps, weight, hessian).mean() < 0.7 * error(plain, steps, weight, hessian).mean()
    assert torch.equal(rounding.descend(weight, steps, found, hessian), found)


def test_descent_under_a_price_makes_symbols_smaller() -> None:
    weight, hessian = layer(0, rows=64)
    steps = rounding.steps_for_bits(weight, 5)
    free = rounding.descend(weight, steps, rounding.nearest(weight, steps), hessian)
    thrifty = rounding.descend(weight, steps, free, hessian, price=torch.full(weight.shape, 4.0))
    assert thrifty.abs().sum() < 0.95 * free.abs().sum()


def test_independent_inputs_leave_nothing_to_feed_back() -> None:
    weight, _ = layer(1)
    steps = rounding.steps_for_bits(weight, 4)
    found = rounding.feedback(weight, steps, sensitivity.inverse_factor(torch.eye(27)))
    assert torch.equal(found, rounding.nearest(weight, steps))


def test_weights_on_the_grid_stay_exactly_there() -> None:
    _, hessian = layer(2)
    symbols = torch.randint(-8, 8, (5, 27)).double()
    steps = torch.tensor([0.5, 1, 0.25, 2, 0.125], dtype=torch.float64)
    found = rounding.feedback(symbols * steps[:, None], steps, sensitivity.inverse_factor(hessian), 7)
    assert torch.equal(found, symbols)


def test_one_input_with_feedback_matches_the_solution_by_hand() -> None:
    # Two equal inputs: what the first rounds away, the second can take over completely.
    hessian = torch.ones(2, 2, dtype=torch.float64)
    weight, steps = torch.tensor([[0.4, 0.4]]), torch.ones(1, dtype=torch.float64)
    found = rounding.feedback(weight, steps, sensitivity.inverse_factor(hessian, damping=1e-9))
    assert found.tolist() == [[0, 1]]  # the sum 0.8 rounds to 1; each alone would round to 0


@pytest.mark.parametrize(
    "weight",
    [torch.zeros(4, 9), torch.ones(4, 1), torch.cat([torch.zeros(2, 9), torch.randn(2, 9)])],
    ids=["all zero", "one input", "dead channels"],
)
@pytest.mark.parametrize("energy", [0.0, 1.0])
def test_degenerate_layers_round_like_any_other(weight: torch.Tensor, energy: float) -> None:
    hessian = energy * torch.eye(weight.shape[1], dtype=torch.float64)
    if weight.shape[1] > 1:
        hessian[0] = hessian[:, 0] = 0  # an input that is always 0
    steps = rounding.steps_for_bits(weight, 4)
    found = rounding.feedback(weight, steps, sensitivity.inverse_factor(hessian), 7)
    assert torch.isfinite(found).all()
    assert torch.equal(found[weight == 0], torch.zeros_like(found[weight == 0]))


def test_a_price_on_magnitudes_makes_symbols_smaller_and_cheaper() -> None:
    weight, hessian = layer(3, rows=32)
    steps = rounding.steps_for_bits(weight, 4)
    factor = sensitivity.inverse_factor(hessian)
    free = rounding.feedback(weight, steps, factor)
    priced = rounding.feedback(weight, steps, factor, price=torch.full_like(weight, 2.0))
    assert priced.abs().sum() < free.abs().sum()
    assert (priced == 0).sum() > (free == 0).sum()
    assert error(priced, steps, weight, hessian).mean() < 2 * error(free, steps, weight, hessian).mean()


def test_the_best_step_of_each_channel_is_kept() -> None:
    weight, hessian = layer(6, rows=12)
    factor, full = sensitivity.inverse_factor(hessian), rounding.steps_for_bits(weight, 3)
    shares = (0.5, 0.75, 1.0)
    symbols, steps = rounding.feedback_best_step(weight, [full * s for s in shares], hessian, factor, 3)
    found = error(symbols, steps, weight, hessian)
    for share in shares:
        alone = rounding.feedback(weight, full * share, factor, 3)
        assert (found <= error(alone, full * share, weight, hessian) * (1 + 1e-9)).all()
    assert set((steps / full).round(decimals=6).tolist()) <= set(shares)


def test_every_bit_more_and_every_step_tried_makes_the_error_smaller() -> None:
    weight, hessian = layer(8, rows=32)
    factor = sensitivity.inverse_factor(hessian)

    def found(bits: int, shares: tuple[float, ...]) -> float:
        full = rounding.steps_for_bits(weight, bits)
        candidates, largest = [full * share for share in shares], rounding.largest_symbol(bits)
        best = rounding.feedback_best_step(weight, candidates, hessian, factor, largest)
        return float(error(*best, weight, hessian).mean())

    by_bits = [found(bits, (0.6, 1.0)) for bits in (3, 4, 5, 6)]
    assert by_bits == sorted(by_bits, reverse=True) and by_bits[-1] < 0.1 * by_bits[0]
    assert found(4, (0.45, 0.6, 0.75, 1.0)) < found(4, (1.0,))


def test_bias_correction_keeps_the_mean_output() -> None:
    weight, mean = torch.randn(4, 9).double(), torch.rand(9).double()
    change = rounding.nearest(weight, torch.ones(4)) - weight
    assert torch.allclose((weight + change) @ mean + sensitivity.bias_correction(change, mean), weight @ mean)


def test_bits_go_where_the_detections_are_sensitive() -> None:
    choices = [2, 3, 4, 5, 6, 8]
    curve = torch.tensor([4.0**-bits for bits in choices])
    costs = {"sensitive": curve * torch.tensor([[1e4], [1e2]]), "tough": curve.expand(2, -1)}
    found = rounding.allot(costs, {"sensitive": 100, "tough": 100}, choices, mean_bits=4)
    assert found["sensitive"][0] > found["sensitive"][1] >= found["tough"].max()
    spent = torch.cat(list(found.values())).double().mean()
    assert 3 < spent <= 4


def test_no_other_allotment_of_as_many_bits_costs_less() -> None:
    choices, generator = [2, 3, 4], torch.Generator().manual_seed(0)
    costs = torch.rand(4, 1, generator=generator) * torch.tensor([[9.0, 3.0, 1.0]])
    found = rounding.allot({"a": costs}, {"a": 10}, choices, mean_bits=3)["a"]
    cost = sum(float(costs[row, choices.index(int(b))]) for row, b in enumerate(found))
    every = itertools.product(range(3), repeat=4)
    rivals = [
        sum(float(costs[r, c]) for r, c in enumerate(pick)) for pick in every if 8 + sum(pick) <= found.sum()
    ]
    assert cost <= min(rivals) + 1e-6


def test_each_channel_may_have_its_own_bits() -> None:
    weight, hessian = layer(5, rows=3)
    bits = torch.tensor([2, 4, 8])
    steps, largest = rounding.steps_for_bits(weight, bits), rounding.largest_symbol(bits)
    found = rounding.feedback(weight, steps, sensitivity.inverse_factor(hessian), largest)
    assert (found.amax(1) <= largest).all() and (found.amin(1) >= -largest - 1).all()
    assert found[2].abs().max() > 16


@pytest.mark.parametrize(
    ("call", "reason"),
    [
        (lambda: rounding.nearest(torch.ones(2, 3), torch.ones(3)), "steps of shape"),
        (lambda: rounding.nearest(torch.ones(2, 3), torch.tensor([1.0, 0.0])), "positive and finite"),
        (
            lambda: rounding.feedback(
                torch.ones(2, 3), torch.ones(2), sensitivity.inverse_factor(torch.eye(4))
            ),
            "a factor",
        ),
        (lambda: sensitivity.inverse_factor(torch.full((2, 2), torch.nan)), "not finite"),
        (lambda: rounding.largest_symbol(1), "bits must be"),
        (lambda: sensitivity.collect(nn.Identity(), []), "at least one image"),
        (lambda: rounding.allot({"a": torch.ones(1, 1)}, {"a": 10}, [4], mean_bits=2), "mean of 2 bits"),
    ],
)
def test_wrong_input_is_one_clear_line(call, reason: str) -> None:
    with pytest.raises((RoundingError, sensitivity.SensitivityError), match=reason):
        call()


@pytest.fixture(scope="module")
def fresh(weights) -> nn.Module:
    return load_yolo(weights)


@pytest.fixture(scope="module")
def statistics(fresh, demo) -> dict[str, sensitivity.Statistics]:
    image = to_batch(letterbox(demo.samples[0].path, 160)[0])
    return sensitivity.collect(fresh, [image], positions=100)


def test_statistics_of_one_image_cover_every_convolution(fresh, statistics) -> None:
    layers = convolutions(fresh)
    assert len(layers) == len(statistics) == 63
    for name, module in layers.items():
        found, inputs = statistics[name], module.weight[0].numel()
        assert found.hessian.shape == (inputs, inputs) and found.mean.shape == (inputs,)
        assert found.sensitivity.shape == (module.out_channels,)
        assert torch.isfinite(found.hessian).all()
        if inputs <= 600:  # the others are of the same kind, and take seconds each
            assert torch.linalg.eigvalsh(found.hessian)[0] >= -1e-4 * found.hessian.diagonal().max()
            assert torch.isfinite(sensitivity.inverse_factor(found.hessian).upper).all()


def test_the_gradients_are_those_at_the_outputs(fresh, demo, monkeypatch) -> None:
    """With the patches they make the weights' own; those behind an activation lack its slope."""
    compared = []

    def compare(sums, maps, gradients, *_) -> None:
        every = torch.arange(gradients[0, 0].numel())
        patches = sensitivity._patches(maps[0], sums._module, every)
        ours, theirs = gradients[0].flatten(1) @ patches.T, sums._module.weight.grad.flatten(1)
        compared.append(float((ours - theirs).norm() / theirs.norm()))
        sums._module.weight.grad = None

    monkeypatch.setattr(sensitivity._Sums, "add", compare)
    sensitivity.collect(fresh, [to_batch(letterbox(demo.samples[0].path, 160)[0])])
    bare = np.array([name.endswith(".2") for name in convolutions(fresh)])
    assert bare.sum() == 6 and max(np.array(compared)[bare]) < 1e-3
    assert len(compared) == 63 and min(np.array(compared)[~bare]) > 0.01


def test_distances_are_means_over_the_photographs_and_change_no_model(fresh, demo) -> None:
    batches = [to_batch(letterbox(sample.path, 160)[0]) for sample in demo.samples[:3]]
    reference, moved = distance.Reference(fresh, batches), copy.deepcopy(fresh)
    moved.get_submodule("model.22.cv3.0.2").bias.data += 0.5
    alone = [distance.Reference(fresh, [batch]).distance(moved) for batch in batches]
    assert reference.distance(fresh) == pytest.approx(0, abs=1e-3)
    assert min(alone) > 0.1
    assert reference.distance(moved) == pytest.approx(np.mean(alone))
    assert reference.distance(moved, 2) == pytest.approx(np.mean(alone[:2]))
    assert next(moved.parameters()).is_contiguous()


def test_a_model_that_ran_in_inference_mode_is_refused(weights, demo) -> None:
    model, image = load_yolo(weights), to_batch(letterbox(demo.samples[0].path, 160)[0])
    TorchDetector(model)(image)
    with pytest.raises(sensitivity.SensitivityError, match="load it anew"):
        sensitivity.collect(model, [image])


def test_statistics_repeat_up_to_the_order_of_float_sums(fresh, demo, statistics) -> None:
    image = to_batch(letterbox(demo.samples[0].path, 160)[0])
    again = sensitivity.collect(fresh, [image], positions=100)
    other = sensitivity.collect(fresh, [image], positions=100, seed=1)

    def difference(a: torch.Tensor, b: torch.Tensor) -> float:
        return float((a - b).norm() / b.norm())

    for name, found in statistics.items():
        assert difference(again[name].hessian, found.hessian) < 1e-3
        assert difference(again[name].sensitivity, found.sensitivity) < 1e-3
        assert difference(other[name].sensitivity, found.sensitivity) > 0.02


def test_rounding_is_deterministic() -> None:
    weight, hessian = layer(7, rows=16)
    steps = rounding.steps_for_bits(weight, 3)
    first, second = (
        rounding.feedback(weight, steps, sensitivity.inverse_factor(hessian), 3) for _ in range(2)
    )
    assert torch.equal(first, second)


def test_patches_are_what_the_convolution_sees(eager) -> None:
    torch.manual_seed(0)
    others = [
        nn.Conv2d(3, 4, (1, 3), padding=(0, 1)),
        nn.Conv2d(3, 4, (3, 1), stride=(2, 1)),
        nn.Conv2d(3, 4, 3, dilation=2, padding=2),
    ]
    for module in (*convolutions(eager.model).values(), *others):
        maps = torch.randn(1, module.in_channels, 12, 10)
        expected = module(maps)[0].flatten(1)
        positions = torch.randperm(expected.shape[1])[:7]
        seen = sensitivity._patches(maps[0], module, positions)
        ours = module.weight.flatten(1) @ seen + module.bias[:, None]
        assert torch.allclose(ours, expected[:, positions], atol=1e-4)


@pytest.mark.parametrize("bins", [1, 3])
def test_the_probes_gradients_have_the_curvature_of_the_distance(bins, monkeypatch) -> None:
    """Over all signs there are, the mean of the gradients' outer products is the distance's Hessian."""
    torch.manual_seed(0)
    heads = {"scores": (1, 1, 1), "boxes": (1, 4 * bins, 1)}
    raw = {name: torch.randn(shape, requires_grad=True) for name, shape in heads.items()}
    found = []
    for signs in itertools.product([-1.0, 1.0], repeat=1 + 4 * bins):
        drawn = iter([torch.tensor(signs[:1]).view(1, 1, 1), torch.tensor(signs[1:]).view(1, 4, bins, 1)])
        monkeypatch.setattr(distance, "_signs", lambda shape, generator, drawn=drawn: next(drawn))
        gradients = torch.autograd.grad(distance.probe(raw, torch.Generator()), list(raw.values()))
        found.append(torch.cat([gradient.flatten() for gradient in gradients]))
    reference = {name: value.detach() for name, value in raw.items()}

    def moved(logits: torch.Tensor) -> torch.Tensor:
        return distance.distance(
            {"scores": logits[:1].view(1, 1, 1), "boxes": logits[1:].view(1, -1, 1)}, reference
        )

    there = torch.cat([value.flatten() for value in reference.values()])
    expected = torch.autograd.functional.hessian(moved, there)
    outer = torch.stack(found)
    assert torch.allclose(outer.T @ outer / len(outer), expected, atol=1e-5)


def test_the_sensitivity_predicts_what_noise_does(fresh, demo) -> None:
    """Gauss-Newton against the truth: small noise on one layer moves the detections as far as predicted."""
    image = to_batch(letterbox(demo.samples[0].path, 160)[0])
    statistics = sensitivity.collect(fresh, [image] * 12, positions=10**6)
    model, generator = fresh, torch.Generator().manual_seed(0)
    pixels = torch.from_numpy(image)
    for name in ("model.4.cv1.conv", "model.15.cv2.conv"):
        weight = model.get_submodule(name).weight
        saved, found, sigma = weight.detach().clone(), [], 0.01 * float(weight.std())
        with torch.no_grad():
            reference = {key: model(pixels)[1][key].clone() for key in ("scores", "boxes")}
            for _ in range(12):
                weight.copy_(saved + sigma * torch.randn(saved.shape, generator=generator))
                found.append(float(distance.distance(model(pixels)[1], reference)))
            weight.copy_(saved)
        predicted = sigma**2 / 2 * float(statistics[name].sensitivity.sum()) * saved[0].numel()
        assert 0.4 < np.mean(found) / predicted < 2.5
