"""The optimal linear denoiser under perturbed conditions, and the Gaussian that it generates.

A point x0 is seen as x_t = r x0 + σ ε, r = `signal`, σ = `noise`, together with a perturbed code. The denoiser ε̂ = W
x_t + V c is one linear map (Chen et al. 2024, arXiv:2405.20494, eqs. 15, 16, 25).

*Optimum.* For given W the best V regresses r W x0 on the code. What is left is the loss

    tr W A Wᵀ - 2 σ tr W + d,   A = σ² I + r² S_c,   minimal at W = σ A⁻¹, V c = -r W m_c, with value d - σ² tr A⁻¹,

where S_c is the covariance of x0 that the perturbed code does *not* explain, and m_c what the clean code predicts: see
`theory.code_moments` for one class, for shared codes and for noise drawn once. So ε̂ is in each case the exact noise
prediction for data N(m_c, S_c): all below follows from that Gaussian.

*Generation.* The Ornstein-Uhlenbeck process has r = e^(-t), σ² = 1 - r². The probability-flow ODE from N(0, I) at t =
T to 0 with this denoiser and the clean code is affine in z_T, z_0 = m_c + S_c^½ A_T^(-½) (z_T - r_T m_c). Hence

    Cov = S_c (I + (S_c - I) e^(-2T))⁻¹,   mean = (I - e^(-T) Cov^½) m_c,

matrix functions of S_c, whose eigenbasis is not that of S. Guidance is in `theory.guidance`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from theory._checks import require, require_between, require_float64, require_positive
from theory.code_moments import (
    CodeMoments,
    Scalar,
    condition_noise_ratio,
    corrupted_moments,
    drawn_moments,
    empirical_moments,
    shared_moments,
)
from theory.gaussian import Gaussian
from theory.guidance import generated_guided, guided_eigenmodes, pooled_moments
from theory.roots import LARGEST, psd_root, trace_root_gain

__all__ = [
    "CodeMoments",
    "LinearDenoiser",
    "PathDenoiser",
    "SharedDenoiser",
    "condition_noise_ratio",
    "corrupted_moments",
    "denoiser_for",
    "drawn_moments",
    "empirical_moments",
    "generated",
    "generated_from",
    "generated_guided",
    "guided_eigenmodes",
    "optimal_denoiser",
    "pooled_moments",
    "shared_denoiser",
    "shared_moments",
    "trace_root_gain",
]

Gain = Scalar | Float[ArrayLike, " d"]


class LinearDenoiser(eqx.Module):
    """The optimum at one noise level: ε̂ = W x_t + b, b = V c, the exact noise prediction for data N(m_c, S_c).

    **Arguments:**

    - `weight`: W = σ A⁻¹, shape `d d`. `bias`: V c = -W r m_c, shape `d`.
    - `mean`: m_c; `gain`: S_c r A⁻¹, so that x̂0 = m_c + gain (x_t - r m_c).
    - `signal`, `noise`: the gains r and σ, scalar or one per coordinate.
    """

    weight: Float[Array, "d d"]
    bias: Float[Array, " d"]
    mean: Float[Array, " d"]
    gain: Float[Array, "d d"]
    signal: Float[Array, "*g"]
    noise: Float[Array, "*g"]

    def predict_noise(self, xt: Float[ArrayLike, " d"]) -> Float[Array, " d"]:
        """ε̂ = W x_t + V c."""
        return self.weight @ jnp.asarray(xt) + self.bias

    def denoise(self, xt: Float[ArrayLike, " d"]) -> Float[Array, " d"]:
        """x̂0 = (x_t - σ ε̂)/r, computed without dividing by r."""
        return self.mean + self.gain @ (jnp.asarray(xt) - self.signal * self.mean)

    def score(self, xt: Float[ArrayLike, " d"]) -> Float[Array, " d"]:
        """∇ log p(x_t) = -ε̂/σ, of N(r m_c, A)."""
        return -self.predict_noise(xt) / self.noise

    @property
    def loss(self) -> Float[Array, ""]:
        """The minimum of the loss (eq. 25), d - σ² tr A⁻¹ = r² tr S_c A⁻¹, in [0, d]; computed in the second form: no
        cancellation.
        """
        return jnp.sum(self.signal * jnp.diagonal(self.gain))


def denoiser_for(moments: Gaussian, signal: Gain, noise: Gain) -> LinearDenoiser:
    """The optimal linear denoiser of data with these moments, x_t = r x0 + σ ε, in float64.

    **Arguments:** `moments`, e.g. from `corrupted_moments` or `CodeMoments.given`; may be singular. `signal` r >= 0
    and `noise` σ > 0: scalars, or shape `d`, one per coordinate (for moments in a path's basis). Raises `ValueError`
    for gains outside, `TypeError` unless float64.
    """
    require_float64("cov", moments.cov)
    require_between("signal", signal, 0.0, LARGEST)
    require_positive("noise", noise)
    r, sigma = jnp.asarray(signal, float), jnp.asarray(noise, float)
    return _denoiser(moments, r, sigma)


@jax.jit
def _denoiser(moments: Gaussian, r: Float[Array, "*g"], sigma: Float[Array, "*g"]) -> LinearDenoiser:
    rows, scales = (jnp.broadcast_to(gain, moments.mean.shape) for gain in (r, sigma))
    A = rows[:, None] * moments.cov * rows + jnp.diag(scales**2)
    inverse = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(A), True), jnp.eye(moments.dim))
    inverse = (inverse + inverse.T) / 2
    weight = scales[:, None] * inverse
    gain = (moments.cov * rows) @ inverse
    return LinearDenoiser(weight, -weight @ (rows * moments.mean), moments.mean, gain, r, sigma)


def optimal_denoiser(
    mean: Float[ArrayLike, " d"], cov: Float[ArrayLike, "d d"], s: Scalar, signal: Gain, noise: Gain
) -> LinearDenoiser:
    """The optimum of one class under perturbed codes: W = σ (σ² I + r² (S + s m mᵀ))⁻¹, V c = -r (1 - s) W m.

    Lemma 1 of the paper at s = 0; the corrected lemma 2 for s > 0. See `corrupted_moments` and `denoiser_for` for
    ranges and errors.
    """
    return denoiser_for(corrupted_moments(mean, cov, s), signal, noise)


class SharedDenoiser(eqx.Module):
    """The optimum at one noise level with W, V shared by all classes: ε̂ = W x_t + V c.

    **Arguments:** `weight` W, shape `d d`; `code_weight` V, shape `d d_emb`; `moments`, `signal`, `noise` from which
    they were made.
    """

    weight: Float[Array, "d d"]
    code_weight: Float[Array, "d d_emb"]
    moments: CodeMoments
    signal: Float[Array, "*g"]
    noise: Float[Array, "*g"]
    loss: Float[Array, ""]

    def given(self, code: Float[ArrayLike, " d_emb"]) -> LinearDenoiser:
        """The denoiser for one clean `code`, shape `d_emb`."""
        return denoiser_for(self.moments.given(code), self.signal, self.noise)


def shared_denoiser(
    weights: Float[ArrayLike, " k"],
    means: Float[ArrayLike, "k d"],
    covs: Float[ArrayLike, "k d d"],
    codes: Float[ArrayLike, "k d_emb"],
    noise_std: Scalar,
    signal: Gain,
    noise: Gain,
) -> SharedDenoiser:
    """The optimum of the loss averaged over classes when W and V are shared; `.loss` is that average. See
    `shared_moments`.
    """
    moments = shared_moments(weights, means, covs, codes, noise_std)
    r, sigma = jnp.asarray(signal, float), jnp.asarray(noise, float)
    any_class = denoiser_for(moments.given(jnp.zeros(moments.code_map.shape[1])), r, sigma)
    rows = jnp.broadcast_to(r, (moments.cov.shape[0],))
    code_weight = -any_class.weight @ (rows[:, None] * moments.code_map)
    return SharedDenoiser(any_class.weight, code_weight, moments, r, sigma, any_class.loss)


class PathDenoiser(eqx.Module):
    """The optimal linear denoisers of all classes and all noise levels, as a callable `denoiser(xt, t, cond) -> x̂0`.

    Diagonalises each class's moments once; a call then costs d² operations. `xt` of shape `d`, `t` in [0, 1], `cond`
    the class's index.

    **Arguments:** `means`, `k d`, and `covs`, `k d d`: the moments N(m_c, S_c) of each class, e.g. from
    `corrupted_moments`; `path`: has scalar gains `path.signal(t)` and `path.noise(t)`. Raises `ValueError` where
    shapes do not fit.
    """

    means: Float[Array, "k d"]
    values: Float[Array, "k d"]
    vectors: Float[Array, "k d d"]
    path: eqx.Module

    def __init__(self, means: Float[ArrayLike, "k d"], covs: Float[ArrayLike, "k d d"], path: eqx.Module) -> None:
        """Diagonalise; see the class."""
        self.means = jnp.asarray(means)
        cov = jnp.asarray(covs)
        require(cov.shape == (*self.means.shape, self.means.shape[1]), "covs", f"shape {cov.shape}", "(k, d, d)")
        require_float64("covs", cov)
        values, self.vectors = jnp.linalg.eigh(cov)
        self.values = jnp.maximum(values, 0.0)
        self.path = path

    def __call__(self, xt: Float[ArrayLike, " d"], t: Scalar, cond: Int[ArrayLike, ""]) -> Float[Array, " d"]:
        """x̂0 = m_c + r S_c (σ² I + r² S_c)⁻¹ (x_t - r m_c); where σ and an eigenvalue are both 0, m_c in that
        direction.
        """
        r, sigma = self.path.signal(t), self.path.noise(t)  # type: ignore[attr-defined]
        mean, values, basis = self.means[cond], self.values[cond], self.vectors[cond]
        total = sigma**2 + r**2 * values
        shrink = r * values / jnp.where(total > 0, total, 1.0)
        return mean + basis @ (shrink * (basis.T @ (jnp.asarray(xt) - r * mean)))

    def score(self, xt: Float[ArrayLike, " d"], t: Scalar, cond: Int[ArrayLike, ""]) -> Float[Array, " d"]:
        """∇ log p(x_t | cond) = -(σ² I + r² S_c)⁻¹ (x_t - r m_c); not finite where that matrix is singular."""
        r, sigma = self.path.signal(t), self.path.noise(t)  # type: ignore[attr-defined]
        mean, values, basis = self.means[cond], self.values[cond], self.vectors[cond]
        return -basis @ ((basis.T @ (jnp.asarray(xt) - r * mean)) / (sigma**2 + r**2 * values))


def generated_from(moments: Gaussian, horizon: Scalar = jnp.inf) -> Gaussian:
    """The law that the probability-flow ODE makes of N(0, I) at time `horizon` with the exact denoiser of N(m_c,
    S_c).

    Cov = S_c (I + (S_c - I) e^(-2T))⁻¹, mean = (I - e^(-T) Cov^½) m_c; the moments themselves as T → ∞. S_c may be
    singular: the square root then carries the rounding of S_c, so the mean's error is up to e^(-T) |m_c| (ε d
    ‖S_c‖)^½. Float64.

    **Arguments:** `horizon` T > 0, Ornstein-Uhlenbeck time, may be infinite. Raises `ValueError` for T <= 0,
    `TypeError` unless float64. Source: lemmas 3 and 4 of arXiv:2405.20494, appendix A, with S_c in the place of their
    diagonal matrix.
    """
    require_float64("cov", moments.cov)
    require_positive("horizon", horizon, finite=False)
    return _generated(moments, jnp.asarray(horizon, float))


@jax.jit
def _generated(moments: Gaussian, T: Float[Array, ""]) -> Gaussian:
    start = -jnp.expm1(-2 * T) * jnp.eye(moments.dim) + jnp.exp(-2 * T) * moments.cov
    cov = jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(start), True), moments.cov)
    cov = (cov + cov.T) / 2
    return Gaussian(moments.mean - jnp.exp(-T) * (psd_root(cov) @ moments.mean), cov)


def generated(
    mean: Float[ArrayLike, " d"], cov: Float[ArrayLike, "d d"], s: Scalar, horizon: Scalar = jnp.inf
) -> Gaussian:
    """What the optimum of one class under code noise s generates from the clean code:
    `generated_from(corrupted_moments(...), horizon)`.

    Lemma 3 of the paper at s = 0; the corrected lemma 4 for s > 0.
    """
    return generated_from(corrupted_moments(mean, cov, s), horizon)
