"""Plug-in estimates on real data: what a little corruption does to W2^2 when a class is N(mu, Sigma) with any Sigma.

A class with law N(mu, Sigma) (principal coordinates, centred by the global mean) gives a training set with mean m and
biased covariance S. The optimal linear denoiser without guidance generates N(m, S) from clean conditions and N((1-s)
m, S + s m m') from perturbed ones, s = noise_std^2/(|c|^2 + noise_std^2). With A = Sigma^(1/2) S Sigma^(1/2) and u =
Sigma^(1/2) m, the gain W2^2(clean) - W2^2(corrupted) of this training set is

    g(s) = s (1-s) ||m||^2 - 2 s m'mu + 2 I(s),
    I(s) = tr (A + s u u')^(1/2) - tr A^(1/2) = (1/2 pi) int_0^inf t^(-1/2) log(1 + s u'(A+t)^-1 u) dt.

The plug-in estimate takes the class's own moments for (mu, Sigma) and draws training sets of n_k Gaussian points:
theta(s) = E g(s). Training sets come in pairs, m and 2 mu - m with the same S, which cancels the largest part of the
noise. It is biased, since the sample's mean is longer and its spectrum wider than the population's. The bootstrap
says by how much: with resampled data in the role of the data, theta becomes theta_b; the bias is about mean(theta_b)
- theta, the corrected estimate 2 theta - mean(theta_b), and the basic interval [2 theta - q_high, 2 theta - q_low]
from quantiles of theta_b. The averages that make up theta_b are noisy, so the interval is a little too wide. With
fewer points than dimensions the sample says nothing about directions outside its span, and the estimate is no longer
to be trusted.

(Training sets drawn by resampling the points themselves would be simpler, but have rank 0.63 n_k, which exaggerates
the gain once n_k is below about twice the dimension.) `held_out` assumes none of this: it trains on one half and
measures on the other.

NumPy in float64, one class at a time; not jittable. All randomness comes from the generator that is passed in.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from theory._checks import require
from theory.roots import symmetric_power, trace_root_gains
from theory.whitening import moments

Moments = tuple[Float[np.ndarray, " r"], Float[np.ndarray, "r r"]]


@dataclass(frozen=True, eq=False)
class Population:
    """A Gaussian N(mean, root root) with symmetric `root`, in r coordinates."""

    mean: Float[np.ndarray, " r"]
    root: Float[np.ndarray, "r r"]

    @classmethod
    def isotropic(cls, dim: int, mean_square: float) -> "Population":
        """N(mu, I) in `dim` dimensions, ||mu||^2 = `mean_square`."""
        return cls(math.sqrt(mean_square) * np.eye(dim)[0], np.eye(dim))

    @classmethod
    def of(cls, points: Float[np.ndarray, "n r"]) -> "Population":
        """The Gaussian with the moments of the points (biased covariance)."""
        mean, cov = moments(points)
        return cls(mean, symmetric_power(cov, 0.5))

    def gain(self, training: Moments, s: Float[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
        """g(s) of one training set: W2^2(clean) - W2^2(corrupted) at every s in [0, 1]."""
        return self._gains(training[0][None], training[1], s)[0]

    def _gains(
        self, means: Float[np.ndarray, "v r"], cov: Float[np.ndarray, "r r"], s: Float[np.ndarray, " g"]
    ) -> Float[np.ndarray, "v g"]:
        squares, overlaps = np.sum(means**2, axis=1)[:, None], (means @ self.mean)[:, None]
        increment = trace_root_gains(self.root @ cov @ self.root, means @ self.root, s)
        return s * (1.0 - s) * squares - 2.0 * s * overlaps + 2.0 * increment

    def training_set(self, n: int, rng: np.random.Generator) -> Moments:
        """Mean and biased covariance of n points of this Gaussian, drawn at random."""
        mean, cov = moments(rng.standard_normal((n, len(self.mean))))
        return self.mean + self.root @ mean, self.root @ cov @ self.root

    def expected_gain(
        self, n: int, s: Float[np.ndarray, " g"], *, repeats: int, rng: np.random.Generator
    ) -> Float[np.ndarray, " g"]:
        """E g(s) over training sets of n points, from `repeats` mirrored pairs."""
        return np.mean([self._pair(self.training_set(n, rng), s) for _ in range(repeats)], axis=0)

    def _pair(self, training: Moments, s: Float[np.ndarray, " g"]) -> Float[np.ndarray, " g"]:
        mean, cov = training
        return self._gains(np.stack([mean, 2.0 * self.mean - mean]), cov, s).mean(axis=0)

    def squared_distance(self, other: Moments) -> float:
        """W2^2 to N(*other), by the trace formula: absolute error about 1e-8 of the traces, enough for statistics."""
        mean, cov = other
        values = np.linalg.eigvalsh(self.root @ cov @ self.root)
        overlap = float(np.sum(np.sqrt(np.maximum(values, 0.0))))
        traces = float(np.sum(self.root**2) + np.trace(cov)) - 2.0 * overlap
        return float(np.sum((mean - self.mean) ** 2)) + max(traces, 0.0)


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Estimated gains over a grid of s.

    **Fields:** `plain` (g,) is theta; `resampled` (b, g) holds theta_b, one for each resample of the data; `clean` is
    the plug-in estimate of W2^2 without corruption.
    """

    plain: Float[np.ndarray, " g"]
    resampled: Float[np.ndarray, "b g"]
    clean: float

    @property
    def corrected(self) -> Float[np.ndarray, " g"]:
        """2 theta - mean(theta_b)."""
        return 2.0 * self.plain - self.resampled.mean(axis=0)

    def interval(self, level: float) -> tuple[Float[np.ndarray, " g"], Float[np.ndarray, " g"]]:
        """Basic bootstrap interval of the gain at every s, pointwise."""
        low, high = np.quantile(self.resampled, [(1 - level) / 2, (1 + level) / 2], axis=0)
        return 2.0 * self.plain - high, 2.0 * self.plain - low


