"""Prepared samples in ArrayRecord files, as `python -m imagegen prepare` writes them (`imagegen.prepare`).

    DIR/manifest.json               what was prepared from what; the shards of each split with their sizes and checksums
    DIR/train-00000.arrayrecord     the records of a shard
    DIR/train-00000.json            its keys and labels, and what was skipped

    DIR/text.npz                    where captions were encoded: by what, and the empty caption

A record is the length of a header (4 bytes, little-endian), the header, JSON with `key`, `label` and, where there is
one, `caption`, and the content: an image as PNG, already cropped, or the law of its latent (`imagegen.data.latents`),
whose shape, scale and autoencoder the manifest has under `about`; then, where captions were encoded, the states of the
caption's tokens (`imagegen.data.embeddings`), whose encoder, length and width it has under `text`.
"""

import copy
import dataclasses
import errno
import json
import os
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Shaped

from imagegen._names import require_one_of
from imagegen.data.decode import Unreadable
from imagegen.data.embeddings import FROZEN, Frozen, load_frozen, unpack_states
from imagegen.data.files import Files, FileSource
from imagegen.data.patience import AWAY
from imagegen.data.skips import LeftOut, left_out, together
from imagegen.data.source import Source
from theory._checks import InputError, require

MANIFEST = "manifest.json"
"""What a folder of prepared samples is known by."""
CONTENT = "png"
"""What the manifest calls images as PNG."""
CONTENTS = (CONTENT, "latents")
LENGTH = 4
"""Bytes of the header's length."""
FIELDS = ("content", "resolution", "class_names", "splits")
"""Of a manifest, that are needed to read it."""
LISTED = ("keys", "labels", "skipped", "bytes", "sha256")
"""Of a shard's listing."""


def pack(header: dict[str, Any], content: bytes) -> bytes:
    """A record of these. The header can be written as JSON."""
    head = json.dumps(header).encode()
    return len(head).to_bytes(LENGTH, "little") + head + content


def unpack(record: bytes) -> tuple[dict[str, Any], bytes]:
    """Header and content of a record. Raises `Unreadable` for other bytes."""
    end = LENGTH + int.from_bytes(record[:LENGTH], "little")
    if len(record) < max(end, LENGTH):
        raise Unreadable("the record is cut off")
    try:
        header = json.loads(record[LENGTH:end])
    except ValueError as error:
        raise Unreadable(f"no header in the record ({error})") from error
    return header, record[end:]


def read_manifest(root: Path) -> dict[str, Any]:
    """The manifest of a folder. Raises `InputError` for one that is damaged or lacks a field."""
    try:
        manifest = json.loads((root / MANIFEST).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{root / MANIFEST}' must be what `prepare` wrote; got no JSON ({error}).") from None
    absent = [name for name in FIELDS if not isinstance(manifest, dict) or name not in manifest]
    require(not absent, f"'{root / MANIFEST}'", f"none of {', '.join(absent)}", "what `prepare` wrote")
    found: dict[str, Any] = manifest
    return found


def read_listing(shard: Path) -> dict[str, Any]:
    """The listing beside a shard: `keys` and `labels`, as many of the one as of the other, what was `skipped`, and the
    shard's `bytes` and `sha256`. Raises `InputError` for one that is missing or damaged.
    """
    file = shard.with_suffix(".json")
    allowed = "what `prepare` wrote; the same `prepare` command again makes this shard anew"
    try:
        listing = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"'{file}' must be {allowed}; got {error}.") from None
    whole = isinstance(listing, dict) and all(name in listing for name in LISTED)
    require(whole and len(listing["keys"]) == len(listing["labels"]), f"'{file}'", "another content", allowed)
    found: dict[str, Any] = listing
    return found


