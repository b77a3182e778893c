"""Classes, training sets and corrupted conditions of the experiment on condition corruption.

Classes N(mu_k, Σ), all equally frequent, with one-hot codes (unit norm). Σ has mean eigenvalue 1 and the condition
number asked for. With a = `mean_square` and u the unit vector along (1, ..., 1):

    opposite     K = 2   mu = √a u, -√a u
    line         K = 3   mu = -√a u, 0, 2 √a u                  unequal means
    orthogonal   K = 4   mu_k = √a e_k                          d >= 4; classes 0, 1 and 2, 3 are confusable

*Flips* enter by W[c, k] = P(true class k | label c). **Fixed**: each of the n points with label c is of class k with
probability W[c, k], drawn once. **Fresh** (drawn at every step): the learner of label c sees every point of class k
with weight W[c, k]/n; it borrows other classes' points instead of replacing its own.

Training sets share their randomness between strengths (the points of fixed flips move one after another to other
classes as the ratio grows), so differences between strengths are paired. NumPy, float64.
"""

from collections.abc import Callable
from typing import NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, ScalarLike

from sim.conditions import seen_classes
from sim.experiments.conditions_laws import Moments, Seen, condition_effect
from theory._checks import require
from theory.corruption import (
    Corruption,
    Dropout,
    EmbeddingGaussian,
    EmbeddingUniform,
    LabelCorruption,
    LabelSmoothing,
    Partly,
    VectorCorruption,
    asymmetric_flip,
    symmetric_flip,
)

GEOMETRIES = {"opposite": 2, "line": 3, "orthogonal": 4}
"""Name -> number of classes K."""
PLACES = {"opposite": (1.0, -1.0), "line": (-1.0, 0.0, 2.0)}
"""Places of the means on their line, in units of √a."""
OPERATORS = ("cep-g", "cep-u", "partial cep-g", "dropout", "label smoothing", "symmetric flip", "asymmetric flip")
PARTIAL = 0.2
"""Share of the samples that "partial cep-g" chooses."""


class Classes(NamedTuple):
    """The true classes: `means` (K, d) and their common `cov` (d, d); `asked`: those whose loss is averaged (the others
    follow by symmetry)."""

    means: Float[np.ndarray, "K d"]
    cov: Float[np.ndarray, "d d"]
    asked: tuple[int, ...]


def make_classes(geometry: str, d: int, mean_square: float, condition: float = 1.0) -> Classes:
    """The classes of the module's text. Raises `ValueError` for another geometry, or d too small for it."""
    require(geometry in GEOMETRIES, "geometry", geometry, "one of " + ", ".join(GEOMETRIES))
    spectrum = np.geomspace(1.0, 1 / condition, d)
    cov = np.diag(spectrum / spectrum.mean())
    if geometry == "orthogonal":
        require(d >= 4, "d", d, "at least 4 for four orthogonal means")
        return Classes(np.sqrt(mean_square) * np.eye(4, d), cov, (0,) if condition == 1 else (0, 1, 2, 3))
    places = np.array(PLACES[geometry]) * np.sqrt(mean_square)
    asked = (0,) if geometry == "opposite" else tuple(range(len(places)))
    return Classes(places[:, None] * np.full(d, 1 / np.sqrt(d)), cov, asked)


