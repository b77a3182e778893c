"""A small residual network for vectors: the learned denoiser of the experiments.

    features  φ = (sin 2π f_k l, cos 2π f_k l)  of the noise label l, f_k geometric from 1/8 to 4
    e         = silu(W_e (φ, c) + b_e),         c the condition embedding; the null condition is c = 0
    h_0       = W_in x + b_in
    h_{j+1}   = h_j + W_2 silu(W_1 (h_j, e) + b_1) + b_2,     j < depth
    output    = W_out h_depth + b_out,          zero at initialisation

Labels are the time, in [0, 1], or log(σ)/4, in about [-2.5, 2.5] (`sim.parameterisations`). W_e has a bias, so c = 0
is as good as a learned null embedding. Class codes are looked up, and perturbed, by the caller.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key, ScalarLike

from theory._checks import require

__all__ = ["ResidualMLP"]

FREQUENCIES = tuple(2.0**k for k in range(-3, 3))


class _Block(eqx.Module):
    first: eqx.nn.Linear
    second: eqx.nn.Linear

    def __init__(self, width: int, dtype: DTypeLike, key: Key[Array, ""]) -> None:
        key_first, key_second = jax.random.split(key)
        self.first = eqx.nn.Linear(2 * width, width, dtype=dtype, key=key_first)
        self.second = eqx.nn.Linear(width, width, dtype=dtype, key=key_second)

    def __call__(self, h: Float[Array, " width"], e: Float[Array, " width"]) -> Float[Array, " width"]:
        return h + self.second(jax.nn.silu(self.first(jnp.concatenate([h, e]))))


@eqx.filter_jit
def _layers(
    key: Key[Array, ""], d: int, width: int, depth: int, size: int, dtype: DTypeLike
) -> tuple[eqx.nn.Linear, eqx.nn.Linear, _Block, eqx.nn.Linear]:
    """Encoder, embedder, blocks (stacked) and decoder: matrices uniform within ±1/√(inputs), biases and decoder 0.

    All from one draw: a draw per layer takes longer to compile than a training of the experiments.
    """

    def make() -> tuple[eqx.nn.Linear, eqx.nn.Linear, _Block, eqx.nn.Linear]:
        blocks = eqx.filter_vmap(lambda k: _Block(width, dtype, k))(jax.random.split(key, depth))
        sizes = ((d, width), (size, width), (width, d))
        encoder, embedder, decoder = (eqx.nn.Linear(*shape, dtype=dtype, key=key) for shape in sizes)
        return encoder, embedder, blocks, decoder

    named, structure = jax.tree_util.tree_flatten_with_path(eqx.filter_eval_shape(make))
    leaves = [leaf for _, leaf in named]
    ends = np.cumsum([leaf.size for leaf in leaves])
    flat = jnp.split(jax.random.uniform(key, (ends[-1].item(),), dtype, -1.0, 1.0), ends[:-1])
    filled = [
        part.reshape(leaf.shape) / math.sqrt(leaf.shape[-1]) if path[-1].name == "weight" else jnp.zeros_like(leaf)
        for part, (path, leaf) in zip(flat, named, strict=True)
    ]
    encoder, embedder, blocks, decoder = jax.tree.unflatten(structure, filled)
    return encoder, embedder, blocks, jax.tree.map(jnp.zeros_like, decoder)


class ResidualMLP(eqx.Module):
    """The network above, for one sample of `d` numbers (of any shape), called as `network(input, noise_label, cond)`.

    **Arguments:** `d` >= 1; `width` >= 1 of all hidden layers; `depth` >= 0 residual blocks; `d_emb` >= 0, size of the
    condition embedding (0: unconditional); `key`; `dtype` of the parameters and of the arithmetic (the output has the
    input's). Raises `ValueError` for sizes outside these ranges.
    """

    encoder: eqx.nn.Linear
    embedder: eqx.nn.Linear
    blocks: _Block
    decoder: eqx.nn.Linear
    depth: int = eqx.field(static=True)
    d_emb: int = eqx.field(static=True)

    def __init__(
        self, d: int, width: int, depth: int, d_emb: int = 0, *, key: Key[Array, ""], dtype: DTypeLike = jnp.float32
    ) -> None:
        """Draw the parameters."""
        for name, value, least in (("d", d, 1), ("width", width, 1), ("depth", depth, 0), ("d_emb", d_emb, 0)):
            require(value >= least, name, value, f"at least {least}")
        size = 2 * len(FREQUENCIES) + d_emb
        self.encoder, self.embedder, self.blocks, self.decoder = _layers(key, d, width, depth, size, dtype)
        self.depth, self.d_emb = depth, d_emb

    def __call__(
        self, x: Float[Array, "..."], label: ScalarLike, cond: Float[Array, " d_emb"] | None = None
    ) -> Float[Array, "..."]:
        """Output of the input's shape and dtype; `cond` None is the null condition."""
        dtype = self.encoder.weight.dtype
        e = self._embed(jnp.asarray(label, dtype), cond)
        blocks, static = eqx.partition(self.blocks, eqx.is_array)

        def apply(h: Array, block: _Block) -> tuple[Array, None]:
            return eqx.combine(block, static)(h, e), None

        h = self.encoder(x.reshape(-1).astype(dtype))
        h, _ = jax.lax.scan(apply, h, blocks, length=self.depth, unroll=max(1, self.depth))
        return self.decoder(h).reshape(x.shape).astype(x.dtype)

    def _embed(self, label: Float[Array, ""], cond: Float[Array, " d_emb"] | None) -> Float[Array, " width"]:
        shape = (self.d_emb,) if cond is None else cond.shape
        require(shape == (self.d_emb,), "cond", f"shape {shape}", f"of shape ({self.d_emb},), as the network's d_emb")
        code = jnp.zeros(shape, label.dtype) if cond is None else cond.astype(label.dtype)
        angle = 2 * jnp.pi * label * jnp.asarray(FREQUENCIES, label.dtype)
        return jax.nn.silu(self.embedder(jnp.concatenate([jnp.sin(angle), jnp.cos(angle), code])))
