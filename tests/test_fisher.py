"""Fisher-Rao geometry: closed forms, metric laws, an integrated geodesic equation, bounds, derivatives, failures."""

import math
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import eigh, logm, sqrtm
from scipy.stats import ortho_group

from tests.strategies import covariances, seeds
from theory.claims.cases import covariance
from theory.fisher import (
    centred_distance,
    centred_geodesic,
    diagonal_path_length,
    fisher_rao_connect,
    fisher_rao_distance,
    fisher_rao_exponential,
    fisher_rao_geodesic,
    frequency_lengths,
    lower_bound,
    path_length,
    speed,
    univariate_distance,
)
from theory.gaussian import Gaussian

EPS = np.finfo(float).eps
connect = fisher_rao_connect  # compiled inside
distance = jax.jit(centred_distance)
point = jax.jit(centred_geodesic)


geodesic = fisher_rao_geodesic
shoot = jax.jit(fisher_rao_exponential)
bound = jax.jit(lower_bound)


def normal(mean, cov):
    return Gaussian(np.asarray(mean, dtype=float), np.asarray(cov, dtype=float))


def hard_gaussian(rng, d, away=None):
    """Eigenvalues in exp(+-3); `away`: the mean up to 3 standard deviations of that Gaussian from its mean."""
    basis = ortho_group.rvs(d, random_state=rng) if d > 1 else np.eye(1)
    logs = rng.choice([-3.0, 3.0], d) if rng.random() < 0.5 else rng.uniform(-3, 3, d)
    cov = (basis * np.exp(logs)) @ basis.T
    step = np.zeros(d)
    if away is not None:
        unit = rng.standard_normal(d)
        step = away.mean + 3 * np.linalg.cholesky(away.cov) @ (unit / np.linalg.norm(unit))
    return Gaussian(step, (cov + cov.T) / 2)


def hard_pairs(seed, d, n):
    rng = np.random.default_rng(seed)
    first = [hard_gaussian(rng, d) for _ in range(n)]
    second = [hard_gaussian(rng, d, p) for p in first]
    return [jax.tree.map(lambda *x: jnp.stack(x), *side) for side in (first, second)]


# ------------------------------------------------------------------------------------------------------ centred


@given(d=st.sampled_from([1, 2, 3, 8]), seed=seeds, power=st.floats(0, 1))
def test_centred_distance_is_the_matrix_logarithm_s(d, seed, power):
    condition = 1e8**power
    cov0, cov1 = covariance(d, condition, seed), 7.0 * covariance(d, condition, seed + 1)
    expected = np.linalg.norm(np.log(eigh(cov1, cov0, eigvals_only=True))) / math.sqrt(2)
    # LAPACK's pencil errs by eps cond0 cond1 relative to the smallest eigenvalue; ours by less.
    tolerance = 16 * d * EPS * condition**2 * (1 + expected)
    if tolerance < 0.1:
        assert abs(float(distance(cov0, cov1)) - expected) <= tolerance


@pytest.mark.parametrize("scale", [1.0, 1e-12, 1e12])
def test_centred_distance_of_opposite_ill_conditioned_axes(scale):
    basis = ortho_group.rvs(6, random_state=1)
    logs = np.linspace(0, -math.log(1e8), 6)
    cov0, cov1 = (basis * np.exp(logs)) @ basis.T, scale * (basis * np.exp(logs[::-1])) @ basis.T
    expected = np.linalg.norm(logs[::-1] - logs + math.log(scale)) / math.sqrt(2)
    assert abs(float(distance(cov0, cov1)) - expected) < 16 * 6 * EPS * 1e8


@pytest.mark.parametrize("size", [1e-3, 1e-6, 1e-9, 1e-12])
def test_nothing_cancels_near_equal_covariances(size):
    """cov1 - cov0 is exact here (powers of two and zeros), so the distance must be right to relative precision."""
    size = 2.0 ** round(math.log2(size))
    step = size * np.array([[1.0, 0.5], [0.5, -1.0]])
    eigenvalues = size * np.array([1, -1]) * math.sqrt(1.25)
    expected = np.linalg.norm(np.log1p(eigenvalues)) / math.sqrt(2)
    assert float(distance(np.eye(2), np.eye(2) + step)) == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("d", [128, pytest.param(512, marks=pytest.mark.slow)])
