"""Discretisation error off the Gaussian model: the same start through few steps and through very many.

A sampler with N steps maps a start z to T_N(z); the flow of the path maps it to T(z). Both images of one z are a
coupling of what is generated with what should be, so that

    displacement = E |T_N(z) - T(z)|² >= W2²(generated, ideal),

with equality for Gaussian data (`theory.discretisation`), and it is a plain mean: no finite-sample bias, Student's
interval. T is stood in for by DPM-Solver++(2M) with `fine` steps, even in σ^(1/7); the displacement of half as many
against it says how good a stand-in it is. Starts follow the exact marginal at the first time, so no prior is involved.

Two models of image patches whose denoisers are exact, so that no training error is involved either:

    mixture     Gaussian mixture fitted to the patches (full covariances): smooth, not Gaussian, its law known
    empirical   the training patches themselves (`EmpiricalDenoiser`): the optimum that memorises

Paths that need a spectrum get that of the training patches.
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path as File
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key

from sim.denoisers import MixtureDenoiser
from sim.distances import wasserstein2_squared
from sim.empirical import EmpiricalDenoiser
from sim.experiments.paths_frozen import frozen, sample_frozen, start_frozen
from sim.experiments.paths_gaussian import RANDOM
from sim.intervals import Interval, mean_interval
from sim.patches import photograph_patches
from sim.sampler_base import Denoiser, Sampler
from sim.samplers import DPMSolverPP2M
from sim.sampling import sample, start_from
from sim.times import time_grid
from theory._checks import require
from theory.data import load_npz
from theory.mixture import GaussianMixture
from theory.path_base import Path
from theory.spectra import integer_frequencies, power_spectrum

MODELS = ("mixture", "empirical")
"""Names of the models of patches."""
FLOOR = 1e-3
"""Variance added to every pixel of a fitted component, in the square of the pixels' unit (they lie in [-1, 1])."""
Images = Float[Array, "n h w"]


class DiscretisationError(NamedTuple):
    """What few steps of a deterministic sampler get wrong, on the same starts as very many.

    `displacement`: E |few - fine|² with its 95 % interval over starts, in the data's unit squared. `reference`: the
    same of half as many fine steps, an upper bound of what the reference is off. `few`, `fine`: the samples.
    """

    displacement: Interval
    reference: Interval
    few: Float[Array, "n ..."]
    fine: Float[Array, "n ..."]


