"""The noise-free W2 of a sampler on the line: maps of known error, theory's W2, and a real integrator's order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.optimize import brentq
from scipy.stats import norm

from sim.monotone import prior_mismatch, transport_error
from theory.gaussian import Gaussian
from theory.mixture import GaussianMixture
from theory.paths import OrnsteinUhlenbeck, VarianceExploding
from theory.wasserstein import wasserstein2_1d

DATA = GaussianMixture(
    jnp.array([0.3, 0.5, 0.2]), jnp.array([[-2.0], [0.0], [2.5]]), jnp.array([[[0.3]], [[0.2]], [[0.4]]])
)
PATH = OrnsteinUhlenbeck(2.0)
START = PATH.marginal(DATA, 1.0)


def _line(mean, std):
    return Gaussian(jnp.array([float(mean)]), jnp.array([[float(std) ** 2]]))


def _cdf(mixture, x):
    stds = np.sqrt(np.asarray(mixture.covs)[:, 0, 0])
    return float(np.asarray(mixture.weights) @ norm.cdf(x, np.asarray(mixture.means)[:, 0], stds))


def _exact(z):
    """F_data⁻¹(F_start(z)) point by point, by SciPy's brentq; lower tail up to the middle, mirrored laws beyond."""

    def one(point):
        sign = 1.0 if _cdf(START, point) < 0.5 else -1.0
        start, data = (GaussianMixture(law.weights, sign * law.means, law.covs) for law in (START, DATA))
        target = _cdf(start, sign * point)
        with np.errstate(divide="ignore"):  # log 0 far outside
            return sign * brentq(lambda x: np.log(_cdf(data, x)) - np.log(target), -30, 30, xtol=1e-15, rtol=1e-15)

    points, back = np.unique(np.asarray(z)[:, 0], return_inverse=True)  # batches are filled up with copies
    return jnp.asarray(np.array([one(float(point)) for point in points])[back][:, None])


@given(st.floats(-3, 3), st.floats(0.1, 10), st.floats(-3, 3), st.floats(0.1, 10), st.floats(-2, 2), st.floats(0.1, 3))
def test_affine_maps_of_gaussians(m0, s0, m1, s1, shift, scale):
    result = transport_error(lambda z: scale * z + shift, _line(m1, s1), _line(m0, s0))
    expected = np.hypot(scale * m1 + shift - m0, scale * s1 - s0)
    size = abs(m0) + s0 + scale * (abs(m1) + s1) + abs(shift)
    np.testing.assert_allclose(result.value, expected, rtol=1e-10, atol=1e-14 * size)
    assert result.backwards == 0


def test_the_identity_has_theorys_distance_of_the_two_laws():
    result = transport_error(lambda z: z, START, DATA)
    np.testing.assert_allclose(result.value, wasserstein2_1d(START, DATA, relative=1e-11), rtol=1e-9)
    assert result.error < 1e-4 * result.value


PERTURBATIONS = {
    "shift": (lambda x: x + 1e-9, lambda x: 1e-9),
    "stretch": (lambda x: x + 1e-9 * x, lambda x: 1e-9 * x),
    "bend": (lambda x: x + 1e-6 * jnp.sin(3 * x), lambda x: 1e-6 * np.sin(3 * x)),
}


def _density(x):
    stds = np.sqrt(np.asarray(DATA.covs)[:, 0, 0])
    return float(np.asarray(DATA.weights) @ norm.pdf(x, np.asarray(DATA.means)[:, 0], stds))


def test_the_exact_map_by_brentq_has_no_error():
    result = transport_error(_exact, START, DATA)
    # roots to 1e-15 relative at |x| up to 3, on both sides
    assert result.value < 1e-14
    assert result.points < 400


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "shift" else pytest.mark.slow) for n in PERTURBATIONS]
)
@pytest.mark.slow
def test_a_perturbed_exact_map_has_the_perturbations_norm(name):
    change, gap = PERTURBATIONS[name]
    result = transport_error(lambda z: change(_extrapolated(z)), START, DATA, relative=0.01)
    squared = quad(lambda x: gap(x) ** 2 * _density(x) * 1e18, -15, 15, points=[-2, 0, 2.5], limit=400)[0]
    np.testing.assert_allclose(
        result.value, np.sqrt(squared) / 1e9, rtol=1e-3
    )  # the map itself is off by less than 1e-12


def _slope(u, x):
    """Probability flow dx/du = -x - score of the Ornstein-Uhlenbeck process at time u."""
    weights, means, covs = (jnp.ravel(a) for a in (DATA.weights, DATA.means, DATA.covs))
    mean, var = means * jnp.exp(-u), covs * jnp.exp(-2 * u) - jnp.expm1(-2 * u)
    logs = jnp.log(weights / jnp.sqrt(var)) - (x - mean) ** 2 / (2 * var)
    return -x - jnp.sum(jax.nn.softmax(logs) * (mean - x) / var)


