"""What one use of a sample shows of its image: mirrored or not, and of a latent a draw from its encoder's law.

A latent is stored as the law N(m, s²) that its encoder gives the image, and N(m', s'²) of the mirrored image (which is
not the mirrored law: encoders are not equivariant), so that neither is frozen when latents are prepared once for all.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Shaped

LATENT = ("mean", "std")
"""Fields of a latent, both of shape (2, h, w, c): first those of the image as it is, then of the mirrored one."""


def shown(sample: Mapping[str, Shaped[Array, "..."]], key: Key[Array, ""], *, flip: bool) -> Float[Array, "h w c"]:
    """The image of one use: `image` (h, w, c), or drawn from `mean` and `std` (`LATENT`); mirrored left to right with
    probability 1/2 if `flip`.
    """
    key_flip, key_draw = jax.random.split(key)
    mirrored = jax.random.bernoulli(key_flip) if flip else jnp.zeros((), bool)
    if "mean" not in sample:
        image = sample["image"]
        return jnp.where(mirrored, image[:, ::-1], image) if flip else image
    mean, std = (sample[name][mirrored.astype(jnp.int32)] for name in LATENT)
    return mean + std * jax.random.normal(key_draw, mean.shape, mean.dtype)
