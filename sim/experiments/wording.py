"""Rows and estimates put into words: how every experiment's answer picks rows, prints numbers and judges intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

from sim.experiments.base import Row


def find(rows: Sequence[Row], **wanted: Any) -> list[Row]:
    """The rows with these entries, in the grid's order; a row without one of them is left out."""
    return [row for row in rows if all(name in row and row[name] == value for name, value in wanted.items())]


def sign(estimate: Mapping[str, Any]) -> int:
    """1 where the whole interval is above zero, -1 where it is below, else 0: undecided."""
    return int(estimate["low"] > 0) - int(estimate["high"] < 0)


def shown(estimate: Mapping[str, Any]) -> str:
    """`value [low, high]` in three digits; the value alone where it is exact."""
    value, low, high = (f"{estimate[name]:.3g}" for name in ("value", "low", "high"))
    return value if low == high else f"{value} [{low}, {high}]"
