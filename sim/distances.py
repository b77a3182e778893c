"""Distances between sample sets X (n, d) and Y (m, d): Wasserstein, sliced, Sinkhorn, Fréchet, variance ratios.

    W2²(X, Y) = min over couplings π of (1/n, 1/m) of Σ π_ij |x_i - y_j|²            exact, POT's network simplex
    SW2²      = mean over unit directions θ of W2²(θᵀX, θᵀY)                         exact per direction, by sorting
    S_ε       = OT_ε(X, Y) - ½ OT_ε(X, X) - ½ OT_ε(Y, Y)                             POT, log domain
    Fréchet   = W2² of the Gaussians with the samples' means and covariances

with OT_ε = min <π, C> + ε KL(π | a⊗b) (Feydy et al. 2019, "Interpolating between optimal transport and MMD using
Sinkhorn divergences"). Bonneel et al. 2015 for the sliced distance.

**Never rank by raw empirical W2.** It does not vanish between two samples of one law (it falls like n^(-1/d) for d > 4;
Fournier, Guillin 2015, theorem 1), and it rewards shrinkage: a far too narrow sample lies nearer to the points than a
second sample of the truth does. Rank by

    W2²(X, Y) - ½ W2²(X, X') - ½ W2²(Y, Y'),

which has mean zero for equal laws. It is not W2² of the laws either: where the samples are far too few for the
dimension, all pairs are about equally far apart and it is much too small, though in the right order. For 300 points of
N(0, I_144): raw W2² of the truth 223, of samples shrunk by half 149 (wrong order); debiased 1 and 9, exactly 0 and 36.

All functions but the sliced one run on the host in float64, whatever the samples' type, and return floats.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from sim.intervals import Estimate, beside_identical, beside_identical_repeats, jackknife_estimate
from theory._checks import require, require_finite
from theory.gaussian import Gaussian
from theory.gaussian import wasserstein2_squared as gaussian_wasserstein2_squared
from theory.wasserstein import wasserstein2_1d_samples

LARGEST = 5000
"""Points in each set up to which exact transport is solved (some seconds at this size; time grows like n² to n³)."""
Samples = Float[ArrayLike, "n d"]
Others = Float[ArrayLike, "m d"]
Host = Float[np.ndarray, "n d"]
HostOthers = Float[np.ndarray, "m d"]


def _as_sets(x: ArrayLike, y: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    """Both sets as finite float64 matrices of equal width."""
    sets = []
    for name, given in (("x", x), ("y", y)):
        array = np.asarray(given, np.float64)
        require(array.ndim == 2 and array.size > 0, name, f"shape {array.shape}", "a non-empty sample set (n, d)")
        require_finite(name, array)
        sets.append(array)
    first, second = sets
    require(first.shape[1] == second.shape[1], "y", f"dimension {second.shape[1]}", f"of x's {first.shape[1]}")
    return first, second


def squared_distances(x: Host, y: HostOthers) -> Float[np.ndarray, "n m"]:
    """|x_i - y_j|² from the differences of the coordinates, so that near points keep their digits."""
    from scipy.spatial.distance import cdist

    return cdist(x, y, "sqeuclidean")


def wasserstein2_squared(x: Samples, y: Others) -> float:
    """The exact *squared* 2-Wasserstein distance of two samples with equal weights; by sorting for d = 1, else POT's
    network simplex.

    Raw: see the module's warning, and `debiased_wasserstein2_squared`. Raises `ValueError` for more than `LARGEST` =
    5000 points in a set (d > 1), empty sets, non-finite entries, or dimensions that differ.
    """
    a, b = _as_sets(x, y)
    if a.shape[1] == 1:
        return wasserstein2_1d_samples(a[:, 0], b[:, 0]) ** 2
    from ot import emd2

    size = max(len(a), len(b))
    remedy = f"at most {LARGEST} points for exact transport (take a subset, or sliced_wasserstein2_squared)"
    require(size <= LARGEST, "x and y", f"{size} points", remedy)
    centre = a.mean(axis=0)  # an offset common to both would only cost digits
    cost = squared_distances(a - centre, b - centre)
    return max(float(emd2([], [], cost, numItermax=10_000_000)), 0.0)


def wasserstein2(x: Samples, y: Others) -> float:
    """The 2-Wasserstein distance (not squared) of two samples, in the unit of x; else as `wasserstein2_squared`."""
    return float(np.sqrt(wasserstein2_squared(x, y)))


def debiased_wasserstein2_squared(
    x: Float[ArrayLike, "*r n d"],
    x2: Float[ArrayLike, "*r n d"],
    y: Float[ArrayLike, "*r m d"],
    y2: Float[ArrayLike, "*r m d"],
    *,
    groups: int = 10,
    confidence: float = 0.95,
) -> Estimate:
    """W2²(X, Y) with bias ½ W2²(X, X') + ½ W2²(Y, Y'): `.debiased` has mean zero where the laws are equal.

    `x`, `x2` are independent samples of one law, `y`, `y2` of the other. Shape (n, d): the interval is the grouped
    jackknife's (3 transport problems per group). Shape (r, n, d): Student's over r >= 2 independent repeats. Not
    squared-rooted, as it may be negative. Raises `ValueError` as `wasserstein2_squared` and `beside_identical` do.
    """
    dims = np.ndim(x)
    require(dims in (2, 3), "x", f"shape {np.shape(x)}", "of shape (n, d) or (repeats, n, d)")
    require(np.ndim(y) == dims, "y", f"shape {np.shape(y)}", f"with {dims} axes as x")
    sets = [np.asarray(s) for s in (x, x2, y, y2)]
    if dims == 3:
        return beside_identical_repeats(wasserstein2_squared, *sets, confidence=confidence)
    return beside_identical(wasserstein2_squared, *sets, groups=groups, confidence=confidence)


def directions(key: PRNGKeyArray, projections: int, d: int, dtype: DTypeLike) -> Float[Array, "p d"]:
    """`projections` independent uniform unit vectors of R^d."""
    raw = jax.random.normal(key, (projections, d), dtype=dtype)
    return raw / jnp.linalg.norm(raw, axis=1, keepdims=True)


def sliced_wasserstein2_squared(
    x: Float[Array, "n d"], y: Float[Array, "m d"], key: PRNGKeyArray, *, projections: int = 128
) -> Float[Array, ""]:
    """Mean of the *squared* exact 1-D W2 over `projections` random unit directions; JAX, jittable, differentiable, the
    samples' float type.

    For a translation by v it is |v|²/d on average. Its bias on identical laws falls like 1/n in any d (up to a log for
    Gaussians), see `bias_on_identical`. Raises `ValueError` for empty sets, `projections` < 1 or dimensions that
    differ.
    """
    require(x.ndim == 2 and x.size > 0, "x", f"shape {x.shape}", "a non-empty sample set (n, d)")
    require(y.ndim == 2 and y.size > 0, "y", f"shape {y.shape}", "a non-empty sample set (m, d)")
    require(x.shape[1] == y.shape[1], "y", f"dimension {y.shape[1]}", f"of x's {x.shape[1]}")
    require(projections >= 1, "projections", projections, "at least 1")
    units = directions(key, projections, x.shape[1], jnp.result_type(x, y))
    return _sliced(x, y, units)


@jax.jit
def _sliced(x: Float[Array, "n d"], y: Float[Array, "m d"], units: Float[Array, "p d"]) -> Float[Array, ""]:
    shares, rows, columns = _plan(x.shape[0], y.shape[0])
    weights = jnp.asarray(shares, units.dtype)

    def one(unit: Float[Array, " d"]) -> Float[Array, ""]:
        gap = jnp.sort(x @ unit)[rows] - jnp.sort(y @ unit)[columns]
        return weights @ gap**2

    return jnp.mean(jax.lax.map(one, units, batch_size=min(16, units.shape[0])))


def _plan(n: int, m: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The monotone coupling of n and m equal weights: shares, and which ordered points they join; in integers."""
    ends = np.unique(np.concatenate([np.arange(n + 1) * m, np.arange(m + 1) * n]))
    starts, shares = ends[:-1], np.diff(ends) / (n * m)
    return shares, starts // m, starts // n


