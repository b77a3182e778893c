"""Patches of the bundled photographs for training and for comparison, which share no pixel; and ways to degrade them.

Each photograph (scikit-learn ships two) is cut into square tiles, coloured like a chessboard: patches for training come
from the tiles of one colour, patches for comparison from the other, so both sets see every part of both pictures and no
patch reaches into another's tile. Within a tile patches lie on a grid of the widest stride that still yields the
number asked for: `side` or more means that no two patches overlap.

Patches of two photographs are not independent draws of "natural images": with few tiles, two halves of one picture
differ by more than sampling noise, which is why distances are reported beside their value between the two halves.

Images lie in [-1, 1], shape (n, h, w) for grey or (n, h, w, c) for colour; degradations keep shape and float type.
"""

import io
import math
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from theory._checks import require, require_between, require_finite

TILE = 4
"""Side of a tile in patches' sides."""
GREY = np.array([0.299, 0.587, 0.114])
"""Weights of red, green and blue in grey (ITU-R BT.601)."""
Images = Float[np.ndarray, "n h w"] | Float[np.ndarray, "n h w c"]


class PatchSets(NamedTuple):
    """Patches in [-1, 1], float64, and where they lie: (photograph, row, column) of the upper left pixel."""

    train: Images
    test: Images
    train_positions: Int[np.ndarray, "n 3"]
    test_positions: Int[np.ndarray, "m 3"]


def photographs(*, colour: bool = False, shrink: int = 1) -> list[Float[np.ndarray, "h w ..."]]:
    """The two photographs scikit-learn ships (427 x 640), in [-1, 1], grey (h, w) or colour (h, w, 3), float64.

    `shrink`: each output pixel is the mean of a block of shrink x shrink pixels (a rest at the border is dropped), so
    that small patches show more than smooth surfaces. Raises `ValueError` unless 1 <= shrink <= 64.
    """
    from sklearn.datasets import load_sample_images

    require(1 <= shrink <= 64, "shrink", shrink, "between 1 and 64")
    images = [image / 127.5 - 1.0 for image in load_sample_images().images]
    return [_shrunk(image if colour else np.clip(image @ GREY, -1, 1), shrink) for image in images]


