"""Coding integers: exact for any matrix, close to the entropy, and calm about bytes that are not ours."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modelcompression.packed.coding import LARGEST, LIMIT, Coder, CodingError, information

shapes = st.tuples(st.integers(1, 40), st.integers(1, 60))
extremes = st.sampled_from([0, 1, -1, LARGEST, -LARGEST, LARGEST + 1, 2**16, -(2**16), LIMIT - 1, 1 - LIMIT])
matrices = arrays.arrays(np.int64, shapes, elements=st.one_of(st.integers(-3, 3), extremes))


def entropy_bytes(symbols: np.ndarray) -> float:
    counts = np.unique(symbols, return_counts=True)[1]
    return float(-(counts * np.log2(counts / symbols.size)).sum() / 8)


@settings(max_examples=150, deadline=None)
@given(st.lists(matrices, min_size=1, max_size=4))
def test_any_sequence_of_matrices_comes_back(sequence: list[np.ndarray]) -> None:
    encoder, decoder = Coder(), Coder()
    for symbols in sequence:
        data = encoder.encode(symbols)
        assert np.array_equal(decoder.decode(data, symbols.shape), symbols)


@pytest.mark.parametrize(
    "symbols",
    [
        np.zeros((64, 576), int),
        np.full((64, 576), 7),
        np.full((1, 1), -5),
        np.where(np.arange(64 * 576) == 77, 900, 0).reshape(64, 576),
        np.random.default_rng(0).integers(-32768, 32768, (32, 90)),
    ],
    ids=["all zero", "all equal", "one element", "extreme skew", "16 bits, uniform"],
)
def test_special_matrices_come_back(symbols: np.ndarray) -> None:
    group = 9 if symbols.shape[1] % 9 == 0 else 1
    data = Coder().encode(symbols, group)
    assert np.array_equal(Coder().decode(data, symbols.shape, group), symbols)
    # Even a certain symbol costs something: the others keep a small probability.
    bits = 16 if symbols.max() > 1000 and symbols.min() < 0 else 0
    assert len(data) <= 1.02 * symbols.size * bits / 8 + 0.1 * symbols.size + 64


@pytest.mark.parametrize("scale", [0.3, 1.0, 4.0, 40.0])
def test_size_is_within_two_percent_of_the_entropy(scale: float) -> None:
    symbols = np.rint(np.random.default_rng(1).laplace(0, scale, (512, 1152))).astype(int)
    rows = len(symbols) * 0.5  # the classes of the rows
    assert len(Coder().encode(symbols, 9)) <= 1.02 * entropy_bytes(symbols) + rows


def test_rows_and_columns_of_different_size_cost_less_than_the_entropy() -> None:
    generator = np.random.default_rng(2)
    scale = np.exp(generator.normal(0, 1, (128, 1))) * np.exp(generator.normal(0, 1, (1, 576)))
    symbols = np.rint(generator.laplace(0, scale)).astype(int)
    assert len(Coder().encode(symbols)) < 0.9 * entropy_bytes(symbols)


def test_the_same_matrix_gives_the_same_bytes() -> None:
    symbols = np.random.default_rng(3).integers(-4, 5, (30, 45))
    assert Coder().encode(symbols, 9) == Coder().encode(symbols.copy(), 9)


def test_these_bytes_stay_readable() -> None:
    """The format does not change unnoticed: bytes written by the first version."""
    symbols = np.array([[0, 1, -1, 2], [0, 0, 30, -100]])
    assert Coder().encode(symbols).hex() == GOLDEN
    assert np.array_equal(Coder().decode(bytes.fromhex(GOLDEN), (2, 4)), symbols)


GOLDEN = "4a2ed7fa30e74618"


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=64), shapes)
def test_foreign_bytes_are_refused_or_decode_to_some_matrix(data: bytes, shape: tuple[int, int]) -> None:
    try:
        symbols = Coder().decode(data, shape)
    except CodingError:
        return
    assert symbols.shape == shape and np.abs(symbols).max() < LIMIT


@pytest.mark.parametrize(
    ("symbols", "group", "reason"),
    [
        (np.array([[LIMIT]]), 1, "2\\^30"),
        (np.array([[0.5]]), 1, "integers"),
        (np.zeros((2, 0), int), 1, "at least one"),
        (np.zeros(3, int), 1, "matrix"),
        (np.zeros((2, 10), int), 9, "channels of 9"),
    ],
)
def test_what_cannot_be_coded_is_refused(symbols: np.ndarray, group: int, reason: str) -> None:
    with pytest.raises(CodingError, match=reason):
        Coder().encode(symbols, group)


def test_bytes_left_over_are_refused() -> None:
    symbols = np.random.default_rng(4).integers(-4, 5, (30, 45))
    data = Coder().encode(symbols)
    with pytest.raises(CodingError):
        Coder().decode(data + bytes(400), symbols.shape)
    with pytest.raises(CodingError):
        Coder().decode(data[:-3], symbols.shape)


def test_the_bits_of_single_integers_add_up_to_those_of_the_file() -> None:
    row = np.random.default_rng(0).geometric(0.4, 4000) * np.random.default_rng(1).choice([-1, 0, 1], 4000)
    bits = information(row)
    assert bits.shape == row.shape and bits[row == 0].max() < bits[np.abs(row) > 2].min()
    assert bits.sum() == pytest.approx(8 * len(Coder().encode(row[None])), abs=32 + 16)


def test_what_cannot_be_counted_one_by_one_is_refused() -> None:
    for row in (np.full(4, 100), np.array([0] * 99 + [LARGEST + 1])):
        with pytest.raises(CodingError, match="too large"):
            information(row)
