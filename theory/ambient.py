"""Ambient Diffusion Omni: training high noise levels on low-quality samples.

Variance-exploding notation: x_t = x0 + σ_t z. A sample is noised *once* to x_n = x0 + σ_n z_n (σ_n = its
sigma_min) and kept; training at σ_t > σ_n adds x_t = x_n + √(σ_t² − σ_n²) eps and minimises

    ‖α h(x_t) + (1 − α) x_t − x_n‖²,   α = (σ_t² − σ_n²) / σ_t²      (eq. 2.2)

E[x_n | x0, x_t] = α x0 + (1 − α) x_t, because independent Gaussian increments are proportioned by their
variances. So the residual is α (h − x0) plus noise of mean 0 and covariance σ_n² α I given (x0, x_t): the
minimiser is E[x0 | x_t] for *any* law of x0, and the loss divided by α² has the floor mmse + σ_n² d / α. The
weight 1/α² = σ_t⁴ / (σ_t² − σ_n²)² is at most L for σ_t ≥ σ_n / √(1 − 1/√L), the buffer.
If the kept points come from a degraded law q_0, the minimiser is E_q[x0 | x_t].

The rest of the topic lives beside: `theory.total_variation` (contraction), `theory.kernel_density` (bounds,
crossover), `theory.classifier` (ideal classifier, sigma_min); their main functions are importable from here
too.
"""

import math

import numpy as np
from jaxtyping import Array, Float, ScalarLike

from theory._checks import require
from theory.classifier import (
    gaussian_total_variation,
    gaussian_triangular_discrimination,
    probability_clean,
    sigma_min_for_blur,
    sigma_min_for_spectra,
    sigma_min_line,
    triangular_discrimination,
)
from theory.gates import NoiseGate, alpha_of_ratio, ambient_alpha, ambient_weight, buffer_noise
from theory.kernel_density import (
    Crossover,
    bound,
    bound_with_bias,
    crossover,
    crossover_of_bounds,
    expected_distance,
    gain,
    gain_limit,
)
from theory.total_variation import Line, contraction, panel_rule, shifted_gaussians, total_variation

__all__ = [
    "Crossover",
    "Line",
    "NoiseGate",
    "ambient_alpha",
    "ambient_floor",
    "ambient_loss",
    "ambient_minimiser",
    "ambient_weight",
    "bound",
    "bound_with_bias",
    "buffer_noise",
    "contraction",
    "crossover",
    "crossover_of_bounds",
    "expected_distance",
    "gain",
    "gain_limit",
    "gaussian_total_variation",
    "gaussian_triangular_discrimination",
    "minimum_error",
    "posterior_mean",
    "probability_clean",
    "shifted_gaussians",
    "sigma_min_for_blur",
    "sigma_min_for_spectra",
    "sigma_min_line",
    "total_variation",
    "triangular_discrimination",
]


def ambient_loss(
    x0_hat: Float[Array, " d"],
    xt: Float[Array, " d"],
    xn: Float[Array, " d"],
    sigma: ScalarLike,
    sigma_min: ScalarLike,
) -> Float[Array, ""]:
    """‖α x0_hat + (1 − α) xt − xn‖² of one sample, unweighted (AO, eq. 2.2); multiply by `ambient_weight` to
    weigh it.

    sigma > sigma_min ≥ 0. JAX; float32 or float64.
    """
    alpha = ambient_alpha(sigma, sigma_min)
    residual = alpha * x0_hat + (1 - alpha) * xt - xn
    return residual @ residual


def ambient_floor(mmse: float, sigma: float, sigma_min: float, d: int) -> float:
    """The least weighted ambient loss: mmse + sigma_min² d / α, `mmse` = E‖x0 − E[x0 | xt]‖² at noise level
    sigma.

    Raises `ValueError` for d < 1 or sigma <= sigma_min.
    """
    require(bool(d >= 1), "d", d, "at least 1")
    require(bool(0 <= sigma_min < sigma), "sigma_min", sigma_min, f"at least 0 and below sigma = {sigma:g}")
    return mmse + sigma_min**2 * d / alpha_of_ratio(sigma_min / sigma)


def posterior_mean(prior: Line, xt: Float[np.ndarray, " m"], sigma: float) -> Float[np.ndarray, " m"]:
    """E[x0 | x0 + sigma ε = xt] on the line, closed form for Gaussian mixtures (atoms allowed); sigma > 0.
    NumPy.

    Raises `ValueError` for another sigma.
    """
    require(bool(sigma > 0), "sigma", sigma, "positive")
    variance = (prior.stds**2 + sigma**2)[:, None]
    from_mean = xt - prior.means[:, None]  # (components, points): sums over the first axis are fast
    log_weight = np.log(prior.weights)[:, None] - 0.5 * np.log(variance) - from_mean**2 / (2 * variance)
    weight = np.exp(log_weight - log_weight.max(axis=0))
    means = prior.means[:, None] + (prior.stds**2)[:, None] / variance * from_mean
    return np.sum(weight * means, axis=0) / np.sum(weight, axis=0)


def minimum_error(prior: Line, sigma: float) -> float:
    """mmse = E (x0 − E[x0 | xt])² on the line, = Var x0 − Var E[x0 | xt] by quadrature over xt; NumPy."""
    smoothed = prior.smoothed(sigma)
    low, high = np.min(smoothed.means - 10 * smoothed.stds), np.max(smoothed.means + 10 * smoothed.stds)
    panels = max(8, math.ceil((high - low) / float(np.min(smoothed.stds))))
    x, w = panel_rule(np.linspace(low, high, panels + 1))
    estimate = posterior_mean(prior, x, sigma) - prior.mean()
    return max(prior.std() ** 2 - float(w @ (smoothed.pdf(x) * estimate**2)), 0.0)


def ambient_minimiser(
    prior: Line, xt: Float[np.ndarray, " m"], sigma: float, sigma_min: float
) -> Float[np.ndarray, " m"]:
    """The minimiser of the ambient loss as its definition gives it: (E[x_n | x_t] − (1 − α) x_t) / α, on the
    line.

    E[x_n | x_t] by quadrature over the kept points, x_n ~ prior * N(0, sigma_min²), x_t | x_n ~ N(x_n, sigma²
    − sigma_min²):
    nothing is assumed of the answer, which AO-L says is `posterior_mean`. 0 < sigma_min < sigma; x_t within
    30 sigma of the prior. NumPy. Raises `ValueError` for other noise levels.
    """
    require(bool(0 < sigma_min < sigma), "sigma_min", sigma_min, f"between 0 and sigma = {sigma:g}")
    step = math.sqrt(sigma**2 - sigma_min**2)
    kept = prior.smoothed(sigma_min)
    # given x_t, x_n has its mass between x_t and the prior's means, give or take a few `step`
    low, high = min(np.min(xt), np.min(kept.means)) - 10 * step, max(np.max(xt), np.max(kept.means)) + 10 * step
    width = min(step, float(np.min(kept.stds)))
    x, w = panel_rule(np.linspace(low, high, math.ceil((high - low) / width) + 1))
    joint = w * kept.pdf(x) * np.exp(-0.5 * ((xt[:, None] - x) / step) ** 2)
    alpha = alpha_of_ratio(sigma_min / sigma)
    return ((joint @ x) / np.sum(joint, axis=1) - (1 - alpha) * xt) / alpha
