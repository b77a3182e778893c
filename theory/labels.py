"""Operators on labels and captions: flips by a transition matrix, and caption swaps.

The law of the observed class given the true one is a row of a matrix T whose rows sum to 1:

    T[y, y'] = P(observed y' | true y),   P(true y | observed y') = prior_y T[y, y'] / (prior T)_y'

so an observed class is a mixture of true classes with that posterior as weights. A flip never returns the
same class: then eta is the share of labels that are wrong (Chen et al. 2024, section 3).

JAX, float32 or float64; samplers may be jitted and vmapped; values of arguments are checked where they are
concrete.
"""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, Key, ScalarLike

from theory._checks import is_concrete, require, require_between, require_finite


def class_prior(labels: object, classes: int | None = None) -> Float[np.ndarray, " K"]:
    """Share of each class among `labels` (n integers, array-like, 0 ... K − 1); K = largest + 1 unless
    `classes` says more.
    NumPy, float64.

    Raises for labels that are not integers, negative or ≥ K, and for a class without a label.
    """
    array = np.asarray(labels)
    require(
        array.ndim == 1 and array.size >= 1,
        "labels",
        f"shape {array.shape}",
        "a vector with at least one entry",
    )
    require(np.issubdtype(array.dtype, np.integer), "labels", f"dtype {array.dtype}", "integers")
    require(bool(np.all(array >= 0)), "labels", int(array.min()), "at least 0")
    size = int(array.max()) + 1 if classes is None else classes
    require(bool(np.all(array < size)), "labels", int(array.max()), f"below the number of classes {size}")
    counts = np.bincount(array, minlength=size)
    empty = np.flatnonzero(counts == 0)
    require(
        empty.size == 0,
        "labels",
        f"no sample of class {empty[:5].tolist()}",
        f"of every class 0 ... {size - 1}",
    )
    return counts / array.size


def require_prior(prior: Float[Array, " K"], classes: int | None) -> None:
    """Raise `ValueError` for a prior that is not positive with sum 1, or not of the right length."""
    require(classes is None or prior.shape == (classes,), "prior", f"shape {prior.shape}", f"of length {classes}")
    if not is_concrete(prior):
        return
    require_finite("prior", prior)
    smallest, total = float(np.min(prior)), float(np.sum(prior))
    require(smallest > 0, "prior", f"smallest entry {smallest:g}", "positive: no empty class")
    require(abs(total - 1) <= 1e-6, "prior", f"sum {total:.9g}", "of sum 1")


def require_transition(matrix: Float[Array, "..."]) -> None:
    """Raise `ValueError` for a matrix that is not square, has negative entries, or rows that do not sum to 1."""
    require(matrix.ndim == 2 and matrix.shape[0] == matrix.shape[1], "matrix", f"shape {matrix.shape}", "square")
    if not is_concrete(matrix):
        return
    require_finite("matrix", matrix)
    require(bool(np.min(matrix) >= 0), "matrix", f"smallest entry {float(np.min(matrix)):g}", "non-negative")
    off = float(np.max(np.abs(np.sum(np.asarray(matrix), axis=1) - 1)))
    require(off <= 1e-5, "matrix", f"rows off by up to {off:.3g}", "of rows that sum to 1")


