"""What a sweep found: every run against a reference, the sweep's first, by paired differences over shared seeds.

A difference is of debiased figures, run minus reference, and has Student's 95 % interval over the seeds: that is over
training, sampling and the cut into halves, for the same held-out images throughout. It is *better* or *worse* where the
whole interval says so, *undecided* otherwise. With dozens of runs some are called better or worse by chance alone:
about one in 40 each way. A run of which a seed failed is not compared.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from imagegen.sweeps import SWEEPS
from sim.experiments.wording import shown, sign
from sim.intervals import Interval, mean_interval, paired_difference
from theory._files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FIGURE = "w2_squared_per_class"
"""The figure that is ranked by: debiased squared W2 within each class, in pixels of [-1, 1]; lower is better."""
UNGUIDED = "w=0"
"""The way of sampling without guidance, by name; those with it are `w=...` too."""
Results = Sequence[Mapping[str, Any]]


class Difference(NamedTuple):
    """One run against the first, sampled in one way: names, strength, seeds, interval of the paired difference."""

    name: str
    group: str
    strength: float
    sampling: str
    seeds: int
    interval: Interval


def values(results: Results, name: str, sampling: str, figure: str = FIGURE) -> dict[int, float]:
    """The debiased figure of a run, by seed; empty where a seed of it failed."""
    own = [one for one in results if one["name"] == name]
    if any("failed" in one for one in own):
        return {}
    return {one["seed"]: one["evaluations"][sampling]["figures"][figure]["debiased"] for one in own}


def _paired(one: Mapping[int, float], other: Mapping[int, float]) -> tuple[int, Interval] | None:
    """How many seeds two runs share, and the interval of `one` - `other` over them; None for fewer than two."""
    seeds = sorted(one.keys() & other.keys())
    if len(seeds) < 2:
        return None
    pairs = np.array([[one[s], other[s]] for s in seeds])
    return len(seeds), paired_difference(pairs[:, 0], pairs[:, 1])


def differences(
    sweep: str, results: Results, figure: str = FIGURE, *, reference: str | None = None
) -> list[Difference]:
    """Every run and sampling that shares at least two seeds with the reference, by default the sweep's first run."""
    members = SWEEPS[sweep].members()
    against, found = reference or members[0].name, []
    for member in members:
        for sampling in member.samplings if member.name != against else ():
            paired = _paired(*(values(results, name, sampling, figure) for name in (member.name, against)))
            if paired is not None:
                found.append(Difference(member.name, member.group, member.strength, sampling, *paired))
    return found


def verdict(difference: Difference) -> str:
    """better, worse or undecided: lower is better."""
    return {1: "worse", -1: "better", 0: "undecided"}[sign(difference.interval._asdict())]


def answer(sweep: str, results: Results) -> str:
    """One sentence with numbers."""
    found = differences(sweep, results)
    if not found:
        return "Not run with two seeds yet."
    words = [verdict(one) for one in found]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("better", "worse", "undecided"))
    first = SWEEPS[sweep].members()[0]
    fewest, most = min(one.seeds for one in found), max(one.seeds for one in found)
    return (
        f"Of {len(found)} runs and samplings compared with {first.name} in debiased W2² per class, {counts} "
        f"({fewest if fewest == most else f'{fewest} to {most}'} seeds, 95 % intervals); "
        f"{'; '.join(_lowest(sweep, results, sampling) for sampling in first.samplings)}."
    )


def _lowest(sweep: str, results: Results, sampling: str) -> str:
    """The run of the lowest mean over the reference's seeds, itself among them: chosen as such, so flattered."""
    first, *others = (member.name for member in SWEEPS[sweep].members())
    seeds = values(results, first, sampling).keys()
    if len(seeds) < 2:
        return f"at {sampling} {first} has not run twice"
    tables = {name: values(results, name, sampling) for name in (first, *others)}
    means = {name: np.mean([own[s] for s in seeds]) for name, own in tables.items() if seeds <= own.keys()}
    best = min(means, key=means.__getitem__)
    beside = "" if best == first else f" against {means[first]:.3g}"
    return f"at {sampling} the lowest mean of {len(means)} is {best}'s, {means[best]:.3g}{beside}"


