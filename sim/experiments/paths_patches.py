"""Sampling error off the Gaussian model: debiased W2² to fresh draws, and the same start through very many steps.

Starts follow the exact marginal at the first time, so no prior is involved. Per path, sampler, grid and number of steps

    w2             debiased W2² (`sim.patches.debiased_distance`) of what is generated to fresh draws of the law
    w2_detail      the same of the images less their own mean: brightness is most of w2, and of its noise
    displacement   E |T_N(z) - T(z)|², T_N(z) where N steps take the start z, T(z) where the flow of the path takes it:

a coupling of what is generated with what should be, hence at least W2², and a plain mean without finite-sample bias.
T is stood in for by DPM-Solver++(2M) with `fine` steps even in log-SNR; the displacement of half as many steps against
it, more than its own, says how good a stand-in it is. Random samplers have no displacement.

Fresh draws are the same for all paths, as are the draws and the noise of the start: what they share drops out of the
differences of paths.

Two models of image patches whose denoisers are exact, so that no training error is involved either:

    mixture     Gaussian mixture fitted to the patches (full covariances): smooth, not Gaussian, its law known
    empirical   the training patches themselves (`EmpiricalDenoiser`): the optimum that memorises; fresh draws are
                patches of other regions of the photographs

Paths that need a spectrum get that of the training patches. `denoiser_runs` takes any denoiser, such as a network.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from sim.empirical import EmpiricalDenoiser
from sim.experiments.paths_frozen import frozen, sample_frozen, start_frozen
from sim.experiments.paths_gaussian import RANDOM
from sim.mixture_denoiser import MixtureDenoiser
from sim.patches import debiased_distance, without_mean
from sim.sampler_base import Denoiser, Sampler
from sim.samplers import DPMSolverPP2M
from sim.sampling import sample, start_from
from sim.times import time_grid
from theory._checks import require
from theory.mixture import GaussianMixture
from theory.path_base import Path
from theory.spectra import power_spectrum

MODELS = ("mixture", "empirical")
"""Names of the models of patches."""
FLOOR = 1e-3
"""Variance added to every pixel of a fitted component, in the square of the pixels' unit (they lie in [-1, 1])."""
Images = Float[Array, "n h w"]


class PatchModel(NamedTuple):
    """A law of patches whose denoiser is exact on every path.

    `make_denoiser(path)`; `draw(key, n)`: draws of the law; `fresh(key, n)`: of what it stands for (its own law, or
    patches for comparison); `spectrum`: (h, w), of the training patches.
    """

    make_denoiser: Callable[[Path], Denoiser]
    draw: Callable[[Key[Array, ""], int], Images]
    fresh: Callable[[Key[Array, ""], int], Images]
    spectrum: Float[Array, "h w"]


def patch_model(kind: str, train: Images, test: Images, *, components: int = 5, seed: int = 0) -> PatchModel:
    """The model `kind`, one of `MODELS`, made from the patches `train` (n, h, w), float64, of mean about 0.

    `test`: patches to compare the empirical model with. `components`, `seed`: of the mixture. Raises `ValueError` for
    an unknown kind; its draws do so where more are asked for than there are patches.
    """
    require(kind in MODELS, "kind", repr(kind), "one of " + ", ".join(MODELS))
    spectrum = jnp.asarray(power_spectrum(np.asarray(train)))
    if kind == "empirical":
        make = lambda path: EmpiricalDenoiser(path, train, refine=0)  # noqa: E731
        return PatchModel(make, lambda k, n: _choice(k, train, n), lambda k, n: _choice(k, test, n), spectrum)
    mixture = fitted_mixture(train, components, seed)
    draw = lambda key, n: mixture.sample(key, (n,)).reshape(n, *train.shape[1:])  # noqa: E731
    return PatchModel(lambda path: MixtureDenoiser(path, mixture), draw, draw, spectrum)


def _choice(key: Key[Array, ""], images: Images, n: int) -> Float[Array, "m h w"]:
    """Different ones: equal points in two halves would pass for a small distance between them."""
    require(n <= len(images), "draws", n, f"at most the {len(images)} patches there are")
    return images[jax.random.choice(key, len(images), (n,), replace=False)]


def fitted_mixture(train: Images, components: int, seed: int) -> GaussianMixture:
    """A Gaussian mixture with full covariances, by expectation maximisation (scikit-learn), `FLOOR` on the diagonal."""
    from sklearn.mixture import GaussianMixture as Fit

    flat = np.asarray(train).reshape(len(train), -1)
    fit = Fit(components, covariance_type="full", reg_covar=FLOOR, random_state=seed, max_iter=200).fit(flat)
    return GaussianMixture(jnp.asarray(fit.weights_), jnp.asarray(fit.means_), jnp.asarray(fit.covariances_))


class Frame(NamedTuple):
    """What all paths of one repeat share: draws of the law, draws to compare with, keys of noise and of samplers."""

    data: Float[Array, "..."]
    fresh: Float[Array, "..."]
    key_noise: Key[Array, ""]
    key_run: Key[Array, ""]


