"""Runs in an environment with torch and transformers: a small BERT with random weights, and what it makes of tokens.

PYTHON bert_reference.py FOLDER       writes FOLDER/model.safetensors and FOLDER/outputs.npz
"""

import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

SIZES = {"vocab_size": 101, "hidden_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4}
LENGTH = 77


def main(folder: Path) -> None:
    """All weights are drawn anew, so that biases and norms count."""
    library = torch.library.Library("torchvision", "FRAGMENT")  # a CUDA build without it, beside torch for CPUs
    try:
        import torchvision  # noqa: F401
    except (ImportError, RuntimeError):
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(**SIZES, intermediate_size=4 * SIZES["hidden_size"], max_position_embeddings=96)
    model = BertModel(config).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            spread = 0.3 if value.ndim == 1 else value.shape[-1] ** -0.5
            value.normal_(1.0 if name.endswith("LayerNorm.weight") else 0.0, spread)
        tokens = torch.randint(0, SIZES["vocab_size"], (4, LENGTH))
        outputs = model(tokens).last_hidden_state
    save_file({name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors")
    np.savez(folder / "outputs.npz", tokens=tokens.numpy().astype(np.int32), outputs=outputs.numpy())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
