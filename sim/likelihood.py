"""Log-likelihood through the probability flow.

Along dx/dt = v(x, t) densities obey d log p_t(x_t)/dt = -div v, so for the flow that carries x at time t to x' at a
later time t',

    log p_t(x) = log p_t'(x') + ∫_t^t' div v(x_u, u) du.

p_t is the law that the denoiser's flow gives when it starts from p_t' at t', which differs from the path's own marginal
as far as the denoiser is not exact. Source: Chen et al. 2018, eq. 8; Song et al. 2021, "Score-based modeling", eq. 39.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sim.sampler_base import Denoiser, point
from sim.samplers import flow_slope
from theory._checks import is_concrete, require
from theory.path_base import Path

LogDensity = Callable[[Float[Array, " d"]], Float[Array, ""]]


def log_likelihood(
    denoiser: Denoiser,
    path: Path,
    x: Float[Array, "..."],
    log_prior: LogDensity,
    cond: PyTree = None,
    *,
    between: tuple[float, float] | None = None,
    rtol: float = 1e-8,
    atol: float = 1e-10,
) -> Float[Array, ""]:
    """Log-density in nats, at one sample `x`, of the law at the earlier of two times that flows into the prior at the
    later.

    **Arguments:**

    - `x`: a value of x_t at the earlier time, of any shape that fits the path (d numbers in all). At t near 0 that is
      the datum, up to noise of S_t. `cond`: its condition.
    - `log_prior`: log-density of the law at the later time, of flattened samples; `path.prior(...).log_prob`, or the
      exact marginal's to leave the prior mismatch out.
    - `between`: (earlier, later) within (0, 1]; default `path.t_range`, which has some signal at its end.
    - `rtol`, `atol` in (0, 1): tolerances of Dormand-Prince 8(7). Costs d + 1 denoiser calls per slope.

    Callers vmap. Raises `ValueError` outside these ranges.
    """
    start, end = path.t_range if between is None else between
    require(0 <= start < end <= 1, "between", (start, end), "earlier and later time within [0, 1]")
    for name, value in (("rtol", rtol), ("atol", atol)):
        require(0 < value < 1, name, value, "in (0, 1)")
    for t in (start, end):
        powers = [np.asarray(power) for power in path.powers(t)]
        require(all(bool(np.all(p > 0)) for p in powers), "between", t, "times with signal and noise on this path")
    if is_concrete(x):
        require(bool(jnp.all(jnp.isfinite(x))), "x", "an entry that is not finite", "finite")
    arrived, expansion = _carry(denoiser, path, x, cond, jnp.asarray([start, end], x.dtype), rtol, atol)
    return log_prior(arrived.ravel()) + expansion


@eqx.filter_jit
def _carry(
    denoiser: Denoiser, path: Path, x: Array, cond: PyTree, ends: Array, rtol: float, atol: float
) -> tuple[Array, Array]:
    """Where the flow takes x, and the integral of its divergence."""
    import diffrax

    def slope(t: Any, state: tuple[Array, Array], _: Any) -> tuple[Array, Array]:
        at = point(path, t)

        def velocity(flat: Float[Array, " d"]) -> tuple[Array, Array]:
            xt = flat.reshape(x.shape)
            value = flow_slope(xt, denoiser(xt, t, cond), at, path).ravel()
            return value, value

        jacobian, value = jax.jacfwd(velocity, has_aux=True)(state[0].ravel())
        return value.reshape(x.shape), jnp.trace(jacobian)

    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(slope),
        diffrax.Dopri8(),
        ends[0],
        ends[1],
        None,
        (x, jnp.zeros((), x.dtype)),
        stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol),
        max_steps=100_000,
    )
    return jax.tree.map(lambda leaf: leaf[0], solution.ys)
