"""Parts of Inception against loops over pixels; what is torch-fidelity's is shown in test_metrics_parity.py."""

import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import save_file

from imagegen import inception
from imagegen.inception import (
    EPSILON,
    _folded,
    _layers,
    _pooled,
    as_colour,
    from_state,
    layout,
    load_inception,
    resize,
)

rng = np.random.default_rng(0)
HALF = {name: np.broadcast_to(np.float32(0.5), shape) for name, shape in layout().items()}


def resized(image, side):
    """TensorFlow 1's bilinear interpolation, pixel by pixel in float64."""
    h, w, c = image.shape
    out = np.zeros((side, side, c))
    for i in range(side):
        for j in range(side):
            y, x = i * h / side, j * w / side
            top, left = int(np.floor(y)), int(np.floor(x))
            for row, wy in ((top, 1 - y + top), (min(top + 1, h - 1), y - top)):
                for column, wx in ((left, 1 - x + left), (min(left + 1, w - 1), x - left)):
                    out[i, j] += wy * wx * image[row, column]
    return out


@pytest.mark.parametrize(("h", "w", "side"), [(1, 1, 3), (3, 5, 8), (9, 7, 4), (6, 6, 6)])
def test_images_are_resized_as_tensorflow_1_did(h, w, side):
    image = rng.integers(0, 256, (h, w, 2)).astype(np.float32)
    np.testing.assert_allclose(resize(jnp.asarray(image[None]), side)[0], resized(image, side), atol=2e-3)


@pytest.mark.parametrize("size", [(1, 1), (2, 5), (6, 4)])
def test_averages_leave_the_padding_out_and_maxima_keep_the_size(size):
    x = rng.standard_normal((1, *size, 2)).astype(np.float32)
    for kind, reduce in (("average", np.mean), ("max", np.max)):
        out = np.asarray(_pooled(jnp.asarray(x), kind, stride=1))
        for i in range(size[0]):
            for j in range(size[1]):
                near = x[0, max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
                np.testing.assert_allclose(out[0, i, j], reduce(near, axis=(0, 1)), rtol=1e-6)


def test_a_maximum_with_stride_two_takes_whole_windows_alone():
    x = rng.standard_normal((1, 6, 7, 1)).astype(np.float32)
    expected = [[x[0, i : i + 3, j : j + 3, 0].max() for j in (0, 2, 4)] for i in (0, 2)]
    np.testing.assert_array_equal(_pooled(jnp.asarray(x), "max", stride=2)[0, ..., 0], expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "padded"), [((3, 3), 2, False), ((1, 7), 1, True), ((3, 1), 1, True), ((1, 1), 1, False)]
)
def test_convolution_and_batch_norm_are_one_after_folding(kernel, stride, padded):
    state = {
        "a.conv.weight": rng.standard_normal((4, 3, *kernel)).astype(np.float32),
        "a.bn.weight": rng.standard_normal(4), "a.bn.bias": rng.standard_normal(4),
        "a.bn.running_mean": rng.standard_normal(4), "a.bn.running_var": rng.uniform(0.5, 2, 4),
    }  # fmt: skip
    x = rng.standard_normal((9, 11, 3)).astype(np.float32)
    out = np.asarray(_folded(state, "a")(jnp.asarray(x[None]), stride=stride, padded=padded))[0]
    margins = [(size // 2 * padded,) * 2 for size in kernel]
    wide, weight = np.pad(x, (*margins, (0, 0))), state["a.conv.weight"]
    for i, j in np.ndindex(out.shape[:2]):
        patch = wide[stride * i : stride * i + kernel[0], stride * j : stride * j + kernel[1]]
        raw = np.einsum("hwc,ochw->o", patch, weight)
        normed = (raw - state["a.bn.running_mean"]) / np.sqrt(state["a.bn.running_var"] + EPSILON)
        expected = np.maximum(normed * state["a.bn.weight"] + state["a.bn.bias"], 0)
        np.testing.assert_allclose(out[i, j], expected, atol=2e-5)
    assert out.shape[:2] == tuple((n - k) // stride + 1 for n, k in zip(wide.shape, kernel, strict=False))


def test_the_layout_has_94_convolutions_and_the_known_number_of_parameters():
    """torchvision's Inception-v3 has 23 834 568 without its second classifier, for 1000 classes instead of 1008."""
    assert len(list(_layers())) == 94
    trained = [np.prod(shape) for name, shape in layout().items() if "running" not in name]
    assert sum(trained) == 23_834_568 + 8 * 2049


def test_one_channel_is_repeated():
    grey = rng.integers(0, 256, (2, 3, 4, 1), dtype=np.uint8)
    colour = as_colour(grey)
    assert colour.shape == (2, 3, 4, 3)
    assert all(np.array_equal(colour[..., k], grey[..., 0]) for k in range(3))
    assert as_colour(colour) is colour
    with pytest.raises(ValueError, match="of 1 or 3 channels; got 4 channels"):
        as_colour(np.zeros((1, 2, 2, 4), np.uint8))


BAD = {
    "missing": ({k: v for k, v in HALF.items() if k != "fc.weight"}, "1 arrays missing, such as .*fc.weight"),
    "more": ({**HALF, "AuxLogits.fc.weight": np.zeros(1)}, "1 more arrays, such as .*AuxLogits"),
    "another shape": ({**HALF, "fc.weight": np.zeros((1000, 2048))}, r"fc.weight \(1000, 2048\)"),
    "not finite": ({**HALF, "fc.bias": np.full(1008, np.nan)}, "other values in .*fc.bias"),
    "a negative variance": (
        {**HALF, "Mixed_5b.branch1x1.bn.running_var": np.full(64, -1.0)}, "variances not negative"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_other_weights_are_refused(case):
    state, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        from_state(state)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The whole network from a file, its weights scaled so that numbers neither vanish nor explode."""
    state = {}
    for name, shape in layout().items():
        scale = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
        centre = 1.0 if name.endswith(("bn.weight", "running_var")) else 0.0
        values = centre + (0 if name.endswith("running_var") else scale) * rng.standard_normal(shape)
        state[name] = values.astype(np.float32)
    file = tmp_path_factory.mktemp("weights") / "inception.safetensors"
    save_file(state, file)
    return load_inception(file)


@pytest.mark.slow
def test_the_network_treats_each_image_alone_and_one_channel_as_three(network, monkeypatch):
    monkeypatch.setattr(inception, "BATCH", 5)
    images = rng.integers(0, 256, (5, 5, 6, 1), dtype=np.uint8)
    whole, part = network.extract([images, np.repeat(images[3:5], 3, axis=-1)])
    assert [len(out) for out in whole] == [5] * 3
    assert [out.shape for out in part] == [(2, 2048), (2, 2023), (2, 1008)]
    for all_of_them, few in zip(whole, part, strict=True):
        assert few.std() > 0.1
        np.testing.assert_allclose(few, all_of_them[3:5], atol=1e-4)
    with pytest.raises(ValueError, match=r"number of images in a batch must be 1 ... 5; got 6"):
        list(network.extract([np.zeros((6, 5, 6, 1), np.uint8)]))
