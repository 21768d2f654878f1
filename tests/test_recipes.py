"""The recipe that puts a network onto grids: what homework 4 writes out, with its settings and any others."""

import numpy as np
import pytest
import torch
from torch import nn

from modelcompression import recipes
from modelcompression.grid import step_sizes
from modelcompression.methods import clustering, sensitivity

LAYERS = ("0", "2")  # those with statistics; 1 is depthwise


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 4, 1))


@pytest.fixture(scope="module")
def known(model: nn.Module) -> tuple[dict, dict]:
    """Statistics and factors, of inputs that go together."""
    generator, found = torch.Generator().manual_seed(0), {}
    for name in LAYERS:
        rows, columns = model[int(name)].weight.flatten(1).shape
        x = (
            torch.randn(200, columns, generator=generator).double()
            @ torch.randn(columns, columns, generator=generator).double()
        )
        sensitive = torch.logspace(-3, 1, rows).double()
        found[name] = sensitivity.Statistics(x.T @ x / 200, x.mean(0), sensitive)
    return found, {name: sensitivity.inverse_factor(one.hessian) for name, one in found.items()}


@pytest.mark.parametrize("how", [{}, {"power": 0.0, "thrift": 0.0}])
def test_layers_are_rounded_as_homework_4_does_and_depthwise_ones_finely(model, known, how: dict) -> None:
    statistics, factors = known
    power, thrift = how.get("power", 0.4), how.get("thrift", 0.5)
    found = recipes.on_grids(model, statistics, factors, 0.05, **how)
    assert list(found) == ["0.weight", "1.weight", "2.weight"], "biases are left as they are"
    steps = clustering.sensitivity_exponents(statistics, factors, 0.05, power)
    for name in LAYERS:
        weight, grid = model[int(name)].weight.detach(), found[f"{name}.weight"]
        of_layer = statistics[name].hessian, factors[name], steps[name]
        symbols = clustering.round_for_bytes(weight.flatten(1), *of_layer, thrift)
        assert np.array_equal(grid.symbols, symbols.reshape(weight.shape))
        assert np.array_equal(grid.exponents, steps[name])
        assert (len(set(steps[name])) > 1) == (power > 0)
    rest, fine = model[1].weight.detach().numpy(), found["1.weight"]
    assert np.abs(fine.values() - rest).max() <= 0.51 * step_sizes(fine.exponents).max()
    assert 100 <= np.abs(fine.symbols).max() <= 127


def test_a_larger_scale_makes_smaller_numbers(model, known) -> None:
    sums = [
        sum(np.abs(recipes.on_grids(model, *known, scale)[f"{name}.weight"].symbols).sum() for name in LAYERS)
        for scale in (0.02, 0.04)
    ]
    assert 0 < sums[1] < 0.7 * sums[0]
