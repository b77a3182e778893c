"""What a sampler with N steps generates from exactly Gaussian data: the discretisation error, in closed form per
frequency.

Data N(0, D) at a frequency, path x_t = A_t x0 + S_t ε, marginal variance v_t = A_t² D + S_t². The best denoiser is
linear, E[x0 | x_t] = A_t D x_t / v_t, so each step of each sampler from time t to an earlier s is x_s = g x_t + √w ξ,
and the generated variance obeys V <- g² V + w. With a = A_t / A_s and q = S_t² - a² S_s² (the forward step x_t = a
x_s + √q ξ):

    sampler            g                                          w
    ddim               (A_s A_t D + S_s S_t) / v_t                0
    ancestral_exact    a v_s / v_t  (= E[x_s | x_t] / x_t)        v_s q / v_t   (the true reverse variance)
    ancestral_large    a v_s / v_t                                q             (DDPM's β_t; 0 in the last step)
    ancestral_small    a v_s / v_t                                S_s² q / S_t² (DDPM's β̃_t; 0 in the last step)
    euler              1 + (s-t) h_t                              0                probability flow dx/dt = h_t x
    heun               1 + (s-t) (h_t + h_s (1 + (s-t) h_t)) / 2  0                h_t = (dv_t/dt) / (2 v_t)

"ancestral_large_noisy" and "ancestral_small_noisy" keep the noise of the last step. On VP paths q = 1 - A_t²/A_s² is
DDPM's β_t; elsewhere "large" means the variance q of the forward step, "small" the variance of x_s given x_t and x0
(Ho et al. 2020, eqs. 6-7, for general gains). Sources: DDIM, Song et al. 2021 (eq. 12); Heun, Karras et al. 2022
(algorithm 1; theirs takes an Euler step last, here the flow of Gaussian data has a slope at t = 0 as well).

Where a path does not start clean (EDM: σ_min > 0), the last of the N steps denoises from the earliest time to x0, by
DDIM, an ancestral step or (same thing) an Euler step in σ.

What a sampler starts from is accounted for separately (`start`): the path's exact law at t = 1, the practitioner's
prior, or noise alone.
"""

from functools import partial
from typing import Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from theory._checks import is_concrete, require, require_finite, require_float64
from theory.path_base import Path, safe_sqrt

ANCESTRAL = (
    "ancestral_large",
    "ancestral_small",
    "ancestral_large_noisy",
    "ancestral_small_noisy",
    "ancestral_exact",
)
SAMPLERS = ("ddim", *ANCESTRAL, "euler", "heun")
"""Names of the samplers."""
NOISE_FREE_END = ("ancestral_large", "ancestral_small")
Start = Literal["marginal", "prior", "noise"]
Variance = Float[Array, "..."]
Step = tuple[Variance, Variance]


class SamplingError(NamedTuple):
    """How far the generated Gaussian is from the data, summed over frequencies: KL in nats, and the 2-Wasserstein
    distance.

    `kl_generated_data` = KL(generated‖data), `kl_data_generated` = KL(data‖generated), `wasserstein2` in the data's
    unit.
    """

    kl_generated_data: Float[Array, ""]
    kl_data_generated: Float[Array, ""]
    wasserstein2: Float[Array, ""]


class _Points(NamedTuple):
    """The path at several times (leading axis), for data of variance D: gains, marginal variance, half its log-slope
    in t."""

    signal: Variance
    noise: Variance
    total: Variance
    slope: Variance
    time: Variance


@eqx.filter_jit
def _points(path: Path, spectrum: Variance, times: Array) -> _Points:
    def at(t: Float[Array, ""]) -> _Points:
        (signal, noise), (d_signal, d_noise) = jax.jvp(path.powers, (t,), (jnp.ones_like(t),))
        total = signal * spectrum + noise
        slope = (d_signal * spectrum + d_noise) / (2 * total)
        values = _Points(safe_sqrt(signal), safe_sqrt(noise), total, slope, t)
        return _Points(*(jnp.broadcast_to(value, spectrum.shape) for value in values))

    return jax.vmap(at)(times)


