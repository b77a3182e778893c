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

import math
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Key, ScalarLike, Shaped

from theory._checks import is_concrete, require
from theory.path_base import Path

Ratio = TypeVar("Ratio", float, Array)


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

    @property
    def _is_clean(self) -> bool:
        """Never noised, also where the path itself starts with noise."""
        return float(np.asarray(self.sigma_min)) == 0

    def times(self, path: Path) -> tuple[float, float, float]:
        """(t_max, t_n, t_open): trains as it is for t ≤ t_max, is kept at t_n, trains again for t ≥ t_open
        (inf: never).

        Bisection to 1e-12; σ must not fall with t (true of every path here).
        """
        t_max = last_time(path, float(np.asarray(self.sigma_max)))
        if self._is_clean:
            return t_max, 0.0, 0.0
        t_n = float(path.t_min(self.sigma_min))
        if not math.isfinite(t_n):
            return t_max, math.inf, math.inf
        kept = noise_to_signal(path, t_n)
        return t_max, t_n, first_time(path, np.asarray(buffer_noise(kept, self.max_weight)))

    def path_weight(self, path: Path, t: float) -> Float[np.ndarray, "..."]:
        """Weight per frequency (a scalar on scalar paths) at time t: 1 up to t_max, 1/α² from t_open on, 0
        between."""
        t_max, t_n, t_open = self.times(path)
        sigma = noise_to_signal(path, t)
        if self._is_clean:
            return np.ones_like(sigma)
        if t <= t_max or t < t_open:
            return np.full_like(sigma, 1.0 if t <= t_max else 0.0)
        with np.errstate(invalid="ignore"):  # inf / inf at t = 1, where the weight is that of pure noise: 1
            ratio = np.nan_to_num(noise_to_signal(path, t_n) / sigma, nan=0.0)
        return np.asarray((1 - ratio**2) ** -2)


def noise_to_signal(path: Path, t: float) -> Float[np.ndarray, "..."]:
    """σ = noise / signal at time t, per frequency; inf where the signal is gone."""
    signal, noise = (np.asarray(gain) for gain in _gains(path, jnp.asarray(t, dtype=float)))
    with np.errstate(divide="ignore"):
        return np.asarray(noise / signal)


@eqx.filter_jit
def _gains(path: Path, t: Float[Array, ""]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
    return path.signal(t), path.noise(t)


def first_time(path: Path, sigma: Shaped[ArrayLike, "..."]) -> float:
    """The first t in [0, 1] at which every frequency has noise/signal ≥ sigma; inf if none (bisection to
    1e-12)."""
    return _bisect(lambda t: bool(np.all(noise_to_signal(path, t) >= np.asarray(sigma))))


def last_time(path: Path, sigma: float) -> float:
    """The last t in [0, 1] at which every frequency has noise/signal ≤ sigma; -inf if that is not so at t = 0."""
    if bool(np.any(noise_to_signal(path, 0.0) > sigma)):
        return -math.inf
    return min(_bisect(lambda t: bool(np.any(noise_to_signal(path, t) > sigma))), 1.0)


def _bisect(reached: Callable[[float], bool]) -> float:
    """Smallest t in [0, 1] at which the monotone predicate is true, to 1e-12; inf if it never is."""
    if not reached(1.0):
        return math.inf
    low, high = 0.0, 1.0
    if reached(low):
        return 0.0
    while high - low > 1e-12:
        middle = (low + high) / 2
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _require_all(argument: str, condition: object, given: object, allowed: str) -> None:
    """`require` over an array, where it is concrete."""
    if is_concrete(condition):
        require(bool(np.all(np.asarray(condition))), argument, given, allowed)
