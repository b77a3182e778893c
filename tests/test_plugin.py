import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from strategies import seeds

from theory.claims.cases import covariance
from theory.gaussian import Gaussian, wasserstein2
from theory.plugin import (
    Bootstrap,
    Population,
    bootstrap_gain,
    flip_effect,
    flip_weights,
    held_out,
    mixed_moments,
    pooled,
)
from theory.roots import symmetric_power
from theory.training_sets import wasserstein_gain
from theory.whitening import moments

S = np.array([0.001, 0.01, 0.1, 0.5, 1.0])


def population(rng, r, condition=10.0, mean_square=2.0):
    cov = covariance(r, condition, int(rng.integers(1, 2**31)))
    mean = rng.standard_normal(r)
    return Population(np.sqrt(mean_square) * mean / np.linalg.norm(mean), symmetric_power(cov, 0.5))


def trace_root(cov):
    return np.sum(np.sqrt(np.linalg.eigvalsh(cov)))


def draw(p, n, rng):
    return p.mean + rng.standard_normal((n, len(p.mean))) @ p.root


def squared_w2(p, mean, cov):
    law = Gaussian(jnp.asarray(p.mean), jnp.asarray(p.root @ p.root))
    return float(wasserstein2(law, Gaussian(jnp.asarray(mean), jnp.asarray(cov)))) ** 2


@given(st.sampled_from([1, 2, 4]), st.integers(2, 12), seeds)
def test_gain_of_a_training_set_is_a_difference_of_distances(r, n, seed):
    rng = np.random.default_rng([seed, 11])
    p = population(rng, r)
    mean, cov = p.training_set(n, rng)
    clean = squared_w2(p, mean, cov)
    direct = [clean - squared_w2(p, (1 - s) * mean, cov + s * np.outer(mean, mean)) for s in S]
    # singular S (n <= r): eigenvalues that should be 0 come as 1e-16, their roots as 1e-8
    np.testing.assert_allclose(p.gain((mean, cov), S), direct, atol=2e-7)
    assert p.squared_distance((mean, cov)) == pytest.approx(clean, abs=2e-7)


def test_training_sets_have_the_moments_of_points():
    rng = np.random.default_rng(12)
    p, n, repeats = population(rng, 3), 7, 4000
    means, covs = zip(*(p.training_set(n, rng) for _ in range(repeats)), strict=True)
    sigma = p.root @ p.root
    # standard errors: sqrt(sigma_ii / n / repeats) <= 1 / sqrt(28000) = 0.006; entries of S vary by at most sqrt(2/n)
    np.testing.assert_allclose(np.mean(means, axis=0), p.mean, atol=5 * 0.006)
    np.testing.assert_allclose(np.mean(covs, axis=0), (n - 1) / n * sigma, atol=5 * np.sqrt(2 / n / repeats))
    np.testing.assert_allclose(np.cov(np.array(means).T), sigma / n, atol=5 * np.sqrt(2 / repeats) / n)


@pytest.mark.parametrize(("n", "r", "a"), [(20, 4, 1.0), (8, 2, 5.0), (5, 6, 2.0)])
def test_isotropic_expectation_agrees_with_the_exact_one(n, r, a):
    rng = np.random.default_rng([13, n])
    p = Population.isotropic(r, a)
    draws = np.array([p.expected_gain(n, S, repeats=1, rng=rng) for _ in range(600)])
    mean, error = draws.mean(axis=0), draws.std(axis=0, ddof=1) / np.sqrt(600)
    for i, s in enumerate(S):
        exact = wasserstein_gain(n, r, a, np.inf if s == 1 else float(np.sqrt(s / (1 - s))))
        assert abs(mean[i] - exact.value) <= 4.5 * np.hypot(error[i], exact.standard_error)


def test_bootstrap_is_nearly_unbiased_and_its_interval_covers():
    rng = np.random.default_rng(14)
    p, n = population(rng, 10, condition=100.0, mean_square=4.0), 40
    truth = p.expected_gain(n, S, repeats=800, rng=rng)
    runs = [bootstrap_gain(draw(p, n, rng), S, resamples=16, training_sets=2, rng=rng) for _ in range(30)]
    corrected = np.array([b.corrected for b in runs])
    error = corrected.std(axis=0, ddof=1) / np.sqrt(len(runs))
    plain_bias = np.abs(np.mean([b.plain for b in runs], axis=0) - truth)
    bias = np.abs(corrected.mean(axis=0) - truth)
    assert np.all(bias <= 4 * error + 0.25 * plain_bias)  # a bootstrap removes bias to first order only
    inside = [(low <= truth) & (truth <= high) for low, high in (b.interval(0.9) for b in runs)]
    # 30 trials at 90 %: 21 or fewer has probability 0.002
    assert np.all(np.sum(inside, axis=0) >= 22)


def test_bootstrap_clean_distance_is_the_expected_one():
    rng = np.random.default_rng(15)
    points = draw(population(rng, 3), 25, rng)
    own = Population.of(points)
    direct = [own.squared_distance(own.training_set(25, rng)) for _ in range(400)]
    b = bootstrap_gain(points, S, resamples=60, training_sets=1, rng=rng)
    assert abs(b.clean - np.mean(direct)) <= 4.5 * np.std(direct) * np.sqrt(1 / 60 + 1 / 400)
    assert b.resampled.shape == (60, len(S))


