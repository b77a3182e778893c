"""Sampling: many samples from noise to data, by any sampler of `sim.samplers`, as one compiled program.

A sampler acts on one sample; here it is mapped over many, in chunks that stay in cache. One program is compiled per
kind of sampler, path and denoiser and per shape: new times, data or parameters held as arrays compile nothing.

    path = VPCosine()
    times = time_grid(path, 50)
    x0 = sample(denoiser, path, DDIM(), times, start_from(path, data, 1.0, key_start), key, cond)

Where the samples start is a matter of its own: `start_from` draws exactly from the marginal of given data, `path.prior`
is what a practitioner starts from; the difference is the prior mismatch, not the sampler's error.
"""

from typing import Any, Literal, NamedTuple, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key, PyTree

from sim.sampler_base import Denoiser, Move, Point, Sampler, point
from sim.times import check_times
from theory._checks import is_concrete, require, require_between, require_finite
from theory.path_base import Path, Sample


class Trajectory(NamedTuple):
    """Samples and how they came about: `samples` (n, ...); `states` (n, k, ...) at the k `times`."""

    samples: Float[Array, "n ..."]
    states: Float[Array, "n k ..."]
    times: Float[Array, " k"]


@overload
def sample(
    denoiser: Denoiser,
    path: Path,
    sampler: Sampler,
    times: Float[Array, " k"],
    start: Float[Array, "n ..."],
    key: Key[Array, ""],
    cond: PyTree = None,
    *,
    trajectory: Literal[False] = False,
    chunk: int = 2000,
) -> Float[Array, "n ..."]: ...


@overload
def sample(
    denoiser: Denoiser,
    path: Path,
    sampler: Sampler,
    times: Float[Array, " k"],
    start: Float[Array, "n ..."],
    key: Key[Array, ""],
    cond: PyTree = None,
    *,
    trajectory: Literal[True],
    chunk: int = 2000,
) -> Trajectory: ...


def sample(
    denoiser: Denoiser,
    path: Path,
    sampler: Sampler,
    times: Float[Array, " k"],
    start: Float[Array, "n ..."],
    key: Key[Array, ""],
    cond: PyTree = None,
    *,
    trajectory: bool = False,
    chunk: int = 2000,
) -> Float[Array, "n ..."] | Trajectory:
    """Carry `start`, n samples of x_t at `times[0]`, to x0, or to x_t at `times[-1]` > 0 of a path that starts clean.

    **Arguments:**

    - `denoiser`: `denoiser(xt, t, cond) -> x̂0` for one sample; a pytree (an `equinox.Module`) or a function. A *new*
      function at every call compiles anew.
    - `times`: falling, within [0, 1], see `sim.times.time_grid`. On a path that starts clean the last pair of times is
      the last step; on another one a denoising step follows.
    - `start`: (n, *shape), see `start_from`; sets the number type. `cond`: conditions with leading axis n, or None.
    - `key`: each sample's noise is folded from it by the sample's number, and so depends on n and `chunk` not at all.
    - `trajectory`: also return the states at all times. `chunk`: samples computed together, >= 1.

    Raises `ValueError` for times that do not fall, shapes that do not fit the path or each other, a first time without
    signal for a sampler that needs it, and where the denoiser returned another shape or something not finite.
    """
    times, start = jnp.asarray(times), jnp.asarray(start)
    _check(path, sampler, times, start, cond, chunk)
    with_keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(start.shape[0]))
    samples, states = _run(denoiser, path, sampler, times, start, with_keys, cond, trajectory, min(chunk, len(start)))
    if is_concrete(samples) and not bool(jnp.all(jnp.isfinite(samples))):
        _explain(samples, len(start))
    return samples if states is None else Trajectory(samples, states, times)


def _check(path: Path, sampler: Sampler, times: Array, start: Array, cond: PyTree, chunk: int) -> None:
    check_times(times)
    require(start.ndim >= 1 and start.shape[0] >= 1, "start", f"shape {start.shape}", "(n, ...) with n >= 1")
    grid = start.shape[1 : 1 + len(path.grid)]
    require(
        grid == path.grid, "start", f"shape {start.shape}", f"(n, *{path.grid}), the path's grid; channels may follow"
    )
    require(bool(jnp.issubdtype(start.dtype, jnp.floating)), "start", f"dtype {start.dtype}", "floating")
    require_finite("start", start)
    require(chunk >= 1, "chunk", chunk, "an integer >= 1")
    for leaf in jax.tree.leaves(sampler):
        fits = jnp.shape(leaf) in ((), path.grid)
        require(fits, "sampler", f"an array of shape {jnp.shape(leaf)}", f"of numbers or arrays {path.grid}, the grid")
    for leaf in jax.tree.leaves(cond):
        fits = jnp.ndim(leaf) >= 1 and leaf.shape[0] == start.shape[0]
        require(fits, "cond", f"shape {jnp.shape(leaf)}", f"of leading axis {start.shape[0]}, as start")
    signal = path.powers(times[0])[0]
    if sampler.needs_signal and is_concrete(signal):
        dark = bool(np.any(np.asarray(signal) <= 0))
        allowed = f"a time with signal for {type(sampler).__name__}, such as path.t_range[1] = {path.t_range[1]:g}"
        require(not dark, "times[0]", f"{float(times[0]):g}, where this path has none", allowed)


