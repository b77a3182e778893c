"""Tar shards of captioned images, as img2dataset writes them: 00000.tar holds KEY.jpg, KEY.txt and KEY.json.

Each shard is scanned once, for where in it the members lie; an image and its caption are then read by their offsets
alone, in any order. What is found is kept for each shard by itself (`imagegen.data.cache`) until its size or time of
change is another, so a scan that was interrupted goes on, and one shard that changed is scanned alone. A key is the
name up to the first dot; its members may lie anywhere in their shard, those of several keys in turn.

A sample is an image with a caption. Left out, and counted: a caption without its image (the link was dead), an image
without caption or with an empty one, members cut off where a shard is truncated, and shards that are no tar files.
Where some KEY.json has a `label`, the labels are the classes, in the order of their numbers or names, and samples
without one are left out; else all are of one class, "image".
"""

import functools
import json
import os
import tarfile
import weakref
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, Shaped
from tqdm import tqdm

from imagegen.data.cache import Arrays, cached
from imagegen.data.decode import Unreadable
from imagegen.data.files import Files
from imagegen.data.folder import ENDINGS
from imagegen.data.skips import LeftOut, as_json, from_json, left_out, together
from theory._checks import require

OPEN = 512
"""Shards kept open at most; those beyond are opened at every reading, as systems allow so many open files."""
ONLY_CLASS = "image"
"""Where there are no labels."""


