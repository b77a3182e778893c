"""Many hosts, as processes of this machine with simulated devices: they train as one process does, go on on any number
of devices, and end when one of them ends.
"""

import dataclasses
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from imagegen.config import Config
from imagegen.hosts import SILENCE, Launch, _slurm, start_hosts
from imagegen.prepare import prepare
from imagegen.run import load_run, read_lines
from imagegen.statistics import Statistics, statistics_of
from imagegen.step import batch_sharding, make_mesh, make_step, make_task, state_shardings
from imagegen.training import train
from imagegen.training_data import gated, training_source
from tests.imagegen.disk import write_shards
from tests.imagegen.test_prepared_text import Words

pytestmark = pytest.mark.usefixtures("small_network")
FREE = {"log_every": 2, "checkpoint_every": 2, "samples_every": 0, "keep": 9}
CONFIG = Config(network="small", batch=32, steps=6, warmup=2, condition="cep-g", strength=1.0, flips="symmetric",
                flip_share=0.1, **FREE)  # fmt: skip


def options(config):
    """What `train digits` is given to train `config`."""
    changed = {name: value for name, value in dataclasses.asdict(config).items() if value != getattr(Config(), name)}
    return [text for name, value in changed.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def free_port():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        return probe.getsockname()[1]


def begin(configs, folders, devices=4, slurm=False):
    """One process per config and folder, each with so many simulated devices."""
    port, count, started = free_port(), len(configs), []
    for host, (config, folder) in enumerate(zip(configs, folders, strict=True)):
        path = os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "JAX_NUM_CPU_DEVICES": str(devices), "PYTHONPATH": path}
        launch = ["--coordinator", f"localhost:{port}", "--hosts", str(count), "--host", str(host)]
        if slurm:  # the job's number gives JAX the port
            launch = []
            told = {"JOB_ID": port, "STEP_NODELIST": "localhost", "STEP_NUM_NODES": count, "NTASKS": count,
                    "PROCID": host, "LOCALID": 0}  # fmt: skip
            environment |= {f"SLURM_{name}": str(value) for name, value in told.items()}
        command = [sys.executable, str(Path(__file__).parent / "small.py"), "train", "digits", "--out", str(folder)]
        started.append(subprocess.Popen([*command, *options(config), *launch], env=environment, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE))  # fmt: skip
    return started


