"""Total variation under noise, density bounds, crossover, classifier, ambient loss: against independent
routes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import binom, norm

from theory import ambient, kernel_density
from theory.ambient import Line
from theory.claims import _ambient_proofs as proofs
from theory.claims._ambient_checks import distances_on_grid
from theory.claims.claim import MONTE_CARLO_Z, monte_carlo
from theory.classifier import blur_transfer, sigma_min
from theory.total_variation import contraction_printed, large_noise

FLAT = Line.density(np.ones_like)
COARSE = Line.density(np.ones_like, panels=1)  # exact for noise_std >= 1/4
MIXTURE = Line.mixture([0.3, 0.7], [-1.0, 0.5], [0.2, 0.6])
OTHER = Line.mixture([0.5, 0.5], [-0.5, 1.5], [0.4, 0.1])
SPECTRUM = 1.59 / (0.0086 + np.add.outer(*2 * [(16 * np.fft.fftfreq(16)) ** 2]))


def binomial_mean_error(a, n, b=0.0, n_biased=0):
    """E|share of ones − a| for n Bernoulli(a) and n_biased Bernoulli(b) draws, by enumeration."""
    total = 0.0
    for i in range(n + 1):
        for j in range(n_biased + 1):
            total += binom.pmf(i, n, a) * binom.pmf(j, n_biased, b) * abs((i + j) / (n + n_biased) - a)
    return total


# -- total variation -------------------------------------------------------------------------------------------


def test_line_pdf_and_cdf_are_those_of_the_mixture():
    x = np.array([-2.0, 0.1, 1.7])
    by_hand = sum(
        w * norm.pdf(x, m, math.hypot(s, 0.3)) for w, m, s in zip([0.3, 0.7], [-1, 0.5], [0.2, 0.6], strict=True)
    )
    np.testing.assert_allclose(MIXTURE.smoothed(0.3).pdf(x), by_hand, rtol=1e-13)
    slopes = [quad(lambda u: MIXTURE.pdf(np.array([u]))[0], -8, end, limit=200)[0] for end in x]
    np.testing.assert_allclose(MIXTURE.cdf(x), slopes, atol=1e-8)
    assert MIXTURE.mean() == pytest.approx(0.05)
    assert MIXTURE.std() ** 2 == pytest.approx(0.3 * (0.04 + 1.05**2) + 0.7 * (0.36 + 0.45**2))


def test_density_is_smoothed_as_the_function_itself():
    ramp, x = Line.density(lambda u: 2 * u), np.array([-0.2, 0.4, 1.1])
    expected = [quad(lambda u, c=c: 2 * u * norm.pdf(c, u, 0.2), 0, 1, epsabs=1e-13)[0] for c in x]
    np.testing.assert_allclose(ramp.smoothed(0.2).pdf(x), expected, rtol=1e-10)


@pytest.mark.parametrize("noise_std", [0.0, 0.3, 2.0])
def test_total_variation_is_half_the_integral_of_the_difference(noise_std):
    a, b = MIXTURE.smoothed(noise_std), OTHER.smoothed(noise_std)
    x, w = ambient.panel_rule(np.linspace(-25, 25, 4001))
    direct = 0.5 * w @ np.abs(a.pdf(x) - b.pdf(x))  # kinks: panel² / 8 of the slope there, below 1e-4²
    assert ambient.total_variation(MIXTURE, OTHER, noise_std=noise_std) == pytest.approx(direct, abs=1e-5)


def test_total_variation_extremes():
    assert ambient.total_variation(MIXTURE, MIXTURE, noise_std=0.5) == 0.0
    apart = ambient.total_variation(Line.points([0.0]), Line.points([1.0]), noise_std=0.01)
    assert apart == pytest.approx(1.0, abs=1e-12)
    assert ambient.total_variation(Line.points([0.0]), Line.points([1.0]), noise_std=1.0) == pytest.approx(
        2 * norm.cdf(0.5) - 1, abs=1e-12
    )


def test_contraction_by_hand():
    assert ambient.shifted_gaussians(2.0, 1.0) == pytest.approx(0.6826894921370859)  # one standard deviation each way
    assert ambient.contraction(0.5, 2.0, 1.0) == pytest.approx(0.34134474606854295)
    assert contraction_printed(0.5, 2.0, 1.0) == pytest.approx(0.5)


def test_large_noise_expansion_and_its_error_are_of_the_stated_orders():
    p, q = Line.points([0.0, 0.3]), Line.points([0.4, 1.0])
    for sigma in (5.0, 50.0):
        leading, error = large_noise(p, q, sigma)
        assert leading == pytest.approx(0.55 / (2.5066282746310002 * sigma))
        assert error == pytest.approx(0.12098536225957168 / sigma**2)
        assert abs(ambient.total_variation(p, q, noise_std=sigma) - leading) <= error


# -- kernel density and crossover ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("a", "b", "n", "biased", "sigma"),
    [(0.5, 0.7, 5, 3, 0.5), (0.5, 1.0, 20, 20, 0.3), (0.3, 0.9, 3, 20, 2.0), (0.2, 0.2, 9, 0, 1.0)],
)
def test_expected_distance_by_enumeration(a, b, n, biased, sigma):
    p, q = Line.points([0.0, 1.0], [1 - a, a]), Line.points([0.0, 1.0], [1 - b, b])
    exact = binomial_mean_error(a, n, b, biased) * ambient.shifted_gaussians(1.0, sigma)
    assert kernel_density.expected_distance(p, n, noise_std=sigma, q=q, n_biased=biased) == pytest.approx(
        exact, rel=1e-3
    )
    limit = binomial_mean_error(a, n) - (binomial_mean_error(a, n, b, biased) if biased else binomial_mean_error(a, n))
    # an atom of the mean costs at most 2 / (pi CUTOFF) of its standard deviation
    assert kernel_density.gain_limit(p, q, n, biased) == pytest.approx(limit, abs=2 / math.pi / 512 / math.sqrt(n))


def test_expected_distance_of_a_density_by_simulation_and_by_refinement():
    exact = kernel_density.expected_distance(COARSE, 10, noise_std=0.4)
    assert kernel_density.expected_distance(COARSE, 10, noise_std=0.4, order=16) == pytest.approx(exact, rel=1e-5)
    draws = np.random.default_rng(0).random((2000, 10))
    distances = distances_on_grid(COARSE, draws, 0.4)
    one = ambient.total_variation(COARSE, Line.points(draws[0]), noise_std=0.4)
    assert distances[0] == pytest.approx(one, abs=1e-3)  # kinks: step² / 8 of the slope there
    assert monte_carlo(np.mean(np.reshape(distances, (100, 20)), axis=1), exact, bias=1e-3).margin >= 0
    assert monte_carlo(np.mean(np.reshape(distances, (100, 20)), axis=1), 1.2 * exact, bias=1e-3).margin < 0


def test_crossover_is_finite_zero_or_absent():
    middle, ramp = Line.points([0.5]), Line.density(lambda x: 2 * x, panels=1)
    found = ambient.crossover(COARSE, middle, 10, 30, low=0.25, high=3.0, points=4)
    assert 0.25 < found.noise_std < 3.0
    assert ambient.gain(COARSE, middle, 10, 30, 1.1 * found.noise_std) > 0
    assert ambient.gain(COARSE, middle, 10, 30, found.noise_std / 1.1) < 0
    assert found.limit > 0
    assert ambient.crossover(COARSE, COARSE, 5, 20, low=0.5, high=2.0, points=3).noise_std == 0.0
    shifted = ambient.crossover(COARSE, ramp, 30, 60, low=0.5, high=2.0, points=3)
    assert shifted.noise_std == math.inf
    assert shifted.limit < 0


def test_bounds_by_hand():
    assert kernel_density.bound_by_wasserstein(100, 0.5) == pytest.approx(0.5 / (2.5066282746310002 * 0.5 * 10))
    assert kernel_density.bound_by_wasserstein(100, 0.5, delta=math.exp(-2)) == pytest.approx(1.5 / 12.533141373155001)
    width = (2 * 1.7724538509055159 * 0.5) ** -0.5
    assert kernel_density.bound_by_variance(100, 0.5) == pytest.approx((1 + width) / 20)
    deviation = 0.6826894921370859 * math.sqrt(2 / 200)
    assert kernel_density.bound_by_variance(100, 0.5, delta=math.exp(-2)) == pytest.approx((1 + width) / 20 + deviation)
    assert kernel_density.bound_by_variance(100, 0.5, d=3) == pytest.approx((1 + width) ** 3 / 20)
    assert kernel_density.bound(100, 0.01) == kernel_density.bound_by_variance(100, 0.01)
    assert kernel_density.bound(100, 5.0) == kernel_density.bound_by_wasserstein(100, 5.0)
    assert kernel_density.bound(100, 0.1, d=200) == 1.0
    printed = 1 / 50 + 1 / (0.25 * 50) + math.sqrt((math.log(50) + math.log(3) + math.log(20)) / (0.25 * 50))
    assert kernel_density.bound_printed(50, 0.5, delta=0.1, lipschitz=3.0) == pytest.approx(printed)
    assert ambient.bound_with_bias(10, 30, 0.2, 1.0) == pytest.approx(
        kernel_density.bound(40, 1.0) + 0.75 * 0.2 * 0.3829249225480262
    )


def test_crossover_of_bounds_is_where_they_cross():
    level = ambient.crossover_of_bounds(50, 100, 0.2, d=2)
    assert 1e-3 < level < 1e4
    for factor, sign in ((1.05, 1), (1 / 1.05, -1)):
        s = factor * level
        assert sign * (ambient.bound(50, s, d=2) - ambient.bound_with_bias(50, 100, 0.2, s, d=2)) > 0
    assert ambient.crossover_of_bounds(500, 500, 0.9, printed=True) < math.inf
    assert ambient.crossover_of_bounds(500, 500, 0.9) == math.inf


def test_distance_in_many_dimensions_exceeds_its_lower_bound():
    n, sigma, d, rng = 4, 0.3, 96, np.random.default_rng(1)
    x = rng.random((n, d))
    y = x[rng.integers(n, size=4000)] + sigma * rng.standard_normal((4000, d))
    log_truth = np.sum(np.log(norm.cdf((1 - y) / sigma) - norm.cdf(-y / sigma)), axis=1)
    squares = np.sum((y[:, None] - x) ** 2, axis=2)
    log_data = (
        np.logaddexp.reduce(-squares / (2 * sigma**2), axis=1)
        - math.log(n)
        - d * math.log(math.sqrt(2 * math.pi) * sigma)
    )
    overlap = np.maximum(1 - np.exp(log_truth - log_data), 0.0)  # TV = E over the data's law of (1 − p / p̂)+
    lower = kernel_density.far_from_truth(n, sigma, d)
    assert 0.5 < lower <= np.mean(overlap) + MONTE_CARLO_Z * np.std(overlap) / math.sqrt(overlap.size)
    assert kernel_density.far_from_truth(10_000, 2.0, 1 << 17) > 0.99


# -- ideal classifier ------------------------------------------------------------------------------------------


@example(1.19921875, 17.53125)  # two sums of the total variation agree by chance
@given(st.floats(0.05, 20), st.floats(0.05, 20))
def test_gaussian_divergences_in_one_dimension(a, b):
    p, q = Line.mixture([1.0], [0.0], [math.sqrt(a)]), Line.mixture([1.0], [0.0], [math.sqrt(b)])
    va, vb = np.array([a]), np.array([b])
    delta = ambient.gaussian_triangular_discrimination(va, vb)
    assert delta == pytest.approx(ambient.triangular_discrimination(p, q), abs=1e-9)
    tv = ambient.gaussian_total_variation(va, vb, tolerance=1e-5)
    assert tv == pytest.approx(ambient.total_variation(p, q), abs=1e-5)


def test_gaussian_divergences_at_the_edges():
    v = np.array([1.0, 0.0, 2.0])
    assert ambient.gaussian_triangular_discrimination(v, v) == pytest.approx(0.0, abs=1e-14)
    assert ambient.gaussian_total_variation(v, v) == pytest.approx(0.0, abs=1e-12)
    assert ambient.gaussian_triangular_discrimination(v, np.array([1.0, 1.0, 2.0])) == 2.0
    assert ambient.gaussian_total_variation(v, np.array([0.0, 0.0, 2.0])) == 1.0
    assert ambient.probability_clean(2.0) == 0.0
    assert ambient.probability_clean(0.0) == 0.5


def test_sigma_min_solves_its_equation():
    p, q = Line.points([0.0]), Line.points([1.0])
    level = ambient.sigma_min_line(p, q, 0.45)
    for factor, sign in ((1 + 1e-6, 1), (1 - 1e-6, -1)):
        integrand = lambda x, s=factor * level: norm.pdf(x, 1, s) / (1 + math.exp((2 * x - 1) / (2 * s**2)))  # noqa: E731
        assert sign * (quad(integrand, 1 - 12 * level, 1 + 12 * level, epsabs=1e-13, limit=200)[0] - 0.45) > -1e-9
    by_tv = ambient.sigma_min_line(p, q, 0.45, criterion="total variation")
    assert ambient.shifted_gaussians(1.0, by_tv) == pytest.approx(0.05, rel=1e-6)
    assert by_tv > level
    assert sigma_min(lambda s: 0.5, 0.45) == 0.0
    assert sigma_min(lambda s: 0.0, 0.45) == math.inf


def test_sigma_min_for_blur_by_simulation_and_scaling():
    level = ambient.sigma_min_for_blur(SPECTRUM, 0.8)
    gain = blur_transfer((16, 16), 0.8)
    clean, blurred = SPECTRUM.ravel() + level**2, (SPECTRUM * gain**2).ravel() + level**2
    x = np.sqrt(blurred) * np.random.default_rng(0).standard_normal((4000, 256))
    log_ratio = 0.5 * np.sum(np.log(blurred / clean)) + 0.5 * (x**2) @ (1 / blurred - 1 / clean)
    assert monte_carlo(1 / (1 + np.exp(-log_ratio)), 0.45).margin >= 0
    assert ambient.sigma_min_for_blur(4 * SPECTRUM, 0.8) == pytest.approx(2 * level, rel=1e-7)
    assert ambient.sigma_min_for_blur(np.stack([SPECTRUM] * 3), 0.8) > level
    assert ambient.sigma_min_for_blur(SPECTRUM, 0.4) < level < ambient.sigma_min_for_blur(SPECTRUM, 1.0)
    assert ambient.sigma_min_for_blur(SPECTRUM, 0.8, criterion="total variation") > level
    assert ambient.sigma_min_for_blur(SPECTRUM, 0.0) == 0.0
    assert ambient.sigma_min_for_blur(np.zeros((4, 4)), 1.0) == 0.0


def test_blur_transfer_is_the_transform_of_the_gaussian_kernel():
    offsets = np.fft.fftfreq(64, 1 / 64)
    kernel = norm.pdf(np.add.outer(offsets, [0.0])[:, 0], scale=2.0)
    expected = np.fft.fft(kernel).real  # aliasing: exp(−2π² 4 / 4), below 3e-9
    np.testing.assert_allclose(blur_transfer((64, 1), 2.0)[:, 0], expected, atol=1e-8)


# -- ambient loss ----------------------------------------------------------------------------------------------


def test_ambient_loss_by_hand_and_its_best_slope_by_simulation():
    loss = jax.jit(ambient.ambient_loss)(jnp.array([1.0, 2.0]), jnp.array([0.0, 4.0]), jnp.array([1.0, 1.0]), 2.0, 1.0)
    assert float(loss) == pytest.approx((0.75 - 1) ** 2 + (1.5 + 1 - 1) ** 2)
    z = np.random.default_rng(0).standard_normal((3, 200_000))
    xn = z[0] + 0.7 * z[1]
    xt = xn + math.sqrt(1.5**2 - 0.7**2) * z[2]
    alpha = 1 - 0.49 / 2.25
    slope = 1 / (1 + 1.5**2)  # E[x0 | xt] / xt for x0 ~ N(0, 1)
    normal_equation = xt * (alpha * slope * xt + (1 - alpha) * xt - xn)
    assert monte_carlo(normal_equation, 0.0).margin >= 0
    loss = (alpha * slope * xt + (1 - alpha) * xt - xn) ** 2 / alpha**2
    assert monte_carlo(loss, ambient.ambient_floor(2.25 / 3.25, 1.5, 0.7, 1)).margin >= 0
    assert ambient.ambient_floor(1.0, 2.0, 1.0, 3) == pytest.approx(5.0)


def test_posterior_mean_and_error_of_a_gaussian():
    prior, x = Line.mixture([1.0], [0.5], [2.0]), np.array([-1.0, 3.0])
    np.testing.assert_allclose(ambient.posterior_mean(prior, x, 1.0), 0.5 + 0.8 * (x - 0.5), rtol=1e-14)
    assert ambient.minimum_error(prior, 1.0) == pytest.approx(0.8, rel=1e-12)
    step = quad(lambda u: math.tanh(u) * norm.pdf(u, 1, 1), -9, 11, epsabs=1e-13)[0]
    assert ambient.minimum_error(Line.points([-1.0, 1.0]), 1.0) == pytest.approx(1 - step, rel=1e-9)  # E tanh = E tanh²


@pytest.mark.parametrize("name", ["density_bounds", "large_noise"])
def test_derivations_that_no_claim_carries(name):
    assert all(step.holds() for step in getattr(proofs, name)())


# -- bad input -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: Line.points([math.nan]), "means"),
        (lambda: Line.points([0.0, 1.0], [-1.0, 2.0]), "weights"),
        (lambda: Line.points([0.0, 1.0], [0.0, 0.0]), "weights"),
        (lambda: Line.points([0.0, 1.0], [1.0]), "means"),
        (lambda: Line.mixture([1.0], [0.0], [-1.0]), "stds"),
        (lambda: ambient.total_variation(FLAT, FLAT), "noise_std"),
        (lambda: ambient.total_variation(FLAT, FLAT, noise_std=-1.0), "noise_std"),
        (lambda: ambient.total_variation(FLAT, FLAT, noise_std=1e-7), "noise_std"),
        (lambda: FLAT.pdf(np.zeros(1)), "noise_std"),
        (lambda: FLAT.cdf(np.zeros(1)), "noise_std"),
        (lambda: ambient.shifted_gaussians(-1.0, 1.0), "distance"),
        (lambda: ambient.shifted_gaussians(1.0, 0.0), "noise_std"),
        (lambda: ambient.contraction(1.5, 1.0, 1.0), "tv"),
        (lambda: large_noise(MIXTURE, FLAT, 1.0), "atoms"),
        (lambda: ambient.expected_distance(FLAT, 0, noise_std=1.0), "n_clean"),
        (lambda: ambient.expected_distance(FLAT, 5, noise_std=0.0), "noise_std"),
        (lambda: ambient.expected_distance(FLAT, 5, noise_std=1.0, n_biased=2), "q"),
        (lambda: ambient.expected_distance(FLAT, 5, noise_std=1.0, q=FLAT, n_biased=-2), "n_biased"),
        (lambda: ambient.expected_distance(MIXTURE, 5, noise_std=1.0), "atoms"),
        (lambda: ambient.crossover(FLAT, FLAT, 2, 2, low=3.0, high=1.0), "low"),
        (lambda: kernel_density.bound_printed(0, 1.0, delta=0.1), "n"),
        (lambda: kernel_density.bound_by_variance(5, 1.0, delta=0.0), "delta"),
        (lambda: kernel_density.bound_by_variance(5, 1.0, d=0), "d"),
        (lambda: ambient.crossover_of_bounds(5, 5, 0.1, d=2, printed=True), "d"),
        (lambda: ambient.probability_clean(2.5), "delta"),
        (lambda: sigma_min(lambda s: 0.5, 0.5), "tau"),
        (lambda: ambient.sigma_min_for_blur(SPECTRUM, -1.0), "blur_std"),
        (lambda: ambient.sigma_min_for_blur(-SPECTRUM, 1.0), "clean"),
        (lambda: ambient.sigma_min_for_spectra(SPECTRUM, SPECTRUM[:2]), "corrupted"),
        (lambda: ambient.gaussian_total_variation(np.ones(2), -np.ones(2)), "variances_q"),
        (lambda: ambient.ambient_minimiser(FLAT, np.zeros(1), 1.0, 1.0), "sigma_min"),
        (lambda: ambient.posterior_mean(FLAT, np.zeros(1), 0.0), "sigma"),
        (lambda: ambient.ambient_floor(1.0, 2.0, 1.0, 0), "d"),
    ],
)
def test_bad_input_is_refused_by_name(call, name):
    with pytest.raises(ValueError, match=name):
        call()
