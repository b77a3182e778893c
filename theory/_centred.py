"""Fisher-Rao geometry of centred Gaussians N(0, S), in closed form.

With λ the eigenvalues of S₀⁻¹ S₁ the distance is (½ Σ log² λ)^½ and the geodesic S₀^½ (S₀^-½
S₁ S₀^-½)^t S₀^½ (SPD, theorem 1). Both come from one symmetric pencil: with M = S₀ + S₁ = L Lᵀ and L⁻¹ (S₁
- S₀) L⁻ᵀ = V τ Vᵀ,

    log λ = 2 artanh τ,   S₀ = Z (1-τ)/2 Zᵀ,   S₁ = Z (1+τ)/2 Zᵀ,   S_t = Z ((1-τ)/2)^(1-t) ((1+τ)/2)^t Zᵀ,
    Z = L V.

Near p = q the difference S₁ - S₀ is exact and nothing cancels; exchanging p and q changes only the sign of
τ. S₁ is first divided by the power of two nearest to tr S₁ / tr S₀. Then the rounding error of each log λ
is of order d ε max(cond S₀, cond S₁), which is what rounding the covariances themselves costs.
"""

import math

import jax.numpy as jnp
from jax import lax
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, ArrayLike, Float

from theory._checks import require, require_covariance, require_float64


def whiten(factor: Float[Array, "k k"], matrix: Float[Array, "k k"]) -> Float[Array, "k k"]:
    """L⁻¹ `matrix` L⁻ᵀ for a lower triangular `factor` L, symmetrised."""
    half = solve_triangular(factor, matrix, lower=True)
    whitened = solve_triangular(factor, half.T, lower=True)
    return (whitened + whitened.T) / 2


def _log_scale(cov0: Float[Array, "d d"], cov1: Float[Array, "d d"]) -> Float[Array, ""]:
    """The integer nearest to log2 (tr cov1 / tr cov0), for an exact division."""
    return lax.stop_gradient(jnp.round(jnp.log2(jnp.trace(cov1) / jnp.trace(cov0))))


def _require_covariances(cov0: ArrayLike, cov1: ArrayLike) -> tuple[Array, Array]:
    first, second = jnp.asarray(cov0), jnp.asarray(cov1)
    for name, cov in (("cov0", first), ("cov1", second)):
        require_float64(name, cov)
        require_covariance(name, cov)
    require(first.shape == second.shape, "cov1", f"shape {second.shape}", f"of cov0's shape {first.shape}")
    return first, second


def safe_norm(x: Float[Array, " k"]) -> Float[Array, ""]:
    """Euclidean norm whose derivative at 0 is taken as 0."""
    square = jnp.sum(x**2)
    positive = square > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, square, 1.0)), 0.0)


def log_eigenvalues(
    whitened: Float[Array, "k k"], log2: Float[ArrayLike, ""] = 0.0, cap: float = 1.0
) -> Float[Array, " k"]:
    """|log λ|, with λ scaled by 2^log2, from singular values: four times as fast here as eigenvalues at d =
    32.

    With log2 = 0 the sign of τ is not needed. Otherwise 2 I is added first, which makes them the
    eigenvalues τ + 2.
    """
    shift = jnp.where(log2 == 0, 0.0, 2.0)
    shifted = whitened + shift * jnp.eye(whitened.shape[0])
    tau = jnp.linalg.svd(shifted, compute_uv=False) - shift
    return 2 * jnp.arctanh(jnp.clip(tau, -cap, cap)) + log2 * math.log(2)


def centred_distance(cov0: Float[ArrayLike, "d d"], cov1: Float[ArrayLike, "e e"]) -> Float[Array, ""]:
    """Fisher-Rao distance of N(0, cov0) and N(0, cov1): (1/√2) ‖log(cov0^-½ cov1 cov0^-½)‖_F (SPD, theorem
    1).

    `cov0`, `cov1`: shape `d d`, float64, positive definite (d up to 512 tried). Infinite or NaN where one
    is singular. The derivative exists everywhere but at cov0 = cov1, where it is given as 0. Raises
    `ValueError` for what is no covariance, `TypeError` unless float64.
    """
    first, second = _require_covariances(cov0, cov1)
    log2 = _log_scale(first, second)
    second = second * jnp.ldexp(1.0, -log2.astype(int))
    whitened = whiten(jnp.linalg.cholesky(second + first), second - first)
    return safe_norm(log_eigenvalues(whitened, log2)) / math.sqrt(2)


def centred_geodesic(
    cov0: Float[ArrayLike, "d d"], cov1: Float[ArrayLike, "e e"], t: Float[ArrayLike, ""]
) -> Float[Array, "d d"]:
    """The covariance at time `t` of the geodesic from cov0 (t = 0) to cov1 (t = 1): SPD, theorem 1; any
    real `t`.

    `cov0`, `cov1`: shape `d d`, float64, positive definite. Derivatives in `t` are exact; those in the
    covariances are not finite where eigenvalues of cov0⁻¹ cov1 coincide. Raises `ValueError` for what is no
    covariance, `TypeError` unless float64.
    """
    first, second = _require_covariances(cov0, cov1)
    log2 = _log_scale(first, second)
    second = second * jnp.ldexp(1.0, -log2.astype(int))
    factor = jnp.linalg.cholesky(second + first)
    tau, vectors = jnp.linalg.eigh(whiten(factor, second - first))
    weights = ((1 - tau) / 2) ** (1 - t) * ((1 + tau) / 2) ** t * 2.0 ** (log2 * t)
    columns = factor @ vectors
    cov = (columns * weights) @ columns.T
    return (cov + cov.T) / 2
