"""Figures of generated images beside those of real ones: what is computed, given pixels, features and classes.

X, X' are halves of the real images and Y, Y' of the generated ones, with the same classes in the same order. Distances
between sets are debiased by those within (`sim.intervals.beside_identical`):

    debiased = s(X, Y) - ½ s(X, X') - ½ s(Y, Y'),        precision, recall:  s(X, Y) + 1 - s(X, X'),

s(X, Y) being the mean over the four pairs of halves, which narrows the interval by a third. What is a mean over single
images stands beside the same of the real ones. Each figure has `value` (raw, not to be ranked by), `bias`, `debiased` =
value - bias, the 95 % interval `low`, `high` of it, and `ideal`, what `debiased` is on average if both are of one law:

- `w2_squared`, `w2_squared_per_class`: exact squared 2-Wasserstein distance of the pixels in [-1, 1], all classes
  together, and the mean over classes of that within each (ideal 0);
- `frechet_squared_features`, `frechet_squared_pixels`: in float64, where a half has more images than dimensions (0);
- `precision`, `recall`: of features, k = 3 (1);
- `accuracy`: share that the judge takes for the class asked for, its bias being that of real images (0), and Wilson's
  intervals of both, `interval` and `held_out_interval`;
- `rmd_top_1_percent`: mean of the largest 1 % of relative Mahalanobis distances to the class asked for
  (`imagegen.features`), at least one image (0);
- `nearest_training`: mean distance to the 5 nearest training images, in pixels (0);
- `memorised`: share of images three times nearer to one training image than to the next, repeated ones counted once:
  the memorisation ratio (0);
- `variance_ratio`, and of low, middle and high spatial frequencies (up to 1/6, up to 1/3, above; cycles per pixel):
  total variance of generated over that of real images (1).

Intervals are grouped jackknife's where nothing else is said; its groups have the same classes.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from sim.distances import frechet_squared, variance_ratio, wasserstein2_squared
from sim.intervals import Estimate, beside_identical, share_interval
from sim.neighbours import excess_share, precision_recall

TRANSPORT = 500
"""Images in a half at most for exact transport (evenly spaced ones of more)."""
MANIFOLD, TOP = 3, 0.01
"""k of precision and recall; share of the largest RMD."""
BANDS = {"low": (0.0, 1 / 6), "middle": (1 / 6, 1 / 3), "high": (1 / 3, 1.0)}
"""Spatial frequencies above the first and up to the second end, cycles per pixel; the mean is in the first band."""
Rows = Int[np.ndarray, " r"]
Vectors = Float[np.ndarray, "n d"]
Figure = dict[str, Any]
"""As the module's top says, and plain numbers."""
Figures = dict[str, Figure]


class Facts(NamedTuple):
    """Of each of n images: pixels and features as vectors, mean distance to the nearest training images, whether it is
    memorised, RMD to its class, and whether the judge takes it for its class (None without a judge).
    """

    pixels: Vectors
    features: Float[np.ndarray, "n d_f"]
    nearest: Float[np.ndarray, " n"]
    memorised: Bool[np.ndarray, " n"]
    relative: Float[np.ndarray, " n"]
    recognised: Bool[np.ndarray, " n"] | None

    def at(self, rows: Rows) -> "Facts":
        """Those of the images in these rows."""
        parts: list[Any] = [None if values is None else values[rows] for values in self]
        return Facts(*parts)


def all_figures(
    known: list[Facts], fresh: list[Facts], classes: Rows, shape: tuple[int, int, int]
) -> tuple[Figures, dict[str, str]]:
    """The figures by name, and why some are left out, of two halves of real images and two of generated ones.

    All four are of the same `classes` (n,), in rising order, n >= 20 rows each; `shape` is (h, w, c) of the images.
    """
    left_out: dict[str, str] = {}
    real, made = _join(known), _join(fresh)
    figures = {
        **_transport(known, fresh, classes),
        **_frechet(known, fresh, left_out, ("features", "pixels")),
        **_manifolds(known, fresh),
        **_by_image(real, made, left_out),
        **_variances(real.pixels, made.pixels, shape, left_out),
    }
    return figures, left_out


def feature_figures(known: list[Facts], fresh: list[Facts]) -> tuple[Figures, dict[str, str]]:
    """Those of `all_figures` for which no pixels are needed: of features, and means over single images."""
    left_out: dict[str, str] = {}
    figures = {
        **_frechet(known, fresh, left_out, ("features",)),
        **_manifolds(known, fresh),
        **_by_image(_join(known), _join(fresh), left_out),
    }
    return figures, left_out


def _join(halves: list[Facts]) -> Facts:
    """Both halves together, row by row in turn: still in the order of classes."""
    columns = zip(*halves, strict=True)
    parts: list[Any] = [None if a is None else np.stack([a, b], 1).reshape(-1, *a.shape[1:]) for a, b in columns]
    return Facts(*parts)


def _figure(estimate: Estimate, ideal: float) -> Figure:
    return {**estimate._asdict(), "debiased": estimate.debiased, "ideal": ideal}


