"""Bad data at the right noise (Ambient Diffusion Omni): when do degraded points help, and from what noise on?

Four kinds of cells; the mathematics is in `ambient_line`, `ambient_flow`, `ambient_learners`, `ambient_patches`.

    line      TV of smoothed training sets to the smoothed truth, against noise; theory's expectation and crossover
    flow      W2² of the law that the probability flow of the exact (memorising) denoiser generates, against sigma_min
    buffer    points noised once and kept: what the largest weight lambda_max costs, corrected formula against printed
    patches   8 x 8 patches of photographs, three degradations, two learners; sigma_min by classifiers and by a scan

Ambient training is gated at sigma_min with the corrected buffer: a degraded point trains from
sigma_min / √(1 - 1/√lambda_max) on, √2 sigma_min at lambda_max = 4. sigma_min = 0 is training on everything, ∞ on the
clean points alone.
"""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from sim.experiments.ambient_answer import answer, details
from sim.experiments.ambient_figures import figures
from sim.experiments.ambient_flow import buffer_cell, flow_cell
from sim.experiments.ambient_line import line_cell
from sim.experiments.ambient_patches import patch_cell, patch_task
from sim.experiments.base import Cell, Experiment
from sim.patches import PatchSets, patch_sets
from theory._checks import require

LEAST = 10
"""Clean patches, and half the test patches, that a user's images must yield."""


@dataclasses.dataclass(frozen=True)
class AmbientConfig:
    """What the experiment runs over. FULL: about two hours on one core, by cells of full size with fewer repeats.

    - `cases`: degraded laws on the line (`ambient_line.CASES`); `n_clean`: numbers of clean points there;
      `degraded_per_clean`: degraded points for each clean one, on the line and among patches.
    - `levels`: noise levels of the TV curves (lowest, highest, number); `line_repeats`: training sets per curve.
    - `flow_sigma_min`: scan of sigma_min for generated laws on the line (lowest, highest, number), with `flow_repeats`
      training sets, `flow_steps` of the sampler, `flow_quantiles` of the start.
    - `buffer_case`, `buffer_clean`, `buffer_sigma_min`, `buffer_ratios`, `buffer_weights`: law, clean points,
      sigma_min, noise / sigma_min (lowest, highest, number), and values of lambda_max of the buffer's cell;
      `buffer_repeats` training sets for the estimate's error, of them `buffer_flow_repeats` for generated laws by
      `buffer_steps` of the sampler.
    - `degradations`: (name, strength) as in `ambient_patches.DEGRADATIONS`; `learners`: of `ambient_patches.LEARNERS`.
    - `side`, `shrink`, `pool`: patches' side, the photographs' reduction, and patches cut for training and for test.
    - `patches_clean`: clean patches; `patches_sigma_min`: the scan; `classifier_levels`: noise levels at which the
      learned classifier is fitted; `tau`: its threshold; `samples`: half the patches that the memorising learner
      generates, and of the test patches; `patches_repeats`, `patches_steps`.
    - `data`: an .npz file of images to cut patches from instead of the photographs, at full size; where they yield
      fewer than `pool` patches, `patches_clean` and `samples` are lowered to what there is.
    """

    cases: tuple[str, ...] = ("narrowed", "shifted")
    n_clean: tuple[int, ...] = (20,)
    degraded_per_clean: int = 9
    levels: tuple[float, float, int] = (0.1, 4.0, 9)
    line_repeats: int = 64
    flow_sigma_min: tuple[float, float, int] = (0.05, 1.6, 6)
    flow_repeats: int = 20
    flow_steps: int = 32
    flow_quantiles: int = 128
    buffer_case: str = "narrowed"
    buffer_clean: int = 20
    buffer_sigma_min: float = 0.3
    buffer_ratios: tuple[float, float, int] = (1.02, 4.0, 6)
    buffer_weights: tuple[float, ...] = (4.0, 16.0)
    buffer_repeats: int = 48
    buffer_flow_repeats: int = 8
    buffer_steps: int = 64
    degradations: tuple[tuple[str, float], ...] = (("blur", 1.0), ("jpeg", 15.0), ("motion blur", 4.0))
    learners: tuple[str, ...] = ("linear",)
    side: int = 8
    shrink: int = 2
    pool: int = 2900
    patches_clean: int = 250
    patches_sigma_min: tuple[float, float, int] = (0.02, 1.0, 6)
    classifier_levels: tuple[float, float, int] = (0.1, 1.6, 7)
    tau: float = 0.45
    samples: int = 100
    patches_repeats: int = 4
    patches_steps: int = 24
    data: Path | None = None


