"""Figures by networks on disk, small functions in their place: at their ideals for real images, and off for faults."""

import importlib.util
import json

import numpy as np
import pytest

from imagegen import config as configs
from imagegen import scores
from imagegen.__main__ import main
from imagegen.clip import Clip, clip_score
from imagegen.config import Config
from imagegen.data import builtin
from imagegen.data.builtin import make_source
from imagegen.data.shapes import BACKGROUNDS, COLOURS
from imagegen.fidelity import Moments, frechet
from imagegen.pretrained import Autoencoder
from imagegen.sampling import to_bytes
from imagegen.scores import Embedded, clip_figures, evaluate_clip, evaluate_codebook, read_captions, read_labels
from tests.imagegen.clips import save_clip

DIGITS, TEST = make_source("digits", "train"), make_source("digits", "test")
MATRIX = np.random.default_rng(0).standard_normal((8 * 8 * 3, 8))


class Colours:
    """In the place of CLIP: the mean colour of an image, and of what a caption of shapes says."""

    about = {"weights_sha256": "of this test"}  # noqa: RUF012

    def __init__(self, folder=None):
        pass

    def images(self, images):
        return (images.astype(np.float32) / 127.5 - 1).mean(axis=(1, 2)) + 1e-3

    def texts(self, captions):
        words = [caption.split() for caption in captions]
        named = [(COLOURS[one[2]], BACKGROUNDS[one[-2]]) for one in words]
        return np.array([0.2 * np.array(a) + 0.8 * np.array(b) + 1e-3 for a, b in named], np.float32)


class Projections(Colours):
    """In the place of CLIP: random projections of the digits' pixels, above 0."""

    def images(self, images):
        rows = np.repeat(images, 3, axis=-1).reshape(len(images), -1) / 127.5 - 1
        return np.maximum(rows @ MATRIX, 0).astype(np.float32)


