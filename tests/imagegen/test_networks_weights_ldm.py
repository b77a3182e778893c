"""Published weights of latent diffusion's U-Net and those in diffusers' layouts: each array lands where it belongs."""

import equinox as eqx
import jax
import numpy as np
import pytest

from imagegen.networks.diffusers_layouts import dit_state, is_dit, is_ldm, ldm_state
from imagegen.networks.dit import positions
from imagegen.networks.dit_weights import from_reference as dit_from_reference
from imagegen.networks.ldm_unet import LDMUNet
from imagegen.networks.ldm_weights import from_reference, of_checkpoint, to_reference

NETWORK = eqx.filter_eval_shape(
    LDMUNet, (4, 4, 3), channels=64, multipliers=(1, 2), blocks=1, attention=(1,), d_emb=6, key=jax.random.key(0)
)
WIDTH = 256
BLOCK = {
    "compvis": ("in_layers.0", "in_layers.2", "emb_layers.1", "out_layers.0", "out_layers.3", "skip_connection"),
    "diffusers": ("norm1", "conv1", "time_emb_proj", "norm2", "conv2", "conv_shortcut"),
}
PLACES = {
    "compvis": {
        "outside": ("time_embed.0", "time_embed.2", "input_blocks.0.0", "out.0", "out.2"),
        "blocks": ("input_blocks.1.0", "input_blocks.3.0", "middle_block.0", "middle_block.2", "output_blocks.0.0",
                   "output_blocks.1.0", "output_blocks.2.0", "output_blocks.3.0"),
        "transformers": ("input_blocks.3.1", "middle_block.1", "output_blocks.0.1", "output_blocks.1.1"),
        "down": "input_blocks.2.0.op", "up": "output_blocks.1.2.conv",
    },
    "diffusers": {
        "outside": ("time_embedding.linear_1", "time_embedding.linear_2", "conv_in", "conv_norm_out", "conv_out"),
        "blocks": ("down_blocks.0.resnets.0", "down_blocks.1.resnets.0", "mid_block.resnets.0", "mid_block.resnets.1",
                   "up_blocks.0.resnets.0", "up_blocks.0.resnets.1", "up_blocks.1.resnets.0", "up_blocks.1.resnets.1"),
        "transformers": ("down_blocks.1.attentions.0", "mid_block.attentions.0", "up_blocks.0.attentions.0",
                         "up_blocks.0.attentions.1"),
        "down": "down_blocks.0.downsamplers.0.conv", "up": "up_blocks.0.upsamplers.0.conv",
    },
}  # fmt: skip
SIZES = ((64, 64), (64, 128), (128, 128), (128, 128), (256, 128), (192, 128), (192, 64), (128, 64))
"""Channels into and out of the blocks, in that order."""


