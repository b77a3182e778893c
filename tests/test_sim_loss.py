"""The loss: its minimiser by quadrature, parameterisations against the papers' formulas, ambient pairs, both ends.

Most of it runs without jit: compiling every parameterisation x weight x path would take minutes, single operations
are compiled once for all of them.
"""

import itertools
import math
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from sim.gating import ambient_pair, gated_pair, kept_point
from sim.loss import LogNormalTime, MinSNR, UniformIn, UniformTime, denoising_loss, stratified, uniform
from sim.parameterisations import EDM, PARAMETERISATIONS, Data, Flow, Noise, Predictor, Velocity
from theory.ambient import Line, ambient_alpha, ambient_loss, minimum_error
from theory.corruption import InputPerturbation
from theory.gates import GateTimes, gate_times, noise_to_signal
from theory.paths import PATHS, OrnsteinUhlenbeck, VarianceExploding, VPCosine

EPS = float(np.finfo(np.float64).eps)
SPECTRUM = jnp.asarray([4.0, 0.7, 0.7])
WEIGHTS = {"uniform": uniform, "min-snr": MinSNR(5.0), "in noise": UniformIn(Noise()), "edm": UniformIn(EDM(0.5))}
times = st.floats(0.02, 0.98)


def quick_on(*names):
    """All paths, the others than these with `-m slow`: every parameterisation or weight is compiled for each path."""
    return pytest.mark.parametrize(
        "name", [name if name in names else pytest.param(name, marks=pytest.mark.slow) for name in PATHS]
    )


each_path = quick_on("variance_exploding", "shortest")
PARTS = {**PARAMETERISATIONS, "edm": lambda: EDM(0.8), "edm, per frequency": lambda: EDM(jnp.sqrt(SPECTRUM))}


@cache
def make(name):
    return PATHS[name](SPECTRUM)


@cache
def scalar_like(name):
    """The path of this name for one coordinate of variance 1.3, without Fourier transforms of length 1."""
    path = PATHS[name](jnp.asarray([1.3]))
    return type(path)(jax.tree.leaves(path)[0], basis="pixels") if path.grid else path


def parts_for(path):
    """Parameterisations that fit the path: one scale per frequency only where there are frequencies."""
    return {key: make() for key, make in PARTS.items() if path.grid or "frequency" not in key}


SCALAR_PARTS = {key: make() for key, make in PARTS.items() if "frequency" not in key}


def per_coordinate(path, gain):
    return path._matrix(jnp.broadcast_to(gain, path.grid), 3)


# ---- parameterisations


@cache
def compiled_round_trip(name):
    path = make(name)

    def run(x0, eps, t):
        xt, out = path.corrupt(x0, t, eps), {}
        for key, part in parts_for(path).items():
            output = part.target(path, x0, eps, t)
            skip, gain = part.decode(path.signal(t), path.noise(t))
            size = jnp.max(jnp.abs(skip)) * jnp.linalg.norm(xt) + jnp.max(jnp.abs(gain)) * jnp.linalg.norm(output)
            out[key] = jnp.linalg.norm(part.to_data(path, output, xt, t) - x0), size
        return out

    return jax.jit(run)


@each_path
@given(t=st.floats(0, 1), seed=st.integers(0, 2**31))
def test_the_target_is_decoded_to_x0(name, t, seed):
    """To the rounding of its two terms, p x_t and q F: a dozen operations and four transforms, 64 ε allowed. The noise
    parameterisation is exempt where A is below rounding, and gives 0 there.
    """
    x0, eps = jax.random.normal(jax.random.key(seed), (2, 3))
    vanished = float(jnp.min(make(name).signal(t) / make(name).noise(t))) < EPS
    for key, (error, size) in compiled_round_trip(name)(x0, eps, t).items():
        if key == "noise" and vanished:
            assert bool(jnp.isfinite(error))
        else:
            assert float(error) <= 64 * EPS * float(size), key


def test_noise_prediction_tells_nothing_where_the_signal_is_gone():
    path, xt = VPCosine(), jnp.asarray([1.0, 2.0])
    np.testing.assert_array_equal(Noise().to_data(path, 0.9 * xt, xt, 1.0), 0.0)


