"""The exact denoiser x̂0 = E[x0 | x_t, cond] of a Gaussian mixture on any path.

A denoiser is any callable `denoiser(xt, t, cond) -> x0_hat` on one sample; `jax.vmap(denoiser, in_axes=(0, None, 0))`
serves a batch, and then all that depends on t alone is computed once. Those here hold their path and data as arrays.

*Mixture.* x0 ~ Σ w_k N(m_k, S_k), x_t = A x0 + S ε, r_k = x_t - A m_k, D_k = A S_k A + S² I:

    x̂0 = Σ_k p_k (m_k + S_k A D_k⁻¹ r_k),   p = softmax_k(log w_k - ½ r_k·D_k⁻¹ r_k - ½ log det D_k).

With dense covariances on a scalar path one matrix-vector product per component gives both terms. S_k = Q Λ Qᵀ is
diagonalised once; per t one of two matrices is formed, so that nothing cancels (λ the largest eigenvalue):

    S² <= A² λ:   u = D_k⁻¹ r_k,      r·D⁻¹r = r·u,                  x̂0_k = m_k + (r - S² u)/A
    S² >  A² λ:   g = A S_k D_k⁻¹ r,  r·D⁻¹r = (|r|² - A r·g)/S²,    x̂0_k = m_k + g

The first is exact to ε |r|/A <= ε √2 |x0's scale|, the second's exponent to ε |r|²/S² <= 2 ε times its own size.
Covariances that are diagonal (or multiples of I) in the path's coordinates need no product. On a path with one gain
per frequency all is done in real coordinates in which the path is diagonal (`sim.coordinates`), with a Cholesky
factorisation D_k = L Lᵀ per t.

*At the ends.* Where S = 0, x_t = A x0 and x̂0 = x_t / A. Where A = 0, x̂0 is the conditional mean.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from sim.coordinates import coordinate_powers, from_coordinates, require_grid, require_multiple, to_coordinates
from sim.sampler_base import Condition
from theory._checks import is_concrete, require, require_probabilities
from theory.mixture import GaussianMixture
from theory.path_base import Path, Time, safe_sqrt

FEW = 4
"""Dimension up to which products are written out number by number."""
EXPANDED = 2.0**-11
"""Largest ε A² |m|²/D at which |x - A m|²/D may be expanded: it is about the error of the exponents."""


class MixtureDenoiser(eqx.Module):
    """The posterior mean E[x0 | x_t, cond] of a Gaussian mixture on any path.

    **Arguments:**

    - `path`: scalar, or per frequency with a grid that fills the mixture's dimension (channels may follow).
    - `mixture`: law of the flattened (row-major) sample; components may be singular, even points.
    - `class_weights`: shape `C k`; row c holds the weights of the k components given condition c, >= 0 with sum 1.
      Default: condition c is component c. `cond=None` uses `mixture.weights`.

    Call with `xt` of any shape of the mixture's dimension (per-frequency paths: leading axes = grid), `t` in [0, 1]
    and `cond`, an index below C (not checked: JAX clamps it) or None. Result in the shape and type of `xt`.

    Raises `ValueError` where shapes do not fit or weights are not probabilities.
    """

    path: Path
    means: Float[Array, "k d"]
    values: Any  # variances, k by 1 or d, or None
    vectors: Any  # eigenvectors, k d d, or None
    covs: Any  # k d d, or None
    centre: Float[Array, " d"]
    log_weights: Float[Array, " k"]
    log_class_weights: Float[Array, "C k"]

    def __init__(
        self, path: Path, mixture: GaussianMixture, class_weights: Float[ArrayLike, "..."] | None = None
    ) -> None:
        """Change to the path's coordinates and diagonalise; see the class."""
        require_multiple(path, mixture.dim)
        to_real = jax.vmap(lambda x: to_coordinates(path, x))
        covs = mixture.covs
        if path.grid:
            covs = jax.vmap(lambda S: to_real(to_real(S).T))(covs)
        self.path, self.means = path, to_real(mixture.means)
        self.centre = mixture.weights @ self.means
        self.values, self.vectors, self.covs = _structure(covs, dense=bool(path.grid))
        self.log_weights = jnp.log(mixture.weights)
        k = mixture.weights.shape[0]
        weights = jnp.eye(k, dtype=self.means.dtype) if class_weights is None else jnp.asarray(class_weights)
        require_probabilities("class_weights", weights, k)
        self.log_class_weights = jnp.log(weights)

    def __call__(self, xt: Float[Array, "*shape"], t: Time, cond: Condition = None) -> Float[Array, "*shape"]:
        """x̂0 for one sample."""
        require_grid(self.path, xt.shape)
        d = self.means.shape[1]
        require(xt.size == d, "xt", f"shape {xt.shape}", f"of {d} entries, the mixture's dimension")
        x = to_coordinates(self.path, xt.reshape(d))
        log_weights = self.log_weights if cond is None else self.log_class_weights[cond]
        signal, noise = coordinate_powers(self.path, t, d)
        x0_hat = self._posterior_mean(x, signal, noise, log_weights)
        return from_coordinates(self.path, x0_hat).reshape(xt.shape).astype(xt.dtype)

    def _posterior_mean(self, x: Array, signal: Array, noise: Array, log_weights: Array) -> Array:
        """x̂0 in coordinates; a noiseless sample is only scaled."""
        gain, clean = safe_sqrt(signal), jnp.all(noise == 0)
        some_noise = jnp.where(clean, 1.0, noise)  # any positive number: not used where clean
        if self.values is None:
            law = self._cholesky
        elif self.vectors is not None:
            law = self._eigen
        else:
            law = self._diagonal if self.values.shape[1] > 1 or self.path.grid else self._isotropic
        mean = law(x, gain, some_noise, log_weights)
        return jnp.where(clean, x / jnp.where(gain > 0, gain, 1.0).astype(x.dtype), mean)

    def _diagonal(self, x: Array, gain: Array, noise: Array, log_weights: Array) -> Array:
        total = gain**2 * self.values + noise
        safe = jnp.where(total > 0, total, 1.0)
        shrink, inverse = (gain * self.values / safe).astype(x.dtype), (1 / safe).astype(x.dtype)
        log_det = jnp.sum(jnp.broadcast_to(jnp.log(safe), self.means.shape), axis=1)
        r = x - (gain * self.means).astype(x.dtype)
        p = _softmax(log_weights - log_det / 2, -0.5 * jnp.sum(inverse * r * r, axis=1))
        return p @ (self.means.astype(x.dtype) + shrink * r)

    def _isotropic(self, x: Array, gain: Array, noise: Array, log_weights: Array) -> Array:
        """x̂0 = Σ p_k (1 - A g_k) m_k + (Σ p_k g_k) x with g = A λ/D: one product, or two where |x - A m|² may be
        expanded.
        """
        values = self.values[:, 0]
        total = gain**2 * values + noise
        m, shrink = (gain * (self.means - self.centre)).astype(x.dtype), gain * values / total
        x = x - (gain * self.centre).astype(x.dtype)
        sizes = jnp.sum(m * m, axis=1)
        few_digits_lost = jnp.max(sizes) * jnp.finfo(x.dtype).eps < EXPANDED * jnp.min(total)
        square = jax.lax.cond(few_digits_lost, _expanded_squares, _direct_squares, x, m, sizes)
        inverse = (1 / total).astype(x.dtype)
        p = _softmax(log_weights - x.size / 2 * jnp.log(total), -0.5 * square * inverse)
        anchors = ((1 - gain * shrink)[:, None] * (self.means - self.centre)).astype(x.dtype)
        return p @ anchors + (p @ shrink.astype(x.dtype)) * x + self.centre.astype(x.dtype)

    def _eigen(self, x: Array, gain: Array, noise: Array, log_weights: Array) -> Array:
        """The two regimes of the module's top, as v = H r, -2 exponent = r·(e₁ r + e₂ v), x̂0_k = b + c₁ x + c₂ v."""
        low_noise = noise <= gain**2 * jnp.max(self.values, axis=1)
        total, a = gain**2 * self.values + noise, jnp.where(gain > 0, gain, 1.0)
        factors = jnp.where(low_noise[:, None], 1.0, gain * self.values) / total

        def pick(low: ArrayLike, high: ArrayLike) -> Array:
            return jnp.where(low_noise, low, high)

        parts = _Components(
            means=gain * self.means,
            matrices=jnp.einsum("kij,kj,klj->kil", self.vectors, factors, self.vectors),
            constants=log_weights - jnp.sum(jnp.log(total), axis=1) / 2,
            square=pick(0.0, 1 / noise),
            cross=pick(1.0, -gain / noise),
            offsets=jnp.where(low_noise[:, None], 0.0, self.means),
            scale=pick(1 / a, 0.0),
            product=pick(-noise / a, 1.0),
        )
        return _one_product(x, jax.tree.map(lambda leaf: leaf.astype(x.dtype), parts))

    def _cholesky(self, x: Array, gain: Array, noise: Array, log_weights: Array) -> Array:
        identity = jnp.eye(x.size, dtype=self.means.dtype)
        signal = gain[:, None] * self.covs * gain
        floor = 4 * x.size * jnp.finfo(signal.dtype).eps * jnp.max(jnp.diagonal(signal, axis1=1, axis2=2))
        L = jnp.linalg.cholesky(signal + jnp.maximum(noise, floor) * identity)  # below it singular ones do not factor
        whiten = jax.vmap(lambda l: jax.scipy.linalg.solve_triangular(l, identity, lower=True))(L)
        back = jnp.einsum("kij,klj->kil", self.covs * gain, whiten).astype(x.dtype)
        w = jnp.einsum("kij,kj->ki", whiten.astype(x.dtype), x - (gain * self.means).astype(x.dtype))
        half_log_det = jnp.sum(jnp.log(jnp.diagonal(L, axis1=1, axis2=2)), axis=1)
        p = _softmax(log_weights - half_log_det, -0.5 * jnp.sum(w * w, axis=1))
        return p @ self.means.astype(x.dtype) + jnp.einsum("kij,kj->i", back, p[:, None] * w)


