"""Distances between sample sets: against brute force, POT, closed forms, limits; laws; no reward for shrinking."""

import jax
import jax.numpy as jnp
import numpy as np
import ot
import pytest
import scipy.linalg
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment

from sim import distances
from sim.distances import (
    debiased_wasserstein2_squared,
    directions,
    fitted_gaussian,
    frechet_bias_squared,
    frechet_squared,
    power_spectrum,
    sinkhorn_divergence,
    sliced_wasserstein2_squared,
    variance_ratio,
    variance_ratio_per_frequency,
    wasserstein2,
    wasserstein2_squared,
)
from sim.intervals import bias_on_identical
from tests.strategies import seeds
from theory.wasserstein import wasserstein2_1d_samples

KEY = jax.random.key(5)
shapes = st.sampled_from([(3, 3, 1), (5, 5, 3), (4, 6, 3), (6, 2, 2)])
"""(n, m, d): few, as the sliced distance is compiled for each."""


def _pair(seed, n, m, d):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), 2 + rng.normal(size=(m, d))


def _sliced(x, y):
    return float(sliced_wasserstein2_squared(jnp.asarray(x), jnp.asarray(y), KEY, projections=20))


METRICS = {
    "exact": wasserstein2_squared,
    "sliced": _sliced,
    "sinkhorn": lambda x, y: sinkhorn_divergence(x, y, regularisation=5.0),
    "frechet": frechet_squared,
}
ROUNDING = {"exact": 1e-12, "sliced": 1e-12, "sinkhorn": 1e-6, "frechet": 1e-9}
"""Sinkhorn's iterations stop at marginal errors of 1e-9; Fréchet's singular covariances have square roots of ε."""


@given(seeds, st.integers(1, 7), st.integers(1, 7), st.integers(1, 4))
def test_exact_w2_is_the_best_assignment_of_copied_points(seed, n, m, d):
    x, y = _pair(seed, n, m, d)
    many_x, many_y = np.repeat(x, m, axis=0), np.repeat(y, n, axis=0)
    cost = np.sum((many_x[:, None] - many_y) ** 2, axis=-1)
    best = cost[linear_sum_assignment(cost)].mean()
    np.testing.assert_allclose(wasserstein2_squared(x, y), best, rtol=1e-12)
    np.testing.assert_allclose(wasserstein2(x, y), np.sqrt(best), rtol=1e-12)


@pytest.mark.parametrize("name", METRICS)
@given(seeds, shapes)
def test_symmetric_and_zero_on_one_set(name, seed, shape):
    x, y = _pair(seed, *shape)
    size = np.sum(x**2) + np.sum(y**2)
    slack = ROUNDING[name] * size
    np.testing.assert_allclose(METRICS[name](x, y), METRICS[name](y, x), atol=slack)
    np.testing.assert_allclose(METRICS[name](x, np.flip(x, axis=0).copy()), 0, atol=slack)
    assert METRICS[name](x, y) >= -slack


@pytest.mark.parametrize("name", METRICS)
@given(seeds, shapes)
def test_a_translation_costs_its_square(name, seed, shape):
    x, d = _pair(seed, *shape)[0], shape[2]
    v = np.random.default_rng(seed + 1).normal(size=d)
    units = np.asarray(directions(KEY, 20, d, jnp.float64))
    expected = np.mean((units @ v) ** 2) if name == "sliced" else v @ v
    slack = ROUNDING[name] * (np.sum(x**2) + v @ v)
    np.testing.assert_allclose(METRICS[name](x + v, x), expected, atol=slack)


@pytest.mark.parametrize("name", ["exact", "sliced", "frechet"])
@given(seeds, shapes, st.floats(0.01, 100))
def test_squared_distances_scale_with_the_square(name, seed, shape, scale):
    x, y = _pair(seed, *shape)
    slack = ROUNDING[name] * scale**2 * (np.sum(x**2) + np.sum(y**2))
    np.testing.assert_allclose(METRICS[name](scale * x, scale * y), scale**2 * METRICS[name](x, y), atol=slack)


def test_a_common_offset_costs_no_digits():
    x, y = _pair(0, 50, 40, 3)
    np.testing.assert_allclose(wasserstein2_squared(x + 1e6, y + 1e6), wasserstein2_squared(x, y), rtol=1e-8)


@given(seeds, shapes)
def test_sliced_is_the_mean_of_theorys_exact_distances(seed, shape):
    x, y = _pair(seed, *shape)
    units = np.asarray(directions(KEY, 20, shape[2], jnp.float64))
    expected = np.mean([wasserstein2_1d_samples(x @ u, y @ u) ** 2 for u in units])
    np.testing.assert_allclose(_sliced(x, y), expected, rtol=1e-12)