@each_path
@given(t=times)
def test_determinants_are_those_of_targets_and_of_decoders(name, t):
    path = make(name)
    signal, noise = path.signal(t), path.noise(t)
    for key, part in parts_for(path).items():
        a, b = part.encode(signal, noise)
        determinant = part.determinant(signal, noise)
        np.testing.assert_allclose(abs(a * signal - b * noise), determinant, rtol=1e-12, err_msg=key)
        np.testing.assert_allclose(
            -part.decode(signal, noise)[1] * determinant, noise * np.sign(a * signal - b * noise)
        )


def test_edm_is_karras_table_1():
    path, t, sd = VarianceExploding(), 0.6, 0.5
    x0, eps, out = jax.random.normal(jax.random.key(0), (3, 4))
    sigma = float(path.noise(t))
    c_skip, c_out = sd**2 / (sigma**2 + sd**2), sigma * sd / math.sqrt(sigma**2 + sd**2)
    xt = x0 + sigma * eps
    seen = []
    predictor = Predictor(lambda *arguments: seen.append(arguments) or out, path, EDM(sd))
    np.testing.assert_allclose(predictor(xt, t), c_skip * xt + c_out * out, rtol=1e-13)
    np.testing.assert_allclose(seen[0][0], xt / math.sqrt(sigma**2 + sd**2), rtol=1e-13)
    np.testing.assert_allclose(seen[0][1], math.log(sigma) / 4, rtol=1e-13)
    weight = (sigma**2 + sd**2) / (sigma * sd) ** 2
    expected = weight * np.mean((c_skip * xt + c_out * out - x0) ** 2)
    np.testing.assert_allclose(denoising_loss(predictor, x0, t, eps), expected, rtol=1e-12)


def test_velocity_is_the_usual_one_and_flow_is_rectified_flows():
    path, t = OrnsteinUhlenbeck(), 0.1
    x0, eps = jax.random.normal(jax.random.key(0), (2, 4))
    signal, noise = path.signal(t), path.noise(t)
    np.testing.assert_allclose(Velocity().target(path, x0, eps, t), signal * eps - noise * x0, rtol=1e-13)
    np.testing.assert_allclose(Flow().target(path, x0, eps, t), eps - x0, rtol=1e-13)
    edm = EDM(1.0).target(path, x0, eps, t)
    np.testing.assert_allclose(Velocity().target(path, x0, eps, t), -edm, rtol=1e-12)


# ---- the minimiser


def affine_optimum(path, part, mean, cov, t):
    """(W, b) of E[F | x_t] = W input + b for x0 ~ N(mean, cov), from second moments alone."""
    signal, noise = path.signal(t), path.noise(t)
    A, S, G = (per_coordinate(path, g) for g in (signal, noise, part.input_gain(signal, noise)))
    a, b = (per_coordinate(path, g) for g in part.encode(signal, noise))
    total = A @ cov @ A.T + S @ S.T
    slope = jnp.linalg.solve(total, (b @ cov @ A.T + a @ S.T).T).T
    return slope @ jnp.linalg.inv(G), b @ mean - slope @ A @ mean


def gradient_ratio(path, part, weight, t, shift):
    """Largest |gradient| of the expected loss at the affine optimum moved by `shift`, over the mean size of one
    sample's. Expectation by a cubature of degree 3 (±√D along each axis), exact for this quadratic.
    """
    mean = jnp.asarray([0.3, -1.0, 0.5])
    root = jnp.asarray([[1.0, 0.0, 0.0], [0.4, 0.7, 0.0], [-0.2, 0.1, 0.5]])
    nodes = math.sqrt(6) * jnp.concatenate([jnp.eye(6), -jnp.eye(6)])
    x0, eps = mean + nodes[:, :3] @ root.T, nodes[:, 3:]

    def loss(parameters, x0, eps):
        slope, offset = parameters
        predictor = Predictor(lambda x, label, cond: slope @ x + offset, path, part)
        return denoising_loss(predictor, x0, t, eps, weight=weight)

    moved = jax.tree.map(lambda leaf: leaf + shift, affine_optimum(path, part, mean, root @ root.T, t))
    each = jax.jit(jax.vmap(jax.grad(loss), (None, 0, 0)))(moved, x0, eps)
    return max(float(jnp.max(jnp.abs(jnp.mean(leaf, 0))) / jnp.mean(jnp.abs(leaf))) for leaf in each)


