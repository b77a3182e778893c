"""Parts of the U-Net: what its blocks do at first, convolutions and norms by hand, its encoder by itself."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from imagegen.networks.layers import Conv
from imagegen.networks.unet import Encoder, GroupNorm, UNet, _doubled, _halved

SHAPE = (8, 4, 1)


def make(**options):
    return UNet(SHAPE, channels=8, multipliers=(1, 2), blocks=1, attention=1, key=jax.random.key(0), **options)


def test_a_new_block_keeps_what_it_is_given():
    """Its last maps are zero: the block divides by √2. Kernels that change sizes are drawn."""
    encoder = make().encoder
    assert [block.scaling for block in encoder.blocks] == ["same", "down", "same"]
    x = jnp.asarray(np.random.default_rng(0).normal(size=(8, 4, 8)), jnp.float32)
    out = eqx.filter_jit(lambda block: block(x, jnp.ones(32), jnp.float32))(encoder.blocks[0])
    np.testing.assert_allclose(out, x / math.sqrt(2), rtol=1e-6)
    for block in encoder.blocks[1:]:
        assert np.std(block.skip.kernel) > 0
        np.testing.assert_array_equal(block.last.kernel, 0.0)


def test_first_kernels_are_xaviers_and_scales_one():
    network = make()
    for conv in (network.encoder.first, network.encoder.blocks[2].first, network.decoder[0].skip):
        area, inputs, outputs = math.prod(conv.kernel.shape[:2]), *conv.kernel.shape[2:]
        bound = math.sqrt(6 / (area * (inputs + outputs)))
        assert 0.9 * bound < np.max(np.abs(conv.kernel)) <= bound
    np.testing.assert_array_equal(network.norm.scale, 1.0)
    np.testing.assert_array_equal(network.encoder.first.bias, 0.0)


def test_halving_averages_and_doubling_repeats():
    x = np.arange(16, dtype=np.float32).reshape(4, 2, 2)
    np.testing.assert_array_equal(_halved(jnp.asarray(x))[1, 0], x[2:, :].mean((0, 1)))
    np.testing.assert_array_equal(_doubled(jnp.asarray(x)), np.kron(x, np.ones((2, 2, 1))))


def test_a_convolution_by_hand():
    rng = np.random.default_rng(0)
    kernel, bias, x = (rng.normal(size=size).astype("f4") for size in ((3, 3, 2, 4), (4,), (5, 6, 2)))
    padded, expected = np.pad(x, ((1, 1), (1, 1), (0, 0))), np.zeros((5, 6, 4))
    for i in range(5):
        for j in range(6):
            expected[i, j] = np.einsum("abc,abcd->d", padded[i : i + 3, j : j + 3], kernel) + bias
    np.testing.assert_allclose(
        eqx.filter_jit(Conv(jnp.asarray(kernel), jnp.asarray(bias)))(jnp.asarray(x)), expected, atol=1e-5
    )


def test_groups_are_normed_by_themselves():
    x = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5, 8)) * np.arange(1, 9), jnp.float32)
    normed = np.asarray(eqx.filter_jit(GroupNorm(jnp.full(8, 2.0), jnp.ones(8)))(x))
    for group in (slice(0, 4), slice(4, 8)):
        np.testing.assert_allclose(np.mean(normed[..., group]), 1.0, atol=1e-5)
        np.testing.assert_allclose(np.std(normed[..., group]), 2.0, rtol=1e-5)


def test_the_encoder_gives_what_every_block_gives():
    encoder = make().encoder
    assert isinstance(encoder, Encoder)
    kept, e = jax.eval_shape(encoder, jnp.ones(SHAPE), jnp.float32(0.1), jnp.ones(8))
    assert [one.shape for one in kept] == [(8, 4, 8), (8, 4, 8), (4, 2, 8), (4, 2, 16)]
    assert e.shape == (32,)
