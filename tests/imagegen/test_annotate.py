"""Annotations: judges have not seen what they judge, are calibrated, and training reads what they say, or refuses it.

Where nothing else is said the judge is one that compiles fast: linear in mean squares of pixels and their differences.
"""

import dataclasses
import io

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen import annotations, judges
from imagegen import config as configs
from imagegen import statistics as statistics_module
from imagegen.__main__ import main
from imagegen.annotate import AnnotateConfig, annotate_source, first_from, last_up_to, run_annotate
from imagegen.annotations import Annotations
from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.source import ArraySource
from imagegen.features import fingerprint, read_all
from imagegen.judges import View, calibrate, halves, judge
from imagegen.networks.classifier import Classifier
from imagegen.paths import make_path
from imagegen.training import train
from imagegen.training_data import make_gates, training_source
from theory.classifier import probability_clean, sigma_min_for_spectra, triangular_discrimination
from theory.spectra import integer_frequencies
from theory.total_variation import Line

LEVELS = np.array([0.1, 0.3, 1.0])


class Squares(eqx.Module):
    """logit = Σ w_jk f_j(x) label^k."""

    weight: jax.Array

    def __init__(self, shape, *, channels, key):
        self.weight = jnp.zeros((4, 3))

    def __call__(self, x, label):
        across, down = x[:, 1:] - x[:, :-1], x[1:] - x[:-1]
        features = jnp.stack([jnp.ones(()), *(jnp.mean(part**2) for part in (x, across, down))])
        return features @ self.weight @ label ** jnp.arange(3)


@pytest.fixture
def fast_judge(monkeypatch):
    monkeypatch.setattr(judges, "Classifier", Squares)
    monkeypatch.setattr(judges, "LEARNING_RATE", 0.05)


def stationary(n, spectrum, rng):
    """Gaussian images with this spectrum."""
    white = np.fft.fft2(rng.standard_normal((n, *spectrum.shape)), norm="ortho")
    return np.fft.ifft2(np.sqrt(spectrum) * white, norm="ortho").real[..., None]


def smooth_spectrum(side):
    return 0.06 * (spectrum := np.exp(-0.5 * integer_frequencies((side, side)))) / spectrum.mean()


def source_of(images, degraded):
    images = np.clip(images, -1, 1).astype(np.float32)
    return ArraySource("mine", images, np.zeros(len(images), int), ("all",), {"degraded": degraded})


def share(n, part, rng):
    return rng.permutation(n) < round(part * n)


# --- what is asked for


