"""Figures of a run's samples by pretrained networks on disk: CLIP score, figures in CLIP's features, codebook entropy.

CLIP's features are compared as the classifier's are (`imagegen.figures`), and in them, at length 1,

- `nearest_training` is the mean distance to the 5 nearest training images,
- `memorised` the share of samples nearer than `MEMORISED` = 0.12 to one (SC's threshold for CLIP ViT-B/16, taken to be
  meant of features of length 1),

each beside that of held-out images. Images are read batch by batch and not kept, up to `LIMIT` = 50 000 training images
and `HELD_OUT` = 10 000 held-out ones, drawn at random by the seed; a run on latents is compared with the images that
its latents were prepared from. All figures stand with their protocol: hashes of the weights and of the real images,
preprocessing, numbers, seed, and how the samples were made.
"""

import dataclasses
import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8
from tqdm import tqdm

from imagegen import config as configs
from imagegen.clip import Clip, Embedder, clip_score, unit
from imagegen.codebook import GROUPS, Quantiser, add_codes, entropy_figures, random_groups
from imagegen.config import Config
from imagegen.data.builtin import is_folder, make_source
from imagegen.data.latents import CONTENT as LATENTS
from imagegen.data.records import MANIFEST, read_manifest
from imagegen.data.source import ArraySource, Source, read_batch
from imagegen.evaluate import NEIGHBOURS, checked_labels, good, halves, matched_counts, newest_samples, write_page
from imagegen.features import class_gaussians
from imagegen.figures import MANIFOLD, TOP, Facts, Figures, feature_figures
from imagegen.inception import as_colour
from imagegen.pretrained import AT_ONCE, Autoencoder
from imagegen.references import image_batches, image_shape
from imagegen.sampling import to_bytes
from sim.neighbours import is_memorised, mean_distance_to_nearest
from theory._checks import InputError, require

LIMIT = 50_000
"""Training images at most."""
HELD_OUT = 10_000
"""Held-out images at most; of the samples as many are compared, as the work grows with the square."""
MEMORISED = 0.12
"""Distance below which a sample is taken for a copy of a training image."""
BATCH = 64
Labels = Int[np.ndarray, " n"]


class Embedded(NamedTuple):
    """Features (n, d) and labels (n,) of images, captions where there are any, and SHA-256 of images and labels."""

    features: Float[np.ndarray, "n d"]
    labels: Labels
    captions: tuple[str, ...] = ()
    sha256: str = ""


def evaluate_clip(folder: Path, samples: Path | None, weights: Path, seed: int = 0) -> Path:
    """Write `evaluation-clip.json` beside the samples of a run (by default those of its newest step); return its path.

    It holds `scores`, the CLIP score of samples that have captions and of held-out images with theirs; `figures` of
    samples that have labels; why some are `left_out`; and the protocol. `weights` is the model's folder
    (`imagegen.clip`). Raises `InputError`, before anything is computed, for a folder without a run or samples, samples
    with neither captions nor labels or of another shape than the data's, and as `Clip` and `images_behind` do.
    """
    config, file = configs.load(folder / "config.json"), newest_samples(folder) if samples is None else samples
    n = image_shape(file)[0]
    captions, labels = read_captions(file, n), read_labels(file, n)
    given = "neither captions nor labels"
    require(bool(captions) or labels is not None, f"'{file}'", given, "samples with captions or labels, as `sample`'s")
    train, test = _sources(config, file)
    labels = None if labels is None else checked_labels(labels, n, test.classes)
    network = Clip(weights)
    made = _embedded_samples(file, network)
    held_out = _embedded(test, network, "held-out images", seed, HELD_OUT)
    protocol: dict[str, Any] = {
        "clip": network.about, "score": "100 mean max(cos, 0)", "samples": n, "held_out": len(held_out.labels),
        "held_out_sha256": held_out.sha256, "confidence": 0.95,
    }  # fmt: skip
    scores, left_out = _scores(network, made, captions, held_out)
    figures: Figures = {}
    if labels is None:
        left_out["figures"] = "the samples have no labels"
    else:
        known = _embedded(train, network, "training images", seed, LIMIT)
        figures, others = clip_figures(known, held_out, Embedded(made, labels), test.classes, seed)
        left_out |= others
        protocol |= {
            "training": len(known.labels), "training_sha256": known.sha256, "neighbours": NEIGHBOURS,
            "memorised_below": MEMORISED, "manifold_k": MANIFOLD, "top": TOP,
        }  # fmt: skip
    page = {"seed": seed, "scores": scores, "figures": figures, "left_out": left_out, "protocol": protocol}
    return write_page(page, config, file, "evaluation-clip.json")


