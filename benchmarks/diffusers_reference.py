"""Outputs of diffusers' DiT and U-Net with random weights, for `tests/imagegen/test_diffusers_parity.py`.

    python benchmarks/diffusers_reference.py --model dit --output FOLDER

Needs torch and diffusers, in an environment of their own. All weights are drawn anew, so that nothing is multiplied by
0 as it is at initialisation; all blocks of the DiT embed the timestep and the class alike, as in converted checkpoints.
Writes `model.safetensors`, as diffusers saves it, and `values.npz`: the inputs `x` (n, channels, h, w), `t`, and `y`
(classes) or `tokens` (n, m, d_emb), and the `output`. The DiT's timestep has the features that DiT's weights are
trained with, frequencies 10000^(-k/128); diffusers' own are 10000^(-k/127): the output with these is `output_own`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from _torchvision import make_importable
from dit_reference import randomise

DIT = {"num_attention_heads": 4, "attention_head_dim": 32, "in_channels": 1, "num_layers": 4, "sample_size": 8,
       "patch_size": 4, "num_embeds_ada_norm": 10, "norm_eps": 1e-6}  # fmt: skip
LDM = {"sample_size": 8, "in_channels": 1, "out_channels": 1, "layers_per_block": 1, "block_out_channels": (64, 128),
       "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
       "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "cross_attention_dim": 128,
       "attention_head_dim": 1}  # fmt: skip
"""`dit-digits` and `ldm-small`; attention_head_dim is the number of heads there."""


def make_dit(generator: torch.Generator):
    """The model, and its inputs by the names of its arguments."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(**DIT).eval()
    randomise(model, generator)
    shared = model.transformer_blocks[0].norm1.emb.state_dict()
    for block in model.transformer_blocks:
        block.norm1.emb.load_state_dict(shared)
    x = torch.randn((2, 1, 8, 8), generator=generator)
    return model, {"hidden_states": x, "timestep": torch.tensor([15.625, 937.5]), "class_labels": torch.tensor([3, 10])}


def make_ldm(generator: torch.Generator):
    """The model, and its inputs by the names of its arguments."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(**LDM).eval()
    randomise(model, generator)
    x, tokens = (torch.randn(size, generator=generator) for size in ((2, 1, 8, 8), (2, 7, 128)))
    return model, {"sample": x, "timestep": torch.tensor([15.625, 937.5]), "encoder_hidden_states": tokens}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("dit", "ldm"), required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    make_importable()
    make = {"dit": make_dit, "ldm": make_ldm}[arguments.model]
    model, inputs = make(torch.Generator().manual_seed(0))
    values = dict(zip(("x", "t", "y" if arguments.model == "dit" else "tokens"), inputs.values(), strict=True))
    with torch.no_grad():
        if arguments.model == "dit":
            values["output_own"] = model(**inputs).sample
            for block in model.transformer_blocks:
                block.norm1.emb.time_proj.downscale_freq_shift = 0
        values["output"] = model(**inputs).sample
    np.savez(arguments.output / "values.npz", **{name: value.numpy() for name, value in values.items()})
    model.save_pretrained(arguments.output)
    (saved,) = arguments.output.glob("*.safetensors")
    saved.rename(arguments.output / "model.safetensors")


if __name__ == "__main__":
    main()
