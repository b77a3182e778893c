"""Generated variance per sampler against independent routes: generic conditioning, an ODE solver, measured orders."""

import itertools
import math
from functools import cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.integrate
import scipy.linalg
import scipy.stats

from tests.strategies import SOME_PATHS
from theory.discretisation import SAMPLERS, gaussian_errors, generated_variance, sampling_error, uniform_times
from theory.paths import PATHS, BuresPath, EqualAnglePath, OrnsteinUhlenbeck, ShortestPath, VarianceExploding, VPCosine

DATA = np.array([0.03, 0.7, 1.0, 5.0])
TIMES = np.array([1.0, 0.7, 0.45, 0.2, 0.0])
OWN = {"shortest": ShortestPath, "bures": BuresPath, "equal_angle": EqualAnglePath}


def make(name):
    return OWN[name](DATA, basis="pixels") if name in OWN else PATHS[name](jnp.asarray(DATA))


@cache
def _gains(name):
    path = make(name)
    gains = jax.jit(lambda t: (path.signal(t), path.noise(t)))
    rows = [tuple(np.broadcast_to(gain, 4) for gain in gains(t)) for t in TIMES]
    return rows if path.starts_clean else [*rows, (np.ones(4), np.zeros(4))]


def _condition(joint, keep, given):
    """Mean coefficients and covariance of `keep` given `given` (pseudo-inverse where it has no variance)."""
    cross, inner = joint[np.ix_(keep, given)], joint[np.ix_(given, given)]
    gain = cross @ np.linalg.pinv(inner, rcond=1e-14)
    return gain, joint[np.ix_(keep, keep)] - gain @ cross.T


def _one_step(sampler, late, early, d, last):
    """Gain and added variance by conditioning in the joint law of (x0, ε_s, x_s, x_t) of one Markov step."""
    (A, S), (B, R) = late, early
    a = A / B
    q = S**2 - a**2 * R**2
    # (x0, x_s, x_t) = rows of L times independent (x0/√d, first noise, second noise)
    L = np.array([[math.sqrt(d), 0, 0], [B * math.sqrt(d), R, 0], [A * math.sqrt(d), a * R, math.sqrt(q)]])
    joint = L @ L.T
    denoise = _condition(joint, [0], [2])[0][0, 0]
    if sampler == "ddim":
        return B * denoise + (R / S * (1 - A * denoise) if S > 0 else 0.0), 0.0
    gain, exact = _condition(joint, [1], [2])
    given_clean, small = _condition(joint, [1], [0, 2])
    # the mean E[x_s | x_t] is the posterior mean given x0 with x0 replaced by its estimate
    by_estimate = given_clean[0, 0] * denoise + given_clean[0, 1]
    assert math.isclose(by_estimate, gain[0, 0], rel_tol=1e-6, abs_tol=1e-9)
    added = {"exact": exact[0, 0], "large": q, "small": small[0, 0]}[sampler.split("_")[1]]
    quiet = last and sampler in ("ancestral_large", "ancestral_small")
    return gain[0, 0], 0.0 if quiet else added


@pytest.mark.parametrize("name", SOME_PATHS)
@pytest.mark.parametrize("sampler", [s for s in SAMPLERS if s not in ("euler", "heun")])
def test_against_generic_conditioning(name, sampler):
    path = make(name)
    gains = _gains(name)
    expected = gains[0][0] ** 2 * DATA + gains[0][1] ** 2
    for k, (late, early) in enumerate(itertools.pairwise(gains)):
        for i, d in enumerate(DATA):
            pair = [(float(g[0][i]), float(g[1][i])) for g in (late, early)]
            gain, added = _one_step(sampler, *pair, float(d), k == len(gains) - 2)
            expected[i] = gain**2 * expected[i] + added
    # dense conditioning subtracts terms of the marginal's size (6400 for EDM): 1e-16 · 6405 / smallest variance 0.03
    np.testing.assert_allclose(generated_variance(path, DATA, TIMES, sampler), expected, rtol=1e-7)


