"""How far n samples smoothed by noise are from the truth smoothed by noise: E TV(p_σ, p̂_σ), exact on the
line, and bounds.

p̂ is the empirical measure of n points, so p̂_σ is a Gaussian kernel-density estimate and k(x) = N(x; 0, σ²)
its kernel.

*Exact expectation.* By Fubini, E TV = 1/2 ∫ E|D(x)| dx with D(x) = (1/N) Σ_i k(x − X_i) − p_σ(x), a mean of
independent terms, whose characteristic function is a product of powers; and E|D| = (2/π) ∫_0^∞ (1 − Re E
e^{itD}) / t² dt. Both integrals are quadratures:
no sampling. It holds for n_clean points from p together with n_biased from q, and, with k replaced by the
identity, for the error of the empirical mean.

*Bounds*, any distribution on [0, 1] (no Lipschitz constant needed), with probability 1 − δ:

    W1 route:        [1/2 + √(log(1/δ) / 2)] / (√(2π) σ √n)
    variance route:  (1 + (2√π σ)^(−1/2))^d / (2√n) + erf(√d / (2√2 σ)) √(log(1/δ) / (2n)),   on [0, 1]^d

W1 route: TV(N(x), N(y)) ≤ |x − y| / (√(2π) σ), so TV ≤ W1 / (√(2π) σ); E W1 ≤ ∫ √(F (1 − F) / n) ≤ 1 / (2√n);
one point moves W1 by at most 1/n (McDiarmid). Variance route: E|D| ≤ √(E k² / n); outside [0, 1] √(E k²) ≤
k(distance to [0, 1]), which integrates to 1; inside, by Jensen, to at most √∫k² = (2√π σ)^(−1/2); coordinates
multiply. One point moves TV by at most erf(...) / n.

NumPy, float64: one-off numbers, not for jit.
"""

import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from theory._checks import require
from theory.total_variation import Line, contraction, panel_rule, shifted_gaussians

CUTOFF = 512.0
"""Frequencies up to this many inverse standard deviations of D: an atom of D, if it has any, costs at most
1e-3 of its mass."""
PANEL = 2.0
"""Frequencies per 16-point panel, in the same unit: phases up to 12 in half a panel, which the rule sums to
1e-8."""
NEGLIGIBLE = 1e-5
"""Panels end where |characteristic function| / frequency is below this: the error of E|D| relative to its
largest value."""
SPATIAL_REACH = 6.0
"""Noise levels beyond the outermost atom that space is integrated over (outside, ∫ E|D| < 4e-9)."""


class Crossover(NamedTuple):
    """Where adding biased samples begins to help, and stays so.

    - `noise_std`: smallest level from which the gain is positive up to the highest level scanned *and* in the
    limit;
      0 if it is positive at all levels scanned, inf if it is negative at high noise.
    - `levels`, `gains`: the scan; gain = E TV(clean alone) − E TV(clean and biased).
    - `limit`: limit of √(2π) · noise_std · gain as noise_std grows.
    """

    noise_std: float
    levels: Float[np.ndarray, " m"]
    gains: Float[np.ndarray, " m"]
    limit: float


def expected_distance(
    p: Line, n_clean: int, *, noise_std: float, q: Line | None = None, n_biased: int = 0, order: int = 8
) -> float:
    """E TV(p_σ, law of all samples smoothed), for n_clean draws from p and n_biased from q, by quadrature (no
    sampling).

    `p`, `q`: atoms (`Line.points`, `Line.density`). `order`: Gauss-Legendre points per 1.5 noise_std in
    space. Relative accuracy 1e-3 or better, as the tests hold it to by exact enumeration and by doubling
    `order`. Raises `ValueError` unless `noise_std` > 0 and the laws are atoms, n_clean >= 1.
    """
    require(bool(noise_std > 0), "noise_std", noise_std, "positive")
    parts = _parts(p, n_clean, q, n_biased)
    x, weight = _space(np.concatenate([line.means for line, _ in parts]), noise_std, order)
    scale = 1 / (math.sqrt(2 * math.pi) * noise_std)
    kernels = [scale * np.exp(-0.5 * ((x[:, None] - line.means) / noise_std) ** 2) for line, _ in parts]
    return 0.5 * float(weight @ _mean_absolute(kernels, parts))


