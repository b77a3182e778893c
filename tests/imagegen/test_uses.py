"""Uses of an image: mirrored at half of them, latents drawn from both laws; of gated runs, once for all."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.config import Config
from imagegen.data.source import ArraySource
from imagegen.statistics import statistics_of
from imagegen.step import GATE, make_mesh, make_step, make_task
from imagegen.uses import shown

KEYS = jax.random.split(jax.random.key(0), 4000)
IMAGE = jnp.arange(24.0).reshape(2, 4, 3)
BASE = Config(network="small", batch=8, steps=8, warmup=2, learning_rate=0.1)


def test_half_of_the_uses_are_mirrored_left_to_right_and_none_without_flip():
    seen = np.asarray(jax.vmap(lambda key: shown({"image": IMAGE}, key, flip=True))(KEYS))
    mirrored = np.all(seen == np.asarray(IMAGE)[:, ::-1], axis=(1, 2, 3))
    assert np.all(mirrored | np.all(seen == np.asarray(IMAGE), axis=(1, 2, 3)))
    assert abs(mirrored.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(KEYS))
    np.testing.assert_array_equal(shown({"image": IMAGE}, KEYS[0], flip=False), IMAGE)


@pytest.mark.parametrize("flip", [False, True])
def test_latents_are_drawn_from_the_laws_of_both_orientations(flip):
    mean, std = jnp.stack([IMAGE, -50 - IMAGE]), jnp.stack([0.1 + IMAGE / 24, jnp.full(IMAGE.shape, 0.5)])
    seen = np.asarray(jax.vmap(lambda key: shown({"mean": mean, "std": std}, key, flip=flip))(KEYS), np.float64)
    mirrored = seen[:, 0, 0, 0] < -25
    assert abs(mirrored.mean() - 0.5 * flip) <= 4 * 0.5 / np.sqrt(len(KEYS)) * flip
    for side, own in enumerate((seen[~mirrored], seen[mirrored])[: 1 + flip]):
        error = np.asarray(std[side]) / np.sqrt(len(own))
        assert np.max(np.abs(own.mean(axis=0) - np.asarray(mean[side])) / error) < 5
        assert np.max(np.abs(own.var(axis=0) / np.asarray(std[side]) ** 2 - 1)) < 5 * np.sqrt(2 / len(own))


FIELDS = {"label": np.zeros(8, np.int32), "index": np.arange(8, dtype=np.int32)}


def images(rng):
    return rng.uniform(-1, 1, (8, 8, 8, 1)).astype(np.float32)


def first_steps(config, batch, known):
    """Losses of two steps."""
    task, state = make_task(config, known)
    step, losses = make_step(task, make_mesh(config, jax.devices()[:1]), state), []
    for _ in range(2):
        state, metrics = step(state, batch)
        losses.append(float(metrics.loss))
    return losses


@pytest.mark.slow
def test_a_latent_without_spread_trains_as_its_image_mirrored_at_random(small_network):
    x = images(np.random.default_rng(0))
    known = statistics_of(ArraySource("mine", x, np.zeros(8, np.int32), ("one",)))
    flipped = dataclasses.replace(BASE, flip=True)
    latent = {"mean": np.stack([x, x[:, :, ::-1]], 1), "std": np.zeros((8, 2, 8, 8, 1), np.float32)}
    plain = first_steps(flipped, {"image": x, **FIELDS}, known)
    np.testing.assert_allclose(first_steps(flipped, {**latent, **FIELDS}, known), plain, rtol=1e-6)


@pytest.mark.slow
def test_the_step_mirrors_at_random_what_is_not_symmetric(small_network):
    x = images(np.random.default_rng(0))
    known = statistics_of(ArraySource("mine", x, np.zeros(8, np.int32), ("one",)))
    flipped = dataclasses.replace(BASE, flip=True)
    batch = {"image": x, **FIELDS}
    assert first_steps(BASE, batch, known) != first_steps(flipped, batch, known)
    even = {"image": (x + x[:, :, ::-1]) / 2, **FIELDS}
    np.testing.assert_allclose(first_steps(flipped, even, known), first_steps(BASE, even, known), rtol=1e-6)


@pytest.mark.slow
def test_a_gated_latent_is_drawn_once_so_that_its_kept_noise_is_all_there_is(small_network):
    # Above t_n a kept point is all that is seen of the image. With a draw for each use the mean over uses would tell
    # more; so the loss of a batch of one image used 8 times must be that of 8 fixed images, whichever its spread.
    rng = np.random.default_rng(1)
    known = statistics_of(ArraySource("mine", images(rng), np.zeros(8, np.int32), ("one",)))
    config = dataclasses.replace(BASE, train_on="gated", sigma_min=0.5, degradation="blur", degraded_share=0.5)
    one = np.zeros(8, np.int32)
    gates = {name: np.full(8, value, np.float32) for name, value in zip(GATE, (-np.inf, 0.3, 0.3), strict=True)}
    law = {"mean": np.zeros((8, 2, 8, 8, 1), np.float32), "std": np.ones((8, 2, 8, 8, 1), np.float32)}
    task, _ = make_task(config, known)
    drawn = shown({name: jnp.asarray(values[0]) for name, values in law.items()},
                  jax.random.fold_in(jax.random.split(task.key_sample, 3)[2], 0), flip=False)  # fmt: skip
    fixed = {"image": np.broadcast_to(np.asarray(drawn), (8, 8, 8, 1))}
    fields = {"label": one, "index": one, **gates}
    np.testing.assert_allclose(
        first_steps(config, {**law, **fields}, known), first_steps(config, {**fixed, **fields}, known), rtol=1e-6
    )
