"""Outputs of torch-fidelity with random weights, for `tests/imagegen/test_metrics_parity.py`; nothing of ours in it.

    python benchmarks/metrics_reference.py --weights FILE.pth --output FILE.npz

Needs torch, torchvision and torch-fidelity, in an environment of their own. Convolutions are drawn with He's variance
and batch norms with means, variances, gains and offsets of order one, so that numbers neither vanish nor explode on the
way and every array matters. Writes the state as FILE.pth in the layout of today, and beside it as FILE-old.pth in that
of before PyTorch 1.6; in FILE.npz for images of several sizes `images/SIZE` (n, h, w, 3) the resized ones (of the
first) and the features, and the metrics of two further sets of features.
"""

# ruff: noqa: E402 (torchvision, which torch-fidelity imports, first)
import argparse
from pathlib import Path

import numpy as np
import torch
from _torchvision import make_importable
from torch import nn

make_importable()
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x
from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric
from torch_fidelity.metric_isc import isc_features_to_metric
from torch_fidelity.metric_kid import kid_features_to_metric
from torch_fidelity.metric_prc import prc_features_to_metric

LAYERS = ["2048", "logits_unbiased", "logits"]
SIZES = {"8x8": (2, 8, 8), "32x48": (2, 32, 48), "299x299": (1, 299, 299), "400x333": (1, 400, 333)}


class Random(FeatureExtractorInceptionV3):
    """The extractor with weights drawn by a generator instead of read from a file."""

    def load_state_dict(self, state_dict, **_):
        """Draw the weights, whatever the state."""
        generator = torch.Generator().manual_seed(0)

        def normal(tensor, scale, centre=0.0):
            tensor.copy_(centre + scale * torch.randn(tensor.shape, generator=generator))

        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                normal(module.weight, (2 / module.weight[0].numel()) ** 0.5)
            elif isinstance(module, nn.BatchNorm2d):
                normal(module.weight, 0.1, 1.0)
                normal(module.bias, 0.1)
                normal(module.running_mean, 0.1)
                module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
            elif isinstance(module, nn.Linear):
                normal(module.weight, module.in_features**-0.5)
                normal(module.bias, 0.3)


def extractor(weights: Path) -> Random:
    """The network, its state written to `weights`."""
    torch.save({}, weights)
    with torch.no_grad():
        network = Random("random", LAYERS, feature_extractor_weights_path=str(weights))
    torch.save(network.state_dict(), weights)
    old = weights.with_name(f"{weights.stem}-old.pth")
    torch.save(network.state_dict(), old, _use_new_zipfile_serialization=False)
    return network


def spatial_of(network: Random, images: torch.Tensor) -> torch.Tensor:
    """The first 7 channels of the 1 x 1 branch of Mixed_6d, with channels last."""
    seen = []
    handle = network.Mixed_6d.branch1x1.register_forward_hook(lambda _module, _given, out: seen.append(out.clone()))
    network(images)
    handle.remove()
    return seen[0][:, :7].permute(0, 2, 3, 1).reshape(len(images), -1)


def metrics(generator: torch.Generator) -> dict[str, np.ndarray]:
    """Two sets of features of 24 dimensions and of logits, and what torch-fidelity makes of them."""
    mixing = torch.randn((24, 24), generator=generator)
    made = torch.randn((300, 24), generator=generator) @ mixing + 0.3
    real = torch.randn((400, 24), generator=generator) @ (mixing + 0.2)
    logits = 2 * torch.randn((310, 1008), generator=generator)
    # the few entries that fidelity's options would fill
    options = {"prc_neighborhood": 3, "prc_batch_size": 100, "verbose": False, "save_cpu_ram": False}
    options |= {"kid_subsets": 20, "kid_subset_size": 100, "rng_seed": 2020, "kid_kernel": "poly"}
    options |= {"kid_kernel_poly_degree": 3, "kid_kernel_poly_gamma": None, "kid_kernel_poly_coef0": 1}
    moments = [fid_features_to_statistics(features) for features in (made.double(), real.double())]
    found = {
        **fid_statistics_to_metric(*moments, verbose=False),
        **isc_features_to_metric(logits),
        **prc_features_to_metric(made, real, **options),
        **kid_features_to_metric(made.double(), real.double(), **options),
    }
    arrays = {"made": made, "real": real, "logits": logits}
    return {f"metrics/{name}": value.numpy() for name, value in arrays.items()} | {
        f"metrics/{name}": np.array(value) for name, value in found.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    arguments = parser.parse_args()
    network, generator, held = extractor(arguments.weights), torch.Generator().manual_seed(1), {}
    for name, size in SIZES.items():
        images = torch.randint(0, 256, (*size, 3), generator=generator, dtype=torch.uint8)
        channels = images.permute(0, 3, 1, 2)
        with torch.no_grad():
            outputs = dict(zip(LAYERS, network(channels), strict=True))
            spatial = spatial_of(network, channels)
        resized = interpolate_bilinear_2d_like_tensorflow1x(channels[:1].float(), (299, 299), align_corners=False)
        held |= {f"images/{name}": images.numpy(), f"resized/{name}": resized.permute(0, 2, 3, 1).numpy()}
        held |= {f"{layer}/{name}": value.numpy() for layer, value in outputs.items()}
        held[f"spatial/{name}"] = spatial.numpy()
    np.savez(arguments.output, **held, **metrics(generator))


if __name__ == "__main__":
    main()
