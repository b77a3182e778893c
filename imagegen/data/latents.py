"""Latents: images as an autoencoder sees them, prepared once (`imagegen.prepare`, `imagegen.pretrained`).

Of each image the law of its latent is stored, N(m, s²), and that of the mirrored image, times the scale that the
autoencoder's makers chose: `mean` and `std`, float16, shape (2, h, w, c). A record's `image` is the mean of the image
as it is; every use draws its own (`imagegen.uses`).
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from imagegen.data.decode import Unreadable
from imagegen.data.files import FileSource
from imagegen.data.records import Prepared

CONTENT = "latents"
"""What a manifest calls them."""
Law = Float[np.ndarray, "2 h w c"]


def pack_law(mean: Law, std: Law) -> bytes:
    """What is stored of one image."""
    return np.stack([mean, std]).astype(np.float16).tobytes()


def unpack_law(content: bytes, shape: tuple[int, int, int]) -> tuple[Law, Law]:
    """`mean` and `std`, float32, of latents of `shape` (h, w, c). Raises `Unreadable` for other bytes."""
    numbers = np.frombuffer(content, np.float16) if len(content) % 2 == 0 else np.zeros(0)
    if numbers.size != 4 * np.prod(shape) or not np.isfinite(numbers).all():
        raise Unreadable(f"no latent of shape {shape}")
    mean, std = numbers.astype(np.float32).reshape(2, 2, *shape)
    return mean, std


class LatentSource(FileSource):
    """The latents `rows` of a prepared folder, as `FileSource` says; records have `mean` and `std` too."""

    files: Prepared

    @property
    def shape(self) -> tuple[int, int, int]:
        """(h, w, c) of a latent."""
        return self.files.latent_shape

    def decoded(self, content: bytes) -> tuple[Float[np.ndarray, "h w c"], dict[str, Any]]:
        """The mean of the image as it is, and `mean` and `std` of both orientations."""
        mean, std = unpack_law(content, self.shape)
        return mean[0], {"mean": mean, "std": std}
