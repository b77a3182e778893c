"""2-Wasserstein distances beyond single Gaussians: exact in one dimension, distance of mixtures, bounds.

On the line W2² = ∫_0^1 (F_p⁻¹(u) - F_q⁻¹(u))² du (monotone rearrangement: Villani 2003, theorem 2.18). For samples
this is a finite sum; for mixtures the integral is taken over the normal score z, u = Φ(z), with both tails in log
space.

In any dimension (p, q mixtures with components p_i, q_j):

    W2(moments p, moments q) <= W2(p, q) <= MW2(p, q),   MW2² = min over couplings π of the weights of Σ π_ij W2²(p_i,
    q_j)

(Gelbrich 1990; Delon, Desolneux 2020, "A Wasserstein-type distance in the space of Gaussian mixture models",
proposition 4).
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float
from scipy.optimize import elementwise
from scipy.special import log_ndtr, logsumexp

from theory._checks import require, require_finite, require_float64
from theory.gaussian import Gaussian, wasserstein2, wasserstein2_squared
from theory.mixture import GaussianMixture

Law = Gaussian | GaussianMixture
EPS = float(np.finfo(float).eps)


class DistanceBounds(NamedTuple):
    """lower <= W2 <= upper."""

    lower: float
    upper: float


def wasserstein2_1d_samples(
    x: Float[ArrayLike, " n"],
    y: Float[ArrayLike, " m"],
    *,
    x_weights: Float[ArrayLike, " n"] | None = None,
    y_weights: Float[ArrayLike, " m"] | None = None,
) -> float:
    """The exact 2-Wasserstein distance (not squared) of two weighted samples on the line; NumPy, float64, not traced.

    Weights default to equal ones; they are >= 0 and are scaled to sum 1. Raises `TypeError` unless float64,
    `ValueError` for empty samples, shapes that do not fit, non-finite values, negative weights or weights of sum 0.
    """
    xs, x_ends = _sorted("x", x, x_weights)
    ys, y_ends = _sorted("y", y, y_weights)
    ends = np.sort(np.concatenate([[0.0], x_ends, y_ends]))
    middle, share = (ends[1:] + ends[:-1]) / 2, np.diff(ends)
    gap = xs[np.searchsorted(x_ends, middle)] - ys[np.searchsorted(y_ends, middle)]
    return float(np.sqrt(share @ gap**2))


def _sorted(
    name: str, x: ArrayLike, weights: ArrayLike | None
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """The sample in rising order, and the right ends of its shares of [0, 1]."""
    values = np.asarray(x)
    require(values.ndim == 1 and values.size > 0, name, f"shape {values.shape}", "a non-empty vector")
    require_float64(name, values)
    require_finite(name, values)
    shares = np.ones_like(values) if weights is None else np.asarray(weights)
    require(shares.shape == values.shape, f"{name}_weights", f"shape {shares.shape}", f"of shape {values.shape}")
    require_finite(f"{name}_weights", shares)
    least, total = float(np.min(shares)), float(np.sum(shares))
    require(least >= 0 and total > 0, f"{name}_weights", f"smallest {least:g}, sum {total:g}", ">= 0, not all 0")
    order = np.argsort(values)
    ends = np.cumsum(shares[order])
    return values[order], ends / ends[-1]


def wasserstein2_1d(p: Law, q: Law, *, relative: float = 1e-9) -> float:
    """The 2-Wasserstein distance (not squared) of two laws on the line, Gaussian or mixture; NumPy, float64, not
    traceable.

    Adaptive Gauss-Legendre quadrature of the squared difference of quantiles to a relative error of about `relative`
    (at least 1e-11) in W2², plus an absolute one of about 1e-14 of the laws' spread in W2 from the quantiles
    themselves. Components must have positive variance. Raises `ValueError` unless d = 1, `TypeError` unless float64.
    """
    quantiles = [score_quantile(name, law) for name, law in (("p", p), ("q", q))]
    return wasserstein2_1d_quantiles(*quantiles, relative=relative)


def wasserstein2_1d_quantiles(
    p: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]],
    q: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]],
    *,
    relative: float = 1e-9,
) -> float:
    """W2 (not squared) of two laws on the line from their quantiles as vectorised functions of the *normal score* z:
    x = F⁻¹(Φ(z)).

    For example `lambda z: mean + std * z` for N(mean, std²). Integrated over |z| <= 12, i.e. all but 4e-33 of the
    mass, to a relative error of about `relative` (at least 1e-11) in W2². Quantiles may jump,
    but two jumps between neighbouring nodes are not seen: a step of mass 8e-5 cost 4e-5 of W2².
    """

    def integrand(z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        return (p(z) - q(z)) ** 2 * np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)

    size = max(float(np.max(np.abs(f(np.linspace(-12.0, 12.0, 25))))) for f in (p, q))
    return float(np.sqrt(_integrate(integrand, max(relative, 1e-11), 16 * EPS * size)))


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(10)


def _panels(
    f: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]],
    left: Float[np.ndarray, " n"],
    right: Float[np.ndarray, " n"],
) -> Float[np.ndarray, " n"]:
    """Ten-point Gauss-Legendre value of each panel [left, right]."""
    half = (right - left) / 2
    points = (left + right)[:, None] / 2 + half[:, None] * _NODES
    return half * (f(points.ravel()).reshape(points.shape) @ _WEIGHTS)


def _integrate(
    f: Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]], relative: float, rounding: float
) -> float:
    """Integral of f = gap² φ over [-12, 12]: panels are halved until the halves agree with the whole.

    They agree when their difference is below `relative` / 50 of the total (the halves are far better than it
    suggests), or below what an error of `rounding` in the gap makes: 2 gap rounding φ, bounded by Cauchy's inequality.
    """
    edges = np.linspace(-12.0, 12.0, 25)
    left, right = edges[:-1], edges[1:]
    whole, done = _panels(f, left, right), 0.0
    for _ in range(50):  # after 50 halvings a panel is as narrow as rounding
        middle = (left + right) / 2
        halves = _panels(f, np.concatenate([left, middle]), np.concatenate([middle, right])).reshape(2, -1)
        better = halves.sum(axis=0)
        allowed = relative * (done + better.sum()) / 50 + rounding * (2 * np.sqrt(better) + rounding)
        split = np.abs(better - whole) > allowed
        done += float(better[~split].sum())
        if not split.any():
            break
        left, right = np.concatenate([left[split], middle[split]]), np.concatenate([middle[split], right[split]])
        whole = halves[:, split].ravel()
    return done


def score_quantile(name: str, law: Law) -> Callable[[Float[np.ndarray, " n"]], Float[np.ndarray, " n"]]:
    """F⁻¹∘Φ of a law on the line, as a function of normal scores z, shape `n`; `name` is the law's in messages.

    At score z it lies between the components' m_k + σ_k z, which brackets the root. Raises `ValueError` unless d = 1,
    and as `line_components` does.
    """
    require(law.dim == 1, name, f"dimension {law.dim}", "of dimension 1")
    weights, means, stds = line_components(name, law)
    if len(weights) == 1:
        return lambda z: means[0] + stds[0] * z

    tolerances = {"xatol": 2 * EPS * float(stds.max()), "xrtol": 2 * EPS, "fatol": 0.0, "frtol": 0.0}

    def quantile(z: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        ends = means[:, None] + stds[:, None] * z
        sign = np.where(z > 0, -1.0, 1.0)  # the upper half by its upper tail
        low, high = ends.min(axis=0), ends.max(axis=0)
        pad = 1e-12 * (np.abs(low) + np.abs(high) + stds.max())
        start = (low - pad, high + pad)
        return elementwise.find_root(_excess, start, args=(sign, log_ndtr(sign * z)), tolerances=tolerances).x

    def _excess(x: np.ndarray, sign: np.ndarray, target: np.ndarray) -> np.ndarray:
        """Rising in x: log of the tail's mass, minus its target, with the tail's sign."""
        scores = sign * (x - means[:, None]) / stds[:, None]
        return sign * (logsumexp(log_ndtr(scores), axis=0, b=weights[:, None]) - target)

    return quantile


def line_components(
    name: str, law: Law
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Weights (of sum 1), means and standard deviations, each of shape `k`, of a law's components of positive weight.

    `name` is the law's in messages. Raises `TypeError` unless float64, `ValueError` for a mixture with a variance of 0.
    """
    mixture = law if isinstance(law, GaussianMixture) else _single(law)
    require_float64(name, mixture.covs)
    weights = np.asarray(mixture.weights)
    used = weights > 0
    stds = np.sqrt(np.asarray(mixture.covs)[used, 0, 0])
    least = float(stds.min())
    require(len(stds) == 1 or least > 0, name, f"smallest variance {least**2:g}", "of positive variances")
    return weights[used] / weights[used].sum(), np.asarray(mixture.means)[used, 0], stds


