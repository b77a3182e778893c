"""Fisher-Rao geometry of Gaussians: lengths of curves, distances, geodesics, bounds.

The metric of N(m, S) is

    ds² = dmᵀ S⁻¹ dm + ½ tr (S⁻¹ dS)²        (Fisher information; Skovgaard 1984),

invariant under every invertible affine map of R^d. Its speed, integrated, is `path_length`.

**Centred** Gaussians have a closed form: `theory._centred`.

**With means** no closed form is known for the boundary-value problem. `fisher_rao_connect` solves it
(module `theory._lift`) and returns the distance beside a bound on what it missed the end point by, and
beside a lower bound.

**Lower bounds**, both true for every pair:

1. The embedding (m, S) -> P = [[S + m mᵀ, m], [mᵀ, 1]] into the positive definite matrices of size d + 1
   with ½ tr (P⁻¹ dP)² is isometric (Calvo and Oller 1990): curves keep their length, so the distance there
   is at most the Fisher-Rao distance.
2. A curve of Gaussians projected on a direction u is not longer than the curve itself, as (uᵀ dm)²/(uᵀ S u)
   <= dmᵀ S⁻¹ dm and (uᵀ dS u)²/(uᵀ S u)² <= tr (S⁻¹ dS)² (Cauchy and Schwarz). In d = 1 the metric is √2
   times the hyperbolic half-plane (m/√2, σ).

A batch is made by `jax.vmap`; everything here is written for one pair. With means, a batch runs as long as its
slowest pair, so many pairs go faster in parts: `jax.lax.map(lambda pair: fisher_rao_distance(*pair), (p, q),
batch_size=32)`.
"""

import functools
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from theory import _lift
from theory._centred import centred_distance, centred_geodesic, log_eigenvalues, safe_norm, whiten
from theory._checks import is_concrete, require, require_float64
from theory._lengths import diagonal_path_length, frequency_lengths, path_length, speed, tangent_norm
from theory.gaussian import Gaussian

__all__ = [
    "Connection",
    "centred_distance",
    "centred_geodesic",
    "diagonal_path_length",
    "fisher_rao_connect",
    "fisher_rao_distance",
    "fisher_rao_exponential",
    "fisher_rao_geodesic",
    "frequency_lengths",
    "lower_bound",
    "path_length",
    "speed",
    "tangent_norm",
    "univariate_distance",
]


class Connection(eqx.Module):
    """The geodesic found between two Gaussians, with what certifies it.

    - `distance`: its length; NaN where `residual` exceeds the tolerance.
    - `residual`: an upper bound on the Fisher-Rao distance from where the geodesic ends to where it should,
      up to rounding in the change of coordinates. So `distance` is within `residual` of the length of a
      curve that joins the two Gaussians.
    - `lower`: a lower bound on the Fisher-Rao distance (`lower_bound`); distance + residual is an upper
      one. That *this* geodesic is the shortest one is not certified; it is where lower and distance agree.
    - `mean_velocity`, shape `d`, and `cov_velocity`, shape `d d`: the velocity at the start, time 1 for the
      whole way.
    - `steps`: evaluations of the descent.
    """

    distance: Float[Array, ""]
    residual: Float[Array, ""]
    lower: Float[Array, ""]
    mean_velocity: Float[Array, " d"]
    cov_velocity: Float[Array, "d d"]
    steps: Int[Array, ""]

    @property
    def upper(self) -> Float[Array, "*batch"]:
        """distance + residual: an upper bound on the Fisher-Rao distance."""
        return self.distance + self.residual

    @property
    def converged(self) -> Bool[Array, "*batch"]:
        """Whether the residual met the tolerance."""
        return jnp.isfinite(self.distance)


class _Frame(eqx.Module):
    """Affine coordinates in which the first Gaussian is N(0, I) and the second N(shift, diag(1 + excess))."""

    forward: Float[Array, "d d"]
    inverse: Float[Array, "d d"]
    shift: Float[Array, " d"]
    excess: Float[Array, " d"]


class _Pair(eqx.Module):
    """Two Gaussians with the factors both bounds and frame need: of S_p + S_q, and with half the squared
    mean difference added."""

    difference: Float[Array, "d d"]
    shift: Float[Array, " d"]
    factors: Float[Array, "2 d d"]


def _pair(p: Gaussian, q: Gaussian) -> _Pair:
    for name, gaussian in (("p", p), ("q", q)):
        require_float64(f"{name}.cov", gaussian.cov)
        require_float64(f"{name}.mean", gaussian.mean)
    require(p.dim == q.dim, "q", f"dimension {q.dim}", f"of p's dimension {p.dim}")
    shift, total = q.mean - p.mean, p.cov + q.cov
    # One batched call: separate Cholesky calls beside a singular value decomposition can hang XLA.
    factors = jnp.linalg.cholesky(jnp.stack([total, total + jnp.outer(shift, shift) / 2]))
    return _Pair(q.cov - p.cov, shift, factors)


