"""Indices of data on disk, made once: in the user's cache, as data may lie where nothing can be written.

The folder is patina/ in $XDG_CACHE_HOME, by default in ~/.cache; what is in it may be deleted at any time.
"""

import hashlib
import io
import json
import os
import zipfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from theory._files import write_whole

VERSION = 1
"""Of what the indices hold: another one is made anew."""
Arrays = dict[str, np.ndarray]


def cached(what: Path, stamp: Mapping[str, Any], make: Callable[[], Arrays]) -> Arrays:
    """The arrays that `make` finds in `what`, a file or folder, or found before, when its `stamp` (JSON) was the same.

    A cache that cannot be read or written costs time, and nothing else.
    """
    state = json.dumps([VERSION, stamp], sort_keys=True)
    file = _folder() / (hashlib.sha256(os.fsencode(what.resolve())).hexdigest()[:32] + ".npz")
    found = _load(file, state)
    if found is not None:
        return found
    arrays = make()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, __stamp__=np.array(state), **arrays)  # type: ignore[arg-type]
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, buffer.getvalue())
    except OSError:
        pass
    return arrays


def _folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "patina"


def _load(file: Path, state: str) -> Arrays | None:
    """None where there is no such file, a damaged one, or one of another state."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            if str(archive["__stamp__"]) != state:
                return None
            return {name: archive[name] for name in archive.files if name != "__stamp__"}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