def test_bootstrap_interval_is_the_basic_one():
    b = Bootstrap(np.array([1.0]), np.linspace(0.0, 10.0, 11)[:, None], 0.0)
    low, high = b.interval(0.8)
    assert (low[0], high[0]) == (pytest.approx(2 - 9), pytest.approx(2 - 1))
    assert b.corrected[0] == pytest.approx(2 - 5)


def test_pooled_weighs_the_classes():
    one = Bootstrap(np.array([1.0]), np.array([[1.0], [2.0]]), 3.0)
    two = Bootstrap(np.array([5.0]), np.array([[0.0], [4.0]]), 7.0)
    both = pooled([one, two], [0.25, 0.75])
    assert (both.plain[0], both.clean) == (4.0, 6.0)
    np.testing.assert_array_equal(both.resampled, [[0.25], [3.5]])


def test_flip_weights_by_relabelling_every_point():
    sizes, eta = np.array([10, 20, 30]), 0.3
    for k in range(3):
        expected = [
            sizes[j] * (1 - eta if j == k else eta * sizes[k] / sum(sizes[i] for i in range(3) if i != j))
            for j in range(3)
        ]
        np.testing.assert_allclose(flip_weights(sizes, k, eta), np.array(expected) / sum(expected), rtol=1e-14)
    np.testing.assert_array_equal(flip_weights(sizes, 1, 0.0), [0, 1, 0])


def test_mixed_moments_are_those_of_the_mixed_points():
    rng = np.random.default_rng(16)
    a, b = rng.normal(size=(6, 3)), rng.normal(size=(6, 3)) + 2
    mean, cov = mixed_moments([moments(a), moments(b)], np.array([0.75, 0.25]))
    direct = moments(np.concatenate([a, a, a, b]))
    np.testing.assert_allclose(mean, direct[0], atol=1e-14)
    np.testing.assert_allclose(cov, direct[1], atol=1e-13)


def test_flips_at_both_ends():
    rng = np.random.default_rng(17)
    classes = [rng.normal(size=(50, 2)) + 3, rng.normal(size=(50, 2)) - 3]
    effects = flip_effect(classes, (0.0, 0.1, 1.0), repeats=20, rng=rng)
    swapped = Population.of(classes[0]).squared_distance(moments(classes[1]))
    for e in effects:
        assert e.change[0] == pytest.approx(0, abs=1e-12)
        # all labels flipped: each class generates the other; training sets move it by W2 of about sqrt(4/50) = 0.3
        assert abs(np.sqrt(e.change[2]) - np.sqrt(swapped)) < 0.4
        assert 0 < e.change[1] < e.change[2]
        assert e.standard_error[1] > 0


def test_flips_follow_the_law_of_large_numbers():
    """Two classes N(+-mu, I), many points: m' = (1 - 2 eta) mu, S' = I + 4 eta (1 - eta) mu mu' give W2^2 exactly."""
    rng = np.random.default_rng(18)
    a, eta, n = 4.0, 0.2, 20000
    mu = np.array([np.sqrt(a), 0.0])
    classes = [rng.normal(size=(n, 2)) + mu, rng.normal(size=(n, 2)) - mu]
    effect = flip_effect(classes, (eta,), repeats=5, rng=rng)[0]
    exact = 4 * eta**2 * a + (np.sqrt(1 + 4 * eta * (1 - eta) * a) - 1) ** 2
    # moments of 20000 points are off by about 1/sqrt(n) = 0.007; W2^2 moves by at most 2 W2 of that for each of a few
    assert effect.change[0] == pytest.approx(exact, abs=4 * 2 * np.sqrt(exact) * 0.01)


def test_held_out_halves_of_gaussian_data_look_like_the_model():
    rng = np.random.default_rng(19)
    p, s = Population.isotropic(5, 3.0), 0.02
    checks = [held_out(draw(p, 60, rng), p, s, repeats=4, rng=rng) for _ in range(60)]
    for name in ("gain", "clean", "mean"):
        seen = np.array([getattr(c, f"{name}_observed") for c in checks])
        model = np.array([getattr(c, f"{name}_model") for c in checks])
        error = np.hypot(seen.std(ddof=1), model.std(ddof=1)) / np.sqrt(60)
        assert abs(seen.mean() - model.mean()) <= 4.5 * error
    assert (checks[0].points, checks[0].s) == (30, s)


def test_held_out_sees_a_wrong_model():
    rng = np.random.default_rng(20)
    points = 3 * rng.standard_normal((100, 4)) + 1
    check = held_out(points, Population.isotropic(4, 1.0), 0.01, repeats=40, rng=rng)
    assert check.clean_observed > 3 * check.clean_model
    assert check.mean_observed > 3 * check.mean_model


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x, rng: bootstrap_gain(x, S, resamples=1, training_sets=1, rng=rng), "resamples must be at least 2"),
        (
            lambda x, rng: bootstrap_gain(x, S, resamples=2, training_sets=0, rng=rng),
            "training_sets must be at least 1",
        ),
        (lambda x, rng: held_out(x[:3], Population.of(x), 0.1, repeats=2, rng=rng), "at least 4"),
        (lambda x, rng: flip_effect([x], (0.1,), repeats=2, rng=rng), "at least 2 to flip"),
        (lambda x, rng: flip_effect([x, x], (1.1,), repeats=2, rng=rng), r"eta must be in \[0, 1\]"),
        (lambda x, rng: flip_effect([x, x], (0.1,), repeats=1, rng=rng), "repeats must be at least 2"),
    ],
)
def test_bad_requests(call, message):
    rng = np.random.default_rng(21)
    with pytest.raises(ValueError, match=message):
        call(rng.normal(size=(6, 2)), rng)
