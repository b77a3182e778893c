"""Power spectra of images: estimated, fitted by a power law, and modelled.

Images are taken as a zero-mean stationary Gaussian field on the torus: covariance F diag(D) Fᴴ with F the
unitary 2-D DFT. Then

    D(f) = E |û(f)|²,   û = unitary DFT of the image,   mean of D over all frequencies = variance per pixel (Parseval)

Natural images follow D(f) ~ c1 / |c2 + |f||^m, |f| the Euclidean norm of the integer frequency (SPD, section
4: c1 = 1.59, c2 = 0.0086, m = 2 for 32 x 32 images in [-1, 1]). Frequencies are in FFT order throughout: (0,
0) first.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Real
from scipy.optimize import least_squares

from theory._checks import require, require_finite

SMALLEST_C2 = 1e-6
"""The least c2 of a fit, in units of one integer frequency: as good as 0, but finite at f = 0."""
LARGEST_M = 10.0
"""The largest exponent of a fit; that of natural images is about 2."""


def integer_frequencies(shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
    """|f|, the Euclidean norm of the signed integer frequency, on a grid of `shape` in FFT order; float64.

    Raises `ValueError` unless `shape` holds positive integers.
    """
    require(len(shape) > 0 and min(shape) >= 1, "shape", shape, "a tuple of positive integers")
    axes = [np.fft.fftfreq(n, d=1 / n) for n in shape]
    return np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*axes, indexing="ij")))


def power_spectrum(images: Real[np.ndarray, "n h w *c"], *, centre: bool = True) -> Float[np.ndarray, "h w"]:
    """Mean of |unitary DFT|² over images and channels: shape (H, W), FFT order, float64, even in the
    frequency.

    **Arguments:**

    - `images`: shape (n, H, W) or (n, H, W, C); any real numbers (the papers scale them to [-1, 1]).
    - `centre`: subtract one number per channel, the mean over all images and pixels (a stationary field has a
      constant mean). A single centred image then has D(0, 0) = 0, which no path accepts: use several images
      or patches.

    Raises `ValueError` for another number of axes, no image, or entries that are not finite.
    """
    require(images.ndim in (3, 4), "images", f"shape {images.shape}", "of shape (n, H, W) or (n, H, W, C)")
    require(images.size > 0, "images", f"shape {images.shape}", "non-empty")
    require_finite("images", images)
    field = images.reshape(*images.shape[:3], -1).astype(np.float64)
    if centre:
        field = field - field.mean(axis=(0, 1, 2))
    power = np.abs(np.fft.fft2(field, axes=(1, 2), norm="ortho")) ** 2
    spectrum = power.mean(axis=(0, 3))
    return (spectrum + np.roll(np.flip(spectrum), 1, axis=(0, 1))) / 2


class PowerLaw(NamedTuple):
    """D(f) = c1 / |c2 + |f||^m over integer frequencies: c1 > 0, c2 > 0, m >= 0. Source: SPD, section 4."""

    c1: float
    c2: float
    m: float

    def spectrum(self, shape: tuple[int, ...]) -> Float[np.ndarray, "..."]:
        """D on a grid of `shape` in FFT order, float64. Raises `ValueError` unless c1, c2 > 0."""
        require(self.c1 > 0 and self.c2 > 0, "PowerLaw", tuple(self), "one with c1 > 0 and c2 > 0")
        return self.c1 / np.abs(self.c2 + integer_frequencies(shape)) ** self.m

    def error(self, spectrum: Float[np.ndarray, "..."]) -> float:
        """Root mean square of log D - log of this law over the frequencies with D > 0: 0.1 is 10 % off.

        `spectrum`: D on a grid in FFT order. Raises `ValueError` unless c1, c2 > 0 and D > 0 somewhere.
        """
        used = spectrum > 0
        require(bool(np.any(used)), "spectrum", "no entry above 0", "positive at some frequency")
        logs = np.log(spectrum[used].astype(np.float64)) - np.log(self.spectrum(spectrum.shape)[used])
        return float(np.sqrt(np.mean(logs**2)))

    def at_limit(self, shape: tuple[int, ...]) -> bool:
        """Whether c2 or m lies at the upper end of what `fit_power_law` searches on a grid of `shape`.

        A fit that does describes no power law: the spectrum bends over its whole range, as an exponential does, or
        falls faster than any power up to `LARGEST_M`. Raises `ValueError` for a bad `shape`.
        """
        near = 1 - 1e-3  # the search stays inside its bounds, by less than this
        return self.c2 >= near * _largest(shape) or self.m >= near * LARGEST_M


def _largest(shape: tuple[int, ...]) -> float:
    return float(integer_frequencies(shape).max())


def fit_power_law(spectrum: Float[np.ndarray, "..."]) -> PowerLaw:
    """The power law that fits log D best: least squares over all frequencies with D > 0, outliers weighing less.

    Searched are c1 > 0, 1e-6 <= c2 <= the largest |f| of the grid, and 0 <= m <= `LARGEST_M` = 10. There is always a
    best law within; whether it describes the spectrum is told by `PowerLaw.error` (how far off it is) and
    `PowerLaw.at_limit` (whether it lies at the upper end of c2 or m, as on 8 x 8 digits: then no power law fits).

    Every frequency of the grid counts once, so a radius weighs as much as it has frequencies. Given c2 the
    fit is linear: the best of 60 values of c2 starts a bounded least-squares search (SciPy) with the soft-L1
    loss at scale 1, i.e. a residual of log D beyond 1 counts linearly. For averages of K periodograms log D
    is biased by about -1/(2K) (c1 low by that share); it is not corrected, as natural images are not
    Gaussian.

    NumPy route, not traceable. Raises `ValueError` for negative or non-finite entries, or fewer than 3
    distinct |f| with D > 0.
    """
    require_finite("spectrum", spectrum)
    require(bool(np.all(spectrum >= 0)), "spectrum", f"smallest entry {np.min(spectrum):.3g}", ">= 0")
    used = spectrum > 0
    radius, log_d = integer_frequencies(spectrum.shape)[used], np.log(spectrum[used].astype(np.float64))
    distinct = len(np.unique(np.round(radius, 9)))
    require(distinct >= 3, "spectrum", f"{distinct} distinct |f| with D > 0", "positive at 3 or more distinct |f|")

    def residual(parameters: Float[np.ndarray, "3"]) -> Float[np.ndarray, " k"]:
        return parameters[0] - parameters[2] * np.log(np.exp(parameters[1]) + radius) - log_d

    low, high = [-np.inf, math.log(SMALLEST_C2), 0.0], [np.inf, math.log(_largest(spectrum.shape)), LARGEST_M]
    candidates = np.linspace(low[1], high[1], 60)
    starts = [_linear_fit(c2, radius, log_d) for c2 in candidates]
    start = min(starts, key=lambda parameters: float(np.sum(residual(parameters) ** 2)))
    options = {"bounds": (low, high), "loss": "soft_l1", "x_scale": "jac", "xtol": 1e-14, "ftol": 1e-14}
    found = least_squares(residual, np.clip(start, low, high), gtol=1e-14, **options).x
    return PowerLaw(float(np.exp(found[0])), float(np.exp(found[1])), float(found[2]))


def _linear_fit(
    log_c2: float, radius: Float[np.ndarray, " k"], log_d: Float[np.ndarray, " k"]
) -> Float[np.ndarray, "3"]:
    """(log c1, log c2, m) of least squares for a given c2, with 0 <= m <= LARGEST_M."""
    falls = -np.log(np.exp(log_c2) + radius)
    design = np.stack([np.ones_like(radius), falls], axis=1)
    slope = np.clip(np.linalg.lstsq(design, log_d, rcond=None)[0][1], 0.0, LARGEST_M)
    return np.array([np.mean(log_d - slope * falls), log_c2, slope])
