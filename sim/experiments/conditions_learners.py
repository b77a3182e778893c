"""The five learners of the experiment on condition corruption: what each loses for a cell, for every training set,
strength and guidance.

Guidance acts on all but two: the memorising learner, whose samples are known by their weights only where it is not
guided, and the linear learner under input perturbation.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import ndtri

from sim.experiments.base import Cell
from sim.experiments.conditions_config import ConditionsConfig, Strengths, is_flip
from sim.experiments.conditions_draws import (
    PLACES,
    Classes,
    draw_codes,
    draw_points,
    draw_sources,
    flipped_sets,
    make_classes,
    make_operator,
    perturbed_sets,
    seen_rows,
)
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
from sim.experiments.conditions_network import (
    NULL_RATE,
    Task,
    Training,
    network_samples,
    quantile_losses,
    sample_losses,
)
from theory._checks import require
from theory.corruption import EmbeddingGaussian, LabelCorruption, LabelSmoothing
from theory.gaussian import Gaussian
from theory.labels import corrupted_class_moments
from theory.linear import pooled_moments

Losses = dict[float, Float[np.ndarray, "sets L"]]
"""Guidance -> losses of every training set (one where there is nothing to draw) and strength."""
Outcome = tuple[Losses, Moments | None]
"""Losses, and what was generated without guidance where that is Gaussian."""


def _linear(config: ConditionsConfig, cell: Cell, strengths: Strengths, key: Key[Array, ""]) -> Outcome:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"], cell["condition"])
    if cell["operator"] == "input perturbation":
        return {0.0: _input_losses(config, cell, strengths, key)}, None
    draw = flipped_sets if is_flip(cell) else perturbed_sets
    seen = draw(cell["operator"], cell["drawn"], strengths, classes, cell["n"], config.sets, key)
    target = Moments(classes.means[list(classes.asked)], classes.cov)
    grid = "uniform" if cell["n"] > cell["d"] and cell["condition"] == 1 else "log_snr"
    made = {w: generated_gaussians(seen, w, config.steps, grid) for w in config.guidances}
    return {w: gaussian_losses(law, target).mean(axis=-1) for w, law in made.items()}, made[0.0]


def _input_losses(
    config: ConditionsConfig, cell: Cell, strengths: Strengths, key: Key[Array, ""]
) -> Float[np.ndarray, "sets L"]:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"])
    clean = perturbed_sets("cep-g", "fresh", (0.0,), classes, cell["n"], config.sets, key)
    law = [np.repeat(part[:, 0, 0], len(strengths), axis=0) for part in (clean.mean, clean.cov)]
    made, _ = perturbed_gaussians(law[0], law[1], np.tile(strengths, config.sets), config.steps)
    target = Moments(classes.means[0], classes.cov)
    return gaussian_losses(made, target).reshape(config.sets, len(strengths))


def _linear_limit(config: ConditionsConfig, cell: Cell, strengths: Strengths, key: Key[Array, ""]) -> Outcome:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"])
    asked = list(classes.asked)
    laws, pooled = _limits(
        cell["operator"], jnp.asarray(strengths), jnp.asarray(classes.means), jnp.asarray(classes.cov)
    )
    own = [np.asarray(part)[:, asked] for part in laws]
    shared = [np.broadcast_to(np.asarray(p), own[i].shape) for i, p in enumerate((pooled.mean, pooled.cov))]
    seen = Seen(own[0], own[1], shared[0], shared[1])
    target = Moments(classes.means[asked], classes.cov)
    made = {w: generated_gaussians(seen, w, config.steps) for w in config.guidances}
    return {w: gaussian_losses(law, target).mean(axis=-1)[None] for w, law in made.items()}, None


@eqx.filter_jit
def _limits(operator: str, strengths: Array, means: Array, cov: Array) -> tuple[tuple[Array, Array], Gaussian]:
    """Of endless data: moments of every strength and label, and those of all classes together."""
    k = len(means)
    prior, covs = jnp.full(k, 1 / k), jnp.broadcast_to(cov, (k, *cov.shape))
    pooled = pooled_moments(prior, means, covs)

    def law(strength: Array) -> tuple[Array, Array]:
        flip = make_operator(operator, strength, k)
        require(isinstance(flip, LabelCorruption), "operator", operator, "one on labels")
        return corrupted_class_moments(flip, prior, means, covs)  # type: ignore[arg-type]

    return jax.vmap(law)(strengths), pooled


def _exact(config: ConditionsConfig, cell: Cell, strengths: Strengths, key: Key[Array, ""]) -> Outcome:
    places = np.array(PLACES[cell["classes"]]) * np.sqrt(cell["mean_square"])
    asked = (0,) if cell["classes"] == "opposite" else tuple(range(len(places)))
    rows = seen_rows(cell["operator"], strengths, len(places))
    grid = [(w, i, c) for w in config.guidances for i in range(len(strengths)) for c in asked]
    w, i, c = (np.array(column) for column in zip(*grid, strict=True))
    losses = line_losses(places, LineLaws(rows[i, c], c, w), config.steps)
    tables = losses.reshape(len(config.guidances), len(strengths), -1).mean(axis=-1)
    return {weight: table[None] for weight, table in zip(config.guidances, tables, strict=True)}, None


def _memorising(config: ConditionsConfig, cell: Cell, strengths: Strengths, key: Key[Array, ""]) -> Outcome:
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


def _network(config: ConditionsConfig, cell: Cell, strengths: Strengths, key: Key[Array, ""]) -> Outcome:
    classes = make_classes(cell["classes"], cell["d"], cell["mean_square"])
    key_tasks, key_starts, key_fresh = jax.random.split(key, 3)
    tasks = _tasks(config, cell, classes, strengths, key_tasks)
    guidances, count, d = config.guidances, config.network_samples, cell["d"]
    training = Training(config.network_width, config.network_depth, config.network_steps, config.network_batch, 20)
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


def _tasks(config: ConditionsConfig, cell: Cell, classes: Classes, strengths: Strengths, key: Key[Array, ""]) -> Task:
    """Trainings of all sets and strengths, sets first; points of one class after the other."""
    key_points, key_flips, key_codes, key_train = jax.random.split(key, 4)
    sets, n, k, levels = config.networks, cell["n"], len(classes.means), len(strengths)
    clean = np.stack([np.eye(k)] * levels)
    rows = seen_rows(cell["operator"], strengths, k) if is_flip(cell) else clean
    fixed = cell["drawn"] == "fixed"
    sources = np.swapaxes(draw_sources(rows if fixed else clean, n, sets, key_flips), 0, 1)
    points = draw_points(classes, n, sets, key_points)[:, None] + classes.means[sources]
    # a point relabelled takes the code of the point of equal number in the other class
    matrix = [np.kron(W.T, np.eye(n)) for W in (clean if fixed else rows)]
    codes = [_codes(cell, x, k, n, sets, key_codes) for x in strengths]
    rates = np.array(strengths) if cell["operator"] == "dropout" else np.zeros(levels)
    given = {
        "noise_std": strengths if cell["operator"] == "cep-g" and not fixed else np.zeros(levels),
        "null_rate": 1 - (1 - NULL_RATE) * (1 - rates),
        "gamma": strengths if cell["operator"] == "input perturbation" else np.zeros(levels),
        "matrix": np.stack(matrix),
    }
    over_sets = {name: jnp.asarray(np.repeat(np.asarray(a)[None], sets, axis=0)) for name, a in given.items()}
    keys = jnp.repeat(jax.random.split(key_train, sets)[:, None], levels, axis=1)
    tasks = Task(
        points=jnp.asarray(points.reshape(sets, levels, k * n, -1)),
        codes=jnp.asarray(np.stack(codes, axis=1)),
        key=keys,
        **over_sets,
    )
    return jax.tree.map(lambda a: a.reshape(-1, *a.shape[2:]), tasks)


def _codes(
    cell: Cell, strength: float, k: int, n: int, sets: int, key: Key[Array, ""]
) -> Float[np.ndarray, "sets m K"]:
    """The code of each of the m = K n points before what is drawn at every step.

    Dropout at every step is the null code at that rate, and codes 1/(1 - rate) times as long: one-hot codes have one
    coordinate to drop.
    """
    clean = np.repeat(np.eye(k), n, axis=0)
    if cell["drawn"] == "fixed" and cell["operator"] == "cep-g":
        return draw_codes(EmbeddingGaussian(strength * np.sqrt(k).item()), k, n, sets, key).reshape(sets, k * n, k)
    if cell["operator"] == "label smoothing":
        clean = np.asarray(jax.vmap(LabelSmoothing(strength).mean)(jnp.asarray(clean)))
    scale = 1 / (1 - strength) if cell["operator"] == "dropout" else 1.0
    return np.repeat(scale * clean[None], sets, axis=0)


LEARNERS: dict[str, Callable[[ConditionsConfig, Cell, Strengths, Key[Array, ""]], Outcome]] = {
    "linear": _linear,
    "linear limit": _linear_limit,
    "exact": _exact,
    "memorising": _memorising,
    "network": _network,
}
"""Name -> (config, cell, strengths, key) -> losses."""
