"""Weights in the layouts of Hugging Face's diffusers, renamed to those of the networks' own authors.

Of `DiTTransformer2DModel` (or `Transformer2DModel` with its norm_type "ada_norm_zero") to facebookresearch/DiT's:
queries, keys and values apart go together; each block's own copy of the embedding of timestep and class, which must all
be alike, becomes the one; the fixed positions, which are not saved, are added. Its features of the timestep have
frequencies 10000^(-k/127), where those of DiT and ours have 10000^(-k/128): the weights' own authors' are kept.

Of `UNet2DConditionModel` with blocks `CrossAttnDownBlock2D`, `DownBlock2D` and so on, one head, to
CompVis/latent-diffusion's: levels and places in them become one number.
"""

import re

import numpy as np

from imagegen.networks.dit import positions
from imagegen.networks.states import State, some
from theory._checks import require

__all__ = ["dit_state", "is_dit", "is_ldm", "ldm_state"]

DIT = {
    "pos_embed.proj": "x_embedder.proj",
    "proj_out_1": "final_layer.adaLN_modulation.1",
    "proj_out_2": "final_layer.linear",
}
DIT_SHARED = {
    "timestep_embedder.linear_1": "t_embedder.mlp.0",
    "timestep_embedder.linear_2": "t_embedder.mlp.2",
    "class_embedder.embedding_table": "y_embedder.embedding_table",
}
DIT_BLOCK = {
    "norm1.linear": "adaLN_modulation.1",
    "attn1.to_out.0": "attn.proj",
    "ff.net.0.proj": "mlp.fc1",
    "ff.net.2": "mlp.fc2",
}
LDM = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
LDM_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


def is_dit(state: State) -> bool:
    """Whether the names are those of diffusers' DiT."""
    return "pos_embed.proj.weight" in state


def is_ldm(state: State) -> bool:
    """Whether the names are those of diffusers' U-Net."""
    return "conv_in.weight" in state


def dit_state(state: State, grid: tuple[int, int]) -> dict[str, np.ndarray]:
    """The state in facebookresearch/DiT's layout, positions of `grid` rows and columns of patches added; names that are
    not known stay.

    Raises `InputError` where blocks embed the timestep or the class differently, or one lacks queries, keys or values.
    """
    renamed: dict[str, np.ndarray] = {}
    for name, value in state.items():
        new = _dit_name(name)
        if new is None:
            continue
        same = new not in renamed or np.array_equal(renamed[new], value)
        require(same, "state", f"{name} unlike that of block 0", "of blocks with one and the same embedding")
        renamed[new] = value
    width = len(state["pos_embed.proj.weight"])
    return {**renamed, **_qkv(state), "pos_embed": positions(*grid, width)[None]}


def _dit_name(name: str) -> str | None:
    """The new name; None for one of queries, keys and values."""
    place, part = name.rpartition(".")[::2]
    if place in DIT:
        return f"{DIT[place]}.{part}"
    match = re.fullmatch(r"transformer_blocks\.(\d+)\.(.+)", place)
    if match is None:
        return name
    block, inner = match.groups()
    if inner.removeprefix("norm1.emb.") in DIT_SHARED:
        return f"{DIT_SHARED[inner.removeprefix('norm1.emb.')]}.{part}"
    if inner in DIT_BLOCK:
        return f"blocks.{block}.{DIT_BLOCK[inner]}.{part}"
    return None if re.fullmatch(r"attn1\.to_[qkv]", inner) else name


def _qkv(state: State) -> dict[str, np.ndarray]:
    found = {}
    for name in state:
        match = re.fullmatch(r"transformer_blocks\.(\d+)\.attn1\.to_[qkv]\.(weight|bias)", name)
        if match is None:
            continue
        block, part = match.groups()
        names = [f"transformer_blocks.{block}.attn1.to_{kind}.{part}" for kind in "qkv"]
        missing = [name for name in names if name not in state]
        require(not missing, "state", f"no {some(missing)}", "complete")
        found[f"blocks.{block}.attn.qkv.{part}"] = np.concatenate([state[name] for name in names])
    return found


def ldm_state(state: State) -> dict[str, np.ndarray]:
    """The state in CompVis/latent-diffusion's layout; names that are not known stay."""
    blocks = len({name for name in state if re.fullmatch(r"down_blocks\.0\.resnets\.\d+\.conv1\.bias", name)})
    transformers = {name.partition(".attentions.")[0] for name in state if ".attentions." in name}
    return {_ldm_name(name, blocks, transformers): value for name, value in state.items()}


def _ldm_name(name: str, blocks: int, transformers: set[str]) -> str:
    place, part = name.rpartition(".")[::2]
    if place in LDM:
        return f"{LDM[place]}.{part}"
    match = re.fullmatch(r"((?:down|up)_blocks\.(\d+)|mid_block)\.(\w+)\.(\d+)\.(.+)", name)
    if match is None:
        return name
    level_name, level, kind, number, inner = match.groups()
    block, part = inner.rpartition(".")[::2]
    if kind == "resnets" and block in LDM_BLOCK:
        inner = f"{LDM_BLOCK[block]}.{part}"
    if level is None:
        return f"middle_block.{1 if kind == 'attentions' else 2 * int(number)}.{inner}"
    if level_name.startswith("down"):
        first = 1 + int(level) * (blocks + 1)
        if kind == "downsamplers":
            return f"input_blocks.{first + blocks}.0.op.{part}"
        return f"input_blocks.{first + int(number)}.{_place(kind)}.{inner}"
    first = int(level) * (blocks + 1)
    if kind == "upsamplers":
        return f"output_blocks.{first + blocks}.{2 if level_name in transformers else 1}.conv.{part}"
    return f"output_blocks.{first + int(number)}.{_place(kind)}.{inner}"


def _place(kind: str) -> int:
    return 1 if kind == "attentions" else 0
