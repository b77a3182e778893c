"""Figures of the ambient experiment: TV against noise; patches against sigma_min; generated laws and the buffer."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from sim.experiments.base import Row
from sim.experiments.wording import find
from theory.canvas import BLACK, BLUE, DASHES, GREEN, ORANGE, PURPLE, VERMILION, new_figure
from theory.gates import buffer_noise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["buffer_figure", "figures", "flow_figure", "line_figure", "patch_figure"]

WIDE = 5.4


def figures(config: Any, rows: Sequence[Row]) -> dict[str, tuple[str, "Figure"]]:
    """Name -> (caption, figure), for the kinds of rows there are."""
    made = {}
    if line := find(rows, kind="line"):
        caption = (
            "Expected total variation between the smoothed training set and the smoothed truth on the line: means over "
            "training sets with 95 % bands, theory's expectation (dots), and the noise level from which everything "
            "beats clean only: theory's (line) and as found (band). Where nothing is marked there is none."
        )
        made["ambient_line"] = caption, line_figure(line)
    if patches := find(rows, kind="patches"):
        caption = (
            "W2² between generated and fresh patches against sigma_min, means over training sets with 95 % bands; "
            "horizontally everything and clean only, vertically what the classifiers choose. Linear learner: the "
            "Gaussian that it generates against the fresh patches' moments, no sampling noise; memorising: debiased "
            "W2². Training sets are re-draws from one pool of patches, which they nearly exhaust. Bands overlap more "
            "than the paired differences in the text leave undecided."
        )
        made["ambient_patches"] = caption, patch_figure(patches)
    if flow := find(rows, kind="flow"):
        caption = (
            "W2² of the law that the memorising denoiser generates on the line against sigma_min, and what noising the "
            "degraded points only once costs: the mean squared error of the estimate of x0 against noise / sigma_min. "
            "Means with 95 % bands."
        )
        made["ambient_generated"] = caption, flow_figure(flow, find(rows, kind="buffer"))
    return made


def _band(
    axis: "Axes", x: Sequence[float], estimate: Mapping[str, Any], colour: str, label: str, dash: Any = "-"
) -> None:
    axis.plot(x, estimate["value"], color=colour, linestyle=dash, label=label)
    axis.fill_between(x, estimate["low"], estimate["high"], color=colour, alpha=0.2, linewidth=0)


def _level(axis: "Axes", estimate: Mapping[str, Any], colour: str, label: str, dash: Any) -> None:
    axis.axhline(estimate["value"], color=colour, linestyle=dash, label=label)
    axis.axhspan(estimate["low"], estimate["high"], color=colour, alpha=0.12, linewidth=0)


def line_figure(rows: Sequence[Row]) -> "Figure":
    """A panel per case and number of clean points."""
    figure, axes = new_figure(rows=len(rows), size=(WIDE, 0.6 + 2.6 * len(rows)))
    for axis, row in zip(axes, rows, strict=True):
        x = row["levels"]
        _band(axis, x, row["clean"], BLUE, "clean only")
        _band(axis, x, row["everything"], VERMILION, "everything", DASHES[1])
        for name, colour in (("clean", BLUE), ("everything", VERMILION)):
            label = "theory" if name == "clean" else None
            axis.plot(x, row[f"theory_{name}"], ".", color=colour, markeredgecolor=BLACK, label=label)
        _mark_crossover(axis, row)
        axis.set(xscale="log", yscale="log", ylabel="E total variation")
        axis.set_title(f"{row['n_clean']} clean points and {row['case']} ones")
        axis.legend(loc="lower left")
    axes[-1].set_xlabel("noise σ (the data lie in [0, 1])")
    return figure


def _mark_crossover(axis: "Axes", row: Row) -> None:
    found = row["crossover"]
    if row["theory_crossover"]:
        axis.axvline(row["theory_crossover"], color=GREEN, linestyle=DASHES[3], label="crossover, theory")
    if found["low"] and found["high"]:
        axis.axvspan(found["low"], found["high"], color=GREEN, alpha=0.2, linewidth=0, label="crossover, found")


def patch_figure(rows: Sequence[Row]) -> "Figure":
    """A panel per degradation and learner."""
    figure, axes = new_figure(rows=len(rows), size=(WIDE, 0.6 + 2.5 * len(rows)), share_x=True)
    for axis, row in zip(axes, rows, strict=True):
        x = row["sigma_min"]
        _level(axis, row["clean"], BLUE, "clean only", DASHES[2])
        _level(axis, row["everything"], VERMILION, "everything", DASHES[1])
        _band(axis, x, row["gated"], GREEN, "gated at sigma_min")
        axis.lines[-1].set_marker("o")
        for value, colour, label in ((row["ideal_sigma_min"], ORANGE, "ideal classifier"),
                                     (row["learned_sigma_min"]["value"], PURPLE, "learned classifier")):  # fmt: skip
            if value:
                axis.axvline(value, color=colour, linestyle=DASHES[3], label=label)
        axis.set(xscale="log", ylabel="W2² to fresh patches", ylim=(0, None))
        axis.set_title(f"{row['degradation']} {row['strength']:g}, {row['learner']} learner")
    axes[0].legend(fontsize=8, ncols=2, loc="lower left")
    axes[-1].set_xlabel("sigma_min (pixels lie in [-1, 1])")
    return figure


def flow_figure(rows: Sequence[Row], buffers: Sequence[Row] = ()) -> "Figure":
    """A panel per case of generated laws, and one per buffer cell."""
    count = len(rows) + len(buffers)
    figure, axes = new_figure(rows=count, size=(WIDE, 0.6 + 2.6 * count))
    for axis, row in zip(axes, rows, strict=False):
        _level(axis, row["clean"], BLUE, "clean only", DASHES[2])
        _level(axis, row["everything"], VERMILION, "everything", DASHES[1])
        _band(axis, row["sigma_min"], row["gated"], GREEN, "gated at sigma_min")
        axis.set(xscale="log", xlabel="sigma_min (the data lie in [0, 1])", ylabel="W2² to the truth", ylim=(0, None))
        axis.set_title(f"generated: {row['n_clean']} clean points and {row['case']} ones")
        axis.legend()
    for axis, row in zip(axes[len(rows) :], buffers, strict=True):
        buffer_figure(axis, row)
    return figure


def buffer_figure(axis: "Axes", row: Row) -> None:
    """The estimate's error against noise / sigma_min, with the buffers for lambda_max = 4: corrected and printed
    (which is that for its square)."""
    curves = (("once", PURPLE, "noised once", "-"), ("afresh", GREEN, "noised afresh", DASHES[1]),
              ("clean", BLUE, "clean only", DASHES[2]))  # fmt: skip
    for name, colour, label, dash in curves:
        shown = {end: np.maximum(row[name][end], 1e-5) for end in ("value", "low", "high")}
        _band(axis, row["ratios"], shown, colour, label, dash)
    axis.axvline(float(buffer_noise(1.0, 4.0)), color=BLACK, linestyle=DASHES[3], label="buffer, corrected")
    axis.axvline(float(buffer_noise(1.0, 4.0**2)), color=ORANGE, linestyle=DASHES[3], label="buffer, printed")
    axis.set(xscale="log", yscale="log", xlabel="noise / sigma_min", ylabel="E |error of x̂0|²")
    axis.set_title(f"noised once at sigma_min = {row['sigma_min']:g} ({row['case']})")
    axis.legend(fontsize=8)
