"""Reference files and the figures of samples beside them, with a small extractor in the place of Inception."""

import json
import zipfile

import jax
import numpy as np
import pytest

from imagegen import pretrained, references, standard
from imagegen import samples as on_disk
from imagegen.__main__ import main
from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.source import ArraySource
from imagegen.fidelity import Moments, frechet, inception_score, kernel_distance, shuffled
from imagegen.inception import Outputs
from imagegen.references import (
    extract_file,
    image_batches,
    image_shape,
    read_reference,
    require_comparable,
    write_reference,
)
from imagegen.run import Run
from imagegen.samples import make_samples
from imagegen.sampling import SamplerConfig, to_bytes
from imagegen.standard import evaluate_standard, standard_figures
from imagegen.statistics import Statistics
from sim.neighbours import precision_recall

DIGITS, TEST = make_source("digits", "train"), make_source("digits", "test")


class Small:
    """Random projections of the bytes: 6 pool features, 5 spatial ones, 4 logits. `seen` counts the images."""

    sha256 = "small"

    def __init__(self):
        self.matrices = [np.random.default_rng(0).standard_normal((8 * 8 * 3, d)) / 14 for d in (6, 5, 4)]
        self.seen = 0

    def extract(self, batches):
        for images in batches:
            self.seen += len(images)
            rows = np.repeat(images, 3 // images.shape[-1], axis=-1).reshape(len(images), -1) / 32.0
            yield Outputs(*((rows @ matrix).astype(np.float32) for matrix in self.matrices))


def features(images):
    return next(Small().extract([to_bytes(images)]))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    file = tmp_path_factory.mktemp("reference") / "digits.npz"
    return write_reference(DIGITS, Small(), file, data="digits", split="train")


@pytest.fixture(autouse=True)
def _few_subsets(monkeypatch):
    monkeypatch.setattr(standard, "KID_SUBSETS", 4)


@pytest.fixture
def samples(tmp_path):
    np.savez(tmp_path / "samples.npz", arr_0=to_bytes(TEST.images), arr_1=TEST.labels)
    how = {"config": {}, "step": 7, "ema": 0.99, "number": 500, "seed": 3, "sampler": "ddim", "grid": "uniform",
           "steps": 50, "guidance": 0.5, "interval": [0.0, 1.0], "decoder": "none"}  # fmt: skip
    (tmp_path / "samples.json").write_text(json.dumps(how))
    return tmp_path / "samples.npz"


def test_a_reference_has_adms_arrays_and_says_how_it_was_made(reference):
    with np.load(reference, allow_pickle=False) as held:
        assert set(held.files) == {"arr_0", "mu", "sigma", "mu_s", "sigma_s", "protocol"}
        np.testing.assert_array_equal(held["arr_0"], np.repeat(to_bytes(DIGITS.images), 3, axis=-1))
        expected = features(DIGITS.images)
        for name, rows in (("", expected.pool), ("_s", expected.spatial)):
            np.testing.assert_allclose(held[f"mu{name}"], rows.mean(axis=0), rtol=1e-4)
            np.testing.assert_allclose(held[f"sigma{name}"], np.cov(rows, rowvar=False), rtol=1e-3, atol=1e-4)
    protocol = read_reference(reference).protocol
    assert protocol["images"] == len(DIGITS)
    assert (protocol["weights_sha256"], protocol["data"], protocol["shape"]) == ("small", "digits", [8, 8, 1])


def test_an_interrupted_reference_goes_on(reference, tmp_path, monkeypatch):
    monkeypatch.setattr(references, "SAVED", 4)
    read = references.read_batch

    def interrupted(source, indices):
        if indices[0] >= 700:
            raise KeyboardInterrupt
        return read(source, indices)

    monkeypatch.setattr(references, "read_batch", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_reference(DIGITS, Small(), tmp_path / "digits.npz", data="digits", split="train")
    assert [file.name for file in tmp_path.iterdir()] == ["digits.partial.npz"]
    monkeypatch.setattr(references, "read_batch", read)
    network = Small()
    write_reference(DIGITS, network, tmp_path / "digits.npz", data="digits", split="train")
    assert network.seen == len(DIGITS) - 8 * 64
    assert [file.name for file in tmp_path.iterdir()] == ["digits.npz"]
    with np.load(reference) as whole, np.load(tmp_path / "digits.npz") as resumed:
        for name in whole.files:
            np.testing.assert_array_equal(whole[name], resumed[name])


def test_what_was_left_by_another_call_is_not_gone_on_from(tmp_path, monkeypatch):
    monkeypatch.setattr(references, "SAVED", 1)
    small = ArraySource("digits", DIGITS.images[:200], DIGITS.labels[:200], DIGITS.class_names, {})
    partial = tmp_path / "digits.partial.npz"
    np.savez(partial, protocol=np.array("another"))
    network = Small()
    write_reference(small, network, tmp_path / "digits.npz", data="digits", split="train")
    assert network.seen == 200
    assert not partial.exists()


def test_images_of_a_file_are_read_part_by_part(samples):
    assert image_shape(samples) == (500, 8, 8, 1)
    parts = list(image_batches(samples, 64))
    assert [len(part) for part in parts] == [64] * 7 + [52]
    np.testing.assert_array_equal(np.concatenate(parts), to_bytes(TEST.images))
    found, expected = extract_file(samples, Small(), "samples"), features(TEST.images)
    np.testing.assert_allclose(found.pool, expected.pool, rtol=1e-5)
    np.testing.assert_allclose(found.spatial.statistics().cov, np.cov(expected.spatial, rowvar=False), rtol=1e-4)


def test_the_figures_are_those_of_the_features_and_carry_their_protocol(samples, reference):
    page = standard_figures(samples, Small(), read_reference(reference))
    made, real = features(TEST.images), features(DIGITS.images)
    figures = page["figures"]
    moments = [Moments.of(rows).statistics() for rows in (made.pool, real.pool, made.spatial, real.spatial)]
    np.testing.assert_allclose(figures["fid"], frechet(*moments[:2]), rtol=1e-4)
    np.testing.assert_allclose(figures["sfid"], frechet(*moments[2:]), rtol=1e-4)
    assert figures["fid_infinity"] < figures["fid"]
    assert figures["inception_score"] == pytest.approx(inception_score(shuffled(made.logits)).mean, rel=1e-5)
    assert (figures["precision"], figures["recall"]) == pytest.approx(precision_recall(real.pool, made.pool), abs=0.01)
    assert figures["kid"] == pytest.approx(kernel_distance(made.pool, real.pool, subsets=4, size=500).mean, rel=1e-4)
    assert page["left_out"] == {}
    protocol = page["protocol"]
    assert {name: protocol[name] for name in ("samples", "sampler", "steps", "guidance", "seed", "ema", "decoder")} == {
        "samples": 500, "sampler": "ddim", "steps": 50, "guidance": 0.5, "seed": 3, "ema": 0.99, "decoder": "none",
    }  # fmt: skip
    assert page["made"] == json.loads(samples.with_name("samples.json").read_text())
    assert page["versions"]["numpy"] == np.__version__
    assert protocol["weights_sha256"] == "small"
    assert protocol["reference"]["sha256"] == read_reference(reference).sha256


class Enlarging:
    """An autoencoder that repeats every place of a latent 4 x 4 times."""

    def __init__(self, folder):
        self.sha256 = "enlarging"

    def decode(self, latents):
        return latents.repeat(4, axis=1).repeat(4, axis=2)


@pytest.fixture
def latent_run(monkeypatch):
    """Whatever is sampled is of a run on latents (2, 2, 3) of two classes, made by the seed alone."""
    known = Statistics((2, 2, 3), ("a", "b"), np.full(2, 0.5), np.ones((2, 2)), 1.0, latent="enlarging")
    monkeypatch.setattr(pretrained, "Autoencoder", Enlarging)
    monkeypatch.setattr(on_disk, "load_run", lambda folder, step, ema: Run(Config(), known, 7, None))

    def generate(denoiser, shape, conds, key, how, batch):
        return np.asarray(jax.random.uniform(key, (len(conds), *shape), minval=-1))

    monkeypatch.setattr(on_disk, "generate", generate)


def test_the_protocol_names_the_autoencoder_that_decoded_the_samples(latent_run, reference, tmp_path):
    asked = {"number": 40, "how": SamplerConfig(), "ema": None, "step": None, "seed": 0, "out": None}
    file = make_samples(tmp_path, **asked, decoder=tmp_path / "kl-f8")
    decoder = {"folder": "kl-f8", "sha256": "enlarging"}
    assert json.loads(file.with_name("samples.json").read_text())["decoder"] == decoder
    page = standard_figures(file, Small(), read_reference(reference))
    assert page["protocol"]["decoder"] == decoder
    moved = make_samples(tmp_path, **asked, decoder=tmp_path / "moved")
    assert moved == file
    assert json.loads(file.with_name("samples.json").read_text())["decoder"] == {**decoder, "folder": "moved"}


def test_samples_decoded_by_another_autoencoder_are_not_gone_on_from(latent_run, tmp_path):
    asked = {"number": 4, "how": SamplerConfig(), "ema": None, "step": None, "seed": 0, "out": None}
    file = make_samples(tmp_path, **asked, decoder=tmp_path / "kl-f8").with_name("samples.json")
    made = json.loads(file.read_text())
    for other in ({**made, "decoder": {"folder": "kl-f8", "sha256": "another"}}, {**made, "decoder": "none"}):
        file.write_text(json.dumps(other))
        with pytest.raises(ValueError, match="decoder='enlarging'"):
            make_samples(tmp_path, **asked, decoder=tmp_path / "kl-f8")


def test_references_with_less_leave_figures_out(samples, reference, tmp_path):
    with np.load(reference) as held:
        arrays = {name: held[name] for name in held.files}
    whole = standard_figures(samples, Small(), read_reference(reference))["figures"]
    np.savez(tmp_path / "moments.npz", mu=arrays["mu"], sigma=arrays["sigma"])
    page = standard_figures(samples, Small(), read_reference(tmp_path / "moments.npz"))
    assert set(page["left_out"]) == {"sfid", "precision", "recall", "kid"}
    assert page["figures"]["fid"] == whole["fid"]
    np.savez(tmp_path / "images.npz", arr_0=arrays["arr_0"])
    images = standard_figures(samples, Small(), read_reference(tmp_path / "images.npz"))["figures"]
    assert images == pytest.approx(whole, rel=1e-4)
    np.savez(tmp_path / "few.npz", arr_0=to_bytes(TEST.images[:12]))
    few = standard_figures(tmp_path / "few.npz", Small(), read_reference(reference))
    assert few["left_out"] == {
        "fid_infinity": "half of 12 samples are too few for 6 features",
        "made": "samples.json is of 500 samples, not of the 12 in 'few.npz': others', perhaps",
    }
    assert few["protocol"]["sampler"] is few["protocol"]["decoder"] is few["made"] is None


def test_references_of_other_weights_sizes_or_resizes_are_refused(samples, reference, tmp_path):
    known = read_reference(reference)
    with pytest.raises(ValueError, match="made with weights_sha256 'other'"):
        require_comparable(known, "other", (8, 8, 1))
    with pytest.raises(ValueError, match="of images of 16 x 16 as the samples are; got images of 8 x 8"):
        require_comparable(known, "small", (16, 16, 3))
    changed = known._replace(protocol={**known.protocol, "resize": "bicubic"})
    with pytest.raises(ValueError, match="got resize 'bicubic'"):
        standard_figures(samples, Small(), changed)


def test_bad_files_are_refused(samples, tmp_path):
    file = tmp_path / "bad.npz"
    with pytest.raises(ValueError, match="which is no file"):
        read_reference(file)
    file.write_bytes(b"no")
    with pytest.raises(ValueError, match="cannot be read"):
        read_reference(file)
    np.savez(file, mu=np.zeros(3), sigma=np.zeros((2, 2)))
    with pytest.raises(ValueError, match=r"mu \(3,\), sigma \(2, 2\)"):
        read_reference(file)
    np.savez(file, mu=np.zeros(2), sigma=np.full((2, 2), np.nan))
    with pytest.raises(ValueError, match="must be finite"):
        read_reference(file)
    np.savez(file, mu_s=np.zeros(2))
    with pytest.raises(ValueError, match=r"got arrays \['mu_s'\]"):
        read_reference(file)
    np.savez(file, arr_0=np.zeros((3, 8, 8)))
    with pytest.raises(ValueError, match=r"got float64 \(3, 8, 8\)"):
        image_shape(file)
    with zipfile.ZipFile(samples) as archive:
        content = archive.read("arr_0.npy")
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("arr_0.npy", content[:-100])
    with pytest.raises(ValueError, match="cannot be read"):
        list(image_batches(file))
    np.savez(file, arr_0=to_bytes(TEST.images[:9]))
    with pytest.raises(ValueError, match="at least 10; got 9"):
        standard_figures(file, Small(), read_reference(samples))
    with pytest.raises(ValueError, match=r"name of an \.npz file"):
        write_reference(TEST, Small(), tmp_path / "x.txt", data="digits", split="test")


def test_the_commands_make_a_reference_and_evaluate_a_run(samples, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(standard, "load_inception", lambda file: Small())
    monkeypatch.setattr("imagegen.inception.load_inception", lambda file: Small())
    out, weights = tmp_path / "test.npz", ["--weights", str(tmp_path / "weights.pth")]
    assert main(["reference", "digits", "--split", "test", "--out", str(out), *weights]) == 0
    assert read_reference(out).images == (500, 8, 8, 3)
    options = ["--features", "inception", "--samples", str(samples)]
    assert main(["evaluate", str(tmp_path), *options, *weights, "--reference", str(out)]) == 0
    page = json.loads((tmp_path / "evaluation-inception.json").read_text())
    assert page["figures"]["fid"] == pytest.approx(0.0, abs=1e-6)  # the same images
    assert page["figures"]["recall"] == 1.0
    assert "sfid" in capsys.readouterr().out
    (tmp_path / "samples.json").unlink()
    assert main(["evaluate", str(tmp_path), *options, *weights, "--reference", str(out)]) == 0
    assert "no samples.json beside 'samples.npz' says how the samples were made" in capsys.readouterr().out
    assert main(["evaluate", str(tmp_path), *options, "--seed", "5", *weights, "--reference", str(out)]) == 2
    assert "seed must be left out for inception" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), *options]) == 2
    assert "weights and reference" in capsys.readouterr().err
    assert main(["evaluate", str(tmp_path), *weights]) == 2
    assert main(["evaluate", str(tmp_path), "--features", "inseption"]) == 2
    assert "did you mean 'inception'" in capsys.readouterr().err


def test_a_run_without_samples_is_refused(tmp_path):
    with pytest.raises(ValueError, match="a run with samples"):
        evaluate_standard(tmp_path, None, tmp_path, tmp_path)
