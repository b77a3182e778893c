"""Small files that must never be found half written, and folders that one process at a time may write to."""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from theory._checks import InputError


def write_whole(file: Path, content: str | bytes) -> None:
    """Write the content whole or not at all, though the process be killed or others write the same file."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def locked(argument: str, file: Path) -> Iterator[None]:
    """Keep other processes from what is locked by `file` (which stays there, empty) until the end of the block, or of
    the process, however it ends. Raises `InputError`, naming the argument, where another one holds the lock.
    """
    import fcntl  # not on every system, so not at the top

    handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(handle)
        raise InputError(
            f"{argument} must be a folder that no other process is writing to; got {file.parent}, where one is "
            "(wait for it, or end it)."
        ) from None
    except OSError:  # a disk that knows no locks
        pass
    try:
        yield
    finally:
        os.close(handle)
