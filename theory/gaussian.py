"""Gaussians N(m, S) on R^d: entropy, log-density, Kullback-Leibler divergence and 2-Wasserstein distance.

Notation: S = L Lᵀ with any square factor L. Then

    W2²(p, q) = |m_p - m_q|² + min over orthogonal U of ‖L_p - L_q U‖_F²

(Bhatia, Jain, Lim 2019, "On the Bures-Wasserstein distance between positive definite matrices", eq. 3 and theorem 1).
The minimiser is the orthogonal polar factor of A = L_qᵀ L_p. Unlike the trace formula tr S_p + tr S_q - 2 tr (S_p^½
S_q S_p^½)^½, whose three terms cancel near p = q, this is a norm of a small matrix: its error is a few ε ‖L‖, not √ε
‖L‖.

L is the Cholesky factor, and V √λ from S = V λ Vᵀ where S is singular. Derivatives need no particular factor: any
tangent with dL Lᵀ + L dLᵀ = dS gives the derivative of a function of S = L Lᵀ, so dL = ½ dS L⁻ᵀ is used for both. The
polar factor's derivative dU = U X, X P + P X = Uᵀ dA - dAᵀ U with P = Uᵀ A, has no singularity at equal singular
values.

Near p = q, KL is summed from B = L_q⁻¹ (S_p - S_q) L_q⁻ᵀ, so that nothing cancels there either.

A batch is a `Gaussian` whose arrays have a leading axis, made and used by `jax.vmap`:
`jax.vmap(wasserstein2)(jax.vmap(Gaussian)(means_p, covs_p), jax.vmap(Gaussian)(means_q, covs_q))`.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from theory._checks import require, require_covariance, require_finite, require_float64
from theory._polar import polar_factor


def _array(value: ArrayLike) -> Array:
    return jnp.asarray(value)


class Gaussian(eqx.Module):
    """The normal distribution N(mean, cov) on R^d; `cov` may be singular.

    **Arguments:**

    - `mean`: shape `d`. `cov`: shape `d d`, symmetric positive semi-definite (rounding allowed for). NumPy arrays are
      converted.

    Raises `ValueError` where shapes do not fit, an entry is not finite, or `cov` is not symmetric positive
    semi-definite.
    """

    mean: Float[Array, " d"] = eqx.field(converter=_array)
    cov: Float[Array, "d d"] = eqx.field(converter=_array)

    def __check_init__(self) -> None:
        """Check shapes always, values where they are concrete."""
        require(self.mean.ndim == 1, "mean", f"shape {self.mean.shape}", "a vector")
        d = self.mean.shape[0]
        require(self.cov.shape == (d, d), "cov", f"shape {self.cov.shape}", f"of shape ({d}, {d}), as mean has {d}")
        require_finite("mean", self.mean)
        require_covariance("cov", self.cov)

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.mean.shape[-1]

    def entropy(self) -> Float[Array, ""]:
        """Differential entropy ½ log det(2πe S) in nats, float64; -inf where S is singular to the last digit.

        A singular S in rotated coordinates has eigenvalues of the size of its rounding, ε ‖S‖, in the place of zeros:
        then the value may be finite and very negative instead, by about ½ log(1/ε) = 18 nats for each lost dimension.
        Raises `TypeError` unless float64.
        """
        require_float64("cov", self.cov)
        half_logdet = jnp.sum(jnp.log(jnp.diagonal(_cholesky(self.cov))))
        full = self.dim * 0.5 * math.log(2 * math.pi * math.e) + half_logdet
        return jnp.where(jnp.isnan(half_logdet), -jnp.inf, full)

    def log_prob(self, x: Float[ArrayLike, " d"]) -> Float[Array, ""]:
        """Log-density at `x` in nats. NaN where S is singular: there is no density then."""
        factor = _cholesky(self.cov)
        white = jax.scipy.linalg.solve_triangular(factor, jnp.asarray(x) - self.mean, lower=True)
        logdet = 2 * jnp.sum(jnp.log(jnp.diagonal(factor)))
        return -0.5 * (jnp.sum(white**2) + logdet + self.dim * math.log(2 * math.pi))

    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        """Independent draws, shape `(*shape, d)`; `cov` may be singular."""
        white = jax.random.normal(key, (*shape, self.dim), dtype=self.mean.dtype)
        return self.mean + white @ factor(self.cov).T

    def pushforward(self, matrix: Float[ArrayLike, "..."], noise_cov: Float[ArrayLike, "..."]) -> "Gaussian":
        """The exact law N(A m, A cov Aᵀ + noise_cov) of A x + noise, noise ~ N(0, `noise_cov`) independent of x.

        `matrix` A: a scalar, a diagonal (`d`) or a matrix (`e d`). `noise_cov`: a scalar variance, a diagonal (`e`)
        or a matrix (`e e`).
        """
        A = as_matrix(matrix, self.dim)
        cov = A @ self.cov @ A.T + as_matrix(noise_cov, A.shape[0])
        return Gaussian(A @ self.mean, (cov + cov.T) / 2)


def as_matrix(gain: Float[ArrayLike, "..."], d: int) -> Float[Array, "e d"]:
    """A scalar (times the identity of size d), a diagonal of length d, or a matrix, as a matrix.

    Raises `ValueError` for more axes.
    """
    array = jnp.asarray(gain)
    require(array.ndim <= 2, "gain", f"shape {array.shape}", "a scalar, a diagonal or a matrix")
    return array if array.ndim == 2 else jnp.diag(jnp.broadcast_to(array, (d,)))


def _cholesky(cov: Float[Array, "*k d d"]) -> Float[Array, "*k d d"]:
    return jnp.linalg.cholesky(cov, symmetrize_input=False)


@jax.custom_jvp
def factor(cov: Float[Array, "*k d d"]) -> Float[Array, "*k d d"]:
    """A square L with L Lᵀ = `cov`: Cholesky's where `cov` is positive definite, else V √λ (negative λ taken as 0).

    Several covariances, shape `k d d`, are factored in one call: separate Cholesky calls beside a singular value
    decomposition in one compiled function can hang on a CPU with two cores. The derivative is ½ dS L⁻ᵀ: right for
    functions that do not depend on which factor is taken, and not finite where `cov` is singular.
    """
    first = _cholesky(cov)
    positive = jnp.all(jnp.isfinite(first), axis=(-2, -1), keepdims=True)
    start = (jnp.where(positive, first, cov), positive)
    # A loop of zero or one step rather than `cond`: under vmap, `cond` would always compute both branches.
    return lax.while_loop(lambda state: ~jnp.all(state[1]), _by_eigenvectors, start)[0]


def _by_eigenvectors(state: tuple[Array, Array]) -> tuple[Array, Array]:
    """Replace the covariances that have no Cholesky factor by V √λ, and keep the factors of the others."""
    matrix, positive = state
    values, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    root = vectors * jnp.sqrt(jnp.maximum(values, 0))[..., None, :]
    return jnp.where(positive, matrix, root), jnp.ones_like(positive)


@factor.defjvp
def _factor_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    L = factor(primals[0])
    return L, 0.5 * jnp.swapaxes(jnp.linalg.solve(L, tangents[0]), -2, -1)


@jax.jit
def _factor_difference(cov0: Float[Array, "d d"], cov1: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """L0 - L1 U, whose Frobenius norm is the Bures distance; exactly zero where cov0 = cov1."""
    L0, L1 = factor(jnp.stack([cov0, cov1]))
    U = polar_factor(L1.T @ L0)
    exact = jnp.where(jnp.all(cov0 == cov1), jnp.eye(U.shape[0]) - U, 0.0)
    return L0 - L1 @ (U + lax.stop_gradient(exact))


def wasserstein2_squared(p: Gaussian, q: Gaussian) -> Float[Array, ""]:
    """The *squared* 2-Wasserstein distance of two Gaussians, float64. See `wasserstein2` for the distance.

    Its gradient in the covariances is I - T, T the optimal map's matrix, and is finite (zero at p = q) for
    positive-definite ones. Raises `TypeError` unless float64, `ValueError` where dimensions differ.
    """
    _require_pair(p, q)
    mean = jnp.sum((p.mean - q.mean) ** 2)
    return mean + jnp.sum(_factor_difference(p.cov, q.cov) ** 2)


def wasserstein2(p: Gaussian, q: Gaussian) -> Float[Array, ""]:
    """The 2-Wasserstein distance (not squared) of two Gaussians, in the unit of x, float64; covariances may be
    singular.

    Absolute error of a few ε d (|m| + ‖S‖^½), so it keeps 6 digits down to 1e-6 at condition numbers up to 1e8;
    exactly zero at p = q. The distance has a cusp at p = q: there the derivative is taken as 0, a subgradient;
    elsewhere it is finite for positive-definite covariances and not finite for singular ones. Source: Gelbrich 1990;
    Procrustes form of Bhatia, Jain, Lim 2019. Raises `TypeError` unless float64, `ValueError` where dimensions
    differ.
    """
    _require_pair(p, q)
    return _distance(p, q)


@jax.jit
def _distance(p: Gaussian, q: Gaussian) -> Float[Array, ""]:
    squared = wasserstein2_squared(p, q)
    positive = squared > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, squared, 1.0)), 0.0)


def wasserstein2_paired(p: Gaussian, q: Gaussian) -> Float[Array, " n"]:
    """`wasserstein2` of n pairs: `p` and `q` are batches, arrays with one leading axis of equal length (see the
    module's top).

    The same numbers as `jax.vmap(wasserstein2)(p, q)`, computed in blocks that stay in a CPU's cache. Raises
    `ValueError` for other shapes, `TypeError` unless float64.
    """
    require(p.mean.ndim == 2, "p.mean", f"shape {p.mean.shape}", "of shape (n, d)")
    require(p.mean.shape == q.mean.shape, "q.mean", f"shape {q.mean.shape}", f"of p's shape {p.mean.shape}")
    return _paired(p, q)


@jax.jit
def _paired(p: Gaussian, q: Gaussian) -> Float[Array, " n"]:
    block = max(1, 2**14 // p.dim**2)
    return lax.map(lambda pair: wasserstein2(*pair), (p, q), batch_size=block)


def kl(p: Gaussian, q: Gaussian) -> Float[Array, ""]:
    """Kullback-Leibler divergence KL(p‖q) = E_p log(p/q) in nats, float64; exactly zero at p = q, no cancellation
    near it.

    +inf where exactly one of the two covariances is singular (then p has no density with respect to q); NaN where
    both are: project on the common support first. Where rounding hides a singular covariance the value is large
    instead. Raises `TypeError` unless float64, `ValueError` where dimensions differ.
    """
    _require_pair(p, q)
    return _kl(p.mean - q.mean, p.cov, q.cov)


@jax.jit
def _kl(shift: Float[Array, " d"], cov: Float[Array, "d d"], reference: Float[Array, "d d"]) -> Float[Array, ""]:
    L, M = _cholesky(jnp.stack([cov, reference]))
    B = _whiten(M, _whiten(M, cov - reference).T)
    near = jnp.sum(B**2) < 0.25
    far_part = jnp.sum(_whiten(M, L) ** 2) - cov.shape[0] - 2 * jnp.sum(jnp.log(jnp.diagonal(L) / jnp.diagonal(M)))
    covariances = jnp.where(near, _minus_log1p(jnp.where(near, B, 0.0)), far_part)
    total = 0.5 * (covariances + jnp.sum(_whiten(M, shift) ** 2))
    singular = jnp.array([jnp.any(jnp.isnan(L)), jnp.any(jnp.isnan(M))])
    return jnp.where(singular[0] ^ singular[1], jnp.inf, total)


def _whiten(M: Float[Array, "d d"], x: Float[Array, "d ..."]) -> Float[Array, "d ..."]:
    return jax.scipy.linalg.solve_triangular(M, x, lower=True)


def _minus_log1p(B: Float[Array, "d d"]) -> Float[Array, ""]:
    """tr B - log det(I + B) without cancellation, for symmetric B with ‖B‖_F < ½.

    With R = B (2I + B)⁻¹: log det(I + B) = 2 tr artanh R and B - 2R = B R, so the value is tr BR - 2 tr(R³/3 + R⁵/5 +
    ...). As |R| < ⅓, the term r^(2j+1) is below 2⁻⁵³ of the leading r² from j = 16 on.
    """
    R = jnp.linalg.solve(2 * jnp.eye(B.shape[0]) + B, B)
    square = R @ R
    series = jnp.zeros_like(R)
    for j in range(16, 0, -1):  # Horner: series = R² (1/3 + R² (1/5 + ...))
        series = square @ series + square / (2 * j + 1)
    return jnp.sum(B * R.T) - 2 * jnp.sum(series * R.T)


def _require_pair(p: Gaussian, q: Gaussian) -> None:
    require_float64("p.cov", p.cov)
    require_float64("q.cov", q.cov)
    require(p.dim == q.dim, "q", f"dimension {q.dim}", f"of p's dimension {p.dim}")