class TarShards(Files):
    """The samples of all shards *.tar in `root`, in the order of the shards' names, in each by key (module's top).

    `class_names` names the classes where another split has them. Raises `ValueError` for a root without any sample,
    saying what was left out, and labels other than the named classes.
    """

    def __init__(self, root: Path, class_names: tuple[str, ...] | None = None) -> None:
        self._shards = tar_files(root)
        parts = [_index(shard) for shard in tqdm(self._shards, desc=f"indexing {root.name}", unit="tar", disable=None)]
        skipped = [part for found in parts for part in from_json(str(found["left_out"]))]
        labels = np.concatenate([found["labels"] for found in parts] or [np.zeros(0, "S1")])
        labelled = labels != b"" if np.any(labels != b"") else np.ones(labels.size, bool)
        shards = np.repeat(np.arange(len(parts)), [len(found["keys"]) for found in parts])
        without = np.flatnonzero(~labelled)
        if without.size:
            skipped.append(LeftOut("no label, where others have one", without.size, ()))
        self.left_out = together(skipped)
        told = "; ".join(map(str, self.left_out)) or "nothing else"
        require(bool(labelled.any()), f"tar shards in '{root}'", f"{len(parts)} shards without any: {told}",
                "of samples, KEY.jpg with KEY.txt")  # fmt: skip
        self._shard = shards[labelled]
        self._keys: Shaped[np.ndarray, " n"] = np.concatenate([found["keys"] for found in parts])[labelled]
        self._spans: Int[np.ndarray, "n 4"] = np.concatenate([found["spans"] for found in parts])[labelled]
        self.class_names, self.labels = _classes(root, labels[labelled], class_names)
        self._open: dict[int, int] = {}
        self._failed: list[int] = []
        weakref.finalize(self, _close, self._open, self._failed)

    def key(self, index: int) -> str:
        """Shard and key: 00000/000000012."""
        return f"{self._shards[self._shard[index]].stem}/{os.fsdecode(self._keys[index])}"

    def read(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """The image as it lies in its shard, and its `caption`.

        Raises `OSError` where the shard cannot be read, and `Unreadable` where it ends too early.
        """
        place, size, caption_place, caption_size = map(int, self._spans[index])
        shard = int(self._shard[index])
        handle = self._open.get(shard)
        opened = os.open(self._shards[shard], os.O_RDONLY) if handle is None else handle
        try:
            content = _span(opened, place, size)
            caption = _span(opened, caption_place, caption_size).decode(errors="replace").strip()
        except OSError:
            self._forget(shard, opened)
            raise
        finally:
            if handle is None and (len(self._open) >= OPEN or self._open.setdefault(shard, opened) != opened):
                os.close(opened)
        return content, {"caption": caption}

    def _forget(self, shard: int, handle: int) -> None:
        """Open the shard anew next time: a server that was away may know the handle no more. It is closed at the end,
        as other threads may be reading by it.
        """
        if self._open.get(shard) == handle:
            self._failed.append(handle)
            self._open.pop(shard, None)  # another thread may have been faster


def tar_files(root: Path) -> list[Path]:
    """The shards in a folder, by name."""
    return sorted(root.glob("[!.]*.tar"))


def _span(handle: int, place: int, size: int) -> bytes:
    content = os.pread(handle, size, place)
    if len(content) != size:
        raise Unreadable("the shard ends within it")
    return content


def _close(handles: dict[int, int], failed: list[int]) -> None:
    for handle in {*handles.values(), *failed}:
        os.close(handle)


def _classes(
    root: Path, labels: Shaped[np.ndarray, " n"], known: tuple[str, ...] | None
) -> tuple[tuple[str, ...], Int[np.ndarray, " n"]]:
    """Names of the classes, and the labels as their numbers."""
    found, places = np.unique(labels, return_inverse=True)
    names = [os.fsdecode(name) or ONLY_CLASS for name in found]
    order = sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
    classes = tuple(order) if known is None else known
    number = {name: k for k, name in enumerate(classes)}
    unknown = [name for name in names if name not in number]
    require(not unknown, f"labels in '{root}'", f"{unknown[:3]}", f"of the {len(classes)} classes known")
    return classes, np.array([number[name] for name in names], np.int32)[places]


# --- the index of one shard


def _index(shard: Path) -> Arrays:
    """Of its n samples `keys`, `spans` (n, 4), offset and size of image and caption, `labels`; and `left_out`."""
    stat = shard.stat()
    return cached(shard, {"size": stat.st_size, "changed": stat.st_mtime_ns}, functools.partial(_scan, shard))


class _Member(NamedTuple):
    place: int
    size: int


def _scan(shard: Path) -> Arrays:
    listed, ended = _members(shard)
    members: dict[str, dict[str, _Member]] = {}
    for key, ending, member in listed:
        members.setdefault(key, {})["image" if ending in ENDINGS else ending] = member
    skipped = [(shard.stem, ended)] if ended else []
    samples = []
    with shard.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        for key, parts in sorted(members.items()):
            why = _why_not(parts, size)
            if why:
                skipped.append((f"{shard.stem}/{key}", why))
            else:
                samples.append((key, (*parts["image"], *parts[".txt"]), _label(file.fileno(), parts.get(".json"))))
    return {
        "keys": np.array([os.fsencode(key) for key, _, _ in samples], np.bytes_),
        "spans": np.array([spans for _, spans, _ in samples], np.int64).reshape(-1, 4),
        "labels": np.array([label for _, _, label in samples], np.bytes_),
        "left_out": np.array(as_json(left_out(skipped))),
    }


def _members(shard: Path) -> tuple[list[tuple[str, str, _Member]], str]:
    """Key, ending from the first dot on (in small letters) and place of every file; and what is wrong with the end."""
    found = []
    try:
        with tarfile.open(shard, "r:") as archive:
            for member in archive:
                folder, slash, name = member.name.rpartition("/")
                key, dot, ending = name.partition(".")
                if member.isreg() and not member.issparse() and key and dot:
                    place = _Member(member.offset_data, member.size)
                    found.append((f"{folder}{slash}{key}", f".{ending.lower()}", place))
            end = archive.offset
    except (tarfile.TarError, ValueError) as error:
        return found, f"a damaged or truncated shard ({error})"
    with shard.open("rb") as file:  # tarfile takes a damaged header for the end
        file.seek(end)
        whole = file.read(tarfile.BLOCKSIZE) == bytes(tarfile.BLOCKSIZE)
    return found, "" if whole else "a damaged or truncated shard (no end of archive)"


def _why_not(parts: dict[str, _Member], size: int) -> str:
    """Why these members are no sample; "" if they are one."""
    if any(member.place + member.size > size for member in parts.values()):
        return "cut off by the end of the shard"
    if "image" not in parts:
        return "a caption or data without image (dead key)"
    if ".txt" not in parts or parts[".txt"].size == 0:
        return "an image without caption"
    return ""


def _label(handle: int, member: _Member | None) -> bytes:
    """The `label` in a JSON member, as text; empty where there is none."""
    if member is None:
        return b""
    try:
        values = json.loads(os.pread(handle, member.size, member.place))
    except ValueError:
        return b""
    label = values.get("label") if isinstance(values, dict) else None
    return b"" if label is None else str(label).encode()
