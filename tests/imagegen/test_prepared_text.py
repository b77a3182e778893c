"""Frozen embeddings of captions: prepared with the data, shown to the network, not trained; CC3M's tars end to end."""

import dataclasses
import importlib.util
import json
import shutil
import zlib

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen import step as steps
from imagegen import text_encoders
from imagegen.__main__ import main
from imagegen.config import Config, check
from imagegen.data.builtin import make_source
from imagegen.data.embeddings import FROZEN, filled, load_frozen
from imagegen.data.loading import batches
from imagegen.data.records import with_embeddings
from imagegen.data.source import read_batch
from imagegen.model import Encoded
from imagegen.networks.registry import TEXT_NETWORKS
from imagegen.networks.text import ENCODERS
from imagegen.networks.text_dit import TextDiT
from imagegen.prepare import prepare
from imagegen.run import load_run, read_lines
from imagegen.statistics import statistics_of
from imagegen.step import state_shardings
from imagegen.text_encoders import FrozenEncoder
from imagegen.training import train
from imagegen.training_data import gated, make_frozen, training_source
from tests.imagegen.disk import spoil, write_folder, write_shards
from tests.imagegen.test_latents import Pooled

SIDE, LENGTH, WIDTH = 32, 24, 8
QUICK = {"network": "dit-digits", "steps": 4, "warmup": 1, "batch": 16, "log_every": 1, "checkpoint_every": 2,
         "samples_every": 0}  # fmt: skip


class Words:
    """A text encoder: of each word a vector that depends on it alone, a one and a minus one at the ends."""

    sha256 = "of this test"

    def __init__(self, folder=None, length=LENGTH):
        self.length = length

    def about(self):
        return {"encoder": self.sha256, "length": self.length, "width": WIDTH}

    def __call__(self, captions):
        return [word_vectors(caption)[: self.length] for caption in captions]


def word_vectors(caption):
    drawn = [np.random.default_rng(zlib.crc32(word.encode())).normal(size=WIDTH) for word in caption.split()]
    return np.stack([np.ones(WIDTH), *drawn, -np.ones(WIDTH)]).astype(np.float32)


def expected(caption):
    """What the records should hold of a caption."""
    states = word_vectors(str(caption))
    found = np.zeros((LENGTH, WIDTH), np.float16)
    found[: len(states)] = states
    return found


def options(**fields):
    return [text for name, value in fields.items() for text in (f"--{name.replace('_', '-')}", str(value))]


