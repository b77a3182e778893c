"""Fisher-Rao length of curves of Gaussians.

With m' and S' the derivatives of mean and covariance, the speed is (m'ᵀ S⁻¹ m' + ½ tr (S⁻¹ S')²)^½; its
integral is the length. For centred curves with diagonal covariance v(t) it is (½ Σ (v'/v)²)^½. Derivatives
are exact (forward differentiation); the integral is a composite Gauss-Legendre rule.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Float

from theory._checks import require
from theory.gaussian import Gaussian

Curve = Callable[[Float[Array, ""]], Gaussian]


def _panels(t0: float, t1: float, panels: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nodes and weights of the 16-point Gauss-Legendre rule on each of `panels` equal parts of [t0, t1]."""
    require(panels >= 1, "panels", panels, "at least 1")
    nodes, weights = np.polynomial.legendre.leggauss(16)
    width = (t1 - t0) / panels
    starts = t0 + width * np.arange(panels)
    points = starts[:, None] + width * (nodes + 1) / 2
    return points.ravel(), np.tile(weights * width / 2, panels)


def speed(curve: Curve, t: Float[ArrayLike, ""]) -> Float[Array, ""]:
    """Fisher-Rao speed (mᵀ' S⁻¹ m' + ½ tr (S⁻¹ S')²)^½ of a curve of Gaussians at time `t`, by forward
    differentiation.

    `curve`: differentiable function of a scalar that gives a `Gaussian` with positive definite covariance.
    """
    time = jnp.asarray(t, dtype=float)
    here, velocity = jax.jvp(lambda s: _moments(curve(s)), (time,), (jnp.ones_like(time),))
    return tangent_norm(here[1], velocity[0], velocity[1])


def _moments(p: Gaussian) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    return p.mean, p.cov


def tangent_norm(
    cov: Float[Array, "d d"], mean_velocity: Float[Array, " d"], cov_velocity: Float[Array, "d d"]
) -> Float[Array, ""]:
    """Length of the tangent (dm, dS) at covariance S = `cov`: (dmᵀ S⁻¹ dm + ½ tr (S⁻¹ dS)²)^½."""
    factor = jnp.linalg.cholesky(cov)
    white = solve_triangular(factor, mean_velocity, lower=True)
    half = solve_triangular(factor, cov_velocity, lower=True)
    return jnp.sqrt(jnp.sum(white**2) + jnp.sum(solve_triangular(factor, half.T, lower=True) ** 2) / 2)


def path_length(curve: Curve, t0: float = 0.0, t1: float = 1.0, *, panels: int = 8) -> Float[Array, ""]:
    """Fisher-Rao length of a curve of Gaussians from `t0` to `t1`: the metric speed by 16-point
    Gauss-Legendre on `panels` parts.

    `curve(t)` gives a `Gaussian` with positive definite covariance and is differentiable on [t0, t1];
    spectral accuracy where it is smooth there. Raises `ValueError` unless `panels` >= 1.
    """
    points, weights = _panels(t0, t1, panels)
    return jnp.sum(jnp.asarray(weights) * jax.vmap(lambda t: speed(curve, t))(jnp.asarray(points)))


def _log_rates(
    variance: Callable[[Float[Array, ""]], Float[Array, "*d"]], times: Float[Array, " n"]
) -> Float[Array, "n *d"]:
    """v'/v at each time."""

    def rate(t: Float[Array, ""]) -> Float[Array, "*d"]:
        value, derivative = jax.jvp(variance, (t,), (jnp.ones_like(t),))
        return derivative / value

    return jax.vmap(rate)(times)


def diagonal_path_length(
    variance: Callable[[Float[Array, ""]], Float[Array, "*d"]],
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    panels: int = 8,
) -> Float[Array, ""]:
    """Length ∫ (½ Σ (v'/v)²)^½ dt of the centred curve N(0, diag v(t)), t from `t0` to `t1`.

    `variance(t)` gives positive variances (any shape, one per frequency) and is differentiable; quadrature
    as in `path_length`. Raises `ValueError` unless `panels` >= 1.
    """
    points, weights = _panels(t0, t1, panels)
    rates = _log_rates(variance, jnp.asarray(points))
    speeds = jnp.sqrt(jnp.sum(rates.reshape(len(points), -1) ** 2, axis=1) / 2)
    return jnp.sum(jnp.asarray(weights) * speeds)


def frequency_lengths(
    variance: Callable[[Float[Array, ""]], Float[Array, "*d"]],
    t0: float = 0.0,
    t1: float = 1.0,
    *,
    panels: int = 8,
) -> Float[Array, "*d"]:
    """Length ∫ |v'/v| dt / √2 of each coordinate's own curve N(0, v(t)); the shape of `variance(t)`.

    Where every v is monotone it is |log v(t1)/v(t0)| / √2. The square root of the sum of their squares is
    at most the length of the whole curve, with equality where they progress in proportion. Raises `ValueError` unless
    `panels` >= 1.
    """
    points, weights = _panels(t0, t1, panels)
    rates = _log_rates(variance, jnp.asarray(points))
    return jnp.tensordot(jnp.asarray(weights), jnp.abs(rates), axes=1) / math.sqrt(2)
