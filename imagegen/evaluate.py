"""How good generated images are: figures of samples beside what real held-out images have, at equal numbers.

`imagegen.figures` says what is computed; here, of what. Of every class as many samples as held-out images are taken, an
even number, so that no figure sees classes that are unequally frequent; both sets are cut into halves with the same
classes, at random by the seed. Everything is computed in float64 from the pixels in [-1, 1] and from features
(`imagegen.features`). It takes 3 seconds for 500 digits, and 20 for 500 colour images of 32 x 32, on one core.
"""

import importlib.metadata
import json
import platform
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int, Shaped, UInt8

from imagegen import config as configs
from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.files import file_source
from imagegen.data.latents import LatentSource
from imagegen.data.source import ArraySource, Source, few_of, in_memory
from imagegen.features import REMEMBERED, Features, class_gaussians, fingerprint, read_all, train_features
from imagegen.figures import BANDS, MANIFOLD, TOP, TRANSPORT, Facts, Rows, all_figures
from sim.experiments.base import plain
from sim.intervals import share_interval
from sim.neighbours import is_memorised_relative, mean_distance_to_nearest
from theory._checks import InputError, require, require_finite
from theory._files import write_whole

SMALLEST = 40
"""Images of each kind at least, so that the halves have the jackknife's groups."""
PER_CLASS = 4
"""Images of each kind in a class at least; a class with fewer is left out."""
NEIGHBOURS = 5
"""Nearest training images."""
REFERENCE = 4096
"""Images of a folder, of each split, that samples are compared with at most."""
OTHERS = "clip, codebook or inception"
"""Features other than the classifier's, of `imagegen.scores` and `imagegen.standard`."""
Counts = Int[np.ndarray, " K"]
"""One per class."""
LIBRARIES = ("patina-diffusion", "jax", "numpy", "pot", "scikit-learn", "scipy")
"""Whose versions are recorded."""


class _Reference(NamedTuple):
    """What does not depend on the samples: facts and labels of the held-out images, how many there are of each class
    (0 where there are no training images), how to find the facts of others, and the hashes.
    """

    held_out: Facts
    labels: Rows
    counts: Counts
    facts: Callable[[Float[np.ndarray, "m h w c"], Int[np.ndarray, " m"]], Facts]
    sha256: dict[str, str]


_references: dict[tuple[str, str, Features], _Reference] = {}


