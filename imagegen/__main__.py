"""The command line of `imagegen`: annotate, train, sample, evaluate, export.

`python -m imagegen presets` lists the presets; `train PRESET` trains one, any field of the config overridden by its
option; the same command goes on where it stopped. Exit code 2: a mistake in what was asked; 3: training stopped itself.
"""

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from imagegen._names import require_one_of
from imagegen.annotate import AnnotateConfig
from imagegen.config import Config
from imagegen.presets import PRESETS
from theory._checks import require
from theory._commands import exit_code, leave

RUNS = Path("runs")


def presets() -> int:
    """List the presets: command, time, score to expect."""
    for preset in PRESETS.values():
        print(f"{preset.command:40} {preset.time}; {preset.score}")
    return 0


def _train(given: Sequence[str]) -> int:
    """`train PRESET [--out FOLDER] [--FIELD VALUE ...]`: the preset's fields are the defaults of the options."""
    name, *rest = given or ["--help"]
    if name.startswith("-"):
        name, rest = next(iter(PRESETS)), ["--help"]
    require_one_of("preset", name, PRESETS)
    usual = PRESETS[name].config

    def command(config: Annotated[Config, tyro.conf.arg(name="")] = usual, out: Path = RUNS / name) -> int:
        """Train a preset, any field overridden; the same command goes on from the newest checkpoint.

        Args:
            config: Fields of the run.
            out: Folder of the run.
        """
        from imagegen.training import train

        train(config, out)
        print((out / "summary.md").read_text(encoding="utf-8").split("\n\n")[1])
        print(f"wrote {out}")
        return 0

    return tyro.cli(command, prog=f"python -m imagegen train {name}", args=rest)


def annotate(
    config: Annotated[AnnotateConfig, tyro.conf.arg(name="")] = AnnotateConfig(),  # noqa: B008 (it is frozen)
    *,
    out: Path = Path("annotations.npz"),
) -> int:
    """Let classifiers say which noise levels each degraded image may train: OUT, for `train --annotations OUT`.

    Args:
        config: The data, as for `train`, and how they are judged.
        out: The file; a figure is written beside it.
    """
    from imagegen.annotate import run_annotate, told

    print(told(run_annotate(config, out)))
    print(f"wrote {out} and {out.with_suffix('.png')}")
    return 0


def sample(
    run: tyro.conf.Positional[Path],
    *,
    number: int = 100,
    classes: tuple[int, ...] = (),
    sampler: str = "ddim",
    grid: str = "uniform",
    steps: int = 50,
    guidance: float = 0.0,
    interval: tuple[float, float] = (0.0, 1.0),
    ema: float | None = None,
    step: int | None = None,
    seed: int = 0,
    walk: bool = False,
    out: Path | None = None,
) -> int:
    """Make images from a run: a PNG grid and an .npz as ADM's (`arr_0` bytes, `arr_1` labels).

    Args:
        run: Folder of the run.
        number: Images.
        classes: Their classes in turn; by default all.
        sampler: ddim, ancestral_small, ancestral_large, euler, heun, sigma_heun, dpm_solver_pp_2m or reverse_sde.
        grid: Grid of times: uniform, quadratic, edm, log_snr or equal_angle.
        steps: Steps of the sampler.
        guidance: Patina's w >= 0: the usual scale minus 1.
        interval: Times between which guidance acts.
        ema: Decay of the average of weights; by default the last of the run's.
        step: Checkpoint; by default the newest.
        seed: Seed of the noise.
        walk: Instead, images of the first class along a circle of starting noise.
        out: Folder; by default RUN/samples-STEP.
    """
    from imagegen.samples import make_samples, make_walk
    from imagegen.sampling import SamplerConfig

    require(number >= 1, "number", number, "at least 1")
    how = SamplerConfig(sampler, grid, steps, guidance, interval)
    make = make_walk if walk else make_samples
    file = make(run, number=number, classes=classes, how=how, ema=ema, step=step, seed=seed, out=out)
    print(f"wrote {file}")
    return 0