@quick_on("bures")
def test_the_linear_optimum_of_gaussian_data_minimises_every_loss(name):
    """By autodiff, with one weight for each parameterisation in turn; all weights in the test with a mixture."""
    path, weights = make(name), itertools.cycle(WEIGHTS.values())
    for key, part in parts_for(path).items():
        assert gradient_ratio(path, part, next(weights), 0.3, 0.0) < 1e-10, key
    assert gradient_ratio(path, part, MinSNR(5.0), 0.3, 0.05) > 1e-3


@each_path
def test_a_predictor_with_the_linear_optimum_is_the_posterior_mean(name):
    path, t = make(name), 0.4
    mean, cov = jnp.asarray([0.3, -1.0, 0.5]), jnp.diag(jnp.asarray([1.0, 0.2, 2.0]))
    A, S2 = (per_coordinate(path, g) for g in (path.signal(t), path.powers(t)[1]))
    xt = jnp.asarray([0.2, -0.7, 1.1])
    expected = mean + cov @ A.T @ jnp.linalg.solve(A @ cov @ A.T + S2, xt - A @ mean)
    for key, part in parts_for(path).items():
        slope, offset = affine_optimum(path, part, mean, cov, t)
        predictor = Predictor(lambda x, label, cond, W=slope, b=offset: W @ x + b, path, part)
        np.testing.assert_allclose(predictor(xt, t), expected, rtol=1e-10, err_msg=key)


@cache
def normal_rule(count):
    nodes, weights = np.polynomial.hermite_e.hermegauss(count)
    return nodes, weights / math.sqrt(2 * math.pi)


def mixture_rule(dimensions, count):
    """Nodes (x0, normal draws...) and weights of an integral over the mixture and `dimensions` standard normals."""
    nodes, weights = normal_rule(count)
    x0 = np.concatenate([m + math.sqrt(v) * nodes for m, v in zip([-1.2, 0.6], [0.3, 0.2], strict=True)])
    grids = np.meshgrid(x0, *[nodes] * dimensions, indexing="ij")
    product = np.concatenate([0.3 * weights, 0.7 * weights])
    for _ in range(dimensions):
        product = np.multiply.outer(product, weights)
    return [jnp.asarray(grid.reshape(-1, 1)) for grid in grids], jnp.asarray(product.ravel())


def posterior_mean(xt, signal, noise):
    """E[x0 | x_t] of the mixture, in NumPy."""
    w, m, v = np.array([0.3, 0.7]), np.array([-1.2, 0.6]), np.array([0.3, 0.2])
    total = signal**2 * v + noise**2
    odds = w * scipy.stats.norm.pdf(xt, signal * m, np.sqrt(total))
    means = m + signal * v / total * (xt - signal * m)
    return np.sum(odds * means, axis=-1, keepdims=True) / np.sum(odds, axis=-1, keepdims=True)


def exact_output(path, part, t, x0, eps):
    """What the exact denoiser of the mixture predicts in the space of `part`, at each of the nodes."""
    signal, noise = (float(np.squeeze(g)) for g in (path.signal(t), path.noise(t)))
    xt = signal * np.asarray(x0) + noise * np.asarray(eps)
    best = posterior_mean(xt, signal, noise)
    a, b = (np.asarray(g) for g in part.encode(path.signal(t), path.noise(t)))
    return a * (xt - signal * best) / noise + b * best


def expected_loss(path, part, weight, t, rule):
    """theta -> expected loss of the exact output plus theta times features of the input; the former comes as cond."""
    (x0, eps), weights = rule
    outputs = exact_output(path, part, t, x0, eps)

    def loss(theta, x, e, best):
        def network(x, label, cond):
            return cond + theta @ jnp.concatenate([jnp.ones(1), x, jnp.tanh(x), jnp.sin(2 * x)])

        return denoising_loss(Predictor(network, path, part), x, t, e, best, weight=weight)

    return lambda theta: weights @ jax.vmap(loss, (None, 0, 0, 0))(theta, x0, eps, outputs)


