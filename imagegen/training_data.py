"""What a run trains on: its source, with some images degraded and captions corrupted, the noise gates of the degraded
images, the tokens or embeddings of captions."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path as File
from typing import Any

import numpy as np
from jaxtyping import Float

from imagegen import annotations
from imagegen.config import PREPARED, Config
from imagegen.data.builtin import make_source
from imagegen.data.captions import Swapped
from imagegen.data.degrade import Degraded, degraded_flags, make_degradation
from imagegen.data.embeddings import Frozen, load_frozen
from imagegen.data.files import file_source
from imagegen.data.latents import LatentSource
from imagegen.data.records import frozen_of, with_embeddings
from imagegen.data.rewriting import Rewritten
from imagegen.data.source import ArraySource, Source, Subset, in_memory
from imagegen.data.tokens import CaptionTokenizer, Tokenised, captions_of, load_tokenizer, train_tokenizer
from imagegen.rewrites import made_captions
from imagegen.step import GATE
from imagegen.uses import LATENT
from theory._checks import require
from theory.gates import gate_times
from theory.path_base import Path

STEPPED = ("label", "index", "tokens", "embedding")
"""What the step reads of a record, where it is there."""
Gates = Mapping[str, Float[np.ndarray, " n"]]
"""`t_max`, `t_n` and `t_open` of every training image."""


def training_source(config: Config) -> Source:
    """The training images as they are read; where some are degraded, the records say which. Images in a folder stay
    there until they are needed, all others are in memory.

    Raises `ValueError` for bad data or a bad file, and where some should be degraded, or clean, but none is, or
    captions should be corrupted, or embeddings of them read, but there are none, and as `made_captions` does.
    """
    source = make_source(config.data, "train", resolution=config.resolution, bad_share=config.bad_share)
    if config.text == PREPARED:
        source = with_embeddings(source)
    if config.captions == "swap":
        source = Swapped(source, config.caption_share, config.seed)
    if config.captions == "rewrite":
        source = Rewritten(source, config.caption_share, config.caption_level, config.seed)
        if config.rewritten:
            source = dataclasses.replace(source, made=made_captions(File(config.rewritten), source))
    latent = isinstance(file_source(source), LatentSource)
    require(not latent or config.degradation == "none", "degradation", config.degradation, "none for latents")
    if config.degradation != "none":
        degradation = make_degradation(config.degradation, config.degradation_strength)
        source = Degraded(source, degradation, config.degraded_share, config.seed)
    if file_source(source) is None and not isinstance(source, ArraySource):
        source = in_memory(source)
    if config.train_on == "all":
        return source
    if config.annotations and annotations.listing(source) is not None:
        return source
    degraded = degraded_flags(source)
    told = f"all, where nothing says which images of '{source.name}' are degraded"
    require(degraded is not None, "train_on", config.train_on, told)
    assert degraded is not None
    if config.train_on == "gated":
        require(bool(degraded.any()), "train_on", "gated", f"all, where none of the {len(source)} images is degraded")
        return source
    require(not degraded.all(), "train_on", "clean", f"another, where all of the {len(source)} images are degraded")
    clean = np.flatnonzero(~degraded)
    return source.subset(clean) if isinstance(source, ArraySource) else Subset(source, clean)


def make_tokenizer(config: Config, kept: File) -> CaptionTokenizer | None:
    """The tokenizer of a run: none where it reads no text, or prepared embeddings, the one that it has `kept`, or else
    one from the config's file, or trained on the captions of its data, as they are before any corruption: so runs that
    differ in it alone have the same.

    Raises `ValueError` for captions or a file that are missing, a bad file, and one that has changed since it was kept.
    """
    if config.text in ("", PREPARED):
        return None
    named = File(config.text)
    if kept.exists():
        same = config.text == "train" or not named.is_file() or named.read_bytes() == kept.read_bytes()
        require(same, "text", f"'{named}', changed since", f"the same file as when the run began, a copy of which is "
                f"'{kept}', or choose another --out")  # fmt: skip
        return load_tokenizer(kept, config.text_length)
    if config.text == "train":
        source = make_source(config.data, "train", resolution=config.resolution, bad_share=config.bad_share)
        return train_tokenizer(captions_of(source), config.text_length)
    return load_tokenizer(named, config.text_length)


def make_frozen(config: Config, source: Source, kept: File) -> Frozen | None:
    """The frozen encoder of a run's training captions, whose embeddings the data hold; none for other runs.

    Raises `ValueError` for embeddings of another length than the config's, or another encoder's than those that the run
    began with, which is `kept`.
    """
    if config.text != PREPARED:
        return None
    files = file_source(source)
    assert files is not None  # or `training_source` had refused it
    frozen = frozen_of(files)
    length = len(frozen.null)
    require(config.text_length == length, "text_length", config.text_length, f"{length}, as the data were prepared")
    if kept.exists():
        before = load_frozen(kept)
        same = before.encoder == frozen.encoder and np.array_equal(before.null, frozen.null)
        require(same, "data", f"'{config.data}', prepared anew with another text encoder", "as when the run began, or "
                "choose another --out")  # fmt: skip
    return frozen


def with_tokens(source: Source, tokenizer: CaptionTokenizer | None) -> Source:
    """The source with tokens in its records, in memory if it was; as it is where there is no tokenizer.

    Raises `ValueError` for a source without captions.
    """
    if tokenizer is None:
        return source
    tokenised = Tokenised(source, tokenizer)
    return in_memory(tokenised) if isinstance(source, ArraySource) else tokenised


def make_gates(config: Config, source: Source, path: Path, file: File | None = None) -> Gates | None:
    """The gates of all images where the run trains gated, else None: degraded ones open at `sigma_min`, or all as the
    config's `annotations` say, or the copy of them in `file`.

    Raises `ValueError` where gates that should open never would, and for a file that is not of these images.
    """
    if config.train_on != "gated":
        return None
    if config.annotations:
        noted = annotations.load(File(config.annotations) if file is None else file)
        annotations.require_of(noted, source, config.annotations)
        low, high = noted.sigma_min, noted.sigma_max
    else:
        degraded = degraded_flags(source)
        assert degraded is not None  # or `training_source` had refused it
        low, high = np.where(degraded, config.sigma_min, 0.0), np.zeros(len(degraded))
    times, finite = gate_times(path, low, high), np.isfinite(low)
    opens = bool(np.isfinite(np.asarray(times.t_open)[finite]).all())
    name = f"sigma_min in '{config.annotations}'" if config.annotations else "sigma_min"
    require(opens, name, np.max(low[finite], initial=0), f"low enough for the path {config.path} to open the gate")
    return {name: np.asarray(getattr(times, name), np.float32) for name in GATE}


def gated(batch: dict[str, Any], gates: Gates | None) -> dict[str, Any]:
    """What the step takes of a batch: images, labels, indices, tokens or embeddings if any, and these images' gates."""
    seen = LATENT if "mean" in batch else ("image",)
    taken: dict[str, Any] = {name: batch[name] for name in (*seen, *STEPPED) if name in batch}
    return taken if gates is None else {**taken, **{name: values[batch["index"]] for name, values in gates.items()}}