def _frame(pair: _Pair) -> _Frame:
    factor = pair.factors[0]
    tau, vectors = jnp.linalg.eigh(whiten(factor, pair.difference))
    scale = jnp.sqrt((1 - tau) / 2)
    inverse = solve_triangular(factor, vectors, lower=True, trans="T").T / scale[:, None]
    return _Frame(factor @ vectors * scale, inverse, inverse @ pair.shift, 2 * tau / (1 - tau))


def _bound(pair: _Pair, p: Gaussian, q: Gaussian) -> Float[Array, ""]:
    """The larger of the two lower bounds (module docstring)."""
    row = solve_triangular(pair.factors[1], pair.shift, lower=True) / math.sqrt(2)
    top = jnp.hstack([whiten(pair.factors[1], pair.difference), row[:, None]])
    embedded = jnp.vstack([top, jnp.append(row, 0.0)[None, :]])
    # Rounding must not push τ to 1: an infinite bound would not be a lower one. Capped, it can only be lower.
    cap = 1 - 8 * embedded.shape[0] * float(jnp.finfo(embedded.dtype).eps)
    by_embedding = safe_norm(log_eigenvalues(embedded, cap=cap)) / math.sqrt(2)
    direction = jax.scipy.linalg.cho_solve((pair.factors[0], True), pair.shift)
    still = jnp.all(direction == 0)
    u = jnp.where(still, 1.0, direction)
    by_projection = univariate_distance(0.0, u @ p.cov @ u, u @ pair.shift, u @ q.cov @ u)
    return jnp.maximum(by_embedding, by_projection)


def lower_bound(p: Gaussian, q: Gaussian) -> Float[Array, ""]:
    """A lower bound on the Fisher-Rao distance: the larger of the embedding's and the projection's (module
    docstring).

    Projected on u = (S_p + S_q)⁻¹ (m_q - m_p). Exact where the means agree, where the covariances agree,
    and in d = 1. Float64; positive definite covariances. Raises `TypeError` unless float64, `ValueError`
    where dimensions differ. Sources: Calvo and Oller 1990.
    """
    return _bound(_pair(p, q), p, q)


def univariate_distance(
    mean0: Float[ArrayLike, ""], var0: Float[ArrayLike, ""], mean1: Float[ArrayLike, ""], var1: Float[ArrayLike, ""]
) -> Float[Array, ""]:
    """Fisher-Rao distance of N(mean0, var0) and N(mean1, var1) on the line, variances > 0.

    √2 arccosh(1 + (½ (mean1 - mean0)² + (σ1 - σ0)²)/(2 σ0 σ1)), written by arcsinh of a square root so that
    nothing cancels.
    """
    first, second = jnp.asarray(var0), jnp.asarray(var1)
    sigma0, sigma1 = jnp.sqrt(first), jnp.sqrt(second)
    step = (jnp.asarray(mean1) - jnp.asarray(mean0)) / math.sqrt(2)
    offsets = jnp.stack([step, (second - first) / (sigma0 + sigma1)])
    return 2 * math.sqrt(2) * jnp.arcsinh(safe_norm(offsets / (2 * jnp.sqrt(sigma0 * sigma1))))


def fisher_rao_connect(p: Gaussian, q: Gaussian, *, tolerance: float = 1e-9, max_steps: int = 100) -> Connection:
    """The Fisher-Rao geodesic from `p` to `q`, with its length, residual and a lower bound (Eriksen 1987;
    `theory._lift`).

    Positive definite covariances, float64; meant for d <= 16 (a step costs about d⁵). Never raises for want
    of convergence: then `distance` is NaN and `residual` says by how much it missed. Rounding limits the
    residual to some ε exp(√2 distance), so pairs further apart than about 10 may need a larger `tolerance`.
    """
    return _connect(p, q, tolerance, max_steps)


@functools.partial(jax.jit, static_argnums=3)
def _connect(p: Gaussian, q: Gaussian, tolerance: Float[ArrayLike, ""], max_steps: int) -> Connection:
    pair = _pair(p, q)
    frame = _frame(pair)
    x, B, steps = _lift.minimise(frame.shift, frame.excess, max_steps=max_steps)
    residual = _lift.mismatch(x, B, frame.shift, jnp.sqrt(1 + frame.excess))
    length = safe_norm(jnp.concatenate([x, B.ravel() / math.sqrt(2)]))
    return Connection(
        jnp.where(residual <= tolerance, length, jnp.nan),
        residual,
        _bound(pair, p, q),
        frame.forward @ x,
        frame.forward @ B @ frame.forward.T,
        steps,
    )


def _require_converged(connection: Connection, tolerance: float) -> Connection:
    if is_concrete(connection.distance) and not bool(connection.converged):
        raise ValueError(
            f"p and q must be joined by a geodesic within tolerance {tolerance:g}; got one that misses q by "
            f"{float(connection.residual):.3g} (their distance is at least {float(connection.lower):.6g}). "
            "Covariances must be positive definite. Pass a larger tolerance, or look at fisher_rao_connect."
        )
    return connection


@functools.partial(jax.custom_jvp, nondiff_argnums=(2,))
def _distance(p: Gaussian, q: Gaussian, tolerance: float) -> Float[Array, ""]:
    return fisher_rao_connect(p, q, tolerance=tolerance).distance