@pytest.mark.parametrize(("arguments", "message"), [
    ([], "data must be at least 20 degraded and as many clean images"),
    (["--degradation", "blru", "--degraded-share", "0.9"], "did you mean 'blur'?"),
    (["--degradation", "blur", "--degraded-share", "0.9", "--tau", "0.5"], "tau must be above 0 and below 0.5"),
    (["--degradation", "blur", "--degraded-share", "0.9", "--per", "image"], "per must be one of 'sample', 'set'"),
    (["--degradation", "blur", "--degraded-share", "0.9", "--batch", "3"], "batch must be even"),
    (["--degradation", "blur", "--degraded-share", "0.9", "--levels", "1"], "levels must be at least 2"),
    (["--degradation", "blur", "--degraded-share", "0.9", "--lowest", "0.2"], "lowest must be in (0, 0.1]"),
    (["--degradation", "blur", "--degraded-share", "0.9", "--highest", "0.01"], "highest must be finite"),
    (["--degradation", "blur", "--degraded-share", "0.9", "--out", "a.txt"], "out must be a file that ends in .npz"),
])  # fmt: skip
def test_mistakes_get_one_line_and_leave_no_file(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["annotate", *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_the_images_themselves_are_not_written_over(tmp_path, capsys):
    file = tmp_path / "mine.npz"
    np.savez(file, images=np.zeros((2, 2)))
    before = file.read_bytes()
    assert main(["annotate", "--data", str(file), "--out", str(file)]) == 2
    assert "out must be a new file, or one that `annotate` wrote" in capsys.readouterr().err
    assert file.read_bytes() == before


def test_the_file_of_images_may_say_which_are_of_low_quality(tmp_path):
    rng = np.random.default_rng(0)
    degraded, file = share(60, 0.5, rng), tmp_path / "mine.npz"
    images = np.where(degraded[:, None, None], -0.5, 0.5) + rng.uniform(-0.1, 0.1, (60, 8, 8))
    np.savez(file, images=images, degraded=degraded)
    everything = training_source(Config(data=str(file)))
    assert len(everything) == 54  # a fifth of the good ones is held out
    np.testing.assert_array_equal(everything.extras["degraded"], everything.images.mean((1, 2, 3)) < 0)
    assert not make_source(str(file), "test").extras["degraded"].any()
    clean = Config(data=str(file), train_on="clean")
    configs.check(clean)
    assert len(training_source(clean)) == 24
    for flag, train_on, message in ((False, "gated", "none of the 48"), (True, "clean", "at least 5")):
        np.savez(file, images=images, degraded=np.full(60, flag))
        with pytest.raises(ValueError, match=message):
            training_source(dataclasses.replace(clean, train_on=train_on))
    for wrong in (degraded.astype(int), degraded[1:]):
        np.savez(file, images=images, degraded=wrong)
        with pytest.raises(ValueError, match="degraded must be booleans of shape"):
            training_source(clean)
    np.savez(file, images=images)
    with pytest.raises(ValueError, match="nothing says which images of 'mine' are degraded"):
        training_source(clean)


# --- judges


def test_whoever_judges_an_image_has_not_seen_it(monkeypatch):
    degraded = share(61, 0.6, np.random.default_rng(0))
    seen, heard = [], []

    def remember(images, taught, *rest):
        seen.append(np.concatenate(taught))
        assert not degraded[taught[0]].any()
        assert degraded[taught[1]].all()

    def listen(network, images, rows, *rest):
        heard.append(rows)
        return np.zeros((rows.size, 3, 2))

    monkeypatch.setattr(judges, "_train", remember)
    monkeypatch.setattr(judges, "_hear", listen)
    view = View(LEVELS, np.full(3, 4))
    found = judge(np.zeros((61, 4, 4, 1), np.float32), degraded, view, steps=1, batch=2, draws=2, seed=0)
    for one, other in zip(seen, heard, strict=True):
        assert not set(one) & set(other)
        assert set(one) | set(other) == set(range(61))
    assert sorted(np.concatenate(heard)) == list(range(61))
    np.testing.assert_allclose(found.probability, 0.5)
    np.testing.assert_allclose(found.accuracy, 0.5)
    fold = halves(degraded, 0)
    for kind in (True, False):
        assert abs(np.sum(fold[degraded == kind] == 0) - np.sum(fold[degraded == kind] == 1)) <= 1
    with pytest.raises(ValueError, match="20 or more of each"):
        judge(np.zeros((5, 4, 4, 1), np.float32), np.arange(5) > 1, view, steps=1, batch=2, draws=1, seed=0)


def test_a_judge_too_sure_of_itself_and_biased_is_put_right():
    """Points of N(±1/2, 1), one kind rarer: the true logit is x; told 3 x - 4, the ideal classifier comes back."""
    rng = np.random.default_rng(0)
    degraded = np.arange(40_000) >= 8_000
    x = rng.normal(np.where(degraded, -0.5, 0.5), 1.0)[:, None]
    found = calibrate(3 * x - 4, degraded)
    delta = triangular_discrimination(Line.mixture([1], [0.5], [1]), Line.mixture([1], [-0.5], [1]))
    assert abs(found[degraded].mean() - probability_clean(delta)) < 4 * 0.25 / np.sqrt(8_000)
    np.testing.assert_allclose(found[degraded].mean() + found[~degraded].mean(), 1.0, atol=1e-5)
    np.testing.assert_allclose(found, 1 / (1 + np.exp(-x)), atol=0.02)
    inverted, useless = calibrate(-x, degraded), calibrate(np.ones_like(x), degraded)
    np.testing.assert_allclose([inverted, useless], 0.5, atol=1e-4)
    separated = calibrate(np.where(degraded, -7.0, 9.0)[:40][:, None], np.arange(40) >= 8)
    assert np.all(np.isfinite(separated))


def test_a_judge_is_shown_a_crop_of_the_size_said_and_nothing_else():
    image = jnp.arange(1.0, 31.0).reshape(5, 6, 1)
    shown = judges._Shown(jnp.array([1e-6, 1e-6]), jnp.ones(()), jnp.array([3, 3]), (4, 4))
    see = jax.jit(jax.vmap(shown.window_on, (None, None, 0)))
    keys, corners = jax.random.split(jax.random.key(0), 300), set()
    for window in np.asarray(see(image, jnp.asarray(0), keys))[..., 0]:
        i, j = divmod(round(float(window[0, 0])) - 1, 6)
        np.testing.assert_allclose(window[:3, :3], image[i : i + 3, j : j + 3, 0], atol=1e-4)
        assert not window[3:].any()
        assert not window[:, 3:].any()
        corners.add((i, j))
    assert corners == {(i, j) for i in range(3) for j in range(4)}  # every place within the image, none beyond
    assert [View(LEVELS, np.array([1, 3, side])).window((7, 8, 1)) for side in (3, 7, 8)] == [(4, 4), (7, 8), (7, 8)]


@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3), (256, 256, 3), (7, 9, 1), (2, 2, 1)])
def test_the_classifier_takes_images_of_every_size(shape):
    network = eqx.filter_eval_shape(lambda key: Classifier(shape, channels=16, key=key), jax.random.key(0))
    logit = eqx.filter_eval_shape(network, jnp.zeros(shape), jnp.zeros(()))
    assert logit.shape == ()
    assert len(network.encoder.blocks) == {8: 3, 32: 5, 256: 9, 7: 1, 2: 1}[shape[0]]


