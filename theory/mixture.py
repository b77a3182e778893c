"""Gaussian mixtures p = Σ w_k N(m_k, S_k) on R^d: density and score in log space, posterior means, push-forward,
entropy, moments.

With log r_k(x) = log w_k + log N(x; m_k, S_k):

    log p(x) = logsumexp_k log r_k,   ∇ log p(x) = Σ softmax(log r)_k S_k⁻¹ (m_k - x),

so nothing under- or overflows far out, in float32 either. Under x_t = A x_0 + noise, noise ~ N(0, N), each component
stays Gaussian, N(A m_k, A S_k Aᵀ + N), and E[x_0 | x_t] = Σ softmax_k (m_k + S_k Aᵀ (A S_k Aᵀ + N)⁻¹ (x_t - A m_k)).

Entropy bounds for any d (Kolchinsky, Tracey 2017, "Estimating mixture entropy with pairwise distances", eqs. 10, 12,
13): Σ w_i H_i - Σ w_i log Σ_j w_j exp(-D_ij) is a lower bound with D = Bhattacharyya's distance (Chernoff's at ½) and
an upper one with D_ij = KL(p_i‖p_j). The Gaussian of equal moments has the largest entropy: another upper bound.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray
from scipy.special import logsumexp

from theory._checks import is_concrete, require, require_covariance, require_finite, require_float64
from theory.gaussian import Gaussian, as_matrix, factor, kl


class EntropyBounds(NamedTuple):
    """lower <= differential entropy <= upper, in nats."""

    lower: Float[Array, ""]
    upper: Float[Array, ""]


def _array(value: ArrayLike) -> Array:
    return jnp.asarray(value)


class GaussianMixture(eqx.Module):
    """The mixture Σ w_k N(m_k, S_k) on R^d, float64 or float32.

    **Arguments:**

    - `weights`: shape `k`, >= 0 with sum 1 (within rounding). `means`: shape `k d`. `covs`: shape `k d d`, symmetric
      positive semi-definite; densities, scores and entropies need them positive definite (NaN otherwise). NumPy
      arrays are converted.

    Raises `ValueError` where shapes do not fit, an entry is not finite, weights are negative or do not sum to 1, or a
    covariance is not symmetric positive semi-definite.
    """

    weights: Float[Array, " k"] = eqx.field(converter=_array)
    means: Float[Array, "k d"] = eqx.field(converter=_array)
    covs: Float[Array, "k d d"] = eqx.field(converter=_array)

    def __check_init__(self) -> None:
        """Check shapes always, values where they are concrete."""
        require(self.means.ndim == 2, "means", f"shape {self.means.shape}", "of shape (k, d)")
        k, d = self.means.shape
        require(self.weights.shape == (k,), "weights", f"shape {self.weights.shape}", f"of shape ({k},), as means")
        require(self.covs.shape == (k, d, d), "covs", f"shape {self.covs.shape}", f"of shape ({k}, {d}, {d})")
        require_finite("means", self.means)
        _require_weights(self.weights)
        if is_concrete(self.covs):
            for i, cov in enumerate(np.asarray(self.covs)):
                require_covariance(f"covs[{i}]", cov)

    @property
    def dim(self) -> int:
        """The dimension d."""
        return self.means.shape[-1]

    def _whitened(self, x: Float[Array, " d"]) -> tuple[Float[Array, "k d d"], Float[Array, "k d"]]:
        """Cholesky factors L_k and L_k⁻¹ (x - m_k)."""
        factors = jnp.linalg.cholesky(self.covs)
        return factors, jax.vmap(lambda L, m: _solve(L, x - m))(factors, self.means)

    def _log_joint(self, x: Float[Array, " d"]) -> Float[Array, " k"]:
        factors, white = self._whitened(x)
        half_logdet = jnp.sum(jnp.log(jnp.diagonal(factors, axis1=-2, axis2=-1)), axis=-1)
        constant = half_logdet + 0.5 * self.dim * math.log(2 * math.pi)
        return jnp.log(self.weights) - 0.5 * jnp.sum(white**2, axis=-1) - constant

    @eqx.filter_jit
    def log_prob(self, x: Float[ArrayLike, " d"]) -> Float[Array, ""]:
        """Log-density at `x` in nats."""
        return jax.nn.logsumexp(self._log_joint(jnp.asarray(x)))

    @eqx.filter_jit
    def responsibilities(self, x: Float[ArrayLike, " d"]) -> Float[Array, " k"]:
        """Posterior probability of each component given `x`; sums to 1."""
        return jax.nn.softmax(self._log_joint(jnp.asarray(x)))

    @eqx.filter_jit
    def score(self, x: Float[ArrayLike, " d"]) -> Float[Array, " d"]:
        """∇ log p at `x`, in closed form."""
        factors, white = self._whitened(jnp.asarray(x))
        pull = -jax.vmap(lambda L, w: _solve(L, w, transposed=True))(factors, white)
        return self.responsibilities(x) @ pull

    @eqx.filter_jit
    def sample(self, key: PRNGKeyArray, shape: tuple[int, ...] = ()) -> Float[Array, "*shape d"]:
        """Independent draws, shape `(*shape, d)`; covariances may be singular."""
        key_component, key_noise = jax.random.split(key)
        index = jax.random.choice(key_component, self.weights.shape[0], shape, p=self.weights)
        white = jax.random.normal(key_noise, (*shape, self.dim), dtype=self.means.dtype)
        return self.means[index] + jnp.einsum("...ij,...j->...i", factor(self.covs)[index], white)

    def pushforward(self, matrix: Float[ArrayLike, "..."], noise_cov: Float[ArrayLike, "..."]) -> "GaussianMixture":
        """The exact law of A x + noise, noise ~ N(0, `noise_cov`) independent of x.

        `matrix` A: a scalar, a diagonal (`d`) or a matrix (`e d`). `noise_cov`: a scalar variance, a diagonal (`e`)
        or a matrix (`e e`).
        """
        A = as_matrix(matrix, self.dim)
        covs = A @ self.covs @ A.T + as_matrix(noise_cov, A.shape[0])
        return GaussianMixture(self.weights, self.means @ A.T, (covs + jnp.swapaxes(covs, -2, -1)) / 2)

    @eqx.filter_jit
    def posterior_mean(
        self, xt: Float[ArrayLike, " e"], matrix: Float[ArrayLike, "..."], noise_cov: Float[ArrayLike, "..."]
    ) -> Float[Array, " d"]:
        """E[x_0 | x_t] for x_t = A x_0 + noise, with x_0 from this mixture; arguments as for `pushforward`.

        A S_k Aᵀ + noise_cov must be positive definite (NaN otherwise).
        """
        A, observed = as_matrix(matrix, self.dim), jnp.asarray(xt)
        law = self.pushforward(A, noise_cov)
        factors, white = law._whitened(observed)
        back = jax.vmap(lambda L, w: _solve(L, w, transposed=True))(factors, white)
        per_component = self.means + jnp.einsum("kij,ej,ke->ki", self.covs, A, back)
        return law.responsibilities(observed) @ per_component

    def moments(self) -> Gaussian:
        """The Gaussian with the mixture's mean and covariance."""
        mean = self.weights @ self.means
        spread = self.means - mean
        cov = jnp.einsum("k,kij->ij", self.weights, self.covs) + (spread.T * self.weights) @ spread
        return Gaussian(mean, (cov + cov.T) / 2)

    @eqx.filter_jit
    def entropy_bounds(self) -> EntropyBounds:
        """Lower and upper bound of the differential entropy in nats, any d, float64 (sources: top of the module).

        The gap is at most the entropy of the weights. Raises `TypeError` unless float64.
        """
        require_float64("covs", self.covs)
        parts = jax.vmap(Gaussian)(self.means, self.covs)
        own = self.weights @ jax.vmap(Gaussian.entropy)(parts)
        lower = own + self._pairwise(_bhattacharyya, parts)
        upper = own + self._pairwise(kl, parts)
        return EntropyBounds(lower, jnp.minimum(upper, self.moments().entropy()))

    def _pairwise(self, distance: object, parts: Gaussian) -> Float[Array, ""]:
        """-Σ_i w_i log Σ_j w_j exp(-D_ij); components of weight 0 do not count."""
        D = jax.vmap(lambda p: jax.vmap(lambda q: distance(p, q))(parts))(parts)  # type: ignore[operator]
        near = jax.nn.logsumexp(-D, axis=1, b=self.weights[None, :])
        return -jnp.sum(jnp.where(self.weights > 0, self.weights * near, 0.0))

    def entropy(self, *, tolerance: float = 1e-8) -> float:
        """Differential entropy in nats for d <= 2 by quadrature, to an absolute error of about `tolerance`; NumPy,
        float64, not traceable.

        Σ w_k E_k[-log p] with the trapezoidal rule in each component's whitened coordinates, halving the step until
        the value settles (it does so exponentially fast; the first step already resolves the narrowest component).
        Raises `ValueError` for d > 2 (see `entropy_bounds`), for a singular component, and where 2²⁴ points do not
        suffice; `TypeError` unless float64.
        """
        require_float64("covs", self.covs)
        require(self.dim <= 2, "the mixture's dimension", self.dim, "1 or 2 (entropy_bounds serves any)")
        used = np.asarray(self.weights) > 0
        arrays = [np.asarray(a)[used] for a in (self.weights, self.means, self.covs)]
        smallest = min(float(np.linalg.eigvalsh(cov)[0]) for cov in arrays[2])
        require(smallest > 0, "covs", f"smallest eigenvalue {smallest:.3g}", "positive definite")
        return sum(w * _cross_entropy(k, *arrays, tolerance=tolerance) for k, w in enumerate(arrays[0]))


