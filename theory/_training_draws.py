"""Draws of what an expectation over training sets needs, with control variates of known mean.

x_1 ... x_n iid N(mu, I_d), a = ||mu||²: n ||m||² ~ χ'²_d(n a) is independent of n S, and m's direction is as good as
fixed (rotations leave the law of S alone). So a draw is one number n ||m||² and one continued fraction t -> u^T (n S
+ t)^-1 u (`theory.wishart`). NumPy in float64.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from scipy.special import poch
from scipy.stats import poisson

from theory._checks import require
from theory.wishart import Resolvents, check_sizes, draw_resolvents, kappa


class Estimate(NamedTuple):
    """A Monte Carlo mean and its standard error."""

    value: float
    standard_error: float


def check_setting(n: int, d: int, mean_square: float) -> None:
    check_sizes(n, d)
    require(0 <= mean_square < math.inf, "mean_square", mean_square, "finite and at least 0")


class ControlVariates(NamedTuple):
    """Least squares on control variates of known mean zero, with a first column of ones.

    `inverse` is the pseudo-inverse of `columns`: its first row holds the weights of the corrected mean. `leverage` is
    the diagonal of their product: a draw's pull on its own fitted value.
    """

    columns: Float[np.ndarray, "draws terms"]
    inverse: Float[np.ndarray, "terms draws"]
    leverage: Float[np.ndarray, " draws"]

    @classmethod
    def of(cls, terms: list[Float[np.ndarray, " draws"]]) -> "ControlVariates":
        """From the terms of mean zero; a term that is constant (zero) is harmless."""
        columns = np.stack([np.ones_like(terms[0]), *terms], axis=1)
        inverse = np.linalg.pinv(columns)
        return cls(columns, inverse, np.minimum(np.sum(columns * inverse.T, axis=1), 1 - 1e-6))

    def estimate(self, values: Float[np.ndarray, " draws"]) -> Estimate:
        """Mean of `values`: the fit's intercept, with the jackknife's correction of its bias and its standard error.

        Both come from residuals with the draw itself left out (MacKinnon and White's HC3), so that a draw with a large
        leverage does not hide its own error. Linear in `values`.
        """
        left_out = (values - self.columns @ (self.inverse @ values)) / (1 - self.leverage)
        influence = self.inverse[0] * left_out
        value = self.inverse[0] @ values + (1 - 1 / len(values)) * np.sum(influence)
        return Estimate(float(value), float(np.linalg.norm(influence)))


class TrainingDraws(NamedTuple):
    """Draws of n ||m||² (`size`) and of the resolvents, and their control variates."""

    resolvents: Resolvents
    size: Float[np.ndarray, " draws"]
    variates: ControlVariates

    def estimate(self, values: Float[np.ndarray, " draws"]) -> Estimate:
        """The expectation over training sets of what `values` holds for each draw."""
        return self.variates.estimate(values)


def default_draws(d: int) -> int:
    """Draws used where none are asked for: 65536/d, between 256 and 4096 (large matrices fluctuate less)."""
    return int(np.clip(2**16 // d, 256, 4096))


@lru_cache(maxsize=6)
def draw_training_sets(n: int, d: int, mean_square: float, draws: int | None, seed: int) -> TrainingDraws:
    draws = default_draws(d) if draws is None else draws
    require(draws >= 64, "draws", draws, "at least 64")
    resolvents = draw_resolvents(n - 1, d, draws, seed)
    rng = np.random.default_rng([seed, n, d, 6])
    size = (math.sqrt(n * mean_square) + rng.standard_normal(draws)) ** 2
    size = size + (rng.chisquare(d - 1, draws) if d > 1 else 0.0)
    return TrainingDraws(resolvents, size, _controls(n, d, mean_square, resolvents, size))


def _controls(
    n: int,
    d: int,
    mean_square: float,
    resolvents: Resolvents,
    size: Float[np.ndarray, " draws"],
) -> ControlVariates:
    """Quadratic polynomials, of mean zero, in the independent n ||m||², A_1 and B_1, and the leading term."""
    total, variance = n * mean_square + d, 2 * (d + 2 * n * mean_square)
    moments = [(size, total, variance), (resolvents.first, n - 1, 2 * (n - 1))]
    if d > 1:
        moments.append((resolvents.second, d - 1, 2 * (d - 1)))
    unit = [(x - mean) / math.sqrt(var) for x, mean, var in moments]
    terms = [*unit]
    for i, x in enumerate(unit):
        terms += [x**2 - 1] + [x * y for y in unit[:i]]
    leading = _leading(n, d, mean_square, resolvents, size)
    return ControlVariates.of(terms if leading is None else [*terms, leading])


def _leading(
    n: int,
    d: int,
    mean_square: float,
    resolvents: Resolvents,
    size: Float[np.ndarray, " draws"],
) -> Float[np.ndarray, " draws"] | None:
    """The gain's random part at leading order in s, less its exact mean: (m^T S^(-1/2) m - ||m||²), or ||P m|| for n
    <= d.

    None for d < n < d + 5, where its fourth moment, hence a trustworthy fit, does not exist.
    """
    if n <= d:
        inside_null_space = resolvents.times[0] * resolvents.values[:, 0]
        return 2 * np.sqrt(size * inside_null_space / n) - null_space_slope(n, d, mean_square)
    if n < d + 5:
        return None
    slope = size * (2 * resolvents.slope(0 * size) / math.sqrt(n) - 1 / n)
    return slope - (kappa(n, d) - 1) * (mean_square + d / n)


def null_space_slope(n: int, d: int, mean_square: float) -> float:
    """dG/dγ at 0 for n <= d: 2 E||projection of m on the null space of S||, in closed form.

    ||P m||² = ||m||² β with n ||m||² ~ χ'²_d(na) and β ~ Beta((d-n+1)/2, (n-1)/2) independent, so the mean
    factorises. Zero for n > d, where the gain is of order γ². Raises `ValueError` unless n >= 2, d >= 1 and
    `mean_square` >= 0 is finite.
    """
    check_setting(n, d, mean_square)
    if n > d:
        return 0.0
    null_half = (d - n + 1) / 2
    beta = poch(null_half, 0.5) / poch(d / 2, 0.5)  # poch(x, 1/2) = Γ(x+1/2)/Γ(x)
    return 2 * float(beta) * mean_noncentral_chi(d, n * mean_square) / math.sqrt(n)


def mean_noncentral_chi(d: int, noncentrality: float) -> float:
    """E ||z|| for z ~ N(v, I_d), ||v||² = `noncentrality`: the Poisson mixture of E χ_{d+2k} = √2
    Γ((d+1)/2+k)/Γ(d/2+k)."""
    rate = noncentrality / 2
    reach = 12 * math.sqrt(rate) + 40  # beyond it the Poisson law has mass below 1e-20
    k = np.arange(max(0, math.floor(rate - reach)), math.ceil(rate + reach))
    mass = poisson.pmf(k, rate)
    return float(math.sqrt(2) * (mass @ poch(d / 2 + k, 0.5)) / np.sum(mass))
