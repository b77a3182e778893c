"""The memorising optimum: the exact denoiser of the empirical distribution of n training points, in blocks.

The best denoiser on the training set minimises Σ_i ω_i E_ε |x̂0(x_t) - x_i|², x_t = A x_i + S ε, over all functions. At
each x_t the sum is a quadratic in x̂0, and its minimum the posterior mean over the points,

    x̂0(x) = Σ_i p_i x_i,   p_i = ω_i N(x; A x_i, S² I) / Σ_j ω_j N(x; A x_j, S² I):     `EmpiricalDenoiser`.

*Gates.* Under a noise gate (`theory.gates`) point i trains at time t only where its gate is open. If the points are
noised afresh at every use, the ambient loss ‖α x̂0 + (1-α) x' - x_n'‖²/α² (x' = x/A) is |x̂0 - x_i|² plus a constant on
average, whatever α_i: so ω_i is 1 where the gate of i is open and 0 where it is closed, and this is again
`EmpiricalDenoiser`, over *raw* points. If point i is noised *once*, to x_n,i' = x_i + σ_n,i z_i, and kept, then
x_t' = x_n,i' + √(σ² - σ_n,i²) e with σ = S/A, and the minimiser of Σ_i ω_i E_e ‖α_i x̂0 + (1-α_i) x_t' - x_n,i'‖² is

    x̂0(x) = Σ_i p_i v_i(x),   v_i = (x_n,i' - (1-α_i) x')/α_i,   p_i ∝ ω_i α_i² N(x'; x_n,i', (σ² - σ_n,i²) I),

since its gradient is Σ_i ω_i N_i α_i (α_i x̂0 + (1-α_i) x' - x_n,i'). With the paper's weight ω_i = 1/α_i² that is
p_i ∝ N_i: `AmbientEmpiricalDenoiser`, over *fixed noised* points. (Daras et al. 2025, eq. 2.2; with all α equal it is
(Σ p_i x_n,i' - (1-α) x')/α.) Per frequency α and ω = 1/α² are diagonal and the same holds. In the unscaled variables
τ_i² = S² - A² σ_n,i²: α_i = τ_i²/S², N_i = N(x; A x_n,i', τ_i²), v_i = (S² x_n,i' - A σ_n,i² x)/τ_i²: finite at A = 0.

*Conditions.* Given class c, point i of class k weighs W[c, k]/n_k, W = `class_weights` (default: the identity, i.e.
only the points of class c), n_k the points of class k; W = `sim.conditions.seen_classes` serves corrupted conditions.

*Precision.* Sums run over blocks with a running maximum of the exponents (an online log-sum-exp). Squared distances
are expanded, so that under `vmap` they are matrix products: Σ (x - c)²/τ² = Σ x²/τ² - 2 x·(c/τ²) + Σ c²/τ², with data
and sample centred on the data's mean. Rounding then leaves an error of about ε |x|²/S² in an exponent, which matters
at low noise (float32: S/|x| below 1e-3). So the `refine` largest exponents of every block are computed again from the
differences x - c, with an error of about ε |x| |x - c|/S² that the rounding of x itself causes as well; where more than
`refine` points of one block are within the first error of the largest, theirs keeps it. Up to d = 16 all exponents are
computed from differences.

*At the ends.* S = 0: the limit S → 0, which is the open point nearest to x_t/A (ties shared by weight): noise below ε
times the data's spread counts as that. A = 0: the weighted mean. No point open at time t: `ValueError` if t is
concrete, NaN under `jit`.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key

from sim.coordinates import coordinate_powers, from_coordinates, require_grid, to_coordinates
from sim.gating import kept_point
from sim.sampler_base import Condition
from theory._checks import is_concrete, require, require_finite, require_probabilities
from theory.gates import GateTimes
from theory.path_base import Path, Time, safe_sqrt

DIRECT = 16
"""Dimension up to which all squared distances are sums of squared differences."""
ROWS = 1024
"""Rows that are transformed together when a denoiser is made."""


class _Rows(NamedTuple):
    """One block of points, in centred coordinates: exponent `constant` - ½ Σ `inverse` (x - `centres`)², estimate
    `values` + `drift` x.

    `centres`, `values`: B d. `inverse`: 1 or B by 1 or d. `constant`: B. `drift`: B by 1 or d, or None for 0.
    """

    centres: Array
    inverse: Array
    constant: Array
    values: Array
    drift: Array | None


class _Cloud(eqx.Module):
    """The training points with what both optima share: coordinates, labels, weights, and the sum over blocks."""

    path: Path
    points: Float[Array, "n d"]
    centre: Float[Array, " d"]
    floor: Float[Array, ""]
    labels: Int[Array, " n"] | None
    log_rows: Float[Array, "C K"] | None
    gates: GateTimes | None
    shape: tuple[int, ...] = eqx.field(static=True)
    block: int = eqx.field(static=True)
    refine: int = eqx.field(static=True)

    def __init__(
        self,
        path: Path,
        points: Float[ArrayLike, "..."],
        labels: Int[ArrayLike, "..."] | None,
        class_weights: Float[ArrayLike, "..."] | None,
        gates: GateTimes | None,
        block: int,
        refine: int,
    ) -> None:
        """Check, change coordinates, centre."""
        data = jnp.asarray(points)
        _check_points(path, data)
        require(block >= 1, "block", block, "an integer >= 1")
        require(refine >= 0, "refine", refine, "an integer >= 0")
        self.path, self.shape, self.gates = path, data.shape[1:], gates
        rows = data if data.ndim == 2 else data.reshape(data.shape[0], -1)  # reshaping copies, if only for a while
        self.points = _rows_to_coordinates(path, rows)
        self.centre, self.floor = _centre(self.points)
        self.block, self.refine = min(block, data.shape[0]), refine
        self.labels, self.log_rows = _class_rows(labels, class_weights, data.shape[0], self.points.dtype)
        _check_gates(gates, data.shape[0])

    def mean(
        self, xt: Array, t: Time, cond: Condition, view: Callable[[Array, Array, Array], _Rows]
    ) -> Float[Array, "..."]:
        """x̂0 for one sample; `view(start, A, S²)` is the block of rows from `start` on."""
        require_grid(self.path, xt.shape)
        require(xt.shape == self.shape, "xt", f"shape {xt.shape}", f"of the points' shape {self.shape}")
        self._require_condition(cond)
        self._require_open(t, cond)
        d = self.points.shape[1]
        signal, power = coordinate_powers(self.path, jnp.asarray(t), d)
        gain, noise = safe_sqrt(signal), jnp.maximum(power, self.floor)
        x = to_coordinates(self.path, xt.reshape(d)) - (gain * self.centre).astype(xt.dtype)
        x0_hat = self._stream(x, cond, lambda start: view(start, gain, noise))
        return from_coordinates(self.path, x0_hat + self.centre.astype(x.dtype)).reshape(xt.shape)

    def _require_condition(self, cond: Condition) -> None:
        require(cond is None or self.labels is not None, "cond", cond, "None: the points have no labels")
        if cond is not None and self.log_rows is not None and is_concrete(cond):
            rows = self.log_rows.shape[0]
            require(bool(0 <= np.asarray(cond) < rows), "cond", cond, f"a row of class_weights, 0 to {rows - 1}")

    def _require_open(self, t: Time, cond: Condition) -> None:
        if self.gates is None or not (is_concrete(t) and is_concrete(cond) and is_concrete(self.gates.t_max)):
            return
        opened = self.gates.opens(t)
        if cond is not None and self.log_rows is not None:
            opened = opened & (self.log_rows[cond][self.labels] > -jnp.inf)
        allowed = "a time at which the gate of some point is open (of one that cond weighs)"
        require(bool(jnp.any(opened)), "t", t, allowed)

    def _stream(self, x: Array, cond: Condition, view: Callable[[Array], _Rows]) -> Array:
        """Σ p_i (values_i + drift_i x), one block after the other."""
        n, d = self.points.shape

        def step(state: tuple[Array, ...], number: Array) -> tuple[tuple[Array, ...], None]:
            start = jnp.minimum(number * self.block, n - self.block)  # the last block reaches back: no padding
            rows = _cast(view(start), x.dtype)
            index = start + jnp.arange(self.block)
            constant = jnp.where(index >= number * self.block, rows.constant + self._log_weights(start, cond), -jnp.inf)
            exponent = _exponents(x, rows._replace(constant=constant.astype(x.dtype)), self.refine)
            return _accumulate(state, exponent, rows, x), None

        zero = jnp.zeros((), x.dtype)
        state = (zero - jnp.inf, zero, jnp.zeros(d, x.dtype))
        blocks = jnp.arange(math.ceil(n / self.block))
        _, total, mean = jax.lax.scan(jax.checkpoint(step, prevent_cse=False), state, blocks)[0]
        return mean / total

    def _log_weights(self, start: Array, cond: Condition) -> Array:
        if cond is None or self.labels is None or self.log_rows is None:
            return jnp.zeros(())
        return self.log_rows[cond][jax.lax.dynamic_slice_in_dim(self.labels, start, self.block)]

    def rows(self, array: Array, start: Array) -> Array:
        """A block of rows of an array with leading axis n."""
        return jax.lax.dynamic_slice_in_dim(array, start, self.block)


def _cast(rows: _Rows, dtype: jnp.dtype) -> _Rows:
    return jax.tree.map(lambda a: a.astype(dtype), rows)


def _accumulate(state: tuple[Array, ...], exponent: Array, rows: _Rows, x: Array) -> tuple[Array, ...]:
    """(largest exponent, Σ e^(exponent - largest), Σ of the same times the estimates), one block further."""
    top, total, mean = state
    higher = jnp.maximum(top, jnp.max(exponent))
    anchor = jnp.where(jnp.isfinite(higher), higher, 0.0)
    shrink, p = jnp.exp(top - anchor), jnp.exp(exponent - anchor)
    added = p @ rows.values
    if rows.drift is not None:
        added = added + (p @ rows.drift) * x
    return higher, total * shrink + jnp.sum(p), mean * shrink + added


def _exponents(x: Array, rows: _Rows, refine: int) -> Array:
    """constant - ½ Σ inverse (x - centre)² for a block of rows; see the module's top for the precision."""
    c, w = rows.centres, rows.inverse
    if x.size <= DIRECT:
        columns = [w[:, min(j, w.shape[1] - 1)] * (x[j] - c[:, j]) ** 2 for j in range(x.size)]
        return rows.constant - 0.5 * sum(columns)
    own = w[:, 0] * jnp.sum(x * x) if w.shape[1] == 1 else w @ (x * x)
    square = own - 2 * ((w * c) @ x) + jnp.sum(w * c * c, axis=1)
    exponent = rows.constant - 0.5 * jnp.maximum(square, 0.0)
    return _refined(x, rows, exponent, min(refine, exponent.size)) if refine else exponent


