"""Every figure is at its ideal for real images in the place of samples, and sees the fault that it should see."""

import json

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from imagegen import config as configs
from imagegen import evaluate
from imagegen.config import Config
from imagegen.data.builtin import held_out, make_source
from imagegen.data.source import ArraySource
from imagegen.evaluate import evaluate_run, evaluate_samples, newest_samples, read_samples
from imagegen.features import Features, pixels, train_features
from imagegen.figures import _band
from imagegen.sampling import to_bytes
from sim.distances import frechet_squared, wasserstein2_squared

DIGITS, TEST = make_source("digits", "train"), make_source("digits", "test")
CHOSEN = held_out(DIGITS.labels, 240)
REST = np.setdiff1d(np.arange(len(DIGITS)), CHOSEN)
IMAGES, LABELS = DIGITS.images[CHOSEN], DIGITS.labels[CHOSEN]
TRAIN = ArraySource("digits", DIGITS.images[REST], DIGITS.labels[REST], DIGITS.class_names, {})
"""Training images, held-out ones, and a third part that none of the two shares an image with."""


@pytest.fixture(scope="module")
def judge():
    return train_features(TRAIN, TEST)


@pytest.fixture(scope="module")
def figures(judge):
    return lambda images, labels=LABELS, seed=0: evaluate_samples(images, labels, TRAIN, TEST, judge, seed)["figures"]


@pytest.fixture(scope="module")
def real(judge):
    return evaluate_samples(IMAGES, LABELS, TRAIN, TEST, judge)


def above(figure, by=0.0):
    return figure["low"] > figure["ideal"] + by


def below(figure):
    return figure["high"] < figure["ideal"]


# --- real images, and faults


def test_real_images_are_at_the_ideal_of_every_figure(real):
    assert set(real["figures"]) == {
        "w2_squared", "w2_squared_per_class", "frechet_squared_features", "frechet_squared_pixels", "precision",
        "recall", "accuracy", "rmd_top_1_percent", "nearest_training", "memorised", "variance_ratio",
        "variance_ratio_low", "variance_ratio_middle", "variance_ratio_high",
    }  # fmt: skip
    for name, figure in real["figures"].items():
        half = (figure["high"] - figure["low"]) / 2
        assert figure["debiased"] == pytest.approx(figure["value"] - figure["bias"]), name
        assert figure["low"] <= figure["debiased"] <= figure["high"], name
        assert abs(figure["debiased"] - figure["ideal"]) < 2 * half, name  # about four standard errors
    raw = real["figures"]["w2_squared"]
    assert raw["value"] > 10 * abs(raw["debiased"])  # what is not to be ranked by


