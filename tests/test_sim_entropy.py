"""Entropy estimates against closed forms, brute force and quadrature; equivariance; the bias that they report."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import digamma, gammaln

from sim.entropy import bias_on_gaussians, gaussian_entropy, knn_entropy, neighbour_entropy
from tests.strategies import covariances, seeds
from theory.gaussian import Gaussian
from theory.mixture import GaussianMixture


@given(seeds, st.integers(6, 40), st.integers(1, 4), st.integers(1, 4))
def test_the_formula_by_brute_force(seed, n, d, k):
    x = np.random.default_rng(seed).normal(size=(n, d)) * 3 + 1
    root = np.linalg.cholesky(np.atleast_2d(np.cov(x.T)))
    white = np.linalg.solve(root, x.T).T
    gaps = np.sqrt(np.sum((white[:, None] - white) ** 2, axis=-1))
    radii = np.sort(gaps, axis=1)[:, k]
    ball = d / 2 * np.log(np.pi) - gammaln(d / 2 + 1)
    expected = digamma(n) - digamma(k) + ball + d * np.log(radii).mean() + np.log(np.diag(root)).sum()
    np.testing.assert_allclose(neighbour_entropy(x, k=k), expected, atol=1e-10)


@given(seeds, st.integers(1, 4), st.data())
def test_an_affine_map_adds_its_log_determinant(seed, d, data):
    x = np.random.default_rng(seed).normal(size=(30, d))
    cov = np.asarray(data.draw(covariances(d=d, max_condition=1e6)))
    root = np.linalg.cholesky(cov)
    expected = neighbour_entropy(x) + np.log(np.diag(root)).sum()
    # whitening undoes a map of condition number up to 1e3 with errors of 1e3 ε in each of the d log radii
    np.testing.assert_allclose(neighbour_entropy(x @ root.T + 7), expected, atol=1e-9)


@pytest.mark.parametrize(("n", "d"), [(100, 1), (200, 5), (200, 20)])
def test_the_reported_bias_makes_gaussians_right(n, d):
    rng = np.random.default_rng(n + d)
    root = np.tril(rng.normal(size=(d, d))) + 3 * np.eye(d)
    exact = float(Gaussian(np.zeros(d), root @ root.T).entropy())
    runs = [knn_entropy(rng.normal(size=(n, d)) @ root.T, jax.random.key(0), repeats=60) for _ in range(40)]
    gaps = np.array([run.debiased - exact for run in runs])
    # The 40 runs share one measured bias, of standard error std / sqrt(60).
    assert abs(gaps.mean()) < 4 * gaps.std(ddof=1) * np.sqrt(1 / 40 + 1 / 60)
    assert np.mean([run.low <= exact <= run.high for run in runs]) > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 40)
    assert gaps.std(ddof=1) < 0.3 * np.sqrt(d)


def test_the_bias_grows_with_dimension_and_falls_with_n():
    bias = {
        (n, d): bias_on_gaussians(n, d, jax.random.key(1), repeats=5).value for n, d in ((200, 3), (200, 20), (800, 20))
    }
    assert abs(bias[200, 3]) < 0.1
    assert bias[200, 20] > 0.5
    assert bias[800, 20] < bias[200, 20]


def test_a_mixture_against_quadrature():
    mixture = GaussianMixture(jnp.array([0.4, 0.6]), jnp.array([[-2.0], [1.0]]), jnp.array([[[0.3]], [[0.5]]]))
    x = np.asarray(mixture.sample(jax.random.key(2), (4000,)))
    estimate = knn_entropy(x, jax.random.key(3))
    # d = 1, n = 4000: the bias left is of order (k/n)² per nat, far inside the interval; twice its half-width allowed
    centre, half = estimate.debiased, (estimate.high - estimate.low) / 2
    assert abs(centre - mixture.entropy()) < 2 * half
    assert half < 0.05
    assert gaussian_entropy(x).low > mixture.entropy()  # the Gaussian's is an upper bound


@pytest.mark.parametrize(("n", "d"), [(10, 3), (50, 30)])
def test_the_fitted_gaussians_bias_is_exact(n, d):
    rng = np.random.default_rng(4)
    runs = [gaussian_entropy(rng.normal(size=(n, d))) for _ in range(300)]
    values = np.array([run.debiased for run in runs])
    exact = d / 2 * np.log(2 * np.pi * np.e)
    assert abs(values.mean() - exact) < 4 * values.std(ddof=1) / np.sqrt(300)
    assert runs[0].bias < -0.3
    covered = np.mean([run.low <= exact <= run.high for run in runs])
    assert covered > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 300) - 0.02  # log det is normal only in the limit


def test_the_measured_bias_depends_on_the_key_alone():
    first = bias_on_gaussians(50, 2, jax.random.key(5), repeats=3)
    assert first == bias_on_gaussians(50, 2, jax.random.key(5), repeats=3)
    assert first != bias_on_gaussians(50, 2, jax.random.key(6), repeats=3)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: neighbour_entropy.__wrapped__(np.ones((3, 2))), "more than d \\+ 1"),
        (lambda: neighbour_entropy.__wrapped__(np.outer(np.arange(9.0), [1, 2])), "subspace"),
        (lambda: neighbour_entropy.__wrapped__(np.repeat(np.eye(3)[:, :2], 5, axis=0)), "repeated"),
        (lambda: neighbour_entropy.__wrapped__(np.full((9, 1), np.nan)), "finite"),
        (lambda: neighbour_entropy.__wrapped__(np.arange(9.0)[:, None] ** 2, k=9), "k must"),
        (lambda: bias_on_gaussians.__wrapped__(9, 1, jax.random.key(0), repeats=1), "repeats"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
