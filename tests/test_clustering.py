"""Clustering: as good as scikit-learn's k-means, deterministic, and steps that follow sensitivity."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from modelcompression.grid import step_sizes
from modelcompression.methods import clustering, sensitivity
from modelcompression.methods.clustering import ClusteringError
from modelcompression.packed import tensors


def inertia(values: np.ndarray, centroids: np.ndarray, weights: np.ndarray | None = None) -> float:
    change = values - centroids[clustering.assign(values, centroids)]
    return float((np.square(change) * (1 if weights is None else weights)).sum())


def inertia_of_scikit_learn(values: np.ndarray, k: int, weights: np.ndarray | None = None) -> float:
    from sklearn.cluster import KMeans  # for seconds, which not every process that collects this should wait

    return KMeans(k, n_init=5, random_state=0).fit(values[:, None], sample_weight=weights).inertia_


@pytest.mark.parametrize("k", [2, 8, 32])
@pytest.mark.parametrize("draw", ["normal", "laplace", "uniform"])
def test_clusters_are_as_good_as_those_of_scikit_learn(k: int, draw: str) -> None:
    values = getattr(np.random.default_rng(k), draw)(size=600)
    theirs = inertia_of_scikit_learn(values, k)
    assert inertia(values, clustering.kmeans(values, k)) <= 1.05 * theirs


@pytest.mark.parametrize("weighted", [False, True])
def test_many_clusters_are_nearly_the_best_in_spite_of_outliers(weighted: bool) -> None:
    generator = np.random.default_rng(0)
    values = np.sort(generator.standard_t(3, 800))
    weights = np.exp(generator.normal(0, 1, 800)) if weighted else np.ones(800)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(clustering, "CELLS", 800)  # one cell for each value: exact
        best = inertia(values, clustering.kmeans(values, 200, weights), weights)
    assert inertia(values, clustering.kmeans(values, 200, weights), weights) < 1.2 * best


def test_weights_pull_centroids_to_what_matters() -> None:
    values = np.random.default_rng(0).normal(size=500)
    weights = np.where(values > 0, 100.0, 1.0)
    plain, weighted = clustering.kmeans(values, 8), clustering.kmeans(values, 8, weights)
    assert inertia(values, weighted, weights) < 0.6 * inertia(values, plain, weights)
    theirs = inertia_of_scikit_learn(values, 8, weights)
    assert inertia(values, weighted, weights) <= 1.05 * theirs


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=60), st.integers(1, 9))
def test_any_values_are_assigned_to_their_nearest_centroid(values: list[float], k: int) -> None:
    array = np.array(values)
    centroids = clustering.kmeans(array, k)
    assert 1 <= len(centroids) <= k and (np.diff(centroids) > 0).all()
    assert array.min() - 1e-6 <= centroids[0] and centroids[-1] <= array.max() + 1e-6
    distances = np.abs(array[:, None] - centroids)
    chosen = np.take_along_axis(distances, clustering.assign(array, centroids)[:, None], 1)[:, 0]
    assert np.allclose(chosen, distances.min(1))


def test_few_distinct_values_are_their_own_centroids() -> None:
    values = np.array([[3.0, -1.0], [3.0, 0.5]])
    assert clustering.kmeans(values, 64).tolist() == [-1, 0.5, 3]


@pytest.mark.parametrize(
    ("values", "k", "weights", "reason"),
    [
        ([1.0, 2.0], 0, None, "at least 1"),
        ([], 2, None, "at least one value"),
        ([1.0, np.nan], 2, None, "finite"),
        ([1.0, 2.0], 2, [1.0], "one for each"),
        ([1.0, 2.0], 2, [1.0, -1.0], "non-negative"),
    ],
)
def test_what_cannot_be_clustered_is_refused(values, k, weights, reason: str) -> None:
    with pytest.raises(ClusteringError, match=reason):
        clustering.kmeans(np.array(values), k, weights)


def layer(scale: float, rows: int = 6, inputs: int = 18) -> sensitivity.Statistics:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, inputs, generator=generator).double()
    return sensitivity.Statistics(x.T @ x / 100, x.mean(0), torch.full((rows,), scale, dtype=torch.float64))


@pytest.mark.parametrize("wished", [2.0, 3.194, 5.0])
@pytest.mark.parametrize("slope", [0.5, 1.0, 1.5])
@pytest.mark.parametrize("anchor", [0.004, 0.03, 0.2])
def test_a_scale_is_found_for_any_network(wished: float, slope: float, anchor: float) -> None:
    """Whatever its scale at three bits a weight, and whatever a doubling saves there."""

    def bits_at(scale: float) -> float:
        tried.append(scale)
        return float(np.logaddexp2(0, 3 + slope * np.log2(anchor / scale)))

    tried: list[float] = []
    scale = clustering.scale_for(wished, bits_at)
    assert len(tried) <= 6
    assert 0.99 * wished < bits_at(scale) <= wished


def test_a_scale_that_is_not_found_is_the_nearest_of_those_tried() -> None:
    """Not the one after: nobody knows its file."""
    files = {}

    def bits_at(scale: float) -> float:
        files[scale] = 4 - 0.01 * len(files)
        return files[scale]

    scale = clustering.scale_for(3, bits_at, tries=3)
    assert len(files) == 3 and files[scale] == min(files.values())


def test_the_search_ends_when_no_file_lies_between_two() -> None:
    """As with one step for all channels, which is a power of the eighth root of two."""

    def bits_at(scale: float) -> float:
        tried.append(scale)
        return 3.0 - np.rint(8 * np.log2(scale / 0.03)) / 8

    tried: list[float] = []
    scale = clustering.scale_for(2.93, bits_at)
    assert len(tried) <= 5
    assert bits_at(scale) == pytest.approx(2.875)


def test_of_yolov8n_doubling_the_steps_saves_about_a_bit() -> None:
    """So its search, whose files are in the table, takes no other steps than these."""
    files = {0.03: 2.7}
    scale = clustering.scale_for(3.194, lambda scale: files.setdefault(scale, 3.18))
    assert scale == list(files)[-1] == pytest.approx(0.03 * 2 ** (1.0144 * (2.7 - 0.995 * 3.194)))
    files |= {scale: 3.1}
    third = clustering.scale_for(3.194, lambda scale: files.setdefault(scale, 3.18))
    assert third == pytest.approx(scale * 2 ** (1.0144 * (3.1 - 0.995 * 3.194)))


def test_sensitive_layers_get_finer_steps() -> None:
    statistics = {"sensitive": layer(100.0), "tough": layer(1.0)}
    factors = {name: sensitivity.inverse_factor(s.hessian) for name, s in statistics.items()}
    found = clustering.sensitivity_exponents(statistics, factors, 0.02, 0.5)
    ratio = step_sizes(found["tough"]) / step_sizes(found["sensitive"])
    assert np.allclose(ratio, 10, rtol=0.1)
    same = clustering.sensitivity_exponents(statistics, factors, 0.02, 0.0)
    assert np.array_equal(same["tough"], same["sensitive"])


def test_a_channel_nobody_listens_to_keeps_a_finite_step() -> None:
    statistics = layer(1.0)
    statistics.sensitivity[2] = 0
    factors = {"a": sensitivity.inverse_factor(statistics.hessian)}
    found = clustering.sensitivity_exponents({"a": statistics}, factors, 0.02, 0.5)["a"]
    assert np.abs(found).max() < tensors.LARGEST_EXPONENT


def test_thrift_saves_bytes_for_a_little_error() -> None:
    statistics, weight = layer(1.0, 64, 90), torch.randn(64, 90, generator=torch.Generator().manual_seed(1))
    factor, step = sensitivity.inverse_factor(statistics.hessian), np.full(64, -4)
    sizes, errors = {}, {}
    for thrift in (0, 1):
        symbols = clustering.round_for_bytes(weight, statistics.hessian, factor, step, thrift)
        sizes[thrift] = np.abs(symbols).mean()
        change = torch.from_numpy(symbols) * float(step_sizes(step)[0]) - weight
        errors[thrift] = float(sensitivity.output_error(change, statistics.hessian).mean())
    assert sizes[1] < 0.95 * sizes[0] and errors[1] < 1.1 * errors[0]


def test_rare_symbols_have_a_higher_price() -> None:
    symbols = torch.tensor([[0, 0, 1, 0], [5, -6, 4, 7]])
    found = clustering.price(symbols)
    assert (found > 0).all() and (found[0] > found[1]).all()
