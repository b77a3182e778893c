"""The boundary-value problem of Fisher-Rao geodesics, in coordinates where the start is N(0, I) and the end
N(a, diag λ).

**Lift.** With J exchanging the first and last block of R^(d+1+d), let X be the positive definite P with P J
P = J. Every such P is

    P = N D Nᵀ,   N = [[I, 0, 0], [mᵀ, 1, 0], [-m mᵀ/2 + W, -m, I]],   D = diag(S⁻¹, 1, S),   W antisymmetric,

so X is a bundle over the Gaussians N(m, S), with fibre W. With ¼ tr (P⁻¹ dP)² on X the projection shortens
no horizontal vector and lengthens none (a Riemannian submersion; Eriksen 1987, Kobayashi 2023). Hence, from
P(0) = I,

    distance² = min over W of F(W),   F(W) = ¼ ‖log P(W)‖_F²,

and *any* W gives a curve between the two Gaussians of length at most F(W)^½. Stationary points of F are the
geodesics: the gradient is the block (log P)₁₃, which is antisymmetric, and where it vanishes log P is
Eriksen's generator A = [[-B, x, 0], [xᵀ, 0, -xᵀ], [0, -x, B]] with x, B the initial velocities of mean and
covariance.

**Small matrices.** In the basis (y₁+y₃)/√2, y₂, (y₁-y₃)/√2 a generator is [[0, M], [Mᵀ, 0]] with M = [-(B +
W'); √2 xᵀ], of shape (d+1, d), W' = A₁₃. With the singular value decomposition M = U c Vᵀ the eigenvalues
of A are ±c and 0, F = ½ Σ c², the block (+-) of P is U sinh(c) Vᵀ. So the logarithm costs one singular
value decomposition of shape (d+1, d), and nothing cancels near P = I.

**Method.** Newton's iteration on F with the exact Hessian (Daleckii and Krein's formula in the eigenbasis
of P), kept downhill: where Newton's direction does not descend, the positive definite part of the Hessian
is used; steps are halved until F falls (Armijo). F is smooth and grows without bound, so the iteration ends
at a stationary point. This replaces continuation along (a, λ): there plain Newton fails.

A stationary point is a geodesic; whether it is the shortest one the iteration cannot know.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, ArrayLike, Bool, Float, Int


class Spectrum(NamedTuple):
    """M = U c Vᵀ of the lift over one W: `left` (d+1, d+1), `angles` c (d), `right` Vᵀ (d, d)."""

    left: Float[Array, "d1 d1"]
    angles: Float[Array, " d"]
    right: Float[Array, "d d"]


class Search(NamedTuple):
    """State of the descent: the fibre W in coordinates, F and slope there, the direction and the step to
    try next."""

    fibre: Float[Array, " k"]
    value: Float[Array, ""]
    direction: Float[Array, " k"]
    slope: Float[Array, ""]
    step: Float[Array, ""]
    steps: Int[Array, ""]


def _antisymmetric(w: Float[Array, " k"], d: int) -> Float[Array, "d d"]:
    rows, columns = np.triu_indices(d, 1)
    upper = jnp.zeros((d, d)).at[rows, columns].set(w)
    return upper - upper.T


def _spectrum(a: Float[Array, " d"], excess: Float[Array, " d"], w: Float[Array, " k"]) -> Spectrum:
    """Singular value decomposition of the logarithm of P(W); `excess` = λ - 1."""
    inverse = 1 / (1 + excess)
    corner = _antisymmetric(w, a.shape[0]) - jnp.outer(a, a) / 2
    scaled = corner * inverse
    top = -jnp.diag(excess * (2 + excess) * inverse) - jnp.outer(a, a) - scaled @ corner.T + scaled - scaled.T
    bottom = a * inverse + a - scaled @ a
    left, sinh, right = jnp.linalg.svd(jnp.vstack([top / 2, bottom / jnp.sqrt(2.0)]), full_matrices=True)
    return Spectrum(left, jnp.arcsinh(sinh), right)


def _generator(spectrum: Spectrum) -> Float[Array, "d1 d"]:
    d = spectrum.angles.shape[0]
    return (spectrum.left[:, :d] * spectrum.angles) @ spectrum.right


def _value(spectrum: Spectrum) -> Float[Array, ""]:
    return jnp.sum(spectrum.angles**2) / 2


def _gradient(spectrum: Spectrum) -> Float[Array, " k"]:
    d = spectrum.angles.shape[0]
    top = _generator(spectrum)[:d]
    return (top - top.T)[np.triu_indices(d, 1)]


def _hessians(spectrum: Spectrum) -> tuple[Float[Array, "k k"], Float[Array, "k k"]]:
    """The Hessian of F in W's coordinates, and its positive definite part.

    With P's eigenvectors z_a, eigenvalues exp(l_a) and E the generator that moves W: Ê_ab = z_aᵀ E z_b,
    h(y) = y / (1 - exp(-y)), Hess(E, E') = Σ_ab Ê_ab [h(l_b - l_a) Ê'_ab + ½ (l_a - l_b) coth(½ (l_a -
    l_b)) Ê'_ba].
    """
    left, angles, right = spectrum
    d = angles.shape[0]
    plus, minus, zero = left[:d, :d], right.T, left[:d, d:]
    first = jnp.hstack([(plus + minus) / 2, (plus - minus) / 2, zero / jnp.sqrt(2.0)])
    last = jnp.hstack([(plus - minus) / 2, (plus + minus) / 2, zero / jnp.sqrt(2.0)])
    logs = jnp.concatenate([angles, -angles, jnp.zeros(1)])
    gap = logs[None, :] - logs[:, None]
    straight, crossed = _bernoulli(gap), (_bernoulli(gap) + _bernoulli(-gap)) / 2
    rr, qq, rq = _products(last, last), _products(first, first), _products(last, first)
    positive = _antisymmetrised(rr @ straight @ qq.T, "ikjl", d)
    mixed = _antisymmetrised(rq @ crossed @ rq.T, "ilkj", d)
    return positive + (mixed + mixed.T) / 2, positive


def _products(u: Float[Array, "d n"], v: Float[Array, "d n"]) -> Float[Array, "dd n"]:
    """u_ia v_ja, with the pair (i, j) as one index."""
    return (u[:, None, :] * v[None, :, :]).reshape(-1, u.shape[1])


def _antisymmetrised(flat: Float[Array, "dd dd"], axes: str, d: int) -> Float[Array, "k k"]:
    """From T, indexed as `axes` says, T_ijkl antisymmetrised in (i, j) and in (k, l), for i < j and k < l."""
    T = jnp.einsum(f"{axes}->ijkl", flat.reshape(d, d, d, d))
    T = T - T.swapaxes(0, 1)
    T = T - T.swapaxes(2, 3)
    rows, columns = np.triu_indices(d, 1)
    chosen = rows * d + columns
    return T.reshape(d * d, d * d)[chosen][:, chosen]


def _bernoulli(y: Float[Array, "n n"]) -> Float[Array, "n n"]:
    """y / (1 - exp(-y)), 1 at 0."""
    zero = y == 0
    safe = jnp.where(zero, 1.0, y)
    return jnp.where(zero, 1.0, safe / -jnp.expm1(-safe))


def _direction(spectrum: Spectrum) -> tuple[Float[Array, " k"], Float[Array, ""]]:
    """Newton's direction where it descends, else that of the positive part; and the slope of F along it."""
    gradient = _gradient(spectrum)
    k = gradient.shape[0]
    if k == 0:
        return gradient, jnp.zeros(())
    matrices = jnp.stack(_hessians(spectrum))
    right = jnp.broadcast_to(gradient, (2, k))[..., None]
    steps = -(right / matrices if k == 1 else jnp.linalg.solve(matrices, right))[..., 0]
    slopes = steps @ gradient
    newton = (slopes[0] < 0) & jnp.all(jnp.isfinite(steps[0]))
    return jnp.where(newton, steps[0], steps[1]), jnp.where(newton, slopes[0], slopes[1])


_SETTLED = 1e-20
"""Newton's decrement relative to F below which one more step is the last."""


def minimise(
    a: Float[Array, " d"],
    excess: Float[Array, " d"],
    *,
    max_steps: int,
    start: Float[Array, " k"] | None = None,
) -> tuple[Float[Array, " d"], Float[Array, "d d"], Int[Array, ""]]:
    """Initial velocities (x, B) of a geodesic from N(0, I) towards N(a, diag(1 + excess)), and the steps
    taken."""
    d = a.shape[0]
    fibre = jnp.zeros(d * (d - 1) // 2) if start is None else start
    # The first step evaluates the start: against so high a value anything falls. (One copy of the step to compile.)
    high, steep = jnp.asarray(1e300), jnp.asarray(-1e290)
    state = Search(fibre, high, jnp.zeros_like(fibre), steep, jnp.ones(()), jnp.zeros((), int))

    def unfinished(state: Search) -> Bool[Array, ""]:
        unsettled = -state.slope > _SETTLED * state.value
        return unsettled & (state.steps < max_steps) & (state.step > 1e-9)

    def advance(state: Search) -> Search:
        trial = state.fibre + state.step * state.direction
        spectrum = _spectrum(a, excess, trial)
        value = _value(spectrum)
        rounding = 1e-14 * state.value
        falls = value <= state.value + 1e-4 * state.step * state.slope + rounding
        moved = Search(trial, value, *_direction(spectrum), jnp.ones(()), state.steps + 1)
        shorter = state._replace(step=state.step / 2, steps=state.steps + 1)
        return jax.tree.map(lambda new, old: jnp.where(falls, new, old), moved, shorter)

    state = lax.while_loop(unfinished, advance, state)
    generator = _generator(_spectrum(a, excess, state.fibre + state.direction))
    return (
        generator[d] / jnp.sqrt(2.0),
        -(generator[:d] + generator[:d].T) / 2,
        state.steps,
    )


# ----------------------------------------------------------------------------------- Eriksen's exponential


def _rows(
    x: Float[Array, " d"], B: Float[Array, "d d"], t: Float[ArrayLike, ""]
) -> tuple[Float[Array, "d n"], Float[Array, " n"]]:
    """Rows 1..d and d+1 of exp(tA/2), in a basis where n = 2d + 1 columns are orthonormal.

    Their Gram matrices are the blocks S⁻¹ = R Rᵀ and S⁻¹ m = R r of exp(tA), free of its cancellation.
    """
    d = x.shape[0]
    M = jnp.vstack([-B, jnp.sqrt(2.0) * x[None, :]])
    square, vectors = jnp.linalg.eigh(M.T @ M)
    c = jnp.sqrt(jnp.maximum(square, 0.0))
    half = jnp.asarray(t) / 2
    turned = M @ vectors
    sinhc = _sinh_over(c, half)
    mixed = (turned * sinhc) @ vectors.T
    plus = jnp.eye(d + 1) + (turned * _sinh_over(c, half / 2) ** 2 * 2) @ turned.T
    minus = (vectors * jnp.cosh(half * c)) @ vectors.T
    block = jnp.hstack([plus[:d] + mixed.T, mixed[:d] + minus]) / jnp.sqrt(2.0)
    return block, jnp.concatenate([plus[d], mixed[d]])


def _sinh_over(c: Float[Array, " d"], t: Float[Array, ""]) -> Float[Array, " d"]:
    """sinh(c t) / c, t at c = 0."""
    zero = c == 0
    safe = jnp.where(zero, 1.0, c)
    return jnp.where(zero, t, jnp.sinh(safe * t) / safe)


def shoot(
    x: Float[Array, " d"], B: Float[Array, "d d"], t: Float[ArrayLike, ""]
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    """Mean and covariance at time `t` of the geodesic from N(0, I) with velocities `x` of the mean, `B` of
    the covariance."""
    block, row = _rows(x, B, t)
    Q, T = jnp.linalg.qr(block.T)
    inverse = jax.scipy.linalg.solve_triangular(T, jnp.eye(x.shape[0]))
    return inverse @ (Q.T @ row), inverse @ inverse.T


def mismatch(
    x: Float[Array, " d"], B: Float[Array, "d d"], a: Float[Array, " d"], scale: Float[Array, " d"]
) -> Float[Array, ""]:
    """An upper bound on the Fisher-Rao distance between the end of the shot (x, B) and N(a, diag(scale²)).

    With (m, S) the end and K = scale S⁻¹ scale, moving the mean first and the covariance after gives a
    curve of length |(m - a)/scale| + (1/√2) ‖log K‖_F; ‖log K‖_F <= η/(1-η) and ‖K⁻¹‖ <= 1/(1-η) where η =
    ‖K - I‖_F < 1. Infinite where η >= 1.
    """
    block, row = _rows(x, B, 1.0)
    scaled = scale[:, None] * block
    eta = jnp.linalg.norm(scaled @ scaled.T - jnp.eye(a.shape[0]))
    mean = jnp.linalg.norm(scaled @ (row - scaled.T @ (a / scale)))
    return jnp.where(eta < 1, (mean + eta / jnp.sqrt(2.0)) / (1 - eta), jnp.inf)
