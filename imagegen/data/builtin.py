"""Built-in image sources, nothing downloaded, by name and split: `make_source("digits", "train")`.

- "digits": 1797 handwritten digits, 8 x 8 grey, 10 classes; 1297 for training, 500 held out, stratified by class.
- "photographs": 32 x 32 colour patches of two photographs, labelled by photograph; those for training (which overlap
  one another) and those held out come from disjoint regions (`sim.patches`).
- "shapes": generated coloured shapes with captions, 32 x 32 colour (`imagegen.data.shapes`).
- the path of an .npz file: a user's images (`theory.data.load_npz`), a fifth of them held out, stratified by class; of
  those that the file's boolean array `degraded` calls of low quality, if it has one, none is held out.
- the path of a folder: images by class, tar shards, or prepared records (`imagegen.data.directory`).

The splits are the same on every machine and for every seed of a run.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Shaped

from imagegen._names import require_one_of
from imagegen.data.directory import from_directory
from imagegen.data.shapes import Shapes
from imagegen.data.skips import BAD_SHARE
from imagegen.data.source import ArraySource, Source
from imagegen.data.splits import SPLITS, held_out
from theory._checks import require
from theory.data import DataSet, load_builtin, load_npz, read_arrays

DIGITS_TEST = 500
"""Held-out digits."""
PATCH, PATCHES = 32, {"train": 4000, "test": 500}
"""Side of the photographs' patches in pixels, and their numbers."""
SHAPES = {"train": 6400, "test": 960}
"""Numbers of shapes, multiples of their classes."""


def digits(split: str) -> ArraySource:
    """The handwritten digits of this split, shape (8, 8, 1). Raises `ValueError` for an unknown split."""
    return _split(load_builtin("digits"), split, DIGITS_TEST)


def photographs(split: str) -> ArraySource:
    """Patches of the two photographs, shape (32, 32, 3), the class being the photograph. Raises `ValueError` for an
    unknown split.
    """
    from sim.patches import photograph_patches

    require_one_of("split", split, SPLITS)
    sets = photograph_patches(PATCH, PATCHES["train"], PATCHES["test"], colour=True)
    images, positions = (sets.train, sets.train_positions) if split == "train" else (sets.test, sets.test_positions)
    names = load_builtin("photographs").class_names
    return ArraySource("photographs", images.astype(np.float32), positions[:, 0], names)


def shapes(split: str) -> Shapes:
    """Captioned shapes, shape (32, 32, 3), drawn as they are read. Raises `ValueError` for an unknown split."""
    require_one_of("split", split, SPLITS)
    return Shapes(SHAPES[split], seed=SPLITS.index(split))


SOURCES: dict[str, Callable[[str], Source]] = {"digits": digits, "photographs": photographs, "shapes": shapes}
"""The built-in sources by name, as functions of the split."""


def make_source(name: str, split: str = "train", *, resolution: int = 0, bad_share: float = BAD_SHARE) -> Source:
    """The source of this name (one of `SOURCES`, or the path of an .npz file or a folder), split "train" or "test".

    `resolution`: side in pixels of images from a folder, 0 for all others; `bad_share`: what share of those images may
    be unreadable. Raises `ValueError` for another name or split, suggesting the nearest, for a resolution that is
    missing or has no effect, and for a file or folder that cannot be used.
    """
    require_source(name)
    if is_folder(name):
        return from_directory(Path(name), split, resolution, bad_share)
    require(resolution == 0, "resolution", resolution, f"0 (left out) for '{name}': only images in folders are scaled")
    return from_npz(Path(name), split) if name.endswith(".npz") else SOURCES[name](split)


def is_folder(name: str) -> bool:
    """Whether data of this name are a folder of files."""
    return name not in SOURCES and not name.endswith(".npz") and Path(name).is_dir()


def require_source(name: str) -> None:
    """Raise `InputError` for a name of no source, suggesting the nearest; nothing is read."""
    if not name.endswith(".npz") and not is_folder(name):
        require_one_of("data", name, SOURCES, other=", the path of an .npz file, or that of a folder")


def from_npz(path: Path, split: str) -> ArraySource:
    """A user's images: `images`, (n, H, W) or (n, H, W, C), unsigned bytes or numbers in [-1, 1], and `labels`, if any;
    `degraded`, if any, booleans (n,): which are of low quality.

    Raises `ValueError` for an unknown split, a file that is bad (`load_npz`) or holds no images, fewer than 5 good
    images, numbers beyond [-1, 1] or none below 0, and images with channels before rows.
    """
    data = load_npz(path)
    extras = read_arrays(path, ("degraded",))
    _check_layout(path, data)
    degraded = extras.get("degraded", np.zeros(data.n, bool))
    given = f"{degraded.dtype} of shape {degraded.shape}"
    require(degraded.dtype == bool and degraded.shape == (data.n,), "degraded", given, f"booleans of shape ({data.n},)")
    good = data.n - int(degraded.sum())
    require(
        good >= 5,
        f"'{path}'",
        f"{good} images",
        "a set of at least 5 images, the degraded not counted: a fifth is held out",
    )
    return _split(data, split, good // 5, extras)


def _check_layout(path: Path, data: DataSet) -> None:
    """Refuse what is likely meant otherwise: channels first, and numbers in [0, 1]."""
    shape = data.image_shape or ()
    first = len(shape) == 3 and shape[0] in (1, 3, 4) and shape[2] > 4
    require(not first, f"images in '{path}'", f"shape (n, {', '.join(map(str, shape))})", "(n, H, W, C), channels last")
    low, high = float(data.features.min()), float(data.features.max())
    unsigned = 0 <= low < high <= 1 and data.image_shape is not None
    require(not unsigned, f"images in '{path}'", f"numbers from {low:.3g} to {high:.3g}",
            "unsigned bytes, or numbers in [-1, 1] (2 x - 1 for x in [0, 1])")  # fmt: skip


def _split(
    data: DataSet, split: str, n_test: int, extras: Mapping[str, Shaped[np.ndarray, "..."]] | None = None
) -> ArraySource:
    """Hold out `n_test` images, none of them `degraded` by the extras."""
    require_one_of("split", split, SPLITS)
    extras = extras or {}
    whole = ArraySource(data.name, data.images, data.labels, data.class_names, extras)  # names indices of the file
    good = np.flatnonzero(~extras["degraded"]) if "degraded" in extras else np.arange(data.n)
    test = good[held_out(data.labels[good], n_test)]
    chosen = test if split == "test" else np.setdiff1d(np.arange(data.n), test)
    return whole.subset(chosen)
