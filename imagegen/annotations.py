"""The file in which `imagegen.annotate` and `imagegen.grades` say which noise levels each training image may train;
`train` reads it.

One .npz, so that its parts cannot come apart, with an entry for each of n images in

    index       0 ... n - 1
    degraded    whether it is of low quality
    sigma_min   in [0, inf]: at noise-to-signal ratios above it the image trains, noised once (0: clean; inf: never)
    sigma_max   >= 0: up to this ratio the image trains as it is (clean images: 0, as they train everywhere)

and `about`, JSON: `fingerprint` of the images, `config`, and the judges' `curves` (`imagegen.annotate`). Of images
in a folder the fingerprint is that of keys (`imagegen.data.files`) and labels: a million is not read to be known again.
"""

import hashlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float

from imagegen.data.builtin import make_source
from imagegen.data.degrade import degraded_flags
from imagegen.data.files import FileSource, file_source
from imagegen.data.source import Source
from imagegen.features import fingerprint, read_all
from theory._checks import InputError, require
from theory._files import write_whole
from theory.data import read_arrays

WRITERS = "a file that `annotate` or `grade` wrote"
KEYS = ("index", "degraded", "sigma_min", "sigma_max", "about")


class Annotations(NamedTuple):
    """What the module's top says, of n images."""

    degraded: Bool[np.ndarray, " n"]
    sigma_min: Float[np.ndarray, " n"]
    sigma_max: Float[np.ndarray, " n"]
    about: dict[str, Any]


def contents(noted: Annotations) -> bytes:
    """The file's bytes: equal for equal annotations."""
    buffer = io.BytesIO()
    index = np.arange(noted.degraded.size, dtype=np.int32)
    np.savez_compressed(
        buffer, index=index, degraded=noted.degraded, sigma_min=noted.sigma_min, sigma_max=noted.sigma_max,
        about=np.array(json.dumps(noted.about, allow_nan=False)),
    )  # fmt: skip
    return buffer.getvalue()


def save(noted: Annotations, file: Path) -> None:
    """Write the file, whole or not at all."""
    write_whole(file, contents(noted))


def load(file: Path) -> Annotations:
    """Read what `save` wrote. Raises `InputError` for a file that is missing or bad, or not such a one."""
    require(file.is_file(), "annotations", f"'{file}', which is no file", WRITERS)
    arrays = read_arrays(file, KEYS)
    absent = [key for key in KEYS if key not in arrays]
    require(not absent, "annotations", f"'{file}' without {', '.join(absent)}", WRITERS)
    n, kinds = arrays["degraded"].size, {"index": "i", "degraded": "b", "sigma_min": "f", "sigma_max": "f"}
    sound = all(arrays[key].shape == (n,) and arrays[key].dtype.kind == kind for key, kind in kinds.items())
    sound = sound and np.array_equal(arrays["index"], np.arange(n)) and arrays["about"].dtype.kind == "U"
    require(bool(sound), "annotations", f"'{file}' with other arrays", WRITERS)
    low, high = arrays["sigma_min"], arrays["sigma_max"]
    ranges = np.all((low >= 0) & (high >= 0) & np.isfinite(high)) and not np.any(low[~arrays["degraded"]])
    require(bool(ranges), "annotations", f"'{file}' with other numbers",
            "a file with sigma_min in [0, inf], 0 for clean images, and finite sigma_max >= 0")  # fmt: skip
    return Annotations(arrays["degraded"], low, high, _about(file, str(arrays["about"])))


def _about(file: Path, text: str) -> dict[str, Any]:
    try:
        about = json.loads(text)
    except json.JSONDecodeError:
        about = None
    require(isinstance(about, dict), "annotations", f"'{file}' whose 'about' is no JSON", WRITERS)
    found: dict[str, Any] = about
    return found


def require_out(file: Path) -> None:
    """Raise `InputError` for a file to write to that is something else than an earlier one of annotations, such as the
    images, or does not end in .npz.
    """
    require(file.suffix == ".npz" and not file.is_dir(), "out", file, "a file that ends in .npz")
    if file.exists():
        try:
            load(file)
        except InputError:
            allowed = "a new file, or one that `annotate` wrote, or `grade`"
            require(False, "out", f"'{file}', which holds something else", allowed)


def require_of(noted: Annotations, source: Source, file: str) -> None:
    """Raise `InputError` unless these are the annotations of this source, with the same images degraded."""
    listed, allowed = listing(source), f"made of the run's own images, {len(source)} of '{source.name}'"
    if listed is None:
        batch = read_all(source)
        known, allowed = fingerprint(source, batch), f"{allowed} (same data, degradation, share, strength and seed)"
        same = np.array_equal(noted.degraded, batch["degraded"])
    else:
        known, same = keys_fingerprint(listed), noted.degraded.size == len(source)
    same = same and noted.about.get("fingerprint") == known
    require(same, "annotations", f"'{file}', made of other images or with others degraded", allowed)


def listing(source: Source) -> FileSource | None:
    """The images in a folder that a source reads, where the source itself degrades none; else None."""
    return file_source(source) if degraded_flags(source) is None else None


def in_a_folder(data: str, resolution: int, split: str = "train") -> FileSource:
    """The samples of a folder, as for `train --data`. Raises `InputError` for other data, and as `make_source` does."""
    source = listing(make_source(data, split, resolution=resolution, bad_share=1.0))  # training has its own share
    require(source is not None, "data", f"'{data}'", "a folder: of images by class, of tar shards, or prepared")
    assert source is not None
    return source


def keys_fingerprint(source: FileSource) -> str:
    """SHA-256 of keys, labels and shape."""
    total = hashlib.sha256(repr((source.shape, len(source), source.class_names)).encode())
    for index in range(len(source)):
        total.update(source.key(index).encode(errors="surrogateescape") + b"\n")
    total.update(np.ascontiguousarray(source.labels, np.int32).tobytes())
    return total.hexdigest()


def require_unchanged(file: Path, kept: Path) -> None:
    """Raise `InputError` where the file, if it is still there, is not what a run kept a copy of when it began."""
    same = not file.is_file() or file.read_bytes() == kept.read_bytes()
    require(same, "annotations", f"'{file}', changed since", f"the same file as when the run began, a copy of which "
            f"is '{kept}', or choose another --out")  # fmt: skip
