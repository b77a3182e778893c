"""Bad data at the right noise, on patches of photographs: blur, JPEG and motion blur, exact denoisers, two classifiers.

A training set is n1 clean and n2 degraded patches, less each patch's mean (brightness, which is hardly degraded, would
be nearly all of a distance). Test patches come from other regions of the photographs, or from other images. Every
repeat draws its sets anew, but from one pool of which a training set is most: intervals are over re-draws from that
pool, not over photographs. The learners are those of `sim.experiments.ambient_learners`.

*sigma_min.* (i) The ideal classifier of noised clean against noised degraded patches, both taken as centred Gaussians
that are diagonal in the cosine transform (mirrored blur and JPEG are such, per 8 x 8 block): `theory.classifier`.
(ii) A learned one: logistic regression on the squared cosine coefficients of noised patches, whose optimum has the form
of (i), fitted to the clean and half of the degraded training patches at each of several noise levels; the first level
at which its mean probability "clean" on the other degraded patches passes tau. (iii) The best of a scan.

Distances to the test patches: of the linear learner W2² of the Gaussian that it generates to that of their moments,
without sampling noise in what is generated; of the memorising one debiased W2² (`sim.patches`). A denoiser of your own,
trained under a gate on the same path, is judged as the latter is: `generated_distance`.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sim.experiments.ambient_compare import compared, cross_fitted
from sim.experiments.ambient_learners import flow, generated_gaussians, remembered, scan_gates
from sim.intervals import mean_interval
from sim.patches import PatchSets, debiased_distance, gaussian_blur, jpeg, motion_blur, without_mean
from sim.sampler_base import Denoiser
from sim.times import time_grid
from theory._checks import require
from theory.classifier import sigma_min_for_spectra
from theory.gates import GateTimes
from theory.gaussian import Gaussian, wasserstein2_squared
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


def cosine_transform(images: Float[np.ndarray, "*n s s"]) -> Float[np.ndarray, "*n s s"]:
    """The orthonormal 2-D cosine transform (DCT-II) of each image."""
    from scipy.fft import dctn

    return dctn(images, axes=(-2, -1), norm="ortho")


def _squares(images: np.ndarray) -> np.ndarray:
    return cosine_transform(images).reshape(len(images), -1) ** 2


def ideal_sigma_min(
    clean: Float[np.ndarray, "n s s"], degraded: Float[np.ndarray, "m s s"], *, tau: float = 0.45
) -> float:
    """sigma_min of the ideal classifier for Gaussians with the two sets' variances in the cosine transform."""
    return sigma_min_for_spectra(cosine_transform(clean).var(axis=0), cosine_transform(degraded).var(axis=0), tau)


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
    """One degradation's data for all repeats: training sets (r, n, s, s) with the clean ones first, test sets
    (r, 2m, s, s), and all patches for comparison, for training, and degraded.
    """

    train: np.ndarray
    n_clean: int
    test: np.ndarray
    reference: np.ndarray
    originals: np.ndarray
    degraded: np.ndarray


def patch_task(
    pool: PatchSets, degradation: str, strength: float, n_clean: int, n_degraded: int, n_test: int, repeats: int,
    seed: int,
) -> PatchTask:  # fmt: skip
    """Draw every repeat's training set, and twice `n_test` test patches, from the pool, by `seed`.

    Raises `ValueError` where the pool is too small (the message says how many patches there are) or for another
    degradation.
    """
    require(degradation in DEGRADATIONS, "degradation", repr(degradation), "one of " + ", ".join(DEGRADATIONS))
    n = n_clean + n_degraded
    allowed = f"at most the {len(pool.train)} patches there are for training"
    require(n <= len(pool.train), "n_clean + n_degraded", n, allowed)
    require(2 * n_test <= len(pool.test), "n_test", n_test, f"at most half of the {len(pool.test)} test patches")
    raw = DEGRADATIONS[degradation](pool.train, strength), pool.train, pool.test
    bad, good, reference = map(without_mean, raw)
    rng = np.random.default_rng(seed)
    rows, tests = [], []
    for _ in range(repeats):
        chosen, other = rng.permutation(len(good))[:n], rng.permutation(len(reference))[: 2 * n_test]
        rows.append(np.concatenate([good[chosen[:n_clean]], bad[chosen[n_clean:]]]))
        tests.append(reference[other])
    return PatchTask(np.stack(rows), n_clean, np.stack(tests), reference, good, bad)


def _linear(task: PatchTask, repeat: int, gates: GateTimes, times: Array) -> tuple[list[float], np.ndarray]:
    """W2² between what the linear learner generates under each gate and the Gaussian of the test patches' moments, and
    the variances of its cosine coefficients (s, side, side)."""
    path, side = patch_path(), task.train.shape[-1]
    points, groups = _points(task, repeat)
    made = generated_gaussians(path, points, groups, gates, times, path.noise(times[0]))
    flat = task.reference.reshape(len(task.reference), -1)
    truth = Gaussian(jnp.asarray(flat.mean(axis=0)), jnp.asarray(np.cov(flat.T)))
    basis = cosine_transform(np.eye(side**2).reshape(-1, side, side)).reshape(side**2, -1)
    variances = np.einsum("ik,sij,jk->sk", basis, np.asarray(made.cov), basis)
    distances = np.asarray(jax.vmap(wasserstein2_squared, (0, None))(made, truth))
    return distances.tolist(), variances.reshape(-1, side, side)


