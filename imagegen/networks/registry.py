"""The image networks by name, and what one costs: parameters and floating-point operations."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.extend.core import jaxprs_in_params
from jaxtyping import Array, DTypeLike, Key, PyTree

from imagegen._names import require_one_of
from imagegen.networks.dit import DiT
from imagegen.networks.ldm_unet import LDMUNet
from imagegen.networks.text_dit import TextDiT
from imagegen.networks.unet import UNet

__all__ = [
    "NETWORKS",
    "TEXT_NETWORKS",
    "encoder_flops",
    "forward_flops",
    "make_network",
    "make_text_network",
    "parameter_count",
]

SIZES = {"s": (384, 12, 6), "b": (768, 12, 12), "l": (1024, 24, 16), "xl": (1152, 28, 16)}
"""Width, depth and heads of DiT's published sizes (Peebles & Xie 2023, table 1)."""


DITS = {
    **{f"dit-{size}/{patch}": (patch, *sizes) for size, sizes in SIZES.items() for patch in (2, 4, 8)},
    "dit-digits": (4, 128, 4, 4),
    "dit-patches": (4, 256, 6, 4),
}
"""Patch, width, depth and heads by name."""


def _sized(kind: Callable[..., Any], patch: int, width: int, depth: int, heads: int) -> Callable[..., Any]:
    return partial(kind, patch=patch, width=width, depth=depth, heads=heads)


LDMS: dict[str, dict[str, Any]] = {
    "ldm-small": {"channels": 64, "multipliers": (1, 2), "blocks": 1, "attention": (1,)},
    "ldm-4": {"channels": 192, "multipliers": (1, 2, 3, 5), "blocks": 2, "attention": (1, 2, 3)},
}
"""Sizes by name; classes are embeddings of 128 and 512 numbers (`CODES`)."""
CODES = {"ldm-small": 128, "ldm-4": 512}

ImageNetwork = DiT | UNet | LDMUNet
TextNetwork = TextDiT | LDMUNet
NETWORKS: dict[str, Callable[..., ImageNetwork]] = {
    **{name: _sized(DiT, *sizes) for name, sizes in DITS.items()},
    "unet-small": partial(UNet, channels=32, multipliers=(1, 2), blocks=2, attention=1),
    "unet-cifar": partial(UNet, channels=128, multipliers=(2, 2, 2), blocks=4, attention=1),
    **{name: partial(LDMUNet, **sizes, d_emb=CODES[name]) for name, sizes in LDMS.items()},
}
"""Every network by name: `NETWORKS[name](shape, key=..., dtype=..., remat=...)`."""
TEXT_NETWORKS: dict[str, Callable[..., TextNetwork]] = {
    **{name: _sized(TextDiT, *sizes) for name, sizes in DITS.items()},
    **{name: partial(LDMUNet, **sizes) for name, sizes in LDMS.items()},
}
"""Those that come in a form that reads text: `TEXT_NETWORKS[name](shape, d_emb=..., key=..., dtype=..., remat=...)`."""


def make_network(
    name: str, shape: tuple[int, int, int], *, key: Key[Array, ""], dtype: DTypeLike = jnp.float32, remat: bool = False
) -> ImageNetwork:
    """The network of that name for images of `shape` (h, w, c), with first weights.

    `dtype` of its products: float32 or bfloat16; `remat` recomputes blocks in the backward pass, which saves memory.
    Raises `InputError` for an unknown name, suggesting the nearest, and for images that do not divide as it needs.
    """
    require_one_of("network", name, NETWORKS)
    return NETWORKS[name](shape, key=key, dtype=dtype, remat=remat)


def make_text_network(
    name: str,
    shape: tuple[int, int, int],
    d_emb: int,
    *,
    key: Key[Array, ""],
    dtype: DTypeLike = jnp.float32,
    remat: bool = False,
) -> TextNetwork:
    """The network of that name that reads tokens of `d_emb` numbers each; otherwise as `make_network`.

    Raises `InputError` for an unknown name, suggesting the nearest, one that reads no text, and images that do not
    divide as it needs.
    """
    require_one_of("network", name, TEXT_NETWORKS)
    return TEXT_NETWORKS[name](shape, d_emb=d_emb, key=key, dtype=dtype, remat=remat)


def parameter_count(network: PyTree) -> int:
    """How many numbers are trained; also of a network of shapes alone, as `eqx.filter_eval_shape` gives it."""
    leaves = [leaf for leaf in jax.tree.leaves(network) if hasattr(leaf, "shape") and hasattr(leaf, "dtype")]
    return sum(math.prod(leaf.shape) for leaf in leaves if jnp.issubdtype(leaf.dtype, jnp.inexact))


def forward_flops(network: Any, shape: tuple[int, int, int], tokens: int = 0) -> float:
    """Floating-point operations of the matrix products and convolutions in one pass over one image of `shape`, its
    condition one embedding, or `tokens` >= 1 of them.

    2 per multiplication with its addition; counted in the traced program, nothing is computed or compiled. Training
    costs three times as much, four with recomputation. Everything else (norms, softmax) is left out, as is customary.
    """
    cond = (tokens, network.d_emb) if tokens else (network.d_emb,)
    return _flops(network, *(jax.ShapeDtypeStruct(size, jnp.float32) for size in (shape, (), cond)))


def encoder_flops(encoder: Any, tokens: int) -> float:
    """As `forward_flops`, of a text encoder and one text of so many tokens."""
    return _flops(encoder, jax.ShapeDtypeStruct((tokens,), jnp.int32))


def _flops(function: Any, *inputs: jax.ShapeDtypeStruct) -> float:
    jaxpr, _, _ = eqx.filter_make_jaxpr(lambda function, *inputs: function(*inputs))(function, *inputs)
    return 2.0 * _products(jaxpr.jaxpr)


def _products(jaxpr: Any) -> int:
    """Multiplications in a jaxpr and those within it, scans counted as often as they turn."""
    return sum(_products_of(equation) for equation in jaxpr.eqns)


def _products_of(equation: Any) -> int:
    name, parameters = equation.primitive.name, equation.params
    shapes = [variable.aval.shape for variable in equation.invars if hasattr(variable.aval, "shape")]
    if name == "dot_general":
        (left, _), _ = parameters["dimension_numbers"]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[0][axis] for axis in left)
    if name == "conv_general_dilated":
        outputs = shapes[1][parameters["dimension_numbers"].rhs_spec[0]]
        return math.prod(equation.outvars[0].aval.shape) * math.prod(shapes[1]) // outputs
    if name.startswith("dot_product_attention"):
        batch, queries, heads, size = shapes[0]
        return 2 * batch * queries * shapes[1][1] * heads * size
    turns = parameters["length"] if name == "scan" else 1
    return turns * sum(_products(inner) for inner in jaxprs_in_params(parameters))
