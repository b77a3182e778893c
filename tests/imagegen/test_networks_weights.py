"""Weights in the layout of facebookresearch/DiT: there and back, and what is refused."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.networks.dit import DiT, positions
from imagegen.networks.dit_weights import from_reference, to_reference

WIDTH, DEPTH, ROWS = 8, 2, 4


def state():
    """A checkpoint of the reference's layout, written out: random, but for the positions of 2 x 2 patches."""
    shapes = {
        "x_embedder.proj": (WIDTH, 3, 2, 2),
        "t_embedder.mlp.0": (WIDTH, 256),
        "t_embedder.mlp.2": (WIDTH, WIDTH),
        "final_layer.linear": (2 * 2 * 6, WIDTH),
        "final_layer.adaLN_modulation.1": (2 * WIDTH, WIDTH),
    }
    for i in range(DEPTH):
        shapes |= {
            f"blocks.{i}.attn.qkv": (3 * WIDTH, WIDTH),
            f"blocks.{i}.attn.proj": (WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc1": (4 * WIDTH, WIDTH),
            f"blocks.{i}.mlp.fc2": (WIDTH, 4 * WIDTH),
            f"blocks.{i}.adaLN_modulation.1": (6 * WIDTH, WIDTH),
        }
    rng = np.random.default_rng(0)
    arrays = {f"{name}.weight": rng.normal(size=shape) for name, shape in shapes.items()}
    arrays |= {f"{name}.bias": rng.normal(size=shape[0]) for name, shape in shapes.items()}
    arrays["y_embedder.embedding_table.weight"] = rng.normal(size=(ROWS, WIDTH))
    arrays["pos_embed"] = positions(2, 2, WIDTH)[None]
    return {name: value.astype(np.float32) for name, value in arrays.items()}


def test_there_and_back_keeps_every_number():
    network, table = from_reference(state(), heads=2)
    assert (network.shape, network.patch, network.d_emb, network.heads) == ((4, 4, 3), 2, WIDTH, 2)
    back = to_reference(network, table)
    assert back.keys() == state().keys()
    for name, value in state().items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_back_and_there_keeps_the_network():
    network = DiT((4, 4, 3), patch=2, width=WIDTH, depth=DEPTH, heads=2, key=jax.random.key(0), dtype=jnp.bfloat16)
    table = jnp.ones((ROWS, WIDTH))
    again, same = from_reference(to_reference(network, table), heads=2, dtype=jnp.bfloat16)
    assert jax.tree.structure(again) == jax.tree.structure(network)
    np.testing.assert_array_equal(same, table)
    for a, b in zip(jax.tree.leaves(again), jax.tree.leaves(network), strict=True):
        np.testing.assert_array_equal(a, b)


def test_kernels_of_patches_go_channel_last():
    kernel = state()["x_embedder.proj.weight"]
    network, _ = from_reference(state(), heads=2)
    by_place = np.asarray(network.patches.weight).reshape(WIDTH, 2, 2, 3)
    np.testing.assert_array_equal(by_place[5, 1, 0, 2], kernel[5, 2, 1, 0])


def test_averaged_positions_pass():
    averaged = {**state(), "pos_embed": state()["pos_embed"] * np.float32(1 + 1e-5)}
    from_reference(averaged, heads=2)


def without(name):
    return {key: value for key, value in state().items() if key != name}


NAN = np.full((ROWS, WIDTH), np.nan, np.float32)
BAD = {
    "missing": (without("blocks.1.mlp.fc1.bias"), r"state must be complete; got no blocks\.1\.mlp\.fc1\.bias\."),
    "no patches": (without("x_embedder.proj.weight"), r"a mapping with x_embedder\.proj\.weight"),
    "no table": (without("y_embedder.embedding_table.weight"), r"a mapping with y_embedder\.embedding_table\.weight"),
    "nothing": ({}, "a mapping with"),
    "unexpected": ({**state(), "decoder.weight": np.zeros(1)}, r"DiT's layout; got also decoder\.weight\."),
    "misshapen": (
        {**state(), "blocks.0.attn.qkv.weight": np.zeros((8, 8), np.float32)},
        r"fit each other; got blocks\.0\.attn\.qkv\.weight \(8, 8\) instead of \(24, 8\)",
    ),
    "axes": ({**state(), "x_embedder.proj.weight": np.zeros((8, 12))}, r"of 4 axes; got shape \(8, 12\)"),
    "grid": ({**state(), "pos_embed": np.zeros((1, 6, 8))}, "of a square grid; got 6 positions"),
    "positions": ({**state(), "pos_embed": np.zeros((1, 4, 8), np.float32)}, "fixed sine-cosine positions; got values"),
    "not finite": ({**state(), "y_embedder.embedding_table.weight": NAN}, r"finite; got other values in y_embedder"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_does_not_fit_is_named(case):
    given, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        from_reference(given, heads=2)


def test_many_missing_arrays_are_counted():
    few = {name: value for name, value in state().items() if not name.startswith("blocks.0.")}
    with pytest.raises(ValueError, match=r"got no blocks\.0\..* and 6 more"):
        from_reference(few, heads=2)


def test_a_table_of_another_width_is_refused():
    network, _ = from_reference(state(), heads=2)
    with pytest.raises(ValueError, match="table must be of rows as long as the width, 8; got shape"):
        to_reference(network, jnp.ones((ROWS, 6)))
