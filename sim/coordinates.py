"""Real orthonormal coordinates in which every path's gains are diagonal, for one flattened sample.

A scalar path or one in pixels is diagonal already. For a path in the unitary Fourier basis with gains even in the
frequency, use the discrete Hartley transform (Hartley 1942; Bracewell 1983)

    h(f) = Re X(f) - Im X(f) = n^(-½) Σ_j x_j (cos 2πfj/n + sin 2πfj/n),   X the unitary transform of a real x,

over all axes at once. It is real, orthonormal and its own inverse, and spans per pair ±f the same plane as X(f),
X(-f): a gain even in f acts on h as on X, by multiplication. So the laws of x_t = A_t x0 + S_t ε are those of
diagonal matrices in real coordinates, with nothing to be said about conjugate pairs.

Samples are flattened in row-major order; channels follow the grid.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._checks import require
from theory.path_base import Path, Time


def to_coordinates(path: Path, x: Float[Array, " d"]) -> Float[Array, " d"]:
    """Coordinates of a flattened sample: itself, or its Hartley transform over the path's grid (channel by channel).

    Orthonormal, in the type of `x`. Raises `ValueError` where d is not a multiple of the grid's size.
    """
    if not path.grid:
        return x
    require_multiple(path, x.size)
    coefficients = path.to_basis(x.reshape(*path.grid, -1))
    real = coefficients.real - coefficients.imag if jnp.iscomplexobj(coefficients) else coefficients
    return real.reshape(x.shape).astype(x.dtype)


def from_coordinates(path: Path, h: Float[Array, " d"]) -> Float[Array, " d"]:
    """The flattened sample with these coordinates; inverse of `to_coordinates`, and equal to it: both are
    involutions."""
    return to_coordinates(path, h)


def coordinate_powers(path: Path, t: Time, d: int) -> tuple[Float[Array, "*d"], Float[Array, "*d"]]:
    """(A_t², S_t²): scalars on a scalar path, else one number per coordinate, shape `d`."""
    signal, noise = path.powers(t)
    return spread(path, signal, d), spread(path, noise, d)


def spread(path: Path, gain: Float[Array, "*grid"], d: int) -> Float[Array, "*d"]:
    """A gain per point of the grid as one per coordinate of a flattened sample (the same for every channel).

    Raises `ValueError` unless d is a multiple of the grid's size.
    """
    if not path.grid:
        return gain
    require_multiple(path, d)
    size = gain.size
    return jnp.broadcast_to(gain.reshape(size, 1), (size, d // size)).reshape(d)


def require_multiple(path: Path, d: int) -> None:
    """Raise `ValueError` unless d numbers fill the path's grid a whole number of times (channels)."""
    size = 1
    for n in path.grid:
        size *= n
    allowed = f"of a dimension that is a multiple of the path's grid {path.grid}, {size} points"
    require(d % size == 0 and d > 0, "samples", f"dimension {d}", allowed)


def require_grid(path: Path, shape: tuple[int, ...]) -> None:
    """Raise `ValueError` unless a sample's leading axes are the path's grid (channels may follow)."""
    leading = shape[: len(path.grid)]
    require(leading == path.grid, "xt", f"shape {shape}", f"of a shape that starts with the path's grid {path.grid}")
