"""The report: one self-contained HTML page with the verdict table, every claim in full, and a figure per result.

Formulas become MathML, which browsers render by themselves, and figures are embedded, so the page needs no network.
"""

import base64
import html
import platform
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata, resources
from pathlib import Path

from latex2mathml.converter import convert

from theory._files import write_whole
from theory.claims.claim import Claim
from theory.claims.decide import Decision
from theory.verdicts import number_lines, summary

STYLE = resources.files("theory").joinpath("report.css").read_text(encoding="utf-8")


@dataclass(frozen=True)
class Result:
    """One result on the page: heading, text (LaTeX between dollars), captions with PNGs, further points, print."""

    title: str
    text: str
    figures: Sequence[tuple[str, bytes]] = ()
    details: Sequence[str] = ()
    printed: str = ""


def with_formulas(text: str) -> str:
    """HTML of a text whose LaTeX stands between dollar signs, as MathML.

    Raises `ValueError` if the dollar signs do not pair.
    """
    parts = text.split("$")
    if len(parts) % 2 == 0:
        raise ValueError(f"dollar signs must come in pairs; got {text!r}.")
    rendered = [convert(part) if i % 2 else html.escape(part) for i, part in enumerate(parts)]
    return "".join(rendered)


def _image(image: bytes, alternative: str) -> str:
    data = base64.b64encode(image).decode()
    return f'<img alt="{html.escape(alternative)}" src="data:image/png;base64,{data}">'


def _badge(decision: Decision) -> str:
    name = decision.verdict if decision.as_recorded else "changed"
    return f'<span class="badge {name}">{name}</span>'


def _anchor(claim_id: str) -> str:
    return "claim-" + claim_id.replace("*", "-corrected")


def _link(claim_id: str) -> str:
    return f'<a href="#{_anchor(claim_id)}">{html.escape(claim_id)}</a>'


def _table_row(claim: Claim, decision: Decision) -> str:
    corrected = f" (corrected: {_link(claim.corrected_by)})" if claim.corrected_by else ""
    return (
        f"<tr><td>{_link(claim.id)}</td><td>{_badge(decision)}</td><td>{with_formulas(claim.title)}{corrected}</td>"
        f'<td class="number wide">{decision.cases}</td><td class="number wide">{decision.worst_margin:.2g}</td></tr>'
    )


def _table(claims: Sequence[Claim], decisions: Sequence[Decision]) -> str:
    rows = "\n".join(_table_row(claim, decision) for claim, decision in zip(claims, decisions, strict=True))
    columns = '<th class="number wide">cases</th><th class="number wide">margin</th>'
    head = f"<tr><th>claim</th><th>verdict</th><th>statement</th>{columns}</tr>"
    return f"<table><thead>{head}</thead><tbody>{rows}</tbody></table>"


def _proof(claim: Claim) -> str:
    if claim.proof is None:
        return ""
    steps = "".join(f"<li>{with_formulas(step.text)}</li>" for step in claim.proof())
    return f"<dt>proof</dt><dd>By sympy, for {with_formulas(claim.proof_scope)}:<ol>{steps}</ol></dd>"


def _counterexample(decision: Decision) -> str:
    if decision.counterexample is None:
        return ""
    lines = [*number_lines(decision.counterexample), "where", *number_lines(decision.numbers or {})]
    shown = "<br>".join(html.escape(line) for line in lines)
    return f"<dt>smallest counterexample</dt><dd>{shown}</dd>"


def _claim(claim: Claim, decision: Decision) -> str:
    entries = [("statement", with_formulas(claim.statement)), ("where", with_formulas(claim.printed))]
    entries += [("domain", html.escape(str(claim.domain))), ("checked against", with_formulas(claim.method))]
    margin = f"{decision.cases} cases, worst margin {decision.worst_margin:.3g}, {decision.seconds:.1f} s"
    entries += [("evidence", margin)] + ([("remark", with_formulas(claim.remark))] if claim.remark else [])
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in entries)
    body = f"<dl>{listed}{_proof(claim)}{_counterexample(decision)}</dl>"
    heading = f"<b>{html.escape(claim.id)}</b> {_badge(decision)} {with_formulas(claim.title)}"
    return f'<details id="{_anchor(claim.id)}"><summary>{heading}</summary>{body}</details>'


def _result(result: Result) -> str:
    figures = "".join(
        f"<figure>{_image(image, caption.replace('$', ''))}<figcaption>{with_formulas(caption)}</figcaption></figure>"
        for caption, image in result.figures
    )
    printed = f"<pre>{html.escape(result.printed)}</pre>" if result.printed else ""
    points = "".join(f"<li>{with_formulas(point)}</li>" for point in result.details)
    details = f"<ul>{points}</ul>" if points else ""
    return f"<h2>{html.escape(result.title)}</h2><p>{with_formulas(result.text)}</p>{figures}{details}{printed}"


def _versions() -> str:
    names = ("patina-diffusion", "jax", "numpy", "scipy", "sympy", "hypothesis")
    return ", ".join(f"{name} {metadata.version(name)}" for name in names)


INTRODUCTION = """Three papers say that a little corruption can make a diffusion model better. Each of their
statements is decided here: <i>proved</i> means that a symbolic derivation ran and no numeric case disagreed (its
scope is stated); <i>verified</i> means that no disagreement was found over the whole stated domain, which is
evidence and not a proof; <i>fails</i> comes with the smallest counterexample found and a corrected statement. A
margin is 1 minus error over tolerance for an identity, the relative slack for an inequality, and 1 minus |z| over
its limit for a Monte Carlo comparison: negative means broken."""

OPEN_LINKED = """<script>
function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target && target.tagName === "DETAILS") target.open = true;
}
addEventListener("hashchange", openTarget); openTarget();
</script>"""


def page(claims: Sequence[Claim], decisions: Sequence[Decision], results: Iterable[Result]) -> str:
    """The whole page as HTML: verdict table, results with figures, every claim in full."""
    full = "\n".join(_claim(claim, decision) for claim, decision in zip(claims, decisions, strict=True))
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Patina: which claims hold</title><style>{STYLE}</style></head><body>
<h1>Which claims hold</h1><p>{INTRODUCTION}</p><p><b>{html.escape(summary(decisions))}</b></p>
{_table(claims, decisions)}
{"".join(_result(result) for result in results)}
<h2>Every claim in full</h2>{full}
<footer>{html.escape(_versions())}; Python {platform.python_version()}.</footer>{OPEN_LINKED}</body></html>
"""


def write_page(folder: Path, text: str) -> Path:
    """Write `index.html` in a folder (made if missing), whole or not at all, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / "index.html"
    write_whole(target, text)
    return target