def evaluate_codebook(folder: Path, samples: Path | None, weights: Path, seed: int = 0) -> Path:
    """Write `evaluation-codebook.json` beside the samples of a run (by default those of its newest step); return its
    path.

    It holds the `figures` of `imagegen.codebook` of the samples and of as many held-out images, and the protocol.
    `weights` is the folder of a VQModel. Raises `InputError`, before anything is computed, for a folder without a run
    or samples, fewer than `GROUPS` = 20 images, samples of another shape than the data's, an autoencoder without a
    codebook, and as `Autoencoder` and `images_behind` do.
    """
    config, file = configs.load(folder / "config.json"), newest_samples(folder) if samples is None else samples
    n = image_shape(file)[0]
    _, test = _sources(config, file)
    rng, taken = np.random.default_rng(seed), min(n, len(test), HELD_OUT)
    groups, others = (random_groups(size, taken, rng) for size in (n, len(test)))
    network = Autoencoder(weights)
    require(network.codebook > 0, "weights", f"'{weights}', without a codebook", "the folder of a VQModel")
    made = _counted(image_batches(file, AT_ONCE), groups, network, "samples")
    digest = hashlib.sha256()
    real = _counted(_images_of(test, np.flatnonzero(others >= 0), digest), others[others >= 0], network, "real images")
    protocol = {
        "autoencoder_sha256": network.sha256, "codebook": network.codebook, "unit": "nats", "groups": GROUPS,
        "samples": taken, "held_out": taken, "held_out_sha256": digest.hexdigest(), "confidence": 0.95,
    }  # fmt: skip
    page = {"seed": seed, "figures": entropy_figures(made, real), "left_out": {}, "protocol": protocol}
    return write_page(page, config, file, "evaluation-codebook.json")


def images_behind(config: Config) -> Config:
    """The config with the images that its latents were prepared from as data, as their manifest says; of a run on
    images the config itself.

    Raises `InputError` for images that are no longer there.
    """
    root = Path(config.data)
    if not is_folder(config.data) or not (root / MANIFEST).is_file():
        return config
    manifest = read_manifest(root)
    if manifest["content"] != LATENTS:
        return config
    images = Path(manifest.get("data", ""))
    require(images.is_dir(), f"'{config.data}'", f"'{images}' gone", "latents whose images are still there")
    return dataclasses.replace(config, data=str(images), resolution=manifest["resolution"])


def read_captions(samples: Path, n: int) -> tuple[str, ...]:
    """The captions of the n samples in a file, from captions.txt beside it; () where there is none.

    Raises `InputError` where there are more or fewer than n, or bytes that are no text.
    """
    file = samples.with_name("captions.txt")
    if not file.is_file():
        return ()
    # bytes that are no text become "\ufffd", which `sample` never wrote
    lines = tuple(file.read_text(encoding="utf-8", errors="replace").removesuffix("\n").split("\n"))
    allowed = f"{n} captions, a line for each sample of '{samples.name}'"
    require(len(lines) == n, f"'{file}'", f"{len(lines)} lines", allowed)
    return lines


def read_labels(samples: Path, n: int) -> Labels | None:
    """The classes `arr_1` of the n samples in an .npz file; None where it has none.

    Raises `InputError` for others than n integers; pickled arrays are never loaded.
    """
    allowed = f"an .npz file with {n} integers as arr_1, or without it"
    with zipfile.ZipFile(samples) as archive:
        if "arr_1.npy" not in archive.namelist():
            return None
    try:
        with np.load(samples, allow_pickle=False) as archive:
            labels = archive["arr_1"]
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"'{samples}' must be {allowed}; got what cannot be read ({error}).") from None
    fits = labels.shape == (n,) and labels.dtype.kind in "iu"
    require(fits, f"'{samples}'", f"arr_1 {labels.dtype} {labels.shape}", allowed)
    return labels


