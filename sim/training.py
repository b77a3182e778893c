"""Training a small network on a data set, as one compiled scan: `fit`.

At every step a batch is drawn with replacement, with stratified times and fresh noise, and the mean of
`sim.loss.denoising_loss` is lowered by an optax optimiser. The denoiser returned has averaged weights,

    w̄ <- δ_s w̄ + (1 - δ_s) w,   δ_s = min(decay, (1 + s)/(10 + s))  at step s,

so that the average forgets the initial weights however short the training.

Whatever belongs to a sample (fixed corruption, the kept noise of a gate) is folded from its index; whatever belongs
to a step is folded from the step. So the result depends on the key alone: not on chunks, nor on the batch's order.

`fit` is pure and may be vmapped, to train several networks in one program:

    def one(key, points):
        key_network, key_fit = jax.random.split(key)
        network = ResidualMLP(2, 64, 3, key=key_network)
        return fit(network, path, Velocity(), points, key=key_fit, steps=2000, batch=128)

    fits = eqx.filter_vmap(one)(jax.random.split(key, repeats), data)         # data: (repeats, n, d)
    samples = eqx.filter_vmap(lambda denoiser: ...)(fits.denoiser)
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, PyTree, ScalarLike, Shaped

from sim.loss import TimeLaw, UniformTime, Weight, corrupted_loss, stratified, uniform
from sim.parameterisations import Network, Parameterisation, Predictor
from theory._checks import require, require_between, require_finite
from theory.corruption import Fixed, Fresh, VectorCorruption
from theory.gates import GateTimes
from theory.path_base import Path, Time

__all__ = ["CodeDenoiser", "ConditionOperators", "Conditions", "Fit", "adam", "averaged", "fit"]

Operator = Fixed | Fresh
Progress = Callable[[int, float], Any]
"""`progress(step, loss)`, called after every chunk with the steps done and the chunk's mean loss."""


class ConditionOperators(eqx.Module):
    """What becomes of a condition on its way to the network, in this order.

    A label passes through `label_operator` (flips), is replaced by its code, the code passes through `code_operator`
    (CEP, dropout, label smoothing), and is at last replaced by the null code with probability `null_rate`, afresh at
    every step (for guidance).

    **Arguments:** the operators: `Fixed(...)` or `Fresh(...)`, or None; `null_rate` in [0, 1]. Raises `ValueError` for
    a rate outside.
    """

    label_operator: Operator | None = None
    code_operator: Operator | None = None
    null_rate: ScalarLike = 0.0

    def __check_init__(self) -> None:
        """Check the rate."""
        require_between("null_rate", self.null_rate, 0.0, 1.0)

    def draw(
        self,
        key: Key[Array, ""],
        codes: Float[Array, "K d_emb"],
        null: Float[Array, " d_emb"],
        label: Int[Array, ""],
        index: Int[Array, ""],
        step: Int[Array, ""],
    ) -> Float[Array, " d_emb"]:
        """The code that sample `index`, of class `label`, is shown with at `step`, given the run's key."""
        key_label, _, _ = jax.random.split(key, 3)
        seen = _apply(self.label_operator, key_label, label, index, step)
        return self.draw_code(key, codes[seen], null, index, step)

    def draw_code(
        self,
        key: Key[Array, ""],
        code: Float[Array, "*m d_emb"],
        null: Float[Array, "*m d_emb"],
        index: Int[Array, ""],
        step: Int[Array, ""],
    ) -> Float[Array, "*m d_emb"]:
        """What sample `index` is shown with at `step` in place of its own `code`, a vector or a caption's tokens."""
        _, key_code, key_null = jax.random.split(key, 3)
        code = _apply(self.code_operator, key_code, code, index, step)
        key_now = jax.random.fold_in(jax.random.fold_in(key_null, index), step)
        return jnp.where(jax.random.bernoulli(key_now, jnp.asarray(self.null_rate)), null, code)


def _apply(
    operator: Operator | None, key: Key[Array, ""], value: Shaped[Array, "..."], index: Array, step: Array
) -> Shaped[Array, "..."]:
    if isinstance(operator, Fixed):
        return operator.sample(key, value, index)
    return value if operator is None else operator.sample(key, value, index, step)