def _ddim(late: _Points, early: _Points, spectrum: Variance) -> Step:
    gain = (early.signal * late.signal * spectrum + early.noise * late.noise) / late.total
    return gain, jnp.zeros_like(gain)


def _ancestral(late: _Points, early: _Points, spectrum: Variance, kind: str) -> Step:
    ratio = late.signal / early.signal
    forward = jnp.maximum(late.noise**2 - (ratio * early.noise) ** 2, 0.0)
    gain = ratio * early.total / late.total
    if kind == "exact":
        return gain, early.total * forward / late.total
    if kind == "large":
        return gain, forward
    noisy = late.noise > 0  # otherwise both times are clean and nothing is to be added
    return gain, jnp.where(noisy, early.noise**2 * forward / jnp.where(noisy, late.noise**2, 1.0), 0.0)


def _euler(late: _Points, early: _Points, spectrum: Variance) -> Step:
    gain = 1 + (early.time - late.time) * late.slope
    return gain, jnp.zeros_like(gain)


def _heun(late: _Points, early: _Points, spectrum: Variance) -> Step:
    step = early.time - late.time
    predicted = 1 + step * late.slope
    gain = 1 + step / 2 * (late.slope + early.slope * predicted)
    return gain, jnp.zeros_like(gain)


def _step(sampler: str, late: _Points, early: _Points, spectrum: Variance) -> Step:
    if sampler in ANCESTRAL:
        return _ancestral(late, early, spectrum, sampler.split("_")[1])
    return {"ddim": _ddim, "euler": _euler, "heun": _heun}[sampler](late, early, spectrum)


def generated_variance(
    path: Path,
    spectrum: Float[ArrayLike, "..."],
    times: Float[ArrayLike, " k"],
    sampler: str,
    *,
    start: Start = "marginal",
) -> Float[Array, "..."]:
    """Variance per frequency that a sampler generates from data N(0, diag `spectrum`), exactly, with the ideal
    denoiser.

    **Arguments:**

    - `path`: any path; a per-frequency path's grid must be the spectrum's shape.
    - `spectrum`: data variances D > 0 of any shape, float64; a scalar path takes any shape.
    - `times`: falling from the start (usually 1) to the end (usually 0), k >= 2 of them.
    - `sampler`: one of `SAMPLERS`. A path that does not start clean is denoised from the last time to x0.
    - `start`: "marginal" (exact law at times[0]), "prior" (N(0, I) where the path claims to end there, as
      practitioners start, otherwise the same as "marginal") or "noise" (N(0, S²), signal forgotten).

    Returns an array of the spectrum's shape. Compiles once per kind of path, sampler and shape
    (`equinox.filter_jit`); differentiable in the spectrum and the path's parameters.

    Raises `ValueError` for an unknown sampler or start, a spectrum that is not positive and finite or does not fit
    the path, or times that do not fall within [0, 1]; `TypeError` unless float64.
    """
    data, grid = jnp.asarray(spectrum), jnp.asarray(times)
    _check(path, data, grid, sampler, start)
    points = _points(path, data, grid)
    initial = _initial(path, points, start)
    return _recursion(points, data, initial, sampler=sampler, to_clean=not path.starts_clean)


def _check(path: Path, spectrum: Variance, times: Array, sampler: str, start: str) -> None:
    require(sampler in SAMPLERS, "sampler", repr(sampler), "one of " + ", ".join(SAMPLERS))
    require(start in ("marginal", "prior", "noise"), "start", repr(start), "marginal, prior or noise")
    require_float64("spectrum", spectrum)
    require_finite("spectrum", spectrum)
    fits = path.grid in ((), spectrum.shape)
    require(fits, "spectrum", f"shape {spectrum.shape}", f"of the path's grid {path.grid}")
    require(times.ndim == 1 and times.size >= 2, "times", f"shape {times.shape}", "a list of 2 or more times")
    if is_concrete(spectrum):
        smallest = float(np.min(np.asarray(spectrum)))
        require(smallest > 0, "spectrum", f"smallest entry {smallest:.3g}", "positive")
    if is_concrete(times):
        values = np.asarray(times)
        falling = bool(np.all(np.diff(values) < 0) and values[0] <= 1 and values[-1] >= 0)
        require(falling, "times", f"{values[0]:g} ... {values[-1]:g}", "falling, within [0, 1]")


