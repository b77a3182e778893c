"""Bad data at the right noise, on patches of photographs: blur, JPEG and motion blur, exact denoisers, two classifiers.

A training set is n1 clean and n2 degraded patches, less each patch's mean (brightness, which is hardly degraded, would
be nearly all of a distance). Test patches come from other regions of the photographs. The learners are those of
`sim.experiments.ambient_learners`.

*sigma_min.* (i) The ideal classifier of noised clean against noised degraded patches, both taken as centred Gaussians
that are diagonal in the cosine transform (mirrored blur and JPEG are such, per 8 x 8 block): `theory.classifier`.
(ii) A learned one: logistic regression on the squared cosine coefficients of noised patches, whose optimum has the form
of (i), fitted to the clean and half of the degraded training patches at each of several noise levels; the first level
at which its mean probability "clean" on the other degraded patches passes tau. (iii) The best of a scan.

Distances: debiased W2² to test patches (`sim.distances`), and for the linear learner W2² of the Gaussian that it
generates to the test patches' moments, without sampling noise in what is generated.
"""

import dataclasses
import math
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sim.distances import wasserstein2_squared
from sim.experiments.ambient_compare import compared, cross_fitted
from sim.experiments.ambient_learners import affine_maps, remembered, scan_gates
from sim.gating import GateTimes
from sim.intervals import mean_interval, paired_difference
from sim.patches import GREY, gaussian_blur, jpeg, motion_blur, photograph_patches
from sim.times import time_grid
from theory._checks import require
from theory.classifier import sigma_min_for_spectra
from theory.data import cut_patches, load_npz
from theory.paths import VarianceExploding

DEGRADATIONS = {
    "blur": lambda images, strength: gaussian_blur(images, strength),
    "jpeg": lambda images, strength: jpeg(images, int(strength)),
    "motion blur": lambda images, strength: motion_blur(images, strength),
}
"""By name; strength: standard deviation in pixels, quality from 1 to 95, length in pixels."""
LEARNERS = ("linear", "memorising")
BANDS = ("low", "middle", "high")
"""Thirds of the cosine frequencies by i + j; the constant is left out."""


class Pool(NamedTuple):
    """Patches for training and, from other regions, for comparison: (n, side, side), in [-1, 1]."""

    train: Float[np.ndarray, "n s s"]
    test: Float[np.ndarray, "m s s"]


def patch_pool(side: int, count: int, *, shrink: int = 1, data: Path | None = None) -> Pool:
    """Up to `count` patches each from disjoint regions of the bundled photographs, or from a user's images.

    `shrink`: of the photographs, see `sim.patches.photographs`.

    `data`: an .npz file with images (`theory.data.load_npz`): patches of the even ones are for training, of the odd
    ones for comparison; colour is averaged as `sim.patches.GREY` does, and values beyond [-1, 1] are scaled into it.
    Raises `DataError` for a bad file and `ValueError` where it holds no images or too small ones.
    """
    if data is None:
        sets = photograph_patches(side, count, count, shrink=shrink)
        return Pool(sets.train, sets.test)
    images, allowed = load_npz(data).images, f"two images or more of at least {side} x {side} pixels"
    grey = images @ GREY if images.shape[-1] == 3 else images.mean(axis=-1)
    least = min(grey.shape[1:3])
    require(len(grey) >= 2 and least >= side, "data", f"{len(grey)} images of {grey.shape[1:3]} pixels", allowed)
    grey = grey / max(1.0, float(np.abs(grey).max()))
    patches = [
        np.concatenate([cut_patches(image[:, :, None], side)[..., 0] for image in grey[half::2]]) for half in (0, 1)
    ]
    rng = np.random.default_rng(0)
    return Pool(*(rng.permutation(part)[:count] for part in patches))


def learned_sigma_min(
    clean: Float[np.ndarray, "n s s"],
    degraded: Float[np.ndarray, "m s s"],
    levels: Float[np.ndarray, " k"],
    *,
    tau: float = 0.45,
    seed: int = 0,
) -> float:
    """The first of the rising noise `levels` at which a learned classifier's mean probability "clean" on held-out
    degraded patches passes `tau`; inf if none. See the module's top for the classifier.

    Deterministic in `seed`. Raises `ValueError` for fewer than 4 patches of a kind.
    """
    require(min(len(clean), len(degraded)) >= 4, "patches", (len(clean), len(degraded)), "at least 4 of each kind")
    rng = np.random.default_rng(seed)
    for level in levels:
        if classifier_probability(clean, degraded, float(level), rng) >= tau:
            return float(level)
    return math.inf


