"""Would a trellis make packed checkpoints smaller? YOLOv8n on grids, and on two grids that take turns.

    python results/trellis.py

*Dependent quantization* (Schwarz et al. 2019, "Hybrid video coding with trellis-coded quantization"; Haase
et al. 2020, "Dependent scalar quantization for neural network compression"; after Fischer & Wang 1992): with
u half a step, a weight in the first quantizer is an even multiple of u, in the second an odd one or zero. The
parities of the symbols before it move a machine of eight states, which says whose turn it is. The encoder
looks for the path with the least error and bits. Here a path runs down the rows of a column: error feedback
works as ever, and a decoder, which goes row by row, knows all states of a row before it reads it. Symbols of
the two quantizers are counted apart. All else is the same for both: statistics, steps, thrift, coder.

Writes ``hw4_clustering/trellis.csv``: for several steps the bytes of YOLOv8n's weights, as ``error`` the nats
that the statistics expect, and the nats measured; bytes and error of each layer; and of Gaussian noise, whose
inputs are independent, the bytes and as ``error`` the mean squared error.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterator

import numpy as np
import pandas as pd
import torch

from modelcompression import ROOT, assets, files, subject
from modelcompression.detector import load_yolo
from modelcompression.grid import step_sizes
from modelcompression.images import letterbox, to_batch
from modelcompression.methods import clustering, rounding, sensitivity
from modelcompression.methods.distance import Reference
from modelcompression.network import convolutions
from modelcompression.packed.coding import Coder
from modelcompression.recipes import POSITIONS, POWER, THRIFT
from modelcompression.terminal import script

CSV = ROOT / "hw4_clustering" / "trellis.csv"
# ISO/IEC 15938-17: the state after an even and after an odd symbol; odd states use the second quantizer.
NEXT = np.array([[0, 2], [7, 5], [1, 3], [6, 4], [2, 0], [5, 7], [3, 1], [4, 6]])
STATES = np.arange(len(NEXT))
SCALES = {
    "grid": [0.022, 0.027, 0.033, 0.04, 0.049, 0.06, 0.073],
    "trellis": [0.031, 0.038, 0.0465, 0.0565, 0.069, 0.085],
}
# Steps for noise with a standard deviation of 1, in matrices of so many rows.
NOISE, HEIGHTS = {"grid": [0.35, 0.5, 0.7, 1.0, 1.4], "trellis": [0.6, 0.9, 1.2]}, (16, 128)
JUDGING = 24  # photographs, the last of coco128; all others are learned from


def main() -> None:
    """Measure and write."""
    rows = []
    for height, (way, steps) in itertools.product(HEIGHTS, NOISE.items()):
        for step in steps:
            rows.append({"what": "noise", "way": way, "step": step, **noise(way, step, height)})
    model = load_yolo(subject.weights())
    photographs = [sample.path for sample in assets.image_set("coco128").samples]
    batches = [to_batch(letterbox(path, 640)[0]) for path in photographs]
    statistics = sensitivity.collect(model, iter(batches[:-JUDGING]), POSITIONS)
    factors = {name: sensitivity.inverse_factor(found.hessian) for name, found in statistics.items()}
    reference = Reference(model, batches[-JUDGING:])
    for way, scales in SCALES.items():
        for scale in scales:
            candidate = copy.deepcopy(model)
            layers = pd.DataFrame(compressed(candidate, statistics, factors, way, scale))
            whole = {"what": "yolov8n", **layers[["weights", "bytes", "error"]].sum().to_dict()}
            whole["nats"] = reference.distance(candidate)
            rows += [{"way": way, "step": scale, **row} for row in (whole, *layers.to_dict("records"))]
            print(way, scale, whole, flush=True)
    order = ["what", "way", "step", "rows", "weights", "bytes", "error", "nats"]
    table = pd.DataFrame(rows)[order].astype({"rows": "Int64", "weights": int, "bytes": int})
    files.replace({CSV: table.to_csv(index=False, float_format="%.6g").encode()})


def noise(way: str, step: float, height: int, weights: int = 2**16) -> dict[str, float]:
    """Bytes and mean squared error of Gaussian noise whose inputs are independent: no feedback can help."""
    weight = torch.randn(height, weights // height, generator=torch.Generator().manual_seed(0))
    hessian = torch.eye(weight.shape[1], dtype=torch.float64)
    exponents = np.full(height, round(8 * math.log2(step)))
    symbols, values = WAYS[way](weight, hessian, sensitivity.inverse_factor(hessian), exponents)
    size, error = len(CODERS[way]().encode(symbols)), float((values - weight.double()).square().mean())
    return {"rows": height, "weights": weight.numel(), "bytes": size, "error": error}


def compressed(
    model: torch.nn.Module,
    statistics: dict[str, sensitivity.Statistics],
    factors: dict[str, sensitivity.Factor],
    way: str,
    scale: float,
) -> Iterator[dict[str, str | float]]:
    """Round all convolutions of a model in place; of each, its bytes and the nats to expect."""
    exponents, coder = clustering.sensitivity_exponents(statistics, factors, scale, POWER), CODERS[way]()
    for name, module in convolutions(model).items():
        weight = module.weight.detach().flatten(1)
        symbols, values = WAYS[way](weight, statistics[name].hessian, factors[name], exponents[name])
        module.weight.data = values.float().reshape(module.weight.shape)
        size = len(coder.encode(symbols, module.weight[0, 0].numel()))
        error = float(sensitivity.expected_distance(values - weight.double(), statistics[name]).sum())
        found = {"rows": len(weight), "weights": weight.numel(), "bytes": size, "error": error}
        yield {"what": name, **found}


def on_grid(
    weight: torch.Tensor, hessian: torch.Tensor, factor: sensitivity.Factor, exponents: np.ndarray
) -> tuple[np.ndarray, torch.Tensor]:
    """Symbols and values, as packed checkpoints have them."""
    symbols = clustering.round_for_bytes(weight, hessian, factor, exponents, THRIFT)
    return symbols, torch.from_numpy(symbols * step_sizes(exponents).astype(float)[:, None])


def on_trellis(
    weight: torch.Tensor, hessian: torch.Tensor, factor: sensitivity.Factor, exponents: np.ndarray
) -> tuple[np.ndarray, torch.Tensor]:
    """The same with two quantizers: error feedback, then coordinate descent, a column's path at a time."""
    half = torch.from_numpy(step_sizes(exponents)).double()[:, None] / 2
    target, curvature = weight.double() / half, sensitivity.damped(hessian)
    left = sensitivity.left_over(factor)
    mean = left.log().mean().exp()
    symbols = np.zeros(weight.shape, np.int64)
    choose = _chooser(symbols, target, (left / mean).numpy())
    found = rounding.with_feedback(target, factor, choose)
    choose = _chooser(symbols, found, (curvature.diagonal() / mean).numpy())
    for _ in range(clustering.SWEEPS):
        slope = ((found - target) @ curvature).float()
        for column in factor.order.tolist():
            new = choose(found[:, column] - slope[:, column] / curvature[column, column], column)
            moved = (new != found[:, column]).nonzero()[:, 0]
            slope[moved] += torch.outer((new - found[:, column])[moved], curvature[column]).float()
            found[:, column] = new
    return symbols, found * half


