"""From x̂0 = E[x0 | x_t] to the noise, the score and the velocity of the probability flow, for any path.

With x_t = A_t x0 + S_t ε per frequency, and a dash for d/dt,

    ε̂ = (x_t - A x̂0) / S,   ∇ log p_t = -ε̂ / S,   dx/dt = A' x̂0 + S' ε̂ = A' x̂0 + ½ (S²)' (x_t - A x̂0) / S²

(Song et al. 2021, eq. 13; in terms of x̂0 and ε̂: Salimans & Ho 2022, appendix). What is left of them where a gain is 0:

- *S = 0* (the clean end). x_t = A x0 holds no trace of the noise. ε̂ is given as 0, its limit where the posterior of
  ε given x0 is; so the velocity is A' x̂0, which lacks -½ (S²)' ∇ log p_0 where S² starts linearly (Ornstein-Uhlenbeck,
  VP linear, shortest path): x̂0 alone does not hold it. The score is a quotient by 0: NaN or infinite.
- *A = 0* (the noise end). ε̂ and the score are regular. A' is the derivative from the left, -√(½ (A²)'') where A² ends
  quadratically. Where A² ends linearly (the shortest path at t = 1) A' is infinite and A' x̂0 is a limit 0·∞ that x̂0
  alone does not hold: NaN. Start such paths within `t_range`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory.path_base import Gain, Path, Time, mix, safe_sqrt


def noise_of(path: Path, xt: Float[Array, "*shape"], t: Time, x0_hat: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """ε̂ = (x_t - A x̂0)/S of one sample, in the type of `xt`; 0 at frequencies where S = 0."""
    signal, power = path.powers(jnp.asarray(t, xt.dtype))
    inverse = jnp.where(power > 0, 1 / safe_sqrt(jnp.where(power > 0, power, 1.0)), 0.0)
    return mix(path, (inverse, xt), (-safe_sqrt(signal) * inverse, x0_hat))


def score_of(path: Path, xt: Float[Array, "*shape"], t: Time, x0_hat: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
    """∇ log p_t(x_t) = (A x̂0 - x_t)/S² of one sample (Tweedie), in the type of `xt`; not finite where S = 0."""
    signal, power = path.powers(jnp.asarray(t, xt.dtype))
    return mix(path, (-1 / power, xt), (safe_sqrt(signal) / power, x0_hat))


def velocity_of(
    path: Path, xt: Float[Array, "*shape"], t: Time, x0_hat: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """dx/dt = A' x̂0 + S' ε̂ of the probability flow, for one sample, in the type of `xt`; the module's top says what
    it is where A or S is 0."""
    time = jnp.asarray(t, xt.dtype)
    (signal, noise), (d_signal, d_noise) = _with_slope(path.powers, time)
    rate = jnp.where(noise > 0, d_noise / (2 * jnp.where(noise > 0, noise, 1.0)), 0.0)
    gain = safe_sqrt(signal)
    return mix(path, (rate, xt), (_signal_slope(path, time, gain, d_signal) - rate * gain, x0_hat))


def _signal_slope(path: Path, t: Float[Array, ""], gain: Gain, slope: Gain) -> Gain:
    """A' = (A²)'/(2A); where A = 0 its limit from the left: -√(½ (A²)'') if (A²)' = 0, NaN otherwise."""
    curvature = _with_slope(lambda s: _with_slope(path.powers, s)[1][0], t)[1]
    at_zero = jnp.where(slope == 0, -safe_sqrt(curvature / 2), jnp.nan)
    return jnp.where(gain > 0, slope / (2 * jnp.where(gain > 0, gain, 1.0)), at_zero)


def _with_slope(function: Callable, t: Float[Array, ""]) -> tuple:
    return jax.jvp(function, (t,), (jnp.ones_like(t),))