class Conditions(eqx.Module):
    """What the network is told of each training point, and how that is corrupted; the null code is 0.

    **Arguments:** `labels`: classes 0 ... K - 1, shape `n`; `codes`: one row per class, shape `K d_emb`; `operators`.
    Raises `ValueError` for labels without a code and codes that are not finite.
    """

    labels: Int[Array, " n"]
    codes: Float[Array, "K d_emb"]
    operators: ConditionOperators = ConditionOperators()

    def __check_init__(self) -> None:
        """Check labels and codes."""
        require(self.labels.ndim == 1, "labels", f"shape {self.labels.shape}", "of shape (n,)")
        require(self.codes.ndim == 2, "codes", f"shape {self.codes.shape}", "of shape (K, d_emb)")
        require_between("labels", self.labels, 0.0, float(self.codes.shape[0] - 1))
        require_finite("codes", self.codes)

    def draw(self, key: Key[Array, ""], index: Int[Array, ""], step: Int[Array, ""]) -> Float[Array, " d_emb"]:
        """The code that point `index` is shown with at `step`, given the run's key."""
        return self.operators.draw(key, self.codes, jnp.zeros_like(self.codes[0]), self.labels[index], index, step)


class CodeDenoiser(eqx.Module):
    """A trained predictor as a denoiser `(xt, t, cond) -> x0_hat`, `cond` a class index, an embedding, or None.

    None is the null code 0: the unconditional denoiser if the null code was trained, or there were no conditions.
    """

    predictor: Predictor
    codes: Float[Array, "K d_emb"] | None = None

    def __call__(self, xt: Float[Array, "..."], t: Time, cond: Any = None) -> Float[Array, "..."]:
        """x̂0 at `xt`."""
        if self.codes is not None and cond is not None and jnp.issubdtype(jnp.result_type(cond), jnp.integer):
            cond = self.codes[cond]
        return self.predictor(xt, t, cond)


class Fit(eqx.Module):
    """What training gives: the `denoiser` of the averaged weights, and the batch loss of every step, shape `steps`."""

    denoiser: CodeDenoiser
    losses: Float[Array, " steps"]


class _State(eqx.Module):
    weights: PyTree
    average: PyTree
    moments: PyTree


class _Task(eqx.Module):
    """All that does not change during training."""

    static: PyTree
    path: Path
    parameterisation: Parameterisation
    points: Float[Array, "n ..."]
    conditions: Conditions | None
    gate: GateTimes | None
    input_operator: VectorCorruption | None
    weight: Weight
    times: TimeLaw
    key_batch: Key[Array, ""]
    key_sample: Key[Array, ""]
    decay: Float[Array, ""]
    batch: int = eqx.field(static=True)


@cache
def adam(steps: int, rate: float = 2e-3) -> optax.GradientTransformation:
    """The default optimiser: Adam, its rate falling from `rate` to 0 by a cosine over `steps`. One object for equal
    arguments, so that equal trainings compile once.
    """
    return optax.adam(optax.cosine_decay_schedule(rate, steps))


def fit(
    network: Network,
    path: Path,
    parameterisation: Parameterisation,
    points: Float[Array, "n ..."],
    conditions: Conditions | None = None,
    *,
    key: Key[Array, ""],
    steps: int,
    batch: int = 128,
    gate: GateTimes | None = None,
    input_operator: VectorCorruption | None = None,
    weight: Weight = uniform,
    times: TimeLaw | None = None,
    optimiser: optax.GradientTransformation | None = None,
    decay: float = 0.999,
    chunk: int | None = None,
    progress: Progress | None = None,
) -> Fit:
    """Train `network` for `steps` >= 1 steps of `batch` >= 1 points; the same key gives the same result, bit for bit.

    **Arguments:**

    - `network`: an Equinox module, called as `network(input, noise_label, cond)`, e.g. `ResidualMLP`.
    - `points`: data set, shape `n ...`, in the dtype to train in; `conditions`: what the network is told, if anything.
    - `gate`: per-sample noise gates (`gate_times`); `input_operator`: e.g. `InputPerturbation(0.1)`.
    - `weight`, `times`: see `sim.loss` (default: uniform, and times uniform on [0, 1]).
    - `optimiser`: default `adam(steps)`; `decay` in [0, 1): of the weights' average.
    - `chunk`: steps per compiled call, after each of which `progress(step, loss)` is called (not under vmap).

    Compiles once for equal shapes, sizes and (identical) optimiser. Raises `ValueError` for data that are empty or not
    finite, numbers of samples that do not agree, and sizes outside their ranges.
    """
    _check(points, conditions, gate, steps, batch)
    require(0 <= decay < 1, "decay", decay, "in [0, 1)")
    require(chunk is None or chunk >= 1, "chunk", chunk, "at least 1")
    optimiser = adam(steps) if optimiser is None else optimiser
    key_batch, key_sample = jax.random.split(key)
    weights, static = eqx.partition(network, eqx.is_inexact_array)
    law = UniformTime() if times is None else times
    task = _Task(
        static, path, parameterisation, points, conditions, gate, input_operator, weight, law, key_batch, key_sample,
        jnp.asarray(decay), batch,
    )  # fmt: skip
    state = _State(weights, weights, optimiser.init(weights))
    size = steps if progress is None and chunk is None else chunk or math.ceil(steps / 20)
    losses = []
    for start in range(0, steps, size):
        state, part = _advance(task, optimiser, state, jnp.asarray(start), min(size, steps - start))
        losses.append(part)
        if progress is not None:
            progress(start + part.shape[0], float(jnp.mean(part)))
    predictor = Predictor(eqx.combine(state.average, static), path, parameterisation)
    codes = None if conditions is None else conditions.codes
    return Fit(CodeDenoiser(predictor, codes), jnp.concatenate(losses))


