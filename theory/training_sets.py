"""What slight corruption does on average over training sets: exact expectations for data from N(mu, I_d).

x_1 ... x_n iid N(mu, I_d), a = ||mu||² (`mean_square`); m their mean, S their *biased* covariance. Trained with the
embedding noise `noise_std` = γ on an embedding of unit norm, the optimal linear denoiser generates, as the horizon
grows,

    clean N(m, S),    corrupted N((1-s) m, S + s m m^T),    s = γ²/(1+γ²),

and quality is measured against P = N(mu, I). m and S are independent, and the law of S is invariant under rotations,
so:

**Entropy** (n > d). gap = ½ log(1 + s q), q = m^T S^-1 m ~ χ'²_d(n a)/χ²_{n-d}. With log(1 + x) = ∫ (1 - e^{-xv})
e^{-v} dv/v,

    E gap = ½ ∫_0^∞ (1+2u)^{-(n-d)/2} [1 - (1+2su)^{-d/2} exp(-n a s u/(1+2su))] du/u.

**Gain** G(s) = E W2²(P, clean) - E W2²(P, corrupted), any n >= 2:

    G(s) = (2s - s²) d/n - s² a - s (a + d/n) + 2 E[tr (S + s m m^T)^(1/2) - tr S^(1/2)].

It is strictly concave with G(0) = 0, so it has one optimum s* and is positive exactly on 0 < s < min(s_0, 1). The
last expectation is a mean over independent draws (`theory.wishart`), with control variates of known mean; every
estimate carries its standard error and depends on `seed` alone. All else is exact.

NumPy in float64, for one (n, d, a) at a time; not jittable. A condition embedding of norm |c| enters through s alone:
pass noise_std / |c|.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from theory._checks import require
from theory._training_draws import (
    Estimate,
    TrainingDraws,
    check_setting,
    default_draws,
    draw_training_sets,
    null_space_slope,
)
from theory.roots import rank_one_root_trace
from theory.wishart import check_sizes, draw_resolvent_at, kappa, mean_root

__all__ = [
    "Bracket",
    "Estimate",
    "conditional_variance",
    "default_draws",
    "entropy_gap",
    "entropy_gap_bounds",
    "entropy_gap_slope",
    "floored_entropy_gap",
    "gain_slope",
    "helpful_limit",
    "kappa",
    "large_n_coefficients",
    "mean_gain",
    "mean_root",
    "null_space_slope",
    "optimal_noise_std",
    "rank_one_root_trace",
    "wasserstein_gain",
]

_ENTROPY_STEP = 0.25
_Z95 = 1.959963984540054


def condition_share(noise_std: float) -> float:
    """s = γ²/(1+γ²) in [0, 1] for γ = `noise_std` >= 0; 1 for an infinite one.

    The form of `theory.linear.condition_noise_ratio` for a Python number, in float64 whatever JAX is set to. Raises
    `ValueError` for a negative or missing (NaN) `noise_std`.
    """
    require(noise_std >= 0, "noise_std", noise_std, "at least 0")
    return noise_std**2 / (1 + noise_std**2) if noise_std <= 1 else 1 / (1 + noise_std**-2)


class Bracket(NamedTuple):
    """An estimate of a noise level (may be infinite) with its 95 % confidence limits."""

    value: float
    low: float
    high: float


def _noise_of(s: float) -> float:
    """The inverse of `condition_share`, on s clipped to [0, 1]."""
    s = min(max(s, 0.0), 1.0)
    return math.inf if s >= 1 else math.sqrt(s / (1 - s))


def conditional_variance(n: int) -> float:
    """Var(x_i | Σ_j x_j) for x_1 ... x_n iid N(mu, I), n >= 2: the factor (n-1)/n of the identity (SC Lemma 5).

    Raises `ValueError` for n < 2.
    """
    check_sizes(n, 1)
    return (n - 1) / n


# ---------------------------------------------------------------- entropy


def _check_entropy(n: int, d: int, mean_square: float) -> None:
    check_setting(n, d, mean_square)
    require(
        n > d,
        "n",
        n,
        f"larger than d = {d} (else S is singular, both entropies are -inf and the gap is undefined: see "
        "floored_entropy_gap)",
    )


def entropy_gap(n: int, d: int, mean_square: float, noise_std: float) -> float:
    """E[H(corrupted) - H(clean)] over training sets, in nats; n > d.

    Trapezoidal sum of the module's integral in v = log u, step 1/4. For Re u > 0 both factors are at most 1 in
    modulus and |1 - e^{-z}| <= |z|, so the integrand is bounded on |Im v| < π/2 and the rule's error is at most 2 M
    e^{-π²/step} = 1e-17 M, M = ∫ |integrand| on the strip's edge, of the order of the gap; the ends leave out a
    relative 1e-17. In all: 1e-13 relative, rounding included. Raises for n <= d. First order in s:
    `entropy_gap_slope`.
    """
    _check_entropy(n, d, mean_square)
    s = condition_share(noise_std)
    if s == 0:
        return 0.0
    k, total = n - d, n * mean_square + d
    low = math.log(1e-17 / (k + s * total))
    high = math.log(2.0) + 80.0 / k + 5.0
    u = np.exp(np.arange(low, high, _ENTROPY_STEP))
    exponent = 0.5 * d * np.log1p(2 * s * u) + n * mean_square * s * u / (1 + 2 * s * u)
    return float(0.5 * _ENTROPY_STEP * np.sum((1 + 2 * u) ** (-k / 2) * -np.expm1(-exponent)))


def entropy_gap_slope(n: int, d: int, mean_square: float) -> float:
    """The gap's derivative with respect to s (and γ²) at 0: (n a + d)/(2 (n-d-2)); infinite for d < n <= d + 2.

    Raises `ValueError` for n <= d or where `wasserstein_gain` does.
    """
    _check_entropy(n, d, mean_square)
    return (n * mean_square + d) / (2 * (n - d - 2)) if n > d + 2 else math.inf


def entropy_gap_bounds(n: int, d: int, mean_square: float, noise_std: float) -> tuple[float, float]:
    """(low, high) with low <= E gap <= high in closed form, n > d.

    With x = s (n a + d)/(n-d): Jensen for the convex D -> log(1 + s N/D), log(1+X) >= X/(1+X) and Cauchy-Schwarz give
    low = ½ x/(1 + x (1 + 2(d + 2na)/(na + d)²)); Jensen for the concave log gives high = ½ log(1 + x (n-d)/(n-d-2)),
    infinite for n <= d + 2. With d/n bounded below 1 both are of the order of s (a + d/n): there is no factor d.
    Raises `ValueError` for n <= d or where `wasserstein_gain` does.
    """
    _check_entropy(n, d, mean_square)
    s, total = condition_share(noise_std), n * mean_square + d
    x = s * total / (n - d)
    spread = 1 + 2 * (d + 2 * n * mean_square) / total**2
    high = 0.5 * math.log1p(s * total / (n - d - 2)) if n > d + 2 else math.inf
    return 0.5 * x / (1 + x * spread), high


def floored_entropy_gap(
    n: int,
    d: int,
    mean_square: float,
    noise_std: float,
    *,
    floor: float,
    draws: int | None = None,
    seed: int = 0,
) -> Estimate:
    """E of the entropy gap after noise of variance `floor` > 0 is added to both outputs, in nats; n <= d included.

    E ½ log(1 + s m^T (S + floor I)^-1 m), by Monte Carlo. As floor -> 0 it tends to `entropy_gap` for n > d and to
    infinity for n <= d, where corruption adds a dimension to a degenerate law. Raises `ValueError` for another
    `floor` or where `wasserstein_gain` does.
    """
    check_setting(n, d, mean_square)
    require(0 < floor < math.inf, "floor", floor, "finite and above 0")
    sample = draw_training_sets(n, d, float(mean_square), draws, seed)
    resolvent = draw_resolvent_at(n - 1, d, sample.size.size, seed, time=n * floor)
    return sample.estimate(0.5 * np.log1p(condition_share(noise_std) * sample.size * resolvent))


# ---------------------------------------------------------------- gain in squared 2-Wasserstein distance


class _Gain(NamedTuple):
    """G, G' and G'' at s, for one (n, d, a) and one set of draws."""

    n: int
    d: int
    mean_square: float
    sample: TrainingDraws

    def value(self, s: float) -> Estimate:
        n, size = self.n, self.sample.size
        noise = 2 * self.sample.resolvents.added(s * size) / math.sqrt(n) - s * size / n
        mean, error = self.sample.estimate(noise)
        return Estimate(mean_gain(n, self.d, self.mean_square, s=s) + mean, error)

    def slope(self, s: float) -> Estimate:
        n, d, size = self.n, self.d, self.sample.size
        noise = size * (2 * self.sample.resolvents.slope(s * size) / math.sqrt(n) - 1 / n)
        mean, error = self.sample.estimate(noise)
        return Estimate(2 * (1 - s) * d / n - 2 * s * self.mean_square + mean, error)

    def curvature(self, s: float) -> float:
        n, d, size = self.n, self.d, self.sample.size
        bend = 2 * size**2 * self.sample.resolvents.curvature(s * size) / math.sqrt(n)
        return -2 * (d / n + self.mean_square) + self.sample.estimate(bend).value


