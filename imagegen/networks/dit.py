"""DiT: a transformer on patches of an image, steered by adaptive layer norms (Peebles & Xie 2023, "adaLN-Zero").

    c    = W_2 silu(W_1 φ(1000 l) + b_1) + b_2 + cond                          l the noise label
    h    = W_x patches(x) + b_x + fixed 2-D sine-cosine positions
    then, for every block, with six vectors (s, g, α; s', g', α') = W_m silu(c) + b_m,
    h   <- h + α  * attention((1 + g) * norm(h) + s)
    h   <- h + α' * mlp((1 + g') * norm(h) + s')                               mlp: 4 x wide, GELU (tanh)
    out  = unpatches(W_o ((1 + g'') * norm(h) + s'') + b_o)                    (s'', g'') = W_f silu(c) + b_f

W_m, W_f, W_o and their biases start at 0: every block is the identity and the output 0. The class table, its null row
and whatever corrupts the condition live outside: `cond` is a vector. Blocks are stacked and scanned, so that compiling
takes as long for 28 as for 2.

Parameters are float32. `dtype` is that of the products within the blocks; the sum h, norms, the embedding and the last
layer stay in float32 (as the reference's under autocast): a bfloat16 sum would lose the small steps of early training.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float, Key, PyTree

from imagegen.networks._checks import require_dtype, require_image, require_sizes
from imagegen.networks.layers import Dense, Law, NoiseEmbedding, attend, draw_parameters, normal, normalise, xavier
from theory._checks import require

__all__ = ["Block", "DiT", "modulated", "patchify", "positions", "unpatchify"]

FEATURES = 256
"""Size of the noise label's features."""

SHALLOW = 6
"""Up to this depth the scan is unrolled: on a CPU a training step of "dit-digits" then takes half as long."""


