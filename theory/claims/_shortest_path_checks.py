"""Checks of the claims about shortest paths: the library's route against an independent one, case by case.

One frequency has variance D; ℓ = log D; v_t is the marginal variance at time t, V what a sampler with N steps
generates. Tolerances count roundings: ε is float64's unit, and each is multiplied by the condition number named
beside it.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.claims.claim import Case, Outcome, at_most, identity, worst
from theory.discretisation import Start, generated_variance
from theory.gaussian import Gaussian
from theory.path_base import Path
from theory.paths import PATHS, BuresPath, EqualAnglePath, ShortestPath

Variances = Float[np.ndarray, " k"]
EPS = float(np.finfo(np.float64).eps)
FREQUENCIES = 3


def spectrum_of(case: Case) -> Variances:
    """A few frequencies: the case's D alone for seed 0, else with random others in [1e-4, 1e4]."""
    others = np.full(FREQUENCIES - 1, case["D"])
    if case["seed"]:
        others = 10 ** np.random.default_rng([case["seed"], 11]).uniform(-4, 4, FREQUENCIES - 1)
    return np.array([case["D"], *others])


def make_path(name: str, spectrum: Any) -> Path:
    """A path by name; one made for a spectrum takes the frequencies as independent coordinates."""
    own: dict[str, Callable[..., Path]] = {"shortest": ShortestPath, "bures": BuresPath, "equal_angle": EqualAnglePath}
    return own[name](spectrum, basis="pixels") if name in own else PATHS[name](jnp.asarray(spectrum))


def times_of(case: Case) -> Float[np.ndarray, " k"]:
    """1 = t_0 > ... > t_N = 0: equal steps for seed 0, else random ones, none shorter than about 1/(10 N)."""
    steps = case["steps"]
    widths = np.ones(steps)
    if case["seed"]:
        widths = 0.1 + 0.9 * steps * np.random.default_rng([case["seed"], 12]).dirichlet(np.ones(steps))
    return np.concatenate([[1.0], 1 - np.cumsum(widths)[:-1] / widths.sum(), [0.0]])


def asked_of(name: str) -> list[tuple[str, Start]]:
    """Samplers and starts that the checks ask about, for one path."""
    everywhere: list[tuple[str, Start]] = [
        ("ddim", "marginal"),
        ("ddim", "prior"),
        ("ancestral_exact", "marginal"),
        ("ancestral_large_noisy", "marginal"),
    ]
    only: dict[str, list[tuple[str, Start]]] = {
        "shortest": [("ancestral_large", "marginal"), ("euler", "marginal")],
        "bures": [("euler", "marginal")],
    }
    return everywhere + only.get(name, [])


@cache
def _program(name: str, steps: int) -> Callable[[Variances, np.ndarray], Array]:
    """What the library says of one path with so many steps, compiled once: rows of A², S² and generated variances.

    The clean end is added to the powers where the path has none.
    """

    @jax.jit
    def answer(spectrum: Array, times: Array) -> Array:
        path = make_path(name, spectrum)
        powers = jax.vmap(path.powers)(times)
        signal, noise = (jnp.broadcast_to(x.reshape(steps + 1, -1), (steps + 1, FREQUENCIES)) for x in powers)
        if not path.starts_clean:
            signal = jnp.concatenate([signal, jnp.ones((1, FREQUENCIES))])
            noise = jnp.concatenate([noise, jnp.zeros((1, FREQUENCIES))])
        asked = [generated_variance(path, spectrum, times, kind, start=start) for kind, start in asked_of(name)]
        return jnp.concatenate([signal, noise, jnp.stack(asked)])

    return answer


class Answer(NamedTuple):
    """A_t and S_t, shape (times, frequencies), from late to early, and generated variances by sampler and start."""

    signal: np.ndarray
    noise: np.ndarray
    generated: dict[tuple[str, Start], np.ndarray]


