"""Experiment 2, paths: which corruption path is best for which sampler and number of steps?

Cells:

    model = gaussian     one per path: data N(0, D), D the spectrum of natural images. What every sampler of `SAMPLERS`
                         generates on every time grid, exactly (`paths_gaussian`), beside theory's closed forms.
    model = mixture,     one per repeat: all paths on the same draws. Image patches, not Gaussian, exact denoisers
            empirical    (`paths_patches`): debiased W2² to fresh draws, displacement against the flow.

Paths are compared by the differences of paired repeats, each of which draws its own patches and fits its own model; all
come from one pool (two photographs, or the user's images), to which the intervals belong. Everything starts from the
exact marginal; what a prior adds is a separate entry of the Gaussian rows.
"""

import dataclasses
from collections.abc import Mapping
from functools import partial
from pathlib import Path as File
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Key

from sim.experiments.base import Cell, Experiment
from sim.experiments.paths_answer import answer, details
from sim.experiments.paths_figures import figures
from sim.experiments.paths_gaussian import closed_form, prior_error, simulated_variance
from sim.experiments.paths_patches import MODELS, frame, frozen_follow, patch_model, path_runs
from sim.patches import PatchSets, patch_sets
from sim.samplers import SAMPLERS
from sim.times import time_grid
from theory._checks import require
from theory.discretisation import gaussian_errors
from theory.path_base import Path
from theory.paths import PATHS
from theory.spectra import PowerLaw

LEAST = 32
"""Patches for training, and for comparison, that a user's images must yield."""


@dataclasses.dataclass(frozen=True)
class PathsConfig:
    """What is run. FULL: about an hour on one core, by an estimate from its Gaussian cells and from FAST.

    - `gaussian_side`: of the Gaussian images, in pixels; `law`: c1, c2, m of their spectrum (SPD, section 4).
    - `paths`, `samplers`, `grids`, `steps`: for the Gaussian model, names of `PATHS`, `SAMPLERS`, `sim.times.GRIDS`.
    - `checked_steps`: of `steps`, those compared with theory's closed forms on the uniform grid.
    - `patch_paths`, `patch_samplers`, `patch_grids`, `patch_steps`: the same off the Gaussian model; samplers without
      slopes. `fine`: steps of the reference flow on the mixture and on the empirical model, even.
    - `side`: of the patches, in pixels. `components`: of the mixture. `points`: training patches of each repeat.
    - `draws`: samples per repeat, at most as many as `points`. `repeats` >= 2. `shrink`: of the photographs.
    - `data`: an .npz file with `images` to use in place of the photographs, at full size; where they yield fewer
      patches than `points` and `draws`, these are lowered.
    """

    gaussian_side: int = 32
    law: tuple[float, float, float] = (1.59, 0.0086, 2.0)
    paths: tuple[str, ...] = ("vp_cosine", "variance_exploding", "heat", "shortest", "bures", "equal_angle")
    samplers: tuple[str, ...] = tuple(SAMPLERS)
    grids: tuple[str, ...] = ("uniform",)
    steps: tuple[int, ...] = (5, 10, 20, 50)
    checked_steps: tuple[int, ...] = (20,)
    patch_paths: tuple[str, ...] = ("vp_cosine", "variance_exploding", "shortest", "equal_angle")
    patch_samplers: tuple[str, ...] = ("ddim", "dpm_solver_pp_2m")
    patch_grids: tuple[str, ...] = ("uniform",)
    patch_steps: tuple[int, ...] = (10, 20)
    fine: tuple[int, int] = (64, 320)
    side: int = 8
    components: int = 4
    points: int = 256
    draws: int = 128
    repeats: int = 6
    shrink: int = 2
    data: File | None = None


FAST = PathsConfig()
FULL = PathsConfig(
    paths=tuple(PATHS),
    grids=("uniform", "log_snr", "edm", "equal_angle"),
    steps=(5, 10, 20, 50, 100),
    checked_steps=(5, 10, 20, 50, 100),
    patch_paths=("vp_linear", "vp_cosine", "variance_exploding", "heat", "shortest", "bures", "equal_angle"),
    patch_samplers=("ddim", "dpm_solver_pp_2m", "ancestral_small"),
    patch_grids=("uniform", "edm"),
    patch_steps=(5, 10, 20, 50),
    fine=(200, 400),
    components=8,
    points=1000,
    draws=256,
    repeats=12,
)


def cells(config: PathsConfig) -> list[Cell]:
    """One per path on the Gaussian model, one per repeat of each model of patches.

    Raises `ValueError` where the config's `data` hold no images, or too few or too small ones.
    """
    if config.data is not None:
        found = tuple(map(len, repeat_patches(config, 0)[:2]))
        allowed = f"images with {LEAST} patches of {config.side} x {config.side} pixels and more in each half of them"
        require(min(found) >= LEAST, "data", f"{found[0]} in the even-numbered and {found[1]} in the others", allowed)
    gaussian = [{"model": "gaussian", "path": name} for name in config.paths]
    return [*gaussian, *({"model": model, "repeat": k} for model in MODELS for k in range(config.repeats))]


def run(config: PathsConfig, cell: Cell, key: Key[Array, ""]) -> Mapping[str, Any]:
    """The numbers of one cell."""
    if cell["model"] == "gaussian":
        return gaussian_rows(config, cell["path"])
    return patch_rows(config, cell["model"], cell["repeat"], key)


def gaussian_rows(config: PathsConfig, name: str) -> Mapping[str, Any]:
    """Every sampler, grid and number of steps on one path, and what starting from a prior costs."""
    spectrum = jnp.asarray(PowerLaw(*config.law).spectrum((config.gaussian_side,) * 2))
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


def repeat_patches(config: PathsConfig, repeat: int) -> PatchSets:
    """A repeat's own patches."""
    return patch_sets(config.side, config.points, config.points, shrink=config.shrink, seed=repeat, data=config.data)


def patch_rows(config: PathsConfig, kind: str, repeat: int, key: Key[Array, ""]) -> Mapping[str, Any]:
    """All paths, samplers, grids and numbers of steps on the same draws, of a model of this repeat's own patches."""
    train, test, *_ = repeat_patches(config, repeat)
    both = (jnp.asarray(part - train.mean()) for part in (train, test))
    model = patch_model(kind, *both, components=config.components, seed=repeat)
    shared = frame(model, min(config.draws, len(train), len(test)), key)
    samplers, fine = {name: SAMPLERS[name] for name in config.patch_samplers}, config.fine[MODELS.index(kind)]
    sizes = config.patch_grids, config.patch_steps, fine
    prepare, runs, references = partial(frozen_follow, model.make_denoiser), [], {}
    for name in config.patch_paths:
        references[name], found = path_runs(prepare, PATHS[name](model.spectrum), shared, samplers, *sizes)
        runs += [{"path": name, **entry} for entry in found]
    return {"references": references, "runs": runs}


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
    details=details,
)
