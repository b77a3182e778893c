"""DiT against its definition in NumPy, and its parts against theirs."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.networks import dit
from imagegen.networks.dit import DiT, patchify, positions, unpatchify
from imagegen.networks.layers import attend, noise_features, normalise

SHAPE, LABEL = (4, 8, 3), 0.71
SIZES = {"patch": 2, "width": 16, "depth": 3, "heads": 2}


def make(seed=0, **options):
    return DiT(SHAPE, **{**SIZES, **options}, key=jax.random.key(seed))


def randomised(network):
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: (rng.normal(size=a.shape) / math.sqrt(a.shape[-1])).astype(np.float32), network)


def sample(width=16, seed=2):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=SHAPE), jnp.float32), jnp.asarray(rng.normal(size=width), jnp.float32)


# --- the definition, in float64, block by block


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))


def modulated(h, shift, scale):
    centred = h - h.mean(-1, keepdims=True)
    return (1 + scale) * centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6) + shift


def attention(seen, qkv, heads):
    query, key, value = np.split(seen @ qkv.weight.T + qkv.bias, 3, axis=-1)
    joined = []
    for part in np.split(np.arange(query.shape[1]), heads):
        scores = query[:, part] @ key[:, part].T / math.sqrt(len(part))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        joined.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
    return np.concatenate(joined, -1)


def by_definition(network, x, label, cond):
    network = jax.tree.map(lambda a: np.asarray(a, np.float64), network)
    x, cond = np.asarray(x, np.float64), np.asarray(cond, np.float64)
    maps = lambda dense, v: v @ dense.weight.T + dense.bias  # noqa: E731
    (rows, columns), p = network.grid, network.patch
    angle = 1000 * label * 10000.0 ** (-np.arange(128) / 128)
    features = np.concatenate([np.cos(angle), np.sin(angle)])
    c = silu(maps(network.embedding.second, silu(maps(network.embedding.first, features))) + cond)
    cells = [x[i * p : i * p + p, j * p : j * p + p].ravel() for i in range(rows) for j in range(columns)]
    h = maps(network.patches, np.stack(cells)) + positions(rows, columns, network.d_emb)
    for k in range(network.blocks.qkv.bias.shape[0]):
        block = jax.tree.map(lambda a: a[k], network.blocks)  # noqa: B023
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = np.split(maps(block.modulation, c), 6)
        h = h + gate * maps(block.proj, attention(modulated(h, shift, scale), block.qkv, network.heads))
        h = h + gate_mlp * maps(block.fc2, gelu(maps(block.fc1, modulated(h, shift_mlp, scale_mlp))))
    tokens = maps(network.final, modulated(h, *np.split(maps(network.modulation, c), 2)))
    out = np.zeros((rows * p, columns * p, tokens.shape[1] // p**2))
    for index, token in enumerate(tokens):
        i, j = divmod(index, columns)
        out[i * p : i * p + p, j * p : j * p + p] = token.reshape(p, p, -1)
    return out


@pytest.mark.parametrize("shallow", [0, 6])
def test_the_scan_is_the_definition_block_by_block(shallow, monkeypatch):
    """Scanned, and unrolled as shallow networks are; with twice the channels out. In float32 the largest angle, 710, is
    known to 710 x 2⁻²⁴ = 4e-5: that much of a feature, and as much of the output, of size 1, is allowed.
    """
    monkeypatch.setattr(dit, "SHALLOW", shallow)
    network, (x, cond) = randomised(make(out_channels=6)), sample()
    out = eqx.filter_jit(lambda network: network(x, jnp.float32(LABEL), cond))(network)
    expected = by_definition(network, x, float(np.float32(LABEL)), cond)
    assert expected.shape == (4, 8, 6)
    assert expected.std() > 0.3
    np.testing.assert_allclose(out, expected, atol=4e-5)


def test_without_positions_the_order_of_patches_does_not_matter(monkeypatch):
    monkeypatch.setattr(dit, "positions", lambda rows, columns, width: np.zeros((rows * columns, width), np.float32))
    network, (_, cond) = randomised(make()), sample()
    order = np.random.default_rng(0).permutation(8)

    @jax.jit
    def mapped(tokens):
        return patchify(network(unpatchify(tokens, network.grid, 2), jnp.float32(LABEL), cond), 2)

    tokens = np.random.default_rng(3).normal(size=(8, 12)).astype(np.float32)
    np.testing.assert_allclose(mapped(tokens[order]), np.asarray(mapped(tokens))[order], atol=2e-5)


def test_patches_are_squares_row_by_row_and_go_back():
    x = np.arange(6 * 4 * 3, dtype=np.float32).reshape(6, 4, 3)
    tokens = np.asarray(patchify(jnp.asarray(x), 2))
    assert tokens.shape == (6, 12)
    np.testing.assert_array_equal(tokens[0], x[:2, :2].ravel())
    np.testing.assert_array_equal(tokens[1], x[:2, 2:].ravel())
    np.testing.assert_array_equal(tokens[4], x[4:, :2].ravel())
    np.testing.assert_array_equal(unpatchify(jnp.asarray(tokens), (3, 2), 2), x)


def test_positions_tell_rows_and_columns_apart():
    table = positions(3, 5, 16)
    assert table.dtype == np.float32
    np.testing.assert_allclose((table**2).sum(1), 8.0, rtol=1e-6)
    by_place = table.reshape(3, 5, 16)
    np.testing.assert_array_equal(by_place[0, :, :8], by_place[2, :, :8])  # the column's half
    np.testing.assert_array_equal(by_place[:, 0, 8:], by_place[:, 4, 8:])  # the row's
    np.testing.assert_allclose(by_place[2, 3, [0, 4, 8, 12]], [math.sin(3), math.cos(3), math.sin(2), math.cos(2)])
    assert len(np.unique(table, axis=0)) == 15


def test_features_of_the_label_are_those_of_a_thousandfold_timestep():
    features = np.asarray(noise_features(jnp.float32(0.5), 8))
    angle = 500 * np.array([1, 0.1, 0.01, 0.001])
    np.testing.assert_allclose(features, np.concatenate([np.cos(angle), np.sin(angle)]), atol=500 * 2.0**-23)


def test_norms_are_of_mean_zero_and_variance_one_in_float32():
    x = jnp.asarray(np.random.default_rng(0).normal(100, 3, size=(4, 6, 8)), jnp.bfloat16)
    normed = np.asarray(jax.jit(lambda x: normalise(x, (0, 2)))(x))
    assert normed.dtype == np.float32
    np.testing.assert_allclose(np.mean(normed, (0, 2)), 0.0, atol=1e-5)
    np.testing.assert_allclose(np.var(normed, (0, 2)), 1.0, atol=1e-4)


def test_equal_keys_attend_to_all_alike():
    value = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)
    qkv = np.concatenate([value, np.ones((5, 4), np.float32), value], 1)
    out = jax.jit(lambda qkv: attend(qkv, 2))(qkv)
    np.testing.assert_allclose(out, np.broadcast_to(value.mean(0), (5, 4)), atol=1e-6)


def test_first_weights_are_xaviers_and_the_embeddings_normal():
    """Standard deviations within 5 standard errors, 1/√(2n) of them for the normal, less for the uniform."""
    network = make(width=64, heads=4)
    for layer, out, fan in ((network.blocks.qkv, 192, 64), (network.blocks.fc2, 64, 256), (network.patches, 64, 12)):
        bound = math.sqrt(6 / (out + fan))
        assert layer.weight.shape[-2:] == (out, fan)
        assert 0.98 * bound < np.max(np.abs(layer.weight)) <= bound
        assert abs(np.std(layer.weight) * math.sqrt(3) / bound - 1) < 5 / math.sqrt(2 * layer.weight.size)
    for layer in (network.embedding.first, network.embedding.second):
        assert abs(np.std(layer.weight) / 0.02 - 1) < 5 / math.sqrt(2 * layer.weight.size)
        assert np.all(np.isfinite(layer.weight))
    zero = (network.blocks.modulation, network.modulation, network.final, network.blocks.qkv.bias, network.patches.bias)
    assert not any(np.any(np.asarray(leaf)) for leaf in jax.tree.leaves(zero))
