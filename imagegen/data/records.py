"""Prepared samples in ArrayRecord files, as `python -m imagegen prepare` writes them (`imagegen.prepare`).

    DIR/manifest.json               what was prepared from what; the shards of each split with their sizes and checksums
    DIR/train-00000.arrayrecord     the records of a shard
    DIR/train-00000.json            its keys and labels, and what was skipped

A record is the length of a header (4 bytes, little-endian), the header, JSON with `key`, `label` and, where there is
one, `caption`, and the content: an image as PNG, already cropped, or the law of its latent (`imagegen.data.latents`),
whose shape, scale and autoencoder the manifest has under `about`.
"""

import json
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from imagegen._names import require_one_of
from imagegen.data.decode import Unreadable
from imagegen.data.files import Files
from imagegen.data.skips import LeftOut, left_out, together
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


class Prepared(Files):
    """The prepared samples of a split in `root`, in the order in which they were prepared.

    Raises `ValueError` for another split or content, and shards that are missing or of another size than when written.
    """

    def __init__(self, root: Path, split: str) -> None:
        manifest = read_manifest(root)
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
        listed = [json.loads(file.with_suffix(".json").read_text(encoding="utf-8")) for file in self._shards]
        self._keys = [key for shard in listed for key in shard["keys"]]
        self.labels = np.array([label for shard in listed for label in shard["labels"]], np.int32)
        listed_out = [LeftOut(why, count, tuple(first)) for why, count, first in known["left_out"]]
        self.left_out = together([*listed_out, *left_out((key, why) for key, why in known["skipped"])])

    def key(self, index: int) -> str:
        """The key that it had before it was prepared."""
        return self._keys[index]

    def read(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """The PNG, and the `caption` where there is one. Raises `Unreadable` for a damaged record."""
        try:
            record = self._records[index]
        except RuntimeError as error:
            raise Unreadable(str(error)) from error
        header, content = unpack(record)
        return content, {"caption": header["caption"]} if "caption" in header else {}

    @cached_property
    def _records(self) -> Any:
        """Random access to the records of all shards."""
        import grain

        return grain.sources.ArrayRecordDataSource([str(file) for file in self._shards])
