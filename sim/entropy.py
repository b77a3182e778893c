"""Differential entropy from samples, in nats: Kozachenko-Leonenko's estimator, and the fitted Gaussian's.

With ε_i the distance of x_i to its k-th nearest other point, V_d = π^(d/2)/Γ(d/2 + 1) and ψ the digamma function,

    Ĥ = ψ(n) - ψ(k) + log V_d + (d/n) Σ log ε_i

(Kozachenko, Leonenko 1987; in this form Kraskov, Stögbauer, Grassberger 2004, eq. 20, with Euclidean balls). Its bias
is of order n^(-2/d): many nats in high dimension, and of *either* sign (tails raise it, smoothing over k neighbours
too), so it is measured on Gaussians of the same n and d and reported beside. H(A x) = H(x) + log|det A| for every law,
but not for Ĥ: samples are whitened first, which makes Ĥ equivariant and the bias of a Gaussian depend on n, d, k alone.

The Gaussian of equal moments has the largest entropy of all laws with that covariance. From n normal points with
unbiased covariance C,

    E log det C = log det S + Σ_{i=1..d} ψ((n-i)/2) + d log(2/(n-1)),   Var log det C = Σ ψ'((n-i)/2)

(Bartlett's decomposition of Wishart's law), an exact bias and error of H = ½ log det(2πe S).
"""

import math
from functools import lru_cache

import jax
import numpy as np
from jaxtyping import ArrayLike, Float, PRNGKeyArray
from scipy.special import digamma, gammaln, polygamma
from scipy.stats import norm

from sim.distances import fitted_gaussian
from sim.intervals import Estimate, Interval, mean_interval
from sim.neighbours import distances_within
from theory._checks import require, require_finite

Samples = Float[ArrayLike, "n d"]


def _as_points(x: ArrayLike) -> Float[np.ndarray, "n d"]:
    array = np.asarray(x, np.float64)
    require(array.ndim == 2 and array.shape[1] >= 1, "x", f"shape {array.shape}", "a sample set (n, d)")
    require(len(array) > array.shape[1] + 1, "x", f"shape {array.shape}", "more than d + 1 points in dimension d")
    require_finite("x", array)
    return array


def gaussian_entropy(x: Samples, *, confidence: float = 0.95) -> Estimate:
    """Entropy of the Gaussian fitted to x (n, d), n > d + 1: bias and interval are exact (interval: normal
    approximation of log det's law) if x is normal; otherwise an estimate of an upper bound of the entropy.

    Raises `ValueError` for too few or non-finite points; -inf where the points lie in a subspace.
    """
    array = _as_points(x)
    n, d = array.shape
    value = float(fitted_gaussian(array).entropy())
    halves = (n - np.arange(1, d + 1)) / 2
    bias = float(np.sum(digamma(halves)) + d * math.log(2 / (n - 1))) / 2
    half = float(norm.ppf((1 + confidence) / 2) * np.sqrt(np.sum(polygamma(1, halves))) / 2)
    return Estimate(value, bias, value - bias - half, value - bias + half)


def _whitened(x: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, "n d"], float]:
    """The sample in coordinates where its covariance is the identity, and log|det| of the way back."""
    centred = x - x.mean(axis=0)
    _, values, rows = np.linalg.svd(centred, full_matrices=False)
    require(bool(values[-1] > 1e-12 * values[0]), "x", "points in a proper subspace", "of full rank (no entropy else)")
    stds = values / math.sqrt(len(x) - 1)
    return centred @ rows.T / stds, float(np.sum(np.log(stds)))


def _terms(x: Float[np.ndarray, "n d"], k: int) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The n terms whose mean is Ĥ, and each point's influence on Ĥ up to a constant.

    In whitened coordinates Σ |z|² is fixed, so that what the terms have in common with |z|² does not fluctuate; what
    fluctuates instead is the log-determinant, on which a point has the influence ½ |z|².
    """
    n, d = x.shape
    white, logdet = _whitened(x)
    radii = distances_within(white, k=k)[:, -1]
    repeats = int(np.count_nonzero(radii == 0))
    require(
        repeats == 0, "x", f"{repeats} points repeated more than k = {k} times", "draws of a density (entropy -inf)"
    )
    ball = d / 2 * math.log(math.pi) - float(gammaln(d / 2 + 1))
    terms = float(digamma(n) - digamma(k)) + ball + logdet + d * np.log(radii)
    squares = np.einsum("nd,nd->n", white, white)
    spread = squares - squares.mean()
    slope = float(spread @ terms) / max(float(spread @ spread), 1e-300)
    return terms, terms + (0.5 - slope) * squares


def neighbour_entropy(x: Samples, *, k: int = 3) -> float:
    """Kozachenko-Leonenko's estimate Ĥ of the entropy in nats from x (n, d), whitened; raw, biased: see `knn_entropy`.

    Raises `ValueError` unless 1 <= k < n and n > d + 1, for non-finite entries, points in a subspace or more than k
    copies of a point.
    """
    return float(_terms(_as_points(x), k)[0].mean())


@lru_cache(maxsize=256)
def _gaussian_errors(n: int, d: int, k: int, seed: tuple[int, ...], repeats: int) -> tuple[float, ...]:
    """Ĥ - H on `repeats` standard normal samples; whitening makes it the same for every Gaussian."""
    rng = np.random.default_rng(seed)
    exact = d / 2 * math.log(2 * math.pi * math.e)
    return tuple(neighbour_entropy(rng.standard_normal((n, d)), k=k) - exact for _ in range(repeats))


def bias_on_gaussians(
    n: int, d: int, key: PRNGKeyArray, *, k: int = 3, repeats: int = 10, confidence: float = 0.95
) -> Interval:
    """Mean of Ĥ - H in nats over `repeats` samples of n points of a d-dimensional Gaussian (any: Ĥ is equivariant),
    with Student's interval. Repeated calls with equal arguments are remembered.

    Raises `ValueError` for n <= d + 1, k outside [1, n - 1], or repeats < 2.
    """
    require(repeats >= 2, "repeats", repeats, "at least 2")
    seed = tuple(int(word) for word in np.asarray(jax.random.key_data(key)).ravel())
    return mean_interval(np.array(_gaussian_errors(n, d, k, seed, repeats)), confidence=confidence)


def knn_entropy(x: Samples, key: PRNGKeyArray, *, k: int = 3, repeats: int = 10, confidence: float = 0.95) -> Estimate:
    """Kozachenko-Leonenko's Ĥ in nats beside its bias on Gaussians of the same n, d (and, by equivariance, covariance).

    The interval of value - bias adds the error of Ĥ (standard deviation of the points' influence / √n: beyond the
    whitening, terms depend on each other only locally, as in the central limit theorem of Delattre and Fournier 2017)
    and that of the measured bias, with normal quantiles. It does not hold how far the bias on this law differs from a
    Gaussian's. `key` draws the Gaussians. Raises `ValueError` as `neighbour_entropy` does.
    """
    array = _as_points(x)
    terms, influence = _terms(array, k)
    n, d = array.shape
    bias = bias_on_gaussians(n, d, key, k=k, repeats=repeats, confidence=confidence)
    own = norm.ppf((1 + confidence) / 2) * float(influence.std(ddof=1)) / math.sqrt(n)
    half = float(np.hypot(own, bias.high - bias.value))
    value = float(terms.mean())
    centre = value - float(bias.value)
    return Estimate(value, bias.value, centre - half, centre + half)