# --- ranges


def test_ranges_by_hand():
    p = np.array([[0.5, 0.5, 0.5], [0.1, 0.5, 0.5], [0.5, 0.1, 0.5], [0.5, 0.5, 0.1], [0.1, 0.1, 0.1]])
    np.testing.assert_array_equal(first_from(LEVELS, p, 0.45), [0.1, 0.3, 1.0, np.inf, np.inf])
    np.testing.assert_array_equal(last_up_to(LEVELS, p, 0.45), [1.0, 0.0, 0.1, 0.3, 0.0])
    np.testing.assert_array_equal(first_from(LEVELS, p, 0.5), first_from(LEVELS, p, 0.45))  # tau itself is enough


@pytest.mark.slow
def test_images_of_one_law_may_train_from_the_lowest_level_though_clean_ones_are_rare(fast_judge):
    rng = np.random.default_rng(1)
    images, degraded = stationary(400, smooth_spectrum(8), rng), share(400, 0.85, rng)
    config = AnnotateConfig(levels=6, steps=60, batch=64, draws=2)
    noted = annotate_source(source_of(images, degraded), config)
    levels = noted.about["curves"]["levels"]
    assert np.mean(noted.sigma_min[degraded] == levels[0]) > 0.8
    assert np.all(noted.sigma_min[~degraded] == 0)
    assert np.all(noted.sigma_max[~degraded] == 0)
    assert np.median(noted.sigma_max[degraded]) > 0
    for kind in ("clean", "degraded"):
        np.testing.assert_allclose(noted.about["curves"]["whole"][kind], 0.5, atol=0.02)
    # --- the same images, the degraded ones without their fine detail: told apart at the lowest level, by crops too
    smoothed = stationary(400, smooth_spectrum(8) * np.exp(-0.5 * integer_frequencies((8, 8)) ** 2), rng)
    mixed = np.where(degraded[:, None, None, None], smoothed, images)
    told = annotate_source(source_of(mixed, degraded), dataclasses.replace(config, per="set"))
    (low,), (high,) = (np.unique(values[degraded]) for values in (told.sigma_min, told.sigma_max))
    assert levels[0] < low < np.inf
    assert high < low
    curves = told.about["curves"]
    assert low == next(s for s, p in zip(levels, curves["whole"]["degraded"], strict=True) if p >= 0.45)
    accuracy = curves["whole"]["accuracy"]
    assert accuracy[0] > 0.9
    assert abs(accuracy[-1] - 0.5) < 0.1


