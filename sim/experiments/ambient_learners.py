"""Learners under noise gates: a class's exact optimum at every noise level, over the points whose gate is open there.

- linear: E[x0 | x_t] for Gaussian data of the open points' mean and covariance (`GatedGaussianDenoiser`). It generates
  a Gaussian, known exactly, since its sampler is an affine map.
- memorising: the posterior mean over the open points (`sim.empirical.EmpiricalDenoiser`). It generates points of the
  training set that are open at noise 0, clean ones if gated, so that what gating changes is their shares.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int

from sim.affine import affine_image
from sim.coordinates import coordinate_powers, from_coordinates, require_grid, to_coordinates
from sim.empirical import EmpiricalDenoiser
from sim.sampler_base import Denoiser
from sim.samplers import SigmaHeun
from sim.sampling import sample
from theory._checks import is_concrete, require, require_finite
from theory.gates import GateTimes, gate_times
from theory.gaussian import Gaussian
from theory.path_base import Path, Time, safe_sqrt


class GatedGaussianDenoiser(eqx.Module):
    """The best linear denoiser at every noise level over the points whose gate is open there: E[x0 | x_t] for Gaussian
    data of their mean and (biased) covariance, the points taking part as they are, noised afresh.

    **Arguments:** `path`: any (a per-frequency path's grid must be the leading axes of a point); `points`: `n *shape`,
    float; `groups`: for each point the number of its group, below G; `gates`: one entry per group (arrays of shape G,
    `sim.gating.gate_times`). Call with `xt` of a point's shape and `t`; `cond` is not used. NaN where no gate is open.

    Raises `ValueError` for non-finite points, or gates and groups that do not fit.
    """

    path: Path
    gates: GateTimes
    counts: Float[Array, " G"]
    centre: Float[Array, " d"]
    sums: Float[Array, "G d"]
    squares: Float[Array, "G d d"]

    def __init__(
        self, path: Path, points: Float[ArrayLike, "n *shape"], groups: Int[ArrayLike, " n"], gates: GateTimes
    ) -> None:
        """Check, change to the path's coordinates, and sum x and x xᵀ (about the mean of all points) by group."""
        data, which = jnp.asarray(points), jnp.asarray(groups)
        require_finite("points", data)
        require(which.shape == data.shape[:1], "groups", f"shape {which.shape}", "one per point")
        size = gates.t_open.shape[0]
        fits = not is_concrete(which) or bool(jnp.all((which >= 0) & (which < size)))
        require(fits, "groups", "a number without a gate", f"below {size}, the number of gates")
        rows = data.reshape(data.shape[0], -1)
        rows = jax.vmap(lambda x: to_coordinates(path, x))(rows) if path.grid else rows
        self.path, self.gates, self.centre = path, gates, jnp.mean(rows, axis=0)
        member = (which == jnp.arange(size)[:, None]).astype(rows.dtype)
        centred = rows - self.centre
        self.counts, self.sums = jnp.sum(member, axis=1), member @ centred
        self.squares = jax.lax.map(lambda share: (share[:, None] * centred).T @ centred, member)

    def moments(self, t: Time) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
        """Mean and covariance of the open points, in the path's coordinates."""
        opened = self.gates.opens(t).astype(self.sums.dtype)
        total = opened @ self.counts
        mean = opened @ self.sums / total
        return self.centre + mean, jnp.tensordot(opened, self.squares, 1) / total - jnp.outer(mean, mean)

    def __call__(self, xt: Float[Array, "*shape"], t: Time, cond: object = None) -> Float[Array, "*shape"]:
        """x̂0 for one sample: m + S A (A S A + noise²)⁻¹ (x_t - A m)."""
        require_grid(self.path, xt.shape)
        d = self.centre.size
        require(xt.size == d, "xt", f"shape {xt.shape}", f"of {d} entries, as the points")
        mean, cov = self.moments(t)
        signal, noise = (jnp.broadcast_to(a, (d,)) for a in coordinate_powers(self.path, jnp.asarray(t), d))
        gain = safe_sqrt(signal)
        factor = jax.scipy.linalg.cho_factor(gain[:, None] * cov * gain + jnp.diag(noise))
        matrix = jax.scipy.linalg.cho_solve(factor, gain[:, None] * cov).T
        x = to_coordinates(self.path, xt.reshape(d))
        x0_hat = mean + matrix @ (x - gain * mean)
        return from_coordinates(self.path, x0_hat.astype(xt.dtype)).reshape(xt.shape)


def scan_gates(path: Path, sigma_mins: Float[np.ndarray, " k"], *, max_weight: float = 4.0) -> GateTimes:
    """Gates of shape (k, 2): group 0, the clean points, is always open, group 1 from the buffer of each sigma_min on
    (0: always, inf: never). Raises `ValueError` for a negative sigma_min.
    """
    gates = gate_times(path, np.concatenate([[0.0], sigma_mins]), max_weight=max_weight)
    return jax.tree.map(lambda a: jnp.stack([jnp.full(len(sigma_mins), a[0]), a[1:]], axis=1), gates)


def flow(
    denoiser: Denoiser, path: Path, times: Float[Array, " k"], starts: Float[Array, "m *shape"]
) -> Float[Array, "m *shape"]:
    """Where the probability flow (EDM's Heun) of any denoiser takes `starts`."""
    return jnp.asarray(sample(denoiser, path, SigmaHeun(), times, starts, jax.random.key(0)))


@eqx.filter_jit
def generated_gaussians(
    path: Path, points: Float[Array, "n d"], groups: Int[Array, " n"], gates: GateTimes, times: Float[Array, " k"],
    noise_std: Float[Array, ""],
) -> Gaussian:  # fmt: skip
    """What the linear learner makes of N(mean of the open points, noise_std² I) for each of s gatings (arrays s by
    number of groups): a batch of s Gaussians."""
    learner = GatedGaussianDenoiser(path, points, groups, jax.tree.map(lambda a: a[0], gates))

    def one(gate: GateTimes) -> Gaussian:
        denoiser = eqx.tree_at(lambda module: module.gates, learner, gate)
        return affine_image(denoiser, path, SigmaHeun(), times, denoiser.moments(times[0])[0], noise_std)

    return jax.lax.map(one, gates)


@eqx.filter_jit
def remembered(
    path: Path,
    points: Float[Array, "n d"],
    groups: Int[Array, " n"],
    gates: GateTimes,
    times: Float[Array, " k"],
    starts: Float[Array, "m d"],
) -> Float[Array, "s m d"]:
    """What the memorising learner makes of `starts` for each of s gatings (arrays s by number of groups)."""

    def one(gate: GateTimes) -> Array:
        return flow(EmpiricalDenoiser(path, points, gates=gate[groups], refine=0), path, times, starts)

    return jax.lax.map(one, gates)
