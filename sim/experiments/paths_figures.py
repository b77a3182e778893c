"""Figures of the experiment on paths: error against steps, one line per path."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.experiments.base import Row
from sim.experiments.paths_answer import MODELS, gaussian_runs, reference_error, repeats
from sim.experiments.wording import find
from sim.intervals import mean_interval
from theory.canvas import BLACK, BLUE, DASHES, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^vP*X"
LOWEST, HIGHEST = 1e-8, 1e4
"""KL in nats: points beyond are drawn at these heights."""
SHORT = {
    "ornstein_uhlenbeck": "OU",
    "vp_linear": "VP linear",
    "vp_cosine": "VP cosine",
    "variance_exploding": "EDM",
    "equal_angle": "equal angle",
}
"""Paths' names in legends, where they differ from those in `PATHS`."""
Rows = Sequence[Row]


COLOURS = {
    "shortest": BLUE,
    "equal_angle": VERMILION,
    "variance_exploding": PURPLE,
    "vp_cosine": GREEN,
    "vp_linear": ORANGE,
    "heat": SKY,
    "bures": BLACK,
    "ornstein_uhlenbeck": "#888888",
}


def _look(path: str) -> dict[str, Any]:
    number = list(COLOURS).index(path)
    return {
        "color": COLOURS[path],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number],
        "markersize": 4,
        "linewidth": 1.3,
        "label": SHORT.get(path, path),
    }


def figures(config: Any, rows: Rows) -> "Mapping[str, tuple[str, Figure]]":
    """Named figures with captions."""
    return {
        "gaussian": (
            "Gaussian data with the spectrum of natural images: KL(generated‖data) in nats against steps, each path on "
            "uniform times, exact. Black rings: theory's closed form. Points at an edge lie at or beyond it.",
            gaussian_figure(config, rows),
        ),
        "patches": (
            "Image patches, DDIM: above, debiased W2² to fresh draws of each image less its own mean; below, "
            "displacement from the flow, dotted: half against all steps of the reference; squared pixel units per "
            "patch, 95 % intervals over repeats. Paths share their draws: their differences, in the text, are "
            "known better than the bars show.",
            patch_figure(config, rows, "ddim"),
        ),
    }


def gaussian_figure(config: Any, rows: Rows, grid: str = "uniform") -> "Figure":
    """KL against steps, one panel per sampler; `grid`: whose times are drawn."""
    lines = -(-len(config.samplers) // 2)
    figure, axes = new_figure(rows=lines, columns=2, size=(7.2, 0.9 + 2.1 * lines), share_x=True)
    runs = find(gaussian_runs(rows), grid=grid)
    for axis, sampler in zip(axes, config.samplers, strict=False):
        for path in config.paths:
            _gaussian_line(axis, _look(path), find(runs, sampler=sampler, path=path))
        axis.set(title=sampler, xscale="log", yscale="log", ylim=(LOWEST / 3, HIGHEST * 3))
        _step_ticks(axis, config.steps)
    for axis in axes[len(config.samplers) :]:
        axis.set_axis_off()
    figure.supylabel("KL(generated‖data), nats", fontsize=11)
    figure.supxlabel("steps", fontsize=11)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _gaussian_line(axis: "Axes", look: dict[str, Any], runs: list[dict[str, Any]]) -> None:
    runs = sorted(runs, key=lambda run: run["steps"])
    found = [np.nan if run["kl_generated_data"] is None else run["kl_generated_data"] for run in runs]
    axis.plot([run["steps"] for run in runs], np.clip(found, LOWEST, HIGHEST), **look)
    rings = [(run["steps"], run["closed_kl"]) for run in runs if run.get("closed_kl") is not None]
    if rings:
        steps, closed = zip(*rings, strict=True)
        heights = np.clip(closed, LOWEST, HIGHEST)
        axis.plot(steps, heights, "o", color=BLACK, markerfacecolor="none", markersize=8, markeredgewidth=0.8)


def _step_ticks(axis: "Axes", steps: Sequence[int]) -> None:
    axis.set_xticks(list(steps), [str(n) for n in steps])
    axis.minorticks_off()


def _log_ticks(axis: "Axes") -> None:
    """Ticks at 1, 2 and 5 times powers of ten, as plain numbers."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    axis.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())


def patch_figure(
    config: Any, rows: Rows, sampler: str, grid: str = "uniform", models: Sequence[str] = tuple(MODELS)
) -> "Figure":
    """Debiased W2² of the detail, and displacement beside the reference's error; one column per model of patches."""
    figure, axes = new_figure(rows=2, columns=len(models), size=(3.6 * len(models), 5.6), share_x=True)
    names = {"w2_detail": "debiased W2² of the detail", "displacement": "displacement"}
    for number, axis in enumerate(axes):
        measure, model = list(names)[number // len(models)], models[number % len(models)]
        for shift, path in enumerate(config.patch_paths):
            _patch_line(axis, config, rows, (model, path, sampler, grid, measure), shift)
        axis.set(xscale="log", title=model, ylabel=names[measure] if number % len(models) == 0 else "")
        if measure == "displacement":
            axis.set_yscale("log")
            _log_ticks(axis)
        else:
            axis.axhline(0, color="black", linewidth=0.8)
        _step_ticks(axis, config.patch_steps)
    figure.supxlabel("steps", fontsize=11)
    figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=4)
    return figure


def _patch_line(axis: "Axes", config: Any, rows: Rows, run: tuple[str, str, str, str, str], shift: int) -> None:
    model, path, sampler, grid, measure = run
    values = {n: repeats(rows, model, path, sampler, grid, n, measure) for n in config.patch_steps}
    known = {n * 1.02**shift: mean_interval(v) for n, v in values.items() if len(v) >= 2}
    if known:
        steps, middle = list(known), np.array([i.value for i in known.values()])
        low, high = (np.array([getattr(i, end) for i in known.values()]) for end in ("low", "high"))
        axis.errorbar(steps, middle, yerr=[middle - low, high - middle], capsize=2, **_look(path))
        if measure == "displacement":
            error = reference_error(rows, model, path)
            axis.axhline(max(error, 1e-5), color=COLOURS[path], linestyle=":", linewidth=1)
