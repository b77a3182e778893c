"""Encoded images become the squares of pixels that ADM's crop gives; whatever is damaged is called unreadable."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imagegen.data.decode import Unreadable, centre_crop, decode_bytes, decode_image, encode_png
from tests.imagegen.disk import encoded, pictures


def noise(height, width, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


@given(st.integers(1, 9), st.integers(0, 3), st.integers(0, 5), st.booleans())
def test_large_images_are_halved_by_boxes_and_the_middle_is_kept(side, halvings, more, tall):
    """So each pixel is a mean; Pillow rounds it twice in each halving, by half a level each."""
    height, width = (side + more, side) if tall else (side, side + more)
    size = 2**halvings
    pixels = noise(height * size, width * size)
    expected = pixels.reshape(height, size, width, size, 3).mean((1, 3))
    top, left = (height - side) // 2, (width - side) // 2
    found = np.asarray(centre_crop(Image.fromarray(pixels), side)).astype(float)
    assert np.abs(found - expected[top : top + side, left : left + side]).max() <= halvings


def bicubic(pixels, size):
    """Down or up to `size` along the first axis: weights of the cubic with a = -1/2, stretched where it shrinks."""
    n, made = len(pixels), []
    scale = n / size
    stretch = max(scale, 1.0)
    for k in range(size):
        x = np.abs((np.arange(n) + 0.5 - (k + 0.5) * scale) / stretch)
        inner, outer = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * (x**3 - 5 * x**2 + 8 * x - 4)
        weights = np.where(x < 1, inner, np.where(x < 2, outer, 0))
        made.append(np.tensordot(weights / weights.sum(), pixels, axes=1))
    return np.clip(made, 0, 255)


@pytest.mark.parametrize(("height", "width", "side"), [(25, 19, 12), (13, 21, 12), (7, 9, 12), (30, 23, 12)])
def test_the_rest_is_scaled_bicubically(height, width, side):
    (pixels,) = pictures(1, (width, height))
    pixels = pixels[:height, :width]
    rows, columns = (round(size * side / min(height, width)) for size in (height, width))
    expected = bicubic(np.swapaxes(bicubic(np.swapaxes(pixels, 0, 1), columns), 0, 1), rows)
    top, left = (rows - side) // 2, (columns - side) // 2
    found = decode_bytes(encoded(pixels, "PNG"), side).astype(float)
    assert np.abs(found - expected[top : top + side, left : left + side]).max() <= 1.01  # Pillow rounds twice


def test_pixels_are_float32_between_minus_one_and_one():
    pixels = np.arange(192).reshape(8, 8, 3).astype(np.uint8)
    pixels[0, 0] = 255
    found = decode_image(encoded(pixels, "PNG"), 8)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, pixels / 127.5 - 1, atol=1e-7)
    assert found.max() == 1


@given(st.integers(1, 12), st.integers(0, 100))
def test_a_png_of_what_was_decoded_loses_nothing(side, seed):
    image = decode_image(encoded(noise(17, 23, seed), "PNG"), side)
    np.testing.assert_array_equal(decode_image(encode_png(image), side), image)


def converted(mode):
    return Image.fromarray(noise(6, 6)).convert(mode)


@pytest.mark.parametrize(("image", "form", "expected"), [
    (converted("L"), "PNG", np.asarray(converted("L"))[..., None]),
    (converted("L"), "JPEG", None),
    (converted("1"), "PNG", np.asarray(converted("1"))[..., None] * 255),
    (converted("RGBA"), "PNG", np.asarray(converted("RGB"))),
    (converted("P"), "PNG", np.asarray(converted("P").convert("RGB"))),
    (converted("CMYK"), "TIFF", np.asarray(converted("CMYK").convert("RGB"))),
    (Image.fromarray(np.arange(36, dtype=np.uint16).reshape(6, 6) * 1800), "PNG",
     (np.arange(36).reshape(6, 6, 1) * 1800 // 256)),
])  # fmt: skip
def test_every_kind_of_image_gets_three_channels(image, form, expected, tmp_path):
    image.save(tmp_path / "image", form)
    found = decode_bytes((tmp_path / "image").read_bytes(), 6)
    assert found.shape == (6, 6, 3)
    if expected is not None:
        np.testing.assert_array_equal(found, np.broadcast_to(expected, found.shape))


def test_a_transparent_palette_shows_the_colours_beneath(tmp_path):
    image = converted("P")
    image.save(tmp_path / "image.png", transparency=bytes(range(256)))
    np.testing.assert_array_equal(decode_bytes((tmp_path / "image.png").read_bytes(), 6), image.convert("RGB"))


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
def test_damaged_images_are_unreadable_and_never_anything_else(form):
    content = encoded(noise(40, 40), form)
    for cut in range(0, len(content) - 60, max(1, len(content) // 25)):
        with pytest.raises(Unreadable):
            decode_image(content[:cut], 16)
    with pytest.raises(Unreadable, match=r"^UnidentifiedImageError: cannot identify image file$"):
        decode_image(b"no image", 16)


def test_a_side_must_be_positive():
    with pytest.raises(ValueError, match="side must be at least 1 pixel; got 0"):
        decode_image(encoded(noise(4, 4)), 0)
