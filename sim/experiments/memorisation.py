"""Experiment 4, memorisation: how near do samples come to the training points?

Three kinds of denoisers, on the same sets (`sim.experiments.memorisation_sets`, which defines the measures):

    exact     the empirical optimum of the n training points: all that a perfect learner of the training loss can do
    linear    the Gaussian optimum per class, which can store no point: a finite-sample baseline beside fresh data
    learned   a small residual network, trained for a fixed number of steps

against n; against the number of DDIM steps (exact); against corrupted conditions, which change *which* training point
the exact denoiser gives and not that it gives one, and may change how well a network learns them; and with noise gates
on half of the points (exact and learned): the gated points train at σ >= σ_min only, as fresh noisings of
themselves ("raw"), or as one noisy copy drawn once and kept ("kept", the ambient loss of Daras et al. 2025).

Within a cell all strengths share everything but the corruption (`sim.experiments.memorisation_network`).
"""

from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sim.conditions import seen_classes
from sim.denoisers import LinearDenoiser
from sim.empirical import AmbientEmpiricalDenoiser, EmpiricalDenoiser, keep_points
from sim.experiments.base import Cell, Experiment
from sim.experiments.memorisation_config import FAST, FULL, Config, cells, draw_sets, rows_needed, sizes
from sim.experiments.memorisation_figures import answer, figures
from sim.experiments.memorisation_network import PATH, learn, repeat_keys, rows_of, starts
from sim.experiments.memorisation_sets import Measures, Sets, measure, second_half
from sim.gating import gate_times
from sim.intervals import mean_interval, paired_difference
from sim.sampler_base import Denoiser
from sim.samplers import DDIM
from sim.sampling import sample
from sim.times import time_grid
from theory.corruption import symmetric_flip


def run(config: Config, cell: Cell, key: Key[Array, ""]) -> Mapping[str, Any]:
    """One cell: measures with 95 % intervals over repeats, the same of fresh points beside them."""
    key_sets, key_run = jax.random.split(key)
    repeats = config.repeats if cell["study"] in ("points", "learned") else config.exact_repeats
    sets = draw_sets(config, points_per_class(config, cell), key_sets, repeats)
    outcome = STUDIES[cell["study"]](config, cell, sets, key_run)
    return {"n": len(sets[0].labels), "fresh": estimates([measure(s.fresh, s) for s in sets]), **outcome}


def points_per_class(config: Config, cell: Cell) -> int:
    """Training points per class of a cell: its own, the most for gates, and that of corruption for the rest."""
    allowed = sizes(config)
    if "per_class" in cell:
        return int(cell["per_class"])
    gated = cell["study"] == "gates" or cell.get("operator") == "gate"
    return config.corrupted_per_class if config.corrupted_per_class in allowed and not gated else allowed[-1]


def estimates(values: Sequence[Measures]) -> dict[str, Any]:
    """Each measure's mean over repeats with its interval."""
    return {name: mean_interval(column) for name, column in zip(Measures._fields, np.array(values).T, strict=True)}


def differences(values: Sequence[Measures], others: Sequence[Measures]) -> dict[str, Any]:
    """Each measure's paired difference, values - others."""
    columns = zip(Measures._fields, np.array(values).T, np.array(others).T, strict=True)
    return {name: paired_difference(first, second) for name, first, second in columns}


def sampled(denoiser: Denoiser, sets: Sets, key: Key[Array, ""], steps: int) -> Measures:
    """Measures of DDIM samples of any denoiser, asked for with the fresh points' classes (`cond` an integer)."""
    key_start, key_sample = jax.random.split(key)
    times, cond = time_grid(PATH, steps), jnp.asarray(sets.fresh_labels)
    return measure(np.asarray(sample(denoiser, PATH, DDIM(), times, starts(sets, key_start), key_sample, cond)), sets)


def exact_denoiser(sets: Sets, rows: int, eta: float = 0.0) -> EmpiricalDenoiser:
    """The empirical optimum when a share `eta` of the labels was flipped in training, afresh or for many points."""
    labels, prior = rows_of(sets.labels, rows), jnp.full(int(sets.labels.max()) + 1, 1 / (int(sets.labels.max()) + 1))
    weights = np.asarray(seen_classes(symmetric_flip(prior, eta), np.eye(len(prior)), prior))
    return EmpiricalDenoiser(PATH, rows_of(sets.training, rows), labels, class_weights=weights)


