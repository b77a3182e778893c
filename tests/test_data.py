import os
import zipfile

import numpy as np
import pytest

from theory._checks import InputError
from theory.data import BUILTIN, DataError, DataSet, cut_patches, load_builtin, load_npz

FEATURES = np.arange(12.0).reshape(6, 2)
LABELS = np.array([0, 0, 1, 1, 1, 0])


def written(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_features_round_trip(tmp_path):
    data = load_npz(written(tmp_path / "mine.npz", features=FEATURES, labels=LABELS))
    assert (data.name, data.n, data.d, data.n_classes) == ("mine", 6, 2, 2)
    assert data.class_names == ("0", "1")
    assert data.image_shape is None
    np.testing.assert_array_equal(data.features, FEATURES)
    np.testing.assert_array_equal(data.labels, LABELS)


def test_integer_features_become_float64():
    data = DataSet.from_features(FEATURES.astype(np.int16), LABELS.astype(np.uint8))
    assert data.features.dtype == np.float64
    assert data.labels.dtype == np.int64


def test_bytes_are_scaled_and_floats_are_not(tmp_path):
    bytes_ = np.array([0, 255, 51, 204], np.uint8).reshape(2, 1, 2)
    data = load_npz(written(tmp_path / "images.npz", images=bytes_))
    np.testing.assert_allclose(data.features, [[-1, 1], [-0.6, 0.6]], atol=1e-15)
    assert not data.labelled
    assert data.n_classes == 1
    same = DataSet.from_images(bytes_.astype(float))
    np.testing.assert_array_equal(same.features, bytes_.reshape(2, 2))


def test_images_keep_their_axes():
    images = np.random.default_rng(0).normal(size=(6, 3, 4, 2))
    data = DataSet.from_images(images, LABELS)
    np.testing.assert_array_equal(data.images, images)
    grey = DataSet.from_images(images[..., 0], LABELS)
    np.testing.assert_array_equal(grey.images[..., 0], images[..., 0])


def test_plain_features_are_no_images():
    with pytest.raises(DataError, match="set of images"):
        _ = DataSet.from_features(FEATURES, LABELS).images


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"features": FEATURES}, r"keys 'features'.*'images'.*got \['features'\]"),
        ({"labels": LABELS}, r"got \['labels'\]"),
        ({"x": FEATURES, "y": LABELS}, "got none of these"),
        ({"features": FEATURES, "images": FEATURES, "labels": LABELS}, "got both"),
        ({"features": FEATURES, "labels": LABELS + 0.5}, "labels must be integers; got dtype float64"),
        ({"features": FEATURES, "labels": LABELS.astype(float)}, "labels must be integers"),
        ({"features": FEATURES, "labels": LABELS > 0}, "labels must be integers; got dtype bool"),
        ({"features": FEATURES, "labels": LABELS.astype(str)}, "labels must be integers"),
        ({"features": FEATURES, "labels": LABELS[:5]}, r"one per point, shape \(6,\); got shape \(5,\)"),
        ({"features": FEATURES, "labels": LABELS[:, None]}, "one per point"),
        ({"features": FEATURES, "labels": LABELS - 1}, "got label -1 in row 0"),
        ({"features": FEATURES, "labels": 2 * LABELS}, "every class from 0 to 2; got no point of class 1"),
        ({"features": FEATURES, "labels": LABELS + 1}, "got no point of class 0"),
        ({"features": FEATURES, "labels": LABELS + 10**12}, "got label"),
        ({"features": FEATURES, "labels": np.array([0, 0, 0, 0, 0, 1])}, "at least 2 points in each class"),
        ({"features": FEATURES[:1], "labels": LABELS[:1]}, "at least 2 points"),
        ({"features": FEATURES.ravel(), "labels": LABELS}, r"of shape \(n, d\); got shape \(12,\)"),
        (
            {"features": FEATURES * np.nan, "labels": LABELS},
            "finite; got 12 non-finite of 12 entries, the first in row 0",
        ),
        ({"features": np.where(FEATURES == 3, np.inf, FEATURES), "labels": LABELS}, "1 non-finite"),
        ({"features": FEATURES * 1e150, "labels": LABELS}, "at most 1e.100"),
        ({"features": FEATURES.astype(complex), "labels": LABELS}, "real numbers; got dtype complex128"),
        ({"features": FEATURES.astype(str), "labels": LABELS}, "real numbers"),
        ({"features": FEATURES[:0], "labels": LABELS[:0]}, "non-empty"),
        ({"images": FEATURES}, r"of shape \(n, H, W\) or \(n, H, W, C\)"),
        ({"images": np.zeros((1, 4, 4))}, "at least 2 points"),
        ({"images": np.zeros((4, 4, 4)), "labels": LABELS}, r"shape \(4,\)"),
    ],
)
def test_bad_arrays_give_one_clear_sentence(tmp_path, arrays, message):
    path = written(tmp_path / "bad.npz", **arrays)
    with pytest.raises(DataError, match=message) as error:
        load_npz(path)
    assert "\n" not in str(error.value)
    assert isinstance(error.value, InputError | ValueError)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(DataError, match=r"path of an \.npz file"):
        load_npz(tmp_path / "absent.npz")
    with pytest.raises(DataError, match="which is no file"):
        load_npz(tmp_path)