def library_answer(name: str, spectrum: Variances, times: np.ndarray) -> Answer:
    """What the library says of a path by name."""
    rows = np.asarray(_program(name, len(times) - 1)(spectrum, times))
    asked = asked_of(name)
    signal, noise = np.split(np.sqrt(rows[: -len(asked)]), 2)
    return Answer(signal, noise, dict(zip(asked, rows[-len(asked) :], strict=True)))


def excess(ratio: np.ndarray) -> np.ndarray:
    """KL(N(0, ratio) to N(0, 1)) = (ratio - 1 - log ratio)/2."""
    return (ratio - 1 - np.log(ratio)) / 2


@cache
def _circulant(n: int) -> Callable[..., tuple[Array, Array, Array]]:
    @jax.jit
    def both(spectrum: Array, cov: Array, t: Array) -> tuple[Array, Array, Array]:
        path = ShortestPath(spectrum)
        signal, noise = path.powers(t)
        return path.marginal(Gaussian(jnp.zeros(n), cov), t).cov, signal, noise

    return both


def check_theorem_two(case: Case) -> Outcome:
    """Marginal of images against the matrix geodesic, variance preserved, and signal falling in D."""
    n, t = case["n"], case["t"]
    half = np.exp(np.random.default_rng([case["seed"], 13]).uniform(-1, 1, n) * math.log(case["ratio"]) / 2)
    half = half if case["seed"] else np.where(np.arange(n) == 0, case["ratio"], 1.0)
    spectrum = np.sqrt(half * np.roll(half[::-1], 1))
    transform = np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(n)) / n) / math.sqrt(n)
    cov0 = (transform.conj().T * spectrum @ transform).real
    cov, signal, noise = _circulant(n)(spectrum, (cov0 + cov0.T) / 2, t)
    values, vectors = np.linalg.eigh((cov0 + cov0.T) / 2)
    root, inverse = (vectors * values**power @ vectors.T for power in (0.5, -0.5))
    inner_values, inner_vectors = np.linalg.eigh(inverse @ inverse)  # S0^-1/2 S_T S0^-1/2 with S_T = I
    geodesic = root @ (inner_vectors * inner_values**t @ inner_vectors.T) @ root
    # eigenvalues of either route err by n ε of the largest; S -> S^(1-t) amplifies by at most the condition number
    condition = float(spectrum.max() / spectrum.min())
    scale = float(max(spectrum.max(), 1.0))
    order = np.argsort(spectrum)
    rising = float(np.max(np.diff(np.asarray(signal)[order]), initial=0.0))
    return worst(
        identity(np.asarray(cov), geodesic, tolerance=32 * n * EPS * condition * scale, spectrum=spectrum),
        identity(np.asarray(signal + noise), np.ones(n), tolerance=64 * EPS),
        at_most(rising, 0.0, tolerance=64 * EPS, spectrum=spectrum, signal_power=np.asarray(signal)),
    )


def _chain_divergence(signal: np.ndarray, noise: np.ndarray, variance: float) -> tuple[float, float]:
    """KL(law of x at all times, true to sampler) of one frequency, by dense triangular factors; and its rounding
    error.

    The true chain is built forwards, x = L ξ (from clean to noise); the sampler's backwards, ξ' = M x with unit noise
    ξ'.
    """
    a, s = signal[::-1], noise[::-1]  # clean first
    v, n = a**2 * variance + s**2, len(a)
    factor, inverse = np.zeros((n, n)), np.zeros((n, n))
    factor[0, 0] = math.sqrt(v[0])
    inverse[n - 1, n - 1] = 1 / math.sqrt(v[n - 1])
    for k in range(n - 1):
        ratio = a[k + 1] / a[k]
        q = s[k + 1] ** 2 - (ratio * s[k]) ** 2
        factor[k + 1] = ratio * factor[k]
        factor[k + 1, k + 1] = math.sqrt(q)
        inverse[k, k], inverse[k, k + 1] = 1 / math.sqrt(q), -ratio * v[k] / v[k + 1] / math.sqrt(q)
    product, size = inverse @ factor, np.abs(inverse) @ np.abs(factor)
    logdet = np.sum(np.log(np.diag(inverse))) + np.sum(np.log(np.diag(factor)))
    lost = np.sum((s[1:] / np.diag(factor)[1:]) ** 2)  # digits lost in q = S² - a² R²
    return float((np.sum(product**2) - n) / 2 - logdet), float(16 * n * EPS * (np.sum(size**2) + lost))


