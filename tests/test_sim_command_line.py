"""`python -m sim`: what it lists and runs, mistakes in one line with exit code 2, an interrupt that leaves nothing."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sim import __main__ as command
from sim.experiments import registry
from sim.experiments.memorisation_config import FAST, FULL, MemorisationConfig

TINY = MemorisationConfig(
    studies=("steps",), d=2, classes=2, per_class=(2,), corrupted_per_class=2, samples_per_class=4
)


@dataclasses.dataclass(frozen=True)
class NoData:
    """A config of an experiment that takes no data."""

    size: int = 3


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch, tmp_path):
    """`main` sets variables for its workers; a small experiment under the real name, and one without data."""
    for name in ("XLA_FLAGS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    small = dataclasses.replace(registry.EXPERIMENTS["memorisation"], fast=TINY)
    plain = dataclasses.replace(small, name="paths", fast=NoData(), full=NoData())
    monkeypatch.setattr(registry, "EXPERIMENTS", {"memorisation": small, "paths": plain})
    monkeypatch.chdir(tmp_path)


def error_of(capsys, *arguments):
    """The single line of error that a mistaken command prints."""
    assert command.main(arguments) == 2
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err
    (line,) = [line for line in captured.err.splitlines() if line.startswith("error:")]
    return line


def test_list_names_every_experiment_with_its_question(capsys):
    assert command.main(["list"]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in printed] == list(registry.EXPERIMENTS)
    assert all(e.question in line for e, line in zip(registry.EXPERIMENTS.values(), printed, strict=True))


def test_run_writes_result_and_figures_and_prints_the_answer(capsys, tmp_path):
    assert command.main(["run", "memorisation", "--fast", "--workers", "1", "--seed", "3", "--out", "here"]) == 0
    result = json.loads((tmp_path / "here/memorisation/result.json").read_text(), parse_constant=pytest.fail)
    assert result["seed"] == 3
    assert result["config"]["per_class"] == [2]
    assert {"patina-diffusion", "jax", "numpy", "pot"} <= set(result["versions"])
    assert [row["steps"] for row in result["rows"]] == list(TINY.ddim_steps)
    printed = capsys.readouterr().out
    assert printed.startswith("Memorisation: ")
    assert "result.json" in printed


def test_an_unknown_experiment_suggests_the_nearest(capsys):
    assert "did you mean memorisation?" in error_of(capsys, "run", "memorization", "--fast")
    assert "did you mean" not in error_of(capsys, "run", "xyz")


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("run",), "--all"),
        (("run", "memorisation", "--all"), "--all"),
        (("run", "memorisation", "--seed", "-1"), "seed"),
        (("run", "memorisation", "--seed", str(2**70)), "seed"),
        (("run", "memorisation", "--workers", "0"), "workers"),
        (("run", "memorisation", "--data", "missing.npz"), "missing.npz"),
    ],
)
def test_mistakes_are_named_before_any_work(capsys, tmp_path, arguments, word):
    assert word in error_of(capsys, *arguments)
    assert not list(tmp_path.iterdir())


def test_data_are_refused_where_none_are_used_and_checked_where_they_are(capsys, tmp_path):
    np.savez(tmp_path / "good.npz", features=np.random.default_rng(0).normal(size=(40, 3)), labels=np.arange(40) % 2)
    np.savez(tmp_path / "few.npz", features=np.random.default_rng(0).normal(size=(6, 3)), labels=np.arange(6) % 2)
    assert "uses no data" in error_of(capsys, "run", "paths", "--data", "good.npz")
    assert "in each" in error_of(capsys, "run", "memorisation", "--fast", "--data", "few.npz")
    (tmp_path / "bad.npz").write_bytes(b"nothing")
    assert "bad.npz" in error_of(capsys, "run", "memorisation", "--data", "bad.npz")
    assert not list(tmp_path.glob("**/*.json"))


def test_a_folder_that_cannot_be_made_is_named(capsys, tmp_path):
    (tmp_path / "taken").write_text("a file")
    assert "folder" in error_of(capsys, "run", "memorisation", "--fast", "--out", "taken")


def test_fast_and_full_are_valid_and_full_does_more():
    assert FULL.training_steps > FAST.training_steps
    assert FULL.repeats > FAST.repeats


def children(pid):
    """Process ids of the direct children, from /proc."""
    found = []
    for file in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parent = file.read_text().rpartition(")")[2].split()[1]
            found += [int(file.parent.name)] if int(parent) == pid else []
    return found


def gone(pids, seconds):
    """Whether none of the processes runs any more, waiting that long."""
    until = time.monotonic() + seconds
    while any(os.path.exists(f"/proc/{pid}") for pid in pids) and time.monotonic() < until:
        time.sleep(0.1)
    return not any(os.path.exists(f"/proc/{pid}") for pid in pids)


HEEDING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
"""A shell that starts the tests in the background lets them, and all that they start, ignore Ctrl-C."""


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="needs /proc to see processes")
@pytest.mark.parametrize("how", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)])
def test_an_interrupt_ends_the_workers_with_the_command(how, tmp_path):
    """To the whole group, as a terminal sends Ctrl-C, while a worker computes; killed, it can say nothing."""
    command = ["-m", "sim", "run", "memorisation", "--fast", "--workers", "1", "--out", str(tmp_path)]
    arguments = [sys.executable, "-c", HEEDING, *command]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        until = time.monotonic() + 120
        while len(children(process.pid)) < 2 and time.monotonic() < until:  # the worker and a resource tracker
            time.sleep(0.1)
        time.sleep(3)  # it loads its libraries or computes
        workers = children(process.pid)
        assert workers
        os.killpg(process.pid, how) if how is signal.SIGINT else os.kill(process.pid, how)
        error = process.communicate(timeout=240)[1]
    assert process.returncode == (130 if how is signal.SIGINT else -signal.SIGKILL)
    assert "Traceback" not in error
    assert ("the same command goes on" in error) == (how is signal.SIGINT)
    assert gone(workers, 240)
