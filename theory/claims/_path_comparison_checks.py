"""Checks of the claims that compare whole paths: errors of samplers on spectra, and lengths of curves of marginals.

Notation of `_shortest_path_checks`. Errors are the library's three (both divergences, and W2); lengths are in the
Fisher metric of Gaussians.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from theory.claims._shortest_path_checks import EPS, Variances, excess, spectrum_of
from theory.claims.claim import Case, Outcome, at_most, identity, worst
from theory.discretisation import sampling_error
from theory.fisher import diagonal_path_length
from theory.paths import PATHS, ShortestPath
from theory.spectra import PowerLaw

NATURAL = PowerLaw(1.59, 0.0086, 2.0)
"""SPD's spectrum of 32 x 32 natural images."""
METRICS = ("kl_generated_data", "kl_data_generated", "wasserstein2")


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
    closed = np.array([np.sum(excess(share)), np.sum(excess(1 / share))])
    values = _natural_errors(case["path"])[:2]
    # the plain formula's 1 - φ² keeps ε relative to 1, at the first step 1 - φ² > 1e-4: shares are right to 1e-11, and
    # divergences, sums of terms (share - 1)²/4 > 1e-7, to 1e-9 at worst
    return worst(
        identity(values / closed, np.ones(2), tolerance=1e-8, found=values),
        identity(values, np.array(PRINTED_DDIM[case["path"]]), tolerance=0.0051, found=values),
    )


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
