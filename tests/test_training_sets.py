"""Expectations over training sets: exact special cases, quadrature by other routes, and honest standard errors."""

import itertools
import math

import mpmath
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import f, ncf

from theory._training_draws import ControlVariates, draw_training_sets, mean_noncentral_chi
from theory.claims._simulate import draw_sets, gains, pair_means
from theory.training_sets import (
    Bracket,
    condition_share,
    conditional_variance,
    default_draws,
    entropy_gap,
    entropy_gap_bounds,
    entropy_gap_slope,
    floored_entropy_gap,
    gain_slope,
    helpful_limit,
    large_n_coefficients,
    mean_gain,
    null_space_slope,
    optimal_noise_std,
    wasserstein_gain,
)
from theory.wishart import root_moment

# ---------------------------------------------------------------- entropy


@pytest.mark.parametrize(
    ("n", "d", "a", "noise_std"), [(5, 2, 0.0, 1.0), (40, 3, 0.0, 0.3), (9, 2, 1.0, 0.5), (12, 8, 2.0, 3.0)]
)
def test_entropy_gap_against_the_law_of_q(n, d, a, noise_std):
    """q = (d/(n-d)) times an F variable, central for a = 0: integrate ½ log(1 + s q) over SciPy's density."""
    law, s = (ncf(d, n - d, n * a) if a else f(d, n - d)), noise_std**2 / (1 + noise_std**2)
    edges = [0, 0.5, 1, 2, 5, 10, 100, 1e4, 1e8]
    pieces = [
        quad(lambda x: 0.5 * math.log1p(s * x * d / (n - d)) * law.pdf(x), low, high, limit=200)[0]
        for low, high in itertools.pairwise(edges)
    ]
    assert entropy_gap(n, d, a, noise_std) == pytest.approx(sum(pieces), rel=1e-6)


@pytest.mark.parametrize(
    ("n", "d", "a", "noise_std"),
    [(2, 1, 0.0, 1e-4), (2, 1, 10.0, 10.0), (513, 512, 1.0, 0.1), (10_000, 512, 1e4, 10.0), (10_000, 1, 0.0, 1e-3)],
)
def test_entropy_gap_against_high_precision_quadrature(n, d, a, noise_std):
    mp, k = mpmath.mp.clone(), n - d
    mp.dps = 20
    s = mp.mpf(noise_std) ** 2 / (1 + mp.mpf(noise_std) ** 2)

    def integrand(v):
        u = mp.exp(v)
        exponent = d * mp.log1p(2 * s * u) / 2 + n * mp.mpf(a) * s * u / (1 + 2 * s * u)
        return -mp.expm1(-exponent) * mp.exp(-k * mp.log1p(2 * u) / 2) / 2

    exact = mp.quad(integrand, [*range(-80, 20, 4), *range(20, 180, 20)])
    assert entropy_gap(n, d, a, noise_std) == pytest.approx(float(exact), rel=1e-12)


def test_entropy_gap_without_noise_is_zero_and_grows_with_it():
    assert entropy_gap(9, 3, 1.0, 0.0) == 0.0
    gaps = [entropy_gap(9, 3, 1.0, g) for g in (0.1, 0.5, 2.0, 10.0, math.inf)]
    assert gaps == sorted(gaps)
    assert entropy_gap(9, 3, 1.0, 1e-9) > 0


@given(st.integers(1, 30), st.integers(5, 300), st.floats(0, 5), st.floats(1e-3, 10))
def test_entropy_gap_lies_between_its_bounds(d, extra, a, noise_std):
    low, high = entropy_gap_bounds(d + extra, d, a, noise_std)
    assert low <= entropy_gap(d + extra, d, a, noise_std) <= high


def test_entropy_slope_by_hand():
    assert entropy_gap_slope(10, 3, 2.0) == pytest.approx((20 + 3) / 10)
    assert entropy_gap(10, 3, 2.0, 1e-4) / 1e-8 == pytest.approx(2.3, rel=1e-5)
    assert entropy_gap_slope(5, 3, 2.0) == math.inf
    assert entropy_gap_bounds(5, 3, 2.0, 1.0)[1] == math.inf


