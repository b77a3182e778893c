"""Power spectra: Parseval, the law of stationary fields, recovery of a power law, mistakes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar

from theory.data import load_builtin
from theory.spectra import LARGEST_M, PowerLaw, fit_power_law, integer_frequencies, power_spectrum


def test_integer_frequencies_by_hand():
    expected = np.array(
        [[0, 1, 1], [1, np.sqrt(2), np.sqrt(2)], [2, np.sqrt(5), np.sqrt(5)], [1, np.sqrt(2), np.sqrt(2)]]
    )
    np.testing.assert_allclose(integer_frequencies((4, 3)), expected, rtol=1e-15)


def test_mean_of_the_spectrum_is_the_variance_per_pixel():
    images = np.random.default_rng(0).normal(2.0, 3.0, (5, 6, 7, 3)) + np.array([0.0, 5.0, -5.0])
    centred = images - images.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(power_spectrum(images).mean(), (centred**2).mean(), rtol=1e-13)
    np.testing.assert_allclose(power_spectrum(images, centre=False).mean(), (images**2).mean(), rtol=1e-13)


def test_spectrum_is_even_and_a_cosine_has_two_lines():
    x = np.arange(8)
    image = 2 * np.cos(2 * np.pi * 3 * x / 8)[None, None, :] * np.ones((1, 4, 1))
    spectrum = power_spectrum(image)
    expected = np.zeros((4, 8))
    expected[0, [3, 5]] = 4 * 32 / 4  # amplitude² / 4 at each of ± the frequency, times the number of pixels
    np.testing.assert_allclose(spectrum, expected, atol=1e-12)


def test_spectrum_of_a_stationary_field_is_its_law():
    """2000 white fields filtered by √D: each entry within 6 standard errors (variance D², or 2 D² where f = -f)."""
    rng, count = np.random.default_rng(1), 2000
    law = PowerLaw(1.59, 0.5, 1.5).spectrum((8, 6))
    white = np.fft.fft2(rng.standard_normal((count, 8, 6)), norm="ortho")
    images = np.fft.ifft2(np.sqrt(law) * white, norm="ortho").real
    found = power_spectrum(images, centre=False)
    assert np.all(np.abs(found - law) < 6 * law * np.sqrt(2 / count))


@given(
    c1=st.floats(0.01, 100.0),
    c2=st.floats(0.01, 3.0),
    m=st.floats(0.3, 4.0),
    shape=st.sampled_from([(8, 8), (16, 12), (32, 32)]),
)
def test_power_law_is_recovered(c1, c2, m, shape):
    law = PowerLaw(c1, c2, m)
    found = fit_power_law(law.spectrum(shape))
    # c2 is known from the curvature at small |f|: conditioning about (radius / c2)² at worst, found to 1e-14 in cost
    np.testing.assert_allclose(np.log(found.spectrum(shape)), np.log(law.spectrum(shape)), atol=1e-6)
    np.testing.assert_allclose(found, law, rtol=1e-4)


def test_the_paper_s_spectrum():
    spectrum = PowerLaw(1.59, 0.0086, 2.0).spectrum((32, 32))
    assert np.isclose(spectrum[0, 0], 1.59 / 0.0086**2, rtol=1e-14)
    assert np.isclose(spectrum[0, 1], 1.59 / 1.0086**2, rtol=1e-14)
    np.testing.assert_allclose(fit_power_law(spectrum), (1.59, 0.0086, 2.0), rtol=1e-8)


def test_fit_resists_outliers_and_zeros():
    law = PowerLaw(2.0, 0.1, 2.0)
    spectrum = law.spectrum((16, 16))
    rng = np.random.default_rng(2)
    spectrum *= np.exp(0.05 * rng.standard_normal(spectrum.shape))
    spectrum[3, 4] *= 1e6
    spectrum[5, 5] = 0.0
    found = fit_power_law(spectrum)
    assert abs(found.m - 2.0) < 0.1  # plain least squares moves by 0.02 per unit of log; the outlier is 14 units
    assert abs(np.log(found.c1 / 2.0)) < 0.2


def exponential(shape):
    return np.exp(-2 * integer_frequencies(shape))


def steep(shape):
    return PowerLaw(1.0, 0.5, 14.0).spectrum(shape)


def digits(shape):
    return power_spectrum(load_builtin("digits").images)


@pytest.mark.parametrize("make", [exponential, steep, digits])
def test_a_spectrum_that_is_no_power_law_gets_the_best_one_within_bounds_and_says_so(make):
    spectrum = make((8, 8))
    found = fit_power_law(spectrum)
    assert found.c1 > 0
    assert 0 < found.c2 <= 4 * np.sqrt(2)
    assert 0 <= found.m <= LARGEST_M
    assert found.at_limit((8, 8))
    assert np.all(np.isfinite(found.spectrum((8, 8))))
    assert soft_l1(found, spectrum) <= (1 + 1e-9) * least_on_a_grid(spectrum)
    assert found.error(spectrum) < np.std(np.log(spectrum))  # better than the best constant


def soft_l1(law, spectrum):
    """The cost that the fit minimises, written out."""
    squares = np.log(spectrum / law.spectrum(spectrum.shape)) ** 2
    return np.sum(np.sqrt(1 + squares) - 1)


def least_on_a_grid(spectrum):
    """Least cost over a grid of c2 and m, the best c1 for each."""
    radius = integer_frequencies(spectrum.shape)
    residuals = [
        np.log(spectrum) + m * np.log(c2 + radius)
        for c2 in np.geomspace(0.01, radius.max(), 12)
        for m in np.linspace(0.0, LARGEST_M, 21)
    ]
    return min(minimize_scalar(lambda c, r=r: np.sum(np.sqrt(1 + (r - c) ** 2) - 1)).fun for r in residuals)


@pytest.mark.parametrize("law", [PowerLaw(1.59, 0.0086, 2.0), PowerLaw(3.0, 2.0, 6.0), PowerLaw(2.0, 1.0, 0.0)])
def test_a_power_law_is_not_at_the_limit(law):
    spectrum = law.spectrum((16, 16))
    if law.m > 0:  # c2 of a constant is anything
        assert not fit_power_law(spectrum).at_limit((16, 16))
    assert fit_power_law(spectrum).error(spectrum) < 1e-6


def test_a_pure_power_is_fitted_without_its_value_at_zero():
    """One centred image has D(0) = 0: the best c2 is 0, and the fit stays finite."""
    radius = integer_frequencies((16, 16))
    spectrum = np.where(radius > 0, 1 / np.where(radius > 0, radius, 1.0) ** 2, 0.0)
    found = fit_power_law(spectrum)
    np.testing.assert_allclose(found, (1.0, 0.0, 2.0), atol=1e-4)
    assert not found.at_limit((16, 16))


def test_error_is_the_root_mean_square_of_the_logarithm():
    law = PowerLaw(2.0, 0.5, 2.0)
    spectrum = law.spectrum((4, 4)) * np.exp(0.3 * np.where(np.arange(16).reshape(4, 4) % 2, 1.0, -1.0))
    assert law.error(spectrum) == pytest.approx(0.3, rel=1e-12)
    spectrum[0, 0] = 0.0
    assert law.error(spectrum) == pytest.approx(0.3, rel=1e-12)
    with pytest.raises(ValueError, match="spectrum must be positive"):
        law.error(np.zeros((4, 4)))


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="images must be non-empty"):
        power_spectrum(np.zeros((0, 3, 4)))
    with pytest.raises(ValueError, match="images must be finite"):
        power_spectrum(np.full((1, 2, 2), np.inf))
    with pytest.raises(ValueError, match="spectrum must be >= 0"):
        fit_power_law(np.array([[1.0, -1.0], [1.0, 1.0]]))
    with pytest.raises(ValueError, match="positive at 3 or more"):
        fit_power_law(np.ones((2, 1)))
    with pytest.raises(ValueError, match="c1 > 0"):
        PowerLaw(-1.0, 0.1, 2.0).spectrum((4, 4))
    with pytest.raises(ValueError, match="shape must be"):
        integer_frequencies((0, 3))
