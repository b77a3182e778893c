"""Checks of the claims on the linear denoiser: each compares the library with an independent route in one case.

A case gives one class's moments (m, S) at random: condition numbers to 1e8, S singular or zero too. The optimum is
compared with least squares on the square-root design (`_design`): the loss (eq. 25) is |rows Θᵀ - targets|² for rows
that hold the factors of the second moment of what the denoiser sees, since x0 - m, ε and ξ are independent and
centred. Generation is compared with integration of the reverse flow (`theory.claims._flow`). Tolerances follow from
ε, d, the condition number at hand, and the integrator's error.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import lstsq

from theory import linear
from theory.claims._flow import STEP_ERROR, STOP, linear_shrink, reverse_flow
from theory.claims.cases import direction, eigenvalues, rotation
from theory.claims.claim import (
    DIMENSIONS,
    Case,
    Integers,
    Outcome,
    Reals,
    Seeds,
    at_most,
    identity,
    worst,
)
from theory.gaussian import Gaussian
from theory.paths import OrnsteinUhlenbeck

EPS = float(np.finfo(float).eps)
Vector = Float[np.ndarray, " d"]
Square = Float[np.ndarray, "d d"]

MOMENTS: Mapping[str, Any] = {
    "d": DIMENSIONS,
    "mean_norm": Reals(0.0, 10.0),
    "condition": Reals(1.0, 1e8, log=True),
    "zeros": Integers(0, 3),
    "scale": Reals(1e-2, 1e2, log=True),
    "seed": Seeds(),
}
NOISE: Mapping[str, Any] = {"noise_std": Reals(0.0, 10.0), "cond_norm": Reals(0.1, 10.0, log=True)}
TIME = Reals(0.01, 50.0, log=True)


@jax.jit
def _optimum(m: Array, S: Array, noise_std: Array, cond_norm: Array, r: Array, sigma: Array) -> tuple[Array, ...]:
    """The library's W, V c and minimum loss for one class."""
    best = linear.optimal_denoiser(m, S, linear.condition_noise_ratio(noise_std, cond_norm), r, sigma)
    return best.weight, best.bias, best.loss


_shared = jax.jit(linear.shared_denoiser)
_trace_gain = jax.jit(linear.trace_root_gain)


class Moments(NamedTuple):
    """m, S, a factor L with L Lᵀ = S, and the least and the largest eigenvalue of S."""

    mean: Vector
    cov: Square
    factor: Square
    low: float
    high: float


def _moments(case: Case) -> Moments:
    """The class's moments; `zeros` of S's eigenvalues vanish."""
    d, seed = case["d"], case["seed"]
    values = case["scale"] * eigenvalues(d, case["condition"], seed, max(d - case["zeros"], 0))
    factor = rotation(d, seed) * np.sqrt(values)
    mean = case["mean_norm"] * direction(d, seed)
    return Moments(mean, factor @ factor.T, factor, float(values[-1]), float(values[0]))


def _ratio(case: Case) -> float:
    """s from its definition."""
    noise, norm = case.get("noise_std", 0.0), case.get("cond_norm", 1.0)
    return float(noise**2 / (norm**2 + noise**2))


def _gains(case: Case) -> tuple[float, float]:
    return float(np.exp(-case["time"])), float(np.sqrt(-np.expm1(-2 * case["time"])))


def _root(cov: Square) -> Square:
    values, basis = np.linalg.eigh(cov)
    return (basis * np.sqrt(np.maximum(values, 0.0))) @ basis.T


