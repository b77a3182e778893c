"""Other projects' programs, run by a Python that has what they need."""

import os
import subprocess
from pathlib import Path


def run_reference(python: str, script: Path, *arguments: object, seconds: int = 600) -> None:
    """Run a script beside the tests to its end; on a failure the test says what it printed."""
    command = [python, script, *map(str, arguments)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=seconds)
    assert done.returncode == 0, done.stderr
