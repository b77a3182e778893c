"""The learned denoiser of the memorisation experiment: what it trains on under each operator, training, sampling.

*One program.* Sets of all sizes are repeated to as many rows, which changes no training law, so that all networks train
in one compiled program. A gate's noisy copies belong to rows, therefore gates take sets without repeated rows.
*Pairs.* With one key, all operators and strengths share initial weights, batches and starts: differences are paired.
"""

from collections.abc import Sequence
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sim.experiments.memorisation_config import MemorisationConfig, rows_needed
from sim.experiments.memorisation_sets import Measures, Sets, measure, second_half
from sim.networks import ResidualMLP
from sim.parameterisations import Velocity
from sim.samplers import DDIM
from sim.sampling import sample
from sim.times import time_grid
from sim.training import ConditionOperators, Conditions, adam, fit
from theory._checks import require
from theory.corruption import EmbeddingGaussian, Fixed, Fresh, symmetric_flip
from theory.gates import GateTimes, gate_times
from theory.paths import VPCosine

PATH = VPCosine()
"""The path of the whole experiment: it ends in unit noise."""


class RunKeys(NamedTuple):
    """The keys of one set's run, each for one use: `sampled` and `learn` share the first two."""

    start: Key[Array, "*r"]
    sample: Key[Array, "*r"]
    codes: Key[Array, "*r"]
    network: Key[Array, "*r"]
    fit: Key[Array, "*r"]


def run_keys(key: Key[Array, ""]) -> RunKeys:
    """All from the key of one set."""
    return RunKeys(*jax.random.split(key, len(RunKeys._fields)))


def repeat_keys(sets: Sequence[Sets], key: Key[Array, ""]) -> list[tuple[Sets, Key[Array, ""]]]:
    """Each set with a key of its own."""
    return list(zip(sets, jax.random.split(key, len(sets)), strict=True))


def repeated_rows(array: np.ndarray, rows: int) -> np.ndarray:
    """The array repeated to `rows` rows."""
    return np.tile(array, (rows // len(array),) + (1,) * (array.ndim - 1))


def starts(sets: Sets, key: Key[Array, ""]) -> Float[Array, "m d"]:
    """Unit noise, where every path of this experiment begins."""
    return jax.random.normal(key, sets.fresh.shape, jnp.float64)


def seen_codes(
    operator: str, strength: float, labels: Int[np.ndarray, " n"], key: Key[Array, ""]
) -> Float[np.ndarray, "n K"]:
    """The one-hot code that each point trains with, where the operator acts once per point."""
    classes, index = int(labels.max()) + 1, jnp.arange(len(labels))
    key_flip, key_noise = jax.random.split(key)
    observed, noise = jnp.asarray(labels), Fixed(EmbeddingGaussian(strength if operator == "cep fixed" else 0.0))
    if operator == "flips":
        flip = Fixed(symmetric_flip(jnp.full(classes, 1 / classes), strength))
        observed = jax.vmap(lambda y, i: flip.sample(key_flip, y, i))(observed, index)
    return np.asarray(jax.vmap(lambda c, i: noise.sample(key_noise, c, i))(jnp.eye(classes)[observed], index))


def learn(
    config: MemorisationConfig, sets: Sequence[Sets], operator: str, strength: float, key: Key[Array, ""]
) -> list[Measures]:
    """Train one network per set under an operator of `OPERATORS`, sample, and measure.

    Raises `ValueError` for "gate" on sets smaller than the largest of `config`, whose rows would be repeated.
    """
    rows = rows_needed(config)
    keys = [run_keys(k) for _, k in repeat_keys(sets, key)]
    level = np.where(second_half(sets[0].labels), strength if operator == "gate" else 0.0, 0.0)
    require(operator != "gate" or rows == len(level), "sets", f"{len(level)} points", f"{rows}: gates repeat no row")
    codes = [
        repeated_rows(seen_codes(operator, strength, s.labels, k.codes), rows) for s, k in zip(sets, keys, strict=True)
    ]
    eye = np.eye(codes[0].shape[1])
    arrays = (
        jnp.asarray(np.stack([repeated_rows(s.training, rows) for s in sets]), jnp.float32),
        jnp.asarray(np.stack(codes), jnp.float32),
        jnp.stack([starts(s, k.start) for s, k in zip(sets, keys, strict=True)]).astype(jnp.float32),
        jnp.asarray(np.stack([eye[s.fresh_labels] for s in sets]), jnp.float32),
        jax.tree.map(lambda *k: jnp.stack(k), *keys),
    )
    gamma, rate = (jnp.float32(strength if name == operator else 0.0) for name in ("cep", "dropout"))
    gates = jax.tree.map(lambda a: a.astype(jnp.float32), gate_times(PATH, repeated_rows(level, rows)))
    samples = np.asarray(_learn(config, time_grid(PATH, config.steps), gates, gamma, rate, arrays))
    return [measure(x, s) for x, s in zip(samples, sets, strict=True)]


@eqx.filter_jit
def _learn(
    config: MemorisationConfig, times: Array, gates: GateTimes, gamma: Array, null_rate: Array, arrays: tuple
) -> Float[Array, "r m d"]:
    """One repeat after the other: on a core that is faster than side by side."""

    def one(row: tuple) -> Array:
        points, codes, start, cond, keys = row
        size, classes = points.shape[1], codes.shape[1]
        network = ResidualMLP(size, config.width, config.depth, classes, key=keys.network)
        noise = Fresh(EmbeddingGaussian(gamma))
        conditions = Conditions(jnp.arange(len(points)), codes, ConditionOperators(None, noise, null_rate))
        optimiser = adam(config.training_steps, config.rate)
        options = {"steps": config.training_steps, "batch": config.batch, "gate": gates, "optimiser": optimiser}
        trained = fit(network, PATH, Velocity(), points, conditions, key=keys.fit, **options)
        return sample(trained.denoiser, PATH, DDIM(), times, start, keys.sample, cond)

    return jax.lax.map(one, arrays)
