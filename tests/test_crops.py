"""Crops: the least error from a crop, against dense conditioning; limits; the sizes needed as noise rises."""

import numpy as np
import pytest

from theory.crops import crop_error, crop_sizes, image_error
from theory.spectra import PowerLaw

NATURAL = PowerLaw(1.59, 0.0086, 2.0).spectrum((9, 11))
LEVELS = np.geomspace(0.01, 100.0, 25)


def dense(spectrum):
    """Covariance of all pixels, from the DFT matrix itself."""
    h, w = spectrum.shape
    dft = np.kron(np.fft.fft(np.eye(h), norm="ortho"), np.fft.fft(np.eye(w), norm="ortho"))
    return (dft.conj().T @ np.diag(spectrum.ravel()) @ dft).real


@pytest.mark.parametrize("size", [1, 3, 7])
@pytest.mark.parametrize("noise_std", [0.05, 1.0, 20.0])
def test_the_error_is_the_conditional_variance(size, noise_std):
    """1 / the entry of the joint precision of the pixel and the noisy crop."""
    rows, columns = (axis.ravel() for axis in np.indices((size, size)) + np.array([1, 2])[:, None, None])
    chosen = rows * NATURAL.shape[1] + columns
    centre = chosen[size**2 // 2]
    joint = dense(NATURAL)[np.ix_([centre, *chosen], [centre, *chosen])]
    joint[1:, 1:] += noise_std**2 * np.eye(size**2)
    expected = 1 / np.linalg.inv(joint)[0, 0]
    np.testing.assert_allclose(crop_error(NATURAL, size, noise_std), expected, rtol=1e-9)


def test_larger_crops_are_better_and_the_whole_is_best():
    for noise_std in LEVELS:
        errors = [crop_error(NATURAL, size, noise_std) for size in (1, 3, 5, 7, 9)]
        assert np.all(np.diff(errors) < 0)
        assert image_error(NATURAL, noise_std) < errors[-1]
    square = PowerLaw(1.0, 0.5, 1.0).spectrum((7, 7))  # a crop of 7 is the whole torus
    np.testing.assert_allclose(crop_error(square, 7, 0.3), image_error(square, 0.3), rtol=1e-12)


def test_at_low_noise_a_pixel_will_do_and_at_high_noise_nothing_helps():
    variance = NATURAL.mean()
    np.testing.assert_allclose([crop_error(NATURAL, k, 1e-3) for k in (1, 5)], 1e-6, rtol=1e-3)
    np.testing.assert_allclose([crop_error(NATURAL, k, 1e4) for k in (1, 5)], variance, rtol=1e-3)
    white = np.full((8, 8), 2.0)  # pixels know nothing of each other
    np.testing.assert_allclose(crop_error(white, 5, 0.7), image_error(white, 0.7), rtol=1e-12)
    assert np.all(crop_sizes(white, LEVELS) == 1)


def test_sizes_are_the_least_that_will_do_up_to_each_level():
    sizes = crop_sizes(NATURAL, LEVELS)
    within = [
        [crop_error(NATURAL, k, level) <= 1.05 * image_error(NATURAL, level) for k in (1, 3, 5, 7)] for level in LEVELS
    ]
    up_to = np.logical_and.accumulate(within, axis=0)  # size k does at this level and at all below
    expected = [next((k for k, does in zip((1, 3, 5, 7), row, strict=True) if does), 11) for row in up_to]
    np.testing.assert_array_equal(sizes, expected)
    assert sizes[0] == 1
    assert sizes[-1] == 11
    assert len(set(sizes)) > 2


@pytest.mark.parametrize(("call", "message"), [
    (lambda: crop_error(NATURAL, 4, 1.0), "size must be odd, from 1 to the image's shorter side, 9; got 4"),
    (lambda: crop_error(NATURAL, 11, 1.0), "shorter side, 9; got 11"),
    (lambda: crop_error(NATURAL, 3, 0.0), "noise_std must be positive"),
    (lambda: image_error(-NATURAL, 1.0), "spectrum must be >= 0"),
    (lambda: crop_sizes(NATURAL, LEVELS[::-1]), "levels that rise"),
    (lambda: crop_sizes(NATURAL, LEVELS, excess=0.0), "excess must be positive"),
])  # fmt: skip
def test_mistakes_are_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
