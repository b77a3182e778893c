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
from theory.discretisation import Start, generated_variance, sampling_error
from theory.fisher import diagonal_path_length
from theory.gaussian import Gaussian
from theory.path_base import Path
from theory.paths import PATHS, BuresPath, EqualAnglePath, ShortestPath
from theory.spectra import PowerLaw

Variances = Float[np.ndarray, " k"]
EPS = float(np.finfo(np.float64).eps)
NATURAL = PowerLaw(1.59, 0.0086, 2.0)
"""SPD's spectrum of 32 x 32 natural images."""
FREQUENCIES = 3
METRICS = ("kl_generated_data", "kl_data_generated", "wasserstein2")


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


def _h(ratio: np.ndarray) -> np.ndarray:
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


PAPER_SAMPLERS = ("ddim", "ancestral_large")


@cache
def _shortest_errors(steps: int) -> Callable[..., Array]:
    """The three errors, by sampler, on data of variance D of the shortest path made for another variance."""

    @jax.jit
    def errors(data: Array, path_for: Array) -> Array:
        path = ShortestPath(path_for, basis="pixels")
        return jnp.array([sampling_error(path, data, steps, sampler) for sampler in PAPER_SAMPLERS])

    return errors


def _charitably_at_most(first: np.ndarray, second: np.ndarray, **numbers: Any) -> Outcome:
    """`first` <= `second` in at least one of the three errors: the best of three margins."""
    outcomes = [at_most(a, b, **numbers) for a, b in zip(first, second, strict=True)]
    return max(outcomes, key=lambda outcome: outcome.margin)


def check_deviation(case: Case) -> Outcome:
    """Errors on the shortest path, and on the one made for D^(1 + deviation): the same ends, a nearby path."""
    data = np.array([case["D"]])
    errors, sampler = _shortest_errors(case["steps"]), PAPER_SAMPLERS.index(case["sampler"])
    exact, moved = (np.asarray(errors(data, data**power))[sampler] for power in (1.0, 1 + case["deviation"]))
    shown = {"shortest": dict(zip(METRICS, exact, strict=True)), "deviating": dict(zip(METRICS, moved, strict=True))}
    return _charitably_at_most(exact, moved, **shown)


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
    total, steps = float(np.sum(_h(v[1:] / v[:-1]))), len(v) - 1
    # between the path's own ends, in units of its last variance
    signal, noise, _ = library_answer("shortest", data / v[0], np.linspace(1.0, 0.0, steps + 1))
    u = (signal**2 * data / v[0] + noise**2)[:, 0]
    least = float(np.sum(_h(u[1:] / u[:-1])))
    chain, rounding = _chain_divergence(kept, added, case["D"])
    generated = found["ancestral_large_noisy", "marginal"][:1]
    # each h errs by a few ε times the ratio it is taken of (and 1 where that is near 1)
    slack = 32 * EPS * float(np.sum(1 + v[1:] / v[:-1]) + np.sum(1 + u[1:] / u[:-1]))
    shown = {"marginal_variances": v, "sum": total, "sum_on_shortest": least, "chain": chain}
    return worst(
        identity(chain, total, tolerance=rounding + slack, **shown),
        at_most(least, total, tolerance=slack, **shown),
        at_most(float(_h(case["D"] / generated)[0]), chain, tolerance=rounding + slack, **shown),
    )


RIVALS = ("vp_linear", "vp_cosine", "heat")
GRID = (12, 12)


@cache
def _ranking(samplers: tuple[str, ...], steps: int) -> Callable[..., Array]:
    """Three errors of each sampler, on the shortest path and on its rivals."""

    @jax.jit
    def errors(spectrum: Array) -> Array:
        paths = [PATHS[name](spectrum) for name in ("shortest", *RIVALS)]
        return jnp.array([[sampling_error(path, spectrum, steps, s) for path in paths] for s in samplers])

    return errors


def _law_errors(case: Case, samplers: tuple[str, ...]) -> np.ndarray:
    spectrum = PowerLaw(case["c1"], case["c2"], case["m"]).spectrum(GRID)
    return np.asarray(_ranking(samplers, case["steps"])(spectrum))


def check_ranking(case: Case) -> Outcome:
    """The three errors on the shortest path against a rival's: at least one is no larger."""
    errors = _law_errors(case, PAPER_SAMPLERS)[PAPER_SAMPLERS.index(case["sampler"])]
    mine, rival = errors[0], errors[1 + RIVALS.index(case["rival"])]
    shown = {"shortest": dict(zip(METRICS, mine, strict=True)), "rival": dict(zip(METRICS, rival, strict=True))}
    return _charitably_at_most(mine, rival, **shown)


def check_natural_ranking(case: Case) -> Outcome:
    """Ancestral, large variance, noise-free end: both divergences on the shortest path are below all rivals'."""
    errors = _law_errors(case, ("ancestral_large",))[0, :, :2]
    best = errors[1:].min(axis=0)
    return worst(*(at_most(a, b, errors=errors) for a, b in zip(errors[0], best, strict=True)))


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


