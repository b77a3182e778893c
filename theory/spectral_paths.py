"""Corruption paths with one gain per frequency (or per coordinate): heat, shortest, Bures and equal-angle.

Notation: D = the data's variance at a frequency (its power spectrum), τ = 1 - t, ℓ = log D, φ(u) = (e^u - 1)/u.
The data at each frequency are N(0, D) for which these paths were made; they corrupt any data.

    ShortestPath    marginal variance D^τ, the Fisher-Rao geodesic from N(0, D) to N(0, 1)
    BuresPath       marginal variance ((1-t) √D + t)², the 2-Wasserstein geodesic between the same ends
    EqualAnglePath  tan θ = A √D / S with θ = (π/2) τ at every frequency

At D = 1 the shortest path's (1 - D^τ)/(1 - D) is 0/0. In terms of ℓ and φ it is A_t² = τ φ(τℓ)/φ(ℓ) and
S_t² = t e^{τℓ} φ(tℓ)/φ(ℓ): smooth, with A_t² -> τ, and neither cancels anywhere.
"""

import math
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from theory._checks import is_concrete, require, require_finite
from theory.path_base import Gain, SpectralPath, Time, check_reference, check_spectrum

_TERMS = 10
_SMALL = 0.1


@partial(jax.jit, inline=True)
def exprel(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """φ(u) = (e^u - 1)/u, φ(0) = 1, smooth with all digits in value and derivative.

    Series for |u| < 0.1 (first term left out below 0.1^10/11! = 3e-18), else expm1.
    """
    small = jnp.abs(u) < _SMALL
    series = jnp.ones_like(u)
    for k in range(_TERMS, 1, -1):
        series = 1 + jnp.where(small, u, 0.0) / k * series
    away = jnp.where(small, 1.0, u)
    return jnp.where(small, series, jnp.expm1(away) / away)


@partial(jax.jit, inline=True)
def logrel(y: Float[Array, "..."]) -> Float[Array, "..."]:
    """log(1 + y)/y for y > -1, 1 at y = 0, smooth in value and derivative.

    Near 0 by artanh: log(1 + y) = 2 artanh z, z = y/(2 + y), and artanh(z)/z = Σ z^{2k}/(2k+1); for |y| < 0.1
    the first term left out is below 0.0527^{16}/17 = 3e-22.
    """
    small = jnp.abs(y) < _SMALL
    near = jnp.where(small, y, 0.0)
    z2 = (near / (2 + near)) ** 2
    series = jnp.zeros_like(y)
    for k in range(7, -1, -1):
        series = 1 / (2 * k + 1) + z2 * series
    away = jnp.where(small, 1.0, y)
    return jnp.where(small, 2 / (2 + near) * series, jnp.log1p(away) / away)


def _array(value: ArrayLike) -> Array:
    return jnp.asarray(value)


class FromSpectrum(SpectralPath):
    """Abstract per-frequency path made for data with power spectrum D: holds and checks the spectrum.

    **Arguments:**

    - `spectrum`: D > 0 per frequency, any grid shape, in FFT order and even for the Fourier basis.
    - `basis`: "dft" (default) or "pixels". `reference`: index of the frequency that `time_at` speaks of.
      Keywords.

    Raises `ValueError` for a spectrum that is not positive, finite and even.
    """

    spectrum: Float[Array, "..."] = eqx.field(converter=_array)

    def __check_init__(self) -> None:
        """Check the spectrum."""
        check_spectrum(self.spectrum, self.basis, self.reference)

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the spectrum."""
        return self.spectrum.shape


class ShortestPath(FromSpectrum):
    """A_t² = (1 - D^τ)/(1 - D), S_t² = 1 - A_t²: the marginal variance is D^τ, a Fisher-Rao geodesic at
    constant speed.

    Frequencies with D < 1 (fine detail) keep their signal longer than those with D > 1. Ends in N(0, I)
    exactly. Source: Das et al. 2023 (SPD), theorem 2. Arguments and errors: `FromSpectrum`.
    """

    starts_clean: ClassVar[bool] = True
    ends_in_unit_noise: ClassVar[bool] = True

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """(τ φ(τℓ)/φ(ℓ), t e^{τℓ} φ(tℓ)/φ(ℓ))."""
        t = jnp.asarray(t)
        log_d = jnp.log(self.spectrum)
        whole, tau = exprel(log_d), 1 - t
        signal = tau * exprel(tau * log_d) / whole
        return signal, t * jnp.exp(tau * log_d) * exprel(t * log_d) / whole

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        """From e^{-tℓ} = 1 + S² (e^{-ℓ} - 1) with S² = 1/(1 + SNR)."""
        noise = jax.nn.sigmoid(-log_snr)
        log_d = jnp.log(self.spectrum)
        return noise * exprel(-log_d) * logrel(noise * jnp.expm1(-log_d))

    @property
    def t_range(self) -> tuple[float, float]:
        """(1e-5, 1 - 1e-5)."""
        return 1e-5, 1 - 1e-5


class BuresPath(FromSpectrum):
    """A_t = 1 - t, S_t² = t² + 2 t (1 - t) √D: the marginal standard deviation is (1 - t) √D + t, linear in
    t.

    That is the 2-Wasserstein geodesic from N(0, D) to N(0, 1). Any signal with A_t² D below the marginal
    variance would do; 1 - t keeps the mean of data on the straight line of rectified flow, S_t² a polynomial,
    and tends to rectified flow (S_t = t) as D -> 0. Because the marginal standard deviation is linear in t,
    Euler steps along the probability flow of Gaussian data are exact. Arguments and errors: `FromSpectrum`.
    """

    starts_clean: ClassVar[bool] = True
    ends_in_unit_noise: ClassVar[bool] = True

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """((1-t)², t² + 2 t (1-t) √D)."""
        t = jnp.asarray(t)
        root = jnp.sqrt(self.spectrum)
        noise = t * (t + 2 * (1 - t) * root)
        return jnp.broadcast_to((1 - t) ** 2, noise.shape).astype(noise.dtype), noise

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        """u = t/(1-t) solves u² + 2u√D = 1/SNR."""
        root, inverse = jnp.sqrt(self.spectrum), jnp.exp(-log_snr)
        u = inverse / (root + jnp.sqrt(root**2 + inverse))
        return jnp.where(jnp.isinf(inverse), 1.0, u / (1 + u))

    @property
    def t_range(self) -> tuple[float, float]:
        """(1e-5, 1 - 1e-5)."""
        return 1e-5, 1 - 1e-5


class EqualAnglePath(FromSpectrum):
    """A_t² = tan²θ/(D + tan²θ), S_t² = 1 - A_t², θ = (π/2)(1 - t): A_t √D / S_t = tan θ at every frequency.

    A DDIM step multiplies the standard deviation, relative to the marginal's, by cos Δθ; equal steps of θ
    maximise the product. Up to a change of scale per frequency this is x_t = sin θ x0 + cos θ √D ε, the
    trigonometric schedule on data whitened by D. Ends in N(0, I) exactly. Arguments and errors:
    `FromSpectrum`.
    """

    starts_clean: ClassVar[bool] = True
    ends_in_unit_noise: ClassVar[bool] = True

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """(sin²θ, D cos²θ) / (sin²θ + D cos²θ)."""
        t = jnp.asarray(t)
        signal = jnp.sin(math.pi / 2 * (1 - t)) ** 2
        noise = self.spectrum * jnp.sin(math.pi / 2 * t) ** 2
        return signal / (signal + noise), noise / (signal + noise)

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        return 2 / math.pi * jnp.arctan(jnp.exp(-log_snr / 2) / jnp.sqrt(self.spectrum))

    @property
    def t_range(self) -> tuple[float, float]:
        """(1e-4, 1 - 1e-4)."""
        return 1e-4, 1 - 1e-4


class Heat(SpectralPath):
    """A_t = α_t d_t(f), S_t = √(1 - α_t²), α_t = cos(π t/2): blurring diffusion, white noise on an image that
    blurs.

    d_t = (1 - d_min) e^{-λ(f) b_t²/2} + d_min, with λ(f) = 4π² Σ (f_i/n_i)² the eigenvalues of the Laplacian
    on the torus and b_t = blur_max sin²(π t/2) the standard deviation, in pixels, of the Gaussian blur.
    Hoogeboom & Salimans 2023 (section 4) use the cosine transform (reflecting borders) and a logSNR clipped
    to [-10, 10]; here it is the Fourier transform (periodic borders), so that all paths share one basis, and
    no clipping: the path ends in N(0, I) exactly.

    **Arguments:**

    - `laplacian`: λ(f) >= 0 in radians² per pixel², see `Heat.on_grid`. `blur_max` >= 0 in pixels (paper:
      20).
    - `d_min`: share of every frequency that never fades, in (0, 1] (paper: 0.001). `reference` as for
      `FromSpectrum`.

    `time_at` has no closed form: bisection to rounding and one Newton step, differentiable. Raises
    `ValueError` for values outside these ranges.
    """

    laplacian: Float[Array, "..."] = eqx.field(converter=_array)
    blur_max: float | Float[Array, ""] = 20.0
    d_min: float | Float[Array, ""] = 0.001
    starts_clean: ClassVar[bool] = True
    ends_in_unit_noise: ClassVar[bool] = True

    @classmethod
    def on_grid(cls, shape: tuple[int, ...], *, blur_max: float = 20.0, d_min: float = 0.001) -> "Heat":
        """The path for images of `shape` (H, W) (or any number of axes), frequencies in FFT order."""
        axes = [(2 * math.pi * jnp.fft.fftfreq(n)) ** 2 for n in shape]
        laplacian = sum(jnp.meshgrid(*axes, indexing="ij"), start=jnp.zeros(()))
        return cls(laplacian, blur_max, d_min)

    def __check_init__(self) -> None:
        """Check the eigenvalues and the two numbers."""
        require(self.laplacian.ndim >= 1, "laplacian", f"shape {self.laplacian.shape}", "one entry per frequency")
        check_reference(self.laplacian.shape, self.reference)
        require_finite("laplacian", self.laplacian)
        if is_concrete(self.laplacian):
            require(bool(jnp.all(self.laplacian >= 0)), "laplacian", f"minimum {self.laplacian.min()}", ">= 0")
        if is_concrete(self.blur_max):
            require(0 <= float(self.blur_max) < math.inf, "blur_max", self.blur_max, "finite and >= 0")
        if is_concrete(self.d_min):
            require(0 < float(self.d_min) <= 1, "d_min", self.d_min, "in (0, 1]")

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the grid of frequencies."""
        return self.laplacian.shape

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """(cos²(π t/2) d_t², sin²(π t/2))."""
        return self._powers_each(jnp.asarray(t))

    def _powers_each(self, t: Gain) -> tuple[Gain, Gain]:
        """The powers, with one time for all frequencies or one for each."""
        noise, clean = jnp.sin(math.pi / 2 * t) ** 2, jnp.sin(math.pi / 2 * (1 - t)) ** 2
        dissipation = self.laplacian * (self.blur_max * noise) ** 2 / 2
        kept = jnp.exp(-dissipation) - self.d_min * jnp.expm1(-dissipation)
        signal = clean * kept**2
        return signal, jnp.broadcast_to(noise, signal.shape).astype(signal.dtype)

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        target = jnp.broadcast_to(log_snr, self.grid)

        def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
            middle = (ends[0] + ends[1]) / 2
            too_clean = self._each_log_snr(middle) > target
            return jnp.where(too_clean, middle, ends[0]), jnp.where(too_clean, ends[1], middle)

        start = jnp.zeros_like(target + self.laplacian)
        ends = jax.lax.fori_loop(0, 60, halve, (start, start + 1))
        time = jax.lax.stop_gradient((ends[0] + ends[1]) / 2)
        inside = (time > 0) & (time < 1)
        safe = jnp.where(inside, time, 0.5)
        value, slope = jax.jvp(lambda s: self._each_log_snr(s), (safe,), (jnp.ones_like(safe),))
        newton = safe - (value - target) / jax.lax.stop_gradient(slope)
        return jnp.where(inside, newton, time)

    def _each_log_snr(self, times: Gain) -> Gain:
        """Log-SNR with one time per frequency."""
        signal, noise = self._powers_each(times)
        return jnp.log(signal) - jnp.log(noise)

    @property
    def t_range(self) -> tuple[float, float]:
        """(1e-4, 1 - 1e-4)."""
        return 1e-4, 1 - 1e-4
