"""A noise-conditional classifier: the U-Net's way down, and one number at its end (Ambient Diffusion Omni, section 3).

    h = encoder(x, noise label);   logit = w · mean over pixels of silu(norm(h)) + b

The sides are halved as often as both are even and leave at least 4 pixels: twice, and again while the longer one is
above 16. Every level below the first has twice the channels of the first. Attention is in the last level. w and b start
at 0: the first answer is 1/2.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from imagegen.networks.layers import Dense, draw_parameters
from imagegen.networks.unet import Encoder, GroupNorm, unet_law

__all__ = ["Classifier"]


class _Parts(eqx.Module):
    encoder: Encoder
    norm: GroupNorm
    last: Dense


def _zeros(inputs: int, channels: int, levels: int) -> _Parts:
    multipliers = (1, *[2] * (levels - 1))
    size = channels * multipliers[-1]
    encoder = Encoder(inputs, channels, multipliers, 1, levels - 1, jnp.dtype(jnp.float32), False)
    return _Parts(encoder, GroupNorm.zeros(size), Dense.zeros(size, 1))


def _levels(height: int, width: int) -> int:
    levels = 1
    while (levels < 3 or max(height, width) > 16) and height % 2 == width % 2 == 0 and min(height, width) >= 8:
        levels, height, width = levels + 1, height // 2, width // 2
    return levels


class Classifier(eqx.Module):
    """The classifier above for images of `shape` (h, w, c), called as `network(image, noise_label)`: a logit.

    **Arguments:** `channels`, a multiple of 4 up to 32, then of 32; `key`. Float32. Raises `ValueError` for channels
    that do not divide into groups.
    """

    encoder: Encoder
    norm: GroupNorm
    last: Dense

    def __init__(self, shape: tuple[int, int, int], *, channels: int, key: Key[Array, ""]) -> None:
        """Draw the parameters."""
        drawn = draw_parameters(key, _zeros, unet_law, shape[2], channels, _levels(*shape[:2]))
        self.encoder, self.norm, self.last = drawn.encoder, drawn.norm, drawn.last

    def __call__(self, x: Float[Array, "h w c"], label: Float[Array, ""]) -> Float[Array, ""]:
        """The logit of one image, which the caller has scaled to a variance of about 1."""
        kept, _ = self.encoder(x, label, jnp.zeros(self.encoder.code.weight.shape[1]))
        return self.last(jnp.mean(jax.nn.silu(self.norm(kept[-1])), (0, 1)))[0]
