"""Weights of BERT in the layout of Hugging Face's `transformers` (NumPy arrays by name) made into ours.

Its layout, w the width, i a layer; of a `BertModel`, or with `bert.` before each of these names of a model around one:

    embeddings.word_embeddings.weight              (vocabulary, w)
    embeddings.position_embeddings.weight          (length, w)
    embeddings.token_type_embeddings.weight        (2, w)   of the two segments; ours has one, added to the positions
    embeddings.LayerNorm                           (w,)
    encoder.layer.i.attention.self.query, .key, .value      (w, w)
    encoder.layer.i.attention.output.dense         (w, w)
    encoder.layer.i.attention.output.LayerNorm     (w,)
    encoder.layer.i.intermediate.dense             (4w, w)
    encoder.layer.i.output.dense                   (w, 4w)
    encoder.layer.i.output.LayerNorm               (w,)

each with `.weight` and `.bias`, which norms of older files call `.gamma` and `.beta`. What lies outside of these, such
as pooling, is left out. `safetensors.numpy.load_file(file)` reads a `model.safetensors`.
"""

import re
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, DTypeLike, Float

from imagegen.networks.text import TextEncoder
from theory._checks import require

__all__ = ["from_bert"]

WORDS, PLACES, SEGMENTS = (f"embeddings.{name}_embeddings.weight" for name in ("word", "position", "token_type"))
NORM = "embeddings.LayerNorm"
LAYER = {
    "attention.output.dense": lambda layers: layers.proj,
    "attention.output.LayerNorm": lambda layers: layers.norm,
    "intermediate.dense": lambda layers: layers.fc1,
    "output.dense": lambda layers: layers.fc2,
    "output.LayerNorm": lambda layers: layers.norm_last,
}
ATTENTION = [f"attention.self.{name}" for name in ("query", "key", "value")]

State = Mapping[str, np.ndarray]


def from_bert(state: State, *, heads: int, dtype: DTypeLike = jnp.float32, remat: bool = False) -> TextEncoder:
    """The encoder with the weights of `state`; sizes are read off the arrays, except for `heads`: 12 for BERT-base.

    Raises `InputError` naming what is missing, of another shape, or not finite. For `dtype` and `remat` see
    `TextEncoder`.
    """
    held = {_renamed(name): np.asarray(value) for name, value in state.items()}
    for name in (WORDS, PLACES, SEGMENTS):
        require(name in held and held[name].ndim == 2, "state", f"no matrix {name}", "of BERT's layout")
    depth = _depth(held)
    (vocabulary, width), length = held[WORDS].shape, len(held[PLACES])
    empty = eqx.filter_eval_shape(
        TextEncoder, vocabulary, length, width=width, depth=depth, heads=heads, key=jax.random.key(0), dtype=dtype,
        remat=remat,
    )  # fmt: skip
    _check(held, width, depth)
    filled = [_float32(held[WORDS]), _float32(held[PLACES] + held[SEGMENTS][0])]
    filled += [_float32(held[f"{NORM}.{part}"]) for part in ("weight", "bias")]
    qkv = {part: [_stacked(held, name, part, depth) for name in ATTENTION] for part in ("weight", "bias")}
    filled += [jnp.concatenate(qkv[part], axis=1) for part in ("weight", "bias")]
    filled += [_stacked(held, name, part, depth) for name in LAYER for part in ("weight", "bias")]
    return eqx.tree_at(_fields, empty, filled)


def _fields(encoder: TextEncoder) -> list[Any]:
    """The encoder's arrays in the order in which they are filled."""
    pairs = [
        (part.scale if hasattr(part, "scale") else part.weight, part.bias)
        for part in (encoder.norm, encoder.layers.qkv, *(field(encoder.layers) for field in LAYER.values()))
    ]
    return [encoder.words, encoder.places, *(array for pair in pairs for array in pair)]


def _renamed(name: str) -> str:
    name = name.removeprefix("bert.")
    return re.sub(r"LayerNorm\.gamma$", "LayerNorm.weight", re.sub(r"LayerNorm\.beta$", "LayerNorm.bias", name))


def _depth(held: State) -> int:
    found = [re.match(r"encoder\.layer\.(\d+)\.", name) for name in held]
    return 1 + max((int(match[1]) for match in found if match), default=0)


def _check(held: State, width: int, depth: int) -> None:
    """Every array is there, fits and is finite."""
    wide = {"intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width)}
    shapes = {WORDS: held[WORDS].shape, PLACES: (len(held[PLACES]), width), SEGMENTS: (len(held[SEGMENTS]), width)}
    shapes |= {f"{NORM}.weight": (width,), f"{NORM}.bias": (width,)}
    for i in range(depth):
        for name in (*ATTENTION, *LAYER):
            shape = (width,) if name.endswith("LayerNorm") else wide.get(name, (width, width))
            shapes |= {f"encoder.layer.{i}.{name}.weight": shape, f"encoder.layer.{i}.{name}.bias": shape[:1]}
    missing = [name for name in shapes if name not in held]
    require(not missing, "state", f"no {', '.join(missing[:4])}", f"complete ({len(missing)} arrays are missing)")
    wrong = [
        f"{name} {held[name].shape} instead of {shapes[name]}" for name in shapes if held[name].shape != shapes[name]
    ]
    require(not wrong, "state", ", ".join(wrong[:4]), "of arrays that fit each other")
    bad = [name for name in shapes if not np.all(np.isfinite(held[name]))]
    require(not bad, "state", f"other values in {', '.join(bad[:4])}", "finite")


def _float32(value: np.ndarray) -> Float[Array, "..."]:
    return jnp.asarray(value, jnp.float32)


def _stacked(held: State, name: str, part: str, depth: int) -> Float[Array, "depth ..."]:
    return _float32(np.stack([held[f"encoder.layer.{i}.{name}.{part}"] for i in range(depth)]))