class LabelCorruption(eqx.Module):
    """What observes a class instead of the true one, of K classes."""

    @property
    @abstractmethod
    def classes(self) -> int:
        """Number of classes K."""

    @abstractmethod
    def sample(self, key: Key[Array, ""], value: Int[ArrayLike, ""]) -> Int[Array, ""]:
        """The observed class, for the true class `value` in 0 ... K − 1."""

    @abstractmethod
    def law(self, value: Int[ArrayLike, ""]) -> Float[Array, " K"]:
        """Exact probabilities of the observed class, given the true class `value`."""

    def transition(self) -> Float[Array, "K K"]:
        """All laws as the rows of a matrix."""
        return jax.vmap(self.law)(jnp.arange(self.classes))

    def fraction_changed(self, prior: Float[Array, " K"]) -> Float[Array, ""]:
        """P(observed ≠ true) when the true class has the given prior (positive, sum 1).

        Raises `ValueError` unless `prior` is positive, of length K and sum 1.
        """
        require_prior(prior, self.classes)
        return 1 - prior @ jnp.diagonal(self.transition())

    def observed(self, prior: Float[Array, " K"]) -> Float[Array, " K"]:
        """Prior of the observed class.

        Raises `ValueError` unless `prior` is positive, of length K and sum 1.
        """
        require_prior(prior, self.classes)
        return prior @ self.transition()

    def posterior(self, prior: Float[Array, " K"]) -> Float[Array, "K K"]:
        """P(true class | observed class): rows by observed class, each summing to 1. (NaN for a class never
        observed.)

        Raises `ValueError` unless `prior` is positive, of length K and sum 1.
        """
        require_prior(prior, self.classes)
        joint = prior[:, None] * self.transition()
        return (joint / jnp.sum(joint, axis=0)).T


class LabelFlip(LabelCorruption):
    """Flips by a transition matrix with rows summing to 1; see `symmetric_flip` and `asymmetric_flip`.

    Raises `ValueError` for any other matrix.
    """

    matrix: Float[Array, "..."]

    def __check_init__(self) -> None:
        """Refuse what is not a transition matrix."""
        require_transition(self.matrix)

    @property
    def classes(self) -> int:
        """Number of classes K."""
        return self.matrix.shape[0]

    def sample(self, key: Key[Array, ""], value: Int[ArrayLike, ""]) -> Int[Array, ""]:
        """One draw from the row of `value`; impossible classes (probability 0) are never drawn."""
        return jax.random.categorical(key, jnp.log(self.matrix[value]))

    def law(self, value: Int[ArrayLike, ""]) -> Float[Array, " K"]:
        """The row of `value`."""
        return self.matrix[value]


def symmetric_flip(prior: Float[Array, " K"], eta: ScalarLike) -> LabelFlip:
    """With probability eta in [0, 1] the class becomes another one, drawn by the class prior among the
    *others* (SC, section 3).

    T[y, y'] = eta prior_y' / (1 − prior_y), y' ≠ y; T[y, y] = 1 − eta: never the same class. Prior positive,
    K ≥ 2. Raises `ValueError` outside these ranges.
    """
    require_prior(prior, None)
    require(
        prior.shape[0] >= 2,
        "prior",
        f"{prior.shape[0]} class",
        "of at least 2 classes: a flip needs another one",
    )
    return _flip_within(prior, eta, jnp.zeros(prior.shape[0], int))


def asymmetric_flip(prior: Float[Array, " K"], eta: ScalarLike, groups: Int[Array, " G"]) -> LabelFlip:
    """Flips with probability eta only among confusable classes: those with the same number in `groups` (SC,
    section 3).

    Within a group another class is drawn by the prior, as in `symmetric_flip`; a class alone in its group is
    never flipped.
    So the share changed is eta times the prior of the groups with two classes or more (`fraction_changed`). Raises
    `ValueError` for another `prior` or `eta` than `symmetric_flip` takes, or `groups` of another length.
    """
    require_prior(prior, None)
    require(groups.shape == prior.shape, "groups", f"shape {groups.shape}", f"of the prior's shape {prior.shape}")
    return _flip_within(prior, eta, groups)


def _flip_within(prior: Array, eta: ScalarLike, groups: Array) -> LabelFlip:
    require_between("eta", eta, 0.0, 1.0)
    others = (groups[:, None] == groups[None, :]) & ~jnp.eye(groups.size, dtype=bool)
    weight = jnp.where(others, prior, 0.0)
    total = jnp.sum(weight, axis=1, keepdims=True)
    alone = total == 0
    flips = weight / jnp.where(alone, 1.0, total)
    stay = jnp.where(alone[:, 0], 1.0, 1 - jnp.asarray(eta))
    return LabelFlip(jnp.asarray(eta) * flips + jnp.diag(stay))