PRINTED_DDIM = {"equal_angle": (0.61, 0.63), "shortest": (5.37, 5.95)}


@cache
def _natural_errors(name: str) -> np.ndarray:
    """DDIM's three errors in 50 steps on the 32 x 32 spectrum."""
    found = jax.jit(lambda data: jnp.array(sampling_error(PATHS[name](data), data, 50, "ddim")))
    return np.asarray(found(NATURAL.spectrum((32, 32))))


def check_ddim_figures(case: Case) -> Outcome:
    """Library errors on the 32 x 32 spectrum against the closed form, and against the figures recorded."""
    data = NATURAL.spectrum((32, 32))
    angle = np.linspace(0, math.pi / 2, 51)[:, None]
    if case["path"] == "shortest":
        tau = np.linspace(0, 1, 51)[:, None]
        power = (1 - data.ravel() ** tau) / (1 - data.ravel())
        angle = np.arctan2(np.sqrt(power * data.ravel()), np.sqrt(1 - power))
    share = np.prod(np.cos(np.diff(angle, axis=0)) ** 2, axis=0) * np.ones(data.size)
    closed = np.array([np.sum(_h(share)), np.sum(_h(1 / share))])
    values = _natural_errors(case["path"])[:2]
    # the plain formula's 1 - φ² keeps ε relative to 1, at the first step 1 - φ² > 1e-4: shares are right to 1e-11, and
    # divergences, sums of terms (share - 1)²/4 > 1e-7, to 1e-9 at worst
    return worst(
        identity(values / closed, np.ones(2), tolerance=1e-8, found=values),
        identity(values, np.array(PRINTED_DDIM[case["path"]]), tolerance=0.0051, found=values),
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


LARGEST_LOG_SNR = 8.0


@cache
def _schedule_length(name: str) -> Callable[..., Array]:
    path = PATHS[name](jnp.ones(1))

    def variance(log_snr: Array, data: Array) -> Array:
        signal, noise = path.powers(path.time_at(log_snr))
        return signal * data + noise

    @jax.jit
    def length(data: Array) -> Array:
        ends = -LARGEST_LOG_SNR, LARGEST_LOG_SNR
        return diagonal_path_length(lambda log_snr: variance(log_snr, data), *ends, panels=16)

    return length


_RULES = tuple(np.polynomial.legendre.leggauss(nodes) for nodes in (140, 200))


def _length_by_log_snr(data: Variances, nodes: np.ndarray, weights: np.ndarray) -> float:
    """Length of 1 + (D - 1) sigmoid(λ) over |λ| <= 8."""
    share = 1 / (1 + np.exp(-LARGEST_LOG_SNR * nodes))[:, None]
    rate = (data - 1) * share * (1 - share) / (1 + (data - 1) * share)
    return LARGEST_LOG_SNR * float(weights @ np.sqrt(np.sum(rate**2, axis=1) / 2))


def check_one_curve(case: Case) -> Outcome:
    """Length along a library schedule, by log-SNR, against one quadrature in log-SNR that knows no schedule."""
    data = spectrum_of(case)
    found = float(_schedule_length(case["path"])(data))
    coarse, expected = (_length_by_log_snr(data, *rule) for rule in _RULES)
    ends = 1 + (data - 1) / (1 + np.exp(np.array([[-LARGEST_LOG_SNR], [LARGEST_LOG_SNR]])))
    geodesic = float(np.linalg.norm(np.log(ends[0] / ends[1])) / math.sqrt(2))
    # the coarser rule's error bounds the finer one's many times over; gains near the ends lose a factor 1/(1-t) < 100
    tolerance = abs(coarse - expected) + 4000 * EPS * (expected + 1)
    return worst(
        identity(found, expected, tolerance=tolerance, data=data, geodesic=geodesic),
        at_most(geodesic, found, tolerance=tolerance, data=data),
    )


PRINTED_RATIOS = {"vp_cosine": 1.053, "heat": 1.069, "bures": 1.022, "variance_exploding": 1.009}


@cache
def length_ratio(name: str, panels: int = 64) -> float:
    """Length of a path's curve of marginals on the 32 x 32 spectrum, over the geodesic distance of its own ends."""

    @jax.jit
    def length_and_ends(data: Array) -> tuple[Array, Array]:
        path = PATHS[name](data)

        def variance(t: Array) -> Array:
            signal, noise = path.powers(t)
            return signal * data + noise

        ends = jnp.broadcast_to(variance(jnp.ones(())) / variance(jnp.zeros(())), data.shape)
        return diagonal_path_length(variance, 0.0, 1.0, panels=panels), ends

    length, ends = length_and_ends(NATURAL.spectrum((32, 32)))
    return float(length) / float(np.linalg.norm(np.log(ends)) / math.sqrt(2))


def check_length_ratio(case: Case) -> Outcome:
    """Quadrature along the library's path against the figure recorded by the independent derivation, to its
    rounding."""
    return identity(length_ratio(case["path"]), PRINTED_RATIOS[case["path"]], tolerance=5.1e-4)