def slope(expected, centre):
    """Largest derivative at theta = centre of a loss that is quadratic in theta: central differences are exact."""
    values = jax.jit(jax.vmap(expected))(centre + jnp.concatenate([jnp.eye(4), -jnp.eye(4)]))
    return float(jnp.max(jnp.abs(values[:4] - values[4:]))) / 2


@quick_on("bures")
def test_the_posterior_mean_of_a_mixture_minimises_every_loss(name):
    path, rule = scalar_like(name), mixture_rule(1, 64)
    t = path.time_at(-0.5)
    for key, part in SCALAR_PARTS.items():
        for label, weight in WEIGHTS.items():
            assert slope(expected_loss(path, part, weight, t, rule), jnp.zeros(4)) < 1e-10, (key, label)
    off = jnp.asarray([0.0, 0.0, 0.1, 0.0])
    assert slope(expected_loss(path, Noise(), MinSNR(5.0), t, rule), off) > 1e-3


# ---- weights


def as_network(path, part, t):
    """The denoiser tanh(x_t), in the space of `part`."""
    signal, noise = path.signal(t), path.noise(t)
    (skip, gain), seen = part.decode(signal, noise), part.input_gain(signal, noise)

    def network(x, label, cond):
        xt = path.from_basis(path.to_basis(x) / seen)
        return path.from_basis((path.to_basis(jnp.tanh(xt)) - skip * path.to_basis(xt)) / gain)

    return Predictor(network, path, part)


@each_path
@settings(max_examples=3)
@given(t=st.floats(0.05, 0.95), seed=st.integers(0, 2**31))
def test_one_loss_can_be_written_in_every_parameterisation(name, t, seed):
    """Each in the next one's space, round the circle. Both ways of writing it subtract numbers that nearly agree where
    S/A or A/S is small: 1e-8 allows 1e4 twice.
    """
    path, (x0, eps) = make(name), jax.random.normal(jax.random.key(seed), (2, 3))
    parts = list(parts_for(path).values())
    own = [denoising_loss(as_network(path, part, t), x0, t, eps) for part in parts]
    for i, part in enumerate(parts):
        weight = UniformIn(parts[i - 1])
        written = denoising_loss(as_network(path, part, t), x0, t, eps, weight=weight)
        np.testing.assert_allclose(written, own[i - 1], rtol=1e-8, err_msg=str((part, parts[i - 1])))
    clipped = [denoising_loss(as_network(path, part, t), x0, t, eps, weight=MinSNR(5)) for part in parts]
    np.testing.assert_allclose(clipped, clipped[0], rtol=1e-8)


@each_path
@given(t=times, gamma=st.floats(0.1, 20))
def test_min_snr_weights_are_the_papers(name, t, gamma):
    path = make(name)
    snr = 1 / noise_to_signal(path, t) ** 2
    clipped, square = np.minimum(snr, gamma), np.asarray(path.signal(t)) ** 2 + np.asarray(path.noise(t)) ** 2
    expected = {Noise: clipped / snr, Data: clipped, Velocity: clipped / (snr + 1)}
    for part, weight in expected.items():
        np.testing.assert_allclose(MinSNR(gamma)(path, part(), t), weight, rtol=1e-9)
    np.testing.assert_allclose(square / path.noise(t) ** 2, snr + 1, rtol=1e-9)


@pytest.mark.parametrize("key", PARAMETERISATIONS)
@pytest.mark.parametrize("name", [pytest.param("variance_exploding", marks=pytest.mark.slow), "shortest"])
def test_float32_is_safe_at_both_ends(name, key):
    """Loss and gradient finite and float32 on [0, 1], ends included; near them as in float64, at the same times, to the
    2ε/(1-t) = 2.4e-4 that one rounding of 1 - t leaves of (1-t)², with a factor 4 for the products that follow.
    """
    x0, eps = jax.random.normal(jax.random.key(0), (2, 3))

    def run(times, dtype):
        spectrum = SPECTRUM.astype(dtype)
        path = jax.tree.map(lambda leaf: leaf.astype(dtype) if eqx.is_array(leaf) else leaf, PATHS[name](spectrum))

        def loss(scale, t):
            predictor = Predictor(lambda x, label, cond: scale * jnp.tanh(x + label), path, PARAMETERISATIONS[key]())
            clean, noise = x0.astype(dtype), eps.astype(dtype)
            return sum(denoising_loss(predictor, clean, t, noise, weight=w) for w in (uniform, MinSNR(5.0)))

        each = jax.jit(jax.vmap(jax.value_and_grad(loss), (None, 0)))
        return each(jnp.asarray(0.7, dtype), times.astype(dtype))

    times = jnp.asarray([1e-3, 0.5, 0.999, 0.0, 1e-30, 1e-7, 1 - 1e-7, 1.0], jnp.float32)
    values, slopes = run(times, jnp.float32)
    assert values.dtype == slopes.dtype == jnp.float32
    assert bool(jnp.all(jnp.isfinite(values) & jnp.isfinite(slopes)))
    np.testing.assert_allclose(values[:3], run(times[:3], jnp.float64)[0], rtol=1e-3)


