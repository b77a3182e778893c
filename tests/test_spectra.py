"""Power spectra: Parseval, the law of stationary fields, recovery of a power law, mistakes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.spectra import PowerLaw, fit_power_law, integer_frequencies, power_spectrum


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
