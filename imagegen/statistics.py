"""What a run must know of its data beside the images themselves: saved with it, so that sampling needs no data.

The spectrum makes the spectral paths, the standard deviation EDM's scale, shape and number of classes the network.
"""

import json
import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from imagegen.data.files import file_source
from imagegen.data.latents import LatentSource
from imagegen.data.source import NUMBERS, BatchSource, Source, read_batch, read_record
from theory._checks import require
from theory._files import write_whole
from theory.spectra import power_spectrum

LARGEST = 4096
"""Images that statistics are taken from, evenly spaced."""
FLOOR = 1e-4
"""Least power of a frequency, relative to the mean: a gain of a frequency that never varies would be 0 throughout."""


class Statistics(NamedTuple):
    """Of the training images: shape (h, w, c), names of the K classes and their shares, power spectrum
    (`theory.spectra`, no frequency below `FLOOR` of the mean), and standard deviation over all pixels; and of latents
    the SHA-256 of their autoencoder, empty for images.
    """

    shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    prior: Float[np.ndarray, " K"]
    spectrum: Float[np.ndarray, "h w"]
    std: float
    latent: str = ""


def images_of(source: Source, limit: int = LARGEST) -> Float[np.ndarray, "n h w c"]:
    """Up to `limit` >= 1 images of a source, evenly spaced, and no more than `NUMBERS` allows of large ones."""
    most = max(1, min(limit, len(source), NUMBERS // math.prod(source.shape)))
    chosen = np.unique(np.linspace(0, len(source) - 1, most).astype(int))
    if isinstance(source, BatchSource):
        images: Float[np.ndarray, "n h w c"] = read_batch(source, chosen)["image"]
        return images
    return np.stack([read_record(source, index)["image"] for index in chosen])  # all else is let go: it may be large


def statistics_of(source: Source) -> Statistics:
    """The statistics of a source of at least one image."""
    images = images_of(source)
    spectrum = power_spectrum(images)
    prior = np.bincount(source.labels, minlength=source.classes) / len(source)
    floored = np.maximum(spectrum, FLOOR * spectrum.mean())
    files = file_source(source)
    latent = files.files.autoencoder if isinstance(files, LatentSource) else ""
    return Statistics(source.shape, source.class_names, prior, floored, float(images.std()), latent)


def as_json(statistics: Statistics) -> str:
    """The statistics as JSON."""
    values = {**statistics._asdict(), "prior": statistics.prior.tolist(), "spectrum": statistics.spectrum.tolist()}
    return json.dumps(values) + "\n"


def save(statistics: Statistics, file: Path) -> None:
    """Write them as JSON."""
    write_whole(file, as_json(statistics))


def load(file: Path) -> Statistics:
    """Read what `save` wrote. Raises `ValueError` where there is no such file."""
    require(file.is_file(), "run", file.parent, "the folder of a run, with a statistics.json")
    values = json.loads(file.read_text(encoding="utf-8"))
    shape, names = tuple(values["shape"]), tuple(values["class_names"])
    return Statistics(shape, names, np.asarray(values["prior"]), np.asarray(values["spectrum"]), values["std"],
                      values.get("latent", ""))  # fmt: skip


def require_same(statistics: Statistics, before: Statistics) -> None:
    """Raise `InputError` where a run's data were others than now."""
    same = statistics.shape == before.shape and statistics.class_names == before.class_names
    for now, then in ((statistics.prior, before.prior), (statistics.spectrum, before.spectrum)):
        same = same and now.shape == then.shape and bool(np.allclose(now, then, rtol=1e-6))
    require(
        same, "data", "other images than the run in this folder was trained on", "the same, or choose another --out"
    )