def _between_halves(statistic: Callable[[Rows, Rows], Any], n: int, sides: int = 2, *, ideal: float = 0.0) -> Estimate:
    """`statistic` of row numbers, debiased by both sides or by the real one alone; X, X', Y, Y' stand one below the
    other with n rows each. Across, it is the mean over the four pairs of halves; within, over both orders of an
    asymmetric one (sides = 1).
    """

    def averaged(a: Any, b: Any) -> Any:
        if b[0] >= 2 * n > a[0]:
            return np.mean([statistic(i, j) for i in (a, a + n) for j in (b, b + n)], axis=0)
        return statistic(a, b) if sides == 2 else (statistic(a, b) + statistic(b, a)) / 2

    x, x2, y, y2 = np.arange(4 * n).reshape(4, n)
    return beside_identical(averaged, x, x2, y, y2 if sides == 2 else None, ideal=ideal)


def _transport(known: list[Facts], fresh: list[Facts], classes: Rows) -> Figures:
    thin = np.unique(np.linspace(0, len(classes) - 1, min(len(classes), TRANSPORT)).round().astype(int))
    points = np.concatenate([half.pixels[thin] for half in (*known, *fresh)])
    labels = np.tile(classes[thin], 4)

    def together(a: Rows, b: Rows) -> float:
        return wasserstein2_squared(points[a], points[b])

    def per_class(a: Rows, b: Rows) -> float:
        return float(np.mean([together(a[labels[a] == c], b[labels[b] == c]) for c in np.unique(labels[a])]))

    return {
        "w2_squared": _figure(_between_halves(together, len(thin)), 0.0),
        "w2_squared_per_class": _figure(_between_halves(per_class, len(thin)), 0.0),
    }


def _frechet(known: list[Facts], fresh: list[Facts], left_out: dict[str, str], spaces: Sequence[str]) -> Figures:
    figures = {}
    for space in spaces:
        points = np.concatenate([getattr(half, space) for half in (*known, *fresh)])
        n, d = len(points) // 4, points.shape[1]
        if n <= d:
            left_out[f"frechet_squared_{space}"] = f"{n} images in a half are too few for {d} dimensions"
            continue
        with jax.enable_x64(True):
            estimate = _between_halves(partial(_frechet_of_rows, points), n)
        figures[f"frechet_squared_{space}"] = _figure(estimate, 0.0)
    return figures


def _frechet_of_rows(points: Vectors, a: Rows, b: Rows) -> float:
    return frechet_squared(points[a], points[b])


def _manifolds(known: list[Facts], fresh: list[Facts]) -> Figures:
    points = np.concatenate([half.features for half in (*known, *fresh)])

    def both(real: Rows, other: Rows) -> Float[np.ndarray, " two"]:
        return np.array(precision_recall(points[real], points[other], k=MANIFOLD))

    beside = _between_halves(both, len(points) // 4, 1, ideal=1.0)
    columns = np.array(beside).T
    return {name: _figure(Estimate(*one), 1.0) for name, one in zip(("precision", "recall"), columns, strict=True)}


def _by_image(known: Facts, fresh: Facts, left_out: dict[str, str]) -> Figures:
    """Figures that are means over single images, beside the held-out images' own."""
    figures = {
        "rmd_top_1_percent": _figure(_beside_held_out(_top_mean, known.relative, fresh.relative), 0.0),
        "nearest_training": _figure(_beside_held_out(np.mean, known.nearest, fresh.nearest), 0.0),
        "memorised": _figure(excess_share(fresh.memorised, known.memorised), 0.0),
    }
    if fresh.recognised is None or known.recognised is None:
        left_out["accuracy"] = "the features come without a judge"
        return figures
    intervals = [share_interval(int(flags.sum()), len(flags)) for flags in (fresh.recognised, known.recognised)]
    ends = [[share.low, share.high] for share in intervals]
    beside = _figure(excess_share(fresh.recognised, known.recognised), 0.0)
    return {**figures, "accuracy": {**beside, "interval": ends[0], "held_out_interval": ends[1]}}


def _beside_held_out(
    statistic: Callable[[np.ndarray], Any], known: Float[np.ndarray, " n"], fresh: Float[np.ndarray, " n"]
) -> Estimate:
    """A statistic of the samples beside that of as many held-out images."""
    return beside_identical(lambda _, other: float(statistic(np.asarray(other))), known, known, fresh)


def _top_mean(values: Float[np.ndarray, " n"]) -> float:
    return float(np.sort(values)[-int(np.ceil(TOP * len(values))) :].mean())


def _variances(known: Vectors, fresh: Vectors, shape: tuple[int, int, int], left_out: dict[str, str]) -> Figures:
    figures = {"variance_ratio": _figure(variance_ratio(fresh, known), 1.0)}
    for band, (low, high) in BANDS.items():
        parts = [_band(vectors, shape, low, high) for vectors in (known, fresh)]
        if parts[0].var(axis=0).sum() <= 1e-9 * known.var(axis=0).sum():
            left_out[f"variance_ratio_{band}"] = "the real images do not vary at these frequencies"
            continue
        figures[f"variance_ratio_{band}"] = _figure(variance_ratio(parts[1], parts[0]), 1.0)
    return figures


def _band(vectors: Vectors, shape: tuple[int, int, int], low: float, high: float) -> Vectors:
    """The part of images at spatial frequencies in (low, high]; the mean belongs to low = 0."""
    height, width, _ = shape
    radius = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)[None, :])
    kept = ((radius > low) | ((low == 0) & (radius == 0))) & (radius <= high)
    spectra = np.fft.fft2(vectors.reshape(-1, *shape), axes=(1, 2)) * kept[..., None]
    return np.fft.ifft2(spectra, axes=(1, 2)).real.reshape(len(vectors), -1)
