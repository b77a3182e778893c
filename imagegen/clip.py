"""CLIP (Radford et al. 2021): features of images and of captions in one space, by PyTorch (extra `pretrained`).

The model lies in a folder in the transformers library's layout; nothing is downloaded:

    config.json                        of model_type "clip"
    model.safetensors                  or pytorch_model.bin
    tokenizer.json                     of the `tokenizers` library
    preprocessor_config.json           or processor_config.json

Features are the projected ones, not normalised. Images come to the network by one protocol, whatever the versions of
the libraries: bytes, the shorter side resized to `size` by Pillow's bicubic filter, the middle cut out, and
(x/255 - mean)/std, with the numbers of the folder. Captions are cut to the model's length, their last token kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from imagegen.data.tokens import LENGTH, load_tokenizer
from imagegen.inception import as_colour
from imagegen.pretrained import load_model, read_config, require_installed
from sim.intervals import Interval, mean_interval
from theory._checks import InputError, require
from theory._files import sha256_of

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
PREPROCESSING = ("preprocessor_config.json", "processor_config.json")
"""The first that is there is read; the second has the numbers under `image_processor`."""
STEPS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize")
BICUBIC = 3
"""Pillow's number of the filter."""
AT_ONCE = 64
"""Images, and captions, that go through the network at once."""
ALLOWED = "a folder with a CLIP model of transformers"


class Preprocessing(NamedTuple):
    """How images come to the network: `size` of the shorter side, side of the `crop`, `mean` and `std` per channel."""

    size: int
    crop: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]


