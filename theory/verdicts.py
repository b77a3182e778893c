"""Verdicts for people: a progress bar while claims are decided, the table, and one claim told in full."""

import textwrap
from collections.abc import Sequence

import numpy as np
from tqdm import tqdm

from theory.claims.claim import Claim
from theory.claims.decide import Decision, decide_all

WIDTH = 110


def decide_with_progress(
    claims: Sequence[Claim], *, cases: int | None = None, seed: int = 0, workers: int | None = None
) -> list[Decision]:
    """Decide claims in parallel under a progress bar on standard error; the decisions come in the claims' order.

    Takes what `theory.claims.decide.decide_all` takes. Interrupting it stops the workers.
    """
    found: dict[str, Decision] = {}
    bar = tqdm(total=len(claims), desc="claims", unit="claim", file=None, leave=False)
    with bar:
        for decision in decide_all(claims, cases=cases, seed=seed, workers=workers):
            found[decision.id] = decision
            bar.set_postfix_str(decision.id)
            bar.update()
    return [found[claim.id] for claim in claims]


def _mark(decision: Decision) -> str:
    return "" if decision.as_recorded else "  CHANGED"


def verdict_table(claims: Sequence[Claim], decisions: Sequence[Decision]) -> str:
    """A table of verdicts as text: id, verdict, number of cases, worst margin, title; and a summary line."""
    rows = [f"{'claim':<18} {'verdict':<9} {'cases':>6} {'margin':>10}  statement", "-" * WIDTH]
    for claim, decision in zip(claims, decisions, strict=True):
        title = claim.title + (f"  -> {claim.corrected_by}" if claim.corrected_by else "")
        row = f"{claim.id:<18} {decision.verdict:<9} {decision.cases:>6} {decision.worst_margin:>10.3g}  {title}"
        rows.append(row + _mark(decision))
        if decision.trouble:
            rows.append(f"{'':<18} {decision.trouble}")
    return "\n".join([*rows, "-" * WIDTH, summary(decisions)])


def summary(decisions: Sequence[Decision]) -> str:
    """One line: how many claims were proved, verified and failed, how many cases were checked, what changed."""
    counts = {name: sum(d.verdict == name for d in decisions) for name in ("proved", "verified", "fails")}
    cases = sum(decision.cases for decision in decisions)
    changed = [decision.id for decision in decisions if not decision.as_recorded]
    ending = "all as recorded" if not changed else "CHANGED: " + ", ".join(changed)
    parts = f"{counts['proved']} proved, {counts['verified']} verified, {counts['fails']} fail"
    return f"{len(decisions)} claims: {parts}; {cases} cases; {ending}."


def number_text(value: object) -> str:
    """A number or small array of a case in at most 8 digits."""
    if isinstance(value, float | np.floating):
        return f"{float(value):.8g}"
    if isinstance(value, dict):
        return "(" + number_list(value) + ")"
    if isinstance(value, list | tuple | np.ndarray) or hasattr(value, "shape"):
        return np.array2string(np.asarray(value), precision=6, separator=", ", threshold=36).replace("\n", "")
    return str(value)


def _paragraph(label: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=f"{label:<16}", subsequent_indent=" " * 16)


def describe(claim: Claim, decision: Decision) -> str:
    """One claim in full, as text: statement, domain, method, verdict, proof steps, counterexample."""
    verdict = f"{decision.verdict}{_mark(decision)} ({decision.cases} cases, worst margin {decision.worst_margin:.3g})"
    lines = [f"{claim.id}  {claim.title}", "=" * WIDTH]
    lines += [_paragraph("statement", claim.statement), _paragraph("printed", claim.printed)]
    lines += [_paragraph("domain", str(claim.domain)), _paragraph("checked against", claim.method)]
    lines += [_paragraph("verdict", verdict)]
    if claim.remark:
        lines.append(_paragraph("remark", claim.remark))
    if claim.proof:
        lines.append(_paragraph("proof", f"by sympy, for {claim.proof_scope}:"))
        lines += [_paragraph("", f"{i}. {step.text}") for i, step in enumerate(claim.proof(), start=1)]
    if decision.trouble:
        lines.append(_paragraph("trouble", decision.trouble))
    if decision.counterexample is not None:
        lines.append(_paragraph("counterexample", number_list(decision.counterexample)))
        lines.append(_paragraph("where", number_list(decision.numbers or {})))
    return "\n".join(lines)


def number_list(numbers: dict[str, object]) -> str:
    """Named numbers on one line: `d = 2, noise_std = 1, ...`."""
    return ", ".join(f"{name} = {number_text(value)}" for name, value in numbers.items())
