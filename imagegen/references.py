"""Reference files in ADM's format: what the features of real images are like, for FID and its kin.

An .npz file with `mu`, `sigma` (moments of the pool features of all images), `mu_s`, `sigma_s` (of the spatial ones)
and `arr_0`, images (m, h, w, c) as bytes, as the evaluator of guided-diffusion reads and writes it (Dhariwal, Nichol
2021). Those written here have `protocol` too, a line of JSON that says of which data, how many, how large and with
which weights; where there is one, samples of another size and features of other weights are refused.

Images are read batch by batch, and moments accumulated in float64; `write_reference` goes on where it was interrupted.
"""

import contextlib
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from imagegen.data.source import Source, read_batch
from imagegen.fidelity import Moments, Statistics
from imagegen.inception import BATCH, SIDE, Outputs, as_colour
from imagegen.sampling import to_bytes
from theory._checks import InputError, require, require_finite
from theory._files import sha256_of, written_whole

RESIZE = f"TensorFlow 1 bilinear to {SIDE} x {SIDE}, of bytes"
"""How images come to the network's size."""
KEPT = 10_000
"""Images in a reference file at most, evenly spaced: for precision, recall and KID."""
SAVED = 100
"""Batches between saves of a reference that is being made."""
ALLOWED = "an .npz file with mu and sigma, mu_s and sigma_s, arr_0 (images as bytes), or several of these"


@runtime_checkable
class Extractor(Protocol):
    """What makes features: `imagegen.inception.Inception`, say. `sha256` tells which weights it has."""

    sha256: str

    def extract(self, batches: Iterable[UInt8[np.ndarray, "_ _ _ _"]]) -> Iterator[Outputs]:
        """The outputs of each batch of up to `BATCH` images."""


class Reference(NamedTuple):
    """A reference file: its path and SHA-256, moments of pool and spatial features, shape (m, h, w, c) of its images
    and its protocol, each None where it has none.
    """

    file: Path
    sha256: str
    pool: Statistics | None
    spatial: Statistics | None
    images: tuple[int, int, int, int] | None
    protocol: dict[str, Any] | None


@contextlib.contextmanager
def _readable(file: Path, allowed: str) -> Iterator[None]:
    """Say of a file that cannot be read what it should be."""
    require(file.is_file(), "file", f"'{file}', which is no file", allowed)
    try:
        yield
    except InputError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"'{file}' must be {allowed}; got one that cannot be read ({error}).") from None


def image_shape(file: Path) -> tuple[int, int, int, int]:
    """Shape (n, h, w, c) of the images `arr_0` of an .npz file, not read. Raises `InputError` for a file without."""
    allowed = "an .npz file with arr_0, bytes (n, h, w, c)"
    with _readable(file, allowed), zipfile.ZipFile(file) as archive:
        require("arr_0.npy" in archive.namelist(), f"'{file}'", f"{archive.namelist()[:5]}", allowed)
        with archive.open("arr_0.npy") as stream:
            shape, fortran, dtype = _header(stream)
        fits = dtype == np.uint8 and len(shape) == 4 and not fortran and min(shape) >= 1
        require(fits, f"'{file}'", f"{dtype} {shape}", allowed)
    n, h, w, c = shape
    return n, h, w, c


def _header(stream: Any) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(stream)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    return reader(stream)


def image_batches(file: Path, size: int = BATCH) -> Iterator[UInt8[np.ndarray, "_ h w c"]]:
    """The images `arr_0` of an .npz file, `size` >= 1 at a time: never all in memory.

    Raises `InputError` as `image_shape`, and where the file ends too early.
    """
    n, *shape = image_shape(file)
    whole = _readable(file, "an .npz file that is whole")
    with whole, zipfile.ZipFile(file) as archive, archive.open("arr_0.npy") as stream:
        _header(stream)
        for low in range(0, n, size):
            count = min(size, n - low)
            yield np.frombuffer(stream.read(count * int(np.prod(shape))), np.uint8).reshape(count, *shape)


def read_reference(file: Path) -> Reference:
    """A reference file, ADM's or `write_reference`'s, its images not read.

    Raises `InputError` for a file that is missing, damaged or holds nothing to compare with, and for moments that do
    not fit together or are not finite; pickled arrays are never loaded.
    """
    with _readable(file, ALLOWED), file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
        names = archive.files
        require("arr_0" in names or {"mu", "sigma"} <= set(names), f"'{file}'", f"arrays {names[:6]}", ALLOWED)
        pool, spatial = (_statistics(file, archive, part) for part in ("", "_s"))
        protocol = json.loads(str(archive["protocol"])) if "protocol" in names else None
    images = image_shape(file) if "arr_0" in names else None
    return Reference(file, sha256_of(file), pool, spatial, images, protocol)


def _statistics(file: Path, archive: Any, part: str) -> Statistics | None:
    if f"mu{part}" not in archive.files or f"sigma{part}" not in archive.files:
        return None
    mean, cov = (np.asarray(archive[f"{name}{part}"], np.float64) for name in ("mu", "sigma"))
    fits = mean.ndim == 1 and cov.shape == (len(mean), len(mean))
    require(fits, f"'{file}'", f"mu{part} {mean.shape}, sigma{part} {cov.shape}", "of shapes (d,) and (d, d)")
    require_finite(f"mu{part} and sigma{part} of '{file}'", np.append(cov, mean))
    return Statistics(mean, cov)


