"""What a sampler of `sim.samplers` makes of Gaussian data: its own steps, exactly, frequency by frequency.

Data N(0, D) at a frequency, path x_t = A x0 + S ε, v = A² D + S². The best denoiser is x̂ = (A D / v) x, so every step
is linear in x and in its fresh noise ξ, and all frequencies pass through it side by side as entries of *one* sample, in
the path's own basis. A deterministic sampler carries x = √v_T to √V, the generated standard deviation (negative where a
step overshoots). A random one without memory has per step

    h ξ = step(0),   g = step(1) - step(0),   V <- g² V + h²:

no sampling noise either way. The steps are those of the samplers themselves, whatever they are; `theory.discretisation`
has closed forms for some of them, with which `closed_form` compares.

The start is the exact marginal. What starting from a prior adds is apart, in `prior_error`: the prior N(0, P) at time t
in place of N(0, v) becomes N(0, D P / v) under the exact flow, whatever the path.
"""

from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from sim.sampler_base import Move, Point, Sampler, point
from sim.samplers import Ancestral, ReverseSDE
from theory._checks import require, require_finite, require_float64
from theory.discretisation import SamplingError, gaussian_errors, generated_variance
from theory.path_base import Path
from theory.spectral_paths import EqualAnglePath

CLOSED_FORMS = ("ddim", "ancestral_small", "ancestral_large", "euler", "heun")
"""Samplers with closed forms in `theory.discretisation`."""
RANDOM = (Ancestral, ReverseSDE)
"""Kinds of samplers that draw noise; they remember nothing."""


class _State(NamedTuple):
    """What steps carry: a sample (one entry per frequency), the sampler's memory, and the variance its noise added."""

    x: Array
    memory: Any
    added: Array


def simulated_variance(
    sampler: Sampler,
    path: Path,
    spectrum: Float[Array, "..."],
    times: Float[Array, " k"],
    *,
    longest: int | None = None,
) -> Float[Array, "..."]:
    """Variance per frequency that the sampler's own steps generate from data N(0, diag `spectrum`), ideal denoiser.

    **Arguments:**

    - `sampler`: any deterministic one, `Ancestral` or `ReverseSDE`. `path`: scalar, or of the spectrum's shape.
    - `spectrum`: D > 0, any shape, float64. `times`: as for `sim.sampling.sample`; starts are exact at `times[0]`.
    - `longest`: number of times up to which grids share one compiled program; default `times.size`.

    Returns an array of the spectrum's shape: equal to the variance of infinitely many samples of `sample`, to rounding.
    Raises `ValueError` where the spectrum does not fit, or the sampler needs signal at `times[0]` and there is none.
    """
    require_float64("spectrum", spectrum)
    require_finite("spectrum", spectrum)
    require(path.grid in ((), spectrum.shape), "spectrum", f"shape {spectrum.shape}", f"of the grid {path.grid}")
    dark = sampler.needs_signal and not bool(jnp.all(path.powers(times[0])[0] > 0))
    require(not dark, "times[0]", f"{float(times[0]):g}, where this path has no signal", "a time with signal")
    k = times.size
    filled = jnp.concatenate([times, jnp.full((longest or k) - k, times[-1])])
    points = _points(path, filled, spectrum)
    whole = k - 2 if path.starts_clean else k - 1
    state = _walk(sampler, points, spectrum, jnp.asarray(whole))
    late, early = _entry(points, whole), _entry(points, whole + 1 if path.starts_clean else 0)
    return _end(sampler, state, late, early, spectrum, path.starts_clean)


@eqx.filter_jit
def _points(path: Path, times: Array, spectrum: Array) -> Point:
    """The path at each time, one entry per frequency."""

    def at(t: Float[Array, ""]) -> Point:
        gains = point(path, t)
        return Point(t, *(jnp.broadcast_to(gain, spectrum.shape) for gain in gains[1:]))

    return jax.vmap(at)(times)


def _entry(points: Point, index: int | Int[Array, ""]) -> Point:
    """The path at one of the times."""
    return Point(*(leaf[index] for leaf in points))


