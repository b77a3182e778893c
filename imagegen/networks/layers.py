"""Parts that the image networks share: linear maps, convolutions, norms, attention, the noise label, first weights.

Parameters are float32. An input in bfloat16 is multiplied in bfloat16: weights are cast to its dtype where they are
used. Statistics of norms are computed in float32 whatever the input.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

__all__ = [
    "Conv",
    "Dense",
    "NoiseEmbedding",
    "attend",
    "cross_attend",
    "draw_parameters",
    "noise_features",
    "normal",
    "normalise",
    "xavier",
]

EPSILON = 1e-6
"""Added to the variance by norms, as in the references of DiT and of EDM's U-Net."""

Tree = TypeVar("Tree")
Law = Callable[[Float[Array, " size"]], Float[Array, " size"]]
"""Turns uniform numbers on (-1, 1) into first weights."""


class Dense(eqx.Module):
    """x -> W x + b on the last axis, computed in the input's dtype; leading axes of W and b stack layers for a scan."""

    weight: Float[Array, "*stack out in"]
    bias: Float[Array, "*stack out"]

    @staticmethod
    def zeros(inputs: int, outputs: int) -> "Dense":
        """The map of that size with zero weights, to be filled by `draw_parameters`."""
        return Dense(jnp.zeros((outputs, inputs), jnp.float32), jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Float[Array, "... in"]) -> Float[Array, "... out"]:
        """W x + b."""
        return x @ self.weight.astype(x.dtype).T + self.bias.astype(x.dtype)


class Conv(eqx.Module):
    """A square convolution of odd side, in the input's dtype: every `stride`-th place of the padded image, from the
    first on.
    """

    kernel: Float[Array, "side side in out"]
    bias: Float[Array, " out"]

    @staticmethod
    def zeros(inputs: int, outputs: int, side: int = 3) -> "Conv":
        """The convolution of that size with zero weights, to be filled by `draw_parameters`."""
        return Conv(jnp.zeros((side, side, inputs, outputs), jnp.float32), jnp.zeros(outputs, jnp.float32))

    def __call__(self, x: Float[Array, "h w in"], stride: int = 1) -> Float[Array, "h2 w2 out"]:
        """The image of `stride`-th the sides, which divides them."""
        kernel, order, edge = self.kernel.astype(x.dtype), ("NHWC", "HWIO", "NHWC"), self.kernel.shape[0] // 2
        padding = [(edge, edge), (edge, edge)]
        y = jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), padding, dimension_numbers=order)
        return y[0] + self.bias.astype(x.dtype)


def normalise(x: Float[Array, "*shape"], axes: tuple[int, ...], epsilon: float = EPSILON) -> Float[Array, "*shape"]:
    """`x` less its mean over its root mean square deviation along `axes`, `epsilon` added to the variance; float32
    whatever the input.
    """
    x = x.astype(jnp.float32)
    centred = x - jnp.mean(x, axes, keepdims=True)
    return centred * jax.lax.rsqrt(jnp.mean(centred**2, axes, keepdims=True) + epsilon)


