"""Training: the same numbers on any number of devices, in any number of parts, and however often it stopped."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.config import Config
from imagegen.data.loading import batches
from imagegen.run import load_run, read_lines
from imagegen.statistics import statistics_of
from imagegen.step import batch_sharding, make_mesh, make_step, make_task, schedule, state_shardings
from imagegen.training import Stopped, train
from imagegen.training_data import gated, make_gates, training_source
from theory._files import locked

pytestmark = pytest.mark.usefixtures("small_network")
SMALL = Config(network="small", batch=32, steps=8, warmup=2, log_every=2, checkpoint_every=2, samples_every=1000)
EVERYTHING = dataclasses.replace(
    SMALL, condition="cep-g", strength=1.0, flips="symmetric", flip_share=0.1, input_perturbation=0.1,
    degradation="blur", degraded_share=0.5, train_on="gated", sigma_min=0.3, weight="min-snr", ema=(0.0, 0.9),
)  # fmt: skip


def steps(config, devices=1, count=3):
    """The metrics of the first steps, the states before each, and the step's number of programs."""
    source = training_source(config)
    task, state = make_task(config, statistics_of(source))
    mesh = make_mesh(config, jax.devices()[:devices])
    gates = make_gates(config, source, task.path)
    step = make_step(task, mesh, state)
    state, seen, states = jax.device_put(state, state_shardings(mesh, state)), [], []
    for _, batch in zip(range(count), batches(source, config.batch, seed=config.seed), strict=False):
        states.append(jax.tree.map(np.array, state))  # the step uses it up
        state, metrics = step(state, jax.device_put(gated(batch, gates), batch_sharding(mesh)))
        seen.append([float(metrics.loss), float(metrics.grad_norm)])
    return np.array(seen), states, step.func._cache_size()


@pytest.fixture(scope="module")
def reference(small_network):
    return steps(EVERYTHING)


def test_one_program_serves_all_steps(reference):
    seen, _, programs = reference
    assert programs == 1
    assert np.all(np.isfinite(seen))


@pytest.mark.parametrize(
    ("devices", "fsdp", "accumulate"),
    [(8, 4, 2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((2, 1, 1), (8, 2, 1), (1, 1, 4)))],
)
def test_devices_and_accumulated_parts_change_nothing_but_rounding(reference, devices, fsdp, accumulate):
    seen, _, _ = steps(dataclasses.replace(EVERYTHING, fsdp=fsdp, accumulate=accumulate), devices)
    np.testing.assert_allclose(seen, reference[0], rtol=2e-5)


def test_averages_warm_up_and_forget_the_start(reference):
    _, (start, first, second), _ = reference
    leaves = [jax.tree.leaves(tree) for tree in (start.parameters, first.parameters, second.parameters)]
    none, some = zip(*((jax.tree.leaves(a) for a in state.averages) for state in (first, second)), strict=True)
    for k, (w0, w1, w2) in enumerate(zip(*leaves, strict=True)):
        np.testing.assert_allclose(none[1][k], w2, atol=1e-7)  # decay 0
        average = w0 + 0.9 * (w1 - w0)  # keep = (1 + s)/(10 + s): 1/10 at step 0, 2/11 at step 1
        np.testing.assert_allclose(some[0][k], average, atol=1e-7)
        np.testing.assert_allclose(some[1][k], average + 9 / 11 * (w2 - average), atol=1e-7)


