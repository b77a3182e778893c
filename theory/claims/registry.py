"""Every claim of the three papers, as printed and, where that fails, as corrected: `CLAIMS`, by id, in order."""

import difflib
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from theory._checks import InputError
from theory.claims import ambient, geometry, linear_denoiser, shortest_path, training_sets
from theory.claims.claim import Claim

_PAPERS = ("SC-", "SPD-", "AO-", "F-")
_FILES = (linear_denoiser, training_sets, geometry, shortest_path, ambient)


def _in_order() -> Mapping[str, Claim]:
    everything = [claim for file in _FILES for claim in file.CLAIMS]
    by_id = {claim.id: claim for paper in _PAPERS for claim in everything if claim.id.startswith(paper)}
    if len(by_id) != len(everything):
        raise ValueError("two claims share an id, or an id begins with none of " + ", ".join(_PAPERS))
    return MappingProxyType(by_id)


CLAIMS: Mapping[str, Claim] = _in_order()


def find_claims(ids: Sequence[str]) -> list[Claim]:
    """The claims with these ids (all of them for an empty list).

    Raises `InputError` for an unknown id, and suggests the nearest ones.
    """
    unknown = [name for name in ids if name not in CLAIMS]
    if unknown:
        near = difflib.get_close_matches(unknown[0].upper(), CLAIMS, n=3, cutoff=0.4)
        hint = f"did you mean {', '.join(near)}?" if near else "`python -m theory list` shows them all."
        raise InputError(f"claim id must be a known one; got {unknown[0]!r}: {hint}")
    return [CLAIMS[name] for name in ids] if ids else list(CLAIMS.values())