def discretisation_error(
    make_denoiser: Callable[[Path], Denoiser],
    path: Path,
    sampler: Sampler,
    steps: int,
    data: Float[Array, "n ..."],
    key: Key[Array, ""],
    *,
    grid: str = "uniform",
    fine: int = 200,
    cond: Any = None,
) -> DiscretisationError:
    """Mean squared displacement of a sampler with `steps` steps from the flow, for any denoiser.

    **Arguments:**

    - `make_denoiser`: path -> `denoiser(xt, t, cond)`, e.g. a network trained on that path.
    - `sampler`: a deterministic one. `steps`, `grid`: its time grid, see `sim.times.time_grid`.
    - `data`: n >= 2 draws of the data (n, *shape), for starts from the exact marginal at `path.t_range[1]`.
    - `fine`: steps of the reference, an even number >= 4. `cond`: conditions with leading axis n, or None.

    Raises `ValueError` for a random sampler (its noise has no counterpart in the reference), and as `sample` does.
    """
    require(fine >= 4 and fine % 2 == 0, "fine", fine, "an even number >= 4")
    require(not isinstance(sampler, RANDOM), "sampler", type(sampler).__name__, "deterministic")
    denoiser, key_start, key_run = make_denoiser(path), *jax.random.split(key)
    start = start_from(path, data, path.t_range[1], key_start)
    few = sample(denoiser, path, sampler, late_grid(path, steps, grid), start, key_run, cond)
    half, whole = (flow(denoiser, path, start, n, cond) for n in (fine // 2, fine))
    return DiscretisationError(displacement(few, whole), displacement(half, whole), few, whole)


def late_grid(path: Path, steps: int, grid: str, variance: float = 1.0) -> Float[Array, " k"]:
    """The time grid of this name from `path.t_range[1]`, where every path has some signal."""
    return time_grid(path, steps, grid, first=path.t_range[1], variance=variance)


def flow(
    denoiser: Denoiser, path: Path, start: Float[Array, "n ..."], steps: int, cond: Any = None
) -> Float[Array, "n ..."]:
    """The probability flow from `path.t_range[1]` by very many steps of DPM-Solver++(2M), even in σ^(1/7)."""
    times = time_grid(path, steps, "edm")
    return sample(denoiser, path, DPMSolverPP2M(), times, start, jax.random.key(0), cond)


def displacement(few: Float[Array, "n ..."], fine: Float[Array, "n ..."]) -> Interval:
    """E |few - fine|² over paired samples."""
    return mean_interval(np.asarray(jnp.sum((few - fine).reshape(len(few), -1) ** 2, axis=1)))


class PatchModel(NamedTuple):
    """A law of patches whose denoiser is exact on every path.

    `make_denoiser(path)`; `draw(key, n)`: draws of the law; `fresh(key, n)`: of what it stands for (its own law, or
    patches from other regions of the photographs); `spectrum`: (h, w), of the training patches; `variance`: E |x - m|².
    """

    make_denoiser: Callable[[Path], Denoiser]
    draw: Callable[[Key[Array, ""], int], Images]
    fresh: Callable[[Key[Array, ""], int], Images]
    spectrum: Float[Array, "h w"]
    variance: float


def patch_model(kind: str, train: Images, test: Images, *, components: int = 5, seed: int = 0) -> PatchModel:
    """The model `kind`, one of `MODELS`, made from the patches `train` (n, h, w), float64, of mean about 0.

    `test`: patches to compare the empirical model with. `components`, `seed`: of the mixture. Raises `ValueError` for
    an unknown kind.
    """
    require(kind in MODELS, "kind", repr(kind), "one of " + ", ".join(MODELS))
    spectrum = jnp.asarray(power_spectrum(np.asarray(train)))
    variance = float(jnp.sum(jnp.var(train, axis=0)))
    if kind == "empirical":
        make = lambda path: EmpiricalDenoiser(path, train, refine=0)  # noqa: E731
        return PatchModel(make, lambda k, n: _choice(k, train, n), lambda k, n: _choice(k, test, n), spectrum, variance)
    mixture = fitted_mixture(train, components, seed)
    draw = lambda key, n: mixture.sample(key, (n,)).reshape(n, *train.shape[1:])  # noqa: E731
    return PatchModel(
        lambda path: MixtureDenoiser(path, mixture), draw, draw, spectrum, float(jnp.trace(mixture.moments().cov))
    )


def _choice(key: Key[Array, ""], images: Images, n: int) -> Float[Array, "m h w"]:
    return images[jax.random.choice(key, images.shape[0], (n,), replace=n > images.shape[0])]


def fitted_mixture(train: Images, components: int, seed: int) -> GaussianMixture:
    """A Gaussian mixture with full covariances, by expectation maximisation (scikit-learn), `FLOOR` on the diagonal."""
    from sklearn.mixture import GaussianMixture as Fit

    flat = np.asarray(train).reshape(len(train), -1)
    fit = Fit(components, covariance_type="full", reg_covar=FLOOR, random_state=seed, max_iter=200).fit(flat)
    return GaussianMixture(jnp.asarray(fit.weights_), jnp.asarray(fit.means_), jnp.asarray(fit.covariances_))


def debiased_distance(x: Images, y: Images, own: float) -> float:
    """W2² debiased, from the halves X, X' of `x` and Y, Y' of `y`, `own` = W2²(Y, Y'): of mean 0 on equal laws.

    ½ W2²(X, Y) + ½ W2²(X', Y') - ½ W2²(X, X') - ½ W2²(Y, Y').
    """
    (x1, x2), (y1, y2) = halves(x), halves(y)
    across = (wasserstein2_squared(x1, y1) + wasserstein2_squared(x2, y2)) / 2
    return across - wasserstein2_squared(x1, x2) / 2 - own / 2


def halves(x: Images) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second half of the images, flattened."""
    flat = np.asarray(x).reshape(len(x), -1)
    return flat[: len(flat) // 2], flat[len(flat) // 2 :]


def bands(shape: tuple[int, ...]) -> Int[np.ndarray, "h w"]:
    """Which band each frequency is of, in FFT order: 0 the mean (f = 0), 1 low, 2 middle (|f| > side/8), 3 high
    (|f| > side/4)."""
    radius = integer_frequencies(shape)
    return (radius > 0).astype(int) + (radius > shape[0] / 8) + (radius > shape[0] / 4)


def band_powers(images: Images) -> Float[np.ndarray, "4"]:
    """Mean square of the images' Fourier coefficients, summed over each band."""
    power = np.mean(np.abs(np.fft.fft2(np.asarray(images), norm="ortho")) ** 2, axis=0)
    return np.array([power[bands(power.shape) == band].sum() for band in range(4)])


class Frame(NamedTuple):
    """What all paths of one repeat share: draws of the law, draws to compare with and their W2²(Y, Y'), keys."""

    data: Images
    fresh: Images
    own: float
    own_detail: float
    key_noise: Key[Array, ""]
    key_run: Key[Array, ""]


def frame(model: PatchModel, draws: int, key: Key[Array, ""]) -> Frame:
    """Draw it. Raises `ValueError` where `draws` is not an even number >= 4."""
    require(draws >= 4 and draws % 2 == 0, "draws", draws, "an even number >= 4")
    key_data, key_fresh, key_noise, key_run = jax.random.split(key, 4)
    fresh = model.fresh(key_fresh, draws)
    own, own_detail = (wasserstein2_squared(*halves(images)) for images in (fresh, detail(fresh)))
    return Frame(model.draw(key_data, draws), fresh, own, own_detail, key_noise, key_run)


def path_runs(
    model: PatchModel, path: Path, frame: Frame, samplers: Mapping[str, Sampler], grids: tuple[str, ...],
    steps: tuple[int, ...], fine: int,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:  # fmt: skip
    """What every sampler, grid and number of steps does on one path; and the reference flow with `fine` steps.

    Displacements by band and W2² are in the data's unit squared. Random samplers have no displacement.
    """
    plan = [(grid, n) for grid in grids for n in steps]
    finest = time_grid(path, fine, "edm")
    times = [finest, _thinned(finest, path), *(late_grid(path, n, grid) for grid, n in plan)]
    table, (leg, half_leg, *legs) = frozen(path, times, model.spectrum.shape)
    start = start_frozen(table, frame.data, frame.key_noise)
    follow = partial(sample_frozen, model.make_denoiser(table), table)
    whole, half = (follow(part, DPMSolverPP2M(), start, frame.key_run) for part in (leg, half_leg))
    entries = []
    for name, sampler in samplers.items():
        for (grid, n), part in zip(plan, legs, strict=True):
            few = follow(part, sampler, start, frame.key_run)
            entries.append({"sampler": name, "grid": grid, "steps": n, **_entry(sampler, few, whole, frame)})
    return {"moved": band_powers(half - whole), "bands": band_powers(whole), **_distances(whole, frame)}, entries


def _thinned(times: Float[Array, " k"], path: Path) -> Float[Array, " m"]:
    """The grid of half as many steps, both ends kept."""
    steps = times.size - 1 if path.starts_clean else times.size
    kept = np.linspace(0, times.size - 1, steps // 2 + 1 if path.starts_clean else steps // 2)
    return times[np.round(kept).astype(int)]


def _entry(sampler: Sampler, few: Images, whole: Images, frame: Frame) -> dict[str, Any]:
    """Displacement and power by band, and the debiased W2²."""
    moved = None if isinstance(sampler, RANDOM) else band_powers(few - whole)
    return {"moved": moved, "power": band_powers(few), **_distances(few, frame)}


def _distances(images: Images, frame: Frame) -> dict[str, float]:
    """Debiased W2² to the fresh draws: of the images, and of their detail (own mean brightness removed)."""
    pairs = {
        "w2": (images, frame.fresh, frame.own),
        "w2_detail": (detail(images), detail(frame.fresh), frame.own_detail),
    }
    return {name: debiased_distance(*pair) for name, pair in pairs.items()}


def detail(images: Images) -> Images:
    """Each image less its own mean."""
    return images - images.mean(axis=(1, 2), keepdims=True)


def patch_sets(
    side: int, points: int, *, shrink: int = 1, seed: int = 0, data: File | None = None
) -> tuple[Images, Images]:
    """Patches (points, side, side) for training and as many for comparison, less the training mean; float64.

    From the photographs, or from `data`, an .npz file with `images`: grey means of squares cut at random from the
    first and from the second half of the images. Raises `ValueError` where these are fewer than 4, or smaller than
    `side`.
    """
    if data is None:
        train, test, *_ = photograph_patches(side, points, points, shrink=shrink, seed=seed)
    else:
        train, test = _own_patches(data, side, points, seed)
    return jnp.asarray(train - train.mean()), jnp.asarray(test - train.mean())


def _own_patches(data: File, side: int, points: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    images = np.asarray(load_npz(data).images, np.float64)
    grey = images if images.ndim == 3 else images.mean(axis=3)
    require(min(grey.shape[1:]) >= side, "data", f"images of {grey.shape[1:]}", f"at least {side} x {side} pixels")
    require(len(grey) >= 4, "data", f"{len(grey)} images", "at least 4")
    rng = np.random.default_rng(seed)

    def cut(some: np.ndarray) -> np.ndarray:
        which = rng.integers(len(some), size=points)
        rows, columns = (rng.integers(size - side + 1, size=points) for size in grey.shape[1:])
        return np.stack([some[i, r : r + side, c : c + side] for i, r, c in zip(which, rows, columns, strict=True)])

    return cut(grey[: len(grey) // 2]), cut(grey[len(grey) // 2 :])