def test_sliced_agrees_with_pot_on_the_same_directions():
    x, y = _pair(1, 60, 60, 4)
    units = np.asarray(directions(KEY, 20, 4, jnp.float64))
    np.testing.assert_allclose(
        _sliced(x, y), ot.sliced_wasserstein_distance(x, y, projections=units.T) ** 2, rtol=1e-12
    )


def test_sliced_keeps_float32_and_has_the_gradient_of_the_finite_difference():
    x, y = (jnp.asarray(a) for a in _pair(2, 9, 7, 2))
    low = sliced_wasserstein2_squared(x.astype(jnp.float32), y.astype(jnp.float32), jax.random.key(0))
    assert low.dtype == jnp.float32

    def f(s):
        return sliced_wasserstein2_squared(s * x, y, jax.random.key(0))

    numeric = (f(1 + 1e-5) - f(1 - 1e-5)) / 2e-5  # piecewise quadratic in s: no error but rounding, 1e-16 / 1e-5
    np.testing.assert_allclose(jax.grad(f)(1.0), numeric, rtol=1e-8)


def _naive_entropic(cost, strength):
    kernel, n, m = np.exp(-cost / strength), *cost.shape
    v = np.ones(m)
    for _ in range(3000):
        u = 1 / n / (kernel @ v)
        v = 1 / m / (kernel.T @ u)
    plan = u[:, None] * kernel * v
    return np.sum(plan * cost) + strength * np.sum(plan * np.log(plan * n * m))


def test_sinkhorn_divergence_against_plain_scaling():
    x, y = _pair(3, 8, 6, 2)
    parts = [_naive_entropic(np.sum((a[:, None] - b) ** 2, axis=-1), 2.0) for a, b in ((x, y), (x, x), (y, y))]
    expected = parts[0] - (parts[1] + parts[2]) / 2
    np.testing.assert_allclose(sinkhorn_divergence(x, y, regularisation=2.0), expected, rtol=1e-7)


def test_sinkhorn_divergence_runs_from_w2_to_the_distance_of_the_means():
    x, y = _pair(4, 12, 10, 2)
    means = np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    # The next order is O(1/ε): spreads of order 10 squared over 1e6.
    np.testing.assert_allclose(sinkhorn_divergence(x, y, regularisation=1e6), means, rtol=1e-3)
    # 0 <= OT_ε - W2² <= ε log(n) for each part, so the divergence is within ε log 12.
    gap = sinkhorn_divergence(x, y, regularisation=0.5) - wasserstein2_squared(x, y)
    assert abs(gap) <= 0.5 * np.log(12)


@given(seeds, st.integers(1, 4))
def test_frechet_against_the_trace_formula(seed, d):
    x, y = _pair(seed, 30, 20, d)
    first, second = np.atleast_2d(np.cov(x.T)), np.atleast_2d(np.cov(y.T))
    root = scipy.linalg.sqrtm(first @ second)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(first + second - 2 * root.real)
    np.testing.assert_allclose(frechet_squared(x, y), expected, rtol=1e-9)


def test_the_bias_of_frechet_is_the_leading_order_formula():
    stds = np.array([3.0, 1.0, 0.2])

    def draw(key, n):
        return jax.random.normal(key, (n, 3)) * stds

    measured = bias_on_identical(frechet_squared, draw, 200, jax.random.key(2), m=300, repeats=200)
    error = (measured.high - measured.low) / 2 / 1.97
    # 4 standard errors, and the next order: relative d/n = 3/200.
    expected = frechet_bias_squared(np.diag(stds**2), 200, 300)
    assert abs(measured.value - expected) < 4 * error + 0.03 * expected
    assert error < 0.1 * expected


def test_raw_w2_rewards_shrinkage_and_the_debiased_one_does_not():
    rng = np.random.default_rng(0)
    truth, truth2, fresh, fresh2 = (rng.normal(size=(300, 144)) for _ in range(4))
    small, small2 = (rng.normal(size=(300, 144)) / 2 for _ in range(2))
    right = debiased_wasserstein2_squared(truth, truth2, fresh, fresh2, groups=5)
    shrunk = debiased_wasserstein2_squared(truth, truth2, small, small2, groups=5)
    assert right.value > 1.3 * shrunk.value  # the trap
    assert right.low < 0 < right.high
    assert shrunk.low > 3 * abs(right.debiased)
    assert variance_ratio(small, truth).high < 0.26


