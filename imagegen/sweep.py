"""Running a sweep: one small result file per run, so that it goes on another day, or on several machines at once.

    FOLDER/NAME-sSEED.json      config, how it was sampled, every figure of `imagegen.evaluate`, time, versions

What has a file is not run again; a file of another config is refused rather than mixed in. Weights are not kept.
"""

import dataclasses
import json
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from imagegen._names import require_one_of
from imagegen.config import Config
from imagegen.evaluate import evaluate_samples, reference_images
from imagegen.features import train_features
from imagegen.model import Model
from imagegen.run import load_run, read_lines
from imagegen.sampling import evenly, generate
from imagegen.sweeps import SEEDS, SWEEPS, Member
from imagegen.training import Stopped, train
from sim.experiments.base import plain
from sim.sampling import NotFiniteError
from theory._checks import make_folder, require
from theory._files import write_whole

SAMPLES = 500
"""Images of each sampling."""


def members(name: str) -> list[Member]:
    """The runs of a sweep, each once. Raises `InputError` for an unknown name."""
    require_one_of("sweep", name, SWEEPS)
    return SWEEPS[name].members()


def _runs(name: str, seeds: int) -> list[tuple[Member, int]]:
    """Every run with every seed, all of seed 0 first."""
    return [(member, seed) for seed in range(seeds) for member in members(name)]


def result_file(folder: Path, member: Member, seed: int) -> Path:
    """Where a run's result is kept."""
    return folder / f"{member.name}-s{seed}.json"


def run_sweep(
    name: str, folder: Path, *, seeds: int = SEEDS, share: tuple[int, int] = (0, 1), device: jax.Device | None = None
) -> None:
    """Run what is missing of a sweep, all runs of seed 0 first, under a progress bar.

    `share` (k, n): every n-th of the runs, from number k on, for n processes at once. Raises `InputError` for an
    unknown sweep, a share outside 0 <= k < n, and results of another config in the folder.
    """
    require(0 <= share[0] < share[1], "share", share, "(k, n) with 0 <= k < n")
    require(seeds >= 1, "seeds", seeds, "at least 1")
    todo = _runs(name, seeds)[share[0] :: share[1]]
    make_folder("out", folder)
    for member, seed in todo:
        _require_same(result_file(folder, member, seed), _made(member, seed))
    left = [run for run in todo if not result_file(folder, *run).exists()]
    for member, seed in tqdm(left, desc=name, unit="run", disable=None):
        text = json.dumps(run_member(member, seed, device), indent=1, allow_nan=False)
        write_whole(result_file(folder, member, seed), text)


def _made(member: Member, seed: int) -> dict[str, Any]:
    """What a result depends on."""
    config = dataclasses.replace(member.config, seed=seed)
    samplings = {name: dataclasses.asdict(how) for name, how in member.samplings.items()}
    made: Any = plain({"config": dataclasses.asdict(config), "samplings": samplings, "samples": SAMPLES})
    return made


def _require_same(file: Path, made: dict[str, Any]) -> None:
    """A result of another config is refused; fields that have come since then had their usual values."""
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        usual: Any = plain(dataclasses.asdict(Config()))
        before["config"] = {**usual, **before["config"]}
        same = all(before[name] == value for name, value in made.items())
        require(same, "out", file, "a folder without results of other configs (this file is one)")


def run_member(member: Member, seed: int, device: jax.Device | None = None) -> dict[str, Any]:
    """Train one run, sample it in every way, evaluate; the result as JSON can hold it.

    A run whose training stopped itself, or whose samples are not finite, has `failed`, the message, and no evaluations.
    Raises `InputError` as `train` does.
    """
    began = time.perf_counter()
    try:
        found = _found(member, seed, device)
    except Stopped as error:
        found = {"failed": str(error), "evaluations": {}}
    return {
        "name": member.name, "group": member.group, "strength": member.strength, "seed": seed, **_made(member, seed),
        **found, "seconds": round(time.perf_counter() - began, 1), "device": jax.devices()[0].device_kind,
        "versions": {package: metadata.version(package) for package in ("patina-diffusion", "jax", "equinox", "optax")},
    }  # fmt: skip


def _found(member: Member, seed: int, device: jax.Device | None) -> dict[str, Any]:
    config = dataclasses.replace(member.config, seed=seed)
    known, held_out = reference_images(config)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "run"
        train(config, folder, None if device is None else [device])
        run = load_run(folder)
        losses = [line["loss"] for line in read_lines(folder / "metrics.jsonl")]
    features, evaluations = train_features(known, held_out), {}
    for name, how in member.samplings.items():
        labels = evenly(range(known.classes), SAMPLES)
        # the same noise for all members of a seed: differences between them are paired
        try:
            images = generate(run.denoiser, known.shape, labels, jax.random.key(1000 + seed), how)
        except NotFiniteError as error:
            raise Stopped(f"sampling {name}: {error}") from error
        evaluations[name] = evaluate_samples(np.clip(images, -1, 1), labels, known, held_out, features, seed)
    model = run.denoiser.model
    norms = np.linalg.norm(np.asarray(model.table), axis=1) if isinstance(model, Model) else np.zeros(0)
    return {"evaluations": evaluations, "losses": losses, "embedding_norms": plain(norms)}


def results(name: str, folder: Path, *, seeds: int = SEEDS) -> Iterator[dict[str, Any]]:
    """The results of a sweep that are there. Raises `InputError` for one of another config."""
    for member, seed in _runs(name, seeds):
        file = result_file(folder, member, seed)
        if file.exists():
            _require_same(file, _made(member, seed))
            yield json.loads(file.read_text(encoding="utf-8"))


def missing(name: str, folder: Path, *, seeds: int = SEEDS) -> Sequence[str]:
    """Names of the runs without a result."""
    files = [result_file(folder, *run) for run in _runs(name, seeds)]
    return [file.stem for file in files if not file.exists()]
