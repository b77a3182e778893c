"""Laws of every image network: zero at first, the same by any route, each input reaches the output, float32 kept."""

import math
from functools import cache, partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.networks import dit
from imagegen.networks.dit import DiT
from imagegen.networks.ldm_unet import LDMUNet
from imagegen.networks.registry import NETWORKS, forward_flops, make_network, parameter_count
from imagegen.networks.unet import UNet

SHAPE = (8, 4, 1)
MAKERS = {
    "dit": partial(DiT, SHAPE, patch=2, width=16, depth=2, heads=2),
    "unet": partial(UNet, SHAPE, channels=8, multipliers=(1, 2), blocks=1, attention=1),
    "ldm": partial(LDMUNet, SHAPE, channels=64, multipliers=(1, 2), blocks=1, attention=(1,), d_emb=8),
}
TOKENS = {"ldm": (2,)}
"""Conditions that are sequences, of so many tokens."""
every = pytest.mark.parametrize("name", MAKERS)


def slow(*names):
    """All networks, those of these names, which compile long, only among the slow tests."""
    marks = [pytest.param(name, marks=pytest.mark.slow) if name in names else name for name in MAKERS]
    return pytest.mark.parametrize("name", marks)


@cache
def new(name, dtype=jnp.float32, remat=False):
    return MAKERS[name](key=jax.random.key(0), dtype=dtype, remat=remat)


@cache
def randomised(name, dtype=jnp.float32, remat=False):
    """All parameters drawn anew, in NumPy: matrices of variance 1/inputs, scales about 1, biases 0.3²."""
    rng = np.random.default_rng(1)

    def drawn(path, leaf):
        if path[-1].name in ("bias", "scale"):
            return ((path[-1].name == "scale") + 0.3 * rng.normal(size=leaf.shape)).astype(np.float32)
        inputs = leaf.shape[-1] if path[-1].name == "weight" else math.prod(leaf.shape[:-1])
        return (rng.normal(size=leaf.shape) / math.sqrt(inputs)).astype(np.float32)

    return jax.tree_util.tree_map_with_path(drawn, new(name, dtype, remat))


BATCH = 52


def inputs(name):
    """One batch for all tests, so that each network is compiled once: image, label and condition of `BATCH` samples."""
    rng, cond = np.random.default_rng(2), (*TOKENS.get(name, ()), new(name).d_emb)
    draws = rng.normal(size=(BATCH, *SHAPE)), rng.uniform(size=BATCH), rng.normal(size=(BATCH, *cond))
    return [draw.astype(np.float32) for draw in draws]


@eqx.filter_jit
def outputs(network, x, label, cond):
    return jax.vmap(network)(x, label, cond)


@eqx.filter_jit
def output(network, x, label, cond):
    return network(x, label, cond)


@eqx.filter_jit
def slopes(network, x, label, cond):
    """Of a random sum of one sample's output, by the parameters."""
    weights = np.random.default_rng(3).normal(size=SHAPE).astype(np.float32)
    return jax.grad(lambda network: jnp.sum(weights * network(x, label, cond)))(network)


@slow("ldm")
def test_a_new_network_gives_zero_of_the_inputs_shape_and_type(name):
    network = new(name)
    x, label, cond = inputs(name)
    np.testing.assert_array_equal(outputs(network, x, label, cond), np.zeros_like(x))
    for dtype in (jnp.float32, jnp.bfloat16):
        one = jax.eval_shape(network, jnp.asarray(x[0], dtype), jnp.asarray(label[0]), jnp.asarray(cond[0]))
        assert (one.shape, one.dtype) == (SHAPE, dtype)


@every
def test_parameters_are_float32_whatever_the_dtype_of_products(name):
    for dtype in (jnp.float32, jnp.bfloat16):
        network = eqx.filter_eval_shape(MAKERS[name], key=jax.random.key(0), dtype=dtype)
        assert {leaf.dtype for leaf in jax.tree.leaves(network)} == {jnp.dtype(jnp.float32)}
        assert network.dtype == dtype


