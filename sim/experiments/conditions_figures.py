"""Figures of the experiment on condition corruption: gain in W2² against strength for every learner and operator, flips
with and without guidance, what guidance leaves of the gains, and the entropy."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.experiments.base import Row
from sim.experiments.conditions_answer import shared_guidance
from sim.experiments.conditions_config import is_flip
from sim.experiments.wording import find
from theory.canvas import BLACK, BLUE, GREEN, ORANGE, PALETTE, PURPLE, SKY, VERMILION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"linear": BLUE, "linear limit": SKY, "exact": GREEN, "memorising": ORANGE, "network": VERMILION}
OPERATORS = {
    "fixed cep-g": (BLUE, "o"),
    "fixed partial cep-g": (ORANGE, "s"),
    "dropout": (GREEN, "^"),
    "label smoothing": (PURPLE, "D"),
    "input perturbation": (VERMILION, "v"),
}
MARKS = {"opposite": "o", "line": "s", "orthogonal": "^"}
GAIN = r"gain in $W_2^2$ (units of $x^2$)"
NOISE = "noise_std of the condition code"


def _looks(rows: Sequence[Row]) -> Iterator[tuple[Row, str, str]]:
    """Each row with a colour and a mark, repeated in other pairs where there are more rows than colours."""
    return zip(rows, cycle(PALETTE[:-1]), cycle("os^DvpX"), strict=False)


def _draw(
    axes: "Axes",
    row: Row,
    curve: Mapping[str, Any],
    label: str,
    colour: str,
    mark: str,
    *,
    dash: str = "-",
    name: str = "gain",
) -> None:
    """One curve of gains with its 95 % intervals; strength 0 left out."""
    x = np.array(row["strengths"][1:])
    value, low, high = (np.array([g[part] for g in curve[name][1:]]) for part in ("value", "low", "high"))
    axes.plot(x, value, linestyle=dash, marker=mark, markersize=4.5, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _draw_theory(axes: "Axes", row: Row, curve: Mapping[str, Any], label: str | None) -> None:
    if curve["theory"]:
        values = [t["value"] for t in curve["theory"][1:]]
        axes.plot(row["strengths"][1:], values, "--", color=BLACK, linewidth=1.2, label=label)


def _curve(row: Row, guidance: float = 0.0) -> Mapping[str, Any] | None:
    return next((c for c in row["curves"] if c["guidance"] == guidance), None)


def _percent(row: Row) -> Row:
    return {**row, "strengths": [100 * x for x in row["strengths"]]}


def gain_figure(config: Any, rows: Sequence[Row]) -> "Figure":
    """Without guidance: CEP on the linear learner with theory, and on the others; the other operators on the linear
    learner and on the network."""
    with style():
        figure, panels = new_figure(rows=2, columns=2, size=(10.4, 8.2))
        _linear_panel(panels[0], rows)
        _other_panel(panels[1], rows, config)
        _operator_panel(panels[2], rows, "linear")
        _operator_panel(panels[3], rows, "network")
        for axes in panels:
            axes.axhline(0, color=BLACK, linewidth=0.8)
            axes.set_yscale("symlog", linthresh=0.02)
            axes.set_ylabel(GAIN)
            if axes.get_legend_handles_labels()[0]:
                axes.legend(fontsize=8.5)
    return figure


def _linear_panel(axes: "Axes", rows: Sequence[Row]) -> None:
    found = find(rows, learner="linear", operator="cep-g", drawn="fresh")
    for row, colour, mark in _looks(found):
        label = f"n={row['n']}, d={row['d']}" + (f", cond. {row['condition']:g}" if row["condition"] > 1 else "")
        _draw_theory(axes, row, row["curves"][0], "theory" if row is found[0] else None)
        _draw(axes, row, row["curves"][0], label, colour, mark, dash="none")
    axes.set_title("CEP, linear learner: simulated (marks), theory (dashed)")
    axes.set_xlabel(NOISE)


def _other_panel(axes: "Axes", rows: Sequence[Row], config: Any) -> None:
    given = [r for r in rows if r["operator"] in ("cep-g", "cep-u") and r["drawn"] == "fresh"]
    for i, row in enumerate(r for r in given if r["learner"] != "linear"):
        few, uniform = row["mean_square"] != config.mean_square, row["operator"] == "cep-u"
        size = "" if row["learner"] == "exact" else f", n={row['n']}, d={row['d']}"
        label = f"{row['learner']}{size}" + (f", $|\\mu|^2$={row['mean_square']:g}" if few else "")
        colour = PURPLE if uniform else COLOURS[row["learner"]]
        name = f"{label}, CEP-U" if uniform else label
        _draw(axes, row, row["curves"][0], name, colour, "os^DvpX"[i % 7], dash="--" if few else "-")
    axes.set_title("CEP, nonlinear learners")
    axes.set_xlabel(NOISE)


def _operator_panel(axes: "Axes", rows: Sequence[Row], learner: str) -> None:
    named = [row for row in find(rows, learner=learner) if not is_flip(row)]
    others = [row for row in named if row["drawn"] == "fixed" or row["operator"] != "cep-g"]
    for row in others:
        label = ("fixed " if row["drawn"] == "fixed" else "") + row["operator"]
        _draw_theory(axes, row, row["curves"][0], None)
        _draw(axes, row, row["curves"][0], label, *OPERATORS[label])
    axes.set_visible(bool(others))
    size = "".join(f" (n={row['n']}, d={row['d']})" for row in others[:1])
    axes.set_title(f"other operators, {learner}{size}")
    axes.set_xlabel("strength (noise_std, rate or input gamma)")


def flip_figure(config: Any, rows: Sequence[Row]) -> "Figure":
    """Gain against the share of symmetrically flipped labels: fixed and fresh, without and with guidance."""
    strongest = shared_guidance([row for row in rows if is_flip(row)])
    with style():
        figure, axes = new_figure(rows=2, columns=2, size=(7.6, 7.4))
        for i, (guidance, drawn) in enumerate((w, kind) for w in (0.0, strongest) for kind in ("fixed", "fresh")):
            _flip_panel(axes[i], rows, config, guidance, drawn)
        _shared_legend(figure, axes)
    return figure


def _shared_legend(figure: "Figure", panels: "Sequence[Axes]") -> None:
    """One legend below for all panels, each name once."""
    named = {text: handle for axes in panels for handle, text in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(list(named.values()), list(named), loc="outside lower center", ncols=3, fontsize=9)


def _flip_panel(axes: "Axes", rows: Sequence[Row], config: Any, guidance: float, drawn: str) -> None:
    for row in find(rows, operator="symmetric flip"):
        curve = _curve(row, guidance)
        if curve is None or row["mean_square"] != config.mean_square or (row["n"] > 0 and row["drawn"] != drawn):
            continue
        dash = {"opposite": "-", "line": "--", "orthogonal": ":"}[row["classes"]]
        label = f"{row['learner']}, {row['classes']}"
        _draw(axes, _percent(row), curve, label, COLOURS[row["learner"]], MARKS[row["classes"]], dash=dash)
        if row["learner"] == "linear":
            _draw_theory(axes, _percent(row), curve, "theory")
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set_title(f"{drawn} flips, guidance {guidance:g}")
    axes.set_xlabel("labels flipped (%)")
    axes.set_ylabel(GAIN)


def guidance_figure(rows: Sequence[Row]) -> "Figure":
    """Corrupted learners under guidance against their clean selves without it: CEP, and flips of opposite classes."""
    guidance = shared_guidance(rows)
    ceps = [row for row in rows if row["operator"] == "cep-g" and row["condition"] == 1]
    flips = find(rows, operator="symmetric flip", classes="opposite")
    with style():
        figure, panels = new_figure(columns=2, size=(8.6, 4.8))
        for axes, group, name in ((panels[0], ceps, NOISE), (panels[1], flips, "labels flipped (%)")):
            for row in group:
                curve, kind = _curve(row, guidance), "" if row["n"] == 0 else f", {row['drawn']}"
                if curve is not None:
                    mark = "o" if row["drawn"] == "fresh" else "s"
                    given = _percent(row) if is_flip(row) else row
                    label = f"{row['learner']}{kind}" + ("" if row["n"] == 0 else f", n={row['n']}, d={row['d']}")
                    dash = "-" if row["n"] in (0, 10) else ":"
                    _draw(axes, given, curve, label, COLOURS[row["learner"]], mark, dash=dash, name="over_unguided")
            axes.axhline(0, color=BLACK, linewidth=0.8)
            axes.set_xlabel(name)
            axes.set_ylabel(f"clean at w = 0 less corrupted at w = {guidance:g},\n$W_2^2$ (units of $x^2$)")
        _shared_legend(figure, panels)
    return figure


def entropy_figure(rows: Sequence[Row]) -> "Figure":
    """Rise of the entropy under CEP, linear learner, with theory."""
    with style():
        figure, (axes,) = new_figure()
        for row, colour, mark in _looks([r for r in rows if "entropy" in r]):
            _draw(axes, row, row, f"n={row['n']}, d={row['d']}", colour, mark, dash="none", name="entropy")
            axes.plot(row["strengths"][1:], row["entropy_theory"][1:], "--", color=BLACK, linewidth=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel(NOISE)
        axes.set_ylabel("rise of the entropy (nats)")
        axes.legend(title="simulated; dashed: theory")
    return figure


def figures(config: Any, rows: Sequence[Row]) -> Mapping[str, "tuple[str, Figure]"]:
    """Name -> (caption, figure)."""
    return {
        "gains": (
            "Gain in squared W2 over the clean learner against the strength of corruption, without guidance; positive "
            "where corruption helps. Bands: 95 % intervals over training sets.",
            gain_figure(config, rows),
        ),
        "flips": (
            "Gain against the share of flipped labels, drawn once (fixed) or at every step (fresh), without and with "
            "guidance, each over the clean learner at that guidance. Learners with endless data (linear limit, exact) "
            "are in both columns. Bands: 95 %.",
            flip_figure(config, rows),
        ),
        "guidance": (
            "The same corrupted learners under guidance, over the clean learner without guidance: above zero only "
            "where the two together beat having neither. Bands: 95 %.",
            guidance_figure(rows),
        ),
        "entropy": ("Rise of the entropy of what the linear learner generates under CEP.", entropy_figure(rows)),
    }
