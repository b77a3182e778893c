"""Bad data at the right noise, on the line: everything exact but the draw of the training set.

p_0 has density 1 - cos(4πx) on [0, 1] (two humps). A degraded point is y = offset + scale x, x ~ p_0, kept within
[0, 1]: `narrowed` data (as blur pulls a pixel towards its mean) have the mean of p_0, `shifted` ones another mean. n1
points are clean, n2 degraded.

*Smoothed laws.* Σ_i N(x; x_i, σ²)/n against p_0 * N(0, σ²): D and D' are kernel sums on a grid, D is the cubic Hermite
interpolant on each cell, and TV = ½ ∫ |D| is integrated from root to root of it: an error of O((h/σ)⁴), about 1e-6.
`theory.kernel_density` has the expectation of the same over training sets, without sampling.

The laws that such a training set generates: `sim.experiments.ambient_flow`.
"""

import math
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sim.intervals import Interval, mean_interval, paired_difference
from theory import kernel_density
from theory._checks import require, require_positive
from theory.total_variation import Line

REACH = 6.0
"""Noise levels beyond [0, 1] that a grid covers; 2e-9 of the mass lies outside."""
NODES = 193
BATCH = 16
PANELS = 3
"""Panels of the quadrature rule that stands for p_0: exact to 1e-12 from σ = 1/12 on."""
TABLE = np.linspace(0.0, 1.0, 4097)
CASES: dict[str, tuple[float, float]] = {
    "narrowed": (0.6, 0.2),
    "slightly narrowed": (0.8, 0.1),
    "shifted": (0.8, 0.2),
}
"""(scale, offset) of the degraded data, by name."""


class Case(NamedTuple):
    """Clean and degraded law on [0, 1] as quadrature rules (atoms), and TV between their densities."""

    clean: Line
    degraded: Line
    tv: float


