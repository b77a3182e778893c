"""Means with intervals, and the two result types that every experiment and distance reports.

Repeats v_1, ..., v_r of a number (one per seed) give the mean with Student's interval

    v̄ ± t_{r-1} s / √r,   s² = Σ (v_i - v̄)² / (r - 1),

two runs on the same seeds are compared by the interval of their differences (`paired_difference`), a share by Wilson's
(1927) interval, a statistic of one sample by the percentile bootstrap (Efron 1979) or, where resampling with
replacement would distort it (a transport distance sees repeated points), by the grouped jackknife: leave out one of g
groups at a time,

    variance = (g - 1)/g Σ_j (T_(-j) - T̄_(-))²,

which on average is not too small, whatever T is (Efron and Stein 1981, for a sample of the size left).

A statistic of finite samples is off even where the laws are equal. `Estimate` therefore carries the raw value, the
value on identical laws, and the interval of their difference; `bias_on_identical` measures the second by itself.

NumPy on the host, float64 whatever the type of the samples; results may be arrays (one entry per frequency, say).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray
from scipy import stats

from theory._checks import require, require_finite

Number = float | np.ndarray
"""One number, or an array of them."""
Points = np.ndarray | Array
"""A sample set with one point (or image) per row."""


class Interval(NamedTuple):
    """A mean (or share) and the ends of its confidence interval, in the unit of the values."""

    value: Number
    low: Number
    high: Number


class Estimate(NamedTuple):
    """A statistic of finite samples beside its finite-sample bias.

    - `value`: the statistic as computed (raw; not to be ranked by).
    - `bias`: what it is on identical laws, less what it ideally is there; how it was measured, the maker's docstring
      says.
    - `low`, `high`: confidence interval of `debiased` = value - bias, NaN where none can be given.
    """

    value: Number
    bias: Number
    low: Number
    high: Number

    @property
    def debiased(self) -> Number:
        """The value less the bias: what runs are compared by."""
        return self.value - self.bias


def _plain(value: ArrayLike) -> Number:
    array = np.asarray(value)
    return float(array) if array.ndim == 0 else array


def _require_confidence(confidence: float) -> None:
    require(0 < confidence < 1, "confidence", confidence, "between 0 and 1, exclusive")


def _student(centre: ArrayLike, error: ArrayLike, freedom: int, confidence: float) -> tuple[Number, Number]:
    half = stats.t.ppf((1 + confidence) / 2, freedom) * np.asarray(error)
    return _plain(np.asarray(centre) - half), _plain(np.asarray(centre) + half)


def mean_interval(values: Float[ArrayLike, "r ..."], *, confidence: float = 0.95) -> Interval:
    """Mean over the r >= 2 independent repeats (first axis) and Student's interval, entry by entry.

    Exact coverage for normal repeats. Raises `ValueError` for r < 2, non-finite values, or `confidence` outside (0, 1).
    """
    array = np.asarray(values, np.float64)
    require(array.ndim >= 1 and array.shape[0] >= 2, "values", f"shape {array.shape}", "at least 2 repeats on axis 0")
    require_finite("values", array)
    _require_confidence(confidence)
    mean, error = array.mean(axis=0), array.std(axis=0, ddof=1) / np.sqrt(len(array))
    return Interval(_plain(mean), *_student(mean, error, len(array) - 1, confidence))


def paired_difference(
    first: Float[ArrayLike, "r ..."], second: Float[ArrayLike, "r ..."], *, confidence: float = 0.95
) -> Interval:
    """Mean of first - second over repeats that share their seeds, with Student's interval; what the seeds share drops
    out.

    Raises `ValueError` where shapes differ, and as `mean_interval` does.
    """
    a, b = np.asarray(first, np.float64), np.asarray(second, np.float64)
    require(a.shape == b.shape, "second", f"shape {b.shape}", f"of first's shape {a.shape}")
    return mean_interval(a - b, confidence=confidence)


def share_interval(hits: int, n: int, *, confidence: float = 0.95) -> Interval:
    """The share hits / n with Wilson's interval, which stays in [0, 1] and is not empty at 0 or n hits.

    Raises `ValueError` unless 0 <= hits <= n and n >= 1.
    """
    require(n >= 1, "n", n, "at least 1")
    require(0 <= hits <= n, "hits", hits, f"between 0 and n = {n}")
    _require_confidence(confidence)
    z2 = stats.norm.ppf((1 + confidence) / 2) ** 2
    share = hits / n
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = np.sqrt(z2 * share * (1 - share) / n + (z2 / (2 * n)) ** 2) / (1 + z2 / n)
    low = 0.0 if hits == 0 else float(centre - half)
    return Interval(share, low, 1.0 if hits == n else float(centre + half))


def bootstrap_interval(
    statistic: Callable[[Float[Array, "n ..."]], Array],
    values: Float[ArrayLike, "n ..."],
    key: PRNGKeyArray,
    *,
    resamples: int = 1000,
    confidence: float = 0.95,
) -> Interval:
    """`statistic` of the n values, with the percentile bootstrap over rows; `statistic` is traced by JAX (`jnp.median`
    say).

    For smooth statistics of one sample; not for distances or neighbours, which repeated points distort (see
    `jackknife`). Raises `ValueError` for n < 2 or `resamples` < 20.
    """
    array = jnp.asarray(values)
    require(array.ndim >= 1 and array.shape[0] >= 2, "values", f"shape {array.shape}", "at least 2 rows")
    require(resamples >= 20, "resamples", resamples, "at least 20")
    _require_confidence(confidence)
    n = array.shape[0]
    rows = jax.random.randint(key, (resamples, n), 0, n)
    drawn = np.asarray(jax.jit(lambda r: jax.lax.map(lambda i: statistic(array[i]), r))(rows), np.float64)
    ends = np.quantile(drawn, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    return Interval(_plain(np.asarray(statistic(array), np.float64)), _plain(ends[0]), _plain(ends[1]))


class Jackknife(NamedTuple):
    """A statistic, its standard error by the grouped jackknife, and the values with one group left out (g, ...)."""

    value: np.ndarray
    error: Number
    left_out: np.ndarray


def jackknife(
    statistic: Callable[..., Number], samples: Sequence[Points], *, groups: int = 10, together: bool = True
) -> Jackknife:
    """`statistic(*samples)` with its grouped-jackknife standard error; rows i, i + g, i + 2 g, ... form a group.

    Rows must be exchangeable. The groups of all samples leave together: exact where the rows are paired, and where the
    samples are independent (`together` false) each sample's groups leave by themselves and the variances add.
    Raises `ValueError` unless 2 <= groups <= the smallest sample.
    """
    arrays = [np.asarray(s) for s in samples]
    smallest = min(len(a) for a in arrays)
    require(2 <= groups <= smallest, "groups", groups, f"between 2 and the smallest sample's {smallest} rows")
    value = np.asarray(statistic(*arrays), np.float64)
    which = [tuple(range(len(arrays)))] if together else [(i,) for i in range(len(arrays))]
    left = [np.stack([_without(statistic, arrays, w, j, groups) for j in range(groups)]) for w in which]
    variance = sum((groups - 1) / groups * np.sum((v - v.mean(axis=0)) ** 2, axis=0) for v in left)
    return Jackknife(value, _plain(np.sqrt(variance)), np.concatenate(left))


def _without(
    statistic: Callable[..., Number], arrays: list[np.ndarray], which: tuple[int, ...], group: int, groups: int
) -> np.ndarray:
    """The statistic without group `group` of the samples numbered in `which`."""
    kept = [a[np.arange(len(a)) % groups != group] if i in which else a for i, a in enumerate(arrays)]
    return np.asarray(statistic(*kept), np.float64)


def jackknife_estimate(
    statistic: Callable[..., Number], samples: Sequence[Points], *, groups: int = 20, confidence: float = 0.95
) -> Estimate:
    """`statistic(*samples)` of independent samples with the jackknife's own estimate of its O(1/n) bias (Quenouille
    1956) and Student's interval with groups - 1 degrees of freedom; for smooth statistics only.

    Raises `ValueError` for a confidence outside (0, 1) and as `jackknife`.
    """
    _require_confidence(confidence)
    fold = jackknife(statistic, samples, groups=groups, together=False)
    parts = fold.left_out.reshape(len(samples), groups, *fold.value.shape)
    bias = (groups - 1) * np.sum(parts.mean(axis=1) - fold.value, axis=0)
    ends = _student(fold.value - bias, fold.error, groups - 1, confidence)
    return Estimate(_plain(fold.value), _plain(bias), *ends)


def bias_on_identical(
    statistic: Callable[[Points, Points], Number],
    draw: Callable[[PRNGKeyArray, int], Points],
    n: int,
    key: PRNGKeyArray,
    *,
    m: int | None = None,
    ideal: float = 0.0,
    repeats: int = 10,
    confidence: float = 0.95,
) -> Interval:
    """Finite-sample bias of a two-sample statistic: mean of statistic(X, X') - `ideal` over `repeats` fresh pairs X (n
    points), X' (m, default n) from one law, with Student's interval.

    `draw(key, n)` samples the law; `ideal` is the statistic's value between equal laws (0 for a distance, 1 for a
    ratio or for precision). Raises `ValueError` for n < 1 or repeats < 2.
    """
    require(n >= 1, "n", n, "at least 1")
    require(repeats >= 2, "repeats", repeats, "at least 2")
    other = n if m is None else m
    values = []
    for one in jax.random.split(key, repeats):
        key_x, key_y = jax.random.split(one)
        values.append(np.asarray(statistic(draw(key_x, n), draw(key_y, other)), np.float64) - ideal)
    return mean_interval(np.stack(values), confidence=confidence)


def beside_identical(
    statistic: Callable[[Points, Points], Number],
    x: Points,
    x2: Points,
    y: Points,
    y2: Points | None = None,
    *,
    ideal: float = 0.0,
    groups: int = 10,
    confidence: float = 0.95,
) -> Estimate:
    """statistic(X, Y) beside its value on identical laws: bias = ½ s(X, X') + ½ s(Y, Y') - `ideal`, or s(X, X') -
    `ideal` without `y2` (for statistics in which X is the reference: precision, say).

    `x`, `x2` are independent samples of the first law (n, ...), `y`, `y2` of the second (m, ...). The interval of
    value - bias is Student's with the grouped jackknife's error, which evaluates the statistic 2 or 3 times per group.
    Raises `ValueError` where `x2` has not `x`'s shape, or `y2` not `y`'s.
    """
    both = _value_and_bias(statistic, ideal)
    fold = jackknife(both, _sets(x, x2, y, y2), groups=groups)
    _require_confidence(confidence)
    gaps = fold.left_out[:, 0] - fold.left_out[:, 1]
    error = np.sqrt((groups - 1) / groups * np.sum((gaps - gaps.mean(axis=0)) ** 2, axis=0))
    value, bias = fold.value
    return Estimate(_plain(value), _plain(bias), *_student(value - bias, error, groups - 1, confidence))


def beside_identical_repeats(
    statistic: Callable[[Points, Points], Number],
    x: Points,
    x2: Points,
    y: Points,
    y2: Points | None = None,
    *,
    ideal: float = 0.0,
    confidence: float = 0.95,
) -> Estimate:
    """`beside_identical` for r >= 2 independent repeats of everything, shapes (r, n, ...) and (r, m, ...): value and
    bias are means over them, the interval is Student's, without a jackknife. Raises `ValueError` where shapes differ.
    """
    both = _value_and_bias(statistic, ideal)
    pairs = np.stack([both(*one) for one in zip(*_sets(x, x2, y, y2), strict=True)])
    value, bias = pairs.mean(axis=0)
    difference = mean_interval(pairs[:, 0] - pairs[:, 1], confidence=confidence)
    return Estimate(_plain(value), _plain(bias), difference.low, difference.high)


def _sets(x: Points, x2: Points, y: Points, y2: Points | None) -> tuple[Points, ...]:
    require(np.shape(x2) == np.shape(x), "x2", f"shape {np.shape(x2)}", f"of x's shape {np.shape(x)}")
    if y2 is None:
        return x, x2, y
    require(np.shape(y2) == np.shape(y), "y2", f"shape {np.shape(y2)}", f"of y's shape {np.shape(y)}")
    return x, x2, y, y2


def _value_and_bias(statistic: Callable[[Points, Points], Number], ideal: float) -> Callable[..., np.ndarray]:
    def both(x: Points, x2: Points, y: Points, *y2: Points) -> np.ndarray:
        own = [np.asarray(statistic(x, x2))] + [np.asarray(statistic(y, other)) for other in y2]
        return np.stack([np.asarray(statistic(x, y), np.float64), np.mean(own, axis=0) - ideal])

    return both
