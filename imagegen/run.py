"""A run on disk, and its model: what sampling, evaluation and the summary read."""

import dataclasses
import json
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax

from imagegen import config as configs
from imagegen import statistics
from imagegen.checkpoint import Checkpoints
from imagegen.config import PREPARED, Config
from imagegen.data.embeddings import FROZEN, Frozen, load_frozen
from imagegen.data.tokens import CaptionTokenizer, load_tokenizer
from imagegen.hosts import within_process
from imagegen.model import ModelDenoiser
from imagegen.statistics import Statistics
from imagegen.step import State, Task, make_mesh, make_task
from theory._checks import require


class Run(NamedTuple):
    """A run's config, its data's statistics, the step of the checkpoint, the denoiser of the averaged weights, and,
    where it reads text, the tokenizer, or the frozen encoder whose embeddings it reads.
    """

    config: Config
    statistics: Statistics
    step: int
    denoiser: ModelDenoiser
    tokenizer: CaptionTokenizer | None = None
    frozen: Frozen | None = None


def average_denoiser(task: Task, state: State, decay: float | None = None) -> ModelDenoiser:
    """The denoiser of an average of weights: of `decay`, one of the config's `ema`, or of the last of them.

    Where the state is spread over processes, all of them take part and get it whole. Raises `ValueError` for another
    decay.
    """
    decays = task.config.ema
    require(decay is None or decay in decays, "ema", decay, f"one of the run's decays {decays}")
    weights = within_process(state.averages[decays.index(decays[-1] if decay is None else decay)])
    return ModelDenoiser(eqx.combine(weights, task.static), task.path, task.parameterisation)


def load_run(folder: Path, *, step: int | None = None, ema: float | None = None) -> Run:
    """The model of a run's newest checkpoint, or of another `step` that was kept.

    Raises `InputError` for a folder without a run or checkpoint, and a step or decay that it has not got.
    """
    config = configs.load(folder / "config.json")
    known = statistics.load(folder / "statistics.json")
    frozen = load_frozen(folder / FROZEN) if config.text == PREPARED else None
    reads = config.text and frozen is None
    tokenizer = load_tokenizer(folder / "tokenizer.json", config.text_length) if reads else None
    here = make_mesh(dataclasses.replace(config, fsdp=1), jax.local_devices()[:1])
    task, state = make_task(config, known, frozen if tokenizer is None else tokenizer.vocabulary, here)
    require((folder / "checkpoints").is_dir(), "run", folder, "a run with a checkpoint")
    checkpoints = Checkpoints(folder / "checkpoints", config.keep, create=False)
    try:
        kept = checkpoints.all()
        require(bool(kept), "run", folder, "a run with a checkpoint")
        chosen = kept[-1] if step is None else step
        require(chosen in kept, "step", chosen, f"one of those kept: {', '.join(map(str, kept))}")
        state = checkpoints.restore(chosen, state)
    finally:
        checkpoints.close()
    return Run(config, known, chosen, average_denoiser(task, state, ema), tokenizer, frozen)


def read_lines(file: Path) -> list[dict[str, Any]]:
    """The values of a file of JSON lines; none where there is no such file."""
    if not file.exists():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
