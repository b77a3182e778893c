"""Square roots and the trace identity, against eigenvalues, and the JAX and NumPy forms against each other."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import covariances, seeds

from theory.claims.cases import covariance, direction
from theory.roots import psd_root, rank_one_root_trace, symmetric_power, trace_root_gain, trace_root_gains

EPS = np.finfo(float).eps
S = np.array([0.001, 0.01, 0.1, 0.5, 1.0])


@given(covariances(singular=True))
def test_roots_in_jax_and_numpy_agree_and_square_to_the_matrix(cov):
    """An eigenvalue's error d eps |S| enters its root as a square root at worst, where it should be zero."""
    d, size = len(cov), np.linalg.norm(cov, 2)
    root = symmetric_power(cov, 0.5)
    np.testing.assert_allclose(root @ root, cov, atol=16 * d * EPS * size)
    np.testing.assert_allclose(np.asarray(psd_root(jnp.asarray(cov))), root, atol=4 * math.sqrt(d * EPS * size))


@given(covariances(max_condition=1e6))
def test_an_inverse_root_whitens(cov):
    whitener = symmetric_power(cov, -0.5)
    np.testing.assert_allclose(whitener @ cov @ whitener, np.eye(len(cov)), atol=16 * len(cov) * EPS * 1e6)


@given(covariances(singular=True), st.floats(1e-6, 2), seeds)
def test_trace_gains_in_jax_and_numpy_agree(cov, s, seed):
    """NumPy cuts eigenvalues off at 1e-15 d of the largest, which moves up to d roots by that much."""
    u = 2 * direction(len(cov), seed)
    found = trace_root_gains(cov, u[None], np.array([s]))[0, 0]
    size = np.linalg.norm(cov, 2)
    cut = len(cov) * math.sqrt(len(cov) * 1e-15 * size)
    assert found == pytest.approx(float(trace_root_gain(jnp.asarray(cov), jnp.asarray(u), s)), rel=2e-9, abs=cut)


@given(st.sampled_from([0.0, 1e-12, 0.3, 1.0]), st.integers(1, 2**31), st.booleans())
def test_trace_root_gain_keeps_its_digits(s, seed, singular):
    S = covariance(3, 100.0, seed, 2 if singular else None)
    u = 3 * direction(3, seed)
    gain = float(jax.jit(trace_root_gain)(S, u, s))
    roots = [np.sum(np.sqrt(np.maximum(np.linalg.eigvalsh(M), 0))) for M in (S + s * np.outer(u, u), S)]
    assert gain == pytest.approx(roots[0] - roots[1], abs=1e-7 if singular else 1e-13)
    if s == 1e-12 and not singular:
        values, basis = np.linalg.eigh(S)
        assert gain == pytest.approx(s / 2 * u @ (basis / np.sqrt(values)) @ basis.T @ u, rel=1e-8)


@given(st.sampled_from([1, 2, 5]), st.floats(0, 1), seeds)
def test_trace_gain_is_the_difference_of_traces(r, exponent, seed):
    rng = np.random.default_rng([seed, 10])
    cov, vectors = covariance(r, 1e6**exponent, seed), rng.standard_normal((3, r))
    direct = [
        [
            np.sum(np.sqrt(np.linalg.eigvalsh(cov + s * np.outer(u, u)))) - np.sum(np.sqrt(np.linalg.eigvalsh(cov)))
            for s in S
        ]
        for u in vectors
    ]
    # eigenvalues >= 1e-6 known to 10 eps: five roots off by 10 * 2.2e-16 / (2 * 1e-3); the rule by 1e-9
    np.testing.assert_allclose(trace_root_gains(cov, vectors, S), direct, atol=1e-11, rtol=1e-8)


def test_trace_gain_of_a_singular_matrix():
    cov, u = np.diag([1.0, 0.0, 0.0]), np.array([[0.0, 3.0, 4.0]])
    np.testing.assert_allclose(trace_root_gains(cov, u, S)[0], 5 * np.sqrt(S), rtol=1e-8)
    np.testing.assert_array_equal(trace_root_gains(np.zeros((2, 2)), np.zeros((1, 2)), S), np.zeros((1, 5)))


@given(covariances(max_condition=1e4), st.floats(1e-9, 1e-6), st.integers(0, 2**32 - 1))
def test_small_rank_one_changes_keep_their_digits(cov, s, seed):
    """First order ½ s m^T S^(-1/2) m; the second is at most ⅛ s² |m|⁴/λ_min^(3/2), concavity makes it negative."""
    m = np.random.default_rng(seed).standard_normal(len(cov))
    values, vectors = np.linalg.eigh(cov)
    inner = (vectors.T @ m) ** 2
    first = s / 2 * float(np.sum(inner / np.sqrt(values)))
    second = s**2 / 8 * float(m @ m) ** 2 / values[0] ** 1.5
    added = rank_one_root_trace(m, cov, s)
    assert first - second - 1e-8 * first <= added <= first * (1 + 1e-8)


@given(covariances(singular=True), st.floats(0, 1), st.floats(0, 10), st.integers(0, 2**32 - 1))
def test_rank_one_change_is_a_difference_of_nuclear_norms(cov, s, norm, seed):
    """Singular values of [S^(1/2), √s m]; their error and that of the roots of S, of rank 1 at least, is d eps each."""
    d = len(cov)
    m = norm * direction(d, seed)
    values, vectors = np.linalg.eigh(cov)
    roots = np.sqrt(np.where(values > 16 * d * EPS, values, 0.0))
    block = np.concatenate([vectors * roots, math.sqrt(s) * m[:, None]], axis=1)
    added = np.linalg.svd(block, compute_uv=False).sum() - roots.sum()
    moved = (
        d * 16 * d * EPS / np.sqrt(np.min(values[values > 16 * d * EPS]))
    )  # eigenvalues by d eps, roots by that / 2√λ
    tolerance = 1e-9 * added + 16 * d * EPS * (1 + norm) + moved
    assert abs(rank_one_root_trace(m, cov, s) - added) < tolerance


def test_rank_one_change_of_nothing():
    assert rank_one_root_trace(np.zeros(2), np.zeros((2, 2)), 0.5) == 0.0
    assert rank_one_root_trace(np.array([3.0, 4.0]), np.zeros((2, 2)), 0.25) == pytest.approx(2.5, rel=1e-9)
    assert rank_one_root_trace(np.array([3.0, 4.0]), np.eye(2), 0.0) == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: rank_one_root_trace(np.ones(2), np.eye(2), -1.0),
        lambda: trace_root_gains(np.eye(2), np.ones((1, 2)), np.array([0.1, -0.1])),
        lambda: trace_root_gain(jnp.eye(2), jnp.ones(2), -1.0),
    ],
)
def test_a_negative_strength_is_refused(call):
    with pytest.raises(ValueError, match="s must be"):
        call()
