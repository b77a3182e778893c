"""The command line of `theory`: decide all claims, show one, prescribe for a data set, write the report.

`python -m theory` decides every claim. Exit codes: 0 all verdicts are as recorded, 1 a verdict has changed, 2 a mistake
in what was asked.
"""

import difflib
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import jax
import tyro

from theory._checks import InputError, make_folder, require
from theory._commands import exit_code, leave
from theory.settings import Settings

DEFAULTS = Settings()
REPORT = Path("report")


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


def prescribe(
    data: tyro.conf.Positional[Path | None] = None,
    *,
    builtin: Literal["digits", "photographs"] | None = None,
    settings: Annotated[Settings, tyro.conf.arg(name="")] = DEFAULTS,
    json: bool = False,
    plots: Path | None = None,
) -> int:
    """Say what corruption would do for a data set, and how much of it to use.

    Args:
        data: An .npz file with `features` (n x d) and integer `labels` (n), or `images` (n x H x W [x C]) with
            or without `labels`.
        builtin: A bundled data set instead of a file.
        settings: What to assume and to tabulate.
        json: Print numbers as JSON instead of text.
        plots: Folder to write PNG figures to.
    """
    from theory.canvas import save
    from theory.data import load_builtin, load_npz
    from theory.plots import figures
    from theory.prescribe import prescribe as advise

    require(
        (data is None) != (builtin is None),
        "data",
        f"{data} and --builtin {builtin}",
        "a file or --builtin, one of them",
    )
    if plots is not None:
        make_folder("plots", plots)
    advice = advise(load_npz(data) if data is not None else load_builtin(str(builtin)), settings)
    if json:
        _print_json(advice.to_json())
    else:
        print(advice.text())
    if plots is not None:
        for name, figure in figures(advice).items():
            print(save(figure, plots / f"{name}.png"), file=sys.stderr)
    return 0


def report(*, out: Path = REPORT, cases: int | None = None, seed: int = 0) -> int:
    """Decide all claims, prescribe for the bundled data, and write one self-contained page, OUT/index.html.

    Args:
        out: Folder of the page.
        cases: Seeded cases per claim; by default each claim's own number.
        seed: Seed of the drawn cases.
    """
    from theory.claims.registry import find_claims
    from theory.report import page, write_page
    from theory.results import all_results
    from theory.verdicts import decide_with_progress, verdict_table

    require(cases is None or cases >= 1, "cases", cases, "at least 1")
    require(seed >= 0, "seed", seed, "at least 0")
    make_folder("out", out)
    claims = find_claims([])
    decisions = decide_with_progress(claims, cases=cases, seed=seed)
    print(verdict_table(claims, decisions))
    print(f"wrote {write_page(out, page(claims, decisions, all_results()))}")
    return 0 if all(decision.as_recorded for decision in decisions) else 1


COMMANDS: dict[str, Callable[..., Any]] = {
    "check": check,
    "show": show,
    "list": list_claims,
    "prescribe": prescribe,
    "report": report,
}


def _with_command(given: Sequence[str]) -> Sequence[str]:
    """The arguments with the command named, `check` where they begin with options or claim ids or are none at all.

    Raises `InputError` for a first word that is neither a command nor a claim id, and suggests the nearest of both.
    """
    if given and (given[0] in COMMANDS or given[0] in ("-h", "--help")):
        return given
    if given and not given[0].startswith("-"):
        from theory.claims.registry import CLAIMS

        if given[0] not in CLAIMS:
            hint = _nearest(given[0], CLAIMS)
            raise InputError(f"the first word must be a command or a claim id; got {given[0]!r}: {hint}")
    return ["check", *given]


def _nearest(word: str, claim_ids: Iterable[str]) -> str:
    """What may have been meant by a word that is neither a command nor a claim id."""
    if word.endswith(".npz"):
        return f"did you mean `prescribe {word}`?"
    known = {name.lower(): f"`{name}`" for name in COMMANDS} | {claim_id.lower(): claim_id for claim_id in claim_ids}
    near = difflib.get_close_matches(word.lower(), known, n=3, cutoff=0.6)
    if not near:
        return "`python -m theory --help` tells the commands, `python -m theory list` the claims."
    return f"did you mean {' or '.join(known[name] for name in near)}?"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command (`check` if none is named) and return its exit code."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    jax.config.update("jax_enable_x64", True)
    # Most programs here run a few times only: optimising them costs more than it saves.
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()

    def command() -> int:
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m theory", description=__doc__, args=_with_command(given)
        )

    return exit_code(command, "interrupted")


if __name__ == "__main__":
    leave(main())
