"""The command line of imagegen: train, sample, evaluate a small run; every mistake gets one clear line."""

import json
import subprocess
import sys

import numpy as np
import pytest

from imagegen.__main__ import COMMANDS, main
from imagegen.sampling import generate
from imagegen.sweeps import SWEEPS
from sim.samplers import SAMPLERS
from sim.times import GRIDS

QUICK = [
    "--network",
    "small",
    "--steps",
    "6",
    "--warmup",
    "2",
    "--batch",
    "32",
    "--log-every",
    "2",
    "--checkpoint-every",
    "2",
    "--samples-every",
    "0",
]


@pytest.fixture(scope="module")
def run(tmp_path_factory, small_network):
    folder = tmp_path_factory.mktemp("runs") / "digits"
    assert main(["train", "digits", "--out", str(folder), *QUICK]) == 0
    return folder


def test_a_run_leaves_config_metrics_checkpoint_and_summary(run):
    config = json.loads((run / "config.json").read_text())
    assert (config["steps"], config["data"], config["network"]) == (6, "digits", "small")
    assert [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()] == [2, 4, 6]
    assert "small on digits, 6 steps of 32 images" in (run / "summary.md").read_text()
    assert (run / "loss.png").read_bytes().startswith(b"\x89PNG")


def test_samples_are_written_as_adm_reads_them_and_do_not_depend_on_how_many(run, tmp_path):
    options = ["--number", "40", "--steps", "3", "--guidance", "0.5", "--classes", "3", "7"]
    assert main(["sample", str(run), *options, "--out", str(tmp_path / "a")]) == 0
    made = np.load(tmp_path / "a/samples.npz")
    assert made["arr_0"].dtype == np.uint8
    assert made["arr_0"].shape == (40, 8, 8, 1)
    np.testing.assert_array_equal(made["arr_1"], np.resize([3, 7], 40))
    assert (tmp_path / "a/samples.png").exists()
    written = (tmp_path / "a/samples.npz").stat().st_mtime_ns
    assert main(["sample", str(run), *options, "--out", str(tmp_path / "a")]) == 0  # all is there
    assert (tmp_path / "a/samples.npz").stat().st_mtime_ns == written
    assert not (tmp_path / "a/parts").exists()
    options[1] = "50"
    assert main(["sample", str(run), *options, "--out", str(tmp_path / "b")]) == 0
    np.testing.assert_array_equal(np.load(tmp_path / "b/samples.npz")["arr_0"][:40], made["arr_0"])
    assert main(["sample", str(run), *options, "--out", str(tmp_path / "a")]) == 2  # other samples are there


def test_interrupted_sampling_goes_on_with_the_next_part(run, tmp_path, monkeypatch):
    command, begun = ["sample", str(run), "--number", "40", "--steps", "3", "--batch", "16", "--out"], []

    def counted(*given):
        begun.append(given[2][0])
        if len(begun) == 2:
            raise KeyboardInterrupt
        return generate(*given)

    monkeypatch.setattr("imagegen.samples.generate", counted)
    assert main([*command, str(tmp_path / "a")]) == 130
    assert not (tmp_path / "a/samples.npz").exists()
    assert main([*command, str(tmp_path / "a")]) == 0
    assert begun == [0, 6, 6, 2]  # the first classes of parts that begin with images 0, 16 and 32
    assert main([*command, str(tmp_path / "b")]) == 0
    images = [np.load(tmp_path / name / "samples.npz")["arr_0"] for name in "ab"]
    np.testing.assert_array_equal(*images)
    assert main([*command, str(tmp_path / "c"), "--batch", "0"]) == 2


def test_a_walk_closes(run, tmp_path):
    assert main(["sample", str(run), "--walk", "--number", "10", "--steps", "3", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "walk-0.png").read_bytes().startswith(b"\x89PNG")


def test_evaluation_writes_every_figure(run, capsys):
    assert main(["sample", str(run), "--number", "80", "--steps", "3"]) == 0
    assert main(["evaluate", str(run)]) == 0
    printed = capsys.readouterr().out
    assert "w2_squared" in printed
    assert all(head in printed for head in ("debiased", "95 % interval", "bias"))
    assert "frechet_squared_features     left out: 40 images in a half are too few" in printed


@pytest.mark.parametrize(("arguments", "message"), [
    (["train", "digts"], "did you mean 'digits'?"),
    (["train", "digits", "--network", "dit-digit"], "did you mean 'dit-digits'?"),
    (["train", "digits", "--strength", "1"], "strength must be above 0 exactly where condition is not none"),
    (["train", "digits", "--checkpoint-every", "30"], "checkpoint_every must be a multiple of log_every=20"),
    (["train", "digits", "--batch", "0"], "batch must be at least 1; got 0"),
    (["train", "digits", "--path", "shortest", "--times", "log-normal"], "uniform on the spectral path shortest"),
    (["train", "digits", "--train-on", "gated", "--sigma-min", "1"], "all, where nothing is degraded"),
    (["train", "digits", "--data", "absent.npz"], "absent.npz"),
    (["sample", "absent"], "run must be the folder of a run"),
    (["sample", "absent", "--steps", "0"], "steps must be at least 1"),
    (["sample", "absent", "--guidance", "-1"], "guidance must be at least 0"),
    (["evaluate", "absent"], "absent"),
    (["sweep", "digits"], "sweep must be one of"),
])  # fmt: skip
def test_mistakes_get_one_line_and_exit_code_2(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_unknown_fields_are_answered_with_the_nearest(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stopped:
        main(["train", "digits", "--stesp", "3"])
    assert stopped.value.code == 2
    assert "--steps" in capsys.readouterr().err


def test_after_an_interrupt_the_process_ends_at_once():
    """While a program is compiled in another thread, the interpreter crashed as it was taken down."""
    script = "import atexit; from theory._commands import leave; atexit.register(print, 'taken down'); leave({})"
    for code, printed in ((130, ""), (2, "taken down\n")):
        ended = subprocess.run([sys.executable, "-c", script.format(code)], capture_output=True, text=True)
        assert (ended.returncode, ended.stdout) == (code, printed)


@pytest.mark.parametrize(("arguments", "names"), [
    (["sample", "--help"], [*SAMPLERS, *GRIDS]), (["sweep", "--help"], SWEEPS), (["--help"], ["train", *COMMANDS]),
])  # fmt: skip
def test_help_names_what_there_is(arguments, names, capsys):
    with pytest.raises(SystemExit):
        main(arguments)
    text = capsys.readouterr().out
    assert [name for name in names if name not in text] == []


@pytest.mark.slow
def test_images_made_otherwise_are_not_written_over(run, capsys):
    for walk in ([], ["--walk"]):
        command = ["sample", str(run), "--number", "8", "--steps", "2", *walk, "--out", str(run / "both")]
        assert main(command) == 0
        assert main([*command, "--seed", "3"]) == 2
        assert "seed=3 (those there have 0)" in capsys.readouterr().err