@jax.jit
def _rk4(z, steps):
    """The flow from u = 2 to 0 in equal steps of Runge's and Kutta's method."""
    h = -2.0 / steps

    def step(i, x):
        u = 2 + i * h
        a = _slope(u, x)
        b = _slope(u + h / 2, x + h / 2 * a)
        c = _slope(u + h / 2, x + h / 2 * b)
        d = _slope(u + h, x + h * c)
        return x + h / 6 * (a + 2 * b + 2 * c + d)

    return jax.vmap(lambda x: jax.lax.fori_loop(0, steps, step, x))(z[:, 0])[:, None]


def _extrapolated(z):
    """Richardson's extrapolation, twice: order 6."""
    a, b, c = (_rk4(z, steps) for steps in (200, 400, 800))
    return (32 * (16 * c - b) - (16 * b - a)) / (15 * 31)


@pytest.mark.slow
def test_an_integrator_of_order_four_converges_below_1e_12():
    coarse, fine = (transport_error(lambda z, n=n: _rk4(z, n), START, DATA) for n in (200, 400))
    # order 4: halving the step divides the error by 16, up to terms of relative order h
    assert 15 < coarse.value / fine.value < 17
    assert fine.error < 1e-3 * fine.value
    best = transport_error(_extrapolated, START, DATA, relative=0.01)
    assert best.value < 1e-12
    assert best.rounding < 1e-15
    assert best.error < 1e-12


def test_a_map_that_turns_the_line_over_is_sorted():
    law = _line(0.0, 1.0)
    result = transport_error(lambda z: -z, law, law)  # the image is the law itself
    np.testing.assert_allclose(result.coupling, 2.0, rtol=1e-9)
    assert result.backwards > 1
    assert result.value < 5e-3  # of the order of the grid, which `error` says
    assert result.error < 5e-3


def test_a_folding_map_has_the_distance_of_the_folded_law():
    law = _line(0.0, 1.0)
    result = transport_error(jnp.abs, law, law)
    # quantiles of |N(0,1)| against those of N(0,1): W2² = 2 - 2 ∫ Φ⁻¹(u) Φ⁻¹((1+u)/2) du
    overlap = quad(lambda u: norm.ppf(u) * norm.ppf((1 + u) / 2), 0, 1, limit=400)[0]
    np.testing.assert_allclose(result.value, np.sqrt(2 - 2 * overlap), atol=2 * result.error + 1e-6)
    assert result.error < 2e-3
    assert result.value < result.coupling


def test_the_rounding_floor_rises_with_the_separation_of_modes():
    def floor(apart):
        pair = GaussianMixture(jnp.array([0.5, 0.5]), jnp.array([[-apart], [apart]]), jnp.ones((2, 1, 1)) * 0.09)
        start = PATH.marginal(pair, 1.0)
        return transport_error(lambda z: z, start, pair).rounding

    assert floor(0.5) < 1e-15 < 1e-13 < floor(2.0)


def test_one_size_of_batch_and_only_new_points():
    shapes, starts = [], []

    def transport(z):
        shapes.append(z.shape)
        starts.extend(np.unique(np.asarray(z)))
        return jnp.where(z > 0.3, z + 1e-3, z)  # a jump, so that the grid is refined to the end

    result = transport_error(transport, _line(0, 1), _line(0, 1), most=4000)
    assert set(shapes) == {(1024, 1)}
    assert len(starts) == result.points > 3000
    np.testing.assert_allclose(result.value, 1e-3 * np.sqrt(norm.sf(0.3)), atol=2 * result.error)


def test_prior_mismatch():
    law = _line(1.0, 0.5)
    # end: N(e^-2, 1 + e^-4 (0.25 - 1)) against N(0, 1)
    expected = np.hypot(np.exp(-2), np.sqrt(1 - 0.75 * np.exp(-4)) - 1)
    np.testing.assert_allclose(prior_mismatch(PATH, law), expected, rtol=1e-8)
    np.testing.assert_allclose(prior_mismatch(VarianceExploding(), law), 0, atol=1e-12)  # its prior has the moments
    assert 0 < prior_mismatch(VarianceExploding(), DATA) < prior_mismatch(VarianceExploding(sigma_max=5.0), DATA)
    assert prior_mismatch(OrnsteinUhlenbeck(5.0), DATA) < prior_mismatch(PATH, DATA)


@pytest.mark.parametrize(
    ("transport", "law", "message"),
    [
        (lambda z: z * jnp.nan, _line(0, 1), "finite"),
        (lambda z: z[:, 0], _line(0, 1), "shape"),
        (lambda z: z, Gaussian(jnp.zeros(2), jnp.eye(2)), "dimension"),
    ],
)
def test_bad_input_is_refused(transport, law, message):
    with pytest.raises(ValueError, match=message):
        transport_error(transport, law, _line(0, 1))


def test_float32_images_are_refused():
    with pytest.raises(TypeError, match="float64"):
        transport_error(lambda z: z.astype(jnp.float32), _line(0, 1), _line(0, 1))
