"""Evaluation while training goes on: figures of a few samples of the averaged weights, lines of evaluations.jsonl.

    SAMPLES = 250 samples of up to 25 classes in turn, DDIM with 25 steps, no guidance, noise by the run's seed,

compared by `imagegen.evaluate.evaluate_samples` with held-out images of the same classes, and with training images, up
to `LARGEST` = 4000 of each, evenly spaced, the good ones before any degradation. Each line holds the step, of each of
`FIGURES` the debiased value and its interval, and the protocol. 250 samples tell runs apart that differ much; for
numbers to be quoted, there are `sample` and `evaluate`.
"""

import math
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int

from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.files import file_source
from imagegen.data.latents import LatentSource
from imagegen.data.source import NUMBERS, ArraySource, Source, read_batch
from imagegen.evaluate import PER_CLASS, SMALLEST, evaluate_samples
from imagegen.features import Features, train_features
from imagegen.model import ModelDenoiser
from imagegen.sampling import SamplerConfig, evenly, generate, sampling_key
from theory._checks import require

SAMPLES, CLASSES, LARGEST = 250, 25, 4000
"""Samples, classes and training images at most."""
HOW = SamplerConfig(steps=25)
FIGURES = ("w2_squared", "frechet_squared_features", "precision", "recall", "accuracy", "memorised")
"""Those of `evaluate_samples` that are written down; each where it is not left out."""


class InLoop(NamedTuple):
    """What samples are compared with, found once before training: images, judge, and the classes of the samples."""

    train: ArraySource
    test: ArraySource
    features: Features
    conds: Int[np.ndarray, " n"]


def prepare(config: Config) -> InLoop:
    """What the run's samples will be compared with.

    Raises `ValueError` where there are too few held-out images: fewer than 40 in all of classes with 4 or more.
    """
    train, test = (
        make_source(config.data, split, resolution=config.resolution, bad_share=config.bad_share)
        for split in ("train", "test")
    )
    latent = isinstance(file_source(train), LatentSource)
    require(not latent, "evaluate_every", config.evaluate_every, "0 for latents, which are no images")
    counts = np.minimum(*(np.bincount(source.labels, minlength=source.classes) for source in (train, test)))
    enough = np.flatnonzero(counts >= PER_CLASS)
    classes = enough[np.unique(np.linspace(0, len(enough) - 1, min(CLASSES, len(enough))).astype(int))]
    conds = evenly(classes.tolist(), SAMPLES) if len(classes) else np.zeros(0, int)
    used = np.minimum(np.bincount(conds, minlength=len(counts)), counts)
    allowed = f"0 for data with fewer than {SMALLEST} held-out images of classes with {PER_CLASS} or more"
    require(int(used[used >= PER_CLASS].sum()) >= SMALLEST, "evaluate_every", config.evaluate_every, allowed)
    known, fresh = (_of_classes(source, classes) for source in (train, test))
    return InLoop(known, fresh, train_features(known, fresh), conds)


def _of_classes(source: Source, classes: Int[np.ndarray, " k"]) -> ArraySource:
    """Up to `LARGEST` good images of these classes, evenly spaced, in memory."""
    rows = np.flatnonzero(np.isin(source.labels, classes))
    most = max(1, min(LARGEST, len(rows), NUMBERS // math.prod(source.shape)))
    rows = rows[np.unique(np.linspace(0, len(rows) - 1, most).astype(int))]
    batch = read_batch(source, rows)
    good = np.flatnonzero(~batch.get("degraded", np.zeros(len(rows), bool)))
    return ArraySource(source.name, batch["image"][good], batch["label"][good], source.class_names)


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
        "seed": config.seed, "ema": config.ema[-1], "decoder": "none", "sha256": page["sha256"],
    }  # fmt: skip
    return {"step": step, "figures": figures, "protocol": protocol}