# --- the file, and training by it


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A config that is gated by hand, and its source: 48 images, about half of them with hidden pixels."""
    file = tmp_path_factory.mktemp("data") / "mine.npz"
    np.savez(file, images=stationary(60, smooth_spectrum(8), np.random.default_rng(2)).clip(-1, 1))
    config = Config(data=str(file), network="small", degradation="mask", degradation_strength=0.2, degraded_share=0.5,
                    train_on="gated", sigma_min=0.3, steps=8, warmup=2, batch=32, log_every=2, checkpoint_every=2,
                    samples_every=0)  # fmt: skip
    return config, training_source(config)


def test_without_clean_images_there_is_nothing_to_compare_with(data, capsys, tmp_path):
    mask = ["--degradation", "mask", "--degradation-strength", "0.2", "--degraded-share", "1"]
    assert main(["annotate", "--data", data[0].data, *mask, "--out", str(tmp_path / "a.npz")]) == 2
    error = capsys.readouterr().err
    assert "try a degradation with less degraded_share" in error
    assert "got 0 clean images of 48" in error


def noted_of(source, low=0.3, high=0.0):
    batch = read_all(source)
    degraded, about = batch["degraded"], {"fingerprint": fingerprint(source, batch)}
    return Annotations(degraded, np.where(degraded, low, 0.0), np.where(degraded, high, 0.0), about)


def by_file(config, file):
    return dataclasses.replace(config, sigma_min=0.0, annotations=str(file))


def test_what_is_written_is_read_and_equal_annotations_are_equal_bytes(data, tmp_path):
    noted = noted_of(data[1], np.inf, 0.1)
    annotations.save(noted, tmp_path / "a.npz")
    found = annotations.load(tmp_path / "a.npz")
    for one, other in zip(noted, found, strict=True):
        np.testing.assert_array_equal(one, other)
    assert annotations.contents(found) == (tmp_path / "a.npz").read_bytes()


@pytest.mark.parametrize("path", ["vp-cosine", "equal-angle"])
def test_equal_annotations_gate_as_the_same_sigma_min_given_by_hand(data, tmp_path, path):
    config, source = data
    annotations.save(noted_of(source), tmp_path / "a.npz")
    path = make_path(path, statistics_module.statistics_of(source))
    by_hand, read = make_gates(config, source, path), make_gates(by_file(config, tmp_path / "a.npz"), source, path)
    for name, values in by_hand.items():
        np.testing.assert_array_equal(read[name], values)
    annotations.save(noted_of(source, np.inf, 0.2), tmp_path / "a.npz")
    donut = make_gates(by_file(config, tmp_path / "a.npz"), source, path)
    degraded = source.extras["degraded"]
    assert np.all(donut["t_open"][degraded] == np.inf)
    assert np.all(donut["t_max"][degraded] > 0)
    np.testing.assert_array_equal(donut["t_open"][~degraded], by_hand["t_open"][~degraded])


def test_files_of_other_images_and_bad_files_are_refused(data, tmp_path, small_network):
    config, source = data
    path, file = make_path("vp-cosine", statistics_module.statistics_of(source)), tmp_path / "a.npz"
    noted = noted_of(source)

    def refused(message):
        with pytest.raises(ValueError, match=message):
            make_gates(by_file(config, file), source, path)

    refused("which is no file")
    others = training_source(dataclasses.replace(config, seed=1))
    annotations.save(noted_of(others), file)
    refused("made of other images or with others degraded")
    flags = ~noted.degraded
    annotations.save(noted._replace(degraded=flags, sigma_min=np.where(flags, 0.3, 0.0)), file)
    refused("made of other images or with others degraded")
    annotations.save(noted._replace(sigma_min=np.full(len(source), 0.3)), file)
    refused("other numbers")
    annotations.save(noted._replace(sigma_max=np.full(3, 0.3)), file)
    refused("other arrays")
    np.savez(file, **{**np.load(io.BytesIO(annotations.contents(noted))), "about": np.array("[1]")})
    refused("'about' is no JSON")
    np.savez(file, images=np.zeros((2, 2)))
    refused("without index, degraded, sigma_min, sigma_max, about")
    annotations.save(noted, file)
    file.write_bytes(file.read_bytes()[:-30])
    refused("an intact .npz file")
    for wrong in ({"annotations": str(file)}, {"sigma_min": 0.0}, {"train_on": "all"}):
        with pytest.raises(ValueError, match="sigma_min, annotations must be"):
            configs.check(dataclasses.replace(config, **wrong))


def test_a_run_does_not_go_on_with_another_file(data, tmp_path, small_network):
    config, source = data
    file, run = tmp_path / "a.npz", tmp_path / "run"
    annotations.save(noted_of(source), file)
    config = by_file(config, file)
    run.mkdir()
    configs.save(config, run / "config.json")
    statistics_module.save(statistics_module.statistics_of(source), run / "statistics.json")
    (run / "annotations.npz").write_bytes(file.read_bytes())
    annotations.save(noted_of(source, 0.4), file)
    with pytest.raises(ValueError, match="annotations must be the same file"):
        train(config, run, jax.devices()[:1])
    assert {entry.name for entry in run.iterdir()} == {"config.json", "statistics.json", "annotations.npz"}
    file.unlink()  # the run's own copy will do
    annotations.require_unchanged(file, run / "annotations.npz")
    source, path = training_source(config), make_path("vp-cosine", statistics_module.statistics_of(source))
    assert make_gates(config, source, path, run / "annotations.npz") is not None


# --- slow: the networks themselves


@pytest.mark.slow
def test_a_run_by_file_makes_the_same_weights_as_by_hand_and_keeps_a_copy(data, tmp_path, small_network):
    config, source = data
    annotations.save(noted_of(source), tmp_path / "a.npz")
    by_hand = train(config, tmp_path / "hand", jax.devices()[:1])
    read = train(by_file(config, tmp_path / "a.npz"), tmp_path / "read", jax.devices()[:1])
    for one, other in zip(*(jax.tree.leaves(state.parameters) for state in (by_hand, read)), strict=True):
        np.testing.assert_array_equal(one, other)
    assert (tmp_path / "read/annotations.npz").read_bytes() == (tmp_path / "a.npz").read_bytes()


@pytest.mark.slow
def test_gaussian_images_get_the_ideal_classifiers_sigma_min():
    """Two stationary laws, 1000 images each: within a factor of 2 of the closed form, the grid's step being 1.39."""
    rng = np.random.default_rng(3)
    spectrum = smooth_spectrum(8)
    blurred = spectrum * np.exp(-0.3 * integer_frequencies((8, 8)) ** 2)
    degraded = np.arange(2000) % 2 == 0
    images = np.where(degraded[:, None, None, None], *(stationary(2000, law, rng) for law in (blurred, spectrum)))
    ideal = sigma_min_for_spectra(spectrum, blurred)
    config = AnnotateConfig(per="set", lowest=0.1, highest=2.0, levels=10, steps=150, draws=2)
    noted = annotate_source(source_of(images, degraded), config)
    (found,) = np.unique(noted.sigma_min[degraded])
    assert ideal / 2 < found < 2 * ideal, (found, ideal)


