"""The standard metrics against plain formulas, other routes and laws whose value is known."""

import jax
import numpy as np
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st

from imagegen.fidelity import (
    Moments,
    Statistics,
    frechet,
    frechet_infinity,
    inception_score,
    kernel_distance,
    moments_of,
    shuffled,
)
from sim.distances import frechet_bias_squared
from theory.gaussian import Gaussian, wasserstein2_squared

rng = np.random.default_rng(0)


def statistics(d, n, condition=1.0):
    scales = np.logspace(0, -np.log10(condition) / 2, d)
    return Moments.of(rng.standard_normal((n, d)) * scales + rng.standard_normal(d)).statistics()


@given(st.lists(st.integers(1, 9), min_size=2, max_size=6), st.sampled_from([0.0, 1e4]))
def test_moments_of_batches_are_those_of_all(sizes, offset):
    rows = rng.standard_normal((sum(sizes), 3)) + offset
    found = moments_of(iter(np.split(rows, np.cumsum(sizes)[:-1])))
    assert found.number == len(rows)
    np.testing.assert_allclose(found.mean, rows.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.statistics().cov, np.cov(rows, rowvar=False), atol=1e-10)


@pytest.mark.parametrize("n", [400, 12])
def test_frechet_is_the_distance_of_gaussians_and_agrees_with_matrix_roots(n):
    """20 dimensions; with 12 points the covariances are singular."""
    p, q = statistics(20, n, 1e4), statistics(20, n, 1e4)
    with jax.enable_x64(True):
        exact = float(wasserstein2_squared(Gaussian(p.mean, p.cov), Gaussian(q.mean, q.cov)))
    np.testing.assert_allclose(frechet(p, q), exact, rtol=1e-10)
    cross = np.sqrt(np.maximum(scipy.linalg.eigvals(p.cov @ q.cov).real, 0)).sum()
    plain = np.sum((p.mean - q.mean) ** 2) + np.trace(p.cov + q.cov) - 2 * cross
    np.testing.assert_allclose(frechet(p, q), plain, rtol=1e-4 if n == 12 else 1e-8)
    assert frechet(p, p) < 1e-12


def test_the_extrapolated_distance_has_less_bias_than_the_plain_one():
    truth = Statistics(np.zeros(8), np.eye(8))
    values = []
    for _ in range(60):
        rows = rng.standard_normal((100, 8))
        values.append([frechet(Moments.of(rows).statistics(), truth), frechet_infinity(rows, truth)])
    plain, extrapolated = np.mean(values, axis=0)
    error = np.std(values, axis=0)[1] / np.sqrt(60)
    assert abs(extrapolated) < 4 * error
    np.testing.assert_allclose(plain, frechet_bias_squared(np.eye(8), 100, 10**9), rtol=0.1)
    assert plain > 20 * error


def test_the_score_is_one_for_equal_images_and_the_number_of_classes_for_sure_ones():
    equal = inception_score(np.tile(rng.standard_normal(5), (40, 1)), splits=4)
    np.testing.assert_allclose(equal, [1.0, 0.0], atol=1e-12)
    sure = inception_score(200 * np.eye(5)[np.arange(40) % 5], splits=4)
    np.testing.assert_allclose(sure, [5.0, 0.0], rtol=1e-12)


def test_the_score_is_the_exponential_of_the_mutual_information_of_each_split():
    logits = 3 * rng.standard_normal((50, 4))
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    scores = []
    for rows in (range(16), range(16, 33), range(33, 50)):
        marginal = np.mean([p[i] for i in rows], axis=0)
        kl = [sum(p[i, k] * np.log(p[i, k] / marginal[k]) for k in range(4)) for i in rows]
        scores.append(np.exp(np.mean(kl)))
    np.testing.assert_allclose(inception_score(logits, splits=3), [np.mean(scores), np.std(scores)], rtol=1e-10)
    assert sorted(shuffled(logits)[:, 0]) == sorted(logits[:, 0])
    assert not np.array_equal(shuffled(logits), logits)


def test_kernel_distance_is_the_unbiased_estimate():
    x, y = rng.standard_normal((7, 3)), rng.standard_normal((7, 3)) + 0.5
    kernel = lambda a, b: (a @ b / 3 + 1) ** 3  # noqa: E731
    pairs = [(i, j) for i in range(7) for j in range(7)]
    within = sum(kernel(s[i], s[j]) for s in (x, y) for i, j in pairs if i != j) / 42
    expected = within - 2 * sum(kernel(x[i], y[j]) for i, j in pairs) / 49
    found = kernel_distance(x, y, subsets=3, size=7)
    np.testing.assert_allclose(found, [expected, 0.0], atol=1e-10)


def test_bad_features_are_refused():
    p, q = statistics(3, 9), statistics(4, 9)
    with pytest.raises(ValueError, match="of equal dimensions"):
        frechet(p, q)
    with pytest.raises(ValueError, match="statistics must be finite"):
        frechet(p, Statistics(p.mean * np.nan, p.cov))
    with pytest.raises(ValueError, match="of at least 2 images"):
        moments_of([np.zeros((1, 3))]).statistics()
    with pytest.raises(ValueError, match="no batch"):
        moments_of([])
    with pytest.raises(ValueError, match="features must be finite"):
        Moments.of(np.array([[np.nan]]))
    with pytest.raises(ValueError, match="above 6, twice the number of features"):
        frechet_infinity(np.zeros((6, 3)), p)
    with pytest.raises(ValueError, match="splits"):
        inception_score(np.zeros((3, 2)), splits=4)
    with pytest.raises(ValueError, match="size must be"):
        kernel_distance(np.zeros((5, 2)), np.zeros((9, 2)), size=6)
