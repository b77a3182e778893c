"""Corruption operators: each is one object with two faces, a sampler and an exact law.

    labels, captions   `theory.labels`       law = a row of a transition matrix: symmetric and asymmetric
    flips, caption swaps vectors            `theory.embeddings`   law = characteristic function, mean,
    variance: CEP-U, CEP-G, input perturbation,
                                             dropout, label smoothing, any of them on a share of the samples
                                             (`Partly`)
    noise levels       `theory.gates`        a sample's range of noise levels -> weight

*Fixed or fresh* is said by a wrapper, whose law is the operator's: `Fixed(op)` draws once per training sample
(folded from the sample's index) and keeps it; `Fresh(op)` draws anew at every step. Neither depends on batch
order or devices.
`CaptionSwap` is fixed by nature: one permutation of the whole data set.

    import jax
    from theory.corruption import EmbeddingUniform, Fixed, Partly
    operator = Fixed(Partly(EmbeddingUniform(gamma=1.0), eta=0.1))      # fixed CEP-U on a tenth of the
    samples cond = operator.sample(jax.random.key(0), jax.numpy.ones(512), index=17)

`OPERATORS` names a constructor for each, from a strength (eta, gamma or rate) and a size (classes, samples or
dimension).
"""

from collections.abc import Callable, Mapping

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Key, ScalarLike, Shaped

from theory._checks import require
from theory.embeddings import (
    Dropout,
    EmbeddingGaussian,
    EmbeddingUniform,
    InputPerturbation,
    LabelSmoothing,
    Partly,
    VectorCorruption,
)
from theory.gates import NoiseGate
from theory.labels import (
    CaptionSwap,
    LabelCorruption,
    LabelFlip,
    asymmetric_flip,
    class_prior,
    corrupted_class_moments,
    symmetric_flip,
)

__all__ = [
    "OPERATORS",
    "CaptionSwap",
    "Corruption",
    "Dropout",
    "EmbeddingGaussian",
    "EmbeddingUniform",
    "Fixed",
    "Fresh",
    "InputPerturbation",
    "LabelCorruption",
    "LabelFlip",
    "LabelSmoothing",
    "NoiseGate",
    "Partly",
    "VectorCorruption",
    "asymmetric_flip",
    "class_prior",
    "corrupted_class_moments",
    "symmetric_flip",
]

Corruption = LabelCorruption | VectorCorruption


class Fixed(eqx.Module):
    """Draws once per training sample and keeps it: the same for every epoch. Law: `operator`'s.

    Raises `ValueError` for a `CaptionSwap`, which is drawn for a whole data set at once.
    """

    operator: Corruption

    def __check_init__(self) -> None:
        """Refuse what is drawn for a whole data set at once."""
        _refuse_swap(self.operator)

    def sample(self, key: Key[Array, ""], value: Shaped[Array, "..."], index: ScalarLike) -> Shaped[Array, "..."]:
        """What becomes of sample number `index` ≥ 0, given the run's `key`."""
        return self.operator.sample(jax.random.fold_in(key, index), value)


class Fresh(eqx.Module):
    """Draws anew for every use of a training sample. Law: `operator`'s, independent between steps.

    Raises `ValueError` for a `CaptionSwap`, which is drawn for a whole data set at once.
    """

    operator: Corruption

    def __check_init__(self) -> None:
        """Refuse what is drawn for a whole data set at once."""
        _refuse_swap(self.operator)

    def sample(
        self, key: Key[Array, ""], value: Shaped[Array, "..."], index: ScalarLike, step: ScalarLike
    ) -> Shaped[Array, "..."]:
        """What becomes of sample number `index` ≥ 0 at training step `step` ≥ 0, given the run's `key`."""
        return self.operator.sample(jax.random.fold_in(jax.random.fold_in(key, index), step), value)


def _refuse_swap(operator: Corruption) -> None:
    allowed = "an operator on one sample (a caption swap is one permutation of the whole data set)"
    require(not isinstance(operator, CaptionSwap), "operator", "CaptionSwap", allowed)


def _even(size: int) -> Array:
    return jnp.full(size, 1 / size)


OPERATORS: Mapping[str, Callable[[float, int], Corruption]] = {
    "symmetric flip": lambda eta, classes: symmetric_flip(_even(classes), eta),
    "asymmetric flip": lambda eta, classes: asymmetric_flip(_even(classes), eta, jnp.arange(classes) // 2),
    "caption swap": lambda eta, n: CaptionSwap(n, eta),
    "cep-u": lambda gamma, _: EmbeddingUniform(gamma),
    "cep-g": lambda gamma, _: EmbeddingGaussian(gamma),
    "input perturbation": lambda gamma, _: InputPerturbation(gamma),
    "dropout": lambda rate, _: Dropout(rate),
    "label smoothing": lambda rate, _: LabelSmoothing(rate),
}
"""name -> (strength, size) -> operator; even class prior, and neighbours (0, 1), (2, 3), ... confusable."""
