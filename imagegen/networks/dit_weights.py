"""Weights of facebookresearch/DiT (its `state_dict`, as NumPy arrays) made into ours, and back.

Its layout, w the width, p the patch, c and o the channels of input and output, i a block:

    x_embedder.proj                    (w, c, p, p)    a convolution; ours a map of flattened (p, p, c)
    t_embedder.mlp.0, .2               (w, 256), (w, w)
    y_embedder.embedding_table.weight  (classes + 1, w)   the null row last; ours outside of the network
    pos_embed                          (1, n, w)       fixed; ours computed, so only compared
    blocks.i.adaLN_modulation.1        (6w, w)
    blocks.i.attn.qkv, .proj           (3w, w), (w, w)
    blocks.i.mlp.fc1, .fc2             (4w, w), (w, 4w)
    final_layer.adaLN_modulation.1     (2w, w)
    final_layer.linear                 (p p o, w)

each with `.weight` and `.bias` where not said otherwise. `imagegen.weight_files.read_state_dict` reads a checkpoint of
the reference.
"""

import math
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from imagegen.networks.dit import DiT, positions
from imagegen.networks.layers import Dense
from imagegen.networks.states import State, check_state, float32
from theory._checks import require

__all__ = ["from_reference", "to_reference", "without_variances"]

OUTSIDE = {
    "t_embedder.mlp.0": lambda network: network.embedding.first,
    "t_embedder.mlp.2": lambda network: network.embedding.second,
    "final_layer.adaLN_modulation.1": lambda network: network.modulation,
    "final_layer.linear": lambda network: network.final,
}
BLOCK = {
    "adaLN_modulation.1": lambda network: network.blocks.modulation,
    "attn.qkv": lambda network: network.blocks.qkv,
    "attn.proj": lambda network: network.blocks.proj,
    "mlp.fc1": lambda network: network.blocks.fc1,
    "mlp.fc2": lambda network: network.blocks.fc2,
}
PATCHES, TABLE, POSITIONS = "x_embedder.proj", "y_embedder.embedding_table.weight", "pos_embed"
NUMBERS = {f"{PATCHES}.weight": 4, "final_layer.linear.weight": 2, TABLE: 2, POSITIONS: 3}
"""The arrays that sizes are read off, with their numbers of axes."""
SLACK = 1e-3
"""How far positions may be from the fixed ones: the reference averages them with the weights, in float32."""


def from_reference(
    state: State, *, heads: int, dtype: DTypeLike = jnp.float32, remat: bool = False
) -> tuple[DiT, Float[Array, "rows width"]]:
    """The network with the weights of `state`, and the class table (a row per class, then the null row).

    Sizes are read off the arrays, except for `heads`: 6, 12, 16, 16 for S, B, L, XL. Images are (h, w, c) where the
    reference's are (c, h, w), and the noise label is its timestep / 1000. For `dtype` and `remat` see `DiT`.

    Raises `InputError` naming the keys that are missing, unexpected or of another shape; for values that are not
    finite, and for positions other than the fixed ones.
    """
    network = _empty(state, heads, dtype, remat)
    rows = jax.ShapeDtypeStruct((len(state[TABLE]), network.d_emb), jnp.float32)
    shapes = {name: leaf.shape for name, leaf in eqx.filter_eval_shape(_state, network, rows).items()}
    check_state(state, shapes, "facebookresearch/DiT")
    apart = float(np.max(np.abs(state[POSITIONS][0] - positions(*network.grid, network.d_emb))))
    require(apart <= SLACK, f"state[{POSITIONS!r}]", f"values {apart:.3g} apart", "the fixed sine-cosine positions")
    kernel = np.moveaxis(state[f"{PATCHES}.weight"], 1, 3)
    filled = [Dense(float32(kernel.reshape(len(kernel), -1)), float32(state[f"{PATCHES}.bias"]))]
    filled += [Dense(*(float32(state[f"{name}.{part}"]) for part in ("weight", "bias"))) for name in OUTSIDE]
    filled += [Dense(*(_stacked(state, name, part) for part in ("weight", "bias"))) for name in BLOCK]
    fields = [lambda network: network.patches, *OUTSIDE.values(), *BLOCK.values()]
    return eqx.tree_at(lambda n: [field(n) for field in fields], network, filled), float32(state[TABLE])


def to_reference(network: DiT, table: Float[Array, "rows width"]) -> dict[str, np.ndarray]:
    """The `state_dict` of the network and its class `table` (a row per class, then the null row), in float32.

    Raises `InputError` where rows of the table are not as long as the network is wide.
    """
    width = network.d_emb
    require(table.shape[1] == width, "table", f"shape {table.shape}", f"of rows as long as the width, {width}")
    return {name: np.asarray(value) for name, value in _state(network, table).items()}


def without_variances(network: DiT) -> DiT:
    """A network whose outputs are 2c channels, a prediction and its variance, with the first c of them alone."""
    channels = network.shape[2]

    def first(leaf: Float[Array, "out ..."]) -> Float[Array, "half ..."]:
        return leaf.reshape(-1, 2 * channels, *leaf.shape[1:])[:, :channels].reshape(-1, *leaf.shape[1:])

    return eqx.tree_at(lambda network: network.final, network, jax.tree.map(first, network.final))


def _state(network: DiT, table: Float[Array, "rows width"]) -> dict[str, Array]:
    """The layout itself; traceable, so that it also tells the shapes to expect."""
    side, channels = network.patch, network.shape[2]
    kernel = network.patches.weight.reshape(-1, side, side, channels)
    state = {TABLE: table, POSITIONS: jnp.asarray(positions(*network.grid, network.d_emb)[None])}
    state |= {f"{PATCHES}.weight": jnp.moveaxis(kernel, 3, 1), f"{PATCHES}.bias": network.patches.bias}
    for name, field in OUTSIDE.items():
        state |= {f"{name}.weight": field(network).weight, f"{name}.bias": field(network).bias}
    for name, field in BLOCK.items():
        for i in range(network.blocks.qkv.bias.shape[0]):
            state |= {f"blocks.{i}.{name}.weight": field(network).weight[i]}
            state |= {f"blocks.{i}.{name}.bias": field(network).bias[i]}
    return state


def _depth(state: State) -> int:
    found = [re.match(r"blocks\.(\d+)\.", name) for name in state]
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _empty(state: State, heads: int, dtype: DTypeLike, remat: bool) -> DiT:
    """A network of the sizes that the arrays tell, its own arrays shapes alone."""
    for name, axes in NUMBERS.items():
        require(name in state, "state", "none of that name", f"a mapping with {name}")
        require(np.ndim(state[name]) == axes, f"state[{name!r}]", f"shape {np.shape(state[name])}", f"of {axes} axes")
    width, channels, patch, _ = np.shape(state[f"{PATCHES}.weight"])
    count = np.shape(state[POSITIONS])[1]
    side = math.isqrt(count)
    require(side**2 == count, f"state[{POSITIONS!r}]", f"{count} positions", "of a square grid")
    return eqx.filter_eval_shape(
        DiT,
        (side * patch, side * patch, channels),
        patch=patch,
        width=width,
        depth=_depth(state),
        heads=heads,
        key=jax.random.key(0),
        out_channels=len(state["final_layer.linear.weight"]) // patch**2,
        dtype=dtype,
        remat=remat,
    )


def _stacked(state: State, name: str, part: str) -> Float[Array, "depth ..."]:
    return float32(np.stack([state[f"blocks.{i}.{name}.{part}"] for i in range(_depth(state))]))