def _move(late: Point, early: Point, spectrum: Array) -> Move:
    """One step in the basis in which everything is diagonal, with the ideal denoiser at both of its times."""

    def optimum(at: Point) -> Array:
        return at.signal * spectrum / (at.signal**2 * spectrum + at.noise**2)

    def denoise(x: Array, t: Float[Array, ""]) -> Array:
        return jnp.where(t == late.t, optimum(late), optimum(early)) * x

    basis = EqualAnglePath(spectrum, basis="pixels")  # any path whose basis is the sample's own
    return Move(denoise, basis, late, early, jax.random.key(0, impl="rbg"))  # any key: see `_noisy`


@eqx.filter_jit
def _walk(sampler: Sampler, points: Point, spectrum: Array, whole: Int[Array, ""]) -> _State:
    """The first `whole` steps, from the exact marginal."""
    first = _entry(points, 0)
    start = jnp.sqrt(first.signal**2 * spectrum + first.noise**2)
    basis = _move(first, first, spectrum).path
    state = _State(start, sampler.start(start, basis), jnp.zeros_like(start))

    def advance(k: Int[Array, ""], state: _State) -> _State:
        late, early = _entry(points, k), _entry(points, k + 1)
        move = _move(late, early, spectrum)
        if not isinstance(sampler, RANDOM):
            x, memory = sampler.step(state.x, state.memory, move)
            return _State(x, memory, state.added)
        return _noisy(state, lambda x: sampler.step(x, None, move)[0], move)

    return jax.lax.fori_loop(0, whole, advance, state)


def _noisy(state: _State, step: Any, move: Move) -> _State:
    """One step with fresh noise, read off two probes."""
    noise = step(jnp.zeros_like(state.x))
    gain = step(jnp.ones_like(state.x)) - noise
    fresh = jax.random.normal(move.key, noise.shape, noise.dtype)
    return _State(gain * state.x, state.memory, gain**2 * state.added + (noise / fresh) ** 2)


@eqx.filter_jit
def _end(sampler: Sampler, state: _State, late: Point, early: Point, spectrum: Array, clean: bool) -> Array:
    """The last step: to t = 0, or from the earliest time of a path that does not start clean."""
    one, zero = jnp.ones_like(late.noise), jnp.zeros_like(late.noise)
    target = early if clean else Point(jnp.zeros_like(late.t), one, zero, zero, zero)
    move = _move(late, target, spectrum)

    def last(x: Array) -> Array:
        return sampler.last(x, state.memory, move) if clean else sampler.to_clean(x, move)

    if isinstance(sampler, RANDOM):
        final = _noisy(state, last, move)
        return final.x**2 + final.added
    return last(state.x) ** 2


def closed_form(
    name: str, path: Path, spectrum: Float[Array, "..."], times: Float[Array, " k"]
) -> Float[Array, "..."] | None:
    """The same variance by `theory.discretisation`, or None where it has no closed form for the sampler `name`.

    Its "heun" takes a last step with the slope at t = 0, which no denoiser can give; here that step is Euler's instead.
    """
    if name not in CLOSED_FORMS:
        return None
    whole = generated_variance(path, spectrum, times, name)
    if name == "heun" and path.starts_clean:
        euler, heun = (generated_variance(path, spectrum, times[-2:], kind) for kind in ("euler", "heun"))
        return whole * euler / heun
    return whole


def prior_error(path: Path, spectrum: Float[Array, "..."], t: float) -> SamplingError:
    """Error at t = 0 of starting the exact flow from the prior in place of the marginal at time `t`.

    The prior: N(0, I) where the path claims to end in it, else N(0, S_t²), the signal forgotten. Arguments as for
    `simulated_variance`. At t = 1 it is no sampler's doing; below, it is the cost of a late start.
    """
    signal, noise = (jnp.broadcast_to(power, spectrum.shape) for power in path.powers(t))
    prior = jnp.ones_like(spectrum) if path.ends_in_unit_noise else noise
    return gaussian_errors(spectrum * prior / (signal * spectrum + noise), spectrum)
