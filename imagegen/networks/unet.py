"""A U-Net for pixels: "DDPM++" of Song et al. 2021 as Karras et al. 2022 (EDM, section 5 and table 7) train it.

    e     = silu(W_2 silu(W_1 (φ(1000 l) + W_c cond + b_c) + b_1) + b_2)                        l the noise label
    block: h' = conv_3x3(silu(norm(h)));   h'' = conv_3x3(silu(norm(h' + W_e e + b_e)));   (skip(h) + h'')/√2
           then, where there is attention, (h + W_o attention(W_qkv norm(h)))/√2

norm is a group norm with its own scale and shift; skip is the identity, or a 1x1 convolution where channels or sizes
change. The encoder halves the sides (means of 2 x 2) from level to level, by a block of its own, and keeps every
block's result; the decoder doubles them (nearest pixel) and joins, before each block, the kept result of that size. A
level l has `multipliers[l]` x `channels` channels, `blocks` blocks on the way down and one more on the way up.
Attention, of one head: in the encoder's blocks and the decoder's last one of one level, and in the middle.

Unlike EDM: the last map of every block starts at exactly 0, not 1e-5 of the usual; the noise label is embedded as the
DiT's; no dropout and no augmentation (EDM's 13 % on CIFAR-10, nine labels).

Parameters are float32; `dtype` is that of convolutions and attention; the sum h, norms, the embedding and the last
convolution stay in float32.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from imagegen.networks._checks import require_dtype, require_image, require_levels, require_sizes
from imagegen.networks.layers import Conv, Dense, Law, NoiseEmbedding, attend, draw_parameters, normalise, xavier
from theory._checks import require

__all__ = ["Encoder", "GroupNorm", "UNet", "unet_law"]

ROOT_HALF = math.sqrt(0.5)


class GroupNorm(eqx.Module):
    """Norm over pixels and groups of channels: 32 groups, or fewer so that each has at least four; float32."""

    scale: Float[Array, " channels"]
    bias: Float[Array, " channels"]

    @staticmethod
    def zeros(channels: int) -> "GroupNorm":
        """The norm of that size, to be filled by `draw_parameters`. Raises `ValueError` for channels that do not
        divide.
        """
        fits = channels >= 4 and channels % _groups(channels) == 0
        require(
            fits, "channels", f"{channels} to be normed in groups", "a multiple of 4, above 128 of 32, where joined"
        )
        return GroupNorm(jnp.zeros(channels, jnp.float32), jnp.zeros(channels, jnp.float32))

    def __call__(self, x: Float[Array, "h w channels"]) -> Float[Array, "h w channels"]:
        """The norm of `x`, float32."""
        grouped = x.reshape(*x.shape[:2], _groups(x.shape[2]), -1)
        return normalise(grouped, (0, 1, 3)).reshape(x.shape) * self.scale + self.bias


def _groups(channels: int) -> int:
    return min(32, channels // 4)


def _halved(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    h, w, c = x.shape
    return jnp.mean(x.reshape(h // 2, 2, w // 2, 2, c), (1, 3))


def _doubled(x: Float[Array, "h w c"]) -> Float[Array, "h2 w2 c"]:
    return jnp.repeat(jnp.repeat(x, 2, 0), 2, 1)


_SCALED = {"same": lambda x: x, "down": _halved, "up": _doubled}


class _Attention(eqx.Module):
    norm: GroupNorm
    qkv: Dense
    last: Dense

    @staticmethod
    def zeros(channels: int) -> "_Attention":
        return _Attention(
            GroupNorm.zeros(channels), Dense.zeros(channels, 3 * channels), Dense.zeros(channels, channels)
        )

    def __call__(self, x: Float[Array, "h w c"], dtype: DTypeLike) -> Float[Array, "h w c"]:
        tokens = self.norm(x).astype(dtype).reshape(-1, x.shape[2])
        return ROOT_HALF * (x + self.last(attend(self.qkv(tokens), 1)).reshape(x.shape))


class _Block(eqx.Module):
    norm: GroupNorm
    first: Conv
    embedded: Dense
    norm_last: GroupNorm
    last: Conv
    skip: Conv | None
    attention: _Attention | None
    scaling: str = eqx.field(static=True)

    @staticmethod
    def zeros(inputs: int, outputs: int, width: int, attention: bool = False, scaling: str = "same") -> "_Block":
        changes = inputs != outputs or scaling != "same"
        return _Block(
            GroupNorm.zeros(inputs),
            Conv.zeros(inputs, outputs),
            Dense.zeros(width, outputs),
            GroupNorm.zeros(outputs),
            Conv.zeros(outputs, outputs),
            Conv.zeros(inputs, outputs, 1) if changes else None,
            _Attention.zeros(outputs) if attention else None,
            scaling,
        )

    def __call__(
        self, x: Float[Array, "h w c"], e: Float[Array, " width"], dtype: DTypeLike
    ) -> Float[Array, "h2 w2 c2"]:
        scaled = _SCALED[self.scaling]
        h = self.first(scaled(jax.nn.silu(self.norm(x))).astype(dtype)) + self.embedded(e.astype(dtype))
        h = self.last(jax.nn.silu(self.norm_last(h)).astype(dtype))
        kept = x if self.skip is None else self.skip(scaled(x).astype(dtype))
        out = ROOT_HALF * (kept + h.astype(jnp.float32))
        return out if self.attention is None else self.attention(out, dtype)


class Encoder(eqx.Module):
    """The way down, called as `encoder(image, noise_label, cond)`: what every block gives, and the embedding e.

    **Arguments:** `inputs` channels of the image; `channels`, `multipliers`, `blocks` and the `attention` level of the
    module's text; `dtype` and `remat` as for `UNet`. Parameters are zero: `draw_parameters` fills them. Raises
    `ValueError` for channels that do not divide into groups.
    """

    embedding: NoiseEmbedding
    code: Dense
    first: Conv
    blocks: tuple[_Block, ...]
    dtype: DTypeLike = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        inputs: int,
        channels: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: int,
        dtype: DTypeLike,
        remat: bool,
    ) -> None:
        """Make the blocks, all zero."""
        width, built, size = 4 * channels, [], channels
        for level, multiplier in enumerate(multipliers):
            if level > 0:
                built.append(_Block.zeros(size, size, width, scaling="down"))
            for _ in range(blocks):
                built.append(_Block.zeros(size, multiplier * channels, width, level == attention))
                size = multiplier * channels
        self.embedding, self.code = NoiseEmbedding.zeros(channels, width), Dense.zeros(channels, channels)
        self.first, self.blocks = Conv.zeros(inputs, channels), tuple(built)
        self.dtype, self.remat = dtype, remat

    def apply(self, block: _Block, h: Float[Array, "h w c"], e: Float[Array, " width"]) -> Float[Array, "h2 w2 c2"]:
        """A block's result, recomputed in the backward pass if so told."""
        call = lambda block, h, e: block(h, e, self.dtype)  # noqa: E731
        return (jax.checkpoint(call) if self.remat else call)(block, h, e)

    def __call__(
        self, x: Float[Array, "h w c"], label: Float[Array, ""], cond: Float[Array, " d_emb"]
    ) -> tuple[list[Float[Array, "..."]], Float[Array, " width"]]:
        """Results of the first convolution and of every block, float32; e."""
        e = jax.nn.silu(self.embedding(label, self.code(cond.astype(jnp.float32))))
        kept = [self.first(x.astype(self.dtype)).astype(jnp.float32)]
        for block in self.blocks:
            kept.append(self.apply(block, kept[-1], e))
        return kept, e


