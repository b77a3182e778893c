"""Claims on limiting cases of the gain and of the entropy gap: n = d + 1, gains at every strength, growth with d.

Notation of `theory.training_sets`; the independent route of the gains is brute force, `theory.claims._simulate`.
"""

import math

import numpy as np
from scipy.special import poch

from theory.claims._simulate import Sets, agree, draw_sets, gains, pair_means, share
from theory.claims.claim import (
    DIMENSIONS,
    MONTE_CARLO_Z,
    Case,
    Choices,
    Claim,
    Domain,
    Integers,
    Outcome,
    Reals,
    Seeds,
    at_most,
    worst,
)
from theory.training_sets import entropy_gap, helpful_limit

_SMALL, _SMALLER = 1e-2, 1e-4
"""The two noise_std between which the logarithm at n = d + 1 is measured."""
_LOG_RANGE = math.log(1e-8), math.log(10.0)
"""Of the last diagonal entry of Bartlett's factor."""
_WITHIN = 0.05
"""Relative distance from the limit that is allowed at these noise levels."""


def _critical_coefficient(d: int, mean_square: float) -> float:
    """K = (n a + d) E[chi_d] / (d √n), n = d + 1."""
    n = d + 1
    return (n * mean_square + d) * math.sqrt(2) * float(poch(d / 2, 0.5)) / (d * math.sqrt(n))


def _critical_sets(d: int, mean_square: float, count: int, seed: int) -> tuple[Sets, np.ndarray]:
    """Training sets of n = d + 1 points, almost singular ones drawn more often, and their weights (mean about 1).

    The last diagonal entry of Bartlett's factor, |N(0, 1)|, decides how near to singular S is: its logarithm is drawn
    uniformly.
    """
    n, rng = d + 1, np.random.default_rng([seed, d, 14])
    mu = math.sqrt(mean_square) * np.eye(d)[0]
    factor = np.tril(rng.standard_normal((count, d, d)), -1)
    factor[:, np.arange(d), np.arange(d)] = np.sqrt(rng.chisquare(d - np.arange(d), (count, d)))
    last = np.exp(rng.uniform(*_LOG_RANGE, count))
    factor[:, -1, -1] = last
    weight = last * (_LOG_RANGE[1] - _LOG_RANGE[0]) * math.sqrt(2 / math.pi) * np.exp(-(last**2) / 2)
    means = mu + rng.standard_normal((count, d)) / math.sqrt(n)
    return Sets(mu, means, factor @ factor.transpose(0, 2, 1) / n), weight


def _check_critical(case: Case) -> Outcome:
    """The growth of G/s between two strengths, over that of log(1/γ)."""
    d, a = case["d"], case["mean_square"]
    sets, weight = _critical_sets(d, a, 20_000 if d <= 3 else 8000, case["seed"])
    rates = [gains(sets, share(noise_std)) / share(noise_std) for noise_std in (_SMALL, _SMALLER)]
    K = _critical_coefficient(d, a)
    samples = weight * (rates[1] - rates[0]) / math.log(_SMALL / _SMALLER)
    return agree(samples, K, bias=_WITHIN * K)


def _check_every_strength(case: Case) -> Outcome:
    """The simulated gain at one strength, by its lower confidence limit, and the library's limit of what helps."""
    n, d, a, s = 10, 4, 0.3, case["s"]
    values = pair_means(gains(draw_sets(n, d, a, 6000, case["seed"]), s))
    mean, error = float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(len(values))
    limit = helpful_limit(n, d, a, draws=1024, seed=1)
    unbounded = at_most(1 / limit.low, 0.0, limit=limit.value)
    return worst(at_most(MONTE_CARLO_Z * error, mean, gain=mean, standard_error=error), unbounded)


