"""`python -m imagegen prepare`: images in files, cropped once and stored in the order of their source.

Shard k of a split holds the samples with the indices k·P, ..., (k + 1)·P - 1 of the source, P = `PER_SHARD`, without
the unreadable ones. It is written by one thread, apart, and named when it is whole; so an interrupted preparation goes
on with the shards that are missing, and what comes out in the end does not depend on it, byte for byte.

What is stored of an image is an `Encoder`'s affair: PNG (`AsPNG`), which loses nothing, or the law of its latent
(`imagegen.pretrained`). A `CaptionEncoder` (`imagegen.data.embeddings`), if there is one, adds its caption's embedding.
"""

import hashlib
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from imagegen.checkpoint import full_disk_explained
from imagegen.data.decode import encode_png
from imagegen.data.directory import from_directory
from imagegen.data.embeddings import FROZEN, CaptionEncoder, Frozen, filled, save_frozen, stored
from imagegen.data.files import FileSource
from imagegen.data.records import CONTENT, MANIFEST, pack, read_listing
from imagegen.data.skips import BAD_SHARE
from imagegen.data.splits import SPLITS
from imagegen.data.tokens import caption_of
from theory._checks import InputError, make_folder, require
from theory._cores import cores
from theory._files import locked, sha256_of, write_whole

PER_SHARD = 4096
"""Samples that a shard is made of."""
BATCH = 64
"""Images that are encoded at once."""
PLAN = "plan.json"
"""What is being prepared, from the first shard on."""
LOCKED = "prepare.lock"
"""Locked by the process that prepares, for as long as it runs."""
OPTIONS = "group_size:1,uncompressed"
"""Of ArrayRecord: every record can be read by itself, and images are compressed already."""
_Sample = tuple[dict[str, Any], Float[np.ndarray, "h w 3"]]
"""Header and image."""
_Packed = tuple[dict[str, Any], bytes]
"""Header and content."""
_Encode = Callable[[Sequence[_Sample]], Iterable[_Packed]]


@runtime_checkable
class Encoder(Protocol):
    """What is stored of images. `content` is what the manifest calls it."""

    content: str

    def about(self, side: int) -> dict[str, Any]:
        """What else the manifest says of it, for images of this side."""

    def __call__(self, images: Float[np.ndarray, "b h w 3"]) -> Sequence[bytes]:
        """The contents of b records, of images in [-1, 1]. It is called by several threads at once."""


class AsPNG:
    """Images as PNG, without loss."""

    content = CONTENT

    def about(self, side: int) -> dict[str, Any]:
        """Nothing."""
        return {}

    def __call__(self, images: Float[np.ndarray, "b h w 3"]) -> Sequence[bytes]:
        """One PNG each."""
        return [encode_png(image) for image in images]


