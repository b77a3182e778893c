"""Checks of the claims on what the linear denoiser generates: the library against an integrated reverse flow.

The flow (`theory.claims._flow`) is run with the optimal denoiser that least squares confirms (`_linear_checks`), with
guidance too. Tolerances follow from ε, d, the condition number at hand, and the integrator's error.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from theory import linear
from theory.claims._flow import STEP_ERROR, STOP, diagonal_flow, regression, reverse_flow
from theory.claims._linear_cases import EPS, SMALL, TIME, Moments, Square, Vector, moments_of, pad, share_of
from theory.claims.cases import direction, eigenvalues, rotation
from theory.claims.claim import DIMENSIONS, Case, Integers, Outcome, Reals, Seeds, identity, worst
from theory.gaussian import Gaussian
from theory.paths import OrnsteinUhlenbeck


def _root(cov: Square) -> Square:
    values, basis = np.linalg.eigh(cov)
    return (basis * np.sqrt(np.maximum(values, 0.0))) @ basis.T


@jax.jit
def _generate(
    m: Array, S: Array, noise_std: Array, cond_norm: Array, T: Array, probes: Array
) -> tuple[Array, Array, Array]:
    """Generated mean and covariance by the library, and the flow's end for 0 and for each probe."""
    s = linear.condition_noise_ratio(noise_std, cond_norm)
    law = linear.generated(m, S, s, T)
    # What SC-L2* finds by least squares, written out here: the library's own moments would agree with themselves.
    share = noise_std**2 / (cond_norm**2 + noise_std**2)
    mean, cov = (1 - share) * m, S + share * jnp.outer(m, m)
    denoiser = linear.PathDenoiser(mean[None], cov[None], OrnsteinUhlenbeck(T))
    beta = jnp.maximum(1.0, jnp.sqrt(jnp.max(denoiser.values)))
    row = jax.vmap(lambda z, time: denoiser(z, time / T, 0), in_axes=(0, None))
    start = jnp.concatenate([jnp.zeros_like(m)[None], probes])
    return law.mean, law.cov, reverse_flow(row, start, T, beta)


def _probes(d: int, seed: int) -> np.ndarray:
    """Orthonormal directions: all for d <= 3, else three."""
    if d <= 3:
        return np.eye(d)
    return np.linalg.qr(np.random.default_rng([seed, 8]).standard_normal((d, 3)))[0].T


def _flow_tolerance(case: Case, moments: Moments) -> float:
    """Bound on the difference of two routes to Cov^½ times a unit vector plus the mean.

    Rounding moves S_c by δ = 8 ε d |S_c|, Cov by up to δ/(1 - e^(-2T)), its root by √ of that (singular S_c) or that
    over the least root. The integrator adds STEP_ERROR relative to |S_c|^½ (at least 1), and the
    last stretch STOP, relative to the start's σ_T = (1 - e^(-2T))^½; the mean is moved |m| times as much.
    """
    norm, noise2, decay = (
        moments.high + case["mean_norm"] ** 2,
        -np.expm1(-2 * case["horizon"]),
        np.exp(-2 * case["horizon"]),
    )
    moved = 8 * case["d"] * EPS * norm / noise2
    least = max(moments.low / (noise2 + decay * moments.low), 1e-300)
    rounding = min(np.sqrt(moved), moved / np.sqrt(least))
    return float(rounding + (STEP_ERROR + STOP / np.sqrt(noise2)) * max(1.0, np.sqrt(norm))) * (1 + case["mean_norm"])


