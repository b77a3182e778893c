"""Principal coordinates, whitening and class statistics: how real data is brought near the model N(mu_k, I).

Notation. Points x_i in R^d with classes y_i, global mean c. Principal coordinates are p = Q (x - c), with the r
leading principal components of all points as rows of Q (orthonormal, so lengths and W2 keep their units). The pooled
within-class covariance there is P = sum_k n_k S_k / nu, nu = n - K, with S_k the biased covariance of class k.
Whitened coordinates are z = P^(-1/2) p: classes have covariance I on average, and the model of the papers, N(mu_k,
I), is as near as one linear map can bring it.

The plain estimate ||m_k||^2 of a_k = ||mu_k||^2 is too large, by noise in m_k and in P. With W ~ Wishart(I, nu)/nu
one has E v' W^-1 v = ||v||^2 nu / (nu - r - 1), and E ||m_k - mu_k||^2 = r (1/n_k - 1/n), hence the estimate used
here,

    a_k = max(0, (nu - r - 1)/nu ||m_k||^2 - r (1/n_k - 1/n)),

with variance about 4 a/n_k + 2 r/n_k^2 + 2 a^2/(nu - r). It assumes Gaussian classes with one common covariance.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from theory._checks import require
from theory.data import DataError, DataSet
from theory.roots import symmetric_power

WHITEN_CONDITION = 1e8
"""Directions in which classes vary less than the widest one by more than this (in variance) are not whitened."""
RANK_TOLERANCE = 1e-10
"""An eigenvalue counts towards a rank if it exceeds this fraction of the largest (squares of rounding: 1e-16 sqrt(n
d)).
"""


@dataclass(frozen=True, eq=False)
class Coordinates:
    """Affine maps of a data set to principal and to whitened coordinates.

    **Fields:**

    - `centre`: (d,) the global mean. `components`: (r, d) orthonormal rows. `whitener`: (r, r) symmetric P^(-1/2).
    - `total_variance`: trace of the covariance of all points; `discarded`: the fraction of it outside the components.
    - `data_rank`: numerical rank of the centred data. `limited_by`: what set r ("variance" or "within-class rank").
    - `freedom`: nu = n - K.
    """

    centre: Float[np.ndarray, " d"]
    components: Float[np.ndarray, "r d"]
    whitener: Float[np.ndarray, "r r"]
    total_variance: float
    discarded: float
    data_rank: int
    limited_by: str
    freedom: int

    @property
    def rank(self) -> int:
        """Number r of retained components."""
        return len(self.components)

    def principal(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n r"]:
        """Principal coordinates (n, r) of points (n, d), in the data's units."""
        return (features - self.centre) @ self.components.T

    def whitened(self, features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n r"]:
        """Whitened coordinates (n, r) of points (n, d), without units."""
        return self.principal(features) @ self.whitener


def principal_coordinates(data: DataSet, *, retain: float = 0.99) -> Coordinates:
    """The fewest principal components that keep `retain` (in (0, 1]) of the variance, and the whitening on them.

    Fewer are kept where the pooled within-class covariance would be singular on them (condition number above
    `WHITEN_CONDITION`). Raises `DataError` if the points do not vary, or not within classes; `ValueError` for a bad
    `retain`.
    """
    require(0.0 < retain <= 1.0, "retain", retain, "a fraction of the variance in (0, 1]")
    centre = data.features.mean(axis=0)
    variances, components = _principal_axes(data.features - centre)
    if not variances.size:
        raise DataError("features must vary from point to point; got the same point throughout.")
    total = float(variances.sum())
    kept = np.cumsum(variances) / total
    wanted = min(int(np.searchsorted(kept, retain * (1 - 1e-12))) + 1, variances.size)
    components = _signed(components[:wanted], data.features - centre)
    within = _within_covariance((data.features - centre) @ components.T, data.labels)
    rank = _whitenable(within)
    if rank == 0:
        raise DataError("features must vary within classes; got classes of identical points.")
    return Coordinates(
        centre,
        components[:rank],
        symmetric_power(within[:rank, :rank], -0.5),
        total,
        max(0.0, 1.0 - float(kept[rank - 1])),
        variances.size,
        "variance" if rank == wanted else "within-class rank",
        data.n - data.n_classes,
    )


def _principal_axes(centred: Float[np.ndarray, "n d"]) -> tuple[Float[np.ndarray, " q"], Float[np.ndarray, "q d"]]:
    """Variances (falling, numerically positive ones only) and axes of centred points."""
    n, d = centred.shape
    if n > d:
        variances, vectors = np.linalg.eigh(centred.T @ centred / n)
        variances, axes = variances[::-1], vectors.T[::-1]
    else:
        _, singular, axes = np.linalg.svd(centred, full_matrices=False)
        variances = singular**2 / n
    keep = variances > RANK_TOLERANCE * max(variances[0], np.finfo(float).tiny)
    return variances[keep], axes[keep]


def _signed(axes: Float[np.ndarray, "q d"], centred: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "q d"]:
    """The axes turned so that the point farthest out along each has a positive coordinate.

    So they turn with the data, and with them everything that is drawn at random in their coordinates.
    """
    coordinates = centred @ axes.T
    farthest = np.argmax(np.abs(coordinates), axis=0)
    return axes * np.where(coordinates[farthest, np.arange(len(axes))] < 0, -1.0, 1.0)[:, None]


def _within_covariance(points: Float[np.ndarray, "n r"], labels: Int[np.ndarray, " n"]) -> Float[np.ndarray, "r r"]:
    means = np.stack([points[labels == k].mean(axis=0) for k in range(labels.max() + 1)])
    within = points - means[labels]
    return within.T @ within / max(len(points) - len(means), 1)


def _whitenable(within: Float[np.ndarray, "r r"]) -> int:
    """The largest leading block with condition number below `WHITEN_CONDITION`, by bisection.

    The condition number grows with the block (eigenvalues interlace), so bisection finds it.
    """
    low, high = 0, len(within)
    while low < high:
        middle = (low + high + 1) // 2
        values = np.linalg.eigvalsh(within[:middle, :middle])
        regular = values[0] * WHITEN_CONDITION > max(values[-1], np.finfo(float).tiny)
        low, high = (middle, high) if regular else (low, middle - 1)
    return low


def moments(points: Float[np.ndarray, "n r"]) -> tuple[Float[np.ndarray, " r"], Float[np.ndarray, "r r"]]:
    """Mean (r,) and biased covariance (r, r) of points (n, r)."""
    mean = points.mean(axis=0)
    centred = points - mean
    return mean, centred.T @ centred / len(points)


@dataclass(frozen=True)
class ClassStatistics:
    """What one class looks like.

    **Fields:**

    - `name`, `n`: class and number of points. `weight`: n_k / n.
    - `mean_norm`: ||m_k - c||, in the data's units, over all d coordinates.
    - `spectrum`: non-zero eigenvalues of the biased class covariance over all d coordinates, falling; `rank`: their
      number.
    - `mean_square`, `mean_square_error`: the estimate of a_k = ||mu_k||^2 in whitened coordinates and its standard
      error.
    - `whitened_extremes`: smallest and largest eigenvalue of the class covariance in whitened coordinates.
    - `skewness`: root mean square over the whitened coordinates; `kurtosis`: mean excess over them (Gaussian: both 0).
    """

    name: str
    n: int
    weight: float
    mean_norm: float
    spectrum: tuple[float, ...]
    rank: int
    mean_square: float
    mean_square_error: float
    whitened_extremes: tuple[float, float]
    skewness: float
    kurtosis: float


def class_statistics(data: DataSet, coordinates: Coordinates) -> tuple[ClassStatistics, ...]:
    """Statistics of each class; see `ClassStatistics` for fields and units."""
    whitened = coordinates.whitened(data.features)
    return tuple(
        _one_class(data, coordinates, k, data.features[data.labels == k], whitened[data.labels == k])
        for k in range(data.n_classes)
    )


def _one_class(
    data: DataSet,
    coordinates: Coordinates,
    k: int,
    points: Float[np.ndarray, "nk d"],
    whitened: Float[np.ndarray, "nk r"],
) -> ClassStatistics:
    n, mean = len(points), points.mean(axis=0)
    spectrum = _principal_axes(points - mean)[0]
    whitened_mean, whitened_cov = moments(whitened)
    estimate, error = debiased_mean_square(
        float(whitened_mean @ whitened_mean), n, data.n, coordinates.rank, coordinates.freedom
    )
    values = np.linalg.eigvalsh(whitened_cov)
    skewness, kurtosis = _shape(whitened - whitened_mean)
    return ClassStatistics(
        name=data.class_names[k],
        n=n,
        weight=n / data.n,
        mean_norm=float(np.linalg.norm(mean - coordinates.centre)),
        spectrum=tuple(float(v) for v in spectrum),
        rank=len(spectrum),
        mean_square=estimate,
        mean_square_error=error,
        whitened_extremes=(max(float(values[0]), 0.0), float(values[-1])),
        skewness=skewness,
        kurtosis=kurtosis,
    )


def debiased_mean_square(plain: float, n_class: int, n: int, rank: int, freedom: int) -> tuple[float, float]:
    """Estimate of a = ||mu_k||^2 in whitened coordinates from the plain ||m_k||^2, and its standard error.

    The formulas are in the module's text. Where nu <= r + 1 the inverse Wishart mean does not exist and its factor is
    left out.
    """
    factor = (freedom - rank - 1) / freedom if freedom > rank + 1 else 1.0
    noise = rank * (1.0 / n_class - 1.0 / n)
    estimate = max(0.0, factor * plain - noise)
    whitening = 2.0 * estimate**2 / max(freedom - rank, 1)
    variance = 4.0 * estimate / n_class + 2.0 * rank / n_class**2 + whitening
    return estimate, float(np.sqrt(variance))


def _shape(centred: Float[np.ndarray, "n r"]) -> tuple[float, float]:
    """Root mean square skewness and mean excess kurtosis over coordinates that vary."""
    variance = np.mean(centred**2, axis=0)
    vary = variance > RANK_TOLERANCE * max(float(variance.max()), np.finfo(float).tiny)
    if not vary.any():
        return 0.0, 0.0
    unit = centred[:, vary] / np.sqrt(variance[vary])
    skewness = np.sqrt(np.mean(np.mean(unit**3, axis=0) ** 2))
    return float(skewness), float(np.mean(unit**4) - 3.0)