def bootstrap_gain(
    points: Float[np.ndarray, "n r"],
    s: Float[np.ndarray, " g"],
    *,
    resamples: int,
    training_sets: int,
    rng: np.random.Generator,
) -> Bootstrap:
    """Bootstrap of the expected gain for one class from its points.

    Each theta_b averages `training_sets` mirrored pairs of training sets, theta as many as all theta_b together. Raises
    `ValueError` unless there are at least 2 resamples and 1 training set.
    """
    require(resamples >= 2, "resamples", resamples, "at least 2")
    require(training_sets >= 1, "training_sets", training_sets, "at least 1")
    n, own = len(points), Population.of(points)
    plain = own.expected_gain(n, s, repeats=resamples * training_sets, rng=rng)
    clean = [own.squared_distance(own.training_set(n, rng)) for _ in range(resamples)]
    resampled = [
        Population.of(points[rng.integers(n, size=n)]).expected_gain(n, s, repeats=training_sets, rng=rng)
        for _ in range(resamples)
    ]
    return Bootstrap(plain, np.stack(resampled), float(np.mean(clean)))


def pooled(bootstraps: Sequence[Bootstrap], weights: Sequence[float]) -> Bootstrap:
    """The weighted sum over classes, whose resamples are independent."""
    return Bootstrap(
        np.sum([w * b.plain for w, b in zip(weights, bootstraps, strict=True)], axis=0),
        np.sum([w * b.resampled for w, b in zip(weights, bootstraps, strict=True)], axis=0),
        float(np.sum([w * b.clean for w, b in zip(weights, bootstraps, strict=True)])),
    )


@dataclass(frozen=True)
class HeldOut:
    """One half of a class trains, the other half judges; beside it the same statistic for data that obeys a model.

    All in the coordinates of the points, averaged over random halves (`_observed`) or over draws from the model
    (`_model`):

    - `gain`: W2^2(half B, clean from half A) - W2^2(half B, corrupted from half A), at the given s.
    - `clean`: W2^2(half B, clean from half A). `mean`: ||m_A - m_B||^2, the mean's part of it.
    - `points`: size of half A. `s`: the corruption.
    """

    gain_observed: float
    gain_model: float
    clean_observed: float
    clean_model: float
    mean_observed: float
    mean_model: float
    points: int
    s: float


