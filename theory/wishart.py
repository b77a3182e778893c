"""The random matrices behind a training set: exact spectral moments, and draws of what a rank-one change does to them.

n points of N(mu, I_d) have empirical mean m ~ N(mu, I/n) and, independent of it, n S = W ~ Wishart_d(dof), dof = n -
1, with S the biased covariance. Everything here is NumPy in float64, for one (dof, d) at a time; not jittable.

**Spectral moments.** With N = min(d, dof), α = |dof - d|, the non-zero eigenvalues of W have the one-point density

    ρ(x) = Σ_{k<N-1} φ_k(x)² + C φ_{N-1}(x)/√x · (∫_0^x φ_{N-2}(u)/√u du + c),   C = sqrt((N-1)(N-1+α)) / 2,

φ_k the orthonormal Laguerre functions of weight x^α e^-x (Adler, Forrester, Nagao, van Moerbeke, J. Stat. Phys. 99,
2000); for even N C c = -C/2 ∫_0^∞ φ_{N-2}/√u du, for odd N c follows from ∫ρ = N. In y = √x all integrands are
entire, so composite Gauss-Legendre rules converge exponentially.

**Rank one.** tr (W + r u u^T)^(1/2) - tr W^(1/2) = (1/2π) ∫_0^∞ t^(-1/2) log(1 + r g(t)) dt with g(t) = u^T (W +
t)^-1 u for a unit vector u. For u independent of W, the bidiagonal form of a Gaussian matrix that starts at u gives g
as a continued fraction of independent chi-squares, all terms positive:

    g = 1/h_1,   h_k = t + A_k / (1 + B_k / h_{k+1}),   A_k ~ χ²(dof-k+1),   B_k ~ χ²(d-k),   h_{N+1} = t.

The integral is a trapezoidal sum in log t: g is a Stieltjes function, so the integrand is analytic for |Im log t| < π
and the rule's relative error is of order exp(-2π²/step) = 4e-12.
"""

import math
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from numpy.polynomial.legendre import leggauss
from scipy.special import gammaln

from theory._checks import require
from theory.roots import time_grid

_NODES = 16
_MARGIN = 9.0
"""Beyond the edges √dof ± √d of the singular values the density falls at least like exp(-margin²): 1e-35."""


def check_sizes(n: int, d: int) -> None:
    """Raise `ValueError` unless n >= 2 points in d >= 1 dimensions, both integers."""
    require(isinstance(n, int | np.integer) and n >= 2, "n", n, "an integer of at least 2")
    require(isinstance(d, int | np.integer) and d >= 1, "d", d, "an integer of at least 1")


def root_moment(dof: int, d: int, power: float) -> float:
    """Exact E tr W^power over the positive eigenvalues of W ~ Wishart_d(dof) with scale I_d; to about 1e-10 relative.

    `dof` >= 1 and `d` >= 1 (dof < d allowed: W is then singular, and only its positive eigenvalues count); `power` a
    multiple of 1/2. Returns infinity where the moment is infinite, for power <= -(|dof - d| + 1)/2. Raises
    `ValueError` for other arguments.
    """
    require(dof >= 1 and d >= 1, "dof, d", (dof, d), "at least 1")
    require(float(2 * power).is_integer(), "power", power, "a multiple of 1/2")
    alpha = abs(dof - d)
    if power <= -(alpha + 1) / 2:
        return math.inf
    grid = _density(min(d, dof), alpha)
    return float(np.sum(grid.mass * grid.roots ** (2 * power)))


def kappa(n: int, d: int) -> float:
    """κ(n, d) = E tr S^(-1/2) / d for the biased covariance S of n points of N(mu, I_d); exact to about 1e-10.

    1 < sqrt(n/(n-1)) < κ; infinite for n <= d + 1. Large n: 1 + (3d+7)/(8n). Needs n >= 2, d >= 1. Raises
    `ValueError` outside these ranges.
    """
    check_sizes(n, d)
    if n <= d + 1:
        return math.inf
    return math.sqrt(n) * root_moment(n - 1, d, -0.5) / d


