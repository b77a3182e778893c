"""Checks of the claims on the linear denoiser: each compares the library with an independent route in one case.

The optimum is compared with least squares on the square-root design (`_design`): the loss (eq. 25) is |rows Θᵀ -
targets|² for rows that hold the factors of the second moment of what the denoiser sees, since x0 - m, ε and ξ are
independent and centred. Tolerances follow from ε, d and the condition number at hand. Cases: `_linear_cases`; what
the denoiser generates: `_generation_checks`.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy.linalg import lstsq

from theory import linear
from theory.claims._linear_cases import EPS, Moments, gains_at, moments_of, pad
from theory.claims.cases import direction, rotation
from theory.claims.claim import Case, Outcome, at_most, identity, worst
from theory.gaussian import Gaussian


@jax.jit
def _optimum(m: Array, S: Array, noise_std: Array, cond_norm: Array, r: Array, sigma: Array) -> tuple[Array, ...]:
    """The library's W, V c and minimum loss for one class."""
    best = linear.optimal_denoiser(m, S, linear.condition_noise_ratio(noise_std, cond_norm), r, sigma)
    return best.weight, best.bias, best.loss


def _library_optimum(case: Case, moments: Moments) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The library's W, V c and minimum loss, without the directions filled up."""
    code, d = (case.get("noise_std", 0.0), case.get("cond_norm", 1.0)), case["d"]
    found = _optimum(pad(moments.mean), pad(moments.cov, axes=2), *code, *gains_at(case))
    weight, bias, loss = (np.asarray(x) for x in found)
    return weight[:d, :d], bias[:d], loss


_shared = jax.jit(linear.shared_denoiser)
_trace_gain = jax.jit(linear.trace_root_gain)


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
        np.ones(1), moments.mean[None], moments.factor.T[None], code, case.get("noise_std", 0.0), *gains_at(case)
    )


def _weight_tolerance(case: Case, low: float, high: float) -> float:
    """Bound on the rounding in W of both routes, for S with eigenvalues in [`low`, `high`].

    A backward error ε d in the rows F changes A by ε d |F|², hence W = σ A⁻¹ by ε d σ |F|²/λ², λ the least eigenvalue
    of A, and (through the residual, at most √d) by ε d √d |F|/λ; |F|² <= σ² + r² (|S| + |m|²) as the mean's row is
    not yet separated. Factor 16 for both routes.
    """
    r, sigma = gains_at(case)
    d = case["d"]
    least = sigma**2 + r**2 * low
    size = _size(case, high)
    return float(16 * d * EPS * (sigma * size / least**2 + np.sqrt(d * size) / least))


def _size(case: Case, high: float) -> float:
    """σ² + r² (|S| + |m|²)."""
    r, sigma = gains_at(case)
    return float(sigma**2 + r**2 * (high + case["mean_norm"] ** 2))


def check_optimum(case: Case) -> Outcome:
    """The library's W and V c against least squares."""
    moments = moments_of(case)
    m, S = moments.mean, moments.cov
    weight, bias, _ = _library_optimum(case, moments)
    W, b, _ = _one_class(case, moments)
    tolerance = _weight_tolerance(case, moments.low, moments.high)
    size = np.sqrt(_size(case, moments.high))
    return worst(
        identity(weight, W, tolerance=tolerance, mean=m, cov=S),
        identity(bias, b, tolerance=2 * size * tolerance, mean=m, cov=S),
    )


def check_score(case: Case) -> Outcome:
    """The optimum, and -ε̂/σ against the gradient of the log-density of the noised data."""
    moments = moments_of(case)
    r, sigma = gains_at(case)
    x = direction(case["d"], case["seed"] + 1)
    scores = _scores(pad(moments.mean), pad(moments.cov, axes=2), r, sigma, pad(x))
    score, gradient = (np.asarray(value)[: case["d"]] for value in scores)
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
    moments = moments_of(case)
    m, S = moments.mean, moments.cov
    (r, sigma), gamma, d = gains_at(case), case["noise_std"], case["d"]
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
    moments = moments_of(case)
    *_, loss = _library_optimum(case, moments)
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
    classes = [moments_of({**case, "seed": seed + j}) for j in range(k)]
    means, covs, factors = (np.stack(x) for x in list(zip(*classes, strict=True))[:3])
    r, sigma = gains_at(case)
    codes, gamma = rotation(k, seed), case["noise_std"]
    best = _shared(weights, pad(means), pad(covs, axes=2), codes, gamma, r, sigma)
    weight = np.asarray(best.weight)[:d, :d]
    theta, least = _least_squares(*_design(weights, means, np.swapaxes(factors, 1, 2), codes, gamma, r, sigma))
    share = gamma**2 / np.where(weights > 0, weights + gamma**2, 1.0)
    S_c = np.einsum("k,kij->ij", weights, covs) + (means.T * (weights * share)) @ means
    A = sigma**2 * np.eye(d) + r**2 * S_c
    tolerance = _weight_tolerance(case, 0.0, classes[0].high)
    return worst(
        identity(weight, theta[:d].T, tolerance=tolerance),
        identity(sigma * np.linalg.inv(A), theta[:d].T, tolerance=tolerance, means=means, weights=weights),
        identity(best.loss, least, tolerance=64 * d**2 * EPS + tolerance),
    )


def check_trace(case: Case) -> Outcome:
    """The integral (`trace_root_gain`) against eigenvalues of both matrices."""
    m, S, *_ = moments_of(case)
    s = case["ratio"]
    both = np.stack([S + s * np.outer(m, m), S])
    values = np.maximum(np.linalg.eigvalsh(both), 0.0)
    roots = np.sqrt(values)
    # Eigenvalues are off by δ = 2 ε d |S + s m mᵀ|; a root by √δ near 0, else by δ/(2 root).
    moved = 2 * EPS * case["d"] * values[0, -1]
    slack = np.minimum(np.sqrt(moved), moved / np.maximum(roots, 1e-300))
    tolerance = float(np.sum(slack) + 16 * EPS * np.sum(roots)) + 1e-300
    return identity(_trace_gain(pad(S, axes=2), pad(m), s), float(np.sum(roots[0] - roots[1])), tolerance=tolerance)
