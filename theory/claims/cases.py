"""Arrays from the numbers of a case, in NumPy float64. Seed 0: the simplest array of its kind; others are random."""

import numpy as np
from jaxtyping import Float
from scipy.stats import ortho_group


def rotation(d: int, seed: int) -> Float[np.ndarray, "d d"]:
    """The identity for seed 0, else a Haar-random orthogonal matrix."""
    if seed == 0 or d == 1:
        return np.eye(d)
    return ortho_group.rvs(d, random_state=np.random.default_rng([seed, 1]))


def eigenvalues(d: int, condition: float, seed: int, rank: int | None = None) -> Float[np.ndarray, " d"]:
    """Eigenvalues in [1 / condition, 1], both ends attained (d >= 2), falling; the last d - rank are zero.

    Seed 0: geometrically spaced. Otherwise log-uniform between the ends.
    """
    rank = d if rank is None else min(rank, d)
    exponents = np.linspace(0.0, 1.0, max(rank, 1))
    if seed != 0 and rank > 2:
        exponents[1:-1] = np.sort(np.random.default_rng([seed, 2]).random(rank - 2))
    values = np.zeros(d)
    values[:rank] = float(condition) ** -exponents[:rank]
    return values


def covariance(d: int, condition: float, seed: int, rank: int | None = None) -> Float[np.ndarray, "d d"]:
    """A symmetric positive (semi-)definite matrix with largest eigenvalue 1 and the given condition number and rank."""
    basis = rotation(d, seed)
    matrix = (basis * eigenvalues(d, condition, seed, rank)) @ basis.T
    return (matrix + matrix.T) / 2


def direction(d: int, seed: int) -> Float[np.ndarray, " d"]:
    """A unit vector: the first basis vector for seed 0, else uniform on the sphere."""
    if seed == 0:
        return np.eye(d)[0]
    vector = np.random.default_rng([seed, 3]).standard_normal(d)
    return vector / np.linalg.norm(vector)


def training_moments(
    n: int, d: int, mean_square: float, seed: int
) -> tuple[Float[np.ndarray, " d"], Float[np.ndarray, "d d"]]:
    """Empirical mean and biased covariance of n points from N(mu, I), ||mu||^2 = mean_square, drawn exactly.

    The mean is N(mu, I / n), and n S is an independent Wishart matrix with n - 1 degrees of freedom (singular for n
    <= d), so the cost does not grow with n. Seed 0 gives m = mu and S = (n - 1) / n I on the first min(n - 1, d)
    coordinates.
    """
    mu = np.sqrt(mean_square) * np.eye(d)[0]
    if seed == 0:
        return mu, np.diag(np.where(np.arange(d) < n - 1, (n - 1) / n, 0.0))
    rng = np.random.default_rng([seed, 4])
    mean = mu + rng.standard_normal(d) / np.sqrt(n)
    if n - 1 < d:
        factor = rng.standard_normal((d, n - 1))
    else:  # Bartlett's decomposition
        factor = np.tril(rng.standard_normal((d, d)), -1)
        factor[np.diag_indices(d)] = np.sqrt(rng.chisquare(n - 1 - np.arange(d)))
    return mean, factor @ factor.T / n
