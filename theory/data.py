"""Labelled data for `prescribe`: features or images with integer classes, from an .npz file or from scikit-learn.

A data set is n points x_i in R^d with labels y_i in {0, ..., K - 1}. Images are points too: pixels (and channels) in
row-major order, d = H W C. Whoever makes a `DataSet` gets its checks: finite numbers, one label per point, integer
labels that use every class, at least two points in each class. Every mistake is a `DataError` with one sentence that
names what was given and what is allowed; pickled arrays are never unpickled.
"""

import functools
import zipfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from theory._checks import InputError, require

BUILTIN = ("digits", "photographs")
"""Names that `load_builtin` knows."""
PATCH = 32
"""Side, in pixels, of the square patches cut from the two photographs."""
KEYS = "'features' (n, d) and 'labels' (n,), or 'images' (n, H, W) or (n, H, W, C) with or without 'labels'"
LARGEST = 1e100
"""Entries beyond this are refused: their squares and fourth powers would overflow or lose all meaning."""


class DataError(InputError):
    """A data set or file that cannot be used; the message names what was given and what is allowed."""


_require = functools.partial(require, error=DataError)


def _as_points(argument: str, values: Any) -> Float[np.ndarray, "..."]:
    array = np.asarray(values)
    _require(array.dtype.kind in "iuf", argument, f"dtype {array.dtype}", "real numbers")
    _require(array.size > 0, argument, f"shape {array.shape}", "non-empty")
    bad = np.argwhere(~np.isfinite(array))
    if bad.size:
        at = f", the first in row {bad[0][0]}" if array.ndim > 1 else ""
        _require(False, argument, f"{len(bad)} non-finite of {array.size} entries{at}", "finite")
    points = array.astype(np.float64)
    largest = float(np.max(np.abs(points)))
    _require(largest <= LARGEST, argument, f"an entry of size {largest:.3g}", f"at most {LARGEST:g} in size")
    return points


def _as_matrix(features: Any) -> Float[np.ndarray, "n d"]:
    points = _as_points("features", features)
    _require(points.ndim == 2, "features", f"shape {points.shape}", "of shape (n, d)")
    return points


def _as_labels(values: Any, n: int) -> Int[np.ndarray, " n"]:
    labels = np.asarray(values)
    _require(labels.dtype.kind in "iu", "labels", f"dtype {labels.dtype}", "integers")
    _require(labels.shape == (n,), "labels", f"shape {labels.shape}", f"one per point, shape ({n},)")
    _require(n >= 2, "data set", f"{n} point", "at least 2 points")
    smallest, largest = int(labels.min()), int(labels.max())
    _require(smallest >= 0, "labels", f"label {smallest} in row {labels.argmin()}", "0, 1, ..., K - 1")
    _require(largest < n, "labels", f"label {largest} with {n} points", "0, 1, ..., K - 1 with K at most n / 2")
    counts = np.bincount(labels.astype(np.int64))
    empty, few = np.flatnonzero(counts == 0), np.flatnonzero(counts == 1)
    _require(empty.size == 0, "labels", f"no point of class {_some(empty)}", f"every class from 0 to {largest}")
    _require(few.size == 0, "labels", f"one point of class {_some(few)}", "at least 2 points in each class")
    return labels.astype(np.int64)


def _some(classes: Int[np.ndarray, " k"]) -> str:
    shown = ", ".join(str(c) for c in classes[:5])
    return shown if classes.size <= 5 else f"{shown}, ... ({classes.size} classes)"


