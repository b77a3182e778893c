"""What an experiment is: a grid of independent cells, each a pure function (config, cell, key) -> numbers.

A *cell* is one point of the grid (a dict of names and plain values); its outcome joins it as a *row*. Cells are run in
worker processes, written to disk as they finish, and not run again: an interrupted experiment goes on where it stopped.
The key of a cell is folded from the seed and the cell's own name, so rows depend neither on the order nor on what else
is in the grid. Estimates in rows are `{"value": ..., "low": ..., "high": ...}` with 95 % intervals (`sim.intervals`).
"""

import dataclasses
import functools
import hashlib
import json
import math
import multiprocessing
import os
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from importlib import metadata, resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Array, Key

from theory._checks import InputError, require
from theory._cores import cores
from theory._files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Cell = Mapping[str, Any]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One experiment.

    **Arguments:**

    - `name`, `title`, `question`: for the command line and the report.
    - `fast`, `full`: two configs (frozen dataclasses); fast ends within about a minute on one core.
    - `cells`: config -> the grid. `run`: (config, cell, key) -> numbers, JSON-able or NumPy, pure.
    - `answer`: (config, rows) -> one sentence with numbers; `details`: what else was found, a list of such sentences.
    - `figures`: (config, rows) -> named figures with captions.
    """

    name: str
    title: str
    question: str
    fast: Any
    full: Any
    cells: Callable[[Any], Sequence[Cell]]
    run: Callable[[Any, Cell, Key[Array, ""]], Mapping[str, Any]]
    answer: Callable[[Any, Sequence[Row]], str]
    details: Callable[[Any, Sequence[Row]], Sequence[str]]
    figures: Callable[[Any, Sequence[Row]], "Mapping[str, tuple[str, Figure]]"]


def cell_name(cell: Cell) -> str:
    """The cell in words, such as `gamma=0.5 n=20`, which also seeds it."""
    return " ".join(f"{name}={value}" for name, value in cell.items())


def cell_key(seed: int, cell: Cell) -> Key[Array, ""]:
    """The cell's own key: folded from the seed by the cell's name."""
    return jax.random.fold_in(jax.random.key(seed), zlib.crc32(cell_name(cell).encode()))


def plain(value: Any) -> object:
    """The value as JSON can hold it: arrays as lists, NumPy numbers as Python's, non-finite numbers as None."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if isinstance(value, Mapping):
        return {str(name): plain(entry) for name, entry in value.items()}
    if isinstance(value, np.ndarray | np.generic | jax.Array):
        return plain(np.asarray(value).tolist())
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return str(value) if isinstance(value, Path) else value


@functools.lru_cache
def _contents(file: Path, changed: int) -> str:
    """Digest of a file last changed at time `changed`: one name may come to hold other data."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@functools.cache
def _code() -> str:
    """Digest of the sources of `theory` and `sim`, and JAX's version: rows made by other code are not gone on from."""
    total = hashlib.sha256(jax.__version__.encode())
    for package in ("theory", "sim"):
        root = Path(str(resources.files(package)))
        for file in sorted(root.rglob("*.py")):
            total.update(file.read_bytes())
    return total.hexdigest()