# ---- times and input perturbation


@each_path
@given(u=st.floats(0.001, 0.999))
def test_log_normal_times_have_log_normal_noise(name, u):
    path = make(name)
    t = LogNormalTime(-0.4, 0.5).quantile(path, jnp.asarray(u))
    log_sigma = -path.reference_log_snr(t) / 2
    np.testing.assert_allclose(log_sigma, -0.4 + 0.5 * scipy.special.ndtri(u), rtol=1e-6, atol=1e-9)


@pytest.mark.slow
def test_log_normal_times_stay_inside_and_uniform_times_fill_their_range():
    ends = jnp.asarray([0.0, 1.0])
    for name in PATHS:
        low, high = (float(LogNormalTime(std=50.0).quantile(make(name), u)) for u in ends)
        np.testing.assert_allclose((low, high), make(name).t_range, atol=1e-12)
    np.testing.assert_allclose([UniformTime(0.2, 0.6).quantile(make("heat"), u) for u in ends], [0.2, 0.6])


def test_stratified_draws_are_spread_and_each_uniform():
    draws = np.asarray(jax.vmap(lambda key: stratified(key, 8))(jax.random.split(jax.random.key(0), 2000)))
    gaps = np.diff(np.sort(draws, axis=1), axis=1)
    np.testing.assert_allclose(gaps, 1 / 8, atol=1e-12)
    assert scipy.stats.kstest(draws[:, 3], "uniform").pvalue > 1e-3
    assert draws.min() >= 0
    assert draws.max() < 1


def test_input_perturbation_keeps_the_target():
    path, operator, t = VPCosine(), InputPerturbation(0.4), 0.3
    x0, eps = jax.random.normal(jax.random.key(0), (2, 5))
    seen = operator.sample(jax.random.key(1), eps)
    predictor = Predictor(lambda x, label, cond: jnp.sin(x), path, Noise())
    expected = np.mean((np.sin(path.signal(t) * x0 + path.noise(t) * seen) - eps) ** 2)
    np.testing.assert_allclose(denoising_loss(predictor, x0, t, eps, seen=seen), expected, rtol=1e-12)


def test_input_perturbation_shrinks_the_optimum_by_its_slope():
    """At t = 1 the input is ε + γ ξ; the best slope is 1/(1 + γ²), by an exact cubature over (ε, ξ)."""
    operator, nodes = InputPerturbation(0.5), math.sqrt(2) * jnp.concatenate([jnp.eye(2), -jnp.eye(2)])

    def expected(slope):
        predictor = Predictor(lambda x, label, cond: slope * x, VPCosine(), Noise())
        one = lambda e, xi: denoising_loss(predictor, jnp.zeros(1), 1.0, e[None], seen=(e + 0.5 * xi)[None])  # noqa: E731
        return jnp.mean(jax.vmap(one)(nodes[:, 0], nodes[:, 1]))

    derivative = jax.jit(jax.grad(expected))
    assert abs(float(derivative(operator.target_slope()))) < 1e-12
    assert abs(float(derivative(jnp.asarray(1.0)))) > 0.1


# ---- ambient


@cache
def compiled_pair(name):
    path = make(name)

    def run(x0, z, e, t_n, t):
        kept = kept_point(path, x0, t_n, z)
        pair = ambient_pair(path, kept, t_n, t, e)
        return kept, pair.x0, pair.eps, path.corrupt(pair.x0, t, pair.eps)

    return jax.jit(run)