@pytest.mark.parametrize("name", ["vp_cosine", "vp_linear", "heat", "shortest", "bures", "equal_angle"])
def test_probability_flow_limit_and_slope(name):
    """The flow's end point by Dormand-Prince on dx/dt = x v'/(2v), v from gains by central differences: exactly √D; and
    one Euler and one Heun step against the same slopes."""
    path = make(name)

    powers = jax.jit(lambda t: path.powers(t))

    def variance(t):
        signal, noise = powers(float(t))
        return np.asarray(signal) * DATA + np.asarray(noise)

    def slope(t, step=1e-5):
        t = min(max(t, step), 1 - step)
        return (variance(t + step) - variance(t - step)) / (2 * step) / (2 * variance(t))

    start = np.sqrt(variance(1.0))
    end = scipy.integrate.solve_ivp(lambda t, x: slope(t) * x, (1.0, 0.0), start, rtol=1e-7, atol=1e-9).y[:, -1]
    np.testing.assert_allclose(end, np.sqrt(DATA), rtol=1e-3)
    h, late, early = 0.3, slope(0.8), slope(0.5)
    two = np.array([0.8, 0.5])
    begin = variance(0.8)
    euler = generated_variance(path, DATA, two, "euler") / begin
    heun = generated_variance(path, DATA, two, "heun") / begin
    np.testing.assert_allclose(euler, (1 - h * late) ** 2, rtol=1e-6)
    np.testing.assert_allclose(heun, (1 - h * (late + early * (1 - h * late)) / 2) ** 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("sampler", "order"),
    [
        ("ddim", 1),
        ("euler", 1),
        ("heun", 2),
        ("ancestral_large", 1),
        ("ancestral_large_noisy", 1),
        ("ancestral_small", 1),
    ],
)
def test_measured_order_of_convergence(sampler, order):
    """Error of the generated variance falls like N^-order on smooth paths: slope within 0.1 from 200 to 800 steps."""
    # DDIM and the small variance converge only like log(N)/N on the shortest path, whose S_t starts like √t
    kind = EqualAnglePath if sampler in ("ddim", "ancestral_small") else ShortestPath
    path = kind(DATA[[0, 3]], basis="pixels")
    errors = []
    for steps in (200, 800):
        found = generated_variance(path, DATA[[0, 3]], uniform_times(path, steps), sampler)
        errors.append(np.abs(found / DATA[[0, 3]] - 1))
    measured = np.log(errors[0] / errors[1]) / math.log(4)
    np.testing.assert_allclose(measured, order, atol=0.1)


def test_where_a_sampler_starts_is_accounted_for_separately():
    path = OrnsteinUhlenbeck(horizon=1.0)
    exact = generated_variance(path, DATA, TIMES, "ancestral_exact")
    np.testing.assert_allclose(exact, DATA, rtol=1e-13)
    a2 = math.exp(-2.0)
    end = a2 * DATA + 1 - a2
    share = a2 * DATA / end  # what the data's law keeps of a difference at t = 1: (A_1 D / v_1)² v_1 / D
    for start, initial in (("prior", np.ones(4)), ("noise", np.full(4, 1 - a2))):
        found = generated_variance(path, DATA, TIMES, "ancestral_exact", start=start)
        # ratios near 1 are right to a few ε
        np.testing.assert_allclose(found / DATA - 1, share * (initial / end - 1), rtol=1e-12, atol=1e-14)
    ve = VarianceExploding()
    same = [generated_variance(ve, DATA, TIMES, "ddim", start=s) for s in ("marginal", "prior")]
    np.testing.assert_array_equal(*same)


def test_edm_takes_its_last_step_to_the_data():
    path = VarianceExploding()
    assert len(uniform_times(path, 18)) == 18
    assert len(uniform_times(VPCosine(), 18)) == 19
    sigma = np.append(np.asarray(jax.vmap(path.noise)(uniform_times(path, 18))), 0.0)[:, None]
    # Euler in σ on dx/dσ = (x - E[x0|x])/σ, Karras et al. algorithm 1 without the correction
    variance = DATA + sigma[0] ** 2
    for late, early in itertools.pairwise(sigma):
        variance = variance * (1 + (early - late) * late / (DATA + late**2)) ** 2
    np.testing.assert_allclose(generated_variance(path, DATA, uniform_times(path, 18), "ddim"), variance, rtol=1e-12)