@every
def test_equal_keys_give_equal_parameters_and_no_two_layers_are_alike(name):
    networks = new(name), MAKERS[name](key=jax.random.key(0)), MAKERS[name](key=jax.random.key(1))
    leaves, again, other = ([np.asarray(leaf) for leaf in jax.tree.leaves(network)] for network in networks)
    assert all(np.array_equal(a, b) for a, b in zip(leaves, again, strict=True))
    drawn = [k for k, leaf in enumerate(leaves) if np.unique(leaf).size > 1]
    assert not any(np.any(np.equal(leaves[k], other[k])) for k in drawn if leaves[k].size < 100)
    values = np.concatenate([np.ravel(leaves[k])[:500] / np.std(leaves[k]) for k in drawn])
    assert np.unique(values).size > 0.99 * values.size


@slow("ldm")
def test_a_sample_by_itself_and_recomputed_is_as_in_its_batch(name):
    draws = inputs(name)
    together = np.asarray(outputs(randomised(name), *draws))
    assert np.std(together) > 0.3
    for k in (0, 7):
        alone = output(randomised(name, remat=True), *(jnp.asarray(draw[k]) for draw in draws))
        np.testing.assert_allclose(alone, together[k], atol=2e-5)


@slow("ldm")
def test_each_pixel_the_label_and_each_entry_of_the_condition_reach_the_output(name):
    """One sample, each of its inputs moved in turn by 0.1: the output changes by far more than rounding."""
    network, draws = randomised(name), [np.repeat(draw[:1], BATCH, 0) for draw in inputs(name)]
    flat = np.concatenate([draw.reshape(BATCH, -1) for draw in draws], 1)
    count = flat.shape[1]
    assert count < BATCH
    flat[np.arange(count), np.arange(count)] += np.float32(0.1)
    parts = np.split(flat, [draws[0][0].size, draws[0][0].size + 1], axis=1)
    x, label, cond = (part.reshape(draw.shape) for part, draw in zip(parts, draws, strict=True))
    out = np.asarray(outputs(network, x, label, cond))
    change = np.abs(out - out[-1]).max((1, 2, 3))
    assert np.all(change[:count] > 1e-4)
    np.testing.assert_allclose(change[count:], 0.0, atol=1e-5)


@pytest.mark.slow
@every
def test_every_parameter_has_a_slope_and_recomputation_does_not_change_it(name, monkeypatch):
    """Up to another order of the same float32 sums; scanned."""
    monkeypatch.setattr(dit, "SHALLOW", 0)
    draws = [jnp.asarray(draw[0]) for draw in inputs(name)]
    plain, again = (slopes(randomised(name, remat=remat), *draws) for remat in (False, True))
    for a, b in zip(map(np.asarray, jax.tree.leaves(plain)), jax.tree.leaves(again), strict=True):
        assert np.any(a)
        np.testing.assert_allclose(b, a, atol=1e-5 * np.max(np.abs(a)))


def test_mirrored_kernels_give_the_mirrored_image():
    """The U-Net's convolutions, halving, doubling, joining and attention keep left and right, and up and down."""
    network, (x, *rest) = randomised("unet"), inputs("unet")
    out = np.asarray(outputs(network, x, *rest))
    for axis in (0, 1):
        mirrored = jax.tree.map(lambda a: np.flip(a, axis) if a.ndim == 4 else a, network)  # noqa: B023
        seen = np.flip(x, axis + 1)
        np.testing.assert_allclose(outputs(mirrored, seen, *rest), np.flip(out, axis + 1), atol=1e-4)
        assert np.max(np.abs(outputs(network, seen, *rest) - np.flip(out, axis + 1))) > 0.01


