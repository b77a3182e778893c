"""Every claim is attacked over its whole domain, and the verdicts are as recorded."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import sympy
from hypothesis import given
from hypothesis import strategies as st
from test_verdicts import assert_plain

from theory._checks import InputError
from theory.claims.claim import (
    MONTE_CARLO_BUDGET,
    Choices,
    Claim,
    Domain,
    Integers,
    Outcome,
    Reals,
    Seeds,
    Step,
    at_most,
    identity,
    monte_carlo,
    worst,
)
from theory.claims.decide import decide, decide_all
from theory.claims.registry import CLAIMS, find_claims
from theory.verdicts import describe

PRINTED = (
    "SC-L1 SC-L2 SC-L3 SC-L4 SC-L5 SC-T1 SC-T2 SC-F SC-G SPD-T1 SPD-T2 SPD-C1 SPD-C2 AO-L AO-T1 AO-T2 AO-C1 AO-B AO-K"
)
HOLDING = [claim for claim in CLAIMS.values() if claim.expected != "fails"]
FAILING = [claim for claim in CLAIMS.values() if claim.expected == "fails"]


def by_id(claim):
    return claim.id


def test_every_statement_of_the_papers_is_a_claim():
    assert set(PRINTED.split()) <= set(CLAIMS)


@pytest.mark.parametrize("claim", [c for c in HOLDING if c.kind != "expectation"], ids=by_id)
@given(data=st.data())
def test_no_counterexample_is_found_by_attack(claim, data):
    case = data.draw(claim.domain.strategy())
    outcome = claim.check(case)
    assert outcome.margin >= 0, outcome.numbers


@pytest.mark.parametrize("claim", HOLDING, ids=by_id)
def test_a_holding_claim_is_decided_as_recorded(claim):
    decision = decide(claim, cases=25 if claim.kind != "expectation" else None, seed=1)
    assert decision.verdict == claim.expected, decision


@pytest.mark.parametrize("claim", FAILING, ids=by_id)
def test_a_failing_claim_has_a_counterexample_and_a_corrected_claim_that_holds(claim):
    decision = decide(claim, seed=1)
    assert decision.verdict == "fails"
    assert decision.counterexample is not None
    assert claim.check(decision.counterexample).margin < -claim.clear
    assert CLAIMS[claim.corrected_by].expected != "fails"
    assert_plain(describe(claim, decision))


@pytest.mark.parametrize("claim", CLAIMS.values(), ids=by_id)
def test_a_claim_says_what_it_is(claim):
    for text in (claim.title, claim.statement, claim.printed, claim.method, claim.remark, claim.proof_scope):
        assert text.count("$") % 2 == 0
    assert all((claim.title, claim.statement, claim.printed, claim.method))
    assert claim.cases >= (20 if claim.kind == "expectation" else min(1000, _count(claim.domain)))


def _count(domain):
    """How many cases a domain has, where all its parameters are choices; else infinity."""
    parameters = domain.parameters.values()
    finite = all(isinstance(parameter, Choices) for parameter in parameters)
    return math.prod(len(parameter.values) for parameter in parameters) if finite else math.inf


def test_monte_carlo_comparisons_fit_the_family_wise_budget():
    comparisons = sum(claim.cases for claim in CLAIMS.values() if claim.kind == "expectation")
    assert comparisons <= MONTE_CARLO_BUDGET


def _claim(check, **changes):
    blank = Claim(
        id="X-1",
        title="test",
        printed="here",
        statement="$x$",
        kind="inequality",
        domain=Domain({"x": Integers(0, 1000), "seed": Seeds()}),
        check=check,
        method="by hand",
        expected="verified",
        cases=50,
    )
    return replace(blank, **changes)


def test_a_rare_violation_is_shrunk_to_the_smallest():
    decision = decide(_claim(lambda case: at_most(case["x"], 900.0)))
    assert decision.verdict == "fails"
    assert not decision.as_recorded
    assert decision.counterexample == {"x": 901, "seed": 0}


def test_nan_counts_against_a_claim():
    assert decide(_claim(lambda case: identity(float("nan"), 0.0, tolerance=1.0))).verdict == "fails"


def test_a_single_nan_among_good_cases_is_not_forgotten():
    check = lambda case: Outcome(float("nan") if case["x"] % 10 == 3 else 1.0, {})  # noqa: E731
    assert decide(_claim(check, cases=300)).verdict == "fails"
    assert math.isnan(worst(Outcome(1.0, {}), Outcome(float("nan"), {})).margin)


def test_an_infinite_tolerance_or_standard_error_is_no_evidence():
    assert identity(1.0, 2.0, tolerance=math.inf).margin == -math.inf
    assert monte_carlo(np.array([1.0, math.nan]), 0.0).margin == -math.inf


def test_a_proof_with_a_false_step_is_not_a_proof():
    x = sympy.Symbol("x")
    proof = lambda: [Step("true", (x + 1) ** 2 - x**2 - 2 * x - 1), Step("false", x - 2 * x)]  # noqa: E731
    claim = _claim(lambda case: at_most(0.0, 1.0), proof=proof, proof_scope="all x", expected="proved")
    decision = decide(claim)
    assert decision.verdict == "fails"
    assert "step 2" in decision.trouble


def test_a_claim_recorded_as_failing_that_holds_is_reported_as_changed():
    claim = _claim(lambda case: at_most(0.0, 1.0), expected="fails", corrected_by="X-1*")
    decision = decide(claim)
    assert decision.verdict == "verified"
    assert not decision.as_recorded


def test_decisions_are_reproducible_and_depend_on_the_seed():
    claim = _claim(lambda case: at_most(case["x"] / 1000, 2.0))
    first, again, other = (decide(claim, seed=seed) for seed in (3, 3, 4))
    assert first.worst_case == again.worst_case
    assert first.worst_case != other.worst_case


def test_workers_find_what_one_process_finds():
    claims = find_claims(["AO-B", "AO-B*"])
    rows = {decision.id: decision for decision in decide_all(claims, cases=20, workers=2)}
    for claim in claims:
        alone = decide(claim, cases=20)
        assert rows[claim.id].verdict == alone.verdict
        assert rows[claim.id].worst_case == alone.worst_case
        json.dumps(rows[claim.id].to_json())


@given(st.integers(0, 2**32 - 1))
def test_draws_lie_in_the_domain_and_reach_its_ends(seed):
    domain = Domain(
        {"n": Integers(2, 10_000, log=True), "x": Reals(0.0, 10.0, log=True), "c": Choices((1, 2)), "seed": Seeds()},
        where=lambda case: case["n"] > case["c"],
    )
    draws = domain.draws(np.random.default_rng(seed))
    cases = [next(draws) for _ in range(300)]
    assert all(2 <= case["n"] <= 10_000 and 0 <= case["x"] <= 10 and case["n"] > case["c"] for case in cases)
    assert {0.0, 10.0} <= {case["x"] for case in cases}


def test_monte_carlo_margin_is_one_minus_z_over_its_limit():
    samples = np.random.default_rng(0).standard_normal(400)
    z = abs(samples.mean()) / (samples.std(ddof=1) / 20)
    assert monte_carlo(samples, 0.0).numbers["z"] == pytest.approx(z)
    assert monte_carlo(samples, 0.0).margin > 0 > monte_carlo(samples, 0.5).margin


def test_an_unknown_id_suggests_the_nearest():
    with pytest.raises(InputError, match="SC-L2"):
        find_claims(["sc-l2x"])


def test_a_failing_claim_without_correction_is_refused():
    with pytest.raises(ValueError, match="corrected"):
        _claim(lambda case: at_most(0.0, 1.0), expected="fails")


def test_a_proved_claim_without_proof_is_refused():
    with pytest.raises(ValueError, match="proof"):
        _claim(lambda case: at_most(0.0, 1.0), expected="proved")
