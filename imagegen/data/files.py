"""Images in files, read as they are needed: what folders, tar shards and prepared records have in common.

`Files` lists encoded images in a fixed order and reads one; `FileSource` makes a source of some of them (a split).

A sample that cannot be read is counted (`imagegen.data.skips`) and replaced by the next readable one of its class, in
the order of indices, after the last the first. So a record depends on its index and the files alone, as in any source,
and labels are true; it keeps its index, and all that is drawn from it. A disk that is away is no such sample: it is
waited for (`imagegen.data.patience`).
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cached_property
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Float, Int

from imagegen.data.decode import CHANNELS, Unreadable, decode_image
from imagegen.data.patience import Patience
from imagegen.data.skips import BAD_SHARE, LeftOut, Skips
from imagegen.data.source import Record, Source, SourceWrapper, position
from theory._checks import require

PROBES = 8
"""Samples that are read to tell a bad one from a disk that is away."""


class Files(ABC):
    """Encoded images on disk: `labels` (n,), int32, their `class_names`, and what the listing `left_out`."""

    class_names: tuple[str, ...]
    labels: Int[np.ndarray, " n"]
    left_out: tuple[LeftOut, ...]

    @abstractmethod
    def key(self, index: int) -> str:
        """What the sample 0 ... n - 1 is called, as a user finds it again."""

    @abstractmethod
    def read(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """The encoded image of the sample 0 ... n - 1, and further fields of its record, such as `caption`.

        Raises `OSError` or `Unreadable` where it cannot be read.
        """


@dataclass(frozen=True, eq=False)
class FileSource:
    """The images `rows` of `files`, m >= 1 of them, cropped to `side` >= 1 pixels, three channels (module's top).

    Raises `ValueError` for no rows, a side below 1, and a `bad_share` outside [0, 1]. Reading raises `ValueError` where
    more than that share of the images seen so far was unreadable, or all images of a class are, and `DataAway` where
    their disk is away, and stays so.
    """

    name: str
    files: Files
    rows: Int[np.ndarray, " m"]
    side: int
    bad_share: float = BAD_SHARE

    def __post_init__(self) -> None:
        require(self.rows.size >= 1, f"data '{self.name}'", "no images", "at least one image")
        require(self.side >= 1, "resolution", self.side, "at least 1 pixel")
        self.skips  # noqa: B018 (refuses a bad share now)

    @cached_property
    def skips(self) -> Skips:
        """What could not be read so far."""
        return Skips(self.name, len(self), self.bad_share, self.files.left_out)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(side, side, 3)."""
        return (self.side, self.side, CHANNELS)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return len(self.class_names)

    @property
    def class_names(self) -> tuple[str, ...]:
        """K names."""
        return self.files.class_names

    @cached_property
    def labels(self) -> Int[np.ndarray, " m"]:
        """The labels of all records."""
        return self.files.labels[self.rows]

    def __len__(self) -> int:
        return self.rows.size

    def key(self, index: int) -> str:
        """What this sample, 0 ... m - 1, is called."""
        return self.files.key(int(self.rows[index]))

    def __getitem__(self, index: SupportsIndex) -> Record:
        index = position(index, len(self))
        found, other = self.sample(index), index
        while found is None:
            other = int(self._next[other])
            name = self.class_names[self.labels[index]]
            require(other != index, f"class '{name}' of '{self.name}'", "none", "of at least one readable image")
            found = self.sample(other)
        image, fields = found
        return {"image": image, "label": self.labels[index], "index": np.int32(index), **fields}

    def fields(self, index: SupportsIndex) -> dict[str, Any]:
        """The further fields of a record, its image not decoded, or of the readable one in its place if its file cannot
        be read.
        """
        try:
            return self.files.read(int(self.rows[position(index, len(self))]))[1]
        except (OSError, Unreadable):
            return self[index]

    def sample(self, index: int) -> tuple[Float[np.ndarray, "h w c"], dict[str, Any]] | None:
        """Image and further fields of this very sample, or None if it is unreadable, which is noted.

        Raises `ValueError` where too many are (`Skips`), and `DataAway` where the disk is and stays so.
        """
        if self.skips.known(index):
            return None
        try:
            row = int(self.rows[index])
            content, fields = self._patience(lambda: self.files.read(row), lambda: self._others(index))
            image, more = self.decoded(content)
        except (OSError, Unreadable) as error:
            self.skips.note(index, self.key(index), str(error))
            return None
        self.skips.good(index)
        return image, {**fields, **more}

    def decoded(self, content: bytes) -> tuple[Float[np.ndarray, "h w c"], dict[str, Any]]:
        """The image of a file's content, and further fields of the record. Raises `Unreadable` for bad content."""
        return decode_image(content, self.side), {}

    @cached_property
    def _patience(self) -> Patience:
        return Patience(self.name)

    def _others(self, index: int) -> bool:
        """Whether any of some other samples, spread over the data, can be read now."""
        return any(self._readable(index + k * len(self) // PROBES) for k in range(1, PROBES))

    def _readable(self, number: int) -> bool:
        try:
            self.files.read(int(self.rows[number % len(self)]))
        except (OSError, Unreadable):
            return False
        return True

    @cached_property
    def _next(self) -> Int[np.ndarray, " m"]:
        """The next index of the same class, after the last the first."""
        after = np.empty(len(self), np.int64)
        members = np.argsort(self.labels, kind="stable")
        ends = np.flatnonzero(np.diff(self.labels[members], append=-1))  # of each class, in `members`
        after[members] = np.roll(members, -1)
        after[members[ends]] = members[np.concatenate([[0], ends[:-1] + 1])]
        return after


def file_source(source: Source) -> FileSource | None:
    """The files that a source reads its images from, whatever changes them on the way; None where there are none."""
    while isinstance(source, SourceWrapper):
        source = source.source
    return source if isinstance(source, FileSource) else None
