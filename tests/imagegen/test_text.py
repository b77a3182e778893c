"""Training on captions: what the network is shown, exact resumption, samples of captions."""

import dataclasses
import json

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen import step as steps
from imagegen.__main__ import main
from imagegen.config import Config, check
from imagegen.data import builtin
from imagegen.data.builtin import make_source
from imagegen.data.loading import batches
from imagegen.data.source import read_batch
from imagegen.data.tokens import train_tokenizer
from imagegen.model import ModelDenoiser, encoded, make_operators
from imagegen.networks.registry import TEXT_NETWORKS
from imagegen.networks.text import ENCODERS
from imagegen.networks.text_dit import TextDiT
from imagegen.run import load_run
from imagegen.sampling import SamplerConfig, generate, sampling_key
from imagegen.statistics import statistics_of
from imagegen.training import train
from imagegen.training_data import gated, make_tokenizer, training_source, with_tokens

TEXT = Config(
    data="shapes", text="train", text_length=16, network="dit-digits", batch=16, steps=4, warmup=1, log_every=1,
    checkpoint_every=2, samples_every=0, condition="cep-g", strength=1.0, condition_drawn="fixed", captions="rewrite",
    caption_share=0.25, caption_level=5,
)  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def small():
    """Few shapes, and small networks under the names of larger ones."""

    def network(shape, **options):
        return TextDiT(shape, patch=8, width=16, depth=1, heads=2, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TEXT_NETWORKS, "dit-digits", network)
        patch.setitem(ENCODERS, "text-small", (16, 1, 2))
        patch.setattr(builtin, "SHAPES", {"train": 160, "test": 48})
        yield


def prepared(config, folder):
    source = training_source(config)
    tokenizer = make_tokenizer(config, folder / "tokenizer.json")
    return with_tokens(source, tokenizer), tokenizer


@pytest.fixture(scope="module")
def begun(small, tmp_path_factory):
    """Source, tokenizer, task and first state of the run."""
    source, tokenizer = prepared(TEXT, tmp_path_factory.mktemp("begun"))
    return source, tokenizer, *steps.make_task(TEXT, statistics_of(source), tokenizer.vocabulary)


def bits(state):
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)]


@pytest.fixture(scope="module")
def whole(small, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return train(TEXT, folder, jax.devices()[:1]), folder


# --- what the network is shown


def test_the_network_is_shown_the_encoders_tokens_through_the_operators(begun):
    """By the definition: noise of variance 1/d_emb on every number of every token, by the sample's index; the empty
    caption's tokens, without noise, for those that lose their caption.
    """
    source, tokenizer, task, state = begun
    task = eqx.tree_at(lambda task: task.operators.null_rate, task, 0.5)
    model = eqx.combine(state.parameters, task.static)
    batch, key = read_batch(source, np.arange(64)), jax.random.key(7)
    taken = {name: jnp.asarray(value) for name, value in gated(batch, None).items()}

    @eqx.filter_jit
    def shown(model, step):
        return jax.vmap(steps._conditions(task, model, key, step))(taken)

    found, later = (np.asarray(shown(model, jnp.asarray(step))) for step in (0, 1))
    encoder = eqx.filter_jit(lambda tokens: jax.vmap(model.encoder)(tokens))
    own = np.asarray(encoder(jnp.asarray(tokenizer.batch([str(c) for c in batch["caption"]]))))
    null = np.asarray(encoder(jnp.asarray(tokenizer.batch([""]))))[0]
    dropped = np.array([np.allclose(one, null, atol=1e-5) for one in found])
    assert 0.25 < dropped.mean() < 0.75
    noise = (found - own)[~dropped]
    assert noise.shape[1:] == (16, 16)
    assert abs(noise.var() * 16 - 1) < 5 * np.sqrt(2 / noise.size)
    both = ~dropped & ~np.array([np.allclose(one, null, atol=1e-5) for one in later])
    np.testing.assert_allclose(found[both], later[both], atol=1e-6)  # fixed: the same at every step
    assert len(np.unique(noise.round(6))) > 0.9 * noise.size


@pytest.mark.slow
def test_the_loss_trains_the_encoder_in_one_program(begun):
    source, tokenizer, task, state = begun
    mesh = steps.make_mesh(TEXT, jax.devices()[:1])
    step, start = steps.make_step(task, mesh, state), jax.tree.map(np.array, state)
    now = jax.device_put(jax.tree.map(jnp.copy, state), steps.state_shardings(mesh, state))
    for _, batch in zip(range(4), batches(source, TEXT.batch, seed=TEXT.seed), strict=False):
        now, metrics = step(now, jax.device_put(gated(batch, None), steps.batch_sharding(mesh)))
    assert step.func._cache_size() == 1
    assert np.isfinite(metrics.loss)
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (start, now)), strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    words = np.any(np.asarray(now.parameters.encoder.words != start.parameters.encoder.words), axis=1)
    used = np.unique(read_batch(source, np.arange(160))["tokens"])
    assert words[used].mean() > 0.5
    assert not words[np.setdiff1d(np.arange(tokenizer.vocabulary.size), used)].any()


