"""Paths known at the times of a few grids only, so that all paths and all numbers of steps share one compiled program.

`frozen(path, grids, shape)` tabulates A² and S² per frequency at the times of several grids, one after the other, and
labels the entries t = 1, ..., 0 in equal steps. Samplers that use nothing but gains at those times (no slopes in t)
take the same steps there as on the path itself; a denoiser must know the time through `path.powers` alone, as exact
ones do. Where the path does not start clean, the clean end is the last entry of each grid: for these samplers the step
to it is the one that `to_clean` takes. `sample_frozen` follows one of the grids, as `sim.sampling.sample` would.
"""

from collections.abc import Sequence
from typing import ClassVar, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

from sim.sampler_base import Denoiser, Move, Sampler, point
from sim.samplers import DDIM, Ancestral, DPMSolverPP2M, SigmaHeun
from theory._checks import require
from theory.path_base import Gain, Path, Sample, SpectralPath, Time

WITHOUT_SLOPES = (DDIM, Ancestral, DPMSolverPP2M, SigmaHeun)
"""Samplers that serve on frozen paths."""


class Frozen(SpectralPath):
    """A path at k times, labelled 1 - j/(k - 1); between them the nearest one counts. Not falling in t throughout.

    `signal`, `noise`: A² and S² at those times, (k, *shape).
    """

    signal_powers: Float[Array, "k ..."] = eqx.field(converter=jnp.asarray)
    noise_powers: Float[Array, "k ..."] = eqx.field(converter=jnp.asarray)
    starts_clean: ClassVar[bool] = True
    ends_in_unit_noise: ClassVar[bool] = False

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """The entry of the table."""
        last = self.signal_powers.shape[0] - 1
        index = jnp.round((1 - jnp.asarray(t)) * last).astype(int)
        return self.signal_powers[index], self.noise_powers[index]

    def label(self, index: Int[Array, ""]) -> Float[Array, ""]:
        """The label of an entry."""
        return 1 - index / (self.signal_powers.shape[0] - 1)

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        """The label of an entry whose log-SNR is nearest."""
        levels = jnp.log(self.signal_powers) - jnp.log(self.noise_powers)
        return self.label(jnp.argmin(jnp.abs(levels - log_snr), axis=0))

    @property
    def t_range(self) -> tuple[float, float]:
        """(0, 1)."""
        return 0.0, 1.0

    @property
    def grid(self) -> tuple[int, ...]:
        """Shape of the grid of frequencies."""
        return self.signal_powers.shape[1:]


class Leg(NamedTuple):
    """Where in the table one grid of times begins, and its number of steps."""

    first: int
    steps: int


def frozen(path: Path, grids: Sequence[Float[Array, " _"]], shape: tuple[int, ...]) -> tuple[Frozen, list[Leg]]:
    """The path at the times of the `grids`, gains spread over `shape` (scalar paths too), and where each grid lies.

    Raises `ValueError` where the path's grid is another one.
    """
    require(path.grid in ((), shape), "shape", shape, f"the path's {path.grid}")
    rows = [_spread(part, shape) for part in _powers(path, jnp.concatenate(list(grids)))]
    parts, legs, first, seen = [], [], 0, 0
    for times in grids:
        signal, noise = (part[seen : seen + times.size] for part in rows)
        seen += times.size
        if not path.starts_clean:
            signal = jnp.concatenate([signal, jnp.ones_like(signal[:1])])
            noise = jnp.concatenate([noise, jnp.zeros_like(noise[:1])])
        parts.append((signal, noise))
        legs.append(Leg(first, len(signal) - 1))
        first += len(signal)
    signals, noises = zip(*parts, strict=True)
    return Frozen(jnp.concatenate(signals), jnp.concatenate(noises)), legs


@eqx.filter_jit
def _powers(path: Path, times: Float[Array, " k"]) -> tuple[Array, Array]:
    return jax.vmap(path.powers)(times)


def _spread(rows: Float[Array, "k ..."], shape: tuple[int, ...]) -> Float[Array, "k ..."]:
    """One entry per frequency also where the path has one for all."""
    if rows.shape[1:] == shape:
        return rows
    return jnp.broadcast_to(rows.reshape(-1, *(1,) * len(shape)), (len(rows), *shape))


@eqx.filter_jit
def start_frozen(path: Frozen, data: Float[Array, "n ..."], key: Key[Array, ""]) -> Float[Array, "n ..."]:
    """Exact draws of x_t at the first entry, for draws `data` of the law; the same noise on every path."""
    noise = jax.random.normal(key, data.shape, data.dtype)
    return jax.vmap(lambda x, eps: path.corrupt(x, 1.0, eps))(data, noise)


def sample_frozen(
    denoiser: Denoiser, path: Frozen, leg: Leg, sampler: Sampler, start: Float[Array, "n ..."], key: Key[Array, ""]
) -> Float[Array, "n ..."]:
    """What `sim.sampling.sample` gives on the grid `leg` of the path that was frozen, with the same key.

    `denoiser` is one for the frozen path. Raises `ValueError` for a sampler that uses slopes in t, and where a result
    is not finite.
    """
    allowed = "one of " + ", ".join(kind.__name__ for kind in WITHOUT_SLOPES)
    require(isinstance(sampler, WITHOUT_SLOPES), "sampler", type(sampler).__name__, allowed)
    keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(start.shape[0]))
    samples = _run(denoiser, path, sampler, jnp.asarray(leg.first), jnp.asarray(leg.steps), start, keys)
    require(bool(jnp.all(jnp.isfinite(samples))), "denoiser", "values that are not finite", "finite at every time")
    return samples


@eqx.filter_jit
def _run(
    denoiser: Denoiser, path: Frozen, sampler: Sampler, first: Int[Array, ""], steps: Int[Array, ""], start: Array,
    keys: Array,
) -> Array:  # fmt: skip
    def one(x: Sample, key: Array) -> Sample:
        def move(k: Int[Array, ""]) -> Move:
            late, early = (point(path, path.label(first + k + i)) for i in (0, 1))
            return Move(lambda y, t: denoiser(y, t, None), path, late, early, jax.random.fold_in(key, k))

        def advance(k: Int[Array, ""], carry: tuple) -> tuple:
            xt, memory = carry
            return sampler.step(xt, memory, move(k))

        x, memory = jax.lax.fori_loop(0, steps - 1, advance, (x, sampler.start(x, path)))
        return sampler.last(x, memory, move(steps - 1))

    return jax.vmap(one)(start, keys)
