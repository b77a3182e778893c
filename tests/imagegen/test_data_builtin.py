"""The built-in sources: splits that share nothing, and captions that say what the pixels show."""

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.data.builtin import SOURCES, SPLITS, from_npz, held_out, make_source
from imagegen.data.shapes import CLASS_NAMES, SIDE, Shapes
from imagegen.data.source import ArraySource, check_source, in_memory
from sim.patches import photograph_patches
from theory.data import load_builtin

EXPECTED = {
    "digits": ((8, 8, 1), 10, {"train": 1297, "test": 500}),
    "photographs": ((32, 32, 3), 2, {"train": 4000, "test": 500}),
    "shapes": ((32, 32, 3), 16, {"train": 6400, "test": 960}),
}


@pytest.fixture(scope="module")
def sources():
    return {(name, split): make_source(name, split) for name in SOURCES for split in SPLITS}


@pytest.mark.parametrize("split", SPLITS)
@pytest.mark.parametrize("name", SOURCES)
def test_sources_are_what_they_say(sources, name, split):
    source, (shape, classes, sizes) = sources[name, split], EXPECTED[name]
    assert (source.name, source.shape, source.classes, len(source)) == (name, shape, classes, sizes[split])
    check_source(source, limit=100)
    assert set(source.labels) == set(range(classes))
    record = source[17]
    assert record["image"].dtype == np.float32
    assert record["image"].std() > 0.01


def _pixels(source, n):
    images = source.images if isinstance(source, ArraySource) else (source[index]["image"] for index in range(n))
    return {image.tobytes() for image in images}


@pytest.mark.parametrize("name", SOURCES)
def test_no_image_is_in_both_splits(sources, name):
    """All digits and patches, and a part of the shapes, whose seeds differ."""
    train, test = (_pixels(sources[name, split], 300) for split in SPLITS)
    assert len(test) == (300 if name == "shapes" else 500)  # no duplicates that would make this trivial
    assert not train & test


def test_digits_are_all_there_in_the_same_shares(sources):
    data, parts = load_builtin("digits"), [sources["digits", split] for split in SPLITS]
    whole = np.concatenate([part.images for part in parts])
    np.testing.assert_array_equal(np.sort(whole.reshape(-1, 64), axis=0), np.sort(data.features, axis=0))
    counts = np.bincount(data.labels)
    assert np.abs(np.bincount(parts[1].labels) - counts * 500 / 1797).max() <= 1
    np.testing.assert_array_equal(np.bincount(parts[0].labels) + np.bincount(parts[1].labels), counts)
    for part in parts:  # labels still belong to their images
        at = [int(np.flatnonzero((data.features == image.ravel()).all(axis=1))[0]) for image in part.images[:50]]
        np.testing.assert_array_equal(data.labels[at], part.labels[:50])


def test_photographs_are_the_patches_of_disjoint_regions(sources):
    """`sim.patches` sees to it that the two sets share no pixel; here, that it is those sets, and the right labels."""
    sets = photograph_patches(32, 4000, 500, colour=True)
    for split, images, positions in (
        ("train", sets.train, sets.train_positions), ("test", sets.test, sets.test_positions)
    ):  # fmt: skip
        np.testing.assert_array_equal(sources["photographs", split].images, images.astype(np.float32))
        np.testing.assert_array_equal(sources["photographs", split].labels, positions[:, 0])
    assert sources["photographs", "test"].class_names == ("china", "flower")


@given(st.lists(st.integers(0, 4), min_size=5, max_size=60), st.floats(0, 1))
def test_held_out_samples_are_stratified_and_always_the_same(labels, share):
    labels = np.array(labels)
    count = round(share * labels.size)
    test = held_out(labels, count)
    assert len(set(test)) == len(test) == count
    np.testing.assert_array_equal(test, held_out(labels, count))
    for label in set(labels.tolist()):
        held, expected = np.sum(labels[test] == label), np.sum(labels == label) * count / labels.size
        assert abs(held - expected) <= 1 + 1e-9