# --- a run


@pytest.mark.slow
def test_an_interrupted_run_goes_on_bit_for_bit_with_its_own_tokenizer(whole, tmp_path, monkeypatch):
    from imagegen import training as module

    written = module._append

    def interrupted(file, values):
        written(file, values)
        if values["step"] == 3 and "loss" in values:
            raise KeyboardInterrupt

    monkeypatch.setattr(module, "_append", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(TEXT, tmp_path, jax.devices()[:1])
    monkeypatch.setattr(module, "_append", written)
    monkeypatch.setattr("imagegen.training_data.train_tokenizer", None)  # it is read, not trained again
    assert bits(train(TEXT, tmp_path, jax.devices()[:1])) == bits(whole[0])
    assert (tmp_path / "tokenizer.json").read_text() == (whole[1] / "tokenizer.json").read_text()


@pytest.mark.slow
def test_grids_say_which_captions_they_are_of(tmp_path):
    train(dataclasses.replace(TEXT, samples_every=4), tmp_path, jax.devices()[:1])
    assert (tmp_path / "samples" / "step-0000004.png").exists()
    captions = (tmp_path / "samples" / "captions.txt").read_text().splitlines()
    assert captions == [str(caption) for caption in training_source(TEXT).extras["caption"][:16]]


def test_a_tokenizer_file_is_kept_and_must_not_change(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(train_tokenizer(["a red circle"], 16).text)
    config, kept = dataclasses.replace(TEXT, text=str(file)), tmp_path / "tokenizer.json"
    first = make_tokenizer(config, kept)
    assert first.text == file.read_text()
    kept.write_text(first.text)
    file.write_text(train_tokenizer(["a blue square"], 16).text)
    with pytest.raises(ValueError, match="changed since"):
        make_tokenizer(config, kept)
    file.unlink()
    assert make_tokenizer(config, kept) == first


@pytest.mark.slow
def test_samples_of_captions_and_of_the_held_out_ones(whole, tmp_path, capsys):
    run, options = str(whole[1]), ["--steps", "2", "--guidance", "0.5"]
    given = ["--captions", "a large red circle", "a small blue square", "--number", "5"]
    assert main(["sample", run, *options, *given, "--out", str(tmp_path / "given")]) == 0
    with np.load(tmp_path / "given/samples.npz") as made:
        assert made.files == ["arr_0"]
        assert made["arr_0"].shape == (5, 32, 32, 3)
    lines = (tmp_path / "given/captions.txt").read_text().splitlines()
    assert lines == ["a large red circle", "a small blue square"] * 2 + ["a large red circle"]
    assert main(["sample", run, *options, "--number", "60", "--out", str(tmp_path / "held")]) == 0
    held_out = make_source("shapes", "test")
    with np.load(tmp_path / "held/samples.npz") as made:
        np.testing.assert_array_equal(made["arr_1"], np.resize(held_out.labels, 60))
    lines = (tmp_path / "held/captions.txt").read_text().splitlines()
    assert lines == [held_out[i % 48]["caption"] for i in range(60)]
    assert json.loads((tmp_path / "held/samples.json").read_text())["captions"] == "held-out"
    capsys.readouterr()
    assert main(["sample", run, "--classes", "3"]) == 2
    assert "whose condition is text: --captions" in capsys.readouterr().err


@pytest.mark.slow
def test_a_walk_is_of_the_first_caption(whole, tmp_path):
    command = ["sample", str(whole[1]), "--steps", "2", "--captions", "a red circle", "--walk", "--number", "3"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    assert (tmp_path / "walk-caption.png").exists()


@pytest.mark.slow
def test_captions_encoded_once_are_the_same_to_the_denoiser(begun):
    """Of a network with random weights: at first it returns 0 whatever it is shown."""
    _, tokenizer, task, state = begun
    rng = np.random.default_rng(0)
    weights = jax.tree.map(lambda a: rng.normal(size=a.shape).astype(np.float32) / 4, state.parameters)
    denoiser = ModelDenoiser(eqx.combine(weights, task.static), task.path, task.parameterisation)
    tokens = jnp.asarray(tokenizer.batch(["a large red circle", "a cross"]))
    ready, embeddings = encoded(denoiser, tokens)
    assert embeddings.shape == (2, 16, 16)
    call, xt = eqx.filter_jit(lambda denoiser, *inputs: denoiser(*inputs)), jnp.ones((32, 32, 3))
    first, null = (call(denoiser, xt, jnp.float32(0.5), *cond) for cond in ((tokens[1],), ()))
    np.testing.assert_allclose(call(ready, xt, jnp.float32(0.5), embeddings[1]), first, atol=1e-4)
    np.testing.assert_allclose(call(ready, xt, jnp.float32(0.5)), null, atol=1e-4)
    assert float(jnp.max(jnp.abs(first - null))) > 2e-3


@pytest.mark.slow
def test_tokens_and_their_embeddings_make_the_same_images(whole):
    run = load_run(whole[1])
    tokens = run.tokenizer.batch(["a large red circle", "a cross"])
    how, key = SamplerConfig(steps=2, guidance=0.5), sampling_key(0)
    made = generate(run.denoiser, (32, 32, 3), tokens, key, how)
    embeddings = jnp.stack([run.denoiser.model.embedding(jnp.asarray(one)) for one in tokens])
    np.testing.assert_allclose(generate(run.denoiser, (32, 32, 3), embeddings, key, how), made, atol=1e-4)


# --- captions of the training data


@pytest.mark.parametrize(("kind", "share"), [("swap", 0.25), ("rewrite", 0.25)])
def test_a_share_of_the_training_captions_is_wrong(kind, share):
    level = {"caption_level": 5} if kind == "rewrite" else {"caption_level": 1}
    clean = training_source(dataclasses.replace(TEXT, captions="none", caption_share=0.0, caption_level=1))
    source = training_source(dataclasses.replace(TEXT, captions=kind, caption_share=share, **level))
    wrong = source.extras["caption"] != clean.extras["caption"]
    assert wrong.sum() == 40
    np.testing.assert_array_equal(source.images, clean.images)
    same = sorted(source.extras["caption"]) == sorted(clean.extras["caption"])
    assert same == (kind == "swap")


@pytest.mark.parametrize(("changes", "message"), [
    ({"text": "trian"}, "did you mean 'train'"),
    ({"network": "unet-small"}, "network must be one of"),
    ({"flips": "symmetric", "flip_share": 0.1}, "flips must be none where the condition is text"),
    ({"condition": "label smoothing", "strength": 0.1, "condition_drawn": "fresh"}, "another where the condition"),
    ({"text": ""}, "text_length must be left out where text is empty"),
    ({"captions": "swap"}, "caption_level must be left out for captions='swap'"),
    ({"captions": "none"}, "caption_share must be above 0 exactly where captions is not none"),
    ({"caption_level": 6}, "caption_level must be in 1 ... 5"),
    ({"text_encoder": "text-smal"}, "did you mean 'text-small'"),
    ({"text_length": 1}, "text_length must be at least 2"),
])  # fmt: skip
def test_configs_that_contradict_themselves_are_refused(changes, message):
    check(TEXT)
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(TEXT, **changes))


def test_data_without_captions_are_refused_before_a_folder_is_made(tmp_path):
    config = Config(text="train", text_length=16)
    with pytest.raises(ValueError, match="'digits' without captions"):
        train(config, tmp_path / "run", jax.devices()[:1])
    with pytest.raises(ValueError, match="'digits' without captions"):
        training_source(dataclasses.replace(config, captions="swap", caption_share=0.5))
    assert not (tmp_path / "run").exists()


def test_classes_are_not_captions(tmp_path):
    statistics = statistics_of(make_source("digits", "train"))
    assert make_operators(TEXT, statistics).label_operator is None
    assert make_tokenizer(Config(), tmp_path / "tokenizer.json") is None
