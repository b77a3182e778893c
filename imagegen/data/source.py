"""Sources: random-access sequences of records, and what is checked of them.

A record is one sample; it depends on its index (and on the source's own seed) alone, never on what was read before:

    image   float32 (H, W, C), in [-1, 1]
    label   int32, 0 ... classes - 1
    index   int32, its position in the source
    caption, degraded, ...   further fields, where the source has them

and a batch has the same names with one more axis in front. Any class with these members is a `Source`: arrays in memory
(`ArraySource`), generated shapes, folders of images. One that also has `batch(indices)` reads many records at once and
counts as in memory; `in_memory` makes any source such a one. Wrappers (`SourceWrapper`) change records of another.
"""

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, SupportsIndex, runtime_checkable

import numpy as np
from jaxtyping import Float, Int, Shaped

from theory._checks import require

Record = dict[str, Any]
"""One sample, as said at the module's top."""
Batch = dict[str, Any]
"""Samples by the names of a record, as NumPy arrays with one more axis in front."""
FIELDS = ("image", "label", "index")
"""What every record has."""
NUMBERS = 2**26
"""Numbers in the images that are read where some must do for all, for statistics or as a reference: 256 MiB."""
SLACK = 1e-6
"""How far a pixel may lie beyond [-1, 1]: rounding of averages in float32."""