def test_large_arrays_are_split_over_fsdp_and_small_ones_are_not():
    config = dataclasses.replace(SMALL, network="dit-digits", fsdp=4)
    mesh = make_mesh(config, jax.devices()[:4])
    tree = {"large": jnp.zeros((3, 256, 512)), "small": jnp.zeros((256,)), "odd": jnp.zeros((333, 333))}
    placed = jax.device_put(tree, state_shardings(mesh, tree))
    assert placed["large"].addressable_shards[0].data.shape == (3, 256, 128)
    assert placed["small"].addressable_shards[0].data.shape == (256,)
    assert placed["odd"].addressable_shards[0].data.shape == (333, 333)


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def whole(small_network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return train(EVERYTHING, folder, jax.devices()[:1]), folder


def test_an_interrupted_run_goes_on_bit_for_bit(whole, tmp_path, monkeypatch):
    from imagegen import training as module

    written = module._append

    def interrupted(file, values):
        written(file, values)
        if values["step"] == 6 and "loss" in values:
            raise KeyboardInterrupt

    state, folder = whole
    monkeypatch.setattr(module, "_append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(EVERYTHING, tmp_path, jax.devices()[:1])
    monkeypatch.setattr(module, "_append", written)
    resumed = train(EVERYTHING, tmp_path, jax.devices()[:1])
    assert bits(state) == bits(resumed)
    metrics = (tmp_path / "metrics.jsonl").read_text()
    assert metrics == (folder / "metrics.jsonl").read_text()
    assert [json.loads(line)["step"] for line in metrics.splitlines()] == [2, 4, 6, 8]


def test_a_finished_run_is_loaded_and_has_nothing_left_to_do(whole):
    state, folder = whole
    assert bits(train(EVERYTHING, folder, jax.devices()[:1])) == bits(state)
    run = load_run(folder, ema=0.9)
    assert run.step == 8
    np.testing.assert_array_equal(run.denoiser.model.table, state.averages[1].table)
    for wrong, message in (({"step": 3}, "step must be one of those kept: 6, 8"), ({"ema": 0.5}, "one of the run's")):
        with pytest.raises(ValueError, match=message):
            load_run(folder, **wrong)


def test_another_config_in_the_folder_is_refused_and_nothing_is_touched(whole):
    _, folder = whole
    before = sorted((file, file.stat().st_mtime_ns) for file in folder.rglob("*"))
    with pytest.raises(ValueError, match=r"learning_rate=0.5 \(the run has 0.003\)"):
        train(dataclasses.replace(EVERYTHING, learning_rate=0.5), folder, jax.devices()[:1])
    assert sorted((file, file.stat().st_mtime_ns) for file in folder.rglob("*")) == before


def test_steps_with_gradients_that_are_not_finite_change_nothing_and_stop_the_run(tmp_path, monkeypatch):
    from imagegen import step as module

    def broken(predictor, *args, **kwargs):
        return jnp.float32(jnp.nan) * predictor.network.final.bias[0]

    monkeypatch.setattr(module, "corrupted_loss", broken)
    with pytest.raises(Stopped, match="not finite in the last 4 steps"):
        train(dataclasses.replace(SMALL, stop_after=3), tmp_path, jax.devices()[:1])
    _, start = make_task(SMALL, statistics_of(training_source(SMALL)))
    assert bits(load_run(tmp_path).denoiser.model.table) == bits(start.parameters.table)
    assert [line["skipped"] for line in read_lines(tmp_path / "metrics.jsonl")] == [2, 4]


def test_the_learning_rate_rises_and_falls():
    rates = np.array([float(schedule(SMALL)(step)) for step in range(9)])
    np.testing.assert_allclose(rates[[0, 1, 2]], [0, 1.5e-3, 3e-3], rtol=1e-6)
    assert np.all(np.diff(rates[2:]) < 0)
    assert rates[-1] < 1e-9
    constant = schedule(dataclasses.replace(SMALL, cosine=False))
    np.testing.assert_allclose([float(constant(step)) for step in (1, 2, 8)], [1.5e-3, 3e-3, 3e-3], rtol=1e-6)


@pytest.mark.parametrize(("changes", "devices", "message"), [
    ({"batch": 30}, 4, "batch must be divisible by 4 devices x 1 parts"),
    ({"fsdp": 3}, 4, "fsdp must be a divisor of the number of devices, 4"),
])  # fmt: skip
def test_what_does_not_divide_is_refused(changes, devices, message):
    with pytest.raises(ValueError, match=message):
        make_mesh(dataclasses.replace(SMALL, **changes), jax.devices()[:devices])


def test_a_folder_that_another_process_trains_in_is_refused_and_left_alone(tmp_path):
    with locked("out", tmp_path / "train.lock"), pytest.raises(ValueError, match="no other process is writing to"):
        train(SMALL, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["train.lock"]
