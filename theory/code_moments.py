"""What an optimal linear denoiser knows of x0 from a perturbed code: the moments N(m_c, S_c).

A point x0 of class k has mean m and covariance S (moments of a training set: S biased; or of a population). The
denoiser sees it with noise, and with a perturbed code c + `noise_std` ξ, ξ ~ N(0, I). Write s = noise_std²/(|c|² +
noise_std²). With S_c the covariance of x0 that the perturbed code does *not* explain, and m_c what the clean code
predicts:

    one class:           m_c = (1 - s) m,   S_c = S + s m mᵀ  (rank one; not S + s |m|² I as printed in lemma 2);
    shared by classes:   S_c = Σ_k w_k S_k + the residual covariance of a ridge regression of the class means on the
    codes; noise drawn once:    S_c, m_c from the least-squares regression of the data on the codes as drawn.

The optimal denoiser (`theory.linear`) is the exact one for data N(m_c, S_c). Source: the normal equations of Chen et
al. 2024 (arXiv:2405.20494), eqs. 15, 16, 25.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from theory._checks import is_concrete, require, require_between, require_finite, require_positive
from theory.gaussian import Gaussian
from theory.roots import LARGEST

Scalar = Float[ArrayLike, ""] | int


def condition_noise_ratio(noise_std: Scalar, cond_norm: Scalar = 1.0) -> Float[Array, ""]:
    """s = noise_std²/(|c|² + noise_std²) in [0, 1]: the part of a class mean that a perturbed code cannot tell.

    **Arguments:**

    - `noise_std`: per-coordinate standard deviation of the code's noise, >= 0 (the paper's gamma of eq. 16). CEP's
        strength gamma (eq. 8) is another number: noise_std = gamma/√d_emb for CEP-G and gamma/√(3 d_emb) for CEP-U.
    - `cond_norm`: Euclidean norm |c| > 0 of the clean code, in the same unit; 1 for a one-hot code.

    Raises `ValueError` outside these ranges. Source: the normal equations of eq. 25.
    """
    require_between("noise_std", noise_std, 0.0, LARGEST)
    require_positive("cond_norm", cond_norm)
    signal = jnp.asarray(cond_norm, float)
    amplitude = jnp.asarray(noise_std, float) / jnp.hypot(signal, jnp.asarray(noise_std, float))
    return amplitude**2


def empirical_moments(data: Float[ArrayLike, "n d"]) -> Gaussian:
    """Mean and *biased* covariance (1/n) Σ x xᵀ - m mᵀ of the `n` rows of `data`, in the unit of x and its square.

    Raises `ValueError` unless `data` is a finite matrix with at least two rows.
    """
    x = jnp.asarray(data)
    require(x.ndim == 2 and x.shape[0] >= 2, "data", f"shape {x.shape}", "a matrix (n, d) with n >= 2")
    require_finite("data", x)
    return _empirical(x)


@jax.jit
def _empirical(x: Float[Array, "n d"]) -> Gaussian:
    mean = jnp.mean(x, axis=0)
    return Gaussian(mean, (x - mean).T @ (x - mean) / x.shape[0])


def corrupted_moments(mean: Float[ArrayLike, " d"], cov: Float[ArrayLike, "d d"], s: Scalar) -> Gaussian:
    """N((1 - s) m, S + s m mᵀ): the Gaussian that the optimum of one class under code noise s takes its data for.

    `s` in [0, 1], see `condition_noise_ratio`. Corrects lemma 2 of the paper, which prints S + s |m|² I. Raises
    `ValueError` for an s outside its range or moments that do not fit.
    """
    require_between("s", s, 0.0, 1.0)
    return _corrupted(Gaussian(jnp.asarray(mean), jnp.asarray(cov)), jnp.asarray(s, float))


@jax.jit
def _corrupted(law: Gaussian, s: Float[Array, ""]) -> Gaussian:
    return Gaussian((1 - s) * law.mean, law.cov + s * jnp.outer(law.mean, law.mean))


class CodeMoments(eqx.Module):
    """What the optimum of a linear denoiser with codes knows of x0: `cov` = S_c for every code, mean = `code_map` c.

    **Arguments:** `cov`, shape `d d`; `code_map`, shape `d d_emb`. Made by `shared_moments` and `drawn_moments`.
    """

    cov: Float[Array, "d d"]
    code_map: Float[Array, "d d_emb"]

    def given(self, code: Float[ArrayLike, " d_emb"]) -> Gaussian:
        """N(m_c, S_c) for the clean `code`, shape `d_emb`."""
        return Gaussian(self.code_map @ jnp.asarray(code), self.cov)


@jax.jit
def _regress(
    codes: Float[Array, "rows d_emb"], targets: Float[Array, "rows d"]
) -> tuple[Float[Array, "d_emb d"], Float[Array, "d d"]]:
    """Least-norm least squares of `targets` on `codes`, and the sum of outer products of the residuals."""
    coefficients = jnp.linalg.pinv(codes) @ targets
    residual = targets - codes @ coefficients
    return coefficients, residual.T @ residual


def shared_moments(
    weights: Float[ArrayLike, " k"],
    means: Float[ArrayLike, "k d"],
    covs: Float[ArrayLike, "k d d"],
    codes: Float[ArrayLike, "k d_emb"],
    noise_std: Scalar,
) -> CodeMoments:
    """S_c and the code's map when one pair (W, V) serves all classes, for any codes.

    The code's noise makes the regression of the means on the codes a ridge regression: in least squares, d_emb more
    rows noise_std I with target 0. S_c = Σ_k w_k S_k + the residuals' second moment; nothing is subtracted, so
    nothing cancels. For orthonormal codes the second term is Σ_k w_k noise_std²/(w_k + noise_std²) m_k m_kᵀ.

    **Arguments:** `weights` of the classes, shape `k`, >= 0, sum 1; `means`, `covs`: moments within each class;
    `codes`: one row per class; `noise_std` >= 0. Raises `ValueError` outside these ranges. Not differentiable at
    linearly dependent codes and noise_std = 0.
    """
    w, m, c = jnp.asarray(weights), jnp.asarray(means), jnp.asarray(codes)
    require_weights("weights", w)
    require_between("noise_std", noise_std, 0.0, LARGEST)
    require(c.shape[0] == w.shape[0], "codes", f"{c.shape[0]} rows", f"one row per class, {w.shape[0]}")
    return _shared(w, m, jnp.asarray(covs), c, jnp.asarray(noise_std, float))


@jax.jit
def _shared(w: Array, m: Array, covs: Array, c: Array, noise_std: Array) -> CodeMoments:
    root, d_emb = jnp.sqrt(w)[:, None], c.shape[1]
    design = jnp.concatenate([root * c, noise_std * jnp.eye(d_emb)])
    target = jnp.concatenate([root * m, jnp.zeros((d_emb, m.shape[1]))])
    coefficients, unexplained = _regress(design, target)
    return CodeMoments(jnp.einsum("k,kij->ij", w, covs) + unexplained, coefficients.T)


def drawn_moments(data: Float[ArrayLike, "n d"], codes: Float[ArrayLike, "n d_emb"]) -> CodeMoments:
    """S_c and the code's map for code noise drawn once per point ("fixed"): row i of `codes` is c(y_i) + noise_std
    ξ_i as drawn.

    The optimum of the finite-sample loss given the draws, V of least norm where it is not unique (more code
    dimensions than points: then the codes explain the data entirely and S_c = 0). For n → ∞ it tends to the averaged
    optimum. Raises `ValueError` where the numbers of rows differ or an entry is not finite.
    """
    x, c = jnp.asarray(data), jnp.asarray(codes)
    require(c.shape[0] == x.shape[0], "codes", f"{c.shape[0]} rows", f"one row per point, {x.shape[0]}")
    require_finite("data", x)
    require_finite("codes", c)
    coefficients, unexplained = _regress(c, x)
    return CodeMoments(unexplained / x.shape[0], coefficients.T)


def require_weights(argument: str, weights: Float[Array, " k"]) -> None:
    """Raise `ValueError` unless concrete `weights` are probabilities (sum 1 up to 1e-9)."""
    require_between(argument, weights, 0.0, 1.0)
    if is_concrete(weights):
        total = float(jnp.sum(weights))
        require(abs(total - 1) < 1e-9, argument, f"sum {total:.12g}", "of sum 1")
