"""Parts of latent diffusion's U-Net, each against its definition in NumPy; what a condition is; what it costs."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.networks.layers import Conv
from imagegen.networks.ldm_unet import LDMUNet, _Block, _Norm, _Transformer
from imagegen.networks.registry import forward_flops

WIDTH, D_EMB = 32, 6


def randomised(tree, rng):
    return jax.tree.map(lambda leaf: (0.4 * rng.normal(size=leaf.shape)).astype(np.float32), tree)


def groups_normed(x, norm):
    """Group norm by its definition, a group at a time."""
    out, size = np.empty_like(x), x.shape[-1] // 32
    for g in range(32):
        part = x[..., g * size : (g + 1) * size]
        out[..., g * size : (g + 1) * size] = (part - part.mean()) / np.sqrt(part.var() + norm.epsilon)
    return out * norm.scale + norm.bias


def layers_normed(z, norm):
    return (z - z.mean(-1, keepdims=True)) / np.sqrt(z.var(-1, keepdims=True) + 1e-5) * norm.scale + norm.bias


def attended(query, key, value):
    logits = query @ key.T / math.sqrt(query.shape[1])
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ value


def test_a_transformer_by_its_definition():
    rng = np.random.default_rng(1)
    t = randomised(_Transformer.zeros(WIDTH, D_EMB), rng)
    x, tokens = rng.normal(size=(4, 2, WIDTH)), rng.normal(size=(3, D_EMB))
    z = groups_normed(x, t.norm).reshape(8, WIDTH) @ t.first.weight.T + t.first.bias
    query, key, value = np.split(layers_normed(z, t.norm_self) @ t.qkv.weight.T, 3, 1)
    z = z + attended(query, key, value) @ t.proj.weight.T + t.proj.bias
    key, value = np.split(tokens @ t.key_value.weight.T, 2, 1)
    query = layers_normed(z, t.norm_cross) @ t.query.weight.T
    z = z + attended(query, key, value) @ t.proj_cross.weight.T + t.proj_cross.bias
    u, v = np.split(layers_normed(z, t.norm_mlp) @ t.fc1.weight.T + t.fc1.bias, 2, 1)
    z = z + (u * v * (1 + np.vectorize(math.erf)(v / math.sqrt(2))) / 2) @ t.fc2.weight.T + t.fc2.bias
    expected = x + (z @ t.last.weight.T + t.last.bias).reshape(x.shape)
    call = eqx.filter_jit(lambda t, x, tokens: t(x, tokens, jnp.float32))
    found = call(t, jnp.asarray(x, jnp.float32), jnp.asarray(tokens, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.max(np.abs(expected)))


def convolved(x, conv, stride=1):
    """Zeros around the image, then a product with the kernel at every `stride`-th place."""
    edge = conv.kernel.shape[0] // 2
    padded, rows, columns = np.pad(x, ((edge, edge), (edge, edge), (0, 0))), x.shape[0] // stride, x.shape[1] // stride
    out = np.empty((rows, columns, conv.bias.size))
    for i, j in np.ndindex(rows, columns):
        seen = padded[stride * i : stride * i + 2 * edge + 1, stride * j : stride * j + 2 * edge + 1]
        out[i, j] = np.einsum("abc,abcd->d", seen, conv.kernel) + conv.bias
    return out


def silu(x):
    return x / (1 + np.exp(-x))


def test_a_block_by_its_definition():
    rng = np.random.default_rng(2)
    b = randomised(_Block.zeros(WIDTH, 2 * WIDTH, 5), rng)
    x, e = rng.normal(size=(4, 6, WIDTH)), rng.normal(size=5)
    h = convolved(silu(groups_normed(x, b.norm)), b.first) + b.embedded.weight @ e + b.embedded.bias
    expected = convolved(x, b.skip) + convolved(silu(groups_normed(h, b.norm_last)), b.last)
    call = eqx.filter_jit(lambda b, x, e: b(x, e, jnp.float32))
    found = call(b, jnp.asarray(x, jnp.float32), jnp.asarray(e, jnp.float32))
    np.testing.assert_allclose(found, expected, atol=2e-5 * np.max(np.abs(expected)))


def test_a_convolution_of_stride_2_takes_every_other_place():
    rng = np.random.default_rng(3)
    conv, x = randomised(Conv.zeros(2, 3), rng), rng.normal(size=(6, 8, 2)).astype(np.float32)
    found = eqx.filter_jit(lambda conv, x: conv(x, 2))(conv, jnp.asarray(x))
    np.testing.assert_allclose(found, convolved(x, conv, 2), atol=1e-5)
    np.testing.assert_allclose(found, convolved(x, conv)[::2, ::2], atol=1e-5)


def test_norms_have_the_references_epsilons():
    """Seen at values as small as their square roots."""
    x = np.float32(1e-3) * np.random.default_rng(4).normal(size=(4, 4, 64)).astype(np.float32)
    for epsilon in (1e-5, 1e-6):
        norm = _Norm(jnp.ones(64), jnp.zeros(64), 32, epsilon)
        np.testing.assert_allclose(norm(jnp.asarray(x)), groups_normed(x, norm), atol=1e-5)
    block, transformer = _Block.zeros(64, 64, 4), _Transformer.zeros(64, 4)
    assert (block.norm.epsilon, block.norm_last.epsilon, transformer.norm.epsilon) == (1e-5, 1e-5, 1e-6)
    assert [norm.groups for norm in (block.norm, transformer.norm, transformer.norm_self)] == [32, 32, 0]


def network(**options):
    """A small one, of shapes alone."""
    sizes = {"channels": 64, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "d_emb": D_EMB}
    return eqx.filter_eval_shape(LDMUNet, (4, 4, 1), **{**sizes, **options}, key=jax.random.key(0))


def test_a_network_attends_and_changes_sizes_where_it_is_told():
    whole = network(multipliers=(1, 1, 2), attention=(0, 2))
    assert [hasattr(stage, "conv") or stage.transformer is not None for stage in whole.encoder] == [
        True, True, False, True, True
    ]  # fmt: skip
    assert [stage.transformer is not None for stage in whole.decoder] == [True, True, False, False, True, True]
    assert [stage.up is not None for stage in whole.decoder] == [False, True, False, True, False, False]
    assert [stage.transformer is not None for stage in whole.middle] == [True, False]


def test_first_weights_are_the_references():
    whole = LDMUNet(
        (1, 1, 1), channels=64, multipliers=(1,), blocks=1, attention=(), d_emb=D_EMB, key=jax.random.key(0)
    )
    transformer = whole.middle[0].transformer
    for weight, inputs in ((transformer.key_value.weight, D_EMB), (whole.decoder[0].block.first.kernel, 9 * 128)):
        assert 0.95 / math.sqrt(inputs) < np.max(np.abs(weight)) <= 1 / math.sqrt(inputs)
    for zero in (transformer.last.weight, whole.last.kernel, whole.decoder[0].block.last.kernel, whole.first.bias):
        np.testing.assert_array_equal(zero, 0.0)


def test_everything_given_reaches_every_pixel():
    rng = np.random.default_rng(6)
    drawn = randomised(network(multipliers=(1, 1), attention=()), rng)
    x, label, tokens = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 4, 1), (), (2, D_EMB)))
    call = eqx.filter_jit(lambda network, *values: network(*values))
    out = call(drawn, x, label, tokens)
    for other in ((x.at[0, 3].add(0.1), label, tokens), (x, label + 0.1, tokens), (x, label, tokens.at[1, 2].add(0.1))):
        assert np.all(np.abs(call(drawn, *other) - out) > 1e-6 * np.max(np.abs(out)))


@pytest.mark.slow
def test_a_vector_is_a_sequence_of_one_token_and_the_order_of_tokens_does_not_matter():
    rng = np.random.default_rng(5)
    drawn = randomised(network(), rng)
    x, label, tokens = (jnp.asarray(rng.normal(size=size), jnp.float32) for size in ((4, 4, 1), (), (3, D_EMB)))
    call = eqx.filter_jit(lambda network, *values: network(*values))
    out = call(drawn, x, label, tokens)
    np.testing.assert_allclose(call(drawn, x, label, tokens[jnp.array([2, 0, 1])]), out, atol=1e-5)
    assert np.max(np.abs(call(drawn, x, label, tokens + 0.1) - out)) > 1e-3
    one = call(drawn, x, label, tokens[:1])
    for same in (tokens[0], jnp.tile(tokens[:1], (3, 1))):
        np.testing.assert_allclose(call(drawn, x, label, same), one, atol=1e-5)


def test_conditions_that_are_neither_vectors_nor_sequences_are_refused():
    x, label = jnp.zeros((4, 4, 1)), jnp.zeros(())
    for shape in ((D_EMB + 1,), (2, D_EMB + 1), (1, 2, D_EMB)):
        with pytest.raises(ValueError, match=r"cond must be of the network's d_emb, \(6,\), or a sequence"):
            network()(x, label, jnp.zeros(shape))


def test_operations_are_counted_by_hand():
    """64 channels at 4 x 4 pixels, 128 at 2 x 2, where there are transformers for one token; every map written out."""

    def block(pixels, inputs, outputs, skip=True):
        return 9 * pixels * (inputs + outputs) * outputs + 256 * outputs + skip * pixels * inputs * outputs

    n, w = 4, 128
    transformer = (1 + 3 + 1 + 1 + 1 + 8 + 4 + 1) * n * w * w + 2 * n * n * w + 2 * D_EMB * w + 2 * n * w
    down = 9 * 16 * 64 + block(16, 64, 64, False) + 9 * 4 * 64 * 64 + block(4, 64, 128) + transformer
    middle = 2 * block(4, 128, 128, False) + transformer
    up = block(4, 256, 128) + block(4, 192, 128) + 2 * transformer + 9 * 16 * 128 * 128
    up += block(16, 192, 64) + block(16, 128, 64) + 9 * 16 * 64
    assert forward_flops(network(), (4, 4, 1)) == 2 * (64 * 256 + 256 * 256 + down + middle + up)
