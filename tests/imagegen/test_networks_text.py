"""The text encoder and the DiT that reads, against their definitions in NumPy."""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf

from imagegen.networks import text
from imagegen.networks.bert_weights import from_bert
from imagegen.networks.layers import cross_attend
from imagegen.networks.registry import TEXT_NETWORKS, encoder_flops, forward_flops, make_text_network
from imagegen.networks.text import TextEncoder, make_encoder
from imagegen.networks.text_dit import TextDiT
from tests.imagegen.test_networks_dit import attention, gelu, modulated, randomised, silu

ENCODER = {"width": 12, "depth": 2, "heads": 3}
DIT = {"patch": 2, "width": 16, "depth": 2, "heads": 2, "d_emb": 6}
SHAPE, LABEL, M = (4, 8, 3), 0.71, 5
TOKENS = np.array([3, 0, 7, 7, 19], np.int32)


def encoder(**options):
    return TextEncoder(20, 8, **{**ENCODER, **options}, key=jax.random.key(0))


def reader(**options):
    return TextDiT(SHAPE, **{**DIT, **options}, key=jax.random.key(1))


@eqx.filter_jit
def call(function, *inputs):
    return function(*inputs)


def in_float64(tree):
    return jax.tree.map(lambda a: np.asarray(a, np.float64), tree)


def mapped(dense, v):
    return v @ dense.weight.T + dense.bias


# --- the encoder


def layer_norm(norm, y):
    centred = y - y.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True)) * norm.scale + norm.bias


def encoded_by_definition(network, tokens):
    network = in_float64(network)
    y = layer_norm(network.norm, np.stack([network.words[t] + network.places[i] for i, t in enumerate(tokens)]))
    for k in range(network.layers.qkv.bias.shape[0]):
        layer = jax.tree.map(lambda a: a[k], network.layers)  # noqa: B023
        y = layer_norm(layer.norm, y + mapped(layer.proj, attention(y, layer.qkv, network.heads)))
        wide = mapped(layer.fc1, y)
        y = layer_norm(layer.norm_last, y + mapped(layer.fc2, wide * (1 + erf(wide / math.sqrt(2))) / 2))
    return y


@pytest.mark.parametrize("shallow", [0, 6])
def test_the_encoder_is_its_definition(shallow, monkeypatch):
    monkeypatch.setattr(text, "SHALLOW", shallow)
    network = randomised(encoder(remat=shallow == 0))
    out = call(network, jnp.asarray(TOKENS))
    assert out.dtype == jnp.float32
    np.testing.assert_allclose(out, encoded_by_definition(network, TOKENS), atol=2e-5)


def test_the_encoders_products_are_in_bfloat16_and_its_sum_is_not():
    network = randomised(encoder(dtype=jnp.bfloat16))
    out = call(network, jnp.asarray(TOKENS))
    assert out.dtype == jnp.float32
    apart = np.abs(out - encoded_by_definition(network, TOKENS))
    assert 1e-4 < apart.max() < 0.1  # outputs of size 1, bfloat16 knows them to 2⁻⁹


def test_first_embeddings_are_normal_and_norms_start_as_norms():
    network = make_encoder("text-small", 400, 16, key=jax.random.key(0))
    assert network.d_emb == 128
    for weight in (network.words, network.layers.fc1.weight, network.layers.qkv.weight):
        assert abs(np.std(weight) / 0.02 - 1) < 5 / math.sqrt(2 * weight.size)
    np.testing.assert_array_equal(network.layers.norm.scale, 1)
    np.testing.assert_array_equal(network.layers.norm_last.bias, 0)


def test_sizes_that_make_no_sense_are_refused():
    for options, message in (({"heads": 5}, "multiple of the 5 heads"), ({"depth": 0}, "depth must be at least 1")):
        with pytest.raises(ValueError, match=message):
            encoder(**options)
    with pytest.raises(ValueError, match="at most 8"):
        encoder()(jnp.zeros(9, jnp.int32))
    with pytest.raises(ValueError, match="did you mean 'text-base'"):
        make_encoder("text-bas", 400, 16, key=jax.random.key(0))


# --- weights of BERT