def evaluate_samples(
    images: Shaped[np.ndarray, "..."],
    labels: Shaped[np.ndarray, "..."],
    train: Source,
    test: Source,
    features: Features,
    seed: int = 0,
) -> dict[str, Any]:
    """All figures of `imagegen.figures` for images (n, h, w, c) made for the classes `labels` (n,), as JSON can hold
    them: `sizes`, `features`, `sha256` of the real images, `seed`, `figures`, and why some are `left_out`.

    Images are bytes, or numbers in [-1, 1], clipped to it; beside latents (`ArraySource.latent`) any numbers. What
    the real images alone decide is kept in this process, by their hashes and the features. `seed` >= 0 cuts the halves.
    Raises `ValueError` for images of another shape than the data's, not finite or from 0 to 255, labels that are not
    one of the data's classes per image, features that are no finite matrix, and fewer than `SMALLEST` = 40 images of
    classes that both sides have `PER_CLASS` = 4 of.
    """
    points = _checked_images(images, test)
    wanted = checked_labels(labels, len(points), test.classes)
    reference = _reference(train, test, features)
    counts = matched_counts(wanted, reference.counts, len(reference.labels))
    rng = np.random.default_rng(seed)
    real, made = (halves(given, counts, rng) for given in (reference.labels, wanted))
    known = [reference.held_out.at(rows) for rows in real]
    facts = reference.facts(points, wanted)
    fresh = [facts.at(rows) for rows in made]
    classes = np.repeat(np.arange(test.classes), counts // 2)
    figures, left_out = all_figures(known, fresh, classes, test.shape)
    sizes = {"samples": len(points), "held_out": len(reference.labels), "used": int(counts.sum()),
             "per_class": counts, "transport_half": min(len(classes), TRANSPORT)}  # fmt: skip
    result: Any = plain({
        "sizes": sizes, "features": _describe(features), "sha256": reference.sha256, "seed": seed, "figures": figures,
        "left_out": left_out,
    })  # fmt: skip
    return result


def _checked_images(images: np.ndarray, test: Source) -> Float[np.ndarray, "n h w c"]:
    """The images as float32 in [-1, 1], or latents as float32."""
    allowed = f"of shape (n, {', '.join(map(str, test.shape))})"
    require(images.shape[1:] == test.shape, "images", f"shape {images.shape}", allowed)
    latent = isinstance(test, ArraySource) and test.latent
    if images.dtype == np.uint8 and not latent:
        return (images / 127.5 - 1.0).astype(np.float32)
    kinds = "floats, beside latents" if latent else "bytes or floats in [-1, 1]"
    require(np.issubdtype(images.dtype, np.floating), "images", f"dtype {images.dtype}", kinds)
    require_finite("images", images)
    if latent:
        return images.astype(np.float32)
    bytes_like = images.size > 0 and bool(images.min() >= 0 and images.max() > 2)
    require(not bytes_like, "images", "floats of 0 and above, up to 255 perhaps", "bytes, or floats in [-1, 1]")
    return np.clip(images, -1, 1).astype(np.float32)


def checked_labels(labels: Shaped[np.ndarray, "..."], n: int, classes: int) -> Rows:
    """The labels as int64. Raises `InputError` unless they are n integers 0 ... classes - 1."""
    require(labels.shape == (n,), "labels", f"shape {labels.shape}", f"one per image, shape ({n},)")
    require(np.issubdtype(labels.dtype, np.integer), "labels", f"dtype {labels.dtype}", "integers")
    outside = labels[(labels < 0) | (labels >= classes)]
    require(outside.size == 0, "labels", f"{outside[:1]} ({outside.size} such)", f"in 0 ... {classes - 1}")
    return labels.astype(np.int64)


def _reference(train: Source, test: Source, features: Features) -> _Reference:
    same = train.shape == test.shape and train.class_names == test.class_names
    require(same, "test", f"shape {test.shape} of {test.classes} classes", "of train's shape and classes")
    known, fresh = read_all(train), read_all(test)
    sha256 = {"train": fingerprint(train, known), "held_out": fingerprint(test, fresh)}
    key = (sha256["train"], sha256["held_out"], features)
    if key not in _references:
        while len(_references) >= REMEMBERED:
            del _references[next(iter(_references))]
        facts = _facts_beside(known["image"], known["label"], train.classes, features)
        counts = np.bincount(fresh["label"], minlength=test.classes)
        counts[np.bincount(known["label"], minlength=test.classes) == 0] = 0
        held_out = facts(fresh["image"], fresh["label"])
        _references[key] = _Reference(held_out, fresh["label"].astype(np.int64), counts, facts, sha256)
    return _references[key]


def _facts_beside(
    training: Float[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"], classes: int, features: Features
) -> Callable[[Float[np.ndarray, "m h w c"], Int[np.ndarray, " m"]], Facts]:
    """The function that finds the facts of images beside these training images."""
    points = np.unique(training.reshape(len(training), -1).astype(np.float64), axis=0)
    require(len(points) >= NEIGHBOURS, "train", f"{len(points)} different images", f"at least {NEIGHBOURS}")
    gaussians = class_gaussians(_extracted(features, training), labels, classes)

    def facts(images: Float[np.ndarray, "m h w c"], wanted: Int[np.ndarray, " m"]) -> Facts:
        vectors, found = images.reshape(len(images), -1).astype(np.float64), _extracted(features, images)
        nearest = mean_distance_to_nearest(vectors, points, k=NEIGHBOURS)
        memorised = is_memorised_relative(vectors, points)
        judged = None if features.classify is None else np.asarray(features.classify(images)) == wanted
        return Facts(vectors, found, nearest, memorised, gaussians.relative_distance(found, wanted), judged)

    return facts


def _extracted(features: Features, images: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d_f"]:
    found = np.asarray(features.extract(images), np.float64)
    fits = found.ndim == 2 and len(found) == len(images) and found.size > 0
    require(fits, f"features '{features.name}'", f"shape {found.shape}", f"of shape ({len(images)}, d_f)")
    require_finite(f"features '{features.name}'", found)
    return found


def matched_counts(labels: Int[np.ndarray, " n"], known: Counts, held_out: int) -> Counts:
    """How many images of each class to compare: even, as many as both the samples, of `labels`, and the `held_out`
    images, `known` of each class, have; 0 where they are fewer than `PER_CLASS` = 4.

    Raises `InputError` for fewer than `SMALLEST` = 40 in all.
    """
    smaller = np.minimum(np.bincount(labels, minlength=len(known)), known)
    counts = np.where(smaller >= PER_CLASS, smaller // 2 * 2, 0)
    given = f"{counts.sum()} (of {len(labels)} samples and {held_out} held-out images)"
    need = f"at least {SMALLEST} of classes of which both sides have {PER_CLASS} or more"
    require(bool(counts.sum() >= SMALLEST), "number of images to compare", given, need)
    return counts


def halves(labels: Int[np.ndarray, " n"], counts: Counts, rng: np.random.Generator) -> list[Rows]:
    """Rows of two disjoint halves with `counts` / 2 images of each class, in the order of classes."""
    chosen = [rng.permutation(np.flatnonzero(labels == c))[:count] for c, count in enumerate(counts)]
    return [np.concatenate([rows[start::2] for rows in chosen]) for start in (0, 1)]


def _describe(features: Features) -> dict[str, Any]:
    if features.accuracy is None:
        return {"name": features.name, "accuracy": None}
    share = share_interval(round(features.accuracy * features.n), features.n)
    return {"name": features.name, "accuracy": share._asdict(), "n": features.n}


def read_samples(file: Path) -> tuple[UInt8[np.ndarray, "n h w c"], Int[np.ndarray, " n"]]:
    """Images and labels of an .npz file as ADM's: `arr_0`, bytes (n, h, w, c), and `arr_1`, their classes.

    Raises `InputError` for a file that is missing, damaged or none such; pickled arrays are never loaded.
    """
    require(file.is_file(), "samples", f"'{file}', which is no file", "the .npz file that `sample` wrote")
    allowed = "an .npz file with arr_0, bytes (n, h, w, c), and arr_1, integers (n,)"
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            names = sorted(archive.files)
            require(set(names) >= {"arr_0", "arr_1"}, f"'{file}'", f"arrays {names}", allowed)
            images, labels = archive["arr_0"], archive["arr_1"]
    except InputError:
        raise
    except (OSError, EOFError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"'{file}' must be {allowed}; got one that cannot be read ({error}).") from None
    fits = (
        images.dtype == np.uint8 and images.ndim == 4 and labels.shape == (len(images),) and labels.dtype.kind in "iu"
    )
    given = f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}"
    require(fits, f"'{file}'", given, allowed)
    return images, labels


def newest_samples(folder: Path) -> Path:
    """The samples of a run's newest step. Raises `InputError` where there are none."""
    files = {int(file.parent.name.removeprefix("samples-")): file for file in folder.glob("samples-*[0-9]/samples.npz")}
    require(bool(files), "run", folder, "a run with samples: make some with the command `sample`")
    return files[max(files)]


def good(source: ArraySource) -> ArraySource:
    """Without the images that the file of the data calls degraded."""
    degraded = source.extras.get("degraded", np.zeros(len(source), bool))
    return source.subset(np.flatnonzero(~degraded))


def reference_images(config: Config) -> tuple[ArraySource, ArraySource]:
    """Training and held-out images of a run's data, the good ones before any degradation; of images in a folder at most
    `REFERENCE` each, evenly spaced, and fewer where they are large (`imagegen.data.source.few_of`).

    Raises `InputError` for data that are bad.
    """
    sources = [make_source(config.data, split, resolution=config.resolution, bad_share=config.bad_share)
               for split in ("train", "test")]  # fmt: skip
    latent = isinstance(sources[0], LatentSource)
    require(not latent, "features", "classifier", f"{OTHERS} for a run on latents, whose data are no images")
    few = [source if file_source(source) is None else few_of(source, REFERENCE) for source in sources]
    train, test = (good(in_memory(source)) for source in few)
    return train, test


def versions() -> dict[str, str]:
    """Those of Python and of `LIBRARIES`, for pages of figures."""
    return {"python": platform.python_version()} | {name: importlib.metadata.version(name) for name in LIBRARIES}


def evaluate_run(folder: Path, samples: Path | None = None, *, features: Features | None = None, seed: int = 0) -> Path:
    """Write `evaluation.json` beside the samples of a run (by default those of its newest step); return its path.

    It holds `evaluate_samples` against the run's data, the training images being the good ones before any degradation,
    so that all runs on these data have one judge and one reference; and how the samples were made, and versions.
    `features` are by default the classifier's. Raises `InputError` for a folder without a run or samples, and as
    `read_samples` and `evaluate_samples` do.
    """
    config = configs.load(folder / "config.json")
    file = newest_samples(folder) if samples is None else samples
    images, labels = read_samples(file)
    train, test = reference_images(config)
    judge = train_features(train, test) if features is None else features
    page = {
        "protocol": {
            "neighbours": NEIGHBOURS,
            "manifold_k": MANIFOLD,
            "top": TOP,
            "bands": BANDS,
            "confidence": 0.95,
            "training_images": len(train),
        },
        **evaluate_samples(images, labels, train, test, judge, seed),
    }
    return write_page(page, config, file, "evaluation.json")


def write_page(page: dict[str, Any], config: Config, samples: Path, name: str) -> Path:
    """Write the page, with the data, how the samples were made, and versions, beside the samples; return its path."""
    made = samples.with_name("samples.json")
    how = json.loads(made.read_text(encoding="utf-8")) if made.is_file() else None
    target = samples.with_name(name)
    said = {"data": config.data, "made": how, "versions": versions(), **page}
    write_whole(target, json.dumps(plain(said), indent=1) + "\n")
    return target
