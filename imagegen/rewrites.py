"""Captions rewritten once and kept: a language model takes long, and its answers depend on the versions of libraries.

A file is a header and a line of JSON for each sample of a split, in the order of the data:

    {"samples": SHA-256 of keys, labels and shape, "level": 3, "rewriter": "rules", or the SHA-256 of a model}
    {"key": "00000/000000012", "caption": "a green kite"}

`train --captions rewrite --rewritten FILE` takes from it the captions that its share rewrites. Keys are those of the
images, as `imagegen.data.files` has them, and stay the same in prepared data.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from imagegen.annotations import in_a_folder, keys_fingerprint
from imagegen.data.files import FileSource, file_source
from imagegen.data.rewriting import LEVELS, Rewriter, Rewritten, rewrite_words, rewriting_rng
from imagegen.data.tokens import caption_of
from theory._checks import InputError, make_folder, require
from theory._files import cut_torn_line, locked, note_file, sha256_of, write_whole

RULES = "rules"
"""What the header calls `rewrite_words`."""
SEED = 0
"""Of what a rewriter draws; a run's own seed chooses the samples."""
ALLOWED = "a file that `python -m imagegen rewrite` wrote"


def rewrite(
    data: str,
    out: Path,
    *,
    level: int,
    rewriter: Rewriter = rewrite_words,
    called: str = RULES,
    split: str = "train",
    resolution: int = 0,
) -> int:
    """Rewrite all captions of the folder `data` (as of `train`) at a `level`, 1 ... 5, into the file `out` (module's
    top), whose header has the rewriter as `called`; return how many there are.

    Captions that are there stay: interrupted, the same call goes on. Raises `InputError` for another level, data that
    are not in a folder or have no captions, and an `out` that does not end in .jsonl, or has something else in it.
    """
    require(level in LEVELS, "level", level, "1 ... 5")
    require(out.suffix == ".jsonl" and not out.is_dir(), "out", out, "a file that ends in .jsonl")
    source = in_a_folder(data, resolution, split)
    caption_of(source, 0)  # or it refuses
    make_folder("out", out.parent)
    with locked("out", out.with_suffix(".lock"), guarded=out):
        known = _begun(out, {"samples": keys_fingerprint(source), "level": level, "rewriter": called})
        _rewrite(source, rewriter, level, out, known)
    return len(source)


def model_sha256(folder: Path) -> str:
    """SHA-256 of the files in the folder of a language model."""
    total = hashlib.sha256()
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        total.update(f"{file.name}\0{sha256_of(file)}\n".encode())
    return total.hexdigest()


def made_captions(file: Path, source: Rewritten) -> dict[int, str]:
    """The captions of those samples of the source that are rewritten, from a file, by index.

    Raises `InputError` for data that are not in a folder, a file that is missing or bad, naming the line, one of
    another level, and one that lacks samples.
    """
    files = file_source(source)
    require(files is not None, "rewritten", f"'{file}'", f"left out for '{source.name}', which is not in a folder")
    assert files is not None
    require(file.is_file(), "rewritten", f"'{file}', which is no file", ALLOWED)
    lines = _lines(file)
    level = next(lines, {}).get("level")
    require(level == source.level, "caption_level", source.level, f"{level}, as '{file}' was made")
    chosen = {files.key(index): index for index in np.flatnonzero(source.rewritten).tolist()}
    made = {chosen[line["key"]]: line["caption"] for line in lines if line["key"] in chosen}
    absent = [key for key, index in chosen.items() if index not in made]
    given = f"'{file}' without {len(absent)} of {len(chosen)} samples ({', '.join(absent[:3])} ...)"
    require(not absent, "rewritten", given, "a file with a caption of every sample that is rewritten, of the same data")
    return made


def note_rewritten(file: Path, noted: Path) -> str:
    """What a run notes of the file that its rewritten captions are from, in the file `noted`: JSON with its SHA-256.

    Raises `InputError` for a file that has changed since `noted` was written.
    """
    return note_file("rewritten", file, noted)


def _rewrite(source: FileSource, rewriter: Rewriter, level: int, out: Path, known: set[str]) -> None:
    """Add the captions of the samples that have none."""
    left = [index for index in range(len(source)) if source.key(index) not in known]
    with out.open("a", encoding="utf-8") as lines:
        for index in tqdm(left, desc="rewriting", unit="caption", disable=None):
            caption = rewriter(caption_of(source, index), level, rewriting_rng(SEED, index))
            lines.write(json.dumps({"key": source.key(index), "caption": caption}) + "\n")
            lines.flush()  # an answer may have taken seconds


def _begun(out: Path, header: dict[str, Any]) -> set[str]:
    """The keys of the captions that are there already, if they were made in the same way."""
    if not out.exists():
        write_whole(out, json.dumps(header) + "\n")
        return set()
    allowed = "a new file, or one of the same call"
    with out.open(encoding="utf-8", errors="replace") as text:
        same = text.readline() == json.dumps(header) + "\n"
    require(same, "out", f"'{out}', which was made otherwise, or of other data", allowed)
    cut_torn_line(out)
    lines = _lines(out)
    next(lines)
    return {line["key"] for line in lines}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The header, and the lines below. Raises `InputError` for a bad one, naming it."""
    with file.open(encoding="utf-8", errors="replace") as lines:
        for number, text in enumerate(lines, start=1):
            try:
                line = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"line {number} of '{file}' must be JSON; got {error}") from None
            fields = ("level",) if number == 1 else ("key", "caption")
            whole = isinstance(line, dict) and all(name in line for name in fields)
            require(whole, f"line {number} of '{file}'", text[:80].strip(), f"with {' and '.join(fields)}: {ALLOWED}")
            yield line
