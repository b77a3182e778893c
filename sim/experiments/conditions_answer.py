"""What the rows of the experiment on condition corruption say: every word follows from a comparison of intervals.

A gain *helps* where its whole 95 % interval is above zero, *hurts* where it is below, is *undecided* otherwise; within
1e-4 of zero as a whole it *changes nothing*.
"""

from collections.abc import Sequence
from typing import Any

from sim.experiments.base import Row

SLIGHT = 0.075
"""The largest share of wrong labels that the paper calls slight."""
NOTHING = 1e-4
Entry = dict[str, float]


def verdict(gain: Entry) -> str:
    """In a word: helps, hurts, undecided, or changes nothing."""
    if max(abs(gain["low"]), abs(gain["high"])) <= NOTHING:
        return "changes nothing"
    if gain["low"] > 0:
        return "helps"
    return "hurts" if gain["high"] < 0 else "undecided"


def find(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with these entries."""
    return [row for row in rows if all(row[name] == value for name, value in wanted.items())]


def gain_at(row: Row, strength: float, guidance: float = 0.0) -> Entry | None:
    """The gain at a strength and guidance, or None where the row has not got them."""
    for curve in row["curves"]:
        if curve["guidance"] == guidance and strength in row["strengths"]:
            return curve["gain"][row["strengths"].index(strength)]
    return None


def agreement(rows: Sequence[Row]) -> tuple[int, int]:
    """(points of the linear learner whose interval meets theory's band, such points), strength zero left out."""
    met = total = 0
    for row in find(rows, learner="linear"):
        for curve in row["curves"]:
            for gain, theory in list(zip(curve["gain"], curve["theory"] or [], strict=False))[1:]:
                total += 1
                met += gain["low"] <= theory["high"] and theory["low"] <= gain["high"]
    return met, total


def best_noise(rows: Sequence[Row]) -> float | None:
    """The strength of CEP, among those that all learners were given, at which theory's gain is largest."""
    given = find(rows, drawn="fresh", operator="cep-g")
    known = [row for row in given if row["curves"][0]["theory"]]
    shared = [x for x in known[0]["strengths"][1:] if all(x in row["strengths"] for row in given)] if known else []
    if not shared:
        return None
    theory = dict(zip(known[0]["strengths"], known[0]["curves"][0]["theory"], strict=True))
    return max(shared, key=lambda x: theory[x]["value"])


def slight_ratio(rows: Sequence[Row]) -> float | None:
    """The largest ratio of flips up to `SLIGHT` that all learners were given."""
    flips = [row for row in rows if row["operator"].endswith("flip")]
    shared = [x for x in (flips[0]["strengths"] if flips else []) if all(x in row["strengths"] for row in flips)]
    return max((x for x in shared if 0 < x <= SLIGHT), default=None)


def _phrase(row: Row, gain: Entry) -> str:
    size = "" if row["n"] == 0 else f" (n={row['n']}, d={row['d']})"
    span = "" if gain["low"] == gain["high"] else f" [{gain['low']:+.3f}, {gain['high']:+.3f}]"
    return f"{row['learner']}{size} {gain['value']:+.3f}{span} {verdict(gain)}"


def _phrases(rows: Sequence[Row], strength: float, guidance: float) -> str:
    gains = [(row, gain_at(row, strength, guidance)) for row in rows]
    return "; ".join(_phrase(row, gain) for row, gain in gains if gain is not None) or "not run"


def _tally(rows: Sequence[Row], strength: float, guidance: float) -> str:
    """How many of the rows help, hurt, and so on."""
    words = [verdict(gain) for row in rows if (gain := gain_at(row, strength, guidance)) is not None]
    known = ("helps", "hurts", "undecided", "changes nothing")
    counts = [f"{word} in {words.count(word)}" for word in known if word in words]
    return f"{', '.join(counts)} of {len(words)}" if words else "not run"


def answer(config: Any, rows: Sequence[Row]) -> str:
    """The findings in a few clauses, with gains in W2² and 95 % intervals."""
    met, total = agreement(rows)
    parts = [f"The simulated linear learner agrees with theory at {met} of {total} points (95 % intervals)."]
    noise, eta = best_noise(rows), slight_ratio(rows)
    if noise is not None:
        parts.append(_perturbed_answer(config, rows, noise))
    if eta is not None:
        parts.append(_flipped_answer(config, rows, eta))
    return " ".join(parts)


def _perturbed_answer(config: Any, rows: Sequence[Row], noise: float) -> str:
    main = find(rows, operator="cep-g", drawn="fresh", condition=1.0, mean_square=config.mean_square)
    fixed = find(rows, operator="cep-g", drawn="fixed")
    return (
        f"Gain in W2² from CEP-G at noise_std {noise:g}, the best shared strength in theory: "
        f"{_phrases(main, noise, 0.0)}. Noise drawn once and kept: {_phrases(fixed, noise, 0.0)}."
    )


def _flipped_answer(config: Any, rows: Sequence[Row], eta: float) -> str:
    flips = [row for row in find(rows, operator="symmetric flip") if row["mean_square"] == config.mean_square]
    finite = [row for row in flips if row["n"] > 0]
    limits = [row for row in flips if row["n"] == 0]
    guidance = max(curve["guidance"] for row in flips for curve in row["curves"])
    texts = []
    for w in (0.0, guidance) if guidance > 0 else (0.0,):
        each = [
            f"{drawn} flips: {_grouped([r for r in finite if r['drawn'] == drawn], eta, w)}"
            for drawn in ("fixed", "fresh")
        ]
        limit = _grouped(limits, eta, w)
        texts.append(f"{eta:.1%} flipped labels, guidance {w:g}: {'; '.join(each)}; with endless data {limit}.")
    return " ".join(texts)


def _grouped(rows: Sequence[Row], eta: float, guidance: float) -> str:
    """Per learner over its geometries."""
    learners = list(dict.fromkeys(row["learner"] for row in rows))
    told = [(name, _tally(find(rows, learner=name), eta, guidance)) for name in learners]
    return ", ".join(f"{name} {tally}" for name, tally in told if tally != "not run") or "not run"
