"""What a corruption path is: x_t = A_t x0 + S_t ε for t in [0, 1], clean at 0 and noise at 1.

ε ~ N(0, I) is drawn afresh. The gains A_t (signal) and S_t (noise) are diagonal in a fixed orthonormal basis:
scalars, or one number per pixel or per frequency of the unitary discrete Fourier transform. Per frequency
they must be even in the frequency, as every power spectrum of real images is; then real images stay real.

    log-SNR          λ_t = log(A_t² / S_t²), falling in t at every frequency
    one noise level  S_t / A_t = exp(-λ_t / 2)
    marginal         variance A_t² D + S_t² where the data have variance D

A path is given by its *powers* A_t² and S_t², which are smooth on the closed interval [0, 1] even where a
gain itself starts or ends like a square root. There the gain's derivative in t is infinite; autodiff returns
0 for it, so that gradients with respect to parameters stay finite at the ends. Use `powers`, or stay inside
`t_range`, for derivatives in t.

Layout: one sample at a time. A per-frequency path on a grid `(H, W)` acts on the leading axes of a sample, so
`(H, W)` and `(H, W, C)` images (same gains in every channel) both work; use `jax.vmap` for batches. A scalar
path acts on any shape. Laws (`marginal`, `prior`) are about samples flattened in row-major (C) order.

Number types follow the arguments: float32 in, float32 out.
Compile with `equinox.filter_jit(lambda path, t: ...)` or a closure; `jax.jit(path.signal)` fails, as arrays cannot be
hashed.
"""

import abc
import functools
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from theory._checks import is_concrete, require, require_finite
from theory.gaussian import Gaussian

Time = Float[ArrayLike, ""] | int
"""A time in [0, 1]."""
Gain = Float[Array, "..."]
"""A scalar, or one number per point of the path's grid."""
Sample = Float[Array, "..."]
"""One sample, of a shape that fits the path."""
Basis = Literal["dft", "pixels"]


@runtime_checkable
class Law(Protocol):
    """A distribution on flattened samples that knows its own image under x -> A x + N(0, C): Gaussian or
    mixture."""

    def pushforward(self, matrix: Any, noise_cov: Any) -> Any:
        """The law of A x + N(0, noise_cov)."""
        ...


LawT = TypeVar("LawT", bound=Law)


@functools.partial(jax.jit, inline=True)
def safe_sqrt(power: Float[Array, "..."]) -> Float[Array, "..."]:
    """√power, with derivative 0 rather than infinity where `power` is 0 (or negative by rounding, taken as
    0)."""
    positive = power > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, power, 1.0)), 0.0)


