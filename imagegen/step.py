"""One training step as one compiled program: path, operators, network, loss, optimiser, averages of weights.

    batch of n images -> times (stratified), noise -> mean of `sim.loss.corrupted_loss` -> gradient, clipped
    -> AdamW -> averages  w̄ <- δ w̄ + (1 - δ) w,  δ = min(decay, (1 + s)/(10 + s)) at step s

What belongs to a sample (fixed corruption, the kept noise of a gate) is folded from its index, what belongs to a step
from the step; so neither the number of devices nor that of accumulated parts changes what is drawn. A step whose
gradients are not finite leaves the weights as they are and is counted (`optax.apply_if_finite`).

*Devices.* One mesh (data, fsdp): a batch is split over all devices; parameters, averages and moments over `fsdp`.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, Float, Int, Key, PyTree, Shaped

from imagegen.config import Config
from imagegen.data.embeddings import Frozen
from imagegen.data.tokens import Vocabulary
from imagegen.hosts import within_process
from imagegen.model import (
    AnyModel,
    Encoded,
    TextModel,
    make_model,
    make_operators,
    make_parameterisation,
    trained,
    training_codes,
)
from imagegen.paths import make_path
from imagegen.statistics import Statistics
from imagegen.uses import shown
from sim.loss import LogNormalTime, MinSNR, TimeLaw, UniformTime, Weight, corrupted_loss, stratified, uniform
from sim.parameterisations import Parameterisation, Predictor
from sim.training import ConditionOperators, averaged
from theory._checks import require
from theory.corruption import InputPerturbation
from theory.gates import GateTimes
from theory.path_base import Path

Batch = Mapping[str, Shaped[Array, "n ..."]]
"""`image` (n, h, w, c), or of latents `mean` and `std` (n, 2, h, w, c) (`imagegen.uses`); `label` and `index` (n,);
with noise gates `t_max`, `t_n` and `t_open` (n,) too; where text is read, `tokens` (n, m) or `embedding` (n, m, d_emb).
"""
GATE = ("t_max", "t_n", "t_open")
SMALLEST = 2**14
"""Arrays of fewer entries are kept whole on every device."""


class State(eqx.Module):
    """All that training changes: parameters, averages of them (one per decay), the optimiser's moments, the step."""

    parameters: PyTree
    averages: tuple[PyTree, ...]
    moments: PyTree
    step: Int[Array, ""]


class Metrics(NamedTuple):
    """Of one step: mean loss of the batch, norm of the gradient before clipping, steps with non-finite gradients so
    far and in a row.
    """

    loss: Float[Array, ""]
    grad_norm: Float[Array, ""]
    skipped: Int[Array, ""]
    skipped_in_a_row: Int[Array, ""]


class Task(eqx.Module):
    """All that training does not change."""

    static: PyTree
    path: Path
    parameterisation: Parameterisation
    operators: ConditionOperators
    input_operator: InputPerturbation | None
    weight: Weight
    times: TimeLaw
    key_step: Key[Array, ""]
    key_sample: Key[Array, ""]
    config: Config = eqx.field(static=True)


Step = Callable[[State, Batch], tuple[State, Metrics]]


def schedule(config: Config) -> optax.Schedule:
    """Learning rate by step: a linear rise over `warmup` steps, then constant, or a cosine to 0 at the last step."""
    if not config.cosine:
        return optax.linear_schedule(0.0, config.learning_rate, max(1, config.warmup))
    return optax.warmup_cosine_decay_schedule(0.0, config.learning_rate, config.warmup, config.steps)


def make_optimiser(config: Config) -> optax.GradientTransformation:
    """Clipped AdamW that leaves out steps with non-finite gradients."""
    inner = optax.chain(
        optax.clip_by_global_norm(config.clip), optax.adamw(schedule(config), weight_decay=config.weight_decay)
    )
    return optax.apply_if_finite(inner, max_consecutive_errors=2**30)  # never let one pass: the loop stops the run