@slow("unet", "ldm")
def test_bfloat16_is_near_float32(name):
    """Tolerance: what rounding could do is measured, by changing each parameter by a random half unit in bfloat16's
    last place (2⁻⁹ of it). Weights, inputs and results of each product are rounded, three of that kind and independent:
    √3 times the measured root mean square is expected; three times that is allowed, a tenth must be there.
    """
    draws, rng = inputs(name), np.random.default_rng(5)
    exact = np.asarray(outputs(randomised(name), *draws))
    rounded = np.asarray(outputs(randomised(name, jnp.bfloat16), *(draw[:2] for draw in draws)))

    def moved(leaf):
        return leaf * (1 + 2.0**-9 * rng.choice([-1, 1], leaf.shape)).astype(np.float32)

    errors = [outputs(jax.tree.map(moved, randomised(name)), *draws) - exact for _ in range(2)]
    expected, found = math.sqrt(3 * np.mean(np.square(errors))), math.sqrt(np.mean((rounded - exact[:2]) ** 2))
    assert expected / 10 < found < 3 * expected


@every
def test_other_shapes_are_refused_in_a_call(name):
    network, (x, label, cond) = new(name), inputs(name)
    x, label, cond = (jnp.asarray(draw[0]) for draw in (x, label, cond))
    with pytest.raises(ValueError, match=r"x must be of the network's shape, \(8, 4, 1\); got shape \(4, 4, 1\)"):
        network(x[:4], label, cond)
    with pytest.raises(ValueError, match="cond must be of the network's d_emb"):
        network(x, label, cond[..., :3])


WRONG = {
    "dit": [
        ({"patch": 3}, "shape must be of sides that are multiples of the patch, 3; got 8 x 4 pixels"),
        ({"patch": 0}, "patch must be at least 1"),
        ({"depth": 0}, "depth must be at least 1"),
        ({"out_channels": 0}, "out_channels must be at least 1"),
        ({"heads": 3}, "width must be a multiple of the 3 heads"),
        ({"heads": 0}, "width must be a multiple of the 0 heads"),
        ({"width": 18}, "width must be a multiple of 4"),
        ({"dtype": jnp.float16}, "dtype must be float32 or bfloat16"),
    ],
    "unet": [
        ({"multipliers": (1, 1, 1, 1)}, "shape must be of sides that are multiples of 8; got 8 x 4 pixels"),
        ({"channels": 6}, "channels must be a multiple of 4"),
        ({"channels": 36, "multipliers": (2, 4)}, "channels must be a multiple of 4, above 128 of 32"),
        ({"multipliers": (1, 0)}, "multipliers must be at least 1"),
        ({"multipliers": ()}, "multipliers must be at least one"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"attention": 2}, "attention must be a level, 0 to 1"),
        ({"dtype": jnp.int32}, "dtype must be float32 or bfloat16"),
    ],
    "ldm": [
        ({"multipliers": (1, 1, 1, 1)}, "shape must be of sides that are multiples of 8; got 8 x 4 pixels"),
        ({"channels": 80}, "channels must be a multiple of 32, at least 64; got 80"),
        ({"channels": 32}, "at least 64; got 32"),
        ({"multipliers": (1, 0)}, "multipliers must be at least 1"),
        ({"multipliers": ()}, "multipliers must be at least one"),
        ({"blocks": 0}, "blocks must be at least 1"),
        ({"d_emb": 0}, "d_emb must be at least 1"),
        ({"attention": (0, 2)}, r"attention must be levels, 0 to 1; got \(0, 2\)"),
        ({"dtype": jnp.float16}, "dtype must be float32 or bfloat16"),
    ],
}


@pytest.mark.parametrize(("name", "change", "message"), [(n, *case) for n, cases in WRONG.items() for case in cases])
def test_sizes_that_do_not_fit_are_refused(name, change, message):
    with pytest.raises(ValueError, match=message):
        MAKERS[name](**change, key=jax.random.key(0))


# --- the registry


SIDES = {"dit-digits": (8, 8, 1), "dit-patches": (32, 32, 3), "unet-cifar": (32, 32, 3)}


def shapes_of(name, shape=(32, 32, 4), **options):
    """The network with shapes for arrays: nothing is allocated."""
    return eqx.filter_eval_shape(make_network, name, shape, key=jax.random.key(0), **options)


