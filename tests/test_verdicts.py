"""Numbers of a verdict print for people: no `repr` of NumPy or JAX, no nesting beyond what the numbers have."""

import re
from dataclasses import dataclass
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
import pytest

from theory.claims.decide import decide
from theory.claims.registry import CLAIMS
from theory.report import page
from theory.verdicts import describe, number_lines, number_list, number_text

REPR = re.compile(r"\bnp\.\w|\b[Aa]rray\(|\b[a-z]*(int|float)\d+\(|dtype=|\bMoments\(")


def assert_plain(text):
    """Fail on what only a programmer would read as a number."""
    assert not REPR.search(text), REPR.search(text)


class Error(NamedTuple):
    kl: float
    wasserstein2: float


@dataclass(frozen=True)
class Moments:
    mean: object
    cov: object


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.float64(1 / 3), "0.33333333"),
        (np.float32(0.25), "0.25"),
        (jnp.asarray(2.0), "2"),
        (np.int64(7), "7"),
        (7, "7"),
        (True, "True"),
        (np.bool_(False), "False"),
        (None, "None"),
        (-0.0, "0"),
        (float("nan"), "nan"),
        (-np.inf, "-inf"),
        (np.str_("ddim"), "ddim"),
        (np.array(3.5), "3.5"),
        (np.array([1.0, -0.0]), "[1, 0]"),
        (jnp.eye(2), "[[1, 0], [0, 1]]"),
        ([np.float64(0.5), [jnp.asarray(1.5)]], "[0.5, [1.5]]"),
        ((np.int64(1), "x"), "[1, x]"),
        (np.array(["a", "b"]), "[a, b]"),
        (np.zeros((0, 2)), "[]"),
        (np.arange(64.0).reshape(8, 8), "8 x 8 entries from 0 to 63"),
        ([{"kl": np.float64(1.0)}], "[(kl = 1)]"),
        (1 + 2j, "1+2j"),
    ],
    ids=str,
)
def test_a_value_prints_as_a_number(value, text):
    assert number_text(value) == text


def test_a_group_has_a_line_of_its_own():
    numbers = {
        "value": np.float64(0.5),
        "shortest": {"kl": np.float64(0.25), "deep": {"x": jnp.asarray(1.0)}},
        "rival": Error(np.float64(0.125), jnp.asarray(2.0)),
        "law": Moments(jnp.zeros(1), np.eye(1)),
        "n": 3,
    }
    assert number_lines(numbers) == [
        "value = 0.5, n = 3",
        "shortest: kl = 0.25",
        "shortest: deep: x = 1",
        "rival: kl = 0.125, wasserstein2 = 2",
        "law: mean = [0], cov = [[1]]",
    ]
    assert number_list({"rival": Error(1.0, 2.0)}) == "rival: kl = 1, wasserstein2 = 2"
    assert number_lines({}) == []


def test_the_check_for_reprs_sees_them():
    for value in (np.float64(1.0), np.ones(2), jnp.ones(2), Moments(1.0, np.int64(2)), np.bool_(True)):
        with pytest.raises(AssertionError):
            assert_plain(repr(value))


@pytest.mark.parametrize("claim_id", ["AO-B", "F-AO-FACT3"])
def test_a_counterexample_is_told_plainly_in_text_and_on_the_page(claim_id):
    claim = CLAIMS[claim_id]
    decision = decide(claim, cases=20)
    shown = describe(claim, decision)
    html = page([claim], [decision], [])
    assert_plain(shown)
    assert_plain(re.sub("<(style|script)>.*?</", "", html, flags=re.DOTALL))
    for line in number_lines(decision.counterexample):
        assert line in shown
        assert line in html
