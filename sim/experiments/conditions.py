"""Experiment 1, condition corruption: where does "slight corruption helps" hold beyond the linear model?

The *gain* of a corruption is E W2²(class, clean) - E W2²(class, corrupted), in squared units of x, over training sets,
for the clean code of a class: positive where corruption helps. Five learners, from `sim.experiments.conditions_laws`:

    linear           optimum per class fitted to a training set, sampled in finite steps
    linear limit     the same for infinitely many points
    exact            the unrestricted optimum for infinitely many points
    memorising       the unrestricted optimum for the training points
    network          a small residual network, `sim.experiments.conditions_network`

A cell is one learner, operator and setting for all strengths and guidances; a row's `curves` holds, for each guidance,
the clean loss, the gains and, where theory knows them, theory's. Gains are paired over training sets.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import ndtri

from sim.experiments.base import Cell, Experiment, Row, make_row
from sim.experiments.conditions_answer import answer
from sim.experiments.conditions_draws import (
    PLACES,
    draw_points,
    draw_sources,
    flipped_sets,
    make_classes,
    perturbed_sets,
    seen_rows,
)
from sim.experiments.conditions_figures import figures
from sim.experiments.conditions_laws import (
    LineLaws,
    Moments,
    Seen,
    gaussian_losses,
    generated_gaussians,
    line_losses,
    perturbed_gaussians,
    points_loss,
)
from sim.experiments.conditions_network import Task, Training, network_samples, quantile_losses, sample_losses
from sim.intervals import mean_interval
from theory.flips import flip_change, guided_flip_change
from theory.labels import corrupted_class_moments, symmetric_flip
from theory.linear import pooled_moments
from theory.training_sets import entropy_gap, wasserstein_gain

Curve = dict[str, Any]
Z95 = 1.96


@dataclass(frozen=True)
class ConditionsConfig:
    """Sizes of the experiment.

    - `noise_stds`, `etas`, `rates`, `gammas`: strengths of CEP (per coordinate, on codes of norm 1), of flips, of
      dropout and label smoothing, and of input perturbation; each starts with 0, the clean learner.
    - `guidances`: w >= 0. `mean_square`: ||mu||² of the settings below.
    - `settings`: (n per class, d, condition number of Σ) of CEP on the linear learner.
    - `overlapping`: a small ||mu||², for classes that overlap.
    - `sets`: training sets of the linear learner; `line_sets`: of the memorising learner.
    - `steps`: of the sampler, for the linear and exact learners.
    - `networks`: training sets of the network; `network_*`: how it is trained; `network_settings`: its (n, d).
    - `network_noise`, `network_etas`, `network_guidances`: its strengths; `network_samples`: samples for its W2.
    """

    noise_stds: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0)
    etas: tuple[float, ...] = (0.0, 0.025, 0.05, 0.1, 0.2)
    rates: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2, 0.4)
    gammas: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    guidances: tuple[float, ...] = (0.0, 1.0)
    mean_square: float = 1.0
    overlapping: float = 0.05
    settings: tuple[tuple[int, int, float], ...] = ((10, 4, 1.0), (3, 4, 1.0), (10, 4, 100.0))
    sets: int = 200
    line_sets: int = 4000
    steps: int = 64
    networks: int = 8
    network_width: int = 32
    network_depth: int = 2
    network_steps: int = 500
    network_batch: int = 32
    network_settings: tuple[tuple[int, int], ...] = ((10, 1),)
    network_noise: tuple[float, ...] = (0.0, 0.2, 0.5, 1.0)
    network_etas: tuple[float, ...] = (0.0, 0.05, 0.1, 0.2)
    network_guidances: tuple[float, ...] = (0.0, 1.0)
    network_samples: int = 128


FAST = ConditionsConfig()
FULL = ConditionsConfig(
    guidances=(0.0, 0.5, 1.0, 2.0, 4.0),
    settings=((10, 4, 1.0), (3, 4, 1.0), (10, 4, 100.0), (50, 4, 1.0), (10, 16, 1.0), (40, 16, 1.0)),
    sets=2000,
    line_sets=40000,
    steps=128,
    networks=48,
    network_guidances=(0.0, 1.0, 2.0),
    network_width=64,
    network_steps=2000,
    network_batch=64,
    network_settings=((10, 1), (10, 4), (50, 4)),
    network_samples=256,
)


def cells(config: ConditionsConfig) -> Sequence[Cell]:
    """The grid: learner, operator, fixed or fresh, classes, n (0: infinitely many), d, ||mu||², condition number."""
    return [
        {"learner": learner, "operator": operator, "drawn": drawn, "classes": geometry, "n": n, "d": d,
         "mean_square": a, "condition": condition}
        for learner, operator, drawn, geometry, n, d, a, condition in (*_perturbations(config), *_flips(config))
    ]  # fmt: skip


Entry = tuple[str, str, str, str, int, int, float, float]


def _perturbations(config: ConditionsConfig) -> Iterator[Entry]:
    a = config.mean_square
    n, d, _ = config.settings[0]
    for points, dim, condition in config.settings:
        yield "linear", "cep-g", "fresh", "opposite", points, dim, a, condition
    for operator in ("cep-g", "partial cep-g"):
        yield "linear", operator, "fixed", "opposite", n, d, a, 1.0
    for operator in ("dropout", "label smoothing", "input perturbation"):
        yield "linear", operator, "fresh", "opposite", n, d, a, 1.0
    for operator in ("cep-g", "cep-u"):
        yield "exact", operator, "fresh", "opposite", 0, 1, a, 1.0
    for square in (a, config.overlapping):
        yield "memorising", "cep-g", "fresh", "opposite", n, 1, square, 1.0
    for points, dim in config.network_settings:
        yield "network", "cep-g", "fresh", "opposite", points, dim, a, 1.0


def _flips(config: ConditionsConfig) -> Iterator[Entry]:
    a, flip = config.mean_square, "symmetric flip"
    n, d, _ = config.settings[0]
    for geometry in ("opposite", "line", "orthogonal"):
        yield "linear limit", flip, "fresh", geometry, 0, d, a, 1.0
        for drawn in ("fixed", "fresh"):
            yield "linear", flip, drawn, geometry, n, d, a, 1.0
    for drawn in ("fixed", "fresh"):
        yield "linear", "asymmetric flip", drawn, "orthogonal", n, d, a, 1.0
    for geometry in ("opposite", "line"):
        yield "exact", flip, "fresh", geometry, 0, 1, a, 1.0
    for square in (a, config.overlapping):
        for drawn in ("fixed", "fresh"):
            yield "memorising", flip, drawn, "opposite", n, 1, square, 1.0
    for points, dim in config.network_settings[:1]:
        for drawn in ("fixed", "fresh"):
            yield "network", flip, drawn, "opposite", points, dim, a, 1.0


def is_flip(cell: Cell) -> bool:
    """Whether labels are flipped, rather than codes or inputs perturbed."""
    return bool(cell["operator"].endswith("flip"))


def strengths_of(config: ConditionsConfig, cell: Cell) -> tuple[float, ...]:
    """The strengths of a cell, the clean learner first."""
    if cell["learner"] == "network":
        return config.network_etas if is_flip(cell) else config.network_noise
    named = {"dropout": config.rates, "label smoothing": config.rates, "input perturbation": config.gammas}
    return config.etas if is_flip(cell) else named.get(cell["operator"], config.noise_stds)


def run(config: ConditionsConfig, cell: Cell, key: Key[Array, ""]) -> Mapping[str, Any]:
    """The curves of one cell."""
    strengths = strengths_of(config, cell)
    losses, law = LEARNERS[cell["learner"]](config, cell, strengths, key)
    curves = []
    for guidance, table in losses.items():
        curve = {"guidance": guidance, **_gains(table), "theory": theory_gains(cell, strengths, guidance)}
        curves.append(curve)
    return {"strengths": list(strengths), "curves": curves, **_entropies(cell, strengths, law)}


def intervals(table: Float[np.ndarray, "sets L"]) -> list[dict[str, float]]:
    """The mean of each column with its 95 % interval; a single row is exact and has none."""
    parts = mean_interval(table) if len(table) > 1 else [table[0]] * 3
    return [dict(zip(("value", "low", "high"), map(float, column), strict=True)) for column in zip(*parts, strict=True)]


def _gains(losses: Float[np.ndarray, "sets L"]) -> Curve:
    """Clean loss and gains from a table of losses."""
    return {"clean": intervals(losses[:, :1])[0], "gain": intervals(losses[:, :1] - losses)}


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
    if cell["learner"] == "linear limit":
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


Losses = dict[float, Float[np.ndarray, "sets L"]]
"""Guidance -> losses of every training set (one where there is nothing to draw) and strength."""
Outcome = tuple[Losses, Moments | None]
"""Losses, and what was generated without guidance where that is Gaussian."""


def _linear(config: ConditionsConfig, cell: Cell, strengths: tuple[float, ...], key: Key[Array, ""]) -> Outcome:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"], cell["condition"])
    if cell["operator"] == "input perturbation":
        return {0.0: _input_losses(config, cell, strengths, key)}, None
    seen = _seen(config, cell, strengths, key)
    guidances = config.guidances if is_flip(cell) else (0.0,)
    target = Moments(classes.means[list(classes.asked)], classes.cov)
    grid = "uniform" if cell["n"] > cell["d"] and cell["condition"] == 1 else "log_snr"
    made = {w: generated_gaussians(seen, w, config.steps, grid) for w in guidances}
    return {w: gaussian_losses(law, target).mean(axis=-1) for w, law in made.items()}, made[0.0]


def _seen(config: ConditionsConfig, cell: Cell, strengths: tuple[float, ...], key: Key[Array, ""]) -> Seen:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"], cell["condition"])
    draw = flipped_sets if is_flip(cell) else perturbed_sets
    return draw(cell["operator"], cell["drawn"], strengths, classes, cell["n"], config.sets, key)


def _input_losses(
    config: ConditionsConfig, cell: Cell, strengths: tuple[float, ...], key: Key[Array, ""]
) -> Float[np.ndarray, "sets L"]:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"])
    clean = perturbed_sets("cep-g", "fresh", (0.0,), classes, cell["n"], config.sets, key)
    law = [np.repeat(part[:, 0, 0], len(strengths), axis=0) for part in (clean.mean, clean.cov)]
    made, _ = perturbed_gaussians(law[0], law[1], np.tile(strengths, config.sets), config.steps)
    target = Moments(classes.means[0], classes.cov)
    return gaussian_losses(made, target).reshape(config.sets, len(strengths))


def _linear_limit(config: ConditionsConfig, cell: Cell, strengths: tuple[float, ...], key: Key[Array, ""]) -> Outcome:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"])
    k, asked = len(classes.means), list(classes.asked)
    prior, covs = jnp.full(k, 1 / k), jnp.broadcast_to(jnp.asarray(classes.cov), (k, cell["d"], cell["d"]))
    pooled = pooled_moments(prior, classes.means, covs)
    laws = [
        corrupted_class_moments(symmetric_flip(prior, x), prior, jnp.asarray(classes.means), covs) for x in strengths
    ]
    own = [np.stack([np.asarray(law[i])[asked] for law in laws]) for i in (0, 1)]
    shared = [np.broadcast_to(np.asarray(p), own[i].shape) for i, p in enumerate((pooled.mean, pooled.cov))]
    seen = Seen(own[0], own[1], shared[0], shared[1])
    target = Moments(classes.means[asked], classes.cov)
    made = {w: generated_gaussians(seen, w, config.steps) for w in config.guidances}
    return {w: gaussian_losses(law, target).mean(axis=-1)[None] for w, law in made.items()}, None


def _exact(config: ConditionsConfig, cell: Cell, strengths: tuple[float, ...], key: Key[Array, ""]) -> Outcome:
    places = np.array(PLACES[cell["classes"]]) * np.sqrt(cell["mean_square"])
    asked = (0,) if cell["classes"] == "opposite" else tuple(range(len(places)))
    rows = seen_rows(cell["operator"], strengths, len(places))
    guidances = config.guidances if is_flip(cell) else (0.0,)
    grid = [(w, i, c) for w in guidances for i in range(len(strengths)) for c in asked]
    w, i, c = (np.array(column) for column in zip(*grid, strict=True))
    losses = line_losses(places, LineLaws(rows[i, c], c, w), config.steps).reshape(len(guidances), len(strengths), -1)
    return {weight: table.mean(axis=-1)[None] for weight, table in zip(guidances, losses, strict=True)}, None


def _memorising(config: ConditionsConfig, cell: Cell, strengths: tuple[float, ...], key: Key[Array, ""]) -> Outcome:
    classes = make_classes(cell["classes"], 1, cell["mean_square"])
    key_points, key_flips = jax.random.split(key)
    n, sets = cell["n"], config.line_sets
    rows = seen_rows(cell["operator"], strengths, len(classes.means))
    z = draw_points(classes, n, sets, key_points)[..., 0]
    places = classes.means[:, 0]
    if cell["drawn"] == "fixed":
        sources = draw_sources(rows, n, sets, key_flips)[:, :, 0]
        tables = [points_loss(z[:, 0] + places[s], np.full(n, 1 / n), places[0]) for s in sources]
    else:
        points = (z + places[:, None]).reshape(sets, -1)
        tables = [points_loss(points, np.repeat(W[0] / n, n), places[0]) for W in rows]
    return {0.0: np.stack(tables, axis=1)}, None


def _network(config: ConditionsConfig, cell: Cell, strengths: tuple[float, ...], key: Key[Array, ""]) -> Outcome:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"])
    key_tasks, key_starts, key_fresh = jax.random.split(key, 3)
    tasks = _tasks(config, cell, classes, strengths, key_tasks)
    guidances = config.network_guidances
    training = Training(config.network_width, config.network_depth, config.network_steps, config.network_batch, 20)
    count, d = config.network_samples, cell["d"]
    shape = (config.networks, len(strengths))
    if d == 1:
        scores = ndtri((np.arange(count) + 0.5) / count)
        ends = network_samples(tasks, jnp.asarray(scores)[:, None], guidances, training)
        tables = [quantile_losses(ends[:, i], scores, classes.means[:, 0]) for i in range(len(guidances))]
    else:
        starts = jax.random.normal(key_starts, (2 * count, d), jnp.float32)
        ends = network_samples(tasks, starts, guidances, training)
        halves = ends[:, :, :, :count], ends[:, :, :, count:]
        tables = [sample_losses(halves[0][:, i], halves[1][:, i], classes, key_fresh) for i in range(len(guidances))]
    return {w: table.mean(axis=-1).reshape(shape) for w, table in zip(guidances, tables, strict=True)}, None


def _tasks(
    config: ConditionsConfig, cell: Cell, classes: Any, strengths: tuple[float, ...], key: Key[Array, ""]
) -> Task:
    """Trainings of all sets and strengths, sets first."""
    key_points, key_flips, key_train = jax.random.split(key, 3)
    sets, n, k, levels = config.networks, cell["n"], len(classes.means), len(strengths)
    rows = seen_rows(cell["operator"], strengths, k) if is_flip(cell) else np.stack([np.eye(k)] * levels)
    fixed = cell["drawn"] == "fixed"
    sources = draw_sources(rows if fixed else np.stack([np.eye(k)] * levels), n, sets, key_flips)
    points = draw_points(classes, n, sets, key_points) + classes.means[sources]
    matrix = np.stack([np.eye(k)] * levels) if fixed else np.swapaxes(rows, 1, 2)
    noise = np.zeros(levels) if is_flip(cell) else np.array(strengths)
    over_sets = lambda a: jnp.asarray(np.broadcast_to(a, (sets, *a.shape)).reshape(-1, *a.shape[1:]))  # noqa: E731
    flat = np.swapaxes(points, 0, 1).reshape(sets * levels, k * n, -1)
    labels = jnp.broadcast_to(jnp.repeat(jnp.arange(k), n), flat.shape[:2])
    keys = jnp.repeat(jax.random.split(key_train, sets), levels)
    return Task(jnp.asarray(flat), labels, over_sets(noise), over_sets(matrix), keys)


LEARNERS = {
    "linear": _linear,
    "linear limit": _linear_limit,
    "exact": _exact,
    "memorising": _memorising,
    "network": _network,
}


def _entropies(cell: Cell, strengths: Sequence[float], law: Moments | None) -> Mapping[str, Any]:
    """Rise of the entropy in nats, simulated and by theory, for CEP on the linear learner with n > d and Σ = I."""
    wanted = cell["learner"] == "linear" and cell["operator"] == "cep-g" and cell["drawn"] == "fresh"
    if law is None or not wanted or cell["n"] <= cell["d"] or cell["condition"] != 1:
        return {}
    halves = np.linalg.slogdet(law.cov)[1].mean(axis=-1) / 2
    theory = [entropy_gap(cell["n"], cell["d"], cell["mean_square"], x) for x in strengths]
    return {"entropy": intervals(halves - halves[:, :1]), "entropy_theory": theory}


def run_cells(config: ConditionsConfig, chosen: Mapping[str, Sequence[Any]], *, seed: int = 0) -> list[Row]:
    """Rows of the cells whose entries are among those `chosen`, in this process; what a notebook plots.

    For example `run_cells(FAST, {"learner": ["exact"], "operator": ["cep-g"]})`. Float64 must be enabled.
    """
    found = [cell for cell in cells(config) if all(cell[name] in allowed for name, allowed in chosen.items())]
    return [make_row(run, config, cell, seed) for cell in found]


EXPERIMENT = Experiment(
    name="conditions",
    title="Condition corruption",
    question="where does slight corruption of the conditions help beyond the linear model, and where not?",
    fast=FAST,
    full=FULL,
    cells=cells,
    run=run,
    figures=figures,
    answer=answer,
)
