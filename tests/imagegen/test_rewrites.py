"""Captions rewritten into a file: all, once, and as training reads them by key."""

import hashlib
import json
import sys
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from imagegen import rewrites
from imagegen.__main__ import main
from imagegen.config import Config, check
from imagegen.data.builtin import make_source
from imagegen.data.rewriting import Rewritten
from imagegen.prepare import prepare
from imagegen.rewrites import made_captions, note_rewritten, rewrite
from imagegen.training import train
from imagegen.training_data import training_source
from tests.imagegen.disk import write_folder, write_shards

SIDE, N = 8, 16


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """20 captioned shapes, of which 16 are trained on."""
    return write_shards(tmp_path_factory.mktemp("data") / "cc3m", n=20)


def shout(caption, level, rng):
    return f"{level} {caption.upper()} {rng.integers(1000)}"


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


def config(root, file, **fields):
    usual = {"text": "train", "captions": "rewrite", "caption_share": 0.5, "caption_level": 2, "resolution": SIDE}
    return Config(data=str(root), rewritten=str(file), **{**usual, **fields})


def test_the_file_has_what_the_rules_make_of_every_caption(root, tmp_path):
    out = tmp_path / "captions.jsonl"
    assert rewrite(str(root), out, level=3, resolution=SIDE) == N
    header, *found = lines(out)
    assert (header["level"], header["rewriter"]) == (3, "rules")
    source = make_source(str(root), "train", resolution=SIDE)
    expected = Rewritten(source, 1.0, 3, 0)
    assert found == [{"key": source.key(k), "caption": expected[k]["caption"]} for k in range(N)]


