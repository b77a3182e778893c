"""A prescription in words and tables, at most 100 columns wide."""

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from theory.conditions import ClassAdvice, Conditions, Interval, Optimum
from theory.image_advice import ImageAdvice
from theory.plugin import HeldOut
from theory.settings import Settings
from theory.whitening import ClassStatistics

if TYPE_CHECKING:
    from theory.prescribe import Prescription

WIDTH = 100


def render(prescription: "Prescription") -> str:
    """The whole prescription as text, no line longer than `WIDTH`."""
    parts = [_heading(prescription), _classes(prescription)]
    if prescription.conditions is not None:
        advice = prescription.conditions
        parts += [_corruption(advice, prescription.settings), _by_class(advice), _honesty(advice), _flips(advice)]
    if prescription.images is not None:
        parts.append(_images(prescription.images))
    if prescription.notes:
        parts.append("\n".join(["Careful", *(_wrap(note) for note in prescription.notes)]))
    return "\n\n".join(parts)


def number(value: float | None, digits: int = 3) -> str:
    """A number to some significant digits; "inf" for infinity and "-" for None."""
    if value is None:
        return "-"
    return "inf" if value == math.inf else f"{value:.{digits}g}"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns right-aligned (the first left-aligned), two spaces apart and indented."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  "
        + row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in [header, *rows]
    ]
    return "\n".join(lines)


