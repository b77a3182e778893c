"""The judge, its features, and relative Mahalanobis distances against scikit-learn and a loop."""

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from imagegen.data.builtin import make_source
from imagegen.data.source import ArraySource
from imagegen.features import (
    COMPONENTS,
    HIDDEN,
    class_gaussians,
    fingerprint,
    pixels,
    read_all,
    train_features,
)

TRAIN, TEST = make_source("digits", "train"), make_source("digits", "test")
RNG = np.random.default_rng(0)


def source(images, labels, classes=3):
    names = tuple("abcdefgh"[:classes])
    return ArraySource("mine", images.astype(np.float32), labels.astype(np.int32), names, {})


def textures(n, side, seed):
    """Stripes along or across, with noise, in colour: three classes with mean grey."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % 3
    wave = np.sin(np.arange(side) * np.pi / 2)
    plain = np.stack([np.tile(wave, (side, 1)), np.tile(wave[:, None], (1, side)), np.zeros((side, side))])
    return source(np.clip(0.5 * plain[labels][..., None] + rng.normal(0, 0.2, (n, side, side, 3)), -1, 1), labels)


def test_the_judge_knows_held_out_digits_and_says_how_well():
    judge = train_features(TRAIN, TEST)
    images, labels = TEST.images, TEST.labels
    assert judge.n == len(TEST)
    assert judge.accuracy == np.mean(judge.classify(images) == labels) > 0.96
    found = judge.extract(images)
    assert found.shape == (len(TEST), HIDDEN)
    assert found.dtype == np.float64
    assert found.min() >= 0
    np.testing.assert_array_equal(judge.extract(images[3:5]), judge.extract(images)[3:5])


def test_the_same_images_and_seed_give_the_same_judge_once_trained_and_trained_anew():
    from imagegen import features

    first = train_features(TRAIN, TEST)
    again = train_features(make_source("digits", "train"), make_source("digits", "test"))
    assert again is first
    features._trained.clear()
    anew = train_features(TRAIN, TEST)
    assert anew is not first
    np.testing.assert_array_equal(anew.extract(TEST.images), first.extract(TEST.images))
    assert not np.array_equal(train_features(TRAIN, TEST, seed=1).extract(TEST.images), first.extract(TEST.images))
    for seed in range(2, 2 + features.REMEMBERED):
        features._trained[("", "", seed)] = first
    train_features(textures(30, 4, 0), textures(12, 4, 1))
    assert len(features._trained) <= features.REMEMBERED


def test_larger_images_are_projected_first():
    train, test = textures(300, 12, 0), textures(90, 12, 1)
    assert train.images[0].size > COMPONENTS
    assert train_features(train, test).accuracy > 0.95


def test_pixels_are_the_images_themselves():
    own = pixels(TEST)
    np.testing.assert_array_equal(own.extract(TEST.images), TEST.images.reshape(len(TEST), -1).astype(np.float64))
    assert own.classify is None
    assert own.accuracy is None
    with pytest.raises(ValueError, match=r"images must be of shape \(8, 8, 1\); got shape \(8, 8, 3\)"):
        own.extract(np.zeros((2, 8, 8, 3), np.float32))


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(ValueError, match="of train's shape and classes"):
        train_features(TRAIN, textures(9, 8, 0))
    grey = source(np.zeros((9, 4, 4, 1)), np.arange(9) % 3)
    with pytest.raises(ValueError, match="images that differ"):
        train_features(grey, grey)
    single = source(RNG.uniform(-1, 1, (9, 4, 4, 1)), np.zeros(9), classes=1)
    with pytest.raises(ValueError, match="at least 2 classes"):
        train_features(single, single)


def test_the_fingerprint_changes_with_an_image_a_label_and_the_order():
    images, labels = RNG.uniform(-1, 1, (6, 2, 2, 1)), np.arange(6) % 3
    changed = images.copy()
    changed[4, 1, 1, 0] = np.float32(np.float32(changed[4, 1, 1, 0]) / 2)
    sets = [(images, labels), (changed, labels), (images, labels[::-1]), (images[::-1], labels[::-1])]
    prints = [fingerprint(s, read_all(s)) for s in (source(*one) for one in sets)]
    assert len(set(prints)) == 4
    same = source(images, labels)
    assert fingerprint(same, read_all(same)) == prints[0]


# --- relative Mahalanobis distance


def test_relative_distances_are_those_of_a_loop_with_scikit_learns_covariances():
    d, labels = 5, RNG.integers(0, 3, 60)
    z = RNG.normal(size=(60, d)) @ RNG.normal(size=(d, d)) + labels[:, None]
    fresh, wanted = RNG.normal(size=(7, d)), RNG.integers(0, 3, 7)
    means = np.stack([z[labels == c].mean(axis=0) for c in range(3)])
    within = LedoitWolf(assume_centered=True).fit(z - means[labels]).covariance_
    pooled = LedoitWolf().fit(z).covariance_
    expected = []
    for x, y in zip(fresh, wanted, strict=True):
        own, every = x - means[y], x - z.mean(axis=0)
        expected.append(own @ np.linalg.solve(within, own) - every @ np.linalg.solve(pooled, every))
    found = class_gaussians(z, labels, 3).relative_distance(fresh, wanted)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_relative_distances_are_finite_for_dead_and_dependent_features_and_least_at_the_own_class():
    labels = np.arange(90) % 3
    z = 5 * np.eye(3)[labels] + RNG.normal(size=(90, 3))
    z = np.column_stack([z, z[:, 0] + z[:, 1], np.zeros(90)])
    gaussians = class_gaussians(z, labels, 3)
    by_class = np.stack([gaussians.relative_distance(z, np.full(90, c)) for c in range(3)])
    assert np.isfinite(by_class).all()
    assert np.mean(by_class.argmin(axis=0) == labels) > 0.95


def test_a_class_without_training_images_has_the_mean_of_all_and_constant_features_are_refused():
    labels = np.arange(20) % 2
    z = RNG.normal(size=(20, 3))
    np.testing.assert_array_equal(class_gaussians(z, labels, 4).means[2:], np.tile(z.mean(axis=0), (2, 1)))
    with pytest.raises(ValueError, match="features that vary within a class"):
        class_gaussians(np.eye(2)[labels], labels, 2)
