"""Small files that must never be found half written."""

import os
from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write the text whole or not at all, whatever happens meanwhile and whoever else writes the same file."""
    partial = file.with_name(f"{file.name}.{os.getpid()}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