def bert_state(vocabulary=20, length=8, width=12, depth=2, prefix="", norms=("weight", "bias")):
    """Random arrays in that layout."""
    rng = np.random.default_rng(4)
    shapes = {f"embeddings.{name}_embeddings.weight": (rows, width)
              for name, rows in (("word", vocabulary), ("position", length), ("token_type", 2))}  # fmt: skip
    dense = {"attention.self.query": (width, width), "attention.self.key": (width, width),
             "attention.self.value": (width, width), "attention.output.dense": (width, width),
             "intermediate.dense": (4 * width, width), "output.dense": (width, 4 * width)}  # fmt: skip
    norm_names = ["embeddings.LayerNorm"]
    for i in range(depth):
        for name, shape in dense.items():
            shapes |= {f"encoder.layer.{i}.{name}.weight": shape, f"encoder.layer.{i}.{name}.bias": shape[:1]}
        norm_names += [f"encoder.layer.{i}.{part}.LayerNorm" for part in ("attention.output", "output")]
    shapes |= {f"{name}.{part}": (width,) for name in norm_names for part in norms}
    return {prefix + name: rng.normal(size=shape).astype(np.float32) / 2 for name, shape in shapes.items()}


def test_berts_arrays_come_to_their_places():
    state = bert_state()
    network = from_bert(state, heads=3)
    first = in_float64(jax.tree.map(lambda a: a[1], network.layers))
    for k, name in enumerate(("query", "key", "value")):
        rows = slice(12 * k, 12 * k + 12)
        np.testing.assert_array_equal(first.qkv.weight[rows], state[f"encoder.layer.1.attention.self.{name}.weight"])
        np.testing.assert_array_equal(first.qkv.bias[rows], state[f"encoder.layer.1.attention.self.{name}.bias"])
    for name, part in (("attention.output.dense", first.proj), ("intermediate.dense", first.fc1),
                       ("output.dense", first.fc2)):  # fmt: skip
        np.testing.assert_array_equal(part.weight, state[f"encoder.layer.1.{name}.weight"])
        np.testing.assert_array_equal(part.bias, state[f"encoder.layer.1.{name}.bias"])
    for name, part in (("attention.output", first.norm), ("output", first.norm_last)):
        np.testing.assert_array_equal(part.scale, state[f"encoder.layer.1.{name}.LayerNorm.weight"])
        np.testing.assert_array_equal(part.bias, state[f"encoder.layer.1.{name}.LayerNorm.bias"])
    segment = state["embeddings.token_type_embeddings.weight"][0]
    np.testing.assert_array_equal(network.places, state["embeddings.position_embeddings.weight"] + segment)
    np.testing.assert_array_equal(network.words, state["embeddings.word_embeddings.weight"])
    np.testing.assert_array_equal(network.norm.scale, state["embeddings.LayerNorm.weight"])


def test_names_of_models_around_bert_and_of_older_files_are_the_same():
    around = bert_state(prefix="bert.", norms=("gamma", "beta")) | {"cls.predictions.bias": np.zeros(20, np.float32)}
    pairs = zip(*(jax.tree.leaves(from_bert(state, heads=3)) for state in (bert_state(), around)), strict=True)
    for one, other in pairs:
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(("name", "value", "message"), [
    ("encoder.layer.1.output.dense.bias", None, "no encoder.layer.1.output.dense.bias"),
    ("embeddings.word_embeddings.weight", None, "no matrix embeddings.word_embeddings.weight"),
    ("encoder.layer.0.output.dense.bias", np.zeros(3), r"\(3,\) instead of \(12,\)"),
    ("embeddings.LayerNorm.bias", np.full(12, np.nan), "other values in embeddings.LayerNorm.bias"),
])  # fmt: skip
def test_states_that_are_not_berts_are_refused(name, value, message):
    state = bert_state()
    state.pop(name) if value is None else state.update({name: value})
    with pytest.raises(ValueError, match=message):
        from_bert(state, heads=3)


# --- the DiT that reads


def attention_to(seen, key_value, heads):
    key, value = np.split(key_value, 2, axis=-1)
    joined = []
    for part in np.split(np.arange(seen.shape[1]), heads):
        scores = seen[:, part] @ key[:, part].T / math.sqrt(len(part))
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        joined.append(weights / weights.sum(-1, keepdims=True) @ value[:, part])
    return np.concatenate(joined, -1)


def test_attention_to_others_is_its_definition():
    rng = np.random.default_rng(0)
    query, key_value = (rng.normal(size=size).astype(np.float32) for size in ((7, 12), (5, 24)))
    out = eqx.filter_jit(cross_attend)(jnp.asarray(query), jnp.asarray(key_value), 3)
    np.testing.assert_allclose(out, attention_to(query, key_value, 3), atol=2e-6)