class CaptionSwap(LabelCorruption):
    """m = ⌊eta n / 2⌋ disjoint pairs of the n samples, uniformly drawn, exchange captions (SC, section 3).
    Fixed by nature.

    The classes are the captions 0 ... n − 1 themselves; the permutation is uniform among the n! / (2^m m! (n
    − 2m)!) that are m disjoint transpositions, its own inverse, and changes exactly 2m captions.
    **Arguments:** `n` ≥ 2, `eta` in [0, 1]. Raises `ValueError` outside these ranges.
    """

    n: int = eqx.field(static=True)
    eta: float = eqx.field(static=True)

    def __check_init__(self) -> None:
        """Refuse fewer than two samples, and eta outside [0, 1]."""
        require(self.n >= 2, "n", self.n, "at least 2")
        require_between("eta", self.eta, 0.0, 1.0)

    @property
    def classes(self) -> int:
        """n: every caption is a class."""
        return self.n

    @property
    def pairs(self) -> int:
        """m, the number of exchanging pairs (with eta n taken as whole if it is so to 1e-9)."""
        return math.floor(self.eta * self.n / 2 + 1e-9)

    def permutation(self, key: Key[Array, ""]) -> Int[Array, " n"]:
        """Which caption each sample gets; use one key for the whole data set."""
        order = jax.random.permutation(key, self.n)
        left, right = order[: self.pairs], order[self.pairs : 2 * self.pairs]
        return jnp.arange(self.n).at[left].set(right).at[right].set(left)

    def sample(self, key: Key[Array, ""], value: Int[ArrayLike, ""]) -> Int[Array, ""]:
        """The caption of sample `value` under the permutation of this key."""
        return self.permutation(key)[value]

    def law(self, value: Int[ArrayLike, ""]) -> Float[Array, " n"]:
        """Marginal law: its own caption with probability 1 − 2m/n, else any other, all equally likely."""
        share = 2 * self.pairs / self.n
        return jnp.full(self.n, share / (self.n - 1)).at[value].set(1 - share)

    def swapped_together(self) -> tuple[float, float]:
        """Joint law of two given samples: (P(they exchange with one another), P(both are changed, with
        others))."""
        n, changed = self.n, 2 * self.pairs
        together = self.pairs / math.comb(n, 2)
        return together, changed * (changed - 1) / (n * (n - 1)) - together

    def class_transition(self, counts: Int[Array, " K"]) -> Float[Array, "K K"]:
        """P(caption of class b | image of class a) when class k has counts[k] ≥ 1 of the n samples; to see
        swaps as flips.

        Raises `ValueError` unless the counts add up to n.
        """
        require(int(np.sum(counts)) == self.n, "counts", int(np.sum(counts)), f"of sum n = {self.n}")
        require(bool(np.all(np.asarray(counts) >= 1)), "counts", counts, "at least 1: no empty class")
        share = 2 * self.pairs / self.n
        own = jnp.eye(counts.size)
        return (1 - share) * own + share * (counts - own) / (self.n - 1)


def corrupted_class_moments(
    operator: LabelCorruption,
    prior: Float[Array, " K"],
    means: Float[Array, "K d"],
    covs: Float[Array, "K d d"],
) -> tuple[Float[Array, "K d"], Float[Array, "K d d"]]:
    """Mean and covariance of what carries each *observed* label, when true class k has means[k], covs[k].

    An observed class is the mixture of the true ones with weights P(true | observed); the law of total
    covariance does the rest.
    """
    weights = operator.posterior(prior)
    mixed = weights @ means
    deviation = means[None] - mixed[:, None]
    between = jnp.einsum("ok,oki,okj->oij", weights, deviation, deviation)
    return mixed, jnp.einsum("ok,kij->oij", weights, covs) + between