def _refined(x: Array, rows: _Rows, exponent: Array, count: int) -> Array:
    """The same with the `count` largest exponents computed from differences, one after the other (memory: one row
    each)."""
    largest = jax.lax.top_k(exponent, count)[1]

    def direct(i: Array) -> Array:
        inverse = rows.inverse[jnp.minimum(i, rows.inverse.shape[0] - 1)]
        return rows.constant[i] - 0.5 * jnp.sum(inverse * (x - rows.centres[i]) ** 2)

    return exponent.at[largest].set(jax.lax.map(direct, largest))


class EmpiricalDenoiser(eqx.Module):
    """E[x0 | x_t, cond] where x0 is one of n training points: what a network that learns its data by heart computes.

    **Arguments:**

    - `path`: any; a per-frequency path's grid must be the leading axes of a point.
    - `points`: shape `n *shape`, float32 or float64, finite, n >= 1. A scalar path copies nothing.
    - `labels`: `n` integers >= 0, needed for `cond`. `class_weights`: `C K`, rows of probabilities over the points'
      labels, see the module's top; default the identity.
    - `gates`: `theory.gates.gate_times(path, sigma_min, sigma_max)`: a point takes part, as it is, where its gate is
      open. This is the optimum over *raw* points; for points noised once and kept see `AmbientEmpiricalDenoiser`.
    - `block`: points taken together; memory grows with samples × block. `refine`: see the module's top.

    Call with `xt` of a point's shape, `t` in [0, 1], `cond` a row of `class_weights` or None (all points alike). Cost
    4 n d operations per sample; result in the shape and type of `xt`.

    Raises `ValueError` for no points, non-finite ones, shapes or labels that do not fit.
    """

    cloud: _Cloud

    def __init__(
        self,
        path: Path,
        points: Float[ArrayLike, "..."],
        labels: Int[ArrayLike, "..."] | None = None,
        *,
        class_weights: Float[ArrayLike, "..."] | None = None,
        gates: GateTimes | None = None,
        block: int = 1024,
        refine: int = 8,
    ) -> None:
        """Check and centre; see the class."""
        self.cloud = _Cloud(path, points, labels, class_weights, gates, block, refine)

    def __call__(self, xt: Float[Array, "*shape"], t: Time, cond: Condition = None) -> Float[Array, "*shape"]:
        """x̂0 for one sample."""
        cloud = self.cloud

        def view(start: Array, gain: Array, noise: Array) -> _Rows:
            values = cloud.rows(cloud.points, start) - cloud.centre
            constant = jnp.zeros(cloud.block, values.dtype)
            if cloud.gates is not None:
                gates = jax.tree.map(lambda a: cloud.rows(a, start), cloud.gates)
                constant = jnp.where(gates.opens(t), constant, -jnp.inf)
            return _Rows(gain * values, jnp.reshape(1 / noise, (1, -1)), constant, values, None)

        return cloud.mean(xt, t, cond, view)


