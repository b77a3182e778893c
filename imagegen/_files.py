"""Small files that must never be found half written."""

from pathlib import Path


def write_whole(file: Path, text: str) -> None:
    """Write the text whole or not at all; a file that holds it already is left alone."""
    if file.exists() and file.read_text(encoding="utf-8") == text:
        return
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(file)