def sinkhorn_divergence(
    x: Samples, y: Others, *, regularisation: float | None = None, max_iterations: int = 10_000
) -> float:
    """Sinkhorn divergence S_ε of two samples for the squared distance (POT's `ot.solve`, log domain), >= 0, 0 for x =
    y.

    `regularisation` ε > 0 in squared units of x, by default 0.05 times the mean squared distance of x to y; the value
    depends on it, so state it and keep it fixed within a comparison. Tends to W2² as ε -> 0 and to |mean difference|²
    as ε -> ∞. Exact transport is faster and more exact at every size up to 5000. Raises `ValueError` for ε <= 0, and
    as `wasserstein2_squared`; POT warns (`UserWarning`) when it has not converged.
    """
    a, b = _as_sets(x, y)
    require(max(len(a), len(b)) <= LARGEST, "x and y", f"{max(len(a), len(b))} points", f"at most {LARGEST} points")
    cross = squared_distances(a, b)
    strength = 0.05 * float(cross.mean()) if regularisation is None else regularisation
    if strength == 0.0 and regularisation is None:
        return 0.0  # all points of both sets are one
    require(strength > 0, "regularisation", strength, "positive")
    cost = partial(_entropic_cost, strength=strength, max_iterations=max_iterations)
    return cost(cross) - (cost(squared_distances(a, a)) + cost(squared_distances(b, b))) / 2


def _entropic_cost(cost: Float[np.ndarray, "n m"], *, strength: float, max_iterations: int) -> float:
    """OT_ε with the entropy's KL against the product of the weights: its value at the potentials, which is second-order
    in their error.
    """
    from ot import solve

    result = solve(cost, reg=strength, reg_type="KL", max_iter=max_iterations, tol=1e-9)
    return float(result.value)