def _memorising(
    task: PatchTask, repeat: int, gates: GateTimes, times: Array, key: Key[Array, ""]
) -> tuple[list[float], np.ndarray]:
    """Debiased W2² of as many samples of the memorising learner as there are test patches, and the variances of their
    cosine coefficients, under each gate."""
    path, test = patch_path(), task.test[repeat]
    points, groups = _points(task, repeat)
    made = np.asarray(remembered(path, points, groups, gates, times, _starts(points.mean(axis=0), times, test, key)))
    images = made.reshape(len(made), *test.shape)
    return [debiased_distance(part, test) for part in made], cosine_transform(images).var(axis=1)


def _points(task: PatchTask, repeat: int) -> tuple[Array, Array]:
    """A training set as points (n, d), and 0 for the clean, 1 for the degraded ones."""
    points = jnp.asarray(task.train[repeat].reshape(len(task.train[repeat]), -1))
    return points, (jnp.arange(len(points)) >= task.n_clean).astype(int)


def _starts(mean: Array | float, times: Array, test: np.ndarray, key: Key[Array, ""]) -> Array:
    """One start (d,) for each test patch."""
    return mean + patch_path().noise(times[0]) * jax.random.normal(key, (len(test), test[0].size))


def generated_distance(
    denoiser: Denoiser, test: Float[np.ndarray, "n s s"], key: Key[Array, ""], *, steps: int = 24
) -> float:
    """Debiased W2² to `test` of as many samples of any denoiser: what the memorising learner is judged by, one repeat.

    **Arguments:**

    - `denoiser`: `denoiser(xt, t, cond)` for a flattened patch xt (s²,) on `patch_path()`, such as a network trained by
      `sim.loss` on a task's training set (`patch_task(...).train`) under the gates that it is to be compared for.
    - `test`: n >= 4 fresh patches less their means (`patch_task(...).test`). `steps`: of EDM's Heun sampler.

    Use one key for all gates, and repeats with other training sets, test sets and keys for an interval. Raises
    `ValueError` as `sim.sampling.sample` does.
    """
    times = time_grid(patch_path(), steps, "edm")
    return debiased_distance(flow(denoiser, patch_path(), times, _starts(0.0, times, test, key)), test)


def patch_cell(
    learner: str,
    task: PatchTask,
    sigma_mins: Float[np.ndarray, " k"],
    classifier_levels: Float[np.ndarray, " c"],
    steps: int,
    key: Key[Array, ""],
    *,
    tau: float = 0.45,
) -> dict[str, Any]:
    """Everything, gated at each sigma_min of the scan and at both classifiers', and clean only: distances with
    intervals over repeats, differences paired. `learner`: one of `LEARNERS`.
    """
    path = patch_path()
    times = time_grid(path, steps, "edm")
    ideal = ideal_sigma_min(task.originals, task.degraded, tau=tau)
    distances, variances, learned = [], [], []
    for repeat, train in enumerate(task.train):
        learned.append(
            learned_sigma_min(train[: task.n_clean], train[task.n_clean :], classifier_levels, tau=tau, seed=repeat)
        )
        gates = scan_gates(path, np.array([0.0, *sigma_mins, ideal, learned[-1], math.inf]))
        draws = jax.random.fold_in(key, repeat)
        linear = learner == "linear"
        made = _linear(task, repeat, gates, times) if linear else _memorising(task, repeat, gates, times, draws)
        distances.append(made[0])
        variances.append(bands(made[1]))
    truth = bands(cosine_transform(task.reference).var(axis=0))
    return {
        "n_clean": task.n_clean,
        "sigma_min": sigma_mins,
        "ideal_sigma_min": ideal,
        "learned_sigma_min": _spread_of(learned),
        **_distances(np.array(distances)),
        "bands": mean_interval(np.array(variances) / truth),
    }


def _distances(values: Float[np.ndarray, "r s"]) -> dict[str, Any]:
    """Intervals of distances whose columns are everything, the scan, the ideal and the learned classifier's choice, and
    clean only.
    """
    everything, scan, clean = values[:, 0], values[:, 1:-3], values[:, -1]
    chosen = {"ideal": values[:, -3], "learned": values[:, -2]}
    return {
        "everything": mean_interval(everything),
        "gated": mean_interval(scan),
        "clean": mean_interval(clean),
        "best": cross_fitted(scan, clean, everything),
        **{name: compared(value, clean, everything) for name, value in chosen.items()},
    }


def _spread_of(values: list[float]) -> dict[str, float]:
    """Median and extremes."""
    return {"value": float(np.median(values)), "low": min(values), "high": max(values)}
