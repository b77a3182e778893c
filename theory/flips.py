"""What flipping labels does to the Gaussian that a class's linear denoiser generates.

Two classes N(±mu, I_d), a = ||mu||². A share η of the points labelled + comes from the other class, each point
independently. The class's mean m and biased covariance S are those of x_i = σ_i mu + z_i, P(σ_i = -1) = η, and N(m,
S) is what is generated without guidance. As E||m - mu||² + E tr S = 4η² a + d + 4η(1-η) a whatever n,

    E W2²(P, flipped) - E W2²(P, clean) = 4 η a - 2 E[tr S_η^(1/2) - tr S_0^(1/2)],     P = N(mu, I).

With F ~ Binomial(n, η) flips, n S_η = W + y y^T, W ~ Wishart_d(n-2) and y ~ N(κ mu, I) independent, κ² = 4 F (n-F)/n.
Given W's rotation invariance only ||y||² ~ χ'²_d(κ² a) matters; it is a Poisson mixture of central chi-squares, and a
concave function's mean is concave in κ². Its slope at 0 follows from homogeneity (Euler): E tr S_0^(1/2)/(2 d (n-1))
per unit of κ² a. As E κ² = 4 (n-1) η (1-η), the change is at least

    4 a η² + 4 a η (1-η) (1 - E tr S_0^(1/2)/d)  > 0:   without guidance flips never help in this model.

With guidance the generated mean overshoots and the variance shrinks; flips counteract both, and can help: the
population's (n = ∞) change is in closed form. NumPy in float64, one case at a time; not jittable.
"""

import math

import jax
import numpy as np

from theory._checks import require, require_between, require_float64
from theory._training_draws import ControlVariates, Estimate, check_setting, default_draws
from theory.guidance import guided_eigenmodes
from theory.wishart import draw_resolvents, mean_root

_eigenmodes = jax.jit(guided_eigenmodes)


def _check(n: int, d: int, mean_square: float, eta: float) -> None:
    check_setting(n, d, mean_square)
    require_between("eta", eta, 0.0, 1.0)


def flip_change(n: int, d: int, mean_square: float, eta: float, *, draws: int | None = None, seed: int = 0) -> Estimate:
    """E W2²(P, flipped) - E W2²(P, clean) over training sets, two classes N(±mu, I), no guidance: positive where
    flips hurt.

    n >= 2 points carry the label, ||mu||² = `mean_square`, each comes from the other class with probability `eta` in
    [0, 1]. Monte Carlo over independent draws with common noise for both terms; returns the estimate and its standard
    error. Raises `ValueError` outside these ranges, or for fewer than 64 `draws`.
    """
    _check(n, d, mean_square, eta)
    draws = default_draws(d) if draws is None else draws
    require(draws >= 64, "draws", draws, "at least 64")
    resolvents = draw_resolvents(n - 2, d, draws, seed)
    rng = np.random.default_rng([seed, n, d, 7])
    along = rng.standard_normal(draws)
    across = rng.chisquare(d - 1, draws) if d > 1 else np.zeros(draws)
    flips = rng.binomial(n, eta, draws)
    scatter = 4 * flips * (n - flips) / n  # κ²
    shift = np.sqrt(scatter * mean_square)
    clean, flipped = along**2 + across, (along + shift) ** 2 + across
    change = resolvents.added(flipped) - resolvents.added(clean)
    controls = [along * shift, scatter - 4 * (n - 1) * eta * (1 - eta), along**2 - 1, across - (d - 1)]
    controls.append(resolvents.first - (n - 2))
    mean, error = ControlVariates.of(controls).estimate(change)
    return Estimate(4 * eta * mean_square - 2 * mean / math.sqrt(n), 2 * error / math.sqrt(n))


def flip_change_bound(n: int, d: int, mean_square: float, eta: float) -> float:
    """A lower bound of `flip_change`, exact: 4 a η² + 4 a η (1-η) (1 - E tr S^(1/2)/d), positive for a, η > 0.

    Raises `ValueError` where `flip_change` does.
    """
    _check(n, d, mean_square, eta)
    return 4 * mean_square * eta * (eta + (1 - eta) * (1 - mean_root(n, d)))


def flipped_moments(mean_square: float, eta: float) -> tuple[float, float]:
    """Mean and variance along mu of a class in the population, after flips: (1-2η) ||mu|| and 1 + 4η(1-η) a.

    Raises `ValueError` unless `mean_square` >= 0 is finite and `eta` in [0, 1].
    """
    _check(2, 1, mean_square, eta)
    return (1 - 2 * eta) * math.sqrt(mean_square), 1 + 4 * eta * (1 - eta) * mean_square


def guided_flip_change(mean_square: float, eta: float, guidance: float) -> float:
    """The population's W2²(P, flipped) - W2²(P, clean) with guidance w >= 0, horizon infinite: negative where flips
    help.

    Two equally frequent classes N(±mu, I) with symmetric flips, which leave the pooled data N(0, I + mu mu^T) as it
    is. All directions but mu's are exact before and after, so d does not matter. Without guidance: 4η² a +
    (√(1+4η(1-η)a) - 1)². Needs float64 enabled in JAX. Raises `ValueError` outside these ranges, `TypeError` without
    float64.
    """
    _check(2, 1, mean_square, eta)
    require(0 <= guidance < math.inf, "guidance", guidance, "finite and at least 0")
    laws = [flipped_moments(mean_square, share) for share in (eta, 0.0)]
    means, variances = (np.array(x, dtype=float) for x in zip(*laws, strict=True))
    law = _eigenmodes(means, variances, np.zeros(2), np.full(2, 1.0 + mean_square), float(guidance))
    require_float64("JAX's default precision", law[0])
    mean, variance = (np.asarray(x) for x in law)
    distances = (mean - math.sqrt(mean_square)) ** 2 + (np.sqrt(variance) - 1) ** 2
    return float(distances[0] - distances[1])
