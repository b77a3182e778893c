"""What a sampler is: a rule (sample, memory, move) -> (sample, memory) for one sample, on any path, with any denoiser.

A move goes from one time to an earlier one; it brings the denoiser, the path's gains A_t, S_t and slopes at both times,
and a key. All sums of samples are weighted by gains, per frequency in the path's basis (`mix`).
"""

import abc
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, Key, PyTree

from theory.path_base import Gain, Path, Sample, mix, safe_sqrt

Denoiser = Callable[..., Sample]
"""`denoiser(xt, t, cond) -> x̂0` for one sample."""
Condition = Int[ArrayLike, ""] | None
"""A class's index, or None: unconditional."""


class Point(NamedTuple):
    """A path at one time: gains A and S, and the slopes in t of A² and S²."""

    t: Float[Array, ""]
    signal: Gain
    noise: Gain
    signal_slope: Gain
    noise_slope: Gain


def point(path: Path, t: Float[Array, ""]) -> Point:
    """The path's gains and slopes at time `t`."""
    (signal, noise), (d_signal, d_noise) = jax.jvp(path.powers, (t,), (jnp.ones_like(t),))
    return Point(t, safe_sqrt(signal), safe_sqrt(noise), d_signal, d_noise)


class Move(NamedTuple):
    """One step to take for one sample: the denoiser (of x_t and t), the path at both times, and a key."""

    denoise: Callable[[Sample, Float[Array, ""]], Sample]
    path: Path
    late: Point
    early: Point
    key: Key[Array, ""]

    def estimate(self, xt: Sample) -> Sample:
        """x̂ at the later time."""
        return self.denoise(xt, self.late.t)


class Sampler(eqx.Module):
    """Abstract sampler: a step is (sample, memory, move) -> (sample, memory).

    `needs_signal`: the path must have some signal at the first time. `order`: of convergence in the step, in the
    marginals for a random one.
    """

    needs_signal: eqx.AbstractClassVar[bool]
    order: eqx.AbstractClassVar[int]

    @abc.abstractmethod
    def step(self, xt: Sample, memory: PyTree, move: Move) -> tuple[Sample, PyTree]:
        """One step for one sample."""

    def start(self, xt: Sample, path: Path) -> PyTree:
        """What the first step remembers: nothing."""
        return None

    def last(self, xt: Sample, memory: PyTree, move: Move) -> Sample:
        """The last step of a path that starts clean: DDIM's."""
        return ddim_step(xt, move)

    def to_clean(self, xt: Sample, move: Move) -> Sample:
        """The step from the earliest time of a path that does not start clean to x0: DDIM's, which says x̂."""
        return ddim_step(xt, move)


def ddim_step(xt: Sample, move: Move) -> Sample:
    """a x̂ + s ε̂, with ε̂ = (x_t - A x̂)/S. Source: Song et al. 2021, "Denoising diffusion implicit models", eq. 12."""
    kept = move.early.noise / move.late.noise
    data = move.early.signal - move.late.signal * kept
    return mix(move.path, (kept, xt), (data, move.estimate(xt)))
