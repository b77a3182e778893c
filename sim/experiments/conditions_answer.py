"""What the rows of the experiment on condition corruption say: every word follows from a comparison of intervals.

A gain *helps* where its whole 95 % interval is above zero, *hurts* where it is below, is *undecided* otherwise; within
1e-4 of zero as a whole it *changes nothing*.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from scipy import stats

from sim.experiments.base import Row
from sim.experiments.conditions_config import is_flip
from sim.experiments.wording import find, shown, sign

NOTHING = 1e-4
Z95 = 1.96
WORDS = ("helps", "hurts", "undecided", "changes nothing")
Entry = dict[str, float]


def verdict(gain: Entry) -> str:
    """In a word: helps, hurts, undecided, or changes nothing."""
    if max(abs(gain["low"]), abs(gain["high"])) <= NOTHING:
        return "changes nothing"
    return {1: "helps", -1: "hurts", 0: "undecided"}[sign(gain)]


def gains(row: Row, guidance: float = 0.0, name: str = "gain") -> list[tuple[float, Entry]]:
    """(strength, gain) of the corrupted learner at a guidance, strength zero left out; empty without that guidance."""
    curve = next((c for c in row["curves"] if c["guidance"] == guidance), None)
    return list(zip(row["strengths"], curve[name], strict=True))[1:] if curve else []


def gain_at(row: Row, strength: float, guidance: float = 0.0) -> Entry | None:
    """The gain at a strength and guidance, or None where the row has not got them."""
    return dict(gains(row, guidance)).get(strength)


def shared_strengths(rows: Sequence[Row]) -> list[float]:
    """The strengths above zero that all of the rows were given, rising."""
    given = [set(row["strengths"]) for row in rows]
    return sorted(x for x in set.intersection(*given) if x > 0) if given else []


def shared_guidance(rows: Sequence[Row]) -> float:
    """The largest guidance of all rows that were guided at all; 0 where none was."""
    given = [{curve["guidance"] for curve in row["curves"]} for row in rows]
    return max(set.intersection(*(one for one in given if len(one) > 1)), default=0.0) if given else 0.0


def noises(rows: Sequence[Row]) -> list[float]:
    """Of the strengths of fresh CEP-G that all learners were given: the smallest, and the best of them in theory."""
    given = find(rows, drawn="fresh", operator="cep-g")
    shared = shared_strengths(given)
    known = [row for row in given if row["curves"][0]["theory"]]
    if not shared or not known:
        return shared[:1]
    theory = dict(zip(known[0]["strengths"], known[0]["curves"][0]["theory"], strict=True))
    return sorted({shared[0], max(shared, key=lambda x: theory[x]["value"])})


def slight_ratio(rows: Sequence[Row]) -> float | None:
    """The smallest share of flipped labels that all learners were given."""
    return next(iter(shared_strengths([row for row in rows if is_flip(row)])), None)


def deviations(config: Any, rows: Sequence[Row]) -> list[float]:
    """(simulated gain - theory's)/their combined standard error, for the linear learner, strength zero left out."""
    student, found = stats.t.ppf(0.975, config.sets - 1), []
    for row in find(rows, learner="linear"):
        for curve in row["curves"]:
            for gain, theory in list(zip(curve["gain"], curve["theory"] or [], strict=False))[1:]:
                errors = [(e["high"] - e["low"]) / 2 / q for e, q in ((gain, student), (theory, Z95))]
                found.append((gain["value"] - theory["value"]) / float(np.hypot(*errors)))
    return found


def _size(row: Row) -> str:
    endless = f"d={row['d']}, endless data" if row["n"] == 0 else f"n={row['n']}, d={row['d']}"
    wide = f", cond. {row['condition']:g}" if row["condition"] > 1 else ""
    return f"{row['learner']} ({endless}, |μ|²={row['mean_square']:g}{wide})"


def _and(words: Iterable[str]) -> str:
    *first, last = list(words) or ["nothing known"]
    return f"{', '.join(first)} and {last}" if first else last


def _tally(entries: Sequence[Entry]) -> str:
    """How many help, hurt, and so on."""
    words = [verdict(gain) for gain in entries]
    counts = [f"{'is ' * (word == 'undecided')}{word} in {words.count(word)}" for word in WORDS if word in words]
    return f"{', '.join(counts)} of {len(words)}" if words else "not run"


def answer(config: Any, rows: Sequence[Row]) -> str:
    """One sentence: slight CEP on the linear learner and the network, slight flips, and guidance."""
    parts = [part for part in (_cep_part(rows), _flip_part(rows), _guided_part(rows)) if part]
    return f"{'; '.join(parts)}." if parts else "Not run."


def _cep_part(rows: Sequence[Row]) -> str:
    given, at, guidance, told = find(rows, operator="cep-g", drawn="fresh"), noises(rows), shared_guidance(rows), []
    for learner in ("linear", "network"):
        for row in find(given, learner=learner)[:1]:
            values = [_and(shown(gain) for x in at if (gain := gain_at(row, x, w))) for w in (0.0, guidance)]
            guided = (
                f", with guidance {guidance:g} on both sides {values[1]},"
                if learner == "network" and guidance > 0
                else ""
            )
            told.append(f"the {learner} learner (n={row['n']}, d={row['d']}) gains {values[0]}{guided}")
    strengths = _and(f"{x:g}" for x in at) if told else ""
    return f"From fresh CEP of noise_std {strengths} {', '.join(told)} in W2² to the class" if told else ""


def _flip_part(rows: Sequence[Row]) -> str:
    eta = slight_ratio(rows)
    if eta is None:
        return ""
    entries = [gain for row in rows if is_flip(row) if (gain := gain_at(row, eta)) is not None]
    return f"flipping {eta:.0%} of the labels {_tally(entries)} unguided cases"


def guided_best(rows: Sequence[Row]) -> list[tuple[Row, float, Entry]]:
    """(row, strength, gain over the clean learner *without* guidance) of every corrupted learner at the shared
    guidance, at its best strength."""
    guidance = shared_guidance(rows)
    table = [(row, gains(row, guidance, "over_unguided")) for row in rows if guidance > 0]
    return [(row, *max(found, key=lambda pair: pair[1]["value"])) for row, found in table if found]


def _guided_part(rows: Sequence[Row]) -> str:
    best = guided_best(rows)
    if not best:
        return ""
    better = sum(sign(gain) > 0 for _, _, gain in best)
    count = f"{better} of {len(best)}" if better else f"none of {len(best)}"
    where = f"corrupted learners guided at {shared_guidance(rows):g}, each at its best strength,"
    return f"{count} {where} {'are' if better > 1 else 'is'} seen to beat the same clean and unguided"


def details(config: Any, rows: Sequence[Row]) -> list[str]:
    """What else was found, a sentence each."""
    parts = (
        _theory_part(config, rows),
        *_cep_details(rows),
        _fixed_part(rows),
        *_operator_details(rows),
        *_flip_details(rows),
        *_guided_details(rows),
    )
    return [part for part in parts if part]


def _theory_part(config: Any, rows: Sequence[Row]) -> str:
    z = np.abs(deviations(config, rows))
    if not z.size:
        return ""
    outside = f"at {np.sum(z > Z95)} of {z.size} points, where chance alone would give about {0.05 * z.size:.1f}"
    return (
        f"The simulated linear learner differs from theory by more than {Z95} combined standard errors {outside}; the "
        f"largest difference is {z.max():.1f} of them (points of one curve share training sets)."
    )


def _cep_details(rows: Sequence[Row]) -> list[str]:
    """Every learner under fresh CEP, without guidance and with the shared one."""
    told, guidance = [], shared_guidance(rows)
    ceps = [row for row in rows if row["operator"] in ("cep-g", "cep-u") and row["drawn"] == "fresh"]
    for x in noises(rows):
        for w in dict.fromkeys((0.0, guidance)):
            found = [(row, gain) for row in ceps if (gain := gain_at(row, x, w)) is not None]
            texts = [
                f"{'CEP-U, ' if row['operator'] == 'cep-u' else ''}{_size(row)} {shown(gain)} {verdict(gain)}"
                for row, gain in found
            ]
            where = f"at guidance {w:g} (over the clean learner at that guidance)" if w else "without guidance"
            told.append(f"Fresh CEP-G of noise_std {x:g} {where}: {'; '.join(texts)}.")
    return told


def _fixed_part(rows: Sequence[Row]) -> str:
    """Noise drawn once does not vanish with its size for the linear learner: it adds K - 1 regressors."""
    for kept in find(rows, learner="linear", operator="cep-g", drawn="fixed"):
        weakest, least = gains(kept)[0]
        if sign(least) < 0:
            fresh = find(rows, learner="linear", operator="cep-g", drawn="fresh", n=kept["n"], d=kept["d"])
            beside = [f", where noise drawn at every step gains {shown(gains(row)[0][1])}" for row in fresh[:1]]
            return (
                f"CEP drawn once and kept gains the linear learner {shown(least)} already at noise_std {weakest:g}"
                f"{''.join(beside)}: however small, kept noise is one more regressor per further class, which the "
                f"n = {kept['n']} points are overfitted with."
            )
    return ""


def _verdicts(row: Row, guidance: float) -> str:
    """The row's strengths by verdict."""
    found = [(verdict(gain), x) for x, gain in gains(row, guidance)]
    groups = [(word, [f"{x:g}" for own, x in found if own == word]) for word in WORDS]
    return ", ".join(f"{word} at {' '.join(xs)}" for word, xs in groups if xs)


def _operator_details(rows: Sequence[Row]) -> list[str]:
    """The operators but fresh CEP and flips, by verdict at every strength."""
    told, guidance = [], shared_guidance(rows)
    for learner in ("linear", "network"):
        others = [
            row for row in find(rows, learner=learner)
            if not is_flip(row) and (row["drawn"] == "fixed" or row["operator"] != "cep-g")
        ]  # fmt: skip
        for w in dict.fromkeys((0.0, guidance)):
            texts = [
                f"{'fixed ' if row['drawn'] == 'fixed' else ''}{row['operator']} {words}"
                for row in others
                if (words := _verdicts(row, w))
            ]
            if texts:
                told.append(f"Other operators, {learner}, guidance {w:g}: {'; '.join(texts)}.")
    return told


def _flip_details(rows: Sequence[Row]) -> list[str]:
    """Flips by how they were drawn and by learner, symmetric ones of distinct classes first."""
    eta, guidance = slight_ratio(rows), shared_guidance(rows)
    told: list[str] = []
    if eta is None:
        return told
    flips = [row for row in rows if is_flip(row)]
    usual = max(row["mean_square"] for row in flips)
    groups = {
        "symmetric flips": [r for r in find(flips, mean_square=usual) if r["operator"] == "symmetric flip"],
        "asymmetric flips": find(flips, operator="asymmetric flip"),
        "symmetric flips of overlapping classes": [r for r in flips if r["mean_square"] < usual],
    }
    for name, group in groups.items():
        for w in dict.fromkeys((0.0, guidance)):
            texts = [
                f"{learner} {'with endless data' if drawn is None else drawn}: {_tally(entries)}"
                for drawn, learner in dict.fromkeys((r["drawn"] if r["n"] else None, r["learner"]) for r in group)
                if (
                    entries := [
                        gain
                        for r in find(group, learner=learner)
                        if (r["drawn"] if r["n"] else None) == drawn and (gain := gain_at(r, eta, w)) is not None
                    ]
                )
            ]
            if texts:
                told.append(f"{eta:.0%} {name}, guidance {w:g}: {'; '.join(texts)}.")
    return told


def _guided_details(rows: Sequence[Row]) -> list[str]:
    """How near a corrupted learner under guidance comes to its clean unguided self."""
    best = guided_best(rows)
    if not best:
        return []
    row, strength, gain = max(best, key=lambda one: one[2]["value"])
    kind = f"{'fixed ' if row['drawn'] == 'fixed' else ''}{row['operator']}"
    return [
        f"Guidance {shared_guidance(rows):g} against the clean learner without guidance: the corrupted learner that "
        f"comes nearest or does best, {_size(row)} under {kind} at {strength:g}, gains {shown(gain)} "
        "(the best of its strengths by these rows)."
    ]
