"""The ideal classifier of clean against corrupted noised images, and the noise level sigma_min that it sets.

Trained on equal parts of p_σ (clean) and q_σ (corrupted), the best classifier says c(x) = p_σ / (p_σ + q_σ).
On corrupted images

    E_q c = ∫ p q / (p + q) = 1/2 − Δ/4,   Δ = ∫ (p − q)² / (p + q),   2 TV² ≤ Δ ≤ 2 TV,

so E_q c ≥ tau ("cannot tell") means Δ ≤ 2 − 4 tau, which is not TV ≤ 1/2 − tau (Ambient Diffusion Omni,
section 3). Δ is an f-divergence: it falls as noise grows, and sigma_min(tau) = inf {σ : E_q c ≥ tau} is one
number.

*On the line* the integrals are sums on an even grid: p and q are analytic, so the trapezoid rule converges
faster than any power.

*Centred Gaussians N(0, diag a), N(0, diag b) in any dimension* (images with power spectra a, b): with z = 1/2
+ i t and Φ(t) = ∫ p^z q^(1−z) = ∏_j [a_j^z b_j^(1−z) (z / a_j + (1 − z) / b_j)]^(−1/2), Fourier inversion of
the law of the log-likelihood ratio l gives, because √(pq) / (2 cosh(l/2)) = pq / (p + q) and √(pq) e^(−|l|/2)
= min(p, q),

    E_q c = ∫ Φ(t) / (2 cosh πt) dt,          1 − TV = (1 / 2π) ∫ Φ(t) / (1/4 + t²) dt.

|Φ| ≤ 1 in the strip |Im t| ≤ 1/2 (Hölder), so the trapezoid rule with step h errs by about e^(−π/h) in the
first: no sampling.
The second is summed after t = sinh(u) / 2; its error is checked by halving the step.

NumPy, float64: one-off numbers, not for jit.
"""

import math
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Complex, Float
from scipy.optimize import brentq

from theory._checks import require, require_finite
from theory.total_variation import Line, common_grid, total_variation

Criterion = Literal["classifier", "total variation"]


def triangular_discrimination(p: Line, q: Line, *, noise_std: float = 0.0) -> float:
    """Δ = ∫ (p − q)² / (p + q) in [0, 2] of two lines after Gaussian noise; raises for atoms without
    noise."""
    a, b = p.smoothed(noise_std), q.smoothed(noise_std)
    x = common_grid(a, b, per_std=16)
    pa, pb = a.pdf(x), b.pdf(x)
    total = np.maximum(pa + pb, np.finfo(float).tiny)
    return float(np.sum((pa - pb) ** 2 / total) * (x[1] - x[0]))


def probability_clean(delta: float) -> float:
    """E_q c = 1/2 − Δ/4: the ideal classifier's mean probability "clean" on corrupted images, for Δ in [0,
    2].

    Raises `ValueError` for another `delta`.
    """
    require(bool(0 <= delta <= 2 + 1e-9), "delta", delta, "in [0, 2]")
    return 0.5 - delta / 4


