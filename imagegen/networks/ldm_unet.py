"""The U-Net of latent diffusion: it attends to its condition (Rombach et al. 2022, CompVis/latent-diffusion; "LDM-4").

    e           = silu(W_2 silu(W_1 φ(1000 l) + b_1) + b_2)                                      l the noise label
    block:        h' = conv_3x3(silu(norm(h))) + W_e e + b_e;   h <- skip(h) + conv_3x3(silu(norm(h')))
    transformer:  z = W_i norm(h) + b_i, a token per pixel, then
                  z <- z + W_s attention(norm(z)) + b_s                                          among pixels
                  z <- z + W_c attention(norm(z), condition's tokens) + b_c                      from each pixel to them
                  z <- z + W_v (u * gelu(v)) + b_v,  (u, v) = W_u norm(z) + b_u                  4 x wide
                  h <- h + W_o z + b_o

norm is a group norm, of 32 groups, on images and a layer norm on tokens, with its own scale and shift; skip is the
identity, or a 1x1 convolution where channels change. Attention has one head; queries, keys and values have no bias. The
encoder halves the sides from level to level by a 3x3 convolution of stride 2 and keeps every result; the decoder
joins, before each block, what was kept of that size, and doubles the sides (nearest pixel, then a 3x3 convolution). A
level l has `multipliers[l]` x `channels` channels, `blocks` blocks on the way down and one more on the way up, each
with a transformer at the `attention` levels, as between the two blocks in the middle.

The condition is a sequence of tokens, or one vector: a sequence of one token, a class's embedding say, to which
attention gives all its weight. All tokens are attended to, padding too, as in the reference.

First weights are uniform within ±1/√inputs (as in the reference, where biases are too; here they start at 0); the last
map of every block and transformer, and of the network, starts at 0. Parameters are float32; `dtype` is that of products
within blocks and transformers; the sums h and z, norms and the embedding stay in float32.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from imagegen.networks._checks import require_dtype, require_image, require_levels, require_sizes
from imagegen.networks.layers import Conv, Dense, Law, NoiseEmbedding, attend, draw_parameters, normalise
from theory._checks import require

__all__ = ["LDMUNet"]

GROUPS = 32
IN_BLOCKS, IN_TRANSFORMERS = 1e-5, 1e-6
"""Added to the variance by group norms; layer norms add `IN_BLOCKS`."""


class _Norm(eqx.Module):
    """Norm over pixels and each of `groups` groups of channels, or, where there are none, over the channels."""

    scale: Float[Array, " channels"]
    bias: Float[Array, " channels"]
    groups: int = eqx.field(static=True)
    epsilon: float = eqx.field(static=True)

    @staticmethod
    def zeros(channels: int, epsilon: float, groups: int = GROUPS) -> "_Norm":
        return _Norm(jnp.zeros(channels, jnp.float32), jnp.zeros(channels, jnp.float32), groups, epsilon)

    def __call__(self, x: Float[Array, "*places channels"]) -> Float[Array, "*places channels"]:
        if self.groups == 0:
            normed = normalise(x, (-1,), self.epsilon)
        else:
            grouped = x.reshape(-1, self.groups, x.shape[-1] // self.groups)
            normed = normalise(grouped, (0, 2), self.epsilon).reshape(x.shape)
        return normed * self.scale + self.bias


class _Linear(eqx.Module):
    """x -> W x on the last axis, in the input's dtype."""

    weight: Float[Array, "out in"]

    @staticmethod
    def zeros(inputs: int, outputs: int) -> "_Linear":
        return _Linear(jnp.zeros((outputs, inputs), jnp.float32))

    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... out"]:
        return x @ self.weight.astype(x.dtype).T


class _Block(eqx.Module):
    norm: _Norm
    first: Conv
    embedded: Dense
    norm_last: _Norm
    last: Conv
    skip: Conv | None

    @staticmethod
    def zeros(inputs: int, outputs: int, width: int) -> "_Block":
        return _Block(
            _Norm.zeros(inputs, IN_BLOCKS),
            Conv.zeros(inputs, outputs),
            Dense.zeros(width, outputs),
            _Norm.zeros(outputs, IN_BLOCKS),
            Conv.zeros(outputs, outputs),
            Conv.zeros(inputs, outputs, 1) if inputs != outputs else None,
        )

    def __call__(self, x: Float[Array, "h w c"], e: Float[Array, " width"], dtype: DTypeLike) -> Float[Array, "h w c2"]:
        h = self.first(jax.nn.silu(self.norm(x)).astype(dtype)) + self.embedded(e.astype(dtype))
        h = self.last(jax.nn.silu(self.norm_last(h)).astype(dtype))
        kept = x if self.skip is None else self.skip(x.astype(dtype)).astype(jnp.float32)
        return kept + h.astype(jnp.float32)


