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

    def slope(zeta: Array, z: Array) -> Array:
        u = jnp.sinh(zeta) / beta
        long = jnp.sqrt(1 + u**2)
        return (denoise(z, 0.5 * jnp.log1p(u**-2.0)) - u / long * z) * jnp.cosh(zeta) / (beta * long)

    def stage(i: Array, k: Array, z: Array, zeta: Array) -> Array:
        inner = z + h * jnp.tensordot(jnp.asarray(A)[i], k, 1)
        return k.at[i].set(slope(zeta + jnp.asarray(C)[i] * h, inner))

    def step(z: Array, index: Array) -> tuple[Array, None]:
        zeta = first + index * h
        blank = jnp.zeros((STAGES, *z.shape))
        k = lax.fori_loop(0, STAGES, lambda i, k: stage(i, k, z, zeta), blank)
        return z + h * jnp.tensordot(jnp.asarray(B), k, 1), None

    return lax.scan(step, start, jnp.arange(steps))[0]


def linear_shrink(values: Array, mean: Array, time: Array, z: Array) -> Array:
    """x̂0 of the linear optimum in its eigenbasis, from its definition: the regression of x0 on z, eigenvalue by
    eigenvalue.
    """
    r, noise2 = jnp.exp(-time), -jnp.expm1(-2 * time)
    return mean + r * values / (noise2 + r**2 * values) * (z - r * mean)
