"""The optimal linear denoiser under perturbed conditions, and the Gaussian that it generates.

A point x0 of class k has mean m and covariance S (moments of a training set: S biased; or of a population). It is
seen as x_t = r x0 + σ ε, r = `signal`, σ = `noise`, together with a perturbed code c + `noise_std` ξ, ξ ~ N(0, I).
The denoiser ε̂ = W x_t + V c is one linear map (Chen et al. 2024, arXiv:2405.20494, eqs. 15, 16, 25). Write s =
noise_std²/(|c|² + noise_std²).

*Optimum.* For given W the best V regresses r W x0 on the code. What is left is the loss

    tr W A Wᵀ - 2 σ tr W + d,   A = σ² I + r² S_c,   minimal at W = σ A⁻¹, V c = -r W m_c, with value d - σ² tr A⁻¹,

where S_c is the covariance of x0 that the perturbed code does *not* explain, and m_c what the clean code predicts:

    one class:           m_c = (1 - s) m,   S_c = S + s m mᵀ  (rank one; not S + s |m|² I as printed in lemma 2);
    shared by classes:   S_c = Σ_k w_k S_k + the residual covariance of a ridge regression of the class means on the
    codes; noise drawn once:    S_c, m_c from the least-squares regression of the data on the codes as drawn.

So ε̂ is in each case the exact noise prediction for data N(m_c, S_c): all below follows from that Gaussian.

*Generation.* The Ornstein-Uhlenbeck process has r = e^(-t), σ² = 1 - r². The probability-flow ODE from N(0, I) at t =
T to 0 with this denoiser and the clean code is affine in z_T, z_0 = m_c + S_c^½ A_T^(-½) (z_T - r_T m_c). Hence

    Cov = S_c (I + (S_c - I) e^(-2T))⁻¹,   mean = (I - e^(-T) Cov^½) m_c,

matrix functions of S_c, whose eigenbasis is not that of S. Guidance is in `theory.guidance`.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from theory._checks import require, require_between, require_finite, require_float64, require_positive
from theory.gaussian import Gaussian
from theory.guidance import generated_guided, guided_eigenmodes, pooled_moments

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

Scalar = Float[ArrayLike, ""] | int
LARGEST = float(jnp.finfo(jnp.float64).max)
Gain = Scalar | Float[ArrayLike, " d"]


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
    if not isinstance(weights, jax.core.Tracer):
        total = float(jnp.sum(weights))
        require(abs(total - 1) < 1e-9, argument, f"sum {total:.12g}", "of sum 1")


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


def trace_root_gain(cov: Float[ArrayLike, "d d"], vector: Float[ArrayLike, " d"], s: Scalar) -> Float[Array, ""]:
    """tr (S + s u uᵀ)^½ - tr S^½ >= 0, without cancellation for small s, float64: what a rank-one term adds to the
    trace of the root.

    Equal to (1/2π) ∫_0^∞ t^(-½) log(1 + s uᵀ (S + t)⁻¹ u) dt. In x = log t the integrand is analytic for |Im x| < π
    and falls like e^(-|x|/2): the trapezoidal rule with step ½ on 80 units to each side has relative error below
    e^(-4π²) + e^(-40) < 1e-16. `cov` S, shape `d d`, may be singular; `vector` u, shape `d`; `s` >= 0. Raises
    `ValueError` for s < 0, `TypeError` unless float64.
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
