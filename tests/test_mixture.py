"""Mixtures against SciPy densities, automatic differentiation, quadrature, brute-force conditioning and Monte Carlo."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.special import logsumexp
from scipy.stats import multivariate_normal, norm

from tests.strategies import seeds, vectors
from theory.claims.cases import covariance
from theory.gaussian import Gaussian
from theory.mixture import GaussianMixture

EPS = np.finfo(float).eps
few = st.sampled_from([1, 3])
score_of = jax.jit(lambda p, x: p.score(x))
posterior_mean = jax.jit(lambda p, xt, gain, noise: p.posterior_mean(xt, gain, noise))
log_prob = jax.jit(lambda p, x: p.log_prob(x))
responsibilities = jax.jit(lambda p, x: p.responsibilities(x))
autodiff_score = jax.jit(lambda p, x: jax.grad(p.log_prob)(x))


def mixture(d, k, seed, condition=100.0, spread=3.0, dtype=np.float64):
    """k components: means N(0, spread²), covariances of the given condition number, uneven weights."""
    rng = np.random.default_rng([seed, d, k])
    weights = rng.dirichlet(np.ones(k)).astype(dtype)
    weights = weights / weights.sum(dtype=np.float64).astype(dtype)
    covs = np.stack([covariance(d, condition, seed + i) * rng.uniform(0.3, 2) for i in range(k)])
    return GaussianMixture(weights, (spread * rng.standard_normal((k, d))).astype(dtype), covs.astype(dtype))


@st.composite
def mixtures(draw, d=few, k=3):
    """Mixtures of three components, d = 1 or 3."""
    return mixture(draw(d), k, draw(seeds), 10 ** draw(st.floats(0, 3)), draw(st.floats(0, 10)))


GRID = np.linspace(-60, 60, 120_001)
"""For brute-force sums on the line: steps of 1e-3, far below any standard deviation used."""


def line_density(p):
    """The density of a mixture on GRID, by SciPy."""
    stds = np.sqrt(np.asarray(p.covs)[:, 0, 0])
    return norm.pdf(GRID[:, None], np.asarray(p.means)[:, 0], stds) @ np.asarray(p.weights) * (GRID[1] - GRID[0])


def scipy_log_density(p, x):
    parts = [
        math.log(w) + multivariate_normal(np.asarray(m), np.asarray(c)).logpdf(x)
        for w, m, c in zip(p.weights, p.means, p.covs, strict=True)
    ]
    return logsumexp(parts, axis=0)


# --- density, score, sampling ---------------------------------------------------------------------------------------


@given(mixtures(), st.data())
def test_log_density_agrees_with_scipy(p, data):
    x = data.draw(vectors(p.dim))
    # quadratic forms up to |x - m|² condition / 0.3 ~ 1e6 with relative error condition * eps * d
    np.testing.assert_allclose(log_prob(p, x), scipy_log_density(p, x), rtol=1e3 * 100 * EPS, atol=1e-10)


@given(mixtures(), st.data())
def test_score_is_the_gradient(p, data):
    x = jnp.asarray(data.draw(vectors(p.dim)))
    scale = max(1.0, float(np.max(np.abs(score_of(p, x)))))
    np.testing.assert_allclose(score_of(p, x), autodiff_score(p, x), atol=1e3 * 100 * EPS * scale)
    total = np.sum(responsibilities(p, x))
    np.testing.assert_allclose(total, 1, rtol=10 * EPS)


@pytest.mark.parametrize("deviations", [0.0, 15.0, 40.0, 1e4])
def test_float32_stays_finite_far_out(deviations):
    """d = 64: densities themselves are below the smallest float32 almost everywhere."""
    p = mixture(64, 5, 1, condition=10.0, dtype=np.float32)
    x = np.full(64, deviations, np.float32)
    log_density, score = log_prob(p, x), score_of(p, x)
    assert log_density.dtype == score.dtype == np.float32
    assert np.isfinite(log_density)
    assert np.all(np.isfinite(score))
    weights, means, covs = (np.asarray(a, np.float64) for a in (p.weights, p.means, p.covs))
    double = GaussianMixture(weights / weights.sum(), means, covs)
    # condition 10, d = 64 sums, float32
    slack = 10 * 64 * np.finfo(np.float32).eps
    np.testing.assert_allclose(log_density, log_prob(double, x.astype(float)), rtol=slack)
    expected = np.asarray(score_of(double, x.astype(float)))
    np.testing.assert_allclose(score, expected, atol=slack * max(1, np.abs(expected).max()))


def test_samples_have_the_law():
    p = mixture(2, 3, 4)
    x = np.asarray(p.sample(jax.random.key(3), (40_000,)))
    law, n = p.moments(), len(x)
    spread = np.sqrt(np.diag(law.cov))
    assert np.all(np.abs(x.mean(axis=0) - law.mean) < 5 * spread / np.sqrt(n))
    for f in (lambda y: np.outer(y, y).ravel(), lambda y: np.tanh(np.outer(y, y) @ y)):  # beyond the mean
        values = np.array([f(y) for y in (x - np.asarray(law.mean))[:8000]])
        fresh = np.array([f(y) for y in _brute_samples(p, 8000) - np.asarray(law.mean)])
        error = np.sqrt((values.var(axis=0) + fresh.var(axis=0)) / 8000)
        assert np.all(np.abs(values.mean(axis=0) - fresh.mean(axis=0)) < 5 * error)
    assert p.sample(jax.random.key(0)).shape == (2,)


def _brute_samples(p, n):
    rng = np.random.default_rng(0)
    index = rng.choice(len(p.weights), n, p=np.asarray(p.weights))
    roots, white = np.linalg.cholesky(np.asarray(p.covs)), rng.standard_normal((n, p.dim))
    return np.asarray(p.means)[index] + np.einsum("nij,nj->ni", roots[index], white)


# --- moments, push-forward, posterior -------------------------------------------------------------------------------


@given(mixtures(st.just(1)))
def test_moments_agree_with_quadrature(p):
    density, law = line_density(p), p.moments()
    mean = density @ GRID
    np.testing.assert_allclose(law.mean[0], mean, atol=1e-11)
    np.testing.assert_allclose(law.cov[0, 0], density @ (GRID - mean) ** 2, rtol=1e-11)


@given(mixtures(), seeds)
def test_pushforward_is_the_law_of_the_image(p, seed):
    """Its characteristic function is that of A x times that of the noise."""
    rng = np.random.default_rng(seed)
    A, root = rng.standard_normal((2, p.dim)), rng.standard_normal((2, 2))
    image, frequency = p.pushforward(A, root @ root.T), rng.standard_normal(2)

    def characteristic(law, u):
        quadratic = np.einsum("i,kij,j->k", u, law.covs, u)
        return np.sum(law.weights * np.exp(1j * np.asarray(law.means) @ u - quadratic / 2))

    noise = np.exp(-np.sum((root.T @ frequency) ** 2) / 2)
    np.testing.assert_allclose(characteristic(image, frequency), characteristic(p, A.T @ frequency) * noise, atol=1e-12)


@given(mixtures(), st.data(), st.floats(0.05, 2))
def test_posterior_mean_obeys_tweedie(p, data, noise_std):
    """A E[x_0 | x_t] = x_t + N ∇ log p_t(x_t) (Robbins 1956), by automatic differentiation of the marginal."""
    xt, gain = data.draw(vectors(p.dim)), 0.7
    marginal = p.pushforward(gain, noise_std**2)
    expected = (xt + noise_std**2 * np.asarray(autodiff_score(marginal, jnp.asarray(xt)))) / gain
    np.testing.assert_allclose(posterior_mean(p, xt, gain, noise_std**2), expected, atol=1e-9)


@given(mixtures(st.just(1)), st.floats(-5, 5))
def test_posterior_mean_agrees_with_quadrature(p, xt):
    gain, variance = -0.6, 0.3

    joint = line_density(p) * np.exp(-((xt - gain * GRID) ** 2) / (2 * variance))
    if joint.sum() > 1e-250:  # beyond that the product underflows
        expected = joint @ GRID / joint.sum()
        np.testing.assert_allclose(posterior_mean(p, np.array([xt]), gain, variance)[0], expected, atol=1e-9)


def test_posterior_mean_with_a_general_gain():
    """One Gaussian, by conditioning the joint law of (x_0, x_t); diagonal gains equal their matrices."""
    cov, mean = covariance(3, 10.0, 2, 2), np.array([1.0, -1.0, 0.5])
    p = GaussianMixture(np.ones(1), mean[None], cov[None])
    A, noise, xt = np.random.default_rng(0).standard_normal((2, 3)), np.diag([0.5, 0.1]), np.array([0.3, 2.0])
    gain = np.linalg.lstsq(A @ cov @ A.T + noise, A @ cov, rcond=None)[0].T
    np.testing.assert_allclose(p.posterior_mean(xt, A, noise), mean + gain @ (xt - A @ mean), atol=1e-13)
    diagonal, x3 = np.array([1.0, 0.5, 0.2]), np.ones(3)
    np.testing.assert_allclose(
        p.posterior_mean(x3, diagonal, diagonal**2),
        p.posterior_mean(x3, np.diag(diagonal), np.diag(diagonal**2)),
        atol=1e-14,
    )


# --- entropy --------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(st.sampled_from([1, 2]), seeds, st.floats(0, 10), st.floats(0, 1))
def test_entropy_lies_between_its_bounds(d, seed, spread, exponent):
    p = mixture(d, 3, seed, 10**exponent, spread)
    lower, upper = p.entropy_bounds()
    value = p.entropy(tolerance=1e-6)
    assert lower - 1e-6 <= value <= upper + 1e-6
    assert upper - lower <= -np.sum(p.weights * np.log(p.weights)) + 1e-9


@pytest.mark.parametrize("d", [1, 2, 5])
def test_entropy_of_one_component_and_of_distant_ones(d):
    """All bounds are tight where components coincide, and where they do not overlap."""
    single = Gaussian(np.ones(d), covariance(d, 100.0, 3))
    same = GaussianMixture(np.array([0.3, 0.7]), np.ones((2, d)), np.stack([single.cov] * 2))
    np.testing.assert_allclose(same.entropy_bounds(), [single.entropy()] * 2, atol=1e-12)
    apart = GaussianMixture(np.array([0.3, 0.7]), np.stack([np.zeros(d), 1e3 * np.ones(d)]), same.covs)
    expected = single.entropy() - 0.3 * np.log(0.3) - 0.7 * np.log(0.7)
    np.testing.assert_allclose(apart.entropy_bounds(), [expected] * 2, atol=1e-12)
    if d <= 2:
        np.testing.assert_allclose([same.entropy(), apart.entropy()], [single.entropy(), expected], atol=1e-8)


def test_entropy_agrees_with_adaptive_quadrature():
    p = GaussianMixture(np.array([0.6, 0.4]), np.array([[0.0], [1.5]]), np.array([[[1.0]], [[0.0025]]]))
    f = lambda x: -np.exp(scipy_log_density(p, [x])) * scipy_log_density(p, [x])  # noqa: E731
    expected = quad(f, -12, 14, points=[1.2, 1.5, 1.8], limit=500, epsabs=1e-12)[0]
    np.testing.assert_allclose(p.entropy(), expected, atol=2e-8)


def test_bounds_against_their_definition():
    """Two overlapping components of unlike shape: pairwise distances by quadrature on the line."""
    p = GaussianMixture(np.array([0.25, 0.75]), np.array([[0.0], [1.0]]), np.array([[[1.0]], [[0.3]]]))
    f, g = (multivariate_normal(p.means[i], p.covs[i]).pdf for i in (0, 1))
    overlap = quad(lambda x: np.sqrt(f(x) * g(x)), -12, 12)[0]
    kls = [quad(lambda x, a=a, b=b: a(x) * np.log(a(x) / b(x)), -12, 12)[0] for a, b in ((f, g), (g, f))]
    own = 0.5 * np.log(2 * np.pi * np.e * np.array([1.0, 0.3]))
    low = [own[0] - np.log(0.25 + 0.75 * overlap), own[1] - np.log(0.75 + 0.25 * overlap)]
    high = [own[0] - np.log(0.25 + 0.75 * np.exp(-kls[0])), own[1] - np.log(0.75 + 0.25 * np.exp(-kls[1]))]
    bounds = p.entropy_bounds()
    np.testing.assert_allclose(bounds.lower, p.weights @ np.array(low), atol=1e-7)
    matched = 0.5 * np.log(2 * np.pi * np.e * p.moments().cov[0, 0])
    np.testing.assert_allclose(bounds.upper, min(p.weights @ np.array(high), matched), atol=1e-7)


def test_upper_bound_uses_the_matched_moments():
    """Many well-mixed components: the Gaussian of equal moments is the better bound."""
    means = np.linspace(-0.9, 0.9, 12)[:, None]
    p = GaussianMixture(np.full(12, 1 / 12), means, np.full((12, 1, 1), 0.02))
    np.testing.assert_allclose(
        p.entropy_bounds().upper, min(p.moments().entropy(), p.entropy_bounds().upper), rtol=1e-15
    )
    narrow = GaussianMixture(np.array([0.5, 0.5]), np.array([[-0.8], [0.8]]), np.ones((2, 1, 1)))
    np.testing.assert_allclose(narrow.entropy_bounds().upper, narrow.moments().entropy(), rtol=1e-15)


def test_components_of_weight_zero_do_not_count():
    p = GaussianMixture(np.array([0.4, 0.6, 0.0]), np.array([[0.0], [2.0], [5.0]]), np.ones((3, 1, 1)))
    q = GaussianMixture(np.array([0.4, 0.6]), p.means[:2], p.covs[:2])
    x = np.array([1.0])
    for f in (lambda m: m.entropy(), lambda m: m.entropy_bounds(), lambda m: m.log_prob(x), lambda m: m.score(x)):
        np.testing.assert_allclose(f(p), f(q), rtol=1e-12)


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("weights", "means", "covs", "message"),
    [
        (np.array([0.5, 0.4]), np.zeros((2, 1)), np.ones((2, 1, 1)), "weights.*sum"),
        (np.array([1.5, -0.5]), np.zeros((2, 1)), np.ones((2, 1, 1)), "weights.*non-negative"),
        (np.array([1.0]), np.zeros((2, 1)), np.ones((2, 1, 1)), "weights"),
        (np.array([0.5, 0.5]), np.zeros((2, 2)), np.ones((2, 1, 1)), "covs"),
        (np.array([0.5, 0.5]), np.zeros((2, 1)), np.array([[[1.0]], [[-1.0]]]), r"covs\[1\]"),
        (np.array([0.5, 0.5]), np.array([[0.0], [np.nan]]), np.ones((2, 1, 1)), "means"),
    ],
)
def test_bad_mixtures_are_refused(weights, means, covs, message):
    with pytest.raises(ValueError, match=message):
        GaussianMixture(weights, means, covs)


def test_entropy_says_what_it_cannot_do():
    with pytest.raises(ValueError, match="entropy_bounds"):
        mixture(3, 2, 0).entropy()
    needle = GaussianMixture(np.array([0.5, 0.5]), np.zeros((2, 2)), np.stack([np.eye(2), 1e-10 * np.eye(2)]))
    with pytest.raises(ValueError, match="narrowest"):
        needle.entropy()
    with pytest.raises(ValueError, match="positive definite"):
        GaussianMixture(np.ones(1), np.zeros((1, 1)), np.zeros((1, 1, 1))).entropy()
    with pytest.raises(TypeError, match="float64"):
        mixture(1, 2, 0, dtype=np.float32).entropy_bounds()
    with pytest.raises(ValueError, match="gain"):
        mixture(1, 2, 0).pushforward(np.ones((1, 1, 1)), 1.0)