def expected_mean_error(p: Line, n_clean: int, *, q: Line | None = None, n_biased: int = 0) -> float:
    """E|m − E_p X|, m the mean of n_clean draws from p and n_biased from q (atoms): √(2π) σ E TV for large
    noise_std σ.

    Raises `ValueError` unless the laws are atoms, n_clean >= 1 and n_biased >= 0.
    """
    parts = _parts(p, n_clean, q, n_biased)
    return float(_mean_absolute([line.means[None, :] for line, _ in parts], parts)[0])


def gain(p: Line, q: Line, n_clean: int, n_biased: int, noise_std: float) -> float:
    """E TV of n_clean draws of p alone minus E TV of these and n_biased draws of q: positive if the biased
    ones help."""
    alone = expected_distance(p, n_clean, noise_std=noise_std)
    return alone - expected_distance(p, n_clean, noise_std=noise_std, q=q, n_biased=n_biased)


def gain_limit(p: Line, q: Line, n_clean: int, n_biased: int) -> float:
    """Limit of √(2π) · noise_std · gain as noise_std → ∞: the difference of the expected errors of the
    empirical means.

    For p, q on [0, 1] the gain has its sign at every noise_std above e^(−1/2) / |limit| (`large_noise`).
    """
    return expected_mean_error(p, n_clean) - expected_mean_error(p, n_clean, q=q, n_biased=n_biased)


def crossover(
    p: Line, q: Line, n_clean: int, n_biased: int, *, low: float = 0.1, high: float = 10.0, points: int = 16
) -> Crossover:
    """The crossover noise level on the line, from the exact expected distances (see `Crossover`); p, q: atoms
    in [0, 1].

    Scans `points` levels from `low` to `high`, evenly in the logarithm, then bisects (to 1 %). Two sign
    changes between neighbouring levels go unseen. Above `high` the sign of the limit is taken. Raises `ValueError`
    unless 0 < low < high, p and q are atoms, n_clean >= 1 and n_biased >= 0.
    """
    require(bool(0 < low < high), "low", low, f"between 0 and high = {high:g}")
    levels = np.geomspace(low, high, points)
    gains = np.array([gain(p, q, n_clean, n_biased, s) for s in levels])
    limit = gain_limit(p, q, n_clean, n_biased)
    bad = np.flatnonzero(gains <= 0)
    if limit <= 0 or (bad.size and bad[-1] == points - 1):
        return Crossover(math.inf, levels, gains, limit)
    if bad.size == 0:
        return Crossover(0.0, levels, gains, limit)
    left, right = levels[bad[-1]], levels[bad[-1] + 1]
    while right / left > 1.01:
        middle = math.sqrt(left * right)
        left, right = (left, middle) if gain(p, q, n_clean, n_biased, middle) > 0 else (middle, right)
    return Crossover(float(right), levels, gains, limit)


def bound_printed(n: int, noise_std: float, *, delta: float, lipschitz: float = 1.0) -> float:
    """AO, Theorem 4.1: 1/n + 1/(σ² n) + √((log n + log max(1, λ) + log(2/δ)) / (σ² n)), read with the
    constant 1.

    Raises `ValueError` unless n >= 1, `noise_std` > 0 and 0 < delta <= 1.
    """
    _check_bound(n, noise_std, delta)
    logs = math.log(n) + math.log(max(1.0, lipschitz)) + math.log(2 / delta)
    return 1 / n + 1 / (noise_std**2 * n) + math.sqrt(logs / (noise_std**2 * n))


def bound_by_wasserstein(n: int, noise_std: float, *, delta: float = 1.0) -> float:
    """Any law on [0, 1], probability 1 − delta; delta = 1 drops the deviation: without the log term it bounds
    E TV.

    Raises `ValueError` unless n >= 1, `noise_std` > 0 and 0 < delta <= 1.
    """
    _check_bound(n, noise_std, delta)
    return (0.5 + math.sqrt(math.log(1 / delta) / 2)) / (math.sqrt(2 * math.pi) * noise_std * math.sqrt(n))


def bound_by_variance(n: int, noise_std: float, *, delta: float = 1.0, d: int = 1) -> float:
    """Any law on [0, 1]^d, probability 1 − delta; delta = 1: the bound on E TV. Grows exponentially with
    d.

    Raises `ValueError` unless n, d >= 1, `noise_std` > 0 and 0 < delta <= 1.
    """
    _check_bound(n, noise_std, delta)
    require(bool(d >= 1), "d", d, "at least 1")
    growth = d * math.log1p((2 * math.sqrt(math.pi) * noise_std) ** -0.5)
    mean = math.exp(growth) / (2 * math.sqrt(n)) if growth < 700 else math.inf
    return mean + shifted_gaussians(math.sqrt(d), noise_std) * math.sqrt(math.log(1 / delta) / (2 * n))