def _require_weights(weights: Float[Array, " k"]) -> None:
    if not is_concrete(weights):
        return
    values = np.asarray(weights)
    require_finite("weights", values)
    require(float(values.min()) >= 0, "weights", f"smallest {values.min():.3g}", "non-negative")
    slack = 1e-9 if values.dtype == np.float64 else 1e-4
    total = float(np.sum(values, dtype=np.float64))
    require(abs(total - 1) <= slack, "weights", f"sum {total:.9g}", f"of sum 1 within {slack:g}")


def _solve(L: Float[Array, "d d"], x: Float[Array, " d"], *, transposed: bool = False) -> Float[Array, " d"]:
    """L⁻¹ x, or L⁻ᵀ x, for lower triangular L."""
    return jax.scipy.linalg.solve_triangular(L, x, lower=True, trans=1 if transposed else 0)


def _bhattacharyya(p: Gaussian, q: Gaussian) -> Float[Array, ""]:
    """-log ∫ √(p q): with C = (S_p + S_q)/2, ⅛ Δᵀ C⁻¹ Δ + ½ log det C - ¼ log det S_p S_q (Kailath 1967)."""
    L = jnp.linalg.cholesky(jnp.stack([(p.cov + q.cov) / 2, p.cov, q.cov]))
    middle, first, second = jnp.sum(jnp.log(jnp.diagonal(L, axis1=-2, axis2=-1)), axis=-1)
    return jnp.sum(_solve(L[0], p.mean - q.mean) ** 2) / 8 + middle - (first + second) / 2