class _Components(NamedTuple):
    """What depends on t alone: per component A m, H, the constant of the exponent, e₁, e₂, b, c₁, c₂ of
    `MixtureDenoiser._eigen`."""

    means: Array
    matrices: Array
    constants: Array
    square: Array
    cross: Array
    offsets: Array
    scale: Array
    product: Array


@jax.jit
def _one_product(x: Array, parts: _Components) -> Array:
    """x̂0 with one matrix-vector product per component, in a loop over components with a running maximum of the
    exponents: on a CPU two to three times as fast as with all components side by side, at any number of them.
    """
    columns, dtype = _columns(x), x.dtype

    def step(state: tuple, part: _Components) -> tuple[tuple, None]:
        top, total, mean = state
        exponent, estimate = _component(part, columns)
        higher = jnp.maximum(top, exponent)
        old, new = jnp.exp(top - higher), jnp.exp(exponent - higher)
        mean = [m * old + e * new for m, e in zip(mean, estimate, strict=True)]
        return (higher, total * old + new, mean), None

    lowest, zero = jnp.asarray(jnp.finfo(dtype).min / 2, dtype), jnp.zeros((), dtype)
    start = (lowest, zero, [jnp.zeros_like(c) for c in columns])
    _, total, mean = jax.lax.scan(step, start, parts)[0]
    return jnp.stack([m / total for m in mean]).reshape(x.shape)