def test_errors_against_dense_gaussians():
    generated = np.array([0.02, 0.9, 1.0, 4.0])
    found = gaussian_errors(jnp.asarray(generated), jnp.asarray(DATA))
    densities = [scipy.stats.multivariate_normal(np.zeros(4), np.diag(v)) for v in (generated, DATA)]
    # E_p[log p - log q] of Gaussians by a rule exact for quadratics: ± √4 standard deviations along each axis
    expected = []
    for p, q in (densities, densities[::-1]):
        points = np.vstack([s * 2 * np.sqrt(p.cov) for s in (1, -1)])
        expected.append(np.mean(p.logpdf(points) - q.logpdf(points)))
    root = scipy.linalg.sqrtm(np.diag(DATA) ** 0.5 @ np.diag(generated) @ np.diag(DATA) ** 0.5)
    expected.append(math.sqrt(np.trace(np.diag(generated + DATA) - 2 * root)))
    np.testing.assert_allclose(found, expected, rtol=1e-12)


@pytest.mark.parametrize("shift", [1e-9, 1e-5, 0.049, 0.051])
def test_errors_keep_their_digits_near_zero(shift):
    import sympy as sp

    found = gaussian_errors(jnp.asarray([1 + shift]), jnp.ones(1))
    r = sp.Float(float(jnp.asarray(1 + shift)), 60)
    forward, backward = (r - 1 - sp.log(r)) / 2, (1 / r - 1 + sp.log(r)) / 2
    # generated and data are given: their difference is exact, so digits are lost only in ε
    np.testing.assert_allclose(found[0], float(forward), rtol=1e-13)
    np.testing.assert_allclose(found[1], float(backward), rtol=1e-13)


def test_perfect_sampling_has_zero_error_and_finite_gradients():
    zero = gaussian_errors(jnp.asarray(DATA), jnp.asarray(DATA))
    assert [float(x) for x in zero] == [0.0, 0.0, 0.0]

    @jax.jit
    def error(log_spectrum):
        spectrum = jnp.exp(log_spectrum)
        path = ShortestPath(spectrum, basis="pixels")
        return sampling_error(path, jnp.asarray(DATA), 5, "ddim").kl_generated_data

    gradient = jax.jit(jax.grad(error))(jnp.log(DATA))
    step = 1e-5
    for i in range(4):
        shift = step * np.eye(4)[i]
        central = (error(np.log(DATA) + shift) - error(np.log(DATA) - shift)) / (2 * step)
        np.testing.assert_allclose(gradient[i], central, rtol=1e-6, atol=1e-8)


def test_image_grids_and_frequencies_are_the_same_numbers():
    grid = np.array([[3.0, 0.5, 0.5], [0.7, 0.2, 0.2], [0.7, 0.2, 0.2]])
    times = np.linspace(1.0, 0.0, 6)
    image = generated_variance(ShortestPath(grid), grid, times, "ancestral_small")
    flat = generated_variance(ShortestPath(grid.ravel(), basis="pixels"), grid.ravel(), times, "ancestral_small")
    np.testing.assert_allclose(image.ravel(), flat, rtol=1e-13)


def test_mistakes_are_named():
    path = VPCosine()
    with pytest.raises(ValueError, match="sampler must be one of ddim"):
        generated_variance(path, DATA, TIMES, "dimm")
    with pytest.raises(ValueError, match="times must be falling"):
        generated_variance(path, DATA, TIMES[::-1], "ddim")
    with pytest.raises(ValueError, match="spectrum must be positive"):
        generated_variance(path, -DATA, TIMES, "ddim")
    with pytest.raises(ValueError, match="spectrum must be of the path's grid"):
        generated_variance(ShortestPath(DATA, basis="pixels"), DATA[:2], TIMES, "ddim")
    with pytest.raises(ValueError, match="steps must be"):
        sampling_error(path, DATA, 1, "ddim")
    with pytest.raises(TypeError, match="spectrum must be float64"):
        generated_variance(path, DATA.astype(np.float32), TIMES, "ddim")