class Brightness:
    """In the place of a VQModel: latents are means of 2 x 2 pixels, of the first channel, codes their levels of 16."""

    codebook, sha256 = 16, "of this test"

    def __init__(self, folder=None):
        pass

    def encode(self, images):
        b, h, w, _ = images.shape
        mean = images[..., :1].reshape(b, h // 2, 2, w // 2, 2, 1).mean(axis=(2, 4))
        return mean, np.zeros_like(mean)

    def codes(self, latents):
        return np.clip((latents[..., 0] + 1) * 8, 0, 15).astype(np.int64)


def embedded(images, labels):
    return Embedded(Projections().images(to_bytes(images)), labels)


def write_run(folder, config, images, labels=None, captions=()):
    """A folder as `train` and `sample` leave it, as far as evaluation reads it."""
    configs.save(config, folder / "config.json")
    target = folder / "samples-20"
    target.mkdir()
    arrays = {"arr_0": to_bytes(images)} | ({} if labels is None else {"arr_1": labels})
    np.savez(target / "samples.npz", **arrays)
    (target / "samples.json").write_text(json.dumps({"step": 20, "guidance": 1.5}))
    if captions:
        (target / "captions.txt").write_text("".join(f"{caption}\n" for caption in captions))
    return target / "samples.npz"


@pytest.fixture(autouse=True)
def _networks(monkeypatch):
    monkeypatch.setattr(scores, "Clip", Projections)
    monkeypatch.setattr(scores, "Autoencoder", Brightness)


# --- in CLIP's features


def part(source, start):
    """Twenty images of each class, from the `start`-th on: one number throughout, so that little is compiled."""
    rows = np.concatenate([np.flatnonzero(source.labels == c)[start : start + 20] for c in range(10)])
    return source.images[rows], source.labels[rows]


HELD_OUT, FRESH = embedded(*part(TEST, 0)), embedded(*part(TEST, 20))
KNOWN, COPIES = embedded(DIGITS.images, DIGITS.labels), embedded(*part(DIGITS, 30))


@pytest.fixture(scope="module")
def fresh():
    return clip_figures(KNOWN, HELD_OUT, FRESH, 10)


def test_real_images_are_at_the_ideal_of_every_figure(fresh):
    figures, left_out = fresh
    assert set(figures) == {
        "frechet_squared_features", "precision", "recall", "rmd_top_1_percent", "nearest_training", "memorised",
    }  # fmt: skip
    assert set(left_out) == {"accuracy"}
    for name, figure in figures.items():
        spread = (figure["high"] - figure["low"]) / 2
        assert figure["low"] - spread < figure["ideal"] < figure["high"] + spread, name


def test_copies_of_training_images_are_memorised():
    longer = Embedded(3 * COPIES.features, COPIES.labels)  # the length of a feature says nothing
    figures, _ = clip_figures(KNOWN, HELD_OUT, longer, 10)
    assert figures["memorised"]["value"] == 1.0
    assert figures["nearest_training"]["high"] < 0


def test_figures_are_of_the_features_as_they_are_or_at_length_1(fresh):
    figures, _ = fresh
    whole = frechet(*(Moments.of(side.features).statistics() for side in (HELD_OUT, FRESH)))
    assert figures["frechet_squared_features"]["debiased"] < whole < figures["frechet_squared_features"]["value"]
    rows = [part.features / np.linalg.norm(part.features, axis=1, keepdims=True) for part in (FRESH, KNOWN)]
    gaps = np.sort(np.linalg.norm(rows[0][:, None] - rows[1], axis=-1), axis=1)[:, :5]
    assert figures["nearest_training"]["value"] == pytest.approx(gaps.mean(), rel=1e-4)
    assert figures["memorised"]["value"] == (gaps[:, 0] < 0.12).mean()
    assert 0 < figures["memorised"]["value"] < 1


def test_wrong_classes_are_seen_by_rmd():
    wrong = Embedded(FRESH.features, (FRESH.labels + 5) % 10)
    assert clip_figures(KNOWN, HELD_OUT, wrong, 10)[0]["rmd_top_1_percent"]["low"] > 0


def test_a_run_of_classes_is_evaluated_and_says_how(tmp_path, monkeypatch, capsys):
    seen = []
    figure = {"value": 1.0, "bias": 0.25, "low": 0.5, "high": 1.0, "debiased": 0.75, "ideal": 0.0}
    monkeypatch.setattr(scores, "clip_figures", lambda *given: (seen.extend(given), ({"rmd": figure}, {}))[1])
    images, labels = part(TEST, 20)
    file = write_run(tmp_path, Config(), images, labels)
    assert main(["evaluate", str(tmp_path), "--features", "clip", "--weights", "there"]) == 0
    page = json.loads((file.parent / "evaluation-clip.json").read_text())
    printed = capsys.readouterr().out
    assert "0.75 [0.5, 1]" in printed
    assert "no captions.txt" in printed
    assert page["scores"] == {}
    assert page["made"] == {"step": 20, "guidance": 1.5}
    protocol = page["protocol"]
    assert protocol["clip"] == Colours.about
    assert (protocol["samples"], protocol["held_out"], protocol["training"]) == (200, 500, len(DIGITS))
    assert page["figures"] == {"rmd": figure}
    for given, expected in zip(seen, ((DIGITS.images, DIGITS.labels), (TEST.images, TEST.labels), part(TEST, 20)),
                               strict=False):  # fmt: skip
        np.testing.assert_allclose(given.features, embedded(*expected).features, rtol=1e-5, atol=1e-4)
        np.testing.assert_array_equal(given.labels, expected[1])
    assert seen[3:] == [10, 0]


def test_images_are_drawn_where_there_are_too_many(tmp_path, monkeypatch):
    monkeypatch.setattr(scores, "clip_figures", lambda *given: ({}, {}))
    monkeypatch.setattr(scores, "LIMIT", 300)
    monkeypatch.setattr(scores, "HELD_OUT", 200)
    file = write_run(tmp_path, Config(), TEST.images, TEST.labels)
    pages = [json.loads(evaluate_clip(tmp_path, file, tmp_path, seed).read_text()) for seed in (0, 0, 1)]
    assert pages[0] == pages[1]
    assert (pages[0]["protocol"]["training"], pages[0]["protocol"]["held_out"]) == (300, 200)
    assert pages[0]["protocol"]["held_out_sha256"] != pages[2]["protocol"]["held_out_sha256"]


# --- captions


@pytest.fixture
def captioned(monkeypatch):
    """Config, images, labels and captions of held-out shapes."""
    monkeypatch.setattr(scores, "Clip", Colours)
    monkeypatch.setattr(scores, "clip_figures", lambda *given: ({}, {"accuracy": "of this test"}))
    monkeypatch.setattr(builtin, "SHAPES", {"train": 16, "test": 48})
    records = list(make_source("shapes", "test"))
    images, labels = (np.stack([record[name] for record in records]) for name in ("image", "label"))
    return Config(data="shapes", text="train"), images, labels, [record["caption"] for record in records]


def test_the_score_is_that_of_the_captions_beside_the_held_out_images(captioned, tmp_path):
    config, images, labels, captions = captioned
    file = write_run(tmp_path, config, images, labels, captions)
    page = json.loads(evaluate_clip(tmp_path, file, tmp_path).read_text())
    network = Colours()
    expected = clip_score(network.images(to_bytes(images)), network.texts(captions))
    assert page["scores"]["clip_score"] == pytest.approx(expected._asdict(), rel=1e-6)
    assert page["scores"]["clip_score_held_out"] == page["scores"]["clip_score"]  # they are the same images
    assert page["left_out"] == {"accuracy": "of this test"}
    swapped = [*captions[1:], captions[0]]
    file.with_name("captions.txt").write_text("".join(f"{caption}\n" for caption in swapped))
    other = json.loads(evaluate_clip(tmp_path, file, tmp_path).read_text())["scores"]
    assert other["clip_score"]["high"] < other["clip_score_held_out"]["low"]


def test_samples_of_given_captions_have_a_score_alone(captioned, tmp_path):
    config, images, _, captions = captioned
    file = write_run(tmp_path, config, images[:5], captions=captions[:5])
    page = json.loads(evaluate_clip(tmp_path, file, tmp_path).read_text())
    assert set(page["scores"]) == {"clip_score", "clip_score_held_out"}
    assert page["figures"] == {}
    assert page["left_out"] == {"figures": "the samples have no labels"}
    assert "training" not in page["protocol"]


def test_captions_for_data_without_captions_have_no_score_beside(tmp_path, monkeypatch):
    monkeypatch.setattr(Projections, "texts", lambda self, captions: np.ones((len(captions), 8), np.float32))
    write_run(tmp_path, Config(), TEST.images[:5], captions=["a digit"] * 5)
    page = json.loads(evaluate_clip(tmp_path, None, tmp_path).read_text())
    assert page["left_out"]["clip_score_held_out"] == "the data have no captions"


# --- codes


def test_entropies_are_of_as_many_images_on_both_sides(tmp_path, capsys):
    dark = np.where(TEST.images[:100] > 0, 1.0, -1.0).astype(np.float32)
    file = write_run(tmp_path, Config(), dark)
    assert main(["evaluate", str(tmp_path), "--features", "codebook", "--weights", "there"]) == 0
    page = json.loads((file.parent / "evaluation-codebook.json").read_text())
    assert "codebook_entropy_difference" in capsys.readouterr().out
    figures, protocol = page["figures"], page["protocol"]
    network = Brightness()
    shares = np.bincount(network.codes(network.encode(dark)[0]).reshape(-1)) / 1600
    expected = -sum(share * np.log(share) for share in shares if share > 0)
    assert figures["codebook_entropy"]["value"] == pytest.approx(expected)
    assert figures["codebook_entropy_real"]["places"] == figures["codebook_entropy"]["places"] == 1600
    assert figures["codebook_entropy_difference"]["high"] < 0
    assert (protocol["samples"], protocol["held_out"], protocol["autoencoder_sha256"]) == (100, 100, "of this test")


def test_the_same_images_have_the_same_entropy(tmp_path):
    file = write_run(tmp_path, Config(), TEST.images)
    figures = json.loads(evaluate_codebook(tmp_path, file, tmp_path).read_text())["figures"]
    assert figures["codebook_entropy"]["value"] == pytest.approx(figures["codebook_entropy_real"]["value"])
    assert figures["codebook_entropy_difference"]["value"] == pytest.approx(0)


# --- with the libraries


@pytest.mark.slow
@pytest.mark.skipif(
    not all(importlib.util.find_spec(name) for name in ("transformers", "diffusers")),
    reason="transformers and diffusers are not installed",
)
@pytest.mark.filterwarnings("default")
def test_small_networks_of_both_libraries_score_a_run(tmp_path, monkeypatch, capsys):
    import diffusers
    import torch

    monkeypatch.setattr(scores, "Clip", Clip)
    monkeypatch.setattr(scores, "Autoencoder", Autoencoder)
    monkeypatch.setattr(builtin, "SHAPES", {"train": 64, "test": 64})
    records = list(make_source("shapes", "test"))
    images, labels = (np.stack([record[name] for record in records]) for name in ("image", "label"))
    config = Config(data="shapes", text="train")
    (tmp_path / "run").mkdir()
    file = write_run(tmp_path / "run", config, images, labels, [record["caption"] for record in records])
    save_clip(tmp_path)
    torch.manual_seed(0)
    diffusers.VQModel(num_vq_embeddings=32, norm_num_groups=4, block_out_channels=(8,)).save_pretrained(tmp_path / "vq")
    for name, folder in (("clip", tmp_path), ("codebook", tmp_path / "vq")):
        assert main(["evaluate", str(tmp_path / "run"), "--features", name, "--weights", str(folder)]) == 0
        print(capsys.readouterr().out)
    page = json.loads((file.parent / "evaluation-clip.json").read_text())
    assert page["scores"]["clip_score"] == pytest.approx(page["scores"]["clip_score_held_out"])  # the same images
    assert 0 < page["scores"]["clip_score"]["value"] < 100
    assert set(page["figures"]) > {"frechet_squared_features", "rmd_top_1_percent", "memorised"}
    assert page["protocol"]["clip"]["weights_sha256"] == Clip(tmp_path).about["weights_sha256"]
    codes = json.loads((file.parent / "evaluation-codebook.json").read_text())["figures"]
    assert 0 < codes["codebook_entropy"]["value"] <= np.log(32)
    assert codes["codebook_entropy_difference"]["value"] == pytest.approx(0)


# --- bad input


def test_bad_samples_are_refused(tmp_path, monkeypatch):
    images = TEST.images[:30]
    file = write_run(tmp_path, Config(), images)
    with pytest.raises(ValueError, match="samples with captions or labels"):
        evaluate_clip(tmp_path, None, tmp_path)
    captions = file.with_name("captions.txt")
    captions.write_text("one\ntwo\n")
    with pytest.raises(ValueError, match=r"30 captions, a line for each sample of 'samples\.npz'; got 2 lines"):
        evaluate_clip(tmp_path, None, tmp_path)
    captions.write_text("one\x85still one\n\n")
    assert read_captions(file, 2) == ("one\x85still one", "")
    np.savez(file, arr_0=to_bytes(images), arr_1=np.zeros(30))
    with pytest.raises(ValueError, match=r"got arr_1 float64 \(30,\)"):
        read_labels(file, 30)
    np.savez(file, arr_0=to_bytes(images), arr_1=np.array([None] * 30))
    with pytest.raises(ValueError, match="cannot be read"):
        read_labels(file, 30)
    np.savez(file, arr_0=to_bytes(images), arr_1=np.full(30, 10))
    captions.unlink()
    with pytest.raises(ValueError, match=r"labels must be in 0 \.\.\. 9"):
        evaluate_clip(tmp_path, None, tmp_path)
    np.savez(file, arr_0=to_bytes(images[:, :4]), arr_1=np.zeros(30, int))
    with pytest.raises(ValueError, match=r"of the data's shape \(8, 8, 1\)"):
        evaluate_codebook(tmp_path, None, tmp_path)
    np.savez(file, arr_0=to_bytes(images[:19]))
    with pytest.raises(ValueError, match="at least 20"):
        evaluate_codebook(tmp_path, None, tmp_path)
    np.savez(file, arr_0=to_bytes(images))
    monkeypatch.setattr(Brightness, "codebook", 0)
    with pytest.raises(ValueError, match="the folder of a VQModel"):
        evaluate_codebook(tmp_path, None, tmp_path)


def test_options_that_are_missing_or_have_no_effect_are_refused(tmp_path, capsys):
    for options, message in (
        (["clip"], "weights must be given for features=clip"),
        (["codebook", "--weights", "w", "--reference", "r"], "left out for codebook"),
        (["clipp"], "did you mean 'clip'"),
        (["classifier", "--weights", "w"], "left out for classifier"),
    ):
        assert main(["evaluate", str(tmp_path), "--features", *options]) == 2
        assert message in capsys.readouterr().err
