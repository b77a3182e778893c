"""The figures that papers quote, from Inception's features (`imagegen.inception`) or any others.

    FID, sFID         |m - m'|² + tr S + tr S' - 2 tr (S S')^½ of pool, and of spatial, features     Heusel et al. 2017
    FID_∞             2 FID(n) - FID(n/2): the value for infinitely many samples, as FID is linear
                      in 1/n (Chong, Forsyth 2020); FID(n/2) the mean of two halves
    Inception Score   exp E KL(p(y|x) ‖ p(y)), mean over splits                                  Salimans et al. 2016
    KID               unbiased squared MMD with the kernel (x·y/d + 1)³, mean over subsets       Bińkowski et al. 2018

Precision and recall are `sim.neighbours.precision_recall`. **FID depends on the number of samples**: with n well above
the dimension it is biased up by n⁻¹ times the bracket of `sim.distances.frechet_bias_squared`, with fewer by more.
Compare equal numbers alone, or FID_∞. The reference's own number stays in it.

Moments are accumulated in float64, batch by batch. NumPy on the host.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from theory._checks import require, require_finite

Rows = Float[np.ndarray, "n d"]
OtherRows = Float[np.ndarray, "m d"]
SPLITS = 10
"""Parts that the Inception Score is averaged over."""
KID_SUBSETS, KID_SUBSET = 100, 1000
"""How many subsets KID is averaged over, and of how many images each."""


class Moments(NamedTuple):
    """Number, mean (d,) and scatter Σ (x - m)(x - m)ᵀ (d, d) of feature vectors seen so far, float64."""

    number: int
    mean: Float[np.ndarray, " d"]
    scatter: Float[np.ndarray, "d d"]

    @staticmethod
    def of(rows: Rows) -> "Moments":
        """Those of n >= 1 rows. Raises `ValueError` for none, and numbers that are not finite."""
        require(rows.ndim == 2 and len(rows) >= 1, "features", f"shape {rows.shape}", "of shape (n, d), n >= 1")
        require_finite("features", rows)
        points = rows.astype(np.float64)
        centred = points - points.mean(axis=0)
        return Moments(len(points), points.mean(axis=0), centred.T @ centred)

    def merged(self, other: "Moments") -> "Moments":
        """Those of both sets together (Chan, Golub, LeVeque 1983)."""
        total, gap = self.number + other.number, other.mean - self.mean
        scatter = self.scatter + other.scatter + np.outer(gap, gap) * (self.number * other.number / total)
        return Moments(total, self.mean + gap * (other.number / total), scatter)

    def statistics(self) -> "Statistics":
        """Mean and unbiased covariance. Raises `ValueError` for fewer than 2 rows."""
        require(self.number >= 2, "features", f"{self.number} image", "of at least 2 images")
        return Statistics(self.mean, self.scatter / (self.number - 1))


class Statistics(NamedTuple):
    """Mean (d,) and covariance (d, d) of features, float64: what FID compares, and ADM's files hold."""

    mean: Float[np.ndarray, " d"]
    cov: Float[np.ndarray, "d d"]


def moments_of(batches: Iterable[Rows]) -> Moments:
    """The moments of all batches, one at a time. Raises `ValueError` where there is none, and as `Moments.of`."""
    total: Moments | None = None
    for rows in batches:
        now = Moments.of(rows)
        total = now if total is None else total.merged(now)
    if total is None:
        require(False, "features", "no batch", "of at least 2 images")
        raise AssertionError
    return total


def frechet(p: Statistics, q: Statistics) -> float:
    """The squared Fréchet distance of two Gaussians: FID's formula.

    With roots R Rᵀ = S by eigendecomposition, tr (S S')^½ is the sum of the singular values of RᵀR': the number of
    `theory.gaussian.wasserstein2_squared` without JAX, in a quarter of its time, but with fewer digits near 0 (an
    absolute error of about 1e-13 tr S). Covariances may be singular. Raises `ValueError` where dimensions
    differ or values are not finite.
    """
    require(p.mean.shape == q.mean.shape, "statistics", f"{p.mean.shape} and {q.mean.shape}", "of equal dimensions")
    for values in (*p, *q):
        require_finite("statistics", values)
    overlap = np.linalg.svd(_root(p.cov).T @ _root(q.cov), compute_uv=False).sum()
    gap = p.mean - q.mean
    return float(max(gap @ gap + np.trace(p.cov) + np.trace(q.cov) - 2 * overlap, 0.0))


