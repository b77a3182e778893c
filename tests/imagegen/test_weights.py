"""A run's weights as a file, and runs that start from files: bit for bit, or refused before anything is touched."""

import dataclasses
import hashlib
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from imagegen import config as configs
from imagegen import statistics
from imagegen.__main__ import main
from imagegen.checkpoint import Checkpoints
from imagegen.config import Config, check
from imagegen.model import Encoded, Model, TextModel, trained
from imagegen.networks.dit import DiT, unpatchify
from imagegen.networks.dit_weights import to_reference, without_variances
from imagegen.networks.ldm_unet import LDMUNet
from imagegen.networks.ldm_weights import from_reference as ldm_from_reference
from imagegen.networks.ldm_weights import to_reference as ldm_to_reference
from imagegen.networks.text import TextEncoder
from imagegen.networks.text_dit import TextDiT
from imagegen.networks.unet import UNet
from imagegen.run import load_run
from imagegen.statistics import statistics_of
from imagegen.step import State, make_task
from imagegen.training import train
from imagegen.training_data import training_source
from imagegen.weights import note_start, read_weights, start_from, started
from tests.imagegen.test_networks_weights_ldm import state as published_u_net

pytestmark = pytest.mark.usefixtures("small_network")
SMALL = Config(network="small", batch=32, steps=4, warmup=2, log_every=2, checkpoint_every=2, samples_every=0,
               ema=(0.5, 0.9))  # fmt: skip


@pytest.fixture(scope="module")
def run(small_network, tmp_path_factory):
    """A folder with a checkpoint as training leaves it, of weights and averages that are drawn."""
    folder = tmp_path_factory.mktemp("runs") / "first"
    folder.mkdir()
    known = statistics_of(training_source(SMALL))
    configs.save(SMALL, folder / "config.json")
    statistics.save(known, folder / "statistics.json")
    _, state = make_task(SMALL, known)
    averages = tuple(redrawn(state.parameters, seed) for seed in (5, 9))
    checkpoints = Checkpoints(folder / "checkpoints", SMALL.keep)
    checkpoints.save(4, dataclasses.replace(state, averages=averages))
    checkpoints.close()
    return folder


@pytest.fixture(scope="module")
def exported(run):
    file = run.parent / "weights.safetensors"
    assert main(["export", str(run), "--out", str(file), "--ema", "0.5"]) == 0
    return file


def redrawn(tree, seed):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), tree)


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(eqx.filter(tree, eqx.is_inexact_array))]


def same(first, second):
    return all(np.array_equal(a, b) for a, b in zip(leaves(first), leaves(second), strict=True))


def test_the_file_holds_the_average_by_name_and_says_what_it_is(run, exported):
    model = load_run(run, ema=0.5).denoiser.model
    with safe_open(exported, framework="np") as opened:
        about = opened.metadata()
        np.testing.assert_array_equal(opened.get_tensor("table"), model.table)
        np.testing.assert_array_equal(opened.get_tensor("network.blocks.qkv.weight"), model.network.blocks.qkv.weight)
        assert len(opened.keys()) == len(leaves(model))
    assert (about["layout"], about["step"], about["ema"]) == ("patina", "4", "0.5")
    assert json.loads(about["config"]) == json.loads((run / "config.json").read_text())
    assert json.loads(about["statistics"]) == json.loads((run / "statistics.json").read_text())


def test_a_run_starts_with_the_weights_and_averages_of_the_file(run, exported):
    task, state = make_task(SMALL, statistics_of(training_source(SMALL)))
    model = load_run(run, ema=0.5).denoiser.model
    begun = started(state, task, exported)
    assert jax.tree.structure(begun) == jax.tree.structure(state)
    assert not same(state.parameters, model)
    for weights in (begun.parameters, *begun.averages):
        assert same(weights, model)
    assert same(begun.moments, state.moments)


def test_a_file_that_has_changed_since_is_refused(tmp_path):
    file, noted = tmp_path / "w.safetensors", tmp_path / "start.json"
    file.write_bytes(b"weights")
    noted.write_text(note_start(file, noted))
    known = hashlib.sha256(b"weights").hexdigest()
    assert json.loads(note_start(file, noted)) == {"start": str(file), "sha256": known}
    file.write_bytes(b"Weights")
    with pytest.raises(ValueError, match=r"start must be the same file as when the run began, .*changed since"):
        note_start(file, noted)
    file.unlink()
    with pytest.raises(ValueError, match=r"w\.safetensors', which is no file"):
        note_start(file, noted)