def require_comparable(reference: Reference, sha256: str, shape: tuple[int, int, int]) -> None:
    """Raise `InputError` where the reference's protocol says other weights than `sha256` or another resize, or where
    its images are of another height and width than `shape` (h, w, c).
    """
    made = reference.protocol or {}
    name = f"reference '{reference.file}'"
    for field, wanted in (("weights_sha256", sha256), ("resize", RESIZE)):
        given = made.get(field, wanted)
        require(given == wanted, name, f"{field} {given!r}", f"made with {field} {wanted!r}, as the samples' features")
    sizes = [made["shape"][:2]] if "shape" in made else []
    sizes += [list(reference.images[1:3])] if reference.images else []
    for size in sizes:
        given, wanted = ("{} x {}".format(*pair) for pair in (size, shape[:2]))
        require(given == wanted, name, f"images of {given}", f"of images of {wanted} as the samples are")


def write_reference(source: Source, network: Extractor, file: Path, *, data: str, split: str) -> Path:
    """Write the reference file of a source of at least 2 images, called `data` and `split` in its protocol.

    Its images are up to `KEPT` = 10 000, evenly spaced, with 3 channels. Interrupted, the same call goes on from a
    `.partial.npz` beside it. Raises `ValueError` for a source with a bad record, and images of other than 1 or 3
    channels.
    """
    require(file.suffix == ".npz", "out", f"'{file}'", "the name of an .npz file")
    require(len(source) >= 2, "data", f"{len(source)} image", "at least 2 images")
    protocol = {
        "data": data, "split": split, "images": len(source), "shape": list(source.shape),
        "crop": "as the data give them", "resize": RESIZE, "weights_sha256": network.sha256,
    }  # fmt: skip
    partial = file.with_name(f"{file.stem}.partial.npz")
    pool, spatial = _all_moments(source, network, json.dumps(protocol), partial)
    kept = np.unique(np.linspace(0, len(source) - 1, min(KEPT, len(source))).astype(int))
    images = np.concatenate([_bytes(source, kept[low : low + BATCH]) for low in range(0, len(kept), BATCH)])
    arrays = {"arr_0": images, "protocol": np.array(json.dumps(protocol))}
    for part, moments in (("", pool), ("_s", spatial)):
        mean, cov = moments.statistics()
        arrays |= {f"mu{part}": mean, f"sigma{part}": cov}
    _save(file, arrays)
    partial.unlink(missing_ok=True)
    return file


def _all_moments(source: Source, network: Extractor, protocol: str, partial: Path) -> tuple[Moments, Moments]:
    """Moments of all images' pool and spatial features, from what `partial` holds of the same protocol on."""
    totals = _begun(partial, protocol)
    done = totals[0].number if totals else 0
    starts = range(done, len(source), BATCH)
    batches = (_bytes(source, np.arange(low, min(low + BATCH, len(source)))) for low in starts)
    bar = tqdm(network.extract(batches), "features", -(-len(source) // BATCH), initial=done // BATCH, disable=None)
    for number, outputs in enumerate(bar, start=1):
        now = [Moments.of(features) for features in (outputs.pool, outputs.spatial)]
        totals = [a.merged(b) for a, b in zip(totals, now, strict=True)] if totals else now
        if number % SAVED == 0:
            _save(partial, {"protocol": np.array(protocol), **_named(totals)})
    pool, spatial = totals
    return pool, spatial


def _named(totals: list[Moments]) -> dict[str, np.ndarray]:
    return {f"{k}/{name}": np.asarray(v) for k, one in enumerate(totals) for name, v in one._asdict().items()}


def _begun(partial: Path, protocol: str) -> list[Moments]:
    """The moments that an interrupted call has left, none where it was of another protocol."""
    if not partial.is_file():
        return []
    with np.load(partial, allow_pickle=False) as held:
        if str(held["protocol"]) != protocol:
            return []
        return [Moments(int(held[f"{k}/number"]), held[f"{k}/mean"], held[f"{k}/scatter"]) for k in (0, 1)]


def _bytes(source: Source, indices: np.ndarray) -> UInt8[np.ndarray, "n h w 3"]:
    return as_colour(to_bytes(read_batch(source, indices)["image"]))


def _save(file: Path, arrays: dict[str, np.ndarray]) -> None:
    """Whole or not at all."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with written_whole(file) as stream:
        np.savez(stream, allow_pickle=False, **arrays)


class Extracted(NamedTuple):
    """Of n images: pool features and logits, float32, and moments of the spatial features."""

    pool: Float[np.ndarray, "n d"]
    logits: Float[np.ndarray, "n k"]
    spatial: Moments


def extract_file(file: Path, network: Extractor, what: str) -> Extracted:
    """Features of the images `arr_0` of an .npz file, read batch by batch; `what` names them beside the progress bar.

    Raises `InputError` as `image_batches`, and for images of other than 1 or 3 channels.
    """
    total = -(-image_shape(file)[0] // BATCH)
    pool, logits, spatial = [], [], None
    for outputs in tqdm(network.extract(image_batches(file)), what, total, unit="batch", disable=None):
        pool.append(outputs.pool)
        logits.append(outputs.logits)
        now = Moments.of(outputs.spatial)
        spatial = now if spatial is None else spatial.merged(now)
    assert spatial is not None  # there is at least one image
    return Extracted(np.concatenate(pool), np.concatenate(logits), spatial)
