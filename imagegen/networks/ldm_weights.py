"""Weights of CompVis/latent-diffusion's U-Net (its `state_dict`, as NumPy arrays) made into ours, and back.

Its layout, i a block on the way down or up, counted from the first convolution on (downsampling counts as a block):

    time_embed.0, .2                                    the embedding of the timestep
    input_blocks.0.0, out.0, out.2                      first convolution, last norm and convolution
    input_blocks.i.0, output_blocks.i.0                 a block: in_layers.0, .2, emb_layers.1, out_layers.0, .3
                                                        and, where channels change, skip_connection
    input_blocks.i.1, output_blocks.i.1                 a transformer: norm, proj_in, proj_out, and in
                                                        transformer_blocks.0: norm1 ... norm3, attn1, attn2, ff.net
    input_blocks.i.0.op, output_blocks.i.1.conv         convolutions that halve and double (.2.conv after a transformer)
    middle_block.0, .1, .2                              block, transformer, block

each with `.weight` and, but for queries, keys and values, `.bias`. Kernels are (out, in, rows, columns) where ours are
(rows, columns, in, out), the transformers' first and last maps 1x1 kernels; to_q, to_k, to_v stand one above the other
in ours. A checkpoint has `model.diffusion_model.` before these names, beside the autoencoder and the class table
`cond_stage_model.embedding.weight` (the null class last), and may have averaged weights under `model_ema.`, their names
without dots (Lightning's): these are taken where they are.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from imagegen.networks.layers import Conv
from imagegen.networks.ldm_unet import LDMUNet
from imagegen.networks.states import State, check_state, float32

__all__ = ["from_reference", "of_checkpoint", "to_reference"]

BLOCK = {
    "norm": "in_layers.0", "first": "in_layers.2", "embedded": "emb_layers.1", "norm_last": "out_layers.0",
    "last": "out_layers.3", "skip": "skip_connection",
}  # fmt: skip
INNER = {
    "norm_self": ("norm1",), "qkv": ("attn1.to_q", "attn1.to_k", "attn1.to_v"), "proj": ("attn1.to_out.0",),
    "norm_cross": ("norm2",), "query": ("attn2.to_q",), "key_value": ("attn2.to_k", "attn2.to_v"),
    "proj_cross": ("attn2.to_out.0",), "norm_mlp": ("norm3",), "fc1": ("ff.net.0.proj",), "fc2": ("ff.net.2",),
}  # fmt: skip
OUTER = {"norm": "norm", "first": "proj_in", "last": "proj_out"}
NETWORK, AVERAGE, TABLE = "model.diffusion_model.", "model_ema.diffusion_model", "cond_stage_model.embedding.weight"

Layer = Any
"""A convolution, a linear map or a norm."""


def of_checkpoint(state: State) -> tuple[dict[str, np.ndarray], np.ndarray | None]:
    """The U-Net's arrays among those of a checkpoint, averaged ones where there are, and the class table if it has one.

    A state without the checkpoint's prefix is taken as the U-Net's own.
    """
    inner = {name.removeprefix(NETWORK): value for name, value in state.items() if name.startswith(NETWORK)}
    averaged = {name: state.get(AVERAGE + name.replace(".", ""), value) for name, value in inner.items()}
    return averaged or dict(state), state.get(TABLE)


def from_reference(state: State, network: LDMUNet) -> LDMUNet:
    """The network, which may be of shapes alone, with the weights of `state`; its noise label is the reference's
    timestep / 1000.

    Raises `InputError` naming the keys that are missing, unexpected or of another shape, and for values that are not
    finite.
    """
    shapes = {name: leaf.shape for name, leaf in eqx.filter_eval_shape(_state, network).items()}
    check_state(state, shapes, "CompVis/latent-diffusion")
    filled = [_filled(layer, names, state) for names, layer in _layers(network)]
    return eqx.tree_at(lambda network: [layer for _, layer in _layers(network)], network, filled)


def to_reference(network: LDMUNet) -> dict[str, np.ndarray]:
    """The `state_dict` of the network, in float32."""
    return {name: np.asarray(value) for name, value in _state(network).items()}


def _layers(network: LDMUNet) -> Iterator[tuple[list[str], Layer]]:
    """Every layer, with the names of those that stand one above the other in it."""
    first, second, stem = network.embedding.first, network.embedding.second, network.first
    yield from ((["time_embed.0"], first), (["time_embed.2"], second), (["input_blocks.0.0"], stem))
    for i, stage in enumerate(network.encoder):
        place = f"input_blocks.{i + 1}"
        yield from _of_stage(stage, f"{place}.0", f"{place}.1")
    before, after = network.middle
    yield from _of_stage(before, "middle_block.0", "middle_block.1")
    yield from _of_stage(after, "middle_block.2", "")
    for i, stage in enumerate(network.decoder):
        place = f"output_blocks.{i}"
        yield from _of_stage(stage, f"{place}.0", f"{place}.1", f"{place}.{1 if stage.transformer is None else 2}.conv")
    yield from ((["out.0"], network.norm), (["out.2"], network.last))


def _of_stage(stage: Any, block: str, transformer: str, up: str = "") -> Iterator[tuple[list[str], Layer]]:
    if hasattr(stage, "conv"):
        yield [f"{block}.op"], stage.conv
        return
    for field, name in BLOCK.items():
        if getattr(stage.block, field) is not None:
            yield [f"{block}.{name}"], getattr(stage.block, field)
    if stage.transformer is not None:
        for field, name in OUTER.items():
            yield [f"{transformer}.{name}"], getattr(stage.transformer, field)
        for field, names in INNER.items():
            inner = f"{transformer}.transformer_blocks.0"
            yield [f"{inner}.{name}" for name in names], getattr(stage.transformer, field)
    if stage.up is not None:
        yield [up], stage.up


def _state(network: LDMUNet) -> dict[str, Array]:
    """The layout itself; traceable, so that it also tells the shapes to expect."""
    state: dict[str, Array] = {}
    for names, layer in _layers(network):
        whole = jnp.transpose(layer.kernel, (3, 2, 0, 1)) if isinstance(layer, Conv) else getattr(layer, _field(layer))
        if names[0].endswith((".proj_in", ".proj_out")):
            whole = whole[:, :, None, None]
        state |= {f"{name}.weight": part for name, part in zip(names, jnp.split(whole, len(names)), strict=True)}
        if hasattr(layer, "bias"):
            state[f"{names[0]}.bias"] = layer.bias
    return state


def _filled(layer: Layer, names: list[str], state: State) -> Layer:
    whole = np.concatenate([state[f"{name}.weight"] for name in names])
    if isinstance(layer, Conv):
        whole = np.transpose(whole, (2, 3, 1, 0))
    elif whole.ndim == 4:
        whole = whole[:, :, 0, 0]
    bias = {"bias": float32(state[f"{names[0]}.bias"])} if hasattr(layer, "bias") else {}
    return dataclasses.replace(layer, **{_field(layer): float32(whole)}, **bias)


def _field(layer: Layer) -> str:
    """The name of what the layer multiplies by."""
    return next(name for name in ("kernel", "scale", "weight") if hasattr(layer, name))