def test_the_result_says_of_what_and_is_plain(real, judge):
    assert json.loads(json.dumps(real, allow_nan=False)) == real
    sizes, classes = real["sizes"], np.bincount(LABELS)
    assert (sizes["samples"], sizes["held_out"]) == (240, 500)
    assert sizes["per_class"] == [count // 2 * 2 for count in np.minimum(classes, np.bincount(TEST.labels))]
    assert sizes["used"] == sum(sizes["per_class"]) == 2 * sizes["transport_half"]
    assert real["features"]["accuracy"]["value"] == judge.accuracy
    assert real["features"]["accuracy"]["low"] < judge.accuracy < real["features"]["accuracy"]["high"]
    assert real["left_out"] == {}


@pytest.mark.slow
def test_samples_shrunk_to_their_class_means_are_seen_as_too_narrow(figures, real):
    means = np.stack([TRAIN.images[TRAIN.labels == c].mean(axis=0) for c in range(10)])[LABELS]
    shrunk = figures((0.4 * IMAGES + 0.6 * means).astype(np.float32))
    assert all(below(shrunk[name]) for name in ("variance_ratio", "variance_ratio_high", "recall", "nearest_training"))
    assert all(above(shrunk[name]) for name in ("w2_squared", "w2_squared_per_class", "frechet_squared_pixels"))
    assert shrunk["w2_squared"]["value"] < real["figures"]["w2_squared"]["value"]  # raw, it looks better than real ones
    assert shrunk["accuracy"]["value"] > 0.95


@pytest.mark.slow
def test_copies_of_training_images_are_memorised(figures):
    rows = held_out(TRAIN.labels, 240)
    noise = np.random.default_rng(0).normal(0, 0.02, (240, 8, 8, 1))
    copies = figures((TRAIN.images[rows] + noise).astype(np.float32), TRAIN.labels[rows])
    assert copies["memorised"]["value"] > 0.9
    assert copies["memorised"]["low"] > 0.85
    assert below(copies["nearest_training"])
    assert not above(copies["w2_squared"])  # what no distance between sets sees


def test_wrong_labels_are_seen_by_class_alone(figures, real):
    permuted = np.random.default_rng(0).permutation(LABELS)
    wrong, right = figures(IMAGES, permuted), real["figures"]
    assert wrong["accuracy"]["value"] < 0.2
    assert below(wrong["accuracy"])
    assert wrong["accuracy"]["interval"][1] < wrong["accuracy"]["held_out_interval"][0]
    assert above(wrong["w2_squared_per_class"], by=2)
    assert above(wrong["rmd_top_1_percent"])
    assert not above(wrong["w2_squared"], by=0.2)
    assert wrong["w2_squared"]["value"] == pytest.approx(right["w2_squared"]["value"], rel=0.05)
    assert wrong["variance_ratio"]["value"] == pytest.approx(right["variance_ratio"]["value"], rel=0.03)


def test_noise_is_seen_by_every_figure_of_quality(figures):
    noisy = figures(np.random.default_rng(0).normal(0, 0.7, IMAGES.shape).astype(np.float32))
    for name in ("w2_squared", "w2_squared_per_class", "frechet_squared_features", "frechet_squared_pixels",
                 "rmd_top_1_percent", "nearest_training", "variance_ratio_high"):  # fmt: skip
        assert above(noisy[name]), name
    assert all(below(noisy[name]) for name in ("precision", "accuracy", "variance_ratio_low"))


# --- against other computations


def test_figures_of_images_and_sets_agree_with_plain_loops(real, judge):
    facts = evaluate._reference(TRAIN, TEST, judge).facts(IMAGES, LABELS.astype(np.int64))
    flat = [source.reshape(len(source), -1).astype(np.float64) for source in (IMAGES, np.unique(TRAIN.images, axis=0))]
    distances = np.sort(cdist(*flat), axis=1)
    np.testing.assert_allclose(facts.nearest, distances[:, :5].mean(axis=1), rtol=1e-10)
    np.testing.assert_array_equal(facts.memorised, 3 * distances[:, 0] < distances[:, 1])
    assert facts.recognised.sum() == sum(judge.classify(IMAGES) == LABELS)
    held = evaluate._reference(TRAIN, TEST, judge).held_out
    counts = np.asarray(real["sizes"]["per_class"])
    rng = np.random.default_rng(0)
    halves = [evaluate.halves(given.astype(np.int64), counts, rng) for given in (TEST.labels, LABELS)]
    assert not set(halves[0][0]) & set(halves[0][1])
    np.testing.assert_array_equal(TEST.labels[halves[0][0]], LABELS[halves[1][1]])
    x, x2 = (held.pixels[rows] for rows in halves[0])
    y, y2 = (facts.pixels[rows] for rows in halves[1])
    across = np.mean([wasserstein2_squared(a, b) for a in (x, x2) for b in (y, y2)])
    within = (wasserstein2_squared(x, x2) + wasserstein2_squared(y, y2)) / 2
    assert real["figures"]["w2_squared"]["value"] == pytest.approx(across)
    assert real["figures"]["w2_squared"]["bias"] == pytest.approx(within)
    top = sorted(facts.relative[np.concatenate(halves[1])])[-3:]
    assert real["figures"]["rmd_top_1_percent"]["value"] == pytest.approx(np.mean(top))


def test_bands_of_frequencies_add_up_to_the_image_and_do_not_overlap():
    vectors = IMAGES[:50].reshape(50, -1).astype(np.float64)
    parts = [_band(vectors, (8, 8, 1), *ends) for ends in ((0.0, 1 / 6), (1 / 6, 1 / 3), (1 / 3, 1.0))]
    np.testing.assert_allclose(sum(parts), vectors, atol=1e-12)
    assert sum(part.var(axis=0).sum() for part in parts) == pytest.approx(vectors.var(axis=0).sum())


def test_the_double_precision_of_the_frechet_distance_is_local(judge):
    import jax.numpy as jnp

    assert jnp.zeros(1).dtype == np.float32
    with pytest.raises(TypeError, match="float64"):
        frechet_squared(judge.extract(IMAGES), judge.extract(TEST.images))


# --- what it rests on


def few(source, per_class):
    rows = np.concatenate([np.flatnonzero(source.labels == c)[:per_class] for c in range(10)])
    return source.images[rows], source.labels[rows]


def test_bytes_and_their_numbers_agree_and_what_lies_beyond_is_clipped():
    numbers = evaluate._checked_images(to_bytes(IMAGES), TEST)
    np.testing.assert_allclose(numbers, IMAGES, atol=1 / 255 + 1e-6)
    np.testing.assert_array_equal(evaluate._checked_images(numbers, TEST), numbers)
    wide = np.where(numbers == 1, np.float32(1.7), numbers)
    np.testing.assert_array_equal(evaluate._checked_images(wide, TEST), numbers)


def test_features_without_a_judge_and_too_few_images_leave_figures_out():
    images, labels = few(DIGITS, 6)
    result = evaluate_samples(images, labels, TRAIN, TEST, pixels(TEST))
    assert set(result["left_out"]) == {"accuracy", "frechet_squared_features", "frechet_squared_pixels"}
    assert result["left_out"]["frechet_squared_pixels"] == "30 images in a half are too few for 64 dimensions"
    assert result["features"] == {"name": "pixels of digits", "accuracy": None}
    assert not set(result["left_out"]) & set(result["figures"])


def test_the_reference_is_kept_and_another_one_has_another_hash(judge):
    changed = TEST.images.copy()
    changed[7, 3, 3, 0] *= 0.5
    other = ArraySource("digits", changed, TEST.labels, TEST.class_names, {})
    first, second = (evaluate._reference(TRAIN, test, judge) for test in (TEST, other))
    assert first.sha256["train"] == second.sha256["train"]
    assert first.sha256["held_out"] != second.sha256["held_out"]
    assert evaluate._reference(TRAIN, make_source("digits", "test"), judge) is first
    for seed in range(evaluate.REMEMBERED):
        evaluate._reference(TRAIN, TEST, Features(f"again {seed}", judge.extract))
    assert len(evaluate._references) == evaluate.REMEMBERED


def test_classes_that_one_side_lacks_are_left_out_and_seeds_cut_other_halves(judge):
    trained = TRAIN.labels != 7
    train = ArraySource("digits", TRAIN.images[trained], TRAIN.labels[trained], TRAIN.class_names, {})
    labels = np.repeat(np.arange(10), 7)
    labels = labels[labels != 3]
    reference = evaluate._reference(train, TEST, judge)
    counts = evaluate.matched_counts(labels, reference.counts, len(reference.labels))
    np.testing.assert_array_equal(counts, [6, 6, 6, 0, 6, 6, 6, 0, 6, 6])
    first, again, other = (evaluate.halves(labels, counts, np.random.default_rng(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    for half in first:
        np.testing.assert_array_equal(labels[half], np.repeat(np.arange(10), counts // 2))


BAD = {
    "another shape": (IMAGES[:, :4], LABELS, r"images must be of shape \(n, 8, 8, 1\); got shape \(240, 4, 8, 1\)"),
    "no axis of channels": (IMAGES[..., 0], LABELS, "images must be of shape"),
    "labels beyond the classes": (IMAGES, LABELS + 1, r"labels must be in 0 \.\.\. 9; got \[10\] \(\d+ such\)"),
    "negative labels": (IMAGES, -LABELS, r"labels must be in 0 \.\.\. 9"),
    "labels that are no integers": (IMAGES, LABELS / 2, "labels must be integers; got dtype float64"),
    "too few labels": (IMAGES, LABELS[:-1], r"one per image, shape \(240,\)"),
    "not finite": (np.where(IMAGES > 0.9, np.nan, IMAGES), LABELS, r"images must be finite; got \d+ non-finite"),
    "numbers of bytes": (127.5 * (IMAGES + 1), LABELS, "images must be bytes, or floats"),
    "integers": (IMAGES.astype(np.int64), LABELS, "images must be bytes or floats"),
    "too few": (IMAGES[:30], LABELS[:30], r"at least 40 of classes .* got \d+ \(of 30 samples and 500 held-out images"),
    "none": (IMAGES[:0], LABELS[:0], "at least 40 of classes"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_samples_are_refused_with_a_reason(name, judge):
    images, labels, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        evaluate_samples(images, labels, TRAIN, TEST, judge)


def test_bad_sources_and_features_are_refused(judge):
    turned = ArraySource("t", TEST.images, TEST.labels, tuple(reversed(TEST.class_names)), {})
    with pytest.raises(ValueError, match="of train's shape and classes"):
        evaluate_samples(IMAGES, LABELS, TRAIN, turned, judge)
    with pytest.raises(ValueError, match=r"features 'flat' must be of shape \(1057, d_f\)"):
        evaluate_samples(IMAGES, LABELS, TRAIN, TEST, Features("flat", lambda images: images.mean(axis=(1, 2, 3))))
    with pytest.raises(ValueError, match="features 'broken' must be finite"):
        evaluate_samples(
            IMAGES, LABELS, TRAIN, TEST, Features("broken", lambda images: np.full((len(images), 2), np.nan))
        )
    twice = ArraySource("t", np.repeat(TRAIN.images[:4], 10, axis=0), np.arange(40) % 10, TRAIN.class_names, {})
    with pytest.raises(ValueError, match="4 different images"):
        evaluate_samples(IMAGES, LABELS, twice, TEST, judge)


# --- on disk


@pytest.fixture
def run(tmp_path):
    """A folder as `train` and `sample` leave it, as far as evaluation reads it."""
    configs.save(Config(), tmp_path / "config.json")
    images, labels = few(make_source("digits", "test"), 6)
    for step, part in ((20, images[::-1]), (100, images)):
        folder = tmp_path / f"samples-{step}"
        folder.mkdir()
        np.savez(folder / "samples.npz", arr_0=to_bytes(part), arr_1=labels if step == 100 else labels[::-1])
        (folder / "samples.json").write_text(json.dumps({"step": step, "guidance": 1.5}), encoding="utf-8")
    return tmp_path


def test_a_run_is_evaluated_by_its_newest_samples_and_says_how(run):
    file = evaluate_run(run)
    assert file == run / "samples-100" / "evaluation.json"
    page = json.loads(file.read_text(encoding="utf-8"))
    assert page["made"] == {"step": 100, "guidance": 1.5}
    assert page["data"] == "digits"
    assert set(page["versions"]) >= {"python", "jax", "patina-diffusion"}
    assert page["protocol"]["neighbours"] == 5
    assert page["features"]["n"] == 500
    assert page["figures"]["accuracy"]["value"] > 0.9
    assert [f.name for f in file.parent.iterdir() if "partial" in f.name] == []
    (run / "samples-100" / "samples.json").unlink()
    again = json.loads(evaluate_run(run, newest_samples(run)).read_text(encoding="utf-8"))
    assert again == {**page, "made": None}


def test_a_folder_without_samples_and_bad_files_are_refused(tmp_path):
    with pytest.raises(ValueError, match="the folder of a run"):
        evaluate_run(tmp_path)
    configs.save(Config(), tmp_path / "config.json")
    with pytest.raises(ValueError, match="a run with samples"):
        evaluate_run(tmp_path)
    file = tmp_path / "samples.npz"
    with pytest.raises(ValueError, match="which is no file"):
        read_samples(file)
    file.write_bytes(b"not at all")
    with pytest.raises(ValueError, match="cannot be read"):
        read_samples(file)
    np.savez(file, images=to_bytes(IMAGES))
    with pytest.raises(ValueError, match=r"arr_0.*got arrays \['images'\]"):
        read_samples(file)
    np.savez(file, arr_0=IMAGES, arr_1=LABELS)
    with pytest.raises(ValueError, match=r"got float32 \(240, 8, 8, 1\)"):
        read_samples(file)
    np.savez(file, arr_0=to_bytes(IMAGES), arr_1=np.array([None] * 240))
    with pytest.raises(ValueError, match="cannot be read"):
        read_samples(file)
    np.save(tmp_path / "one.npy", IMAGES)
    (tmp_path / "one.npy").replace(file)
    with pytest.raises(ValueError, match="cannot be read"):
        read_samples(file)
    np.savez(file, arr_0=to_bytes(IMAGES), arr_1=LABELS)
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="cannot be read"):
        read_samples(file)