def _root(cov: Float[np.ndarray, "d d"]) -> Float[np.ndarray, "d d"]:
    values, vectors = np.linalg.eigh((cov + cov.T) / 2)
    return vectors * np.sqrt(np.maximum(values, 0.0))


def frechet_infinity(rows: Rows, reference: Statistics) -> float:
    """FID_∞ of n samples' features (module's top): extrapolated from all of them and from both halves, the rows in
    turn. The law of n needs halves of more samples than dimensions.

    Its standard deviation is about that of FID(n/2). May be negative. Raises `ValueError` for n/2 <= d, and as
    `frechet`.
    """
    n, d = rows.shape
    require(n // 2 > d, "number of samples", n, f"above {2 * d}, twice the number of features")
    halves = [Moments.of(rows[start::2]) for start in (0, 1)]
    whole = halves[0].merged(halves[1])
    value, *parts = (frechet(one.statistics(), reference) for one in (whole, *halves))
    return 2 * value - sum(parts) / 2


class Score(NamedTuple):
    """Mean and standard deviation over splits or subsets."""

    mean: float
    std: float


def inception_score(logits: Float[np.ndarray, "n k"], *, splits: int = SPLITS) -> Score:
    """Inception Score of n images from their logits: of each of `splits` runs of consecutive images, mean and std.

    Images that are sorted by class must be shuffled first (`shuffled`). At most k; biased down where splits are small.
    Raises `ValueError` for fewer images than splits, `splits` < 1 and values that are not finite.
    """
    require(1 <= splits <= len(logits), "splits", splits, f"1 ... {len(logits)}, the number of images")
    require_finite("logits", logits)
    raw = logits.astype(np.float64)
    raw -= raw.max(axis=1, keepdims=True)
    log_p = raw - np.log(np.exp(raw).sum(axis=1, keepdims=True))
    ends = np.arange(splits + 1) * len(logits) // splits
    scores = []
    for low, high in pairwise(ends):
        p = np.exp(log_p[low:high])
        scores.append(np.exp(np.mean(np.sum(p * (log_p[low:high] - np.log(p.mean(axis=0))), axis=1))))
    return Score(float(np.mean(scores)), float(np.std(scores)))


def shuffled(rows: Rows) -> Rows:
    """The rows in the order in which torch-fidelity takes them, so that both have the same splits."""
    return rows[np.random.RandomState(2020).permutation(len(rows))]


def kernel_distance(
    x: Rows, y: OtherRows, *, subsets: int = KID_SUBSETS, size: int = KID_SUBSET, seed: int = 2020
) -> Score:
    """KID of two sets of features, mean and std over random subsets of `size` >= 2 images; mean 0 for equal laws, so
    it may be negative.

    The same subsets as torch-fidelity's for its `seed` of 2020. Raises `ValueError` where a set is smaller than
    `size`, for `subsets` < 1, and where dimensions differ.
    """
    require(x.shape[1] == y.shape[1], "features", f"{x.shape[1]} and {y.shape[1]}", "of equal dimensions")
    require(2 <= size <= min(len(x), len(y)), "size", size, f"2 ... {min(len(x), len(y))}, the smaller set")
    require(subsets >= 1, "subsets", subsets, "at least 1")
    rng = np.random.RandomState(seed)
    values = []
    for _ in range(subsets):
        parts = [rows[rng.choice(len(rows), size, replace=False)].astype(np.float64) for rows in (x, y)]
        values.append(_mmd_squared(*parts))
    return Score(float(np.mean(values)), float(np.std(values)))


def _mmd_squared(x: Rows, y: Rows) -> float:
    """The unbiased estimate of the squared MMD, for equally many rows."""
    n, d = x.shape
    within = [(rows @ rows.T / d + 1) ** 3 for rows in (x, y)]
    pairs = sum(float(gram.sum() - np.trace(gram)) for gram in within) / (n * (n - 1))
    return pairs - 2 * float(np.mean((x @ y.T / d + 1) ** 3))
