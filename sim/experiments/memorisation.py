"""Experiment 4, memorisation: how near do samples come to the training points?

Three kinds of denoisers, on the same sets (`sim.experiments.memorisation_sets`, which defines the measures):

    exact     the empirical optimum of the n training points: all that a perfect learner of the training loss can do
    linear    the Gaussian optimum per class, which can store no point: a finite-sample baseline beside fresh data
    learned   a small residual network, trained for a fixed number of steps

against n; against the number of DDIM steps (exact); against corrupted conditions, which change *which* training point
the exact denoiser gives and not that it gives one, and may change how well a network learns them; and with noise gates
on half of the points (exact and learned): the gated points train at σ >= σ_min only, as fresh noisings of
themselves ("raw"), or as one noisy copy drawn once and kept ("kept", the ambient loss of Daras et al. 2025).

A denoiser of one's own: `own_denoiser` measures it as the rows are, on the same sets; `sampled` on any one set.

Within a cell all strengths share everything but the corruption (`sim.experiments.memorisation_network`).
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sim.conditions import seen_classes
from sim.denoisers import LinearDenoiser
from sim.empirical import AmbientEmpiricalDenoiser, EmpiricalDenoiser, keep_points
from sim.experiments.base import Cell, Experiment, cell_key
from sim.experiments.memorisation_answer import answer, details
from sim.experiments.memorisation_config import FAST, FULL, MemorisationConfig, cells, draw_sets, rows_needed, sizes
from sim.experiments.memorisation_figures import figures
from sim.experiments.memorisation_network import PATH, learn, repeat_keys, repeated_rows, run_keys, starts
from sim.experiments.memorisation_sets import Measures, Sets, differences, estimates, measure, second_half
from sim.sampler_base import Denoiser
from sim.samplers import DDIM
from sim.sampling import sample
from sim.times import time_grid
from theory.corruption import symmetric_flip
from theory.gates import gate_times


def run(config: MemorisationConfig, cell: Cell, key: Key[Array, ""]) -> Mapping[str, Any]:
    """One cell: measures with 95 % intervals over repeats, the same of fresh points beside them."""
    key_sets, key_run = jax.random.split(key)
    repeats = config.repeats if cell["study"] in ("points", "learned") else config.exact_repeats
    sets = draw_sets(config, points_per_class(config, cell), key_sets, repeats)
    outcome = STUDIES[cell["study"]](config, cell, sets, key_run)
    return {**_about(sets), **outcome}


def points_per_class(config: MemorisationConfig, cell: Cell) -> int:
    """Training points per class of a cell: its own, the most for gates, and that of corruption for the rest."""
    allowed = sizes(config)
    if "per_class" in cell:
        return int(cell["per_class"])
    gated = cell["study"] == "gates" or cell.get("operator") == "gate"
    return config.corrupted_per_class if config.corrupted_per_class in allowed and not gated else allowed[-1]


def sampled(denoiser: Denoiser, sets: Sets, key: Key[Array, ""], steps: int) -> Measures:
    """Measures of DDIM samples of any denoiser, asked for with the fresh points' classes (`cond` an integer)."""
    keys, times, cond = run_keys(key), time_grid(PATH, steps), jnp.asarray(sets.fresh_labels)
    ends = sample(denoiser, PATH, DDIM(), times, starts(sets, keys.start), keys.sample, cond)
    return measure(np.asarray(ends), sets)


def sampled_all(
    make: Callable[[Sets], Denoiser], sets: Sequence[Sets], key: Key[Array, ""], steps: int
) -> dict[str, Any]:
    """Estimates over repeats of what `make`'s denoiser of each set samples."""
    return estimates([sampled(make(s), s, k, steps) for s, k in repeat_keys(sets, key)], sets)


def own_denoiser(
    config: MemorisationConfig, per_class: int, make: Callable[[Sets], Denoiser], *, seed: int = 0
) -> dict[str, Any]:
    """Measures of denoisers of one's own, on the sets and starts of the row `study=points per_class=...`.

    `make` trains on `sets.training` (n, d) with `sets.labels` (n), once per repeat, and returns a denoiser
    `(xt, t, cond) -> x0_hat` on the path `PATH`, `cond` a class's index. The result has that row's form: `n`, `fresh`
    (the measures of fresh data), and `own` beside its `exact`, `linear` and `learned`. Raises `ValueError` where
    `per_class` is more than the data allow, and where `sample` does.
    """
    key_sets, key_run = jax.random.split(cell_key(seed, {"study": "points", "per_class": per_class}))
    sets = draw_sets(config, per_class, key_sets, config.repeats)
    return {**_about(sets), "own": sampled_all(make, sets, key_run, config.steps)}


