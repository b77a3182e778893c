"""Latents: both orientations stored and read, drawn in training, decoded; made as diffusers makes them."""

import importlib.util
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen import in_loop, pretrained
from imagegen.__main__ import main
from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.decode import Unreadable
from imagegen.data.latents import pack_law, unpack_law
from imagegen.evaluate import evaluate_samples
from imagegen.in_loop import prepare as prepare_in_loop
from imagegen.prepare import prepare
from imagegen.pretrained import Autoencoder
from imagegen.run import read_lines
from imagegen.sampling import to_bytes
from imagegen.scores import images_behind
from imagegen.statistics import statistics_of
from tests.imagegen.disk import write_folder

SIDE = 32


class Pooled:
    """Means of squares of 4 x 4 pixels as latents, of different scales by channel; decoded into equal pixels."""

    content, sha256 = "latents", "of this test"

    def __init__(self, folder=None):
        pass

    def about(self, side):
        return {"shape": [side // 4, side // 4, 3], "scale": 2.0, "autoencoder": self.sha256}

    def __call__(self, images):
        laws = []
        for image in images:
            mean = np.stack([2 * side.reshape(SIDE // 4, 4, SIDE // 4, 4, 3).mean((1, 3)) for side in both(image)])
            laws.append(pack_law(mean, np.full_like(mean, 0.125)))
        return laws

    def decode(self, latents):
        return np.repeat(np.repeat(latents / 2, 4, axis=1), 4, axis=2)


def both(image):
    return image, image[:, ::-1]


@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 5))
def test_laws_are_read_as_they_were_stored(seed, h, w):
    rng = np.random.default_rng(seed)
    mean, std = rng.normal(0, 3, (2, h, w, 2)), rng.uniform(0, 2, (2, h, w, 2))
    found = unpack_law(pack_law(mean, std), (h, w, 2))
    for ours, theirs in zip(found, (mean, std), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=2**-10, atol=1e-6)
    for wrong in (b"", b"x", pack_law(mean, std)[:-2], pack_law(mean * np.nan, std)):
        with pytest.raises(Unreadable, match="no latent of shape"):
            unpack_law(wrong, (h, w, 2))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("latents")
    write_folder(root / "raw", per_class=16)  # held-out ones enough to be compared with
    raw = root / "raw"
    prepare(raw, root / "out", resolution=SIDE, threads=1, encoder=Pooled())
    return raw, root / "out"


def test_prepared_latents_are_those_of_the_images_and_their_mirrored_ones(folders):
    raw, out = folders
    images, latents = make_source(str(raw), "train", resolution=SIDE), make_source(str(out), "train")
    assert latents.shape == (8, 8, 3)
    assert len(latents) == len(images)
    for index in (0, len(images) - 1):
        image, record = images[index]["image"], latents[index]
        for side, seen in enumerate(both(image)):
            expected = 2 * seen.reshape(8, 4, 8, 4, 3).mean((1, 3))
            np.testing.assert_allclose(record["mean"][side], expected, atol=2e-3)
        np.testing.assert_array_equal(record["image"], record["mean"][0])
        assert np.all(record["std"] == 0.125)
    assert statistics_of(latents).latent == Pooled.sha256
    assert statistics_of(images).latent == ""


def test_latents_are_compared_with_the_images_behind_them(folders):
    raw, out = folders
    behind = images_behind(Config(data=str(out)))
    assert (behind.data, behind.resolution) == (str(raw.resolve()), SIDE)
    assert images_behind(behind) == behind
    assert images_behind(Config()) == Config()
    moved = raw.with_name("moved")
    raw.rename(moved)
    try:
        with pytest.raises(ValueError, match=r"latents whose images are still there; got '.*raw' gone"):
            images_behind(Config(data=str(out)))
    finally:
        moved.rename(raw)


def test_evaluation_while_training_compares_latents_with_draws_of_their_laws(folders, monkeypatch):
    config = Config(data=str(folders[1]), evaluate_every=1)
    monkeypatch.setattr(in_loop, "PART", 20)  # 48 records, the last part shorter
    beside, again = prepare_in_loop(config), prepare_in_loop(config)
    drawn = []
    for split, found, other in (("train", beside.train, again.train), ("test", beside.test, again.test)):
        laws = make_source(str(folders[1]), split)
        mean = np.stack([laws[index]["mean"][0] for index in range(len(laws))])
        drawn.append((found.images - mean) / 0.125)
        np.testing.assert_array_equal(found.images, other.images)
        np.testing.assert_array_equal(found.labels, laws.labels)
        assert abs(found.images).max() > 1
    noise = np.stack(drawn).ravel()
    assert abs(noise.mean()) < 5 / np.sqrt(noise.size)
    assert abs(noise.var() - 1) < 5 * np.sqrt(2 / noise.size)
    assert abs(np.corrcoef(drawn[0].ravel(), drawn[1].ravel())[0, 1]) < 5 / np.sqrt(drawn[0].size)


@pytest.mark.slow
def test_latents_twice_as_large_are_told_from_real_ones(folders):
    """Training latents in the place of samples, as they are and doubled: neither is clipped, as images are."""
    train, test, judge, conds = prepare_in_loop(Config(data=str(folders[1]), evaluate_every=1))
    rows = np.array([np.flatnonzero(train.labels == label)[k % 16] for k, label in enumerate(conds)])
    real, large = (
        evaluate_samples(scale * train.images[rows], conds, train, test, judge)["figures"]["w2_squared"]["value"]
        for scale in (np.float32(1), np.float32(2))
    )
    assert large > 2 * real
    with pytest.raises(ValueError, match="images must be floats, beside latents; got dtype uint8"):
        evaluate_samples(to_bytes(train.images[rows]), conds, train, test, judge)


@pytest.mark.slow
def test_latents_train_and_their_samples_are_decoded(folders, tmp_path, small_network, monkeypatch, capsys):
    data, run = str(folders[1]), str(tmp_path / "run")
    options = ["--network", "small", "--steps", "4", "--warmup", "1", "--batch", "8", "--log-every", "2",
               "--checkpoint-every", "2", "--samples-every", "4", "--flip",
               "--evaluate-every", "4"]  # fmt: skip
    for refused, message in (
        (["--degradation", "blur", "--degraded-share", "0.5"], "degradation must be none for latents"),
    ):
        assert main(["train", "digits", "--data", data, *options, *refused, "--out", run]) == 2
        assert message in capsys.readouterr().err
    assert main(["train", "digits", "--data", data, *options, "--out", run]) == 0
    (line,) = read_lines(tmp_path / "run" / "evaluations.jsonl")
    assert (line["step"], line["protocol"]["decoder"]) == (4, "none: latents are compared")
    assert {"w2_squared", "precision", "recall", "accuracy", "memorised"} <= set(line["figures"])
    assert "decoder none: latents are compared" in (tmp_path / "run" / "summary.md").read_text()
    sample = ["sample", run, "--number", "4", "--steps", "2"]
    capsys.readouterr()
    assert main(sample) == 2
    assert "decoder must be the folder of the autoencoder" in capsys.readouterr().err
    monkeypatch.setattr(pretrained, "Autoencoder", Pooled)
    monkeypatch.setattr(Pooled, "sha256", "another's")
    assert main([*sample, "--decoder", "there"]) == 2
    assert "that the run's latents were prepared with" in capsys.readouterr().err
    monkeypatch.setattr(Pooled, "sha256", "of this test")
    assert main([*sample, "--decoder", "there"]) == 0
    with np.load(tmp_path / "run" / "samples-4" / "samples.npz") as archive:
        assert archive["arr_0"].shape == (4, SIDE, SIDE, 3)
    made = json.loads((tmp_path / "run" / "samples-4" / "samples.json").read_text())
    assert made["decoder"] == {"folder": "there", "sha256": "of this test"}
    capsys.readouterr()
    assert main(["evaluate", run]) == 2
    assert "inception for a run on latents" in capsys.readouterr().err


def test_folders_without_an_autoencoder_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no config\.json"):
        Autoencoder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"_class_name": "AutoencoderKl"}))
    (tmp_path / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match="did you mean 'AutoencoderKL'"):
        Autoencoder(tmp_path)


