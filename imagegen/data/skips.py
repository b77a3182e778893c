"""What of a data set is left out, and why: counted, named, and too much of it stops the run.

Two kinds. What the *listing* of the files shows to be no sample (a caption without its image) is never an index:
`LeftOut` counts it by reason. What only *reading* shows (an image that cannot be decoded) is noted in `Skips`, by the
threads that read. Above the same share of either kind, of what is listed at the start, of the samples seen so far
later on, the run is better stopped, as something is wrong with all.
"""

import dataclasses
import json
import math
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from theory._checks import require, require_between
from theory._files import write_whole

BAD_SHARE = 0.05
"""Share of unreadable samples above which a run stops, unless told otherwise."""
LEAST_SEEN = 100
"""Samples, or all if there are fewer, that must have been seen before the share counts."""
NAMED = 5
"""Samples named with each reason."""


@dataclass(frozen=True)
class LeftOut:
    """`count` >= 1 samples that the listing leaves out for one reason, and the keys of the `first` few."""

    why: str
    count: int
    first: tuple[str, ...]

    def __str__(self) -> str:
        more = ", ..." if self.count > len(self.first) else ""
        return f"{self.count} x {self.why} ({', '.join(self.first)}{more})"


def left_out(found: Iterable[tuple[str, str]]) -> tuple[LeftOut, ...]:
    """Pairs (key, why) by reason, in the order in which the reasons came."""
    by: dict[str, list[str]] = {}
    for key, why in found:
        by.setdefault(why, []).append(key)
    return tuple(LeftOut(why, len(keys), tuple(keys[:NAMED])) for why, keys in by.items())


def as_json(parts: Iterable[LeftOut]) -> str:
    """For `from_json`."""
    return json.dumps([dataclasses.astuple(part) for part in parts])


def from_json(text: str) -> tuple[LeftOut, ...]:
    """What `as_json` wrote."""
    return tuple(LeftOut(why, count, tuple(first)) for why, count, first in json.loads(text))


def together(parts: Iterable[LeftOut]) -> tuple[LeftOut, ...]:
    """One for each reason."""
    by: dict[str, LeftOut] = {}
    for part in parts:
        before = by.get(part.why, LeftOut(part.why, 0, ()))
        by[part.why] = LeftOut(part.why, before.count + part.count, (*before.first, *part.first)[:NAMED])
    return tuple(by.values())


def require_few(name: str, parts: tuple[LeftOut, ...], n: int, bad_share: float) -> None:
    """Raise `InputError` where a listing of n samples left out more than a `bad_share` of all that it saw, saying what,
    and for a `bad_share` outside [0, 1].
    """
    require_between("bad_share", bad_share, 0.0, 1.0)
    count = sum(part.count for part in parts)
    if count > bad_share * (count + n):
        require(False, f"data '{name}'", f"{count} of {count + n} that are not: {'; '.join(map(str, parts))}",
                f"whole samples but for a share of {bad_share:g} (bad_share)")  # fmt: skip


class Skips:
    """The unreadable samples among the n >= 1 of a source, as they are found, whichever thread finds them.

    `left_out` is what its listing left out. Raises `ValueError` for a `bad_share` outside [0, 1].
    """

    def __init__(self, name: str, n: int, bad_share: float, left_out: tuple[LeftOut, ...]) -> None:
        require_between("bad_share", bad_share, 0.0, 1.0)
        self.name, self.bad_share, self.left_out = name, bad_share, left_out
        self._seen, self._count = np.zeros(n, bool), 0
        self._bad: dict[int, tuple[str, str]] = {}
        self._file: Path | None = None
        self._lock = threading.Lock()

    @property
    def bad(self) -> Mapping[int, tuple[str, str]]:
        """Key and reason of each unreadable sample found so far, by index."""
        return dict(self._bad)

    def known(self, index: int) -> bool:
        """Whether this sample was found unreadable before."""
        return index in self._bad

    def good(self, index: int) -> None:
        """Note that this sample was read. Raises `InputError` where too many others were not."""
        with self._lock:
            self._see(index)

    def note(self, index: int, key: str, why: str) -> None:
        """Note that this sample is unreadable. Raises `InputError` where too many are."""
        with self._lock:
            if index not in self._bad:
                self._bad[index] = (key, why)
                if self._file is not None:
                    with self._file.open("a", encoding="utf-8") as stream:
                        stream.write(_line(key=key, why=why))
            self._see(index)

    def record(self, file: Path) -> None:
        """From now on keep `file`, a line of JSON each: `why`, `count` and `first` of what the listing left out; `key`
        and `why` of every unreadable sample, those that it names already included.
        """
        with self._lock:
            found = {**_named(file), **dict(self._bad.values())}
            lines = [_line(**dataclasses.asdict(part)) for part in self.left_out]
            lines += [_line(key=key, why=why) for key, why in found.items()]
            write_whole(file, "".join(lines))
            self._file = file

    def _see(self, index: int) -> None:
        if self._seen[index]:
            return
        self._seen[index] = True
        self._count += 1
        bad, count, share = len(self._bad), self._count, self.bad_share
        # three standard deviations more than the share while but a part was seen: no alarm by chance
        spare = 3 * math.sqrt(share * (1 - share) * count) if count < self._seen.size else 0.0
        if count >= min(LEAST_SEEN, self._seen.size) and bad > share * count + spare:
            named = "; ".join(f"{key}: {why}" for key, why in list(self._bad.values())[:NAMED])
            require(False, f"data '{self.name}'", f"{bad} of the {self._count} seen so far that are not ({named})",
                    f"readable but for a share of {self.bad_share:g} (bad_share) of the images")  # fmt: skip


def _line(**values: object) -> str:
    return json.dumps(values) + "\n"


def _named(file: Path) -> dict[str, str]:
    """Keys and reasons in a file that `record` kept before; a torn last line is left out."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        try:
            values = json.loads(line)
        except json.JSONDecodeError:
            break
        if "key" in values:
            found[values["key"]] = values["why"]
    return found


def told(folder: Path) -> str:
    """What the files skipped*.jsonl of a run's folder say, in a sentence or two; "" where nothing was left out."""
    listed: dict[str, int] = {}
    unreadable: dict[str, str] = {}
    for file in sorted(folder.glob("skipped*.jsonl")):  # of each host; all have the same listing
        unreadable |= _named(file)
        for line in file.read_text(encoding="utf-8").splitlines():
            if '"count"' in line and '"key"' not in line:
                part = json.loads(line)
                listed[part["why"]] = part["count"]
    sentences = []
    if listed:
        reasons = ", ".join(f"{why} ({count})" for why, count in listed.items())
        sentences.append(f"Left out of the data: {reasons}.")
    if unreadable:
        sentences.append(f"Unreadable images, replaced by others of their class: {len(unreadable)}.")
    return " ".join([*sentences, "See skipped.jsonl."]) if sentences else ""