def _gain(n: int, d: int, mean_square: float, draws: int | None, seed: int) -> _Gain:
    check_setting(n, d, mean_square)
    return _Gain(n, d, mean_square, draw_training_sets(n, d, float(mean_square), draws, seed))


def mean_gain(n: int, d: int, mean_square: float, *, s: float) -> float:
    """The mean's part of the gain, E||m - mu||² - E||(1-s) m - mu||² = (2s - s²) d/n - s² a: shrinkage as in James
    and Stein.

    Positive for s < 2d/(d + na), largest at s = d/(d + na). Needs 0 <= s <= 1. Raises `ValueError` for another s or
    where `wasserstein_gain` does.
    """
    check_setting(n, d, mean_square)
    require(0 <= s <= 1, "s", s, "in [0, 1]")
    return (2 * s - s**2) * d / n - s**2 * mean_square


def wasserstein_gain(
    n: int, d: int, mean_square: float, noise_std: float, *, draws: int | None = None, seed: int = 0
) -> Estimate:
    """E W2²(P, clean) - E W2²(P, corrupted) over training sets, P = N(mu, I): positive where corruption helps.

    n >= 2, d >= 1 (n <= d included), `mean_square` = ||mu||² >= 0, `noise_std` in [0, inf]. Returns the estimate and
    its standard error; draws default to `default_draws(d)` and are shared between calls of the same n, d and seed, so
    curves in `noise_std` are smooth. Raises `ValueError` outside these ranges.
    """
    return _gain(n, d, mean_square, draws, seed).value(condition_share(noise_std))


