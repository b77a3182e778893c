"""Claims on the exact parts of the gain: shrinkage of the mean, and what a regression can add."""

import math
from collections.abc import Sequence

import jax
import numpy as np
import sympy as sp

from theory.claims._simulate import EPS
from theory.claims.cases import direction, training_moments
from theory.claims.claim import (
    DIMENSIONS,
    Case,
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
    worst,
)
from theory.linear import condition_noise_ratio
from theory.training_sets import mean_gain

_ratio = jax.jit(condition_noise_ratio)
_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(3)


def _check_shrinkage(case: Case) -> Outcome:
    """Expectation over each coordinate of m ~ N(mu, I/n) by Gauss-Hermite quadrature, exact for quadratics."""
    n, d, a, s = case["n"], case["d"], case["mean_square"], case["s"]
    mu = math.sqrt(a) * direction(d, case["seed"])[:, None]
    m = mu + _NODES / math.sqrt(n)
    expected = float(np.sum(((m - mu) ** 2 - ((1 - s) * m - mu) ** 2) @ _WEIGHTS) / np.sum(_WEIGHTS))
    # sums of 3 d terms, each a difference of squares up to 2 (|mu| + 3/√n)²
    tolerance = 16 * (3 * d + 8) * EPS * (a + 9 * d / n)
    return identity(mean_gain(n, d, a, s=s), expected, tolerance=tolerance)


def _prove_shrinkage() -> Sequence[Step]:
    mu, n, s, z, d, a = sp.symbols("mu n s z d a", positive=True)
    density = sp.exp(-(z**2) / 2) / sp.sqrt(2 * sp.pi)
    moments = [sp.integrate(z**k * density, (z, -sp.oo, sp.oo)) for k in range(3)]
    m = mu + z / sp.sqrt(n)
    terms = sp.Poly(sp.expand((m - mu) ** 2 - ((1 - s) * m - mu) ** 2), z).all_coeffs()[::-1]
    mean = sum(c * moment for c, moment in zip(terms, moments, strict=True))
    total = (2 * s - s**2) * d / n - s**2 * a
    best = sp.solve(sp.diff(total, s), s)[0]
    return [
        Step("One coordinate: the mean over $m \\sim N(\\mu, 1/n)$.", mean - ((2 * s - s**2) / n - s**2 * mu**2)),
        Step("Summed over $d$ coordinates it is largest at $s = d/(d + n a)$.", best - d / (d + n * a)),
    ]


def _check_added_trace(case: Case) -> Outcome:
    """Least squares of x on (c + γ ξ, b + τ ζ), ξ and ζ averaged over, from its normal equations."""
    m, _ = training_moments(50, case["d"], case["mean_square"], case["seed"])
    code = case["norm"] * direction(case["d_emb"], case["seed"])
    constants = np.concatenate([code, case["extra"] * direction(2, case["seed"])])
    noise = np.repeat([case["noise_std"] ** 2, case["extra_noise"] ** 2], [case["d_emb"], 2])
    gram = np.outer(constants, constants) + np.diag(noise)
    explained = float(constants @ np.linalg.solve(gram, constants))
    size, s = float(m @ m), float(_ratio(case["noise_std"], case["norm"]))
    condition = (float(constants @ constants) + float(noise.max())) / float(noise.min())
    rounding = 16 * constants.size * EPS * condition * size
    below = at_most(size * (1 - explained), s * size, tolerance=rounding)
    if case["extra"] > 0:
        return below
    return worst(below, identity(size * (1 - explained), s * size, tolerance=rounding + 1e-300))


CLAIMS: tuple[Claim, ...] = (
    Claim(
        id="F-SHRINK",
        title="The mean's part of the gain is James-Stein shrinkage",
        printed="independent derivation",
        statement="$E||m - \\mu||^2 - E||(1-s) m - \\mu||^2 = (2s - s^2) \\frac{d}{n} - s^2 ||\\mu||^2$.",
        kind="identity",
        domain=Domain(
            {
                "n": Integers(2, 10_000, log=True),
                "d": DIMENSIONS,
                "mean_square": Reals(0.0, 1e4, log=True),
                "s": Reals(0.0, 1.0),
                "seed": Seeds(),
            }
        ),
        check=_check_shrinkage,
        method="Gauss-Hermite quadrature over each coordinate of m",
        expected="proved",
        proof=_prove_shrinkage,
        proof_scope="every n and d: coordinates are independent and their contributions add",
    ),
    Claim(
        id="F-ADDED-TRACE",
        title="No averaged linear regression adds more than s times the squared mean",
        printed="independent derivation",
        statement=(
            "Regressing one class on its perturbed embedding $c + \\gamma \\xi$, $\\xi$ averaged over, and on any "
            "further noisy constants, adds at most $s ||m||^2$ to the trace of the residual second moment, "
            "$s = \\gamma^2/(|c|^2+\\gamma^2)$; exactly that with no further ones."
        ),
        kind="inequality",
        domain=Domain(
            {
                "d": DIMENSIONS,
                "d_emb": Choices((1, 2, 5)),
                "mean_square": Reals(0.0, 10.0),
                "norm": Reals(0.1, 10.0),
                "noise_std": Reals(0.01, 10.0, log=True),
                "extra": Reals(0.0, 5.0),
                "extra_noise": Reals(0.01, 10.0, log=True),
                "seed": Seeds(),
            }
        ),
        check=_check_added_trace,
        method="normal equations of the whole regression, solved numerically",
        expected="verified",
        remark="This bounds the distance between the generated laws; the entropy is not bounded by it.",
    ),
)
