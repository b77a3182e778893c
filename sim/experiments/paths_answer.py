"""What the rows of the experiment on paths say: intervals over repeats, comparisons, and the sentence.

Off the Gaussian model a repeat is one row, in which all paths share their draws. Per path and run,

    excess        debiased W2² of the few steps less that of the path's own reference flow: both to the same fresh
                  draws, which therefore cancel; in the data's unit squared. `detail`: the same without mean brightness.
    displacement  E |few - fine|², an upper bound of W2².

Two paths are compared by Student's interval of the differences over repeats: one is better only where it excludes 0.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.intervals import Interval, mean_interval

Rows = Sequence[Mapping[str, Any]]
RIVALS = ("equal_angle", "shortest")
"""The two paths whose comparison under DDIM the experiment is to decide."""
MEASURES = {"excess": "debiased W2²", "detail": "debiased W2² without mean brightness", "displacement": "displacement"}
"""What is compared off the Gaussian model, in words."""


def gaussian_runs(rows: Rows) -> list[dict[str, Any]]:
    """All runs of the Gaussian model, each with its path."""
    return [{"path": row["path"], **run} for row in rows if row["model"] == "gaussian" for run in row["runs"]]


def best_on_gaussian(rows: Rows, sampler: str, steps: int, grid: str | None = None) -> dict[str, Any]:
    """The run of smallest KL(generated‖data) for a sampler and a number of steps, on one grid or the best of all."""
    fits = [
        run
        for run in gaussian_runs(rows)
        if (run["sampler"], run["steps"]) == (sampler, steps) and grid in (None, run["grid"])
    ]
    return min(fits, key=lambda run: np.inf if run["kl_generated_data"] is None else run["kl_generated_data"])


def largest_deviation(rows: Rows) -> float:
    """Largest relative deviation of a simulated variance from theory's closed form, NaN where none was compared."""
    found = [run["deviation"] for run in gaussian_runs(rows) if run["deviation"] is not None]
    return max(found, default=float("nan"))


def repeats(rows: Rows, model: str, path: str, sampler: str, grid: str, steps: int, measure: str) -> np.ndarray:
    """One number per repeat, in the order of the rows; empty where there was no such run."""
    found = []
    for row in rows:
        if row["model"] == model:
            reference = row["references"].get(path)
            found += [
                _value(run, reference, measure)
                for run in row["runs"]
                if (run["path"], run["sampler"], run["grid"], run["steps"]) == (path, sampler, grid, steps)
            ]
    return np.array([value for value in found if value is not None])


def _value(run: Mapping[str, Any], reference: Any, measure: str) -> float | None:
    if measure == "displacement":
        return None if run["moved"] is None else float(np.sum(run["moved"]))
    name = {"excess": "w2", "detail": "w2_detail"}[measure]
    return float(run[name] - reference[name])


def advantage(rows: Rows, model: str, sampler: str, grid: str, steps: int, measure: str) -> Interval | None:
    """`measure` on the shortest path less that on the equal-angle path, over paired repeats: positive where equal-angle
    is better. None where fewer than two repeats have both.
    """
    first, second = (repeats(rows, model, path, sampler, grid, steps, measure) for path in RIVALS)
    if len(first) < 2 or len(first) != len(second):
        return None
    return mean_interval(second - first)


def verdict(interval: Interval) -> str:
    """In one word whether the equal-angle path beats the shortest."""
    if interval.low > 0:
        return "better"
    return "worse" if interval.high < 0 else "undecided"


def answer(config: Any, rows: Rows) -> str:
    """What was found, in numbers, whatever it is."""
    return " ".join([_gaussian_sentence(config, rows), *_rival_sentences(config, rows), *_best_sentences(config, rows)])


def _gaussian_sentence(config: Any, rows: Rows) -> str:
    steps = min(config.steps, key=lambda n: abs(n - 20))
    best = {sampler: best_on_gaussian(rows, sampler, steps) for sampler in config.samplers}
    parts = [f"{name} {run['path']} ({run['grid']}, {_short(run['kl_generated_data'])})" for name, run in best.items()]
    checked = f"agreeing with the closed forms to {largest_deviation(rows):.0e}"
    return f"Gaussian data, {steps} steps, {checked}: the least KL(generated‖data) in nats has {', '.join(parts)}."


def _short(value: float) -> str:
    return "< 1e-12" if value < 1e-12 else f"{value:.2g}"


def _rival_sentences(config: Any, rows: Rows) -> list[str]:
    """Does equal-angle beat shortest under DDIM: on the Gaussian model, and by each measure on each other model."""
    sentences = []
    for model in ("mixture", "empirical"):
        parts = [part for measure in MEASURES for part in _rival_part(config, rows, model, measure)]
        if parts:
            sentences.append(
                f"DDIM on the {model} model of patches: against the shortest path the equal-angle path is "
                + "; ".join(parts)
                + "."
            )
    return sentences


def _rival_part(config: Any, rows: Rows, model: str, measure: str) -> list[str]:
    found = {n: advantage(rows, model, "ddim", "uniform", n, measure) for n in config.patch_steps}
    words = [
        f"{verdict(gap)} at {n} steps (by {gap.value:.2g} [{gap.low:.2g}, {gap.high:.2g}])"
        for n, gap in found.items()
        if gap is not None
    ]
    return [f"in {MEASURES[measure]} {', '.join(words)}"] if words else []


def _best_sentences(config: Any, rows: Rows) -> list[str]:
    """Per sampler, the path of least excess on the mixture, and which others it does not differ from."""
    steps = min(config.patch_steps, key=lambda n: abs(n - 20))
    parts = []
    for sampler in config.patch_samplers:
        ranked = ranking(config, rows, "mixture", sampler, steps)
        if ranked:
            best, tied = ranked
            ties = f", not told apart from {' and '.join(tied)}" if tied else ", apart from all others"
            parts.append(f"{sampler} {best}{ties}")
    return [f"Least debiased W2² on the mixture at {steps} steps: {'; '.join(parts)}."] if parts else []


def ranking(config: Any, rows: Rows, model: str, sampler: str, steps: int) -> tuple[str, list[str]] | None:
    """The (path, grid) of least mean |excess|, and those whose interval of differences to it contains 0."""
    values = {
        f"{path} ({grid})": repeats(rows, model, path, sampler, grid, steps, "excess")
        for path in config.patch_paths
        for grid in config.patch_grids
    }
    values = {name: numbers for name, numbers in values.items() if len(numbers) >= 2}
    if not values:
        return None
    best = min(values, key=lambda name: abs(values[name].mean()))
    gaps = {name: mean_interval(numbers - values[best]) for name, numbers in values.items() if name != best}
    return best, [name for name, gap in gaps.items() if gap.low <= 0 <= gap.high]