def density(x: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """p_0(x) = 1 - cos(4πx) on [0, 1], 0 elsewhere."""
    return np.where((x >= 0) & (x <= 1), 1 - np.cos(4 * np.pi * x), 0.0)


def quantile(u: Float[Array, "..."]) -> Float[Array, "..."]:
    """The quantile function of p_0 at u in [0, 1], by interpolation of its distribution function: to 1e-7 in W2."""
    return jnp.interp(u, jnp.asarray(TABLE - np.sin(4 * np.pi * TABLE) / (4 * np.pi)), jnp.asarray(TABLE))


def line_case(name: str) -> Case:
    """One of `CASES`. Raises `ValueError` for another name."""
    require(name in CASES, "case", repr(name), "one of " + ", ".join(CASES))
    scale, offset = CASES[name]
    clean = Line.density(density, panels=PANELS)
    x = np.linspace(0.0, 1.0, 20_001)
    tv = 0.5 * float(np.trapezoid(np.abs(density(x) - density((x - offset) / scale) / scale), x))
    return Case(clean, Line.points(offset + scale * clean.means, clean.weights), tv)


def training_sets(name: str, n_clean: int, n_degraded: int, repeats: int, key: Key[Array, ""]) -> Float[Array, "r n"]:
    """`repeats` training sets, the clean points first."""
    scale, offset = CASES[name]
    x = quantile(jax.random.uniform(key, (repeats, n_clean + n_degraded)))
    return x.at[:, n_clean:].set(offset + scale * x[:, n_clean:])


def smoothed_total_variation(
    points: Float[Array, " n"],
    atoms: Float[Array, " m"],
    masses: Float[Array, " m"],
    noise_std: Float[Array, ""] | float,
    *,
    nodes: int = NODES,
) -> Float[Array, ""]:
    """TV in [0, 1] of the empirical measure of `points` and Σ masses δ(atoms), both smoothed by N(0, noise_std²).

    JAX, for any points and any law on the line given by atoms (a quadrature rule for a density, such as
    `Line.density`). The grid has `nodes` nodes over all points and atoms and 6 noise levels more; its step must be
    below noise_std / 4 for an error below 1e-4. Raises `ValueError` for noise_std <= 0.
    """
    require_positive("noise_std", noise_std)
    low = jnp.minimum(points.min(), atoms.min()) - REACH * noise_std
    high = jnp.maximum(points.max(), atoms.max()) + REACH * noise_std
    x = jnp.linspace(low, high, nodes)
    gap, slope = (a - b for a, b in zip(_kernel_sums(x, points, None, noise_std),
                                        _kernel_sums(x, atoms, masses, noise_std), strict=True))  # fmt: skip
    return 0.5 * _absolute_integral(gap, slope, (high - low) / (nodes - 1))


def _kernel_sums(x: Array, centres: Array, masses: Array | None, noise_std: Array | float) -> tuple[Array, Array]:
    """Σ masses N(x; centres, noise_std²) and its derivative."""
    z = (x[:, None] - centres) / noise_std
    kernel = jnp.exp(-0.5 * z**2) / (math.sqrt(2 * math.pi) * noise_std)
    share = jnp.full_like(centres, 1 / centres.size) if masses is None else masses
    return kernel @ share, -(kernel * z) @ share / noise_std


def _absolute_integral(value: Array, slope: Array, step: Array) -> Array:
    """∫ |D| of the cubic Hermite interpolant of D, by the antiderivative at a root of each cell (if it has one)."""
    a, b = value[:-1], value[1:]
    p, q = step * slope[:-1], step * slope[1:]
    c2, c3 = 3 * (b - a) - 2 * p - q, 2 * (a - b) + p + q
    at = lambda s: a + s * (p + s * (c2 + s * c3))  # noqa: E731
    integral = lambda s: s * (a + s * (p / 2 + s * (c2 / 3 + s * c3 / 4)))  # noqa: E731
    ends = (jnp.zeros_like(a), jnp.ones_like(a))
    for _ in range(20):
        middle = (ends[0] + ends[1]) / 2
        before = at(middle) * a > 0
        ends = (jnp.where(before, middle, ends[0]), jnp.where(before, ends[1], middle))
    root = jnp.where(a * b < 0, ends[0], 1.0)
    return step * jnp.sum(jnp.abs(integral(root)) + jnp.abs(integral(jnp.ones_like(a)) - integral(root)))


@eqx.filter_jit
def _distances(points: Array, atoms: Array, masses: Array, levels: Array) -> Array:
    """TV, (r, levels); `BATCH` training sets at once, as each takes nodes x points numbers."""

    def at(noise_std: Array) -> Array:
        one = lambda x: smoothed_total_variation(x, atoms, masses, noise_std)  # noqa: E731
        return jax.lax.map(one, points, batch_size=min(BATCH, len(points)))

    return jax.lax.map(at, levels).T


def line_cell(name: str, n_clean: int, n_degraded: int, levels: np.ndarray, repeats: int, key: Key[Array, ""]) -> dict:
    """TV of the smoothed training sets against noise: clean only, everything, their difference, and theory's."""
    case = line_case(name)
    points = training_sets(name, n_clean, n_degraded, repeats, key)
    law = jnp.asarray(case.clean.means), jnp.asarray(case.clean.weights), jnp.asarray(levels)
    clean, everything = np.asarray(_distances(points[:, :n_clean], *law)), np.asarray(_distances(points, *law))
    expected = [kernel_density.expected_distance(case.clean, n_clean, noise_std=s) for s in levels]
    mixed = [
        kernel_density.expected_distance(case.clean, n_clean, noise_std=s, q=case.degraded, n_biased=n_degraded)
        for s in levels
    ]
    gain = paired_difference(clean, everything)
    theory = _theory_crossover(case, n_clean, n_degraded, levels, np.subtract(expected, mixed))
    return {
        "levels": levels,
        "clean": mean_interval(clean),
        "everything": mean_interval(everything),
        "theory_clean": expected,
        "theory_everything": mixed,
        "crossover": crossover_interval(levels, gain),
        "theory_crossover": theory,
        "theory_limit": kernel_density.gain_limit(case.clean, case.degraded, n_clean, n_degraded),
        "tv": case.tv,
        "bounds_crossover": kernel_density.crossover_of_bounds(n_clean, n_degraded, case.tv),
    }


def _theory_crossover(case: Case, n_clean: int, n_degraded: int, levels: np.ndarray, gains: np.ndarray) -> float:
    """`theory.kernel_density.crossover` over these levels, whose gains are known, to 1 %."""
    bad = np.flatnonzero(gains <= 0)
    if bad.size == 0 or bad[-1] == len(levels) - 1:
        return math.inf if bad.size else 0.0
    ends = {"low": float(levels[bad[-1]]), "high": float(levels[bad[-1] + 1]), "points": 2}
    return kernel_density.crossover(case.clean, case.degraded, n_clean, n_degraded, **ends).noise_std  # type: ignore[arg-type]


def crossover_interval(levels: Float[np.ndarray, " m"], gain: Interval) -> Interval:
    """The level from which the gain is positive up to the highest level: interpolated, between the last level at which
    it is not and the first from which it is beyond its interval (inf: nowhere so).
    """
    value = np.asarray(gain.value)
    ends = [_last_sign_change(levels, np.asarray(curve)) for curve in (gain.high, gain.low)]
    return Interval(_last_sign_change(levels, value), *ends)


def _last_sign_change(levels: np.ndarray, curve: np.ndarray) -> float:
    """Where the curve turns positive for good (linear in the logarithm of the level); 0: always, inf: never."""
    bad = np.flatnonzero(curve <= 0)
    if bad.size == 0:
        return 0.0
    last = int(bad[-1])
    if last == len(levels) - 1:
        return math.inf
    share = curve[last] / (curve[last] - curve[last + 1])
    return float(levels[last] * (levels[last + 1] / levels[last]) ** share)
