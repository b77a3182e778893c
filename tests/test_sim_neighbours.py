"""Neighbours against brute force; memorisation, precision and recall, mode coverage on cases of known answer."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim import neighbours
from sim.intervals import beside_identical
from sim.neighbours import (
    distances_within,
    excess_share,
    is_memorised,
    is_memorised_relative,
    mean_distance_to_nearest,
    mode_coverage,
    nearest_distances,
    precision_recall,
)
from tests.strategies import seeds
from theory.mixture import GaussianMixture


def _all_distances(x, y):
    return np.sqrt(np.sum((x[:, None] - y) ** 2, axis=-1))


@given(seeds, st.integers(1, 30), st.integers(1, 30), st.sampled_from([1, 2, 3, 20]), st.data())
def test_nearest_distances_against_brute_force(seed, n, m, d, data):
    k = data.draw(st.integers(1, m))
    rng = np.random.default_rng(seed)
    x, y = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    y[rng.integers(m)] = x[rng.integers(n)]  # one memorised exactly
    expected = np.sort(_all_distances(x, y), axis=1)[:, :k]
    np.testing.assert_allclose(nearest_distances(x, y, k=k), expected, rtol=1e-13)


@given(seeds, st.integers(2, 30), st.sampled_from([1, 3, 20]), st.data())
def test_distances_within_leave_out_the_point_itself_only(seed, n, d, data):
    k = data.draw(st.integers(1, n - 1))
    x = np.random.default_rng(seed).integers(0, 3, (n, d)).astype(float)  # many repeated points and ties
    everything = _all_distances(x, x) + np.diag(np.full(n, np.inf))
    np.testing.assert_allclose(distances_within(x, k=k), np.sort(everything, axis=1)[:, :k], rtol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_near_copies_far_from_the_origin_keep_their_digits(dtype):
    rng = np.random.default_rng(0)
    training = (100 + rng.normal(size=(200, 50))).astype(dtype)
    samples = training[:20].copy()
    samples[:, 0] += dtype(2**-10)  # exact in float32 at 100: its spacing there is 2^-17
    exact = (samples[:, 0].astype(float) - training[:20, 0]).reshape(-1, 1)
    np.testing.assert_allclose(nearest_distances(samples, training), exact, rtol=1e-13)


def test_blocks_change_nothing(monkeypatch):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(53, 20)), rng.normal(size=(47, 20))
    whole = nearest_distances(x, y, k=3), precision_recall(x, y)
    monkeypatch.setattr(neighbours, "BLOCK", 200)
    np.testing.assert_array_equal(nearest_distances(x, y, k=3), whole[0])
    assert precision_recall(x, y) == whole[1]


def test_mean_distance_to_nearest_is_the_mean_of_k():
    training = np.array([[0.0], [1.0], [3.0], [10.0]])
    np.testing.assert_allclose(mean_distance_to_nearest(np.array([[0.0], [2.0]]), training, k=3), [4 / 3, 4 / 3])


@given(seeds, st.sampled_from([1, 2, 20]), st.integers(1, 4))
def test_precision_and_recall_against_brute_force(seed, d, k):
    rng = np.random.default_rng(seed)
    real, made = rng.normal(size=(25, d)), 0.5 + rng.normal(size=(20, d))

    def covered(x, reference):
        own = np.sort(_all_distances(reference, reference), axis=1)[:, k]
        return np.mean(np.any(_all_distances(x, reference) <= own, axis=1))

    np.testing.assert_allclose(precision_recall(real, made, k=k), (covered(made, real), covered(real, made)))


def test_precision_and_recall_tell_collapse_from_noise():
    rng = np.random.default_rng(2)
    real, real2, fresh = (rng.normal(size=(400, 5)) for _ in range(3))
    narrow, wide = fresh / 4, fresh * 4
    assert precision_recall(real, narrow).precision > 0.99
    assert precision_recall(real, narrow).recall < 0.3
    assert precision_recall(real, wide).precision < 0.3
    estimate = beside_identical(lambda x, y: precision_recall(x, y).precision, real, real2, fresh, ideal=1.0, groups=5)
    assert estimate.bias < -0.02  # the truth itself does not reach 1
    assert estimate.low < 1 < estimate.high


def test_memorisation_counts_copies():
    rng = np.random.default_rng(3)
    training, fresh = rng.normal(size=(500, 10)), rng.normal(size=(400, 10))
    samples = rng.normal(size=(400, 10))
    samples[:100] = training[:100] + 1e-3 * rng.normal(size=(100, 10))
    for flags, base in (
        (is_memorised(samples, training, threshold=0.1), is_memorised(fresh, training, threshold=0.1)),
        (is_memorised_relative(samples, training), is_memorised_relative(fresh, training)),
    ):
        ratio = excess_share(flags, base)
        assert flags[:100].all()
        assert ratio.value == np.mean(flags)
        assert ratio.bias == np.mean(base)
        assert ratio.low < 0.25 * (1 - ratio.bias) < ratio.high


def test_the_relative_criterion_fires_on_fresh_points_in_low_dimension():
    rng = np.random.default_rng(4)
    share = is_memorised_relative(rng.random((4000, 1)), rng.random((4000, 1))).mean()
    # Poisson points: (d1/d2)^d is uniform, so the share is 1/3 in d = 1; neighbours shared by samples at most double
    # the variance: 5 binomial standard errors.
    assert abs(share - 1 / 3) < 5 * np.sqrt(2 / 9 / 4000)


def test_newcombes_interval_covers_and_is_never_empty():
    rng = np.random.default_rng(5)
    hits = [excess_share(rng.random(40) < 0.1, rng.random(60) < 0.05) for _ in range(400)]
    covered = np.mean([e.low <= 0.05 <= e.high for e in hits])
    assert covered > 0.95 - 4 * np.sqrt(0.05 * 0.95 / 400)
    none = excess_share(np.zeros(10, bool), np.zeros(10, bool))
    assert none.low < 0 < none.high


MIXTURE = GaussianMixture(
    jnp.array([0.5, 0.3, 0.2, 0.0]),
    jnp.array([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [50.0, 50.0]]),
    jnp.stack([jnp.eye(2)] * 4),
)


def test_mode_coverage_of_the_mixture_itself():
    runs = [
        mode_coverage(np.asarray(MIXTURE.sample(key, (300,))), MIXTURE)
        for key in jax.random.split(jax.random.key(0), 200)
    ]
    kl, bias = np.array([(r.kl.value, r.kl.bias) for r in runs]).T
    # Separated modes: 2 n KL is chi-square with K - 1 = 2 degrees of freedom to order 1/n, mean 2, variance 4.
    assert abs(kl.mean() - 2 / 600) < 4 * (2 / 600) / np.sqrt(200) + 2 / 300**2
    np.testing.assert_allclose(bias.mean(), 2 / 600, rtol=0.05)
    assert all(r.hit == 1.0 for r in runs)
    assert np.mean([r.kl.low <= 0 <= r.kl.high for r in runs]) > 0.9
    np.testing.assert_allclose(
        np.mean([r.frequencies for r in runs], axis=0), MIXTURE.weights, atol=4 * 0.5 / np.sqrt(60000)
    )


def test_mode_coverage_sees_a_lost_mode():
    samples = np.asarray(MIXTURE.sample(jax.random.key(1), (600,)))
    kept = samples[samples[:, 1] < 5]
    result = mode_coverage(kept, MIXTURE)
    assert result.hit == pytest.approx(2 / 3)
    assert result.kl.low < -np.log(0.8) < result.kl.high  # KL of conditioning on the kept 80 %
    assert result.kl.low > 0.1


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: nearest_distances.__wrapped__(np.ones((3, 2)), np.ones((0, 2))), "non-empty"),
        (lambda: nearest_distances.__wrapped__(np.ones((3, 2)), np.ones((4, 3))), "dimension"),
        (lambda: nearest_distances.__wrapped__(np.ones((3, 2)), np.ones((4, 2)), k=5), "k must"),
        (lambda: nearest_distances.__wrapped__(np.full((3, 2), np.inf), np.ones((4, 2))), "finite"),
        (lambda: distances_within.__wrapped__(np.ones((3, 2)), k=3), "k must"),
        (lambda: is_memorised.__wrapped__(np.ones((3, 2)), np.ones((4, 2)), threshold=-1.0), "threshold"),
        (lambda: is_memorised_relative.__wrapped__(np.ones((3, 2)), np.ones((4, 2)), ratio=0.0), "ratio"),
        (lambda: excess_share.__wrapped__(np.ones(3), np.ones(3, bool)), "bools"),
        (lambda: mode_coverage.__wrapped__(np.ones((3, 1)), MIXTURE), "dimension"),
        (lambda: precision_recall.__wrapped__(np.ones((3, 2)), np.ones((4, 1))), "dimension"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