@pytest.mark.skipif(importlib.util.find_spec("diffusers") is None, reason="diffusers is not installed")
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("kind", ["AutoencoderKL", "VQModel"])
def test_latents_are_what_diffusers_makes(kind, tmp_path):
    import diffusers
    import torch

    torch.manual_seed(0)
    sizes = {"block_out_channels": (8, 8), "norm_num_groups": 4, "latent_channels": 4, "sample_size": 16,
             "down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}  # fmt: skip
    model = getattr(diffusers, kind)(**sizes, scaling_factor=0.5).eval()
    model.save_pretrained(tmp_path)
    ours = Autoencoder(tmp_path)
    scale = 0.5 if kind == "AutoencoderKL" else 1.0
    images = np.random.default_rng(0).uniform(-1, 1, (3, 16, 16, 3)).astype(np.float32)
    x = torch.from_numpy(images).permute(0, 3, 1, 2)
    with torch.no_grad():
        code = model.encode(x)
        mean = code.latent_dist.mean if kind == "AutoencoderKL" else code.latents
        std = code.latent_dist.std if kind == "AutoencoderKL" else torch.zeros_like(mean)
        back = model.decode(mean).sample
    as_theirs = [np.moveaxis(part.numpy(), 1, 3) for part in (mean, std, back)]
    found = ours.encode(images)
    np.testing.assert_allclose(found[0], scale * as_theirs[0], atol=1e-5)
    np.testing.assert_allclose(found[1], scale * as_theirs[1], atol=1e-5)
    np.testing.assert_allclose(ours.decode(found[0]), as_theirs[2], atol=1e-4)
    about = ours.about(16)
    assert (about["shape"], about["scale"]) == ([8, 8, 4], scale)
    stored = unpack_law(ours(images)[1], (8, 8, 4))
    np.testing.assert_allclose(stored[0][0], found[0][1], atol=5e-3)
    mirrored, _ = ours.encode(images[:, :, ::-1])
    np.testing.assert_allclose(stored[0][1], mirrored[1], atol=5e-3)
    with pytest.raises(ValueError, match="resolution must be one that the autoencoder divides"):
        ours.about(1)