def make_operator(name: str, strength: ScalarLike, classes: int) -> Corruption:
    """The operator of this name on one-hot codes; `strength` is noise_std for CEP, and eta or the rate otherwise.

    Raises `ValueError` for an unknown name.
    """
    require(name in OPERATORS, "operator", name, "one of " + ", ".join(OPERATORS))
    prior, root = jnp.full(classes, 1 / classes), float(np.sqrt(classes))
    made: dict[str, Callable[[], Corruption]] = {
        "cep-g": lambda: EmbeddingGaussian(strength * root),
        "cep-u": lambda: EmbeddingUniform(strength * root * np.sqrt(3).item()),
        "partial cep-g": lambda: Partly(EmbeddingGaussian(strength * root), PARTIAL),
        "dropout": lambda: Dropout(strength),
        "label smoothing": lambda: LabelSmoothing(strength),
        "symmetric flip": lambda: symmetric_flip(prior, strength),
        "asymmetric flip": lambda: asymmetric_flip(prior, strength, jnp.arange(classes) // 2),
    }
    return made[name]()


def seen_rows(name: str, strengths: tuple[float, ...], classes: int) -> Float[np.ndarray, "L K K"]:
    """W for each strength: what the exact learner makes of the code of each class."""
    return np.asarray(_seen_rows(name, jnp.asarray(strengths), classes), float)


@eqx.filter_jit
def _seen_rows(name: str, strengths: Array, classes: int) -> Array:
    prior = jnp.full(classes, 1 / classes)
    return jax.vmap(lambda x: seen_classes(make_operator(name, x, classes), jnp.eye(classes), prior))(strengths)


def _generator(key: Key[Array, ""]) -> np.random.Generator:
    """NumPy's generator from a key: JAX compiles its own anew for every shape, seconds each."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)))


def draw_points(classes: Classes, n: int, sets: int, key: Key[Array, ""]) -> Float[np.ndarray, "sets K n d"]:
    """Deviations x - mu of `n` points per class for each training set."""
    k, d = classes.means.shape
    return _generator(key).normal(size=(sets, k, n, d)) * np.sqrt(np.diag(classes.cov))


def draw_sources(rows: Float[np.ndarray, "L K K"], n: int, sets: int, key: Key[Array, ""]) -> Int[np.ndarray, "..."]:
    """True classes (L, sets, K, n) of the n points with each label, row c of W their law; paired between strengths.

    Each point keeps one uniform number; its own class takes the upper end of [0, 1], the others their shares below it.
    """
    k = rows.shape[1]
    u = _generator(key).random((sets, k, n))
    sources = np.empty((len(rows), *u.shape), int)
    for c in range(k):
        order = [*(j for j in range(k) if j != c), c]
        ends = np.cumsum(rows[:, c, order], axis=1)[:, :-1]
        rank = np.sum(u[None, :, c, :, None] >= ends[:, None, None, :], axis=-1)
        sources[:, :, c] = np.array(order)[rank]
    return sources


def moments_of(points: Float[np.ndarray, "*b n d"]) -> Moments:
    """Of the n points along the last axis but one."""
    mean = points.mean(axis=-2)
    centred = points - mean[..., None, :]
    return Moments(mean, np.einsum("...ni,...nj->...ij", centred, centred) / points.shape[-2])


def mixed(weights: Float[np.ndarray, "L C K"], parts: Moments) -> Moments:
    """Moments (sets, L, C) of mixtures of the K parts (sets, K)."""
    mean = np.einsum("lck,skd->slcd", weights, parts.mean)
    gap = parts.mean[:, None, None] - mean[..., None, :]
    cov = np.einsum("lck,skij->slcij", weights, parts.cov) + np.einsum("lck,slcki,slckj->slcij", weights, gap, gap)
    return Moments(mean, cov)


def _with_pooled(own: Moments, pooled: Moments) -> Seen:
    """Pooled moments (sets, L or 1) beside those of each label (sets, L, C)."""
    mean = np.broadcast_to(pooled.mean[:, :, None], own.mean.shape)
    return Seen(own.mean, own.cov, mean, np.broadcast_to(pooled.cov[:, :, None], own.cov.shape))


def flipped_sets(
    name: str, drawn: str, strengths: tuple[float, ...], classes: Classes, n: int, sets: int, key: Key[Array, ""]
) -> Seen:
    """What linear learners see of `sets` training sets under label flips of each strength: (sets, L, asked)."""
    rows, asked = seen_rows(name, strengths, len(classes.means)), list(classes.asked)
    key_points, key_flips = jax.random.split(key)
    z = draw_points(classes, n, sets, key_points)
    even = np.full((1, 1, rows.shape[1]), 1 / rows.shape[1])
    if drawn == "fresh":
        parts = moments_of(z + classes.means[:, None])
        pooled = mixed(even, parts)
        return _with_pooled(mixed(rows[:, asked], parts), Moments(pooled.mean[:, :, 0], pooled.cov[:, :, 0]))
    sources = np.swapaxes(draw_sources(rows, n, sets, key_flips), 0, 1)
    parts = moments_of(z[:, None] + classes.means[sources])
    flat = Moments(parts.mean.reshape(-1, *parts.mean.shape[2:]), parts.cov.reshape(-1, *parts.cov.shape[2:]))
    pooled = mixed(even, flat)
    shape = parts.mean.shape[:2]
    joined = Moments(pooled.mean.reshape(*shape, -1), pooled.cov.reshape(*shape, *flat.cov.shape[-2:]))
    return _with_pooled(Moments(parts.mean[:, :, asked], parts.cov[:, :, asked]), joined)


def perturbed_sets(
    name: str, drawn: str, strengths: tuple[float, ...], classes: Classes, n: int, sets: int, key: Key[Array, ""]
) -> Seen:
    """The same under perturbed codes. Fixed: one noisy code per point, least squares on the codes as drawn."""
    key_points, key_codes = jax.random.split(key)
    points = draw_points(classes, n, sets, key_points) + classes.means[:, None]
    parts, k = moments_of(points), len(classes.means)
    pooled = mixed(np.full((1, 1, k), 1 / k), parts)
    laws = [
        _effects(name, strength, parts, k) if drawn == "fresh" else _fixed(name, strength, points, key_codes)
        for strength in strengths
    ]
    asked = list(classes.asked)
    own = Moments(*(np.stack([getattr(law, part)[:, asked] for law in laws], axis=1) for part in ("mean", "cov")))
    return _with_pooled(own, Moments(pooled.mean[:, :, 0], pooled.cov[:, :, 0]))


def _vector_operator(name: str, strength: float, classes: int) -> VectorCorruption:
    operator = make_operator(name, strength, classes)
    require(not isinstance(operator, LabelCorruption), "operator", name, "one on codes")
    return operator  # type: ignore[return-value]


def _effects(name: str, strength: float, parts: Moments, k: int) -> Moments:
    """`condition_effect` on every class."""
    effects = [condition_effect(_vector_operator(name, strength, k), code) for code in jnp.eye(k)]
    kept, s = (np.array([getattr(e, part) for e in effects]) for part in ("kept", "s"))
    outer = np.einsum("ski,skj->skij", parts.mean, parts.mean)
    return Moments(kept[:, None] * parts.mean, parts.cov + s[:, None, None] * outer)


def draw_codes(
    operator: VectorCorruption, classes: int, n: int, sets: int, key: Key[Array, ""]
) -> Float[np.ndarray, "sets K n K"]:
    """One corrupted code for each of the n points of every class."""
    strength = jax.tree.map(jnp.asarray, operator)  # as data, so that all strengths share one program
    return np.asarray(_draw_codes(strength, jax.random.split(key, sets), classes, n), float)


@eqx.filter_jit
def _draw_codes(operator: VectorCorruption, keys: Array, classes: int, n: int) -> Array:
    def one(key: Key[Array, ""]) -> Array:
        own = jax.random.split(key, (classes, n))
        return jax.vmap(jax.vmap(operator.sample, (0, None)))(own, jnp.eye(classes))

    return jax.lax.map(one, keys)


def _fixed(name: str, strength: float, points: Float[np.ndarray, "sets K n d"], key: Key[Array, ""]) -> Moments:
    """Regression of each class's points on their noisy codes, at the clean code, and what it leaves.

    The noise is K regressors more or less (K - 1 beside the constant one) that n points are fitted with, without
    regularisation: its effect does not vanish with its size.
    """
    sets, k, n, _ = points.shape
    codes = draw_codes(_vector_operator(name, strength, k), k, n, sets, key)
    code_map = np.linalg.pinv(codes) @ points
    residual = points - codes @ code_map
    clean = np.einsum("ke,sked->skd", np.eye(k), code_map)
    return Moments(clean, np.einsum("skni,sknj->skij", residual, residual) / n)
