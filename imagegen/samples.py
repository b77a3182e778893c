"""Samples of a run on disk: made part by part, gone on with where they stopped, kept as ADM's .npz and a PNG grid."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Int, Shaped
from tqdm import tqdm

from imagegen.data.builtin import make_source
from imagegen.data.records import frozen_of, with_embeddings
from imagegen.data.source import Source
from imagegen.data.tokens import caption_of
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
from theory._files import write_whole, written_whole

SHOWN = 100
"""Images in the grid at most."""
Images = Float[np.ndarray, "n h w c"]


class _Asked(NamedTuple):
    """What images are made of: the conditions of those of some numbers, as a function of these; labels and captions
    where known, how `samples.json` tells it, the name of a walk, and columns of the grid.
    """

    conds: Callable[[Int[np.ndarray, " k"]], Shaped[np.ndarray, "k ..."]]
    labels: Int[np.ndarray, " n"] | None
    captions: Sequence[str]
    told: dict[str, object]
    name: str
    columns: int


def _asked(run: Run, number: int, classes: Sequence[int], captions: Sequence[str], text_encoder: Path | None) -> _Asked:
    """The classes in turn, or the captions; by default all classes, or the held-out captions."""
    prompts = run.frozen is not None and bool(captions)
    allowed = "the folder of the run's text encoder, for captions" if prompts else "left out: nothing is encoded by it"
    require((text_encoder is not None) == prompts, "text_encoder", text_encoder, allowed)
    if run.config.text:
        require(not classes, "classes", classes, "left out for a run whose condition is text: --captions")
        return _asked_in_words(run, number, captions, text_encoder)
    require(not captions, "captions", captions, "left out for a run whose condition is the class")
    count = len(run.statistics.class_names)
    for label in classes:
        require(0 <= label < count, "classes", label, f"in 0 ... {count - 1}")
    shown = classes or range(count)
    labels = evenly(shown, number)
    return _Asked(labels.__getitem__, labels, (), {"classes": list(shown)[:number]}, str(shown[0]), min(len(shown), 16))


def _asked_in_words(run: Run, number: int, captions: Sequence[str], text_encoder: Path | None) -> _Asked:
    config = run.config
    if captions:
        turn = evenly(range(len(captions)), number)
        texts, told, columns = [captions[i] for i in turn], list(captions), min(len(captions), 16)
        known = _encoded(run, captions, text_encoder)
        return _Asked(lambda k: known[turn[k]], None, texts, {"captions": told}, "caption", columns)
    source = make_source(config.data, "test", resolution=config.resolution, bad_share=config.bad_share)
    turn = evenly(range(len(source)), number)
    texts = [caption_of(source, i) for i in turn]
    if run.tokenizer is None:
        read = _held_out(source, run, turn)
    else:
        read = run.tokenizer.batch(texts).__getitem__
    return _Asked(read, source.labels[turn], texts, {"captions": "held-out"}, "caption", 10)


def _encoded(run: Run, captions: Sequence[str], text_encoder: Path | None) -> Shaped[np.ndarray, "n ..."]:
    """The tokens of captions, or their embeddings by the frozen encoder."""
    if run.tokenizer is not None:
        return run.tokenizer.batch(captions)
    from imagegen.text_encoders import embeddings, load_same

    assert run.frozen is not None
    assert text_encoder is not None
    return embeddings(load_same(text_encoder, run.frozen), captions)


def _held_out(
    source: Source, run: Run, turn: Int[np.ndarray, " n"]
) -> Callable[[Int[np.ndarray, " k"]], Float[np.ndarray, "k length width"]]:
    """The prepared embeddings of held-out captions, read as they are needed: of 50 000 they are 6 GB."""
    embedded, frozen = with_embeddings(source), run.frozen
    same = frozen is not None and frozen_of(source).encoder == frozen.encoder
    require(same, "data", f"'{run.config.data}', prepared anew with another text encoder", "as when the run began")
    return lambda k: np.stack([embedded.fields(index)["embedding"] for index in turn[k]])


class _Decoder(NamedTuple):
    """From what the network makes to images, and how `samples.json` tells it."""

    decode: Callable[[Images], Images]
    told: str | dict[str, str]


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
    classes: Sequence[int] = (),
    captions: Sequence[str] = (),
    how: SamplerConfig,
    ema: float | None,
    step: int | None,
    seed: int,
    out: Path | None,
    decoder: Path | None = None,
    batch: int = BATCH,
    text_encoder: Path | None = None,
) -> Path:
    """Make `number` >= 1 images of the `classes` in turn, all if none is named, or of the `captions`, those of the
    held-out data if none is given; return the .npz written.

    It holds `arr_0`, bytes (n, h, w, c), and `arr_1`, the labels (none of captions that were given), as ADM's evaluator
    reads; beside it stand `samples.json`, how they were made, a grid of the first ones, and in `captions.txt` a line
    for each. A run on latents needs the `decoder`, the folder of its autoencoder (`imagegen.pretrained`); one on
    prepared embeddings needs the `text_encoder`, the folder of theirs (`imagegen.text_encoders`), to be given captions.
    Parts of `batch` images are kept until all are made, and the same call goes on from them. Raises `InputError` for a
    batch below 1, classes that the run has not got, captions for a run that reads classes and the other way round, an
    autoencoder or text encoder of other data, an `out` with other samples, and as `load_run`.
    """
    require(batch >= 1, "batch", batch, "at least 1")
    run, target = _opened(folder, how, ema, step, out)
    asked, decoding = _asked(run, number, classes, captions, text_encoder), _decoder(run, decoder)
    make_folder("out", target)
    other = {} if batch == BATCH else {"batch": batch}
    _require_same(target / "samples.json", {**_made(run, how, ema, number, seed, asked, decoding), **other})
    file = target / "samples.npz"
    if file.exists():  # it is written last
        return file
    make_folder("out", target / "parts")
    # bytes, a part at a time: 50 000 images of 256 pixels are 10 GB
    parts = []
    for low in tqdm(range(0, number, batch), desc="sampling", unit="batch", disable=None):
        part = target / "parts" / f"{low:08d}.npy"
        if not part.exists():
            key = jax.random.fold_in(sampling_key(seed), low)
            conds = asked.conds(np.arange(low, min(low + batch, number)))
            images = decoding.decode(generate(run.denoiser, run.statistics.shape, conds, key, how, batch))
            with written_whole(part) as stream:
                np.save(stream, to_bytes(images))
        parts.append(np.load(part))
    made = np.concatenate(parts)
    if asked.captions:
        write_whole(target / "captions.txt", "".join(f"{' '.join(caption.split())}\n" for caption in asked.captions))
    save_grid(made[:SHOWN].astype(np.float32) / 127.5 - 1, target / "samples.png", columns=asked.columns)
    arrays: dict[str, Any] = {"arr_0": made}
    with written_whole(file) as stream:
        np.savez(stream, **arrays if asked.labels is None else {**arrays, "arr_1": asked.labels})
    shutil.rmtree(target / "parts", ignore_errors=True)
    return file


def _decoder(run: Run, folder: Path | None) -> _Decoder:
    """The autoencoder of a run on latents, told by its folder's name and its SHA-256; of images, none."""
    given = "none" if folder is None else f"'{folder}'"
    allowed = "the folder of the autoencoder, for a run on latents" if run.statistics.latent else "left out for images"
    require((run.statistics.latent != "") == (folder is not None), "decoder", given, allowed)
    if folder is None:
        return _Decoder(lambda images: images, "none")
    from imagegen.pretrained import Autoencoder

    autoencoder = Autoencoder(folder)
    same = autoencoder.sha256 == run.statistics.latent
    require(same, "decoder", f"'{folder}'", "the autoencoder, and scale, that the run's latents were prepared with")
    return _Decoder(autoencoder.decode, {"folder": folder.resolve().name, "sha256": autoencoder.sha256})


