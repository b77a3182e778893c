"""Operators: the sampler agrees with the exact law, and what must hold exactly does."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare

from tests.strategies import SOME_PATHS
from theory.claims.claim import MONTE_CARLO_Z
from theory.corruption import (
    OPERATORS,
    CaptionSwap,
    Dropout,
    EmbeddingGaussian,
    EmbeddingUniform,
    Fixed,
    Fresh,
    InputPerturbation,
    LabelCorruption,
    LabelFlip,
    LabelSmoothing,
    NoiseGate,
    Partly,
    VectorCorruption,
    asymmetric_flip,
    class_prior,
    corrupted_class_moments,
    symmetric_flip,
)
from theory.gates import ambient_alpha, ambient_weight, buffer_noise, gate_times, noise_to_signal
from theory.paths import PATHS, VarianceExploding, VPCosine

DRAWS = 20_000
P_VALUE = 1e-7  # a few dozen tests, fixed keys: a false alarm has probability below 1e-5 once, then never
PRIOR = jnp.array([0.4, 0.3, 0.2, 0.1])
GROUPS = jnp.array([0, 0, 0, 7])
LABEL_OPERATORS = {
    "symmetric": symmetric_flip(PRIOR, 0.3),
    "all flipped": symmetric_flip(PRIOR, 1.0),
    "asymmetric": asymmetric_flip(PRIOR, 0.25, GROUPS),
    "caption swap": CaptionSwap(5, 0.8),
    **{name: OPERATORS[name](0.2, 6) for name in ("symmetric flip", "asymmetric flip", "caption swap")},
}
VALUE = jnp.array([1.0, -0.5, 0.25])
VECTOR_OPERATORS = {
    "cep-u": EmbeddingUniform(2.0),
    "cep-g": EmbeddingGaussian(0.7),
    "input perturbation": InputPerturbation(0.1),
    "dropout": Dropout(),
    "label smoothing": LabelSmoothing(),
    "fixed cep": Partly(EmbeddingUniform(5.0), 0.2),
    "partly smoothed": Partly(LabelSmoothing(0.5), 0.3),
}


def keys(number=DRAWS, seed=0):
    return jax.random.split(jax.random.key(seed), number)


def z_score(samples, expected):
    """Largest |mean − expected| in standard errors over the last axes (constant samples: equality to rounding)."""
    error = np.abs(np.mean(samples, axis=0) - expected)
    spread = np.std(samples, axis=0, ddof=1) / math.sqrt(len(samples))
    return np.max(error / np.maximum(spread, 1e-14 * (1 + np.abs(expected))))


@pytest.mark.parametrize("name", LABEL_OPERATORS)
def test_label_sampler_follows_its_law(name):
    operator = LABEL_OPERATORS[name]
    value = operator.classes - 2
    draws = np.asarray(jax.jit(jax.vmap(lambda key: operator.sample(key, value)))(keys()))
    law = np.asarray(operator.law(value))
    counts = np.bincount(draws, minlength=law.size)
    assert np.all(counts[law == 0] == 0)
    assert (
        chisquare(counts[law > 0], DRAWS * law[law > 0] / law.sum()).pvalue > P_VALUE if np.sum(law > 0) > 1 else True
    )


@pytest.mark.parametrize("name", LABEL_OPERATORS)
def test_label_laws_are_probabilities(name):
    operator = LABEL_OPERATORS[name]
    matrix = np.asarray(operator.transition())
    assert isinstance(operator, LabelCorruption)
    assert np.all(matrix >= 0)
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=4 * operator.classes * np.finfo(float).eps)
    prior = jnp.full(operator.classes, 1 / operator.classes)
    np.testing.assert_allclose(operator.posterior(prior).sum(axis=1), 1.0, atol=1e-14)


def test_symmetric_flip_draws_another_class_by_the_prior():
    matrix = np.asarray(symmetric_flip(PRIOR, 0.3).transition())
    for true, seen in itertools.permutations(range(4), 2):
        others = sum(float(PRIOR[k]) for k in range(4) if k != true)
        assert matrix[true, seen] == pytest.approx(0.3 * float(PRIOR[seen]) / others, rel=1e-14)
    np.testing.assert_allclose(np.diag(matrix), 0.7, rtol=1e-14)
    assert symmetric_flip(PRIOR, 0.3).fraction_changed(PRIOR) == pytest.approx(0.3, rel=1e-14)


def test_a_flip_never_returns_the_same_class():
    operator = symmetric_flip(PRIOR, 1.0)
    draws = jax.vmap(operator.sample)(keys(2000), jnp.arange(2000) % 4)
    assert not np.any(np.asarray(draws) == np.arange(2000) % 4)


def test_asymmetric_flip_stays_inside_its_group():
    operator = asymmetric_flip(PRIOR, 0.25, GROUPS)
    expected = (
        np.array(
            [[3, 3 / 5, 2 / 5, 0], [4 / 6, 3, 2 / 6, 0], [4 / 7, 3 / 7, 3, 0], [0, 0, 0, 4]],
        )
        / 4
    )
    np.testing.assert_allclose(operator.transition(), expected, atol=1e-15)
    assert operator.fraction_changed(PRIOR) == pytest.approx(0.25 * 0.9, rel=1e-14)


def test_posterior_is_bayes_rule_and_mixes_moments():
    operator = symmetric_flip(PRIOR, 0.3)
    rng = np.random.default_rng(0)
    true = rng.choice(4, size=40_000, p=np.asarray(PRIOR))
    seen = np.asarray(jax.vmap(operator.sample)(keys(true.size), jnp.asarray(true)))
    means = jnp.asarray(rng.standard_normal((4, 2)) * 3)
    factors = rng.standard_normal((4, 2, 2))
    covs = jnp.asarray(factors @ factors.transpose(0, 2, 1))
    x = np.asarray(means)[true] + np.einsum("nij,nj->ni", factors[true], rng.standard_normal((true.size, 2)))
    mixed_means, mixed_covs = corrupted_class_moments(operator, PRIOR, means, covs)
    for k in range(4):
        mine = x[seen == k]
        share = true[seen == k][:, None] == np.arange(4)
        assert z_score(share, np.asarray(operator.posterior(PRIOR)[k])) < MONTE_CARLO_Z
        assert z_score(mine, np.asarray(mixed_means[k])) < MONTE_CARLO_Z
        deviation = mine - np.asarray(mixed_means[k])
        assert z_score(deviation[:, :, None] * deviation[:, None, :], np.asarray(mixed_covs[k])) < MONTE_CARLO_Z
    assert z_score(seen[:, None] == np.arange(4), np.asarray(operator.observed(PRIOR))) < MONTE_CARLO_Z


@pytest.mark.parametrize(("n", "eta", "changed"), [(2, 1.0, 2), (3, 1.0, 2), (7, 0.0, 0), (10, 0.6, 6), (40, 0.075, 2)])
def test_caption_swap_is_disjoint_transpositions(n, eta, changed):
    swap = CaptionSwap(n, eta)
    orders = np.asarray(jax.jit(jax.vmap(swap.permutation))(keys(200)))
    np.testing.assert_array_equal(np.take_along_axis(orders, orders, axis=1), np.tile(np.arange(n), (200, 1)))
    assert np.all(np.sum(orders != np.arange(n), axis=1) == changed)


def test_caption_swap_is_uniform_with_the_stated_joint_law():
    swap = CaptionSwap(5, 0.8)
    orders = np.asarray(jax.vmap(swap.permutation)(keys()))
    _, counts = np.unique(orders, axis=0, return_counts=True)
    assert counts.size == math.factorial(5) // (2**2 * math.factorial(2) * math.factorial(1))
    assert chisquare(counts).pvalue > P_VALUE
    together, apart = swap.swapped_together()
    assert z_score((orders[:, 0] == 1).astype(float), together) < MONTE_CARLO_Z
    both = (orders[:, 0] != 0) & (orders[:, 1] != 1) & (orders[:, 0] != 1)
    assert z_score(both.astype(float), apart) < MONTE_CARLO_Z


def test_caption_swap_seen_as_label_flips():
    swap, labels = CaptionSwap(7, 0.6), np.array([0, 0, 0, 0, 1, 1, 2])
    orders = np.asarray(jax.vmap(swap.permutation)(keys()))
    matrix = np.asarray(swap.class_transition(jnp.array([4, 2, 1])))
    np.testing.assert_allclose(matrix.sum(axis=1), 1.0, atol=1e-15)
    for sample, true in ((0, 0), (4, 1), (6, 2)):
        assert z_score(labels[orders[:, sample]][:, None] == np.arange(3), matrix[true]) < MONTE_CARLO_Z


@pytest.mark.parametrize("name", VECTOR_OPERATORS)
def test_vector_sampler_keeps_the_type(name):
    for dtype in (jnp.float32, jnp.float64):
        shape = jax.eval_shape(VECTOR_OPERATORS[name].sample, jax.random.key(0), VALUE.astype(dtype))
        assert (shape.dtype, shape.shape) == (dtype, (3,))


@pytest.mark.parametrize("name", VECTOR_OPERATORS)
def test_vector_sampler_follows_its_law(name):
    operator = VECTOR_OPERATORS[name]
    x = np.asarray(jax.jit(jax.vmap(lambda key: operator.sample(key, VALUE)))(keys()))
    mean, variance = np.asarray(operator.mean(VALUE)), np.asarray(operator.variance(VALUE))
    assert np.all(np.abs(x.mean(0) - mean) <= MONTE_CARLO_Z * np.sqrt(variance / DRAWS) + 1e-6)
    assert z_score((x - mean) ** 2 + 1e-12 * (variance == 0), variance) < MONTE_CARLO_Z or np.all(variance < 1e-12)
    frequencies = np.array([[1.0, 0.0, 0.0], [0.3, -2.0, 1.0], [2.0, 2.0, -5.0]])
    laws = jax.jit(jax.vmap(operator.characteristic, (None, 0)))(VALUE, jnp.asarray(frequencies))
    for frequency, law in zip(frequencies, np.asarray(laws), strict=True):
        turned = np.exp(1j * x @ frequency)
        for part in (np.real, np.imag):
            error = abs(np.mean(part(turned)) - part(law))
            assert error <= MONTE_CARLO_Z * np.std(part(turned)) / math.sqrt(DRAWS) + 1e-6


@pytest.mark.parametrize("name", VECTOR_OPERATORS)
def test_moments_are_the_derivatives_of_the_characteristic_function(name):
    operator, zero = VECTOR_OPERATORS[name], jnp.zeros(3)
    assert operator.characteristic(VALUE, zero) == pytest.approx(1.0)
    mean = jax.jit(jax.grad(lambda w: operator.characteristic(VALUE, w).imag))(zero)
    # jnp.sinc's second derivative at 0 is exact too; 1e-12 is 5000 roundings of numbers below 10
    second = -jax.jit(jax.hessian(lambda w: operator.characteristic(VALUE, w).real))(zero)
    np.testing.assert_allclose(mean, operator.mean(VALUE), atol=1e-12)
    np.testing.assert_allclose(jnp.diagonal(second) - mean**2, operator.variance(VALUE), atol=1e-12)


@pytest.mark.parametrize("name", ["cep-u", "cep-g", "input perturbation", "dropout", "label smoothing"])
def test_every_vector_of_a_sequence_follows_the_law_of_one_and_of_itself(name):
    """Mean and covariance of all coordinates of two vectors, which are independent, over draws of the pair."""
    operator, values = VECTOR_OPERATORS[name], jnp.stack([VALUE, -2 * VALUE])
    x = np.asarray(jax.jit(jax.vmap(lambda key: operator.sample(key, values)))(keys())).reshape(DRAWS, 6)
    mean, variance = (np.concatenate([law(value) for value in values]) for law in (operator.mean, operator.variance))
    deviation = x - mean
    products = (deviation[:, :, None] * deviation[:, None, :]).reshape(DRAWS, 36)
    spread = np.std(products, 0) / math.sqrt(DRAWS)
    assert np.all(np.abs(deviation.mean(0)) <= MONTE_CARLO_Z * np.sqrt(variance / DRAWS) + 1e-6)
    assert np.all(np.abs(products.mean(0) - np.diag(variance).ravel()) <= MONTE_CARLO_Z * spread + 1e-6)


def test_a_share_of_sequences_is_corrupted_whole():
    values = jnp.ones((4, 3))
    draws = jax.vmap(lambda key: Partly(EmbeddingUniform(5.0), 0.2).sample(key, values))(keys())
    changed = np.asarray(draws != 1).reshape(DRAWS, 12)
    assert np.array_equal(changed.any(1), changed.all(1))
    assert z_score(changed.any(1), 0.2) < MONTE_CARLO_Z


def test_strength_conventions():
    ones = jnp.ones(16)
    np.testing.assert_allclose(EmbeddingGaussian(2.0).variance(ones), 4 / 16)
    np.testing.assert_allclose(EmbeddingUniform(2.0).variance(ones), 4 / 48)
    draws = EmbeddingUniform(2.0).sample(jax.random.key(0), jnp.zeros(4096)) * math.sqrt(4096)
    assert 1.99 < float(jnp.max(jnp.abs(draws))) <= 2.0
    np.testing.assert_allclose(InputPerturbation(0.5).target_slope(), 1 / 1.25)
    np.testing.assert_allclose(LabelSmoothing().mean(jnp.eye(4)[0]), [0.925, 0.025, 0.025, 0.025])


def test_input_perturbation_slope_is_the_regression_of_the_target():
    target = jax.random.normal(jax.random.key(1), (DRAWS,))
    seen = InputPerturbation(0.5).sample(jax.random.key(2), target)
    products = np.asarray(seen * (target - InputPerturbation(0.5).target_slope() * seen))
    assert z_score(products, 0.0) < MONTE_CARLO_Z


def test_fixed_is_kept_and_fresh_is_not_and_neither_sees_the_batch():
    values = jnp.ones((6, 3))
    index = jnp.arange(6)
    key = jax.random.key(3)
    fixed, fresh = Fixed(EmbeddingGaussian(1.0)), Fresh(EmbeddingGaussian(1.0))
    batch = jax.jit(jax.vmap(lambda v, i: fixed.sample(key, v, i)))
    np.testing.assert_array_equal(batch(values, index)[::-1], batch(values, index[::-1]))
    np.testing.assert_array_equal(batch(values[:2], index[2:4]), batch(values, index)[2:4])
    assert np.unique(np.asarray(batch(values, index))).size == 18
    steps = jax.vmap(lambda step: fresh.sample(key, values[0], 4, step))(jnp.arange(5))
    assert np.unique(np.asarray(steps)).size == 15
    assert isinstance(Fixed(symmetric_flip(PRIOR, 0.3)).sample(key, jnp.array(1), 0).item(), int)


def test_wrappers_follow_the_law_over_samples_and_steps():
    value, over = jnp.zeros(1), jnp.arange(DRAWS)
    by_index = jax.vmap(lambda i: Fixed(EmbeddingUniform(1.0)).sample(jax.random.key(5), value, i))(over)
    by_step = jax.vmap(lambda s: Fresh(EmbeddingUniform(1.0)).sample(jax.random.key(5), value, 3, s))(over)
    for draws in (by_index, by_step):
        assert z_score(np.asarray(draws) ** 2, 1 / 3) < MONTE_CARLO_Z
        assert z_score(np.asarray(draws[1:] * draws[:-1]), 0.0) < MONTE_CARLO_Z


@pytest.mark.parametrize("name", OPERATORS)
def test_registry_builds_jittable_operators(name):
    operator = OPERATORS[name](0.1, 4)
    assert isinstance(operator, LabelCorruption | VectorCorruption)
    value = jnp.array(1) if isinstance(operator, LabelCorruption) else VALUE
    out = jax.jit(lambda op, key, v: op.sample(key, v))(operator, jax.random.key(0), value)
    np.testing.assert_allclose(out, operator.sample(jax.random.key(0), value), rtol=4e-16)  # fused multiply-add


# -- noise gate ------------------------------------------------------------------------------------------------


@given(st.floats(0.01, 100), st.floats(1.001, 100))
def test_weight_at_the_buffer_is_the_largest(sigma_min, max_weight):
    buffer = float(buffer_noise(sigma_min, max_weight))
    # the weight's condition number in sigma is 4 (1 − α)/α = 4 (√L − 1), below 36
    assert float(ambient_weight(buffer, sigma_min)) == pytest.approx(max_weight, rel=1e-13 * 36)
    gate = NoiseGate(sigma_min, max_weight=max_weight)
    assert float(gate.weight(0.999 * buffer)) == 0.0
    assert float(gate.weight(1.001 * buffer)) == pytest.approx(float(ambient_alpha(1.001 * buffer, sigma_min)) ** -2)
    assert 1 <= float(gate.weight(1.001 * buffer)) <= max_weight


def test_corrected_buffer_and_weight_by_hand():
    assert float(buffer_noise(1.0, 4.0)) == pytest.approx(math.sqrt(2))
    assert float(buffer_noise(1.0, 2.0)) == pytest.approx(1.8477590650225735)
    assert float(ambient_weight(2.0, 1.0)) == pytest.approx(16 / 9)
    assert float(ambient_alpha(2.0, 1.0)) == pytest.approx(3 / 4)


def test_gate_is_a_donut_and_extremes():
    gate = NoiseGate(1.0, 0.3, 4.0)
    weights = [float(gate.weight(s)) for s in (0.1, 0.3, 0.31, 1.0, 1.41, 1.42, 1e6)]
    assert weights[:5] == [1, 1, 0, 0, 0]
    assert 3.9 < weights[5] < 4
    assert weights[6] == pytest.approx(1, abs=1e-11)
    assert float(NoiseGate(0.0).weight(0.5)) == 1.0
    assert float(NoiseGate(math.inf, 0.2).weight(1e9)) == 0.0
    assert jax.jit(lambda s: gate.weight(s))(2.0) == pytest.approx(16 / 9)
    assert np.isfinite(jax.grad(lambda s: gate.weight(s))(0.5))


def test_gate_keeps_one_noised_point_per_sample():
    gate, x0 = NoiseGate(2.0), jnp.array([1.0, -3.0])
    key = jax.random.key(0)
    np.testing.assert_array_equal(gate.sample(key, x0, 3), gate.sample(key, x0, 3))
    draws = np.asarray(jax.vmap(lambda i: gate.sample(key, x0, i))(jnp.arange(DRAWS)))
    assert z_score(draws, np.asarray(gate.mean(x0))) < MONTE_CARLO_Z
    assert z_score((draws - np.asarray(x0)) ** 2, np.asarray(gate.variance(x0))) < MONTE_CARLO_Z
    np.testing.assert_allclose(gate.variance(x0), 4.0)


SPECTRUM = 1.0 / (0.1 + np.add.outer(np.fft.fftfreq(4) ** 2, np.fft.fftfreq(4) ** 2) * 16)


@pytest.mark.parametrize("name", SOME_PATHS)
def test_gate_times_on_every_path(name):
    path = PATHS[name](jnp.asarray(SPECTRUM))
    gate = NoiseGate(0.8, 0.2)
    times = gate.times(path)
    t_max, t_n, t_open = (float(t) for t in (times.t_max, times.t_n, times.t_open))
    assert np.all(noise_to_signal(path, t_max) <= 0.2 + 1e-6)
    if not math.isfinite(t_n):
        assert np.any(noise_to_signal(path, 1.0) < 0.8)
        return
    assert np.min(noise_to_signal(path, t_n)) == pytest.approx(0.8, rel=1e-6)
    assert np.min(noise_to_signal(path, t_n - 1e-6)) < 0.8
    kept = noise_to_signal(path, t_n)
    assert np.all(gate.path_weight(path, 0.5 * t_max) == 1)
    assert np.all(gate.path_weight(path, 0.5 * (t_max + t_n)) == 0)
    if math.isfinite(t_open):
        after = min(1.0, t_open + 1e-3)
        weight, sigma = gate.path_weight(path, after), noise_to_signal(path, after)
        assert np.all(weight <= 4.0 + 1e-6)
        finite = np.isfinite(sigma)
        expected = 1 / (1 - (np.broadcast_to(kept, sigma.shape)[finite] / sigma[finite]) ** 2) ** 2
        np.testing.assert_allclose(weight[finite], expected, rtol=1e-9)


@pytest.mark.parametrize("name", SOME_PATHS)
def test_a_clean_sample_trains_everywhere_also_where_the_path_starts_with_noise(name):
    path = PATHS[name](jnp.asarray(SPECTRUM))
    gate = NoiseGate(0.0)
    times = gate.times(path)
    assert float(times.t_n) == -math.inf
    assert all(bool(times.opens(t)) for t in (0.0, 0.1, 1.0))
    for t in (1e-6, 0.1, 0.5, 1.0):
        assert np.all(gate.path_weight(path, t) == 1)


LEVELS = ((0.05, 0.02), (0.4, 0.3), (0.4, 1e6), (2.0, 0.0), (60.0, 5.0), (1e5, 0.1))


@pytest.mark.parametrize("name", SOME_PATHS)
def test_gate_times_by_walking_along_the_path(name):
    """Their definition on a grid of times: every frequency noisy enough to keep; past its buffer; little noise."""
    path = PATHS[name](jnp.asarray(SPECTRUM))
    walk = np.linspace(0, 1, 2001)
    with np.errstate(divide="ignore"):
        gains = [np.asarray(jax.vmap(gain)(jnp.asarray(walk))).reshape(2001, -1) for gain in (path.noise, path.signal)]
        ratio = gains[0] / gains[1]
    found = gate_times(path, *np.array(LEVELS).T)
    for i, (low, high) in enumerate(LEVELS):
        noisy = np.flatnonzero(np.all(ratio >= low, axis=1))
        if not noisy.size or not np.all(np.isfinite(ratio[noisy[0]])):
            assert float(found.t_open[i]) == math.inf or float(found.t_n[i]) > walk[-2]
            continue
        np.testing.assert_allclose(found.t_n[i], walk[noisy[0]], atol=1 / 2000)
        kept = noise_to_signal(path, float(found.t_n[i])).reshape(-1)
        late = np.flatnonzero(np.all(ratio >= math.sqrt(2) * kept * (1 - 1e-9), axis=1))
        np.testing.assert_allclose(found.t_open[i], walk[late[0]] if late.size else math.inf, atol=1 / 2000)
        little = np.flatnonzero(np.all(ratio <= high, axis=1))
        np.testing.assert_allclose(found.t_max[i], walk[little[-1]] if little.size else -math.inf, atol=1 / 2000)


@pytest.mark.parametrize("name", SOME_PATHS)
def test_an_unusable_sample_never_trains(name):
    """Also at t = 1, where paths that end in pure noise do reach an infinite level."""
    path = PATHS[name](jnp.asarray(SPECTRUM))
    for gate in (gate_times(path, np.array([0.0, math.inf]))[1], NoiseGate(math.inf).times(path)):
        assert not any(bool(gate.opens(t)) for t in (0.1, 0.9, 1.0))
        assert float(gate.t_n) == math.inf
    assert np.all(NoiseGate(math.inf).path_weight(path, 1.0) == 0)


def test_gate_time_on_known_paths():
    ve = VarianceExploding()
    times = gate_times(ve, np.array([5.0, 1e9]))
    low, high, rho = 0.002 ** (1 / 7), 80.0 ** (1 / 7), 7
    t_n, t_open = (((sigma ** (1 / rho)) - low) / (high - low) for sigma in (5.0, 5.0 * math.sqrt(2)))
    np.testing.assert_allclose(times.t_n, [t_n, math.inf], rtol=1e-9)
    np.testing.assert_allclose(times.t_open, [t_open, math.inf], rtol=1e-9)
    assert np.all(NoiseGate(math.inf).path_weight(ve, 0.9) == 0)
    assert np.all(NoiseGate(0.0).path_weight(VPCosine(), 0.4) == 1)


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("build", "name"),
    [
        (lambda: symmetric_flip(PRIOR, 1.1), "eta"),
        (lambda: symmetric_flip(PRIOR, -0.1), "eta"),
        (lambda: symmetric_flip(PRIOR, math.nan), "eta"),
        (lambda: symmetric_flip(jnp.array([1.0]), 0.1), "prior"),
        (lambda: symmetric_flip(jnp.array([0.5, 0.5, 0.0]), 0.1), "empty class"),
        (lambda: symmetric_flip(jnp.array([0.5, 0.6]), 0.1), "sum"),
        (lambda: symmetric_flip(PRIOR, 0.1).posterior(jnp.array([0.5, 0.5])), "prior"),
        (lambda: asymmetric_flip(PRIOR, 0.1, jnp.arange(3)), "groups"),
        (lambda: LabelFlip(jnp.ones((2, 3))), "square"),
        (lambda: LabelFlip(jnp.array([[0.5, 0.6], [0.0, 1.0]])), "rows"),
        (lambda: LabelFlip(jnp.array([[1.5, -0.5], [0.0, 1.0]])), "non-negative"),
        (lambda: CaptionSwap(1, 0.5), "n"),
        (lambda: CaptionSwap(4, 1.5), "eta"),
        (lambda: CaptionSwap(4, 0.5).class_transition(jnp.array([1, 2])), "counts"),
        (lambda: CaptionSwap(4, 0.5).class_transition(jnp.array([4, 0])), "empty class"),
        (lambda: EmbeddingUniform(-1.0), "gamma"),
        (lambda: EmbeddingGaussian(-0.1), "gamma"),
        (lambda: EmbeddingGaussian(math.nan), "gamma"),
        (lambda: InputPerturbation(-0.1), "gamma"),
        (lambda: Dropout(1.0), "rate"),
        (lambda: LabelSmoothing(1.2), "rate"),
        (lambda: Partly(Dropout(), 2.0), "eta"),
        (lambda: Fixed(CaptionSwap(4, 0.5)), "CaptionSwap"),
        (lambda: Fresh(CaptionSwap(4, 0.5)), "CaptionSwap"),
        (lambda: class_prior([0.0, 1.0]), "integers"),
        (lambda: class_prior([0, 2, 2]), "class"),
        (lambda: class_prior([0, -1]), "at least 0"),
        (lambda: class_prior([0, 1], classes=1), "below"),
        (lambda: class_prior([0, 1], classes=3), "no sample"),
        (lambda: class_prior([]), "labels"),
        (lambda: NoiseGate(-1.0), "sigma_min"),
        (lambda: NoiseGate(1.0, -0.1), "sigma_max"),
        (lambda: NoiseGate(1.0, max_weight=1.0), "max_weight"),
        (lambda: ambient_weight(1.0, 1.0), "sigma"),
        (lambda: ambient_alpha(1.0, -0.5), "sigma_min"),
        (lambda: buffer_noise(-1.0, 4.0), "sigma_min"),
        (lambda: buffer_noise(1.0, 0.5), "max_weight"),
    ],
)
def test_bad_input_is_refused_by_name(build, name):
    with pytest.raises(ValueError, match=name):
        build()


def test_class_prior_counts():
    np.testing.assert_allclose(class_prior([0, 1, 1, 2]), [0.25, 0.5, 0.25])
