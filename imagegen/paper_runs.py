"""Running the papers' tables (`imagegen.papers`): what it will cost; each run trained, sampled and scored in turn.

    FOLDER/TABLE/RUN/             the run, as `imagegen.training` keeps it, with its samples
    FOLDER/TABLE/RUN.json         config, figures, protocol, what the paper reports

A run that has its file is left alone; one that was interrupted goes on.
"""

import dataclasses
import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
from tqdm import tqdm

from imagegen import config as configs
from imagegen._names import require_one_of
from imagegen.config import Config
from imagegen.data.tokens import LENGTH, VOCABULARY, Vocabulary
from imagegen.evaluate import evaluate_run
from imagegen.inception import load_inception
from imagegen.model import make_model, model_flops
from imagegen.networks.registry import parameter_count
from imagegen.papers import DATA, PAPERS, SAMPLES, SOURCES, Data, PaperRun, named, run_named
from imagegen.pretrained import Autoencoder
from imagegen.references import read_reference, require_comparable
from imagegen.samples import make_samples
from imagegen.standard import evaluate_standard
from imagegen.statistics import Statistics
from imagegen.training import train
from sim.experiments.base import plain
from theory._checks import make_folder, require
from theory._files import write_whole

RATES = {"bfloat16": 395e12, "float32": 247e12}
"""Operations a second that hours are reckoned with: half of an H200's, of bfloat16 (790 TFLOP/s, measured) and of
float32 by its TensorFloat products (494 TFLOP/s, the data sheet)."""
REHEARSED = 160
"""Samples of a rehearsal: ten of each class of shapes."""
Tables = Mapping[str, Sequence[PaperRun]]


def tables_of(name: str) -> dict[str, list[PaperRun]]:
    """The runs of a table, of the tables that begin so, or the one run TABLE/RUN, by table.

    Raises `InputError` for another name, suggesting the nearest.
    """
    found = named(name)
    if not found:
        if name.rpartition("/")[0] in PAPERS:
            run_named(name)
        require_one_of("sweep", name, [*SOURCES, *PAPERS], other=", or a run of a table")
    return found


def shared(tables: Tables, share: tuple[int, int]) -> dict[str, list[PaperRun]]:
    """Every n-th of all runs from number k on, share = (k, n). Raises `InputError` but for 0 <= k < n."""
    k, n = share
    require(0 <= k < n, "share", share, "K N with 0 <= K < N")
    pairs = [(table, run) for table, runs in tables.items() for run in runs][k::n]
    return {table: [run for where, run in pairs if where == table] for table in dict(pairs)}


@functools.cache
def _cost(network: str, text_encoder: str, data: Data) -> tuple[float, int]:
    """Operations of one pass over one image, and parameters; text_encoder is empty for classes."""
    config = Config(network=network)
    if text_encoder:
        config = dataclasses.replace(config, text="train", text_encoder=text_encoder)
    known = Statistics(data.shape, ("",) * data.classes, np.ones(1), np.ones(data.shape[:2]), 1.0)
    vocabulary = Vocabulary(VOCABULARY, np.zeros(LENGTH, np.int32)) if text_encoder else None
    model = eqx.filter_eval_shape(make_model, config, known, jax.random.key(0), vocabulary)
    return model_flops(model, data.shape), parameter_count(model)


def cost(run: PaperRun) -> dict[str, float]:
    """Of one run: `images`, `hours` on one H200 at `RATES`, `checkpoints` and `samples` in bytes.

    Training counts three passes for each image; sampling one for each step, two with guidance.
    """
    config, data = run.config, DATA[run.config.data]
    flops, parameters = _cost(config.network, config.text_encoder if config.text else "", data)
    images = config.batch * config.steps
    passes = 3 * images + SAMPLES * run.how.steps * (2 if run.how.guidance else 1)
    return {
        "images": float(images),
        "hours": passes * flops / RATES[config.compute] / 3600,
        "checkpoints": 4.0 * parameters * (3 + len(config.ema)) * config.keep,
        "samples": 3.0 * SAMPLES * data.side**2,
    }


def plan(tables: Tables) -> str:
    """What the tables will train and what that takes, and what data are missing."""
    lines, sums = [], dict.fromkeys(("hours", "checkpoints", "samples"), 0.0)
    for table, runs in tables.items():
        lines += [
            f"{table}: {len(runs)} runs, from {source_of(table)}; each by itself: python -m imagegen train {table}/RUN",
            f"  {'run':22} {'images':>8} {'hours':>7} {'days':>5} {'GB':>6}  reported",
        ]
        for run in runs:
            own = cost(run)
            sums = {name: total + own[name] for name, total in sums.items()}
            size, days = (own["checkpoints"] + own["samples"]) / 1e9, own["hours"] / 24
            spent = f"{own['images'] / 1e6:6.0f} M {own['hours']:7.0f} {days:5.0f} {size:6.1f}"
            lines.append(f"  {run.name:22} {spent}  {run.reported}".rstrip())
    count, disk = sum(len(runs) for runs in tables.values()), (sums["checkpoints"] + sums["samples"]) / 1e12
    lines.append(
        f"In all {count} runs, {sums['hours']:,.0f} hours ({sums['hours'] / 24:,.0f} days) of one H200 at half of its "
        f"matrix rate, {disk:.2f} TB for checkpoints and {SAMPLES:,} samples a run. Nothing was measured."
    )
    sizes = {run.config.data: DATA[run.config.data].bytes for runs in tables.values() for run in runs}
    lines += [f"data: {name}, at most {size / 1e9:,.0f} GB on disk" for name, size in sizes.items()]
    return "\n".join([*lines, *_missing(tables)])


