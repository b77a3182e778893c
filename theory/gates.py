"""The noise gate: at which noise levels a sample may train, and with what weight (Ambient Diffusion Omni,
sections 2 and 3).

σ is the noise-to-signal ratio, one number or one per frequency. A sample with the range (sigma_min,
sigma_max) trains

    σ ≤ sigma_max           as it is, weight 1                                       (low noise: only crops
    matter) σ ≥ buffer(sigma_min)   noised once to sigma_min and kept; weight 1/α² = σ⁴ / (σ² − sigma_min²)² ≤
    max_weight

and is unused between ("donut"). The weight is at most L exactly for σ ≥ sigma_min / √(1 − 1/√L): 1.848
sigma_min at L = 2 and √2 sigma_min at L = 4 (the paper prints √2 and 2/√3, which let weights of 4 and 16
through). A clean sample has sigma_min = 0: weight 1 everywhere; an unusable one sigma_min = inf.

On a path, gates are *times*: the kept point is noised to t_n, the first time at which every frequency has σ ≥
sigma_min, and α, weight and buffer are per frequency, measured from σ(t_n). The gate opens again when every
frequency has passed its buffer.

JAX, float32 or float64; the elementwise functions may be jitted and vmapped.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Key, ScalarLike, Shaped

from theory._checks import is_concrete, require
from theory.path_base import Gain, Path, Time

Ratio = TypeVar("Ratio", float, Array)
HALVINGS = 52
"""Bisections of [0, 1]: to 2e-16, the rounding of a time."""
CHUNK = 256


def ambient_alpha(sigma: Shaped[ArrayLike, "..."], sigma_min: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
    """α = (σ² − sigma_min²) / σ² elementwise, for σ > sigma_min ≥ 0 (by factors: no cancellation in the
    squares).

    Raises `ValueError` outside these ranges.
    """
    sigma, sigma_min = jnp.asarray(sigma, dtype=float), jnp.asarray(sigma_min, dtype=float)
    _require_all("sigma_min", sigma_min >= 0, sigma_min, "at least 0")
    _require_all("sigma", sigma > sigma_min, sigma, f"above sigma_min = {sigma_min}")
    return alpha_of_ratio(sigma_min / sigma)


def alpha_of_ratio(ratio: Ratio) -> Ratio:
    """α = 1 − ratio² by factors, ratio = sigma_min / σ in [0, 1): a float or a JAX array."""
    return (1 - ratio) * (1 + ratio)


def ambient_weight(sigma: Shaped[ArrayLike, "..."], sigma_min: Shaped[ArrayLike, "..."]) -> Float[Array, "..."]:
    """1/α² = σ⁴ / (σ² − sigma_min²)² elementwise, for σ > sigma_min ≥ 0: makes the ambient loss one of x0
    again."""
    return ambient_alpha(sigma, sigma_min) ** -2


def buffer_noise(sigma_min: Shaped[ArrayLike, "..."], max_weight: ScalarLike) -> Float[Array, "..."]:
    """The smallest σ with weight ≤ max_weight: sigma_min / √(1 − 1/√max_weight); max_weight > 1 (the paper's
    best: 4).

    Raises `ValueError` outside these ranges.
    """
    sigma_min, max_weight = jnp.asarray(sigma_min, dtype=float), jnp.asarray(max_weight, dtype=float)
    _require_all("sigma_min", sigma_min >= 0, sigma_min, "at least 0")
    _require_all("max_weight", max_weight > 1, max_weight, "above 1")
    return sigma_min / jnp.sqrt(1 - 1 / jnp.sqrt(max_weight))


class NoiseGate(eqx.Module):
    """The gate of one sample: its range of noise levels, as an operator (noised once and kept) and as a
    weight.

    **Arguments:** `sigma_min` in [0, inf], `sigma_max` ≥ 0 (default 0: no use at low noise), `max_weight` >
    1. Raises `ValueError` outside these ranges.
    """

    sigma_min: ScalarLike
    sigma_max: ScalarLike = 0.0
    max_weight: ScalarLike = 4.0

    def __check_init__(self) -> None:
        """Refuse negative levels and a largest weight that no level meets."""
        _require_all("sigma_min", jnp.asarray(self.sigma_min) >= 0, self.sigma_min, "at least 0")
        _require_all("sigma_max", jnp.asarray(self.sigma_max) >= 0, self.sigma_max, "at least 0")
        _require_all("max_weight", jnp.asarray(self.max_weight) > 1, self.max_weight, "above 1")

    def sample(self, key: Key[Array, ""], value: Float[Array, " d"], index: ScalarLike = 0) -> Float[Array, " d"]:
        """The kept point x_n = value + sigma_min z, z folded from the sample's `index`: the same at every
        use."""
        noise = jax.random.normal(jax.random.fold_in(key, index), value.shape, value.dtype)
        return value + jnp.asarray(self.sigma_min, value.dtype) * noise

    def mean(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """Mean of the kept point over keys: the value itself (exact law: N(value, sigma_min² I))."""
        return value

    def variance(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """Variance of each coordinate of the kept point; the coordinates are independent."""
        return jnp.full_like(value, jnp.asarray(self.sigma_min, value.dtype) ** 2)

    def weight(self, sigma: ScalarLike) -> Float[Array, ""]:
        """Weight of the sample at noise level σ > 0: 1 below sigma_max, 1/α² from the buffer on, 0
        between."""
        sigma, low = jnp.asarray(sigma, dtype=float), jnp.asarray(self.sigma_min, dtype=float)
        from_buffer = sigma >= buffer_noise(self.sigma_min, self.max_weight)
        ratio = jnp.where(from_buffer, low / sigma, 0.0)
        high_noise = jnp.where(from_buffer, (1 - ratio**2) ** -2, 0.0)
        return jnp.where(sigma <= jnp.asarray(self.sigma_max), 1.0, high_noise)

    def times(self, path: Path) -> "GateTimes":
        """The gate in the times of a path: `gate_times` for one sample."""
        low, high, most = (float(np.asarray(level)) for level in (self.sigma_min, self.sigma_max, self.max_weight))
        return gate_times(path, low, high, max_weight=most)[0]

    def path_weight(self, path: Path, t: float) -> Float[np.ndarray, "..."]:
        """Weight per frequency (a scalar on scalar paths) at time t: 1 up to t_max, 1/α² from t_open on, 0
        between."""
        gate, sigma = self.times(path), noise_to_signal(path, t)
        if t <= gate.t_max or t < gate.t_open or gate.t_n < 0:
            return np.full_like(sigma, 1.0 if gate.opens(t) else 0.0)
        with np.errstate(invalid="ignore"):  # inf / inf at t = 1, where the weight is that of pure noise: 1
            ratio = np.nan_to_num(noise_to_signal(path, float(gate.t_n)) / sigma, nan=0.0)
        return np.asarray((1 - ratio**2) ** -2)


class GateTimes(eqx.Module):
    """Gates as times: a sample trains as it is for t <= `t_max`, and as its kept point at `t_n` for t >= `t_open`.

    Scalars for one sample, or arrays `n`; -inf in `t_n`: never noised (a clean sample); -inf in `t_max`, +inf in
    `t_open`: no such range.
    """

    t_max: Float[Array, "*n"]
    t_n: Float[Array, "*n"]
    t_open: Float[Array, "*n"]

    def __getitem__(self, index: ArrayLike) -> "GateTimes":
        """The gate of sample `index`, or of several."""
        return GateTimes(self.t_max[index], self.t_n[index], self.t_open[index])

    def opens(self, t: Time) -> Bool[Array, "*n"]:
        """Whether the sample trains at time `t`, in one way or the other."""
        return (jnp.asarray(t) <= self.t_max) | (jnp.asarray(t) >= self.t_open)

    def uses_kept(self, t: Time) -> Bool[Array, "*n"]:
        """Whether the sample trains at time `t` as its kept point."""
        return (jnp.asarray(t) >= self.t_open) & (jnp.asarray(t) > self.t_max)


def gate_times(path: Path, sigma_min: ArrayLike, sigma_max: ArrayLike = 0.0, *, max_weight: float = 4.0) -> GateTimes:
    """The gates of a whole data set in the times of a path: arrays of shape `n`.

    **Arguments:** `sigma_min` in [0, inf], one per sample (0: clean); `sigma_max` >= 0, one per sample or for all;
    `max_weight` > 1. Bisects once for each distinct pair of levels. Raises `ValueError` outside these ranges.
    """
    low, high = np.broadcast_arrays(np.atleast_1d(np.asarray(sigma_min)), np.asarray(sigma_max))
    require(low.ndim == 1, "sigma_min", f"shape {low.shape}", "one number per sample")
    require(bool(np.all(low >= 0)), "sigma_min", low, "at least 0")
    require(bool(np.all(high >= 0)), "sigma_max", high, "at least 0")
    require(max_weight > 1, "max_weight", max_weight, "above 1")
    levels, index = np.unique(np.stack([low, high], axis=1), axis=0, return_inverse=True)
    times = _gate_times(path, jnp.asarray(levels, float), jnp.asarray(max_weight, float))
    return times[index.reshape(-1)]


@eqx.filter_jit
def _gate_times(path: Path, levels: Float[Array, "m 2"], max_weight: Float[Array, ""]) -> GateTimes:
    def one(pair: Float[Array, " 2"]) -> GateTimes:
        low, high = pair
        t_n = path.t_min(low)
        kept = _ratio(path, jnp.where(jnp.isfinite(t_n), t_n, 0.0))
        usable = jnp.isfinite(low) & jnp.isfinite(t_n) & jnp.all(jnp.isfinite(kept))
        needed = jnp.where(low > 0, buffer_noise(kept, max_weight), 0.0)
        t_open = _first(lambda t: jnp.all(_ratio(path, t) >= needed))
        t_high = _first(lambda t: jnp.any(_ratio(path, t) > high))
        t_max = jnp.where(jnp.all(_ratio(path, 0.0) <= high), jnp.minimum(t_high, 1.0), -jnp.inf)
        t_n, t_open = (jnp.where(usable, t, jnp.inf) for t in (t_n, t_open))
        return GateTimes(t_max, jnp.where(low > 0, t_n, -jnp.inf), t_open)

    return jax.lax.map(one, levels, batch_size=CHUNK)


@eqx.filter_jit
def _ratio(path: Path, t: Time) -> Gain:
    return path.noise(t) / path.signal(t)


def _first(reached: Callable[[Array], Array]) -> Float[Array, ""]:
    """Smallest t in [0, 1] at which the monotone predicate is true, by bisection; inf if it never is."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        there = reached(middle)
        return jnp.where(there, ends[0], middle), jnp.where(there, middle, ends[1])

    zero = jnp.zeros(())
    high = jax.lax.fori_loop(0, HALVINGS, halve, (zero, zero + 1))[1]
    return jnp.where(reached(zero), 0.0, jnp.where(reached(zero + 1), high, jnp.inf))


def noise_to_signal(path: Path, t: float) -> Float[np.ndarray, "..."]:
    """σ = noise / signal at time t, per frequency; inf where the signal is gone."""
    return np.asarray(_ratio(path, jnp.asarray(t, dtype=float)))


def _require_all(argument: str, condition: object, given: object, allowed: str) -> None:
    """`require` over an array, where it is concrete."""
    if is_concrete(condition):
        require(bool(np.all(np.asarray(condition))), argument, given, allowed)
