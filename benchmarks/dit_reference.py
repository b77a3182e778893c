"""Outputs of facebookresearch/DiT with random weights, for `tests/imagegen/test_dit_parity.py`; nothing of ours in it.

    python benchmarks/dit_reference.py --reference DIR --model DiT-S/2 --output FILE.npz

DIR is a checkout of that repository. Needs torch, torchvision and timm, in an environment of their own. All weights are
drawn anew, so that nothing is multiplied by 0 as it is at initialisation; the positions stay. Writes every entry of the
state as `state/NAME`, the inputs `x` (n, channels, h, w), `t` and `y`, and the `output`.
"""

import argparse
import sys
from pathlib import Path

import numpy as np
import torch

LIBRARIES: list[torch.library.Library] = []
"""Kept, since a library undefines its operators when it goes."""


def complete_torchvision() -> None:
    """Give a torchvision that lacks its operators, and cannot be imported for it, the ones it asks for."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES.append(library)


def import_models(reference: Path):
    """The checkout's `models` module."""
    complete_torchvision()
    sys.path.insert(0, str(reference))
    import models

    return models


def randomise(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Weights of variance 1/inputs, biases and tables of 0.3²: every part then changes the output visibly."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "pos_embed":
                continue
            matrix = parameter.ndim >= 2 and "embedding_table" not in name
            scale = parameter[0].numel() ** -0.5 if matrix else 0.3
            parameter.copy_(scale * torch.randn(parameter.shape, generator=generator))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reference", type=Path, required=True)
    parser.add_argument("--model", default="DiT-S/2")
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    generator = torch.Generator().manual_seed(0)
    model = import_models(arguments.reference).DiT_models[arguments.model](input_size=32).eval()
    randomise(model, generator)
    x = torch.randn((2, 4, 32, 32), generator=generator)
    t, y = 1000 * torch.tensor([1 / 64, 15 / 16]), torch.tensor([3, 1000])
    with torch.no_grad():
        output = model(x, t, y)
    state = {f"state/{name}": value.numpy() for name, value in model.state_dict().items()}
    np.savez(arguments.output, x=x.numpy(), t=t.numpy(), y=y.numpy(), output=output.numpy(), **state)


if __name__ == "__main__":
    main()