def details(sweep: str, results: Results) -> list[str]:
    """The reference itself, and those whose interval excludes zero, a sentence for each way of sampling; the same
    against the other references, and guided runs against the reference without guidance; what failed.
    """
    first, told = SWEEPS[sweep].members()[0], []
    for sampling in first.samplings:
        own = list(values(results, first.name, sampling).values())
        if len(own) >= 2:
            told.append(f"{sampling}: {first.name} has {shown(mean_interval(np.asarray(own))._asdict())}.")
    for reference in (first.name, *SWEEPS[sweep].further):
        found = differences(sweep, results, reference=reference)
        for sampling in first.samplings:
            for word in ("better", "worse"):
                named = [f"{d.name} {shown(d.interval._asdict())}" for d in found
                         if d.sampling == sampling and verdict(d) == word]  # fmt: skip
                if named:
                    told.append(f"{sampling}, {word} than {reference}: {'; '.join(named)}.")
    told += _beside_unguided(sweep, results)
    failed = [f"{one['name']} (seed {one['seed']})" for one in results if "failed" in one]
    return [*told, f"Failed: {', '.join(failed)}."] if failed else told


def _beside_unguided(sweep: str, results: Results) -> list[str]:
    """Whether any guided run is better than the first without guidance; nothing where none is sampled in both ways."""
    first, *_ = members = SWEEPS[sweep].members()
    ways = [way for way in first.samplings if way.startswith("w=")]
    plain = values(results, first.name, UNGUIDED) if UNGUIDED in ways else {}
    found = {
        f"{member.name} at {way}": paired[1]
        for member in members for way in ways if way != UNGUIDED
        if (paired := _paired(values(results, member.name, way), plain)) is not None
    }  # fmt: skip
    if not found:
        return []
    better = [f"{name} {shown(one._asdict())}" for name, one in found.items() if sign(one._asdict()) < 0]
    lowest = min(found, key=lambda name: found[name].value)
    closest = f"the closest is {lowest}, {shown(found[lowest]._asdict())} above it"
    said = f"better are {'; '.join(better)}" if better else f"none is seen to be better; {closest}"
    return [f"Of {len(found)} guided runs and samplings, held against {first.name} without guidance, {said}."]


def table(sweep: str, results: Results) -> str:
    """Markdown: a row per run, a column per sampling: the paired difference with its interval."""
    found = {(one.name, one.sampling): one for one in differences(sweep, results)}
    first, *others = SWEEPS[sweep].members()
    head = f"| run | {' | '.join(first.samplings)} |\n|---|{'---|' * len(first.samplings)}"
    rows = [f"| **{first.name}** (itself) | {' | '.join(_own(results, first.name, s) for s in first.samplings)} |"]
    for member in others:
        cells = [_cell(found.get((member.name, sampling))) for sampling in first.samplings]
        rows.append(f"| {member.name} | {' | '.join(cells)} |")
    return "\n".join([head, *rows])


def _own(results: Results, name: str, sampling: str) -> str:
    own = list(values(results, name, sampling).values())
    return shown(mean_interval(np.asarray(own))._asdict()) if len(own) >= 2 else "not run twice"


def _cell(difference: Difference | None) -> str:
    if difference is None:
        return "not run twice"
    text = shown(difference.interval._asdict())
    return text if verdict(difference) == "undecided" else f"{text} {verdict(difference)}"


def difference_figure(sweep: str, results: Results, sampling: str) -> "Figure":
    """Paired differences of all runs sampled in one way, with their intervals; left of zero is better."""
    from theory.canvas import BLACK, BLUE, VERMILION, new_figure

    found = [one for one in differences(sweep, results) if one.sampling == sampling]
    figure, (axes,) = new_figure(size=(5.2, 1.2 + 0.24 * len(found)))
    colours = {"better": BLUE, "worse": VERMILION, "undecided": BLACK}
    for place, one in enumerate(reversed(found)):
        low, value, high = (float(end) for end in (one.interval.low, one.interval.value, one.interval.high))
        colour = colours[verdict(one)]
        axes.plot([low, high], [place, place], color=colour, linewidth=1.6)
        axes.plot([value], [place], "o", color=colour, markersize=4.5)
    axes.axvline(0.0, color=BLACK, linewidth=0.8)
    axes.set_yticks(np.arange(len(found)), [one.name for one in reversed(found)], fontsize=8)
    axes.set(xlabel=f"debiased $W_2^2$ per class, minus that of {SWEEPS[sweep].members()[0].name}", title=sampling)
    return figure


def write_answer(sweep: str, results: Results, folder: Path) -> str:
    """Write `answer.md`, the answer with its details and table, and a figure for each way of sampling; return the text.

    With fewer than two seeds there are no figures.
    """
    from theory.canvas import png

    points = "".join(f"- {point}\n" for point in details(sweep, results))
    text = f"{SWEEPS[sweep].question}\n\n{answer(sweep, results)}\n\n{points}\n{table(sweep, results)}\n"
    write_whole(folder / "answer.md", text)
    for sampling in sorted({one.sampling for one in differences(sweep, results)}):
        image = png(difference_figure(sweep, results, sampling))
        write_whole(folder / f"differences-{sampling.replace('=', '-').replace(' ', '-')}.png", image)
    return text
