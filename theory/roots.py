"""Square roots of covariances, and what a rank-one term adds to their trace.

    tr (S + s u uᵀ)^½ - tr S^½ = (1/2π) ∫_0^∞ t^(-½) log(1 + s uᵀ (S + t)⁻¹ u) dt >= 0     (the trace identity)

Nothing cancels in it at small s, and S may be singular. In x = log t the integrand is analytic for |Im x| < π, so a
trapezoidal sum in x converges geometrically.

Both root and trace identity exist twice, and here alone. `psd_root` and `trace_root_gain` are JAX functions of one
case: differentiable, to be jitted and vmapped, compiled anew for each shape. `symmetric_power` and `trace_root_gains`
are NumPy functions for whole sets of vectors and s: for statistics over data sets of many shapes, where compiling
would cost more than computing. Tests hold each pair together.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from theory._checks import require, require_between, require_float64

LARGEST = float(np.finfo(np.float64).max)
_STEP = 0.75


# -------------------------------------------------------------------------------------------------------- in JAX


@jax.custom_jvp
def psd_root(cov: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The symmetric square root of a positive semi-definite matrix (rounding below 0 counts as 0).

    Its derivative has no singularity at repeated eigenvalues; between two zero eigenvalues, where it is infinite, it
    is taken as 0.
    """
    values, basis = jnp.linalg.eigh(cov)
    return (basis * jnp.sqrt(jnp.maximum(values, 0.0))) @ basis.T


@psd_root.defjvp
def _psd_root_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    values, basis = jnp.linalg.eigh(primals[0])
    roots = jnp.sqrt(jnp.maximum(values, 0.0))
    sums = roots[:, None] + roots
    inner = (basis.T @ tangents[0] @ basis) * jnp.where(sums > 0, 1 / jnp.where(sums > 0, sums, 1.0), 0.0)
    return (basis * roots) @ basis.T, basis @ inner @ basis.T


def trace_root_gain(
    cov: Float[ArrayLike, "d d"], vector: Float[ArrayLike, " d"], s: Float[ArrayLike, ""] | int
) -> Float[Array, ""]:
    """tr (S + s u uᵀ)^½ - tr S^½ >= 0, without cancellation for small s, float64: what a rank-one term adds to the
    trace of the root.

    By the trace identity: the trapezoidal rule with step ½ on 80 units of log t to each side has relative error below
    e^(-4π²) + e^(-40) < 1e-16, as the integrand falls like e^(-|x|/2). `cov` S, shape `d d`, may be singular; `vector`
    u, shape `d`; `s` >= 0. Raises `ValueError` for s < 0, `TypeError` unless float64.
    """
    S, u = jnp.asarray(cov), jnp.asarray(vector)
    require_float64("cov", S)
    require_between("s", s, 0.0, LARGEST)
    return _trace_root_gain(S, u, jnp.asarray(s, float))


@jax.jit
def _trace_root_gain(S: Array, u: Array, s: Array) -> Array:
    values, basis = jnp.linalg.eigh(S)
    values, squares = jnp.maximum(values, 0.0), (basis.T @ u) ** 2
    scale = values[-1] + s * jnp.sum(squares)
    t = jnp.where(scale > 0, scale, 1.0) * jnp.exp(jnp.arange(-80.0, 80.5, 0.5))
    seen = s * jnp.sum(squares / (values + t[:, None]), axis=1)
    return jnp.sum(jnp.sqrt(t) * jnp.log1p(seen)) * 0.5 / (2 * jnp.pi)


# ------------------------------------------------------------------------------------------------------ in NumPy


def symmetric_power(cov: Float[np.ndarray, "r r"], exponent: float) -> Float[np.ndarray, "r r"]:
    """A real power of a positive semi-definite matrix, e.g. 1/2 or -1/2; eigenvalues below zero (rounding) count as 0.

    NumPy, any float. For a negative exponent `cov` must be positive definite: else entries are not finite.
    """
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.maximum(values, 0.0) ** exponent) @ vectors.T


def time_grid(scale: float, *, singular: bool) -> tuple[Float[np.ndarray, " grid"], Float[np.ndarray, " grid"]]:
    """Times t and weights of (1/2π) ∫ t^(-1/2) f(t) dt: log-spaced about `scale`, the largest eigenvalue's size.

    The ends leave out a relative 1e-10 (above) and, for smallest eigenvalues down to 1e-12 of the largest, 1e-5 of
    one draw below; a singular matrix, where small changes live at small t, is integrated further down.
    """
    low, high = (-84.0 if singular else -51.0), 45.0
    times = scale * np.exp(np.arange(low, high + _STEP, _STEP))
    return times, np.sqrt(times) * (_STEP / (2 * math.pi))


def trace_root_gains(
    cov: Float[np.ndarray, "r r"], vectors: Float[np.ndarray, "v r"], s: Float[np.ndarray, " g"]
) -> Float[np.ndarray, "v g"]:
    """tr (S + s u uᵀ)^½ - tr S^½ >= 0 for S = `cov` (positive semi-definite), each u of `vectors`, each s >= 0.

    By the trace identity, one eigendecomposition for all; no cancellation. Relative error about 1e-9, NumPy. Raises
    `ValueError` for s < 0.
    """
    require(bool(np.all(s >= 0)), "s", s, "at least 0")
    values, basis = np.linalg.eigh(cov)
    values = np.where(values > values[-1] * 1e-15 * len(values), values, 0.0)
    squares = (vectors @ basis) ** 2
    scale = float(values[-1] + squares.sum(axis=1).max())
    if scale <= 0.0:
        return np.zeros((len(vectors), len(s)))
    times, weights = time_grid(scale, singular=True)
    resolvents = squares @ (1.0 / (times + values[:, None]))
    return np.einsum("vts,t->vs", np.log1p(resolvents[:, :, None] * s), weights)


def rank_one_root_trace(mean: Float[np.ndarray, " d"], cov: Float[np.ndarray, "d d"], s: float) -> float:
    """`trace_root_gains` for one training set: `mean` m and `cov` S (positive semi-definite, singular allowed), s >= 0.

    s goes into the vector, so that the grid of the integral fits a small s too. Raises `ValueError` for s < 0.
    """
    require(s >= 0, "s", s, "at least 0")
    vector = math.sqrt(s) * np.asarray(mean, dtype=float)
    return float(trace_root_gains(np.asarray(cov, dtype=float), vector[None], np.ones(1))[0, 0])