@pytest.fixture(autouse=True, scope="module")
def small():
    """A small network under the name of a larger one."""

    def network(shape, **given):
        return TextDiT(shape, patch=8 if shape[0] == SIDE else 2, width=16, depth=1, heads=2, **given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(TEXT_NETWORKS, "dit-digits", network)
        patch.setitem(ENCODERS, "text-small", (16, 1, 2))
        yield


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = write_shards(tmp_path_factory.mktemp("raw") / "cc3m", n=80, per_shard=20)
    spoil(root)
    return root


@pytest.fixture(scope="module")
def out(raw, tmp_path_factory):
    """Images and embeddings."""
    folder = tmp_path_factory.mktemp("prepared") / "out"
    prepare(raw, folder, resolution=SIDE, per_shard=16, threads=2, bad_share=0.1, text=Words())
    return folder


def config_of(folder, **fields):
    return Config(data=str(folder), text="prepared", **{"text_length": LENGTH, **QUICK, **fields})


# --- what is stored


@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("latents", [False, True])
def test_records_hold_their_captions_embeddings_beside_images_or_latents(raw, out, tmp_path, split, latents):
    folder = out
    if latents:
        folder = tmp_path / "out"
        prepare(raw, folder, resolution=SIDE, threads=1, bad_share=0.1, encoder=Pooled(), text=Words())
    plain = make_source(str(folder), split)
    source = with_embeddings(plain)
    without = tmp_path / "without"
    prepare(raw, without, resolution=SIDE, threads=1, bad_share=0.1, encoder=Pooled() if latents else None)
    assert len(source) == len(plain) > 10
    for index, other in enumerate(make_source(str(without), split)):
        record = source[index]
        np.testing.assert_array_equal(record["embedding"], expected(record["caption"]))
        assert record["embedding"].dtype == np.float16
        assert "embedding" not in plain[index]
        for name, value in other.items():
            np.testing.assert_array_equal(record[name], value)
    frozen = source.files.frozen
    np.testing.assert_array_equal(frozen.null, expected(""))
    manifest = json.loads((folder / "manifest.json").read_text())
    assert manifest["text"] == {"encoder": Words.sha256, "length": LENGTH, "width": WIDTH}


def test_another_encoder_does_not_go_on_where_one_began(raw, out, monkeypatch):
    monkeypatch.setattr(Words, "sha256", "another")
    with pytest.raises(ValueError, match=r"must be the same; .* got text \{.*'another'.*\} \(there \{.*'of this test'"):
        prepare(raw, out, resolution=SIDE, per_shard=16, bad_share=0.1, text=Words())


def test_captions_that_are_not_there_cannot_be_encoded(tmp_path):
    root = write_folder(tmp_path / "raw", per_class=2)
    with pytest.raises(ValueError, match="without captions"):
        prepare(root, tmp_path / "out", resolution=SIDE, text=Words())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("damage", ["gone", "another"])
def test_the_encoders_file_must_be_there_and_the_manifests(out, tmp_path, damage):
    folder = shutil.copytree(out, tmp_path / "out")
    if damage == "gone":
        (folder / FROZEN).unlink()
    else:
        manifest = json.loads((folder / "manifest.json").read_text())
        manifest["text"]["encoder"] = "another"
        (folder / "manifest.json").write_text(json.dumps(manifest))
    config = config_of(folder)
    with pytest.raises(ValueError, match=r"text\.npz' must be"):
        make_frozen(config, training_source(config), tmp_path / "none")


# --- what a run makes of it


@pytest.mark.parametrize(("changes", "message"), [
    ({"text": "prepare"}, "did you mean 'prepared'"),
    ({"text_encoder": "text-base"}, "text_encoder must be left out for prepared embeddings"),
    ({"captions": "rewrite", "caption_share": 0.5}, "captions must be none or swap for prepared embeddings"),
    ({"flips": "symmetric", "flip_share": 0.1}, "flips must be none where the condition is text"),
])  # fmt: skip
def test_configs_that_contradict_prepared_embeddings_are_refused(out, changes, message):
    check(config_of(out))
    with pytest.raises(ValueError, match=message):
        check(dataclasses.replace(config_of(out), **changes))


def test_data_without_embeddings_and_another_length_are_refused_before_a_folder_is_made(raw, out, tmp_path):
    run = tmp_path / "run"
    prepare(raw, tmp_path / "without", resolution=SIDE, bad_share=0.1)
    for config, message in (
        (config_of("shapes"), "text, for 'shapes', must be another: .*; got prepared"),
        (config_of(raw, resolution=SIDE, bad_share=0.1), "text, for 'cc3m', must be another"),
        (config_of(tmp_path / "without"), "text, for '.*without', must be another: these data hold no embeddings"),
        (config_of(out, text_length=77), f"text_length must be {LENGTH}, as the data were prepared; got 77"),
    ):
        with pytest.raises(ValueError, match=message):
            train(config, run, jax.devices()[:1])
    assert not run.exists()


def test_swapped_captions_take_their_embeddings_along(out):
    config = config_of(out, captions="swap", caption_share=0.5)
    clean, source = training_source(config_of(out)), training_source(config)
    moved = 0
    for index in range(len(source)):
        record, own = source[index], clean[index]
        np.testing.assert_array_equal(record["embedding"], expected(record["caption"]))
        np.testing.assert_array_equal(record["image"], own["image"])
        moved += str(record["caption"]) != str(own["caption"])
    assert moved > len(source) / 4


@pytest.fixture(scope="module")
def begun(out):
    """Source, frozen encoder, config, task and first state of a run with CEP."""
    config = config_of(out, condition="cep-g", strength=1.0, condition_drawn="fixed", null_rate=0.5)
    source = training_source(config)
    frozen = make_frozen(config, source, out / "none")
    return source, frozen, config, *steps.make_task(config, statistics_of(source), frozen)


def test_the_network_is_shown_embeddings_through_the_operators(begun):
    """By the definition: noise of variance 1/d_emb on every number of every token, by the sample's index; the empty
    caption's embedding, without noise, for those that lose their caption.
    """
    source, _, _, task, state = begun
    model = eqx.combine(state.parameters, task.static)
    batch, key = read_batch(source, np.arange(len(source))), jax.random.key(7)
    taken = {name: jnp.asarray(value) for name, value in gated(batch, None).items()}

    @eqx.filter_jit
    def shown(step):
        return jax.vmap(steps._conditions(task, model, key, step))(taken)

    found, later = (np.asarray(shown(jnp.asarray(step))) for step in (0, 1))
    own = np.stack([expected(caption) for caption in batch["caption"]]).astype(np.float32)
    dropped, again = (np.array([np.array_equal(one, expected("")) for one in some]) for some in (found, later))
    assert 0.25 < dropped.mean() < 0.75
    noise = (found - own)[~dropped]
    assert abs(noise.var() * WIDTH - 1) < 5 * np.sqrt(2 / noise.size)
    np.testing.assert_array_equal(found[~dropped & ~again], later[~dropped & ~again])


def test_what_the_encoder_made_is_no_parameter(begun):
    _, frozen, _, task, state = begun
    assert isinstance(task.static, Encoded)
    np.testing.assert_array_equal(task.static.null, frozen.null)
    assert all(leaf.shape != frozen.null.shape for leaf in jax.tree.leaves(state))


@pytest.mark.slow
def test_the_network_is_trained_in_one_program(begun):
    source, _, config, task, state = begun
    mesh = steps.make_mesh(config, jax.devices()[:1])
    step, start = steps.make_step(task, mesh, state), jax.tree.map(np.array, state.parameters)
    now = jax.device_put(jax.tree.map(jnp.copy, state), state_shardings(mesh, state))
    for _, batch in zip(range(4), batches(source, config.batch, seed=0), strict=False):
        now, metrics = step(now, jax.device_put(gated(batch, None), steps.batch_sharding(mesh)))
    assert step.func._cache_size() == 1
    assert np.isfinite(metrics.loss)
    moved = [not np.array_equal(a, b) for a, b in zip(*map(jax.tree.leaves, (start, now.parameters)), strict=True)]
    assert sum(moved) > 0.8 * len(moved)


# --- the documented commands


@pytest.fixture
def by_words(monkeypatch):
    monkeypatch.setattr(text_encoders, "FrozenEncoder", Words)


@pytest.fixture
def commanded(raw, tmp_path, by_words, capsys):
    """Shards prepared by the command, and what it said."""
    data = tmp_path / "out"
    command = ["prepare", str(raw), *options(resolution=SIDE, text_encoder="there", text_length=LENGTH, out=data)]
    assert main(command) == 2  # 5 of 79 that the listing shows, more than 0.05
    assert "must be whole samples but for a share of 0.05 (bad_share); got 5 of " in capsys.readouterr().err
    assert main([*command, "--bad-share", "0.1"]) == 0
    return data, capsys.readouterr().out


def test_what_shards_of_captions_lack_is_counted_and_told(commanded):
    """A truncated shard, an undecodable image, missing captions, a dead key."""
    data, told = commanded
    for part in ("2 x an image without caption", "1 x a caption or data without image", "1 x cut off by the end",
                 "1 x a damaged or truncated shard", "1 unreadable"):  # fmt: skip
        assert part in told
    assert sum(len(make_source(str(data), split)) for split in ("train", "test")) == 80 - 1 - 3 - 3


@pytest.mark.slow
def test_shards_of_captions_train_and_sample_by_the_commands(commanded, tmp_path, monkeypatch, capsys):
    data, run = commanded[0], tmp_path / "run"
    how = {**QUICK, "samples_every": 4, "condition": "cep-g", "strength": 1}
    assert main(["train", "shapes-text", *options(data=data, text="prepared", text_length=LENGTH, out=run, **how)]) == 0
    told = capsys.readouterr().out
    lines = read_lines(run / "metrics.jsonl")
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert (run / "samples/step-0000004.png").exists()
    np.testing.assert_array_equal(load_frozen(run / FROZEN).null, expected(""))
    page, files = (run / "summary.md").read_text(), make_source(str(data)).files
    assert len(files.left_out) >= 4
    for part in files.left_out:
        assert all(f"{part.why} ({part.count})" in text for text in (told, page))

    sample = ["sample", str(run), *options(steps=2, guidance=0.5)]
    assert main([*sample, *options(number=20, out=tmp_path / "held")]) == 0
    held = make_source(str(data), "test")
    captions = (tmp_path / "held/captions.txt").read_text().splitlines()
    assert captions == [held[i % len(held)]["caption"] for i in range(20)]
    given = [*sample, "--captions", "a red circle", "a cross", "--number", "3", "--out", str(tmp_path / "given")]
    capsys.readouterr()
    assert main(given) == 2
    assert "text_encoder must be the folder of the run's text encoder, for captions; got" in capsys.readouterr().err
    assert main([*given, "--text-encoder", "there"]) == 0
    assert main([*sample, "--text-encoder", "there"]) == 2
    assert "text_encoder must be left out" in capsys.readouterr().err
    monkeypatch.setattr(Words, "sha256", "another")
    assert main([*given, "--text-encoder", "there"]) == 2
    assert "the text encoder that the run's data were prepared with" in capsys.readouterr().err


@pytest.fixture(scope="module")
def whole(out, tmp_path_factory):
    """A run of four steps."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    train(config_of(out, captions="swap", caption_share=0.5), folder, jax.devices()[:1])
    return folder


@pytest.mark.slow
def test_a_run_goes_on_bit_for_bit_and_not_on_another_encoders_embeddings(out, whole, tmp_path):
    again = shutil.copytree(whole, tmp_path / "again")
    shutil.rmtree(again / "checkpoints/4")
    config = config_of(out, captions="swap", caption_share=0.5)
    train(config, again, jax.devices()[:1])
    assert (again / "metrics.jsonl").read_bytes() == (whole / "metrics.jsonl").read_bytes()
    models = [jax.tree.leaves(load_run(run).denoiser.model) for run in (again, whole)]
    for ours, theirs in zip(*models, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    frozen = load_frozen(again / FROZEN)
    np.savez(again / FROZEN, encoder=np.array("another"), null=frozen.null)
    with pytest.raises(ValueError, match="prepared anew with another text encoder"):
        train(config, again, jax.devices()[:1])


@pytest.mark.slow
def test_prompts_make_the_images_that_the_same_held_out_captions_make(out, whole, tmp_path, by_words):
    """Whether their embeddings are read from the data or made anew."""
    captions = [str(make_source(str(out), "test")[i]["caption"]) for i in range(3)]
    common = ["sample", str(whole), *options(steps=2, number=3)]
    assert main([*common, "--out", str(tmp_path / "a")]) == 0
    assert main([*common, "--out", str(tmp_path / "b"), "--text-encoder", "there", "--captions", *captions]) == 0
    first, second = (np.load(tmp_path / name / "samples.npz")["arr_0"] for name in "ab")
    np.testing.assert_array_equal(first, second)


@pytest.mark.slow
def test_exported_weights_start_another_run(out, whole, tmp_path):
    file = tmp_path / "weights.safetensors"
    assert main(["export", str(whole), "--out", str(file)]) == 0
    config = config_of(out, captions="swap", caption_share=0.5, start=str(file), learning_rate=1e-9)
    train(config, tmp_path / "run", jax.devices()[:1])
    models = [load_run(run).denoiser.model for run in (tmp_path / "run", whole)]
    for ours, theirs in zip(*map(jax.tree.leaves, models), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-6)


# --- the encoders themselves


def test_folders_without_a_text_encoder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        FrozenEncoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "brt"}))
    with pytest.raises(ValueError, match="did you mean 'bert'"):
        FrozenEncoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(ValueError, match=r"no \*\.safetensors or pytorch_model\*\.bin"):
        FrozenEncoder(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="text_length must be at least 2; got 1"):
        FrozenEncoder(tmp_path, 1)
    if importlib.util.find_spec("transformers") is None:
        with pytest.raises(ValueError, match=r"patina-diffusion\[pretrained"):
            FrozenEncoder(tmp_path)


def write_encoder(kind, folder, seed=0):
    """A tiny one with random weights and a tokenizer of its kind's special tokens; returns transformers' model."""
    import torch
    import transformers

    words = ["a", "large", "small", "red", "blue", "circle", "cross", "square", "on", "background", "at", "the"]
    ends = {"bert": ("[PAD]", "[CLS]", "[SEP]"), "t5": ("<pad>", "", "</s>"),
            "clip": ("<|endoftext|>", "<|startoftext|>", "<|endoftext|>")}[kind]  # fmt: skip
    write_tokenizer(folder, words, *ends)
    torch.manual_seed(seed)
    layers = {"num_hidden_layers": 2, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 16}
    if kind == "bert":
        config = transformers.BertConfig(vocab_size=20, max_position_embeddings=16, **layers)
        model = transformers.BertModel(config)
    elif kind == "clip":
        text = {"vocab_size": 20, "max_position_embeddings": 16, "bos_token_id": 1, "eos_token_id": 0, **layers}
        config = transformers.CLIPConfig(text_config=text, vision_config={**layers, "image_size": 8, "patch_size": 4})
        model = transformers.CLIPModel(config)
    else:
        config = transformers.T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=16, num_layers=2, num_heads=2)
        model = transformers.T5EncoderModel(config)
    model.eval().save_pretrained(folder)
    return model.text_model if kind == "clip" else model


def write_tokenizer(folder, words, pad, begin, end):
    import tokenizers
    import transformers

    names = {name: k for k, name in enumerate(dict.fromkeys([pad, begin, end, "[UNK]", *words])) if name}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(names, unk_token="[UNK]"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    special = [(name, names[name]) for name in dict.fromkeys([begin, end]) if name]
    inner.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{begin} $A {end}".strip(), special_tokens=special
    )
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token=pad, eos_token=end, unk_token="[UNK]", padding_side="left"
    )
    fast.save_pretrained(folder)


CAPTIONS = ["a red circle", "", "a large blue cross on a red background", "the small square at the circle " * 4]


@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["bert", "clip", "t5"])
def test_embeddings_are_what_transformers_makes_of_each_caption_alone(kind, tmp_path):
    """Without padding, and cut to the length, the end token kept."""
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    model = write_encoder(kind, tmp_path)
    encoder, tokenizer = FrozenEncoder(tmp_path, 12), transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    found = encoder(CAPTIONS)
    for states, caption in zip(found, CAPTIONS, strict=True):
        tokens = tokenizer(caption, return_tensors="pt", truncation=True, max_length=12)["input_ids"]
        alone = model(input_ids=tokens).last_hidden_state.detach().numpy()[0]
        assert tokens[0, -1] == tokenizer.eos_token_id
        np.testing.assert_allclose(states, alone, atol=1e-5)
    assert [len(states) for states in found][-1] == 12
    assert encoder.about() == {"encoder": encoder.sha256, "length": 12, "width": 8}
    made = text_encoders.embeddings(encoder, CAPTIONS)
    np.testing.assert_array_equal(made, np.stack([filled(states, 12) for states in found]))
    if kind != "t5":
        with pytest.raises(ValueError, match="text_length must be at most 16, the places of the encoder"):
            FrozenEncoder(tmp_path, 17)


@pytest.mark.filterwarnings("default")
def test_an_encoder_is_known_by_its_weights_and_vocabulary(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    for name, seed in (("first", 0), ("same", 0), ("other", 1)):
        write_encoder("bert", tmp_path / name, seed)
    shutil.copytree(tmp_path / "first", tmp_path / "words")
    write_tokenizer(tmp_path / "words", ["another", "a"], "[PAD]", "[CLS]", "[SEP]")
    names = ("first", "same", "other", "words")
    first, same, other, words = (FrozenEncoder(tmp_path / name, 12).sha256 for name in names)
    assert first == same
    assert len({first, other, words}) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_latents_and_embeddings_of_pretrained_models_are_prepared_and_train_by_the_commands(raw, tmp_path, capsys):
    """A tiny AutoencoderKL and a tiny BERT, with random weights."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16,
             "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}  # fmt: skip
    diffusers.AutoencoderKL(**sizes).save_pretrained(tmp_path / "vae")
    write_encoder("bert", tmp_path / "bert")
    data, run = tmp_path / "out", tmp_path / "run"
    models = {"latents": tmp_path / "vae", "text_encoder": tmp_path / "bert", "text_length": 12}
    assert main(["prepare", str(raw), *options(resolution=SIDE, bad_share=0.1, out=data, **models)]) == 0
    train_it = options(data=data, text="prepared", text_length=12, out=run, condition="cep-g", strength=1, **QUICK)
    assert main(["train", "shapes-text", *train_it]) == 0
    assert len(read_lines(run / "metrics.jsonl")) == 4
    sample = ["sample", str(run), *options(steps=2, number=3, decoder=tmp_path / "vae")]
    prompts = ["--captions", "a red circle", "the blue cross"]
    assert main([*sample, *prompts, "--text-encoder", str(tmp_path / "bert")]) == 0
    with np.load(run / "samples-4/samples.npz") as made:
        assert made["arr_0"].shape == (3, SIDE, SIDE, 3)
    write_encoder("bert", tmp_path / "other", seed=1)
    capsys.readouterr()
    other = [*sample, *prompts, "--text-encoder", str(tmp_path / "other"), "--out", str(tmp_path / "no")]
    assert main(other) == 2
    assert "the text encoder that the run's data were prepared with" in capsys.readouterr().err