def _chooser(
    symbols: np.ndarray, like: torch.Tensor, importance: np.ndarray
) -> Callable[[torch.Tensor, int], torch.Tensor]:
    """What replaces a column's values; its symbols go into ``symbols``.

    A symbol's bits are those of a Laplace distribution whose mean magnitude is that of its row times that
    of its column in ``like``.
    """
    magnitude = like.abs().numpy() + 0.04
    spread = magnitude.mean(1, keepdims=True) * magnitude.mean(0) / magnitude.mean()
    price = THRIFT * rounding.WORTH_OF_A_BIT * 2**2

    quantizer, parity, more = np.ogrid[:2, :2, :2]

    def choose(exact: torch.Tensor, column: int) -> torch.Tensor:
        size, sign = np.abs(exact.numpy()), np.where(exact.numpy() < 0, -1, 1)
        here = size[:, None, None, None]
        # (R, 2, 2, 2): of each quantizer and parity the two symbols around the value; -1 has the other sign.
        around = 2 * np.floor(((here + quantizer) / 2 - parity) / 2).astype(int) + parity + 2 * more
        cost = importance[column] * (here - values_of(around, quantizer)) ** 2
        cost += price * bits(around, quantizer, spread[:, column, None, None, None])
        best = cost.min(3)
        transitions = np.full((len(NEXT), len(NEXT), len(size)), np.inf, np.float32)
        for odd in (0, 1):
            transitions[STATES, NEXT[:, odd]] = best[:, STATES % 2, odd].T
        path, row = cheapest(transitions), np.arange(len(size))
        turn, odd = path[:-1] % 2, (NEXT[path[:-1], 1] == path[1:]).astype(int)
        symbols[:, column] = sign * around[row, turn, odd, cost[row, turn, odd].argmin(1)]
        return torch.from_numpy(values_of(symbols[:, column], turn).astype(float))

    return choose


