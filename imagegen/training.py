"""Training: from a config to a folder with checkpoints, metrics, samples and a summary; interrupted, it goes on.

    FOLDER/config.json, statistics.json     what the run is, and what it must know of its data
    FOLDER/tokenizer.json                   where captions are read: how, a copy or trained on them
    FOLDER/text.npz                         where their prepared embeddings are: by which encoder, and the empty one's
    FOLDER/annotations.npz                  where it is gated by such a file: a copy, read from then on
    FOLDER/rewritten.json                   where rewritten captions are from a file: which, and its SHA-256
    FOLDER/start.json                       where it starts from a file of weights: which, and its SHA-256
    FOLDER/checkpoints/                     weights, averages, moments, step
    FOLDER/metrics.jsonl                    a line every `log_every` steps; the same numbers however often it stopped
    FOLDER/speed.jsonl                      images/s: what depends on the machine
    FOLDER/evaluations.jsonl                figures of a few samples, every `evaluate_every` steps (`imagegen.in_loop`)
    FOLDER/skipped.jsonl                    images in files that could not be read, and why (`imagegen.data.skips`)
    FOLDER/samples/                         grids of samples from the averaged weights
    FOLDER/summary.md                       one page at the end

The same command goes on from the newest checkpoint, on the same devices bit for bit, on others up to rounding: data
order, noise and keys depend on the seed, the step and the image's index alone. Of many hosts (`imagegen.hosts`) the
first writes everything but its share of the checkpoints.
"""

import dataclasses
import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jax.sharding import Mesh
from tqdm import tqdm

from imagegen import annotations, in_loop, statistics
from imagegen import config as configs
from imagegen.checkpoint import Checkpoints, full_disk_explained, require_space
from imagegen.config import PREPARED, Config
from imagegen.data.embeddings import FROZEN, save_frozen
from imagegen.data.files import file_source
from imagegen.data.loading import batches
from imagegen.data.skips import told
from imagegen.data.source import Source, check_source
from imagegen.hosts import HostLost, agree, leads, of_host_0
from imagegen.model import model_flops
from imagegen.rewrites import note_rewritten
from imagegen.run import average_denoiser
from imagegen.sampling import SamplerConfig, evenly, generate, sampling_key, save_grid
from imagegen.step import (
    Metrics,
    State,
    Task,
    batch_sharding,
    make_mesh,
    make_step,
    make_task,
    schedule,
)
from imagegen.summary import write_summary
from imagegen.track import Tracker, make_tracker, require_tracker
from imagegen.training_data import (
    Gates,
    gated,
    make_frozen,
    make_gates,
    make_tokenizer,
    training_source,
    with_tokens,
)
from imagegen.weights import note_start, started
from sim.experiments.base import plain
from sim.sampling import NotFiniteError
from theory._checks import make_folder
from theory._files import locked, write_whole

PEAKS = {"NVIDIA H200": 989e12, "NVIDIA H100 80GB HBM3": 989e12, "NVIDIA A100-SXM4-80GB": 312e12}
"""bfloat16 matrix products per second of a device, without sparsity, by the makers' data sheets."""
ROWS = 8
"""Samples of each class in a grid."""


class Stopped(RuntimeError):
    """Training that stopped itself: gradients that are not finite."""