def _initial(path: Path, first: _Points, start: str) -> Variance:
    if start == "noise":
        return first.noise[0] ** 2
    return jnp.ones_like(first.total[0]) if start == "prior" and path.ends_in_unit_noise else first.total[0]


@partial(jax.jit, static_argnames=("sampler", "to_clean"))
def _recursion(points: _Points, spectrum: Variance, initial: Variance, *, sampler: str, to_clean: bool) -> Variance:
    """V <- g² V + w from `initial` over all steps, then to the data themselves if `to_clean`."""
    late, early = (jax.tree.map(lambda x, part=part: x[part], points) for part in (slice(None, -1), slice(1, None)))
    gains, added = _step(sampler, late, early, spectrum)
    if to_clean:
        last = jax.tree.map(lambda x: x[-1:], points)
        end = _step(sampler if sampler in ANCESTRAL else "ddim", last, _clean(last, spectrum), spectrum)
        gains, added = jnp.concatenate([gains, end[0]]), jnp.concatenate([added, end[1]])
    if sampler in NOISE_FREE_END:
        added = added.at[-1].set(0.0)

    def advance(variance: Variance, step: Step) -> tuple[Variance, None]:
        return step[0] ** 2 * variance + step[1], None

    return jax.lax.scan(advance, initial, (gains, added))[0]


def _clean(like: _Points, spectrum: Variance) -> _Points:
    """The data themselves: signal 1, noise 0."""
    one, zero = jnp.ones_like(like.signal), jnp.zeros_like(like.signal)
    return _Points(one, zero, spectrum * one, zero, zero)


def uniform_times(path: Path, steps: int) -> Float[Array, " k"]:
    """Times from 1 to 0 in equal steps such that a sampler takes `steps` steps, the last denoising step of EDM
    included.

    Raises `ValueError` unless `steps` >= 2.
    """
    require(steps >= 2, "steps", steps, "an integer >= 2")
    return jnp.asarray(np.linspace(1.0, 0.0, steps + 1 if path.starts_clean else steps))


def sampling_error(
    path: Path,
    spectrum: Float[ArrayLike, "..."],
    steps: int,
    sampler: str,
    *,
    start: Start = "marginal",
) -> SamplingError:
    """KL both ways and W2 between what `steps` uniform steps in t generate and the data N(0, diag `spectrum`).

    Arguments and errors as for `generated_variance`, and `steps` >= 2 (denoiser evaluations, one fewer for "heun"'s
    second slopes, which double them). Sums over all frequencies: nats, and the data's unit, per whole image (one
    channel).
    """
    generated = generated_variance(path, spectrum, uniform_times(path, steps), sampler, start=start)
    return gaussian_errors(generated, jnp.asarray(spectrum))


def gaussian_errors(generated: Float[Array, "..."], data: Float[Array, "..."]) -> SamplingError:
    """`SamplingError` of N(0, diag `generated`) against N(0, diag `data`), all variances positive; no cancellation
    near 0."""
    up, down = (generated - data) / data, (data - generated) / generated
    squares = jnp.sum((jnp.sqrt(generated) - jnp.sqrt(data)) ** 2)
    return SamplingError(jnp.sum(_excess(up)) / 2, jnp.sum(_excess(down)) / 2, safe_sqrt(squares))


def _excess(x: Variance) -> Variance:
    """x - log(1 + x) >= 0, to all digits: x²/2 - x³/3 + ... for |x| < 0.05 (terms beyond x^12 are below 2e-16 of
    x²/2)."""
    small = jnp.abs(x) < 0.05
    near, away = jnp.where(small, x, 0.0), jnp.where(small, 1.0, x)
    series = jnp.zeros_like(x)
    for k in range(13, 1, -1):
        series = 1 / k - near * series
    return jnp.where(small, near**2 * series, away - jnp.log1p(away))
