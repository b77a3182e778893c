"""Distances on the line and between mixtures against linear programs, closed forms, brute-force sums and each other."""

import jax
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog
from scipy.stats import norm

from tests.strategies import seeds
from theory.claims.cases import covariance
from theory.gaussian import Gaussian, wasserstein2
from theory.mixture import GaussianMixture
from theory.wasserstein import (
    distance_bounds,
    gelbrich_bound,
    mixture_distance,
    wasserstein2_1d,
    wasserstein2_1d_quantiles,
    wasserstein2_1d_samples,
)


def line_mixture(seed, k=3, spread=3.0):
    rng = np.random.default_rng([seed, k])
    weights = rng.dirichlet(np.ones(k))
    stds = 10 ** rng.uniform(-1, 0.5, k)
    return GaussianMixture(weights, spread * rng.standard_normal((k, 1)), (stds**2)[:, None, None])


def plane_mixture(seed, k, singular=False):
    rng = np.random.default_rng([seed, k, 7])
    covs = np.stack([covariance(2, 50.0, seed + i, 1 if singular else None) for i in range(k)])
    return GaussianMixture(rng.dirichlet(np.ones(k)), rng.standard_normal((k, 2)), covs)


# --- samples on the line --------------------------------------------------------------------------------------------


@given(seeds, st.integers(1, 9), st.integers(1, 9))
def test_samples_agree_with_the_linear_program(seed, n, m):
    rng = np.random.default_rng(seed)
    x, y = rng.standard_normal(n), 3 * rng.standard_normal(m)
    a, b = rng.dirichlet(np.ones(n)), rng.dirichlet(np.ones(m))
    a[rng.integers(n)] *= rng.integers(2) if n > 1 else 1
    a /= a.sum()
    cost = (x[:, None] - y) ** 2
    value = wasserstein2_1d_samples(x, y, x_weights=7 * a, y_weights=b)
    np.testing.assert_allclose(value**2, ot.emd2(a, b, cost), rtol=1e-12, atol=1e-13)


@given(seeds, st.integers(1, 40))
def test_equal_samples_pair_in_order(seed, n):
    x, y = np.random.default_rng(seed).standard_normal((2, n))
    expected = np.sqrt(np.mean((np.sort(x) - np.sort(y)) ** 2))
    np.testing.assert_allclose(wasserstein2_1d_samples(x, y), expected, rtol=1e-12)
    assert wasserstein2_1d_samples(x, x) == 0


# --- laws on the line -----------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.floats(-5, 5), st.floats(0, 3), st.floats(0, 3))
def test_gaussians_on_the_line(shift, std, other):
    p = Gaussian(np.zeros(1), np.full((1, 1), std**2))
    q = Gaussian(np.full(1, shift), np.full((1, 1), other**2))
    expected = np.hypot(shift, std - other)
    np.testing.assert_allclose(wasserstein2_1d(p, q), expected, rtol=1e-9, atol=1e-15)


@settings(max_examples=6)
@given(seeds, seeds)
@pytest.mark.slow
def test_mixtures_on_the_line_agree_with_a_sum_over_the_cumulative_and_lie_between_the_bounds(seed, other):
    """W2² = ∫∫ weighs |F - G| (Vallender's type of formula): the same distance without any quantile.

    W2² = 2 ∫∫_{x<y} [(F(x) - G(y))⁺ + (G(x) - F(y))⁺] dx dy, by the rectangle rule.
    """
    p, q = line_mixture(seed), line_mixture(other)
    step = 0.05
    x = np.arange(-25, 25, step)
    F, G = (
        norm.cdf((x[:, None] - np.asarray(law.means)[:, 0]) / np.sqrt(np.asarray(law.covs)[:, 0, 0]))
        @ np.asarray(law.weights)
        for law in (p, q)
    )
    below = np.maximum(F[:, None] - G[None, :], 0) + np.maximum(G[:, None] - F[None, :], 0)
    # trapezoidal over the triangle x <= y: the diagonal counts half
    squared = 2 * step**2 * (np.triu(below, 1).sum() + np.trace(below) / 2)
    exact, bounds = wasserstein2_1d(p, q), distance_bounds(p, q)
    # the integrand has kinks: error of order step² times the length of the line and the density
    np.testing.assert_allclose(exact**2, squared, rtol=2e-3, atol=2e-3)
    assert bounds.lower <= exact * (1 + 1e-8)
    assert exact <= bounds.upper * (1 + 1e-8)


@pytest.mark.slow
@settings(max_examples=6)
@given(seeds, st.floats(-3, 3), st.floats(0.1, 5))
def test_affine_images_on_the_line(seed, shift, scale):
    """x -> a x + b is monotone, hence optimal: W2² = (a - 1)² Var + ((a - 1) mean + b)²."""
    p = line_mixture(seed)
    q = GaussianMixture(p.weights, scale * p.means + shift, scale**2 * p.covs)
    law = p.moments()
    expected = np.sqrt((scale - 1) ** 2 * law.cov[0, 0] + ((scale - 1) * law.mean[0] + shift) ** 2)
    # relative 1e-9, and rounding of quantiles of size 10
    np.testing.assert_allclose(wasserstein2_1d(p, q), expected, rtol=1e-8, atol=1e-13)
    assert wasserstein2_1d(p, p) == 0


