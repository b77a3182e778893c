"""Gaussians against 60-digit arithmetic, SciPy, POT and finite differences."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import ot
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from tests.strategies import covariances, dimensions, seeds, vectors
from theory.claims.cases import covariance, direction, rotation
from theory.gaussian import Gaussian, kl, wasserstein2, wasserstein2_paired, wasserstein2_squared

EPS = np.finfo(float).eps
small = st.sampled_from([1, 2, 3])
few = st.sampled_from([1, 3])
squared_gradient = jax.jit(jax.grad(wasserstein2_squared))
distance_gradient = jax.jit(jax.grad(wasserstein2))
kl_gradient = jax.jit(jax.grad(kl))


@st.composite
def pairs(draw, d=dimensions, max_condition=1e8, singular=False):
    """Two Gaussians of equal dimension."""
    size = draw(d)
    arrays = [(draw(vectors(size)), draw(covariances(size, max_condition, singular))) for _ in range(2)]
    return tuple(Gaussian(mean, cov) for mean, cov in arrays)


def _exact_matrices(p, q):
    return [mpmath.matrix(np.asarray(a).tolist()) for a in (p.mean - q.mean, p.cov, q.cov)]


def _exact_root(matrix):
    values, vectors_ = mpmath.eigsy(matrix)
    return vectors_ * mpmath.diag([mpmath.sqrt(max(v, 0)) for v in values]) * vectors_.T


def exact_wasserstein2(p, q):
    """The trace formula in 60 digits: cancellation costs at most half of them."""
    with mpmath.workdps(60):
        shift, A, B = _exact_matrices(p, q)
        root = _exact_root(A)
        crossed = mpmath.eigsy(root * B * root, eigvals_only=True)
        trace = sum(A[i, i] + B[i, i] for i in range(A.rows))
        trace -= 2 * sum(mpmath.sqrt(max(v, 0)) for v in crossed)
        return float(mpmath.sqrt(sum(v**2 for v in shift) + max(trace, 0)))


def exact_kl(p, q):
    """KL(p‖q) by 60-digit inverses and determinants."""
    with mpmath.workdps(60):
        shift, A, B = _exact_matrices(p, q)
        inverse = B**-1
        product = inverse * A
        trace = sum(product[i, i] for i in range(A.rows))
        quadratic = (shift.T * inverse * shift)[0]
        return float((trace - A.rows - mpmath.log(mpmath.det(product)) + quadratic) / 2)


def nearby(p, seed, distance):
    """N(0, T S T), T = I + X, X symmetric and small: at W2 = `distance` from p = N(0, S), as T is optimal."""
    d = p.dim
    X = np.random.default_rng(seed).standard_normal((d, d))
    X = X + X.T
    X *= distance / np.sqrt(np.trace(X @ p.cov @ X))
    T = np.eye(d) + X
    return Gaussian(p.mean, np.asarray(T @ p.cov @ T + (T @ p.cov @ T).T) / 2)


# --- entropy, log-density, sampling ---------------------------------------------------------------------------------


@given(pairs(few, max_condition=1e4))
def test_entropy_and_log_density_agree_with_scipy(pair):
    p, q = pair
    oracle = multivariate_normal(np.asarray(p.mean), np.asarray(p.cov))
    x = np.asarray(q.mean)
    expected = oracle.logpdf(x)
    # both whiten x - m: relative error condition * d * eps of the quadratic form
    np.testing.assert_allclose(p.log_prob(x), expected, rtol=1e4 * 8 * 10 * EPS, atol=1e-9)
    np.testing.assert_allclose(p.entropy(), oracle.entropy(), atol=1e4 * 8 * 10 * EPS)


def test_singular_covariances_have_no_density():
    p = Gaussian(np.zeros(3), np.diag([1.0, 1.0, 0.0]))
    assert p.entropy() == -np.inf
    assert np.isnan(p.log_prob(np.zeros(3)))


@pytest.mark.parametrize("rank", [3, 2])
def test_samples_have_the_moments(rank):
    p = Gaussian(np.arange(3.0), covariance(3, 10.0, 5, rank))
    x = np.asarray(p.sample(jax.random.key(0), (20_000,)))
    centred = x - np.asarray(p.mean)
    # five standard errors: variances are at most 1, products of two coordinates have variance at most 2
    np.testing.assert_allclose(centred.mean(axis=0), 0, atol=5 / np.sqrt(len(x)))
    np.testing.assert_allclose(centred.T @ centred / len(x), p.cov, atol=5 * np.sqrt(2 / len(x)))
    if rank < 3:  # the null direction is never left: its factor is at most sqrt(eps)
        null = np.linalg.eigh(np.asarray(p.cov))[1][:, 0]
        assert np.max(np.abs(centred @ null)) < 1e-6


def test_sample_shapes_and_pushforward():
    p = Gaussian(np.ones(2), covariance(2, 10.0, 3))
    assert p.sample(jax.random.key(1)).shape == (2,)
    A = np.array([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0]])
    moved = p.pushforward(A, 0.5)
    np.testing.assert_allclose(moved.mean, A @ np.ones(2), rtol=4 * EPS)
    np.testing.assert_allclose(moved.cov, A @ np.asarray(p.cov) @ A.T + 0.5 * np.eye(3), atol=100 * EPS)
    diagonal = p.pushforward(np.array([2.0, 3.0]), np.array([1.0, 4.0]))
    np.testing.assert_allclose(diagonal.cov, p.pushforward(np.diag([2.0, 3.0]), np.diag([1.0, 4.0])).cov)


# --- Kullback-Leibler -----------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(pairs(small))
def test_kl_agrees_with_sixty_digits(pair):
    p, q = pair
    # the two whitened terms are relative to condition(q) * eps
    np.testing.assert_allclose(kl(p, q), exact_kl(p, q), rtol=1e-7)


@settings(max_examples=15)
@given(covariances(3, 1e6), seeds, st.floats(-9, -0.1))
def test_kl_keeps_digits_near_zero(cov, seed, exponent):
    """q = T p T with an exactly representable difference; the value falls to 1e-18."""
    p = Gaussian(np.zeros(3), cov)
    q = nearby(p, seed, 10.0**exponent * np.sqrt(np.linalg.eigvalsh(cov)[0]))
    expected = exact_kl(q, p)
    difference = np.linalg.norm(q.cov - p.cov) / np.linalg.norm(p.cov)
    if difference > 0:
        np.testing.assert_allclose(kl(q, p), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1.01, 1.2, 1.34, 1.36, 0.67, 3.0, 1e-3])
def test_kl_on_both_sides_of_the_switch(scale):
    """In one dimension: (e - log(1 + e)) / 2, e = scale - 1; the series serves |e| < 1/2."""
    p, q = Gaussian(np.zeros(1), np.full((1, 1), scale)), Gaussian(np.zeros(1), np.eye(1))
    with mpmath.workdps(40):
        expected = float((mpmath.mpf(scale) - 1 - mpmath.log(mpmath.mpf(scale))) / 2)
    np.testing.assert_allclose(kl(p, q), expected, rtol=20 * EPS / min(abs(scale - 1), 1))


@given(pairs(few))
def test_kl_is_zero_only_at_equality(pair):
    p, q = pair
    assert kl(p, p) == 0
    assert kl(p, q) >= 0


def test_kl_of_singular_covariances():
    flat, full = Gaussian(np.zeros(2), np.diag([1.0, 0.0])), Gaussian(np.zeros(2), np.eye(2))
    assert kl(flat, full) == np.inf
    assert kl(full, flat) == np.inf
    assert np.isnan(kl(flat, flat))


@given(covariances(3, 100.0), seeds)
def test_kl_gradient_is_the_textbook_one(cov, seed):
    """d KL / d S_p = (S_q⁻¹ - S_p⁻¹) / 2, on both sides of the switch and at p = q."""
    p = Gaussian(np.zeros(3), cov)
    for q in (p, nearby(p, seed, 1e-3), Gaussian(np.ones(3), covariance(3, 100.0, seed))):
        grad = kl_gradient(p, q).cov
        expected = (np.linalg.inv(q.cov) - np.linalg.inv(p.cov)) / 2
        np.testing.assert_allclose((grad + grad.T) / 2, expected, atol=1e4 * 100 * EPS)


# --- Wasserstein ----------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(pairs(small, singular=True))
def test_wasserstein_agrees_with_sixty_digits(pair):
    p, q = pair
    # a singular covariance is known to eps, its factor to sqrt(eps)
    np.testing.assert_allclose(wasserstein2(p, q), exact_wasserstein2(p, q), rtol=1e-7, atol=1e-7)


@settings(max_examples=15)
@given(small, seeds, seeds, st.floats(0, 8), st.floats(-6, -1))
def test_wasserstein_keeps_six_digits_near_zero(d, seed, other, condition, exponent):
    """Down to W2 = 1e-6 and up to condition 1e8, together."""
    p = Gaussian(np.zeros(d), covariance(d, 10.0**condition, seed))
    distance = 10.0**exponent * 10.0 ** (-condition / 2 if exponent > -3 else 0)
    q = nearby(p, other, max(distance, 1e-6))
    expected = exact_wasserstein2(p, q)
    np.testing.assert_allclose(wasserstein2(p, q), expected, rtol=1e-6)


@pytest.mark.parametrize("d", [8, 12])
@pytest.mark.parametrize("condition", [1.0, 1e8])
def test_wasserstein_keeps_six_digits_in_higher_dimension(d, condition):
    p = Gaussian(np.zeros(d), covariance(d, condition, 3))
    for distance in (1e-6, 1e-2):
        q = nearby(p, 1, distance)
        np.testing.assert_allclose(wasserstein2(p, q), exact_wasserstein2(p, q), rtol=1e-6)
    far = Gaussian(np.zeros(d), covariance(d, condition, 4) + np.eye(d) * (condition == 1))
    np.testing.assert_allclose(wasserstein2(p, far), exact_wasserstein2(p, far), rtol=1e-10)


@given(pairs(st.just(8), max_condition=1e3))
def test_wasserstein_agrees_with_pot(pair):
    p, q = pair
    arrays = [np.asarray(a) for a in (p.mean, q.mean, p.cov, q.cov)]
    # POT's trace formula: absolute error of W2² about d eps
    np.testing.assert_allclose(
        wasserstein2_squared(p, q), ot.gaussian.bures_wasserstein_distance(*arrays) ** 2, atol=1e-11
    )


@given(pairs(few, singular=True), seeds)
def test_wasserstein_is_a_metric(pair, seed):
    p, q = pair
    r = Gaussian(direction(p.dim, seed), covariance(p.dim, 1e4, seed))
    assert wasserstein2(p, p) == 0
    slack = 1e-7  # sqrt(eps) for singular covariances
    np.testing.assert_allclose(wasserstein2(p, q), wasserstein2(q, p), rtol=1e-7, atol=slack)
    assert wasserstein2(p, r) <= wasserstein2(p, q) + wasserstein2(q, r) + slack


@given(few, seeds, st.floats(0, 3))
def test_wasserstein_of_commuting_covariances(d, seed, exponent):
    """Commuting covariances: the distance of the standard deviations, zero ones included."""
    rng = np.random.default_rng(seed)
    basis, stds = rotation(d, seed), rng.random((2, d)) * 10**exponent
    stds[0, 0] = 0.0
    p, q = (Gaussian(np.zeros(d), (basis * s**2) @ basis.T) for s in stds)
    np.testing.assert_allclose(
        wasserstein2(p, q), np.linalg.norm(stds[0] - stds[1]), rtol=1e-7, atol=1e-7 * 10**exponent
    )


def test_wasserstein_of_points_and_extreme_scales():
    point, other = Gaussian(np.zeros(2), np.zeros((2, 2))), Gaussian(np.array([3.0, 4.0]), np.zeros((2, 2)))
    assert wasserstein2(point, other) == 5
    for scale in (1e-60, 1e60):
        p, q = (
            Gaussian(np.zeros(2), scale * covariance(2, 4.0, 3)),
            Gaussian(np.zeros(2), scale * covariance(2, 9.0, 5)),
        )
        unit = wasserstein2(Gaussian(np.zeros(2), p.cov / scale), Gaussian(np.zeros(2), q.cov / scale))
        np.testing.assert_allclose(wasserstein2(p, q), np.sqrt(scale) * unit, rtol=1e-12)


@given(pairs(few, max_condition=1e4))
def test_gradient_is_identity_minus_the_optimal_map(pair):
    """d W2² / d S_p = I - T with T = S_p^-½ (S_p^½ S_q S_p^½)^½ S_p^-½, by eigendecomposition."""
    p, q = pair

    def power(matrix, exponent):
        values, vectors_ = np.linalg.eigh(matrix)
        return (vectors_ * values**exponent) @ vectors_.T

    half, back = power(p.cov, 0.5), power(p.cov, -0.5)
    T = back @ power(half @ q.cov @ half, 0.5) @ back
    gradient = squared_gradient(p, q)
    # `back` is of size sqrt(condition), twice, and the root between them is known to eps sqrt(condition)
    np.testing.assert_allclose((gradient.cov + gradient.cov.T) / 2, np.eye(p.dim) - T, atol=1e4**1.5 * 100 * EPS)
    np.testing.assert_allclose(gradient.mean, 2 * (p.mean - q.mean), atol=1e-14)


@given(few.flatmap(lambda d: covariances(d, 1e8)))
def test_gradients_at_equality_are_zero_and_finite(cov):
    p = Gaussian(np.zeros(len(cov)), cov)
    for function in (distance_gradient, squared_gradient):
        gradient = function(p, p)
        assert np.all(np.asarray(gradient.mean) == 0)
        assert np.all(np.asarray(gradient.cov) == 0)


def test_second_derivative_at_equality_is_the_bures_metric():
    """d²/dh² W2²(S + hX, S) = Σ X_ij² / (λ_i + λ_j) in S's eigenbasis, finite though the difference vanishes."""
    p = Gaussian(np.zeros(3), np.diag([1.0, 1.0, 0.1]))
    X = np.random.default_rng(2).standard_normal((3, 3))
    X = jnp.asarray(X + X.T)
    curve = lambda h: wasserstein2_squared(Gaussian(p.mean, p.cov + h * X), p)  # noqa: E731
    values = np.diag(p.cov)
    expected = np.sum(np.asarray(X) ** 2 / (values[:, None] + values[None, :]))
    np.testing.assert_allclose(jax.jit(jax.grad(jax.grad(curve)))(0.0), expected, rtol=1e-12)


