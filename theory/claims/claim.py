"""What a claim is: a statement, the domain it speaks of, a check of one case, and a proof where there is one.

A claim is decided from a *case*, a plain dictionary of numbers drawn from its domain. Arrays are built from those
numbers (`theory.claims.cases`), with seed 0 standing for the simplest array of its kind (identity rotation, first
basis vector), so a shrunk counterexample can be checked by hand. The same domain gives the seeded draws of `python
-m theory` and the Hypothesis strategies that attack and shrink.

Margins are without unit. An identity has margin 1 - error / tolerance; an inequality has its slack relative to the
larger side, plus its tolerance; a Monte Carlo comparison has 1 - |z| / `MONTE_CARLO_Z`. Margin >= 0: the case is as
the claim says.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Literal, NamedTuple

import numpy as np
import sympy
from hypothesis import strategies as st
from scipy.stats import norm

Case = Mapping[str, Any]
Kind = Literal["identity", "inequality", "ordering", "rate", "expectation"]
VerdictName = Literal["proved", "verified", "fails"]

FAMILY_WISE_ERROR = 1e-6
MONTE_CARLO_BUDGET = 5000
"""At most so many Monte Carlo comparisons in one run (Bonferroni); a test holds the registry to it."""
MONTE_CARLO_Z = float(norm.isf(FAMILY_WISE_ERROR / MONTE_CARLO_BUDGET / 2))


@dataclass(frozen=True)
class Integers:
    """An integer parameter in [low, high]; `log` draws its logarithm uniformly."""

    low: int
    high: int
    log: bool = False

    def draw(self, rng: np.random.Generator) -> int:
        """One seeded draw; each end has probability 1/20."""
        u = rng.random()
        if u < 0.1:
            return self.low if u < 0.05 else self.high
        if not self.log:
            return int(rng.integers(self.low, self.high, endpoint=True))
        value = math.exp(rng.uniform(math.log(self.low), math.log(self.high + 1)))
        return min(self.high, max(self.low, int(value)))

    def strategy(self) -> st.SearchStrategy[int]:
        """Hypothesis strategy over the same range, shrinking to the low end."""
        return st.integers(self.low, self.high)

    def __str__(self) -> str:
        return f"integer {self.low} to {self.high}"


@dataclass(frozen=True)
class Reals:
    """A real parameter in [low, high]; `log` draws its logarithm uniformly (from 1e-6 of `high` where low is 0)."""

    low: float
    high: float
    log: bool = False

    def draw(self, rng: np.random.Generator) -> float:
        """One seeded draw; each end has probability 1/20."""
        u = rng.random()
        if u < 0.1:
            return self.low if u < 0.05 else self.high
        if not self.log:
            return float(rng.uniform(self.low, self.high))
        low = self.low if self.low > 0 else 1e-6 * self.high
        return float(math.exp(rng.uniform(math.log(low), math.log(self.high))))

    def strategy(self) -> st.SearchStrategy[float]:
        """Hypothesis strategy over the same range, shrinking to simple numbers."""
        return st.floats(self.low, self.high, allow_subnormal=False)

    def __str__(self) -> str:
        return f"real {self.low:g} to {self.high:g}"


@dataclass(frozen=True)
class Choices:
    """One of a few values, listed from the simplest on; `weights` (default: equal) say how often each is drawn."""

    values: tuple[Any, ...]
    weights: tuple[int, ...] = ()

    def draw(self, rng: np.random.Generator) -> Any:
        """One seeded draw."""
        weights = np.array(self.weights or (1,) * len(self.values))
        return self.values[int(rng.choice(weights.size, p=weights / weights.sum()))]

    def strategy(self) -> st.SearchStrategy[Any]:
        """Hypothesis strategy shrinking to the first value."""
        return st.sampled_from(self.values)

    def __str__(self) -> str:
        return "one of " + ", ".join(str(v) for v in self.values)


@dataclass(frozen=True)
class Seeds:
    """A seed for arrays; 0 stands for the simplest array of its kind."""

    def draw(self, rng: np.random.Generator) -> int:
        """One seeded draw from 1 to 2^32 - 1."""
        return int(rng.integers(1, 2**32))

    def strategy(self) -> st.SearchStrategy[int]:
        """Hypothesis strategy shrinking to 0."""
        return st.integers(0, 2**32 - 1)

    def __str__(self) -> str:
        return "seed (0: the simplest)"


Parameter = Integers | Reals | Choices | Seeds

DIMENSIONS = Choices((1, 2, 3, 8, 64), weights=(3, 3, 3, 3, 1))
"""The ladder of dimensions: few, so that few programs are compiled; 64 is drawn less often, as it costs most."""


def _anything(case: Case) -> bool:
    return True


@dataclass(frozen=True)
class Domain:
    """The cases a claim speaks of: named parameters, and a condition that couples them (most draws should meet it)."""

    parameters: Mapping[str, Parameter]
    where: Callable[[Case], bool] = _anything
    condition: str = ""

    def draws(self, rng: np.random.Generator) -> Iterator[dict[str, Any]]:
        """Endless seeded draws that meet the condition."""
        while True:
            case = {name: parameter.draw(rng) for name, parameter in self.parameters.items()}
            if self.where(case):
                yield case

    def every(self) -> list[dict[str, Any]]:
        """All its cases, where every parameter is one of a few values; else an empty list."""
        choices = [p.values for p in self.parameters.values() if isinstance(p, Choices)]
        if len(choices) < len(self.parameters):
            return []
        return [
            case for values in product(*choices) if self.where(case := dict(zip(self.parameters, values, strict=True)))
        ]

    def strategy(self) -> st.SearchStrategy[dict[str, Any]]:
        """Hypothesis strategy over the same cases."""
        fields = {name: parameter.strategy() for name, parameter in self.parameters.items()}
        return st.fixed_dictionaries(fields).filter(self.where)

    def __str__(self) -> str:
        lines = [f"{name}: {parameter}" for name, parameter in self.parameters.items()]
        return "; ".join([*lines, self.condition] if self.condition else lines)


class Outcome(NamedTuple):
    """The verdict on one case: a margin (>= 0 holds) and the numbers that were compared, by name."""

    margin: float
    numbers: dict[str, Any]


def identity(left: Any, right: Any, *, tolerance: float, **numbers: Any) -> Outcome:
    """Compare two sides of an identity; `tolerance` is on the largest absolute difference and must be derived.

    Extra keyword arguments are kept beside `left`, `right` as numbers for the reader.
    """
    error = float(np.max(np.abs(np.asarray(left) - np.asarray(right)), initial=0.0))
    margin = 1.0 - error / tolerance if math.isfinite(error) and math.isfinite(tolerance) else -math.inf
    return Outcome(margin, {"left": left, "right": right, "error": error, "tolerance": tolerance, **numbers})


def at_most(value: Any, bound: Any, *, tolerance: float = 0.0, **numbers: Any) -> Outcome:
    """Check value <= bound, two real numbers; `tolerance` (absolute) allows for rounding and must be derived."""
    scale = max(abs(float(value)), abs(float(bound)), tolerance, 1e-300)
    margin = (float(bound) - float(value) + tolerance) / scale
    margin = margin if math.isfinite(margin) else -math.inf
    return Outcome(margin, {"value": value, "bound": bound, "tolerance": tolerance, **numbers})


def monte_carlo(samples: Any, expected: float, *, bias: float = 0.0, **numbers: Any) -> Outcome:
    """Compare the mean of independent `samples` with `expected`: margin 1 - |z| / MONTE_CARLO_Z.

    `samples` should be means of batches where single draws are far from normal. `bias` is a derived bound on the
    error of `expected` itself.
    """
    values = np.asarray(samples, dtype=float)
    standard_error = float(np.std(values, ddof=1) / math.sqrt(values.size))
    difference = max(abs(float(np.mean(values)) - expected) - bias, 0.0)
    z = difference / max(standard_error, 1e-300)
    shown = {"mean": float(np.mean(values)), "standard_error": standard_error, "expected": expected, "z": z}
    margin = 1.0 - z / MONTE_CARLO_Z if math.isfinite(z) and math.isfinite(standard_error) else -math.inf
    return Outcome(margin, {**shown, **numbers})


def worst(*outcomes: Outcome) -> Outcome:
    """The outcome with the smallest margin (NaN is the smallest), for a claim with several parts."""
    return min(outcomes, key=lambda outcome: -math.inf if math.isnan(outcome.margin) else outcome.margin)


class Step(NamedTuple):
    """One step of a symbolic proof: what it shows, and an expression that must simplify to zero (or a truth value)."""

    text: str
    residual: sympy.Basic | bool

    def holds(self) -> bool:
        """Whether the residual is zero (an expression, or every entry of a matrix) or true (a relation)."""
        if isinstance(self.residual, bool | sympy.logic.boolalg.BooleanAtom):
            return bool(self.residual)
        if isinstance(self.residual, sympy.MatrixBase):
            return all(sympy.simplify(entry) == 0 for entry in self.residual)
        return bool(sympy.simplify(self.residual) == 0)


@dataclass(frozen=True)
class Claim:
    """A statement of a paper, as printed or (id with a `*`) as corrected.

    **Arguments:**

    - `id`: as in the list of claims, e.g. "SC-L2"; the corrected one is "SC-L2*".
    - `title`: one short line. `printed`: where it is printed, or how it was found.
    - `statement`: text with LaTeX between dollar signs.
    - `kind`: identity, inequality, ordering, rate, or expectation (over training sets, by Monte Carlo).
    - `domain`, `check`: the cases, and the check of one case.
    - `method`: the independent route that the check compares with; never the same formula twice.
    - `expected`: the recorded verdict. `corrected_by`: id of the corrected claim, where it fails.
    - `proof`: a sympy derivation that runs, as steps; `proof_scope` says for which d, n, ... it is a proof.
    - `remark`: what a reader should know besides, e.g. what is only a numerical observation.
    - `cases`: how many seeded cases `python -m theory` checks; a domain with no more than so many is gone through once.
    - `clear`: a counterexample counts only if its margin is below -clear.

    Raises `ValueError` for a failing claim without `corrected_by`, or a proved one without `proof` and `proof_scope`.
    """

    id: str
    title: str
    printed: str
    statement: str
    kind: Kind
    domain: Domain
    check: Callable[[Case], Outcome]
    method: str
    expected: VerdictName
    corrected_by: str | None = None
    proof: Callable[[], Sequence[Step]] | None = None
    proof_scope: str = ""
    remark: str = ""
    cases: int = 1000
    clear: float = field(default=1e-3)

    def __post_init__(self) -> None:
        if self.expected == "fails" and self.corrected_by is None:
            raise ValueError(f"{self.id}: a claim that fails must name the corrected claim.")
        if self.expected == "proved" and (self.proof is None or not self.proof_scope):
            raise ValueError(f"{self.id}: a proved claim needs a proof and its scope.")
