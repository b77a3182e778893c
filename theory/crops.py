"""How large a crop the best denoiser looks at, by the noise: in closed form from a power spectrum.

Images are taken as a zero-mean stationary Gaussian field on the torus with power spectrum D (`theory.spectra`), seen
with noise of standard deviation σ in every pixel. C(δ) is the autocovariance, the inverse DFT of D, so that C(0) is the
variance of a pixel. The least mean squared error for one pixel is

    from the whole image       mean over f of D σ² / (D + σ²)
    from a k x k crop about it      C(0) − cᵀ (C_k + σ² I)⁻¹ c,   C_k the covariance of the crop's pixels, c its column
                                                                  at the centre

The second falls to the first as k grows. Both are about σ² at low noise, where one pixel will do, and about C(0) at
high noise, where nothing helps; between, larger crops are needed. Ambient Diffusion Omni, section 3 (low noise), finds
the sizes by training instead.

NumPy, float64.
"""

import numpy as np
from jaxtyping import Float, Int

from theory._checks import require, require_finite, require_positive

LARGEST = 31
"""Side of the largest crop that is tried: its covariance has LARGEST⁴ entries."""


def image_error(spectrum: Float[np.ndarray, "h w"], noise_std: float) -> float:
    """Least mean squared error for one pixel from the whole noisy image, in the spectrum's unit (squared pixel value).

    Raises `ValueError` for a spectrum that is negative, not finite or not of two axes, and unless noise_std > 0.
    """
    _check(spectrum, noise_std)
    return float(np.mean(spectrum * noise_std**2 / (spectrum + noise_std**2)))


def crop_error(spectrum: Float[np.ndarray, "h w"], size: int, noise_std: float) -> float:
    """Least mean squared error for the central pixel of a noisy crop of `size` x `size` pixels, odd, at most h and w.

    Raises `ValueError` for another size, a spectrum that is negative, not finite or not of two axes, and unless
    noise_std > 0.
    """
    _check(spectrum, noise_std)
    fits = size % 2 == 1 and 1 <= size <= min(spectrum.shape)
    require(fits, "size", size, f"odd, from 1 to the image's shorter side, {min(spectrum.shape)}")
    covariance = np.fft.ifft2(spectrum.astype(np.float64)).real
    rows, columns = (axis.ravel() for axis in np.indices((size, size)))
    within = covariance[np.subtract.outer(rows, rows), np.subtract.outer(columns, columns)]  # negative lags wrap round
    centre = within[size**2 // 2]
    explained = centre @ np.linalg.solve(within + noise_std**2 * np.eye(size**2), centre)
    return float(covariance[0, 0] - explained)


def crop_sizes(
    spectrum: Float[np.ndarray, "h w"], noise_std: Float[np.ndarray, " k"], *, excess: float = 0.05
) -> Int[np.ndarray, " k"]:
    """For each of the rising noise levels, the side of the smallest crop that will do there and at all levels below.

    A crop will do where its error is at most 1 + `excess` times the whole image's. Sides are odd, less than the shorter
    side of the image and at most `LARGEST`; where none of these will do, the answer is the longer side: the whole image
    is needed. Raises `ValueError` for levels that are not positive or do not rise, an `excess` that is not positive,
    and a spectrum that is negative, not finite or not of two axes.
    """
    require_positive("noise_std", noise_std)
    require_positive("excess", excess)
    require(bool(np.all(np.diff(noise_std) > 0)), "noise_std", noise_std, "levels that rise")
    allowed = range(1, min(*spectrum.shape, LARGEST + 1), 2)
    place, sizes = 0, []
    for level in noise_std:
        most = (1 + excess) * image_error(spectrum, level)
        while place < len(allowed) and crop_error(spectrum, allowed[place], level) > most:
            place += 1
        sizes.append(allowed[place] if place < len(allowed) else max(spectrum.shape))
    return np.array(sizes)


def _check(spectrum: np.ndarray, noise_std: float) -> None:
    require(spectrum.ndim == 2, "spectrum", f"shape {spectrum.shape}", "of shape (h, w)")
    require_finite("spectrum", spectrum)
    require(bool(np.all(spectrum >= 0)), "spectrum", f"smallest entry {np.min(spectrum):.3g}", ">= 0")
    require_positive("noise_std", noise_std)
