"""Training sets drawn and measured by brute force, in NumPy: the independent route of the claims about expectations.

Dense Wishart matrices (Bartlett's decomposition, so the cost does not grow with n), eigenvalues of every covariance,
and the Bures distance to N(mu, I) from its definition. Nothing here knows a formula of `theory.training_sets`.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from theory.claims.claim import MONTE_CARLO_Z, Outcome

EPS = float(np.finfo(float).eps)


class Sets(NamedTuple):
    """Means, biased covariances and the true mean of many training sets of n points each from N(mu, I)."""

    mu: Float[np.ndarray, " d"]
    means: Float[np.ndarray, "sets d"]
    covs: Float[np.ndarray, "sets d d"]


def sets_for(d: int, small: int = 6000) -> int:
    """How many sets keep one point of a Monte Carlo claim at about 0.1 s: `small` in low dimensions, fewer above."""
    return {1: small, 2: small, 3: small, 8: small // 2}.get(d, max(small // 20, 200))


def draw_sets(n: int, d: int, mean_square: float, count: int, seed: int) -> Sets:
    """`count` training sets, in antithetic pairs: the same covariance with means mu + e and mu - e. `count` is
    rounded up to even."""
    rng = np.random.default_rng([seed, n, d, 11])
    half = (count + 1) // 2
    mu = math.sqrt(mean_square) * np.eye(d)[0]
    error = rng.standard_normal((half, d)) / math.sqrt(n)
    if n - 1 < d:
        factor = rng.standard_normal((half, d, n - 1))
    else:
        factor = np.tril(rng.standard_normal((half, d, d)), -1)
        factor[:, np.arange(d), np.arange(d)] = np.sqrt(rng.chisquare(n - 1 - np.arange(d), (half, d)))
    covs = factor @ factor.transpose(0, 2, 1) / n
    return Sets(mu, np.concatenate([mu + error, mu - error]), np.concatenate([covs, covs]))


def pair_means(values: Float[np.ndarray, " sets"]) -> Float[np.ndarray, " pairs"]:
    """Means over the antithetic pairs of `draw_sets`: independent of each other."""
    return values.reshape(2, -1).mean(axis=0)


def distance_squared(
    mu: Float[np.ndarray, " d"], means: Float[np.ndarray, "sets d"], covs: Float[np.ndarray, "sets d d"]
) -> Float[np.ndarray, " sets"]:
    """W2²(N(mu, I), N(m, C)) = ||m - mu||² + Σ (1 - √λ(C))² for each set."""
    roots = np.sqrt(np.maximum(np.linalg.eigvalsh(covs), 0.0))
    return np.sum((means - mu) ** 2, axis=1) + np.sum((1 - roots) ** 2, axis=1)


def gains(sets: Sets, s: float) -> Float[np.ndarray, " sets"]:
    """W2²(P, clean) - W2²(P, corrupted) of each training set."""
    bumps = s * sets.means[:, :, None] * sets.means[:, None, :]
    clean = distance_squared(sets.mu, sets.means, sets.covs)
    return clean - distance_squared(sets.mu, (1 - s) * sets.means, sets.covs + bumps)


def share(noise_std: float) -> float:
    """s = γ²/(1+γ²), written out here so that the library's own is not compared with itself."""
    return noise_std**2 / (1 + noise_std**2)


def agree(
    samples: Float[np.ndarray, " samples"], value: float, standard_error: float = 0.0, *, bias: float = 0.0
) -> Outcome:
    """Whether independent `samples` have mean `value`, itself known up to a standard error and a derived `bias`.

    Margin 1 - |z| / MONTE_CARLO_Z, with both errors in z.
    """
    mean, count = float(np.mean(samples)), len(samples)
    error = math.hypot(float(np.std(samples, ddof=1)) / math.sqrt(count), standard_error)
    z = max(abs(mean - value) - bias, 0.0) / max(error, 1e-300)
    numbers = {"simulated": mean, "library": value, "standard_error": error, "z": z, "sets": count}
    return Outcome(1 - z / MONTE_CARLO_Z if math.isfinite(z) and math.isfinite(error) else -math.inf, numbers)