def check_path_divergence(case: Case) -> Outcome:
    """Dense KL of chains = sum over steps of KL between neighbours >= the same on the shortest path; and it bounds
    the end."""
    data = np.full(FREQUENCIES, case["D"])
    signal, noise, found = library_answer(case["path"], data, times_of(case))
    kept, added = signal[:, 0], noise[:, 0]
    v = kept**2 * case["D"] + added**2
    total, steps = float(np.sum(excess(v[1:] / v[:-1]))), len(v) - 1
    # between the path's own ends, in units of its last variance
    signal, noise, _ = library_answer("shortest", data / v[0], np.linspace(1.0, 0.0, steps + 1))
    u = (signal**2 * data / v[0] + noise**2)[:, 0]
    least = float(np.sum(excess(u[1:] / u[:-1])))
    chain, rounding = _chain_divergence(kept, added, case["D"])
    generated = found["ancestral_large_noisy", "marginal"][:1]
    # each h errs by a few ε times the ratio it is taken of (and 1 where that is near 1)
    slack = 32 * EPS * float(np.sum(1 + v[1:] / v[:-1]) + np.sum(1 + u[1:] / u[:-1]))
    shown = {"marginal_variances": v, "sum": total, "sum_on_shortest": least, "chain": chain}
    return worst(
        identity(chain, total, tolerance=rounding + slack, **shown),
        at_most(least, total, tolerance=slack, **shown),
        at_most(float(excess(case["D"] / generated)[0]), chain, tolerance=rounding + slack, **shown),
    )


def check_ancestral_shortest(case: Case) -> Outcome:
    """Library recursion against the closed forms D φ²_{1/N} and D^{1-1/N}."""
    data, steps = spectrum_of(case), case["steps"]
    found = library_answer("shortest", data, np.linspace(1.0, 0.0, steps + 1)).generated
    # q = S_t² - a² S_s² is right to ε S_t² <= ε v_t, and v_t / v_s = D^(-1/N); exponentials lose a factor 1 + |ℓ|
    lost = 64 * EPS * (steps + 1) * (1 + np.abs(np.log(data))) * np.maximum(1.0, data ** (-1 / steps))
    behind = data ** (1 - 1 / steps)
    share = np.array([(1 - b) / (1 - d) if d != 1 else 1 - 1 / steps for b, d in zip(behind, data, strict=True)])
    # near D = 1 the closed form itself cancels: its numerator and denominator are right to ε (1 + D)
    closed = 8 * EPS * (1 + data) / np.where(data == 1, 1.0, np.abs(1 - data))
    quiet, noisy = (found[sampler, "marginal"] for sampler in ("ancestral_large", "ancestral_large_noisy"))
    return worst(
        identity(
            quiet / data / share / (lost + closed), 1 / (lost + closed), tolerance=1.0, share=share, generated=quiet
        ),
        identity(noisy / behind / lost, 1 / lost, tolerance=1.0, behind=behind, generated=noisy),
    )


def check_exact_variance(case: Case) -> Outcome:
    """Generated variance against the data's own."""
    data = spectrum_of(case)
    generated = library_answer(case["path"], data, times_of(case)).generated["ancestral_exact", "marginal"]
    # V/v <- ρ V/v + (1 - ρ) with 0 <= ρ <= 1: errors of a few ε per step add, none is amplified
    return identity(generated / data, np.ones(FREQUENCIES), tolerance=32 * EPS * (case["steps"] + 2), data=data)