def _design(
    weights: np.ndarray,
    means: np.ndarray,
    roots: np.ndarray,
    codes: np.ndarray,
    noise_std: float,
    r: float,
    sigma: float,
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and targets with |rows Θᵀ - targets|² = E|W x_t + V c̃ - ε|², Θ = [W, V], averaged over classes with
    `weights`.

    For one class: r S^½ (targets 0), σ I (targets I), noise_std I in the code (0), and the mean row (r m, c) (0).
    """
    d, d_emb = means.shape[1], codes.shape[1]
    spread = [np.hstack([r * np.sqrt(w) * R, np.zeros((d, d_emb))]) for w, R in zip(weights, roots, strict=True)]
    signal = np.hstack([sigma * np.eye(d), np.zeros((d, d_emb))])
    noise = np.hstack([np.zeros((d_emb, d)), noise_std * np.eye(d_emb)])
    centre = np.sqrt(weights)[:, None] * np.hstack([r * means, codes])
    rows = np.vstack([signal, *spread, noise, centre])
    return rows, np.vstack([np.eye(d), np.zeros((rows.shape[0] - d, d))])


def _least_squares(rows: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, float]:
    """Θᵀ of least norm and the least sum of squares. Columns are scaled to norm 1 first, which least squares does not
    mind.
    """
    scale = np.linalg.norm(rows, axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    theta = lstsq(rows / scale, targets, cond=1e-12, lapack_driver="gelsy", check_finite=False)[0] / scale[:, None]
    return theta, float(np.sum((rows @ theta - targets) ** 2))


def _one_class(case: Case, moments: Moments) -> tuple[np.ndarray, np.ndarray, float]:
    """W, V c and the minimum loss by least squares, for one class and a code of dimension 1."""
    code, d = case.get("cond_norm", 1.0), case["d"]
    theta, loss = _least_squares(*_one_class_design(case, moments))
    return theta[:d].T, theta[d] * code, loss


def _one_class_design(case: Case, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    code = np.array([[case.get("cond_norm", 1.0)]])
    return _design(
        np.ones(1), moments.mean[None], moments.factor.T[None], code, case.get("noise_std", 0.0), *_gains(case)
    )


def _weight_tolerance(case: Case, low: float, high: float) -> float:
    """Bound on the rounding in W of both routes, for S with eigenvalues in [`low`, `high`].

    A backward error ε d in the rows F changes A by ε d |F|², hence W = σ A⁻¹ by ε d σ |F|²/λ², λ the least eigenvalue
    of A, and (through the residual, at most √d) by ε d √d |F|/λ; |F|² <= σ² + r² (|S| + |m|²) as the mean's row is
    not yet separated. Factor 16 for both routes.
    """
    r, sigma = _gains(case)
    d = case["d"]
    least = sigma**2 + r**2 * low
    size = _size(case, high)
    return float(16 * d * EPS * (sigma * size / least**2 + np.sqrt(d * size) / least))


def _size(case: Case, high: float) -> float:
    """σ² + r² (|S| + |m|²)."""
    r, sigma = _gains(case)
    return float(sigma**2 + r**2 * (high + case["mean_norm"] ** 2))


def check_optimum(case: Case) -> Outcome:
    """The library's W and V c against least squares."""
    moments = _moments(case)
    m, S = moments.mean, moments.cov
    weight, bias, _ = _optimum(m, S, case.get("noise_std", 0.0), case.get("cond_norm", 1.0), *_gains(case))
    W, b, _ = _one_class(case, moments)
    tolerance = _weight_tolerance(case, moments.low, moments.high)
    size = np.sqrt(_size(case, moments.high))
    return worst(
        identity(weight, W, tolerance=tolerance, mean=m, cov=S),
        identity(bias, b, tolerance=2 * size * tolerance, mean=m, cov=S),
    )


def check_score(case: Case) -> Outcome:
    """The optimum, and -ε̂/σ against the gradient of the log-density of the noised data."""
    moments = _moments(case)
    r, sigma = _gains(case)
    x = direction(case["d"], case["seed"] + 1)
    score, gradient = _scores(moments.mean, moments.cov, r, sigma, x)
    low = sigma**2 + r**2 * moments.low
    condition = (sigma**2 + r**2 * moments.high) / low
    # A Cholesky solve is off by ε d times the condition number, relative to |A⁻¹| |x - r m|; factor 16 as above.
    tolerance = 16 * case["d"] * EPS * condition / low * (1 + r * case["mean_norm"])
    return worst(check_optimum(case), identity(score, gradient, tolerance=tolerance))


@jax.jit
def _scores(m: Array, S: Array, r: Array, sigma: Array, x: Array) -> tuple[Array, Array]:
    best = linear.optimal_denoiser(m, S, 0.0, r, sigma)
    noised = Gaussian(r * m, sigma**2 * jnp.eye(m.shape[0]) + r**2 * S)
    return best.score(x), jax.grad(noised.log_prob)(x)


def check_printed_optimum(case: Case) -> Outcome:
    """Lemma 2 as printed: is the loss at its W, V c (V of least norm) as small as the least?"""
    moments = _moments(case)
    m, S = moments.mean, moments.cov
    (r, sigma), gamma, d = _gains(case), case["noise_std"], case["d"]
    g = gamma**2 / (1 + gamma**2)
    W = sigma * np.linalg.inv(sigma**2 * np.eye(d) + r**2 * (S + g * (m @ m) * np.eye(d)))
    bias = -r * W @ m / (1 + gamma**2)
    rows, targets = _one_class_design(case, moments)
    printed = float(np.sum((rows @ np.hstack([W, bias[:, None]]).T - targets) ** 2))
    exact, _, least = _one_class(case, moments)
    tolerance = 64 * d**2 * EPS  # both losses are sums of squares of at most d in all
    numbers = {"mean": m, "cov": S, "signal_square": r**2, "printed_weight": W, "least_squares_weight": exact}
    return at_most(printed, least, tolerance=tolerance, printed_loss=printed, least_loss=least, **numbers)


def check_loss(case: Case) -> Outcome:
    """The minimum loss against the sum of squares that least squares leaves."""
    moments = _moments(case)
    *_, loss = _optimum(moments.mean, moments.cov, case["noise_std"], case["cond_norm"], *_gains(case))
    _, _, least = _one_class(case, moments)
    # An error in Θ changes the least sum of squares only in second order; what is left is rounding in a sum of
    # squares <= d, and that of A⁻¹ (relative ε d times the condition number, of a trace <= d).
    tolerance = 64 * case["d"] ** 2 * EPS + _weight_tolerance(case, moments.low, moments.high)
    return identity(loss, least, tolerance=tolerance)


def check_shared(case: Case) -> Outcome:
    """W and V shared by classes: the library, and the closed form for orthonormal codes, against least squares."""
    d, k, seed = case["d"], 4, case["seed"]
    drawn = np.random.default_rng([seed, 7]).dirichlet(np.ones(k)) if seed else np.ones(k)
    weights = np.where(np.arange(k) < case["classes"], drawn, 0.0)  # always four, some of weight 0: one program per d
    weights /= np.sum(weights)
    classes = [_moments({**case, "seed": seed + j}) for j in range(k)]
    means, covs, factors = (np.stack(x) for x in list(zip(*classes, strict=True))[:3])
    r, sigma = _gains(case)
    codes, gamma = rotation(k, seed), case["noise_std"]
    best = _shared(weights, means, covs, codes, gamma, r, sigma)
    theta, least = _least_squares(*_design(weights, means, np.swapaxes(factors, 1, 2), codes, gamma, r, sigma))
    share = gamma**2 / np.where(weights > 0, weights + gamma**2, 1.0)
    S_c = np.einsum("k,kij->ij", weights, covs) + (means.T * (weights * share)) @ means
    A = sigma**2 * np.eye(d) + r**2 * S_c
    tolerance = _weight_tolerance(case, 0.0, classes[0].high)
    return worst(
        identity(best.weight, theta[:d].T, tolerance=tolerance),
        identity(sigma * np.linalg.inv(A), theta[:d].T, tolerance=tolerance, means=means, weights=weights),
        identity(best.loss, least, tolerance=64 * d**2 * EPS + tolerance),
    )


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
    noise, norm = case.get("noise_std", 0.0), case.get("cond_norm", 1.0)
    ends = _generate(moments.mean, moments.cov, noise, norm, case["horizon"], probes)
    mean, cov, flow = (np.asarray(x) for x in ends)
    return mean, cov, flow


def check_generation(case: Case) -> Outcome:
    """The library's Gaussian against the integrated flow: mean, and Cov^½ (the flow's matrix is symmetric) along the
    probes.
    """
    moments = _moments(case)
    probes = _probes(case["d"], case["seed"])
    mean, cov, ends = _flow_ends(case, moments, probes)
    tolerance = _flow_tolerance(case, moments)
    return worst(
        identity(mean, ends[0], tolerance=tolerance),
        identity(probes @ _root(cov), ends[1:] - ends[0], tolerance=tolerance),
    )


def check_printed_generation(case: Case) -> Outcome:
    """Lemma 4 as printed against the integrated flow of the optimum."""
    moments = _moments(case)
    m, S = moments.mean, moments.cov
    probes = _probes(case["d"], case["seed"])
    _, _, ends = _flow_ends(case, moments, probes)
    lam, basis = np.linalg.eigh(S + _ratio(case) * (m @ m) * np.eye(case["d"]))
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

    Directions do not mix, so that empty ones fill up to the largest d: one program.
    """
    d = len(m)
    filled = (np.pad(x, (0, max(DIMENSIONS.values) - d)) for x in (m, lam, mb, Lam))
    return np.asarray(_guided_flow(*filled, w, T))[:, :d]


@jax.jit
def _guided_flow(m: Array, lam: Array, mb: Array, Lam: Array, w: Array, T: Array) -> Array:
    beta = jnp.maximum(1.0, jnp.sqrt(jnp.maximum(jnp.max(lam), jnp.max(Lam))))

    def denoise(z: Array, time: Array) -> Array:
        return (1 + w) * linear_shrink(lam, m, time, z) - w * linear_shrink(Lam, mb, time, z)

    start = jnp.stack([jnp.zeros_like(m), jnp.ones_like(m)])
    return reverse_flow(denoise, start, T, beta, steps=GUIDED_STEPS)


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
    law = _guided(V, m, lam, mb, Lam, w, T)
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
        identity(V.T @ np.asarray(law.mean), ends[0], tolerance=tolerance),
        identity(V.T @ np.asarray(law.cov) @ V, np.diag(root**2), tolerance=2 * reach * tolerance),
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


def check_trace(case: Case) -> Outcome:
    """The integral (`trace_root_gain`) against eigenvalues of both matrices."""
    m, S, *_ = _moments(case)
    s = case["ratio"]
    both = np.stack([S + s * np.outer(m, m), S])
    values = np.maximum(np.linalg.eigvalsh(both), 0.0)
    roots = np.sqrt(values)
    # Eigenvalues are off by δ = 2 ε d |S + s m mᵀ|; a root by √δ near 0, else by δ/(2 root).
    moved = 2 * EPS * case["d"] * values[0, -1]
    slack = np.minimum(np.sqrt(moved), moved / np.maximum(roots, 1e-300))
    tolerance = float(np.sum(slack) + 16 * EPS * np.sum(roots)) + 1e-300
    return identity(_trace_gain(S, m, s), float(np.sum(roots[0] - roots[1])), tolerance=tolerance)