def train(config: Config, folder: Path, devices: Sequence[jax.Device] | None = None) -> State:
    """Train as `config` says, in `folder`, on `devices` (default: all); return the state at the end.

    Goes on where a run of the same config stopped. Raises `InputError` for a config that is refused, data that are
    bad, a folder with another run or one that is under way, annotations of other images or changed since, weights to
    start from of another network or changed since, hosts that were not given the same config and folder, and a full
    disk, `Stopped` after too many steps with non-finite gradients in a row, `HostLost` where another host ended.
    """
    configs.check(config)
    require_tracker(config.track)
    mesh = make_mesh(config, jax.devices() if devices is None else devices)
    if (folder / "config.json").exists():
        configs.require_same(config, configs.load(folder / "config.json"))
    source = training_source(config)
    check_source(source)
    known = statistics.statistics_of(source)
    if (folder / "statistics.json").exists():
        statistics.require_same(known, statistics.load(folder / "statistics.json"))
    kept = folder / "annotations.npz"
    if config.annotations and kept.exists():
        annotations.require_unchanged(Path(config.annotations), kept)
    tokenizer = make_tokenizer(config, folder / "tokenizer.json")
    source = with_tokens(source, tokenizer)
    frozen = make_frozen(config, source, folder / FROZEN)
    task, state = make_task(config, known, frozen if tokenizer is None else tokenizer.vocabulary, mesh)
    note = note_start(Path(config.start), folder / "start.json") if config.start else ""
    made = note_rewritten(Path(config.rewritten), folder / "rewritten.json") if config.rewritten else ""
    if note:
        state = started(state, task, Path(config.start))
    gates = make_gates(config, source, task.path, kept if kept.exists() else Path(config.annotations))
    beside = in_loop.prepare(config) if config.evaluate_every else None
    make_folder("out", folder)
    run = _Run(config, folder, source, task, mesh, gates, beside)
    with full_disk_explained(folder), _lost_host_explained(), _alone(folder):
        if leads():
            configs.save(config, folder / "config.json")
            statistics.save(known, folder / "statistics.json")
            if tokenizer is not None:
                write_whole(folder / "tokenizer.json", tokenizer.text)
            if frozen is not None:
                save_frozen(frozen, folder / FROZEN)
            if note:
                write_whole(folder / "start.json", note)
            if made:
                write_whole(folder / "rewritten.json", made)
            if config.annotations and not kept.exists():
                write_whole(kept, Path(config.annotations).read_bytes())
        labels = hashlib.sha256(source.labels.tobytes()).hexdigest()
        words = repr(None if frozen is None else frozen.encoder) if tokenizer is None else tokenizer.text
        agree(repr((config, len(source), source.shape, source.class_names, labels, words)), folder)
        files = file_source(source)
        if files is not None:
            process = jax.process_index()  # each notes what it read itself
            files.skips.record(folder / ("skipped.jsonl" if process == 0 else f"skipped-{process}.jsonl"))
            if leads() and told(folder):
                print(f"{folder.name}: {len(source)} images. {told(folder)}", flush=True)
        return run.to_the_end(state)


def _alone(folder: Path) -> AbstractContextManager[None]:
    """Keep other runs out of the folder: a job that is started again while the first one still ends, say."""
    return locked("out", folder / "train.lock") if leads() else nullcontext()


@contextmanager
def _lost_host_explained() -> Iterator[None]:
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise HostLost(
            f"what {jax.process_count()} hosts do together failed on host {jax.process_index()}, most likely since "
            "another one ended: see what that one said. The same commands go on from the newest checkpoint. "
            f"(JAX: {str(error)[-150:]})"
        ) from error


