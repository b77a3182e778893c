"""Judges: how probable it is that a noised image, or a noised crop of it, is clean, as said by a classifier that has
not seen this image.

At each noise level σ of a rising grid a judge is shown a crop of k(σ) x k(σ) pixels (or the whole image), noised,

    x = (crop of x0 + σ z) / √(s² + σ²),   label log(σ) / 4,   s the root mean square of the clean pixels,

in the corner of a window that is 0 elsewhere. In training, place of the crop and noise z are drawn afresh at every use;
a judgement is a mean over draws of both that are the same at all levels, so that a curve p(σ) is smooth. It learns to
tell clean from degraded images, batches half of each, by cross-entropy (`imagegen.networks.classifier`; Adam).

*Cross-fitted.* Clean and degraded images are each cut into two halves; each half is judged by a classifier trained on
the other. A classifier knows the few images that it was trained on by heart, so of those it says nothing. (Where images
overlap, as the patches of `photographs` do, it has seen parts of what it judges.)

*Calibrated.* A classifier trained on few images is too sure of itself, and if clean ones are rarer than degraded ones
it takes new images for degraded, even where both are of one law. So its logits l of the half that it has not seen are
corrected at each level to a l + b, a >= 0, by the logistic regression that gives both kinds the same weight (Platt
1999). Then the mean probabilities "clean" of clean and of degraded images add to 1, as the ideal classifier's do, and
that of degraded images is 1/2 - D'/4 with D' at most the ideal classifier's (`theory.classifier`), up to the error of
two numbers fitted to one half. So a judge that has learned little errs towards 1/2, "cannot tell".

Everything is drawn from the seed and an image's index. Float32; calibration in float64.
"""

import functools
import io
from pathlib import Path
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key, PyTree
from scipy.optimize import minimize
from scipy.special import expit, log_expit
from tqdm import tqdm

from imagegen.networks.classifier import Classifier
from theory._checks import require
from theory._files import write_whole

FOLDS = 2
LEAST = 20
"""Images of each kind at least: ten to learn from, ten to judge. Fewer calibrate badly: where nothing can be told apart
two clean ones bring the mean p of degraded images below 0.45 at a tenth of the levels, ten at hardly any.
"""
CHANNELS = {"small": 16, "large": 32}
"""Channels of the classifier: of windows up to 16 pixels wide, and of larger ones."""
LEARNING_RATE = 2e-3
JUDGED = 64
"""Images judged at once."""


class View(NamedTuple):
    """What judges are shown: noise `levels`, rising; the side of the crop at each, where one as long as the image's
    longer side is the whole image.
    """

    levels: Float[np.ndarray, " k"]
    crops: Int[np.ndarray, " k"]

    def window(self, shape: tuple[int, int, int]) -> tuple[int, int]:
        """Height and width of the window for images of `shape`: of even sides, unless an image's is odd and needed."""
        side = int(self.crops.max())
        side += side % 2
        return min(side, shape[0]), min(side, shape[1])


class Judgement(NamedTuple):
    """`probability` "clean" of each of n images at each of k levels, a mean over draws; `accuracy`: at each level the
    share of draws judged rightly, both kinds weighing the same, 1/2 for mere guessing.
    """

    probability: Float[np.ndarray, "n k"]
    accuracy: Float[np.ndarray, " k"]


def halves(degraded: Bool[np.ndarray, " n"], seed: int) -> Int[np.ndarray, " n"]:
    """Which half each image belongs to, 0 or 1: at random, of each kind the same number up to one."""
    rng, fold = np.random.default_rng((seed, 3)), np.empty(degraded.size, int)
    for kind in (True, False):
        members = np.flatnonzero(degraded == kind)
        fold[rng.permutation(members)] = np.arange(members.size) % FOLDS
    return fold


