"""Files that must never be found half written, what a file is known by, and what one process at a time may write to."""

import hashlib
import json
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from theory._checks import InputError, require


def write_whole(file: Path, content: str | bytes) -> None:
    """Write the content whole or not at all, though the process be killed or others write the same file."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def written_whole(file: Path) -> Iterator[BinaryIO]:
    """A stream into a file too large for `write_whole`, which is there whole at the end of the block, or not at all.

    What a killed process has written stays in FILE.partial, and the next one writes over it: one process at a time.
    """
    partial = file.with_name(f"{file.name}.partial")
    with partial.open("wb") as stream:
        yield stream
    partial.replace(file)


def cut_torn_line(file: Path) -> None:
    """Leave the whole lines of a file that was being written, line by line, when the process was killed."""
    written = file.read_bytes()
    write_whole(file, written[: written.rfind(b"\n") + 1])


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's content."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def note_file(argument: str, file: Path, noted: Path) -> str:
    """What is noted of a file that was given as `argument`, in the file `noted`: JSON with its SHA-256.

    Raises `InputError` where it has changed since `noted` was written.
    """
    note = json.dumps({argument: str(file), "sha256": sha256_of(file)}) + "\n"
    same = not noted.exists() or json.loads(noted.read_text(encoding="utf-8")) == json.loads(note)
    allowed = "the same file as when the run began, or choose another --out"
    require(same, argument, f"'{file}', changed since", allowed)
    return note


@contextmanager
def locked(argument: str, file: Path, *, guarded: Path | None = None) -> Iterator[None]:
    """Keep other processes from what is locked by `file` (which stays there, empty) until the end of the block, or of
    the process, however it ends: its folder, or the file `guarded`. Raises `InputError`, naming the argument, where
    another one holds the lock.
    """
    what, given = ("folder", file.parent) if guarded is None else ("file", guarded)
    import fcntl  # not on every system, so not at the top

    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"{argument} must be a {what} that no other process is writing to; got {given}, where one is "
            "(wait for it, or end it)."
        ) from None
    except OSError:  # a disk that knows no locks
        pass
    try:
        yield
    finally:
        os.close(handle)