FAST = AmbientConfig()
FULL = AmbientConfig(
    cases=("narrowed", "slightly narrowed", "shifted"),
    n_clean=(5, 20, 80),
    levels=(0.1, 6.0, 16),
    line_repeats=400,
    flow_sigma_min=(0.03, 3.0, 12),
    flow_repeats=64,
    flow_steps=64,
    flow_quantiles=512,
    buffer_ratios=(1.01, 6.0, 16),
    buffer_weights=(1.5, 2.0, 4.0, 16.0, 64.0),
    buffer_repeats=400,
    buffer_flow_repeats=48,
    buffer_steps=160,
    degradations=(("blur", 0.6), ("blur", 1.0), ("jpeg", 15.0), ("jpeg", 50.0), ("motion blur", 4.0)),
    learners=("linear", "memorising"),
    patches_sigma_min=(0.01, 2.0, 10),
    classifier_levels=(0.01, 4.0, 20),
    samples=250,
    patches_repeats=8,
    patches_steps=32,
)


def cells(config: AmbientConfig) -> list[dict[str, Any]]:
    """The grid. Raises `ValueError` where the config's `data` hold no images, or too few or too small ones."""
    if config.data is not None:
        patch_sizes(config, patch_pool(config))
    line = [{"kind": kind, "case": case, "n_clean": n} for kind in ("line", "flow") for case in config.cases
            for n in config.n_clean]  # fmt: skip
    buffer = {"kind": "buffer", "case": config.buffer_case, "n_clean": config.buffer_clean}
    patches = [
        {"kind": "patches", "degradation": name, "strength": strength, "learner": learner}
        for learner in config.learners
        for name, strength in config.degradations
    ]
    return [*line, buffer, *patches]


def patch_pool(config: AmbientConfig) -> PatchSets:
    """The patches that all repeats draw from."""
    return patch_sets(config.side, config.pool, config.pool, shrink=config.shrink, data=config.data)


def patch_sizes(config: AmbientConfig, pool: PatchSets) -> tuple[int, int]:
    """Clean patches, and half of the test patches, that the pool allows. Raises `ValueError` where they are too few."""
    share, found = 1 + config.degraded_per_clean, (len(pool.train), len(pool.test))
    sizes = min(config.patches_clean, found[0] // share), min(config.samples, found[1] // 2)
    allowed = (
        f"images with {LEAST * share} patches of {config.side} x {config.side} pixels or more in the even-numbered "
        f"ones and {2 * LEAST} or more in the others"
    )
    require(min(sizes) >= LEAST, "data", f"{found[0]} and {found[1]}", allowed)
    return sizes


def run(config: AmbientConfig, cell: Cell, key: Key[Array, ""]) -> Mapping[str, Any]:
    """One cell."""
    if cell["kind"] == "patches":
        return _run_patches(config, cell, key)
    case, n = cell["case"], cell["n_clean"]
    sizes = case, n, config.degraded_per_clean * n
    sampler = config.flow_quantiles, key
    if cell["kind"] == "line":
        return line_cell(*sizes, np.geomspace(*config.levels), config.line_repeats, key)
    if cell["kind"] == "flow":
        return flow_cell(*sizes, np.geomspace(*config.flow_sigma_min), config.flow_repeats, config.flow_steps, *sampler)
    ratios, weights = np.geomspace(*config.buffer_ratios), np.asarray(config.buffer_weights)
    repeats = config.buffer_repeats, config.buffer_flow_repeats
    return buffer_cell(*sizes, config.buffer_sigma_min, ratios, weights, *repeats, config.buffer_steps, *sampler)


def _run_patches(config: AmbientConfig, cell: Cell, key: Key[Array, ""]) -> Mapping[str, Any]:
    pool = patch_pool(config)
    n_clean, n_test = patch_sizes(config, pool)
    seed = int(jax.random.randint(jax.random.fold_in(key, 0), (), 0, 2**31 - 1))
    sizes = n_clean, config.degraded_per_clean * n_clean, n_test
    task = patch_task(pool, cell["degradation"], cell["strength"], *sizes, config.patches_repeats, seed)
    scan, levels = np.geomspace(*config.patches_sigma_min), np.geomspace(*config.classifier_levels)
    return patch_cell(
        cell["learner"], task, scan, levels, config.patches_steps, jax.random.fold_in(key, 1), tau=config.tau
    )


EXPERIMENT = Experiment(
    name="ambient",
    title="Bad data at the right noise",
    question="when do degraded points help, if they may train only noise levels above sigma_min?",
    fast=FAST,
    full=FULL,
    cells=cells,
    run=run,
    figures=figures,
    answer=answer,
    details=details,
)
