"""Ambient training on any path: noised points that are kept, as ordinary pairs (x0, ε) for the ordinary loss.

Notation of `theory.ambient`, per frequency: x' = x/A is a point in the data's scale, σ = S/A its noise. A sample is
noised once to time t_n, x_n' = x0 + σ_n z, and kept. Training at t > t_n draws the forward transition with fresh noise
e, x_t' = x_n' + √(σ_t² - σ_n²) e, and minimises ‖α x̂0 + (1 - α) x_t' - x_n'‖²/α², α = 1 - ρ², ρ = σ_n/σ_t.

*The ambient loss is the ordinary one of a virtual pair.* Divide the residual by α:

    x̂0 - v,   v = (x_n' - (1 - α) x_t')/α = x_n' - ρ² (x_t' - x_n')/α = x_n' - σ_n (ρ/√α) e,

since x_t' - x_n' = σ_t √α e. And the noise that takes v to x_t is (x_t' - v)/σ_t = (√α + ρ²/√α) e = e/√α, because
α + ρ² = 1. So with

    v = x_n/A_n - σ_n (ρ/√α) e,    w = e/√α,    A_t v + S_t w = x_t   exactly,

the loss of the pair (v, w) in any parameterisation and with any weight is the ambient loss in that parameterisation:
a target a ε + b x0 is linear in the pair, and the error of x̂0 is the same multiple S/|Δ| of the error of the target.
E[v | x0, x_t] = x0, so the minimiser is E[x0 | x_t], and the least loss in x0 is mmse + Σ σ_n²/α. A clean sample has
ρ = 0: v = x0 and w = e, the ordinary pair; clean and kept samples share a batch without a branch.

Everything is jittable, for one sample; gates of a data set are arrays with one entry per sample.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from theory._checks import require
from theory.gates import buffer_noise
from theory.path_base import Gain, Path, Time, match_axes

__all__ = ["AmbientPair", "GateTimes", "ambient_pair", "gate_times", "gated_pair", "kept_point"]

Sample = Float[Array, "..."]
HALVINGS = 52
"""Bisections of [0, 1]: to 2e-16, the rounding of a time."""
CHUNK = 256


class AmbientPair(NamedTuple):
    """A pair (x0, eps), of the sample's shape, for the ordinary loss; `path.corrupt(x0, t, eps)` is x_t."""

    x0: Sample
    eps: Sample


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


def _ratio(path: Path, t: Time) -> Gain:
    return path.noise(t) / path.signal(t)


def kept_point(path: Path, x0: Sample, t_n: Time, z: Sample) -> Sample:
    """x_n: the sample noised to time `t_n` with its own noise `z` (standard normal, fold the key from the sample's
    index); the sample itself where t_n < 0, and where t_n is infinite (never usable).
    """
    noised = (jnp.asarray(t_n) >= 0) & jnp.isfinite(t_n)
    return jnp.where(noised, path.corrupt(x0, jnp.where(noised, t_n, 0.0), z), x0)


def ambient_pair(path: Path, kept: Sample, t_n: Time, t: Time, eps: Sample) -> AmbientPair:
    """The virtual pair (v, w) of the kept point at time `t`: x_t = A_t v + S_t w is drawn from x_n by the forward
    transition.

    **Arguments:** `kept` x_n, noised to time `t_n`, -inf (or below 0) for a clean sample; t > t_n, or NaN results;
    `eps` e: fresh standard normal noise of the sample's shape. Source: Daras et al. 2025, eq. 2.2; proof above.
    """
    clean = jnp.asarray(t_n) < 0
    start = jnp.where(clean, 0.0, t_n)
    signal, noise = path.signal(start), jnp.where(clean, 0.0, path.noise(start))
    scale = jnp.where(clean, 1.0, 1 / signal)
    sigma = noise * scale
    later = jnp.where(sigma > 0, path.noise(t), 1.0)
    rho = sigma * path.signal(t) / later
    root = jnp.sqrt((1 - rho) * (1 + rho))
    x, e = path.to_basis(kept), path.to_basis(eps)
    virtual = match_axes(scale, x) * x - match_axes(sigma * rho / root, x) * e
    fresh = match_axes(1 / root, e) * e
    return AmbientPair(path.from_basis(virtual).astype(kept.dtype), path.from_basis(fresh).astype(eps.dtype))


def gated_pair(
    path: Path, gate: GateTimes, x0: Sample, z: Sample, t: Time, eps: Sample
) -> tuple[AmbientPair, Float[Array, ""]]:
    """(pair, weight 0 or 1) of one sample under its gate; the 1/α² of the ambient loss is in the pair.

    **Arguments:** `gate`: scalars; `x0`: the sample as given; `z`: its kept noise (folded from its index); `t`, and
    fresh noise `eps`. Closed (between `t_max` and `t_open`): the ordinary pair, with weight 0.
    """
    late = (jnp.asarray(t) >= gate.t_open) & (jnp.asarray(t) > gate.t_max)
    t_n = jnp.where(late, gate.t_n, -jnp.inf)
    pair = ambient_pair(path, kept_point(path, x0, t_n, z), t_n, t, eps)
    return pair, jnp.where(gate.opens(t), 1.0, 0.0).astype(x0.dtype)


def gate_times(path: Path, sigma_min: ArrayLike, sigma_max: ArrayLike = 0.0, *, max_weight: float = 4.0) -> GateTimes:
    """`NoiseGate.times` of a whole data set at once, before training: arrays of shape `n`.

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
        usable = jnp.isfinite(t_n)
        kept = _ratio(path, jnp.where(usable, t_n, 0.0))
        needed = jnp.where(low > 0, buffer_noise(kept, max_weight), 0.0)
        t_open = _first(lambda t: jnp.all(_ratio(path, t) >= needed))
        t_high = _first(lambda t: jnp.any(_ratio(path, t) > high))
        t_max = jnp.where(jnp.all(_ratio(path, 0.0) <= high), jnp.minimum(t_high, 1.0), -jnp.inf)
        return GateTimes(t_max, jnp.where(low > 0, t_n, -jnp.inf), jnp.where(usable, t_open, jnp.inf))

    return jax.lax.map(one, levels, batch_size=CHUNK)


def _first(reached: Callable[[Array], Array]) -> Float[Array, ""]:
    """Smallest t in [0, 1] at which the monotone predicate is true, by bisection; inf if it never is."""

    def halve(_: Any, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        there = reached(middle)
        return jnp.where(there, ends[0], middle), jnp.where(there, middle, ends[1])

    zero = jnp.zeros(())
    high = jax.lax.fori_loop(0, HALVINGS, halve, (zero, zero + 1))[1]
    return jnp.where(reached(zero), 0.0, jnp.where(reached(zero + 1), high, jnp.inf))
