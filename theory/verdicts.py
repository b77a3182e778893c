"""Verdicts for people: a progress bar while claims are decided, the table, and one claim told in full."""

import dataclasses
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from theory.claims.claim import Claim
from theory.claims.decide import Decision, decide_all

WIDTH = 110
LARGEST_SHOWN = 36
"""Arrays with more entries than this are told by shape and range."""


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


def number_text(value: Any) -> str:
    """A number of a case, or an array of them as nested lists, in at most 8 digits; large arrays by shape and range.

    Never a `repr`: NumPy's and JAX's scalars and arrays print like Python's own.
    """
    group = _group(value)
    if group is not None:
        return "(" + number_list(group) + ")"
    if value is None or isinstance(value, str | bool | np.bool_ | int | np.integer):
        return str(value)
    if isinstance(value, float | complex | np.inexact):
        return f"{value + 0:.8g}"  # adding 0 turns -0 into 0
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(number_text, value)) + "]"
    if hasattr(value, "shape"):
        return _array_text(np.asarray(value))
    return str(value)


def _array_text(array: np.ndarray) -> str:
    if array.size <= LARGEST_SHOWN:
        return number_text(array.tolist())
    ends = f"{number_text(array.min())} to {number_text(array.max())}"
    return f"{' x '.join(map(str, array.shape))} entries from {ends}"


def _group(value: Any) -> dict[str, Any] | None:
    """The named parts of a value that has them (a dictionary, a named tuple, a dataclass), else None."""
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return value._asdict()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    return value if isinstance(value, dict) else None


def number_lines(numbers: Mapping[str, Any], *, label: str = "") -> list[str]:
    """Named numbers, a line for those alone, `d = 2, noise_std = 1`, and one for each group, `rival: kl = 0.1, ...`."""
    groups = {name: group for name, value in numbers.items() if (group := _group(value)) is not None}
    alone = ", ".join(f"{name} = {number_text(value)}" for name, value in numbers.items() if name not in groups)
    nested = [line for name, group in groups.items() for line in number_lines(group, label=f"{label}{name}: ")]
    return [label + alone, *nested] if alone else nested


def number_list(numbers: Mapping[str, Any]) -> str:
    """`number_lines` on one line."""
    return "; ".join(number_lines(numbers))


def _paragraph(label: str, text: str) -> str:
    return textwrap.fill(text, WIDTH, initial_indent=f"{label:<16}", subsequent_indent=" " * 16)


def _labelled(label: str, lines: Sequence[str]) -> list[str]:
    return [_paragraph("" if i else label, line) for i, line in enumerate(lines)]


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
        lines += _labelled("counterexample", number_lines(decision.counterexample))
        lines += _labelled("where", number_lines(decision.numbers or {}))
    return "\n".join(lines)