_REACH = 9.0
"""Whitened half-width of the grids: beyond it a normal has mass 2e-19."""


def _cross_entropy(
    k: int,
    weights: Float[np.ndarray, " k"],
    means: Float[np.ndarray, "k d"],
    covs: Float[np.ndarray, "k d d"],
    *,
    tolerance: float,
) -> float:
    """E_k[-log p] by the trapezoidal rule in z = L_k⁻¹ (x - m_k), the step halved until two values agree."""
    d, L = means.shape[1], np.linalg.cholesky(covs[k])
    inverse = np.linalg.inv(L)
    narrowest = min(float(np.linalg.eigvalsh(inverse @ cov @ inverse.T)[0]) for cov in covs)
    count = 2 * math.ceil(_REACH / min(0.5, 0.5 * math.sqrt(narrowest)))
    previous = math.inf
    while count**d <= 2**24:
        z = np.linspace(-_REACH, _REACH, count + 1)
        value = _grid_mean(z, means[k], L, weights, means, covs)
        if abs(value - previous) <= tolerance:
            return value
        previous, count = value, 2 * count
    raise ValueError(
        f"tolerance {tolerance:g} is out of reach of 2^24 points for component {k}: the narrowest component has "
        f"{math.sqrt(narrowest):.2g} of its width. Ask for less, or use entropy_bounds."
    )


def _grid_mean(
    z: Float[np.ndarray, " n"],
    mean: Float[np.ndarray, " d"],
    L: Float[np.ndarray, "d d"],
    weights: Float[np.ndarray, " k"],
    means: Float[np.ndarray, "k d"],
    covs: Float[np.ndarray, "k d d"],
) -> float:
    """Normal-weighted mean of -log p over the grid mean + L z^d, one slab at a time."""
    phi = np.exp(-(z**2) / 2) / math.sqrt(2 * math.pi) * (z[1] - z[0])
    if len(mean) == 1:
        return float(phi @ -_log_density(mean + z[:, None] @ L.T, weights, means, covs))
    total = 0.0
    for first, share in zip(z, phi, strict=True):
        points = mean + np.column_stack([np.full_like(z, first), z]) @ L.T
        total += share * float(phi @ -_log_density(points, weights, means, covs))
    return total


def _log_density(
    x: Float[np.ndarray, "n d"],
    weights: Float[np.ndarray, " k"],
    means: Float[np.ndarray, "k d"],
    covs: Float[np.ndarray, "k d d"],
) -> Float[np.ndarray, " n"]:
    terms = []
    for weight, mean, cov in zip(weights, means, covs, strict=True):
        L = np.linalg.cholesky(cov)
        white = np.linalg.solve(L, (x - mean).T)
        logdet = 2 * np.sum(np.log(np.diag(L))) + len(mean) * math.log(2 * math.pi)
        terms.append(math.log(weight) - 0.5 * np.sum(white**2, axis=0) - 0.5 * logdet)
    return logsumexp(np.array(terms), axis=0)