# --- shapes


def _covered(image, colour, background):
    """How much of each pixel the shape covers, from the two colours."""
    towards = colour - background
    return np.clip((image - background) @ towards / (towards @ towards), 0, 1)


@given(st.integers(0, 2**32 - 1), st.integers(0, 399))
def test_captions_say_what_the_pixels_show(seed, index):
    record = Shapes(400, seed=seed)[index]
    image = record["image"].astype(float)
    words = re.fullmatch(
        r"a (small|large) (\w+) (\w+) at the (centre|(?:upper|lower) (?:left|right)) on a (\w+) background",
        record["caption"],
    )
    size, colour, shape, place, ground = words.groups()
    assert f"{colour} {shape}" == CLASS_NAMES[record["label"]]
    background = image[0, 0]
    border = np.concatenate([image[0], image[-1], image[:, 0], image[:, -1]])
    np.testing.assert_array_equal(border, np.broadcast_to(background, border.shape))  # the shape lies within
    assert np.ptp(background) == 0
    assert {"black": background[0] < -0.5, "grey": background[0] == 0, "white": background[0] > 0.5}[ground]
    different = np.abs(image - background).sum(axis=2)
    most = image[np.unravel_index(np.argmax(different), different.shape)]  # a pixel wholly covered
    assert (most > 0).tolist() == {
        "red": [True, False, False], "green": [False, True, False], "blue": [False, False, True],
        "yellow": [True, True, False],
    }[colour]  # fmt: skip
    covered = _covered(image, most, background)
    area = covered.sum()
    assert (area > 80) == (size == "large")
    middle = np.arange(SIDE) + 0.5 - SIDE / 2
    right, up = covered.sum(axis=0) @ middle / area, -covered.sum(axis=1) @ middle / area
    across = "right" if right > 2 else "left" if right < -2 else ""
    along = "upper" if up > 2 else "lower" if up < -2 else ""
    assert f"{along} {across}".strip() == place.replace("centre", "")


MOMENTS = {
    "circle": 1 / (2 * np.pi),
    "square": 1 / 6,
    "triangle": 1 / (3 * np.sqrt(3)),
    "cross": (2 * 1.4 * (2**2 + 0.7**2) / 12 - 0.7**4 / 6) / (2 * 1.4 - 0.7**2) ** 2,
}
"""Mean square distance to the centroid over the area: of any size, place and tilt."""


@pytest.mark.parametrize("shape", MOMENTS)
def test_shapes_have_the_moments_of_their_names(shape):
    """Those of exact shapes, and the pixels' own 1/6 px², up to 2 % for soft corners; triangles have a third."""
    source = Shapes(640, seed=3)
    named = np.flatnonzero([name.endswith(shape) for name in np.array(CLASS_NAMES)[source.labels]])
    large = [record for record in (source[index] for index in named) if "large" in record["caption"]]
    assert len(large) > 40
    for record in large:
        image = record["image"].astype(float)
        different = np.abs(image - image[0, 0]).sum(axis=2)
        covered = _covered(image, image[np.unravel_index(np.argmax(different), different.shape)], image[0, 0])
        place = np.indices(covered.shape)[1] + 1j * np.indices(covered.shape)[0]
        area = covered.sum()
        z = place - (covered * place).sum() / area
        spread = (covered * np.abs(z) ** 2).sum() / area - 1 / 6
        np.testing.assert_allclose(spread / area, MOMENTS[shape], rtol=0.02)
        assert (abs((covered * z**3).sum()) / area**2.5 > 0.02) == (shape == "triangle")


def test_shapes_have_soft_edges_and_every_word_occurs():
    source = Shapes(400)
    records = list(source)
    captions = " ".join(record["caption"] for record in records)
    assert {"small", "large", "centre", "upper", "lower", "left", "right", "black", "grey", "white"} < set(
        captions.split()
    )
    assert all(len(np.unique(record["image"].reshape(-1, 3), axis=0)) > 6 for record in records)
    np.testing.assert_array_equal(np.bincount(source.labels), 25)


