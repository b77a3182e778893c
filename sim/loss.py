"""The one denoising loss, of one sample, for every path, parameterisation and weight; used by `imagegen` unchanged.

    loss = mean over coordinates of w_f |F̂ - F|²_f,    F the parameterisation's target, f a frequency,

w = 1 being "uniform in this parameterisation". On scalar paths and for scalar weights f is any coordinate. The *mean*
over the d coordinates makes losses of different sizes comparable; the losses of `theory` are sums, d times this one.
In terms of x0 the weight is w Δ²/S² (see `sim.parameterisations`), so the same loss can be written in any of them:

    UniformIn(P)     w = Δ_P²/Δ²               uniform in P's space, whatever the network predicts
    MinSNR(γ)        w = min(A², γ S²)/Δ²      min(SNR, γ) on x0 (Hang et al. 2023, eq. 8), the SNR per frequency:
                                               min(SNR, γ)/SNR on noise, min(SNR, γ)/(SNR + 1) on velocity
    EDM's            uniform with `EDM`, or UniformIn(EDM(σ_d)): 1/c_out² = SNR + 1/σ_d² on x0

All are computed from A, S and Δ without forming an SNR that overflows; at the ends of the path the targets and
min-SNR weights are finite, and so is the loss (`UniformIn` is about 1e30, not infinite, where Δ alone is 0).

Which times are drawn is the other half of the weighting: `UniformTime`, or EDM's `LogNormalTime`. `stratified` spreads
the draws evenly over a batch.

*Input perturbation* (Ning et al. 2023): pass `seen`, the noise that the network's input is made with; the target keeps
`eps`. *Ambient* training: `ambient_pair` and `gated_pair` (`sim.gating`) give the pair (x0, eps) to pass here.
`corrupted_loss` does both.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, ScalarLike

from sim.gating import gated_pair
from sim.parameterisations import Parameterisation, Predictor
from theory._checks import require, require_between, require_positive
from theory.corruption import VectorCorruption
from theory.gates import GateTimes
from theory.path_base import Gain, Path, Sample, Time, match_axes

Weight = Callable[[Path, Parameterisation, Time], Gain]
"""`weight(path, parameterisation, t)` -> w >= 0 on the squared error of the output: a scalar, or one per frequency."""


def uniform(path: Path, parameterisation: Parameterisation, t: Time) -> Gain:
    """1: uniform in the space of what the network predicts."""
    return jnp.ones(())


class UniformIn(eqx.Module):
    """The loss of a network that predicts in `space`, for a network that predicts anything else."""

    space: Parameterisation

    def __call__(self, path: Path, parameterisation: Parameterisation, t: Time) -> Gain:
        """(Δ_space / Δ)²."""
        signal, noise = _floored(path.signal(t), path.noise(t))
        return (self.space.determinant(signal, noise) / parameterisation.determinant(signal, noise)) ** 2


class MinSNR(eqx.Module):
    """min(SNR, gamma) on the error of x0; 5 in the paper. Raises `ValueError` unless gamma > 0.

    Source: Hang et al. 2023, section 3.4.
    """

    gamma: ScalarLike = 5.0

    def __check_init__(self) -> None:
        """Refuse a bound that is not positive."""
        require_positive("gamma", self.gamma)

    def __call__(self, path: Path, parameterisation: Parameterisation, t: Time) -> Gain:
        """min(A², γ S²)/Δ²."""
        signal, noise = _floored(path.signal(t), path.noise(t))
        determinant = parameterisation.determinant(signal, noise)
        return jnp.minimum((signal / determinant) ** 2, self.gamma * (noise / determinant) ** 2)


def _floored(signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
    """The gains, a vanished one replaced by 1e-15 of the other: then ratios have their limits, and no square in them
    under- or overflows in float32.
    """
    return jnp.maximum(signal, 1e-15 * noise), jnp.maximum(noise, 1e-15 * signal)


def denoising_loss(
    predictor: Predictor,
    x0: Sample,
    t: Time,
    eps: Sample,
    cond: Any = None,
    *,
    weight: Weight = uniform,
    seen: Sample | None = None,
) -> Float[Array, ""]:
    """The loss of one sample, in the sample's dtype.

    **Arguments:**

    - `predictor`: network, path and parameterisation; differentiate with respect to its network.
    - `x0`: clean sample; `t` in [0, 1]; `eps`: standard normal noise, of x0's shape; `cond`: given to the network.
    - `weight`: `uniform`, `UniformIn(...)`, `MinSNR(...)` or a function of the same kind.
    - `seen`: the noise in the network's input where it is not `eps`, e.g. `InputPerturbation(γ).sample(key, eps)`.

    Raises `ValueError` where shapes differ or `t` is outside [0, 1].
    """
    path, parameterisation = predictor.path, predictor.parameterisation
    require_between("t", t, 0.0, 1.0)
    xt = path.corrupt(x0, t, eps if seen is None else seen)
    output = predictor.output(xt, t, cond)
    error = output - parameterisation.target(path, x0, eps, t)
    return _mean_square(path, weight(path, parameterisation, t), error)


def corrupted_loss(
    predictor: Predictor,
    x0: Sample,
    t: Time,
    eps: Sample,
    cond: Any = None,
    *,
    key: Key[Array, ""],
    key_kept: Key[Array, ""],
    weight: Weight = uniform,
    gate: GateTimes | None = None,
    input_operator: VectorCorruption | None = None,
) -> Float[Array, ""]:
    """`denoising_loss` of one sample under its noise gate and with its input perturbed, as training needs it.

    **Arguments:** as there, and

    - `gate`: scalars; the sample is noised once with noise of `key_kept` (folded from its index), see `gated_pair`;
      0 where it is closed at t.
    - `input_operator`: applied to the noise of the network's input with `key`, e.g. `InputPerturbation(0.1)`.

    Raises `ValueError` as `denoising_loss` does.
    """
    opened = jnp.ones((), eps.dtype)
    if gate is not None:
        kept_noise = jax.random.normal(key_kept, x0.shape, x0.dtype)
        (x0, eps), opened = gated_pair(predictor.path, gate, x0, kept_noise, t, eps)
    seen = None if input_operator is None else input_operator.sample(key, eps.reshape(-1)).reshape(eps.shape)
    return opened * denoising_loss(predictor, x0, t, eps, cond, weight=weight, seen=seen)


def _mean_square(path: Path, weight: Gain, error: Sample) -> Float[Array, ""]:
    """Mean of w |error|² over frequencies and channels; the basis is orthonormal, so a scalar w needs none."""
    w = weight.astype(error.dtype)
    if w.ndim == 0:
        return w * jnp.mean(error**2)
    coefficients = path.to_basis(error)
    return jnp.mean(match_axes(w, error) * (coefficients.real**2 + coefficients.imag**2))


class TimeLaw(eqx.Module):
    """Abstract law of training times, given by its quantiles."""

    @abc.abstractmethod
    def quantile(self, path: Path, u: Float[Array, ""]) -> Float[Array, ""]:
        """The time in [0, 1] below which a share `u` in [0, 1] of the draws lies."""


class UniformTime(TimeLaw):
    """Uniform on [`low`, `high`]. Raises `ValueError` unless 0 <= low < high <= 1."""

    low: float = 0.0
    high: float = 1.0

    def __check_init__(self) -> None:
        """Check the range."""
        require(0 <= self.low < self.high <= 1, "low, high", (self.low, self.high), "0 <= low < high <= 1")

    def quantile(self, path: Path, u: Float[Array, ""]) -> Float[Array, ""]:
        """low + (high - low) u."""
        return self.low + (self.high - self.low) * u


class LogNormalTime(TimeLaw):
    """log σ ~ N(`mean`, `std`²), σ the noise-to-signal ratio at the path's reference frequency.

    Times are clipped to `path.t_range`. Source: Karras et al. 2022, table 1 (P_mean = -1.2, P_std = 1.2). Raises
    `ValueError` unless std > 0.
    """

    mean: float = -1.2
    std: float = 1.2

    def __check_init__(self) -> None:
        """Check the standard deviation."""
        require_positive("std", self.std)

    def quantile(self, path: Path, u: Float[Array, ""]) -> Float[Array, ""]:
        """The path's time at σ = exp(mean + std Φ⁻¹(u))."""
        edge = jnp.finfo(u.dtype).eps
        log_sigma = self.mean + self.std * jax.scipy.special.ndtri(jnp.clip(u, edge, 1 - edge))
        return jnp.clip(path.time_at(-2 * log_sigma), *path.t_range)


def stratified(key: Key[Array, ""], batch: int) -> Float[Array, " batch"]:
    """`batch` numbers in [0, 1), evenly spaced with one random shift: each is uniform, together they are spread.

    Give them to `TimeLaw.quantile`. Source: Kingma et al. 2021, appendix I.1. Raises `ValueError` for batch < 1.
    """
    require(batch >= 1, "batch", batch, "at least 1")
    shifted = jax.random.uniform(key) + jnp.arange(batch) / batch
    return shifted - jnp.floor(shifted)
