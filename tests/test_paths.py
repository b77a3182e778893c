"""Registry of paths x laws, each path's own formula by a second route, and mistakes."""

import math
from functools import cache

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.strategies import SOME_PATHS
from theory.gaussian import Gaussian
from theory.mixture import GaussianMixture
from theory.path_base import SpectralPath
from theory.paths import (
    PATHS,
    BuresPath,
    EqualAnglePath,
    Heat,
    OrnsteinUhlenbeck,
    ShortestPath,
    VarianceExploding,
    VPCosine,
    VPLinear,
)
from theory.spectra import PowerLaw
from theory.spectral_paths import exprel, logrel

SHAPE = (4, 5)
SPECTRUM = PowerLaw(1.59, 0.0086, 2.0).spectrum(SHAPE)
EPS = float(np.finfo(np.float64).eps)
times = st.floats(0.02, 0.98)
each_path = pytest.mark.parametrize("name", sorted(PATHS))
some_paths = pytest.mark.parametrize("name", SOME_PATHS)
"""For what scalar, or spectral, paths have from the one class they share."""


@cache
def make(name):
    return PATHS[name](jnp.asarray(SPECTRUM))


@cache
def compiled(name, method, reference=None):
    path = make(name)
    if reference is not None:
        path = type(path)(jax.tree.leaves(path)[0], reference=reference)
    return jax.jit(lambda *arguments: getattr(path, method)(*arguments))


@each_path
def test_starts_clean_and_ends_as_it_says(name):
    path, signal, noise = make(name), compiled(name, "signal"), compiled(name, "noise")
    if path.starts_clean:
        np.testing.assert_allclose(signal(0.0), 1.0, atol=8 * EPS)
        np.testing.assert_allclose(noise(0.0), 0.0, atol=8 * EPS)
    if path.ends_in_unit_noise:
        # the Ornstein-Uhlenbeck and linear schedules stop at A = 0.007, documented; the others reach 0
        assert float(np.max(signal(1.0))) < 0.01
        np.testing.assert_allclose(noise(1.0), 1.0, atol=1e-4)


@each_path
@given(t=times, s=times)
def test_log_snr_falls_and_matches_gains(name, t, s):
    log_snr, signal, noise = (compiled(name, method) for method in ("log_snr", "signal", "noise"))
    early, late = sorted((t, s))
    if late - early > 1e-6:
        assert bool(jnp.all(log_snr(early) > log_snr(late)))
    np.testing.assert_allclose(log_snr(t), 2 * np.log(signal(t) / noise(t)), rtol=1e-12, atol=1e-12)


@each_path
@given(t=times)
def test_time_at_inverts_log_snr_at_every_frequency(name, t):
    path = make(name)
    indices = [None] if not isinstance(path, SpectralPath) else [(0, 0), (0, 1), (2, 2), None]
    for index in indices:
        each = np.asarray(compiled(name, "log_snr")(t))
        value = each if each.ndim == 0 else each[(0, 1) if index is None else index]
        found = compiled(name, "time_at", index)(value)
        # λ is right to a few ε |λ|, t to that over |dλ/dt| >= 2
        np.testing.assert_allclose(found, t, rtol=0, atol=1e3 * EPS)


@each_path
def test_time_at_is_differentiable(name):
    path = make(name)
    at = 0.4
    value, slope = jax.jit(jax.value_and_grad(lambda t: path._at_reference(path.log_snr(t))))(at)
    inverse = jax.jit(jax.grad(lambda x: path.time_at(x)))(value)
    np.testing.assert_allclose(slope * inverse, 1.0, rtol=1e-9)


@each_path
def test_gate_is_the_first_time_at_which_every_frequency_is_noisy_enough(name):
    for sigma in (0.01, 0.5, 3.0):
        t = float(compiled(name, "t_min")(sigma))
        ratio = compiled(name, "noise")(t) / compiled(name, "signal")(t)
        np.testing.assert_allclose(jnp.min(ratio), sigma, rtol=1e-9)
    assert 0 <= float(compiled(name, "t_min")(0.0)) < EPS


def test_gate_is_infinite_where_the_path_never_gets_there():
    assert float(VarianceExploding().t_min(81.0)) == math.inf
    assert float(OrnsteinUhlenbeck(horizon=0.1).t_min(1.0)) == math.inf
    with pytest.raises(ValueError, match="sigma_min must be"):
        VPCosine().t_min(-1.0)


@some_paths
def test_basis_is_orthonormal_and_inverts(name):
    path = make(name)
    x = jax.random.normal(jax.random.key(1), SHAPE)
    coefficients = path.to_basis(x)
    np.testing.assert_allclose(path.from_basis(coefficients), x, atol=1e-14)
    np.testing.assert_allclose(jnp.sum(jnp.abs(coefficients) ** 2), jnp.sum(x**2), rtol=1e-14)