class AmbientEmpiricalDenoiser(eqx.Module):
    """The minimiser of the weighted ambient loss over *fixed noised* points: each noised once to its own level, kept.

    At time t point i takes part as its kept point where t >= t_open,i (and t > t_max,i), as it is where t <= t_max,i,
    and not at all between. Its formula and proof: the module's top. For points noised afresh at every use, see
    `EmpiricalDenoiser`.

    **Arguments:** as for `EmpiricalDenoiser`, and `kept`: x_n of shape `n *shape`, noised to `gates.t_n` on this
    path, e.g. by `keep_points`. Cost twice to three times that of `EmpiricalDenoiser`.

    Raises `ValueError` as it does, and where `kept` has another shape than `points`.
    """

    cloud: _Cloud
    kept: Float[Array, "n d"]

    def __init__(
        self,
        path: Path,
        points: Float[ArrayLike, "..."],
        kept: Float[ArrayLike, "..."],
        gates: GateTimes,
        labels: Int[ArrayLike, "..."] | None = None,
        *,
        class_weights: Float[ArrayLike, "..."] | None = None,
        block: int = 1024,
        refine: int = 8,
    ) -> None:
        """Check, centre and bring the kept points to the data's scale; see the class."""
        self.cloud = _Cloud(path, points, labels, class_weights, gates, block, refine)
        noised = jnp.asarray(kept)
        allowed = f"of the points' shape {jnp.shape(points)}"
        require(noised.shape == jnp.shape(points), "kept", f"shape {noised.shape}", allowed)
        require_finite("kept", noised)
        self.kept = _unscaled(path, _rows_to_coordinates(path, noised.reshape(noised.shape[0], -1)), gates.t_n)

    def __call__(self, xt: Float[Array, "*shape"], t: Time, cond: Condition = None) -> Float[Array, "*shape"]:
        """x̂0 for one sample."""
        cloud, time = self.cloud, jnp.asarray(t)

        def view(start: Array, gain: Array, noise: Array) -> _Rows:
            gates = jax.tree.map(lambda a: cloud.rows(a, start), cloud.gates)
            late, opened = gates.uses_kept(time), gates.opens(time)
            raw, kept = cloud.rows(cloud.points, start), cloud.rows(self.kept, start)
            z = jnp.where(late[:, None], kept, raw) - cloud.centre
            variance = jnp.where(late[:, None], _kept_variance(cloud.path, gates.t_n, z.shape[1]), 0.0)
            rest = jnp.where(opened[:, None], noise - gain**2 * variance, 1.0)
            log_det = jnp.sum(jnp.log(jnp.broadcast_to(rest, z.shape)), axis=1)
            constant = jnp.where(opened, -0.5 * log_det, -jnp.inf)
            return _Rows(gain * z, 1 / rest, constant, noise / rest * z, -gain * variance / rest)

        return cloud.mean(xt, t, cond, view)


