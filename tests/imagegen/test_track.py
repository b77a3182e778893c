"""What a tracker is shown is what metrics.jsonl holds, also of a run that went on."""

import dataclasses
import json
import struct
import sys
import types

import pytest

from imagegen.config import Config
from imagegen.run import read_lines
from imagegen.track import require_tracker
from imagegen.training import train

CONFIG = Config(network="small", steps=8, warmup=2, batch=8, log_every=2, checkpoint_every=2, samples_every=0)


def events(folder):
    """Scalars by step and name in TensorBoard's files: records of length, its checksum, protobuf, checksum."""
    from tensorboardX.proto.event_pb2 import Event

    shown = {}
    for file in sorted(folder.glob("events*")):
        data = file.read_bytes()
        while data:
            (size,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + size])
            data = data[16 + size :]
            shown |= {(event.step, value.tag): value.simple_value for value in event.summary.value}
    return shown


@pytest.mark.slow
def test_tensorboard_shows_what_metrics_and_speed_hold(tmp_path, small_network):
    train(dataclasses.replace(CONFIG, track="tensorboard"), tmp_path / "run")
    shown = events(tmp_path / "run" / "tensorboard")
    lines = [line for name in ("metrics", "speed") for line in read_lines(tmp_path / "run" / f"{name}.jsonl")]
    told = {(line["step"], name): value for line in lines for name, value in line.items() if name != "step"}
    assert {step for step, _ in shown} == {2, 4, 6, 8}
    assert set(shown) == set(told)
    for key, value in shown.items():
        assert value == pytest.approx(told[key], rel=1e-6)


@pytest.mark.slow
def test_weights_and_biases_gets_one_run_by_folder_though_it_was_interrupted(tmp_path, small_network, monkeypatch):
    begun, logged, finished = [], [], []
    run = types.SimpleNamespace(
        log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: finished.append(1)
    )
    module = types.ModuleType("wandb")
    module.init = lambda **given: begun.append(given) or run
    module.__spec__ = types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "wandb", module)
    config = dataclasses.replace(CONFIG, track="wandb")
    train(dataclasses.replace(config, cosine=False, steps=4), tmp_path / "run")
    file = tmp_path / "run" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"steps": 8}))
    train(dataclasses.replace(config, cosine=False), tmp_path / "run")
    assert [step for step, _ in logged] == [2, 4, 6, 8]
    assert all({"loss", "grad_norm", "learning_rate", "images_per_second"} <= set(numbers) for _, numbers in logged)
    assert len(begun) == len(finished) == 2
    assert begun[0]["id"] == begun[1]["id"]
    assert begun[1]["resume"] == "allow"


def test_a_tracker_that_is_not_installed_is_refused_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ValueError, match="track must be one whose library is installed: pip install wandb; got wandb"):
        train(dataclasses.replace(CONFIG, data="missing.npz", track="wandb"), tmp_path / "run")
    require_tracker("none")
    with pytest.raises(ValueError, match="did you mean 'tensorboard'"):
        train(dataclasses.replace(CONFIG, track="tensorbord"), tmp_path / "run")
