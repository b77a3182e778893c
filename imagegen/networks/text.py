"""A text encoder like BERT (Devlin et al. 2019), trained with the network that reads what it writes.

    y  = norm(E[token] + P[position])
    for every layer
    y <- norm(y + W_o attention(W_qkv y + b_qkv) + b_o)
    y <- norm(y + W_2 gelu(W_1 y + b_1) + b_2)                    4 x wide, the exact GELU

norm is a layer norm with its own scale and shift, after the sum. The result is one vector of `d_emb` numbers for each
of m tokens. All tokens are attended to, padding too; there is no dropout, no second segment and no pooling. Layers are
stacked and scanned. Parameters are float32; `dtype` is that of the products in the layers, the sum y stays in float32.

Slight Corruption trains a BERT-base so on CC3M; latent diffusion has a transformer of its own (norms before).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Int, Key

from imagegen._names import require_one_of
from imagegen.networks._checks import require_dtype, require_sizes
from imagegen.networks.layers import Dense, Law, attend, draw_parameters, normal, normalise
from theory._checks import require

__all__ = ["ENCODERS", "LayerNorm", "TextEncoder", "make_encoder"]

EPSILON = 1e-12
"""Added to the variance by every norm, as in the reference."""
STD = 0.02
"""Standard deviation of first weights, as in the reference."""
SHALLOW = 6
"""Up to this depth the scan is unrolled, as the DiT's is."""
ENCODERS = {"text-small": (128, 2, 4), "text-base": (768, 12, 12)}
"""Width, layers and heads by name; text-base is BERT-base."""


class LayerNorm(eqx.Module):
    """The norm of a vector's numbers, scaled and shifted; float32."""

    scale: Float[Array, "*stack width"]
    bias: Float[Array, "*stack width"]

    @staticmethod
    def zeros(width: int) -> "LayerNorm":
        """The norm of that size, to be filled by `draw_parameters`."""
        return LayerNorm(jnp.zeros(width, jnp.float32), jnp.zeros(width, jnp.float32))

    def __call__(self, y: Float[Array, "m width"]) -> Float[Array, "m width"]:
        """The norms of m vectors."""
        return normalise(y, (-1,), EPSILON) * self.scale + self.bias


class _Layer(eqx.Module):
    qkv: Dense
    proj: Dense
    norm: LayerNorm
    fc1: Dense
    fc2: Dense
    norm_last: LayerNorm

    @staticmethod
    def zeros(width: int) -> "_Layer":
        return _Layer(
            Dense.zeros(width, 3 * width),
            Dense.zeros(width, width),
            LayerNorm.zeros(width),
            Dense.zeros(width, 4 * width),
            Dense.zeros(4 * width, width),
            LayerNorm.zeros(width),
        )

    def __call__(self, y: Float[Array, "m width"], heads: int, dtype: DTypeLike) -> Float[Array, "m width"]:
        y = self.norm(y + self.proj(attend(self.qkv(y.astype(dtype)), heads)))
        return self.norm_last(y + self.fc2(jax.nn.gelu(self.fc1(y.astype(dtype)), approximate=False)))


class _Parameters(eqx.Module):
    words: Float[Array, "vocabulary width"]
    places: Float[Array, "length width"]
    norm: LayerNorm
    layers: _Layer


def _zeros(vocabulary: int, length: int, width: int, depth: int) -> _Parameters:
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (depth, *a.shape)), _Layer.zeros(width))
    words, places = (jnp.zeros((rows, width), jnp.float32) for rows in (vocabulary, length))
    return _Parameters(words, places, LayerNorm.zeros(width), stacked)


def _law(path: str, shape: tuple[int, ...]) -> Law | float:
    if path.endswith("scale"):
        return 1.0
    return 0.0 if path.endswith("bias") else normal(STD)


class TextEncoder(eqx.Module):
    """The encoder above for one text, called as `encoder(tokens)` -> (m, d_emb), with m up to `length`.

    **Arguments:** `vocabulary`, `length`, `depth` >= 1: of tokens, of places and of layers; `width`, a multiple of
    `heads`, is `d_emb`; `key`; `dtype` of products, float32 or bfloat16; `remat`: recompute each layer in the backward
    pass. Raises `ValueError` for sizes and dtypes other than these.
    """

    words: Float[Array, "vocabulary width"]
    places: Float[Array, "length width"]
    norm: LayerNorm
    layers: _Layer
    heads: int = eqx.field(static=True)
    d_emb: int = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        vocabulary: int,
        length: int,
        *,
        width: int,
        depth: int,
        heads: int,
        key: Key[Array, ""],
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
    ) -> None:
        """Draw the parameters."""
        require_sizes(vocabulary=vocabulary, length=length, depth=depth, heads=heads)
        require(width >= heads and width % heads == 0, "width", width, f"a multiple of the {heads} heads")
        require_dtype(dtype)
        drawn = draw_parameters(key, _zeros, _law, vocabulary, length, width, depth)
        self.words, self.places, self.norm, self.layers = drawn.words, drawn.places, drawn.norm, drawn.layers
        self.heads, self.d_emb, self.dtype, self.remat = heads, width, jnp.dtype(dtype), remat

    def __call__(self, tokens: Int[Array, " m"]) -> Float[Array, "m d_emb"]:
        """Float32 embeddings of the tokens of one text. Raises `ValueError` for more tokens than places."""
        length = self.places.shape[0]
        require(len(tokens) <= length, "tokens", f"{len(tokens)} of them", f"at most {length}, the encoder's places")
        y = self.norm(self.words[tokens] + self.places[: len(tokens)])

        def apply(y: Float[Array, "m width"], layer: _Layer) -> tuple[Float[Array, "m width"], None]:
            return layer(y, self.heads, self.dtype), None

        depth = self.layers.qkv.bias.shape[0]
        unroll = depth if depth <= SHALLOW else 1
        y, _ = jax.lax.scan(jax.checkpoint(apply) if self.remat else apply, y, self.layers, unroll=unroll)
        return y


def make_encoder(
    name: str,
    vocabulary: int,
    length: int,
    *,
    key: Key[Array, ""],
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> TextEncoder:
    """The encoder of that name with first weights. Raises `ValueError` for an unknown name, and as `TextEncoder`."""
    require_one_of("text_encoder", name, ENCODERS)
    width, depth, heads = ENCODERS[name]
    return TextEncoder(vocabulary, length, width=width, depth=depth, heads=heads, key=key, dtype=dtype, remat=remat)