def frame(model: PatchModel, draws: int, key: Key[Array, ""]) -> Frame:
    """Draw it."""
    key_data, key_fresh, key_noise, key_run = jax.random.split(key, 4)
    return Frame(model.draw(key_data, draws), model.fresh(key_fresh, draws), key_noise, key_run)


class PathRuns(NamedTuple):
    """One path: `runs`, one entry per sampler, grid and number of steps (`sampler`, `grid`, `steps`, and the measures
    at the module's top); `reference`: the same measures of the fine flow, its displacement that of half the steps.
    """

    reference: dict[str, float | None]
    runs: list[dict[str, Any]]


Follow = Callable[[Sampler, int], Array]
"""Where a sampler takes the starts on one of several time grids, by its number."""
Prepare = Callable[[Path, list[Array], Frame], Follow]


def path_runs(
    prepare: Prepare, path: Path, shared: Frame, samplers: Mapping[str, Sampler], grids: tuple[str, ...],
    steps: tuple[int, ...], fine: int,
) -> PathRuns:  # fmt: skip
    """What every sampler, grid and number of steps does on one path, and the flow in `fine` steps.

    Raises `ValueError` unless `fine` is an even number >= 4, or where a result is not finite.
    """
    require(fine >= 4 and fine % 2 == 0, "fine", fine, "an even number >= 4")
    late, plan = path.t_range[1], [(grid, n) for grid in grids for n in steps]
    times = [time_grid(path, n, "log_snr") for n in (fine, fine // 2)]
    follow = prepare(path, times + [time_grid(path, n, grid, first=late) for grid, n in plan], shared)
    whole = follow(DPMSolverPP2M(), 0)
    runs = []
    for name, sampler in samplers.items():
        for number, (grid, n) in enumerate(plan):
            few = follow(sampler, number + 2)
            found = measures(few, None if isinstance(sampler, RANDOM) else whole, shared.fresh)
            runs.append({"sampler": name, "grid": grid, "steps": n, **found})
    moved = _displacement(follow(DPMSolverPP2M(), 1), whole)
    return PathRuns({**measures(whole, None, shared.fresh), "displacement": moved}, runs)


def measures(
    few: Float[Array, "n ..."], whole: Float[Array, "n ..."] | None, fresh: Float[Array, "m ..."]
) -> dict[str, float | None]:
    """The three measures at the module's top; without `whole`, the flow's samples, the displacement is None."""
    moved = None if whole is None else _displacement(few, whole)
    distances = debiased_distance(few, fresh), debiased_distance(*map(without_mean, map(np.asarray, (few, fresh))))
    return {"w2": distances[0], "w2_detail": distances[1], "displacement": moved}


def _displacement(few: Float[Array, "n ..."], whole: Float[Array, "n ..."]) -> float:
    return float(jnp.sum((few - whole) ** 2) / len(few))


def frozen_follow(
    make_denoiser: Callable[[Path], Denoiser], path: Path, grids: list[Float[Array, " _"]], shared: Frame
) -> Follow:
    """On the path frozen at these times: for denoisers that know the time by `path.powers` alone, one compilation."""
    table, legs = frozen(path, grids, shared.data.shape[1:])
    denoiser, start = make_denoiser(table), start_frozen(table, shared.data, shared.key_noise)
    return lambda sampler, number: sample_frozen(denoiser, table, legs[number], sampler, start, shared.key_run)


def denoiser_runs(
    make_denoiser: Callable[[Path], Denoiser],
    path: Path,
    samplers: Mapping[str, Sampler],
    data: Float[Array, "n h w ..."],
    fresh: Float[Array, "m h w ..."],
    key: Key[Array, ""],
    *,
    grids: tuple[str, ...] = ("uniform",),
    steps: tuple[int, ...] = (10, 20),
    fine: int = 128,
    cond: Any = None,
) -> PathRuns:
    """The experiment's measures for any denoiser, by the code that makes its rows: one repeat.

    **Arguments:**

    - `make_denoiser`: path -> `denoiser(xt, t, cond)` for one sample, e.g. a network trained on that path.
    - `samplers`: by a name of yours. `grids`, `steps`: their time grids, from `path.t_range[1]` on.
    - `data`: n images for starts from the exact marginal; `fresh`: m others to compare with (n and m at least 2).
    - `key`: the same for all paths that are to be compared. `fine`: steps of the reference flow, even, at least 4.
    - `cond`: conditions with leading axis n, or None.

    Over repeats with other draws and keys compare paths by `sim.intervals.paired_difference`; where the reference's
    displacement exceeds a tenth of a run's, raise `fine` before judging by that. Raises `ValueError` as `sample` does.
    """

    def prepare(path: Path, grids: list[Float[Array, " _"]], shared: Frame) -> Follow:
        denoiser, start = make_denoiser(path), start_from(path, shared.data, path.t_range[1], shared.key_noise)
        return lambda sampler, number: sample(denoiser, path, sampler, grids[number], start, shared.key_run, cond)

    return path_runs(prepare, path, Frame(data, fresh, *jax.random.split(key)), samplers, grids, steps, fine)