def digest(experiment: str, config: Any, seed: int) -> str:
    """A short name for what the rows depend on: experiment, config, contents of its files, seed, Patina's code."""
    fields = [getattr(config, field.name) for field in dataclasses.fields(config)]
    files = [_contents(f, f.stat().st_mtime_ns) for f in fields if isinstance(f, Path) and f.is_file()]
    text = json.dumps([experiment, plain(config), files, seed, _code()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def make_row(run: Callable[[Any, Cell, Key[Array, ""]], Mapping[str, Any]], config: Any, cell: Cell, seed: int) -> Row:
    """The cell with its outcome, as JSON can hold it."""
    row: Any = plain({**cell, **run(config, cell, cell_key(seed, cell))})
    return row


def some_rows(experiment: Experiment, config: Any, *, seed: int = 0, **wanted: Any) -> list[Row]:
    """Rows of the cells with these entries (a value, or a list of those wanted), run in this process: for a notebook.

    For example `some_rows(EXPERIMENTS["conditions"], FAST, learner="exact", operator=["cep-g", "cep-u"])`. Float64 must
    be enabled.
    """
    lists = {name: value if isinstance(value, list) else [value] for name, value in wanted.items()}
    chosen = [c for c in experiment.cells(config) if all(c.get(name) in values for name, values in lists.items())]
    return [make_row(experiment.run, config, cell, seed) for cell in chosen]


def _run_cell(experiment: str, config: Any, cell: Cell, seed: int, file: Path) -> Row:
    """Run one cell in this process and write its row, whole or not at all."""
    from sim.experiments.registry import EXPERIMENTS

    row = make_row(EXPERIMENTS[experiment].run, config, cell, seed)
    write_whole(file, json.dumps(row, allow_nan=False))
    return row


def _begin_worker() -> None:
    """Float64, and an end with the parent, however that ends: a worker that computes does not notice otherwise."""
    jax.config.update("jax_enable_x64", True)
    parent = multiprocessing.parent_process()

    def follow() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


@contextmanager
def _held_interrupts() -> Iterator[None]:
    """Hold an interrupt (Ctrl-C) back meanwhile; processes started meanwhile never get it: it is the parent's alone."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@dataclasses.dataclass(frozen=True)
class Job:
    """An experiment with its config, seed and folder of rows."""

    experiment: Experiment
    config: Any
    seed: int
    folder: Path

    def cells(self) -> Sequence[Cell]:
        """The grid; raises `InputError` where two cells have one name."""
        cells = self.experiment.cells(self.config)
        names = {cell_name(cell) for cell in cells}
        require(
            len(names) == len(cells) > 0, "config", f"{len(cells)} cells, {len(names)} of them distinct", "distinct"
        )
        return cells

    def file(self, cell: Cell) -> Path:
        """Where the cell's row is kept."""
        name = hashlib.sha256(cell_name(cell).encode()).hexdigest()[:16]
        return self.folder / "rows" / digest(self.experiment.name, self.config, self.seed) / f"{name}.json"

    def rows(self) -> list[Row]:
        """All rows, in the grid's order; raises `FileNotFoundError` where one is missing."""
        return [json.loads(self.file(cell).read_text(encoding="utf-8")) for cell in self.cells()]


def run_jobs(jobs: Sequence[Job], *, workers: int | None = None) -> None:
    """Run the cells of all jobs that have no row yet, under a progress bar, in worker processes of one thread each.

    Each experiment stays in one process where there are several, so that its programs are compiled once. When
    interrupted, or where a cell raises, all finished rows are kept and the workers ended at once. Raises what a cell
    raises.
    """
    from tqdm import tqdm

    missing = [[(job, cell) for cell in job.cells() if not job.file(cell).exists()] for job in jobs]
    total = sum(map(len, missing))
    if total == 0:
        return
    for job in jobs:
        job.file(job.cells()[0]).parent.mkdir(parents=True, exist_ok=True)
    queues = list(_shares(missing, min(total, workers or cores())))
    spawn, others = multiprocessing.get_context("spawn"), multiprocessing.active_children()
    pools = [ProcessPoolExecutor(1, spawn, initializer=_begin_worker) for _ in queues]
    try:
        with tqdm(total=total, desc="experiments", unit="cell") as bar:
            for row_name in _finished(pools, queues):
                bar.set_postfix_str(row_name)
                bar.update()
    except BaseException:
        for worker in multiprocessing.active_children():
            if worker not in others:
                worker.terminate()
        raise
    finally:
        for pool in pools:
            pool.shutdown(cancel_futures=True)


def _shares(missing: list[list[tuple[Job, Cell]]], count: int) -> Iterator[list[tuple[Job, Cell]]]:
    """One list of cells per process: whole experiments, those of most cells first, or every n-th cell of the one."""
    groups = sorted((group for group in missing if group), key=len, reverse=True)
    if len(groups) < count:
        flat = [entry for group in groups for entry in group]
        groups = [flat[k::count] for k in range(count)]
    for k in range(count):
        share = [entry for group in groups[k::count] for entry in group]
        if share:
            yield share


def _finished(pools: list[ProcessPoolExecutor], queues: list[list[tuple[Job, Cell]]]) -> Iterator[str]:
    """Hand every pool its cells one at a time; yield the names of experiments as cells finish."""
    waiting: dict[Future[Row], tuple[int, str]] = {}

    def hand(k: int) -> None:
        if queues[k]:
            job, cell = queues[k].pop(0)
            future = pools[k].submit(_run_cell, job.experiment.name, job.config, cell, job.seed, job.file(cell))
            waiting[future] = (k, job.experiment.name)

    with _held_interrupts():
        for k in range(len(pools)):
            hand(k)
    while waiting:
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            k, name = waiting.pop(future)
            future.result()
            hand(k)
            yield name


class Outcome(NamedTuple):
    """What a finished job found: the JSON `file`, its `answer` and `details`, and its `figures`, captions with PNGs."""

    file: Path
    answer: str
    details: list[str]
    figures: list[tuple[str, bytes]]


def write_result(job: Job) -> Outcome:
    """Write `result.json` (config, seed, versions, rows, answer) and the figures, and return what they say."""
    from theory.canvas import png

    rows = job.rows()
    answer, details = job.experiment.answer(job.config, rows), list(job.experiment.details(job.config, rows))
    result = {
        "experiment": job.experiment.name,
        "question": job.experiment.question,
        "answer": answer,
        "details": details,
        "config": plain(job.config),
        "seed": job.seed,
        "versions": {name: metadata.version(name) for name in ("patina-diffusion", "jax", "numpy", "pot")},
        "rows": rows,
    }
    file = job.folder / "result.json"
    file.write_text(json.dumps(result, indent=1, allow_nan=False), encoding="utf-8")
    drawn = {name: (c, png(figure)) for name, (c, figure) in job.experiment.figures(job.config, rows).items()}
    for name, (_, image) in drawn.items():
        (job.folder / f"{name}.png").write_bytes(image)
    return Outcome(file, answer, details, list(drawn.values()))


def find_experiments(names: Sequence[str], experiments: Mapping[str, Experiment]) -> list[Experiment]:
    """The experiments of these names, each once. Raises `InputError` for an unknown one, suggesting the nearest."""
    import difflib

    for name in names:
        if name not in experiments:
            near = difflib.get_close_matches(name, experiments, n=1, cutoff=0.3)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise InputError(f"the experiment must be one of {', '.join(experiments)}; got {name!r}{hint}")
    return [experiments[name] for name in dict.fromkeys(names)]