def _angles(case: Case, data: Variances) -> tuple[np.ndarray, np.ndarray, Answer]:
    found = library_answer(case["path"], data, times_of(case))
    signal, noise = found.signal, found.noise
    return np.arctan2(signal * np.sqrt(data), noise), signal[0] ** 2 * data + noise[0] ** 2, found


def check_ddim(case: Case) -> Outcome:
    """Library recursion against the product of squared cosines of angles."""
    data = spectrum_of(case)
    angles, end, found = _angles(case, data)
    cosines = np.cos(np.diff(angles, axis=0))
    start = np.ones(FREQUENCIES) if case["start"] == "prior" else end
    expected = start / end * np.prod(cosines**2, axis=0)
    generated = found.generated["ddim", case["start"]] / data
    # an angle is right to a few ε, so each cosine is right to ε / cos
    tolerance = 32 * EPS * np.sum(1 + 1 / cosines, axis=0)
    left, right = generated / expected / tolerance, 1 / tolerance
    return identity(left, right, tolerance=1.0, data=data, angles=angles, generated_over_data=generated)


def check_equal_angles(case: Case) -> Outcome:
    """No path and no grid from pure noise beats equal angles with as many DDIM steps."""
    data, steps = spectrum_of(case), case["steps"]
    angles, _, found = _angles(case, data)
    share = found.generated["ddim", "marginal"] / data
    equal = library_answer("equal_angle", data, np.linspace(1.0, 0.0, steps + 1))
    best = equal.generated["ddim", "marginal"] / data
    tolerance = 64 * EPS * steps / math.sin(math.pi / 2 / steps)
    closed = np.full(FREQUENCIES, math.cos(math.pi / 2 / steps) ** (2 * steps))
    return worst(
        at_most(float(share.max()), float(best.min()), tolerance=tolerance, angles=angles, data=data),
        identity(best, closed, tolerance=tolerance, data=data),
    )


def check_euler_bures(case: Case) -> Outcome:
    """Euler's generated variance against the data's own, for any grid."""
    data, times = spectrum_of(case), times_of(case)
    generated = library_answer("bures", data, times).generated["euler", "marginal"]
    root, t = np.sqrt(data), times[:, None]
    std = (1 - t) * root + t
    # the slope sums terms of size (1 + √D)² that cancel to σ_t (1 - √D); its error acts over the step, against σ_s/σ_t
    slope = 8 * EPS * (1 + root) ** 2 / std[:-1] ** 2
    tolerance = 4 * np.sum((-np.diff(t, axis=0) * slope + 4 * EPS) * np.maximum(1, std[:-1] / std[1:]), axis=0)
    return identity(generated / data / tolerance, 1 / tolerance, tolerance=1.0, data=data, generated=generated)


def check_euler_shortest(case: Case) -> Outcome:
    """Euler's generated variance on the shortest path against (1 + ℓ/(2N))^(2N)."""
    data, steps = spectrum_of(case), case["steps"]
    log_d = np.log(data)
    times = np.linspace(1.0, 0.0, steps + 1)
    generated = library_answer("shortest", data, times).generated["euler", "marginal"]
    gain = 1 + log_d / (2 * steps)
    # two terms of size |ℓ| coth(|ℓ|/2) cancel to the slope -ℓ/2; exponentials lose a factor 1 + |ℓ|
    error = 16 * EPS * (1 + (1 + np.abs(log_d)) * (2 + np.abs(log_d)) / steps)
    tolerance = 2 * steps * (np.abs(gain) + error) ** (2 * steps - 1) * error
    return identity(generated / tolerance, gain ** (2 * steps) / tolerance, tolerance=1.0, data=data, gain=gain)