@pytest.mark.slow
def test_a_started_run_goes_on_only_with_the_same_file(run, exported, tmp_path):
    file, folder = tmp_path / "start.safetensors", tmp_path / "second"
    file.write_bytes(exported.read_bytes())
    config = dataclasses.replace(SMALL, start=str(file))
    state = train(config, folder, jax.devices()[:1])
    other = train(dataclasses.replace(config, start=str(exported)), tmp_path / "third", jax.devices()[:1])
    assert same(state.parameters, other.parameters)
    assert not same(state.parameters, load_run(run).denoiser.model)
    assert same(train(config, folder, jax.devices()[:1]).parameters, state.parameters)
    file.write_bytes(exported.read_bytes() + b" ")
    before = sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*"))
    with pytest.raises(ValueError, match=r"start must be the same file as when the run began, .*changed since"):
        train(config, folder, jax.devices()[:1])
    file.unlink()
    with pytest.raises(ValueError, match="which is no file"):
        train(config, folder, jax.devices()[:1])
    assert sorted((path, path.stat().st_mtime_ns) for path in folder.rglob("*")) == before


def test_another_network_is_refused_before_anything_is_written(exported, tmp_path):
    config = dataclasses.replace(SMALL, network="dit-digits", start=str(exported))
    with pytest.raises(ValueError, match=r"does not fit a run of DiT: .*got .* instead of \(11, 128\)|instead of"):
        train(config, tmp_path / "run", jax.devices()[:1])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("arguments", "message"), [
    (["--out", "weights.npz"], "ends in .safetensors"),
    (["--out", "absent/weights.safetensors"], "a folder that exists"),
    (["--out", "w.safetensors", "--ema", "0.1"], "one of the run's decays"),
])  # fmt: skip
def test_mistakes_in_export_get_one_line(arguments, message, run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["export", str(run), *arguments]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_files_of_other_endings_are_refused_by_the_config():
    with pytest.raises(ValueError, match=r"start must be a file that ends in \.safetensors, .*; got 'weights.npz'"):
        check(Config(start="weights.npz"))


def test_a_damaged_file_is_refused(exported, tmp_path):
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(exported.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"broken.safetensors' cannot be read as safetensors"):
        read_weights(broken)


# --- published layouts


def dit(**options):
    """Of shapes alone."""
    sizes = {"shape": (4, 4, 3), "patch": 2, "width": 16, "depth": 2, "heads": 2}
    return eqx.filter_eval_shape(DiT, **{**sizes, **options}, key=jax.random.key(0))


TABLE = jnp.asarray(np.random.default_rng(9).normal(size=(5, 16)), jnp.float32)


def test_a_published_dit_is_a_start(tmp_path):
    network = redrawn(dit(), 1)
    save_file(to_reference(network, TABLE), tmp_path / "dit.safetensors")
    found = start_from(Model(redrawn(dit(), 0), jnp.zeros((5, 16))), tmp_path / "dit.safetensors")
    assert same(found, Model(network, TABLE))
    assert jax.tree.structure(found) == jax.tree.structure(Model(redrawn(dit(), 0), TABLE))


def test_of_learned_variances_the_predictions_are_taken(tmp_path):
    network = redrawn(dit(out_channels=6), 2)
    save_file(to_reference(network, TABLE), tmp_path / "dit.safetensors")
    found = start_from(Model(redrawn(dit(), 0), jnp.zeros((5, 16))), tmp_path / "dit.safetensors").network
    assert same(found, without_variances(network))
    image, whole = (unpatchify(network.final.bias[None], (1, 1), 2) for network in (found, network))
    np.testing.assert_array_equal(image, whole[..., :3])


def ldm():
    """Of shapes alone."""
    sizes = {"channels": 64, "multipliers": (1, 2), "blocks": 1, "attention": (1,), "d_emb": 16}
    return eqx.filter_eval_shape(LDMUNet, (4, 4, 3), **sizes, key=jax.random.key(0))


def test_a_published_u_net_is_a_start_with_its_table_or_without(tmp_path):
    network, file = redrawn(ldm(), 3), tmp_path / "ldm.safetensors"
    new = Model(jax.tree.map(jnp.zeros_like, network), TABLE)
    state = {f"model.diffusion_model.{name}": value for name, value in ldm_to_reference(network).items()}
    save_file(state, file)
    assert same(start_from(new, file), Model(network, TABLE))
    save_file({**state, "cond_stage_model.embedding.weight": np.asarray(TABLE + 1)}, file)
    assert same(start_from(new, file), Model(network, TABLE + 1))


def test_what_does_not_fit_is_named(tmp_path):
    file = tmp_path / "dit.safetensors"
    save_file(to_reference(redrawn(dit(), 1), TABLE), file)
    unet = eqx.filter_eval_shape(
        UNet, (4, 4, 3), channels=4, multipliers=(1,), blocks=1, attention=0, key=jax.random.key(0)
    )
    cases = {
        r"a run of DiT: .* got table \(5, 16\) instead of \(4, 16\)": Model(redrawn(dit(), 0), TABLE[:4]),
        r"images of shape \(8, 8, 3\); got for \(4, 4, 3\)": Model(redrawn(dit(shape=(8, 8, 3)), 0), TABLE),
        r"got network\.blocks\.modulation\.weight \(2, 96, 16\) instead of \(1, 96, 16\)": Model(
            redrawn(dit(depth=1), 0), TABLE
        ),
        r"a run of LDMUNet: state must be complete; got no input_blocks\.0\.0\.bias": Model(
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), ldm()), TABLE
        ),
        r"a run of UNet: state must be written by `export`": Model(redrawn(unet, 0), TABLE),
    }
    for message, model in cases.items():
        with pytest.raises(ValueError, match=message):
            start_from(model, file)