@pytest.mark.parametrize("name", NETWORKS)
def test_every_registered_network_maps_images_to_images(name):
    shape = SIDES.get(name, (16, 16, 3))
    network = shapes_of(name, shape, dtype=jnp.bfloat16, remat=True)
    assert network.dtype == jnp.bfloat16
    call = lambda network, *values: network(*values)  # noqa: E731
    values = [jax.ShapeDtypeStruct(size, jnp.float32) for size in (shape, (), (network.d_emb,))]
    out = eqx.filter_eval_shape(call, network, *values)
    assert (out.shape, out.dtype) == (shape, jnp.float32)


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(
        ValueError, match=r"network must be one of 'dit-s/2', .*; got 'dit-xl2'; did you mean 'dit-xl/2'\?"
    ):
        make_network("dit-xl2", SHAPE, key=jax.random.key(0))
    with pytest.raises(ValueError, match="multiples of the patch, 8; got 28 x 28 pixels"):
        make_network("dit-s/8", (28, 28, 1), key=jax.random.key(0))


@pytest.mark.parametrize(("name", "millions"), [("dit-s/2", 33), ("dit-b/2", 130), ("dit-l/2", 458), ("dit-xl/2", 675)])
def test_published_counts_of_dit(name, millions):
    """Peebles & Xie 2023, table 4: with the class table, of 1001 rows, and twice the channels in the last layer."""
    network = shapes_of(name)
    counted = parameter_count(network) + 1001 * network.d_emb + 16 * (network.d_emb + 1)
    assert round(counted / 1e6) == millions


def test_published_count_of_the_unet():
    """EDM's training log on CIFAR-10: 55,733,891, with 9 x 128 for the augmentation's labels, without conditions."""
    assert parameter_count(shapes_of("unet-cifar", (32, 32, 3))) == 55_733_891 - 9 * 128 + 128 * (128 + 1)


def test_published_count_of_ldm_4():
    """CompVis/latent-diffusion's own U-Net, built from configs/latent-diffusion/cin256-v2.yaml: 400.92M."""
    assert parameter_count(shapes_of("ldm-4", (64, 64, 3))) == 400_920_579


def analytic_flops(network):
    """2 x multiplications of a DiT, from its sizes alone."""
    w, (h, v), c = network.d_emb, network.grid, network.shape[2]
    n, area, depth = h * v, network.patch**2, network.blocks.qkv.bias.shape[0]
    block = 12 * n * w * w + 2 * n * n * w + 6 * w * w
    return 2 * (2 * n * area * c * w + (256 + w) * w + depth * block + 2 * w * w)


@pytest.mark.parametrize("name", ["dit-s/2", "dit-s/8", "dit-xl/2", "dit-digits"])
def test_operations_of_dit_are_counted_exactly(name):
    shape = SIDES.get(name, (32, 32, 4))
    network = shapes_of(name, shape)
    assert forward_flops(network, shape) == analytic_flops(network)


def test_operations_of_the_largest_are_the_published():
    """Table 4 of the paper: 118.64 G multiplications for XL/2 at 256 x 256, latents 32 x 32 x 4, learned variances."""
    assert forward_flops(shapes_of("dit-xl/2"), (32, 32, 4)) == pytest.approx(2 * 118.64e9, rel=0.01)


def test_operations_of_a_unet_are_counted_by_hand():
    """8 channels at 8 x 4 pixels, 16 at 4 x 2, where there is attention among 8 tokens; every map written out."""

    def block(pixels, inputs, outputs, skip):
        return 9 * pixels * (inputs + outputs) * outputs + 32 * outputs + skip * pixels * inputs * outputs

    attention = 4 * 8 * 16 * 16 + 2 * 8 * 8 * 16
    embedding = 8 * 8 + 8 * 32 + 32 * 32
    down = 9 * 32 * 1 * 8 + block(32, 8, 8, False) + block(8, 8, 8, True) + block(8, 8, 16, True) + attention
    middle = 2 * block(8, 16, 16, False) + attention
    up = block(8, 32, 16, True) + block(8, 24, 16, True) + attention
    up += block(32, 16, 16, True) + block(32, 24, 8, True) + block(32, 16, 8, True) + 9 * 32 * 8 * 1
    assert forward_flops(new("unet"), SHAPE) == 2 * (embedding + down + middle + up)
