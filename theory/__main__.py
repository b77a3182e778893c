"""The command line of `theory`: decide all claims, show one, prescribe for a data set, write the report.

`python -m theory` decides every claim. Exit codes: 0 all verdicts are as recorded, 1 a verdict has changed, 2 a
mistake in what was asked.
"""

import json
import math
from typing import Any

import tyro

from theory._checks import require


def _finite(value: Any) -> Any:
    """Replace non-finite floats by None throughout, since JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(entry) for entry in value]
    return value


def _print_json(value: Any) -> None:
    print(json.dumps(_finite(value), indent=1, allow_nan=False))


def check(
    ids: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    json: bool = False,
    cases: int | None = None,
    seed: int = 0,
    workers: int | None = None,
) -> int:
    """Decide claims (all of them, if none is named) and print a table of verdicts.

    Args:
        ids: Claim ids, e.g. SC-L2 SC-L2*.
        json: Print a list of {id, verdict, cases, worst_margin, method, corrected_by, ...} instead of the table.
        cases: Seeded cases per claim; by default each claim's own number (at least 1000 where it is deterministic).
        seed: Seed of the drawn cases.
        workers: Processes; by default one per core.
    """
    from theory.claims.registry import find_claims
    from theory.verdicts import decide_with_progress, verdict_table

    require(cases is None or cases >= 1, "cases", cases, "at least 1")
    require(workers is None or workers >= 1, "workers", workers, "at least 1")
    require(seed >= 0, "seed", seed, "at least 0")
    claims = find_claims(ids)
    decisions = decide_with_progress(claims, cases=cases, seed=seed, workers=workers)
    if json:
        _print_json([decision.to_json() for decision in decisions])
    else:
        print(verdict_table(claims, decisions))
    return 0 if all(decision.as_recorded for decision in decisions) else 1


def show(claim_id: tyro.conf.Positional[str], *, seed: int = 0) -> int:
    """Show one claim: statement, domain, verdict, proof, counterexample and corrected claim.

    Args:
        claim_id: The claim's id, e.g. SC-L2.
        seed: Seed of the drawn cases.
    """
    from theory.claims.decide import decide
    from theory.claims.registry import find_claims
    from theory.verdicts import describe

    (claim,) = find_claims([claim_id])
    decision = decide(claim, seed=seed)
    print(describe(claim, decision))
    if claim.corrected_by:
        (corrected,) = find_claims([claim.corrected_by])
        print("\nCorrected by\n\n" + describe(corrected, decide(corrected, seed=seed)))
    return 0 if decision.as_recorded else 1


def list_claims(*, json: bool = False) -> int:
    """List all claims with their recorded verdicts, without deciding them.

    Args:
        json: Print as JSON.
    """
    from theory.claims.registry import CLAIMS

    rows = [{"id": c.id, "title": c.title, "recorded": c.expected, "printed": c.printed} for c in CLAIMS.values()]
    if json:
        _print_json(rows)
    else:
        print("\n".join(f"{row['id']:18} {row['recorded']:9} {row['title']}" for row in rows))
    return 0