class Prepared(Files):
    """The prepared samples of a split in `root`, in the order in which they were prepared. `text` is what the manifest
    says of the encoder of captions, or None; `embeddings`: whether records hold what it made of them.

    Raises `ValueError` for another split or content, shards that are missing or of another size than when written, and
    listings that are missing or damaged.
    """

    def __init__(self, root: Path, split: str) -> None:
        manifest = read_manifest(root)
        self.root, self.text, self.embeddings = root, manifest.get("text"), False
        require_one_of("split", split, manifest["splits"])
        require_one_of(f"content of '{root}'", manifest["content"], CONTENTS)
        about = manifest.get("about", {})
        self.latent_shape: tuple[int, int, int] = tuple(about.get("shape", (0, 0, 0)))
        self.autoencoder = str(about.get("autoencoder", ""))
        known = manifest["splits"][split]
        self._shards = [root / shard["file"] for shard in known["shards"]]
        for file, shard in zip(self._shards, known["shards"], strict=True):
            size = file.stat().st_size if file.exists() else "no file"
            require(size == shard["bytes"], f"'{file}'", size, f"of {shard['bytes']} bytes, as when it was prepared")
        self.class_names = tuple(manifest["class_names"])
        listed = [_listed(file, shard["count"]) for file, shard in zip(self._shards, known["shards"], strict=True)]
        self._keys = [keys for keys, _ in listed]
        self._ends = np.cumsum([len(keys) for keys in self._keys])
        self.labels = np.concatenate([labels for _, labels in listed] or [np.zeros(0, np.int32)])
        listed_out = [LeftOut(why, count, tuple(first)) for why, count, first in known["left_out"]]
        self.left_out = together([*listed_out, *left_out((key, why) for key, why in known["skipped"])])

    def key(self, index: int) -> str:
        """The key that it had before it was prepared."""
        shard = int(np.searchsorted(self._ends, index, side="right"))
        return os.fsdecode(self._keys[shard][index - self._ends[shard]])

    def read(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """The PNG or latent, the `caption` if there is one, and its `embedding`, if wanted, float16, (length, width).

        Raises `OSError` where the shard cannot be read, and `Unreadable` for a damaged record.
        """
        header, content = unpack(self._record(index))
        fields = {"caption": header["caption"]} if "caption" in header else {}
        if self.text is None:
            return content, fields
        tokens, length, width = header.get("tokens", -1), self.text["length"], self.text["width"]
        end = len(content) - 2 * tokens * width
        if self.embeddings:
            fields["embedding"] = unpack_states(content[max(0, end) :], tokens, (length, width))
        return content[:end], fields

    def with_embeddings(self) -> "Prepared":
        """The same samples, the embeddings of their captions in their records. Raises `InputError` where none are."""
        allowed = "another: these data hold no embeddings of captions (`prepare --text-encoder` stores them)"
        require(self.text is not None, f"text, for '{self.root}',", "prepared", allowed)
        same = copy.copy(self)
        same.embeddings = True
        return same

    @cached_property
    def frozen(self) -> Frozen:
        """The encoder of captions, as a run knows it. Raises `InputError` where its file is missing or another's."""
        file, frozen, text = self.root / FROZEN, load_frozen(self.root / FROZEN), self.text or {}
        given = (frozen.encoder, *frozen.null.shape)
        same = given == tuple(text.get(name) for name in ("encoder", "length", "width"))
        require(same, f"'{file}'", "that of another encoder", f"as {MANIFEST} says: prepare the data again")
        return frozen

    def _record(self, index: int) -> bytes:
        try:
            record: bytes = self._records[index]
        except RuntimeError as error:
            failed = _system_error(error, self._shards[int(np.searchsorted(self._ends, index, side="right"))])
            if failed is None:
                raise Unreadable(str(error)) from error
            vars(self).pop("_records", None)  # open the shards anew next time: handles may be known no more
            raise failed from error
        return record

    @cached_property
    def _records(self) -> Any:
        """Random access to the records of all shards."""
        import grain

        return grain.sources.ArrayRecordDataSource([str(file) for file in self._shards])


def _system_error(error: RuntimeError, shard: Path) -> OSError | None:
    """The system's error of which ArrayRecord passes on the words alone, if it is one: "open() failed: No such ..."."""
    for number in (errno.ENOENT, *AWAY):
        if f"failed: {os.strerror(number)}" in str(error):
            return OSError(number, str(error), str(shard))
    return None


def _listed(shard: Path, count: int) -> tuple[Shaped[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Keys, as bytes side by side (as Python's strings, millions of them take several times as much), and labels."""
    listing = read_listing(shard)
    found = len(listing["keys"])
    require(found == count, f"'{shard.with_suffix('.json')}'", f"{found} keys", f"a list of {count}, as in {MANIFEST}")
    return np.array([os.fsencode(key) for key in listing["keys"]], np.bytes_), np.array(listing["labels"], np.int32)


def with_embeddings(source: Source) -> FileSource:
    """The same prepared data, with the embeddings of their captions: `embedding` in each record, float16, (length,
    width). Raises `InputError` for data that hold none.
    """
    given = source.files if isinstance(source, FileSource) else None
    allowed = "another: embeddings are read from a folder that `prepare --text-encoder` wrote"
    require(isinstance(given, Prepared), f"text, for '{source.name}',", "prepared", allowed)
    assert isinstance(source, FileSource)
    assert isinstance(given, Prepared)
    return dataclasses.replace(source, files=given.with_embeddings())


def frozen_of(source: Source) -> Frozen:
    """The encoder whose embeddings the records of prepared data hold. Raises `InputError` for data without any."""
    files = with_embeddings(source).files
    assert isinstance(files, Prepared)
    return files.frozen