def bound(n: int, noise_std: float, *, delta: float = 1.0, d: int = 1) -> float:
    """The best of the bounds for laws on [0, 1]^d, and of 1."""
    by_variance = min(1.0, bound_by_variance(n, noise_std, delta=delta, d=d))
    return min(by_variance, bound_by_wasserstein(n, noise_std, delta=delta)) if d == 1 else by_variance


def bound_with_bias(n_clean: int, n_biased: int, tv: float, noise_std: float, *, d: int = 1) -> float:
    """Bound on E TV with n_biased samples of a law at total variation `tv` from the truth, on [0, 1]^d."""
    total = n_clean + n_biased
    return bound(total, noise_std, d=d) + n_biased / total * contraction(tv, math.sqrt(d), noise_std)


def crossover_of_bounds(
    n_clean: int, n_biased: int, tv: float, *, d: int = 1, printed: bool = False, delta: float = 0.05
) -> float:
    """The smallest noise_std in [1e-3, 1e4] (in steps of 2 %) from which on the bound with biased samples
    is below the one without; else inf.

    `printed`: with AO's Theorems 4.1 (λ = 1) and 4.2 instead; then d must be 1. These are bounds: the
    distances may differ. Raises `ValueError` for a printed bound with d > 1.
    """
    require(bool(not printed or d == 1), "d", d, "1 for the printed bounds")
    levels = np.geomspace(1e-3, 1e4, 701)
    total, share = n_clean + n_biased, n_biased / (n_clean + n_biased)
    if printed:
        alone = [bound_printed(n_clean, s, delta=delta) for s in levels]
        mixed = [bound_printed(total, s, delta=delta) + share * tv / (2 * s) for s in levels]
    else:
        alone = [bound(n_clean, s, d=d) for s in levels]
        mixed = [bound_with_bias(n_clean, n_biased, tv, s, d=d) for s in levels]
    worse = np.flatnonzero(np.asarray(mixed) >= np.asarray(alone))
    if worse.size == 0:
        return float(levels[0])
    return math.inf if worse[-1] == levels.size - 1 else float(levels[worse[-1] + 1])


def far_from_truth(n: int, noise_std: float, d: int) -> float:
    """A lower bound on E TV(p_σ, p̂_σ) for the uniform law on [0, 1]^d: it tends to 1 as d grows, for every n
    and noise_std.

    TV ≥ p̂_σ(A) − p_σ(A) for A = the balls of radius ρ = noise_std √d (1 + u) about the samples. p̂_σ(A) ≥
    P(χ²_d ≤ ρ²/σ²), and E p_σ(A) ≤ n P(‖X − X' + σ z‖² ≤ ρ²) ≤ n e^{a ρ²} (E e^{−a (U − U' + σ z)²})^d
    (Markov), best over a ≥ 0 and u on a grid. Raises `ValueError` unless n >= 1 and `noise_std` > 0.
    """
    from scipy.stats import chi2

    _check_bound(n, noise_std, 1.0)
    a = np.geomspace(1e-3, 1e3, 121) / noise_std**2
    log_moment = np.log(_triangle_moment(a, noise_std))
    squares = d * (1 + np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 40)])) ** 2
    log_mass = math.log(n) + np.min(np.outer(squares, a * noise_std**2) + d * log_moment, axis=1)
    return max(0.0, float(np.max(chi2.cdf(squares, d) - np.exp(np.minimum(log_mass, 0.0)))))


def _triangle_moment(a: np.ndarray, noise_std: float) -> np.ndarray:
    """E exp(−a (w + σ z)²), w = U − U' with density 1 − |w| on [−1, 1]; the Gaussian part in closed form."""
    w, weight = panel_rule(np.concatenate([[0.0], np.geomspace(1e-4, 1.0, 33)]))
    spread = 1 + 2 * a * noise_std**2
    inner = np.exp(-a[:, None] * w**2 / spread[:, None]) / np.sqrt(spread)[:, None]
    return inner @ (2 * weight * (1 - w))


