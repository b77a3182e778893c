"""Small files that must never be found half written."""

import os
from pathlib import Path


def write_whole(file: Path, content: str | bytes) -> None:
    """Write the content whole or not at all, whatever happens meanwhile and whoever else writes the same file."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_bytes(content.encode() if isinstance(content, str) else content)
    partial.replace(file)