def test_centred_in_large_dimension(d):
    cov0, cov1 = (a @ a.T / (2 * d) for a in np.random.default_rng(0).standard_normal((2, d, 2 * d)))
    expected = np.linalg.norm(np.log(eigh(cov1, cov0, eigvals_only=True))) / math.sqrt(2)
    assert float(distance(cov0, cov1)) == pytest.approx(expected, rel=1e-11)  # d eps cond, cond about 34


def test_centred_geodesic_is_the_printed_formula():
    cov0, cov1, t = covariance(4, 50.0, 3), covariance(4, 200.0, 4), 0.3
    root = np.real(sqrtm(cov0))
    middle = np.linalg.inv(root) @ cov1 @ np.linalg.inv(root)
    powers, vectors = np.linalg.eigh((middle + middle.T) / 2)
    expected = root @ (vectors * powers**t) @ vectors.T @ root
    np.testing.assert_allclose(point(cov0, cov1, t), expected, rtol=0, atol=1e-12)
    norm = np.linalg.norm(logm(middle)) / math.sqrt(2)
    assert float(distance(cov0, cov1)) == pytest.approx(norm, rel=1e-11)


@given(cov=covariances(d=3, max_condition=1e6), seed=seeds, t=st.floats(0, 1))
def test_centred_geodesic_progresses_at_constant_speed(cov, seed, t):
    other = covariance(3, 100.0, seed)
    whole, part = float(distance(cov, other)), float(distance(cov, point(cov, other, t)))
    assert abs(part - t * whole) <= 64 * 3 * EPS * 1e6 * (1 + whole)


def test_centred_derivative_is_finite_at_equal_and_degenerate_covariances():
    gradient = jax.jit(jax.grad(centred_distance, argnums=1))
    assert np.all(np.asarray(gradient(np.eye(3), np.eye(3))) == 0)
    # d/dS of |log s| sqrt(d/2) at S = s I is I / (s sqrt(2 d)).
    np.testing.assert_allclose(gradient(np.eye(3), 2 * np.eye(3)), np.eye(3) / (2 * math.sqrt(6)), atol=1e-14)


# ------------------------------------------------------------------------------------------------------- lengths


def test_length_of_centred_geodesic_and_of_straight_line():
    p, q = covariance(3, 30.0, 1), covariance(3, 30.0, 2)
    length = jax.jit(lambda: path_length(lambda t: Gaussian(jnp.zeros(3), centred_geodesic(p, q, t))))()
    assert float(length) == pytest.approx(float(distance(p, q)), rel=1e-11)
    straight = jax.jit(lambda: path_length(lambda t: Gaussian(jnp.zeros(3), (1 - t) * p + t * q)))()
    assert float(straight) > float(length) * 1.001


def test_length_of_a_moving_mean_is_the_mahalanobis_distance():
    cov = covariance(2, 9.0, 5)
    step = jnp.array([1.0, -2.0])
    length = jax.jit(lambda: path_length(lambda t: Gaussian(t**2 * step, cov), panels=1))()
    assert float(length) == pytest.approx(math.sqrt(step @ np.linalg.solve(cov, step)), rel=1e-12)