@runtime_checkable
class Embedder(Protocol):
    """What has features of images and captions: `Clip`, say. `about` is what a protocol says of it."""

    about: dict[str, Any]

    def images(self, images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Features of images."""

    def texts(self, captions: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Features of captions."""


class Clip:
    """The CLIP model in a `folder` (module's top); on a GPU if PyTorch has one.

    Raises `InputError` for a folder without one of the files, with another model or an unknown preprocessing, and where
    torch or transformers is not installed.
    """

    def __init__(self, folder: Path) -> None:
        config = read_config(folder / _first(folder, ("config.json",)))
        require(config.get("model_type") == "clip", f"'{folder}'", f"model_type {config.get('model_type')!r}", ALLOWED)
        weights = folder / _first(folder, WEIGHTS)
        self.preprocessing = read_preprocessing(folder)
        length = config.get("text_config", {}).get("max_position_embeddings", LENGTH)
        self._tokens = load_tokenizer(folder / "tokenizer.json", length)
        require_installed("torch", "transformers")
        import torch
        import transformers

        self._torch = torch
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        model = load_model(transformers.CLIPModel, folder)
        self._model: Any = model.to(self._device).float().eval()
        self.about: dict[str, Any] = {
            "weights_sha256": sha256_of(weights), "tokenizer_sha256": sha256_of(folder / "tokenizer.json"),
            "preprocessing": {"filter": "Pillow bicubic, of bytes", **self.preprocessing._asdict()},
            "torch": str(torch.__version__), "transformers": transformers.__version__, "device": self._device,
        }  # fmt: skip

    def images(self, images: UInt8[np.ndarray, "n h w c"]) -> Float[np.ndarray, "n d"]:
        """Projected features, float32, of n >= 1 images of 1 or 3 channels.

        Raises `InputError` for another number of channels.
        """
        parts = []
        for low in range(0, len(images), AT_ONCE):
            pixels = prepared(images[low : low + AT_ONCE], self.preprocessing)
            x = self._torch.from_numpy(np.ascontiguousarray(np.moveaxis(pixels, 3, 1))).to(self._device)
            with self._torch.inference_mode():
                parts.append(_numbers(self._model.get_image_features(pixel_values=x)))
        return np.concatenate(parts)

    def texts(self, captions: Sequence[str]) -> Float[np.ndarray, "n d"]:
        """Projected features, float32, of n >= 1 captions."""
        parts = []
        for low in range(0, len(captions), AT_ONCE):
            tokens = self._tokens.batch(captions[low : low + AT_ONCE]).astype(np.int64)
            with self._torch.inference_mode():
                ids = self._torch.from_numpy(tokens).to(self._device)
                parts.append(_numbers(self._model.get_text_features(input_ids=ids)))
        return np.concatenate(parts)


def _numbers(found: Any) -> Float[np.ndarray, "n d"]:
    """What the model returns: features (transformers 4), or an output that has them (5)."""
    return getattr(found, "pooler_output", found).cpu().numpy()


def read_preprocessing(folder: Path) -> Preprocessing:
    """The preprocessing of the images of a folder's model.

    Raises `InputError` for a folder without, and for one other than a resize of the shorter side by the bicubic filter,
    a crop of its middle, and mean and deviation of the channels.
    """
    file = _first(folder, PREPROCESSING)
    values = read_config(folder / file)
    values = values.get("image_processor", values)
    without = [name for name in STEPS if not values.get(name, True)]
    require(not without, f"'{folder / file}'", f"{', '.join(without)} false", "of a CLIP model, with all steps")
    filtered = values.get("resample", BICUBIC)
    require(filtered == BICUBIC, f"resample in '{folder / file}'", filtered, f"{BICUBIC}, bicubic")
    try:
        size, crop = values["size"], values["crop_size"]
        mean, std = ([float(number) for number in values[name]] for name in ("image_mean", "image_std"))
        found = Preprocessing(_side(size, "shortest_edge"), _side(crop, "height", "width"), _three(mean), _three(std))
    except (KeyError, TypeError, ValueError) as error:
        wanted = "size, crop_size (a square), image_mean and image_std of a CLIP model"
        raise InputError(f"'{folder / file}' must have {wanted}; got others ({error}).") from None
    fits = 1 <= found.crop <= found.size and min(found.std) > 0
    require(fits, f"'{folder / file}'", found, "with crop_size of 1 ... size, and image_std above 0")
    return found


def _side(value: int | dict[str, int], *names: str) -> int:
    """One length, given as a number or by names."""
    lengths = {value[name] for name in names} if isinstance(value, dict) else {value}
    (length,) = lengths
    return int(length)


def _three(values: list[float]) -> tuple[float, float, float]:
    red, green, blue = values
    return red, green, blue


def prepared(images: UInt8[np.ndarray, "n h w c"], how: Preprocessing) -> Float[np.ndarray, "n crop crop 3"]:
    """Images as the network reads them, float32 (module's top). Raises `InputError` for other than 1 or 3 channels."""
    from PIL import Image

    n, h, w, _ = images.shape
    short = min(h, w)
    height, width = (how.size * side // short for side in (h, w))
    top, left = (height - how.crop) // 2, (width - how.crop) // 2
    resized = np.empty((n, height, width, 3), np.uint8)
    for k, image in enumerate(as_colour(images)):
        resized[k] = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    middle = resized[:, top : top + how.crop, left : left + how.crop].astype(np.float32)
    return (middle / 255 - np.array(how.mean, np.float32)) / np.array(how.std, np.float32)


def unit(features: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    """Features divided by their lengths, float64. Raises `InputError` for one that is 0."""
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    require(bool(lengths.all()), "features", "one that is 0 everywhere", "of lengths above 0")
    return rows / lengths


def clip_score(images: Float[np.ndarray, "n d"], texts: Float[np.ndarray, "..."]) -> Interval:
    """100 · mean max(cos(image, its caption), 0), 0 ... 100, of features (n, d) each, with Student's 95 % interval
    over n >= 2 samples.

    CLIPScore of Hessel, Holtzman, Forbes, Le Bras, Choi (2021) has the same with weight 2.5 in the place of 100, and
    the caption behind "A photo depicts"; here it stands alone. The "CLIP score" of most tables is 100 · mean cos, and
    torchmetrics' is that where the mean is above 0: the same number unless some cosine is negative. Samples of one
    caption count as independent.

    Raises `InputError` where the two do not fit, for n < 2, and for features that are 0 or not finite.
    """
    fits = images.shape == texts.shape
    require(fits, "texts", f"features of shape {texts.shape}", f"of shape {images.shape}, one for each image")
    cosines = np.sum(unit(images) * unit(texts), axis=1)
    return mean_interval(100 * np.maximum(cosines, 0.0))


def _first(folder: Path, names: Sequence[str]) -> str:
    """The first of the files that the folder has."""
    found = next((name for name in names if (folder / name).is_file()), "")
    require(found != "", f"'{folder}'", f"no {' or '.join(names)}", ALLOWED)
    return found