@each_path
@given(t_n=st.floats(0.1, 0.6), gap=st.floats(0.1, 0.35), seed=st.integers(0, 2**31))
def test_the_virtual_pair_is_the_ambient_loss(name, t_n, gap, seed):
    """x_t by the forward transition, (x_n' - (1-α) x_t')/α by its definition, per frequency, in NumPy."""
    path, t = make(name), t_n + gap
    x0, z, e = jax.random.normal(jax.random.key(seed), (3, 3))
    kept, virtual, fresh, xt = compiled_pair(name)(x0, z, e, t_n, t)
    coefficients = [np.asarray(path.to_basis(x)) for x in (kept, virtual, fresh, xt, e)]
    xn, v, w, x, unit = coefficients
    signal_n, signal, sigma_n, sigma = (
        np.asarray(path.signal(t_n)),
        np.asarray(path.signal(t)),
        noise_to_signal(path, t_n),
        noise_to_signal(path, t),
    )
    alpha = (sigma**2 - sigma_n**2) / sigma**2
    scale = 1e-10 * (1 + np.max(np.abs(xn / signal_n)) + np.max(sigma / alpha))
    np.testing.assert_allclose(
        x, signal * (xn / signal_n + np.sqrt(sigma**2 - sigma_n**2) * unit), atol=1e-12 * scale * 1e10
    )
    np.testing.assert_allclose(v, (xn / signal_n - (1 - alpha) * x / signal) / alpha, atol=scale)
    np.testing.assert_allclose(w, (x / signal - v) / sigma, atol=scale)


def test_the_loss_of_the_virtual_pair_is_theorys_ambient_loss_over_alpha_squared():
    path, t_n, t = VarianceExploding(), 0.4, 0.6
    x0, z, e = jax.random.normal(jax.random.key(0), (3, 4))
    kept = kept_point(path, x0, t_n, z)
    pair = ambient_pair(path, kept, t_n, t, e)
    xt, sigma_n, sigma = path.corrupt(pair.x0, t, pair.eps), float(path.noise(t_n)), float(path.noise(t))
    predictor = Predictor(lambda x, label, cond: jnp.tanh(3 * x), path, Data())
    weighted = ambient_loss(predictor(xt, t), xt, kept, sigma, sigma_n) / ambient_alpha(sigma, sigma_n) ** 2
    np.testing.assert_allclose(4 * denoising_loss(predictor, pair.x0, t, pair.eps), weighted, rtol=1e-11)


@each_path
def test_two_noisings_are_one(name):
    """x_t of a kept point is A_t x0 plus noise of variance S_t² per frequency: the squares of z's and e's gains."""
    path, t_n, t = make(name), 0.3, 0.7
    zero, unit = jnp.zeros(3), jnp.asarray([1.0, 0.0, 0.0])
    run = compiled_pair(name)
    parts = [np.asarray(path.to_basis(run(*inputs, t_n, t)[3])) for inputs in np.eye(3)[:, :, None] * np.asarray(unit)]
    delta = np.asarray(path.to_basis(unit))
    np.testing.assert_allclose(parts[0], path.signal(t) * delta, atol=1e-13)
    total = (abs(parts[1]) ** 2 + abs(parts[2]) ** 2) / abs(np.where(delta == 0, 1, delta)) ** 2
    chosen = delta != 0
    np.testing.assert_allclose(total[chosen], np.broadcast_to(path.powers(t)[1], total.shape)[chosen], rtol=1e-11)
    np.testing.assert_array_equal(run(zero, zero, zero, t_n, t)[3], 0.0)


@each_path
def test_a_clean_sample_gives_the_ordinary_pair(name):
    x0, z, e = jax.random.normal(jax.random.key(1), (3, 3))
    for t in (0.0, 0.3, 1.0):
        kept, virtual, fresh, _ = compiled_pair(name)(x0, z, e, -math.inf, t)
        np.testing.assert_array_equal(kept, x0)
        np.testing.assert_allclose(virtual, x0, atol=8 * EPS)
        np.testing.assert_allclose(fresh, e, atol=8 * EPS)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["vp_cosine", "variance_exploding", "bures"])