def end(processes, seconds=1200):
    """Exit codes, and what was printed, of processes that end by themselves."""
    try:
        printed = [process.communicate(timeout=seconds) for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [process.returncode for process in processes], printed


def trained(config, folder, **how):
    codes, printed = end(begin([config] * 2, [folder] * 2, **how))
    assert codes == [0, 0], printed
    return printed


@pytest.fixture(scope="module")
def pair(small_network, tmp_path_factory):
    """A run of two processes of four devices, parameters split over all eight, and what the processes printed."""
    folder = tmp_path_factory.mktemp("pair") / "run"
    return folder, trained(dataclasses.replace(CONFIG, fsdp=8), folder)


@pytest.fixture(scope="module")
def alone(small_network, tmp_path_factory):
    """The same run by one process on one device."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    train(CONFIG, folder, jax.devices()[:1])
    return folder


def require_same_training(folder, other, rtol=1e-4):
    """Same steps, losses and averaged weights, up to rounding."""
    first, second = ([list(line.values()) for line in read_lines(run / "metrics.jsonl")] for run in (folder, other))
    np.testing.assert_allclose(first, second, rtol=rtol)
    weights = [jax.tree.leaves(load_run(run).denoiser.model) for run in (folder, other)]
    for ours, theirs in zip(*weights, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


@pytest.mark.slow
def test_two_processes_of_four_devices_train_as_one_of_one(pair, alone):
    folder, ((told, _), (silent, _)) = pair
    require_same_training(folder, alone)
    assert "small on digits, 6 steps of 32 images" in told
    assert [line for line in silent.splitlines() if line and not line.startswith("[Gloo]")] == []


@pytest.mark.slow
@pytest.mark.parametrize("text", ["train", "prepared"])
def test_two_processes_train_on_captions_as_one_does(tmp_path, text):
    """By an encoder that is trained too, or on embeddings; each makes samples as well, of captions that it encoded."""
    words = {"text_encoder": "small"}
    config = dataclasses.replace(CONFIG, data="shapes", text=text, text_length=16, flips="none", flip_share=0.0,
                                 steps=4, learning_rate=1e-4, samples_every=4)  # fmt: skip
    if text == "prepared":
        raw, words = write_shards(tmp_path / "raw", n=60), {"data": str(tmp_path / "out")}
        prepare(raw, tmp_path / "out", resolution=32, text=Words(length=16))
    config = dataclasses.replace(config, **words)
    train(config, tmp_path / "alone", jax.devices()[:1])
    trained(dataclasses.replace(config, fsdp=8), tmp_path / "run")
    require_same_training(tmp_path / "run", tmp_path / "alone")
    for run in ("run", "alone"):
        assert (tmp_path / run / "samples/step-0000004.png").exists()


def go_on(folder, new, done, config, devices):
    """Go on from an earlier checkpoint of a run, in a new folder."""
    shutil.copytree(folder, new)
    for later in [step for step in (new / "checkpoints").iterdir() if int(step.name) > done]:
        shutil.rmtree(later)
    if devices:
        train(config, new, jax.devices()[:devices])
    return new


@pytest.mark.slow
def test_a_run_of_eight_devices_in_two_processes_goes_on_with_two_in_one(pair, alone, tmp_path):
    require_same_training(go_on(pair[0], tmp_path / "run", 2, CONFIG, 2), alone)


@pytest.mark.slow
@pytest.mark.parametrize("slurm", [False, True])
def test_a_run_of_one_process_goes_on_with_two(alone, tmp_path, slurm):
    folder = go_on(alone, tmp_path / "run", 2, CONFIG, None)
    trained(dataclasses.replace(CONFIG, fsdp=8, samples_every=6), folder, slurm=slurm)
    require_same_training(folder, alone)
    assert (folder / "samples/step-0000006.png").exists()  # of weights spread over both processes


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_one_host_is_killed_the_other_ends_and_both_go_on_bit_for_bit(tmp_path, killed):
    config = dataclasses.replace(CONFIG, steps=100, fsdp=2, checkpoint_every=10)
    trained(config, tmp_path / "whole", devices=1)
    processes, metrics = begin([config] * 2, [tmp_path / "run"] * 2, devices=1), tmp_path / "run/metrics.jsonl"
    while not metrics.exists() or len(read_lines(metrics)) < 12:
        assert [process.poll() for process in processes] == [None, None]
        time.sleep(0.05)
    os.kill(processes[killed].pid, signal.SIGKILL)
    began = time.monotonic()
    codes, printed = end(processes)
    assert time.monotonic() - began < 2 * SILENCE
    assert codes[killed] == -signal.SIGKILL
    assert codes[1 - killed] in (4, -signal.SIGABRT)
    assert "If one host ends, JAX ends the others" in printed[1 - killed][1]
    trained(config, tmp_path / "run", devices=1)
    assert (tmp_path / "run/metrics.jsonl").read_bytes() == (tmp_path / "whole/metrics.jsonl").read_bytes()
    ends = [jax.tree.leaves(load_run(tmp_path / name).denoiser.model) for name in ("run", "whole")]
    for ours, theirs in zip(*ends, strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_hosts_with_other_configs_or_folders_end_with_one_line(tmp_path):
    other = dataclasses.replace(CONFIG, seed=1)
    cases = {"the config, or the data must be the same on all hosts; got another on host [1]": ([CONFIG, other], "aa"),
             "where host [1] does not see host 0's files": ([CONFIG] * 2, "ab")}  # fmt: skip
    for message, (configs, folders) in cases.items():
        codes, printed = end(begin(configs, [tmp_path / name for name in folders]))
        assert codes[0] == 2
        assert codes[1] in (2, -signal.SIGABRT)
        assert message in printed[0][1]


@pytest.mark.parametrize(("launch", "message"), [
    (Launch(hosts=2), "--coordinator, --host must be given too, with --hosts"),
    (Launch("node1:29500", 2), "--host must be given too"),
    (Launch("node1:29500", 2, 2), "host must be in 0 ... 1: there are 2 hosts; got 2"),
    (Launch("node1:29500", 0, 0), "hosts must be at least 1; got 0"),
    (Launch("node1", 2, 0), "coordinator must be HOST:PORT"),
    (Launch("node1:70000", 2, 0), "coordinator must be HOST:PORT"),
    (Launch(":29500", 2, 0), "coordinator must be HOST:PORT"),
])  # fmt: skip
def test_options_given_by_halves_are_refused(launch, message):
    with pytest.raises(ValueError, match=message):
        start_hosts(launch)


def test_only_a_task_of_several_that_srun_started_joins_others():
    batch = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
    step = {**batch, "SLURM_STEP_NODELIST": "node[1-2]", "SLURM_STEP_NUM_NODES": "2"}
    assert _slurm({}) == _slurm(batch) == _slurm({**step, "SLURM_NTASKS": "1"}) == {}
    assert _slurm(step) == {"cluster_detection_method": "slurm"}  # two tasks a node: a device each
    assert _slurm({**step, "SLURM_NTASKS": "2"})["local_device_ids"] == []  # one a node: all its devices


def test_one_host_or_none_named_trains_alone(monkeypatch):
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: pytest.fail("joined others"))
    start_hosts(Launch())
    monkeypatch.setattr(os, "environ", {"SLURM_STEP_NODELIST": "node[1-2]", "SLURM_NTASKS": "2"})
    start_hosts(Launch(hosts=1))


def test_hosts_must_have_equally_many_devices(monkeypatch):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="devices must be equally many on each host"):
        make_mesh(CONFIG, jax.devices())


# --- memory: what is split over devices


IMAGENET = Statistics((32, 32, 4), tuple(map(str, range(1000))), np.full(1000, 1e-3), np.ones((32, 32)), 1.0)


def share_of_one_device(config, statistics, devices):
    """Bytes of the state on one device, and in all, without making it."""
    mesh = make_mesh(config, jax.devices()[:devices])
    state = jax.eval_shape(lambda: make_task(config, statistics)[1])
    shardings = jax.tree.leaves(state_shardings(mesh, state))
    pairs = list(zip(jax.tree.leaves(state), shardings, strict=True))
    sizes = [np.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, sharding in pairs]
    return sum(sizes), sum(leaf.size * leaf.dtype.itemsize for leaf, _ in pairs)


def test_of_xl_2_each_of_eight_devices_holds_an_eighth():
    config = Config(network="dit-xl/2", fsdp=8)
    one, whole = share_of_one_device(config, IMAGENET, 8)
    assert whole > 10e9  # 675 M parameters, their average and two moments, float32
    assert one < 1.01 * whole / 8


def test_the_state_is_made_split_and_with_the_same_weights(monkeypatch):
    monkeypatch.setattr("imagegen.step.SMALLEST", 1536)
    known, mesh = statistics_of(training_source(CONFIG)), make_mesh(dataclasses.replace(CONFIG, fsdp=4), jax.devices())
    (_, split), (_, whole) = make_task(CONFIG, known, mesh=mesh), make_task(CONFIG, known)
    places = jax.tree.leaves(state_shardings(mesh, whole))
    assert len({place.spec for place in places}) > 1
    for ours, theirs, place in zip(jax.tree.leaves(split), jax.tree.leaves(whole), places, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-7)
        assert ours.sharding.is_equivalent_to(place, ours.ndim)


@pytest.mark.slow
def test_the_compiled_step_holds_a_share_of_the_state_on_each_device():
    config = dataclasses.replace(CONFIG, network="dit-digits")
    source = training_source(config)
    known, used = statistics_of(source), {}
    for fsdp in (1, 8):
        mesh = make_mesh(dataclasses.replace(config, fsdp=fsdp), jax.devices())
        task, state = make_task(config, known, mesh=mesh)
        step = make_step(task, mesh, state)
        batch = gated(source.batch(np.arange(config.batch)), None)
        placed = jax.device_put(batch, batch_sharding(mesh))
        used[fsdp] = step.func.lower(*step.args, state, placed).compile().memory_analysis()
    one, _ = share_of_one_device(dataclasses.replace(config, fsdp=8), known, 8)
    _, whole = share_of_one_device(config, known, 8)
    fallen = used[1].argument_size_in_bytes - used[8].argument_size_in_bytes
    np.testing.assert_allclose(fallen, whole - one, rtol=1e-3)
    assert used[8].output_size_in_bytes < 0.3 * used[1].output_size_in_bytes