@pytest.mark.parametrize("d", [128, pytest.param(512, marks=pytest.mark.slow)])
def test_large_dimension(d):
    stds = np.random.default_rng(0).random((2, d)) + 0.1
    basis = np.linalg.qr(np.random.default_rng(1).standard_normal((d, d)))[0]
    p, q = (Gaussian(np.zeros(d), (basis * s**2) @ basis.T) for s in stds)
    np.testing.assert_allclose(wasserstein2(p, q), np.linalg.norm(stds[0] - stds[1]), rtol=1e-10)
    ratio = stds[0] ** 2 / stds[1] ** 2
    np.testing.assert_allclose(kl(p, q), np.sum(ratio - 1 - np.log(ratio)) / 2, rtol=1e-10)


def test_batches_equal_single_calls():
    """Well-conditioned, ill-conditioned, singular and equal pairs: the loops inside serve each as if alone."""
    d, covs = 3, [covariance(3, c, 7, r) for c, r in ((3.0, None), (1e8, None), (1e2, 1), (1.0, None), (10.0, 2))]
    p = jax.vmap(Gaussian)(jnp.zeros((5, d)), jnp.stack([jnp.asarray(c) for c in covs]))
    q = jax.vmap(Gaussian)(jnp.ones((5, d)), jnp.stack([jnp.asarray(c) for c in [*covs[2:], *covs[:2]]]))
    single = [wasserstein2(Gaussian(p.mean[i], p.cov[i]), Gaussian(q.mean[i], q.cov[i])) for i in range(5)]
    np.testing.assert_allclose(jax.jit(jax.vmap(wasserstein2))(p, q), single, rtol=1e-14)
    np.testing.assert_allclose(wasserstein2_paired(p, q), single, rtol=1e-14)