def _check_factor(case: Case) -> Outcome:
    """The gap between two multiples of s d whose constants do not depend on d."""
    d, ratio = case["d"], case["more"]
    if case["limit"] == "n - d fixed":
        k, a = ratio, case["a"]
        n = d + k
        low, high = (1 + a) / (12 * k), (1 + a * (1 + k)) / (2 * (k - 2))
    else:
        n, a, b = (ratio + 1) * d, case["a"] * d, case["a"]
        k = n - d
        low, high = (ratio + 1) * b / (12 * ratio), 1.5 * ((ratio + 1) * b + 1) / ratio
    s = case["part"] * min(1.0, k / (n * a + d))
    gap = entropy_gap(n, d, a, math.sqrt(s / (1 - s)))
    numbers = {"n": n, "mean_square": a, "s": s, "gap": gap}
    rounding = 1e-12 * gap  # the quadrature's error and rounding
    below = at_most(low * s * d, gap, tolerance=rounding, **numbers)
    return worst(below, at_most(gap, high * s * d, tolerance=rounding, **numbers))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="F-GAIN-CRITICAL",
        title="With one point more than dimensions the gain goes like gamma^2 log(1/gamma)",
        printed="independent derivation",
        statement=(
            "For $n = d + 1$: $G \\sim K \\gamma^2 \\log(1/\\gamma)$, $K = \\frac{(n a + d)\\, E\\chi_d}{d \\sqrt n}$. "
            "Read: between $\\gamma = 10^{-2}$ and $10^{-4}$, $G/s$ grows like $K \\log(1/\\gamma)$, within 5 %."
        ),
        kind="expectation",
        domain=Domain(
            {"d": Choices((1, 2, 3, 8)), "mean_square": Reals(0.0, 10.0), "seed": Seeds()}, condition="n = d + 1"
        ),
        check=_check_critical,
        method="Bures distances of simulated training sets, almost singular ones drawn more often and weighted",
        expected="verified",
        remark=(
            "The smallest eigenvalue of $n S$ has the density $c\\, x^{-1/2}$ near 0 with $c = E\\chi_d / 2$ (Edelman "
            "1988); its share of $E\\, tr S^{-1/2}$ diverges like a logarithm, cut off where $x$ is of order $s$. "
            "Verified is the constant; the rate of approach is a numerical observation."
        ),
        cases=20,
    ),
    Claim(
        id="F-GAIN-ALWAYS",
        title="Sometimes every strength helps",
        printed="independent derivation",
        statement="At $n = 10$, $d = 4$, $||\\mu||^2 = 0.3$ the gain is positive at every $0 < s \\le 1$: $s_0 > 1$.",
        kind="expectation",
        domain=Domain({"s": Reals(0.01, 1.0), "seed": Seeds()}),
        check=_check_every_strength,
        method="lower confidence limits of simulated training sets' gains; the library's limit of what helps",
        expected="verified",
        remark="By F-GAIN-CONCAVE a positive gain at $s = 1$ alone is enough: there it is about 0.105.",
        cases=24,
    ),
    Claim(
        id="F-ENTROPY-FACTOR",
        title="Where the entropy gap does grow in proportion to the dimension",
        printed="independent derivation; the two limits in which SC-T1 holds",
        statement=(
            "Let $s (n a + d) \\le n - d$. With $n - d = k \\ge 3$ and $a$ fixed, $\\frac{1 + a}{12 k} \\le "
            "\\frac{E\\,gap}{s d} \\le \\frac{1 + a (1 + k)}{2 (k - 2)}$; with $n = (k + 1) d$ and $a = b d$, "
            "$\\frac{(k + 1) b}{12 k} \\le \\frac{E\\,gap}{s d} \\le \\frac{3 ((k + 1) b + 1)}{2 k}$: both "
            "$\\Theta(\\gamma^2 d)$."
        ),
        kind="rate",
        domain=Domain(
            {
                "d": DIMENSIONS,
                "limit": Choices(("n - d fixed", "a grows like d")),
                "more": Integers(3, 100, log=True),
                "a": Reals(0.0, 10.0),
                "part": Reals(1e-6, 0.9, log=True),
            },
            condition="more: k; a: a, or b; part: s over its largest",
        ),
        check=_check_factor,
        method="elementary bounds, from Jensen's and Cauchy-Schwarz's inequalities, against the integral by quadrature",
        expected="verified",
        remark="The constants are those of F-ENTROPY-ORDER, with $x \\le 1$, $v \\le 4$ and $k - 2 \\ge k/3$.",
    ),
)