def _single(law: Gaussian) -> GaussianMixture:
    return GaussianMixture(jnp.ones(1, law.mean.dtype), law.mean[None], law.cov[None])


def mixture_distance(p: Law, q: Law) -> float:
    """Delon and Desolneux's distance MW2 (not squared) of two Gaussian mixtures: W2 with couplings restricted to
    Gaussian mixtures.

    An upper bound of W2, equal to it for single Gaussians. Exact transport of the weights (POT's network simplex);
    covariances may be singular. NumPy, float64, not traceable. Raises `TypeError` unless float64, `ValueError` where
    dimensions differ.
    """
    from ot import emd2

    p, q = (law if isinstance(law, GaussianMixture) else _single(law) for law in (p, q))
    require(p.dim == q.dim, "q", f"dimension {q.dim}", f"of p's dimension {p.dim}")
    cost = np.asarray(_pair_costs(_components(p), _components(q)))
    a, b = (np.asarray(law.weights) / np.sum(np.asarray(law.weights)) for law in (p, q))
    return float(np.sqrt(max(float(emd2(a, b, cost)), 0.0)))


def _components(law: GaussianMixture) -> Gaussian:
    return jax.vmap(Gaussian)(law.means, law.covs)


@jax.jit
def _pair_costs(p: Gaussian, q: Gaussian) -> Float[Array, "k l"]:
    return jax.vmap(lambda a: jax.vmap(lambda b: wasserstein2_squared(a, b))(q))(p)


def gelbrich_bound(p: Law, q: Law) -> Float[Array, ""]:
    """Lower bound of W2 (not squared): the distance of the Gaussians of equal mean and covariance (Gelbrich 1990,
    theorem 2.1).
    """
    first, second = (law.moments() if isinstance(law, GaussianMixture) else law for law in (p, q))
    return wasserstein2(first, second)


def distance_bounds(p: Law, q: Law) -> DistanceBounds:
    """Gelbrich's lower, the mixture distance's upper bound of W2 (not squared), any d; equal for single Gaussians."""
    return DistanceBounds(float(gelbrich_bound(p, q)), mixture_distance(p, q))