def evaluate(run: tyro.conf.Positional[Path], *, samples: Path | None = None, seed: int = 0) -> int:
    """Compare a run's samples with held-out images: every figure beside its bias, written as evaluation.json.

    Args:
        run: Folder of the run.
        samples: The .npz of `sample`; by default the newest in RUN.
        seed: Seed that cuts the halves.
    """
    from imagegen.evaluate import evaluate_run

    require(0 <= seed < 2**32, "seed", seed, "between 0 and 2^32 - 1")
    file = evaluate_run(run, samples, seed=seed)
    page = json.loads(file.read_text(encoding="utf-8"))
    print(f"{'figure':28} {'debiased':>10} {'95 % interval':24} {'ideal':>5} {'bias':>10}")
    for name, figure in page["figures"].items():
        ends = f"[{figure['low']:.4g}, {figure['high']:.4g}]"
        print(f"{name:28} {figure['debiased']:10.4g} {ends:24} {figure['ideal']:5g} {figure['bias']:10.4g}")
    for name, why in page["left_out"].items():
        print(f"{name:28} left out: {why}")
    print(f"wrote {file}")
    return 0


def export(run: tyro.conf.Positional[Path], *, out: Path, ema: float | None = None) -> int:
    """Write a run's averaged weights as one .safetensors file, config and statistics in it, for `train --start OUT`.

    Args:
        run: Folder of the run.
        out: The file.
        ema: Decay of the average of weights; by default the last of the run's.
    """
    from imagegen.weights import export_run

    export_run(run, out, ema=ema)
    print(f"wrote {out}")
    return 0


def sweep(
    name: tyro.conf.Positional[str],
    *,
    out: Path | None = None,
    seeds: int = 5,
    share: tuple[int, int] = (0, 1),
) -> int:
    """Run what is missing of a sweep (`imagegen.sweeps.SWEEPS`), a result file per run; print and draw what it found.

    Args:
        name: digits-conditions, digits-paths or digits-ambient.
        out: Folder of the results; by default results/NAME.
        seeds: Repeats.
        share: K N: every N-th of the runs from number K on, for N processes at once.
    """
    from imagegen.sweep import missing, results, run_sweep
    from imagegen.sweep_answer import write_answer

    folder = out if out is not None else Path("results") / name
    run_sweep(name, folder, seeds=seeds, share=share)
    print(write_answer(name, list(results(name, folder, seeds=seeds)), folder))
    left = missing(name, folder, seeds=seeds)
    print(f"wrote {folder}" + (f"; {len(left)} runs are missing, such as {left[0]}" if left else ""))
    return 0


def report(*, out: Path = Path("report"), results: Path = Path("results"), full: bool = False, seed: int = 0) -> int:
    """Everything on one page, OUT/index.html: claims, experiments, and digits trained with and without CEP.

    Args:
        out: Folder of the page.
        results: Folder of the experiments' results and of the runs; what is finished there is used.
        full: Full experiments (hours) rather than fast ones.
        seed: Seed of everything drawn but the digits' training.
    """
    from imagegen.results import image_results
    from sim.__main__ import make_report, prepare

    prepare()
    return make_report(out, results, full, seed, lambda: image_results(results / "runs"))


def train() -> int:
    """Train a preset: `train PRESET [--out FOLDER] [--FIELD VALUE ...]`; `train --help` explains every field."""
    raise AssertionError("main reads the preset before its options")


COMMANDS: dict[str, Callable[..., Any]] = {
    "train": train,
    "presets": presets,
    "annotate": annotate,
    "sample": sample,
    "evaluate": evaluate,
    "export": export,
    "sweep": sweep,
    "report": report,
}


INTERRUPTED = {
    "train": "interrupted; the same command goes on from the newest checkpoint, if there is one",
    "sample": "interrupted; finished parts are kept, the same command goes on from them",
    "sweep": "interrupted; finished runs are kept, the same command goes on with the next",
    "report": "interrupted; what is finished is kept, the same command goes on from it",
}
"""What is said after Ctrl-C, where something is kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    from imagegen.training import Stopped

    given = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        if given[:1] == ["train"]:
            return _train(given[1:])
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m imagegen", description=__doc__, args=given or ["--help"]
        )

    try:
        return exit_code(command, INTERRUPTED.get(given[0] if given else "", "interrupted"))
    except Stopped as error:
        print(f"error: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    leave(main())