def mean_root(n: int, d: int) -> float:
    """E tr S^(1/2) / d for the biased covariance S of n points of N(mu, I_d), n <= d included; exact to about 1e-10.

    In (0, 1); large n: 1 - (d+5)/(8n). Needs n >= 2, d >= 1. Raises `ValueError` outside these ranges.
    """
    check_sizes(n, d)
    return root_moment(n - 1, d, 0.5) / (d * math.sqrt(n))


class _Density(NamedTuple):
    """Nodes y = √x and the density's mass at each (quadrature weight included)."""

    roots: Float[np.ndarray, " nodes"]
    mass: Float[np.ndarray, " nodes"]


@lru_cache(maxsize=64)
def _density(size: int, alpha: int) -> _Density:
    """One-point density of `size` positive eigenvalues of a real Wishart matrix with `size + alpha` degrees of
    freedom."""
    y, weights, width = _nodes(size, alpha)
    bulk, last, before = _laguerre(size, alpha, y.ravel())
    bulk, last, before = (f.reshape(y.shape) for f in (bulk, last, before))
    # dx = 2 y dy, and φ/√x dx = 2 φ dy
    inner = _cumulative(2 * before, width)
    tail = 2 * weights * last
    rate = 0.5 * math.sqrt((size - 1) * (size - 1 + alpha))
    mass = 2 * y * weights * bulk + rate * tail * inner
    if size % 2 == 0:  # the integral is half that of the sign, and ∫ φ_{N-1}/√x = 0
        constant = -rate * float(np.sum(2 * weights * before)) / 2
    else:
        constant = (size - float(np.sum(mass))) / float(np.sum(tail))
    mass = mass + constant * tail
    return _Density(y.ravel(), mass.ravel())


def _nodes(size: int, alpha: int) -> tuple[Float[np.ndarray, "panels nodes"], Float[np.ndarray, "panels nodes"], float]:
    """Composite Gauss-Legendre nodes and weights in y over the support of the density, and a panel's width."""
    edge, spread = math.sqrt(size + alpha), math.sqrt(size)
    low, high = max(0.0, edge - spread - _MARGIN), edge + spread + _MARGIN
    panels = size // 2 + 24
    width = (high - low) / panels
    x, w = leggauss(_NODES)
    starts = low + width * np.arange(panels)[:, None]
    y = starts + width * (x + 1) / 2
    return y, np.broadcast_to(w * width / 2, y.shape), width


def _cumulative(values: Float[np.ndarray, "panels nodes"], width: float) -> Float[np.ndarray, "panels nodes"]:
    """∫ from the left end to each node, by the interpolating polynomial on each panel."""
    x, w = leggauss(_NODES)
    legendre = np.polynomial.legendre.legvander(x, _NODES - 1)
    order = np.arange(_NODES)
    to_coefficients = (legendre * w[:, None]).T * (order + 0.5)[:, None]
    integrals = np.polynomial.legendre.legval(
        x, np.polynomial.legendre.legint(np.eye(_NODES), lbnd=-1)
    )  # [degree, node]
    matrix = to_coefficients.T @ integrals * width / 2
    before = np.concatenate([[0.0], np.cumsum(values @ w * width / 2)[:-1]])
    return before[:, None] + values @ matrix