@runtime_checkable
class Source(Protocol):
    """A random-access sequence of records (module's top). `labels` are those of all records; `shape` is (H, W, C)."""

    @property
    def name(self) -> str:
        """What it is called in messages."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""

    @property
    def classes(self) -> int:
        """Number of classes K."""

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The labels of all records, int32."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: SupportsIndex) -> Record: ...


@runtime_checkable
class BatchSource(Source, Protocol):
    """A source that reads many records at once, faster than one by one: it is in memory."""

    def batch(self, indices: Int[np.ndarray, " b"]) -> Batch:
        """The records of these indices."""


class SourceWrapper(ABC):
    """A source that changes the records of another, `source`, by default neither their labels nor their order."""

    source: Source

    @property
    def name(self) -> str:
        """That of the source within."""
        return self.source.name

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        return self.source.shape

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.source.classes

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        return self.source.class_names

    @property
    def labels(self) -> Int[np.ndarray, " n"]:
        """The labels of all records, int32."""
        return self.source.labels

    def __len__(self) -> int:
        return len(self.source)

    @abstractmethod
    def __getitem__(self, index: SupportsIndex) -> Record: ...


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Images in memory: float32, shape (n, H, W, C), in [-1, 1]; one label 0 ... K - 1 each; K names.

    `extras`: further fields of the records, arrays of n entries (captions as an array of str). `latent`: they are
    latents, whose numbers have no bounds. All arrays are copied, and read-only. Raises `ValueError` for arrays that do
    not fit together, images that are not finite or leave [-1, 1], and labels outside 0 ... K - 1; the message says at
    which index.
    """

    name: str
    images: Float[np.ndarray, "n h w c"]
    labels: Int[np.ndarray, " n"]
    class_names: tuple[str, ...]
    extras: Mapping[str, Shaped[np.ndarray, "..."]] = field(default_factory=dict)
    latent: bool = False

    def __post_init__(self) -> None:
        n, given = len(self.images), f"{self.images.dtype} of shape {self.images.shape}"
        fits = self.images.ndim == 4 and self.images.size >= 1 and np.issubdtype(self.images.dtype, np.floating)
        require(fits, "images", given, "floats of shape (n, H, W, C), all at least 1")
        _check_labels(self.labels, n, len(self.class_names))
        _check_images(self.name, self.images.shape[1:], self.images, np.arange(n), latent=self.latent)
        object.__setattr__(self, "images", _frozen(self.images.astype(np.float32)))
        object.__setattr__(self, "labels", _frozen(self.labels.astype(np.int32)))
        for name, values in self.extras.items():
            require(name not in FIELDS, "extras", f"'{name}'", f"of other names than {FIELDS}")
            require(len(values) == n, f"extras['{name}']", f"{len(values)} entries", f"{n} entries, one per image")
        object.__setattr__(self, "extras", {name: _frozen(values.copy()) for name, values in self.extras.items()})

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C) of every image."""
        return self.images.shape[1:]

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = position(index, len(self))
        return {name: values[0] for name, values in self.batch(np.array([index])).items()}

    def batch(self, indices: Int[np.ndarray, " b"]) -> Batch:
        """The records of these indices, 0 ... n - 1."""
        fields = {"image": self.images, "label": self.labels, **self.extras}
        return {name: values[indices] for name, values in fields.items()} | {"index": indices.astype(np.int32)}

    def subset(self, indices: Int[np.ndarray, " m"]) -> "ArraySource":
        """The records of these indices, m >= 1, numbered anew: 0 ... m - 1. Raises `ValueError` for other indices."""
        chosen = indices[(indices >= 0) & (indices < len(self))]
        require(chosen.size == indices.size >= 1, "indices", indices, f"at least one, in 0 ... {len(self) - 1}")
        extras = {name: values[indices] for name, values in self.extras.items()}
        return ArraySource(self.name, self.images[indices], self.labels[indices], self.class_names, extras, self.latent)


@dataclass(frozen=True, eq=False)
class Subset(SourceWrapper):
    """The records `indices` of a source, m >= 1, numbered anew: 0 ... m - 1, read as they are needed.

    Raises `ValueError` for other indices.
    """

    source: Source
    indices: Int[np.ndarray, " m"]

    def __post_init__(self) -> None:
        n, size = len(self.source), self.indices.size
        inside = size >= 1 and self.indices.min() >= 0 and self.indices.max() < n
        require(bool(inside), "indices", f"{size} indices", f"at least one, in 0 ... {n - 1}")

    @property
    def labels(self) -> Int[np.ndarray, " m"]:
        """The labels of these records."""
        return self.source.labels[self.indices]

    def __len__(self) -> int:
        return self.indices.size

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = position(index, len(self))
        return {**self.source[int(self.indices[index])], "index": np.int32(index)}


def evenly_spaced(n: int, limit: int) -> Int[np.ndarray, " m"]:
    """At most `limit` >= 1 of the indices 0 ... n - 1, n >= 1, evenly spaced, the first and the last among them."""
    return np.unique(np.linspace(0, n - 1, min(limit, n)).round().astype(int))


def _frozen(array: np.ndarray) -> np.ndarray:
    array.flags.writeable = False
    return array


def in_memory(source: Source) -> ArraySource:
    """All records of a source, read once: for small sources whose records take work (drawn, degraded, decoded).

    Raises `ValueError` for a bad record, as `read_record` does.
    """
    batch = read_batch(source, np.arange(len(source)))
    extras = {name: values for name, values in batch.items() if name not in FIELDS}
    return ArraySource(source.name, batch["image"], batch["label"], source.class_names, extras)


def few_of(source: Source, limit: int) -> Source:
    """At most `limit` >= 1 records of a source, evenly spaced, and no more than `NUMBERS` allows of large images."""
    most = max(1, min(limit, NUMBERS // math.prod(source.shape)))
    return source if len(source) <= most else Subset(source, evenly_spaced(len(source), most))


def read_batch(source: Source, indices: Int[np.ndarray, " b"]) -> Batch:
    """The checked records of these indices, b >= 1, as one batch; captions become an array of str.

    Raises `ValueError` for a bad record, naming its index (`read_record`).
    """
    if isinstance(source, BatchSource):
        batch, latent = source.batch(indices), isinstance(source, ArraySource) and source.latent
        _check_images(source.name, source.shape, batch["image"], indices, latent=latent)
        return batch
    records = [read_record(source, index) for index in indices]
    return {name: np.stack([record[name] for record in records]) for name in records[0]}


def position(index: SupportsIndex, n: int) -> int:
    """`index` as an int; raises `IndexError` unless it is 0 ... n - 1 (so that loops over a source end)."""
    number = operator.index(index)
    if not 0 <= number < n:
        raise IndexError(f"index must be 0 ... {n - 1}; got {number}.")
    return number


def check_source(source: Source, *, limit: int = 512) -> None:
    """Refuse a source that cannot be trained on, before training: all labels are checked, and the records of at most
    `limit` >= 1 evenly spaced indices, the first and the last among them.

    Raises `ValueError` for a source that is empty, labels outside 0 ... classes - 1, names that are not one per class,
    and bad records (`read_record`); the message says at which index.
    """
    require(limit >= 1, "limit", limit, "at least 1")
    n = len(source)
    require(n >= 1, f"source '{source.name}'", "0 records", "of at least one record")
    names = len(source.class_names)
    require(names == source.classes >= 1, "class_names", f"{names} names", f"one for each of {source.classes} classes")
    _check_labels(source.labels, n, source.classes)
    for index in evenly_spaced(n, limit):
        read_record(source, index)


def read_record(source: Source, index: SupportsIndex) -> Record:
    """The record of this index, if it is a good one.

    Raises `ValueError`, naming the index, for a record without image, label or index, or of another index; for an image
    of another shape than the source's, that is not float32, not finite, or beyond [-1, 1] by more than `SLACK`; and for
    a label other than that in `source.labels`.
    """
    record, number = source[index], operator.index(index)
    at = f"record {number} of '{source.name}'"
    missing = [name for name in FIELDS if name not in record]
    require(not missing, at, f"none for {missing}", "one with image, label and index")
    require(bool(record["index"] == number), at, f"index {record['index']}", f"of index {number}")
    expected, image = source.labels[number], record["image"]
    require(bool(record["label"] == expected), at, f"label {record['label']}", f"of label {expected}, as `labels` says")
    require(image.dtype == np.float32, at, f"an image of {image.dtype}", "with an image of float32")
    if "mean" in record:  # a latent: its numbers have no bounds
        require(image.shape == source.shape, at, f"shape {image.shape}", f"of shape {source.shape}")
        return record
    _check_images(source.name, source.shape, image[None], np.array([number]))
    return record


def _check_labels(labels: np.ndarray, n: int, classes: int) -> None:
    require(np.issubdtype(labels.dtype, np.integer), "labels", f"dtype {labels.dtype}", "integers")
    require(labels.shape == (n,), "labels", f"shape {labels.shape}", f"one per image, shape ({n},)")
    bad = np.flatnonzero((labels < 0) | (labels >= classes))
    if bad.size:
        more = f" (the first of {bad.size})" if bad.size > 1 else ""
        require(False, "labels", f"{labels[bad[0]]} at index {bad[0]}{more}", f"in 0 ... {classes - 1}")


def _check_images(
    name: str,
    shape: tuple[int, ...],
    images: Float[np.ndarray, "b ..."],
    indices: Int[np.ndarray, " b"],
    *,
    latent: bool = False,
) -> None:
    at = f"image {indices[0]} of '{name}'"
    require(images.shape[1:] == shape, at, f"shape {images.shape[1:]}", f"of shape {shape}")
    most = float(np.finfo(images.dtype).max) if latent else 1 + SLACK
    if images.min() >= -most and images.max() <= most:  # false for NaN too
        return
    for index, image in zip(indices, images, strict=True):
        at, bad = f"image {index} of '{name}'", int(image.size - np.count_nonzero(np.isfinite(image)))
        require(bad == 0, at, f"{bad} non-finite of {image.size} numbers", "finite")
        low, high = float(image.min()), float(image.max())
        require(max(-low, high) <= 1 + SLACK, at, f"numbers from {low:.6g} to {high:.6g}", "within [-1, 1]")