def read_by_definition(network, x, label, tokens):
    from imagegen.networks.dit import patchify, positions, unpatchify

    grid, patch, heads = network.dit.grid, network.dit.patch, network.dit.heads
    cells = np.asarray(patchify(jnp.asarray(x), patch), np.float64)
    network, tokens = in_float64(network), np.asarray(tokens, np.float64)
    dit = network.dit
    angle = 1000 * label * 10000.0 ** (-np.arange(128) / 128)
    features = np.concatenate([np.cos(angle), np.sin(angle)])
    e = mapped(dit.embedding.second, silu(mapped(dit.embedding.first, features)))
    c = silu(e + mapped(network.pooled, tokens.mean(0)))
    h = mapped(dit.patches, cells) + positions(*grid, dit.d_emb)
    for k in range(2):
        block, reading = (jax.tree.map(lambda a: a[k], tree) for tree in (dit.blocks, network.readings))  # noqa: B023
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = np.split(mapped(block.modulation, c), 6)
        h = h + gate * mapped(block.proj, attention(modulated(h, shift, scale), block.qkv, heads))
        seen = attention_to(mapped(reading.query, modulated(h, 0, 0)), mapped(reading.key_value, tokens), heads)
        h = h + mapped(reading.final, seen)
        h = h + gate_mlp * mapped(block.fc2, gelu(mapped(block.fc1, modulated(h, shift_mlp, scale_mlp))))
    out = mapped(dit.final, modulated(h, *np.split(mapped(dit.modulation, c), 2)))
    return unpatchify(jnp.asarray(out), grid, patch)


def drawn():
    rng = np.random.default_rng(2)
    return rng.normal(size=SHAPE).astype(np.float32), rng.normal(size=(M, 6)).astype(np.float32)


def test_the_dit_that_reads_is_its_definition_and_sees_a_set_of_tokens():
    """Tokens in another order are the same to it: what order means is the encoder's to say."""
    network, (x, tokens) = randomised(reader()), drawn()
    out = call(network, x, jnp.float32(LABEL), tokens)
    np.testing.assert_allclose(out, read_by_definition(network, x, LABEL, tokens), atol=1e-3)
    np.testing.assert_allclose(call(network, x, jnp.float32(LABEL), tokens[::-1].copy()), out, atol=1e-4)
    assert float(jnp.max(jnp.abs(call(network, x, jnp.float32(LABEL), tokens + 0.5) - out))) > 0.01


def test_in_bfloat16_the_output_is_close_and_keeps_its_type():
    x, tokens = drawn()
    whole, half = (randomised(reader(dtype=dtype)) for dtype in (jnp.float32, jnp.bfloat16))
    first, second = (call(network, x, jnp.float32(LABEL), tokens) for network in (whole, half))
    assert second.dtype == jnp.float32
    assert 1e-4 < float(jnp.max(jnp.abs(first - second))) < 0.2 * float(jnp.max(jnp.abs(first)))


def test_it_starts_at_zero_and_every_size_has_its_form():
    network, (x, tokens) = reader(), drawn()
    np.testing.assert_array_equal(call(network, x, jnp.float32(LABEL), tokens), 0)
    assert not np.any(network.readings.final.weight)
    assert np.any(network.readings.query.weight)
    shapes = eqx.filter_eval_shape(TEXT_NETWORKS["dit-b/2"], (32, 32, 4), d_emb=768, key=jax.random.key(0))
    assert shapes.readings.key_value.weight.shape == (12, 1536, 768)


@pytest.mark.parametrize(("cond", "message"), [
    (np.zeros((M, 7), np.float32), r"m tokens of the network's d_emb, \(m, 6\)"),
    (np.zeros(6, np.float32), r"m tokens of the network's d_emb"),
])  # fmt: skip
def test_tokens_of_another_size_are_refused(cond, message):
    with pytest.raises((ValueError, TypeError), match=f"{message}|cond"):
        reader()(jnp.zeros(SHAPE), jnp.float32(0), jnp.asarray(cond))


def test_networks_that_read_no_text_are_refused():
    with pytest.raises(ValueError, match="network must be one of"):
        make_text_network("unet-small", SHAPE, 6, key=jax.random.key(0))


def test_operations_are_counted_by_hand():
    n, w, d = 8, 16, 6
    block = 6 * w * w + n * (3 + 1 + 8) * w * w + 2 * n * n * w
    reading = 2 * n * w * w + 2 * M * d * w + 2 * n * M * w
    outside = n * 12 * w + 256 * w + w * w + d * w + 2 * w * w + n * w * 12
    assert forward_flops(reader(), SHAPE, M) == 2 * (2 * (block + reading) + outside)
    assert encoder_flops(encoder(), M) == 2 * 2 * (M * 12 * 12**2 + 2 * M * M * 12)