def test_diagonal_lengths():
    ends = jnp.array([[4.0, 0.1], [1.0, 3.0]])

    def variance(t):
        return (1 - t) * ends[0] + t * ends[1]

    @jax.jit
    def lengths():
        same = path_length(lambda t: Gaussian(jnp.zeros(2), jnp.diag(variance(t))), panels=32)
        shortest = diagonal_path_length(lambda t: ends[0] ** (1 - t) * ends[1] ** t)
        halves = [diagonal_path_length(variance, *part) for part in ((0.0, 0.5), (0.5, 1.0))]
        whole = diagonal_path_length(variance, panels=32)
        return frequency_lengths(variance), whole, same, shortest, halves[0] + halves[1]

    each, whole, same, shortest, half = (np.asarray(x) for x in lengths())
    np.testing.assert_allclose(each, np.abs(np.log(ends[1] / ends[0])) / math.sqrt(2), rtol=1e-9)
    assert float(whole) == pytest.approx(float(same), rel=1e-12)
    assert whole > np.linalg.norm(each)
    assert float(shortest) == pytest.approx(float(np.linalg.norm(each)), rel=1e-9)
    assert float(half) == pytest.approx(float(whole), rel=1e-9)


# ---------------------------------------------------------------------------------------------------- with means


@given(
    mean=st.floats(-30, 30),
    logs=st.tuples(st.floats(-3, 3), st.floats(-3, 3)),
)
def test_one_dimension_is_hyperbolic(mean, logs):
    s0, s1 = (math.exp(x / 2) for x in logs)
    expected = math.sqrt(2) * math.acosh(1 + (mean**2 / 2 + (s1 - s0) ** 2) / (2 * s0 * s1))
    p, q = normal([0.0], [[s0**2]]), normal([mean], [[s1**2]])
    found = connect(p, q)
    # arccosh of a number near 1 has half the digits: sqrt(eps).
    assert abs(float(found.distance) - expected) <= 2e-8 if expected < 1e-3 else 1e-11
    assert abs(float(univariate_distance(0.0, s0**2, mean, s1**2)) - float(found.distance)) <= 1e-11
    assert abs(float(found.lower) - float(found.distance)) <= 1e-11


@pytest.mark.parametrize(
    "d",
    [
        3,
        pytest.param(16, marks=pytest.mark.slow),
        pytest.param(2, marks=pytest.mark.slow),
        pytest.param(8, marks=pytest.mark.slow),
    ],
)
def test_every_hard_pair_is_joined(d):
    """Eigenvalues exp(+-3), means 3 standard deviations apart: residual below 1e-9, distance above the lower bound."""
    p, q = hard_pairs(d, d, 32 if d < 16 else 4)
    program = jax.jit(jax.vmap(fisher_rao_connect))
    found = program(p, q)
    assert np.all(np.asarray(found.residual) <= 1e-9)
    assert np.all(np.asarray(found.lower) <= np.asarray(found.upper))
    assert np.all(np.asarray(found.lower) >= 0.3 * np.asarray(found.distance))
    back = program(q, p)
    np.testing.assert_allclose(back.distance, found.distance, rtol=0, atol=1e-9)


