"""Experiment 2, paths: which corruption path is best for which sampler and number of steps?

Cells:

    model = gaussian     one per path: data N(0, D), D the spectrum of natural images. What every sampler of `SAMPLERS`
                         generates on every time grid, exactly (`paths_gaussian`), beside theory's closed forms.
    model = mixture,     one per repeat: all paths on the same draws. Image patches, not Gaussian, exact denoisers
            empirical    (`paths_patches`): displacement against the flow, debiased W2², power per frequency band.

Paths are compared by the differences of paired repeats. Everything starts from the exact marginal; what a prior adds is
a separate entry of the Gaussian rows.
"""

import dataclasses
from collections.abc import Mapping
from functools import cache
from pathlib import Path as File
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key

from sim.experiments.base import Cell, Experiment
from sim.experiments.paths_answer import answer
from sim.experiments.paths_figures import figures
from sim.experiments.paths_gaussian import closed_form, prior_error, simulated_variance
from sim.experiments.paths_patches import MODELS, PatchModel, frame, patch_model, patch_sets, path_runs
from sim.samplers import SAMPLERS
from sim.times import time_grid
from theory.discretisation import gaussian_errors
from theory.path_base import Path
from theory.paths import PATHS
from theory.spectra import PowerLaw


@dataclasses.dataclass(frozen=True)
class PathsConfig:
    """What is run.

    - `side`: of the Gaussian images and of the patches, in pixels. `law`: c1, c2, m of their spectrum (SPD, section 4).
    - `paths`, `samplers`, `grids`, `steps`: for the Gaussian model, names of `PATHS`, `SAMPLERS`, `sim.times.GRIDS`.
    - `checked_steps`: of `steps`, those compared with theory's closed forms on the uniform grid.
    - `patch_paths`, `patch_samplers`, `patch_grids`, `patch_steps`: the same off the Gaussian model; samplers without
      slopes. `fine`: steps of the reference flow, even.
    - `components`, `fits`: of the mixture; different patches are fitted in turn. `points`: training patches.
    - `draws`: samples per repeat, a multiple of 2. `repeats` >= 2. `shrink`: of the photographs.
    - `data`: an .npz file with `images` to use in place of the photographs.
    """

    side: int = 8
    law: tuple[float, float, float] = (1.59, 0.0086, 2.0)
    paths: tuple[str, ...] = tuple(PATHS)
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    grids: tuple[str, ...] = ("uniform",)
    steps: tuple[int, ...] = (5, 10, 20, 50)
    checked_steps: tuple[int, ...] = (20,)
    patch_paths: tuple[str, ...] = ("vp_cosine", "variance_exploding", "shortest", "equal_angle")
    patch_samplers: tuple[str, ...] = ("ddim", "dpm_solver_pp_2m")
    patch_grids: tuple[str, ...] = ("uniform",)
    patch_steps: tuple[int, ...] = (10, 20)
    fine: int = 64
    components: int = 4
    fits: int = 1
    points: int = 256
    draws: int = 128
    repeats: int = 6
    shrink: int = 2
    data: File | None = None


FAST = PathsConfig()
FULL = PathsConfig(
    side=8,
    grids=("uniform", "log_snr", "edm", "equal_angle"),
    steps=(5, 10, 20, 50, 100),
    checked_steps=(5, 10, 20, 50, 100),
    patch_paths=("vp_linear", "vp_cosine", "variance_exploding", "heat", "shortest", "bures", "equal_angle"),
    patch_samplers=("ddim", "dpm_solver_pp_2m", "ancestral_small"),
    patch_grids=("uniform", "edm"),
    patch_steps=(5, 10, 20, 50),
    fine=200,
    components=8,
    fits=4,
    points=1000,
    draws=256,
    repeats=12,
)


def cells(config: PathsConfig) -> list[Cell]:
    """One per path on the Gaussian model, one per repeat of each model of patches."""
    gaussian = [{"model": "gaussian", "path": name} for name in config.paths]
    return [*gaussian, *({"model": model, "repeat": k} for model in MODELS for k in range(config.repeats))]


def run(config: PathsConfig, cell: Cell, key: Key[Array, ""]) -> Mapping[str, Any]:
    """The numbers of one cell."""
    if cell["model"] == "gaussian":
        return gaussian_rows(config, cell["path"])
    model = _model(config, cell["model"], cell["repeat"] % config.fits)
    return patch_rows(config, model, key)


def gaussian_rows(config: PathsConfig, name: str) -> Mapping[str, Any]:
    """Every sampler, grid and number of steps on one path, and what starting from a prior costs."""
    spectrum = jnp.asarray(PowerLaw(*config.law).spectrum((config.side, config.side)))
    path = PATHS[name](spectrum)
    runs = [
        _gaussian_run(config, path, spectrum, sampler, grid, steps)
        for grid in config.grids
        for steps in config.steps
        for sampler in config.samplers
    ]
    prior = {label: prior_error(path, spectrum, t) for label, t in (("at_1", 1.0), ("late", path.t_range[1]))}
    return {"runs": runs, "prior": prior, "late": path.t_range[1]}


def _gaussian_run(
    config: PathsConfig, path: Path, spectrum: Array, sampler: str, grid: str, steps: int
) -> dict[str, Any]:
    first = path.t_range[1] if SAMPLERS[sampler].needs_signal else 1.0
    times = time_grid(path, steps, grid, first=first, variance=float(spectrum[0, 1]))
    longest = max(config.steps) + 1
    variance = simulated_variance(SAMPLERS[sampler], path, spectrum, times, longest=longest)
    checked = grid == "uniform" and steps in config.checked_steps
    closed = closed_form(sampler, path, spectrum, times) if checked else None
    errors = gaussian_errors(variance, spectrum)
    named = {"sampler": sampler, "grid": grid, "steps": steps, **errors._asdict()}
    if closed is None:
        return {**named, "deviation": None, "closed_kl": None}
    deviation = float(jnp.max(jnp.abs(variance / closed - 1)))
    return {**named, "deviation": deviation, "closed_kl": gaussian_errors(closed, spectrum).kl_generated_data}


@cache
def _model(config: PathsConfig, kind: str, seed: int) -> PatchModel:
    """The model fitted to the patches of this seed."""
    train, test = patch_sets(config.side, config.points, shrink=config.shrink, seed=seed, data=config.data)
    return patch_model(kind, train, test, components=config.components, seed=seed)


def patch_rows(config: PathsConfig, model: PatchModel, key: Key[Array, ""]) -> Mapping[str, Any]:
    """All paths, samplers, grids and numbers of steps on the same draws."""
    shared = frame(model, config.draws, key)
    samplers = {name: SAMPLERS[name] for name in config.patch_samplers}
    runs, references = [], {}
    for name in config.patch_paths:
        path = PATHS[name](model.spectrum)
        references[name], entries = path_runs(
            model, path, shared, samplers, config.patch_grids, config.patch_steps, config.fine
        )
        runs += [{"path": name, **entry} for entry in entries]
    return {"variance": model.variance, "references": references, "runs": runs}


EXPERIMENT = Experiment(
    name="paths",
    title="Paths",
    question="Which corruption path is best for which sampler and number of steps?",
    fast=FAST,
    full=FULL,
    cells=cells,
    run=run,
    figures=figures,
    answer=answer,
)