def _about(sets: Sequence[Sets]) -> dict[str, Any]:
    """What every row holds: the number of training points, and the measures of fresh data."""
    return {"n": len(sets[0].labels), "fresh": estimates([measure(s.fresh, s) for s in sets], sets)}


def exact_denoiser(sets: Sets, rows: int, eta: float = 0.0) -> EmpiricalDenoiser:
    """The empirical optimum when a share `eta` of the labels was flipped in training, afresh or for many points."""
    classes = int(sets.labels.max()) + 1
    labels, prior = repeated_rows(sets.labels, rows), jnp.full(classes, 1 / classes)
    weights = np.asarray(seen_classes(symmetric_flip(prior, eta), np.eye(len(prior)), prior))
    return EmpiricalDenoiser(PATH, repeated_rows(sets.training, rows), labels, class_weights=weights)


def _exact(
    config: MemorisationConfig, sets: Sequence[Sets], key: Key[Array, ""], *, steps: int, eta: float = 0.0
) -> dict:
    rows = rows_needed(config)
    return {"exact": sampled_all(lambda s: exact_denoiser(s, rows, eta), sets, key, steps)}


def _steps(config: MemorisationConfig, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    return _exact(config, sets, key, steps=cell["steps"])


def _flips(config: MemorisationConfig, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    return _exact(config, sets, key, steps=config.steps, eta=cell["eta"])


def _gates(config: MemorisationConfig, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
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
    return {
        "raw": estimates(raw, sets),
        "kept": estimates(kept, sets),
        **_all_gated(config, cell["sigma_min"], sets, key),
    }


def _all_gated(config: MemorisationConfig, sigma_min: float, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
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
    return {"raw_stopped": estimates(raw, sets), "kept_stopped": estimates(kept, sets)}


def stopped(
    denoiser: Denoiser, sets: Sets, key: Key[Array, ""], steps: int, end: Float[Array, ""]
) -> Float[np.ndarray, "m d"]:
    """The denoiser's estimates at time `end`, where DDIM has carried noise to in `steps` even steps."""
    keys = run_keys(key)
    times, cond = jnp.linspace(1.0, end, steps + 1).at[-1].set(end), jnp.asarray(sets.fresh_labels)
    xt = sample(denoiser, PATH, DDIM(), times, starts(sets, keys.start), keys.sample, cond)
    return np.asarray(_estimates_at(denoiser, jnp.asarray(np.asarray(xt)), end, cond))


@eqx.filter_jit
def _estimates_at(denoiser: Denoiser, xt: Array, t: Array, cond: Array) -> Array:
    return jax.vmap(denoiser, in_axes=(0, None, 0))(xt, t, cond)


def _points(config: MemorisationConfig, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    """Exact, linear and learned denoisers on the same points."""
    rows = rows_needed(config)

    def linear(s: Sets) -> Denoiser:
        return LinearDenoiser.fit(PATH, repeated_rows(s.training, rows), repeated_rows(s.labels, rows))

    return {
        **_exact(config, sets, key, steps=config.steps),
        "linear": sampled_all(linear, sets, key, config.steps),
        "learned": estimates(learn(config, sets, "cep", 0.0, key), sets),
    }


def _learned(config: MemorisationConfig, cell: Cell, sets: Sequence[Sets], key: Key[Array, ""]) -> dict:
    """The network at all strengths of an operator, and paired differences from strength 0."""
    strengths = dict(config.strengths)[cell["operator"]]
    arms = [learn(config, sets, cell["operator"], strength, key) for strength in strengths]
    changes = [differences(arm, arms[0]) for arm in arms]
    return {"strengths": strengths, "arms": [estimates(arm, sets) for arm in arms], "changes": changes}


STUDIES = {"steps": _steps, "flips": _flips, "gates": _gates, "points": _points, "learned": _learned}


EXPERIMENT = Experiment(
    name="memorisation",
    title="Memorisation",
    question="How near do samples come to training points: with n, with steps, under corruption, behind noise gates?",
    fast=FAST,
    full=FULL,
    cells=cells,
    run=run,
    answer=answer,
    details=details,
    figures=figures,
)