def clip_figures(
    train: Embedded, held_out: Embedded, samples: Embedded, classes: int, seed: int = 0
) -> tuple[Figures, dict[str, str]]:
    """`imagegen.figures.feature_figures` of samples beside held-out images, equally many of each class as
    `imagegen.evaluate` takes them; `nearest_training` and `memorised` as the module's top says. And what is left out.

    Labels are 0 ... classes - 1. Raises `ValueError` for fewer than `NEIGHBOURS` = 5 training images, fewer than 40
    images of classes of which both sides have 4, and features that are 0 or do not vary.
    """
    n = len(train.labels)
    require(n >= NEIGHBOURS, "train", f"{n} images", f"at least {NEIGHBOURS}")
    known = np.bincount(held_out.labels, minlength=classes)
    known[np.bincount(train.labels, minlength=classes) == 0] = 0
    counts = matched_counts(samples.labels, known, len(held_out.labels))
    rng = np.random.default_rng(seed)
    gaussians = class_gaussians(train.features.astype(np.float64), train.labels, classes)
    points = unit(train.features)

    def facts(part: Embedded) -> Facts:
        rows, directions = part.features.astype(np.float64), unit(part.features)
        nearest = mean_distance_to_nearest(directions, points, k=NEIGHBOURS)
        memorised = is_memorised(directions, points, threshold=MEMORISED)
        return Facts(rows, rows, nearest, memorised, gaussians.relative_distance(rows, part.labels), None)

    sides = []
    for part in (held_out, samples):
        all_facts = facts(part)
        sides.append([all_facts.at(rows) for rows in halves(part.labels, counts, rng)])
    return feature_figures(*sides)


def _sources(config: Config, file: Path) -> tuple[Source, Source]:
    """Training and held-out images, the good ones, of the shape of the samples in the file."""
    shown = images_behind(config)
    train, test = (make_source(shown.data, split, resolution=shown.resolution, bad_share=1.0)
                   for split in ("train", "test"))  # fmt: skip
    shape = image_shape(file)[1:]
    require(shape == test.shape, f"'{file}'", f"images of shape {shape}", f"of the data's shape {test.shape}")
    first, second = (good(part) if isinstance(part, ArraySource) else part for part in (train, test))
    return first, second


def _embedded_samples(file: Path, network: Embedder) -> Float[np.ndarray, "n d"]:
    total = -(-image_shape(file)[0] // BATCH)
    bar = tqdm(image_batches(file, BATCH), "samples", total, unit="batch", disable=None)
    return np.concatenate([network.images(images) for images in bar])


def _embedded(source: Source, network: Embedder, what: str, seed: int, most: int) -> Embedded:
    """At most so many images of a source, at random."""
    rows = np.sort(np.random.default_rng(seed).permutation(len(source))[:most])
    features, captions, digest = [], [], hashlib.sha256()
    for low in tqdm(range(0, len(rows), BATCH), what, unit="batch", disable=None):
        batch = read_batch(source, rows[low : low + BATCH])
        images = to_bytes(batch["image"])
        digest.update(images.tobytes() + np.ascontiguousarray(batch["label"], np.int32).tobytes())
        features.append(network.images(images))
        captions += [str(caption) for caption in batch.get("caption", ())]
    return Embedded(np.concatenate(features), source.labels[rows], tuple(captions), digest.hexdigest())


def _scores(
    network: Embedder, made: Float[np.ndarray, "n d"], captions: Sequence[str], held_out: Embedded
) -> tuple[dict[str, Any], dict[str, str]]:
    """CLIP scores of samples, and of held-out images; and why they are left out."""
    if not captions:
        return {}, {"clip_score": "the samples have no captions.txt beside them"}
    scores = {"clip_score": clip_score(made, _embedded_texts(network, captions, "captions"))}
    if not held_out.captions:
        return scores, {"clip_score_held_out": "the data have no captions"}
    real = _embedded_texts(network, held_out.captions, "held-out captions")
    return {**scores, "clip_score_held_out": clip_score(held_out.features, real)}, {}


def _embedded_texts(network: Embedder, captions: Sequence[str], what: str) -> Float[np.ndarray, "n d"]:
    starts = tqdm(range(0, len(captions), BATCH), what, unit="batch", disable=None)
    return np.concatenate([network.texts(captions[low : low + BATCH]) for low in starts])


def _images_of(source: Source, rows: Int[np.ndarray, " m"], digest: Any) -> Iterator[UInt8[np.ndarray, "_ h w c"]]:
    """The images of these rows, some at a time, and their bytes into the digest."""
    for low in range(0, len(rows), AT_ONCE):
        images = to_bytes(read_batch(source, rows[low : low + AT_ONCE])["image"])
        digest.update(images.tobytes())
        yield images


def _counted(
    batches: Iterator[UInt8[np.ndarray, "_ h w c"]], groups: Int[np.ndarray, " n"], network: Quantiser, what: str
) -> Int[np.ndarray, "g K"]:
    """How often each code is met in each group of images."""
    counts = np.zeros((GROUPS, network.codebook), np.int64)
    starts = range(0, len(groups), AT_ONCE)
    for low, images in zip(tqdm(starts, what, unit="batch", disable=None), batches, strict=True):
        latents, _ = network.encode((as_colour(images) / 127.5 - 1).astype(np.float32))
        add_codes(counts, network.codes(latents), groups[low : low + AT_ONCE])
    return counts