class Path(eqx.Module):
    """Abstract corruption path. A new one is a small final class with `powers`, `_times_at`, `t_range` and
    two flags.

    `starts_clean`: S_0 = 0 and A_0 = 1. `ends_in_unit_noise`: the sampler starts from N(0, I), whatever the
    data.
    """

    starts_clean: eqx.AbstractClassVar[bool]
    ends_in_unit_noise: eqx.AbstractClassVar[bool]

    @abc.abstractmethod
    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """(A_t², S_t²), smooth on the closed interval [0, 1]: scalars, or arrays of the grid's shape."""

    @abc.abstractmethod
    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        """The time at which each frequency has this log-SNR; beyond 1, infinite or NaN where it never has."""

    @abc.abstractmethod
    def _at_reference(self, values: Gain) -> Float[Array, ""]:
        """The entry of a per-frequency array at the path's reference frequency."""

    @property
    @abc.abstractmethod
    def t_range(self) -> tuple[float, float]:
        """(earliest, latest) times between which log-SNR is finite also in float32; grids that use log-SNR
        stay inside."""

    @property
    @abc.abstractmethod
    def grid(self) -> tuple[int, ...]:
        """Shape of the grid of frequencies or pixels; () for a scalar path."""

    @abc.abstractmethod
    def to_basis(self, x: Float[Array, "..."]) -> Array:
        """Coefficients of a sample in the path's orthonormal basis: same shape; complex for the Fourier
        basis."""

    @abc.abstractmethod
    def from_basis(self, coefficients: Array) -> Float[Array, "..."]:
        """The real sample with these coefficients; inverse of `to_basis`."""

    def signal(self, t: Time) -> Gain:
        """Signal gain A_t >= 0, a scalar or of the grid's shape."""
        return safe_sqrt(self.powers(t)[0])

    def noise(self, t: Time) -> Gain:
        """Noise gain S_t >= 0, a scalar or of the grid's shape: the standard deviation of the noise in
        x_t."""
        return safe_sqrt(self.powers(t)[1])

    def log_snr(self, t: Time) -> Gain:
        """λ_t = log(A_t² / S_t²), falling in t; infinite at the ends of many paths (see `t_range`)."""
        signal, noise = self.powers(t)
        return jnp.log(signal) - jnp.log(noise)

    def reference_log_snr(self, t: Time) -> Float[Array, ""]:
        """λ_t of the reference frequency, or of all coordinates on a scalar path: what `time_at` inverts."""
        return self._at_reference(self.log_snr(t))

    def time_at(self, log_snr: Time) -> Float[Array, ""]:
        """The time at which the log-SNR (of the reference frequency, for a per-frequency path) has this
        value.

        Inverse of `log_snr`. A value that the path never takes gives a time outside [0, 1], or NaN.
        """
        return self._at_reference(self._times_at(_as_float(log_snr)))

    def t_min(self, sigma_min: Time) -> Float[Array, ""]:
        """First time at which noise / signal >= `sigma_min` at *every* frequency: the gate of ambient
        training.

        `sigma_min` >= 0 is a noise-to-signal ratio. 0 where every time will do, +inf where the path never
        gets there. Raises `ValueError` for a negative or NaN `sigma_min`.
        """
        sigma = _as_float(sigma_min)
        if is_concrete(sigma):
            require(bool(sigma >= 0), "sigma_min", sigma_min, "a noise-to-signal ratio >= 0")
        time = jnp.max(self._times_at(-2 * jnp.log(sigma)))
        return jnp.where(time <= 1, jnp.maximum(time, 0.0), jnp.inf)

    def corrupt(self, x0: Float[Array, "..."], t: Time, eps: Float[Array, "..."]) -> Float[Array, "..."]:
        """x_t = A_t x0 + S_t eps for one sample; `eps` is standard normal of the same shape and type as `x0`.

        Raises `ValueError` where the shapes differ or the sample does not fit the grid.
        """
        require(x0.shape == eps.shape, "eps", f"shape {eps.shape}", f"of x0's shape {x0.shape}")
        return mix(self, (self.signal(t), x0), (self.noise(t), eps))

    def marginal(self, law: LawT, t: Time) -> LawT:
        """The exact law of x_t where x0 (flattened in row-major order) has the law given, a Gaussian or a
        mixture.

        Dense: builds the d x d matrices of A_t and S_t². Raises `ValueError` where d is not a multiple of the
        grid's size (the rest being channels).
        """
        signal, noise = self.signal(t), self.powers(t)[1]
        d = law_dimension(law)
        return law.pushforward(self._matrix(signal, d), self._matrix(noise, d))

    def prior(self, reference: Law) -> Gaussian:
        """The Gaussian that a sampler starts from at t = 1 when the data have the law `reference` (Gaussian
        or mixture).

        N(0, I) for a path that `ends_in_unit_noise`; else the moments of the exact law at t = 1, which depend
        on the data.
        """
        if not self.ends_in_unit_noise:
            end = self.marginal(reference, 1.0)
            return end if isinstance(end, Gaussian) else end.moments()  # type: ignore[attr-defined]
        mean = jnp.zeros(law_dimension(reference))
        return Gaussian(mean, jnp.eye(mean.shape[0]))

    def _matrix(self, gain: Gain, d: int) -> Float[Array, "d d"]:
        """The d x d matrix, on flattened samples, of multiplication by `gain` in the basis."""
        size = int(np.prod(self.grid, dtype=int))
        require(d % size == 0, "law", f"dimension {d}", f"on a multiple of the grid's {size} points")
        if not self.grid:
            return gain * jnp.eye(d)
        unit = jnp.eye(size).reshape(size, *self.grid)
        rows = jax.vmap(lambda x: self.from_basis(gain * self.to_basis(x)))(unit).reshape(size, size)
        return jnp.kron((rows + rows.T) / 2, jnp.eye(d // size))


def _as_float(value: Time) -> Float[Array, ""]:
    array = jnp.asarray(value)
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


def law_dimension(law: Law) -> int:
    """Dimension d of a law's samples."""
    mean: Any = law.mean if hasattr(law, "mean") else law.means  # type: ignore[attr-defined]
    return int(mean.shape[-1])


def match_axes(gain: Gain, x: Array) -> Array:
    """Reshape a gain so that it multiplies the leading axes of `x` (trailing axes are channels).

    Raises `ValueError` where the leading axes of `x` are not those of the gain.
    """
    if gain.ndim == 0:
        return gain
    shape = x.shape[: gain.ndim]
    require(shape == gain.shape, "x0", f"shape {x.shape}", f"of shape {gain.shape}, channels may follow")
    return gain.reshape(gain.shape + (1,) * (x.ndim - gain.ndim))


def mix(path: Path, *terms: tuple[Gain, Sample]) -> Sample:
    """Σ gain · x over (gain, x) pairs, the gains being diagonal in the path's basis; of the first sample's type.

    No change of basis where all gains are numbers. Raises `ValueError` where a sample does not fit the grid.
    """
    dtype = terms[0][1].dtype
    gains = [jnp.asarray(gain, dtype) for gain, _ in terms]
    scalar = all(gain.ndim == 0 for gain in gains)
    parts = [
        gain * x if scalar else match_axes(gain, x) * path.to_basis(x)
        for gain, (_, x) in zip(gains, terms, strict=True)
    ]
    total = functools.reduce(jnp.add, parts)
    return (total if scalar else path.from_basis(total)).astype(dtype)


class ScalarPath(Path):
    """Abstract path whose gains are numbers: the basis is that of the sample itself (pixels), of any
    shape."""

    @property
    def grid(self) -> tuple[int, ...]:
        """(): one gain for all coordinates."""
        return ()

    def _at_reference(self, values: Gain) -> Float[Array, ""]:
        return values

    def to_basis(self, x: Float[Array, "..."]) -> Float[Array, "..."]:
        """The sample itself."""
        return x

    def from_basis(self, coefficients: Float[Array, "..."]) -> Float[Array, "..."]:
        """The coefficients themselves."""
        return coefficients


class SpectralPath(Path):
    """Abstract path with one gain per point of a grid: per frequency ("dft") or per coordinate ("pixels").

    Keyword-only fields: `basis`, and `reference`, the index on the grid of the frequency that `time_at`
    speaks of (default: the lowest non-zero one along the last axis).
    """

    basis: Basis = eqx.field(default="dft", static=True, kw_only=True)
    reference: tuple[int, ...] | None = eqx.field(default=None, static=True, kw_only=True)

    def _at_reference(self, values: Gain) -> Float[Array, ""]:
        default = (0,) * (len(self.grid) - 1) + (min(1, self.grid[-1] - 1),)
        return values[default if self.reference is None else self.reference]

    def to_basis(self, x: Float[Array, "..."]) -> Array:
        """Unitary DFT over the grid's (leading) axes, `jnp.fft.fftn(norm="ortho")`; the sample itself for
        "pixels"."""
        if self.basis == "pixels":
            return x
        return jnp.fft.fftn(x, axes=tuple(range(len(self.grid))), norm="ortho")

    def from_basis(self, coefficients: Array) -> Float[Array, "..."]:
        """Inverse unitary DFT, real part (coefficients of a real sample have no other)."""
        if self.basis == "pixels":
            return coefficients
        return jnp.fft.ifftn(coefficients, axes=tuple(range(len(self.grid))), norm="ortho").real


EVENNESS = 1e-3
"""Relative difference of D(f) and D(-f) that is put down to rounding (float32 transforms of few images)."""


def check_spectrum(spectrum: Float[Array, "..."], basis: Basis, reference: tuple[int, ...] | None) -> None:
    """Raise `ValueError` unless the spectrum is positive, finite, even (Fourier basis) and has `reference`."""
    require(spectrum.ndim >= 1, "spectrum", f"shape {spectrum.shape}", "an array with one entry per frequency")
    check_reference(spectrum.shape, reference)
    require_finite("spectrum", spectrum)
    if not is_concrete(spectrum):
        return
    values = np.asarray(spectrum)
    require(bool(np.all(values > 0)), "spectrum", f"smallest entry {values.min():.3g}", "positive")
    if basis == "dft":
        mirror = np.roll(np.flip(values), 1, axis=tuple(range(values.ndim)))
        uneven = float(np.max(np.abs(values / mirror - 1)))
        allowed = "even, D(-f) = D(f) in FFT order (or pass basis='pixels')"
        require(uneven <= EVENNESS, "spectrum", f"relative asymmetry {uneven:.3g}", allowed)


def check_reference(grid: tuple[int, ...], reference: tuple[int, ...] | None) -> None:
    """Raise `ValueError` unless `reference` is an index of the grid (or None)."""
    if reference is None:
        return
    inside = len(reference) == len(grid) and all(-n <= i < n for i, n in zip(reference, grid, strict=True))
    require(inside, "reference", reference, f"an index of the grid {grid}")