def _shrunk(image: np.ndarray, factor: int) -> np.ndarray:
    height, width = (size // factor for size in image.shape[:2])
    cropped = image[: height * factor, : width * factor]
    return cropped.reshape(height, factor, width, factor, *image.shape[2:]).mean(axis=(1, 3))


def photograph_patches(
    side: int, n_train: int, n_test: int, *, colour: bool = False, shrink: int = 1, seed: int = 0
) -> PatchSets:
    """`n_train` and `n_test` distinct patches of `side` x `side` pixels from disjoint regions of the two photographs.

    Deterministic: the same arguments give the same patches; `seed` chooses which, and their order. Overlap within a
    set is as small as the numbers allow (module's top). Raises `ValueError` for side < 1, negative numbers, and for
    more patches than there are; the message says how many.
    """
    require(side >= 1, "side", side, "at least 1 pixel")
    images = photographs(colour=colour, shrink=shrink)
    rng = np.random.default_rng(seed)
    sets, places = [], []
    for parity, (name, count) in enumerate((("n_train", n_train), ("n_test", n_test))):
        positions = _positions([image.shape[:2] for image in images], side, parity, count, name)
        chosen = positions[rng.permutation(len(positions))[:count]]
        places.append(chosen)
        cut = [images[k][row : row + side, column : column + side] for k, row, column in chosen]
        sets.append(np.stack(cut) if cut else np.empty((0, side, side, *images[0].shape[2:])))
    return PatchSets(*sets, *places)


def _positions(shapes: list[tuple[int, ...]], side: int, parity: int, count: int, name: str) -> np.ndarray:
    """Positions at the widest stride that gives at least `count` of them."""
    require(count >= 0, name, count, "at least 0")
    tiles = np.array([tile for k, shape in enumerate(shapes) for tile in _tiles(k, shape, TILE * side, parity)])
    room = (TILE - 1) * side
    for stride in range(side, 0, -1):
        offsets = np.arange(0, room + 1, stride)
        if len(tiles) * len(offsets) ** 2 >= count:
            return _spread(tiles, offsets)
    available = len(tiles) * (room + 1) ** 2
    require(False, name, count, f"at most {available} patches of {side} x {side} pixels")
    raise AssertionError


def _tiles(photograph: int, shape: tuple[int, ...], size: int, parity: int) -> list[tuple[int, int, int]]:
    """Upper left corners of the tiles of one colour."""
    rows, columns = shape[0] // size, shape[1] // size
    return [(photograph, i * size, j * size) for i in range(rows) for j in range(columns) if (i + j) % 2 == parity]


def _spread(tiles: np.ndarray, offsets: np.ndarray) -> Int[np.ndarray, "n 3"]:
    if not len(tiles):
        return np.empty((0, 3), np.int64)
    rows, columns = (grid.ravel() for grid in np.meshgrid(offsets, offsets, indexing="ij"))
    shifts = np.stack([np.zeros_like(rows), rows, columns], axis=1)
    return (tiles[:, None] + shifts[None]).reshape(-1, 3)


def _check(images: np.ndarray) -> None:
    fits = images.ndim in (3, 4) and np.issubdtype(images.dtype, np.floating)
    require(fits, "images", f"{images.dtype} of shape {images.shape}", "floats of shape (n, h, w) or (n, h, w, c)")
    require_finite("images", images)


def gaussian_blur(images: Images, std: float) -> Images:
    """Each image convolved with a Gaussian of standard deviation `std` >= 0 pixels, truncated at 4 of them; mirrored at
    the border. Keeps constant images. AO uses 0.4, 0.6, 0.8, 1.0 at 32 x 32. Raises `ValueError` for another `std`.
    """
    from scipy.ndimage import gaussian_filter

    _check(images)
    require(0 <= std < math.inf, "std", std, "finite and >= 0 pixels")
    return gaussian_filter(images, std, mode="reflect", axes=(1, 2)) if std > 0 else images.copy()


def motion_blur(images: Images, length: float, *, angle: float = 0.0) -> Images:
    """Each image averaged along a centred line of `length` >= 0 pixels at `angle` radians (0: along a row,
    counter-clockwise); mirrored at the border. Keeps constant images. Raises `ValueError` for another `length`.
    """
    from scipy.ndimage import correlate

    _check(images)
    require(0 <= length < math.inf, "length", length, "finite and >= 0 pixels")
    kernel = _line_kernel(length, angle).astype(images.dtype)
    return correlate(images, kernel.reshape(1, *kernel.shape, *(1,) * (images.ndim - 3)), mode="reflect")


def _line_kernel(length: float, angle: float) -> Float[np.ndarray, "s s"]:
    """The line's weight, shared among the four pixels about each of its points (bilinear); sum 1, point-symmetric."""
    reach = int(np.ceil(length / 2))
    steps = np.linspace(-length / 2, length / 2, 2 * (8 * reach) + 1) if reach else np.zeros(1)
    rows, columns = -steps * np.sin(angle), steps * np.cos(angle)
    grid = np.arange(-reach, reach + 1)
    hat = lambda place: np.maximum(1 - np.abs(grid[:, None] - place), 0)  # noqa: E731
    kernel = hat(rows) @ hat(columns).T
    return (kernel + kernel[::-1, ::-1]) / (2 * kernel.sum())


def jpeg(images: Images, quality: int) -> Images:
    """Each image through JPEG of this quality, 1 (worst) to 95, by pillow: rounded to 8 bits, then 8 x 8 blocks, colour
    at half resolution (4:2:0). AO uses 15 to 90. Raises `ValueError` for another quality, and unless images lie in
    [-1, 1] and have 1 or 3 channels.
    """
    from PIL import Image

    _check(images)
    require_between("images", images, -1.0, 1.0)
    require(1 <= quality <= 95, "quality", quality, "an integer from 1 to 95")
    channels = 1 if images.ndim == 3 else images.shape[3]
    require(channels in (1, 3), "images", f"{channels} channels", "grey or of 3 channels")
    shape = images.shape[1:3] if channels == 1 else images.shape[1:]
    out = np.empty_like(images)
    for index, image in enumerate(np.round((images + 1) * 127.5).astype(np.uint8)):
        stream = io.BytesIO()
        Image.fromarray(image.reshape(shape)).save(stream, "JPEG", quality=int(quality))
        out[index] = (np.asarray(Image.open(stream)) / 127.5 - 1.0).reshape(images.shape[1:])
    return out


def random_masks(images: Images, share: float, *, seed: int = 0, box: int = 1) -> Bool[np.ndarray, "n h w"]:
    """For each image a mask, true where pixels are lost: boxes of `box` x `box` pixels on a grid, each independently
    with probability `share` in [0, 1]. Deterministic in `seed`. Raises `ValueError` for another share or box < 1.
    """
    _check(images)
    require_between("share", share, 0.0, 1.0)
    require(box >= 1, "box", box, "at least 1 pixel")
    n, height, width = images.shape[:3]
    lost = np.random.default_rng(seed).random((n, -(-height // box), -(-width // box))) < share
    return np.repeat(np.repeat(lost, box, axis=1), box, axis=2)[:, :height, :width]


def masked(images: Images, lost: Bool[np.ndarray, "n h w"], *, fill: float = 0.0) -> Images:
    """The images with `fill` where `lost` is true. Raises `ValueError` where the mask does not fit."""
    _check(images)
    require(lost.shape == images.shape[:3], "lost", f"shape {lost.shape}", f"of shape {images.shape[:3]}")
    hidden = lost.reshape(lost.shape + (1,) * (images.ndim - 3))
    return np.where(hidden, np.asarray(fill, images.dtype), images)
