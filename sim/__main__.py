"""The command line of `sim`: list and run the experiments, and write the report.

`python -m sim list` names them; `python -m sim run NAME` runs one, `--all` all, `--fast` in about a minute each. Rows
are kept as they finish, and an interrupted run goes on where it stopped. Exit code 2: a mistake in what was asked.
"""

import dataclasses
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import tyro

from theory._checks import make_folder, require
from theory._commands import exit_code, leave

if TYPE_CHECKING:
    from theory.report import Result

RESULTS = Path("results")
REPORT = Path("report")


def list_experiments() -> int:
    """List the experiments with the question that each answers."""
    from sim.experiments.registry import EXPERIMENTS

    print("\n".join(f"{name:14} {experiment.question}" for name, experiment in EXPERIMENTS.items()))
    return 0


def _jobs(names: Sequence[str], fast: bool, data: Path | None, seed: int, out: Path) -> list[Any]:
    """The experiments named, or all of them: then data are for those that use any."""
    from sim.experiments.base import Job, find_experiments
    from sim.experiments.registry import EXPERIMENTS

    jobs = []
    for experiment in find_experiments(names or tuple(EXPERIMENTS), EXPERIMENTS):
        config = experiment.fast if fast else experiment.full
        takes = any(field.name == "data" for field in dataclasses.fields(config))
        require(takes or not names or data is None, "data", data, f"left out: {experiment.name} uses no data")
        if takes and data is not None:
            config = dataclasses.replace(config, data=data)
        folder = out / experiment.name
        make_folder("out", folder)
        jobs.append(Job(experiment, config, seed, folder))
    return jobs


def run(
    names: tyro.conf.Positional[tuple[str, ...]] = (),
    *,
    all: bool = False,
    fast: bool = False,
    data: Path | None = None,
    seed: int = 0,
    out: Path = RESULTS,
    workers: int | None = None,
) -> int:
    """Run experiments; write OUT/NAME/result.json and figures, and print each answer.

    Args:
        names: Experiments to run, see `list`.
        all: Run all of them.
        fast: Small grids and few repeats, about a minute each on one core.
        data: An .npz file with `images` (n x H x W [x C]) or `features` (n x d), for experiments that use real data.
        seed: Seed of everything drawn.
        out: Folder of the results, and of the finished rows that a later run goes on from.
        workers: Processes; by default one per core.
    """
    from sim.experiments.base import run_jobs, write_result

    require(all != bool(names), "names", " ".join(names) or "none", "names of experiments or --all, one of them")
    require(0 <= seed < 2**32, "seed", seed, "between 0 and 2^32 - 1")
    require(workers is None or workers >= 1, "workers", workers, "at least 1")
    if data is not None:
        from theory.data import load_npz

        load_npz(data)  # a bad file is refused before anything runs
    jobs = _jobs(names, fast, data, seed, out)
    run_jobs(jobs, workers=workers)
    for job in jobs:
        outcome = write_result(job)
        print(f"{job.experiment.title}: {outcome.answer}\n  {outcome.file}")
    return 0


def report(*, out: Path = REPORT, results: Path = RESULTS, full: bool = False, seed: int = 0) -> int:
    """Decide all claims, run all experiments, and write one self-contained page, OUT/index.html.

    Args:
        out: Folder of the page.
        results: Folder of the experiments' results; finished rows there are used.
        full: Full experiments (hours) rather than fast ones.
        seed: Seed of everything drawn.
    """
    return make_report(out, results, full, seed)


def make_report(out: Path, results: Path, full: bool, seed: int, more: Callable[[], Iterable["Result"]] = tuple) -> int:
    """`report`, with the sections of `more` at the end of the page's results; return the exit code.

    Raises `InputError` for a seed outside 0 ... 2^32 - 1 and folders that cannot be written.
    """
    from sim.experiments.base import run_jobs
    from sim.results import experiment_result
    from theory.claims.registry import find_claims
    from theory.report import page, write_page
    from theory.results import all_results
    from theory.verdicts import decide_with_progress, verdict_table

    require(0 <= seed < 2**32, "seed", seed, "between 0 and 2^32 - 1")
    make_folder("out", out)
    jobs = _jobs((), not full, None, seed, results)
    claims = find_claims([])
    decisions = decide_with_progress(claims, seed=seed)
    print(verdict_table(claims, decisions))
    run_jobs(jobs)
    shown = [*all_results(), *map(experiment_result, jobs), *more()]
    print(f"wrote {write_page(out, page(claims, decisions, shown))}")
    return 0 if all(decision.as_recorded for decision in decisions) else 1


COMMANDS: dict[str, Callable[..., Any]] = {"list": list_experiments, "run": run, "report": report}


def prepare() -> None:
    """Float64, and one thread for each process: the workers share the cores."""
    jax.config.update("jax_enable_x64", True)
    flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flags}".strip()
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, "1")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    prepare()
    given = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m sim", description=__doc__, args=given or ["--help"]
        )

    return exit_code(command, "interrupted; finished rows are kept, the same command goes on from them")


if __name__ == "__main__":
    leave(main())