@some_paths
def test_corrupted_samples_follow_the_marginal(name):
    """First and second moments of 20000 corrupted samples against the exact law (fixed key, 6 standard errors)."""
    path, t, count, d = make(name), 0.3, 20_000, math.prod(SHAPE)
    factor = np.random.default_rng(0).standard_normal((d, d)) / 4
    law = Gaussian(jnp.linspace(-1, 1, d), jnp.asarray(factor @ factor.T + 0.1 * np.eye(d)))
    exact = compiled(name, "marginal")(law, t)
    first, second = jax.random.split(jax.random.key(3))
    x0 = law.sample(first, (count,)).reshape(count, *SHAPE)
    eps = jax.random.normal(second, x0.shape)
    corrupt = jax.jit(jax.vmap(path.corrupt, in_axes=(0, None, 0)))
    xt = np.asarray(corrupt(x0, t, eps)).reshape(count, d)
    variance = np.diag(exact.cov)
    assert np.all(np.abs(xt.mean(axis=0) - exact.mean) < 6 * np.sqrt(variance / count))
    spread = np.sqrt((np.outer(variance, variance) + np.asarray(exact.cov) ** 2) / count)
    assert np.all(np.abs(np.cov(xt.T) - exact.cov) < 6 * spread)


@some_paths
def test_channels_share_gains(name):
    x = jax.random.normal(jax.random.key(2), (*SHAPE, 3))
    eps = jax.random.normal(jax.random.key(4), x.shape)
    corrupt, marginal = compiled(name, "corrupt"), compiled(name, "marginal")
    whole = corrupt(x, 0.4, eps)
    apart = np.stack([corrupt(x[..., c], 0.4, eps[..., c]) for c in range(3)], axis=-1)
    np.testing.assert_allclose(whole, apart, atol=1e-14)
    flat = Gaussian(x.ravel(), jnp.zeros((x.size, x.size)))
    np.testing.assert_allclose(marginal(flat, 0.4).mean, corrupt(x, 0.4, 0 * eps).ravel(), atol=1e-13)


@some_paths
def test_mixture_marginal_is_the_mixture_of_marginals(name):
    d, marginal = math.prod(SHAPE), compiled(name, "marginal")
    means = jnp.stack([jnp.zeros(d), jnp.linspace(-1, 1, d)])
    covs = jnp.stack([jnp.eye(d), 0.5 * jnp.eye(d)])
    found = marginal(GaussianMixture(jnp.array([0.25, 0.75]), means, covs), 0.6)
    for k in range(2):
        one = marginal(Gaussian(means[k], covs[k]), 0.6)
        np.testing.assert_allclose(found.means[k], one.mean, atol=1e-13)
        np.testing.assert_allclose(found.covs[k], one.cov, atol=1e-12)


@each_path
def test_prior(name):
    path, d = make(name), math.prod(SHAPE)
    prior = path.prior(Gaussian(jnp.ones(d), 2 * jnp.eye(d)))
    if path.ends_in_unit_noise:
        np.testing.assert_array_equal(prior.cov, np.eye(d))
        np.testing.assert_array_equal(prior.mean, np.zeros(d))
    else:
        np.testing.assert_allclose(prior.cov, (2 + 80.0**2) * np.eye(d), rtol=1e-12)
        np.testing.assert_array_equal(prior.mean, np.ones(d))


@each_path
def test_float32_stays_float32_and_is_accurate(name):
    double = make(name)
    single = jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if eqx.is_array(leaf) else leaf, double)
    t = jnp.float32(0.3)
    method = eqx.filter_jit(lambda path, name, *arguments: getattr(path, name)(*arguments))
    for fine, coarse in zip(method(double, "powers", float(t)), method(single, "powers", t), strict=True):
        assert coarse.dtype == jnp.float32
        # exponents up to 10 or so, powers up to 14: each costs a factor in float32's 6e-8
        np.testing.assert_allclose(coarse, fine, rtol=1e-4)
    x = jnp.ones(SHAPE, jnp.float32)
    assert method(single, "corrupt", x, t, x).dtype == jnp.float32
    assert method(single, "time_at", jnp.float32(0.5)).dtype == jnp.float32
    low, high = double.t_range
    ends = [method(single, "log_snr", jnp.float32(end)) for end in (low, high)]
    assert bool(jnp.all(jnp.isfinite(ends[0])) & jnp.all(jnp.isfinite(ends[1])))


