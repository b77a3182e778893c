"""Degradations and swaps: exactly as many as said, by seed and index alone, and as `sim` and `theory` define them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.data.captions import Swapped
from imagegen.data.degrade import DEGRADATIONS, JPEG, Blur, Box, Degraded, Mask, MotionBlur, make_degradation
from imagegen.data.shapes import Shapes
from imagegen.data.source import ArraySource, SourceWrapper, in_memory
from sim.patches import gaussian_blur, jpeg, motion_blur

IMAGES = in_memory(Shapes(20, seed=5)).images
GREY = np.random.default_rng(0).uniform(-1, 1, (40, 6, 9, 1)).astype(np.float32)
seeds = st.integers(0, 2**32 - 1)
shares = st.floats(0, 1)


def source(images=GREY, **extras):
    return ArraySource("mine", images, np.arange(len(images)) % 2, ("a", "b"), extras)


def rng():
    return np.random.default_rng(0)


# --- one image


@pytest.mark.parametrize("name", DEGRADATIONS)
@pytest.mark.parametrize("images", [IMAGES, IMAGES.mean(axis=3, keepdims=True)], ids=["colour", "grey"])
def test_degradations_change_images_within_their_kind(name, images):
    strength = {"jpeg": 20.0, "mask": 0.5, "box": 0.5}.get(name, 2.0)
    before, degradation = images.copy(), make_degradation(name, strength)
    for image in images:
        worse = degradation(image, rng())
        assert (worse.shape, worse.dtype) == (image.shape, image.dtype)
        assert np.abs(worse).max() <= 1 + 1e-6
        assert np.abs(worse - image).max() > 1e-2
        np.testing.assert_array_equal(worse, degradation(image, rng()))
    np.testing.assert_array_equal(images, before)


def test_they_are_those_of_sim():
    for image in IMAGES[:5]:
        one = image[None]
        np.testing.assert_array_equal(Blur(0.7)(image, rng()), gaussian_blur(one, 0.7)[0])
        np.testing.assert_array_equal(JPEG(25)(image, rng()), jpeg(one, 25)[0])
        np.testing.assert_array_equal(MotionBlur(5.0, angle=0.4)(image, rng()), motion_blur(one, 5.0, angle=0.4)[0])


def test_motion_takes_each_sample_another_way_unless_told():
    point = np.zeros((15, 15, 1))
    point[7, 7] = 1
    found = [MotionBlur(7.0)(point, np.random.default_rng(seed))[..., 0] for seed in range(200)]
    rows, columns = np.indices((15, 15)) - 7
    slopes = np.array([np.sum(image * columns * -rows) for image in found])  # E xy = E s² sin(2a)/2, a uniform
    spread = np.mean([np.sum(image * (rows**2 + columns**2)) for image in found])
    assert abs(slopes.mean()) < 4 * slopes.std() / np.sqrt(200)
    np.testing.assert_allclose(slopes.std(), spread / 2 / np.sqrt(2), rtol=0.2)


@given(shares, seeds)
def test_masks_hide_their_share_in_all_channels(share, seed):
    hidden = Mask(share)(np.ones((6, 9, 3)), np.random.default_rng(seed)) == 0
    assert np.all(hidden == hidden[..., :1])
    assert hidden[..., 0].sum() == round(share * 54)


def test_masks_hide_every_pixel_equally_often():
    """200 masks of half of 54 pixels: each is hidden Binomial(200, 1/2) times, here within 5 standard deviations."""
    hidden = sum(Mask(0.5)(np.ones((6, 9, 1)), np.random.default_rng(seed)) == 0 for seed in range(200))
    assert np.abs(hidden - 100).max() < 5 * np.sqrt(50)


@given(shares, seeds)
def test_boxes_hide_one_rectangle(share, seed):
    hidden = Box(share)(np.ones((6, 9, 3)), np.random.default_rng(seed)) == 0
    assert np.all(hidden == hidden[..., :1])
    rows, columns = hidden[..., 0].any(axis=1), hidden[..., 0].any(axis=0)
    np.testing.assert_array_equal(hidden[..., 0], rows[:, None] & columns)
    for line, size in ((rows, 6), (columns, 9)):
        assert np.abs(np.diff(line.astype(int), prepend=0, append=0)).sum() <= 2  # one stretch
        assert (line.sum() == round(size * np.sqrt(share))) or not hidden.any()


def test_boxes_lie_everywhere():
    corners = {
        tuple(np.argwhere(Box(0.25)(np.ones((6, 6, 1)), np.random.default_rng(seed))[..., 0] == 0)[0])
        for seed in range(300)
    }
    assert corners == {(i, j) for i in range(4) for j in range(4)}


# --- a share of a source


@given(st.integers(1, 20), shares, seeds)
def test_exactly_the_share_is_degraded(n, share, seed):
    flat = source(np.full((n, 2, 2, 1), 0.5, np.float32))
    degraded = Degraded(flat, Mask(1.0), share, seed)
    changed = [bool(np.all(record["image"] == 0)) for record in degraded]
    assert sum(changed) == round(share * n)
    assert changed == [bool(record["degraded"]) for record in degraded] == degraded.degraded.tolist()


@given(shares, shares, seeds)
def test_a_larger_share_degrades_the_same_and_more(one, other, seed):
    low, high = (Degraded(source(), Blur(1.0), share, seed).degraded for share in sorted((one, other)))
    assert not np.any(low & ~high)


def test_every_sample_is_chosen_equally_often():
    """300 seeds choose 10 of 40: Binomial(300, 1/4) times each, here within 5 standard deviations."""
    inner = source()
    chosen = sum(Degraded(inner, Blur(1.0), 0.25, seed).degraded.astype(int) for seed in range(300))
    assert np.abs(chosen - 75).max() < 5 * np.sqrt(300 * 3 / 16)


@pytest.mark.parametrize("degradation", [Mask(0.3), Box(0.3), MotionBlur(4.0)])
@given(st.permutations(range(12)), seeds)
def test_a_degraded_sample_depends_on_seed_and_index_alone(degradation, indices, seed):
    inner = source(GREY[:12])
    first, again = list(Degraded(inner, degradation, 0.75, seed)), Degraded(inner, degradation, 0.75, seed)
    for index in indices:
        np.testing.assert_array_equal(again[index]["image"], first[index]["image"])


@pytest.mark.parametrize("degradation", [Mask(0.3), Box(0.3), MotionBlur(4.0)])
def test_every_sample_is_degraded_in_a_way_of_its_own(degradation):
    """Copies of one image: the box has 20 places, the others as good as never agree."""
    found = {record["image"].tobytes() for record in Degraded(source(GREY[:1].repeat(40, axis=0)), degradation, 1.0, 3)}
    assert len(found) > (10 if isinstance(degradation, Box) else 39)


def test_the_rest_is_left_alone_and_nothing_else_changes():
    inner = source(caption=np.array([f"number {i}" for i in range(40)]))
    degraded = Degraded(inner, Blur(1.0), 0.4, 3)
    assert isinstance(degraded, SourceWrapper)
    assert (degraded.name, degraded.shape, degraded.classes) == (inner.name, inner.shape, inner.classes)
    for index, record in enumerate(degraded):
        expected = gaussian_blur(GREY[index : index + 1], 1.0)[0] if degraded.degraded[index] else GREY[index]
        np.testing.assert_allclose(record["image"], np.clip(expected, -1, 1), atol=0)
        for name in ("label", "index", "caption"):
            assert record[name] == inner[index][name]


def test_other_seeds_choose_and_draw_otherwise():
    one, other = (Degraded(source(), Mask(0.5), 0.5, seed) for seed in (1, 2))
    assert np.any(one.degraded != other.degraded)
    both = np.flatnonzero(one.degraded & other.degraded)
    assert any(np.any(one[index]["image"] != other[index]["image"]) for index in both)


def test_draws_have_nothing_to_do_with_those_of_a_generated_source_of_the_same_seed():
    """The same numbers would put the boxes of all large shapes into the lower half. Correlation within 5/sqrt(n)."""
    shapes = in_memory(Shapes(200, seed=1))
    large = ["large" in caption for caption in shapes.extras["caption"]]
    boxed = Degraded(shapes, Box(0.1), 1.0, 1)
    hidden = (np.all(record["image"] == 0, axis=2) & np.any(record["image"] != image, axis=2)
              for record, image in zip(boxed, shapes.images, strict=True))  # fmt: skip
    tops = [np.argwhere(box)[0, 0] if box.any() else 15 for box in hidden]
    assert np.std(tops) > 3
    assert abs(np.corrcoef(tops, large)[0, 1]) < 5 / np.sqrt(200)


def test_degradations_add_up():
    both = Degraded(Degraded(source(), Blur(1.0), 0.3, 1), Mask(0.5), 0.3, 2)
    flags = both.source.degraded | both.degraded
    assert [bool(record["degraded"]) for record in both] == flags.tolist()
    assert 12 < flags.sum() < 24
    kept = in_memory(both)
    for record, expected in zip(kept, both, strict=True):
        np.testing.assert_array_equal(record["image"], expected["image"])
        assert record["degraded"] == expected["degraded"]


# --- captions


@given(st.sampled_from([(2, 1.0), (15, 0.0), (15, 0.4), (15, 1.0)]), seeds)
def test_captions_are_swapped_in_pairs_and_images_stay(sizes, seed):
    n, eta = sizes
    names = [f"caption {i}" for i in range(n)]
    inner = source(GREY[:n], caption=np.array(names))
    swapped = Swapped(inner, eta, seed)
    found = [str(record["caption"]) for record in swapped]
    changed = [i for i in range(n) if found[i] != names[i]]
    assert len(changed) == 2 * int(eta * n / 2 + 1e-9)
    partner = [names.index(caption) for caption in found]
    assert [partner[i] for i in partner] == list(range(n))
    again = Swapped(inner, eta, seed)
    for index in reversed(range(n)):
        assert again[index]["caption"] == found[index]
        for name in ("image", "label", "index"):
            np.testing.assert_array_equal(again[index][name], inner[index][name])


def test_other_seeds_swap_otherwise():
    inner = source(GREY[:15], caption=np.array([f"caption {i}" for i in range(15)]))
    assert len({tuple(Swapped(inner, 1.0, seed).permutation.tolist()) for seed in range(3)}) == 3


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Blur(-1.0), "std must be finite and >= 0"),
        (lambda: Blur(float("nan")), "std must be"),
        (lambda: JPEG(0), "quality must be a whole number from 1 to 95; got 0"),
        (lambda: JPEG(96), "quality must be"),
        (lambda: JPEG(20.5), "quality must be"),
        (lambda: MotionBlur(-1.0), "length must be"),
        (lambda: MotionBlur(1.0, float("inf")), "angle must be"),
        (lambda: Mask(1.5), "share must be"),
        (lambda: Box(-0.1), "share must be"),
        (lambda: make_degradation("blurr", 1.0), "degradation must be one of 'blur'.*did you mean 'blur'"),
        (lambda: make_degradation("jpeg", 0.5), "quality must be"),
        (lambda: Degraded(source(), Blur(1.0), 1.2, 0), "share must be"),
        (lambda: Degraded(source(), Blur(1.0), 0.5, -1), "seed must be"),
        (lambda: Degraded(source(GREY.repeat(2, axis=3)), JPEG(50), 0.5, 0), "images must be grey or of 3 channels"),
        (lambda: Swapped(source(), 0.5, 0), "source must be one whose records have a 'caption'.*got 'mine' without"),
        (lambda: Swapped(Shapes(5), 1.5, 0), "eta"),
        (lambda: Swapped(Shapes(1), 0.5, 0), "n must be at least 2"),
        (lambda: Swapped(Shapes(5), 0.5, -1), "seed must be"),
    ],
)
def test_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()