class _Transformer(eqx.Module):
    norm: _Norm
    first: Dense
    norm_self: _Norm
    qkv: _Linear
    proj: Dense
    norm_cross: _Norm
    query: _Linear
    key_value: _Linear
    proj_cross: Dense
    norm_mlp: _Norm
    fc1: Dense
    fc2: Dense
    last: Dense

    @staticmethod
    def zeros(width: int, d_emb: int) -> "_Transformer":
        norms = [_Norm.zeros(width, IN_BLOCKS, groups=0) for _ in range(3)]
        return _Transformer(
            _Norm.zeros(width, IN_TRANSFORMERS),
            Dense.zeros(width, width),
            norms[0],
            _Linear.zeros(width, 3 * width),
            Dense.zeros(width, width),
            norms[1],
            _Linear.zeros(width, width),
            _Linear.zeros(d_emb, 2 * width),
            Dense.zeros(width, width),
            norms[2],
            Dense.zeros(width, 8 * width),
            Dense.zeros(4 * width, width),
            Dense.zeros(width, width),
        )

    def __call__(
        self, x: Float[Array, "h w c"], tokens: Float[Array, "m d_emb"], dtype: DTypeLike
    ) -> Float[Array, "h w c"]:
        z = self.first(self.norm(x).astype(dtype).reshape(-1, x.shape[2])).astype(jnp.float32)
        z = z + self.proj(attend(self.qkv(self.norm_self(z).astype(dtype)), 1))
        query, (key, value) = self.query(self.norm_cross(z).astype(dtype)), jnp.split(self.key_value(tokens), 2, -1)
        seen = jax.nn.dot_product_attention(query[:, None], key[:, None], value[:, None], implementation="xla")[:, 0]
        z = z + self.proj_cross(seen)
        u, v = jnp.split(self.fc1(self.norm_mlp(z).astype(dtype)), 2, -1)
        z = z + self.fc2(u * jax.nn.gelu(v, approximate=False))
        return x + self.last(z.astype(dtype)).reshape(x.shape)


class _Stage(eqx.Module):
    """A block, with a transformer and a doubling of the sides where there are."""

    block: _Block
    transformer: _Transformer | None = None
    up: Conv | None = None

    def __call__(
        self, h: Float[Array, "h w c"], e: Float[Array, " width"], tokens: Float[Array, "m d_emb"], dtype: DTypeLike
    ) -> Float[Array, "h2 w2 c2"]:
        h = self.block(h, e, dtype)
        if self.transformer is not None:
            h = self.transformer(h, tokens, dtype)
        if self.up is not None:
            h = self.up(jnp.repeat(jnp.repeat(h.astype(dtype), 2, 0), 2, 1)).astype(jnp.float32)
        return h


class _Down(eqx.Module):
    """Halves the sides."""

    conv: Conv

    def __call__(
        self, h: Float[Array, "h w c"], e: Float[Array, " width"], tokens: Float[Array, "m d_emb"], dtype: DTypeLike
    ) -> Float[Array, "h2 w2 c"]:
        return self.conv(h.astype(dtype), 2).astype(jnp.float32)


class _Parts(eqx.Module):
    embedding: NoiseEmbedding
    first: Conv
    encoder: tuple[_Stage | _Down, ...]
    middle: tuple[_Stage, ...]
    decoder: tuple[_Stage, ...]
    norm: _Norm
    last: Conv


def _zeros(
    inputs: int, channels: int, multipliers: tuple[int, ...], blocks: int, attention: tuple[int, ...], d_emb: int
) -> _Parts:
    width, size, kept = 4 * channels, channels, [channels]
    encoder: list[_Stage | _Down] = []
    decoder: list[_Stage] = []

    def stage(inputs: int, outputs: int, attends: bool, doubles: bool = False) -> _Stage:
        transformer = _Transformer.zeros(outputs, d_emb) if attends else None
        return _Stage(
            _Block.zeros(inputs, outputs, width), transformer, Conv.zeros(outputs, outputs) if doubles else None
        )

    for level, multiplier in enumerate(multipliers):
        if level > 0:
            encoder.append(_Down(Conv.zeros(size, size)))
            kept.append(size)
        for _ in range(blocks):
            encoder.append(stage(size, multiplier * channels, level in attention))
            size = multiplier * channels
            kept.append(size)
    middle = (stage(size, size, True), stage(size, size, False))
    for level, multiplier in reversed(list(enumerate(multipliers))):
        for k in range(blocks + 1):
            doubles = level > 0 and k == blocks
            decoder.append(stage(size + kept.pop(), multiplier * channels, level in attention, doubles))
            size = multiplier * channels
    ends = NoiseEmbedding.zeros(channels, width), Conv.zeros(inputs, channels)
    return _Parts(*ends, tuple(encoder), middle, tuple(decoder), _Norm.zeros(size, IN_BLOCKS), Conv.zeros(size, inputs))


