"""A torchvision that imports: where its compiled operators do not fit PyTorch, they are declared and never called."""

import sys

import torch

LIBRARIES: list[torch.library.Library] = []
"""Kept, since a library undefines its operators when it goes."""


def make_importable() -> None:
    """Import torchvision; one that lacks its operators is given those it asks for."""
    try:
        import torchvision  # noqa: F401
    except RuntimeError:
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        LIBRARIES.append(library)