def _check(points: Array, conditions: Conditions | None, gate: GateTimes | None, steps: int, batch: int) -> None:
    require(points.ndim >= 2 and points.shape[0] >= 1, "points", f"shape {points.shape}", "(n, ...) with n >= 1")
    require_finite("points", points)
    n = points.shape[0]
    given = {"labels": (n,) if conditions is None else conditions.labels.shape}
    given["gate"] = (n,) if gate is None else gate.t_n.shape
    for name, shape in given.items():
        require(shape == (n,), name, f"shape {shape}", f"one entry per point, ({n},)")
    require(steps >= 1, "steps", steps, "at least 1")
    require(batch >= 1, "batch", batch, "at least 1")


def averaged(average: PyTree, weights: PyTree, decay: ScalarLike, step: ScalarLike) -> PyTree:
    """The average of weights after `step` (module's top), in the average's own types; `decay` in [0, 1)."""
    keep = jnp.minimum(jnp.asarray(decay), (1 + step) / (10 + step))
    return jax.tree.map(lambda old, new: (old + (1 - keep) * (new - old)).astype(old.dtype), average, weights)


@eqx.filter_jit
def _advance(
    task: _Task, optimiser: optax.GradientTransformation, state: _State, start: Int[Array, ""], length: int
) -> tuple[_State, Float[Array, " length"]]:
    def step(state: _State, s: Int[Array, ""]) -> tuple[_State, Float[Array, ""]]:
        loss, slope = eqx.filter_value_and_grad(_batch_loss)(state.weights, task, s)
        updates, moments = optimiser.update(slope, state.moments, state.weights)
        weights = eqx.apply_updates(state.weights, updates)
        return _State(weights, averaged(state.average, weights, task.decay, s), moments), loss

    return jax.lax.scan(step, state, start + jnp.arange(length))


def _batch_loss(weights: PyTree, task: _Task, step: Int[Array, ""]) -> Float[Array, ""]:
    key_index, key_time, key_noise, key_seen = jax.random.split(jax.random.fold_in(task.key_batch, step), 4)
    n, dtype = task.points.shape[0], task.points.dtype
    index = jax.random.randint(key_index, (task.batch,), 0, n)
    u = stratified(key_time, task.batch).astype(dtype)
    eps = jax.random.normal(key_noise, (task.batch, *task.points.shape[1:]), dtype)
    keys = jax.random.split(key_seen, task.batch)
    predictor = Predictor(eqx.combine(weights, task.static), task.path, task.parameterisation)
    one = lambda *draws: _one_loss(predictor, task, step, *draws)  # noqa: E731
    return jnp.mean(jax.vmap(one)(index, u, eps, keys))


def _one_loss(
    predictor: Predictor,
    task: _Task,
    step: Int[Array, ""],
    index: Int[Array, ""],
    u: Float[Array, ""],
    eps: Float[Array, "..."],
    key: Key[Array, ""],
) -> Float[Array, ""]:
    """The loss of point `index` at the time of quantile `u`."""
    key_cond, key_kept = jax.random.split(task.key_sample)
    return corrupted_loss(
        predictor,
        task.points[index],
        task.times.quantile(task.path, u),
        eps,
        None if task.conditions is None else task.conditions.draw(key_cond, index, step),
        key=key,
        key_kept=jax.random.fold_in(key_kept, index),
        gate=None if task.gate is None else task.gate[index],
        input_operator=task.input_operator,
        weight=task.weight,
    )
