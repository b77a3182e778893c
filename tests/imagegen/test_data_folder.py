"""Folders of images by class: all images in order, with their classes; listed once until something changes."""

import os

import numpy as np
import pytest

from imagegen.data import folder as module
from imagegen.data.folder import ImageFolder
from tests.imagegen.disk import CLASSES, write_folder


@pytest.fixture
def root(tmp_path):
    return write_folder(tmp_path / "data", per_class=3, splits=())


def found(files):
    return [(files.key(k), int(files.labels[k]), files.read(k)[0]) for k in range(files.labels.size)]


def walked(root):
    """By another route."""
    paths = sorted(path for path in root.rglob("*") if path.suffix in (".JPEG", ".png") and path.name[0] != ".")
    classes = sorted({path.parent.name for path in paths})
    return [(str(path.relative_to(root)), classes.index(path.parent.name), path.read_bytes()) for path in paths]


def test_images_come_in_order_with_their_classes(root):
    files = ImageFolder(root)
    assert files.class_names == CLASSES
    assert found(files) == walked(root)
    assert len(found(files)) == 9
    assert files.left_out == ()


def test_other_files_are_counted_and_left_out(root):
    (root / CLASSES[1] / "notes.txt").write_text("x")
    (root / CLASSES[1] / ".hidden.JPEG").write_text("x")
    (root / CLASSES[2] / "deeper").mkdir()
    (root / ".git").mkdir()
    (root / "README").write_text("x")
    files = ImageFolder(root)
    (part,) = files.left_out
    assert (part.why, part.count) == ("no image by its name", 3)
    assert part.first == (f"{CLASSES[1]}/.hidden.JPEG", f"{CLASSES[1]}/notes.txt", f"{CLASSES[2]}/deeper")
    assert len(found(files)) == 9


def test_a_listing_is_made_once_and_anew_after_a_change(root, monkeypatch):
    made, listing = [], module._listing
    monkeypatch.setattr(module, "_listing", lambda *given: made.append(given) or listing(*given))
    before = sorted(path for path in root.rglob("*"))
    for _ in range(2):
        assert found(ImageFolder(root)) == walked(root)
    assert len(made) == 1
    assert sorted(path for path in root.rglob("*")) == before  # nothing is written beside the data
    (root / CLASSES[0] / "a.png").write_bytes(b"x")
    assert found(ImageFolder(root)) == walked(root)
    (root / CLASSES[0] / "a.png").rename(root / CLASSES[2] / "a.png")
    assert found(ImageFolder(root)) == walked(root)
    assert len(made) == 3


def test_without_a_cache_it_works_too(root, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert found(ImageFolder(root)) == found(ImageFolder(root)) == walked(root)


def test_a_damaged_cache_is_made_anew(root):
    ImageFolder(root)
    for file in (module.Path(os.environ["XDG_CACHE_HOME"]) / "patina").iterdir():
        file.write_bytes(file.read_bytes()[:100])
    assert found(ImageFolder(root)) == walked(root)


def test_another_split_has_the_classes_of_the_first(root):
    for path in (root / CLASSES[0]).iterdir():
        path.unlink()
    (root / CLASSES[0]).rmdir()
    files = ImageFolder(root, CLASSES)
    np.testing.assert_array_equal(files.labels, [1, 1, 1, 2, 2, 2])
    assert files.key(0) == f"{CLASSES[1]}/{CLASSES[1]}_0.JPEG"
    with pytest.raises(ValueError, match=r"must be of the 2 classes known; got \['n03000684'\]"):
        ImageFolder(root, CLASSES[:2])


def test_folders_without_images_are_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="must be a folder of folders of images, one per class; got no image in any"):
        ImageFolder(tmp_path)
