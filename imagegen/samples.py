"""Samples of a run on disk: made part by part, gone on with where they stopped, kept as ADM's .npz and a PNG grid."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

from imagegen.run import Run, load_run
from imagegen.sampling import (
    BATCH,
    SamplerConfig,
    evenly,
    generate,
    require_null,
    sampling_key,
    save_grid,
    to_bytes,
    walk,
)  # fmt: skip
from theory._checks import make_folder, require
from theory._files import write_whole

SHOWN = 100
"""Images in the grid at most."""


def _classes(run: Run, classes: Sequence[int]) -> Sequence[int]:
    count = len(run.statistics.class_names)
    for label in classes:
        require(0 <= label < count, "classes", label, f"in 0 ... {count - 1}")
    return classes or range(count)


def _opened(
    folder: Path, how: SamplerConfig, ema: float | None, step: int | None, out: Path | None
) -> tuple[Run, Path]:
    """The run, which can be sampled so, and the folder to write to."""
    run = load_run(folder, step=step, ema=ema)
    require_null(how, run.config.null_rate)
    return run, folder / f"samples-{run.step}" if out is None else out


def make_samples(
    folder: Path,
    *,
    number: int,
    classes: Sequence[int],
    how: SamplerConfig,
    ema: float | None,
    step: int | None,
    seed: int,
    out: Path | None,
) -> Path:
    """Make `number` >= 1 images of the `classes` in turn (all if none is named); return the .npz written.

    It holds `arr_0`, bytes (n, h, w, c), and `arr_1`, the labels, as ADM's evaluator reads; beside it stand
    `samples.json`, how they were made, and a grid of the first ones. Finished parts are kept, and the same call goes on
    from them. Raises `InputError` for classes that the run has not got, an `out` with other samples, and as `load_run`.
    """
    run, target = _opened(folder, how, ema, step, out)
    shown = _classes(run, classes)
    conds = evenly(shown, number)
    make_folder("out", target / "parts")
    _require_same(target / "samples.json", _made(run, how, ema, number, seed, shown))
    parts = []
    for low in tqdm(range(0, number, BATCH), desc="sampling", unit="batch", disable=None):
        file = target / "parts" / f"{low:08d}.npy"
        if not file.exists():
            key = jax.random.fold_in(sampling_key(seed), low)
            images = generate(run.denoiser, run.statistics.shape, conds[low : low + BATCH], key, how)
            with file.with_suffix(".partial").open("wb") as stream:
                np.save(stream, images)
            file.with_suffix(".partial").replace(file)
        parts.append(np.load(file))
    images = np.concatenate(parts)
    np.savez(target / "samples.npz", arr_0=to_bytes(images), arr_1=conds)
    save_grid(images[:SHOWN], target / "samples.png", columns=min(len(shown), 16))
    return target / "samples.npz"


def _made(
    run: Run, how: SamplerConfig, ema: float | None, number: int, seed: int, classes: Sequence[int]
) -> dict[str, object]:
    """All that images depend on."""
    return {
        "config": dataclasses.asdict(run.config), "step": run.step, "ema": run.config.ema[-1] if ema is None else ema,
        "number": number, "seed": seed, "classes": list(classes), **dataclasses.asdict(how),
    }  # fmt: skip


def _require_same(file: Path, values: dict[str, object]) -> None:
    """Images made otherwise are not gone on from, nor written over."""
    text = json.dumps(values, indent=1) + "\n"
    if file.exists():
        before, now = json.loads(file.read_text(encoding="utf-8")), json.loads(text)
        other = [f"{name}={now[name]!r} (those there have {before.get(name)!r})"
                 for name in now if name != "config" and now[name] != before.get(name)]  # fmt: skip
        given = ", ".join(other) or "another config"
        require(before == now, f"images in '{file.parent}'", given, "made in one way; choose another --out")
    write_whole(file, text)


def make_walk(
    folder: Path,
    *,
    number: int,
    classes: Sequence[int],
    how: SamplerConfig,
    ema: float | None,
    step: int | None,
    seed: int,
    out: Path | None,
) -> Path:
    """Make `number` images of the first of `classes` along a circle of starting noise; return the PNG written.

    Raises `InputError` as `make_samples`.
    """
    run, target = _opened(folder, how, ema, step, out)
    label = _classes(run, classes)[0]
    make_folder("out", target)
    _require_same(target / f"walk-{label}.json", _made(run, how, ema, number, seed, [label]))
    images = walk(run.denoiser, run.statistics.shape, label, sampling_key(seed), how, number)
    save_grid(images[:SHOWN], target / f"walk-{label}.png", columns=10)
    return target / f"walk-{label}.png"