def gain_slope(n: int, d: int, mean_square: float) -> float:
    """dG/ds (and dG/dγ²) at 0: 2d/n + (κ-1)(a + d/n) >= 2d/n; infinite for n <= d + 1. Exact.

    Raises `ValueError` where `wasserstein_gain` does.
    """
    check_setting(n, d, mean_square)
    return 2 * d / n + (kappa(n, d) - 1) * (mean_square + d / n)


def optimal_noise_std(n: int, d: int, mean_square: float, *, draws: int | None = None, seed: int = 0) -> Bracket:
    """The noise_std with the largest gain, with 95 % limits; infinite where the gain still rises at s = 1.

    The limits are s* ± 1.96 standard errors of the slope over the curvature, taken to the scale of noise_std. Raises
    `ValueError` where `wasserstein_gain` does, or where the standard error is too large to see that slight corruption
    helps.
    """
    gain = _gain(n, d, mean_square, draws, seed)
    return _bracket(*_optimum(gain))


def _optimum(gain: _Gain) -> tuple[float, float]:
    """s* (1 where the slope is still positive there) and its standard error."""
    last = gain.slope(1.0)
    if last.value >= 0:
        return 1.0, 0.0 if last.value > _Z95 * last.standard_error else last.standard_error / -gain.curvature(1.0)
    low = _positive_start(lambda s: gain.slope(s).value)
    root = math.exp(brentq(lambda v: gain.slope(math.exp(v)).value, math.log(low), 0.0, xtol=1e-9))
    return root, gain.slope(root).standard_error / -gain.curvature(root)


def _positive_start(slope: Callable[[float], float]) -> float:
    """An s at which the slope is positive: it is at small s, up to the estimate's error."""
    s = 1e-3
    while slope(s) <= 0:
        s /= 10
        require(
            s > 1e-15, "draws", "an estimate that is negative everywhere", "raised: the standard error is too large"
        )
    return s


def _bracket(s: float, error: float) -> Bracket:
    return Bracket(_noise_of(s), _noise_of(s - _Z95 * error), _noise_of(s + _Z95 * error))


def helpful_limit(n: int, d: int, mean_square: float, *, draws: int | None = None, seed: int = 0) -> Bracket:
    """The largest noise_std that does not hurt (gain >= 0), with 95 % limits; infinite where every noise helps.

    Corruption helps exactly below it, since the gain is concave with G(0) = 0 and G'(0) > 0. Raises `ValueError`
    where `wasserstein_gain` does, or where the standard error is too large to see that slight corruption helps.
    """
    gain = _gain(n, d, mean_square, draws, seed)
    last = gain.value(1.0)
    if last.value >= 0:
        error = last.standard_error
        low = 1.0 if last.value > _Z95 * error else 1.0 + (last.value - _Z95 * error) / -gain.slope(1.0).value
        return Bracket(math.inf, _noise_of(low), math.inf)
    best, _ = _optimum(gain)
    root = math.exp(brentq(lambda v: gain.value(math.exp(v)).value, math.log(best), 0.0, xtol=1e-9))
    return _bracket(root, gain.value(root).standard_error / -gain.slope(root).value)


def large_n_coefficients(d: int, mean_square: float) -> tuple[float, float]:
    """(A, B) of the gain at large n: G = s A/n - s² B + ..., A = 2d + (3d+7)a/8, B = a + a²/4.

    So s* ~ A/(2nB), corruption helps for n γ² < A/B, and the best gain is A²/(4 B n²). Needs d << n and s << 1.
    Raises `ValueError` for d < 1 or a negative or infinite `mean_square`.
    """
    check_sizes(2, d)
    require(0 <= mean_square < math.inf, "mean_square", mean_square, "finite and at least 0")
    return 2 * d + (3 * d + 7) * mean_square / 8, mean_square + mean_square**2 / 4
