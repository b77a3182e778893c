"""Pretrained autoencoders of images, by PyTorch: to encode images once, and to decode samples (extra `pretrained`).

    AutoencoderKL   x -> N(m, s²), the latents of Stable Diffusion and DiT (kl-f8)
    VQModel         x -> m, s = 0, before it is quantised, as LDM-4 is trained (vq-f4); decoding quantises

Both in the diffusers library's layout, from a folder on disk; nothing is downloaded. Latents are scaled: by the
`scaling_factor` of config.json (diffusers' 0.18215 if it is not there) for AutoencoderKL, by 1 for VQModel.
"""

import hashlib
import importlib
import importlib.util
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
from jaxtyping import Float, Int

from imagegen._names import require_one_of
from imagegen.data.latents import CONTENT, pack_law
from theory._checks import InputError, require

KINDS = ("AutoencoderKL", "VQModel")
WEIGHTS = "diffusion_pytorch_model.safetensors"
AT_ONCE = 16
"""Images decoded at once."""
Model = TypeVar("Model")


def require_installed(*libraries: str) -> None:
    """Raise `InputError` for the first of these libraries that is not installed; the extra `pretrained` has them."""
    for library in libraries:
        there = importlib.util.find_spec(library) is not None
        require(there, library, "not installed", "installed: pip install 'patina-diffusion[pretrained]'")


def load_model(make: type[Model], folder: Path, **options: Any) -> Model:
    """The model of this class of diffusers or transformers in a folder. Raises `InputError` where the weights are
    damaged, or not all there: the libraries would draw those that are missing at random.
    """
    try:
        model, told = cast(Any, make).from_pretrained(
            str(folder), local_files_only=True, output_loading_info=True, **options
        )
    except Exception as error:  # the libraries raise nearly anything
        raise InputError(f"'{folder}' must hold the weights of a {make.__name__}; got {error}") from error
    missing, allowed = ", ".join(sorted(told["missing_keys"])[:3]), f"all weights of a {make.__name__}"
    require(missing == "", f"'{folder}'", f"weights without {missing}", allowed)
    found: Model = model
    return found


class Autoencoder:
    """The autoencoder in a `folder` with config.json and diffusion_pytorch_model.safetensors; on a GPU if PyTorch has
    one. It encodes for `imagegen.prepare`. `codebook`: codes of a VQModel; 0 of an AutoencoderKL, which has none.

    Raises `InputError` for a folder without these, of another kind, and where diffusers or torch is not installed.
    """

    content = CONTENT

    def __init__(self, folder: Path) -> None:
        for name in ("config.json", WEIGHTS):
            require((folder / name).is_file(), f"'{folder}'", f"no {name}", "a folder with an autoencoder of diffusers")
        config = read_config(folder / "config.json")
        kind = config.get("_class_name", "none")
        require_one_of(f"_class_name in '{folder}/config.json'", kind, KINDS)
        require_installed("torch", "diffusers")
        import torch

        self._torch, self._variational = torch, kind == "AutoencoderKL"
        device = "cuda" if torch.cuda.is_available() else "cpu"
        make: Any = getattr(importlib.import_module("diffusers"), kind)
        self._model = load_model(make, folder).to(device).eval()
        self._device = device
        self._lock = threading.Lock()  # threads that prepare take turns: one at a time fills a device
        self.scale = float(self._model.config.scaling_factor) if self._variational else 1.0
        self.codebook = 0 if self._variational else int(self._model.config.num_vq_embeddings)
        self.sha256 = hashlib.sha256((folder / WEIGHTS).read_bytes() + repr(self.scale).encode()).hexdigest()

    def about(self, side: int) -> dict[str, Any]:
        """What a manifest says of latents of images of this side: `shape` (h, w, c), `scale`, `autoencoder`.

        Raises `InputError` for a side that it cannot encode.
        """
        try:
            mean, _ = self.encode(np.zeros((1, side, side, 3), np.float32))
            back = self.decode(mean).shape[1]
        except RuntimeError as error:
            raise InputError(f"resolution must be one that the autoencoder divides; got {side} ({error}).") from error
        allowed = "one that the autoencoder divides"
        require(back == side, "resolution", f"{side}, decoded to {back}", allowed)
        return {"shape": list(mean.shape[1:]), "scale": self.scale, "autoencoder": self.sha256}

    def __call__(self, images: Float[np.ndarray, "b h w 3"]) -> Sequence[bytes]:
        """The laws of both orientations of b images in [-1, 1], as `imagegen.data.latents` stores them."""
        laws = [self.encode(side) for side in (images, images[:, :, ::-1])]
        (mean, std), (mirrored, mirrored_std) = laws
        return [
            pack_law(np.stack([mean[i], mirrored[i]]), np.stack([std[i], mirrored_std[i]])) for i in range(len(images))
        ]

    def encode(
        self, images: Float[np.ndarray, "b h w 3"]
    ) -> tuple[Float[np.ndarray, "b h2 w2 c"], Float[np.ndarray, "b h2 w2 c"]]:
        """Mean and standard deviation of the latents of images in [-1, 1], scaled."""
        x = self._torch.from_numpy(np.ascontiguousarray(np.moveaxis(images, 3, 1), np.float32)).to(self._device)
        with self._lock, self._torch.inference_mode():
            if self._variational:
                law = self._model.encode(x).latent_dist
                mean, std = law.mean, law.std
            else:
                mean = self._model.encode(x).latents
                std = self._torch.zeros_like(mean)
        return self._numpy(mean) * np.float32(self.scale), self._numpy(std) * np.float32(self.scale)

    def decode(self, latents: Float[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n h2 w2 3"]:
        """Images, about [-1, 1] and not clipped, of scaled latents."""
        parts = []
        for start in range(0, len(latents), AT_ONCE):
            z = self._tensor(latents[start : start + AT_ONCE])
            with self._torch.inference_mode():
                parts.append(self._numpy(self._model.decode(z).sample))
        return np.concatenate(parts)

    def codes(self, latents: Float[np.ndarray, "n h w c"]) -> Int[np.ndarray, "n h w"]:
        """For each place of latents the number of the nearest vector of the codebook, 0 ... codebook - 1.

        Raises `InputError` for an AutoencoderKL.
        """
        require(self.codebook > 0, "autoencoder", "an AutoencoderKL, without a codebook", "a VQModel")
        with self._torch.inference_mode():
            _, _, (_, _, found) = self._model.quantize(self._tensor(latents))
        return found.reshape(latents.shape[:3]).cpu().numpy()

    def _tensor(self, latents: Float[np.ndarray, "n h w c"]) -> Any:
        """Latents as the model has them: channels first, not scaled."""
        numbers = np.moveaxis(latents, 3, 1) / np.float32(self.scale)
        return self._torch.from_numpy(np.ascontiguousarray(numbers, np.float32)).to(self._device)

    def _numpy(self, tensor: Any) -> Float[np.ndarray, "n h w c"]:
        return np.moveaxis(tensor.float().cpu().numpy(), 1, 3)


def read_config(file: Path) -> dict[str, Any]:
    """The values of a model's config.json. Raises `InputError` for a file that holds no JSON object."""
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{file}' must be JSON; got what cannot be read ({error}).") from None
    require(isinstance(values, dict), f"'{file}'", f"JSON of a {type(values).__name__}", "a JSON object")
    found: dict[str, Any] = values
    return found