def judge(
    images: Float[np.ndarray, "n h w c"],
    degraded: Bool[np.ndarray, " n"],
    view: View,
    *,
    steps: int,
    batch: int,
    draws: int,
    seed: int,
    name: str = "judging",
    parts: Path | None = None,
) -> Judgement:
    """Train the judges and hear them, under a progress bar `name`.

    **Arguments:** `images` in [-1, 1]; `steps` >= 1 of `batch` images, even; `draws` >= 1 of noise and place for each
    image and level; `parts`: a folder of this judgement alone, where what each judge said is kept, and read if it is
    there. Raises `ValueError` for fewer than `LEAST` images of a kind.
    """
    counts = (int(np.sum(~degraded)), int(np.sum(degraded)))
    require(min(counts) >= LEAST, "data", "{} clean and {} degraded images".format(*counts), f"{LEAST} or more of each")
    fold, key = halves(degraded, seed), jax.random.key(seed)
    scale = jnp.asarray(np.sqrt(np.mean(images[~degraded].astype(np.float64) ** 2)), jnp.float32)
    levels, crops = jnp.asarray(view.levels, jnp.float32), jnp.asarray(view.crops, jnp.int32)
    shown = _Shown(levels, scale, crops, view.window(images.shape[1:]))
    probability = np.empty((len(images), view.levels.size, draws))
    rounds = -(-max(int(np.sum(fold == half)) for half in range(FOLDS)) // JUDGED)
    with tqdm(total=FOLDS * (steps + rounds), desc=name, unit="step", disable=None) as bar:
        for half in range(FOLDS):
            heard, part = np.flatnonzero(fold == half), None if parts is None else parts / f"{half}.npy"
            if part is not None and part.exists():
                logits = np.load(part)
                bar.update(steps + rounds)
            else:
                key_train, key_judge = jax.random.split(jax.random.fold_in(key, half))
                rng = np.random.default_rng((seed, 4, half))
                taught = [np.flatnonzero((fold != half) & (degraded == kind)) for kind in (False, True)]
                network = _train(images, taught, shown, key_train, rng, steps, batch, bar)
                logits = _hear(network, images, heard, shown, key_judge, draws, bar)
                _keep(logits, part)
            probability[heard] = _calibrated(logits, degraded[heard])
    return Judgement(probability.mean(axis=2), _accuracy(probability, degraded))


def _keep(logits: Float[np.ndarray, "m k draws"], part: Path | None) -> None:
    if part is None:
        return
    buffer = io.BytesIO()
    np.save(buffer, logits)
    part.parent.mkdir(parents=True, exist_ok=True)
    write_whole(part, buffer.getvalue())


class _Shown(eqx.Module):
    """A view as arrays, the pixels' root mean square, and the window."""

    levels: Float[Array, " k"]
    scale: Float[Array, ""]
    crops: Int[Array, " k"]
    window: tuple[int, int] = eqx.field(static=True)

    def logit(
        self, network: PyTree, image: Float[Array, "h w c"], level: Int[Array, ""], key: Key[Array, ""]
    ) -> Float[Array, ""]:
        """What the network says of one image at one level."""
        return network(self.window_on(image, level, key), jnp.log(self.levels[level]) / 4)

    def window_on(
        self, image: Float[Array, "h w c"], level: Int[Array, ""], key: Key[Array, ""]
    ) -> Float[Array, "h2 w2 c"]:
        """What the network is shown."""
        sigma, side, size = self.levels[level], self.crops[level], self.window
        key_place, key_noise = jax.random.split(key)
        spare = jnp.maximum(0, jnp.asarray(image.shape[:2]) - side)
        corner = (jax.random.uniform(key_place, (2,)) * (spare + 1)).astype(jnp.int32)
        padded = jnp.pad(image, ((0, size[0]), (0, size[1]), (0, 0)))
        piece = jax.lax.dynamic_slice(padded, (corner[0], corner[1], 0), (*size, image.shape[2]))
        noised = (piece + sigma * jax.random.normal(key_noise, piece.shape)) / jnp.hypot(self.scale, sigma)
        within = (jnp.arange(size[0])[:, None] < side) & (jnp.arange(size[1]) < side)
        return jnp.where(within[..., None], noised, 0.0)


def _optimiser(steps: int) -> optax.GradientTransformation:
    """Adam on all parameters as one vector, which compiles faster."""
    return optax.flatten(optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, steps)))