def _law(path: str, shape: tuple[int, ...]) -> Law | float:
    """See the module's top."""
    if path.endswith(".scale"):
        return 1.0
    if path.endswith((".bias", ".last.kernel", ".last.weight")):
        return 0.0
    bound = 1 / math.sqrt(shape[1] if path.endswith(".weight") else math.prod(shape[:-1]))
    return lambda u: bound * u


class LDMUNet(eqx.Module):
    """The network above for one image of `shape` (h, w, c), called as `network(image, noise_label, cond)`.

    **Arguments:** `channels`: a multiple of 32, at least 64; `multipliers` >= 1, one per level, all but the first
    halving h and w; `blocks` >= 1 per level; `attention`: the levels that have it, beside the middle; `d_emb` >= 1,
    size of the condition's tokens; `key`; `dtype` of the products, float32 or bfloat16; `remat`: recompute each block
    with its transformer in the backward pass. The output has the input's shape and dtype. Raises `ValueError` for sizes
    and dtypes other than these.
    """

    embedding: NoiseEmbedding
    first: Conv
    encoder: tuple[_Stage | _Down, ...]
    middle: tuple[_Stage, ...]
    decoder: tuple[_Stage, ...]
    norm: _Norm
    last: Conv
    shape: tuple[int, int, int] = eqx.field(static=True)
    d_emb: int = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        channels: int,
        multipliers: tuple[int, ...],
        blocks: int,
        attention: tuple[int, ...],
        d_emb: int,
        key: Key[Array, ""],
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
    ) -> None:
        """Draw the parameters."""
        require_levels(shape, multipliers)
        require_sizes(blocks=blocks, d_emb=d_emb)
        # the norm of a single channel would remove W_e e + b_e
        fits = channels >= 2 * GROUPS and channels % GROUPS == 0
        require(fits, "channels", channels, f"a multiple of {GROUPS}, at least {2 * GROUPS}")
        levels = len(multipliers)
        inside = all(0 <= level < levels for level in attention)
        require(inside, "attention", attention, f"levels, 0 to {levels - 1}")
        require_dtype(dtype)
        self.shape, self.d_emb, self.dtype, self.remat = shape, d_emb, jnp.dtype(dtype), remat
        drawn = draw_parameters(key, _zeros, _law, shape[2], channels, multipliers, blocks, attention, d_emb)
        self.embedding, self.first, self.encoder = drawn.embedding, drawn.first, drawn.encoder
        self.middle, self.decoder = drawn.middle, drawn.decoder
        self.norm, self.last = drawn.norm, drawn.last

    def __call__(
        self, x: Float[Array, "h w c"], label: Float[Array, ""], cond: Float[Array, "*m d_emb"]
    ) -> Float[Array, "h w c"]:
        """Output in the input's dtype; `cond` has shape (d_emb,) or (m, d_emb). Raises `ValueError` for an image or a
        condition of another shape.
        """
        require_image(x, self.shape)
        fits = cond.ndim in (1, 2) and cond.shape[-1] == self.d_emb
        allowed = f"of the network's d_emb, ({self.d_emb},), or a sequence of such"
        require(fits, "cond", f"shape {cond.shape}", allowed)
        e, tokens = jax.nn.silu(self.embedding(label)), cond.reshape(-1, self.d_emb).astype(self.dtype)
        h = self.first(x.astype(self.dtype)).astype(jnp.float32)
        kept = [h]
        for stage in self.encoder:
            h = self._apply(stage, h, e, tokens)
            kept.append(h)
        for stage in self.middle:
            h = self._apply(stage, h, e, tokens)
        for stage in self.decoder:
            h = self._apply(stage, jnp.concatenate([h, kept.pop()], -1), e, tokens)
        return self.last(jax.nn.silu(self.norm(h))).astype(x.dtype)

    def _apply(
        self,
        stage: _Stage | _Down,
        h: Float[Array, "h w c"],
        e: Float[Array, " width"],
        tokens: Float[Array, "m d_emb"],
    ) -> Float[Array, "h2 w2 c2"]:
        call = lambda stage, *values: stage(*values, self.dtype)  # noqa: E731
        return (jax.checkpoint(call) if self.remat else call)(stage, h, e, tokens)