# --- published U-Nets and runs that read text


def text_model(network, d_emb=6, **sizes):
    """Of drawn numbers."""
    key = jax.random.key(0)
    first = redrawn(eqx.filter_eval_shape(network, (4, 4, 3), d_emb=d_emb, key=key, **sizes), 0)
    encoder = eqx.filter_eval_shape(TextEncoder, 30, 5, width=d_emb, depth=1, heads=2, key=key)
    return TextModel(first, redrawn(encoder, 1), jnp.arange(5))


def text_ldm(d_emb=6):
    return text_model(LDMUNet, d_emb, channels=64, multipliers=(1, 2), blocks=1, attention=(1,))


@pytest.mark.parametrize("layout", ["compvis", "checkpoint", "diffusers"])
def test_a_published_u_net_is_a_start_for_text_and_the_encoder_stays_as_drawn(layout, tmp_path, capsys):
    arrays, model, file = published_u_net("compvis"), text_ldm(), tmp_path / "unet.safetensors"
    held = published_u_net("diffusers") if layout == "diffusers" else arrays
    if layout == "checkpoint":
        held = {f"model.diffusion_model.{name}": value for name, value in arrays.items()}
        held["cond_stage_model.transformer.token_emb.weight"] = np.ones((30, 6), np.float32)
    save_file(held, file)
    found = start_from(model, file)
    assert "the text encoder starts as drawn" in capsys.readouterr().out
    assert same(found.network, ldm_from_reference(arrays, model.network))
    assert same(found.encoder, model.encoder)
    np.testing.assert_array_equal(found.empty, model.empty)
    assert jax.tree.structure(found) == jax.tree.structure(model)
    prepared = Encoded(model.network, jnp.zeros((5, 6)))  # no encoder is trained along
    assert same(start_from(prepared, file), Encoded(found.network, prepared.null))


def test_a_run_that_reads_text_begins_with_copies_of_the_drawn_encoder(tmp_path):
    """The step uses up what it is given."""
    task, _ = make_task(SMALL, statistics_of(training_source(SMALL)))
    parameters, static = eqx.partition(text_ldm(), trained(text_ldm()))
    save_file(published_u_net("compvis"), tmp_path / "unet.safetensors")
    state = State(parameters, (parameters,), None, jnp.asarray(0))
    begun = started(state, dataclasses.replace(task, static=static), tmp_path / "unet.safetensors")
    assert same(begun.parameters, begun.averages[0])
    assert same(begun.parameters.encoder, parameters.encoder)
    assert not same(begun.parameters.network, parameters.network)
    of = [jax.tree.leaves(tree.encoder) for tree in (parameters, begun.parameters, begun.averages[0])]
    places = [leaf.unsafe_buffer_pointer() for leaves in of for leaf in leaves]
    assert len(set(places)) == len(places)


def test_a_u_net_of_another_width_and_a_reading_dit_are_refused(tmp_path):
    file = tmp_path / "unet.safetensors"
    save_file(published_u_net("diffusers"), file)
    with pytest.raises(ValueError, match=r"classes or tokens, 8 numbers \(text_encoder chooses it\); got one of 6 num"):
        start_from(text_ldm(8), file)
    with pytest.raises(ValueError, match=r"a run of TextDiT: state must be written by `export`"):
        start_from(text_model(TextDiT, patch=2, width=16, depth=1, heads=2), file)
