"""How every command line ends: a mistake in what was asked is one line and exit code 2, an interrupt 130."""

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from theory._checks import InputError


def exit_code(command: Callable[[], int], interrupted: str) -> int:
    """What `command` returns, or the code of how it was stopped; `interrupted` is said after an interrupt (Ctrl-C)."""
    try:
        return command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(interrupted, file=sys.stderr)
        return 130


def leave(code: int) -> NoReturn:
    """End the process; after an interrupt at once, since a program that is still being compiled in another thread would
    crash while the interpreter is taken down.
    """
    if code == 130:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