@each_path
def test_jit_vmap_and_gradients(name):
    path = make(name)
    grid = jnp.linspace(0.1, 0.9, 3)
    batched = jax.jit(jax.vmap(path.signal))(grid)
    np.testing.assert_allclose(batched, jnp.stack([path.signal(t) for t in grid]), rtol=1e-14)
    through = eqx.filter_jit(lambda p, t: p.noise(t))(path, 0.5)
    np.testing.assert_allclose(through, path.noise(0.5), rtol=1e-14)

    def total(p, t):
        return sum(jnp.sum(gain) for gain in (p.signal(t), p.noise(t)))

    gradients = eqx.filter_jit(eqx.filter_grad(total))
    rate_of = jax.jit(lambda t: jax.jvp(path.powers, (t,), (jnp.ones(()),))[1])
    powers = compiled(name, "powers")
    for t in (0.0, 0.5, 1.0):  # finite also at the closed ends
        gradient = gradients(path, jnp.asarray(t))
        assert all(bool(jnp.all(jnp.isfinite(leaf))) for leaf in jax.tree.leaves(gradient) if eqx.is_array(leaf))
        rates = rate_of(jnp.asarray(t))
        assert all(bool(jnp.all(jnp.isfinite(rate))) for rate in rates)
    step = 1e-6
    for i in range(2):
        exact = rate_of(jnp.asarray(0.5))[i]
        central = (powers(0.5 + step)[i] - powers(0.5 - step)[i]) / (2 * step)
        # central differences: rounding ε/step, truncation step² times a third derivative below 1e5
        scale = float(np.max(np.abs(powers(0.5)[i]))) + 1
        np.testing.assert_allclose(exact, central, rtol=1e-6, atol=1e-6 * scale)


@cache
def _one(kind):
    return jax.jit(lambda spectrum, t: kind(spectrum, basis="pixels").powers(t))


@given(d=st.floats(1e-4, 1e4), t=times)
def test_formulas_of_spectral_paths_by_hand(d, t):
    """Each path's marginal variance and signal for one frequency, in plain Python."""
    spectrum, tau = np.array([d]), 1 - t
    shortest = [float(x[0]) for x in _one(ShortestPath)(spectrum, t)]
    assert math.isclose(shortest[0] * d + shortest[1], d**tau, rel_tol=1e-12)
    assert math.isclose(sum(shortest), 1.0, rel_tol=1e-13)
    bures = [float(x[0]) for x in _one(BuresPath)(spectrum, t)]
    assert math.isclose(bures[0], tau**2, rel_tol=1e-13)
    assert math.isclose(bures[0] * d + bures[1], (tau * math.sqrt(d) + t) ** 2, rel_tol=1e-13)
    angle = [float(x[0]) for x in _one(EqualAnglePath)(spectrum, t)]
    assert math.isclose(sum(angle), 1.0, rel_tol=1e-13)
    assert math.isclose(math.atan(math.sqrt(d * angle[0] / angle[1])), math.pi / 2 * tau, rel_tol=1e-13)


@pytest.mark.parametrize("d", [1.0, 1 + 1e-15, 1 - 1e-9, 1 + 1e-5, 0.95, 1.06])
def test_shortest_path_is_smooth_where_d_is_one(d):
    """Signal power and its derivatives in D against series in D - 1 at 50 digits."""
    import sympy as sp

    D, t = sp.Float(d, 50), sp.Rational(3, 10)
    x = sp.Symbol("x")
    gain = ((1 - x ** (1 - t)) / (1 - x)).subs(x, D) if d != 1 else 1 - t
    slope = sp.diff((1 - x ** (1 - t)) / (1 - x), x).subs(x, D) if d != 1 else -(1 - t) * t / 2

    def power(value):
        return ShortestPath(value[None], basis="pixels").powers(0.3)[0][0]

    value, gradient = jax.jit(jax.value_and_grad(power))(jnp.asarray(d))
    assert math.isclose(value, float(gain), rel_tol=1e-14)
    assert math.isclose(gradient, float(sp.N(slope, 20)), rel_tol=1e-12)


@given(u=st.floats(-20, 20))
def test_series_helpers(u):
    import scipy.special

    np.testing.assert_allclose(exprel(jnp.asarray(u)), scipy.special.exprel(u), rtol=1e-14)
    y = math.expm1(u)
    expected = math.log1p(y) / y if abs(y) > 1e-300 else 1.0
    np.testing.assert_allclose(logrel(jnp.asarray(y)), expected, rtol=1e-13)