def test_entropy_bounds_by_hand():
    """n = 4, d = 1, a = 1, s = 1/2: x = 5/6, spread = 1 + 18/25; high = ½ log(1 + ½ 5/1)."""
    low, high = entropy_gap_bounds(4, 1, 1.0, 1.0)
    assert low == pytest.approx(0.5 * (5 / 6) / (1 + (5 / 6) * (1 + 18 / 25)))
    assert high == pytest.approx(0.5 * math.log(3.5))


def test_floored_gap_tends_to_the_gap_or_grows_without_limit():
    gap = floored_entropy_gap(12, 3, 1.0, 0.5, floor=1e-12)
    assert abs(gap.value - entropy_gap(12, 3, 1.0, 0.5)) < 5 * gap.standard_error
    degenerate = [floored_entropy_gap(3, 5, 1.0, 0.5, floor=10.0**-k).value for k in (0, 2, 4, 6)]
    steps = np.diff(degenerate)
    assert np.all(steps > 0)
    assert steps[-1] == pytest.approx(math.log(10), rel=0.02)  # each factor 100 adds ½ log 100


def test_floored_gap_against_simulation():
    n, d, a, s, floor = 4, 5, 1.0, 0.2, 0.05
    sets = draw_sets(n, d, a, 20_000, 1)
    lifted = sets.covs + floor * np.eye(d)
    bumps = s * sets.means[:, :, None] * sets.means[:, None, :]
    samples = pair_means((np.linalg.slogdet(lifted + bumps)[1] - np.linalg.slogdet(lifted)[1]) / 2)
    gap = floored_entropy_gap(n, d, a, math.sqrt(s / (1 - s)), floor=floor)
    error = math.hypot(gap.standard_error, samples.std() / math.sqrt(samples.size))
    assert abs(samples.mean() - gap.value) < 5 * error


# ---------------------------------------------------------------- gain


@pytest.mark.parametrize(("n", "d"), [(2, 1), (4, 3), (10, 3), (60, 20), (3, 8), (8, 8), (5, 40)])
def test_gain_at_infinite_noise_about_zero_mean_is_exact(n, d):
    """a = 0, s = 1: n (S + m m^T) is a Wishart matrix with one more degree of freedom."""
    exact = 2 * (root_moment(n, d, 0.5) - root_moment(n - 1, d, 0.5)) / math.sqrt(n)
    gain = wasserstein_gain(n, d, 0.0, math.inf)
    assert abs(gain.value - exact) < 5 * gain.standard_error
    assert gain.standard_error < 0.02 * exact


@pytest.mark.parametrize(("n", "d", "a", "noise_std"), [(6, 3, 1.0, 0.4), (3, 6, 2.0, 1.0), (12, 2, 5.0, 0.2)])
def test_gain_against_simulation(n, d, a, noise_std):
    samples = pair_means(gains(draw_sets(n, d, a, 20_000, 5), condition_share(noise_std)))
    gain = wasserstein_gain(n, d, a, noise_std)
    error = math.hypot(gain.standard_error, samples.std() / math.sqrt(samples.size))
    assert abs(samples.mean() - gain.value) < 5 * error


@pytest.mark.parametrize(("n", "d", "a"), [(4, 3, 1.0), (20, 3, 1.0), (3, 6, 2.0), (30, 40, 0.5), (400, 2, 4.0)])
def test_standard_errors_are_honest(n, d, a):
    """z scores of 40 seeds against many draws: their mean square is 1 within 5 standard deviations sqrt(2/40)."""
    exact = wasserstein_gain(n, d, a, 0.5, draws=8_000, seed=999)
    estimates = [wasserstein_gain(n, d, a, 0.5, draws=256, seed=seed) for seed in range(40)]
    z = [(e.value - exact.value) / math.hypot(e.standard_error, exact.standard_error) for e in estimates]
    assert np.mean(np.square(z)) == pytest.approx(1, abs=5 * math.sqrt(2 / 40))