def make_mesh(config: Config, devices: Sequence[jax.Device]) -> Mesh:
    """Mesh (data, fsdp) of the devices, those of a process side by side, so that it reads one stretch of a batch.

    Raises `ValueError` where the devices, or the batch, do not divide, and where processes have not equally many.
    """
    count, parts = len(devices), config.accumulate
    owned = Counter(device.process_index for device in devices)
    equal = len(owned) == jax.process_count() and len(set(owned.values())) == 1
    require(equal, "devices", f"{dict(owned)} by host", "equally many on each host")
    require(count % config.fsdp == 0, "fsdp", config.fsdp, f"a divisor of the number of devices, {count}")
    require(config.batch % (count * parts) == 0, "batch", config.batch, f"divisible by {count} devices x {parts} parts")
    ordered = sorted(devices, key=lambda device: (device.process_index, device.id))
    return Mesh(np.asarray(ordered).reshape(-1, config.fsdp), ("data", "fsdp"))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Batches are split over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def state_shardings(mesh: Mesh, state: PyTree) -> PyTree:
    """Each large array is split over `fsdp` along its longest axis that divides; small ones are whole everywhere."""
    shards = mesh.shape["fsdp"]

    def of(leaf: Any) -> NamedSharding:
        axes = [axis for axis in range(leaf.ndim) if leaf.shape[axis] % shards == 0]
        if shards == 1 or leaf.size < SMALLEST or not axes:
            return NamedSharding(mesh, PartitionSpec())
        longest = max(axes, key=lambda axis: leaf.shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    return jax.tree.map(of, state)


def make_task(
    config: Config, statistics: Statistics, text: Vocabulary | Frozen | None = None, mesh: Mesh | None = None
) -> tuple[Task, State]:
    """What training keeps and what it starts from, for training images of these statistics, and captions of that
    vocabulary, or seen by that frozen encoder, where text is read.

    On a `mesh` the state is made split as `state_shardings` says: no device ever holds it whole. Raises `ValueError`
    where the network does not fit the images.
    """
    key_model, key_step, key_sample = jax.random.split(jax.random.key(config.seed), 3)
    state, static = _start(config, statistics, key_model, text, mesh)
    # what is not trained came out of the same program, over all processes: each needs it for itself
    beside, rest = eqx.partition(static, eqx.is_array)
    static = eqx.combine(within_process(beside), rest)
    perturbed = InputPerturbation(config.input_perturbation) if config.input_perturbation > 0 else None
    task = Task(
        static,
        make_path(config.path, statistics),
        make_parameterisation(config, statistics),
        make_operators(config, statistics),
        perturbed,
        MinSNR() if config.weight == "min-snr" else uniform,
        LogNormalTime() if config.times == "log-normal" else UniformTime(),
        key_step,
        key_sample,
        config,
    )
    return task, state


@eqx.filter_jit
def _start(
    config: Config, statistics: Statistics, key: Key[Array, ""], text: Vocabulary | Frozen | None, mesh: Mesh | None
) -> tuple[State, PyTree]:
    model = make_model(config, statistics, key, text)
    parameters, static = eqx.partition(model, trained(model))
    averages = tuple(parameters for _ in config.ema)
    state = State(parameters, averages, make_optimiser(config).init(parameters), jnp.zeros((), jnp.int32))
    if mesh is not None:
        state = jax.lax.with_sharding_constraint(state, state_shardings(mesh, state))
    return state, static


def make_step(task: Task, mesh: Mesh, state: State) -> Step:
    """The compiled step `(state, batch) -> (state, metrics)`. The state given is used up (its memory is the result's).

    One program for all steps. `state` tells the shapes.
    """
    optimiser, decays = make_optimiser(task.config), task.config.ema
    shardings, whole = state_shardings(mesh, state), NamedSharding(mesh, PartitionSpec())
    # arguments, not constants: runs that differ in their seed alone share a program in JAX's compilation cache
    arrays, static = eqx.partition(task, eqx.is_array)

    def step(arrays: PyTree, state: State, batch: Batch) -> tuple[State, Metrics]:
        loss, slope = _loss_and_gradient(state.parameters, eqx.combine(arrays, static), batch, state.step)
        updates, moments = optimiser.update(slope, state.moments, state.parameters)
        parameters = optax.apply_updates(state.parameters, updates)
        averages = tuple(
            averaged(old, parameters, decay, state.step) for old, decay in zip(state.averages, decays, strict=True)
        )
        metrics = Metrics(loss, optax.tree.norm(slope), moments.total_notfinite, moments.notfinite_count)
        return State(parameters, averages, moments, state.step + 1), metrics

    compiled = jax.jit(
        step, in_shardings=(whole, shardings, batch_sharding(mesh)), out_shardings=(shardings, whole), donate_argnums=1
    )
    # every process has the same arrays; `device_put` would not spread them over the devices of others
    return partial(compiled, jax.jit(lambda same: same, out_shardings=whole)(arrays))


def _loss_and_gradient(
    parameters: PyTree, task: Task, batch: Batch, step: Int[Array, ""]
) -> tuple[Float[Array, ""], PyTree]:
    """Mean loss of the batch and its gradient, summed over `accumulate` parts one after another."""
    drawn = {**batch, **_draws(task, batch, step)}
    slope = jax.value_and_grad(_part_loss)
    count = task.config.accumulate
    if count == 1:
        return slope(parameters, task, drawn, step)
    # every count-th sample, so that a part is spread over the devices as the batch is
    parts = jax.tree.map(lambda a: jnp.swapaxes(a.reshape(-1, count, *a.shape[1:]), 0, 1), drawn)

    def add(total: PyTree, part: Batch) -> tuple[PyTree, None]:
        return jax.tree.map(jnp.add, total, slope(parameters, task, part, step)), None

    zero = jax.tree.map(jnp.zeros_like, (jnp.zeros(()), parameters))
    total, _ = jax.lax.scan(add, zero, parts)
    return jax.tree.map(lambda a: a / count, total)


def _draws(task: Task, batch: Batch, step: Int[Array, ""]) -> dict[str, Array]:
    """What a step draws for the whole batch: a time's quantile, noise, and keys for each image."""
    key_time, key_noise, key_seen, key_use = jax.random.split(jax.random.fold_in(task.key_step, step), 4)
    n, *shape = (batch["image"] if "image" in batch else batch["mean"][:, 0]).shape
    return {
        "use": jax.random.split(key_use, n),
        "u": stratified(key_time, n).astype(jnp.float32),
        "eps": jax.random.normal(key_noise, (n, *shape), jnp.float32),
        "key": jax.random.split(key_seen, n),
    }


def _conditions(
    task: Task, model: AnyModel, key: Key[Array, ""], step: Int[Array, ""]
) -> Callable[[Mapping[str, Array]], Float[Array, "*m d_emb"]]:
    """The function that says what the network is shown of a sample's class or caption at this step."""
    null, operators = model.embedding(None), task.operators
    if isinstance(model, TextModel):
        return lambda sample: operators.draw_code(key, model.embedding(sample["tokens"]), null, sample["index"], step)
    if isinstance(model, Encoded):
        return lambda sample: operators.draw_code(
            key, sample["embedding"].astype(jnp.float32), null, sample["index"], step
        )
    codes = training_codes(task.config, model.table)
    return lambda sample: operators.draw(key, codes, null, sample["label"], sample["index"], step)


def _part_loss(parameters: PyTree, task: Task, part: Batch, step: Int[Array, ""]) -> Float[Array, ""]:
    model: AnyModel = eqx.combine(parameters, task.static)
    predictor = Predictor(model.network, task.path, task.parameterisation)
    key_cond, key_kept, key_image = jax.random.split(task.key_sample, 3)
    condition = _conditions(task, model, key_cond, step)

    def one(sample: Mapping[str, Array]) -> Float[Array, ""]:
        index, cond, gated = sample["index"], condition(sample), "t_n" in sample
        # an image that is noised once is also mirrored, or drawn, once: a second draw would show what the noise hides
        key_use = jax.random.fold_in(key_image, index) if gated else sample["use"]
        return corrupted_loss(
            predictor,
            shown(sample, key_use, flip=task.config.flip),
            task.times.quantile(task.path, sample["u"]),
            sample["eps"],
            cond,
            key=sample["key"],
            key_kept=jax.random.fold_in(key_kept, index),
            weight=task.weight,
            gate=GateTimes(*(sample[name] for name in GATE)) if gated else None,
            input_operator=task.input_operator,
        )

    return jnp.mean(jax.vmap(one)(dict(part)))