@_distance.defjvp
def _distance_jvp(
    tolerance: float, primals: tuple[Gaussian, Gaussian], tangents: tuple[Gaussian, Gaussian]
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """First variation: <velocity at q, dq> - <velocity at p, dp>, over the distance; 0 where that is 0."""
    p, q = primals
    frame = _frame(_pair(p, q))
    found = fisher_rao_connect(p, q, tolerance=tolerance)
    x, B = frame.inverse @ found.mean_velocity, frame.inverse @ found.cov_velocity @ frame.inverse.T
    end, final = jax.jvp(lambda t: _lift.shoot(x, B, t), (jnp.ones(()),), (jnp.ones(()),))
    here, there = tangents
    start = _inner(frame, (jnp.zeros_like(x), jnp.eye(p.dim)), (x, B), here)
    change = _inner(frame, end, final, there) - start
    moving = found.distance > 0
    return found.distance, jnp.where(moving, change / jnp.where(moving, found.distance, 1.0), 0.0)


def _inner(frame: _Frame, at: tuple[Array, Array], velocity: tuple[Array, Array], change: Gaussian) -> Float[Array, ""]:
    """Metric product at the moments `at` (in the frame) of a velocity (in the frame) and a change of
    moments (outside it)."""
    precision = jnp.linalg.inv(at[1])
    mean = precision @ velocity[0] @ (frame.inverse @ change.mean)
    cov = precision @ velocity[1] @ precision * (frame.inverse @ change.cov @ frame.inverse.T)
    return mean + jnp.sum(cov) / 2


def fisher_rao_distance(p: Gaussian, q: Gaussian, *, tolerance: float = 1e-9) -> Float[Array, ""]:
    """Fisher-Rao distance of two Gaussians with means: the length of the geodesic that `fisher_rao_connect`
    finds.

    Float64, positive definite covariances, d <= 16. Exact to `tolerance`, as far as the geodesic found is
    the shortest (see `Connection`). Differentiable in both Gaussians (first variation); at p = q the
    derivative is given as 0. Under `jit` or `vmap` it is NaN where no geodesic within `tolerance` is found;
    called directly it raises `ValueError` there. Raises `TypeError` unless float64.
    """
    distance = _distance(p, q, tolerance)
    if is_concrete(distance) and not bool(jnp.isfinite(distance)):
        _require_converged(fisher_rao_connect(p, q, tolerance=tolerance), tolerance)
    return distance


def fisher_rao_exponential(
    p: Gaussian,
    mean_velocity: Float[ArrayLike, " d"],
    cov_velocity: Float[ArrayLike, "d d"],
    t: Float[ArrayLike, ""] = 1.0,
) -> Gaussian:
    """The geodesic that leaves `p` with the given velocities of mean and covariance, at time `t`: Eriksen's
    exponential.

    In coordinates where p = N(0, I): exp of t [[-B, x, 0], [xᵀ, 0, -xᵀ], [0, -x, B]] has the blocks S⁻¹
    (first) and S⁻¹ m (right of it); its speed is (|x|² + ½ tr B²)^½. Float64, positive definite covariance;
    exists for every `t`. Raises `TypeError` unless float64.
    """
    require_float64("p.cov", p.cov)
    factor = jnp.linalg.cholesky(p.cov)
    x = solve_triangular(factor, jnp.asarray(mean_velocity), lower=True)
    mean, cov = _outward(p.mean, factor, _lift.shoot(x, whiten(factor, jnp.asarray(cov_velocity)), t))
    return Gaussian(mean, cov)


def _outward(
    mean: Float[Array, " d"], forward: Float[Array, "d d"], moments: tuple[Array, Array]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    cov = forward @ moments[1] @ forward.T
    return mean + forward @ moments[0], (cov + cov.T) / 2


def fisher_rao_geodesic(p: Gaussian, q: Gaussian, t: Float[ArrayLike, ""], *, tolerance: float = 1e-9) -> Gaussian:
    """The Gaussian at time `t` of the geodesic from `p` (t = 0) to `q` (t = 1), of constant speed; any real
    `t`.

    Float64, positive definite covariances, d <= 16. Derivatives in `t` are exact; none are offered in `p`
    and `q`. NaN under `jit` or `vmap` where no geodesic within `tolerance` is found; called directly it
    raises `ValueError` there.
    """
    found = _require_converged(fisher_rao_connect(p, q, tolerance=tolerance), tolerance)
    mean, cov = _along(p, q, found, t)
    return Gaussian(mean, cov)


@jax.jit
def _along(
    p: Gaussian, q: Gaussian, found: Connection, t: Float[ArrayLike, ""]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Moments at time `t` of the geodesic found; NaN where it was not."""
    frame = _frame(_pair(p, q))
    x, B = frame.inverse @ found.mean_velocity, frame.inverse @ found.cov_velocity @ frame.inverse.T
    x = jnp.where(found.converged, x, jnp.nan)
    return _outward(p.mean, frame.forward, _lift.shoot(x, B, t))