def test_control_variates_find_a_known_mean():
    x, y = np.random.default_rng(0).standard_normal((2, 500))
    estimate = ControlVariates.of([x]).estimate(3.0 + 10 * x + 0.1 * y)
    assert abs(estimate.value - 3.0) < 5 * estimate.standard_error
    assert estimate.standard_error == pytest.approx(0.1 / math.sqrt(500), rel=0.2)


@pytest.mark.parametrize(("n", "d", "a"), [(20, 3, 2.0), (9, 4, 0.0), (400, 2, 4.0)])
def test_gain_begins_with_its_slope(n, d, a):
    noise_std = 1e-5
    gain = wasserstein_gain(n, d, a, noise_std)
    assert gain.value / noise_std**2 == pytest.approx(gain_slope(n, d, a), rel=1e-4)
    assert gain_slope(n, d, a) > 2 * d / n


def test_slope_is_infinite_up_to_d_plus_one_points():
    assert gain_slope(4, 3, 1.0) == math.inf
    assert math.isfinite(gain_slope(5, 3, 1.0))


@pytest.mark.parametrize(("n", "d", "a"), [(2, 3, 1.0), (5, 5, 0.0), (10, 64, 4.0)])
def test_gain_with_few_points_is_linear_in_the_noise(n, d, a):
    gain = wasserstein_gain(n, d, a, 1e-6)
    assert gain.value / 1e-6 == pytest.approx(null_space_slope(n, d, a), rel=1e-3)
    assert null_space_slope(d + 1, d, a) == 0.0


def test_null_space_slope_of_two_points_in_two_dimensions():
    """n = d = 2, a = 0: m ~ N(0, I/2), and S's null space is a line independent of m: 2 E|N(0, 1/2)|."""
    assert null_space_slope(2, 2, 0.0) == pytest.approx(2 / math.sqrt(math.pi), rel=1e-12)


@pytest.mark.parametrize("shift", [0.0, 0.3, 5.0, 300.0])
def test_mean_norm_of_a_shifted_normal(shift):
    folded = math.sqrt(2 / math.pi) * math.exp(-(shift**2) / 2) + shift * math.erf(shift / math.sqrt(2))
    assert mean_noncentral_chi(1, shift**2) == pytest.approx(folded, rel=1e-12)
    shell = mean_noncentral_chi(3, shift**2)
    sphere = folded + math.erf(shift / math.sqrt(2)) / shift if shift else math.sqrt(8 / math.pi)
    assert shell == pytest.approx(sphere, rel=1e-12)


@pytest.mark.parametrize(("n", "d", "a"), [(20, 3, 2.0), (4, 3, 1.0), (6, 12, 3.0), (150, 64, 2.0), (10_000, 2, 4.0)])
def test_optimum_and_limit(n, d, a):
    best, limit = optimal_noise_std(n, d, a), helpful_limit(n, d, a)
    assert best.low <= best.value <= best.high < limit.value
    top = wasserstein_gain(n, d, a, best.value).value
    for factor in (0.8, 0.95, 1.05, 1.2):
        assert wasserstein_gain(n, d, a, factor * best.value).value < top
    if math.isfinite(limit.value):
        assert limit.low <= limit.value <= limit.high
        assert (
            wasserstein_gain(n, d, a, 0.99 * limit.value).value
            > 0
            > wasserstein_gain(n, d, a, 1.01 * limit.value).value
        )


def test_large_n_optimum_and_limit():
    n, d, a = 10_000, 3, 2.0
    A, B = large_n_coefficients(d, a)
    assert (A, B) == (2 * 3 + 16 * 2 / 8, 2 + 1)
    assert optimal_noise_std(n, d, a).value == pytest.approx(math.sqrt(A / (2 * n * B)), rel=20 / n)
    assert helpful_limit(n, d, a).value == pytest.approx(math.sqrt(A / (n * B)), rel=20 / n)