def test_distant_modes_and_near_equality():
    """Quantiles that jump by 60 standard deviations; and a distance of 1e-9."""
    wide = lambda w: GaussianMixture(np.array([w, 1 - w]), np.array([[-30.0], [30.0]]), np.ones((2, 1, 1)))  # noqa: E731
    p, q = wide(0.3), wide(0.4)
    # mass 0.1 moves 60 up to what the modes' shapes save: bounded by the samples' distance below
    u = (np.arange(200_000) + 0.5) / 200_000

    def quantile(w):
        return np.where(u < w, -30 + norm.ppf(np.minimum(u / w, 1)), 30 + norm.ppf(np.maximum((u - w) / (1 - w), 0)))

    expected = np.sqrt(np.mean((quantile(0.3) - quantile(0.4)) ** 2))
    np.testing.assert_allclose(wasserstein2_1d(p, q), expected, rtol=1e-5)
    near = GaussianMixture(p.weights, p.means + 1e-9, p.covs)
    np.testing.assert_allclose(wasserstein2_1d(p, near), 1e-9, rtol=1e-4)  # means near 30 are known to 4e-15


def test_quantile_functions_may_be_given():
    """The uniform law on [0, 1] against the point 1/2: standard deviation 1/sqrt(12). And a fair coin: 1/2."""
    half = lambda z: np.full_like(z, 0.5)  # noqa: E731
    np.testing.assert_allclose(wasserstein2_1d_quantiles(norm.cdf, half), 12**-0.5, rtol=1e-9)
    coin = lambda z: (z > 0.3).astype(float)  # noqa: E731
    share = norm.sf(0.3)
    np.testing.assert_allclose(wasserstein2_1d_quantiles(coin, lambda z: 0 * z), np.sqrt(share), rtol=1e-8)


# --- mixtures in any dimension --------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(seeds, seeds)
def test_mixture_distance_agrees_with_pot(seed, other):
    p, q = plane_mixture(seed, 2), plane_mixture(other, 3)
    arrays = [np.asarray(a) for a in (p.means, q.means, p.covs, q.covs, p.weights, q.weights)]
    np.testing.assert_allclose(mixture_distance(p, q) ** 2, ot.gmm.gmm_ot_loss(*arrays), rtol=1e-9)


@settings(max_examples=10)
@given(seeds)
def test_mixture_distance_is_the_linear_program(seed):
    """Singular components too, by SciPy's linear programming on single distances."""
    p, q = plane_mixture(seed, 2, singular=True), plane_mixture(seed + 1, 3, singular=True)
    part = lambda law, i: Gaussian(law.means[i], law.covs[i])  # noqa: E731
    cost = np.array([[float(wasserstein2(part(p, i), part(q, j))) ** 2 for j in range(3)] for i in range(2)])
    rows, columns = np.kron(np.eye(2), np.ones(3)), np.kron(np.ones(2), np.eye(3))
    sums = np.concatenate([p.weights, q.weights])
    best = linprog(cost.ravel(), A_eq=np.vstack([rows, columns]), b_eq=sums).fun
    np.testing.assert_allclose(mixture_distance(p, q), np.sqrt(best), rtol=1e-7)


def test_bounds_meet_for_single_gaussians():
    p, q = Gaussian(np.zeros(2), covariance(2, 5.0, 3)), Gaussian(np.ones(2), covariance(2, 5.0, 4))
    single = GaussianMixture(np.ones(1), q.mean[None], q.cov[None])
    expected = float(wasserstein2(p, q))
    np.testing.assert_allclose(distance_bounds(p, single), [expected, expected], rtol=1e-12)
    mixture = plane_mixture(3, 3)
    np.testing.assert_allclose(gelbrich_bound(mixture, q), wasserstein2(mixture.moments(), q), rtol=1e-12)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((np.zeros(0), np.zeros(1)), {}, "x must"),
        ((np.zeros(1), np.zeros((1, 1))), {}, "y must"),
        ((np.zeros(2), np.array([0.0, np.inf])), {}, "y must be finite"),
        ((np.zeros(2), np.zeros(2)), {"x_weights": np.ones(3)}, "x_weights"),
        ((np.zeros(2), np.zeros(2)), {"y_weights": np.array([1.0, -1.0])}, "y_weights"),
        ((np.zeros(2), np.zeros(2)), {"y_weights": np.zeros(2)}, "y_weights"),
    ],
)
def test_bad_samples_are_refused(arguments, options, message):
    # without the tests' own annotation checks, as a user meets it
    with pytest.raises((ValueError, TypeError), match=message):
        wasserstein2_1d_samples.__wrapped__(*arguments, **options)


def test_bad_laws_are_refused():
    plane, line = plane_mixture(0, 2), line_mixture(0)
    with pytest.raises(ValueError, match="dimension"):
        wasserstein2_1d(plane, line)
    with pytest.raises(ValueError, match="dimension"):
        mixture_distance(plane, line)
    points = GaussianMixture(np.array([0.5, 0.5]), np.array([[0.0], [1.0]]), np.zeros((2, 1, 1)))
    with pytest.raises(ValueError, match="positive variances"):
        wasserstein2_1d(points, line)
    with pytest.raises(TypeError, match="float64"):
        wasserstein2_1d_samples(np.zeros(2, np.float32), np.zeros(2))
    single = jax.tree.map(lambda a: a.astype(np.float32), line)
    with pytest.raises(TypeError, match="float64"):
        wasserstein2_1d(single, line)