def _made(
    run: Run, how: SamplerConfig, ema: float | None, number: int, seed: int, asked: _Asked, decoding: _Decoder
) -> dict[str, object]:
    """All that images depend on."""
    return {
        "config": dataclasses.asdict(run.config), "step": run.step, "ema": run.config.ema[-1] if ema is None else ema,
        "number": number, "seed": seed, **asked.told, **dataclasses.asdict(how),
        "decoder": decoding.told,
    }  # fmt: skip


def _require_same(file: Path, values: dict[str, object]) -> None:
    """Images made otherwise are not gone on from, nor written over."""
    text = json.dumps(values, indent=1) + "\n"
    if file.exists():
        before, now = _decisive(json.loads(file.read_text(encoding="utf-8"))), _decisive(json.loads(text))
        other = [f"{name}={now[name]!r} (those there have {before.get(name)!r})"
                 for name in now if name != "config" and now[name] != before.get(name)]  # fmt: skip
        given = ", ".join(other) or "another config"
        require(before == now, f"images in '{file.parent}'", given, "made in one way; choose another --out")
    write_whole(file, text)


def _decisive(told: dict[str, Any]) -> dict[str, Any]:
    """What must be the same: the decoder by its SHA-256, wherever its folder is now. Older files do not tell "none"."""
    decoder = told.get("decoder", "none")
    return {**told, "decoder": decoder if isinstance(decoder, str) else decoder["sha256"]}


def make_walk(
    folder: Path,
    *,
    number: int,
    classes: Sequence[int] = (),
    captions: Sequence[str] = (),
    how: SamplerConfig,
    ema: float | None,
    step: int | None,
    seed: int,
    out: Path | None,
    decoder: Path | None = None,
    text_encoder: Path | None = None,
) -> Path:
    """Make `number` images of the first class, or caption, along a circle of starting noise; return the PNG written.

    Raises `InputError` as `make_samples`.
    """
    run, target = _opened(folder, how, ema, step, out)
    asked, decoding = _asked(run, 1, classes[:1], captions[:1], text_encoder), _decoder(run, decoder)
    make_folder("out", target)
    _require_same(target / f"walk-{asked.name}.json", _made(run, how, ema, number, seed, asked, decoding))
    (cond,) = asked.conds(np.arange(1))
    images = decoding.decode(walk(run.denoiser, run.statistics.shape, cond, sampling_key(seed), how, number))
    save_grid(images[:SHOWN], target / f"walk-{asked.name}.png", columns=10)
    return target / f"walk-{asked.name}.png"