def source_of(table: str) -> str:
    """The paper that a table is from."""
    return next(source for name, source in SOURCES.items() if table.startswith(f"{name}/"))


def _needed(tables: Tables) -> dict[str, str]:
    """Files and folders by name, and the commands that make them."""
    configured = [run.config for runs in tables.values() for run in runs]
    needed = {config.data: DATA[config.data].made for config in configured if config.data in DATA}
    for config in configured:
        if config.annotations and config.degradation == "none":
            command = f"python -m imagegen grade {config.data} SCORES.csv --out {config.annotations}"
            needed[config.annotations] = command
        elif config.annotations:
            needed[config.annotations] = (
                f"python -m imagegen annotate --data {config.data} --degradation {config.degradation} --degraded-share "
                f"{config.degraded_share:g} --degradation-strength {config.degradation_strength:g} --out "
                f"{config.annotations}"
            )
    return needed


def _missing(tables: Tables) -> list[str]:
    return [f"missing: {name}; made by {made}" for name, made in _needed(tables).items() if not Path(name).exists()]


def run_papers(
    tables: Tables,
    folder: Path,
    *,
    samples: int = SAMPLES,
    decoder: Path | None = None,
    weights: Path | None = None,
    reference: Path | None = None,
) -> list[Path]:
    """Train, sample (`samples` images) and score every run that has no result yet; return the results' files.

    Samples of latents are decoded by the autoencoder in the folder `decoder`. Scores are Inception's where `weights`
    and `reference` are given (`imagegen.standard`), else those of the classifier (`imagegen.evaluate`). Raises
    `InputError` before anything starts where a config is refused or data are missing, for latents without a decoder or
    Inception, and for one of the two files without the other.
    """
    require((weights is None) == (reference is None), "weights, reference", (weights, reference), "given together")
    _require_scorable({run.config.data for runs in tables.values() for run in runs}, decoder, weights, reference)
    missing = _missing(tables)
    require(not missing, "data", "; ".join(missing), "all there before a table of runs starts")
    for runs in tables.values():
        for run in runs:
            configs.check(run.config)
    files = []
    for table, runs in tables.items():
        make_folder("out", folder / table)
        for run in tqdm(runs, desc=table, unit="run", disable=None):
            file = folder / table / f"{run.name}.json"
            if file.exists():
                _require_same(file, run, samples)
            else:
                page = _scored(run, folder / table / run.name, samples, decoder, weights, reference)
                page = {"source": source_of(table), **page}
                write_whole(file, json.dumps(page, indent=1) + "\n")
            files.append(file)
    return files


def _require_scorable(names: set[str], decoder: Path | None, weights: Path | None, reference: Path | None) -> None:
    """Refuse what would end the first run's scoring, after its training: files that cannot be used, or not for all."""
    latents = {name for name in names & DATA.keys() if DATA[name].shape[0] != DATA[name].side}
    files = (decoder, weights)
    require(not latents or None not in files, "decoder, weights", files, f"given, to score samples of {latents}")
    require(bool(latents) or decoder is None, "decoder", decoder, "left out where no table is of latents")
    several = weights is not None and len(names) > 1
    require(not several, "sweep", f"tables of {len(names)} data sets", "tables of one: each has its own reference")
    if decoder is not None:
        Autoencoder(decoder)
    if weights is not None and reference is not None:
        side = next(DATA[name].side for name in names)
        require_comparable(read_reference(reference), load_inception(weights).sha256, (side, side, 3))


def _require_same(file: Path, run: PaperRun, samples: int) -> None:
    """A result of another config, sampling or number of samples is not taken for this run's."""
    before = json.loads(file.read_text(encoding="utf-8"))
    same = all(before.get(name) == value for name, value in _made(run, samples).items())
    require(same, "out", f"'{file}'", "a folder without results that were made otherwise")


def _made(run: PaperRun, samples: int) -> dict[str, Any]:
    made: Any = plain(
        {"config": dataclasses.asdict(run.config), "how": dataclasses.asdict(run.how), "samples": samples}
    )
    found: dict[str, Any] = made
    return found


def _scored(
    run: PaperRun, folder: Path, samples: int, decoder: Path | None, weights: Path | None, reference: Path | None
) -> dict[str, Any]:
    train(run.config, folder)
    made = make_samples(folder, number=samples, how=run.how, ema=None, step=None, seed=0, out=None, decoder=decoder)
    if weights is None or reference is None:
        file = evaluate_run(folder, made)
    else:
        file = evaluate_standard(folder, made, weights, reference)
    page = json.loads(file.read_text(encoding="utf-8"))
    return {"name": run.name, "reported": run.reported, **_made(run, samples), "scores": page}


def answer(files: Sequence[Path]) -> str:
    """A line for each run: what was found beside what the paper reports."""
    lines = []
    for file in files:
        page = json.loads(file.read_text(encoding="utf-8"))
        figures = page["scores"]["figures"]
        if "fid" in figures:
            found = ", ".join(f"{name} {figures[name]:.4g}" for name in ("fid", "inception_score") if name in figures)
        else:
            found = f"debiased W2² per class {figures['w2_squared_per_class']['debiased']:.3g}"
        lines.append(f"{file.parent.name} {page['name']:22} {found}; reported: {page['reported'] or 'nothing'}")
    return "\n".join(lines)
