"""Pruning: what can be checked by hand, what must never happen, and the real model with fewer weights."""

import copy
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import random_network
from torch import nn

from modelcompression.detector import load_yolo
from modelcompression.images import letterbox, to_batch
from modelcompression.measure import footprint
from modelcompression.methods import pruning, sensitivity
from modelcompression.methods.distance import distance as moved
from modelcompression.methods.pruning import PruningError
from modelcompression.methods.sensitivity import DAMPING, Statistics
from modelcompression.network import convolutions
from modelcompression.packed import checkpoint
from modelcompression.packed.tensors import Sparse


def statistics(hessian: torch.Tensor, rows: int) -> Statistics:
    """One unit of output error is worth one nat in every row."""
    hessian = hessian.double()
    sensitivity = torch.full((rows,), 2 * float(hessian.diagonal().mean()), dtype=torch.float64)
    return Statistics(hessian, torch.zeros(len(hessian), dtype=torch.float64), sensitivity)


def layer(seed: int, rows: int = 6, inputs: int = 12) -> tuple[torch.Tensor, Statistics]:
    """Weights (rows, n) and statistics of correlated inputs."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, inputs, generator=generator) @ torch.randn(inputs, inputs, generator=generator)
    return torch.randn(rows, inputs, generator=generator), statistics(x.T @ x / 200, rows)


def error(pruned: torch.Tensor, weight: torch.Tensor, found: Statistics) -> float:
    """Damped, since this is what the refit minimises."""
    damped = found.hessian + DAMPING * found.hessian.diagonal().mean() * torch.eye(len(found.hessian))
    return float(sensitivity.output_error(pruned - weight, damped).sum())


def magnitude(weight: torch.Tensor, share: float) -> torch.Tensor:
    kept = pruning.cheapest({"x": weight.double().square()}, share)["x"]
    return torch.where(kept, weight.double(), 0.0)


def test_two_equal_inputs_are_one() -> None:
    # The output is w₁ x + w₂ x: removing one weight costs nothing if the other becomes their sum.
    found = statistics(torch.ones(2, 2), 1)
    pruned = pruning.prune({"x": torch.tensor([[0.3, 0.5]])}, {"x": found}, [0.5])["x"]
    assert sorted(pruned[0].tolist()) == pytest.approx([0, 0.8], abs=0.01)  # damping keeps it off 0.8


def test_costs_are_those_of_removing_one_and_refitting_the_rest() -> None:
    weight, found = layer(0, rows=2, inputs=6)
    kept = torch.ones_like(weight, dtype=torch.bool)
    kept[0, 2] = False
    before = pruning.refit(weight, kept, found)
    for row, column in itertools.product(range(2), range(6)):
        if not kept[row, column]:
            assert before.costs[row, column] == 0
            continue
        without = kept.clone()
        without[row, column] = False
        after = pruning.refit(weight, without, found).weight
        rise = error(after, weight, found) - error(before.weight, weight, found)
        assert float(before.costs[row, column]) == pytest.approx(rise, rel=2e-3, abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 0.9), st.integers(1, 8), st.integers(1, 24))
def test_never_worse_than_magnitude(seed: int, share: float, rows: int, inputs: int) -> None:
    weight, found = layer(seed, rows, inputs)
    plain = magnitude(weight, share)
    refitted = pruning.refit(weight, plain != 0, found).weight
    assert error(refitted, weight, found) <= error(plain, weight, found) * (1 + 1e-4) + 1e-6


def test_second_order_is_much_better_than_magnitude() -> None:
    errors = []
    for seed in range(5):
        weight, found = layer(seed, rows=16, inputs=24)
        pruned = pruning.prune({"x": weight}, {"x": found}, [0.3, 0.5])["x"]
        errors.append(error(pruned, weight, found) / error(magnitude(weight, 0.5), weight, found))
    assert max(errors) < 0.6


def test_more_rounds_cost_less() -> None:
    weight, found = layer(1, rows=32, inputs=32)
    once, often = (
        pruning.prune({"x": weight}, {"x": found}, shares)["x"]
        for shares in ([0.6], [0.2, 0.3, 0.4, 0.5, 0.6])
    )
    assert error(often, weight, found) < 0.9 * error(once, weight, found)


def test_of_two_alike_inputs_the_larger_weight_may_be_the_cheaper() -> None:
    # What hw3 says of things to try: the more the twins differ, the less one makes up for the other.
    generator = torch.Generator().manual_seed(0)
    first, noise, third = torch.randn(3, 2000, generator=generator, dtype=torch.float64)
    weight, everything = torch.tensor([[0.5, 0.6, 0.3]]), torch.ones(1, 3, dtype=torch.bool)
    cheapest = []
    for difference in (0.3, 2.0):
        x = torch.stack([first, first + difference * noise, third], 1)
        costs = pruning.refit(weight, everything, statistics(x.T @ x / len(x), 1)).costs[0]
        cheapest.append(int(costs.argmin()))
    assert cheapest[0] != 2 and cheapest[1] == 2


def test_independent_inputs_of_equal_energy_are_pruned_by_magnitude() -> None:
    weight = torch.randn(4, 10, generator=torch.Generator().manual_seed(0))
    found = statistics(torch.eye(10), 4)
    assert torch.allclose(
        pruning.prune({"x": weight}, {"x": found}, [0.5])["x"], magnitude(weight, 0.5), atol=1e-5
    )
    one_pass = pruning.one_pass({"x": weight}, {"x": found}, 0.5)["x"]
    assert torch.equal(one_pass, magnitude(weight, 0.5))


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(0, 0.99))
def test_the_count_of_zeros_is_exact(seed: int, share: float) -> None:
    weights, found = {}, {}
    for name, rows, inputs in (("a", 3, 7), ("b", 5, 9)):
        weights[name], found[name] = layer(seed, rows, inputs)
    pruned = pruning.prune(weights, found, [share / 2, share])
    assert pruning.share_of_zeros(pruned) * 66 == pytest.approx(round(share * 66))


def test_one_price_takes_from_the_layer_that_matters_less() -> None:
    weight, found = layer(3, rows=8, inputs=16)
    unimportant = Statistics(found.hessian, found.mean, found.sensitivity / 1000)
    weights, both = {"a": weight, "b": weight}, {"a": found, "b": unimportant}
    for pruned in (pruning.prune(weights, both, [0.3]), pruning.one_pass(weights, both, 0.3)):
        assert (pruned["b"] == 0).sum() > 4 * (pruned["a"] == 0).sum()


@pytest.mark.parametrize("energy", [0.0, 1.0])
def test_dead_layers_are_pruned_like_any_other(energy: float) -> None:
    weight, found = torch.zeros(3, 8), statistics(energy * torch.eye(8), 3)
    assert not pruning.prune({"x": weight}, {"x": found}, [0.5])["x"].any()
    assert torch.isfinite(pruning.one_pass({"x": torch.ones(3, 8)}, {"x": found}, 0.5)["x"]).all()


# --- patterns ---------------------------------------------------------------------------------


def test_two_of_four_neighbouring_input_channels_stay() -> None:
    weight, found = layer(0, rows=5, inputs=8 * 9)
    pruned = pruning.prune({"x": weight}, {"x": found}, [0.5], pattern=pruning.two_of_four({"x": 9}))["x"]
    zeros = (pruned.reshape(5, 2, 4, 9) == 0).sum(2)
    assert (zeros == 2).all()


@pytest.mark.parametrize(("rows", "inputs"), [(1, 4), (4, 1)])
def test_blocks_go_as_a_whole(rows: int, inputs: int) -> None:
    weight, found = layer(0, rows=8, inputs=8 * 9)
    pattern = pruning.blocks(rows, inputs, {"x": 9})
    pruned = pruning.prune({"x": weight}, {"x": found}, [0.25, 0.5], pattern=pattern)["x"]
    view = (pruned == 0).reshape(8 // rows, rows, 8 // inputs, inputs, 9)
    together = view.sum((1, 3))
    assert set(together.unique().tolist()) == {0, 4} and pruning.share_of_zeros({"x": pruned}) == 0.5


def test_layers_that_do_not_divide_stay_dense() -> None:
    weights, found, kernels = {}, {}, {"first": 9, "second": 1}
    weights["first"], found["first"] = layer(0, rows=4, inputs=27)
    weights["second"], found["second"] = layer(1, rows=4, inputs=8)
    for pattern in (pruning.two_of_four(kernels), pruning.blocks(1, 4, kernels)):
        pruned = pruning.prune(weights, found, [0.1], pattern=pattern)
        assert (pruned["first"] != 0).all() and (pruned["second"] == 0).any()


# --- wishes that cannot be met ----------------------------------------------------------------


def test_only_what_has_statistics_is_pruned() -> None:
    """The depthwise convolutions of YOLO11n have none."""
    model = random_network("yolo11n.yaml")
    found = sensitivity.collect(model, [np.zeros((1, 3, 64, 64), np.float32)])
    matrices = pruning.matrices(model)
    assert set(matrices) == set(found) < set(convolutions(model))


def test_wrong_wishes_are_refused_in_one_line() -> None:
    weight, found = layer(0)
    for shares, reason in (([], "ascend"), ([0.5, 0.3], "ascend"), ([1.0], "below 1"), ([-0.1], "below 1")):
        with pytest.raises(PruningError, match=reason):
            pruning.prune({"x": weight}, {"x": found}, shares)
    with pytest.raises(PruningError, match="no statistics of x"):
        pruning.one_pass({"x": weight}, {}, 0.5)
    with pytest.raises(PruningError, match="has 11 inputs"):
        pruning.one_pass({"x": weight[:, :11]}, {"x": found}, 0.5)


# --- the real model ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured(weights, report_set) -> tuple[nn.Module, dict[str, Statistics]]:
    model = load_yolo(weights)
    photographs = (to_batch(letterbox(s.path, 320)[0]) for s in report_set.first(3).samples)
    return model, sensitivity.collect(model, photographs, positions=200)


def test_second_order_zeros_move_the_detections_less_than_magnitude(measured, report_set) -> None:
    model, found = measured
    matrices = {name: weight for name, weight in pruning.matrices(model).items() if weight.shape[1] < 600}
    x = torch.from_numpy(to_batch(letterbox(report_set.samples[0].path, 320)[0]))

    def distance(pruned: dict[str, torch.Tensor]) -> float:
        candidate = pruning.insert(copy.deepcopy(model), pruned)
        with torch.no_grad():
            return float(moved(candidate(x)[1], model(x)[1]))

    squares = {name: weight.double().square() for name, weight in matrices.items()}
    kept = pruning.cheapest(squares, 0.3)
    by_magnitude = {n: torch.where(kept[n], w, 0.0) for n, w in matrices.items()}
    second_order = pruning.one_pass(matrices, found, 0.3)
    assert pruning.share_of_zeros(second_order) == pytest.approx(0.3, abs=0.002)
    assert distance(second_order) < 0.3 * distance(by_magnitude)


def test_zeros_survive_the_packed_file_exactly(weights, tmp_path) -> None:
    model = load_yolo(weights)
    matrices = pruning.matrices(model)
    kept = pruning.cheapest({n: torch.rand(w.shape) for n, w in matrices.items()}, 0.5)
    pruned = pruning.insert(
        copy.deepcopy(model), {n: torch.where(kept[n], w, 0.0) for n, w in matrices.items()}
    )
    sparse = {
        f"{name}.weight": Sparse(module.weight.detach().numpy().astype(np.float16))
        for name, module in convolutions(pruned).items()
    }
    path = checkpoint.save(tmp_path / "sparse.mcpk", pruned, sparse)
    loaded = checkpoint.load(path).model
    for name, module in convolutions(loaded).items():
        assert torch.equal(module.weight, pruned.get_submodule(name).weight.half().float())
    assert footprint.sparsity(path) == pytest.approx(0.5, abs=0.001)
    assert path.stat().st_size < 0.6 * 2 * 3.16e6  # half of the float16 values, and a bit for each mask
    exported = checkpoint.to_openvino(path, tmp_path / "openvino", "f32")
    assert footprint.sparsity(exported) == pytest.approx(footprint.sparsity(path), abs=1e-5)