@pytest.mark.parametrize("d", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_the_residual_is_that_of_an_integrated_geodesic(d):
    """The geodesic equation, integrated by Runge and Kutta from p with the velocity found, arrives at q."""
    rng = np.random.default_rng(d)
    p = Gaussian(rng.standard_normal(d), covariance(d, 20.0, 1))
    q = Gaussian(p.mean + 2 * rng.standard_normal(d), 3 * covariance(d, 20.0, 2))
    found = connect(p, q)

    def rate(_, y):
        S, v, V = y[d : d + d * d].reshape(d, d), y[d + d * d : 2 * d + d * d], y[2 * d + d * d :].reshape(d, d)
        inverse = np.linalg.inv(S)
        return np.concatenate([v, V.ravel(), V @ inverse @ v, (V @ inverse @ V - np.outer(v, v)).ravel()])

    start = [p.mean, p.cov.ravel(), found.mean_velocity, found.cov_velocity.ravel()]
    path = solve_ivp(rate, (0, 1), np.concatenate(start), "DOP853", rtol=1e-10, atol=1e-12, dense_output=True)
    np.testing.assert_allclose(path.y[:d, -1], q.mean, atol=1e-8)
    np.testing.assert_allclose(path.y[d : d + d * d, -1], q.cov.ravel(), atol=1e-8)
    middle = geodesic(p, q, 0.4)
    np.testing.assert_allclose(path.sol(0.4)[:d], middle.mean, atol=1e-8)
    np.testing.assert_allclose(path.sol(0.4)[d : d + d * d], middle.cov.ravel(), atol=1e-8)
    shot = shoot(p, found.mean_velocity, found.cov_velocity, 0.4)
    np.testing.assert_allclose(shot.cov, middle.cov, atol=1e-11)


def test_length_of_the_geodesic_and_ends():
    p, q = normal([0.0, 1.0], covariance(2, 9.0, 1)), normal([2.0, -1.0], covariance(2, 30.0, 2))
    found = connect(p, q)
    whole = float(found.distance)

    def curve(t):
        return fisher_rao_exponential(p, found.mean_velocity, found.cov_velocity, t)

    @jax.jit
    def length(bend):
        """Of another curve with the same ends; of the geodesic itself for bend 0."""
        return path_length(lambda t: Gaussian(curve(t).mean + bend * jnp.sin(jnp.pi * t), curve(t).cov), panels=2)

    assert float(length(0.0)) == pytest.approx(whole, rel=1e-10)
    assert float(jax.jit(lambda t: speed(curve, t))(0.7)) == pytest.approx(whole, rel=1e-10)
    end = geodesic(p, q, 1.0)
    np.testing.assert_allclose(end.mean, q.mean, atol=1e-12)
    np.testing.assert_allclose(end.cov, q.cov, atol=1e-12)
    np.testing.assert_allclose(geodesic(p, q, 0.0).cov, p.cov, atol=1e-14)
    for bend in (0.05, -0.3):
        assert float(length(bend)) > whole


@given(seed=seeds)
def test_metric_laws(seed):
    d = 2
    rng = np.random.default_rng(seed)
    p = hard_gaussian(rng, d)
    q, r = hard_gaussian(rng, d, p), hard_gaussian(rng, d, p)
    pq, qp, qr, pr = (connect(*pair) for pair in ((p, q), (q, p), (q, r), (p, r)))
    assert abs(float(pq.distance - qp.distance)) <= float(pq.residual + qp.residual) + 1e-11
    assert float(pr.distance) <= float(pq.distance + qr.distance) + 1e-10
    matrix, shift = rng.standard_normal((d, d)) + 2 * np.eye(d), rng.standard_normal(d)

    def moved(g):
        cov = matrix @ g.cov @ matrix.T
        return Gaussian(matrix @ g.mean + shift, (cov + cov.T) / 2)

    tolerance = 1e3 * EPS * np.linalg.cond(matrix) ** 2 * math.exp(6)  # moving rounds by eps times each condition
    assert abs(float(connect(moved(p), moved(q)).distance - pq.distance)) <= tolerance
    assert float(connect(p, p).distance) == 0


def test_no_second_geodesic_from_other_starts():
    """Descent from far fibres ends at the same geodesic: an observation (uniqueness is not proved)."""
    from theory import _lift

    rng = np.random.default_rng(0)
    a, excess = jnp.array([2.0, -1.0, 1.5]), jnp.expm1(jnp.array([3.0, -2.0, 0.5]))
    run = jax.jit(lambda w: _lift.minimise(a, excess, max_steps=200, start=w)[:2])
    x, B = run(jnp.zeros(3))
    for _ in range(8):
        other = run(jnp.asarray(10 * rng.standard_normal(3)))
        np.testing.assert_allclose(other[0], x, atol=1e-9)
        np.testing.assert_allclose(other[1], B, atol=1e-9)


def test_gradient_and_hessian_of_the_lift():
    from theory import _lift

    a, excess, w = jnp.array([1.0, -2.0, 0.5]), jnp.array([4.0, -0.6, 0.3]), jnp.array([0.4, -1.0, 0.7])
    step = 1e-5

    @jax.jit
    def parts(w):
        spectrum = _lift._spectrum(a, excess, w)
        return _lift._value(spectrum), _lift._gradient(spectrum), _lift._hessians(spectrum)

    moves = step * np.eye(3)
    moved = [(parts(w + v), parts(w - v)) for v in moves]
    value, hessian = (np.stack([(up[i] - down[i]) / (2 * step) for up, down in moved]) for i in (0, 1))
    _, gradient, hessians = parts(w)
    np.testing.assert_allclose(gradient, value, atol=1e-8)
    np.testing.assert_allclose(hessians[0], hessian, atol=1e-7)
    assert np.linalg.eigvalsh(hessians[1])[0] > 0


def test_near_equal_gaussians_keep_their_digits():
    p, size = normal([0.0, 0.0], np.eye(2)), 2.0**-40
    step, change = size * np.array([1.0, -0.5]), size * np.array([[0.5, 1.0], [1.0, -1.0]])
    expected = math.sqrt(step @ step + np.sum(change**2) / 2)
    assert float(connect(p, Gaussian(step, np.eye(2) + change)).distance) == pytest.approx(expected, rel=1e-10)


def test_derivative_of_the_distance():
    rng = np.random.default_rng(3)
    p, q = normal([0.0, 1.0], covariance(2, 9.0, 1)), normal([2.0, -1.0], covariance(2, 30.0, 2))
    change = jax.tree.map(lambda x: jnp.asarray(rng.standard_normal(x.shape)), (p, q))
    change = jax.tree.map(lambda x: x + x.T if x.ndim == 2 else x, change)

    program = jax.jit(jax.value_and_grad(fisher_rao_distance, argnums=(0, 1)))

    def at(t):
        return program(*jax.tree.map(lambda x, v: x + t * v, (p, q), change))

    slope = (float(at(1e-6)[0]) - float(at(-1e-6)[0])) / 2e-6
    along = sum(np.sum(np.asarray(g) * v) for g, v in zip(*map(jax.tree.leaves, (at(0.0)[1], change)), strict=True))
    assert float(along) == pytest.approx(slope, rel=1e-7)
    still = program(p, p)[1][0].mean
    assert np.all(np.asarray(still) == 0)


def test_lower_bound_is_exact_where_it_should_be():
    cov0, cov1 = covariance(3, 20.0, 1), covariance(3, 90.0, 2)
    mean = jnp.array([1.0, -3.0, 2.0])
    same_mean = bound(Gaussian(mean, cov0), Gaussian(mean, cov1))
    assert float(same_mean) == pytest.approx(float(distance(cov0, cov1)), rel=1e-12)
    square = float(mean @ np.linalg.solve(cov0, mean))
    same_cov = bound(Gaussian(jnp.zeros(3), cov0), Gaussian(mean, cov0))
    assert float(same_cov) == pytest.approx(math.sqrt(2) * math.acosh(1 + square / 4), rel=1e-12)


def test_lower_bound_by_embedding_and_by_projection():
    """Both written out with SciPy on the matrices themselves."""
    cov0, cov1 = covariance(2, 20.0, 1), covariance(2, 90.0, 2)
    for mean in (np.array([0.1, -0.05]), np.array([3.0, 5.0])):
        embedded = [np.block([[c + np.outer(m, m), m[:, None]], [m, 1.0]]) for c, m in ((cov0, 0 * mean), (cov1, mean))]
        by_embedding = np.linalg.norm(np.log(eigh(embedded[1], embedded[0], eigvals_only=True))) / math.sqrt(2)
        u = np.linalg.solve(cov0 + cov1, mean)
        s0, s1 = math.sqrt(u @ cov0 @ u), math.sqrt(u @ cov1 @ u)
        by_projection = math.sqrt(2) * math.acosh(1 + ((u @ mean) ** 2 / 2 + (s1 - s0) ** 2) / (2 * s0 * s1))
        found = bound(normal([0.0, 0.0], cov0), normal(mean, cov1))
        assert float(found) == pytest.approx(max(by_embedding, by_projection), rel=1e-11)


@pytest.mark.parametrize("part", ["mean", "cov"])
def test_the_residual_bounds_what_is_missed(part):
    """A target off by some 1e-4: the residual is at least a lower bound on the distance missed, and not far above."""
    from theory import _lift

    a, scale = jnp.array([1.0, -0.5]), jnp.array([1.5, 0.7])
    minimise, mismatch = jax.jit(_lift.minimise, static_argnames="max_steps"), jax.jit(_lift.mismatch)
    x, B, _ = minimise(a, scale**2 - 1, max_steps=100)
    assert float(mismatch(x, B, a, scale)) < 1e-13
    # Where the mean alone is off, the target is moved; where the covariance alone, it is stretched.
    target, width = (a + 1e-4, scale) if part == "mean" else (a, scale * (1 + 1e-4))
    missed = float(bound(Gaussian(a, jnp.diag(scale**2)), Gaussian(target, jnp.diag(width**2))))
    residual = float(mismatch(x, B, target, width))
    assert 0.999 * missed <= residual <= 1.5 * missed


# ------------------------------------------------------------------------------------------------------ failures


def test_a_pair_too_far_raises_and_is_nan_when_compiled():
    p, q = normal([0.0, 0.0], np.eye(2)), normal([1e9, 0.0], [[1e-4, 0.0], [0.0, 1e9]])
    with pytest.raises(ValueError, match="tolerance"):
        fisher_rao_distance(p, q)
    with pytest.raises(ValueError, match="tolerance"):
        fisher_rao_geodesic(p, q, 0.5)
    found = connect(p, q)
    assert math.isnan(found.distance)
    assert not bool(found.converged)
    # On the line through both means alone they are this far apart: the bound says so, and stays finite.
    assert float(univariate_distance(0.0, 1.0, 1e9, 1e-4)) <= float(found.lower) < math.inf
    assert not float(found.residual) <= 1e-9
    assert math.isnan(jax.jit(fisher_rao_distance)(p, q))
    assert np.all(np.isnan(jax.jit(geodesic)(p, q, 0.5).cov))


def test_bad_input():
    with pytest.raises(ValueError, match="cov1 must be"):
        centred_distance(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="cov0 must be symmetric"):
        centred_distance(np.array([[1.0, 0.5], [0.0, 1.0]]), np.eye(2))
    with pytest.raises(TypeError, match="float64"):
        centred_geodesic(np.eye(2, dtype=np.float32), np.eye(2), 0.5)
    with pytest.raises(ValueError, match="q must be"):
        lower_bound(Gaussian(np.zeros(2), np.eye(2)), Gaussian(np.zeros(3), np.eye(3)))
    with pytest.raises(ValueError, match="panels"):
        diagonal_path_length(lambda t: jnp.ones(2) + t, panels=0)
    singular = Gaussian(np.zeros(2), np.diag([1.0, 0.0]))
    with pytest.raises(ValueError, match="positive definite"):
        fisher_rao_distance(singular, Gaussian(np.ones(2), np.eye(2)))


HANG = """
import jax, jax.numpy as jnp
jax.config.update("jax_enable_x64", True)
from theory.fisher import fisher_rao_connect, centred_distance
from theory.gaussian import Gaussian
def both(mean, cov):
    p, q = Gaussian(0 * mean, cov), Gaussian(mean, 2 * cov + jnp.outer(mean, mean))
    return fisher_rao_connect(p, q).distance + centred_distance(p.cov, q.cov)
means = jnp.linspace(0.1, 1, 300).reshape(100, 3)
covs = jnp.eye(3) + means[:, :, None] * means[:, None, :]
print(float(jnp.sum(jax.jit(jax.vmap(both))(means, covs))))
"""


@pytest.mark.slow
def test_compiled_kernel_does_not_hang():
    """Two Cholesky factorisations and a singular value decomposition in one program have hung XLA on two cores."""
    done = subprocess.run([sys.executable, "-c", HANG], capture_output=True, text=True, timeout=120, check=True)
    assert math.isfinite(float(done.stdout))
