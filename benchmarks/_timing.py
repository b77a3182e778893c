"""What the benchmarks share: timing, the machine's name, versions, a Markdown table."""

import importlib.metadata
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any


def seconds(call: Callable[[], Any], *, repeats: int = 3) -> float:
    """Least processor time of `repeats` calls after one that compiles; the process must be held to one core.

    Processor time, so that other work on the machine does not count.
    """
    _wait(call())
    times = []
    for _ in range(repeats):
        start = time.process_time()
        _wait(call())
        times.append(time.process_time() - start)
    return min(times)


def _wait(result: Any) -> None:
    import jax

    jax.block_until_ready(result)


def one_core() -> None:
    """Hold this process and its libraries to one core; call it before NumPy or JAX is imported."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = "1"
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def machine() -> str:
    """The processor's model and the Python version."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")
        ]
        model = names[0] if names else model
    return f"{model}, one core; Python {platform.python_version()}"


def versions(names: Sequence[str]) -> str:
    """Name and version of each installed distribution."""
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