class _Parts(eqx.Module):
    encoder: Encoder
    middle: tuple[_Block, ...]
    decoder: tuple[_Block, ...]
    norm: GroupNorm
    last: Conv


def _zeros(
    inputs: int,
    channels: int,
    multipliers: tuple[int, ...],
    blocks: int,
    attention: int,
    dtype: DTypeLike,
    remat: bool,
) -> _Parts:
    encoder = Encoder(inputs, channels, multipliers, blocks, attention, dtype, remat)
    kept = [channels, *(block.last.bias.shape[0] for block in encoder.blocks)]
    width, size, built = 4 * channels, kept[-1], []
    middle = (_Block.zeros(size, size, width, True), _Block.zeros(size, size, width))
    for level in reversed(range(len(multipliers))):
        if level < len(multipliers) - 1:
            built.append(_Block.zeros(size, size, width, scaling="up"))
        for k in range(blocks + 1):
            inside = level == attention and k == blocks
            built.append(_Block.zeros(size + kept.pop(), multipliers[level] * channels, width, inside))
            size = multipliers[level] * channels
    return _Parts(encoder, middle, tuple(built), GroupNorm.zeros(size), Conv.zeros(size, inputs))


def unet_law(path: str, shape: tuple[int, ...]) -> Law | float:
    """The law of first weights by name, for `draw_parameters`: Xavier's, and 0 for the last map of every block."""
    if path.endswith(".scale"):
        return 1.0
    if path.endswith((".bias", ".last.kernel", ".last.weight")):
        return 0.0
    if path.endswith(".kernel"):
        area = shape[0] * shape[1]
        return xavier(area * shape[2], area * shape[3])
    return xavier(shape[1], shape[0], math.sqrt(0.2) if ".qkv" in path else 1.0)