def noise_features(label: Float[Array, ""], size: int) -> Float[Array, " size"]:
    """cos and sin of 1000 `label` ω_k with ω_k = 10000^(-2k/size), k < size/2: the timestep embedding of DiT (float32).

    Periods run from 0.006 to about 60 in the label: those near 1 tell times or values of log(σ)/4 apart smoothly.
    """
    frequencies = np.exp(-math.log(10000.0) * np.arange(size // 2) / (size // 2))
    angle = 1000 * label.astype(jnp.float32) * jnp.asarray(frequencies, jnp.float32)
    return jnp.concatenate([jnp.cos(angle), jnp.sin(angle)])


class NoiseEmbedding(eqx.Module):
    """Two linear maps with SiLU between them, on `noise_features`; float32. `code` is added to the features."""

    first: Dense
    second: Dense

    @staticmethod
    def zeros(features: int, width: int) -> "NoiseEmbedding":
        """The embedding of that size with zero weights, to be filled by `draw_parameters`."""
        return NoiseEmbedding(Dense.zeros(features, width), Dense.zeros(width, width))

    def __call__(
        self, label: Float[Array, ""], code: Float[Array, " features"] | float = 0.0
    ) -> Float[Array, " width"]:
        """The embedding of one label."""
        features = noise_features(label, self.first.weight.shape[-1]) + code
        return self.second(jax.nn.silu(self.first(features)))


def attend(qkv: Float[Array, "n width3"], heads: int) -> Float[Array, "n width"]:
    """Softmax attention among n tokens, from queries, keys and values side by side, each `heads` x size.

    On a GPU in bfloat16, fused (cuDNN) where the sequence is a multiple of 128 and the size of a head fits; else XLA.
    """
    n, size = qkv.shape[0], qkv.shape[1] // (3 * heads)
    query, key, value = jnp.moveaxis(qkv.reshape(n, 3, heads, size), 1, 0)
    fused = qkv.dtype == jnp.bfloat16 and n % 128 == 0 and size % 8 == 0 and size <= 128
    implementation: Literal["cudnn", "xla"] = "cudnn" if fused and jax.default_backend() == "gpu" else "xla"
    return jax.nn.dot_product_attention(query, key, value, implementation=implementation).reshape(n, heads * size)


def cross_attend(
    query: Float[Array, "n width"], key_value: Float[Array, "m width2"], heads: int
) -> Float[Array, "n width"]:
    """Softmax attention of n tokens to m others, from the queries of the former, `heads` x size, and the keys and
    values of the latter, side by side.

    By XLA: captions of 77 tokens do not fit cuDNN's kernels, and n x m scores are few beside n x n.
    """
    n, size = query.shape[0], query.shape[1] // heads
    key, value = jnp.moveaxis(key_value.reshape(-1, 2, heads, size), 1, 0)
    seen = jax.nn.dot_product_attention(query.reshape(n, heads, size), key, value, implementation="xla")
    return seen.reshape(n, heads * size)


def xavier(inputs: int, outputs: int, gain: float = 1.0) -> Law:
    """Uniform of variance 2 gain²/(inputs + outputs) (Glorot & Bengio 2010, eq. 16)."""
    bound = gain * math.sqrt(6 / (inputs + outputs))
    return lambda u: bound * u


def normal(std: float) -> Law:
    """Normal with mean 0 and standard deviation `std`."""
    return lambda u: std * math.sqrt(2) * jax.lax.erf_inv(u)


@eqx.filter_jit
def draw_parameters(
    key: Key[Array, ""], make: Callable[..., Tree], law: Callable[[str, tuple[int, ...]], Law | float], *sizes: Any
) -> Tree:
    """`make(*sizes)` with its arrays filled: `law(path, shape)` gives each array's law, or the constant it is filled
    with; `path` is like ".blocks.qkv.weight".

    All from one draw, whatever the depth: a draw per layer takes long to compile. `make` and `law` are functions of a
    module, so that equal networks compile once.
    """
    named, structure = jax.tree_util.tree_flatten_with_path(eqx.filter_eval_shape(make, *sizes))
    laws = [law(jax.tree_util.keystr(path), leaf.shape) for path, leaf in named]
    total = sum(leaf.size for (_, leaf), one in zip(named, laws, strict=True) if callable(one))
    least = np.nextafter(np.float32(-1), np.float32(0))
    uniform, start, filled = jax.random.uniform(key, (total,), jnp.float32, least, 1.0), 0, []
    for (_, leaf), one in zip(named, laws, strict=True):
        if callable(one):
            filled.append(one(uniform[start : start + leaf.size]).reshape(leaf.shape))
            start += leaf.size
        else:
            filled.append(jnp.full(leaf.shape, one, jnp.float32))
    return jax.tree.unflatten(structure, filled)
