"""Small files that must never be found half written."""

import uuid
from pathlib import Path


def write_whole(file: Path, content: str | bytes) -> None:
    """Write the content whole or not at all, though the process be killed or others write the same file."""
    partial = file.with_name(f"{file.name}.{uuid.uuid4().hex}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(file)
    finally:
        partial.unlink(missing_ok=True)