def _space(atoms: np.ndarray, noise_std: float, order: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights over all the mass; panels meet in the middle of the atoms, where E|D| bends sharply
    at high noise."""
    low, high = float(np.min(atoms)), float(np.max(atoms))
    inside = np.linspace(low, high, 2 * max(1, math.ceil((high - low) / (3 * noise_std))) + 1)
    outside = noise_std * np.linspace(0.0, SPATIAL_REACH, 5)[1:]
    return panel_rule(np.unique(np.concatenate([low - outside, inside, high + outside])), order)


def _check_bound(n: int, noise_std: float, delta: float) -> None:
    require(bool(n >= 1), "n", n, "at least 1")
    require(bool(noise_std > 0), "noise_std", noise_std, "positive")
    require(bool(0 < delta <= 1), "delta", delta, "in (0, 1]")


def _parts(p: Line, n_clean: int, q: Line | None, n_biased: int) -> list[tuple[Line, int]]:
    """The lines and their counts; p first."""
    require(bool(n_clean >= 1), "n_clean", n_clean, "at least 1")
    require(bool(n_biased >= 0), "n_biased", n_biased, "at least 0")
    require(bool(n_biased == 0 or q is not None), "q", q, "given with n_biased")
    parts = [(p, n_clean)] + ([(q, n_biased)] if q is not None and n_biased else [])
    for line, _ in parts:
        require(bool(np.all(line.stds == 0)), "p, q", "Gaussian components", "atoms: Line.points or Line.density")
    return parts


def _mean_absolute(values: list[np.ndarray], parts: list[tuple[Line, int]]) -> np.ndarray:
    """E|mean of all draws − E_p| per row; values[j] (rows, atoms of line j) are what an atom contributes.

    Draws are centred by their own law and divided by the standard deviation of the whole, so D = bias + std
    W.
    """
    total = sum(n for _, n in parts)
    means = [v @ line.weights for v, (line, _) in zip(values, parts, strict=True)]
    centred = [v - m[:, None] for v, m in zip(values, means, strict=True)]
    variances = [n * (c**2 @ line.weights) for c, (line, n) in zip(centred, parts, strict=True)]
    bias = sum(n * m for m, (_, n) in zip(means, parts, strict=True)) / total - means[0]
    std = np.sqrt(sum(variances)) / total
    seen = std > 1e-14 * np.max(np.abs(values[0]))
    out = np.abs(bias)
    shape = [c[seen] / (total * std[seen, None]) for c in centred]
    importance = std[seen] / np.max(std)
    out[seen] = std[seen] * _mean_absolute_standard(bias[seen] / std[seen], shape, parts, importance)
    return out


def _mean_absolute_standard(
    shift: np.ndarray, steps: list[np.ndarray], parts: list[tuple[Line, int]], importance: np.ndarray
) -> np.ndarray:
    """E|shift + W| per row, W = sum of n independent draws of `steps` for each line; W has variance 1.

    Panels of frequency are added until the characteristic function is so small (rows of little `importance`
    sooner) that the rest of the integral is that of 1/u².
    Shifts beyond 8 are taken as for normal W (a term below 1e-15).
    """
    out = np.abs(shift)
    rows = np.flatnonzero(out <= 8)
    out[rows] = 0.0
    ends = np.minimum(PANEL * 2.0 ** np.arange(0, math.log2(CUTOFF / PANEL) + 1), CUTOFF)
    for left, right in zip([0.0, *ends[:-1]], ends, strict=True):
        u, weight = panel_rule(np.linspace(left, right, math.ceil((right - left) / PANEL) + 1))
        phase = _characteristic(u, shift[rows], [step[rows] for step in steps], parts)
        out[rows] += 2 / math.pi * ((1 - phase.real) @ (weight / u**2))
        done = np.max(np.abs(phase), axis=1) * importance[rows] <= NEGLIGIBLE * right
        done |= right >= CUTOFF
        out[rows[done]] += 2 / math.pi / right
        rows = rows[~done]
    return out


def _characteristic(
    u: np.ndarray, shift: np.ndarray, steps: list[np.ndarray], parts: list[tuple[Line, int]]
) -> np.ndarray:
    """E e^{iu (shift + W)}, (rows, frequencies)."""
    phase = np.exp(1j * np.outer(shift, u))
    for step, (line, n) in zip(steps, parts, strict=True):
        block = max(1, 1_000_000 // (u.size * line.weights.size))
        for i in range(0, len(step), block):
            rows = slice(i, i + block)
            phase[rows] *= (np.exp(1j * step[rows, None, :] * u[:, None]) @ line.weights) ** n
    return phase