def _wrap(text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _range(interval: Interval) -> str:
    return f"{number(interval.value, 2)} [{number(interval.low, 2)}, {number(interval.high, 2)}]"


def _heading(p: "Prescription") -> str:
    classes = "1 class" if len(p.classes) == 1 else f"{len(p.classes)} classes"
    kept = (
        f"Centred by the global mean. {p.rank} of {p.data_rank} principal components are retained; "
        f"{100 * p.discarded:.2g} % of the variance ({number(p.discarded * p.total_variance)} of "
        f"{number(p.total_variance)}) is discarded."
    )
    title = f"{p.name}: {p.n} points in {p.d} dimensions, {classes}"
    return "\n".join([title, *([_wrap(p.description + ".")] if p.description else []), _wrap(kept)])


def _classes(p: "Prescription") -> str:
    header = ("class", "n", "||m||", "rank", "largest", "smallest", "a", "+-", "eigenvalues", "skew", "kurtosis")
    explanation = (
        "||m||: distance of the class mean from the global mean; rank, largest and smallest eigenvalue of the "
        "class covariance, in the data's units. On the retained components, whitened by the pooled "
        "within-class covariance: a = ||mu||^2 (debiased) and its standard error, extreme eigenvalues of the "
        "class covariance (the model has 1), rms skewness and mean excess kurtosis (a Gaussian has 0)."
    )
    return "\n".join(["The classes", table(header, [_class_row(c) for c in p.classes]), _wrap(explanation)])


def _class_row(c: ClassStatistics) -> tuple[str, ...]:
    low, high = c.whitened_extremes
    ends = (c.spectrum[0], c.spectrum[-1]) if c.spectrum else (0.0, 0.0)
    return (
        c.name,
        str(c.n),
        number(c.mean_norm),
        str(c.rank),
        number(ends[0]),
        number(ends[1]),
        number(c.mean_square),
        number(c.mean_square_error, 2),
        f"{number(low, 2)} ... {number(high, 2)}",
        f"{c.skewness:.2f}",
        f"{c.kurtosis:.2f}",
    )


WHICH = (
    "Which: for training on the data as they are, that in data units. The whitened one is that of the theorem's model, "
    "in which all components count alike, large or small; use it for data that are whitened first."
)


def _corruption(advice: Conditions, settings: Settings) -> str:
    rows = [
        (
            number(r.noise_std),
            number(r.cep_gaussian),
            number(r.cep_uniform),
            number(r.entropy_change),
            number(r.entropy_change_here),
            _range(r.whitened),
            _range(r.plugin),
        )
        for r in advice.rows
    ]
    header = ("noise_std", "CEP-G", "CEP-U", "dH", "dH here", "gain, whitened", "gain, data units")
    explanation = (
        f"noise_std: per coordinate, for condition embeddings of norm {number(settings.cond_norm)}; CEP-G, "
        f"CEP-U: the same as CEP's gamma at d_emb = {settings.d_emb} (times sqrt(d_emb), sqrt(3 d_emb)). dH: "
        "expected entropy change in nats for N(mu_k, I); dH here: that of the linear model trained on exactly "
        "these points. Gain: expected fall of the squared 2-Wasserstein distance between class and generated "
        "Gaussian, averaged over classes; whitened (no units; range from the error of a) and as plug-in "
        f"estimate in the data's units ({100 * settings.level:g} % bootstrap interval, {settings.resamples} "
        f"resamples, seed {settings.seed})."
    )
    return "\n".join(
        [
            "How much to corrupt the condition (linear denoisers, no guidance)",
            table(header, rows),
            _wrap(explanation),
            _wrap(_verdict("Whitened: ", advice.whitened, settings)),
            _wrap(_verdict("Data units: ", advice.plugin, settings)),
            _wrap(WHICH),
        ]
    )


def _verdict(start: str, best: Optimum, settings: Settings) -> str:
    x = best.noise_std.value
    if x == 0.0:
        return f"{start}no corruption helps (the expected gain is nowhere positive)."
    gammas = f"CEP-G gamma = {number(settings.cep_gaussian(x))}, CEP-U gamma = {number(settings.cep_uniform(x))}"
    reach = "however large" if best.helpful_limit.value == math.inf else f"up to {_range(best.helpful_limit)}"
    share = 100 * best.gain.value / best.clean if best.clean > 0 else 0.0
    sure = "" if best.gain.low > 0 else " The interval includes no gain at all."
    return (
        f"{start}best at noise_std = {_range(best.noise_std)}, that is {gammas}; corruption helps {reach}. The gain is "
        f"{_range(best.gain)}, {number(share, 2)} % of the W2^2 of {number(best.clean)} without corruption.{sure}"
    )


def _by_class(advice: Conditions) -> str:
    header = ("class", "whitened: best", "up to", "data units: best", "up to", "gain")
    rows = [
        (
            c.name,
            number(c.whitened.noise_std.value),
            number(c.whitened.helpful_limit.value),
            _range(c.plugin.noise_std),
            number(c.plugin.helpful_limit.value),
            _range(c.plugin.gain),
        )
        for c in advice.classes
    ]
    return "\n".join(["Class by class (noise_std; gain in the data's units)", table(header, rows)])


def _honesty(advice: Conditions) -> str:
    checks = [(c, c.whitened_check, c.plugin_check) for c in advice.classes]
    known = [(c, white, own) for c, white, own in checks if white is not None and own is not None]
    title = "How far prediction and data differ (one random half of a class trains, the other half judges)"
    if not known:
        return "\n".join([title, _wrap("Not checked: every class has fewer than 4 points.")])
    header = ("class", "gain seen", "model", "W2^2 seen", "model", "gain seen", "plug-in", "W2^2 seen", "plug-in")
    rows = [(c.name, *_check_cells(white), *_check_cells(own)) for c, white, own in known]
    explanation = (
        "First four columns: whitened, against N(mu, I) at the whitened optimum. Last four: data units, "
        "against N(m, S) at the plug-in optimum; that model was fitted to these very points, so its agreement "
        "flatters it. Half as many points train here, and the judge is noisy too: compare columns, not with "
        "the tables above."
    )
    return "\n".join(
        [title, table(header, rows), _wrap(explanation), _wrap(_agreement([w for _, w, _ in known], known))]
    )


def _check_cells(check: HeldOut) -> tuple[str, ...]:
    return tuple(number(v, 2) for v in (check.gain_observed, check.gain_model, check.clean_observed, check.clean_model))


def _agreement(white: Sequence[HeldOut], known: Sequence[tuple[ClassAdvice, HeldOut, HeldOut]]) -> str:
    helped = sum(w.gain_observed > 0 for w in white)
    own = sum(o.gain_observed > 0 for _, _, o in known)
    seen, model = sum(w.gain_observed for w in white), sum(w.gain_model for w in white)
    ratio = f" (summed over classes, {number(seen / model, 2)} of what the model predicts)" if model > 0 else ""
    return (
        f"On held-out halves corruption helped {helped} of {len(known)} classes at the whitened "
        f"optimum{ratio}, and {own} of {len(known)} at the plug-in optimum."
    )


def _flips(advice: Conditions) -> str:
    effect = advice.flips
    header = ("flipped labels", *(f"{100 * eta:g} %" for eta in effect.eta))
    worst = [max(c.flips.change[i] for c in advice.classes) for i in range(len(effect.eta))]
    best = [min(c.flips.change[i] for c in advice.classes) for i in range(len(effect.eta))]
    rows = [
        ("change of W2^2", *(number(v) for v in effect.change)),
        ("standard error", *(number(v, 2) for v in effect.standard_error)),
        ("least class", *(number(v) for v in best)),
        ("most class", *(number(v) for v in worst)),
    ]
    explanation = (
        "Symmetric flips to another class by class size, drawn afresh at every use; expected change of W2^2 "
        "in the data's units, averaged over classes (positive: worse), linear denoisers without guidance."
    )
    return "\n".join(["What label flips would do", table(header, rows), _wrap(explanation)])


def _images(advice: ImageAdvice) -> str:
    height, width = advice.shape
    if advice.law is None:
        fit = "No power law fits this spectrum; the paths are computed on the spectrum as measured."
    else:
        fit = (
            f"Power spectrum: {number(advice.law.c1)} / ({number(advice.law.c2)} + |f|)^{number(advice.law.m)}, off by "
            f"{number(advice.fit_error, 2)} (rms, in log D); the paths are computed on this fit."
        )
    rows = [
        (
            p.name,
            number(p.length, 4),
            f"{p.length / p.geodesic:.3f}",
            number(p.kl),
            number(p.kl_reverse),
            number(p.wasserstein2),
        )
        for p in advice.paths
    ]
    header = ("path", "length", "/ geodesic", "KL(gen||data)", "KL(data||gen)", "W2")
    explanation = (
        "Fisher-Rao length, and its ratio to the distance between the path's own end points; error of "
        f"{advice.sampler} with {advice.steps} uniform steps on Gaussian data with this spectrum (nats and "
        "data units, per image and channel), started from the exact law at t = 1. Least KL(gen||data): "
        f"{min(advice.paths, key=lambda p: p.kl).name}."
    )
    blur = advice.blur
    gate = (
        f"Images blurred with a standard deviation of {number(blur.blur_std)} px may train noise levels above "
        f"sigma_min = {number(blur.sigma_min)} (data units; ideal classifier reaches tau = {number(blur.tau)}, "
        "stationary Gaussian images, one channel). Real images differ from blurred ones in more than their "
        "spectrum, so a trained classifier will ask for more."
    )
    title = f"Images, {height} x {width}: spectrum, paths and blur"
    return "\n".join([title, _wrap(fit), table(header, rows), _wrap(explanation), _wrap(gate)])
