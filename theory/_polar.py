"""The orthogonal polar factor of a small matrix, by matrix products alone where that is enough.

A = H U with H = (A Aᵀ)^½ and U orthogonal; U maximises tr(Uᵀ A). A polynomial step X ← (a I + b G + c G²) X, G = X
Xᵀ, leaves the singular vectors of X alone and maps its singular values σ to σ (a + b σ² + c σ⁴). The first steps use
the polynomials nearest to 1 on [low, 1], [the image of that interval], ... (whose composition is the best of its
kind: Amsel, Persson, Musco, Gower 2025, "The Polar Express: optimal matrix sign methods"), the later ones
Newton-Schulz's of degree 5, and the last one that of degree 7, which takes |σ² - 1| from 1e-4 to rounding. Matrices
with σ_min below about 1e-3 σ_max need more steps than a singular value decomposition costs; they get one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

_LOW = 0.03
_OPTIMAL_STEPS = 4
_MOST_STEPS = 9
_CONVERGED = 1e-8
"""On ‖X Xᵀ - I‖_F²: the last step leaves at most (35/128) δ⁴ of a defect δ <= 1e-4, below rounding."""


def _nearest_to_one(low: float) -> Float[np.ndarray, "3"]:
    """Coefficients of σ, σ³, σ⁵ with least max |p(σ) - 1| over [low, 1], by Remez's exchange."""
    points = np.linspace(low, 1, 4)
    for _ in range(50):
        system = np.column_stack([points, points**3, points**5, [1, -1, 1, -1]])
        a, b, c, _error = np.linalg.solve(system, np.ones(4))
        root = np.sqrt(9 * b**2 - 20 * a * c)
        inner = np.sqrt((-3 * b + np.array([-root, root])) / (10 * c))
        points = np.array([low, *np.sort(inner), 1.0])
    return np.array([a, b, c])


def _schedule() -> Float[np.ndarray, "steps 3"]:
    """The optimal steps, each scaled so that no singular value passes 1, then Newton-Schulz's step of degree 5."""
    low, rows = _LOW, []
    for _ in range(_OPTIMAL_STEPS):
        row = _nearest_to_one(low)
        least = row @ [low, low**3, low**5]  # 1 - error; the largest value is 1 + error
        rows.append(row / (2 - least))
        low = least / (2 - least)
    return np.array([*rows, [15 / 8, -10 / 8, 3 / 8]])


_STEPS = _schedule()


def _first_step(A: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The first optimal step on A / α, α = (tr (A Aᵀ)⁴)^(1/8), which is between σ_max and d^(1/8) σ_max."""
    gram = A @ A.T
    square = gram @ gram
    bound = jnp.sqrt(jnp.sqrt(jnp.sum(square**2)))
    bound = jnp.where(bound > 0, bound, 1.0)
    a, b, c = _STEPS[0]
    return (a * jnp.eye(len(A)) + (b / bound) * gram + (c / bound**2) * square) @ A / jnp.sqrt(bound)


def _defect(gram: Float[Array, "d d"]) -> Float[Array, ""]:
    return jnp.sum((gram - jnp.eye(len(gram))) ** 2)


def _step(state: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
    X, gram, _, k = state
    a, b, c = jnp.asarray(_STEPS)[jnp.minimum(k, _OPTIMAL_STEPS)]
    X = (a * jnp.eye(len(X)) + b * gram + c * (gram @ gram)) @ X
    gram = X @ X.T
    return X, gram, _defect(gram), k + 1


def _last_step(X: Float[Array, "d d"], gram: Float[Array, "d d"]) -> Float[Array, "d d"]:
    low = 35 * jnp.eye(len(X)) - 35 * gram
    return (low + (gram @ gram) @ (21 * jnp.eye(len(X)) - 5 * gram)) @ (X / 16)


def _by_svd(state: tuple[Array, Array]) -> tuple[Array, Array]:
    matrix, defect = state
    left, _, right = jnp.linalg.svd(matrix)
    return jnp.where(defect > _CONVERGED, left @ right, matrix), jnp.zeros_like(defect)


@jax.custom_jvp
def polar_factor(A: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The orthogonal U that maximises tr(Uᵀ A), float64; not unique where A is singular.

    Differentiable to any order where A is invertible: dU = U X with X P + P X = Uᵀ dA - dAᵀ U, P = Uᵀ A, which has no
    singularity at equal singular values. Under `vmap` a batch takes as many steps as its worst member.
    """
    X = _first_step(A)
    gram = X @ X.T
    start = (X, gram, _defect(gram), jnp.asarray(1))
    X, gram, defect, _ = lax.while_loop(lambda s: (s[2] > _CONVERGED) & (s[3] < _MOST_STEPS), _step, start)
    result = jnp.where(defect > _CONVERGED, A, _last_step(X, gram))
    # A loop of zero or one step rather than `cond`: under vmap, `cond` would always compute both branches.
    return lax.while_loop(lambda s: s[1] > _CONVERGED, _by_svd, (result, defect))[0]


@polar_factor.defjvp
def _polar_factor_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    A, dA = primals[0], tangents[0]
    U = polar_factor(A)
    skew = U.T @ dA
    return U, U @ _lyapunov(U.T @ A, skew - skew.T)


def _lyapunov(P: Float[Array, "d d"], C: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Solve X P + P X = C for symmetric positive definite P; linear in C and differentiable in both."""

    def solve(_: object, right: Array) -> Array:
        values, V = jnp.linalg.eigh(lax.stop_gradient(P))
        return V @ ((V.T @ right @ V) / (values[:, None] + values[None, :])) @ V.T

    return lax.custom_linear_solve(lambda X: X @ P + P @ X, C, solve, symmetric=True)