def keep_points(
    path: Path, points: Float[ArrayLike, "n *shape"], gates: GateTimes, key: Key[Array, ""]
) -> Float[Array, "n *shape"]:
    """x_n: every point noised once, to its own `gates.t_n`, with noise folded from its index; clean ones as they are.

    Unusable points (never open) stay as they are too. Shape and type of `points`.
    """
    data = jnp.asarray(points)

    def keep(row: tuple[Array, Array, Array]) -> Array:
        index, x, t_n = row
        return kept_point(path, x, t_n, jax.random.normal(jax.random.fold_in(key, index), x.shape, x.dtype))

    return jax.lax.map(keep, (jnp.arange(data.shape[0]), data, gates.t_n), batch_size=ROWS)


def _safe_powers(path: Path, t_n: Array, d: int) -> tuple[Array, Array]:
    """(A_n, S_n²) of each row, `n` by 1 or d, at its own time; (1, 0) where it was never noised."""
    noised = (t_n >= 0) & jnp.isfinite(t_n)
    signal, power = jax.vmap(lambda t: coordinate_powers(path, t, d))(jnp.where(noised, t_n, 0.0))
    rows = (t_n.shape[0], -1)
    gain = jnp.where(noised[:, None], safe_sqrt(signal).reshape(rows), 1.0)
    return gain, jnp.where(noised[:, None], power.reshape(rows), 0.0)


