"""What a linear (Gaussian) denoiser generates under classifier-free guidance.

The reverse flow uses the score (1 + w) ∇ log p(z | y) - w ∇ log p(z), both linear: of N(m, S) for the class and of
N(m', S') for the pooled data (the unconditional branch's linear optimum). Scaled to x = z/r, and with q = (1 - r²)/r²
the squared noise-to-signal ratio (q = e^(2t) - 1 for the Ornstein-Uhlenbeck process), the flow is

    dx/dq = ½ [(1 + w)(S + q)⁻¹(x - m) - w (S' + q)⁻¹(x - m')],   q from q_T = e^(2T) - 1 down to 0,

starting from x ~ N(0, 1 + q_T).

*Commuting S, S'* with eigenvalues λ, Λ in a common basis. The homogeneous part of the flow from q to 0 is the square
root of

    g(q)² = (λ/(λ+q))^(1+w) ((Λ+q)/Λ)^w,     so the variance is (1 + q_T) g(q_T)²  (λ^(1+w) Λ^(-w) as T → ∞).

As g' = -½ g [(1 + w)/(λ+q) - w/(Λ+q)], the mean is m (1 - g(q_T)) + (m - m') J with a single integral, which the
substitution sinh² η = |Λ - λ|/(q + min(λ, Λ)) turns into one of an entire function's power, free of the scales of λ
and Λ:

    J = (w/2) ∫_0^{q_T} g(q)/(Λ + q) dq
      = w (λ/Λ) (tanh η₀)⁻¹ ∫ (cosh η/cosh η₀)^(w-1) dη   (λ < Λ),
        w (tanh η₀)⁻¹ ∫ (cosh η₀/cosh η)^w dη             (λ > Λ),

over η from η_T = η(q_T) to η₀ = η(0); J = w (1 - (Λ/(Λ+q_T))^½) at λ = Λ. (Findings' integral over r is the same
number.) A singular direction: λ = 0 < Λ gives variance 0 and mean m; λ = Λ = 0 gives variance 0 and mean (1 + w) m -
w m', at any T.

*Otherwise* the flow's matrix is integrated. With u = q^(-½) and y = log((1 + βu)/(1 + αu)), β² four times the largest
and α² a quarter of the smallest eigenvalue, every singularity u = ±i/√λ stays at a distance of order 1 from the
real axis, and y runs from its value at T (0 for T = ∞) to log(β/α).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from theory._checks import is_concrete, require, require_between, require_float64, require_positive
from theory.gaussian import Gaussian

Scalar = Float[ArrayLike, ""] | int

NODES, NODE_WEIGHTS = np.polynomial.legendre.leggauss(128)
"""Gauss-Legendre on [-1, 1]. The integrand (cosh η)^p, |p| <= w + 1, has its nearest singularity at η = iπ/2, beside
the end of an interval [0, η₀]; η₀ <= 20 for ratios λ/Λ down to 1e-16. That singularity alone allows an error below
ρ^(-256), ρ = 1.5; the growth e^(pη) allows exp(-256²/(4 p η₀)): both below 1e-14 of the integral for p η₀ <= 500,
e.g. guidance 25 at ratio 1e-16."""


def pooled_moments(
    weights: Float[ArrayLike, " k"], means: Float[ArrayLike, "k d"], covs: Float[ArrayLike, "k d d"]
) -> Gaussian:
    """Mean and covariance of the mixture of classes: Σ w_k m_k and Σ w_k (S_k + (m_k - m')(m_k - m')ᵀ).

    The unconditional branch's linear optimum knows only these. `weights` of shape `k`, >= 0, sum 1; `means` `k d`;
    `covs` `k d d`. Raises `ValueError` where weights are not probabilities.
    """
    w, m = jnp.asarray(weights), jnp.asarray(means)
    require_between("weights", w, 0.0, 1.0)
    if is_concrete(w):
        total = float(jnp.sum(w))
        require(abs(total - 1) < 1e-9, "weights", f"sum {total:.12g}", "of sum 1")
    return _pooled(w, m, jnp.asarray(covs))


@jax.jit
def _pooled(w: Array, m: Array, covs: Array) -> Gaussian:
    mean = w @ m
    spread = jnp.sqrt(w)[:, None] * (m - mean)
    return Gaussian(mean, jnp.einsum("k,kij->ij", w, covs) + spread.T @ spread)


def _angle(gap: Array, near: Array) -> Array:
    """η with sinh² η = gap/near; 0 for gap = 0, and a harmless number at near = 0."""
    return jnp.arcsinh(jnp.sqrt(gap / jnp.where(near > 0, near, 1.0)))


def mean_integral(lam: Scalar, Lam: Scalar, guidance: Scalar, q: Scalar) -> Float[Array, ""]:
    """J = (w/2) ∫_0^q g/(Λ + q') dq' of the module's text, for eigenvalues λ, Λ >= 0 and q in (0, ∞]; 0 at λ = 0 < Λ,
    w·1 at λ = Λ = 0.

    Relative error below 1e-13 while (w + 1) |log(λ/Λ)| <= 1000 (see `NODES`) as long as q >= min(λ, Λ); below that
    the difference of two nearby η costs ε η/(η₀ - η_T), an absolute error of a few ε w.
    """
    lam, Lam, w, q = (jnp.asarray(x, float) for x in (lam, Lam, guidance, q))
    low, gap = jnp.minimum(lam, Lam), jnp.abs(lam - Lam)
    end, start = _angle(gap, low), _angle(gap, q + low)
    half = (end - start) / 2
    eta = start + half * (1 + NODES)
    log_ratio = jnp.log(jnp.cosh(eta)) - jnp.log(jnp.cosh(end))
    power = jnp.where(lam < Lam, w - 1, -w)
    ratio = jnp.minimum(lam / jnp.where(Lam > 0, Lam, 1.0), 1.0)
    safe = jnp.where(end > 0, jnp.tanh(end), 1.0)
    curved = w * ratio * half / safe * jnp.sum(NODE_WEIGHTS * jnp.exp(power * log_ratio))
    share = 1 / jnp.sqrt(1 + q / jnp.where(Lam > 0, Lam, 1.0))
    equal = w * jnp.where(Lam > 0, 1 - share, 1.0)
    return jnp.where(end > 0, jnp.where(low > 0, curved, 0.0), equal)


def guided_eigenmodes(
    mean: Float[ArrayLike, " d"],
    values: Float[ArrayLike, " d"],
    pooled_mean: Float[ArrayLike, " d"],
    pooled_values: Float[ArrayLike, " d"],
    guidance: Scalar,
    horizon: Scalar = jnp.inf,
) -> tuple[Float[Array, " d"], Float[Array, " d"]]:
    """Mean and variance generated in each direction of a common eigenbasis; the module's closed form.

    **Arguments:** `mean`, `values`: m and λ >= 0 of the class in that basis; `pooled_mean`, `pooled_values`: m' and
    Λ, positive wherever λ is; `guidance` w >= 0 (0: no guidance); `horizon` T > 0, may be infinite. All in float64,
    not checked here (`generated_guided` does).
    """
    m, lam = jnp.asarray(mean), jnp.asarray(values)
    mb, Lam = jnp.asarray(pooled_mean), jnp.asarray(pooled_values)
    w, T = jnp.asarray(guidance, float), jnp.asarray(horizon, float)
    q, r2 = jnp.expm1(2 * T), jnp.exp(-2 * T)
    noise2 = -jnp.expm1(-2 * T)
    class_start, pooled_start = noise2 + r2 * lam, noise2 + r2 * Lam
    both = (lam > 0) & (Lam > 0)
    log_shrink = jnp.log(jnp.where(both, lam, 1.0) / class_start), jnp.log(jnp.where(both, Lam, 1.0) / pooled_start)
    variance = jnp.where(both, jnp.exp((1 + w) * log_shrink[0] - w * log_shrink[1]), 0.0)
    J = jax.vmap(mean_integral, in_axes=(0, 0, None, None))(lam, Lam, w, q)
    return m * (1 - jnp.exp(-T) * jnp.sqrt(variance)) + (m - mb) * J, variance


class _Pair(eqx.Module):
    """Two covariances by eigenvalues and eigenvectors, floored at rounding level."""

    values: Float[Array, "2 d"]
    vectors: Float[Array, "2 d d"]

    def resolvents(self, scale: Array, den2: Array, num2: Array) -> Array:
        """Both V diag(scale/(den2 + num2 λ)) Vᵀ, stacked; `scale` broadcasts against the eigenvalues."""
        return jnp.einsum("bij,bj,bkj->bik", self.vectors, scale / (den2 + num2 * self.values), self.vectors)


def _flow(pair: _Pair, means: Array, w: Array, T: Array) -> Array:
    """The affine flow [Φ, c] of shape (d, d + 1), z_0 = Φ z_T + c, by Dormand-Prince 8(7) in the variable y."""
    import diffrax

    d = means.shape[1]
    alpha, beta = 0.5 * jnp.sqrt(jnp.min(pair.values)), 2 * jnp.sqrt(jnp.max(pair.values))
    length, start_u = jnp.log(beta / alpha), 1 / jnp.sqrt(jnp.expm1(2 * T))
    signs = jnp.stack([1 + w, -w])

    def slope(y: Any, state: Any, args: Any) -> Array:
        num, den = jnp.expm1(y), -beta * jnp.expm1(y - length)  # u = num/den
        shrink = jnp.einsum("b,bij->ij", signs, pair.resolvents(pair.values, den**2, num**2))
        inverse = signs[:, None, None] * pair.resolvents(jnp.ones_like(pair.values), den**2, num**2)
        drive = jnp.einsum("bij,bj->i", inverse, means)
        speed = (den + beta * num) / (beta - alpha)
        moved = num * (shrink @ state) - alpha * den * (jnp.sum(inverse, axis=0) @ state)
        return speed * (moved.at[:, -1].add(den * drive))

    start = jnp.log((1 + beta * start_u) / (1 + alpha * start_u))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Dopri8(),
        start,
        length,
        0.01,
        jnp.eye(d, d + 1),
        stepsize_controller=diffrax.PIDController(rtol=1e-11, atol=1e-13),
        max_steps=4096,
    )
    assert solution.ys is not None
    scale = jnp.append(jnp.full(d, jnp.sqrt(1 + start_u**2) / (1 + alpha * start_u)), 1.0)
    return alpha * solution.ys[0] * scale


def _floor(class_cov: Array, pooled_cov: Array) -> Array:
    """Eigenvalues at or below this are rounding: ε d times the larger norm."""
    d = class_cov.shape[0]
    largest = jnp.maximum(jnp.max(jnp.abs(class_cov)), jnp.max(jnp.abs(pooled_cov)))
    return jnp.finfo(float).eps * d * largest


def _common_basis(class_cov: Array, pooled_cov: Array) -> tuple[Array, Array, Array]:
    """A basis that diagonalises both if one does (a combination in general position), and both in it."""
    scales = jnp.trace(class_cov) + jnp.trace(pooled_cov), jnp.trace(pooled_cov)
    mixed = class_cov / jnp.where(scales[0] > 0, scales[0], 1.0)
    _, V = jnp.linalg.eigh(mixed + 0.7390851332151607 * pooled_cov / jnp.where(scales[1] > 0, scales[1], 1.0))
    return V, V.T @ class_cov @ V, V.T @ pooled_cov @ V


@jax.jit
def _closed(class_law: Gaussian, pooled: Gaussian, guidance: Array, horizon: Array) -> tuple[Gaussian, Array]:
    """The closed form in the common basis, and how far the covariances are from diagonal there, in units of ε d
    norm.
    """
    V, first, second = _common_basis(class_law.cov, pooled.cov)
    floor = _floor(class_law.cov, pooled.cov)
    values, pooled_values = jnp.diagonal(first), jnp.diagonal(second)
    off = jnp.stack([first - jnp.diag(values), second - jnp.diag(pooled_values)])
    lam, Lam = (jnp.where(v > floor, v, 0.0) for v in (values, pooled_values))
    mean, variance = guided_eigenmodes(V.T @ class_law.mean, lam, V.T @ pooled.mean, Lam, guidance, horizon)
    norm = jnp.where(floor > 0, floor, 1.0)
    return Gaussian(V @ mean, (V * variance) @ V.T), jnp.max(jnp.abs(off), initial=0.0) / norm


@jax.jit
def _integrated(class_law: Gaussian, pooled: Gaussian, guidance: Array, horizon: Array) -> Gaussian:
    covs = jnp.stack([class_law.cov, pooled.cov])
    values, vectors = jnp.linalg.eigh(covs)
    pair = _Pair(jnp.maximum(values, _floor(class_law.cov, pooled.cov)), vectors)
    flow = _flow(pair, jnp.stack([class_law.mean, pooled.mean]), guidance, horizon)
    return Gaussian(flow[:, -1], flow[:, :-1] @ flow[:, :-1].T)


def _require_support(class_law: Gaussian, pooled: Gaussian) -> None:
    """Raise `ValueError` where the pooled data has no variance but the class has: guidance then diverges."""
    if not is_concrete(pooled.cov):
        return
    floor = float(_floor(class_law.cov, pooled.cov))
    values, vectors = np.linalg.eigh(np.asarray(pooled.cov))
    null = vectors[:, values <= floor]
    seen = float(np.max(np.einsum("ij,ik,kj->j", null, np.asarray(class_law.cov), null), initial=0.0))
    require(
        seen <= 10 * floor,
        "unconditional.cov",
        f"none in a direction where conditional.cov has variance {seen:.3g}",
        "positive wherever conditional.cov is",
    )


def generated_guided(
    conditional: Gaussian,
    unconditional: Gaussian,
    guidance: Scalar,
    horizon: Scalar = jnp.inf,
    *,
    method: str = "auto",
) -> Gaussian:
    """The Gaussian generated by classifier-free guidance between two linear optima, in float64.

    The closed form where the covariances commute (error as `mean_integral`); else the matrix ODE, tolerance 1e-11,
    for which eigenvalues below ε d of the largest are raised to it: in singular directions that moves the mean by up
    to about √(ε d) |m - m'|.

    **Arguments:**

    - `conditional`: moments that the class's branch acts on, e.g. `corrupted_moments(m, S, s)`. `unconditional`:
        `pooled_moments(...)`, of the data before or after corruption as trained; must have variance wherever
        `conditional` has.
    - `guidance`: w >= 0; 0 means none and gives `generated_from(conditional, horizon)`. In common usage the "scale"
        is 1 + w.
    - `horizon`: T > 0, Ornstein-Uhlenbeck time, may be infinite.
    - `method`: "closed", "ode", or "auto": the closed form if both are diagonal in one basis up to 8 ε d of the
        larger norm. While tracing, "auto" cannot look and takes the ODE.

    Raises `ValueError` for values outside these ranges or for "closed" where the covariances do not commute,
    `TypeError` unless float64. Source: eq. 13 of arXiv:2405.20494 with linear scores; derived in this module's text.
    """
    require_float64("conditional.cov", conditional.cov)
    require_float64("unconditional.cov", unconditional.cov)
    require(
        conditional.dim == unconditional.dim, "unconditional", f"dimension {unconditional.dim}", "of equal dimension"
    )
    require(method in ("auto", "closed", "ode"), "method", method, "'auto', 'closed' or 'ode'")
    require_between("guidance", guidance, 0.0, float(np.finfo(float).max))
    require_positive("horizon", horizon, finite=False)
    _require_support(conditional, unconditional)
    settings = jnp.asarray(guidance, float), jnp.asarray(horizon, float)
    if method == "ode" or (method == "auto" and not (is_concrete(conditional.cov) and is_concrete(unconditional.cov))):
        return _integrated(conditional, unconditional, *settings)
    law, off = _closed(conditional, unconditional, *settings)
    commuting = not is_concrete(off) or float(off) <= 8
    require(commuting or method == "auto", "method", "'closed' for covariances that do not commute", "'auto' or 'ode'")
    return law if commuting else _integrated(conditional, unconditional, *settings)
