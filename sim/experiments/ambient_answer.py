"""The answer of the ambient experiment in words, every one of which follows from the rows."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from sim.experiments.base import Row

__all__ = ["answer", "beats", "of_kind", "patch_measure"]

Estimate = Mapping[str, Any]


def of_kind(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of one kind of cell."""
    return [row for row in rows if row["kind"] == kind]


def patch_measure(row: Row) -> Mapping[str, Any]:
    """The distances to look at first: those without sampling noise where there are any."""
    return row["exact"] or row["distance"]


def beats(gain: Estimate) -> str:
    """`beats`, `loses to` or `is not told apart from`, by a gain's interval."""
    if gain["low"] > 0:
        return "beats"
    return "loses to" if gain["high"] < 0 else "is not told apart from"


def answer(config: Any, rows: Sequence[Row]) -> str:
    """Crossover on the line, generated laws, buffer and patches, a sentence each."""
    parts = [_line(of_kind(rows, "line"), config), _flow(of_kind(rows, "flow"))]
    parts += [_buffer(row) for row in of_kind(rows, "buffer")] + [_patches(of_kind(rows, "patches"))]
    return " ".join(part for part in parts if part)


def _line(rows: Sequence[Row], config: Any) -> str:
    if not rows:
        return ""
    said = "; ".join(_crossover(row, config) for row in rows)
    inside = total = 0
    for row in rows:
        for name in ("clean", "everything"):
            ends = zip(row[name]["low"], row[f"theory_{name}"], row[name]["high"], strict=True)
            hits = [low <= expected <= high for low, expected, high in ends]
            inside, total = inside + sum(hits), total + len(hits)
    return f"In total variation on the line, {said} (theory's mean within {inside} of {total} intervals of 95 %)."


def _crossover(row: Row, config: Any) -> str:
    sizes = f"{row['n_clean']} clean + {config.degraded_per_clean * row['n_clean']} {row['case']} points"
    theory, bounds = row["theory_crossover"], row["bounds_crossover"]
    expected = {None: "never", 0: "always"}.get(theory) or f"from σ = {theory:.2f}"
    bounded = "nowhere" if bounds is None else f"from σ = {bounds:.2g}"
    return f"{sizes} beat the clean ones {_found(row)} (theory: {expected}; its bounds: {bounded})"


def _found(row: Row) -> str:
    """Where the gain was found positive."""
    value, low, high = (row["crossover"][end] for end in ("value", "low", "high"))
    top = row["levels"][-1]
    if high == 0:
        return f"at every noise level up to σ = {top:.2g}"
    if low is None:
        return f"at no noise level that lasts up to σ = {top:.2g}"
    if value is None or high is None:
        return f"undecidedly at noise levels up to σ = {top:.2g}"
    return f"from σ = {value:.2f} ({low:.2f} to {high:.2f}) on"


def _flow(rows: Sequence[Row]) -> str:
    said = [_flow_case(row) for row in rows]
    return (
        f"Of the laws that the memorising denoiser generates on the line (W2² to the truth), {'; '.join(said)}."
        if said
        else ""
    )


def _flow_case(row: Row) -> str:
    best = row["best"]
    level, name = row["sigma_min"][best["index"]], f"{row['case']} data at n = {row['n_clean']}"
    values = (
        f"{_short(best['value'])} against {_short(row['clean'])} clean only and {_short(row['everything'])} everything"
    )
    verdict = f"{beats(best['over_clean'])} clean only and {beats(best['over_everything'])} everything"
    return f"{name} gated at the best sigma_min ({level:.2g}) {verdict}: {values}"


def _short(estimate: Estimate) -> str:
    return f"{estimate['value']:.3g} ({estimate['low']:.3g} to {estimate['high']:.3g})"


def _buffer(row: Row) -> str:
    helps = [low > 0 for low in row["gain"]["low"]]
    first = next((k for k in range(len(helps)) if all(helps[k:])), None)
    where = "at no noise tried" if first is None else f"from {row['ratios'][first]:.2f} sigma_min on"
    worst = row["ratios"][0], row["once"]["value"][0] / row["afresh"]["value"][0]
    return (
        f"Points noised once (sigma_min = {row['sigma_min']:g}) are found to improve the estimate {where}; at "
        f"{worst[0]:.2f} sigma_min its error is {worst[1]:.2g} times that of points noised afresh. In W2² of the "
        f"generated law noising once rather than afresh {'; '.join(_cost(row, k) for k in range(len(row['weights'])))}."
    )


def _cost(row: Row, k: int) -> str:
    """What noising once costs at the k-th largest weight, and which number the paper prints for that buffer."""
    cost = {end: row["cost_of_once"][end][k] for end in ("value", "low", "high")}
    weight, opens = row["weights"][k], row["opens_at"][k]
    printed = f", which is printed for {math.sqrt(weight):g}" if weight in (4.0, 16.0) else ""
    return f"{_verdict(cost)} at lambda_max = {weight:g} (open from {opens:.2f} sigma_min on{printed}): {_short(cost)}"


def _verdict(cost: Estimate) -> str:
    if cost["low"] > 0:
        return "costs something"
    return "gains something" if cost["high"] < 0 else "makes no difference that shows"


def _patches(rows: Sequence[Row]) -> str:
    if not rows:
        return ""
    said = "; ".join(_degradation(row) for row in rows)
    labels = {"best": "best sigma_min", "ideal": "ideal classifier's", "learned": "learned one's"}
    counts = ", ".join(f"{_wins(rows, name)} at the {label}" for name, label in labels.items())
    return f"On patches (W2²), {said}. Gating beats both clean only and everything in {counts} of {len(rows)} cases."


def _wins(rows: Sequence[Row], name: str) -> int:
    found = [patch_measure(row)[name] for row in rows]
    return sum(beats(one["over_clean"]) == beats(one["over_everything"]) == "beats" for one in found)


def _degradation(row: Row) -> str:
    measure, (ideal, learned) = patch_measure(row), _sigma_mins(row)
    best = measure["best"]
    level = row["sigma_min"][best["index"]]
    fine = [row["bands"]["value"][column][-1] for column in (1 + best["index"], -1, 0)]
    values = f"{_short(best['value'])}, {_short(measure['clean'])} and {_short(measure['everything'])}"
    return (
        f"{row['degradation']} {row['strength']:g}, {row['learner']} learner, gated at the best sigma_min {level:.2g} "
        f"(classifiers: ideal {ideal:.2g}, learned {learned:.2g}), clean only and everything: {values}, the variance "
        f"of the finest third of frequencies being {fine[0]:.2f}, {fine[1]:.2f} and {fine[2]:.2f} of the truth's"
    )


def _sigma_mins(row: Row) -> tuple[float, float]:
    """The ideal and the learned classifier's sigma_min, inf where there is none."""
    found = row["ideal_sigma_min"], row["learned_sigma_min"]["value"]
    return tuple(math.inf if value is None else value for value in found)  # type: ignore[return-value]
