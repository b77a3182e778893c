"""Encoded images (JPEG, PNG, WebP, ...) to squares of pixels, cropped as ADM does.

Dhariwal and Nichol 2021 (guided-diffusion), whose crop DiT and most later work share: the image is halved, each pixel
the mean of a box of 2 x 2, as long as its shorter side is at least 2 R; then it is scaled so that the shorter side is
R, bicubically; then the R x R pixels in the middle are kept. The orientation that EXIF states is ignored, as ADM does.

Pixels are v/127.5 - 1 for bytes v. Every image gets three channels: grey ones equal in all three, CMYK and palettes as
Pillow converts them, 16 bits as their upper 8; what is transparent shows the colour stored beneath.
"""

import io
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, UInt8

from theory._checks import require

if TYPE_CHECKING:
    from PIL.Image import Image

CHANNELS = 3
"""Red, green, blue."""


class Unreadable(Exception):
    """One sample that cannot be read; the message says why. It is left out (`imagegen.data.files`), never fatal."""


def decode_image(content: bytes, side: int) -> Float[np.ndarray, "side side 3"]:
    """The encoded image as float32 in [-1, 1], cropped to `side` >= 1 pixels as said at the module's top.

    Raises `Unreadable` for what is no image, or a damaged one, and `ValueError` for another side.
    """
    require(side >= 1, "side", side, "at least 1 pixel")
    return decode_bytes(content, side).astype(np.float32) / np.float32(127.5) - np.float32(1)


def decode_bytes(content: bytes, side: int) -> UInt8[np.ndarray, "side side 3"]:
    """As `decode_image`, before the numbers are scaled to [-1, 1]. Raises `Unreadable` as it does."""
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content)) as image:
            return np.asarray(centre_crop(_rgb(image), side))
    except Exception as error:  # damaged files make Pillow raise nearly anything
        raise Unreadable(f"{type(error).__name__}: {_without_address(error)}") from error


def encode_png(pixels: Float[np.ndarray, "h w 3"]) -> bytes:
    """An image in [-1, 1] as a PNG of bytes: without loss for what `decode_image` made."""
    from PIL import Image

    stored = io.BytesIO()
    Image.fromarray(np.rint((pixels + 1) * 127.5).astype(np.uint8)).save(stored, "PNG")
    return stored.getvalue()


def centre_crop(image: "Image", side: int) -> "Image":
    """The middle `side` x `side` pixels of the image, scaled so that its shorter side is `side` (module's top)."""
    from PIL.Image import Resampling

    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))


def _rgb(image: "Image") -> "Image":
    from PIL import Image

    if image.mode.startswith("I"):  # Pillow would cut 16 bits off at 255
        return Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    if image.mode == "P" and "transparency" in image.info:  # Pillow warns where this step is left out
        image = image.convert("RGBA")
    return image.convert("RGB")


def _without_address(error: Exception) -> str:
    """The message of "cannot identify image file <_io.BytesIO object at 0x...>" is the same in every run."""
    return str(error).partition(" <_io.BytesIO")[0]
