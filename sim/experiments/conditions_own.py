"""A user's own denoisers in the experiment on condition corruption: how much nearer to each class does one sample than
another, for the same starts and fresh data?"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from sim.denoisers import Guided
from sim.experiments.conditions_draws import Classes
from sim.experiments.conditions_network import sample_losses
from sim.intervals import mean_interval, paired_difference
from sim.samplers import DPMSolverPP2M
from sim.sampling import sample
from sim.times import time_grid
from theory.paths import VPCosine

Denoiser = Callable[..., Array]


def denoiser_gain(
    clean: Denoiser,
    corrupted: Denoiser,
    classes: Classes,
    key: Key[Array, ""],
    *,
    guidance: float = 0.0,
    samples: int = 256,
    repeats: int = 8,
    steps: int = 20,
) -> dict[str, Any]:
    """`clean`: debiased W2² of its samples to the classes, on average; `gain`: by how much that of `corrupted` is less.

    Both are denoisers `(xt, t, cond) -> x0_hat` on the path `VPCosine()`, trained by the caller, the second under
    corruption: `cond` is a class's index, or None for the unconditional branch, called only where `guidance` > 0.
    `classes`: the truth, e.g. `conditions_draws.make_classes("opposite", d=4, mean_square=1.0)`. `samples` per class in
    each of two draws, `repeats` >= 2 of them: the 95 % intervals are over these, paired, hence for these two denoisers
    and not for training sets. Raises `ValueError` where `sample` does, and for `repeats` < 2.
    """
    losses = [
        _losses((clean, corrupted), classes, one, guidance, samples, steps) for one in jax.random.split(key, repeats)
    ]
    first, second = np.array(losses).T
    return {"clean": mean_interval(first), "gain": paired_difference(first, second)}


def _losses(
    denoisers: tuple[Denoiser, Denoiser], classes: Classes, key: Key[Array, ""], guidance: float, count: int, steps: int
) -> list[float]:
    """Of each denoiser, from the same starts and to the same fresh data."""
    key_start, key_fresh = jax.random.split(key)
    (k, d), path = classes.means.shape, VPCosine()
    start = jnp.tile(jax.random.normal(key_start, (2, 1, count, d)), (1, k, 1, 1)).reshape(-1, d)
    cond, times = jnp.tile(jnp.repeat(jnp.arange(k), count), 2), time_grid(path, steps, "log_snr")
    ends = [
        np.asarray(sample(one, path, DPMSolverPP2M(), times, start, jax.random.key(0), cond)).reshape(2, k, count, d)
        for one in (Guided(own, jnp.asarray(guidance)) if guidance > 0 else own for own in denoisers)
    ]
    first, second = np.stack(ends, axis=1)
    return [float(loss) for loss in sample_losses(first, second, classes, key_fresh).mean(axis=1)]