def test_debiased_w2_has_mean_zero_on_one_law_and_an_honest_interval():
    rng = np.random.default_rng(1)
    runs = [debiased_wasserstein2_squared(*rng.normal(size=(4, 30, 2)), groups=6) for _ in range(60)]
    values = np.array([run.debiased for run in runs])
    assert abs(values.mean()) < 4 * values.std(ddof=1) / np.sqrt(60)
    assert np.mean([run.bias for run in runs]) > 5 * values.std(ddof=1) / np.sqrt(60)  # what was taken off mattered
    covered = np.mean([run.low <= 0 <= run.high for run in runs])
    assert covered > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 60)


def test_debiased_w2_over_repeats_estimates_a_far_distance():
    rng = np.random.default_rng(2)
    sets = [rng.normal(size=(8, 40, 2)) + shift for shift in (0, 0, 5, 5)]
    estimate = debiased_wasserstein2_squared(*sets)
    # Both N(·, I), 5 apart along each axis: 50 exactly. The remaining bias is that of the means' cross terms: none.
    assert estimate.low < 50 < estimate.high
    assert estimate.high - estimate.low < 10


def test_variance_ratio_and_its_bias():
    rng = np.random.default_rng(3)
    x, y = 2 * rng.normal(size=(400, 3)), rng.normal(size=(40, 3))
    estimate = variance_ratio(x, y)
    np.testing.assert_allclose(estimate.value, x.var(0, ddof=1).sum() / y.var(0, ddof=1).sum(), rtol=1e-12)
    assert estimate.low < 4 < estimate.high
    many = np.array([variance_ratio(*rng.normal(size=(2, 40, 2))) for _ in range(300)])
    # E F(78, 78) - 1 = 2/76, here and in the mean of the jackknife's own estimates of it (4 standard errors)
    for name, column in (("raw", many[:, 0] - 1), ("estimated", many[:, 1])):
        assert abs(column.mean() - 2 / 76) < 4 * column.std() / np.sqrt(300), name


def test_the_power_spectrum_is_parsevals_and_finds_a_damped_frequency():
    rng = np.random.default_rng(4)
    images = rng.normal(size=(300, 4, 6, 2))
    np.testing.assert_allclose(power_spectrum(images).sum(), images.var(0, ddof=1).sum() / 2, rtol=1e-12)
    other = np.fft.fft2(rng.normal(size=(300, 4, 6, 2)), axes=(1, 2))
    other[:, 1, 2] /= 2
    other[:, 3, 4] /= 2
    ratio = variance_ratio_per_frequency(np.fft.ifft2(other, axes=(1, 2)).real, images)
    assert ratio.low.shape == (4, 6)
    found = ratio.high < 0.6
    assert found[1, 2]
    assert found[3, 4]
    assert found.sum() == 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: wasserstein2_squared.__wrapped__(np.ones((5001, 2)), np.ones((3, 2))), "at most 5000 points.*subset"),
        (lambda: wasserstein2_squared.__wrapped__(np.ones((3, 2)), np.ones((3, 1))), "dimension"),
        (lambda: wasserstein2_squared.__wrapped__(np.ones(3), np.ones((3, 1))), "sample set"),
        (lambda: wasserstein2_squared.__wrapped__(np.full((3, 2), np.nan), np.ones((3, 2))), "finite"),
        (lambda: wasserstein2_squared.__wrapped__(np.ones((0, 2)), np.ones((3, 2))), "non-empty"),
        (
            lambda: sinkhorn_divergence.__wrapped__(np.ones((3, 2)), np.zeros((3, 2)), regularisation=0.0),
            "regularisation",
        ),
        (
            lambda: sliced_wasserstein2_squared.__wrapped__(jnp.ones((3, 2)), jnp.ones((3, 1)), jax.random.key(0)),
            "dimension",
        ),
        (lambda: debiased_wasserstein2_squared.__wrapped__(np.ones(3), np.ones(3), np.ones(3), np.ones(3)), "shape"),
        (lambda: fitted_gaussian.__wrapped__(np.ones((1, 2))), "n >= 2"),
        (lambda: variance_ratio.__wrapped__(np.ones((50, 1)), np.ones((50, 1))), "constant"),
        (lambda: power_spectrum.__wrapped__(np.ones((3, 2))), "images"),
        (lambda: variance_ratio_per_frequency.__wrapped__(np.ones((3, 2, 2)), np.ones((3, 2, 2))), "positive power"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_limit_is_on_exact_transport_only():
    many = np.random.default_rng(5).normal(size=(distances.LARGEST + 1, 1))
    assert wasserstein2_squared(many, many) == 0.0  # by sorting
