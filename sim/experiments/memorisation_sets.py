"""What the memorisation experiment trains on and compares with, and how near samples come to it.

Four disjoint sets of one law, equally many of every class:

    training    n points, what the denoiser knows
    unseen      n points that it does not know: the fair comparison for a distance to the training set
    fresh       m points, "samples" of a perfect generator: the baseline of every measure

If a generator does not copy, training and unseen points are exchangeable to it. So a sample x is as likely nearer to
the one as to the other, and

    nearer = P(d(x, training) < d(x, unseen)) = 1/2,   median of d(x, training)/d(x, unseen) = 1

exactly, whatever n, d and the law (the idea of Meehan, Chaudhuri, Dasgupta 2020, "A non-parametric test to detect
data-copying in generative models"); and a training point is met by some sample no nearer than an unseen point is.
"""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from sim.intervals import Interval, mean_interval, paired_difference, share_interval
from sim.neighbours import nearest_distances
from theory._checks import require, require_finite
from theory.data import DataSet, load_builtin, load_npz

CLOSE = 0.05
"""Share of fresh points that count as close to a training point: the threshold's level."""
RATIO = 1 / 3
"""d_1 < RATIO d_2 counts as memorised (Yoon et al. 2023)."""


class Sets(NamedTuple):
    """Points in units in which the law's coordinates have mean square 1, and their classes 0 ... K - 1, in turn."""

    training: Float[np.ndarray, "n d"]
    unseen: Float[np.ndarray, "n d"]
    fresh: Float[np.ndarray, "m d"]
    labels: Int[np.ndarray, " n"]
    fresh_labels: Int[np.ndarray, " m"]


class Measures(NamedTuple):
    """How near samples come to the training points; what a generator that does not copy has, in brackets.

    - `memorised`: share with d_1 < d_2/3 to the training points [that of fresh points, about 3^-d]. Yoon et al. 2023.
    - `close`: share nearer to a training point than 95 % of fresh points are to an unseen set of equal size [0.05].
    - `nearer`: share nearer to the training than to the unseen points [1/2].
    - `distance_ratio`: median of d(x, training)/d(x, unseen) [1].
    - `unseen_distance`: median of d(x, unseen) over that of fresh points [1 if it samples the law; more: off it].
    - `exposed`: P(a training point of the second half has a nearer sample than an unseen point has) [1/2].
    - `right_class`: share whose nearest training point is of the class asked for [that of fresh points].
    """

    memorised: float
    close: float
    nearer: float
    distance_ratio: float
    unseen_distance: float
    exposed: float
    right_class: float


def measure(samples: Float[np.ndarray, "m d"], sets: Sets) -> Measures:
    """The measures of samples asked for with `sets.fresh_labels`, from any denoiser.

    Raises `ValueError` where the number or dimension of the samples is not that of `sets.fresh`, or one is not finite.
    """
    x = np.asarray(samples, np.float64)
    require(x.shape == sets.fresh.shape, "samples", f"shape {x.shape}", f"{sets.fresh.shape}, as the fresh points")
    require_finite("samples", x)
    two = nearest_distances(x, sets.training, k=2)
    near, other = two[:, 0], nearest_distances(x, sets.unseen)[:, 0]
    usual = nearest_distances(sets.fresh, sets.unseen)[:, 0]
    private = sets.training[second_half(sets.labels)]
    return Measures(
        memorised=float(np.mean(near < RATIO * two[:, 1])),
        close=float(np.mean(near < np.quantile(usual, CLOSE))),
        nearer=float(np.mean(near < other) + 0.5 * np.mean(near == other)),
        distance_ratio=float(np.median(near / other)),
        unseen_distance=float(np.median(other) / np.median(usual)),
        exposed=_less(nearest_distances(private, x)[:, 0], nearest_distances(sets.unseen, x)[:, 0]),
        right_class=float(np.mean(sets.labels[nearest(x, sets.training)] == sets.fresh_labels)),
    )


def estimates(values: Sequence[Measures], sets: Sequence[Sets]) -> dict[str, Any]:
    """Each measure's mean over repeats (one per set) with its 95 % interval: Student's, or `share_over_repeats`."""
    samples, private = len(sets[0].fresh_labels), int(second_half(sets[0].labels).sum())
    counts = {"memorised": samples, "close": samples, "nearer": samples, "right_class": samples, "exposed": private}
    columns = zip(Measures._fields, np.array(values).T, strict=True)
    return {
        name: share_over_repeats(column, counts[name]) if name in counts else mean_interval(column)
        for name, column in columns
    }