HANG_CHECK = """
import jax
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp
from theory.gaussian import Gaussian, wasserstein2, wasserstein2_paired
X = jax.random.normal(jax.random.key(0), (2, 256, 8, 16))
X = X.at[:, :4, :, 3:].set(0)  # some singular: the loops' bodies run too
p, q = (jax.vmap(Gaussian)(jnp.zeros((256, 8)), x @ x.mT) for x in X)
mapped = jax.jit(jax.vmap(wasserstein2))
for _ in range(8):
    assert jnp.isfinite(mapped(p, q)).all()
    assert jnp.isfinite(wasserstein2_paired(p, q)).all()
print("finished")
"""


def test_the_compiled_kernel_does_not_hang():
    """Two Cholesky calls and a singular value decomposition in one program can hang on two cores; ours must not."""
    done = subprocess.run([sys.executable, "-c", HANG_CHECK], capture_output=True, text=True, timeout=120, check=False)
    assert done.stdout.strip() == "finished", done.stderr[-2000:]


# --- bad input ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mean", "cov", "message"),
    [
        (np.zeros(2), np.eye(3), "cov"),
        (np.zeros(2), np.array([[1.0, 2.0], [2.0, 1.0]]), "positive semi-definite"),
        (np.zeros(2), np.array([[1.0, 0.5], [0.0, 1.0]]), "symmetric"),
        (np.array([0.0, np.nan]), np.eye(2), "mean"),
        (np.zeros(2), np.diag([1.0, np.inf]), "finite"),
    ],
)
def test_bad_gaussians_are_refused(mean, cov, message):
    with pytest.raises(ValueError, match=message):
        Gaussian(mean, cov)


def test_bad_pairs_are_refused():
    p, q = Gaussian(np.zeros(2), np.eye(2)), Gaussian(np.zeros(3), np.eye(3))
    single = Gaussian(np.zeros(2, np.float32), np.eye(2, dtype=np.float32))
    for function in (kl, wasserstein2, wasserstein2_squared):
        with pytest.raises(ValueError, match="dimension"):
            function(p, q)
        with pytest.raises(TypeError, match="float64"):
            function(p, single)
    with pytest.raises(TypeError, match="float64"):
        single.entropy()
    with pytest.raises(ValueError, match="shape"):
        wasserstein2_paired(p, p)
