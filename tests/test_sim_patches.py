"""Patches share no pixel; degradations keep what they must and have the transfer functions they claim."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.patches import (
    GREY,
    debiased_distance,
    gaussian_blur,
    jpeg,
    motion_blur,
    patch_sets,
    photograph_patches,
    photographs,
    without_mean,
)
from theory.data import DataError


def _touched(positions, side, shapes):
    counts = [np.zeros(shape, int) for shape in shapes]
    for k, row, column in positions:
        counts[k][row : row + side, column : column + side] += 1
    return counts


@pytest.mark.parametrize(
    ("side", "n", "shrink", "colour"), [(8, 100, 1, False), (12, 3000, 1, False), (16, 50, 2, True), (7, 5, 3, False)]
)
def test_no_pixel_is_shared(side, n, shrink, colour):
    sets = photograph_patches(side, n, n, colour=colour, shrink=shrink)
    images = photographs(colour=colour, shrink=shrink)
    shapes = [image.shape[:2] for image in images]
    train, test = _touched(sets.train_positions, side, shapes), _touched(sets.test_positions, side, shapes)
    assert sum(np.count_nonzero((a > 0) & (b > 0)) for a, b in zip(train, test, strict=True)) == 0
    for patches, positions in ((sets.train, sets.train_positions), (sets.test, sets.test_positions)):
        assert len(patches) == n
        assert len(np.unique(positions, axis=0)) == n
        for patch, (k, row, column) in zip(patches[:20], positions[:20], strict=True):
            np.testing.assert_array_equal(patch, images[k][row : row + side, column : column + side])
    assert all(a.any() for a in train)  # both photographs serve
    assert np.abs(sets.train).max() <= 1


def test_patches_overlap_no_more_than_the_number_asks():
    shapes = [image.shape for image in photographs()]
    few = photograph_patches(12, 1000, 1000)
    assert max(counts.max() for counts in _touched(few.train_positions, 12, shapes)) == 1
    many = photograph_patches(12, 3000, 3000)
    assert max(counts.max() for counts in _touched(many.train_positions, 12, shapes)) > 1


def test_patches_are_the_same_every_time_and_vary_with_the_seed():
    first, again, other = (photograph_patches(8, 20, 20, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.train, again.train)
    assert not np.array_equal(first.train_positions, other.train_positions)


def test_shrinking_averages_blocks():
    full, half = photographs()[1], photographs(shrink=2)[1]
    np.testing.assert_allclose(half[3, 5], full[6:8, 10:12].mean(), rtol=1e-14)


IMAGES = photograph_patches(16, 20, 0, shrink=2).train
COLOUR = photograph_patches(16, 6, 0, shrink=2, colour=True).train
DEGRADATIONS = {
    "blur": lambda x: gaussian_blur(x, 0.8),
    "motion": lambda x: motion_blur(x, 4.0, angle=0.7),
    "jpeg": lambda x: jpeg(x, 25),
}


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("images", [IMAGES, COLOUR, IMAGES.astype(np.float32)], ids=["grey", "colour", "float32"])
def test_degradations_keep_shape_type_and_range_and_treat_each_image_alone(name, images):
    before = images.copy()
    worse = DEGRADATIONS[name](images)
    assert worse.shape == images.shape
    assert worse.dtype == images.dtype
    assert np.abs(worse).max() <= 1 + 1e-6  # averages of numbers in [-1, 1], up to rounding in float32
    assert not np.allclose(worse, images, atol=1e-3)
    np.testing.assert_array_equal(images, before)
    np.testing.assert_array_equal(worse[:2], DEGRADATIONS[name](images[:2]))


@given(st.floats(0.3, 1.5))
def test_gaussian_blur_damps_a_wave_as_it_should(std):
    row = np.cos(np.pi * (np.arange(32) + 0.5) / 8)  # mirrored at the border, it goes on as it is
    image = np.broadcast_to(row, (1, 32, 32)).copy()
    taps = np.arange(-int(4 * std + 0.5), int(4 * std + 0.5) + 1)
    kernel = np.exp(-(taps**2) / (2 * std**2))
    gain = kernel @ np.cos(np.pi * taps / 8) / kernel.sum()
    np.testing.assert_allclose(gaussian_blur(image, std), gain * image, atol=1e-12)


@given(st.floats(0, 6), st.floats(-3, 3))
def test_blurs_keep_constants_and_nothing_happens_at_zero(length, angle):
    flat = np.full((1, 9, 9), 0.3)
    np.testing.assert_allclose(motion_blur(flat, length, angle=angle), flat, atol=1e-14)
    np.testing.assert_allclose(motion_blur(IMAGES[:1], 0.0, angle=angle), IMAGES[:1], atol=1e-14)


def test_motion_blur_runs_along_its_line():
    point = np.zeros((1, 15, 15))
    point[0, 7, 7] = 1
    across, up = motion_blur(point, 6.0)[0], motion_blur(point, 6.0, angle=np.pi / 2)[0]
    np.testing.assert_allclose(across.sum(), 1, rtol=1e-12)
    assert np.count_nonzero(across > 1e-12) == np.count_nonzero(across[7] > 1e-12)
    np.testing.assert_allclose(up, across.T, atol=1e-12)
    columns = np.arange(15)
    spread = across[7] @ (columns - 7) ** 2
    # a line of 6 pixels has variance 36/12, the bilinear tent adds at most 1/4; the sampled ends add 1/16 of it
    assert 3 <= spread <= 3.5
    tilted = motion_blur(point, 6.0, angle=np.pi / 4)[0]
    assert tilted[5, 9] > 0.05 > 1e-6 > tilted[9, 9]  # counter-clockwise: up and to the right


def test_jpeg_gets_better_with_quality():
    errors = [np.mean((jpeg(IMAGES, quality) - IMAGES) ** 2) for quality in (10, 30, 60, 95)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 1e-3


def test_of_a_users_images_every_other_one_is_for_comparison(tmp_path):
    """Sorted images must not make the two sets differ: even numbers against odd ones. Grey by BT.601."""
    file, rng = tmp_path / "mine.npz", np.random.default_rng(0)
    images = rng.integers(0, 256, (6, 9, 8, 3), dtype=np.uint8)
    np.savez(file, images=images)
    sets = patch_sets(4, 12, 100, data=file)
    assert len(sets.train) == 12  # at the widest stride, 2 x 2 of each of three images
    assert len(sets.test) == 3 * 6 * 5  # all there are
    grey = (images / 127.5 - 1) @ GREY
    for part, positions, parity in ((sets.train, sets.train_positions, 0), (sets.test, sets.test_positions, 1)):
        assert set(positions[:, 0]) == set(range(parity, 6, 2))
        for patch, (k, i, j) in zip(part, positions, strict=True):
            np.testing.assert_allclose(patch, grey[k, i : i + 4, j : j + 4], atol=1e-12)
    np.savez(file, images=3.0 * rng.normal(size=(4, 5, 5)))
    assert np.abs(patch_sets(4, 8, 8, data=file).train).max() <= 1  # the file's new contents, scaled
    with pytest.raises(ValueError, match="data must be of at least 16 x 16 pixels"):
        patch_sets(16, 8, 8, data=file)
    np.savez(file, features=rng.normal(size=(9, 4)), labels=np.zeros(9, int))
    with pytest.raises(DataError, match="images"):
        patch_sets(4, 8, 8, data=file)


def test_debiased_distance_is_zero_on_equal_laws_and_sees_shrinkage():
    """Standard error over 15 repeats; the raw distance prefers the shrunk sample (`sim.distances`)."""
    rng = np.random.default_rng(0)
    sets = rng.normal(size=(15, 2, 40, 4, 4))
    found = [debiased_distance(x, y) for x, y in sets]
    shrunk = [debiased_distance(0.6 * x, y) for x, y in sets]
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(15)
    assert np.mean(shrunk) > 4 * np.std(shrunk) / np.sqrt(15)
    assert debiased_distance(sets[0, 0], sets[1, 0] + 1.0) > 8  # |shift|² = 16
    with pytest.raises(ValueError, match="at least 2"):
        debiased_distance(sets[0, 0][:1], sets[0, 1])


def test_detail_has_no_mean():
    np.testing.assert_allclose(without_mean(COLOUR).mean(axis=(1, 2)), 0, atol=1e-14)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: photograph_patches.__wrapped__(8, 10**7, 5), "n_train must be at most [0-9]+ patches"),
        (lambda: photograph_patches.__wrapped__(500, 1, 1), "at most 0 "),
        (lambda: photograph_patches.__wrapped__(0, 1, 1), "side"),
        (lambda: gaussian_blur.__wrapped__(np.zeros((4, 4)), 1.0), "images"),
        (lambda: gaussian_blur.__wrapped__(IMAGES, -1.0), "std"),
        (lambda: motion_blur.__wrapped__(IMAGES, -1.0), "length"),
        (lambda: jpeg.__wrapped__(IMAGES, 0), "quality"),
        (lambda: jpeg.__wrapped__(2 * np.ones((1, 8, 8)), 50), "images"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