def held_out(
    points: Float[np.ndarray, "n r"], model: Population, s: float, *, repeats: int, rng: np.random.Generator
) -> HeldOut:
    """Compare one class with a Gaussian model of it; see `HeldOut`. Needs n >= 4.

    Halves overlap from one split to the next, so averages over splits are noisier than their number suggests. A model
    fitted to these very points is bound to agree more than it should. Raises `ValueError` for fewer.
    """
    n = len(points)
    require(n >= 4, "points", f"{n} points", "at least 4, two for each half")
    halves = [np.split(points[rng.permutation(n)], [n // 2]) for _ in range(repeats)]
    observed = [_judge(moments(a), moments(b), s) for a, b in halves]
    drawn = [_judge(model.training_set(n // 2, rng), model.training_set(n - n // 2, rng), s) for _ in halves]
    seen, expected = np.mean(observed, axis=0).tolist(), np.mean(drawn, axis=0).tolist()
    return HeldOut(seen[0], expected[0], seen[1], expected[1], seen[2], expected[2], points=n // 2, s=s)


def _judge(training: Moments, judge: Moments, s: float) -> tuple[float, float, float]:
    population = Population(judge[0], symmetric_power(judge[1], 0.5))
    gain = float(population.gain(training, np.array([s]))[0])
    return gain, population.squared_distance(training), float(np.sum((training[0] - judge[0]) ** 2))


@dataclass(frozen=True)
class FlipEffect:
    """What flipping labels does to one class: `change` in E W2^2 at each ratio `eta`, and its standard error."""

    eta: tuple[float, ...]
    change: tuple[float, ...]
    standard_error: tuple[float, ...]


def flip_effect(
    classes: Sequence[Float[np.ndarray, "_ r"]],
    etas: Sequence[float],
    *,
    repeats: int,
    rng: np.random.Generator,
) -> tuple[FlipEffect, ...]:
    """Change of E W2^2(class, generated) for each class when labels flip at ratio eta, without guidance.

    A flipped label becomes another class, drawn by class size; flips are drawn afresh at every use, so the denoiser
    of class k sees its own points with weight 1 - eta and those of class j with weight eta n_k/(n - n_j), and
    generates the Gaussian with these mixed moments. Each class is its own population; training sets are `repeats`
    Gaussian ones, the same with and without flips. Raises `ValueError` for fewer than two classes, eta outside [0,
    1], or fewer than 2 repeats.
    """
    require(len(classes) >= 2, "classes", len(classes), "at least 2 to flip between")
    require(all(0.0 <= eta <= 1.0 for eta in etas), "eta", tuple(etas), "in [0, 1]")
    require(repeats >= 2, "repeats", repeats, "at least 2")
    sizes = np.array([len(points) for points in classes])
    populations = [Population.of(points) for points in classes]
    changes = np.stack([_flip_changes(populations, sizes, etas, rng) for _ in range(repeats)])
    errors = changes.std(axis=0, ddof=1) / np.sqrt(repeats)
    return tuple(
        FlipEffect(tuple(etas), tuple(map(float, mean)), tuple(map(float, error)))
        for mean, error in zip(changes.mean(axis=0), errors, strict=True)
    )


def _flip_changes(
    populations: Sequence[Population],
    sizes: np.ndarray,
    etas: Sequence[float],
    rng: np.random.Generator,
) -> Float[np.ndarray, "k e"]:
    training = [p.training_set(int(n), rng) for p, n in zip(populations, sizes, strict=True)]
    clean = [p.squared_distance(t) for p, t in zip(populations, training, strict=True)]
    flipped = [
        [p.squared_distance(mixed_moments(training, flip_weights(sizes, k, eta))) for eta in etas]
        for k, p in enumerate(populations)
    ]
    return np.array(flipped) - np.array(clean)[:, None]


def flip_weights(sizes: np.ndarray, k: int, eta: float) -> Float[np.ndarray, " k"]:
    """Share of each true class among the points labelled k, when labels flip at ratio eta to others by class size."""
    weights = eta * sizes * sizes[k] / (sizes.sum() - sizes)
    weights[k] = (1.0 - eta) * sizes[k]
    return weights / weights.sum()


def mixed_moments(training: Sequence[Moments], weights: Float[np.ndarray, " k"]) -> Moments:
    """Mean and covariance of a mixture from those of its parts."""
    mean = np.einsum("k,kr->r", weights, np.stack([m for m, _ in training]))
    shifts = np.stack([m for m, _ in training]) - mean
    covs = np.einsum("k,krs->rs", weights, np.stack([c for _, c in training]))
    return mean, covs + np.einsum("k,kr,ks->rs", weights, shifts, shifts)
