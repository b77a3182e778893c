"""Figures of a prescription: each function takes numbers and returns a `matplotlib.figure.Figure`.

One style for all (`theory.canvas`); lines differ in dash or marker as well as colour. Shaded bands are intervals; every
axis says what it shows and in which units.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from theory.canvas import BLACK, BLUE, DASHES, GREEN, ORANGE, PALETTE, VERMILION, style
from theory.conditions import Conditions, Curve, Optimum
from theory.image_advice import ImageAdvice, PathAdvice
from theory.settings import Settings
from theory.spectra import PowerLaw
from theory.whitening import ClassStatistics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from theory.prescribe import Prescription


@contextmanager
def _axes(**size: Any) -> "Iterator[tuple[Figure, Axes]]":
    from matplotlib.figure import Figure

    with style():
        figure = Figure(**size)
        yield figure, figure.subplots()


def _legend(axes: "Axes", **options: Any) -> None:
    """A legend, if there is anything to tell."""
    if axes.get_legend_handles_labels()[0]:
        axes.legend(**options)


def _short(value: float) -> str:
    return f"{value:.2g}"


def _percent(value: float) -> str:
    return "0" if abs(value) < 0.005 else f"{value:.3g}" if value >= 10 else f"{value:.2g}"


def gain_curve(curve: Curve, optimum: Optimum, settings: Settings, *, title: str = "", units: str = "") -> "Figure":
    """Gain in W2^2 against noise_std with its band, the optimum and the limit marked, CEP-G's gamma on the upper axis.

    `units` is appended to the axis label, e.g. "data units squared".
    """
    noise, gain = np.array(curve.noise_std), np.array(curve.gain)
    with _axes() as (figure, axes):
        axes.axhline(0.0, color=BLACK, linewidth=0.8)
        axes.fill_between(noise, curve.low, curve.high, color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(noise, gain, color=BLUE)
        axes.set_xscale("log")
        _mark_optimum(axes, optimum)
        axes.set_ylim(*_gain_limits(curve, optimum))
        axes.set_xlim(*_noise_limits(noise, optimum))
        axes.set_xlabel("noise_std of the condition embedding")
        axes.set_ylabel(r"expected gain in $W_2^2$" + (f" ({units})" if units else ""))
        axes.set_title(title)
        _gamma_axis(axes, settings)
        _legend(axes, loc="lower left")
    return figure


def _mark_optimum(axes: "Axes", optimum: Optimum) -> None:
    best, limit = optimum.noise_std.value, optimum.helpful_limit.value
    if 0.0 < best < np.inf:
        axes.plot([best], [optimum.gain.value], "o", color=VERMILION, label=f"best: {_short(best)}")
    if 0.0 < limit < np.inf:
        axes.axvline(limit, color=GREEN, linestyle="--", linewidth=1.4, label=f"helps up to {_short(limit)}")


def _gain_limits(curve: Curve, optimum: Optimum) -> tuple[float, float]:
    top = max(optimum.gain.high, optimum.gain.value, max(curve.gain), 0.0)
    top = top if top > 0 else abs(min(curve.gain)) / 4
    return -1.2 * top, 1.3 * top


def _noise_limits(noise: np.ndarray, optimum: Optimum) -> tuple[float, float]:
    finite = [x for x in (optimum.helpful_limit.value, optimum.noise_std.value) if 0 < x < np.inf]
    high = min(6 * max(finite), noise[-1]) if finite else float(noise[-1])
    low = max(min(finite) / 30, noise[0]) if finite else float(noise[0])
    return low, high


def _gamma_axis(axes: "Axes", settings: Settings) -> None:
    scale = np.sqrt(settings.d_emb)
    upper = axes.secondary_xaxis("top", functions=(lambda x: x * scale, lambda x: x / scale))
    upper.set_xlabel(f"CEP-G gamma (d_emb = {settings.d_emb})")


def entropy_change(conditions: Conditions, settings: Settings) -> "Figure":
    """Entropy change in nats against noise_std: expected for N(mu_k, I), and of the model trained on exactly these
    points.

    Points where it is undefined (degenerate classes) are left out.
    """
    with _axes() as (figure, axes):
        series: tuple[tuple[str, str, str, Callable[[Any], float | None]], ...] = (
            (r"expected, classes $N(\mu, I)$", BLUE, "o-", lambda r: r.entropy_change),
            ("trained on these points", VERMILION, "s--", lambda r: r.entropy_change_here),
        )
        for label, colour, mark, pick in series:
            known = [(r.noise_std, pick(r)) for r in conditions.rows if pick(r) and r.noise_std > 0]
            if known:
                axes.plot(*zip(*known, strict=True), mark, color=colour, label=label)
        if axes.lines:
            axes.set_yscale("log")
        else:
            axes.text(0.5, 0.5, "undefined: degenerate classes", transform=axes.transAxes, ha="center")
        axes.set_xscale("log")
        axes.set_xlabel("noise_std of the condition embedding")
        axes.set_ylabel("entropy change (nats, per class)")
        _gamma_axis(axes, settings)
        _legend(axes)
    return figure


def class_spectra(classes: Sequence[ClassStatistics]) -> "Figure":
    """Eigenvalues of each class covariance against their rank, in squared data units."""
    looks = [(colour, dash) for dash in DASHES for colour in PALETTE]
    with _axes() as (figure, axes):
        for c, (colour, dash) in zip(classes, cycle(looks), strict=False):
            index = np.arange(1, len(c.spectrum) + 1)
            axes.plot(index, c.spectrum, linestyle=dash, color=colour, label=c.name, linewidth=1.4)
        axes.set_yscale("log")
        axes.set_xlabel("eigenvalue number")
        axes.set_ylabel("variance (data units squared)")
        if len(classes) <= 12:
            _legend(axes, title="class", ncols=2 if len(classes) > 4 else 1)
    return figure


def flip_changes(conditions: Conditions) -> "Figure":
    """Change of W2^2 against the ratio of flipped labels: the average over classes with two standard errors, and each
    class.
    """
    effect = conditions.flips
    eta = 100 * np.array(effect.eta)
    change, error = np.array(effect.change), np.array(effect.standard_error)
    with _axes() as (figure, axes):
        for i, c in enumerate(conditions.classes):
            label = "single classes" if i == 0 else None
            axes.plot(eta, c.flips.change, color="#aaaaaa", linewidth=1.0, label=label)
        axes.fill_between(eta, change - 2 * error, change + 2 * error, color=VERMILION, alpha=0.25, linewidth=0)
        axes.plot(eta, change, "o-", color=VERMILION, label="average")
        axes.axhline(0.0, color=BLACK, linewidth=0.8)
        axes.set_xlabel("labels flipped (%)")
        axes.set_ylabel(r"change of $W_2^2$ (data units squared)")
        _legend(axes)
    return figure


def held_out_gains(conditions: Conditions) -> "Figure":
    """Gain seen on held-out halves against the gain that the whitened model predicts for them, one point for each
    class.
    """
    known = [(c.name, c.whitened_check) for c in conditions.classes if c.whitened_check is not None]
    with _axes() as (figure, axes):
        predicted = [check.gain_model for _, check in known]
        seen = [check.gain_observed for _, check in known]
        ends = [min([0.0, *predicted, *seen]), max([0.0, *predicted, *seen])]
        axes.plot(ends, ends, "--", color=BLACK, linewidth=1.0, label="as predicted")
        axes.axhline(0.0, color=BLACK, linewidth=0.8)
        axes.plot(predicted, seen, "o", color=BLUE, label="one class")
        for name, x, y in zip([name for name, _ in known], predicted, seen, strict=True):
            axes.annotate(name, (x, y), xytext=(5, 4), textcoords="offset points", fontsize=9)
        axes.set_xlim(min(0.0, *predicted) - 0.05 * abs(ends[1]), 1.25 * max(0.0, *predicted) or 1.0)
        axes.margins(y=0.12)
        axes.set_xlabel(r"predicted gain in $W_2^2$ (whitened)")
        axes.set_ylabel("gain on held-out half (whitened)")
        _legend(axes)
    return figure


def power_spectrum_fit(advice: ImageAdvice) -> "Figure":
    """Power spectrum against integer frequency, averaged over rings, with the fitted power law (where one fits)."""
    radius, power = np.array(advice.radius), np.array(advice.power)
    positive = radius > 0
    with _axes() as (figure, axes):
        axes.plot(radius[positive], power[positive], "o", color=BLUE, label="measured (ring average)")
        if advice.law is not None:
            fine = np.geomspace(radius[positive][0], radius[-1], 200)
            axes.plot(fine, _law_at(advice.law, fine), color=VERMILION, label=_law_label(advice.law))
        axes.set_xscale("log")
        axes.set_yscale("log")
        _plain_ticks(axes, radius[-1])
        axes.set_xlabel("frequency |f| (cycles per image)")
        axes.set_ylabel("power (data units squared)")
        axes.set_title(f"zero frequency: measured {_short(power[0])}" + _law_at_zero(advice.law))
        _legend(axes)
    return figure


def _law_at(law: PowerLaw, radius: np.ndarray) -> np.ndarray:
    return law.c1 / (law.c2 + radius) ** law.m


def _law_label(law: PowerLaw) -> str:
    return f"{law.c1:.2f} / ({_short(law.c2)} + |f|)$^{{{law.m:.2f}}}$"


def _law_at_zero(law: PowerLaw | None) -> str:
    return "" if law is None else f", fit {_short(float(_law_at(law, np.zeros(1))[0]))}"


def _plain_ticks(axes: "Axes", largest: float) -> None:
    from matplotlib.ticker import FixedLocator, NullFormatter, StrMethodFormatter

    ticks = [x for x in (1, 2, 4, 8, 16, 32, 64, 128, 256) if x <= 1.1 * largest]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def path_lengths(advice: ImageAdvice) -> "Figure":
    """How much longer each path is than the geodesic between its own end points, in percent."""
    rows = sorted(advice.paths, key=lambda p: p.length / p.geodesic, reverse=True)
    excess = [100 * (p.length / p.geodesic - 1) for p in rows]
    return _bars(rows, [excess], ["excess"], "longer than the geodesic between its ends (%)", log=False)


def path_errors(advice: ImageAdvice) -> "Figure":
    """KL in nats, both ways, between what the sampler generates and the data, for every path."""
    rows = sorted(advice.paths, key=lambda p: p.kl, reverse=True)
    label = f"KL (nats), {advice.sampler}, {advice.steps} steps"
    values = [[p.kl for p in rows], [p.kl_reverse for p in rows]]
    return _bars(rows, values, ["generated to data", "data to generated"], label, log=True)


def _bars(
    rows: Sequence[PathAdvice], values: Sequence[Sequence[float]], labels: Sequence[str], label: str, *, log: bool
) -> "Figure":
    with _axes() as (figure, axes):
        height = 0.8 / len(values)
        for i, (value, name, colour) in enumerate(zip(values, labels, (BLUE, ORANGE), strict=False)):
            place = np.arange(len(rows)) + (0.5 * (len(values) - 1) - i) * height
            bars = axes.barh(place, value, height, color=colour, label=name)
            if len(values) == 1:
                axes.bar_label(bars, [_percent(v) for v in value], padding=3, fontsize=9)
        axes.set_yticks(range(len(rows)), [p.name.replace("_", " ") for p in rows])
        axes.grid(axis="y", visible=False)
        axes.set_xlabel(label)
        if log:
            axes.set_xscale("log")
        else:
            axes.margins(x=0.12)
        if len(values) > 1:
            _legend(axes, loc="upper right")
    return figure


def classifier_curve(advice: ImageAdvice) -> "Figure":
    """Mean probability "clean" that the ideal classifier gives to blurred images against the noise level, sigma_min
    marked.
    """
    blur = advice.blur
    with _axes() as (figure, axes):
        axes.plot(blur.sigma, blur.probability_clean, color=BLUE)
        axes.axhline(blur.tau, color=ORANGE, linestyle="--", label=f"tau = {blur.tau:g}")
        if 0.0 < blur.sigma_min < np.inf:
            label = f"sigma_min = {_short(blur.sigma_min)}"
            axes.axvline(blur.sigma_min, color=VERMILION, linestyle="-.", label=label)
        axes.set_xscale("log")
        axes.set_ylim(-0.02, 0.54)
        axes.set_xlabel("noise level sigma (data units)")
        axes.set_ylabel('mean probability "clean"')
        axes.set_title(f"blur, std {blur.blur_std:g} px (0.5: cannot tell)")
        _legend(axes, loc="center left")
    return figure


def figures(prescription: "Prescription") -> "dict[str, Figure]":
    """All figures that a prescription has numbers for, by file name (without suffix), in the order of reading."""
    drawn: dict[str, Figure] = {"spectra": class_spectra(prescription.classes)}
    conditions, settings = prescription.conditions, prescription.settings
    if conditions is not None:
        drawn |= {
            "gain_whitened": gain_curve(
                conditions.whitened_curve, conditions.whitened, settings, title="whitened coordinates"
            ),
            "gain_data_units": gain_curve(
                conditions.plugin_curve, conditions.plugin, settings, title="data units", units="data units squared"
            ),
            "entropy": entropy_change(conditions, settings),
            "held_out": held_out_gains(conditions),
            "flips": flip_changes(conditions),
        }
    if prescription.images is not None:
        advice = prescription.images
        drawn |= {
            "power_spectrum": power_spectrum_fit(advice),
            "path_lengths": path_lengths(advice),
            "path_errors": path_errors(advice),
            "classifier": classifier_curve(advice),
        }
    return drawn