def _exact(config: Config, sets: Sequence[Sets], key: Key[Array, ""], *, steps: int, eta: float = 0.0) -> dict:
    rows = rows_needed(config)
    values = [sampled(exact_denoiser(s, rows, eta), s, k, steps) for s, k in repeat_keys(sets, key)]
    return {"exact": estimates(values)}


def _steps(config: Config, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    return _exact(config, sets, key, steps=cell["steps"])


def _flips(config: Config, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    return _exact(config, sets, key, steps=config.steps, eta=cell["eta"])


def _gates(config: Config, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    """Every second point gated: the optimum over raw points, and over copies noised once."""
    levels = np.where(second_half(sets[0].labels), cell["sigma_min"], 0.0)
    gates = gate_times(PATH, levels)
    raw, kept = [], []
    for s, k in repeat_keys(sets, key):
        key_kept, key_sample = jax.random.split(k)
        copies = keep_points(PATH, jnp.asarray(s.training), gates, key_kept)
        optimum = EmpiricalDenoiser(PATH, s.training, s.labels, gates=gates)
        ambient = AmbientEmpiricalDenoiser(PATH, s.training, copies, gates, s.labels)
        raw.append(sampled(optimum, s, key_sample, config.steps))
        kept.append(sampled(ambient, s, key_sample, config.steps))
    return {"raw": estimates(raw), "kept": estimates(kept), **_all_gated(config, cell["sigma_min"], sets, key)}


def _all_gated(config: Config, sigma_min: float, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    """Every point gated: nothing trains below the gate, so sampling ends there with the denoiser's estimate."""
    gates = gate_times(PATH, np.full(len(sets[0].labels), sigma_min))
    raw: list[Measures] = []
    kept: list[Measures] = []
    for s, k in repeat_keys(sets, key):
        key_kept, key_sample = jax.random.split(k)
        copies = keep_points(PATH, jnp.asarray(s.training), gates, key_kept)
        ambient = AmbientEmpiricalDenoiser(PATH, s.training, copies, gates, s.labels)
        for denoiser, found in ((EmpiricalDenoiser(PATH, s.training, s.labels, gates=gates), raw), (ambient, kept)):
            found.append(measure(stopped(denoiser, s, key_sample, config.steps, gates.t_open[0]), s))
    return {"raw_stopped": estimates(raw), "kept_stopped": estimates(kept)}


def stopped(
    denoiser: Denoiser, sets: Sets, key: Key[Array, ""], steps: int, end: Float[Array, ""]
) -> Float[np.ndarray, "m d"]:
    """The denoiser's estimates at time `end`, where DDIM has carried noise to in `steps` even steps."""
    key_start, key_sample = jax.random.split(key)
    times, cond = jnp.linspace(1.0, end, steps + 1).at[-1].set(end), jnp.asarray(sets.fresh_labels)
    xt = sample(denoiser, PATH, DDIM(), times, starts(sets, key_start), key_sample, cond)
    return np.asarray(_estimates_at(denoiser, jnp.asarray(np.asarray(xt)), end, cond))


@eqx.filter_jit
def _estimates_at(denoiser: Denoiser, xt: Array, t: Array, cond: Array) -> Array:
    return jax.vmap(denoiser, in_axes=(0, None, 0))(xt, t, cond)


def _points(config: Config, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    """Exact, linear and learned denoisers on the same points."""
    linear, rows = [], rows_needed(config)
    for s, k in repeat_keys(sets, key):
        denoiser = LinearDenoiser.fit(PATH, rows_of(s.training, rows), rows_of(s.labels, rows))
        linear.append(sampled(denoiser, s, k, config.steps))
    learned = estimates(learn(config, sets, "cep", 0.0, key))
    return {**_exact(config, sets, key, steps=config.steps), "linear": estimates(linear), "learned": learned}


def _learned(config: Config, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    """The network at all strengths of an operator, and paired differences from strength 0."""
    strengths = dict(config.strengths)[cell["operator"]]
    arms = [learn(config, sets, cell["operator"], strength, key) for strength in strengths]
    changes = [differences(arm, arms[0]) for arm in arms]
    return {"strengths": strengths, "arms": [estimates(arm) for arm in arms], "changes": changes}


STUDIES = {"steps": _steps, "flips": _flips, "gates": _gates, "points": _points, "learned": _learned}


EXPERIMENT = Experiment(
    name="memorisation",
    title="Memorisation",
    question="How near do samples come to training points: with n, with steps, under corruption, behind noise gates?",
    fast=FAST,
    full=FULL,
    cells=cells,
    run=run,
    figures=figures,
    answer=answer,
)