def classifier_probability(
    clean: Float[np.ndarray, "n s s"], degraded: Float[np.ndarray, "m s s"], level: float, rng: np.random.Generator
) -> float:
    """Mean probability "clean" on the second half of the degraded patches, of a classifier fitted to all others."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    half = len(degraded) // 2
    sets = [clean, degraded[:half], degraded[half:]]
    noised = [_squares(part + level * rng.standard_normal(part.shape)) for part in sets]
    features, labels = np.concatenate(noised[:2]), np.repeat([1, 0], [len(clean), half])
    model = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, class_weight="balanced", max_iter=1000))
    return float(model.fit(features, labels).predict_proba(noised[2])[:, 1].mean())


def cosine_transform(images: Float[np.ndarray, "n s s"]) -> Float[np.ndarray, "n s s"]:
    """The orthonormal 2-D cosine transform (DCT-II) of each image."""
    from scipy.fft import dctn

    return dctn(images, axes=(1, 2), norm="ortho")


def _squares(images: np.ndarray) -> np.ndarray:
    return cosine_transform(images).reshape(len(images), -1) ** 2


def ideal_sigma_min(
    clean: Float[np.ndarray, "n s s"], degraded: Float[np.ndarray, "m s s"], *, tau: float = 0.45
) -> float:
    """sigma_min of the ideal classifier for Gaussians with the two sets' variances in the cosine transform."""
    return sigma_min_for_spectra(cosine_transform(clean).var(axis=0), cosine_transform(degraded).var(axis=0), tau)


def debiased_value(
    x: Float[np.ndarray, "n d"], x2: Float[np.ndarray, "n d"], y: Float[np.ndarray, "m d"], own: float
) -> float:
    """W2²(X, Y) - ½ W2²(X, X') - ½ own, own = W2²(Y, Y'): one repeat's, 0 on average where the laws are equal."""
    return wasserstein2_squared(x, y) - (wasserstein2_squared(x, x2) + own) / 2