def prepare(
    data: Path,
    out: Path,
    *,
    resolution: int,
    bad_share: float = BAD_SHARE,
    encoder: Encoder | None = None,
    text: CaptionEncoder | None = None,
    per_shard: int = PER_SHARD,
    threads: int | None = None,
) -> dict[str, Any]:
    """Prepare both splits of a folder of images or tar shards in `out`; return the manifest, which is written last.

    `encoder`: by default PNG; `text`: by default captions are stored as they are, and nothing else; `threads`: by
    default one per core. Raises `InputError` as `from_directory` does, for sizes below 1, for captions that are to be
    encoded but are not there, for more than `bad_share` of unreadable images, and for an `out` that holds something
    else, or in which another process is preparing.
    """
    require(not (data / MANIFEST).exists(), "data", f"'{data}', which is prepared already", "the images as they came")
    require(per_shard >= 1, "per_shard", per_shard, "at least 1")
    workers = cores() if threads is None else threads
    require(workers >= 1, "threads", workers, "at least 1")
    sources = {split: from_directory(data, split, resolution, bad_share) for split in SPLITS}
    encode = AsPNG() if encoder is None else encoder
    if text is not None:
        caption_of(sources[SPLITS[0]], 0)  # or it refuses
    plan = {
        "data": str(data.resolve()), "resolution": resolution, "content": encode.content, "per_shard": per_shard,
        "about": encode.about(resolution), "text": None if text is None else text.about(),
        "listing": {split: _listing(source) for split, source in sources.items()},
    }  # fmt: skip
    make_folder("out", out)
    others = [] if (out / PLAN).exists() else [entry.name for entry in out.iterdir() if entry.name != LOCKED]
    require(not others, "out", f"'{out}', which holds other files", "an empty or a new folder")
    shards = [
        _Shard(split, out / f"{split}-{k:05d}.arrayrecord", source, range(len(source))[k * per_shard :][:per_shard])
        for split, source in sources.items()
        for k in range(-(-len(source) // per_shard))
    ]
    with locked("out", out / LOCKED), full_disk_explained(out):
        _require_same(out, plan)
        if text is not None and not (out / FROZEN).exists():  # the plan says that it is the same encoder
            save_frozen(_frozen(text), out / FROZEN)
        _write_all(shards, partial(_contents, encode, text), workers)
        manifest = _manifest(plan, sources, shards)
        write_whole(out / MANIFEST, json.dumps(manifest, indent=1) + "\n")
    return manifest


@dataclass(frozen=True, eq=False)
class _Shard:
    """The samples `indices` of a split, to be stored in `file`."""

    split: str
    file: Path
    source: FileSource
    indices: range


def _listing(source: FileSource) -> str:
    """SHA-256 of the keys and labels in their order."""
    total = hashlib.sha256(json.dumps(source.class_names).encode())
    for index, label in enumerate(source.labels.tolist()):
        total.update(f"{source.key(index)}\0{label}\n".encode(errors="surrogateescape"))
    return total.hexdigest()


def _require_same(out: Path, plan: Mapping[str, Any]) -> None:
    """Refuse a folder in which something else was begun; note what is begun now."""
    file = out / PLAN
    if file.exists():
        before = json.loads(file.read_text(encoding="utf-8"))
        other = [f"{name} {plan[name]} (there {before.get(name)})" for name in plan if plan[name] != before.get(name)]
        require(not other, f"what is prepared in '{out}'", ", ".join(other), "the same; choose another --out")
        return
    write_whole(file, json.dumps(plan, indent=1) + "\n")


def _write_all(shards: Sequence[_Shard], encode: _Encode, workers: int) -> None:
    """Write the shards that are missing; what ends one of the threads ends all."""
    missing = [shard for shard in shards if not _whole(shard)]
    total, left = (sum(len(shard.indices) for shard in some) for some in (shards, missing))
    stop = threading.Event()
    with (
        tqdm(total=total, initial=total - left, desc="preparing", unit="image", disable=None) as bar,
        ThreadPoolExecutor(workers) as pool,
    ):
        futures = [pool.submit(_write, shard, encode, bar, stop) for shard in missing]
        try:
            for future in as_completed(futures):
                future.result()
        except BaseException:
            stop.set()
            pool.shutdown(cancel_futures=True)
            raise


def _whole(shard: _Shard) -> bool:
    """Whether the shard was written before, and its listing can be read."""
    try:
        listing = read_listing(shard.file)
    except InputError:
        return False
    return shard.file.is_file() and shard.file.stat().st_size == listing["bytes"]


def _write(shard: _Shard, encode: _Encode, bar: "tqdm[Any]", stop: threading.Event) -> None:
    from array_record.python.array_record_module import ArrayRecordWriter

    begun = shard.file.with_suffix(".partial")
    headers = []
    writer = ArrayRecordWriter(str(begun), OPTIONS)
    try:
        for indices in _batches(shard.indices):
            if stop.is_set():
                return
            for header, content in encode(list(_samples(shard.source, indices))):
                writer.write(pack(header, content))
                headers.append(header)
            bar.update(len(indices))
    finally:
        writer.close()
    _finish(shard, begun, headers)


def _contents(encode: Encoder, text: CaptionEncoder | None, samples: Sequence[_Sample]) -> Iterator[_Packed]:
    """Headers and contents of the records of some samples."""
    if not samples:
        return
    headers, images = zip(*samples, strict=True)
    contents = encode(np.stack(images))
    if text is None:
        yield from zip(headers, contents, strict=True)
        return
    states = text([header["caption"] for header in headers])
    for header, content, one in zip(headers, contents, states, strict=True):
        yield {**header, "tokens": len(one)}, content + stored(one).tobytes()


def _frozen(text: CaptionEncoder) -> Frozen:
    about = text.about()
    return Frozen(about["encoder"], filled(text([""])[0], about["length"]))


def _batches(indices: range) -> Iterator[range]:
    for start in range(0, len(indices), BATCH):
        yield indices[start : start + BATCH]


def _samples(source: FileSource, indices: range) -> Iterator[_Sample]:
    """Header and image of those samples that can be read."""
    for index in indices:
        found = source.sample(index)
        if found is not None:
            image, fields = found
            yield {"key": source.key(index), "label": int(source.labels[index]), **fields}, image


def _finish(shard: _Shard, partial: Path, headers: Sequence[Mapping[str, Any]]) -> None:
    sha256, size = sha256_of(partial), partial.stat().st_size
    partial.replace(shard.file)
    bad = shard.source.skips.bad
    listing = {
        "keys": [header["key"] for header in headers], "labels": [header["label"] for header in headers],
        "skipped": [list(bad[index]) for index in shard.indices if index in bad], "bytes": size, "sha256": sha256,
    }  # fmt: skip
    write_whole(shard.file.with_suffix(".json"), json.dumps(listing) + "\n")


def _manifest(plan: Mapping[str, Any], sources: Mapping[str, FileSource], shards: Sequence[_Shard]) -> dict[str, Any]:
    splits: dict[str, Any] = {
        split: {"count": 0, "shards": [], "skipped": [], "left_out": [astuple(part) for part in source.files.left_out]}
        for split, source in sources.items()
    }
    for shard in shards:
        listing = read_listing(shard.file)
        split, count = splits[shard.split], len(listing["keys"])
        split["count"] += count
        stored = {name: listing[name] for name in ("bytes", "sha256")}
        split["shards"].append({"file": shard.file.name, "count": count, **stored})
        split["skipped"] += listing["skipped"]
    return {**plan, "class_names": list(sources[SPLITS[0]].class_names), "splits": splits}