@dataclass(frozen=True, eq=False)
class DataSet:
    """n labelled points in R^d, checked; make one with `from_features` or `from_images`.

    **Fields:**

    - `name`, `description`: what it is, and in which units (one sentence).
    - `features`: (n, d) float64. `labels`: (n,) int64 in 0 ... K - 1, every class used at least twice.
    - `image_shape`: (H, W) or (H, W, C) if the points are images, else None.
    - `labelled`: False for images that came without labels (all are then of class 0).
    - `class_names`: K names.

    Raises `DataError` (a `ValueError`) for anything else.
    """

    name: str
    features: Float[np.ndarray, "n d"]
    labels: Int[np.ndarray, " n"]
    image_shape: tuple[int, ...] | None = None
    labelled: bool = True
    description: str = ""
    class_names: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        points = _as_matrix(self.features)
        labels = _as_labels(self.labels, len(points))
        count = int(labels.max()) + 1
        names = self.class_names or tuple(str(k) for k in range(count))
        _require(len(names) == count, "class_names", f"{len(names)} names", f"{count} names")
        for attribute, value in (("features", points), ("labels", labels), ("class_names", names)):
            object.__setattr__(self, attribute, value)

    @classmethod
    def from_features(cls, features: Any, labels: Any, *, name: str = "features") -> "DataSet":
        """Points of shape (n, d) with integer labels of shape (n,); raises `DataError` for bad input."""
        points = _as_matrix(features)
        return cls(name, points, _as_labels(labels, len(points)), description="features as given")

    @classmethod
    def from_images(cls, images: Any, labels: Any = None, *, name: str = "images") -> "DataSet":
        """Images of shape (n, H, W) or (n, H, W, C), with labels (n,) or without; raises `DataError` for bad input.

        Unsigned bytes are scaled from 0 ... 255 to [-1, 1]; any other numbers are used as they are.
        """
        raw = np.asarray(images)
        pixels = _as_points("images", raw)
        _require(pixels.ndim in (3, 4), "images", f"shape {pixels.shape}", "of shape (n, H, W) or (n, H, W, C)")
        is_bytes = raw.dtype == np.uint8
        return cls(
            name,
            (pixels / 127.5 - 1.0 if is_bytes else pixels).reshape(len(pixels), -1),
            _as_labels(np.zeros(len(pixels), np.int64) if labels is None else labels, len(pixels)),
            image_shape=pixels.shape[1:],
            labelled=labels is not None,
            description="pixels scaled from 0 ... 255 to [-1, 1]" if is_bytes else "pixels as given",
        )

    @property
    def n(self) -> int:
        """Number of points."""
        return len(self.features)

    @property
    def d(self) -> int:
        """Dimension of a point."""
        return int(self.features.shape[1])

    @property
    def n_classes(self) -> int:
        """Number of classes K."""
        return int(self.labels.max()) + 1

    @property
    def images(self) -> Float[np.ndarray, "n h w c"]:
        """The points as images with a channel axis (C = 1 for grey); raises `DataError` if they are not images."""
        if self.image_shape is None:
            raise DataError(f"'{self.name}' must be a set of images for this; got plain features.")
        height, width = self.image_shape[:2]
        return self.features.reshape(self.n, height, width, -1)


def load_npz(path: str | Path) -> DataSet:
    """Read a data set from an .npz file with the keys `features` and `labels`, or `images` and perhaps `labels`.

    Raises `DataError` for a file that is missing, unreadable, truncated, not an .npz, without these keys, or with
    pickled arrays (never loaded), and for every bad array (see `DataSet`).
    """
    file = Path(path)
    _require(file.is_file(), "data file", f"'{file}', which is no file", "the path of an .npz file")
    arrays = read_arrays(file, ("features", "images", "labels"))
    if "images" in arrays and "features" in arrays:
        raise DataError(f"'{file}' must hold either 'features' or 'images'; got both.")
    if "images" in arrays:
        return DataSet.from_images(arrays["images"], arrays.get("labels"), name=file.stem)
    if "features" in arrays and "labels" in arrays:
        return DataSet.from_features(arrays["features"], arrays["labels"], name=file.stem)
    raise DataError(f"'{file}' must hold the keys {KEYS}; got {sorted(arrays) or 'none'} of these.")


