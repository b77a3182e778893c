"""Bad data at the right noise, on the line: the laws that exact denoisers generate under a gate; points noised once.

*Generated laws.* The probability flow on the line is monotone, so that the law it generates is known from where it
takes the quantiles of its start. An exact empirical denoiser memorises: at noise 0 it generates training points, and TV
to a density is 1 whatever the training set. The comparison there is in W2: which points, and in which shares. Under a
gate the clean points alone are left at low noise, while their shares were settled at high noise, by all points.

*Noised once.* The optimum over kept noisy points (`AmbientEmpiricalDenoiser`) against E[x0 | x_t] under p_0:
E (x̂0 - E[x0 | x_t])², x_t ~ p_0 * N(0, σ²), by quadrature.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key
from scipy.special import ndtri

from sim.empirical import AmbientEmpiricalDenoiser, EmpiricalDenoiser, keep_points
from sim.experiments.ambient_compare import cross_fitted
from sim.experiments.ambient_learners import flow
from sim.experiments.ambient_line import NODES, REACH, line_case, quantile, training_sets
from sim.intervals import mean_interval, paired_difference
from sim.sampler_base import Denoiser
from sim.times import time_grid
from theory.gates import GateTimes, buffer_noise, gate_times
from theory.paths import VarianceExploding
from theory.total_variation import Line


def flow_path() -> VarianceExploding:
    """The path of the experiments on the line: σ from 0.002 to 20."""
    return VarianceExploding(sigma_min=0.002, sigma_max=20.0)


def generated_quantiles(
    denoiser: Denoiser, path: VarianceExploding, times: Float[Array, " k"], *, count: int = 256, mean: float = 0.5,
    std: float = 0.266,
) -> Float[Array, " count"]:  # fmt: skip
    """Where the probability flow (EDM's Heun) of a denoiser on the line takes `count` quantiles of its start.

    Any denoiser of samples of shape (1,) on this path; `times` as of `time_grid(path, steps, "edm")`. It starts from
    N(mean, sigma_max² + std²), `mean` and `std` those of the data. Sorted; where the flow is monotone (as the
    exact one is) they are the quantiles of what it generates.
    """
    u = (np.arange(count) + 0.5) / count
    start = mean + math.hypot(float(path.sigma_max), std) * jnp.asarray(ndtri(u))
    return jnp.sort(flow(denoiser, path, times, start[:, None])[:, 0])


def wasserstein2_squared_to_clean(quantiles: Float[Array, " count"]) -> Float[Array, ""]:
    """W2² between p_0 and the law with these equally likely values in rising order, by the midpoint rule."""
    u = (jnp.arange(quantiles.size) + 0.5) / quantiles.size
    return jnp.mean((quantiles - quantile(u)) ** 2)


def _gates(path: VarianceExploding, n_clean: int, n: int, sigma_min: float, max_weight: float) -> GateTimes:
    """Clean points always, degraded ones from the buffer of `sigma_min` on (inf: never)."""
    low = np.where(np.arange(n) < n_clean, 0.0, sigma_min)
    return gate_times(path, low, max_weight=max_weight)


@eqx.filter_jit
def _raw_error(path: VarianceExploding, points: Array, gates: GateTimes, times: Array, count: int) -> Array:
    """W2² of what each training set (r, n) generates under one gate."""

    def one(row: Array) -> Array:
        denoiser = EmpiricalDenoiser(path, row[:, None], gates=gates)
        return wasserstein2_squared_to_clean(generated_quantiles(denoiser, path, times, count=count))

    return jax.lax.map(one, points)


@eqx.filter_jit
def _kept_error(
    path: VarianceExploding, points: Array, gates: GateTimes, key: Key[Array, ""], times: Array, count: int
) -> Array:
    """The same with degraded points noised once and kept."""

    def one(argument: tuple[Array, Array]) -> Array:
        row, own = argument
        kept = keep_points(path, row[:, None], gates, own)
        denoiser = AmbientEmpiricalDenoiser(path, row[:, None], kept, gates)
        return wasserstein2_squared_to_clean(generated_quantiles(denoiser, path, times, count=count))

    return jax.lax.map(one, (points, jax.random.split(key, len(points))))


def flow_cell(
    name: str, n_clean: int, n_degraded: int, sigma_mins: np.ndarray, repeats: int, steps: int, count: int,
    key: Key[Array, ""],
) -> dict:  # fmt: skip
    """W2² of the generated law against sigma_min: 0 is everything, inf clean only; the rest gated."""
    path, points = flow_path(), training_sets(name, n_clean, n_degraded, repeats, key)
    times = time_grid(path, steps, "edm")
    levels = [0.0, *map(float, sigma_mins), math.inf]
    gates = [_gates(path, n_clean, n_clean + n_degraded, s, 4.0) for s in levels]
    errors = np.stack([np.asarray(_raw_error(path, points, gate, times, count)) for gate in gates], axis=1)
    return {
        "sigma_min": sigma_mins,
        "everything": mean_interval(errors[:, 0]),
        "gated": mean_interval(errors[:, 1:-1]),
        "clean": mean_interval(errors[:, -1]),
        "best": cross_fitted(errors[:, 1:-1], errors[:, -1], errors[:, 0]),
    }


@eqx.filter_jit
def _excess(
    path: VarianceExploding, points: Array, gates: GateTimes, t: Array, key: Key[Array, ""], law: tuple[Array, ...]
) -> tuple[Array, Array]:
    """∫ (x̂0 - E_p[x0 | x_t])² p_σ for each training set: noised once, and noised afresh, under one gate."""
    x, weight, truth = law

    def one(argument: tuple[Array, Array]) -> tuple[Array, Array]:
        row, own = argument
        kept = keep_points(path, row[:, None], gates, own)
        once = AmbientEmpiricalDenoiser(path, row[:, None], kept, gates)
        afresh = EmpiricalDenoiser(path, row[:, None], gates=gates)
        error = lambda denoiser: weight @ (jax.vmap(denoiser, (0, None))(x[:, None], t)[:, 0] - truth) ** 2  # noqa: E731
        return error(once), error(afresh)

    return jax.lax.map(one, (points, jax.random.split(key, len(points))))


def posterior_on_grid(law: Line, noise_std: float) -> tuple[Array, Array, Array]:
    """Nodes x, weights p_σ(x) dx and E[x0 | x_t = x] of a law of atoms under noise."""
    x = np.linspace(-REACH * noise_std, 1 + REACH * noise_std, NODES)
    joint = np.exp(-0.5 * ((x[:, None] - law.means) / noise_std) ** 2) * law.weights
    total = joint.sum(axis=1)
    weight = total / total.sum()
    return jnp.asarray(x), jnp.asarray(weight), jnp.asarray(joint @ law.means / total)


def buffer_cell(
    name: str, n_clean: int, n_degraded: int, sigma_min: float, ratios: np.ndarray, weights: np.ndarray,
    repeats: int, flow_repeats: int, steps: int, count: int, key: Key[Array, ""],
) -> dict:  # fmt: skip
    """What the largest weight costs when points are noised once: the error of x̂0 at σ = ratio · sigma_min, and W2² of
    the generated law for each largest weight (which sets where the gate opens), noised once and afresh.
    """
    path, n = flow_path(), n_clean + n_degraded
    key_data, key_noise = jax.random.split(key)
    points = training_sets(name, n_clean, n_degraded, repeats, key_data)
    errors = _buffer_errors(path, name, points, n_clean, sigma_min, ratios, key_noise)
    gates = [_gates(path, n_clean, n, sigma_min, float(w)) for w in weights]
    times, some = time_grid(path, steps, "edm"), points[:flow_repeats]
    once = np.stack([np.asarray(_kept_error(path, some, g, key_noise, times, count)) for g in gates], axis=1)
    afresh = np.stack([np.asarray(_raw_error(path, some, g, times, count)) for g in gates], axis=1)
    return {
        "sigma_min": sigma_min,
        "ratios": ratios,
        **errors,
        "weights": weights,
        "opens_at": [float(buffer_noise(1.0, w)) for w in weights],
        "cost_of_once": paired_difference(once, afresh),
    }


def _buffer_errors(
    path: VarianceExploding, name: str, points: Array, n_clean: int, sigma_min: float, ratios: np.ndarray,
    key: Key[Array, ""],
) -> dict:  # fmt: skip
    """Errors of x̂0 at each ratio: noised once, noised afresh, clean only, and what noising once gains over the last."""
    n, law = points.shape[1], line_case(name).clean
    gate, closed = _gates(path, n_clean, n, sigma_min, 4.0), _gates(path, n_clean, n, math.inf, 4.0)
    at_once = GateTimes(gate.t_max, gate.t_n, gate.t_n)
    columns = []
    for sigma in ratios * sigma_min:
        t, nodes = path.time_at(-2 * math.log(sigma)), posterior_on_grid(law, float(sigma))
        both = _excess(path, points, at_once, t, key, nodes)
        columns.append([*both, _excess(path, points, closed, t, key, nodes)[1]])
    once, afresh, alone = np.moveaxis(np.asarray(columns), 0, 2)
    parts = {"once": once, "afresh": afresh, "clean": alone, "gain": alone - once}
    return {key: mean_interval(values) for key, values in parts.items()}
