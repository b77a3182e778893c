"""Outputs of CompVis/latent-diffusion's U-Net with random weights, for `tests/imagegen/test_ldm_parity.py`.

    python benchmarks/ldm_reference.py --reference DIR --model small --output FOLDER

DIR is a checkout of that repository. Needs torch and einops, in an environment of their own. All weights are drawn
anew, so that nothing is multiplied by 0 as it is at initialisation. Writes `weights.ckpt`, the state in the layout of
the published checkpoints, with a class table, and `values.npz`: the inputs `x` (n, channels, h, w), `t`, `y` (classes)
and `tokens` (n, m, d_emb), the outputs `by_class` and `by_tokens`, and the number of parameters, `count`.
"""

import argparse
import sys
import types
from pathlib import Path

import numpy as np
import torch
from dit_reference import randomise

SIZES = {
    "small": {"image_size": 8, "in_channels": 1, "out_channels": 1, "model_channels": 64, "channel_mult": (1, 2),
              "num_res_blocks": 1, "attention_resolutions": (2,), "context_dim": 128},
    "ldm-4": {"image_size": 64, "in_channels": 3, "out_channels": 3, "model_channels": 192,
              "channel_mult": (1, 2, 3, 5), "num_res_blocks": 2, "attention_resolutions": (8, 4, 2),
              "context_dim": 512},
}  # fmt: skip
"""`ldm-4`: configs/latent-diffusion/cin256-v2.yaml."""


def import_unet(reference: Path):
    """The checkout's `UNetModel`; what its modules import and the network does not use is left empty."""
    util, configs, lists = (types.ModuleType(name) for name in ("ldm.util", "omegaconf", "omegaconf.listconfig"))
    util.instantiate_from_config = None
    lists.ListConfig = type("ListConfig", (), {})
    sys.modules |= {module.__name__: module for module in (util, configs, lists)}
    sys.path.insert(0, str(reference))
    from ldm.modules.diffusionmodules.openaimodel import UNetModel

    return UNetModel


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--model", choices=SIZES, default="small")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    sizes, generator = SIZES[arguments.model], torch.Generator().manual_seed(0)
    options = {"num_heads": 1, "use_spatial_transformer": True, "transformer_depth": 1}
    model = import_unet(arguments.reference)(**sizes, **options).eval()
    randomise(model, generator)
    channels, side, d_emb = sizes["in_channels"], sizes["image_size"], sizes["context_dim"]
    table = torch.randn((11, d_emb), generator=generator)
    x, tokens = (torch.randn(size, generator=generator) for size in ((2, channels, side, side), (2, 7, d_emb)))
    t, y = 1000 * torch.tensor([1 / 64, 15 / 16]), torch.tensor([3, 10])
    with torch.no_grad():
        outputs = {"by_class": model(x, t, table[y][:, None]), "by_tokens": model(x, t, tokens)}
    values = {"x": x, "t": t, "y": y, "tokens": tokens, **outputs}
    count = sum(parameter.numel() for parameter in model.parameters())
    np.savez(arguments.output / "values.npz", count=count, **{name: value.numpy() for name, value in values.items()})
    state = {f"model.diffusion_model.{name}": value for name, value in model.state_dict().items()}
    state |= {"cond_stage_model.embedding.weight": table, "scale_factor": torch.tensor(1.0)}
    torch.save({"state_dict": state, "global_step": 0}, arguments.output / "weights.ckpt")


if __name__ == "__main__":
    main()