def values_of(symbols: np.ndarray, quantizer: np.ndarray) -> np.ndarray:
    """Symbols → multiples of half a step, for quantizers 0 and 1 (shapes that broadcast)."""
    return 2 * symbols - quantizer * np.sign(symbols)


def bits(symbols: np.ndarray, quantizer: np.ndarray, spread: np.ndarray) -> np.ndarray:
    """-log2 of the probability of each symbol's cell if values have a Laplace distribution of that spread."""
    magnitude = np.abs(symbols)
    upper = np.where(quantizer, np.where(magnitude > 0, 2 * magnitude, 0.5), 2 * magnitude + 1)
    lower = np.where(quantizer & (magnitude == 1), 0.5, 2 * magnitude - 1 - quantizer)
    beyond = 1 + lower / spread / math.log(2) - np.log2(-np.expm1((lower - upper) / spread))
    return np.where(magnitude > 0, beyond, -np.log2(-np.expm1(-upper / spread)))


def cheapest(transitions: np.ndarray) -> np.ndarray:
    """The states along the cheapest path from state 0 to any (Viterbi 1967).

    Neighbouring steps are joined into pairs, pairs into fours …; then each middle is found between known
    ends. That is one pass over arrays for each binary digit of the number of steps.

    Args:
        transitions: (S, S, R) cost of each step from a state to another.

    Returns:
        (R + 1,) states.
    """
    idle = np.where(np.eye(len(transitions)), 0, np.inf).astype(transitions.dtype)
    levels = [transitions]
    while levels[-1].shape[2] > 1:
        if levels[-1].shape[2] % 2:
            levels[-1] = np.concatenate([levels[-1], idle[:, :, None]], 2)
        levels.append((levels[-1][:, :, None, 0::2] + levels[-1][:, :, 1::2]).min(1))
    path = np.array([0, levels.pop()[0, :, 0].argmin()])
    for level in reversed(levels):
        pair = np.arange(level.shape[2] // 2)
        start, end = path[pair], path[pair + 1]
        middle = (level[start, :, 2 * pair] + level[:, end, 2 * pair + 1].T).argmin(1)
        path = np.append(np.stack([start, middle], 1), end[-1])
    return path[: transitions.shape[2] + 1]


def turns(symbols: np.ndarray) -> np.ndarray:
    """(R, n) symbols → whose turn it was, quantizer 0 or 1: what a decoder knows row by row."""
    state, found = np.zeros(symbols.shape[1], int), np.empty_like(symbols)
    for row, now in enumerate(symbols):
        found[row] = state % 2
        state = NEXT[state, now & 1]
    return found


class ByQuantizer(Coder):
    """Counts the symbols of the two quantizers apart; it only encodes."""

    def __init__(self) -> None:
        super().__init__()
        self._apart = self._counts, self._counts.copy()

    def encode(self, symbols: np.ndarray, group: int = 1) -> bytes:
        self._turns = iter(turns(symbols))
        return super().encode(symbols, group)

    def _block(self, stream: object, block: np.ndarray, expected: np.ndarray) -> None:
        turn = np.stack([next(self._turns) for _ in block])
        for quantizer in np.unique(turn):
            self._counts, mine = self._apart[quantizer], turn == quantizer
            super()._block(stream, block[mine][None], expected[mine][None])


WAYS = {"grid": on_grid, "trellis": on_trellis}
CODERS = {"grid": Coder, "trellis": ByQuantizer}


if __name__ == "__main__":
    script(main)
