"""What every image network asks of its sizes, its dtype and its images."""

import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float

from theory._checks import require


def require_sizes(**sizes: int) -> None:
    """Raise `ValueError`, naming it, for a size below 1."""
    for name, size in sizes.items():
        require(size >= 1, name, size, "at least 1")


def require_levels(shape: tuple[int, int, int], multipliers: tuple[int, ...]) -> None:
    """Raise `ValueError` for multipliers of a U-Net's channels that are none or below 1, and for images that cannot be
    halved from each level to the next.
    """
    require(len(multipliers) >= 1, "multipliers", multipliers, "at least one, for the first level")
    require_sizes(shape=min(shape), multipliers=min(multipliers))
    divisor = 2 ** (len(multipliers) - 1)
    divides = shape[0] % divisor == shape[1] % divisor == 0
    require(divides, "shape", f"{shape[0]} x {shape[1]} pixels", f"of sides that are multiples of {divisor}")


def require_dtype(dtype: DTypeLike) -> None:
    """Raise `ValueError` for a dtype that no network computes in."""
    require(dtype in (jnp.float32, jnp.bfloat16), "dtype", dtype, "float32 or bfloat16")


def require_image(x: Float[Array, "h w c"], shape: tuple[int, int, int]) -> None:
    """Raise `ValueError` for an image of another shape than the network's."""
    require(x.shape == shape, "x", f"shape {x.shape}", f"of the network's shape, {shape}")
