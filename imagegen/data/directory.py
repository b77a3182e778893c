"""Folders of data, recognised by what is in them: prepared records, tar shards, or images by class.

    DIR/manifest.json                       written by `python -m imagegen prepare`
    DIR/00000.tar, ...                      img2dataset's shards (`imagegen.data.tars`)
    DIR/CLASS/IMAGE.jpg, ...                a folder per class (`imagegen.data.folder`)

Shards and classes may lie in DIR/train and DIR/val, or else DIR/test: these are the splits "train" and "test". Without
the latter a fifth, but at most `MOST_HELD_OUT` images, is held out of each class in equal shares, always the same.
"""

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np

from imagegen._names import require_one_of
from imagegen.data.files import Files, FileSource
from imagegen.data.folder import ImageFolder, class_folders, is_image
from imagegen.data.latents import CONTENT as LATENTS
from imagegen.data.latents import LatentSource
from imagegen.data.records import MANIFEST, Prepared, read_manifest
from imagegen.data.skips import BAD_SHARE, require_few
from imagegen.data.splits import SPLITS, held_out
from imagegen.data.tars import TarShards, tar_files
from theory._checks import require

MOST_HELD_OUT = 10_000
"""Images held out at most, where there is no DIR/val."""
TRAIN, TEST = "train", ("val", "test")
"""Folders of the splits, where there are any: the first of TEST that is there."""
EXPECTED = "a folder with one folder of images per class, img2dataset's shards *.tar, or what `prepare` wrote"


def from_directory(root: Path, split: str, resolution: int = 0, bad_share: float = BAD_SHARE) -> FileSource:
    """The images in a folder (module's top), cropped to `resolution` >= 1 pixels; read as they are needed. Prepared
    ones have their own, and `resolution` may be 0.

    Raises `ValueError` for an unknown split, a folder of other contents, saying what was found, a resolution that is
    not given, a `bad_share` outside [0, 1], more than that share left out by the listing, a DIR/val or DIR/test of
    images without classes, and what `ImageFolder`, `TarShards` and `Prepared` refuse. (Of prepared data the share was
    minded when they were prepared.)
    """
    require_one_of("split", split, SPLITS)
    require(root.is_dir(), "data", f"'{root}', which is no folder", EXPECTED)
    need = "the side of the images in pixels, at least 1, for images in files: --resolution 256"
    if (root / MANIFEST).is_file():
        return _prepared(root, split, resolution, bad_share)
    require(resolution >= 1, "resolution", resolution, need)
    training = root / TRAIN
    if not training.is_dir():
        return _held_out(root.name, _few(root, _files(root)(root), bad_share), split, resolution, bad_share)
    kind, testing = _files(training), next((root / name for name in TEST if (root / name).is_dir()), None)
    files = _few(training, kind(training), bad_share)
    if testing is None:
        return _held_out(root.name, files, split, resolution, bad_share)
    if kind is ImageFolder:
        _require_classes(testing)
    if split == "test":
        files = _few(testing, kind(testing, files.class_names), bad_share)
    return FileSource(root.name, files, np.arange(files.labels.size), resolution, bad_share)


def _prepared(root: Path, split: str, resolution: int, bad_share: float) -> FileSource:
    manifest = read_manifest(root)
    side, kind = manifest["resolution"], LatentSource if manifest["content"] == LATENTS else FileSource
    require(resolution in (0, side), "resolution", resolution, f"{side}, as '{root}' was prepared, or left out")
    files = Prepared(root, split)
    return kind(root.name, files, np.arange(files.labels.size), side, bad_share)


def _require_classes(testing: Path) -> None:
    """Refuse, whichever split is read, a val or test without classes: ImageNet's archives unpack to such ones."""
    allowed = (
        "a folder with one folder of images per class, named as in 'train': sort its images into them (ImageNet's by "
        "WordNet id), or rename it: without val and test a share of 'train' is held out"
    )
    require(len(class_folders(testing)) >= 1, f"'{testing}'", "no folder in it", allowed)


def _few(root: Path, files: Files, bad_share: float) -> Files:
    """The files, if their listing left out few enough."""
    require_few(str(root), files.left_out, files.labels.size, bad_share)
    return files


def _held_out(name: str, files: Files, split: str, resolution: int, bad_share: float) -> FileSource:
    n = files.labels.size
    test = held_out(files.labels, min(n // 5, MOST_HELD_OUT))
    rows = test if split == "test" else np.setdiff1d(np.arange(n), test)
    return FileSource(name, files, rows, resolution, bad_share)


def _files(root: Path) -> Callable[..., Files]:
    """What reads the files in `root`."""
    if tar_files(root):
        return TarShards
    entries = list(itertools.islice((entry for entry in root.iterdir() if not entry.name.startswith(".")), 1000))
    folders, images = len(class_folders(root)), sum(is_image(entry.name) for entry in entries)
    among = ", ".join(sorted(entry.name for entry in entries)[:5])
    given = f"{folders} folders, {images} images and {len(entries) - folders - images} other files ({among})"
    require(folders >= 1, f"'{root}'", given if entries else "an empty folder", EXPECTED)
    return ImageFolder
