"""A DiT that reads: its blocks attend to the tokens of a text (as PixArt-α's: Chen et al. 2023, section 2.3).

    c   = W_2 silu(W_1 φ(1000 l) + b_1) + b_2 + W_p mean(y) + b_p          l the noise label, y the tokens' embeddings
    h  <- h + α  * attention((1 + g) * norm(h) + s)                        (s, g, α; ...) from silu(c), as in the DiT
    h  <- h + W_c attention(W_q norm(h) + b_q, W_y y + b_y) + b_c          from patches to all m tokens
    h  <- h + α' * mlp((1 + g') * norm(h) + s')

and everything else as in `imagegen.networks.dit`. Unlike PixArt-α, the vectors come from each block's own matrix and
see the mean of the tokens, h is normed before it attends to them, and y enters every block by one linear map.

W_c and b_c start at 0, like all that the DiT adds at first. All tokens are attended to, padding too.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, DTypeLike, Float, Key

from imagegen.networks._checks import require_image, require_sizes
from imagegen.networks.dit import DiT
from imagegen.networks.layers import Dense, Law, cross_attend, draw_parameters, normalise, xavier
from theory._checks import require

__all__ = ["TextDiT"]


class _Reading(eqx.Module):
    """Attention from patches to tokens."""

    query: Dense
    key_value: Dense
    final: Dense

    @staticmethod
    def zeros(width: int, d_emb: int) -> "_Reading":
        return _Reading(Dense.zeros(width, width), Dense.zeros(d_emb, 2 * width), Dense.zeros(width, width))

    def __call__(
        self, h: Float[Array, "n width"], tokens: Float[Array, "m d_emb"], heads: int
    ) -> Float[Array, "n width"]:
        """The float32 sum `h` after it; products in the tokens' dtype."""
        query = self.query(normalise(h, (-1,)).astype(tokens.dtype))
        return h + self.final(cross_attend(query, self.key_value(tokens), heads))


class _Parameters(eqx.Module):
    pooled: Dense
    readings: _Reading


def _zeros(width: int, d_emb: int, depth: int) -> _Parameters:
    stacked = jax.tree.map(lambda a: jnp.broadcast_to(a, (depth, *a.shape)), _Reading.zeros(width, d_emb))
    return _Parameters(Dense.zeros(d_emb, width), stacked)


def _law(path: str, shape: tuple[int, ...]) -> Law | float:
    return 0.0 if path.endswith("bias") or "final" in path else xavier(shape[-1], shape[-2])


class TextDiT(eqx.Module):
    """The network above for one image of `shape`, called as `network(image, noise_label, tokens)`, tokens (m, d_emb).

    **Arguments:** `d_emb` >= 1: size of a token's embedding; m may be any; the others as for `DiT`. Raises `ValueError`
    for another size, and as `DiT` does.
    """

    dit: DiT
    pooled: Dense
    readings: _Reading
    d_emb: int = eqx.field(static=True)

    def __init__(
        self,
        shape: tuple[int, int, int],
        *,
        patch: int,
        width: int,
        depth: int,
        heads: int,
        d_emb: int,
        key: Key[Array, ""],
        dtype: DTypeLike = jnp.float32,
        remat: bool = False,
    ) -> None:
        """Draw the parameters."""
        require_sizes(d_emb=d_emb)
        key_dit, key_text = jax.random.split(key)
        self.dit = DiT(shape, patch=patch, width=width, depth=depth, heads=heads, key=key_dit, dtype=dtype, remat=remat)
        drawn = draw_parameters(key_text, _zeros, _law, width, d_emb, depth)
        self.pooled, self.readings, self.d_emb = drawn.pooled, drawn.readings, d_emb

    def __call__(
        self, x: Float[Array, "h w c"], label: Float[Array, ""], cond: Float[Array, "m d_emb"]
    ) -> Float[Array, "h w c"]:
        """Output in the input's dtype. Raises `ValueError` for an image or tokens of another shape."""
        dit = self.dit
        require_image(x, dit.shape)
        fits = cond.ndim == 2 and cond.shape[1] == self.d_emb
        require(fits, "cond", f"shape {cond.shape}", f"m tokens of the network's d_emb, (m, {self.d_emb})")
        tokens = cond.astype(dit.dtype)
        c = jax.nn.silu(dit.embedding(label) + self.pooled(jnp.mean(cond.astype(jnp.float32), axis=0)))

        def block(h: Float[Array, "n width"], one: tuple) -> Float[Array, "n width"]:
            whole, reading = one
            return whole(h, c, dit.heads, dit.dtype, lambda h: reading(h, tokens, dit.heads))

        return dit.through(x, c, block, (dit.blocks, self.readings))
