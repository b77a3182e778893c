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

Everything is jittable, for one sample; gates are `theory.gates.GateTimes`, scalars for one sample.
"""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.gates import GateTimes
from theory.path_base import Path, Sample, Time, match_axes


class AmbientPair(NamedTuple):
    """A pair (x0, eps), of the sample's shape, for the ordinary loss; `path.corrupt(x0, t, eps)` is x_t."""

    x0: Sample
    eps: Sample


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
    t_n = jnp.where(gate.uses_kept(t), gate.t_n, -jnp.inf)
    pair = ambient_pair(path, kept_point(path, x0, t_n, z), t_n, t, eps)
    return pair, jnp.where(gate.opens(t), 1.0, 0.0).astype(x0.dtype)
