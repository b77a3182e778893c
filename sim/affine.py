"""The exact Gaussian that a deterministic sampler makes of another one where the denoiser is affine."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from sim.sampler_base import Denoiser, Sampler
from sim.sampling import sample
from theory.gaussian import Gaussian
from theory.path_base import Path


def affine_image(
    denoiser: Denoiser,
    path: Path,
    sampler: Sampler,
    times: Float[Array, " k"],
    mean: Float[Array, " d"],
    std: Float[ArrayLike, ""] = 1.0,
    cond: Int[Array, ""] | None = None,
) -> Gaussian:
    """The law of samples that start from N(`mean`, `std`² I) at `times[0]`: `d` + 1 trajectories tell the affine map.

    `sampler` deterministic and `denoiser` affine in x_t, which is not checked. Jittable. Raises `ValueError` as
    `sim.sampling.sample` does.
    """
    start = mean + std * jnp.concatenate([jnp.zeros((1, mean.size)), jnp.eye(mean.size)])
    conds = None if cond is None else jnp.broadcast_to(cond, (mean.size + 1,))
    ends = jnp.asarray(sample(denoiser, path, sampler, times, start, jax.random.key(0), conds))
    columns = ends[1:] - ends[0]
    return Gaussian(ends[0], columns.T @ columns)
