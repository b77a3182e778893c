"""Advice on condition corruption for a data set: predicted entropy and W2^2 change, the best noise and where it stops
helping.

Two predictions stand side by side, both for the linear denoiser without guidance at infinite horizon.

- *Whitened*: class k is taken as N(mu_k, I) in whitened coordinates (`theory.whitening`), with n_k points and the
  estimated a_k = ||mu_k||^2. Exact expectations over training sets from `theory.training_sets`. W2 has no units
  there. Its range comes from a_k at the ends of its interval, all classes moved together.
- *Plug-in*: class k is taken as N(m_k, S_k) in principal coordinates, i.e. in the data's own units, with bootstrap
  interval (`theory.plugin`).

Totals weigh the classes by their share of the points. The gain G = E W2^2(clean) - E W2^2(corrupted) is found on a
grid of s, even in log s from 1e-3 / max n_k to 1; its optimum and its zero by a cubic spline of G(s)/s in log s.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from scipy.interpolate import CubicSpline
from scipy.stats import norm

from theory.data import DataSet
from theory.plugin import Bootstrap, FlipEffect, HeldOut, Population, bootstrap_gain, flip_effect, held_out, pooled
from theory.settings import Settings
from theory.training_sets import entropy_gap, mean_root, wasserstein_gain
from theory.whitening import ClassStatistics, Coordinates, moments

GRID_POINTS = 31
ISOTROPIC_DRAWS = 512
"""Draws behind each exact expectation; the standard error of the gain is then about 1 % of its largest value, or
less.
"""
HELD_OUT_SPLITS = 20
FLIP_TRAINING_SETS = 20
SINGULAR = 1e-10
"""A class covariance with a smaller ratio of extreme eigenvalues counts as singular: its Gaussian has no density."""


@dataclass(frozen=True)
class Interval:
    """A value between a low and a high limit."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Optimum:
    """The best corruption and where it stops helping, as noise_std (0: it never helps; infinite: the more the better).

    **Fields:** `noise_std` the best; `helpful_limit` the largest that does not hurt; `gain` at the best, in W2^2,
    with the limits at that noise_std (being the largest of a noisy curve, it is a little optimistic); `clean` the
    predicted W2^2 without corruption.
    """

    noise_std: Interval
    helpful_limit: Interval
    gain: Interval
    clean: float


@dataclass(frozen=True)
class Curve:
    """Gain in W2^2 against noise_std, with pointwise limits."""

    noise_std: tuple[float, ...]
    gain: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Row:
    """Predictions at one noise_std, averaged over classes; an entropy change is None where a class is degenerate.

    **Fields:** `cep_gaussian`, `cep_uniform` CEP's gamma; `entropy_change` expected over training sets, whitened;
    `entropy_change_here` of the linear model trained on exactly these points (nats; the same in all coordinates);
    `whitened` and `plugin` the gains.
    """

    noise_std: float
    s: float
    cep_gaussian: float
    cep_uniform: float
    entropy_change: float | None
    entropy_change_here: float | None
    whitened: Interval
    plugin: Interval


@dataclass(frozen=True)
class ClassAdvice:
    """One class by itself: both predictions, the flips, and both models held against random halves (None below 4
    points).
    """

    name: str
    whitened: Optimum
    plugin: Optimum
    flips: FlipEffect
    whitened_check: HeldOut | None
    plugin_check: HeldOut | None


@dataclass(frozen=True)
class Conditions:
    """Advice on condition corruption; see the module's text.

    **Fields:** `whitened`, `plugin` the optima of the totals, `whitened_curve`, `plugin_curve` their curves; `rows`
    one for each requested noise_std; `flips` the change of the total; `classes` one for each class.
    """

    whitened: Optimum
    plugin: Optimum
    whitened_curve: Curve
    plugin_curve: Curve
    rows: tuple[Row, ...]
    flips: FlipEffect
    classes: tuple[ClassAdvice, ...]