class NotFiniteError(ValueError):
    """A denoiser returned something that is not finite."""


def _explain(samples: Array, n: int) -> None:
    broken = ~jnp.all(jnp.isfinite(samples.reshape(n, -1)), axis=1)
    first = int(jnp.argmax(broken))
    raise NotFiniteError(
        f"denoiser: not finite on the way of {int(jnp.sum(broken))} of {n} samples (first: number {first}); it must "
        "return finite values at every time given. trajectory=True with that sample alone shows where it starts."
    )


@eqx.filter_jit
def _run(
    denoiser: Denoiser, path: Path, sampler: Sampler, times: Array, start: Array, keys: Array, cond: PyTree,
    trajectory: bool, chunk: int,
) -> tuple[Array, Array | None]:  # fmt: skip
    def one(arguments: tuple[Array, Array, PyTree]) -> tuple[Array, Array | None]:
        return _follow(denoiser, path, sampler, times, *arguments, trajectory=trajectory)

    return jax.lax.map(one, (start, keys, cond), batch_size=chunk)


def _follow(
    denoiser: Denoiser, path: Path, sampler: Sampler, times: Array, start: Array, key: Array, cond: PyTree, *,
    trajectory: bool,
) -> tuple[Array, Array | None]:  # fmt: skip
    """One sample from the first time to x0."""

    def denoise(xt: Sample, t: Float[Array, ""]) -> Sample:
        x0_hat = denoiser(xt, t.astype(xt.dtype), cond)
        require(
            x0_hat.shape == xt.shape,
            "denoiser",
            f"shape {x0_hat.shape}",
            f"a function to the sample's shape {xt.shape}",
        )
        return x0_hat.astype(xt.dtype)

    def move(k: Array | int, late: Array, early: Array) -> Move:
        return Move(denoise, path, point(path, late), point(path, early), jax.random.fold_in(key, k))

    def advance(carry: tuple[Array, PyTree], now: tuple[Array, Array, Array]) -> tuple[Any, Array | None]:
        xt, memory = sampler.step(*carry, move(*now))
        return (xt, memory), (xt if trajectory else None)

    k = times.shape[0] - 1
    whole = k - 1 if path.starts_clean else k
    numbers = jnp.arange(k)
    carry = (start, sampler.start(start, path))
    (xt, memory), states = jax.lax.scan(advance, carry, (numbers[:whole], times[:whole], times[1 : whole + 1]))
    if path.starts_clean:
        final = sampler.last(xt, memory, move(k - 1, times[-2], times[-1]))
        seen = final
    else:
        final = sampler.to_clean(xt, move(k, times[-1], times[-1])._replace(early=_clean(path, times)))
        seen = None
    return final, (None if states is None else _stack(start, states, seen))


def _clean(path: Path, times: Array) -> Point:
    """The data themselves: signal 1, noise 0."""
    one = jnp.ones(path.grid, times.dtype)
    return Point(jnp.zeros((), times.dtype), one, 0 * one, 0 * one, 0 * one)


def _stack(start: Array, states: Array, final: Array | None) -> Array:
    parts = [start[None], states] + ([] if final is None else [final[None]])
    return jnp.concatenate(parts)


def start_from(
    path: Path, x0: Float[Array, "n ..."], t: float | Float[Array, ""], key: Key[Array, ""]
) -> Float[Array, "n ..."]:
    """Exact draws of x_t at time `t`, for draws `x0` (n, *shape) of the data: a start without prior mismatch.

    Raises `ValueError` where a sample does not fit the path or `t` is outside [0, 1].
    """
    require_between("t", t, 0.0, 1.0)
    return _corrupted(path, x0, jnp.asarray(t, x0.dtype), key)


@eqx.filter_jit
def _corrupted(path: Path, x0: Array, t: Array, key: Array) -> Array:
    def one(x: Sample, i: Array) -> Sample:
        return path.corrupt(x, t, jax.random.normal(jax.random.fold_in(key, i), x.shape, x.dtype))

    return jax.vmap(one)(x0, jnp.arange(x0.shape[0]))
