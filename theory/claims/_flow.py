"""Integration of the reverse flow with a given denoiser: the independent route for what a linear denoiser generates.

The probability-flow ODE dz/dt = -(z + score), run from t = T to 0, in u = r/σ (square root of the signal-to-noise
ratio) reads

    dz/du = (x̂0(z, t) - r z)/√(1 + u²),     u = sinh(ζ)/β,  β = max(1, ‖S_c‖^½),

and is integrated in ζ by the eighth-order Dormand-Prince method (SciPy's DOP853 tableau) in equal steps, up to the
noise level `STOP`. Eigenvalue λ puts a singularity at u = i/√λ, i.e. at ζ = arccosh(β/√λ) + iπ/2: never nearer to the
real axis than π/2, so the step needed depends on none of d, λ, T. From noise level `STOP` to 0 a point moves at most
as in a direction without variance: by `STOP`/σ_T of its distance from the mean at T.
"""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jaxtyping import Float
from scipy.integrate import DOP853

STOP = 1e-9
STEPS = 48
STEP_ERROR = 2e-9
"""Relative error of the flow in `STEPS` steps over the whole range; measured by halving the step
(tests/test_linear.py).
"""

STAGES = DOP853.n_stages
A, B, C = (np.asarray(x) for x in (DOP853.A[:STAGES, :STAGES], DOP853.B, DOP853.C[:STAGES]))

Denoiser = Callable[[Array, Array], Array]


def reverse_flow(
    denoise: Denoiser, start: Float[Array, "k d"], horizon: Array, beta: Array, *, steps: int = STEPS
) -> Float[Array, "k d"]:
    """Where the reverse flow carries the rows of `start` from time `horizon` (Ornstein-Uhlenbeck time) to noise level
    `STOP`.

    `denoise(z, time)` gives x̂0 for all rows at an Ornstein-Uhlenbeck time.
    """
    first = jnp.arcsinh(beta / jnp.sqrt(jnp.expm1(2 * horizon)))
    h = (jnp.arcsinh(beta / STOP) - first) / steps
    zeta = first + h * (jnp.arange(steps)[:, None] + jnp.asarray(C))
    u = jnp.sinh(zeta) / beta
    long = jnp.sqrt(1 + u**2)
    # at each step and stage: the time, the signal r, and du/√(1 + u²) over dζ
    stages = 0.5 * jnp.log1p(u**-2.0), u / long, jnp.cosh(zeta) / (beta * long)

    def step(z: Array, at: tuple[Array, Array, Array]) -> tuple[Array, None]:
        times, signals, rates = at

        def stage(i: Array, k: Array) -> Array:
            inner = z + h * jnp.tensordot(jnp.asarray(A)[i], k, 1)
            return k.at[i].set((denoise(inner, times[i]) - signals[i] * inner) * rates[i])

        k = lax.fori_loop(0, STAGES, stage, jnp.zeros((STAGES, *z.shape)))
        return z + h * jnp.tensordot(jnp.asarray(B), k, 1), None

    return lax.scan(step, start, stages)[0]


def diagonal_flow(
    denoise: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    start: Float[np.ndarray, "k d"],
    horizon: float,
    beta: float,
    *,
    steps: int = STEPS,
) -> Float[np.ndarray, "k d"]:
    """`reverse_flow` for a denoiser that does not mix directions, in NumPy: the same method, all steps at once.

    `denoise(times)`, times of shape (..., 1), gives p and q of shape (..., d) with x̂0 = p + q z. Then each step is an
    affine map of z, and the maps of all steps are found side by side.
    """
    first = np.arcsinh(beta / np.sqrt(np.expm1(2 * horizon)))
    h = (np.arcsinh(beta / STOP) - first) / steps
    zeta = (first + h * (np.arange(steps) + C[:, None]))[..., None]  # (stages, steps, 1)
    u = np.sinh(zeta) / beta
    long = np.sqrt(1 + u**2)
    rates = np.cosh(zeta) / (beta * long)
    p, q = denoise(0.5 * np.log1p(u**-2.0))
    shift, factor = p * rates, (q - u / long) * rates
    k = np.zeros((STAGES, 2, *shift.shape[1:]))  # what a stage adds: a constant, and a multiple of z
    unit = np.array([0.0, 1.0])[:, None, None]
    for i in range(STAGES):
        k[i] = factor[i] * (unit + h * np.tensordot(A[i, :i], k[:i], 1))
        k[i, 0] += shift[i]
    constants, multiples = unit + h * np.tensordot(B, k, 1)
    z = start
    for constant, multiple in zip(constants, multiples, strict=True):
        z = constant + multiple * z
    return z


def linear_shrink(values: Array, mean: Array, time: Array, z: Array) -> Array:
    """x̂0 of the linear optimum in its eigenbasis, from its definition: the regression of x0 on z, eigenvalue by
    eigenvalue.
    """
    r, noise2 = jnp.exp(-time), -jnp.expm1(-2 * time)
    return mean + r * values / (noise2 + r**2 * values) * (z - r * mean)


def regression(values: np.ndarray, mean: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """p and q of `linear_shrink` = p + q z, for `diagonal_flow`."""
    r, noise2 = np.exp(-times), -np.expm1(-2 * times)
    total = noise2 + r**2 * values
    return mean * noise2 / total, r * values / total