class UNet(eqx.Module):
    """The network above for one image of `shape` (h, w, c), called as `network(image, noise_label, cond)`.

    **Arguments:** `channels`: a multiple of 4 up to 32, then of 32; also the size of `cond`; `multipliers` >= 1, one
    per level, all but the first halving h and w; `blocks` >= 1 per level; `attention`: the level that has it; `key`;
    `dtype` of the convolutions, float32 or bfloat16; `remat`: recompute each block in the backward pass. The output
    has the input's shape and dtype. Raises `ValueError` for sizes and dtypes other than these.
    """

    encoder: Encoder
    middle: tuple[_Block, ...]
    decoder: tuple[_Block, ...]
    norm: GroupNorm
    last: Conv
    shape: tuple[int, int, int] = eqx.field(static=True)
    d_emb: int = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        channels: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: int,
        key: Key[Array, ""],
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
    ) -> None:
        """Draw the parameters."""
        require_levels(shape, multipliers)
        require_sizes(channels=channels, blocks=blocks)
        levels = len(multipliers)
        require(0 <= attention < levels, "attention", attention, f"a level, 0 to {levels - 1}")
        require_dtype(dtype)
        self.shape, self.d_emb, self.dtype = shape, channels, jnp.dtype(dtype)
        drawn = draw_parameters(
            key, _zeros, unet_law, shape[2], channels, multipliers, blocks, attention, self.dtype, remat
        )
        self.encoder, self.middle, self.decoder = drawn.encoder, drawn.middle, drawn.decoder
        self.norm, self.last = drawn.norm, drawn.last

    def __call__(
        self, x: Float[Array, "h w c"], label: Float[Array, ""], cond: Float[Array, " d_emb"]
    ) -> Float[Array, "h w c"]:
        """Output in the input's dtype. Raises `ValueError` for an image or a condition of another shape."""
        require_image(x, self.shape)
        require(cond.shape == (self.d_emb,), "cond", f"shape {cond.shape}", f"of the network's d_emb, ({self.d_emb},)")
        kept, e = self.encoder(x, label, cond)
        h = kept[-1]
        for block in self.middle:
            h = self.encoder.apply(block, h, e)
        for block in self.decoder:
            joined = h if block.scaling == "up" else jnp.concatenate([h, kept.pop()], -1)
            h = self.encoder.apply(block, joined, e)
        return self.last(jax.nn.silu(self.norm(h))).astype(x.dtype)
