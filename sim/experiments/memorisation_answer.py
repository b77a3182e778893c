"""What the rows of the memorisation experiment say; every word follows from them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sim.experiments.base import Row
from sim.experiments.wording import find, shown, sign

NAMES = {"exact": "exact", "linear": "linear", "learned": "network", "fresh": "fresh data"}
OPERATOR_NAMES = {
    "cep": "CEP-G, at every step (γ)",
    "cep fixed": "CEP-G, once per point (γ)",
    "flips": "label flips (η)",
    "dropout": "condition dropout (rate)",
    "gate": "noise gate on half the points (σ_min)",
}
Entry = Mapping[str, Any]


def change(first: Entry, last: Entry) -> dict[str, float]:
    """last - first of independent estimates, with the interval made of theirs (Newcombe 1998, method 10)."""
    value = last["value"] - first["value"]
    below = np.hypot(last["value"] - last["low"], first["high"] - first["value"])
    above = np.hypot(last["high"] - last["value"], first["value"] - first["low"])
    return {"value": value, "low": value - float(below), "high": value + float(above)}


def _corrupted(rows: Sequence[Row]) -> list[tuple[str, Entry, Entry]]:
    """(operator and strength in words, first arm, changes) of the network under every corruption but gates."""
    return [
        (f"{OPERATOR_NAMES[row['operator']].replace(' (', ', ').rstrip(')')} = {strength:g}", row["arms"][0], changes)
        for row in find(rows, study="learned")
        if row["operator"] != "gate"
        for strength, changes in list(zip(row["strengths"], row["changes"], strict=True))[1:]
    ]


def answer(config: Any, rows: Sequence[Row]) -> str:
    """One sentence: how much the network memorises, and the corruption that changes it most."""
    parts = [part for part in (_number_part(config, rows), _corruption_part(rows)) if part]
    return f"{'; '.join(parts)}." if parts else "Not run."


def _number_part(config: Any, rows: Sequence[Row]) -> str:
    points = find(rows, study="points")
    if not points:
        return ""
    first, last = points[0], points[-1]
    trend = {-1: "less with more points", 1: "more with more points", 0: "not seen to change with n"}
    found = trend[sign(change(first["learned"]["memorised"], last["learned"]["memorised"]))]
    ends = " and ".join(f"{shown(row['learned']['memorised'])} at n = {row['n']}" for row in (first, last))
    fresh = shown(last["fresh"]["memorised"])
    return f"The network memorises {ends} of its samples (fresh data {fresh}), {found} at equal training steps"


def _corruption_part(rows: Sequence[Row]) -> str:
    found = _corrupted(rows)
    if not found:
        return ""
    name, clean, changes = max(found, key=lambda one: abs(one[2]["memorised"]["value"]))
    right = changes["right_class"]
    cost = {-1: "lowers", 1: "raises", 0: "is not seen to change"}[sign(right)]
    verb = "changes" if sign(changes["memorised"]) else "changes (not resolved)"
    return (
        f"of {len(found)} corruptions that by {name} {verb} this share most, by {shown(changes['memorised'])}, and "
        f"{cost} that of the right class, {clean['right_class']['value']:.2g}, by {shown(right)}"
    )


def details(config: Any, rows: Sequence[Row]) -> list[str]:
    """What else was found, a sentence each."""
    parts = (_number_detail(rows), _corruption_detail(rows), _flip_detail(rows), *_gate_details(rows))
    return [part for part in parts if part]


def _number_detail(rows: Sequence[Row]) -> str:
    points = find(rows, study="points")
    if not points:
        return ""
    ends = [
        f"{NAMES[kind]} {', '.join(shown(row[kind]['memorised']) for row in (points[0], points[-1]))}" for kind in NAMES
    ]
    return f"Share of samples with d_1 < d_2/3 at n = {points[0]['n']}, {points[-1]['n']}: {'; '.join(ends)}."


def _corruption_detail(rows: Sequence[Row]) -> str:
    """Every corruption of the network by its change of the share memorised and of the right class."""
    texts = [
        f"{name} {shown(changes['memorised'])} (right class {shown(changes['right_class'])})"
        for name, _, changes in _corrupted(rows)
    ]
    return f"Paired changes of the network's share memorised: {'; '.join(texts)}." if texts else ""


def _flip_detail(rows: Sequence[Row]) -> str:
    """The exact denoiser with flipped labels: which points it gives, not whether."""
    flips = find(rows, study="flips")
    if not flips:
        return ""
    told = [
        f"η = {row['eta']:g}: {shown(row['exact']['memorised'])}, {shown(row['exact']['right_class'])}" for row in flips
    ]
    return f"The exact denoiser of flipped labels, share memorised and share of the right class: {'; '.join(told)}."


def exposure(share: Entry) -> str:
    """Whether a gated point is met by a nearer sample than an unseen point is, which without copying has P = 1/2."""
    half = {name: share[name] - 0.5 for name in ("low", "high")}
    return {1: "expose", -1: "keep away from", 0: "are not seen to expose"}[sign(half)]


def _gate_details(rows: Sequence[Row]) -> list[str]:
    told: list[str] = []
    gates = find(rows, study="gates")
    if gates:
        last = gates[-1]
        arms = [
            f"{exposure(last[kind]['exposed'])} those gated at σ_min = {last['sigma_min']:g} where {name} (P = "
            f"{shown(last[kind]['exposed'])} that a gated point has a nearer sample than an unseen one)"
            for kind, name in (("raw", "noised afresh"), ("kept", "noised once"))
        ]
        stops = [shown(last[f"{kind}_stopped"]["distance_ratio"]) for kind in ("raw", "kept")]
        told.append(f"Beside clean points, exact denoisers {', and '.join(arms)}.")
        told.append(
            f"With all points gated at {last['sigma_min']:g}, sampling that stops there ends at {stops[0]} (afresh) "
            f"and {stops[1]} (once) of the distance to unseen points."
        )
    for row in find(rows, study="learned", operator="gate"):
        moved = row["changes"][-1]["exposed"]
        verb = {-1: "lowers", 1: "raises", 0: "is not seen to change"}[sign(moved)]
        ends = f"{shown(row['arms'][0]['exposed'])} to {shown(row['arms'][-1]['exposed'])}"
        told.append(
            f"In the network a gate at {row['strengths'][-1]:g} {verb} the exposure of gated points, by {shown(moved)} "
            f"(P from {ends})."
        )
    return told