def test_the_ambient_loss_is_minimised_by_the_posterior_mean_and_has_its_floor(name):
    """Quadrature over (x0, z, e): gradient zero at E[x0 | x_t] in every parameterisation, and the least loss in x0 is
    mmse + σ_n²/α with mmse by quadrature over x_t (`theory.ambient`).
    """
    path = scalar_like(name)
    t_n, t = path.time_at(1.0), path.time_at(-1.0)
    (x0, z, e), weights = mixture_rule(2, 32)
    kept = jax.vmap(lambda x, z: kept_point(path, x, t_n, z))(x0, z)
    pair = jax.vmap(lambda x, e: ambient_pair(path, x, t_n, t, e))(kept, e)
    losses = {key: expected_loss(path, part, uniform, t, (pair, weights)) for key, part in SCALAR_PARTS.items()}
    for key, expected in losses.items():
        assert slope(expected, jnp.zeros(4)) < 1e-9, key
    assert slope(losses["data"], jnp.full(4, 0.05)) > 1e-3
    line = Line(np.array([0.3, 0.7]), np.array([-1.2, 0.6]), np.sqrt([0.3, 0.2]))
    sigma_n, sigma = math.exp(-0.5), math.exp(0.5)
    floor = minimum_error(line, sigma) + sigma_n**2 / (1 - sigma_n**2 / sigma**2)
    np.testing.assert_allclose(losses["data"](jnp.zeros(4)), floor, rtol=1e-8)


@each_path
def test_gated_pairs_are_raw_below_closed_between_and_ambient_above(name):
    path = make(name)
    x0, z, e = jax.random.normal(jax.random.key(2), (3, 3))
    gate = GateTimes(*(jnp.asarray(t) for t in (0.2, 0.5, 0.6)))
    run = jax.jit(lambda t: gated_pair(path, gate, x0, z, t, e))
    for t, weight in ((0.0, 1), (0.2, 1), (0.4, 0), (0.5, 0), (0.59, 0)):
        pair, opened = run(t)
        assert float(opened) == weight
        np.testing.assert_allclose(pair.x0, x0, atol=8 * EPS)
    pair, opened = run(0.8)
    expected = ambient_pair(path, kept_point(path, x0, 0.5, z), 0.5, 0.8, e)
    assert float(opened) == 1
    np.testing.assert_allclose(pair.x0, expected.x0, rtol=1e-9)
    np.testing.assert_allclose(pair.eps, expected.eps, rtol=1e-9)
    never = GateTimes(*(jnp.asarray(t) for t in (-math.inf, math.inf, math.inf)))
    pair, opened = gated_pair(path, never, x0, z, 1.0, e)
    assert float(opened) == 0
    assert bool(jnp.all(jnp.isfinite(pair.x0) & jnp.isfinite(pair.eps)))


def test_uniform_in_its_own_space_is_uniform_at_both_ends():
    for part in (Noise(), Data(), Velocity(), EDM(0.5)):
        for t in (0.0, 0.5, 1.0):
            np.testing.assert_allclose(UniformIn(part)(VPCosine(), part, t), 1.0, rtol=1e-12)


# ---- mistakes


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match="sigma_data must be positive"):
        EDM(0.0)
    with pytest.raises(ValueError, match="gamma must be positive"):
        MinSNR(0.0)
    with pytest.raises(ValueError, match="low, high must be"):
        UniformTime(0.5, 0.5)
    with pytest.raises(ValueError, match="std must be positive"):
        LogNormalTime(std=-1.0)
    with pytest.raises(ValueError, match="batch must be"):
        stratified(jax.random.key(0), 0)
    with pytest.raises(ValueError, match="sigma_min must be"):
        gate_times(VPCosine(), np.array([-1.0]))
    wrong = Predictor(lambda x, label, cond: x[:1], VPCosine(), Noise())
    with pytest.raises(ValueError, match="t must be in"):
        denoising_loss(Predictor(lambda x, label, cond: x, VPCosine(), Noise()), jnp.ones(3), 1.5, jnp.ones(3))
    with pytest.raises(ValueError, match="parameterisation must be"):
        Predictor(lambda x, label, cond: x, VPCosine(), EDM(jnp.ones(3)))
    with pytest.raises(ValueError, match="output must be"):
        denoising_loss(wrong, jnp.zeros(2), 0.5, jnp.zeros(2))
