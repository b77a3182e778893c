"""Figures of the memorisation experiment."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.experiments.base import Row
from sim.experiments.memorisation_answer import NAMES, OPERATOR_NAMES
from sim.experiments.wording import find
from theory.canvas import BLACK, BLUE, DASHES, GREEN, PALETTE, PURPLE, VERMILION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOOKS = {"exact": (BLUE, "o"), "linear": (GREEN, "s"), "learned": (VERMILION, "^"), "fresh": (BLACK, "")}
SHARE = "share with $d_1 < d_2/3$"
EXPOSED = "half of the points gated:\nP(nearer sample than unseen)"
RIGHT = "change of\nshare of the right class"
RATIO = "distance to training /\nto unseen points (median)"


def _band(
    axis: "Axes",
    x: Sequence[int | float] | np.ndarray,
    estimates: Sequence[Mapping[str, Any]],
    label: str,
    colour: str,
    marker: str,
) -> None:
    low, mid, high = (np.array([e[part] for e in estimates], float) for part in ("low", "value", "high"))
    axis.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)
    line = "--" if label == NAMES["fresh"] else "-"
    axis.plot(x, mid, color=colour, marker=marker, linestyle=line, label=label, markersize=5)


def _denoisers(
    axes: "Sequence[Axes]", rows: Sequence[Row], x: Sequence[int | float] | np.ndarray, kinds: Sequence[str]
) -> None:
    for axis, measure, name in zip(axes, ("memorised", "distance_ratio"), (SHARE, RATIO), strict=True):
        for kind in kinds:
            _band(axis, x, [row[kind][measure] for row in rows], NAMES[kind], *LOOKS[kind])
        axis.set_ylabel(name)


def number_figure(rows: Sequence[Row]) -> "Figure":
    """Memorised share and distance ratio: left against n, right against the steps of the exact denoiser."""
    points, steps = find(rows, study="points"), find(rows, study="steps")
    with style():
        figure, axes = new_figure(rows=2, columns=2, size=(7.4, 5.4))
        _denoisers(axes[::2], points, [row["n"] for row in points], ("exact", "linear", "learned", "fresh"))
        _denoisers(axes[1::2], steps, [row["steps"] for row in steps], ("exact", "fresh"))
        for axis, row_set, name in ((axes[2], points, "n"), (axes[3], steps, "steps")):
            axis.set_xlabel("training points n" if name == "n" else f"DDIM steps (n = {steps[0]['n']})")
            for one in (axis, axes[axes.index(axis) - 2]):
                one.set_xscale("log", base=2)
                one.set_xticks([row[name] for row in row_set], [str(row[name]) for row in row_set])
                one.minorticks_off()
        axes[0].legend()
    return figure


def corruption_figure(rows: Sequence[Row]) -> "Figure":
    """The network under each corruption: paired changes of two measures and of the right class's share."""
    learned = [row for row in find(rows, study="learned") if row["operator"] != "gate"]
    names = {"memorised": f"change of\n{SHARE}", "distance_ratio": f"change of\n{RATIO}", "right_class": RIGHT}
    with style():
        figure, axes = new_figure(rows=3, size=(5.6, 7.6), share_x=True)
        ticks: list[str] = []
        for row, colour in zip(learned, cycle(PALETTE), strict=False):
            x = np.arange(len(row["strengths"]) - 1) + len(ticks)
            for axis, measure in zip(axes, names, strict=True):
                _bars(
                    axis, x, [change[measure] for change in row["changes"][1:]], OPERATOR_NAMES[row["operator"]], colour
                )
            ticks += [f"{strength:g}" for strength in row["strengths"][1:]]
        for axis, name in zip(axes, names.values(), strict=True):
            axis.axhline(0.0, color=BLACK, linewidth=1.0)
            axis.set_ylabel(name)
        axes[-1].set_xticks(range(len(ticks)), ticks)
        axes[-1].set_xlabel(f"strength (n = {learned[0]['n']})")
        figure.legend(*axes[0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
    return figure


def _bars(axis: "Axes", x: np.ndarray, estimates: Sequence[Mapping[str, Any]], label: str, colour: str) -> None:
    low, mid, high = (np.array([e[part] for e in estimates], float) for part in ("low", "value", "high"))
    axis.errorbar(x, mid, np.maximum([mid - low, high - mid], 0), fmt="o", color=colour, label=label, capsize=3)


def gate_figure(rows: Sequence[Row]) -> "Figure":
    """Above: who is exposed behind a gate; below: what sampling that stops at a gate of all points gives."""
    exact = find(rows, study="gates")
    learned = [row for row in find(rows, study="learned") if row["operator"] == "gate"]
    with style():
        figure, axes = new_figure(rows=2, share_x=True)
        x = [row["sigma_min"] for row in exact]
        for kind, look in (("raw", (BLUE, "o")), ("kept", (PURPLE, "s"))):
            name = {"raw": "exact, noised afresh", "kept": "exact, noised once"}[kind]
            _band(axes[0], x, [row[kind]["exposed"] for row in exact], name, *look)
            _band(axes[1], x, [row[f"{kind}_stopped"]["distance_ratio"] for row in exact], name, *look)
        for row in learned:
            _band(axes[0], row["strengths"], [arm["exposed"] for arm in row["arms"]], "network", *LOOKS["learned"])
        for axis, level, name in ((axes[0], 0.5, EXPOSED), (axes[1], 1.0, RATIO)):
            axis.axhline(level, color=BLACK, linestyle=DASHES[1], linewidth=1.2, label="not copied")
            axis.set_ylabel(name)
        axes[1].set_xscale("symlog", linthresh=min(x), linscale=0.4)
        axes[1].set_xticks([0, *x], [f"{value:g}" for value in (0, *x)])
        axes[1].minorticks_off()
        axes[1].set_xlabel(r"gate $\sigma_{min}$ (noise over signal)")
        axes[0].legend()
    return figure


def figures(config: Any, rows: Sequence[Row]) -> "Mapping[str, tuple[str, Figure]]":
    """The figures with their captions."""
    share = "95 % bands over repeats."
    drawn = {}
    if find(rows, study="points") and find(rows, study="steps"):
        text = (
            "Above: share of samples with $d_1 < d_2/3$ to the training points. Below: median ratio of the distance "
            "to the training points and to as many unseen ones, 1 where nothing is copied. Left against n, right "
            f"against the steps of the exact denoiser. {share}"
        )
        drawn["number"] = (text, number_figure(rows))
    if any(row["operator"] != "gate" for row in find(rows, study="learned")):
        text = (
            "The network under corruption of its training: changes from no corruption, paired by seeds; right class: "
        )
        text += "the nearest training point is of the class asked for. Bars: 95 % over repeats."
        drawn["corruption"] = (text, corruption_figure(rows))
    if find(rows, study="gates"):
        text = "Above: half of the points train at noise above σ_min only; probability that a gated point has a nearer "
        text += "sample than an unseen point has. Below: all points gated, sampling stops at the gate. "
        drawn["gates"] = (text + share, gate_figure(rows))
    return drawn
