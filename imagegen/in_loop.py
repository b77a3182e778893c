"""Evaluation while training goes on: figures of a few samples of the averaged weights, lines of evaluations.jsonl.

    SAMPLES = 250 samples of up to 25 classes in turn, DDIM with 25 steps, no guidance, noise by the run's seed,

compared by `imagegen.evaluate.evaluate_samples` with held-out images of the same classes, and with training images, up
to `LARGEST` = 4000 of each, evenly spaced, the good ones before any degradation. Each line holds the step, of each of
`FIGURES` the debiased value and its interval, and the protocol. 250 samples tell runs apart that differ much; for
numbers to be quoted, there are `sample` and `evaluate`.

Latents are compared with latents, by a judge trained on latents; nothing is decoded. Each of the real ones is drawn
once from its law, with a fixed seed, since training draws at every use: the samples of a perfect model have the law of
such draws, not of the means.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.files import file_source
from imagegen.data.latents import LatentSource
from imagegen.data.source import NUMBERS, ArraySource, Batch, Source, read_batch
from imagegen.evaluate import PER_CLASS, SMALLEST, evaluate_samples
from imagegen.features import Features, train_features
from imagegen.model import ModelDenoiser
from imagegen.sampling import SamplerConfig, evenly, generate, sampling_key
from imagegen.uses import LATENT
from theory._checks import require

SAMPLES, CLASSES, LARGEST = 250, 25, 4000
"""Samples, classes and training images at most."""
PART = 256
"""Records read at once: one of a latent holds five times as many numbers as are kept of it."""
HOW = SamplerConfig(steps=25)
DECODER = {False: "none", True: "none: latents are compared"}
"""What the protocol says, of images and of latents."""
FIGURES = ("w2_squared", "frechet_squared_features", "precision", "recall", "accuracy", "memorised")
"""Those of `evaluate_samples` that are written down; each where it is not left out."""


class InLoop(NamedTuple):
    """What samples are compared with, found once before training: images or latents, judge; the samples' classes."""

    train: ArraySource
    test: ArraySource
    features: Features
    conds: Int[np.ndarray, " n"]


def prepare(config: Config) -> InLoop:
    """What the run's samples will be compared with.

    Raises `ValueError` where there are too few held-out images: fewer than 40 in all of classes with 4 or more,
    and as `train_features` does, for data of one class, say.
    """
    train, test = (
        make_source(config.data, split, resolution=config.resolution, bad_share=config.bad_share)
        for split in ("train", "test")
    )
    counts = np.minimum(*(np.bincount(source.labels, minlength=source.classes) for source in (train, test)))
    enough = np.flatnonzero(counts >= PER_CLASS)
    classes = enough[np.unique(np.linspace(0, len(enough) - 1, min(CLASSES, len(enough))).astype(int))]
    conds = evenly(classes.tolist(), SAMPLES) if len(classes) else np.zeros(0, int)
    used = np.minimum(np.bincount(conds, minlength=len(counts)), counts)
    allowed = f"0 for data with fewer than {SMALLEST} held-out images of classes with {PER_CLASS} or more"
    require(int(used[used >= PER_CLASS].sum()) >= SMALLEST, "evaluate_every", config.evaluate_every, allowed)
    draws = np.random.default_rng(0).spawn(2)  # the same for all runs: they have one reference
    known, fresh = (_of_classes(source, classes, rng) for source, rng in zip((train, test), draws, strict=True))
    return InLoop(known, fresh, train_features(known, fresh), conds)


def _of_classes(source: Source, classes: Int[np.ndarray, " k"], rng: np.random.Generator) -> ArraySource:
    """Up to `LARGEST` good images or latents of these classes, evenly spaced, in memory."""
    rows = np.flatnonzero(np.isin(source.labels, classes))
    most = max(1, min(LARGEST, len(rows), NUMBERS // math.prod(source.shape)))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]
    starts = range(0, len(rows), PART)
    parts = [_good(read_batch(source, rows[low : low + PART]), rng) for low in starts]
    images, labels = (np.concatenate(column) for column in zip(*parts, strict=True))
    latent = isinstance(file_source(source), LatentSource)
    return ArraySource(source.name, images, labels, source.class_names, latent=latent)


def _good(batch: Batch, rng: np.random.Generator) -> tuple[Float[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    """Images, or latents drawn, and labels of the records that are not degraded."""
    images = batch["image"]
    if LATENT[0] in batch:
        mean, std = (batch[name][:, 0] for name in LATENT)  # not mirrored
        images = mean + std * rng.standard_normal(mean.shape, np.float32)
    good = ~batch.get("degraded", np.zeros(len(images), bool))
    return images[good], batch["label"][good]


def evaluation(beside: InLoop, denoiser: ModelDenoiser, config: Config, step: int) -> dict[str, Any]:
    """The line of evaluations.jsonl for this denoiser: the same for the same weights and config."""
    images = generate(denoiser, beside.test.shape, beside.conds, sampling_key(config.seed), HOW)
    page = evaluate_samples(images, beside.conds, beside.train, beside.test, beside.features, config.seed)
    figures = {
        name: {part: page["figures"][name][part] for part in ("debiased", "low", "high")}
        for name in FIGURES
        if name in page["figures"]
    }
    protocol = {
        "samples": len(images), "sampler": HOW.sampler, "steps": HOW.steps, "guidance": HOW.guidance,
        "seed": config.seed, "ema": config.ema[-1], "decoder": DECODER[beside.test.latent], "sha256": page["sha256"],
    }  # fmt: skip
    return {"step": step, "figures": figures, "protocol": protocol}
