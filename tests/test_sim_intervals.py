"""Intervals: against SciPy, exact identities of the jackknife, and measured coverage."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sim.intervals import (
    Estimate,
    beside_identical,
    beside_identical_repeats,
    bias_on_identical,
    bootstrap_interval,
    jackknife,
    jackknife_estimate,
    mean_interval,
    paired_difference,
    share_interval,
)
from tests.strategies import seeds


@given(seeds, st.integers(2, 30), st.floats(0.5, 0.99))
def test_mean_interval_is_students(seed, r, confidence):
    values = np.random.default_rng(seed).normal(3.0, 2.0, r)
    ours = mean_interval(values, confidence=confidence)
    low, high = stats.t.interval(confidence, r - 1, values.mean(), stats.sem(values))
    np.testing.assert_allclose(ours, (values.mean(), low, high), rtol=1e-12)


def test_mean_interval_works_entry_by_entry():
    values = np.random.default_rng(0).normal(size=(7, 2, 3))
    whole = mean_interval(values)
    assert whole.value.shape == (2, 3)
    np.testing.assert_allclose(whole.high[1, 2], mean_interval(values[:, 1, 2]).high, rtol=1e-14)


def test_pairing_removes_what_the_seeds_share():
    rng = np.random.default_rng(1)
    shared = rng.normal(0, 100, 20)
    first, second = shared + rng.normal(1, 0.1, 20), shared + rng.normal(0, 0.1, 20)
    gap = paired_difference(first, second)
    assert gap.low < 1 < gap.high  # true for this seed; the width is the point:
    assert gap.high - gap.low < 0.5 < mean_interval(first).high - mean_interval(first).low


@given(st.integers(1, 200), st.data())
def test_share_interval_is_wilsons(n, data):
    hits = data.draw(st.integers(0, n))
    reference = stats.binomtest(hits, n).proportion_ci(0.95, method="wilson")
    np.testing.assert_allclose(share_interval(hits, n), (hits / n, reference.low, reference.high), atol=1e-12)


def test_bootstrap_of_a_mean_agrees_with_the_normal_interval():
    values = np.random.default_rng(2).normal(size=400)
    ours = bootstrap_interval(jnp.mean, values, jax.random.key(0), resamples=4000)
    half = 1.96 * values.std() / 20
    # A bootstrap quantile of 4000 draws has a standard error of about 0.04 standard deviations at 2.5 %: 4 of them.
    np.testing.assert_allclose([ours.low, ours.high], [values.mean() - half, values.mean() + half], atol=0.16 * half)


def test_leaving_out_one_gives_the_standard_error_of_a_mean():
    x = np.random.default_rng(3).normal(size=(25, 2))
    fold = jackknife(lambda a: a.mean(axis=0), (x,), groups=25)
    np.testing.assert_allclose(fold.error, x.std(axis=0, ddof=1) / 5, rtol=1e-12)


def test_independent_samples_add_their_variances():
    rng = np.random.default_rng(4)
    x, y = rng.normal(size=30), rng.normal(size=20)
    fold = jackknife(lambda a, b: a.mean() - b.mean(), (x, y), groups=20, together=False)
    other = jackknife(lambda a: a.mean(), (x,), groups=20).error
    np.testing.assert_allclose(fold.error, np.hypot(other, y.std(ddof=1) / np.sqrt(20)), rtol=1e-12)


def test_the_jackknife_removes_the_bias_of_a_variance_exactly():
    x = np.random.default_rng(5).normal(size=12)
    estimate = jackknife_estimate(lambda a: float(a.var()), (x,), groups=12)
    np.testing.assert_allclose(estimate.debiased, x.var(ddof=1), rtol=1e-12)


def _squared_gap(x, y):
    return float((x.mean() - y.mean()) ** 2)


def test_bias_on_identical_finds_a_known_bias():
    # E (x̄ - ȳ)² = 1/n + 1/m for unit variance.
    measured = bias_on_identical(_squared_gap, jax.random.normal, 50, jax.random.key(1), m=25, repeats=200)
    half = (measured.high - measured.low) / 2
    assert abs(measured.value - 0.06) < 2 * half  # four standard errors
    assert measured.low > 0.03


def test_beside_identical_agrees_with_its_parts_and_covers():
    rng = np.random.default_rng(6)
    covered = []
    for _ in range(100):
        x, x2, y, y2 = (rng.normal(shift, 1, 40) for shift in (0, 0, 1, 1))
        estimate = beside_identical(_squared_gap, x, x2, y, y2)
        covered.append(estimate.low <= 1 <= estimate.high)  # (x̄ - ȳ)² less its bias has mean 1
    np.testing.assert_allclose(estimate.bias, (_squared_gap(x, x2) + _squared_gap(y, y2)) / 2, rtol=1e-12)
    assert np.mean(covered) > 0.87  # 95 % less 3.7 binomial standard errors of 0.022


def test_repeats_give_the_students_interval_of_the_debiased_value():
    rng = np.random.default_rng(7)
    x, x2, y = (rng.normal(size=(6, 10)) for _ in range(3))
    estimate = beside_identical_repeats(_squared_gap, x, x2, y, ideal=0.5)
    gaps = [_squared_gap(a, c) - _squared_gap(a, b) + 0.5 for a, b, c in zip(x, x2, y, strict=True)]
    np.testing.assert_allclose(
        (estimate.debiased, estimate.low, estimate.high), mean_interval(np.array(gaps)), rtol=1e-12
    )


def test_an_estimate_subtracts_its_bias():
    assert Estimate(3.0, 1.0, 1.5, 2.5).debiased == 2.0


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: mean_interval.__wrapped__(np.ones(1)), "at least 2 repeats"),
        (lambda: mean_interval.__wrapped__(np.array([1, np.nan])), "finite"),
        (lambda: mean_interval.__wrapped__(np.ones(2), confidence=1.0), "confidence"),
        (lambda: paired_difference.__wrapped__(np.ones(2), np.ones(1)), "second"),
        (lambda: share_interval.__wrapped__(3, 2), "hits"),
        (lambda: bootstrap_interval.__wrapped__(jnp.mean, np.ones(5), jax.random.key(0), resamples=3), "resamples"),
        (lambda: jackknife.__wrapped__(np.mean, (np.ones(4),), groups=5), "groups"),
        (lambda: beside_identical.__wrapped__(_squared_gap, np.ones(5), np.ones(4), np.ones(5)), "x2"),
        (
            lambda: bias_on_identical(_squared_gap, jax.random.normal, 5, jax.random.key(0), repeats=1),
            "repeats",
        ),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
