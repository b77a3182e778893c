"""The claims' own tools: integration of a diagonal flow, enumeration of finite domains, and checks that can fail."""

import jax.numpy as jnp
import numpy as np
import pytest

from theory.claims import _ambient_checks, _flow, gain_limits, training_gain
from theory.claims.claim import Choices, Domain, Integers, Outcome, at_most
from theory.claims.decide import decide
from theory.claims.registry import CLAIMS


def test_the_diagonal_flow_is_the_reverse_flow():
    rng = np.random.default_rng(0)
    values, mean = np.array([0.0, 0.3, 1.0, 40.0]), rng.standard_normal(4)
    start, horizon, beta = rng.standard_normal((3, 4)), 0.7, np.sqrt(40.0)
    fast = _flow.diagonal_flow(lambda t: _flow.regression(values, mean, t), start, horizon, beta)
    shrink = lambda z, t: _flow.linear_shrink(jnp.asarray(values), jnp.asarray(mean), t, z)  # noqa: E731
    slow = _flow.reverse_flow(shrink, jnp.asarray(start), jnp.asarray(horizon), jnp.asarray(beta))
    # the same method: rounding of 48 steps of 12 stages alone, of numbers up to |start| √40
    np.testing.assert_allclose(fast, np.asarray(slow), atol=48 * 12 * 2.2e-16 * 20)


def test_a_finite_domain_is_gone_through_once():
    seen = []
    domain = Domain({"a": Choices((1, 2, 3)), "b": Choices(("x", "y"))}, where=lambda case: case["a"] != 2)

    def check(case):
        seen.append((case["a"], case["b"]))
        return Outcome(1.0, {})

    claim = CLAIMS["F-LENGTH-RATIOS"]
    decision = decide(type(claim)(**{**vars(claim), "domain": domain, "check": check, "cases": 100}))
    assert decision.cases == 4
    assert sorted(seen) == [(1, "x"), (1, "y"), (3, "x"), (3, "y")]


def test_a_domain_with_a_range_is_not_finite():
    assert Domain({"a": Choices((1, 2)), "n": Integers(1, 2)}).every() == []


@pytest.mark.parametrize(("name", "count"), [("F-LENGTH-RATIOS", 4), ("F-DDIM-FIGURES", 2)])
def test_claims_on_few_cases_report_how_many_there_are(name, count):
    assert len(CLAIMS[name].domain.every()) == CLAIMS[name].cases == count


CONCAVE = {"n": 20, "d": 3, "mean_square": 2.0, "s_low": 0.1, "s_high": 0.7, "seed": 5}


def test_concavity_is_noticed_to_fail(monkeypatch):
    exact = training_gain._set_gains
    assert training_gain._check_concave(CONCAVE).margin >= 0

    def negative(case, s):
        gains, *rest = exact(case, s)
        return -gains, *rest

    monkeypatch.setattr(training_gain, "_set_gains", negative)
    assert training_gain._check_concave(CONCAVE).margin < 0


def test_root_traces_by_singular_values_are_those_of_eigenvalues():
    s = np.array([0.2, 0.9])
    gains, *_ = training_gain._set_gains(CONCAVE, s)
    m, cov = training_gain.training_moments(20, 3, 2.0, 5)
    mu = np.sqrt(2.0) * np.eye(3)[0]

    def distance(mean, matrix):
        return np.sum((mean - mu) ** 2) + np.sum((1 - np.sqrt(np.linalg.eigvalsh(matrix))) ** 2)

    expected = [distance(m, cov) - distance((1 - k) * m, cov + k * np.outer(m, m)) for k in s]
    np.testing.assert_allclose(gains, expected, atol=1e-13)


@pytest.mark.parametrize("factor", [0.75, 1.3])
def test_another_constant_at_the_critical_size_is_noticed(monkeypatch, factor):
    exact = gain_limits._critical_coefficient
    monkeypatch.setattr(gain_limits, "_critical_coefficient", lambda d, a: factor * exact(d, a))
    margins = [gain_limits._check_critical({"d": 2, "mean_square": 1.0, "seed": seed}).margin for seed in range(3)]
    assert min(margins) < 0


@pytest.mark.parametrize("limit", ["n - d fixed", "a grows like d"])
def test_a_factor_d_more_or_less_is_noticed(monkeypatch, limit):
    exact = gain_limits.entropy_gap
    case = {"d": 64, "limit": limit, "more": 3, "a": 1.0, "part": 1e-3}
    for power in (1, -1):
        monkeypatch.setattr(gain_limits, "entropy_gap", lambda n, d, a, g, p=power: exact(n, d, a, g) * float(d) ** p)
        assert gain_limits._check_factor(case).margin < 0


def _crossover_cases(seeds):
    blank = {"k": 3, "sigma": 1.0, "n_clean": 1, "n_biased": 2, "beyond": 0.5}
    return [{**blank, "seed": seed} for seed in seeds]


def test_the_sign_of_the_gain_is_decided_and_not_waved_through():
    outcomes = []
    for case in _crossover_cases(range(1, 31)):
        atoms, p, q = _ambient_checks._two_laws(case)
        outcomes.append(_ambient_checks._sign_of_gain(case, atoms, p, q))
    assert all(outcome.margin >= 0 for outcome in outcomes)
    told = [o for o in outcomes if "gain" in o.numbers and o.numbers["bound"] > 2 * o.numbers["tolerance"]]
    assert len(told) > 20  # the sign is clear of the tolerance: the opposite one would fail
    for outcome in told:
        assert at_most(0.0, -outcome.numbers["bound"], tolerance=outcome.numbers["tolerance"]).margin < 0


def test_enumerated_distances_are_those_from_the_roots():
    atoms, p, q = np.array([0.0, 0.4, 1.0]), np.array([0.2, 0.5, 0.3]), np.array([0.6, 0.0, 0.4])
    value, lost = _ambient_checks._distances(atoms, (p - q)[None], 0.7)
    lines = _ambient_checks.Line.points(atoms, p), _ambient_checks.Line.points(atoms[[0, 2]], q[[0, 2]])
    exact = _ambient_checks.ambient.total_variation(*lines, noise_std=0.7)
    assert 0 <= exact - value[0] <= lost[0] < 1e-2
