"""The learned network of the experiment on condition corruption: trained on many training sets and strengths in one
program, sampled with and without guidance, and compared with the classes.

All strengths share training sets, initial weights, batches, times and noise, the starts of sampling and the fresh data,
so differences between strengths are paired. One program serves all operators, which are data to it (`Task`): a strength
of zero switches each off.

*The loss.* d = 1: squared W2 between the images of equally spaced quantiles of N(0, 1), sorted, and the same quantiles
of the class: no sampling noise. d > 1: debiased squared W2 of samples, see `sim.distances`.
"""

from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sim.denoisers import Guided
from sim.distances import wasserstein2_squared
from sim.experiments.conditions_draws import Classes
from sim.networks import ResidualMLP
from sim.parameterisations import Velocity
from sim.samplers import DPMSolverPP2M
from sim.sampling import sample
from sim.times import time_grid
from sim.training import ConditionOperators, Conditions, Fit, fit
from theory.corruption import EmbeddingGaussian, Fresh, InputPerturbation, LabelFlip
from theory.paths import VPCosine

NULL_RATE = 0.1
"""Share of the uses of a point without a condition, for guidance, before dropout."""


class Training(NamedTuple):
    """How a network is made: sizes, steps, batch, steps of the sampler."""

    width: int
    depth: int
    steps: int
    batch: int
    sampler_steps: int


class Task(NamedTuple):
    """One training: points, the code of each, what is drawn at every step, and the key of network and training.

    At every step a point takes the code of another one by the row of the transition `matrix` (fresh flips), to which
    noise of `noise_std` is added (CEP-G), unless it is replaced by the null code 0 with `null_rate` (guidance, and
    dropout). `gamma`: input perturbation.
    """

    points: Float[Array, "*b n d"]
    codes: Float[Array, "*b n K"]
    matrix: Float[Array, "*b n n"]
    noise_std: Float[Array, "*b"]
    null_rate: Float[Array, "*b"]
    gamma: Float[Array, "*b"]
    key: Key[Array, "*b"]


def network_samples(
    tasks: Task, starts: Float[Array, "N d"], guidances: tuple[float, ...], training: Training
) -> Float[np.ndarray, "B w K N d"]:
    """Train a network for every task (leading axis B) and carry `starts` to each class's clean code, for every
    guidance."""
    cast = jax.tree.map(lambda a: a.astype(jnp.float32) if jnp.issubdtype(a.dtype, jnp.floating) else a, tasks)
    times = time_grid(VPCosine(), training.sampler_steps, "log_snr")
    weights = jnp.asarray(guidances, jnp.float32)
    return np.asarray(_train_and_sample(cast, starts.astype(jnp.float32), weights, times, training), float)


@eqx.filter_jit
def _train_and_sample(tasks: Task, starts: Array, guidances: Array, times: Array, training: Training) -> Array:
    path, classes = VPCosine(), tasks.codes.shape[-1]
    conds = jnp.repeat(jnp.eye(classes, dtype=starts.dtype), len(starts), axis=0)
    start = jnp.tile(starts, (classes, 1))

    def one(task: Task) -> Array:
        denoiser = _trained(path, task, training).denoiser

        def guided(w: Array) -> Array:
            ends = sample(Guided(denoiser, w), path, DPMSolverPP2M(), times, start, jax.random.key(0), conds)
            return jnp.asarray(ends).reshape(classes, len(starts), -1)

        return jax.vmap(guided)(guidances)

    return jax.vmap(one)(tasks)


def _trained(path: VPCosine, task: Task, training: Training) -> Fit:
    key_network, key_fit = jax.random.split(task.key)
    (n, d), classes, dtype = task.points.shape, task.codes.shape[-1], task.points.dtype
    network = ResidualMLP(d, training.width, training.depth, classes, key=key_network, dtype=dtype)
    perturb = EmbeddingGaussian(task.noise_std * np.sqrt(classes).astype(dtype))
    operators = ConditionOperators(Fresh(LabelFlip(task.matrix)), Fresh(perturb), task.null_rate)
    conditions = Conditions(jnp.arange(n), task.codes, operators)
    return fit(
        network, path, Velocity(), task.points, conditions, key=key_fit, steps=training.steps, batch=training.batch,
        input_operator=InputPerturbation(task.gamma),
    )  # fmt: skip


def quantile_losses(
    ends: Float[np.ndarray, "*b K N 1"], scores: Float[np.ndarray, " N"], places: Float[np.ndarray, " K"]
) -> Float[np.ndarray, "*b K"]:
    """Squared W2 on the line between sorted images and the quantiles `scores` of N(0, 1) about each place."""
    return np.mean((np.sort(ends[..., 0], axis=-1) - places[:, None] - scores) ** 2, axis=-1)


def sample_losses(
    first: Float[np.ndarray, "B K N d"], second: Float[np.ndarray, "B K N d"], classes: Classes, key: Key[Array, ""]
) -> Float[np.ndarray, "B K"]:
    """Debiased squared W2 between generated samples (two draws) and fresh data, which all tasks share."""
    shape = (2, *first.shape[1:])
    z = np.asarray(jax.random.normal(key, shape, float)) * np.sqrt(np.diag(classes.cov))
    fresh = z + classes.means[:, None]
    own = [wasserstein2_squared(a, b) for a, b in zip(*fresh, strict=True)]
    losses = np.empty(first.shape[:2])
    for b, k in np.ndindex(*losses.shape):
        between = (wasserstein2_squared(first[b, k], fresh[0, k]) + wasserstein2_squared(second[b, k], fresh[1, k])) / 2
        losses[b, k] = between - wasserstein2_squared(first[b, k], second[b, k]) / 2 - own[k] / 2
    return losses