def test_every_truncation_is_refused(tmp_path):
    whole = written(tmp_path / "whole.npz", features=FEATURES, labels=LABELS).read_bytes()
    for size in [1, 5, 30, 100, len(whole) // 2, len(whole) - 30, len(whole) - 1]:
        (tmp_path / "cut.npz").write_bytes(whole[:size])
        with pytest.raises(DataError, match="intact"):
            load_npz(tmp_path / "cut.npz")


@pytest.mark.parametrize(
    ("content", "message"), [(b"", "an empty file"), (b"hello, world", "another format"), (b"PK\x03\x04", "cut short")]
)
def test_other_formats(tmp_path, content, message):
    path = tmp_path / "other.npz"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        load_npz(path)


def test_single_array_file(tmp_path):
    np.save(tmp_path / "one.npy", FEATURES)
    with pytest.raises(DataError, match=r"single array in \.npy format"):
        load_npz(tmp_path / "one.npy")


def test_damaged_member(tmp_path):
    path = written(tmp_path / "damaged.npz", features=FEATURES, labels=LABELS)
    content = bytearray(path.read_bytes())
    content[200] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="intact"):
        load_npz(path)


def test_zip_of_other_things(tmp_path):
    path = tmp_path / "other.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("features.npy", "no array at all")
        archive.writestr("labels.npy", "")
    with pytest.raises(DataError):
        load_npz(path)


def test_pickles_are_never_loaded(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    objects = np.array([Trap()], dtype=object)
    path = written(tmp_path / "pickled.npz", features=objects, labels=LABELS)
    with pytest.raises(DataError, match="pickled objects, which are never loaded"):
        load_npz(path)
    assert not (tmp_path / "executed").exists()


def test_unreadable_file(tmp_path, monkeypatch):
    path = written(tmp_path / "locked.npz", features=FEATURES, labels=LABELS)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("numpy.load", refuse)
    with pytest.raises(DataError, match="readable; got permission denied"):
        load_npz(path)


def test_class_names_must_fit():
    with pytest.raises(DataError, match="class_names must be 2 names; got 3 names"):
        DataSet("x", FEATURES, LABELS, class_names=("a", "b", "c"))


def test_builtin_digits():
    data = load_builtin("digits")
    assert (data.n, data.d, data.n_classes, data.image_shape) == (1797, 64, 10, (8, 8))
    assert (data.features.min(), data.features.max()) == (-1.0, 1.0)


def test_builtin_photographs_are_the_photographs():
    from sklearn.datasets import load_sample_images

    data = load_builtin("photographs")
    first = load_sample_images().images[0]
    assert data.image_shape == (32, 32, 3)
    assert list(np.bincount(data.labels)) == [13 * 20, 13 * 20]
    np.testing.assert_allclose(data.images[21], first[32:64, 32:64] / 127.5 - 1, atol=1e-12)
    assert data.class_names == ("china", "flower")


def test_unknown_builtin_lists_the_known():
    with pytest.raises(DataError, match="one of digits, photographs; got 'faces'"):
        load_builtin("faces")
    assert set(BUILTIN) == {"digits", "photographs"}


def test_patches_tile_the_image_in_order():
    image = np.arange(5 * 7 * 2).reshape(5, 7, 2)
    patches = cut_patches(image, 2)
    assert patches.shape == (6, 2, 2, 2)
    np.testing.assert_array_equal(patches[4], image[2:4, 2:4])
    with pytest.raises(DataError, match="at least 8 x 8 pixels"):
        cut_patches(image, 8)
    with pytest.raises(DataError, match="positive number of pixels"):
        cut_patches(image, 0)
    with pytest.raises(DataError, match=r"shape \(H, W, C\)"):
        cut_patches(image[..., 0], 2)
