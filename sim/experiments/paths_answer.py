"""What the rows of the experiment on paths say: intervals over repeats, comparisons, and sentences.

Off the Gaussian model a repeat is one row, in which all paths share their draws. Two paths are compared by Student's
interval of the differences over repeats: one is better only where it excludes 0. Displacements are judged only where
the reference flow is known to a tenth of them (`reference_error`).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from sim.experiments.base import Row
from sim.experiments.wording import find, shown, sign
from sim.intervals import Interval, mean_interval, paired_difference

Rows = Sequence[Row]
RIVALS = ("equal_angle", "shortest")
"""The two paths whose comparison under DDIM the experiment is to decide."""
MEASURES = {
    "w2_detail": "debiased W2² of the detail",
    "w2": "debiased W2² with mean brightness",
    "displacement": "displacement from the flow",
}
"""What is compared off the Gaussian model, in words; less is better."""
MODELS = {"mixture": "the mixture", "empirical": "the training patches themselves"}
"""The models of patches, in words."""
TOLERATED = 0.1
"""Largest error of the reference flow, as a share of a displacement, with which that is judged."""


def gaussian_runs(rows: Rows) -> list[dict[str, Any]]:
    """All runs of the Gaussian model, each with its path."""
    return [{"path": row["path"], **run} for row in find(rows, model="gaussian") for run in row["runs"]]


def best_on_gaussian(rows: Rows, sampler: str, steps: int) -> dict[str, Any]:
    """The run of smallest KL(generated‖data) for a sampler and a number of steps on uniform times."""
    runs = find(gaussian_runs(rows), sampler=sampler, steps=steps, grid="uniform")
    return min(runs, key=lambda run: np.inf if run["kl_generated_data"] is None else run["kl_generated_data"])


def largest_deviation(rows: Rows) -> float:
    """Largest relative deviation of a simulated variance from theory's closed form, NaN where none was compared."""
    found = [run["deviation"] for run in gaussian_runs(rows) if run["deviation"] is not None]
    return max(found, default=float("nan"))


def repeats(rows: Rows, model: str, path: str, sampler: str, grid: str, steps: int, measure: str) -> np.ndarray:
    """One number per repeat, in the order of the rows; empty where there was no such run."""
    runs = [run for row in find(rows, model=model) for run in row["runs"]]
    chosen = find(runs, path=path, sampler=sampler, grid=grid, steps=steps)
    return np.array([run[measure] for run in chosen if run[measure] is not None])


def advantage(rows: Rows, model: str, sampler: str, grid: str, steps: int, measure: str) -> Interval | None:
    """`measure` on the shortest path less that on the equal-angle path, over paired repeats: positive where equal-angle
    is better. None where fewer than two repeats have both.
    """
    first, second = (repeats(rows, model, path, sampler, grid, steps, measure) for path in RIVALS)
    if len(first) < 2 or len(first) != len(second):
        return None
    return paired_difference(second, first)


def reference_error(rows: Rows, model: str, path: str) -> float:
    """Mean displacement of half the reference's steps against all of them: more than the reference is off by."""
    return float(np.mean([row["references"][path]["displacement"] for row in find(rows, model=model)]))


def unsettled(rows: Rows, model: str, sampler: str, grid: str, steps: int) -> float:
    """The larger of the two rivals' ratios of the reference's error to the displacement; above `TOLERATED` there is no
    verdict by displacement."""
    sizes = {path: repeats(rows, model, path, sampler, grid, steps, "displacement").mean() for path in RIVALS}
    return max(reference_error(rows, model, path) / max(size, 1e-300) for path, size in sizes.items())


def verdict(gap: Interval) -> str:
    """Whether the equal-angle path beats the shortest."""
    return {1: "better", 0: "not told apart", -1: "worse"}[sign(gap._asdict())]


def _steps_near(candidates: Sequence[int], wanted: int) -> int:
    return min(candidates, key=lambda n: abs(n - wanted))


