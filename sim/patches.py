"""Patches of photographs for training and for comparison, which share no pixel; and ways to degrade them.

Each bundled photograph (scikit-learn ships two) is cut into square tiles, coloured like a chessboard: patches for
training come from the tiles of one colour, patches for comparison from the other, so both sets see every part of both
pictures and no patch reaches into another's tile. Of a user's images the even-numbered ones are for training, the
others for comparison. Within a tile or image patches lie on a grid of the widest stride that still yields the number
asked for: `side` means that no two patches overlap.

Patches of two photographs are not independent draws of "natural images": with few tiles, two halves of one picture
differ by more than sampling noise, which is why distances are debiased by those between halves (`debiased_distance`).

Images lie in [-1, 1], shape (n, h, w) for grey or (n, h, w, c) for colour; degradations keep shape and float type.
"""

import functools
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import ArrayLike, Float, Int

from sim.distances import debiased_wasserstein2_squared
from theory._checks import require, require_between, require_finite
from theory.data import load_npz

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
    images, size = photographs(colour=colour, shrink=shrink), TILE * side
    tiles = [(k, i, j) for k, image in enumerate(images) for i, j in np.ndindex(*(n // size for n in image.shape[:2]))]
    corners = np.array([(k, i * size, j * size) for k, i, j in tiles], int).reshape(-1, 3)
    odd = np.array([(i + j) % 2 for _, i, j in tiles])
    room, halves = ((TILE - 1) * side,) * 2, []
    for parity, (name, count) in enumerate((("n_train", n_train), ("n_test", n_test))):
        require(count >= 0, name, count, "at least 0")
        places = _places(corners[odd == parity], room, side, count)
        require(count <= len(places), name, count, f"at most {len(places)} patches of {side} x {side} pixels")
        halves.append(places)
    return _cut(images, halves, side, (n_train, n_test), seed)


def patch_sets(
    side: int, n_train: int, n_test: int, *, shrink: int = 1, seed: int = 0, data: Path | None = None
) -> PatchSets:
    """Grey patches of the photographs (`photograph_patches`), or at most so many of a user's images.

    `data`: an .npz file with images (`theory.data.load_npz`), used at full size: patches for training are of the even-
    numbered ones, for comparison of the others; colour becomes grey as `GREY` says (other numbers of channels: their
    mean), and values beyond [-1, 1] are scaled into it. Raises `DataError` for a bad file or one without images,
    `ValueError` where the images are smaller than `side`, and as `photograph_patches` does.
    """
    if data is None:
        return photograph_patches(side, n_train, n_test, shrink=shrink, seed=seed)
    require(side >= 1, "side", side, "at least 1 pixel")
    grey = _grey_images(data, data.stat().st_mtime_ns if data.exists() else 0)
    shape = grey.shape[1:]
    require(min(shape) >= side, "data", f"images of {shape[0]} x {shape[1]}", f"of at least {side} x {side} pixels")
    corners, room = np.array([(k, 0, 0) for k in range(len(grey))]), (shape[0] - side, shape[1] - side)
    halves = [_places(corners[half::2], room, side, count) for half, count in enumerate((n_train, n_test))]
    return _cut(grey, halves, side, (n_train, n_test), seed)


@functools.lru_cache(maxsize=1)
def _grey_images(data: Path, changed: int) -> Float[np.ndarray, "n h w"]:
    """The file's images, grey, within [-1, 1]; `changed`: when it last was, as one name may come to hold other data."""
    images = load_npz(data).images
    grey = images @ GREY if images.shape[-1] == 3 else images.mean(axis=-1)
    return grey / max(1.0, float(np.abs(grey).max()))


def _cut(
    images: Sequence[np.ndarray] | np.ndarray, halves: list[np.ndarray], side: int, counts: tuple[int, int], seed: int
) -> PatchSets:
    """Up to so many patches at random ones of the places."""
    rng = np.random.default_rng(seed)
    chosen = [places[rng.permutation(len(places))[:count]] for places, count in zip(halves, counts, strict=True)]
    empty = np.empty((0, side, side, *images[0].shape[2:]))
    sets = [
        np.stack([images[k][i : i + side, j : j + side] for k, i, j in part]) if len(part) else empty for part in chosen
    ]
    return PatchSets(*sets, *chosen)


def _places(corners: Int[np.ndarray, "k 3"], room: tuple[int, int], side: int, count: int) -> Int[np.ndarray, "n 3"]:
    """Positions at the widest stride, up to `side`, that gives at least `count` of them, or all; `corners`: of equal
    regions, each with `room` rows and columns to go."""
    for stride in range(side, 0, -1):
        rows, columns = (np.arange(0, size + 1, stride) for size in room)
        if len(corners) * len(rows) * len(columns) >= count:
            break
    shifts = np.array([(0, i, j) for i in rows for j in columns])
    return (corners[:, None] + shifts).reshape(-1, 3)


def without_mean(images: Float[np.ndarray, "n h w ..."]) -> Float[np.ndarray, "n h w ..."]:
    """Each image less its own mean: its detail. Brightness, which is hardly degraded or hard to sample, would else be
    nearly all of a distance."""
    return images - images.mean(axis=(1, 2), keepdims=True)


def debiased_distance(x: Float[ArrayLike, "n ..."], y: Float[ArrayLike, "m ..."]) -> float:
    """Debiased W2² (see `sim.distances`) of two sets of images or points, of mean 0 on equal laws: with X, X' and Y, Y'
    the halves of `x` and `y`, ½ W2²(X, Y) + ½ W2²(X', Y') - ½ W2²(X, X') - ½ W2²(Y, Y').

    Raises `ValueError` for sets of less than 2, and as `wasserstein2_squared` does.
    """
    require(min(np.shape(x)[0], np.shape(y)[0]) >= 2, "x and y", (np.shape(x), np.shape(y)), "at least 2 each")
    x1, x2, y1, y2 = (half for images in (x, y) for half in _halves(np.asarray(images)))
    both = [np.stack(pair) for pair in ((x1, x2), (x2, x1), (y1, y2), (y2, y1))]
    return float(debiased_wasserstein2_squared(*both).debiased)


def _halves(images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The first and the second half, flattened; the last of an odd number is left out."""
    flat, half = images.reshape(len(images), -1), len(images) // 2
    return flat[:half], flat[half : 2 * half]


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
