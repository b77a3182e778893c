"""Waiting for a disk or server that is away: good samples must not count as unreadable because it restarts.

An error of reading is the sample's own, or it says that more is away than the sample:

    the network or its server       ESTALE, ETIMEDOUT, EHOSTDOWN, ENOTCONN (also FUSE's), ECONNRESET, ...
    the device                      EIO (also what NFS gives after a soft mount's time), ENODEV, ENXIO, ...
    what passes by itself           EBUSY, EAGAIN; too many open files, no memory
    FileNotFoundError               where the file's folder is gone too, or empty, as a mount point without its disk is

The latter are tried again, for `PAUSES`. A bad sector gives EIO as well, for ever: so if at the end other samples can
be read and this one cannot, it is its own fault after all.
"""

import errno
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PAUSES = (0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 60.0, 60.0, 60.0)
"""Seconds between tries: five minutes in all, in which a file server restarts."""
TELL = 5.0
"""Seconds: shorter pauses are not told, and longer ones once for all threads that pause."""
AWAY = frozenset(
    getattr(errno, name)
    for name in (
        "ESTALE", "ETIMEDOUT", "EHOSTDOWN", "EHOSTUNREACH", "ENETDOWN", "ENETUNREACH", "ENETRESET", "ENOTCONN",
        "ECONNREFUSED", "ECONNRESET", "ECONNABORTED", "EPIPE", "ESHUTDOWN", "EIO", "EREMOTEIO", "ENODEV", "ENXIO",
        "ENOMEDIUM", "EBUSY", "EAGAIN", "EMFILE", "ENFILE", "ENOMEM",
    )
    if hasattr(errno, name)  # not every system has all
)  # fmt: skip
"""The numbers of such errors."""


class DataAway(RuntimeError):
    """The disk or server of the data stays away. No `OSError`, which would be taken for an unreadable sample, and no
    `InputError`: the same command goes on when the disk is there again.
    """


class Patience:
    """Reads of one source of data, whichever thread they are in."""

    def __init__(self, name: str) -> None:
        """`name`: that of the data, for what is told."""
        self._name, self._quiet_until, self._lock = name, 0.0, threading.Lock()

    def __call__(self, read: Callable[[], T], others: Callable[[], bool]) -> T:
        """What `read()` returns, tried again while the disk is away (module's top); `others()`: whether other samples
        can be read.

        Raises the error of `read` that is the sample's own, and `DataAway` where the disk is still away at the end.
        """
        for pause in PAUSES:
            try:
                return read()
            except OSError as error:
                if not is_away(error):
                    raise
                self._tell(error, pause)
            time.sleep(pause)
        there = others()  # asked first, so that this one is tried once more while they are there
        try:
            return read()
        except OSError as error:
            if there or not is_away(error):
                raise
            raise DataAway(
                f"the disk or server of '{self._name}' stayed away for {sum(PAUSES):.0f} s ({error}). The same command "
                "goes on when it is there again."
            ) from error

    def _tell(self, error: OSError, pause: float) -> None:
        with self._lock:
            now = time.monotonic()
            if pause < TELL or now < self._quiet_until:
                return
            self._quiet_until = now + pause
        print(f"warning: '{self._name}' cannot be read ({error}); trying again", file=sys.stderr, flush=True)


def is_away(error: OSError) -> bool:
    """Whether an error of reading a file says that more is away than this file (module's top)."""
    if isinstance(error, FileNotFoundError):
        return error.filename is not None and not _has_files(Path(os.fsdecode(error.filename)).parent)
    return error.errno in AWAY


def _has_files(folder: Path) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:
        return False