def bands(variances: Float[np.ndarray, "... s s"]) -> Float[np.ndarray, "... 3"]:
    """Sums of cosine coefficients' variances over the three `BANDS`."""
    side = variances.shape[-1]
    order = np.add.outer(np.arange(side), np.arange(side))
    third = np.minimum(order * 3 // (2 * side - 1), 2)
    picks = [(third == k) & (order > 0) for k in range(3)]
    return np.stack([np.sum(np.where(pick, variances, 0.0), axis=(-2, -1)) for pick in picks], axis=-1)


# --- what a learner generates under each gate -------------------------------------------------------------------------


def patch_path() -> VarianceExploding:
    """The path of the experiments on patches in [-1, 1]: σ from 0.005 to 50."""
    return VarianceExploding(sigma_min=0.005, sigma_max=50.0)


@dataclasses.dataclass(frozen=True)
class PatchTask:
    """One degradation's data for all repeats: training sets (r, n, s, s) with the clean ones first, two test sets each,
    and all test patches."""

    train: np.ndarray
    n_clean: int
    test: tuple[np.ndarray, np.ndarray]
    reference: np.ndarray
    originals: np.ndarray
    degraded: np.ndarray


def patch_task(
    pool: Pool, degradation: str, strength: float, n_clean: int, n_degraded: int, n_test: int, repeats: int, seed: int
) -> PatchTask:
    """Draw every repeat's training set and test sets from the pool, by `seed`.

    Raises `ValueError` where the pool is too small (the message says how many patches there are) or for another
    degradation.
    """
    require(degradation in DEGRADATIONS, "degradation", repr(degradation), "one of " + ", ".join(DEGRADATIONS))
    n = n_clean + n_degraded
    allowed = f"at most the {len(pool.train)} patches there are for training"
    require(n <= len(pool.train), "n_clean + n_degraded", n, allowed)
    require(2 * n_test <= len(pool.test), "n_test", n_test, f"at most half of the {len(pool.test)} test patches")
    bad, good, reference = map(_without_mean, (DEGRADATIONS[degradation](pool.train, strength), *pool))
    rng = np.random.default_rng(seed)
    rows: list[np.ndarray] = []
    tests: list[np.ndarray] = []
    for _ in range(repeats):
        chosen, other = rng.permutation(len(pool.train))[:n], rng.permutation(len(pool.test))[: 2 * n_test]
        rows.append(np.concatenate([good[chosen[:n_clean]], bad[chosen[n_clean:]]]))
        tests.append(reference[other])
    both = np.stack(tests)
    return PatchTask(np.stack(rows), n_clean, (both[:, :n_test], both[:, n_test:]), reference, good, bad)


def _without_mean(images: np.ndarray) -> np.ndarray:
    return images - images.mean(axis=(1, 2), keepdims=True)


def _generate(
    learner: str, task: PatchTask, repeat: int, gates: GateTimes, times: Array, n: int, key: Key[Array, ""]
) -> tuple[np.ndarray, np.ndarray, list[float]]:
    """(2 n samples per gate, their cosine coefficients' variances, W2² of the linear learner's law to the test
    moments)."""
    path, side = patch_path(), task.train.shape[-1]
    points = jnp.asarray(task.train[repeat].reshape(len(task.train[repeat]), -1))
    groups = (jnp.arange(len(points)) >= task.n_clean).astype(int)
    z, noise_std = jax.random.normal(key, (2 * n, side * side)), path.noise(times[0])
    if learner == "memorising":
        starts = points.mean(axis=0) + noise_std * z
        out = np.asarray(remembered(path, points, groups, gates, times, starts))
        images = out.reshape(*out.shape[:2], side, side)
        return out, np.stack([cosine_transform(part).var(axis=0) for part in images]), []
    b, M = (np.asarray(a) for a in affine_maps(path, points, groups, gates, times, noise_std))
    out = b[:, None] + np.einsum("mj,sij->smi", np.asarray(z), M)
    columns = np.stack([cosine_transform(m.T.reshape(-1, side, side)) for m in M])
    return out, np.sum(columns**2, axis=1), gaussian_distances(b, M, task.reference)


def gaussian_distances(
    b: Float[np.ndarray, "s d"], M: Float[np.ndarray, "s d d"], images: Float[np.ndarray, "n h w"]
) -> list[float]:
    """W2² between each N(b, M Mᵀ) and the Gaussian of the images' moments."""
    flat = images.reshape(len(images), -1)
    cov = np.cov(flat.T)
    cross = np.linalg.svd(_square_root(cov) @ M, compute_uv=False).sum(axis=1)
    means = np.sum((b - flat.mean(axis=0)) ** 2, axis=1)
    return list(means + np.sum(M**2, axis=(1, 2)) + np.trace(cov) - 2 * cross)


def _square_root(cov: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(cov)
    return (vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T


def patch_cell(
    learner: str,
    task: PatchTask,
    sigma_mins: Float[np.ndarray, " k"],
    classifier_levels: Float[np.ndarray, " c"],
    n: int,
    steps: int,
    key: Key[Array, ""],
    *,
    tau: float = 0.45,
) -> dict:
    """Everything, gated at each sigma_min of the scan and at both classifiers', and clean only: distances with
    intervals over repeats, differences paired.
    """
    path = patch_path()
    times = time_grid(path, steps, "edm")
    ideal = ideal_sigma_min(task.originals, task.degraded, tau=tau)
    distances, exact, variances, learned = [], [], [], []
    for repeat, train in enumerate(task.train):
        learned.append(
            learned_sigma_min(train[: task.n_clean], train[task.n_clean :], classifier_levels, tau=tau, seed=repeat)
        )
        levels = np.array([0.0, *sigma_mins, ideal, learned[-1], math.inf])
        gates = scan_gates(path, levels)
        made = _generate(learner, task, repeat, gates, times, n, jax.random.fold_in(key, repeat))
        distances.append(_against_test(made[0], [part[repeat] for part in task.test], n))
        variances.append(bands(made[1]))
        exact.append(made[2])
    truth = bands(cosine_transform(task.reference).var(axis=0))
    return {
        "sigma_min": sigma_mins,
        "ideal_sigma_min": ideal,
        "learned_sigma_min": _spread_of(learned),
        "distance": _distances(np.array(distances)),
        "exact": _distances(np.array(exact)) if learner == "linear" else None,
        "bands": mean_interval(np.array(variances) / truth),
    }


def _against_test(samples: np.ndarray, test: list[np.ndarray], n: int) -> list[float]:
    """The debiased distance of each gate's samples (s, 2n, d)."""
    y, y2 = (part.reshape(len(part), -1) for part in test)
    own = wasserstein2_squared(y, y2)
    return [debiased_value(part[:n], part[n:], y, own) for part in samples]


def _distances(values: Float[np.ndarray, "r s"]) -> dict:
    """Intervals of distances whose columns are everything, the scan, the ideal and the learned classifier's choice, and
    clean only.
    """
    everything, scan, clean = values[:, 0], values[:, 1:-3], values[:, -1]
    chosen = {"ideal": values[:, -3], "learned": values[:, -2]}
    return {
        "everything": mean_interval(everything),
        "gated": mean_interval(scan),
        "clean": mean_interval(clean),
        "gain_of_everything": paired_difference(clean, everything),
        "best": cross_fitted(scan, clean, everything),
        **{name: compared(value, clean, everything) for name, value in chosen.items()},
    }


def _spread_of(values: list[float]) -> dict:
    """Median and extremes."""
    return {"value": float(np.median(values)), "low": min(values), "high": max(values)}