def state(layout):
    """The U-Net's arrays in that layout, written out: the same random numbers for the same place."""
    rng, arrays, places = np.random.default_rng(0), {}, PLACES[layout]

    def add(name, *shape, bias=True):
        arrays[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        if bias:
            arrays[f"{name}.bias"] = rng.normal(size=shape[0]).astype(np.float32)

    shapes = ((WIDTH, 64), (WIDTH, WIDTH), (64, 3, 3, 3), (64,), (3, 64, 3, 3))
    for name, shape in zip(places["outside"], shapes, strict=True):
        add(name, *shape)
    for name, (inputs, outputs) in zip(places["blocks"], SIZES, strict=True):
        shapes = (inputs,), (outputs, inputs, 3, 3), (outputs, WIDTH), (outputs,), (outputs, outputs, 3, 3)
        shapes += ((outputs, inputs, 1, 1),) * (inputs != outputs)
        for part, shape in zip(BLOCK[layout], shapes, strict=False):
            add(f"{name}.{part}", *shape)
    for name in places["transformers"]:
        inner = f"{name}.transformer_blocks.0"
        add(f"{name}.norm", 128)
        for part in ("proj_in", "proj_out"):
            add(f"{name}.{part}", 128, 128, 1, 1)
        for part in ("norm1", "norm2", "norm3"):
            add(f"{inner}.{part}", 128)
        for part, seen in (("attn1", 128), ("attn2", 6)):
            add(f"{inner}.{part}.to_q", 128, 128, bias=False)
            for kind in ("to_k", "to_v"):
                add(f"{inner}.{part}.{kind}", 128, seen, bias=False)
            add(f"{inner}.{part}.to_out.0", 128, 128)
        add(f"{inner}.ff.net.0.proj", 1024, 128)
        add(f"{inner}.ff.net.2", 128, 512)
    add(places["down"], 64, 64, 3, 3)
    add(places["up"], 128, 128, 3, 3)
    return arrays


def test_there_and_back_keeps_every_number():
    given = state("compvis")
    back = to_reference(from_reference(given, NETWORK))
    assert back.keys() == given.keys()
    for name, value in given.items():
        assert back[name].dtype == np.float32
        np.testing.assert_array_equal(back[name], value, err_msg=name)


def test_arrays_land_where_they_belong():
    given = state("compvis")
    network = from_reference(given, NETWORK)
    kernel, up = given["input_blocks.0.0.weight"], given["output_blocks.1.2.conv.weight"]
    assert network.first.kernel[1, 2, 0, 5] == kernel[5, 0, 1, 2]
    assert network.decoder[1].up.kernel[0, 2, 7, 3] == up[3, 7, 0, 2]
    assert network.encoder[1].conv.bias[9] == given["input_blocks.2.0.op.bias"][9]
    transformer, name = network.decoder[0].transformer, "output_blocks.0.1"
    inner = f"{name}.transformer_blocks.0"
    np.testing.assert_array_equal(transformer.qkv.weight[128:256], given[f"{inner}.attn1.to_k.weight"])
    np.testing.assert_array_equal(transformer.key_value.weight[128:], given[f"{inner}.attn2.to_v.weight"])
    np.testing.assert_array_equal(transformer.first.weight, given[f"{name}.proj_in.weight"][:, :, 0, 0])
    np.testing.assert_array_equal(network.middle[1].block.norm.scale, given["middle_block.2.in_layers.0.weight"])
    assert (network.shape, network.d_emb, network.dtype) == (NETWORK.shape, NETWORK.d_emb, NETWORK.dtype)


def test_diffusers_names_are_those_of_the_same_places():
    renamed, expected = ldm_state(state("diffusers")), state("compvis")
    assert is_ldm(state("diffusers"))
    assert not is_ldm(expected)
    assert renamed.keys() == expected.keys()
    assert all(np.array_equal(renamed[name], expected[name]) for name in expected)


def test_a_doubling_without_attention_comes_second():
    name = "up_blocks.1.upsamplers.0.conv.bias"
    renamed = ldm_state({**state("diffusers"), name: np.zeros(1)})
    assert "output_blocks.3.1.conv.bias" in renamed


def test_of_a_checkpoint_the_network_is_taken_averaged_where_it_is():
    given, table = state("compvis"), np.ones((11, 6), np.float32)
    whole = {f"model.diffusion_model.{name}": value for name, value in given.items()}
    whole |= {"first_stage_model.encoder.weight": np.ones(2), "cond_stage_model.embedding.weight": table}
    inner, found = of_checkpoint(whole)
    assert found is table
    assert inner.keys() == given.keys()
    average = np.zeros_like(given["time_embed.0.bias"])
    inner, _ = of_checkpoint({**whole, "model_ema.diffusion_modeltime_embed0bias": average})
    assert inner["time_embed.0.bias"] is average
    assert inner["time_embed.2.bias"] is given["time_embed.2.bias"]
    assert of_checkpoint(given) == (given, None)


def without(name):
    return {key: value for key, value in state("compvis").items() if key != name}


@pytest.mark.parametrize(("given", "message"), [
    (without("output_blocks.1.2.conv.bias"), r"complete; got no output_blocks\.1\.2\.conv\.bias\."),
    ({**state("compvis"), "label_emb.weight": np.ones(1)}, r"latent-diffusion's layout; got also label_emb\.weight"),
    ({**state("compvis"), "out.0.bias": np.ones(32)}, r"got out\.0\.bias \(32,\) instead of \(64,\)"),
    ({**state("compvis"), "out.0.bias": np.full(64, np.nan)}, r"finite; got other values in out\.0\.bias"),
])  # fmt: skip
def test_what_does_not_fit_is_named(given, message):
    with pytest.raises(ValueError, match=message):
        from_reference(given, NETWORK)


# --- DiT as diffusers saves it

W, DEPTH, ROWS = 8, 2, 4


def diffusers_dit():
    rng, arrays = np.random.default_rng(1), {}

    def add(name, *shape):
        arrays[f"{name}.weight"] = rng.normal(size=shape).astype(np.float32)
        arrays[f"{name}.bias"] = rng.normal(size=shape[0]).astype(np.float32)

    add("pos_embed.proj", W, 3, 2, 2)
    add("proj_out_1", 2 * W, W)
    add("proj_out_2", 24, W)
    embeddings = rng.normal(size=(W, 256)), rng.normal(size=(W, W)), rng.normal(size=(ROWS, W))
    for i in range(DEPTH):
        block = f"transformer_blocks.{i}"
        names = "timestep_embedder.linear_1", "timestep_embedder.linear_2", "class_embedder.embedding_table"
        for name, value in zip(names, embeddings, strict=True):
            arrays[f"{block}.norm1.emb.{name}.weight"] = value.astype(np.float32)
            if name.startswith("time"):
                arrays[f"{block}.norm1.emb.{name}.bias"] = np.arange(W, dtype=np.float32)
        add(f"{block}.norm1.linear", 6 * W, W)
        for part in ("to_q", "to_k", "to_v", "to_out.0"):
            add(f"{block}.attn1.{part}", W, W)
        add(f"{block}.ff.net.0.proj", 4 * W, W)
        add(f"{block}.ff.net.2", W, 4 * W)
    return arrays


def test_a_dit_of_diffusers_is_read_as_the_authors():
    given = diffusers_dit()
    assert is_dit(given)
    network, table = dit_from_reference(dit_state(given, (2, 2)), heads=2)
    block = "transformer_blocks.1"
    np.testing.assert_array_equal(table, given[f"{block}.norm1.emb.class_embedder.embedding_table.weight"])
    np.testing.assert_array_equal(network.blocks.qkv.weight[1, W : 2 * W], given[f"{block}.attn1.to_k.weight"])
    np.testing.assert_array_equal(network.blocks.qkv.bias[1, 2 * W :], given[f"{block}.attn1.to_v.bias"])
    np.testing.assert_array_equal(network.blocks.fc2.weight[1], given[f"{block}.ff.net.2.weight"])
    np.testing.assert_array_equal(network.blocks.modulation.bias[0], given["transformer_blocks.0.norm1.linear.bias"])
    np.testing.assert_array_equal(network.modulation.weight, given["proj_out_1.weight"])
    np.testing.assert_array_equal(network.final.bias, given["proj_out_2.bias"])
    np.testing.assert_array_equal(network.embedding.second.bias, np.arange(W))
    np.testing.assert_array_equal(dit_state(given, (2, 2))["pos_embed"][0], positions(2, 2, W))


def test_blocks_that_embed_differently_are_refused_and_what_is_missing_is_named():
    given = diffusers_dit()
    name = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_1.weight"
    with pytest.raises(ValueError, match=r"same embedding; got transformer_blocks\.1\.norm1\.emb\.timestep"):
        dit_state({**given, name: given[name] + 1}, (2, 2))
    for missing in ("transformer_blocks.0.attn1.to_k.bias", "transformer_blocks.0.ff.net.2.bias"):
        few = {key: value for key, value in given.items() if key != missing}
        with pytest.raises(
            ValueError, match=r"complete; got no (transformer_)?blocks\.0\.(attn1\.to_k|mlp\.fc2)\.bias"
        ):
            dit_from_reference(dit_state(few, (2, 2)), heads=2)