def _component(part: _Components, columns: list[Array]) -> tuple[Array, list[Array]]:
    """(exponent, estimate of x0) of one component; an exponent of -∞ counts as a quarter of the most negative
    number."""
    r = [c - m for c, m in zip(columns, _columns(part.means), strict=True)]
    v = _apply(part.matrices, r)
    square = sum(jnp.sum(a * (part.square * a + part.cross * b)) for a, b in zip(r, v, strict=True))
    exponent = jnp.maximum(part.constants - 0.5 * square, jnp.finfo(r[0].dtype).min / 4)
    rows = zip(_columns(part.offsets), columns, v, strict=True)
    return exponent, [b + part.scale * c + part.product * u for b, c, u in rows]


def _columns(x: Array) -> list[Array]:
    """The entries of a vector one by one if they are few, else the vector as it is."""
    return [x[j] for j in range(x.size)] if x.size <= FEW else [x]


def _apply(matrix: Array, r: list[Array]) -> list[Array]:
    """A symmetric matrix times a vector given by `_columns`."""
    if len(r) == 1 and r[0].ndim:
        return [r[0] @ matrix]
    return [sum((matrix[j, i] * a for i, a in enumerate(r)), start=jnp.zeros((), matrix.dtype)) for j in range(len(r))]


def _direct_squares(x: Array, m: Array, sizes: Array) -> Array:
    return jnp.sum((x - m) ** 2, axis=1)


def _expanded_squares(x: Array, m: Array, sizes: Array) -> Array:
    return jnp.maximum(x @ x - 2 * (m @ x) + sizes, 0.0)


def _softmax(constant: Float[Array, " k"], exponent: Float[Array, " k"]) -> Float[Array, " k"]:
    """softmax of the sum, in the type of `exponent`; an exponent of -∞ by overflow counts as the most negative
    number."""
    lowest = jnp.finfo(exponent.dtype).min / 4
    return jax.nn.softmax(constant.astype(exponent.dtype) + jnp.maximum(exponent, lowest))


def _structure(covs: Float[Array, "k d d"], *, dense: bool) -> tuple[Array | None, Array | None, Array | None]:
    """(values, vectors, covs): variances alone where the covariances are diagonal (one per component where they are
    multiples of I), eigenvalues and vectors otherwise, or the matrices themselves if `dense`.

    Off-diagonal entries up to the rounding of the change of coordinates count as 0.
    """
    variances = jnp.diagonal(covs, axis1=1, axis2=2)
    small = variances.shape[1] <= FEW and not dense
    if is_concrete(covs) and not small:
        values, matrices = np.asarray(variances), np.asarray(covs)
        slack = 64 * np.finfo(values.dtype).eps * np.max(values, axis=1) if dense else np.zeros(len(values))
        rest = np.abs(matrices * (1 - np.eye(values.shape[1]))).max(axis=(1, 2))
        if np.all(rest <= slack):
            isotropic = bool(np.all(values == values[:, :1]))
            return variances[:, :1] if isotropic else variances, None, None
    if dense:
        return None, None, covs
    values, vectors = jnp.linalg.eigh(covs)
    return jnp.maximum(values, 0.0), vectors, None
