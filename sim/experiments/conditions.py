"""Experiment 1, condition corruption: where does "slight corruption helps" hold beyond the linear model?

The *gain* of a corruption is E W2²(class, clean) - E W2²(class, corrupted), in squared units of x, over training sets,
for the clean code of a class: positive where corruption helps. Five learners, from `sim.experiments.conditions_laws`:

    linear           optimum per class fitted to a training set, sampled in finite steps
    linear limit     the same for infinitely many points
    exact            the unrestricted optimum for infinitely many points
    memorising       the unrestricted optimum for the training points
    network          a small residual network, `sim.experiments.conditions_network`

A cell is one learner, operator and setting for all strengths and guidances; a row's `curves` holds, for each guidance,
the clean loss, the gains over the clean learner at that guidance, those over the clean learner without guidance
(`over_unguided`: guidance may do more harm than corruption then repairs) and, where theory knows them, theory's. All
gains are paired over training sets.

A denoiser of one's own: `sim.experiments.conditions_own.denoiser_gain` gives the same numbers for a pair of them.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Key

from sim.experiments.base import Cell, Experiment
from sim.experiments.conditions_answer import answer, details
from sim.experiments.conditions_config import FAST, FULL, ConditionsConfig, cells, strengths_of
from sim.experiments.conditions_figures import figures
from sim.experiments.conditions_laws import Moments
from sim.experiments.conditions_learners import LEARNERS
from sim.intervals import mean_interval
from theory.flips import flip_change, guided_flip_change
from theory.training_sets import entropy_gap, wasserstein_gain

Z95 = 1.96


def run(config: ConditionsConfig, cell: Cell, key: Key[Array, ""]) -> Mapping[str, Any]:
    """The curves of one cell."""
    strengths = strengths_of(config, cell)
    losses, law = LEARNERS[cell["learner"]](config, cell, strengths, key)
    unguided = losses[0.0][:, :1]
    curves = [
        {
            "guidance": guidance,
            "clean": intervals(table[:, :1])[0],
            "gain": intervals(table[:, :1] - table),
            "over_unguided": intervals(unguided - table),
            "theory": theory_gains(cell, strengths, guidance),
        }
        for guidance, table in losses.items()
    ]
    return {"strengths": list(strengths), "curves": curves, **_entropies(cell, strengths, law)}


def intervals(table: Float[np.ndarray, "sets L"]) -> list[dict[str, float]]:
    """The mean of each column with its 95 % interval; a single row is exact and has none."""
    parts = mean_interval(table) if len(table) > 1 else [table[0]] * 3
    return [dict(zip(("value", "low", "high"), map(float, column), strict=True)) for column in zip(*parts, strict=True)]


def theory_gains(cell: Cell, strengths: Sequence[float], guidance: float) -> list[dict[str, float]] | None:
    """Theory's gains with 95 % bands, None where it has no closed form: else than opposite classes, Σ = I, linear."""
    from_theory = _theory(cell, guidance)
    if cell["classes"] != "opposite" or cell["condition"] != 1 or from_theory is None:
        return None
    rows = []
    for strength in strengths:
        value, error = from_theory(strength)
        rows.append({"value": value, "low": value - Z95 * error, "high": value + Z95 * error})
    return rows


def _theory(cell: Cell, guidance: float) -> Any:
    n, d, a, operator = (cell[name] for name in ("n", "d", "mean_square", "operator"))
    fresh = cell["drawn"] == "fresh"
    if cell["learner"] == "linear limit" and operator == "symmetric flip":
        return lambda eta: (-guided_flip_change(a, eta, guidance), 0.0)
    if cell["learner"] != "linear" or guidance > 0:
        return None
    if operator == "symmetric flip" and not fresh:
        return lambda eta: _negative(flip_change(n, d, a, eta)) if eta > 0 else (0.0, 0.0)
    if operator == "cep-g" and fresh:
        return lambda noise_std: wasserstein_gain(n, d, a, noise_std) if noise_std > 0 else (0.0, 0.0)
    if operator == "dropout":
        return lambda rate: wasserstein_gain(n, d, a, float(np.sqrt(rate / (1 - rate)))) if rate > 0 else (0.0, 0.0)
    return None


def _negative(estimate: tuple[float, float]) -> tuple[float, float]:
    return -estimate[0], estimate[1]


def _entropies(cell: Cell, strengths: Sequence[float], law: Moments | None) -> Mapping[str, Any]:
    """Rise of the entropy in nats, simulated and by theory, for CEP on the linear learner with n > d and Σ = I."""
    wanted = cell["learner"] == "linear" and cell["operator"] == "cep-g" and cell["drawn"] == "fresh"
    if law is None or not wanted or cell["n"] <= cell["d"] or cell["condition"] != 1:
        return {}
    halves = np.linalg.slogdet(law.cov)[1].mean(axis=-1) / 2
    theory = [entropy_gap(cell["n"], cell["d"], cell["mean_square"], x) for x in strengths]
    return {"entropy": intervals(halves - halves[:, :1]), "entropy_theory": theory}


EXPERIMENT = Experiment(
    name="conditions",
    title="Condition corruption",
    question="where does slight corruption of the conditions help beyond the linear model, and where not?",
    fast=FAST,
    full=FULL,
    cells=cells,
    run=run,
    answer=answer,
    details=details,
    figures=figures,
)
