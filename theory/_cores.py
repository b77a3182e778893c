"""How many cores there are to work with."""

import os


def cores() -> int:
    """The cores that this process may use, where the system tells; else those of the machine."""
    allowed = getattr(os, "sched_getaffinity", None)
    return len(allowed(0)) if allowed else os.cpu_count() or 1
