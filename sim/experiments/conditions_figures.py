"""Figures of the experiment on condition corruption: gain in W2² against strength for every learner, flips with and
without guidance, and the entropy."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.experiments.base import Row
from sim.experiments.conditions_answer import find
from theory.canvas import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, new_figure, style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLOURS = {"linear": BLUE, "linear limit": SKY, "exact": GREEN, "memorising": ORANGE, "network": VERMILION}
MARKS = {"opposite": "o", "line": "s", "orthogonal": "^"}
GAIN = r"gain in $W_2^2$ (units of $x^2$)"


def _draw(
    axes: "Axes", row: Row, curve: Mapping[str, Any], label: str, colour: str, mark: str, *, dash: str = "-"
) -> None:
    """One curve of gains with its 95 % intervals; strength 0 left out."""
    x = np.array(row["strengths"][1:])
    value, low, high = (np.array([g[name] for g in curve["gain"][1:]]) for name in ("value", "low", "high"))
    axes.plot(x, value, linestyle=dash, marker=mark, markersize=4.5, color=colour, label=label)
    axes.fill_between(x, low, high, color=colour, alpha=0.18, linewidth=0)


def _draw_theory(axes: "Axes", row: Row, curve: Mapping[str, Any], label: str | None) -> None:
    if curve["theory"]:
        axes.plot(
            row["strengths"][1:],
            [t["value"] for t in curve["theory"][1:]],
            "--",
            color=BLACK,
            linewidth=1.2,
            label=label,
        )


def _curve(row: Row, guidance: float = 0.0) -> Mapping[str, Any] | None:
    return next((c for c in row["curves"] if c["guidance"] == guidance), None)


def gain_figure(config: Any, rows: Sequence[Row]) -> "Figure":
    """CEP on the linear learner with theory; on the others; and the other operators on the linear learner."""
    with style():
        figure, (linear, others, operators) = new_figure(rows=3, size=(5.6, 10.2))
        _linear_panel(linear, rows)
        _other_panel(others, rows, config)
        _operator_panel(operators, rows)
        for axes in (linear, others, operators):
            axes.axhline(0, color=BLACK, linewidth=0.8)
            axes.set_ylabel(GAIN)
            axes.legend(fontsize=8.5)
    return figure


def _linear_panel(axes: "Axes", rows: Sequence[Row]) -> None:
    found = find(rows, learner="linear", operator="cep-g", drawn="fresh")
    for row, colour, mark in zip(found, (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION), "os^Dvp", strict=False):
        label = f"n={row['n']}, d={row['d']}" + (f", cond. {row['condition']:g}" if row["condition"] > 1 else "")
        _draw_theory(axes, row, row["curves"][0], "theory" if row is found[0] else None)
        _draw(axes, row, row["curves"][0], label, colour, mark, dash="none")
    axes.set_title("CEP, linear learner: simulated (marks), theory (dashed)")
    axes.set_xlabel("noise_std of the condition code")
    axes.set_yscale("symlog", linthresh=0.02)


def _other_panel(axes: "Axes", rows: Sequence[Row], config: Any) -> None:
    for row in find(rows, operator="cep-g", drawn="fresh", condition=1.0):
        if row["learner"] != "linear":
            few = row["mean_square"] != config.mean_square
            size = "" if row["learner"] == "exact" else f", n={row['n']}, d={row['d']}"
            label = f"{row['learner']}{size}" + (f", $|\\mu|^2$={row['mean_square']:g}" if few else "")
            mark = "s" if few else "o" if row["d"] == 1 else "^"
            _draw(axes, row, row["curves"][0], label, COLOURS[row["learner"]], mark, dash="--" if few else "-")
    for row in find(rows, operator="cep-u"):
        _draw(axes, row, row["curves"][0], "exact, CEP-U", PURPLE, "v")
    axes.set_ylim(-0.5, 0.15)
    axes.set_title("CEP, nonlinear learners, no guidance")
    axes.set_xlabel("noise_std of the condition code")


def _operator_panel(axes: "Axes", rows: Sequence[Row]) -> None:
    named = [
        row
        for row in find(rows, learner="linear", mean_square=rows[0]["mean_square"])
        if not row["operator"].endswith("flip")
    ]
    shown = [row for row in named if row["drawn"] == "fixed" or row["operator"] != "cep-g"]
    for row, colour, mark in zip(shown, (BLUE, ORANGE, GREEN, PURPLE, VERMILION), "os^Dv", strict=False):
        label = ("fixed " if row["drawn"] == "fixed" else "") + row["operator"]
        _draw_theory(axes, row, row["curves"][0], None)
        _draw(axes, row, row["curves"][0], label, colour, mark)
    axes.set_title("other operators, linear learner")
    axes.set_xlabel("strength (noise_std, rate or input gamma)")


def flip_figure(config: Any, rows: Sequence[Row]) -> "Figure":
    """Gain against the share of flipped labels: fixed and fresh, without and with guidance."""
    strongest = max(config.network_guidances)
    with style():
        figure, axes = new_figure(rows=2, columns=2, size=(7.6, 7.4))
        for i, (guidance, drawn) in enumerate((w, kind) for w in (0.0, strongest) for kind in ("fixed", "fresh")):
            _flip_panel(axes[i], rows, config, guidance, drawn)
        handles, labels = axes[3].get_legend_handles_labels()
        extra = [pair for pair in zip(*axes[0].get_legend_handles_labels(), strict=True) if pair[1] not in labels]
        handles, labels = handles + [h for h, _ in extra], labels + [text for _, text in extra]
        figure.legend(handles, labels, loc="outside lower center", ncols=3, fontsize=9)
    return figure


def _flip_panel(axes: "Axes", rows: Sequence[Row], config: Any, guidance: float, drawn: str) -> None:
    for row in find(rows, operator="symmetric flip"):
        curve = _curve(row, guidance)
        if curve is None or row["mean_square"] != config.mean_square or (row["n"] > 0 and row["drawn"] != drawn):
            continue
        percent = {**row, "strengths": [100 * x for x in row["strengths"]]}
        dash = {"opposite": "-", "line": "--", "orthogonal": ":"}[row["classes"]]
        label = f"{row['learner']}, {row['classes']}"
        _draw(axes, percent, curve, label, COLOURS[row["learner"]], MARKS[row["classes"]], dash=dash)
        if row["learner"] == "linear":
            _draw_theory(axes, percent, curve, "theory")
    axes.axhline(0, color=BLACK, linewidth=0.8)
    axes.set_title(f"{drawn} flips, guidance {guidance:g}")
    axes.set_xlabel("labels flipped (%)")
    axes.set_ylabel(GAIN)


def entropy_figure(rows: Sequence[Row]) -> "Figure":
    """Rise of the entropy under CEP, linear learner, with theory."""
    with style():
        figure, (axes,) = new_figure()
        for row, colour, mark in zip([r for r in rows if "entropy" in r], (BLUE, ORANGE, GREEN), "os^", strict=False):
            _draw(axes, row, {"gain": row["entropy"]}, f"n={row['n']}, d={row['d']}", colour, mark, dash="none")
            axes.plot(row["strengths"][1:], row["entropy_theory"][1:], "--", color=BLACK, linewidth=1.2)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_xlabel("noise_std of the condition code")
        axes.set_ylabel("rise of the entropy (nats)")
        axes.legend(title="simulated; dashed: theory")
    return figure


def figures(config: Any, rows: Sequence[Row]) -> Mapping[str, "tuple[str, Figure]"]:
    """Name -> (caption, figure)."""
    return {
        "gains": (
            "Gain in squared W2 over the clean learner against the strength of corruption; positive where corruption "
            "helps. Bands: 95 % intervals over training sets.",
            gain_figure(config, rows),
        ),
        "flips": (
            "Gain against the share of flipped labels, drawn once (fixed) or at every step (fresh), without and with "
            "guidance. Learners with endless data (linear limit, exact) are in both columns.",
            flip_figure(config, rows),
        ),
        "entropy": ("Rise of the entropy of what the linear learner generates under CEP.", entropy_figure(rows)),
    }
