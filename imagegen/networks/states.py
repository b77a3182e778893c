"""What importers of published weights share: the state, arrays by name, and the check that it is complete and fits."""

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory._checks import require

__all__ = ["State", "check_state", "float32", "some"]

State = Mapping[str, np.ndarray]


def check_state(state: Mapping[str, np.ndarray | Array], shapes: Mapping[str, tuple[int, ...]], layout: str) -> None:
    """Raise `InputError` unless the state has the arrays of these names and shapes, no others, and finite numbers."""
    missing, unexpected = [name for name in shapes if name not in state], [name for name in state if name not in shapes]
    require(not missing, "state", f"no {some(missing)}", "complete")
    require(not unexpected, "state", f"also {some(unexpected)}", f"of {layout}'s layout")
    wrong = [
        f"{name} {state[name].shape} instead of {shapes[name]}" for name in shapes if state[name].shape != shapes[name]
    ]
    require(not wrong, "state", some(wrong), "of arrays that fit each other")
    bad = [name for name in state if not np.all(np.isfinite(state[name]))]
    require(not bad, "state", f"other values in {some(bad)}", "finite")


def some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    return ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def float32(value: np.ndarray | Array) -> Float[Array, "..."]:
    """The array as ours."""
    return jnp.asarray(value, jnp.float32)