def _flow_ends(case: Case, moments: Moments, probes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    d, code = case["d"], (case.get("noise_std", 0.0), case.get("cond_norm", 1.0))
    filled = np.zeros((3, max(d, SMALL)))  # three rows for every d: one program
    filled[: len(probes), :d] = probes
    ends = _generate(pad(moments.mean), pad(moments.cov, axes=2), *code, case["horizon"], filled)
    mean, cov, flow = (np.asarray(x) for x in ends)
    return mean[:d], cov[:d, :d], flow[: len(probes) + 1, :d]


def check_generation(case: Case) -> Outcome:
    """The library's Gaussian against the integrated flow: mean, and Cov^½ (the flow's matrix is symmetric) along the
    probes.
    """
    moments = moments_of(case)
    probes = _probes(case["d"], case["seed"])
    mean, cov, ends = _flow_ends(case, moments, probes)
    tolerance = _flow_tolerance(case, moments)
    return worst(
        identity(mean, ends[0], tolerance=tolerance),
        identity(probes @ _root(cov), ends[1:] - ends[0], tolerance=tolerance),
    )


def check_printed_generation(case: Case) -> Outcome:
    """Lemma 4 as printed against the integrated flow of the optimum."""
    moments = moments_of(case)
    m, S = moments.mean, moments.cov
    probes = _probes(case["d"], case["seed"])
    _, _, ends = _flow_ends(case, moments, probes)
    lam, basis = np.linalg.eigh(S + share_of(case) * (m @ m) * np.eye(case["d"]))
    lam, decay = np.maximum(lam, 0.0), np.exp(-2 * case["horizon"])
    variance = lam / (1 + (lam - 1) * decay)
    printed = (basis * variance) @ basis.T
    moved = ends[1:] - ends[0]
    numbers = {"mean": m, "cov": S, "printed_cov": printed}
    if case["d"] <= 3:
        numbers["generated_cov"] = moved.T @ moved
    return identity(probes @ _root(printed), moved, tolerance=_flow_tolerance(case, moments), **numbers)


GUIDED: Mapping[str, Any] = {
    "d": DIMENSIONS,
    "guidance": Reals(0.0, 4.0),
    "horizon": TIME,
    "share": Reals(0.05, 1.0),
    "excess": Reals(1e-3, 1e2, log=True),
    "mean_norm": Reals(0.0, 10.0),
    "gap": Reals(0.0, 10.0),
    "condition": Reals(1.0, 1e6, log=True),
    "zeros": Integers(0, 3),
    "seed": Seeds(),
}
GUIDED_STEPS = 96
GUIDED_ERROR = 1e-8
"""Relative error of the guided flow in GUIDED_STEPS steps for w <= 4, measured by halving the step
(tests/test_linear.py).
"""


def guided_flow(m: Vector, lam: Vector, mb: Vector, Lam: Vector, w: float, T: float) -> np.ndarray:
    """The guided reverse flow in a common eigenbasis, from 0 and from 1 in every direction, with both regressions x̂0
    of x0.
    """
    beta = max(1.0, float(np.sqrt(max(np.max(lam), np.max(Lam)))))

    def denoise(time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (own, slope), (all_, pooled) = regression(lam, m, time), regression(Lam, mb, time)
        return (1 + w) * own - w * all_, (1 + w) * slope - w * pooled

    return diagonal_flow(denoise, np.stack([np.zeros_like(m), np.ones_like(m)]), T, beta, steps=GUIDED_STEPS)


@jax.jit
def _guided(V: Array, m: Array, lam: Array, mb: Array, Lam: Array, w: Array, T: Array) -> Gaussian:
    """The library's answer, in the basis V."""
    first, second = (V * lam) @ V.T, (V * Lam) @ V.T
    return linear.generated_guided(Gaussian(V @ m, first), Gaussian(V @ mb, second), w, T, method="closed")


def _guided_case(case: Case) -> tuple[Vector, Vector, Vector, Vector]:
    """Eigenvalues of S; of S' = share S + excess (as in pooled data), the excess in the first half of the
    directions.
    """
    d, seed = case["d"], case["seed"]
    lam = eigenvalues(d, case["condition"], seed, max(d - case["zeros"], 0))
    Lam = case["share"] * lam + case["excess"] * (np.arange(d) < (d + 1) // 2)
    m = case["mean_norm"] * direction(d, seed)
    return m, lam, m + case["gap"] * direction(d, seed + 1), Lam


def check_guided(case: Case) -> Outcome:
    """The closed form against the integrated flow."""
    m, lam, mb, Lam = _guided_case(case)
    w, T, V = case["guidance"], case["horizon"], rotation(case["d"], case["seed"])
    d = case["d"]
    basis = np.eye(max(d, SMALL))
    basis[:d, :d] = V
    law = _guided(basis, *(pad(x) for x in (m, lam, mb, Lam)), w, T)
    mean, cov = np.asarray(law.mean)[:d], np.asarray(law.cov)[:d, :d]
    ends = guided_flow(m, lam, mb, Lam, w, T)
    root = ends[1] - ends[0]
    # The basis change moves eigenvalues by δ = 8 ε d |S'|: relative δ/λ, the powers by (1 + w) of that; mean and root
    # move in proportion to what the flow carries, at most `reach`.
    moved = 8 * case["d"] * EPS * max(lam[0], np.max(Lam))
    relative = np.where(
        lam > 0, (1 + 2 * w) * moved * (1 / np.where(lam > 0, lam, 1) + 1 / np.where(Lam > 0, Lam, 1)), 0.0
    )
    reach = 1 + np.max(np.abs(root)) + (1 + np.max(np.abs(ends[0])) + case["mean_norm"] + w * case["gap"])
    tolerance = float(np.max(relative) + GUIDED_ERROR + (1 + 2 * w) * STOP / np.sqrt(-np.expm1(-2 * T))) * reach
    return worst(
        identity(V.T @ mean, ends[0], tolerance=tolerance),
        identity(V.T @ cov @ V, np.diag(root**2), tolerance=2 * reach * tolerance),
    )


def check_tilted(case: Case) -> Outcome:
    """Is what guidance generates (integrated flow, T = 50) the tilted density p(x|y)^(1+w) p(x)^(-w), in one
    dimension?
    """
    w, lam, Lam, m = case["guidance"], case["variance"], case["pooled_variance"], case["mean"]
    precision = (1 + w) / lam - w / Lam
    tilted = np.array([(1 + w) * m / lam / precision, 1 / precision])
    ends = guided_flow(np.array([m]), np.array([lam]), np.zeros(1), np.array([Lam]), w, 50.0)[:, 0]
    flow = np.array([ends[0], (ends[1] - ends[0]) ** 2])
    # GUIDED_ERROR relative, and e^(-50) for the horizon; doubled for the square.
    tolerance = 4 * GUIDED_ERROR * float(1 + np.max(np.abs(flow)))
    return identity(
        tilted, flow, tolerance=tolerance, tilted_mean_and_variance=tilted, generated_mean_and_variance=flow
    )