def read_arrays(file: Path, keys: Iterable[str]) -> dict[str, np.ndarray]:
    """Those of an .npz file's arrays that have these `keys`.

    Raises `DataError` for a file that is unreadable, truncated or not an .npz, and for pickled arrays (never loaded).
    """
    try:
        _refuse_other_formats(file)
        with np.load(file, allow_pickle=False) as archive:
            arrays = {key: archive[key] for key in keys if key in archive.files}
    except DataError:
        raise
    except PermissionError:
        raise DataError(f"'{file}' must be readable; got permission denied.") from None
    except MemoryError:
        raise DataError(f"'{file}' must hold arrays that fit into memory; got larger ones.") from None
    except (OSError, EOFError, KeyError, SyntaxError, zipfile.BadZipFile, zlib.error, NotImplementedError) as error:
        reason = f"got one that is damaged or cut short ({error})"
        raise DataError(f"'{file}' must be an intact .npz file; {reason}.") from None
    except ValueError as error:
        raise DataError(_explain(file, str(error))) from None
    strange = [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]
    _require(not strange, f"'{file}'", f"something else under {strange}", "an .npz file that holds arrays")
    return arrays


def _explain(file: Path, message: str) -> str:
    if "pickle" in message.lower():
        return f"'{file}' must hold plain numeric arrays; got pickled objects, which are never loaded."
    return f"'{file}' must be an intact .npz file; got one that is damaged ({message})."


def _refuse_other_formats(file: Path) -> None:
    with file.open("rb") as stream:
        head = stream.read(6)
    if zipfile.is_zipfile(file):
        return
    if head.startswith(b"\x93NUMPY"):
        given = "a single array in .npy format (save it with numpy.savez)"
    elif head.startswith(b"PK"):
        given = "one that is cut short"
    else:
        given = "another format" if head else "an empty file"
    raise DataError(f"'{file}' must be an intact .npz file; got {given}.")


def load_builtin(name: str) -> DataSet:
    """A real data set that scikit-learn ships, no download: one of `BUILTIN`.

    - "digits": 1797 handwritten digits, 8 x 8 grey pixels scaled from 0 ... 16 to [-1, 1], 10 classes.
    - "photographs": two photographs cut into 32 x 32 colour patches without overlap (520 in all), pixels scaled from
      0 ... 255 to [-1, 1], the class being the photograph.

    Raises `DataError` for any other name.
    """
    _require(name in BUILTIN, "builtin", repr(name), "one of " + ", ".join(BUILTIN))
    return _digits() if name == "digits" else _photographs()


def _digits() -> DataSet:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return DataSet(
        "digits",
        bunch.data / 8.0 - 1.0,
        bunch.target.astype(np.int64),
        image_shape=(8, 8),
        description="1797 handwritten digits, 8 x 8 grey pixels scaled from 0 ... 16 to [-1, 1]",
        class_names=tuple(str(k) for k in range(10)),
    )


def _photographs() -> DataSet:
    from sklearn.datasets import load_sample_images

    bunch = load_sample_images()
    patches = [cut_patches(image, PATCH) for image in bunch.images]
    labels = np.repeat(np.arange(len(patches)), [len(p) for p in patches])
    pixels = np.concatenate(patches) / 127.5 - 1.0
    return DataSet(
        "photographs",
        pixels.reshape(len(pixels), -1),
        labels,
        image_shape=pixels.shape[1:],
        description=(
            f"two photographs cut into {PATCH} x {PATCH} colour patches, pixels scaled from 0 ... 255 to [-1, 1]; "
            "patches of one photograph are not independent draws"
        ),
        class_names=tuple(Path(name).stem for name in bunch.filenames),
    )


def cut_patches(image: np.ndarray, side: int) -> np.ndarray:
    """Square patches (m, side, side, C) of an image (H, W, C), row by row, no overlap; a rest at the border is dropped.

    Raises `DataError` if the image is smaller than one patch or `side` is not positive.
    """
    _require(side >= 1, "side", side, "a positive number of pixels")
    _require(image.ndim == 3, "image", f"shape {image.shape}", "of shape (H, W, C)")
    rows, columns = image.shape[0] // side, image.shape[1] // side
    _require(rows >= 1 and columns >= 1, "image", f"shape {image.shape}", f"at least {side} x {side} pixels")
    cropped = image[: rows * side, : columns * side]
    blocks = cropped.reshape(rows, side, columns, side, image.shape[2]).swapaxes(1, 2)
    return blocks.reshape(rows * columns, side, side, image.shape[2])