def log_affinity(
    variances_p: Float[np.ndarray, " d"], variances_q: Float[np.ndarray, " d"], t: Float[np.ndarray, " n"]
) -> Complex[np.ndarray, " n"]:
    """log ∫ p^z q^(1−z), z = 1/2 + i t, for p = N(0, diag variances_p), q = N(0, diag variances_q), all
    positive.

    Per coordinate, with r = a / b: 1/2 [(1 − z) log r − log(z + (1 − z) r)]; Re(z + (1 − z) r) > 0 keeps the
    principal branch.
    """
    ratio, count = np.unique(np.asarray(variances_p / variances_q), return_counts=True)
    z = 0.5 + 1j * np.asarray(t)
    out = np.zeros(z.shape, dtype=complex)
    block = max(1, 1_000_000 // z.size)
    for i in range(0, ratio.size, block):
        r, k = ratio[i : i + block], count[i : i + block]
        out += 0.5 * (np.outer(1 - z, np.log(r)) - np.log(z[:, None] + np.outer(1 - z, r))) @ k
    return out


def gaussian_triangular_discrimination(
    variances_p: Float[np.ndarray, " d"], variances_q: Float[np.ndarray, " d"]
) -> float:
    """Δ in [0, 2] of N(0, diag variances_p) and N(0, diag variances_q), to about 1e-12 in any dimension.

    Coordinates where both variances are 0 say nothing; one that is 0 in one of the two alone separates them:
    Δ = 2. Raises `ValueError` for variances that are negative, not finite or of different lengths.
    """
    pair = _informative(variances_p, variances_q)
    if pair is None:
        return 2.0
    h = 0.1
    t = h * np.arange(121)
    values = np.exp(log_affinity(*pair, t)).real / (2 * np.cosh(math.pi * t))
    probability = h * (2 * np.sum(values) - values[0])
    return min(max(2.0 - 4.0 * float(probability), 0.0), 2.0)


def gaussian_total_variation(
    variances_p: Float[np.ndarray, " d"], variances_q: Float[np.ndarray, " d"], *, tolerance: float = 1e-7
) -> float:
    """TV in [0, 1] of N(0, diag variances_p) and N(0, diag variances_q).

    The step is halved until three sums agree to `tolerance` / 4 (two may agree by chance, as they oscillate); raises
    `ArithmeticError` if they do not (a few nearly equal ratios in one or two dimensions decay slowly: use
    `total_variation` of a `Line` for d = 1).
    """
    pair = _informative(variances_p, variances_q)
    if pair is None:
        return 1.0
    sums = [_overlap(*pair, 256), _overlap(*pair, 512)]
    for points in (1024, 2048, 4096, 8192, 16384, 32768, 65536):
        sums = [*sums[-2:], _overlap(*pair, points)]
        if max(sums) - min(sums) <= tolerance / 4:
            return min(max(1.0 - sums[-1], 0.0), 1.0)
    raise ArithmeticError(f"total variation not found to {tolerance:g}; give a larger tolerance.")


def sigma_min(
    probability: Callable[[float], float], tau: float = 0.45, *, scale: float = 1.0, floor: float = 1e-6
) -> float:
    """The smallest noise_std at which `probability(noise_std)`, non-decreasing, reaches tau, to 1e-10
    relative.

    `probability` is the mean probability "clean" on corrupted images. Returns 0 if it is there at `floor`
    `scale` already, and inf if it is not at 1e9 `scale`. tau in (0, 1/2); raises `ValueError` otherwise.
    """
    require(bool(0 < tau < 0.5), "tau", tau, "strictly between 0 and 0.5")
    low = high = scale
    while probability(low) >= tau:
        low, high = low / 4, low
        if low < floor * scale:
            return 0.0
    while probability(high) < tau:
        low, high = high, 4 * high
        if high > 1e9 * scale:
            return math.inf
    root = brentq(lambda u: probability(math.exp(u)) - tau, math.log(low), math.log(high), xtol=1e-10)
    return math.exp(root)


def sigma_min_line(p: Line, q: Line, tau: float = 0.45, *, criterion: Criterion = "classifier") -> float:
    """sigma_min for clean `p` and corrupted `q` on the line: E_q c ≥ tau, or (criterion) TV ≤ 1/2 − tau as
    the paper prints. 0 if below 1e-3 of the spread."""
    if criterion == "total variation":
        return sigma_min(lambda s: 0.5 - total_variation(p, q, noise_std=s), tau, scale=_spread(p, q), floor=1e-3)
    curve = lambda s: probability_clean(triangular_discrimination(p, q, noise_std=s))  # noqa: E731
    return sigma_min(curve, tau, scale=_spread(p, q), floor=1e-3)


def sigma_min_for_spectra(
    clean: Float[np.ndarray, "..."],
    corrupted: Float[np.ndarray, "..."],
    tau: float = 0.45,
    *,
    criterion: Criterion = "classifier",
) -> float:
    """sigma_min for centred Gaussian images with the given power spectra (same shape, ≥ 0, unit: squared
    pixel value).

    `criterion`: "classifier" (E_q c ≥ tau) or "total variation" (TV ≤ 1/2 − tau, the paper's wording). Raises
    `ValueError` for spectra that are negative, not finite or of different sizes, or a `tau` outside (0, 1/2).
    """
    a, b = _spectrum("clean", clean), _spectrum("corrupted", corrupted)
    require(a.shape == b.shape, "corrupted", f"{b.size} entries", f"of the clean spectrum's size {a.size}")
    largest = float(max(np.max(a), np.max(b)))
    if largest == 0.0:
        return 0.0
    return sigma_min(lambda s: _curve(a + s**2, b + s**2, criterion), tau, scale=math.sqrt(largest))


def blur_transfer(shape: tuple[int, int], blur_std: float) -> Float[np.ndarray, "h w"]:
    """Gain exp(−2π² blur_std² |f|²) of a Gaussian blur per DFT frequency of an h × w image, f in cycles per
    pixel.

    `blur_std` ≥ 0 in pixels; periodic boundary. Raises `ValueError` for another `blur_std`.
    """
    require(math.isfinite(blur_std) and blur_std >= 0, "blur_std", blur_std, "finite and at least 0 (pixels)")
    square = np.fft.fftfreq(shape[0])[:, None] ** 2 + np.fft.fftfreq(shape[1])[None, :] ** 2
    return np.exp(-2 * math.pi**2 * blur_std**2 * square)


def sigma_min_for_blur(
    spectrum: Float[np.ndarray, "*channels h w"],
    blur_std: float,
    tau: float = 0.45,
    *,
    criterion: Criterion = "classifier",
) -> float:
    """sigma_min for a Gaussian blur of `blur_std` pixels, in the unit of the images whose power spectrum is
    given.

    Images are taken as centred stationary Gaussians: clean N(0, D), blurred N(0, h D h), both plus N(0,
    noise_std² I); `spectrum` D holds E|u_f|² of the *unitary* 2-D DFT, all h × w frequencies in `numpy.fft`
    order. The number is exact for that model: real images differ from blurred ones in more than their
    spectrum, so it is a lower estimate of what a trained classifier would need.
    0 if the blur cannot be seen at all. Raises `ValueError` for a spectrum without two axes, negative or not finite,
    or a `tau` outside (0, 1/2).
    """
    d = np.asarray(spectrum, dtype=np.float64)
    require(bool(d.ndim >= 2), "spectrum", f"shape {d.shape}", "of shape (..., h, w)")
    gain = blur_transfer((d.shape[-2], d.shape[-1]), blur_std)
    return sigma_min_for_spectra(d, d * gain**2, tau, criterion=criterion)


def _curve(a: np.ndarray, b: np.ndarray, criterion: Criterion) -> float:
    if criterion == "classifier":
        return probability_clean(gaussian_triangular_discrimination(a, b))
    require(criterion == "total variation", "criterion", criterion, '"classifier" or "total variation"')
    return 0.5 - gaussian_total_variation(a, b)


def _spectrum(name: str, values: np.ndarray) -> np.ndarray:
    flat = np.asarray(values, dtype=np.float64).ravel()
    require_finite(name, flat)
    require(
        flat.size > 0 and bool(np.all(flat >= 0)),
        name,
        f"smallest {np.min(flat, initial=0.0):.3g}",
        "non-negative",
    )
    return flat


def _spread(p: Line, q: Line) -> float:
    means = np.concatenate([p.means, q.means])
    return max(float(np.ptp(means)), p.std(), q.std(), 1e-12)


def _informative(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The coordinates that are not zero in both; None if one is zero in one of them alone."""
    a, b = _spectrum("variances_p", p), _spectrum("variances_q", q)
    require(a.shape == b.shape, "variances_q", f"{b.size} entries", f"as many as variances_p ({a.size})")
    kept = (a > 0) | (b > 0)
    a, b = a[kept], b[kept]
    return None if np.any(a == 0) or np.any(b == 0) else (a, b)


def _overlap(a: np.ndarray, b: np.ndarray, points: int) -> float:
    """∫ min(p, q) by the trapezoid rule in u, t = sinh(u) / 2, over u in [0, 36] (the rest is below
    1e-15)."""
    u, h = np.linspace(0.0, 36.0, points + 1, retstep=True)
    values = np.exp(log_affinity(a, b, np.sinh(u) / 2)).real / np.cosh(u)
    return float(2 * h / math.pi * (np.sum(values) - values[0] / 2))