def advise_conditions(
    data: DataSet, coordinates: Coordinates, statistics: Sequence[ClassStatistics], settings: Settings
) -> Conditions:
    """Advice for a data set with at least two classes, from its coordinates and class statistics."""
    points = coordinates.principal(data.features)
    classes = [points[data.labels == k] for k in range(data.n_classes)]
    weights = [c.weight for c in statistics]
    s = search_grid([c.n for c in statistics], settings)
    streams = np.random.default_rng(settings.seed).spawn(2 * len(classes) + 1)
    isotropic = [_isotropic(c, coordinates.rank, s, settings.level) for c in statistics]
    bootstraps = [
        bootstrap_gain(p, s, resamples=settings.resamples, training_sets=settings.training_sets, rng=rng)
        for p, rng in zip(classes, streams, strict=False)
    ]
    total_isotropic = _Isotropic(
        np.einsum("k,kag->ag", weights, np.stack([i.gains for i in isotropic])),
        float(np.dot(weights, [i.clean for i in isotropic])),
    )
    total = pooled(bootstraps, weights)
    best = total_isotropic.optimum(s, settings)
    white = [p @ coordinates.whitener for p in classes]
    models = [Population.isotropic(coordinates.rank, c.mean_square) for c in statistics]
    plugin = _bootstrap_optimum(total, s, settings)
    checks = _checks(white, models, best, settings, streams[len(classes) :])
    own_checks = _checks(classes, [Population.of(p) for p in classes], plugin, settings, streams[len(classes) :])
    flips = flip_effect(classes, settings.eta, repeats=FLIP_TRAINING_SETS, rng=streams[-1])
    return Conditions(
        whitened=best,
        plugin=plugin,
        whitened_curve=_curve(total_isotropic.limits(), s, settings),
        plugin_curve=_curve((total.corrected, *total.interval(settings.level)), s, settings),
        rows=_rows(classes, coordinates.rank, statistics, total_isotropic, total, s, settings),
        flips=_total_flips(flips, weights),
        classes=tuple(
            ClassAdvice(c.name, i.optimum(s, settings), _bootstrap_optimum(b, s, settings), f, *check)
            for c, i, b, f, *check in zip(statistics, isotropic, bootstraps, flips, checks, own_checks, strict=True)
        ),
    )


def search_grid(sizes: Sequence[int], settings: Settings) -> Float[np.ndarray, " g"]:
    """The grid of s: `GRID_POINTS` from 1e-3 / max n_k to 1, then the requested ones, in that order."""
    grid = np.geomspace(1e-3 / max(sizes), 1.0, GRID_POINTS)
    return np.concatenate([grid, [settings.noise_ratio(x) for x in settings.noise_std]])


def locate(s: Float[np.ndarray, " g"], gain: Float[np.ndarray, " g"]) -> tuple[float, float, float]:
    """(best s, its gain, first s beyond it where the gain is 0) of a gain curve on a rising grid of s in (0, 1].

    (0, 0, 0) if the gain is nowhere positive; the last is 1 if it is still positive at the end.
    """
    spline = CubicSpline(np.log(s), gain / s)
    fine = np.linspace(math.log(s[0]), math.log(s[-1]), 4001)
    values = spline(fine) * np.exp(fine)
    best = int(np.argmax(values))
    if values[best] <= 0:
        return 0.0, 0.0, 0.0
    negative = np.flatnonzero(values[best:] < 0)
    limit = 1.0 if not negative.size else _zero(fine, values, best + int(negative[0]))
    return math.exp(fine[best]) if best < fine.size - 1 else 1.0, float(values[best]), limit


def _zero(x: Float[np.ndarray, " f"], values: Float[np.ndarray, " f"], after: int) -> float:
    share = values[after - 1] / (values[after - 1] - values[after])
    return math.exp(x[after - 1] + share * (x[after] - x[after - 1]))


@dataclass(frozen=True, eq=False)
class _Isotropic:
    """Gains (3, g) of the whitened prediction at a_k, and at the low and the high end of its interval; W2^2 when
    clean.
    """

    gains: Float[np.ndarray, "3 g"]
    clean: float

    def limits(self) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
        return self.gains[0], self.gains.min(axis=0), self.gains.max(axis=0)

    def optimum(self, s: Float[np.ndarray, " g"], settings: Settings) -> Optimum:
        found = np.array([locate(s[:GRID_POINTS], g[:GRID_POINTS]) for g in self.gains])
        best, limit = (_interval(found[:, i], settings) for i in (0, 2))
        return Optimum(best, limit, _gain_at(found[0], s, self.limits()), self.clean)


def _isotropic(c: ClassStatistics, rank: int, s: Float[np.ndarray, " g"], level: float) -> _Isotropic:
    reach = float(norm.isf((1 - level) / 2)) * c.mean_square_error
    levels = (c.mean_square, max(0.0, c.mean_square - reach), c.mean_square + reach)
    noise = [math.inf if x >= 1 else math.sqrt(x / (1 - x)) for x in s.tolist()]
    gains = [[float(wasserstein_gain(c.n, rank, a, x, draws=ISOTROPIC_DRAWS).value) for x in noise] for a in levels]
    return _Isotropic(np.array(gains), 2 * rank * (1 - mean_root(c.n, rank)))


def _bootstrap_optimum(b: Bootstrap, s: Float[np.ndarray, " g"], settings: Settings) -> Optimum:
    """Optimum of the corrected curve; limits from the reflected curves 2 theta - theta_b, whose spread the interval
    takes.
    """
    grid = s[:GRID_POINTS]
    found = np.array(locate(grid, b.corrected[:GRID_POINTS]))
    reflected = np.array([locate(grid, 2 * b.plain[:GRID_POINTS] - r[:GRID_POINTS]) for r in b.resampled])
    ends = np.quantile(reflected, [(1 - settings.level) / 2, (1 + settings.level) / 2], axis=0)
    best, limit = (_interval(np.array([found[i], *ends[:, i]]), settings) for i in (0, 2))
    return Optimum(best, limit, _gain_at(found, s, (b.corrected, *b.interval(settings.level))), b.clean)