def answer(config: Any, rows: Rows) -> str:
    """Does the equal-angle path beat the shortest under DDIM, on Gaussian data and on patches?"""
    common = [n for n in config.patch_steps if n in config.steps]
    steps = _steps_near(common or config.patch_steps, 20)
    runs = {path: find(gaussian_runs(rows), path=path, sampler="ddim", grid="uniform", steps=steps) for path in RIVALS}
    parts = []
    if all(runs.values()):
        first, second = (runs[path][0]["kl_generated_data"] for path in RIVALS)
        parts.append(f"has KL {_short(first)} nats against the shortest path's {_short(second)} on Gaussian data")
    gaps = {name: advantage(rows, name, "ddim", "uniform", steps, "w2_detail") for name in MODELS}
    said = [f"{verdict(gap)} on {MODELS[name]} (by {shown(gap._asdict())})" for name, gap in gaps.items() if gap]
    if said:
        parts.append(f"is, by {MEASURES['w2_detail']} of patches, {' and '.join(said)}")
    return f"Under DDIM at {steps} steps the equal-angle path {'; it '.join(parts)}." if parts else ""


def details(config: Any, rows: Rows) -> list[str]:
    """The best path of each sampler on Gaussian data and on patches; the two rivals by each measure."""
    return [*_gaussian_sentence(config, rows), *_rival_sentences(config, rows), *_best_sentences(config, rows)]


def _gaussian_sentence(config: Any, rows: Rows) -> list[str]:
    if not gaussian_runs(rows):
        return []
    steps = _steps_near(config.steps, 20)
    best = {sampler: best_on_gaussian(rows, sampler, steps) for sampler in config.samplers}
    parts = [f"{name} {run['path']} ({_short(run['kl_generated_data'])})" for name, run in best.items()]
    checked = f"agreeing with theory's closed forms to {largest_deviation(rows):.0e}"
    return [f"Gaussian data, {steps} steps on uniform times, {checked}: least KL in nats: {', '.join(parts)}."]


def _short(value: float | None) -> str:
    if value is None:
        return "infinite"
    return "< 1e-12" if value < 1e-12 else f"{value:.2g}"


def _rival_sentences(config: Any, rows: Rows) -> list[str]:
    """Does equal-angle beat shortest under DDIM, by each measure on each model of patches."""
    sentences = []
    for model, name in MODELS.items():
        parts = [part for measure in MEASURES for part in _rival_part(config, rows, model, measure)]
        if parts:
            start = f"DDIM on {name}, the equal-angle path against the shortest (positive: the former's is less)"
            sentences.append(f"{start}: {'; '.join(parts)}.")
    return sentences


def _rival_part(config: Any, rows: Rows, model: str, measure: str) -> list[str]:
    found = {n: advantage(rows, model, "ddim", "uniform", n, measure) for n in config.patch_steps}
    words = [
        f"{_judged(rows, model, n, measure, gap)} at {n} steps, {shown(gap._asdict())}"
        for n, gap in found.items()
        if gap
    ]
    return [f"in {MEASURES[measure]} {', '.join(words)}"] if words else []


def _judged(rows: Rows, model: str, steps: int, measure: str, gap: Interval) -> str:
    share = unsettled(rows, model, "ddim", "uniform", steps) if measure == "displacement" else 0.0
    return f"not judged (the reference is known to {share:.1%} only)" if share > TOLERATED else verdict(gap)


def _best_sentences(config: Any, rows: Rows) -> list[str]:
    """Per sampler, the path of least debiased W2² of the detail on the mixture, and from which it is not told apart."""
    steps, parts = _steps_near(config.patch_steps, 20), []
    for sampler in config.patch_samplers:
        ranked = ranking(config, rows, "mixture", sampler, steps)
        if ranked:
            best, tied = ranked
            ties = f", not told apart from {' and '.join(tied)}" if tied else ", apart from all others"
            parts.append(f"{sampler} {best}{ties}")
    return [f"Least {MEASURES['w2_detail']} on the mixture at {steps} steps: {'; '.join(parts)}."] if parts else []


def ranking(config: Any, rows: Rows, model: str, sampler: str, steps: int) -> tuple[str, list[str]] | None:
    """The (path, grid) of least mean debiased W2² of the detail, and those whose interval of paired differences to it
    contains 0; None where there are fewer than two repeats."""
    values = {
        f"{path} ({grid})": repeats(rows, model, path, sampler, grid, steps, "w2_detail")
        for path in config.patch_paths
        for grid in config.patch_grids
    }
    values = {name: numbers for name, numbers in values.items() if len(numbers) >= 2}
    if not values:
        return None
    best = min(values, key=lambda name: values[name].mean())
    gaps = {name: mean_interval(numbers - values[best])._asdict() for name, numbers in values.items() if name != best}
    return best, [name for name, gap in gaps.items() if sign(gap) == 0]
