"""Names in tables: what is unknown is refused, and the nearest known one suggested."""

import difflib
from collections.abc import Iterable

from theory._checks import require


def require_one_of(argument: str, name: str, known: Iterable[str], *, other: str = "") -> None:
    """Raise `InputError` unless `name` is among the `known`; the message lists these, and `other` things allowed."""
    names = list(known)
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"'{name}'; did you mean '{near[0]}'?" if near else f"'{name}'"
    allowed = "one of " + ", ".join(f"'{k}'" for k in names) + other
    require(name in names, argument, hint, allowed)
