"""What the ambient experiment found, in words, every one of which follows from the rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sim.experiments.base import Row
from sim.experiments.wording import find, shown, sign

Estimate = Mapping[str, Any]
VERBS = {1: "beats", 0: "is not told apart from", -1: "loses to"}
"""A gain's sign in words."""


def answer(config: Any, rows: Sequence[Row]) -> str:
    """From which noise on degraded points help on the line, and how often a gate helps on patches, in a sentence."""
    line, patches, parts = find(rows, kind="line"), find(rows, kind="patches"), []
    if line:
        sizes = sorted({row["n_clean"] for row in line})
        middle, share = sizes[len(sizes) // 2], config.degraded_per_clean
        said = " and ".join(map(_crossover, find(line, n_clean=middle)))
        parts.append(
            f"On the line, {middle} clean points with {share * middle} degraded ones beat the former alone {said}"
        )
    if patches:
        wins = sum(_wins(row["learned"]) for row in patches)
        gate = "Gating patches by the learned classifier's sigma_min beats both clean only and everything"
        parts.append(f"{gate} in {wins} of {len(patches)} cases")
    return "; ".join(parts[:1] + [part[0].lower() + part[1:] for part in parts[1:]]) + "." if parts else ""


def _crossover(row: Row) -> str:
    """From which noise on there is a gain, if any, and theory's."""
    level = row["theory_crossover"]
    theory = {None: "never", 0: "always"}.get(level) or f"{level:.2g}"
    return f"{_found(row)} (theory {theory}) for {row['case']} data"


def _found(row: Row) -> str:
    """Where, if anywhere, everything was found to beat clean only up to the highest noise."""
    value, low, high = (row["crossover"][end] for end in ("value", "low", "high"))
    top = f"up to σ = {row['levels'][-1]:.2g}"
    if high == 0:
        return f"at every noise {top}"
    if low is None:
        return f"at no noise that lasts {top}"
    if value is None or high is None:
        return f"undecidedly at noise {top}"
    return f"from σ = {shown(row['crossover'])} on"


def _wins(compared: Estimate) -> bool:
    """Whether a gated distance beats both alternatives."""
    return sign(compared["over_clean"]) == sign(compared["over_everything"]) == 1


def details(config: Any, rows: Sequence[Row]) -> list[str]:
    """Agreement with theory and bounds on the line, generated laws, the buffer, patches."""
    said = _line(find(rows, kind="line"), config)
    said += [_flow(row) for row in find(rows, kind="flow")]
    said += [_buffer(row) for row in find(rows, kind="buffer")]
    return said + _patches(find(rows, kind="patches"), config)


def _line(rows: Sequence[Row], config: Any) -> list[str]:
    if not rows:
        return []
    inside = total = 0
    for row in rows:
        for name in ("clean", "everything"):
            ends = zip(row[name]["low"], row[f"theory_{name}"], row[name]["high"], strict=True)
            hits = [low <= expected <= high for low, expected, high in ends]
            inside, total = inside + sum(hits), total + len(hits)
    each = ", ".join(f"n = {row['n_clean']} {_crossover(row)}, by theory's bounds {_bounds(row)}" for row in rows)
    return [
        f"Total variation on the line, {config.degraded_per_clean} degraded points for each clean one: theory's mean "
        f"is within {inside} of {total} intervals of 95 %; all points beat n clean ones alone: {each}."
    ]


def _bounds(row: Row) -> str:
    level = row["bounds_crossover"]
    return "nowhere" if level is None else f"from σ = {level:.2g} on"


def _flow(row: Row) -> str:
    best = row["best"]
    return (
        f"The law that the memorising denoiser generates on the line from {row['n_clean']} clean points and "
        f"{row['case']} ones, gated at {_chosen(row)}, {VERBS[sign(best['over_clean'])]} clean only and "
        f"{VERBS[sign(best['over_everything'])]} everything in W2² to the truth: {shown(best['value'])} against "
        f"{shown(row['clean'])} and {shown(row['everything'])}."
    )


def _chosen(row: Row) -> str:
    """At which sigma_min the value of `best` was measured."""
    levels = sorted({f"{row['sigma_min'][k]:.2g}" for k in row["best"]["indices"]}, key=float)
    return f"the sigma_min best for the other half of the training sets ({' and '.join(levels)})"


def _buffer(row: Row) -> str:
    helps = [low > 0 for low in row["gain"]["low"]]
    first = next((k for k in range(len(helps)) if all(helps[k:])), None)
    where = "at no noise tried" if first is None else f"from {row['ratios'][first]:.2f} sigma_min on"
    worst = row["ratios"][0], row["once"]["value"][0] / row["afresh"]["value"][0]
    return (
        f"Points noised once (sigma_min = {row['sigma_min']:g}, {row['n_clean']} clean points and {row['case']} ones) "
        f"are found to improve the estimate of x0 {where}; at {worst[0]:.2f} sigma_min its error is {worst[1]:.2g} "
        f"times that of points noised afresh. In W2² of the generated law noising once rather than afresh "
        f"{'; '.join(_cost(row, k) for k in range(len(row['weights'])))}."
    )


def _cost(row: Row, k: int) -> str:
    """What noising once costs at the k-th largest weight, and which number the paper prints for that buffer."""
    cost = {end: row["cost_of_once"][end][k] for end in ("value", "low", "high")}
    weight, opens = row["weights"][k], row["opens_at"][k]
    printed = f", which is printed for {math.sqrt(weight):g}" if weight in (4.0, 16.0) else ""
    word = {1: "costs something", 0: "makes no difference that shows", -1: "gains something"}[sign(cost)]
    return f"{word} at lambda_max = {weight:g} (open from {opens:.2f} sigma_min on{printed}): {shown(cost)}"


def _patches(rows: Sequence[Row], config: Any) -> list[str]:
    if not rows:
        return []
    labels = {"best": "the scan's best sigma_min", "ideal": "the ideal classifier's", "learned": "the learned one's"}
    counts = ", ".join(f"{sum(_wins(row[name]) for row in rows)} at {label}" for name, label in labels.items())
    total = (
        f"Patches: gating beats both clean only and everything in {counts}, of {len(rows)} cases; intervals are over "
        f"{config.patches_repeats} re-draws of training sets from one pool of patches, which each nearly exhausts."
    )
    return [total, *map(_degradation, rows)]


def _degradation(row: Row) -> str:
    best, (ideal, learned) = row["best"], _sigma_mins(row)
    indices = best["indices"]
    gated, clean, everything = (row["bands"]["value"][column][-1] for column in (1 + indices[0], -1, 0))
    return (
        f"{row['degradation'].capitalize()} {row['strength']:g}, {row['learner']} learner, gated at {_chosen(row)}: "
        f"W2² {shown(best['value'])} against {shown(row['clean'])} clean only and {shown(row['everything'])} "
        f"everything; sigma_min {ideal:.2g} by the ideal classifier gives {shown(row['ideal']['value'])}, "
        f"{learned:.2g} by the learned one {shown(row['learned']['value'])}. The finest third of frequencies has "
        f"{gated:.2f} (gated at {row['sigma_min'][indices[0]]:.2g}), {clean:.2f} (clean only) and {everything:.2f} "
        f"(everything) of the truth's variance."
    )


def _sigma_mins(row: Row) -> tuple[float, float]:
    """The ideal and the learned classifier's sigma_min, inf where there is none."""
    ideal, learned = (
        math.inf if value is None else value for value in (row["ideal_sigma_min"], row["learned_sigma_min"]["value"])
    )
    return ideal, learned
