"""Total variation of distributions smoothed by Gaussian noise: exact on the line, sharp bounds in any
dimension.

    TV(P, Q) = 1/2 ∫ |p − q|,   P_σ = P * N(0, σ² I)

Two points:      TV(N(x, σ² I), N(y, σ² I)) = erf(‖x − y‖ / (2√2 σ))                   (≤ ‖x − y‖ / (√(2π) σ)
≤ ‖x − y‖ / (2σ))
Diameter D:      TV(P_σ, Q_σ) ≤ TV(P, Q) erf(D / (2√2 σ)): couple P and Q so that X ≠ Y with probability TV(P,
Q), then two points Large noise:     |TV(P_σ, Q_σ) − |m_P − m_Q| / (√(2π) σ)| ≤ φ(1) / (2σ²) for P, Q on [0,
1] with means m: Taylor's theorem for the
                 kernel about 1/2, with ∫ |k'| = 2 / (√(2π) σ) and ∫ |k''| = 4 φ(1) / σ²

On the line the roots of p_σ − q_σ are found, and TV is half the sum of |increments of F_P − F_Q| between
them, so no integral is discretised. A pair of roots closer than the grid's step h = (smallest std) / 32 may
be missed; it costs at most h³/12 sup |p'' − q''|, below 2e-6, and always makes the answer too small.

NumPy, float64: one-off numbers, not for jit.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.special import erf, ndtr

from theory._checks import require, require_finite

GRID_PER_STD = 32
"""Grid points per smallest standard deviation when roots are sought."""
REACH = 10.0
"""Standard deviations beyond the outermost component that a grid covers (mass outside: 2e-23)."""


@dataclass(frozen=True)
class Line:
    """A distribution on the real line: a mixture of Gaussians, some of which may be points (std 0).

    **Arguments:** `weights` (k, positive, sum 1), `means` (k), `stds` (k, ≥ 0). Build it by `points`,
    `mixture`, `density`.
    """

    weights: Float[np.ndarray, " k"]
    means: Float[np.ndarray, " k"]
    stds: Float[np.ndarray, " k"]

    @staticmethod
    def mixture(weights: object, means: object, stds: object) -> "Line":
        """Mixture of N(means, stds²), each argument array-like of one length; weights > 0 are normalised to
        sum 1.

        Raises `ValueError` for other lengths, weights or stds, or entries that are not finite.
        """
        w, m, s = (np.atleast_1d(np.asarray(a, dtype=np.float64)) for a in (weights, means, stds))
        require(
            w.shape == m.shape == s.shape and w.ndim == 1,
            "means",
            f"shapes {w.shape}, {m.shape}, {s.shape}",
            "as long as weights",
        )
        for name, array in (("weights", w), ("means", m), ("stds", s)):
            require_finite(name, array)
        require(bool(np.all(w >= 0) and np.sum(w) > 0), "weights", w, "non-negative, not all zero")
        require(bool(np.all(s >= 0)), "stds", s, "non-negative")
        return Line(w / np.sum(w), m, s)

    @staticmethod
    def points(values: object, weights: object = None) -> "Line":
        """Atoms at `values` (array-like, n), of equal weight unless told otherwise: with data, the empirical
        measure."""
        v = np.atleast_1d(np.asarray(values, dtype=np.float64))
        return Line.mixture(np.ones_like(v) if weights is None else weights, v, np.zeros_like(v))

    @staticmethod
    def density(function: Callable[[np.ndarray], np.ndarray], *, panels: int = 4) -> "Line":
        """A density on [0, 1] (vectorised `function` ≥ 0, normalised here) as its 16-point Gauss-Legendre
        rule on equal panels.

        Smoothed by noise_std ≥ 1 / (4 panels) it is the smoothed density itself to 1e-12, if the function is
        smooth on each panel.
        """
        x, w = panel_rule(np.linspace(0.0, 1.0, panels + 1))
        return Line.points(x, w * np.broadcast_to(np.asarray(function(x), dtype=np.float64), x.shape))

    def smoothed(self, noise_std: float) -> "Line":
        """The law of X + noise_std · ε; noise_std ≥ 0.

        Raises `ValueError` for another `noise_std`.
        """
        require(math.isfinite(noise_std) and noise_std >= 0, "noise_std", noise_std, "finite and at least 0")
        return Line(self.weights, self.means, np.hypot(self.stds, noise_std))

    def pdf(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Density at `x`; raises if there are atoms."""
        require(bool(np.all(self.stds > 0)), "noise_std", 0.0, "positive where the distribution has atoms")
        return _by_blocks(
            x, lambda z: np.exp(-0.5 * z**2) @ (self.weights / (math.sqrt(2 * math.pi) * self.stds)), self
        )

    def cdf(self, x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
        """Distribution function at `x`; raises if there are atoms."""
        require(bool(np.all(self.stds > 0)), "noise_std", 0.0, "positive where the distribution has atoms")
        return _by_blocks(x, lambda z: ndtr(z) @ self.weights, self)

    def mean(self) -> float:
        """Its mean."""
        return float(self.weights @ self.means)

    def std(self) -> float:
        """Its standard deviation."""
        return math.sqrt(float(self.weights @ (self.stds**2 + (self.means - self.mean()) ** 2)))

    def sample(self, rng: np.random.Generator, size: int) -> Float[np.ndarray, " size"]:
        """`size` independent draws."""
        which = rng.choice(self.weights.size, size=size, p=self.weights)
        return self.means[which] + self.stds[which] * rng.standard_normal(size)


_legendre = functools.cache(np.polynomial.legendre.leggauss)


def panel_rule(
    edges: Float[np.ndarray, " k"], order: int = 16
) -> tuple[Float[np.ndarray, " n"], Float[np.ndarray, " n"]]:
    """Nodes and weights of the Gauss-Legendre rule of `order` points on each interval between `edges`: n =
    order (k − 1)."""
    x, w = _legendre(order)
    half = np.diff(edges)[:, None] / 2
    centre = (edges[1:, None] + edges[:-1, None]) / 2
    return (centre + half * x).ravel(), (half * w).ravel()


def common_grid(p: Line, q: Line, per_std: int = GRID_PER_STD) -> Float[np.ndarray, " n"]:
    """An even grid over all the mass of two lines without atoms, `per_std` points per smallest standard
    deviation.

    Raises `ValueError` where there are atoms, or where it would take more than 2e6 points.
    """
    means, stds = np.concatenate([p.means, q.means]), np.concatenate([p.stds, q.stds])
    require(bool(np.all(stds > 0)), "noise_std", 0.0, "positive where a distribution has atoms")
    low, high = np.min(means - REACH * stds), np.max(means + REACH * stds)
    count = math.ceil((high - low) / np.min(stds) * per_std)
    require(
        count <= 2_000_000,
        "noise_std",
        f"{np.min(stds):.3g}, which needs {count} grid points",
        "larger, for at most 2e6 points",
    )
    return np.linspace(low, high, count + 1)


def total_variation(p: Line, q: Line, *, noise_std: float = 0.0) -> float:
    """TV(p * N(0, noise_std²), q * N(0, noise_std²)) in [0, 1], exact to about 1e-6 (see the module's head).

    Raises `ValueError` for atoms without noise.
    """
    a, b = p.smoothed(noise_std), q.smoothed(noise_std)
    at_roots = _difference_at_roots(a, b)
    return 0.5 * float(np.sum(np.abs(np.diff(at_roots, prepend=0.0, append=0.0))))


def shifted_gaussians(distance: float, noise_std: float) -> float:
    """TV(N(x, noise_std² I), N(y, noise_std² I)) for ‖x − y‖ = distance ≥ 0: erf(distance / (2√2 noise_std)),
    in any dimension.

    Raises `ValueError` for a negative distance or `noise_std` <= 0.
    """
    require(bool(distance >= 0), "distance", distance, "at least 0")
    require(bool(noise_std > 0), "noise_std", noise_std, "positive")
    return float(erf(distance / (2 * math.sqrt(2) * noise_std)))


def contraction(tv: float, diameter: float, noise_std: float) -> float:
    """Sharp bound on TV(P_σ, Q_σ) for P, Q with TV(P, Q) = tv on a set of the given diameter (sharpens AO,
    Theorem 4.2).

    Raises `ValueError` for `tv` outside [0, 1], a negative diameter or `noise_std` <= 0.
    """
    require(bool(0 <= tv <= 1), "tv", tv, "in [0, 1]")
    return tv * shifted_gaussians(diameter, noise_std)


def contraction_printed(tv: float, diameter: float, noise_std: float) -> float:
    """AO, Theorem 4.2, as printed: tv · diameter / (2 noise_std). May exceed 1.

    Raises `ValueError` for `tv` outside [0, 1], a negative diameter or `noise_std` <= 0.
    """
    require(bool(0 <= tv <= 1), "tv", tv, "in [0, 1]")
    require(bool(noise_std > 0), "noise_std", noise_std, "positive")
    return tv * diameter / (2 * noise_std)


def large_noise(p: Line, q: Line, noise_std: float) -> tuple[float, float]:
    """TV(P_σ, Q_σ) to first order in 1/σ, and a bound on the error, for distributions on [0, 1] (atoms
    only).

    Raises `ValueError` for other distributions.
    """
    inside = all(np.all(line.stds == 0) and np.all((line.means >= 0) & (line.means <= 1)) for line in (p, q))
    require(inside, "p, q", "points outside, or Gaussian components", "atoms in [0, 1]")
    leading = abs(p.mean() - q.mean()) / (math.sqrt(2 * math.pi) * noise_std)
    return leading, math.exp(-0.5) / math.sqrt(2 * math.pi) / (2 * noise_std**2)


def _difference_at_roots(a: Line, b: Line) -> Float[np.ndarray, " k"]:
    """F_a − F_b at the roots of a.pdf − b.pdf, bisected from the sign changes on the grid."""
    x, sign_at = common_grid(a, b), _sign_of_difference(a, b)
    sign = sign_at(x)
    seen = np.flatnonzero(sign)
    change = np.flatnonzero(np.diff(sign[seen]))
    low, high, below = x[seen[change]], x[seen[change + 1]], sign[seen[change]]
    for _ in range(16):  # to 5e-7 std, whose square is the error
        middle = (low + high) / 2
        left = sign_at(middle) == below
        low, high = np.where(left, middle, low), np.where(left, high, middle)
    return a.cdf(low) - b.cdf(low)


def _sign_of_difference(a: Line, b: Line) -> Callable[[np.ndarray], np.ndarray]:
    """The sign of a.pdf − b.pdf, as one mixture with signed weights; no atoms."""
    heights = np.concatenate([a.weights / a.stds, -b.weights / b.stds])
    both = Line(heights, np.concatenate([a.means, b.means]), np.concatenate([a.stds, b.stds]))
    return lambda x: np.sign(_by_blocks(x, lambda z: np.exp(-0.5 * z**2) @ heights, both))


def _by_blocks(x: np.ndarray, sum_over: Callable[[np.ndarray], np.ndarray], line: Line) -> np.ndarray:
    """`sum_over` applied to (x − means) / stds, a block of x at a time so that memory stays small."""
    block = max(1, 2_000_000 // line.means.size)
    parts = [sum_over((x[i : i + block, None] - line.means) / line.stds) for i in range(0, x.size, block)]
    return np.concatenate(parts) if parts else np.zeros(0)