@pytest.mark.slow
def test_images_that_differ_over_long_distances_only_may_train_low_noise():
    """White texture, strong in the left half and weak in the right; degraded: the halves change places. One pixel is
    all that the best denoiser of stationary white images needs, and its law is the same in both; that of images is not.
    """
    rng = np.random.default_rng(4)
    degraded = np.arange(1000) % 2 == 0
    strength = np.where(np.arange(8) < 4, 0.3, 0.1)
    amplitudes = np.where(degraded[:, None], strength[::-1], strength)
    source = source_of(rng.standard_normal((1000, 8, 8, 1)) * amplitudes[:, None, :, None], degraded)
    noted = annotate_source(source, AnnotateConfig(per="set", levels=6, highest=2.0, steps=150, draws=2))
    curves = noted.about["curves"]
    (low,), (high,) = (np.unique(values[degraded]) for values in (noted.sigma_min, noted.sigma_max))
    assert curves["crops"] == [1] * 6
    assert high == curves["levels"][-1]
    assert low > curves["levels"][2]
    assert curves["whole"]["accuracy"][0] > 0.95


@pytest.mark.slow
def test_an_interrupted_annotation_goes_on_and_ends_as_an_undisturbed_one(data, tmp_path, monkeypatch, fast_judge):
    file = data[0].data
    config = AnnotateConfig(data=file, degradation="mask", degradation_strength=0.2, degraded_share=0.5, levels=3,
                            steps=2, batch=8, draws=1)  # fmt: skip
    whole = run_annotate(config, tmp_path / "undisturbed.npz")
    taught, teach = [], judges._train

    def train_until_interrupted(*given):
        taught.append(1)
        if len(taught) == 3:
            raise KeyboardInterrupt
        return teach(*given)

    monkeypatch.setattr(judges, "_train", train_until_interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_annotate(config, tmp_path / "mine.npz")
    assert not (tmp_path / "mine.npz").exists()
    again = run_annotate(config, tmp_path / "mine.npz")
    assert len(taught) == 5  # two were finished, the third is taught anew, and the fourth
    assert annotations.contents(again) == annotations.contents(whole)
    assert not (tmp_path / "mine.parts").exists()
    # --- what judges said of another config is not mixed in
    taught.clear()
    with pytest.raises(KeyboardInterrupt):
        run_annotate(config, tmp_path / "mine.npz")
    run_annotate(dataclasses.replace(config, seed=1), tmp_path / "mine.npz")
    assert len(taught) == 3 + 4


@pytest.mark.slow
def test_the_command_annotates_and_training_takes_its_file(tmp_path, small_network, capsys):
    degraded = ["--degradation", "blur", "--degraded-share", "0.9"]
    file = tmp_path / "a.npz"
    quick = ["--levels", "4", "--steps", "5", "--draws", "1"]
    assert main(["annotate", *degraded, *quick, "--out", str(file)]) == 0
    assert "held-out accuracy" in capsys.readouterr().out
    assert file.with_suffix(".png").read_bytes().startswith(b"\x89PNG")
    options = ["--network", "small", "--steps", "4", "--warmup", "1", "--log-every", "2", "--checkpoint-every", "2"]
    gated = ["--train-on", "gated", "--annotations", str(file)]
    assert main(["train", "digits", *degraded, *gated, *options, "--out", str(tmp_path / "run")]) == 0
