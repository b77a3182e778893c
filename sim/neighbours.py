"""Nearest neighbours: memorisation, precision and recall, coverage of modes.

With d_k(x) the distance of a sample x to its k-th nearest point of a reference set:

- memorised: d_1 below a threshold, or d_1 < ⅓ d_2 (Yoon, Choi, Kwon, Ryu 2023, "Diffusion probabilistic models
  generalize when they fail to memorize");
- precision: share of generated points inside the real manifold, the union of balls about the real points r_j with
  radius the distance of r_j to its k-th nearest *other* real point; recall: the same with the parts exchanged
  (Kynkäänniemi et al. 2019, "Improved precision and recall metric", eqs. 1-2; their k = 3);
- modes of a mixture: with the posterior probabilities ρ_k(x), frequencies f = mean of ρ over the samples, whose mean
  under the mixture is exactly its weights w, and KL(f‖w).

Even fresh samples of the truth have precision below 1, are near some training point, and have KL(f‖w) > 0: each
function gives, or its docstring names, the value on identical laws. Host code in float64, blocked: memory is the
inputs' plus about `BLOCK` numbers, so 50 000 x 50 000 points of d = 3072 fit; candidates come from scikit-learn
(whose brute force subtracts inner products), their distances from the differences of coordinates.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import ArrayLike, Bool, Float
from scipy.stats import norm

from sim.intervals import Estimate, share_interval
from theory._checks import require, require_finite
from theory.mixture import GaussianMixture

BLOCK = 2**24
"""Numbers held at once beside the inputs (128 MB in float64)."""
Samples = Float[ArrayLike, "n d"]
Others = Float[ArrayLike, "m d"]
Matrix = Float[np.ndarray, "n d"]
OtherMatrix = Float[np.ndarray, "m d"]


def _as_points(name: str, values: ArrayLike) -> np.ndarray:
    """A finite matrix of floats; images are flattened by the caller."""
    array = np.asarray(values)
    require(array.ndim == 2 and array.size > 0, name, f"shape {array.shape}", "a non-empty sample set (n, d)")
    require_finite(name, array)
    return array


def _same_dimension(name: str, array: np.ndarray, other: np.ndarray) -> None:
    require(array.shape[1] == other.shape[1], name, f"dimension {array.shape[1]}", f"{other.shape[1]}, as the other's")


def _blocks(rows: int, width: int) -> Iterator[slice]:
    """Slices of `rows` rows with at most `BLOCK` / width rows each."""
    step = max(1, BLOCK // max(width, 1))
    return (slice(start, min(start + step, rows)) for start in range(0, rows, step))


def nearest_distances(x: Samples, reference: Others, *, k: int = 1) -> Float[np.ndarray, "n k"]:
    """Distances (not squared) of each x to its k nearest points of `reference`, rising, float64, in the unit of x.

    Repeated reference points count as often as they are there. Raises `ValueError` unless 1 <= k <= the reference's
    size, for empty or non-finite sets, or dimensions that differ.
    """
    points, others = _as_points("x", x), _as_points("reference", reference)
    _same_dimension("x", points, others)
    require(1 <= k <= len(others), "k", k, f"between 1 and the reference's {len(others)} points")
    return np.sort(_refined(points, others, _candidates(points, others, min(k + 2, len(others)))), axis=1)[:, :k]


def distances_within(x: Samples, *, k: int = 1) -> Float[np.ndarray, "n k"]:
    """Distances of each point to its k nearest *other* points of the same set, rising; a repeated point has distance 0.

    Raises `ValueError` unless 1 <= k < n.
    """
    points = _as_points("x", x)
    require(1 <= k < len(points), "k", k, f"between 1 and n - 1 = {len(points) - 1}")
    found = _candidates(points, points, min(k + 3, len(points)))
    distances = _refined(points, points, found)
    distances[found == np.arange(len(points))[:, None]] = np.inf  # itself, wherever ties have put it
    return np.sort(distances, axis=1)[:, :k]


def _candidates(x: Matrix, reference: OtherMatrix, k: int) -> np.ndarray:
    """Indices (n, k) of the nearest reference points; with a few to spare, so that rounding does not lose one."""
    from sklearn.neighbors import NearestNeighbors

    centre = reference.mean(axis=0)  # a common offset would cost digits
    tree = NearestNeighbors(n_neighbors=k).fit(reference - centre)
    blocks = _blocks(len(x), x.shape[1])
    return np.concatenate([tree.kneighbors(x[rows] - centre, return_distance=False) for rows in blocks])


def _refined(x: Matrix, reference: OtherMatrix, indices: np.ndarray) -> Float[np.ndarray, "n k"]:
    """Distances to the candidates from coordinate differences in float64."""
    out = np.empty(indices.shape)
    for rows in _blocks(len(x), indices.shape[1] * x.shape[1]):
        gaps = reference[indices[rows]].astype(np.float64) - x[rows, None, :]
        out[rows] = np.sqrt(np.einsum("nkd,nkd->nk", gaps, gaps))
    return out


def mean_distance_to_nearest(samples: Samples, training: Others, *, k: int = 5) -> Float[np.ndarray, " n"]:
    """For each sample the mean distance to its k nearest training points (SC reports the mean of it, k = 5).

    Small may mean memorised, or good: compare with fresh samples of the truth of the same number.
    """
    return nearest_distances(samples, training, k=k).mean(axis=1)


def is_memorised(samples: Samples, training: Others, *, threshold: float) -> Bool[np.ndarray, " n"]:
    """Whether a sample lies nearer than `threshold` >= 0 (in the unit of x) to some training point.

    Raises `ValueError` for a negative threshold.
    """
    require(threshold >= 0, "threshold", threshold, "a distance >= 0")
    return nearest_distances(samples, training)[:, 0] < threshold


def is_memorised_relative(samples: Samples, training: Others, *, ratio: float = 1 / 3) -> Bool[np.ndarray, " n"]:
    """Whether d_1 < `ratio` d_2, the nearest and second nearest *distinct-index* training points (Yoon et al. 2023).

    Scale-free. Training points that occur twice hide memorisation (d_1 = d_2): remove repeats first. In low dimension
    fresh samples fulfil it often (about ratio^d of them): see `excess_share`. Raises `ValueError` for fewer than 2
    training points or `ratio` outside (0, 1].
    """
    require(0 < ratio <= 1, "ratio", ratio, "in (0, 1]")
    distances = nearest_distances(samples, training, k=2)
    return distances[:, 0] < ratio * distances[:, 1]


def excess_share(
    flags: Bool[ArrayLike, " n"], fresh_flags: Bool[ArrayLike, " m"], *, confidence: float = 0.95
) -> Estimate:
    """Share of flagged samples beside that of fresh samples of the truth (`bias`), with Newcombe's (1998, method 10)
    interval of the difference.

    The memorisation ratio is `excess_share(is_memorised(samples, ...), is_memorised(fresh, ...))`. Raises `ValueError`
    for empty flags.
    """
    parts = []
    for name, given in (("flags", flags), ("fresh_flags", fresh_flags)):
        array = np.asarray(given)
        fits = array.ndim == 1 and array.size > 0 and array.dtype == bool
        require(fits, name, f"{array.dtype} of shape {array.shape}", "a non-empty vector of bools")
        parts.append(share_interval(int(array.sum()), len(array), confidence=confidence))
    (p, p_low, p_high), (q, q_low, q_high) = parts
    below, above = np.hypot(p - p_low, q_high - q), np.hypot(p_high - p, q - q_low)
    return Estimate(p, q, float(p - q - below), float(p - q + above))


class PrecisionRecall(NamedTuple):
    """Shares in [0, 1]: of generated points in the real manifold, and of real points in the generated one."""

    precision: float
    recall: float


def precision_recall(real: Samples, generated: Others, *, k: int = 3) -> PrecisionRecall:
    """k-NN precision and recall (Kynkäänniemi et al. 2019). Depends on both sizes: use equal ones throughout.

    On identical laws both are below 1 (0.64 for 300 Gaussian points, d = 144), and shrinking towards the middle raises
    precision to 1 at the cost of recall: report both, beside the truth's, by
    `sim.intervals.beside_identical(lambda x, y: precision_recall(x, y).precision, real, real2, generated, ideal=1)`.
    Raises `ValueError` unless 1 <= k < both sizes, or for dimensions that differ.
    """
    first, second = _as_points("real", real), _as_points("generated", generated)
    _same_dimension("generated", second, first)
    return PrecisionRecall(_covered(second, first, k), _covered(first, second, k))


def _covered(x: Matrix, reference: OtherMatrix, k: int) -> float:
    """Share of x in the union of k-NN balls of the reference."""
    radii = distances_within(reference, k=k)[:, -1]
    centre = reference.mean(axis=0, dtype=np.float64)
    others = reference - centre
    offsets = np.einsum("nd,nd->n", others, others) - radii**2
    hits = 0
    for rows in _blocks(len(x), max(len(reference), x.shape[1])):
        points = x[rows] - centre
        excess = offsets - 2 * points @ others.T
        hits += int(np.count_nonzero(excess.min(axis=1) <= -np.einsum("nd,nd->n", points, points)))
    return hits / len(x)


class ModeCoverage(NamedTuple):
    """How samples spread over the modes of a mixture.

    - `hit`: share of the modes (with weight) that are the likeliest mode of at least one sample.
    - `frequencies` (k): mean posterior probabilities; `weights` (k): what they should be.
    - `kl`: KL(frequencies‖weights) in nats, its bias on identical laws, interval of the difference.
    """

    hit: float
    frequencies: Float[np.ndarray, " k"]
    weights: Float[np.ndarray, " k"]
    kl: Estimate


def mode_coverage(samples: Samples, mixture: GaussianMixture, *, confidence: float = 0.95) -> ModeCoverage:
    """Coverage of the mixture's components by samples (n, d).

    The bias of KL(f‖w) on identical laws is to leading order ½ Σ Var ρ_k / (n w_k), at most (K - 1)/(2n): Var ρ_k is
    taken from the samples. The interval is the delta method's, with normal quantiles; near KL = 0 it is conservative
    only to first order. A sample far from every mode still counts for the likeliest: see precision. Raises `ValueError`
    for fewer than 2 samples, non-finite ones, or a dimension other than the mixture's.
    """
    points = _as_points("samples", samples)
    require(points.shape[1] == mixture.dim, "samples", f"dimension {points.shape[1]}", f"the mixture's {mixture.dim}")
    require(len(points) >= 2, "samples", f"{len(points)} point", "at least 2 points")
    weights = np.asarray(mixture.weights, np.float64)
    used = weights > 0
    shares = np.asarray(jax.lax.map(mixture.responsibilities, jax.numpy.asarray(points), batch_size=1024), np.float64)
    frequencies, n = shares.mean(axis=0), len(points)
    hit = np.unique(shares.argmax(axis=1)).size / np.count_nonzero(used)
    f, w, rho = frequencies[used], weights[used] / weights[used].sum(), shares[:, used]
    log_ratio = np.log(np.where(f > 0, f / w, 1.0))
    kl = float(max(f @ log_ratio, 0.0))
    bias = float(np.sum(rho.var(axis=0, ddof=1) / w) / (2 * n))
    slope = float((rho @ log_ratio).std(ddof=1)) / np.sqrt(n)
    half = norm.ppf((1 + confidence) / 2) * np.hypot(slope, np.sqrt(2) * bias)
    estimate = Estimate(kl, bias, float(kl - bias - half), float(kl - bias + half))
    return ModeCoverage(float(hit), frequencies, weights, estimate)