@given(st.permutations(range(10)))
def test_a_shape_depends_on_seed_and_index_alone(indices):
    again = Shapes(50, seed=1)  # a longer source begins with the same
    found = {index: again[index] for index in indices}
    for index, record in enumerate(Shapes(10, seed=1)):
        np.testing.assert_array_equal(found[index]["image"], record["image"])
        assert found[index]["caption"] == record["caption"]


def test_shapes_of_other_seeds_differ():
    pixels = [_pixels(Shapes(10, seed=seed), 10) for seed in range(5)]
    assert len(set().union(*pixels)) == 50


# --- a user's own images


def written(path, **arrays):
    np.savez(path, **arrays)
    return str(path)


def test_a_users_file_is_split_and_nothing_is_lost(tmp_path):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (23, 4, 5, 3), dtype=np.uint8), np.arange(23) % 2
    file = written(tmp_path / "mine.npz", images=images, labels=labels)
    train, test = (make_source(file, split) for split in SPLITS)
    assert (train.name, len(train), len(test), train.shape, train.classes) == ("mine", 19, 4, (4, 5, 3), 2)
    both = {
        image.tobytes(): label for part in (train, test) for image, label in zip(part.images, part.labels, strict=True)
    }
    expected = (images / 127.5 - 1).astype(np.float32)
    assert both == {image.tobytes(): label for image, label in zip(expected, labels, strict=True)}
    assert set(test.labels) == {0, 1}
    grey = make_source(written(tmp_path / "grey.npz", images=images[..., 0]))
    assert (grey.shape, grey.classes) == ((4, 5, 1), 1)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": np.full((9, 4, 4), 255.0)}, r"image 0 of 'bad' must be within \[-1, 1\]; got numbers from 255"),
        ({"images": np.where(np.arange(9) == 6, 1.5, 0.5)[:, None, None]}, "image 6 of 'bad' must be within"),
        ({"images": np.full((9, 4, 4), np.nan)}, "non-finite"),
        ({"features": np.zeros((9, 4)), "labels": np.zeros(9, int)}, "set of images"),
        ({"images": np.zeros((4, 4, 4))}, "at least 5 images"),
        ({"images": np.zeros((9, 4, 4)), "labels": np.arange(9) % 2 + 1}, "labels must be"),
        ({"images": np.linspace(0, 1, 9 * 16).reshape(9, 4, 4)}, "2 x - 1 for x in .*numbers from 0 to 1"),
        ({"images": np.zeros((9, 3, 8, 8), np.uint8)}, "channels last; got shape .n, 3, 8, 8"),
    ],
)
def test_a_bad_file_is_refused(tmp_path, arrays, message):
    with pytest.raises(ValueError, match=message):
        make_source(written(tmp_path / "bad.npz", **arrays))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: make_source("digit"),
            "data must be one of 'digits', .*npz file, .*; got 'digit'; did you mean 'digits'",
        ),
        (lambda: make_source("cifar"), "data must be one of .*; got 'cifar'\\.$"),
        (lambda: make_source("nowhere.npz"), "nowhere.npz"),
        *((lambda name=name: make_source(name, "tests"), "split must be .*; did you mean 'test'") for name in SOURCES),
        (lambda: held_out(np.zeros(5, int), 6), "n_test"),
        (lambda: Shapes(0), "n must be"),
        (lambda: Shapes(5, seed=-1), "seed must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_a_bad_split_of_a_file_is_refused(tmp_path):
    file = tmp_path / "mine.npz"
    written(file, images=np.zeros((9, 4, 4)))
    with pytest.raises(ValueError, match="split"):
        from_npz(file, "validation")
    assert isinstance(in_memory(from_npz(file, "test")), ArraySource)