def _interval(s: Float[np.ndarray, "3"], settings: Settings) -> Interval:
    """The first s as noise_std, between the smallest and the largest of all."""
    return Interval(*(settings.noise_for(float(x)) for x in (s[0], s.min(), s.max())))


def _gain_at(
    found: Float[np.ndarray, "3"], s: Float[np.ndarray, " g"], limits: tuple[Float[np.ndarray, " g"], ...]
) -> Interval:
    """The best gain with the pointwise limits at that s: (best s, gain, zero) from `locate`, (value, low, high) over
    s.
    """
    if found[0] == 0.0:
        return Interval(0.0, 0.0, 0.0)
    grid = s[:GRID_POINTS]
    ratios = [np.interp(math.log(found[0]), np.log(grid), v[:GRID_POINTS] / grid) for v in limits[1:]]
    low, high = (float(found[0] * ratio) for ratio in ratios)
    return Interval(float(found[1]), min(low, float(found[1])), max(high, float(found[1])))


def _curve(limits: tuple[Float[np.ndarray, " g"], ...], s: Float[np.ndarray, " g"], settings: Settings) -> Curve:
    """The search grid, drawn out by the spline of G(s)/s, without its last point, s = 1, where noise_std is
    infinite.
    """
    fine = np.geomspace(s[0], 1.0, 5 * GRID_POINTS)[:-1]
    grid = s[:GRID_POINTS]
    splines = [CubicSpline(np.log(grid), values[:GRID_POINTS] / grid) for values in limits]
    gain, low, high = (tuple(map(float, fine * spline(np.log(fine)))) for spline in splines)
    return Curve(tuple(settings.noise_for(float(x)) for x in fine), gain, low, high)


def _rows(
    classes: Sequence[Float[np.ndarray, "_ r"]],
    rank: int,
    statistics: Sequence[ClassStatistics],
    isotropic: _Isotropic,
    total: Bootstrap,
    s: Float[np.ndarray, " g"],
    settings: Settings,
) -> tuple[Row, ...]:
    whitened, plugin = isotropic.limits(), (total.corrected, *total.interval(settings.level))
    quadratics = [mahalanobis(p) for p in classes]
    weights = [c.weight for c in statistics]
    return tuple(
        Row(
            noise_std=x,
            s=float(s[i]),
            cep_gaussian=settings.cep_gaussian(x),
            cep_uniform=settings.cep_uniform(x),
            entropy_change=_expected_entropy(statistics, rank, x / settings.cond_norm),
            entropy_change_here=_weighted([_entropy(q, float(s[i])) for q in quadratics], weights),
            whitened=Interval(*(float(v[i]) for v in whitened)),
            plugin=Interval(*(float(v[i]) for v in plugin)),
        )
        for i, x in enumerate(settings.noise_std, start=GRID_POINTS)
    )


def mahalanobis(points: Float[np.ndarray, "n r"]) -> float:
    """m' S^-1 m of one class (biased covariance), or infinity where S is singular (`SINGULAR`)."""
    mean, cov = moments(points)
    values, vectors = np.linalg.eigh(cov)
    if values[0] <= SINGULAR * values[-1]:
        return math.inf
    return float(np.sum((vectors.T @ mean) ** 2 / values))


def _entropy(quadratic: float, s: float) -> float | None:
    if s == 0.0:
        return 0.0
    return 0.5 * math.log1p(s * quadratic) if math.isfinite(quadratic) else None


def _expected_entropy(statistics: Sequence[ClassStatistics], rank: int, noise_std: float) -> float | None:
    gaps = [entropy_gap(c.n, rank, c.mean_square, noise_std) if c.n > rank else None for c in statistics]
    return _weighted(gaps, [c.weight for c in statistics])


def _weighted(values: Sequence[float | None], weights: Sequence[float]) -> float | None:
    known = [v for v in values if v is not None]
    return float(np.dot(weights, known)) if len(known) == len(values) else None


def _checks(
    classes: Sequence[Float[np.ndarray, "_ r"]],
    models: Sequence[Population],
    best: Optimum,
    settings: Settings,
    streams: Sequence[np.random.Generator],
) -> list[HeldOut | None]:
    s = settings.noise_ratio(best.noise_std.value)
    return [
        held_out(points, model, s, repeats=HELD_OUT_SPLITS, rng=rng) if len(points) >= 4 else None
        for points, model, rng in zip(classes, models, streams, strict=False)
    ]


def _total_flips(flips: Sequence[FlipEffect], weights: Sequence[float]) -> FlipEffect:
    change = np.einsum("k,ke->e", weights, np.array([f.change for f in flips]))
    error = np.sqrt(np.einsum("k,ke->e", np.square(weights), np.square([f.standard_error for f in flips])))
    return FlipEffect(flips[0].eta, tuple(map(float, change)), tuple(map(float, error)))