def test_every_noise_helps_where_the_mean_is_small():
    assert helpful_limit(10, 4, 0.3).value == math.inf
    assert helpful_limit(20, 5, 0.0) == Bracket(math.inf, math.inf, math.inf)


def test_more_noise_than_a_constant_over_root_n_hurts():
    assert (
        wasserstein_gain(400, 2, 4.0, math.sqrt(1 / 400)).value
        > 0
        > wasserstein_gain(400, 2, 4.0, math.sqrt(2 / 400)).value
    )


@pytest.mark.parametrize(("n", "d", "a"), [pytest.param(4, 3, 1.0, marks=pytest.mark.slow), (20, 3, 2.0)])
def test_brackets_cover_the_optimum(n, d, a):
    """Of 20 brackets at 95 % at least 13 cover: fewer has probability 3e-6."""
    best = optimal_noise_std(n, d, a, draws=8_000, seed=77).value
    limit = helpful_limit(n, d, a, draws=8_000, seed=77).value
    covered = [0, 0]
    for seed in range(20):
        for i, (function, truth) in enumerate(((optimal_noise_std, best), (helpful_limit, limit))):
            bracket = function(n, d, a, draws=256, seed=seed)
            covered[i] += bracket.low <= truth <= bracket.high
    assert min(covered) >= 13


def test_mean_gain_by_hand():
    assert mean_gain(10, 5, 1.0, s=0.5) == pytest.approx(0.75 * 0.5 - 0.25)
    best = 5 / (5 + 10)
    assert mean_gain(10, 5, 1.0, s=best) > max(mean_gain(10, 5, 1.0, s=best + h) for h in (-0.01, 0.01))


def test_seeds_reproduce_and_differ():
    first, again, other = (wasserstein_gain(7, 3, 1.0, 0.5, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


def test_conditional_variance_by_simulation():
    x = np.random.default_rng(0).standard_normal((200_000, 4))
    residual = x[:, 0] - x.mean(axis=1)
    assert abs(np.mean(residual**2) - conditional_variance(4)) < 6 * np.std(residual**2) / math.sqrt(len(x))


def test_noise_share_at_its_ends():
    assert [condition_share(g) for g in (0.0, 1.0, math.inf)] == [0.0, 0.5, 1.0]
    assert condition_share(1e200) == 1.0
    assert condition_share(1e-100) == pytest.approx(1e-200)


def test_default_draws_fall_with_the_dimension():
    assert [default_draws(d) for d in (1, 64, 512)] == [4096, 1024, 256]
    assert draw_training_sets(5, 64, 1.0, None, 0).size.size == 1024


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: wasserstein_gain(1, 2, 1.0, 0.5), "n"),
        (lambda: wasserstein_gain(5, 0, 1.0, 0.5), "d"),
        (lambda: wasserstein_gain(5, 2, -1.0, 0.5), "mean_square"),
        (lambda: wasserstein_gain(5, 2, math.nan, 0.5), "mean_square"),
        (lambda: wasserstein_gain(5, 2, 1.0, -0.5), "noise_std"),
        (lambda: wasserstein_gain(5, 2, 1.0, math.nan), "noise_std"),
        (lambda: wasserstein_gain(5, 2, 1.0, 0.5, draws=10), "draws"),
        (lambda: entropy_gap(5, 5, 1.0, 0.5), "n"),
        (lambda: entropy_gap(5, 2, 1.0, -0.5), "noise_std"),
        (lambda: floored_entropy_gap(5, 2, 1.0, 0.5, floor=0.0), "floor"),
        (lambda: mean_gain(5, 2, 1.0, s=1.5), "s"),
        (lambda: large_n_coefficients(2, -1.0), "mean_square"),
        (lambda: conditional_variance(1), "n"),
    ],
)
def test_bad_input_names_the_argument(call, name):
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        call()