def _train(
    images: Float[np.ndarray, "n h w c"],
    taught: list[Int[np.ndarray, " _"]],
    shown: _Shown,
    key: Key[Array, ""],
    rng: np.random.Generator,
    steps: int,
    batch: int,
    bar: "tqdm[Any]",
) -> PyTree:
    """A classifier trained on the `taught` images, clean ones and degraded ones, by their numbers."""
    channels = CHANNELS["small" if max(shown.window) <= 16 else "large"]
    key_first, key_steps = jax.random.split(key)
    network: PyTree = Classifier((*shown.window, images.shape[3]), channels=channels, key=key_first)
    moments = _optimiser(steps).init(eqx.filter(network, eqx.is_inexact_array))
    for number in range(steps):
        rows = np.concatenate([rng.choice(kind, batch // 2) for kind in taught])
        key_step = jax.random.fold_in(key_steps, number)
        network, moments = _step(network, moments, shown, jnp.asarray(images[rows]), key_step, steps)
        bar.update()
    return network


@eqx.filter_jit
def _step(
    network: PyTree,
    moments: PyTree,
    shown: _Shown,
    images: Float[Array, "b h w c"],
    key: Key[Array, ""],
    steps: int,
) -> tuple[PyTree, PyTree]:
    """One step of Adam; the first half of the images are clean ones."""
    n = len(images)
    key_level, key_shown = jax.random.split(key)
    level = jax.random.randint(key_level, (n,), 0, shown.levels.size)
    clean = jnp.where(jnp.arange(n) < n // 2, 1.0, -1.0)

    def loss(network: PyTree) -> Float[Array, ""]:
        logit = jax.vmap(shown.logit, (None, 0, 0, 0))(network, images, level, jax.random.split(key_shown, n))
        return -jnp.mean(jax.nn.log_sigmoid(clean * logit))

    updates, moments = _optimiser(steps).update(eqx.filter_grad(loss)(network), moments)
    return eqx.apply_updates(network, updates), moments


def _hear(
    network: PyTree,
    images: Float[np.ndarray, "n h w c"],
    heard: Int[np.ndarray, " m"],
    shown: _Shown,
    key: Key[Array, ""],
    draws: int,
    bar: "tqdm[Any]",
) -> Float[np.ndarray, "m k draws"]:
    """Logits of the `heard` images at all levels."""
    parts = []
    for start in range(0, heard.size, JUDGED):
        rows = np.resize(heard[start : start + JUDGED], JUDGED)  # the last ones fill up with repetitions
        index = jnp.asarray(rows, jnp.int32)
        parts.append(np.asarray(_logits(network, jnp.asarray(images[rows]), index, shown, key, draws)))
        bar.update()
    return np.concatenate(parts)[: heard.size].astype(np.float64)


@eqx.filter_jit
def _logits(
    network: PyTree,
    images: Float[Array, "b h w c"],
    index: Int[Array, " b"],
    shown: _Shown,
    key: Key[Array, ""],
    draws: int,
) -> Float[Array, "b k draws"]:
    def at(level: Int[Array, ""]) -> Float[Array, "b draws"]:
        def one(image: Float[Array, "h w c"], index: Int[Array, ""]) -> Float[Array, " draws"]:
            keys = jax.random.split(jax.random.fold_in(key, index), draws)  # the same at every level: smooth curves
            return jax.lax.map(functools.partial(shown.logit, network, image, level), keys)  # to save memory

        return jax.vmap(one)(images, index)

    return jnp.moveaxis(jax.lax.map(at, jnp.arange(shown.levels.size)), 0, 1)


def _calibrated(
    logits: Float[np.ndarray, "m k draws"], degraded: Bool[np.ndarray, " m"]
) -> Float[np.ndarray, "m k draws"]:
    columns = [calibrate(logits[:, level], degraded) for level in range(logits.shape[1])]
    return np.stack(columns, axis=1)


def calibrate(logits: Float[np.ndarray, "m draws"], degraded: Bool[np.ndarray, " m"]) -> Float[np.ndarray, "m draws"]:
    """Probabilities expit(a l + b), a >= 0, of the weighted logistic regression of the module's top.

    The targets are 1 − u and u, u = 1/(N + 2) with N the number of images of the rarer kind, so that a and b are finite
    where a threshold separates the kinds. There are images of both kinds.
    """
    counts = np.array([np.sum(~degraded), np.sum(degraded)])
    unsure = 1 / (counts.min() + 2)
    target = np.where(degraded, unsure, 1 - unsure)[:, None]
    weight = 0.5 / counts[degraded.astype(int)][:, None] / logits.shape[1]
    middle, spread = logits.mean(), max(float(logits.std()), 1e-12)
    x = (logits - middle) / spread

    def loss(line: Float[np.ndarray, "2"]) -> tuple[float, Float[np.ndarray, "2"]]:
        y = line[0] * x + line[1]
        slope = weight * (expit(y) - target)
        value = -np.sum(weight * (target * log_expit(y) + (1 - target) * log_expit(-y)))
        return float(value), np.array([np.sum(slope * x), np.sum(slope)])

    found = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[(0, None), (None, None)])
    return expit(found.x[0] * x + found.x[1])


def _accuracy(probability: Float[np.ndarray, "n k draws"], degraded: Bool[np.ndarray, " n"]) -> Float[np.ndarray, " k"]:
    surer = np.where(degraded[:, None, None], 0.5 - probability, probability - 0.5)
    right = (1 + np.sign(surer)) / 2  # 1/2 itself is right half of the time
    return (right[degraded].mean(axis=(0, 2)) + right[~degraded].mean(axis=(0, 2))) / 2
