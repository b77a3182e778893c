"""A folder of images with one folder per class, as ImageNet's: ROOT/n01440764/n01440764_10026.JPEG.

The classes are the folders in the order of their names (WordNet ids, say), the images of a class its files in the order
of theirs. Files are known for images by the ends of their names; others, and folders within those of the classes, are
left out and counted. The listing is kept (`imagegen.data.cache`) until the folder of a class comes, goes, or changes.
"""

import os
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Shaped
from tqdm import tqdm

from imagegen.data.cache import Arrays, cached
from imagegen.data.files import Files
from imagegen.data.skips import as_json, from_json, left_out
from theory._checks import require

ENDINGS = (".jpeg", ".jpg", ".png", ".webp", ".bmp", ".gif", ".ppm", ".tif", ".tiff")
"""Of names of images, in small letters."""


class ImageFolder(Files):
    """The images in `root`; `class_names` names the classes where another split has them, by default its folders.

    Raises `ValueError` for a root without class folders or images, and folders other than the named classes.
    """

    def __init__(self, root: Path, class_names: tuple[str, ...] | None = None) -> None:
        folders = class_folders(root)
        self.root = root
        self.class_names = tuple(folders) if class_names is None else class_names
        number = {name: k for k, name in enumerate(self.class_names)}
        unknown = [name for name in folders if name not in number]
        require(not unknown, f"folders in '{root}'", f"{unknown[:3]}", f"of the {len(self.class_names)} classes known")
        listing = cached(root, {"folders": folders}, lambda: _listing(root, list(folders)))
        self._names: Shaped[np.ndarray, " n"] = listing["names"]
        places = np.array([number[name] for name in folders], np.int32)
        self.labels = np.repeat(places, listing["counts"])
        self.left_out = from_json(str(listing["left_out"]))
        require(self.labels.size >= 1, f"'{root}'", "no image in any", "a folder of folders of images, one per class")

    def key(self, index: int) -> str:
        """Class and file name."""
        return f"{self.class_names[self.labels[index]]}/{os.fsdecode(self._names[index])}"

    def read(self, index: int) -> tuple[bytes, dict[str, Any]]:
        """The file's content; nothing else is known. Raises `OSError` where the file cannot be read."""
        return (self.root / self.key(index)).read_bytes(), {}


def class_folders(root: Path) -> dict[str, int]:
    """The folders in `root` but for hidden ones, in the order of their names, with the times of their last change."""
    with os.scandir(root) as entries:
        found = {entry.name: entry.stat().st_mtime_ns for entry in entries
                 if entry.is_dir() and not entry.name.startswith(".")}  # fmt: skip
    return dict(sorted(found.items()))


def is_image(name: str) -> bool:
    """Whether a file is an image by the end of its name."""
    return name.lower().endswith(ENDINGS) and not name.startswith(".")


def _listing(root: Path, folders: list[str]) -> Arrays:
    names: list[bytes] = []
    counts, others = [], []
    for folder in tqdm(folders, desc=f"listing {root.name}", unit="class", disable=None):
        entries = sorted(os.listdir(root / folder))
        images = [os.fsencode(name) for name in entries if is_image(name)]
        others += [(f"{folder}/{name}", "no image by its name") for name in entries if not is_image(name)]
        names += images
        counts.append(len(images))
    return {"names": np.array(names, np.bytes_), "counts": np.array(counts, np.int64),
            "left_out": np.array(as_json(left_out(others)))}  # fmt: skip