def test_what_is_there_is_kept_and_the_rest_added(root, tmp_path):
    out, asked = tmp_path / "captions.jsonl", []

    def rewriter(*given):
        asked.append(given)
        return shout(*given)

    def again(**options):
        return rewrite(
            str(root), out, **{"level": 2, "rewriter": rewriter, "called": "a", "resolution": SIDE, **options}
        )

    again()
    whole = out.read_bytes()
    assert len(asked) == N
    for kept in (whole, whole[: len(whole) // 2], whole[: whole.index(b"\n") + 1]):
        out.write_bytes(kept)
        asked.clear()
        again()
        assert out.read_bytes() == whole
        assert len(asked) == N + 1 - kept.count(b"\n")
    for options in ({"level": 3}, {"called": "b"}, {"split": "test"}):
        with pytest.raises(ValueError, match=r"out must be a new file, or one of the same call; got .* made otherwise"):
            again(**options)
    assert out.read_bytes() == whole


def test_training_shows_them_in_its_share_from_the_images_as_from_what_was_prepared_of_them(root, tmp_path):
    out = tmp_path / "captions.jsonl"
    rewrite(str(root), out, level=2, rewriter=shout, called="loud", resolution=SIDE)
    before = make_source(str(root), "train", resolution=SIDE)
    made = {line["key"]: line["caption"] for line in lines(out)[1:]}
    prepare(root, tmp_path / "prepared", resolution=SIDE)
    for data in (root, tmp_path / "prepared"):
        source = training_source(config(data, out))
        records = [source[k] for k in range(N)]
        assert sum(bool(record["rewritten"]) for record in records) == N // 2
        for k, record in enumerate(records):
            expected = made[before.key(k)] if record["rewritten"] else before[k]["caption"]
            assert record["caption"] == expected
            np.testing.assert_array_equal(record["image"], before[k]["image"])


def test_files_that_do_not_fit_the_run_are_refused(root, tmp_path):
    out = tmp_path / "captions.jsonl"
    with pytest.raises(ValueError, match=r"rewritten must be a file that .* wrote; got .*which is no file"):
        training_source(config(root, out))
    rewrite(str(root), out, level=2, rewriter=shout, called="loud", resolution=SIDE)
    with pytest.raises(ValueError, match=r"caption_level must be 2, as .* was made; got 5"):
        training_source(config(root, out, caption_level=5))
    with pytest.raises(ValueError, match="left out for 'shapes', which is not in a folder"):
        made_captions(out, Rewritten(make_source("shapes"), 0.5, 2, 0))
    whole = out.read_text()
    out.write_text("".join(whole.splitlines(keepends=True)[:-3]))
    with pytest.raises(ValueError, match=r"rewritten must be .* of the same data; got .* without 3 of 16 samples"):
        training_source(config(root, out, caption_share=1.0))
    for bad, message in (("{", "line 3 of .* must be JSON"), ('{"key": "x"}', "line 3 of .* with key and caption")):
        first, second = whole.splitlines()[:2]
        out.write_text(f"{first}\n{second}\n{bad}\n")
        with pytest.raises(ValueError, match=message):
            training_source(config(root, out))


def test_what_cannot_be_rewritten_is_refused_before_a_file_is_made(root, tmp_path):
    images = write_folder(tmp_path / "images", per_class=5, splits=())
    out = tmp_path / "captions.jsonl"
    for data, file, options, message in (
        (root, out, {"level": 6}, "level must be 1 ... 5"),
        (root, tmp_path / "captions.txt", {}, r"ends in \.jsonl"),
        ("digits", out, {"resolution": 0}, "data must be a folder"),
        (images, out, {}, "without captions"),
    ):
        with pytest.raises(ValueError, match=message):
            rewrite(str(data), file, **{"level": 1, "resolution": SIDE, **options})
    assert [entry.name for entry in tmp_path.iterdir()] == ["images"]
    with pytest.raises(ValueError, match="rewritten must be left out for captions='swap'"):
        check(config(root, out, captions="swap", caption_level=1))


def test_a_file_that_has_changed_since_the_run_began_is_refused(tmp_path):
    file, noted = tmp_path / "captions.jsonl", tmp_path / "rewritten.json"
    file.write_text("{}")
    noted.write_text(note_rewritten(file, noted))
    assert note_rewritten(file, noted) == noted.read_text()
    file.write_text("{ }")
    with pytest.raises(ValueError, match=r"rewritten must be the same file as when the run began.*changed since"):
        note_rewritten(file, noted)


@pytest.mark.slow
def test_a_run_notes_the_file_and_goes_on_only_with_the_same(root, tmp_path, small_network):
    out, folder = tmp_path / "captions.jsonl", tmp_path / "run"
    rewrite(str(root), out, level=2, rewriter=shout, called="loud", resolution=SIDE)
    few = {"text_length": 8, "network": "small", "text_encoder": "small", "batch": 4, "steps": 2, "warmup": 1}
    run = config(root, out, **few, log_every=1, checkpoint_every=1, samples_every=0)
    train(run, folder, jax.devices()[:1])
    noted = json.loads((folder / "rewritten.json").read_text())
    assert noted == {"rewritten": str(out), "sha256": hashlib.sha256(out.read_bytes()).hexdigest()}
    train(run, folder, jax.devices()[:1])
    out.write_text(out.read_text().replace("RED", "BLUE"))
    with pytest.raises(ValueError, match="changed since"):
        train(run, folder, jax.devices()[:1])


def test_a_language_model_is_reached_by_a_command_and_its_file_says_which(root, tmp_path, monkeypatch, capsys):
    def pipeline(task, model):
        return lambda prompt, **_: [{"generated_text": f"answer to {prompt.split('Caption: ')[1].splitlines()[0]}"}]

    monkeypatch.setitem(sys.modules, "transformers", SimpleNamespace(set_seed=lambda seed: None, pipeline=pipeline))
    model, out = tmp_path / "model", tmp_path / "captions.jsonl"
    model.mkdir()
    (model / "model.safetensors").write_bytes(b"weights")
    command = ["rewrite", str(root), str(out), "--level", "4", "--resolution", str(SIDE), "--model", str(model)]
    assert main(command) == main(command) == 0
    assert f"{N} captions are rewritten" in capsys.readouterr().out
    header, *found = lines(out)
    assert header["rewriter"] == rewrites.model_sha256(model)
    source = make_source(str(root), "train", resolution=SIDE)
    assert [line["caption"] for line in found] == [f"answer to {source[k]['caption']}" for k in range(N)]
    (model / "model.safetensors").write_bytes(b"Weights")
    assert main(command) == 2
    assert "made otherwise" in capsys.readouterr().err