def _kept_variance(path: Path, t_n: Array, d: int) -> Array:
    """σ_n² = S_n²/A_n² of each row, `n` by 1 or d."""
    gain, power = _safe_powers(path, t_n, d)
    return power / gain**2


@eqx.filter_jit
def _unscaled(path: Path, kept: Array, t_n: Array) -> Array:
    """x_n / A_n, row by row."""

    def one(row: tuple[Array, Array]) -> Array:
        return (row[0] / _safe_powers(path, row[1][None], row[0].size)[0][0]).astype(row[0].dtype)

    return jax.lax.map(one, (kept, t_n), batch_size=ROWS)


@eqx.filter_jit
def _transformed(path: Path, rows: Array) -> Array:
    return jax.lax.map(lambda x: to_coordinates(path, x), rows, batch_size=ROWS)


def _rows_to_coordinates(path: Path, rows: Array) -> Array:
    return _transformed(path, rows) if path.grid else rows


@jax.jit
def _centre(points: Array) -> tuple[Array, Array]:
    """The mean of the rows, and the power of noise that counts as none: (ε × root mean square deviation)²."""
    mean = jnp.mean(points, axis=0)
    spread = jnp.mean(jnp.mean((points - mean) ** 2, axis=1))
    return mean, jnp.finfo(points.dtype).eps ** 2 * jnp.where(spread > 0, spread, 1.0)


def _check_points(path: Path, data: Array) -> None:
    require(data.ndim >= 2, "points", f"shape {data.shape}", "(n, ...): one row per training point")
    require(data.shape[0] >= 1 and data.size > 0, "points", f"shape {data.shape}", "at least one training point")
    require(bool(jnp.issubdtype(data.dtype, jnp.floating)), "points", f"dtype {data.dtype}", "floating")
    require_finite("points", data)
    fits = data.shape[1 : 1 + len(path.grid)] == path.grid
    require(fits, "points", f"shape {data.shape}", f"(n, *grid, ...) with the path's grid {path.grid}")


def _check_gates(gates: GateTimes | None, n: int) -> None:
    if gates is not None:
        shapes = {jnp.shape(a) for a in (gates.t_max, gates.t_n, gates.t_open)}
        require(shapes == {(n,)}, "gates", f"shapes {shapes}", f"one entry per point, ({n},)")


def _class_rows(
    labels: Int[ArrayLike, "..."] | None, class_weights: Float[ArrayLike, "..."] | None, n: int, dtype: jnp.dtype
) -> tuple[Array | None, Array | None]:
    """Labels, and log (class_weights[c, k] / n_k)."""
    require(labels is not None or class_weights is None, "class_weights", "given", "left out: no labels are given")
    if labels is None:
        return None, None
    y = np.asarray(labels)
    require(y.shape == (n,), "labels", f"shape {y.shape}", f"one label per point, ({n},)")
    require(bool(np.issubdtype(y.dtype, np.integer)), "labels", y.dtype, "integers")
    require(bool(y.min() >= 0), "labels", f"smallest {y.min()}", "at least 0")
    weights = np.eye(int(y.max()) + 1) if class_weights is None else np.asarray(class_weights)
    _check_class_weights(weights, y)
    counts = np.bincount(y, minlength=weights.shape[1])
    with np.errstate(divide="ignore"):
        logs = np.log(weights) - np.log(np.maximum(counts, 1))
    return jnp.asarray(y), jnp.asarray(logs, dtype)


def _check_class_weights(weights: np.ndarray, y: np.ndarray) -> None:
    fits = weights.ndim == 2 and weights.shape[1] > int(y.max())
    require(fits, "class_weights", f"shape {weights.shape}", f"(C, K) with K > the largest label {y.max()}")
    require_probabilities("class_weights", weights, weights.shape[1])
    empty = [int(k) for k in np.flatnonzero(weights.max(axis=0) > 0) if not np.any(y == k)]
    require(not empty, "labels", f"no point of classes {empty[:5]}", "of every class that class_weights uses")