def _laguerre(
    size: int, alpha: int, y: Float[np.ndarray, " nodes"]
) -> tuple[Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"], Float[np.ndarray, " nodes"]]:
    """Σ_{k<N-1} φ_k², φ_{N-1} and φ_{N-2} (zero for N = 1) at x = y², N = size.

    The three-term recurrence runs on φ_k exp(-scale), rescaled on the way: φ_0 underflows at the far edge of large
    matrices.
    """
    x = y**2
    scale = _log_first(alpha, x)
    now, before, bulk = np.ones_like(x), np.zeros_like(x), np.zeros_like(x)
    for k in range(size - 1):
        bulk = bulk + now**2 * np.exp(2 * scale)
        rising = math.sqrt((k + 1) * (k + 1 + alpha))
        falling = math.sqrt(k * (k + alpha))
        now, before = ((x - (2 * k + 1 + alpha)) * now - falling * before) / rising, now
        size_now = np.maximum(np.abs(now), np.abs(before))
        grown = np.where(size_now > 1e60, size_now, 1.0)
        now, before, scale = now / grown, before / grown, scale + np.log(grown)
    return bulk, now * np.exp(scale), before * np.exp(scale)


def _log_first(alpha: int, x: Float[np.ndarray, " nodes"]) -> Float[np.ndarray, " nodes"]:
    """log φ_0(x) = (α log x - x - log α!)/2, without cancellation for large α."""
    if alpha < 50:
        return (alpha * np.log(x) - x - gammaln(alpha + 1)) / 2
    excess = (x - alpha) / alpha
    stirling = 0.5 * math.log(2 * math.pi * alpha) + 1 / (12 * alpha) - 1 / (360 * alpha**3) + 1 / (1260 * alpha**5)
    return (alpha * (np.log1p(excess) - excess) - stirling) / 2


class Resolvents(NamedTuple):
    """Independent draws of t -> u^T (W + t)^-1 u on a fixed grid, with what rank-one changes need.

    `times` and `weights` are the grid of the trace identity ((1/2π) t^(-1/2) dt in the weights), `values` is g
    (draws, grid), `first` and `second` are A_1 and B_1 of each draw: control variates with known moments.
    """

    times: Float[np.ndarray, " grid"]
    weights: Float[np.ndarray, " grid"]
    values: Float[np.ndarray, "draws grid"]
    first: Float[np.ndarray, " draws"]
    second: Float[np.ndarray, " draws"]

    def added(self, size: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
        """tr (W + r u u^T)^(1/2) - tr W^(1/2) for each draw, r = `size` >= 0 (one for each draw)."""
        return np.log1p(size[:, None] * self.values) @ self.weights

    def slope(self, size: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
        """Derivative of `added` with respect to r, at r = `size`."""
        return (self.values / (1 + size[:, None] * self.values)) @ self.weights

    def curvature(self, size: Float[np.ndarray, " draws"]) -> Float[np.ndarray, " draws"]:
        """Second derivative of `added` with respect to r, at r = `size`; negative."""
        return -((self.values / (1 + size[:, None] * self.values)) ** 2) @ self.weights


@lru_cache(maxsize=6)
def draw_resolvents(dof: int, d: int, draws: int, seed: int) -> Resolvents:
    """`draws` independent continued fractions for Wishart_d(dof), dof >= 0. Cost draws x min(d, dof) x 128
    divisions."""
    times, weights = time_grid(float(dof + d), singular=dof < d)
    chi_squares = _chi_squares(dof, d, draws, seed)
    first, second = (c[:, 0] if c.shape[1] else np.zeros(draws) for c in chi_squares)
    return Resolvents(times, weights, _resolvent(times, *chi_squares), first, second)


def draw_resolvent_at(dof: int, d: int, draws: int, seed: int, *, time: float) -> Float[np.ndarray, " draws"]:
    """u^T (W + t)^-1 u at one t = `time` > 0, for the same draws as `draw_resolvents` with these arguments."""
    return _resolvent(np.array([time]), *_chi_squares(dof, d, draws, seed))[:, 0]


def _chi_squares(
    dof: int, d: int, draws: int, seed: int
) -> tuple[Float[np.ndarray, "draws levels"], Float[np.ndarray, "draws levels"]]:
    """A_k and B_k, k = 1 ... min(d, dof)."""
    rng = np.random.default_rng([seed, dof, d, 5])
    level = np.arange(min(d, dof))
    shape, others = (draws, level.size), d - 1 - level
    a = rng.chisquare(dof - level, shape)
    return a, np.where(others > 0, rng.chisquare(np.maximum(others, 1), shape), 0.0)


def _resolvent(
    times: Float[np.ndarray, " grid"], a: Float[np.ndarray, "draws levels"], b: Float[np.ndarray, "draws levels"]
) -> Float[np.ndarray, "draws grid"]:
    """The continued fraction, from its innermost level outwards."""
    h = np.broadcast_to(times, (a.shape[0], times.size))
    for k in reversed(range(a.shape[1])):
        h = times + a[:, k, None] / (1 + b[:, k, None] / h)
    return 1 / h
