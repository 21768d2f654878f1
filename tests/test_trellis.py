"""results/trellis.py: the cheapest path, values from symbols alone, fewer bytes for noise."""

import itertools
import math
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "results"))
import trellis
from modelcompression.methods import sensitivity


@pytest.mark.parametrize("steps", range(1, 6))
def test_no_path_is_cheaper(steps: int) -> None:
    random, states = np.random.default_rng(steps), trellis.STATES
    transitions = np.full((8, 8, steps), np.inf, np.float32)
    for parity in (0, 1):
        transitions[states, trellis.NEXT[:, parity]] = random.random((8, steps))

    def cost(path: tuple[int, ...]) -> float:
        return sum(transitions[a, b, i] for i, (a, b) in enumerate(itertools.pairwise((0, *path))))

    found = trellis.cheapest(transitions)
    assert found[0] == 0 and len(found) == steps + 1
    assert cost(tuple(found[1:])) == pytest.approx(min(map(cost, itertools.product(states, repeat=steps))))


def test_a_symbol_costs_what_its_share_of_a_laplace_distribution_says() -> None:
    symbols = np.arange(-60, 61)
    for quantizer in (0, 1):
        shares = 2.0 ** -trellis.bits(symbols, np.full_like(symbols, quantizer), np.array(3.0))
        assert shares.sum() == pytest.approx(1)
        values = trellis.values_of(symbols, np.full_like(symbols, quantizer))
        assert (np.abs(values) * shares).sum() == pytest.approx(3, rel=0.1)


def test_symbols_alone_give_the_values_back() -> None:
    generator = torch.Generator().manual_seed(1)
    weight, inputs = torch.randn(20, 18, generator=generator), torch.randn(200, 18, generator=generator)
    hessian = (inputs.T @ inputs / 200).double()
    exponents = np.arange(-12, 8)
    symbols, values = trellis.on_trellis(weight, hessian, sensitivity.inverse_factor(hessian), exponents)
    decoded = trellis.values_of(symbols, trellis.turns(symbols)) * 2.0 ** (exponents[:, None] / 8) / 2
    assert np.allclose(decoded, values.numpy(), rtol=1e-6)
    error = (values - weight).abs().numpy() / 2.0 ** (exponents[:, None] / 8)
    assert error.mean() < 0.5 and np.unique(trellis.turns(symbols)).tolist() == [0, 1]


def test_noise_takes_fewer_bytes_on_a_trellis_than_on_a_grid() -> None:
    fine, coarse = (trellis.noise("grid", step, 128, 2**13) for step in (0.5, 1.0))
    found = trellis.noise("trellis", 0.9, 128, 2**13)
    share = math.log(found["error"] / fine["error"]) / math.log(coarse["error"] / fine["error"])
    assert 0 < share < 1
    on_grid = fine["bytes"] + share * (coarse["bytes"] - fine["bytes"])
    assert found["bytes"] < 0.98 * on_grid


def test_the_committed_curve_has_both_ways_at_overlapping_distances() -> None:
    table = pd.read_csv(trellis.CSV)
    for what, rows in table[table["what"].isin(["yolov8n", "noise"])].groupby(["what", "rows"], dropna=False):
        ranges = rows.groupby("way")["error"].agg(["min", "max"])
        assert set(ranges.index) == set(trellis.WAYS), what
        assert ranges["min"].max() < ranges["max"].min(), what


def test_the_layers_of_the_committed_curve_add_up() -> None:
    table = pd.read_csv(trellis.CSV)
    whole = table[table["what"] == "yolov8n"].set_index(["way", "step"])
    layers = table[~table["what"].isin(["yolov8n", "noise"])].groupby(["way", "step"])
    assert (layers["bytes"].sum() == whole["bytes"]).all()
    assert np.allclose(layers["error"].sum(), whole["error"].reindex(layers["error"].sum().index), rtol=1e-3)
