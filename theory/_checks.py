"""Checks of what a caller passes in. Each raises one error that names the argument, its value and what is allowed.

Values are checked where they are concrete. Under `jax.jit` or `jax.vmap` an array has no value yet: then only its
shape and dtype are checked, and the caller vouches for the rest.
"""

from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import ArrayLike


class InputError(ValueError):
    """What a caller passed in cannot be used; the message names the argument, what was given and what is allowed."""


def is_concrete(value: Any) -> bool:
    """Whether `value` has a value now, i.e. is not being traced by JAX."""
    return not isinstance(value, jax.core.Tracer)


def require(
    condition: bool, argument: str, given: object, allowed: str, *, error: type[InputError] = InputError
) -> None:
    """Raise `error` naming the argument, what was given and what is allowed, unless `condition` holds."""
    if not condition:
        raise error(f"{argument} must be {allowed}; got {given}.")


def require_float64(argument: str, value: ArrayLike) -> None:
    """Raise `TypeError` unless `value` is float64: these functions promise digits that float32 does not have."""
    dtype = np.result_type(value) if np.isscalar(value) else value.dtype  # type: ignore[union-attr]
    if dtype == np.float64:
        return
    raise TypeError(
        f"{argument} must be float64; got {dtype}. Call jax.config.update('jax_enable_x64', True) before making "
        "arrays, or set JAX_ENABLE_X64=1."
    )


def require_finite(argument: str, value: ArrayLike) -> None:
    """Raise `InputError` if a concrete `value` has a NaN or an infinity."""
    if not is_concrete(value):
        return
    bad = int(np.size(value) - np.count_nonzero(np.isfinite(np.asarray(value))))
    require(bad == 0, argument, f"{bad} non-finite of {np.size(value)} entries", "finite")


def require_between(argument: str, value: ArrayLike, low: float, high: float) -> None:
    """Raise `InputError` unless every entry of a concrete `value` lies in [low, high]."""
    if not is_concrete(value):
        return
    array = np.asarray(value)
    inside = bool(np.all((array >= low) & (array <= high)))
    require(inside, argument, value, f"in [{low:g}, {high:g}]")


def require_probabilities(argument: str, rows: ArrayLike, columns: int) -> None:
    """Raise `InputError` unless `rows` has shape (C, columns) and, where concrete, each row is >= 0 with sum 1."""
    shape = np.shape(rows)
    require(len(shape) == 2 and shape[1] == columns, argument, f"shape {shape}", f"of shape (C, {columns})")
    require_finite(argument, rows)
    if is_concrete(rows):
        array = np.asarray(rows, dtype=np.float64)
        require(bool(np.all(array >= 0)), argument, f"smallest {array.min():.3g}", "non-negative")
        off = float(np.max(np.abs(array.sum(axis=1) - 1)))
        require(off <= 1e-5, argument, f"rows off by up to {off:.3g}", "of rows that sum to 1")


def require_covariance(argument: str, cov: ArrayLike) -> None:
    """Raise `InputError` unless `cov` is square and, where concrete, finite, symmetric and positive semi-definite.

    Rounding is allowed for: asymmetry and negative eigenvalues up to 1e-9 (float32: 1e-4) of the largest eigenvalue.
    """
    shape = np.shape(cov)
    require(len(shape) == 2 and shape[0] == shape[1], argument, f"shape {shape}", "a square matrix")
    if not is_concrete(cov):
        return
    require_finite(argument, cov)
    matrix = np.asarray(cov)
    slack = (1e-9 if matrix.dtype == np.float64 else 1e-4) * max(float(np.max(np.abs(matrix))), 1e-300)
    asymmetry = float(np.max(np.abs(matrix - matrix.T)))
    require(asymmetry <= slack, argument, f"asymmetry up to {asymmetry:.3g}", "symmetric")
    smallest = float(np.linalg.eigvalsh(matrix.astype(np.float64))[0])
    require(
        smallest >= -slack * matrix.shape[0],
        argument,
        f"smallest eigenvalue {smallest:.3g}",
        "positive semi-definite",
    )


def make_folder(argument: str, folder: Path) -> None:
    """Make the folder now, so that no work is lost for the lack of it; raise `InputError` where it cannot be made."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        require(False, argument, f"{folder} ({error.strerror})", "a folder that can be written to")


def require_positive(argument: str, value: ArrayLike, *, finite: bool = True) -> None:
    """Raise `ValueError` unless every entry of a concrete `value` is > 0 (and finite, unless told otherwise)."""
    if not is_concrete(value):
        return
    array = np.asarray(value)
    inside = bool(np.all(array > 0)) and (not finite or bool(np.all(np.isfinite(array))))
    require(inside, argument, value, "positive and finite" if finite else "positive")