@given(t=times)
def test_formulas_of_scalar_paths_by_hand(t):
    ou = OrnsteinUhlenbeck(horizon=2.0)
    assert math.isclose(ou.signal(t), math.exp(-2 * t), rel_tol=1e-14)
    assert math.isclose(ou.noise(t) ** 2, 1 - math.exp(-4 * t), rel_tol=1e-12)
    nodes, weights = np.polynomial.legendre.leggauss(8)
    integral = t / 2 * weights @ (0.1 + 19.9 * t * (nodes + 1) / 2)
    assert math.isclose(VPLinear().signal(t), math.exp(-integral / 2), rel_tol=1e-13)
    assert math.isclose(VPLinear().noise(t) ** 2, 1 - math.exp(-integral), rel_tol=1e-12)
    cosine = [math.cos(math.pi / 2 * (u + 0.008) / 1.008) ** 2 for u in (t, 0.0)]
    assert math.isclose(VPCosine().signal(t) ** 2, cosine[0] / cosine[1], rel_tol=1e-11)
    assert math.isclose(VPCosine().noise(t) ** 2, 1 - cosine[0] / cosine[1], rel_tol=1e-11)


def test_edm_grid():
    """Karras et al., eq. 5: sigma_i for i = 0 ... n-1 falls from 80 to 0.002."""
    n, rho = 18, 7
    i = np.arange(n)
    sigma = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    found = jax.vmap(VarianceExploding().noise)(jnp.linspace(1.0, 0.0, n))
    np.testing.assert_allclose(found, sigma, rtol=1e-12)


def test_heat_blurs_like_a_gaussian_kernel():
    """With d_min small the signal gain is the transform of a Gaussian of the stated width (periodic sum of tails)."""
    n, t, blur = 64, 0.4, 5.0
    path = Heat.on_grid((n,), blur_max=blur, d_min=1e-12)
    width = blur * math.sin(math.pi * t / 2) ** 2
    x = np.arange(n)[:, None] + n * np.arange(-3, 4)
    kernel = np.exp(-(x**2) / (2 * width**2)).sum(axis=1) / (width * math.sqrt(2 * math.pi))
    gain = np.fft.fft(kernel).real
    # sampling the kernel at whole pixels aliases by exp(-(π width)²/2) < 1e-6 at the highest frequency
    np.testing.assert_allclose(path.signal(t) / math.cos(math.pi * t / 2), gain, atol=1e-5)
    np.testing.assert_allclose(path.noise(t), math.sin(math.pi * t / 2), rtol=1e-14)
    floor = Heat.on_grid((n,), blur_max=20.0, d_min=0.01)
    np.testing.assert_allclose(floor.signal(0.9)[n // 2], 0.01 * math.cos(math.pi * 0.45), rtol=1e-12)


def test_fine_detail_keeps_its_signal_longer():
    signal = ShortestPath(np.array([0.01, 1.0, 100.0]), basis="pixels").powers(0.5)[0]
    assert signal[0] > signal[1] > signal[2]
    assert math.isclose(signal[1], 0.5, rel_tol=1e-14)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OrnsteinUhlenbeck(horizon=0.0), "horizon must be finite and > 0; got 0"),
        (lambda: VPLinear(beta_min=3.0, beta_max=2.0), "beta_max must be finite and >= beta_min"),
        (lambda: VPCosine(offset=-0.1), "offset must be"),
        (lambda: VarianceExploding(sigma_min=2.0, sigma_max=1.0), "sigma_max must be finite and > sigma_min"),
        (lambda: VarianceExploding(rho=0.5), "rho must be"),
        (lambda: Heat.on_grid((4, 4), d_min=0.0), "d_min must be in"),
        (lambda: Heat.on_grid((4, 4), blur_max=-1.0), "blur_max must be"),
        (lambda: ShortestPath(np.array([1.0, 0.0])), "spectrum must be positive; got smallest entry 0"),
        (lambda: ShortestPath(np.array([1.0, np.nan])), "spectrum must be finite"),
        (lambda: BuresPath(np.array([1.0, 2.0, 3.0])), "spectrum must be even"),
        (lambda: EqualAnglePath(np.array([1.0, 2.0]), reference=(2,)), "reference must be an index of the grid"),
    ],
)
def test_mistakes_are_named(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_samples_that_do_not_fit_are_named():
    path = make("shortest")
    with pytest.raises(ValueError, match="x0 must be of shape"):
        path.corrupt(jnp.zeros((3, 3)), 0.5, jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="eps must be of x0's shape"):
        path.corrupt(jnp.zeros(SHAPE), 0.5, jnp.zeros((3, 3)))
    with pytest.raises(ValueError, match="law must be on a multiple of the grid's 20 points"):
        path.marginal(Gaussian(jnp.zeros(3), jnp.eye(3)), 0.5)
