"""Time grids: falling times at which a sampler stops, from noise (t = 1) to data (t = 0).

With u = 0, 1/N, ..., 1:

    uniform       t = 1 - u
    quadratic     t = (1 - u)²                                     finer near the data (DDIM, appendix D.2)
    edm           σ = (σ_hi^{1/ρ} (1-u) + σ_lo^{1/ρ} u)^ρ, ρ = 7   Karras et al. 2022, eq. 5; σ = noise / signal
    log_snr       log-SNR uniform                                  Lu et al. 2022 (DPM-Solver)
    equal_angle   θ = arctan(√D signal / noise) uniform            equal steps for DDIM on data of variance D

The last three place their times by log-SNR, which is infinite at the ends of most paths; they run between the ends of
`path.t_range` and take one more step to t = 0 where the path starts clean. On per-frequency paths log-SNR is that of
the reference frequency. On a path that does not start clean (EDM) samplers denoise once more after the last time: such
a grid ends at `path.t_range[0]` and has one time fewer, so that `steps` always counts the sampler's steps.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory._checks import is_concrete, require
from theory.path_base import Path

GRIDS = ("uniform", "quadratic", "edm", "log_snr", "equal_angle")
"""Names of the grids."""
RHO = 7.0


def time_grid(
    path: Path, steps: int, kind: str = "uniform", *, first: float = 1.0, variance: float = 1.0
) -> Float[Array, " k"]:
    """Falling times for `steps` steps: `steps` + 1 of them, or `steps` on a path that does not start clean.

    **Arguments:**

    - `steps`: at least 1 (2 on a path that does not start clean). `kind`: one of `GRIDS`.
    - `first`: the earliest noise that "uniform" and "quadratic" start from, in (0, 1]; `path.t_range[1]` for samplers
      that need some signal there (see `sim.samplers`). The other grids start at or below `path.t_range[1]`.
    - `variance`: D > 0 of the "equal_angle" grid, the data's variance at the reference frequency.

    Float64 where enabled. Raises `ValueError` outside these ranges.
    """
    require(kind in GRIDS, "kind", repr(kind), "one of " + ", ".join(GRIDS))
    least = 1 if path.starts_clean else 2
    whole = isinstance(steps, int | np.integer) and not isinstance(steps, bool)
    require(whole and steps >= least, "steps", steps, f"an integer >= {least}")
    require(0 < first <= 1, "first", first, "in (0, 1]")
    require(variance > 0 and math.isfinite(variance), "variance", variance, "finite and positive")
    last = 0.0 if path.starts_clean else path.t_range[0]
    require(first > path.t_range[0], "first", first, f"later than path.t_range[0] = {path.t_range[0]:g}")
    if kind in ("uniform", "quadratic"):
        u = np.linspace(0.0, 1.0, steps + 1 if path.starts_clean else steps)
        return jnp.asarray(last + (first - last) * ((1 - u) if kind == "uniform" else (1 - u) ** 2))
    return _by_log_snr(path, steps, kind, min(first, path.t_range[1]), variance)


def _by_log_snr(path: Path, steps: int, kind: str, first: float, variance: float) -> Float[Array, " k"]:
    """A grid uniform in a function of log-SNR between `first` and the path's earliest time, 0 appended."""
    if steps == 1:
        return jnp.asarray([first, 0.0])
    last = path.t_range[0]
    ends = [float(path.reference_log_snr(t)) for t in (first, last)]
    u = np.linspace(0.0, 1.0, steps)[1:-1]
    inner = np.asarray(_times_at(path, jnp.asarray(_levels(kind, ends, u, variance)))) if u.size else u
    return jnp.asarray([first, *inner, last, *([0.0] if path.starts_clean else [])])


@eqx.filter_jit
def _times_at(path: Path, levels: Float[Array, " k"]) -> Float[Array, " k"]:
    return jax.vmap(path.time_at)(levels)


def _levels(kind: str, ends: list[float], u: np.ndarray, variance: float) -> np.ndarray:
    """Log-SNRs at u in (0, 1) between those of the ends."""
    noisy, clean = ends
    if kind == "log_snr":
        return noisy + u * (clean - noisy)
    if kind == "edm":
        high, low = math.exp(-noisy / 2 / RHO), math.exp(-clean / 2 / RHO)
        return -2 * RHO * np.log(high * (1 - u) + low * u)
    low, high = (math.atan(math.sqrt(variance) * math.exp(end / 2)) for end in ends)
    return 2 * np.log(np.tan(low + u * (high - low))) - math.log(variance)


def check_times(times: Float[Array, " k"]) -> None:
    """Raise `ValueError` unless `times` are two or more, falling, within [0, 1]."""
    require(times.ndim == 1 and times.size >= 2, "times", f"shape {times.shape}", "a list of 2 or more times")
    if is_concrete(times):
        values = np.asarray(times)
        falling = bool(np.all(np.diff(values) < 0) and values[-1] >= 0 and values[0] <= 1)
        require(falling, "times", f"{values[0]:g} ... {values[-1]:g}", "falling, within [0, 1]")