@dataclasses.dataclass(frozen=True)
class _Run:
    """A run that is under way."""

    config: Config
    folder: Path
    source: Source
    task: Task
    mesh: Mesh
    gates: Gates | None
    beside: in_loop.InLoop | None

    def to_the_end(self, state: State) -> State:
        """From the newest checkpoint, or else from `state`, through the last step and the summary."""
        checkpoints = Checkpoints(self.folder / "checkpoints", self.config.keep)
        try:
            done = of_host_0(checkpoints.latest() or 0)
            if done < self.config.steps:
                require_space(self.folder, state, max(1, self.config.keep + 1 - len(checkpoints.all())))
            if done:
                state = checkpoints.restore(done, state)
            if leads():
                for name in ("metrics", "speed", "evaluations"):
                    _truncate(self.folder / f"{name}.jsonl", done)
            shown = self.config.track if leads() else "none"
            with closing(make_tracker(shown, self.config, self.folder, done)) as tracker:
                state = self._advance(state, done, checkpoints, tracker)
            checkpoints.finish()
        finally:
            checkpoints.close()
        if leads():
            write_summary(self.folder)
        return state

    def _advance(self, state: State, done: int, checkpoints: Checkpoints, tracker: Tracker) -> State:
        config, step = self.config, make_step(self.task, self.mesh, state)
        model = eqx.combine(state.parameters, self.task.static)
        flops = 3 * model_flops(model, self.source.shape)  # of one image, forward and backward
        with tqdm(
            total=config.steps, initial=done, desc="training", unit="step", disable=None if leads() else True
        ) as bar:
            clock, before = time.perf_counter(), done
            for number, batch in enumerate(self._batches(done), start=done + 1):
                state, metrics = step(state, batch)
                bar.update()
                if number % config.log_every == 0 or number == config.steps:
                    seen = self._log(number, metrics)
                    now = time.perf_counter()
                    rate = (number - before) * config.batch / (now - clock)
                    self._speed(bar, number, rate, flops, seen)
                    tracker.log(number, {**seen, "images_per_second": rate})
                    clock, before = now, number
                    if seen["skipped_in_a_row"] >= config.stop_after:
                        raise Stopped(_broken(seen, number, self.folder))
                if config.samples_every and (number % config.samples_every == 0 or number == config.steps):
                    self._show(state, number)
                if self.beside and (number % config.evaluate_every == 0 or number == config.steps):
                    self._evaluate(state, number)
                if number % config.checkpoint_every == 0 or number == config.steps:
                    checkpoints.save(number, state)
                    if leads() and bar.disable:  # not on a terminal: a log gets a line for each checkpoint
                        print(f"{self.folder.name}: step {number} of {config.steps}: {bar.postfix}", flush=True)
        return state

    def _batches(self, done: int) -> Iterator[dict[str, Any]]:
        sharding, config = batch_sharding(self.mesh), self.config
        read = batches(
            self.source, config.batch, seed=config.seed, first_step=done, shard=jax.process_index(),
            shards=jax.process_count(),
        )  # fmt: skip
        try:
            for _, batch in zip(range(done, config.steps), read, strict=False):
                taken = gated(batch, self.gates)
                yield {name: jax.make_array_from_process_local_data(sharding, taken[name]) for name in taken}
        finally:
            read.close()

    def _log(self, number: int, metrics: Metrics) -> dict[str, Any]:
        """Wait for the step's numbers, on every host the same, and write them."""
        values: Any = plain({"step": number, **metrics._asdict()})
        counted = number - 1 - values["skipped"]  # a step left out does not advance the schedule
        values["learning_rate"] = float(schedule(self.config)(counted))
        _append(self.folder / "metrics.jsonl", values)
        return values

    def _speed(self, bar: "tqdm[Any]", number: int, rate: float, flops: float, seen: dict[str, Any]) -> None:
        _append(self.folder / "speed.jsonl", {"step": number, "images_per_second": rate})
        loss = "not finite" if seen["loss"] is None else f"{seen['loss']:.4f}"
        shown = {"loss": loss, "images/s": f"{rate:.0f}"}
        peak = PEAKS.get(jax.devices()[0].device_kind)
        if peak is not None:
            shown["MFU"] = f"{flops * rate / (peak * self.mesh.size):.0%}"
        bar.set_postfix(shown)

    def _evaluate(self, state: State, number: int) -> None:
        """A line of evaluations.jsonl; that samples were not finite is told there, and ends nothing."""
        assert self.beside is not None
        try:
            line = in_loop.evaluation(self.beside, average_denoiser(self.task, state), self.config, number)
        except NotFiniteError as error:
            line = {"step": number, "failed": str(error)}
        if leads():
            _append(self.folder / "evaluations.jsonl", line)

    def _show(self, state: State, number: int) -> None:
        """A grid of samples of the averaged weights, a column for each of up to 16 classes, or of the first captions,
        which stand in captions.txt then; every host makes it."""
        columns = min(self.source.classes if self.config.text == "" else len(self.source), 16)
        conds, records = evenly(range(columns), ROWS * columns), []
        if self.config.text:
            records = [self.source[index] for index in range(columns)]
            read = "embedding" if self.config.text == PREPARED else "tokens"
            conds = np.stack([record[read] for record in records])[conds]
        denoiser = average_denoiser(self.task, state)
        try:
            images = generate(
                denoiser, self.source.shape, conds, sampling_key(self.config.seed), SamplerConfig(steps=20)
            )
        except NotFiniteError as error:
            print(f"{self.folder.name}: step {number}: no samples, {error}", flush=True)
            return
        if leads():
            save_grid(images, self.folder / "samples" / f"step-{number:07d}.png", columns=columns)
            if self.config.text:
                captions = "".join(f"{record['caption']}\n" for record in records)
                write_whole(self.folder / "samples" / "captions.txt", captions)


def _broken(seen: dict[str, Any], number: int, folder: Path) -> str:
    return (
        f"stopped at step {number}: gradients were not finite in the last {seen['skipped_in_a_row']:.0f} steps "
        f"({seen['skipped']:.0f} in all). Those steps changed no weight; the newest checkpoint in {folder} is from "
        "before or among them. A lower learning_rate, a smaller clip, or float32 may help."
    )


def _append(file: Path, values: dict[str, Any]) -> None:
    if not leads():
        return
    with file.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(values) + "\n")


def _truncate(file: Path, done: int) -> None:
    """Leave the lines up to step `done`: what came after the checkpoint is done again. A torn last line is left out."""
    if not file.exists():
        return
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines():
        try:
            if json.loads(line)["step"] <= done:
                kept.append(line + "\n")
        except json.JSONDecodeError:
            break
    write_whole(file, "".join(kept))