def patchify(x: Float[Array, "h w c"], patch: int) -> Float[Array, "n size"]:
    """Squares of `patch` x `patch` pixels, row by row, each flattened as (row, column, channel)."""
    h, w, c = x.shape
    cells = x.reshape(h // patch, patch, w // patch, patch, c).swapaxes(1, 2)
    return cells.reshape(-1, patch * patch * c)


def unpatchify(tokens: Float[Array, "n size"], grid: tuple[int, int], patch: int) -> Float[Array, "h w c"]:
    """The image of `grid` rows and columns of patches: the inverse of `patchify`."""
    rows, columns = grid
    cells = tokens.reshape(rows, columns, patch, patch, -1).swapaxes(1, 2)
    return cells.reshape(rows * patch, columns * patch, -1)


def positions(rows: int, columns: int, width: int) -> Float[np.ndarray, "n width"]:
    """Sine and cosine of the column (first half), then of the row, at width/4 frequencies 10000^(-4k/width); float32.

    `width` is a multiple of 4; the order is the reference's (which, after MAE, has the column first).
    """
    row, column = np.divmod(np.arange(rows * columns), columns)
    frequencies = 1 / 10000 ** (np.arange(width // 4) / (width / 4))
    angles = [np.outer(place, frequencies) for place in (column, row)]
    return np.concatenate([f(angle) for angle in angles for f in (np.sin, np.cos)], axis=1).astype(np.float32)


def modulated(
    h: Float[Array, "n width"], shift: Float[Array, " width"], scale: Float[Array, " width"]
) -> Float[Array, "n width"]:
    """The layer norm of each token, scaled by 1 + `scale` and shifted; float32."""
    return normalise(h, (-1,)) * (1 + scale) + shift


class Block(eqx.Module):
    """One block, as at the module's top."""

    modulation: Dense
    qkv: Dense
    proj: Dense
    fc1: Dense
    fc2: Dense

    @staticmethod
    def zeros(width: int) -> "Block":
        """The block of that size with zero weights, to be filled by `draw_parameters`."""
        sizes = ((width, 6 * width), (width, 3 * width), (width, width), (width, 4 * width), (4 * width, width))
        return Block(*(Dense.zeros(*size) for size in sizes))

    def __call__(
        self,
        h: Float[Array, "n width"],
        c: Float[Array, " width"],
        heads: int,
        dtype: DTypeLike,
        between: Callable[[Float[Array, "n width"]], Float[Array, "n width"]] = lambda h: h,
    ) -> Float[Array, "n width"]:
        """One block on the float32 sum `h`, its products in `dtype`; `c` is silu of the condition. What comes `between`
        attention and MLP changes the sum too.
        """
        six = self.modulation(c.astype(dtype)).astype(jnp.float32)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = jnp.split(six, 6)
        seen = modulated(h, shift, scale).astype(dtype)
        h = between(h + gate * self.proj(attend(self.qkv(seen), heads)))
        seen = modulated(h, shift_mlp, scale_mlp).astype(dtype)
        return h + gate_mlp * self.fc2(jax.nn.gelu(self.fc1(seen)))


class _Parameters(eqx.Module):
    patches: Dense
    embedding: NoiseEmbedding
    blocks: Block
    modulation: Dense
    final: Dense


def _zeros(inputs: int, outputs: int, width: int, depth: int) -> _Parameters:
    blocks = jax.tree.map(lambda a: jnp.broadcast_to(a, (depth, *a.shape)), Block.zeros(width))
    return _Parameters(
        Dense.zeros(inputs, width),
        NoiseEmbedding.zeros(FEATURES, width),
        blocks,
        Dense.zeros(width, 2 * width),
        Dense.zeros(width, outputs),
    )


def _law(path: str, shape: tuple[int, ...]) -> Law | float:
    """Section 3.2 of the paper and the reference: Xavier; the embedding N(0, 0.02²); what is to start at zero, zero."""
    if path.endswith("bias") or "modulation" in path or "final" in path:
        return 0.0
    return normal(0.02) if "embedding" in path else xavier(shape[-1], shape[-2])


class DiT(eqx.Module):
    """The network above for one image of `shape` (h, w, c), called as `network(image, noise_label, cond)`.

    **Arguments:** `patch` divides h and w; `width` is a multiple of 4 and of `heads`, and the size of `cond`; `depth`
    >= 1 blocks; `key`; `out_channels`: of the output, c unless given (the reference's checkpoints have 2c); `dtype` of
    the products, float32 or bfloat16; `remat`: recompute each block in the backward pass instead of keeping what is in
    it. The output has the input's dtype. Raises `ValueError` for sizes and dtypes other than these.
    """

    patches: Dense
    embedding: NoiseEmbedding
    blocks: Block
    modulation: Dense
    final: Dense
    shape: tuple[int, int, int] = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    heads: int = eqx.field(static=True)
    d_emb: int = eqx.field(static=True)
    dtype: DTypeLike = eqx.field(static=True)
    remat: bool = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        key: Key[Array, ""],
        out_channels: int | None = None,
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
    ) -> None:
        """Draw the parameters."""
        h, w, channels = shape
        out_channels = channels if out_channels is None else out_channels
        require_sizes(shape=min(shape), patch=patch, depth=depth, out_channels=out_channels)
        divides = h % patch == w % patch == 0
        require(divides, "shape", f"{h} x {w} pixels", f"of sides that are multiples of the patch, {patch}")
        require(heads >= 1 and width >= 4 and width % heads == 0, "width", width, f"a multiple of the {heads} heads")
        require(width % 4 == 0, "width", width, "a multiple of 4, for the positions")
        require_dtype(dtype)
        area = patch * patch
        drawn = draw_parameters(key, _zeros, _law, area * channels, area * out_channels, width, depth)
        self.patches, self.embedding, self.blocks = drawn.patches, drawn.embedding, drawn.blocks
        self.modulation, self.final = drawn.modulation, drawn.final
        self.shape, self.patch, self.heads, self.d_emb = (h, w, channels), patch, heads, width
        self.dtype, self.remat = jnp.dtype(dtype), remat

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.shape[0] // self.patch, self.shape[1] // self.patch

    def __call__(
        self, x: Float[Array, "h w c"], label: Float[Array, ""], cond: Float[Array, " d_emb"]
    ) -> Float[Array, "h w out"]:
        """Output in the input's dtype. Raises `ValueError` for an image or a condition of another shape."""
        require_image(x, self.shape)
        require(cond.shape == (self.d_emb,), "cond", f"shape {cond.shape}", f"of the network's d_emb, ({self.d_emb},)")
        c = jax.nn.silu(self.embedding(label) + cond.astype(jnp.float32))
        return self.through(x, c, lambda h, block: block(h, c, self.heads, self.dtype), self.blocks)

    def through(
        self,
        x: Float[Array, "h w c"],
        c: Float[Array, " d_emb"],
        block: Callable[[Float[Array, "n d_emb"], Any], Float[Array, "n d_emb"]],
        blocks: PyTree,
    ) -> Float[Array, "h w out"]:
        """The image through `block(h, one)` for each `one` of the stacked `blocks`; `c` is silu of the condition."""
        h = self.patches(patchify(x.astype(jnp.float32), self.patch)) + positions(*self.grid, self.d_emb)

        def apply(h: Float[Array, "n width"], one: PyTree) -> tuple[Float[Array, "n width"], None]:
            return block(h, one), None

        depth = self.blocks.qkv.bias.shape[0]
        unroll = depth if depth <= SHALLOW else 1
        h, _ = jax.lax.scan(jax.checkpoint(apply) if self.remat else apply, h, blocks, unroll=unroll)
        shift, scale = jnp.split(self.modulation(c), 2)
        return unpatchify(self.final(modulated(h, shift, scale)), self.grid, self.patch).astype(x.dtype)