def fitted_gaussian(x: Samples) -> Gaussian:
    """The Gaussian with the sample's mean and unbiased covariance (divided by n - 1). Raises `ValueError` for n <
    2.
    """
    array = np.asarray(x, np.float64)
    require(array.ndim == 2 and len(array) >= 2, "x", f"shape {array.shape}", "a sample set (n, d) with n >= 2")
    centred = array - array.mean(axis=0)
    return Gaussian(array.mean(axis=0), centred.T @ centred / (len(array) - 1))


def frechet_squared(x: Samples, y: Others) -> float:
    """Fréchet distance as used for images (FID: the *square*): W2² of the fitted Gaussians (Heusel et al. 2017).

    Zero does not mean equal laws. Biased up at finite n: subtract `frechet_bias_squared`, or report it by
    `beside_identical`. Raises `ValueError` as
    `wasserstein2_squared`, and for fewer than 2 points; `TypeError` where JAX has no float64.
    """
    a, b = _as_sets(x, y)
    return float(gaussian_wasserstein2_squared(fitted_gaussian(a), fitted_gaussian(b)))


def frechet_bias_squared(cov: Float[ArrayLike, "d d"], n: int, m: int) -> float:
    """Mean of `frechet_squared` between n and m points of one Gaussian of covariance `cov`, to leading order in
    1/n + 1/m (needs n, m well above d):

        (1/n + 1/m) (tr S + Σ_ij λ_i λ_j (1 + δ_ij) / (2 (λ_i + λ_j))),   λ the eigenvalues of S:

    the means' part, and the Bures metric Σ |Δ_ij|² / (2 (λ_i + λ_j)) of the covariances' errors Δ, which have variance
    λ_i λ_j (1 + δ_ij)(1/n + 1/m). For S = I: (1/n + 1/m)(d + d (d + 1)/4). Raises `ValueError` for n or m < 2.
    """
    require(min(n, m) >= 2, "n and m", (n, m), "at least 2")
    values = np.maximum(np.linalg.eigvalsh(np.asarray(cov, np.float64)), 0.0)
    sums = values[:, None] + values
    pairs = np.outer(values, values) * (1 + np.eye(len(values))) / np.where(sums > 0, 2 * sums, 1.0)
    return float((1 / n + 1 / m) * (values.sum() + pairs.sum()))


def variance_ratio(x: Samples, y: Others, *, groups: int = 20, confidence: float = 0.95) -> Estimate:
    """tr Cov(X) / tr Cov(Y): below 1 where X is too narrow. Its bias (of order 1/m) and interval by the jackknife.

    Y is the reference. Raises `ValueError` for fewer than 2 `groups` points in a set or a constant Y.
    """
    a, b = _as_sets(x, y)
    smallest = min(len(a), len(b))
    require(smallest >= 2 * groups, "groups", groups, f"at most half of the smaller set's {smallest} points")
    require(bool(np.any(b != b[0])), "y", "a constant sample", "of positive variance")

    def ratio(p: Host, q: HostOthers) -> float:
        return float(p.var(axis=0, ddof=1).sum() / q.var(axis=0, ddof=1).sum())

    return jackknife_estimate(ratio, (a, b), groups=groups, confidence=confidence)


Images = Float[ArrayLike, "n h w"] | Float[ArrayLike, "n h w c"]
OtherImages = Float[ArrayLike, "m h w"] | Float[ArrayLike, "m h w c"]


def power_spectrum(images: Images) -> Float[np.ndarray, "h w"]:
    """Variance of each coefficient of the unitary 2-D DFT over the n >= 2 images, unbiased, mean over channels; FFT
    order.

    Sums to the mean over channels of the pixels' total variance. Raises `ValueError` for other shapes.
    """
    array = np.asarray(images, np.float64)
    require(array.ndim in (3, 4) and len(array) >= 2, "images", f"shape {array.shape}", "(n, h, w) or (n, h, w, c)")
    centred = array - array.mean(axis=0)
    power = np.sum(np.abs(np.fft.fft2(centred, axes=(1, 2), norm="ortho")) ** 2, axis=0) / (len(array) - 1)
    return power if power.ndim == 2 else power.mean(axis=-1)


def variance_ratio_per_frequency(x: Images, y: OtherImages, *, groups: int = 20, confidence: float = 0.95) -> Estimate:
    """Power spectrum of images X over that of Y, entry by entry (h, w) in FFT order: which frequencies are too weak
    (below 1) or too strong.

    Bias (of order 1/m) and intervals by the jackknife, per frequency: 5 % of them miss even on equal laws. Raises
    `ValueError` where the images' shapes differ or Y has no power at a frequency.
    """
    a, b = np.asarray(x, np.float64), np.asarray(y, np.float64)
    require(a.shape[1:] == b.shape[1:], "y", f"images of shape {b.shape[1:]}", f"of x's shape {a.shape[1:]}")
    least = float(power_spectrum(b).min())
    require(least > 0, "y", f"smallest power {least:g}", "of positive power at every frequency")
    return jackknife_estimate(_power_ratio, (a, b), groups=groups, confidence=confidence)


def _power_ratio(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return power_spectrum(x) / power_spectrum(y)