def share_over_repeats(shares: Float[np.ndarray, " r"], count: int) -> Interval:
    """Mean of r >= 2 shares of `count` each; an interval within [0, 1] that is not empty at its ends.

    Student's over the repeats, which sees what the samples of one repeat have in common. Where all repeats agree, as at
    0 or 1, it is empty: there Wilson's of all samples, as if they were independent.
    """
    student, total = mean_interval(shares), count * len(shares)
    ends = share_interval(round(float(student.value) * total), total) if student.low == student.high else student
    return Interval(student.value, max(0.0, float(ends.low)), min(1.0, float(ends.high)))


def differences(values: Sequence[Measures], others: Sequence[Measures]) -> dict[str, Any]:
    """Each measure's paired difference, values - others, with Student's interval."""
    columns = zip(Measures._fields, np.array(values).T, np.array(others).T, strict=True)
    return {name: paired_difference(first, second) for name, first, second in columns}


def _less(a: np.ndarray, b: np.ndarray) -> float:
    """P(A < B) + P(A = B)/2 over all pairs: the area under the ROC curve."""
    return float(np.mean(a[:, None] < b) + 0.5 * np.mean(a[:, None] == b))


def nearest(x: Float[np.ndarray, "m d"], points: Float[np.ndarray, "n d"]) -> Int[np.ndarray, " m"]:
    """Index of the point nearest to each x."""
    from sklearn.neighbors import NearestNeighbors

    return NearestNeighbors(n_neighbors=1).fit(points).kneighbors(x, return_distance=False)[:, 0]


def second_half(labels: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """Every second point of each class: those that a noise gate concerns."""
    classes = int(labels.max()) + 1
    return np.arange(len(labels)) // classes % 2 == 1


@functools.cache
def read_data(data: Path | None, builtin: str | None) -> DataSet | None:
    """The user's file, else a bundled set, else None: a mixture. Repeated points count once, since they hide copies."""
    given = load_npz(data) if data is not None else load_builtin(builtin) if builtin is not None else None
    if given is None:
        return None
    require(given.n_classes >= 2, "data", f"{given.n_classes} class", "labelled, with at least 2 classes")
    first = np.unique(given.features, axis=0, return_index=True)[1]
    kept = np.sort(first)
    return DataSet(given.name, given.features[kept], given.labels[kept])


def room(data: DataSet) -> int:
    """Points per class that can be dealt out: those of the smallest class."""
    return int(np.bincount(data.labels).min())


def deal(data: DataSet, per_class: int, fresh: int, key: Key[Array, ""]) -> Sets:
    """Random disjoint sets of real data, `per_class` training points and `fresh` fresh ones of each class.

    Raises `ValueError` where the smallest class has not enough points.
    """
    needed, given = 2 * per_class + fresh, room(data)
    allowed = f"of at least {needed} points in each class (2 x {per_class} and {fresh} fresh ones)"
    require(given >= needed, "data", f"{given} in the smallest", allowed)
    rng = np.random.default_rng(np.asarray(jax.random.key_data(key)))
    rows = [rng.permutation(np.flatnonzero(data.labels == k))[:needed] for k in range(data.n_classes)]
    centred = data.features - data.features.mean(axis=0)
    points = (centred / np.sqrt(np.mean(centred**2)))[np.stack(rows, axis=1)]
    return _cut(points, per_class)


def draw(d: int, classes: int, separation: float, per_class: int, fresh: int, key: Key[Array, ""]) -> Sets:
    """The same from `classes` Gaussians of unit covariance whose means lie `separation` apart, pairwise.

    Raises `ValueError` where `classes` is below 2 or above d.
    """
    require(2 <= classes <= d, "classes", classes, f"between 2 and the dimension {d}")
    noise = np.asarray(jax.random.normal(key, (2 * per_class + fresh, classes, d), jnp.float64))
    means = separation / np.sqrt(2) * np.eye(classes, d)
    spread = np.mean((means - means.mean(axis=0)) ** 2)
    return _cut((noise + means - means.mean(axis=0)) / np.sqrt(1 + spread), per_class)


def _cut(points: Float[np.ndarray, "r K d"], per_class: int) -> Sets:
    """Rows dealt out in turn, so that classes alternate."""
    classes, d = points.shape[1:]
    parts = np.split(points, [per_class, 2 * per_class])
    training, unseen, fresh = (part.reshape(-1, d) for part in parts)
    every = np.arange(classes)
    return Sets(training, unseen, fresh, np.tile(every, per_class), np.tile(every, len(parts[2])))
