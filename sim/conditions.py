"""What an unrestricted learner can know of the class when the condition it trains on is corrupted: exact posteriors.

In training a point of class k (prior π_k, clean code c_k) comes with X ~ law of operator(c_k), drawn afresh, or fixed
in the limit of many points. A learner without restrictions gives, to the code x,

    E[x0 | x_t, X = x] = Σ_k W_k(x) N_k(x_t) E[x0 | x_t, k] / Σ_k W_k(x) N_k(x_t),   W_k(x) = P(class k | X = x),

because x_t depends on X only through the class. So the exact nonlinear optimum under corrupted conditions, asked for
class c, is a mixture denoiser with `class_weights` = `seen_classes(operator, codes, prior)`, whose row c is W at the
code that sampling shows for class c. By Bayes' rule, row c is proportional to

    label flips             π_k T[k, c]                       (exact codes: `LabelCorruption.posterior`)
    EmbeddingGaussian       π_k exp(-|c_c - c_k|²/(2 std²)),  std = γ/√d_emb
    EmbeddingUniform        π_k 1[|c_c - c_k|_∞ <= γ/√d_emb]  (all cubes have one volume)
    Dropout                 π_k P(draw from c_k is exactly the code shown)
    LabelSmoothing          π_k 1[c_k = c_c]                  (rate 1: all codes are one, row = π)
    InputPerturbation       π_k 1[c_k = c_c]                  (it acts on the network's input, not on the condition)
    Partly(operator, eta)   atoms: see below

*What sampling shows.* The clean code c_c, which is also what an unchosen sample of `Partly` trains on. Dropout and
label smoothing never produce it in training (dropout rescales what it keeps, smoothing moves every code): asked for it,
an unrestricted learner may answer anything. There the row is for the code that training shows when nothing is dropped,
c_c/(1 - rate), and for the smoothed code: the case of a pipeline that prepares codes for sampling as for training.

*Atoms beat densities.* Where a point x has positive probability under some class, only such probabilities count: a law
with a density produces exactly x with probability 0. So `Partly` of a CEP with eta < 1 changes nothing for distinct
codes: the clean code is an atom of its own class alone. That is true of a learner without any smoothness; a network is
smooth and sees something between the two.

*What follows* (tested): for one-hot codes CEP-U changes nothing below γ = √d_emb, and label smoothing below rate 1,
dropout at any rate and input perturbation never do; CEP-G always does, by exp(-d_emb/γ²) for each wrong class. Whatever
those operators do to a network is due to its restrictions: to the linear learner they do a lot (`theory.linear`).
"""

import math
from functools import singledispatch

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from theory._checks import require, require_finite
from theory.corruption import (
    Corruption,
    Dropout,
    EmbeddingGaussian,
    EmbeddingUniform,
    Fixed,
    Fresh,
    InputPerturbation,
    LabelCorruption,
    LabelSmoothing,
    Partly,
)
from theory.labels import require_prior

__all__ = ["seen_classes"]

Codes = Float[Array, "K d_emb"]
Table = Float[Array, "K K"]


def seen_classes(
    operator: Corruption | Fixed | Fresh, codes: Float[ArrayLike, "..."], prior: Float[ArrayLike, "..."]
) -> Float[Array, "K K"]:
    """P(true class k | the condition that sampling shows for class c), row c; rows sum to 1.

    **Arguments:**

    - `operator`: of `theory.corruption`. `Fresh` and `Fixed` count as what they wrap (`Fixed`: the limit of many
      points; with n points and continuous noise a learner that sees every code once knows its point).
    - `codes`: the clean codes, one row per class, finite; not looked at for labels, which are told apart exactly.
    - `prior`: of the classes, positive with sum 1.

    The module's top gives the formulas and what is shown. NaN rows where the code shown can never occur in training
    (label flips that leave a class unobserved). Raises `ValueError` where shapes do not fit or values are not finite,
    `TypeError` for an operator without a law here.
    """
    inner = operator.operator if isinstance(operator, Fixed | Fresh) else operator
    weights = jnp.asarray(prior)
    require_prior(weights, None)
    if isinstance(inner, LabelCorruption):
        return inner.posterior(weights)
    clean = jnp.asarray(codes)
    shape = f"({weights.size}, d_emb): one row per class"
    require(clean.ndim == 2 and clean.shape[0] == weights.size, "codes", f"shape {clean.shape}", f"of shape {shape}")
    require_finite("codes", clean)
    shown = _shown(inner, clean)
    return _normalised(_atoms(inner, shown, clean) * weights, _log_density(inner, shown, clean), weights)


def _normalised(joint: Table, log_density: Table, prior: Float[Array, " K"]) -> Table:
    """Rows of atoms where there are any, of densities elsewhere."""
    total = jnp.sum(joint, axis=1, keepdims=True)
    smooth = jax.nn.softmax(log_density + jnp.log(prior), axis=1)
    return jnp.where(total > 0, joint / jnp.where(total > 0, total, 1.0), smooth)


@singledispatch
def _atoms(operator: object, shown: Codes, clean: Codes) -> Table:
    """P(X = shown code of row c | class k): 0 for laws with a density. Here: the code stays as it is."""
    raise TypeError(f"operator must be one of theory.corruption; got {type(operator).__name__}.")


@singledispatch
def _log_density(operator: object, shown: Codes, clean: Codes) -> Table:
    """Log-density at the shown code of row c given class k, up to a constant; -∞ for laws without one."""
    return jnp.full((len(shown), len(clean)), -jnp.inf, clean.dtype)


@singledispatch
def _shown(operator: object, clean: Codes) -> Codes:
    """The codes that sampling shows: the clean ones."""
    return clean


def _equal(shown: Codes, codes: Codes) -> Table:
    """1 where two codes agree in every coordinate."""
    return jnp.all(shown[:, None] == codes, axis=2).astype(codes.dtype)


@_atoms.register
def _(operator: EmbeddingGaussian, shown: Codes, clean: Codes) -> Table:
    return jnp.where(jnp.asarray(operator.gamma) > 0, 0.0, _equal(shown, clean))


@_atoms.register
def _(operator: EmbeddingUniform, shown: Codes, clean: Codes) -> Table:
    return jnp.where(jnp.asarray(operator.gamma) > 0, 0.0, _equal(shown, clean))


@_atoms.register
def _(operator: InputPerturbation, shown: Codes, clean: Codes) -> Table:
    return _equal(shown, clean)


@_atoms.register
def _(operator: LabelSmoothing, shown: Codes, clean: Codes) -> Table:
    return _equal(shown, jax.vmap(operator.mean)(clean))


@_atoms.register
def _(operator: Dropout, shown: Codes, clean: Codes) -> Table:
    """Coordinates are independent: kept with probability 1 - rate, which multiplies by 1/(1 - rate), or 0."""
    rate = jnp.asarray(operator.rate, clean.dtype)
    kept = (shown[:, None] == _kept(operator, clean)) * (1 - rate)
    dropped = (shown[:, None] == 0) * rate
    return jnp.prod(kept + dropped, axis=2)


@_atoms.register
def _(operator: Partly, shown: Codes, clean: Codes) -> Table:
    eta = jnp.asarray(operator.eta, clean.dtype)
    return (1 - eta) * _equal(shown, clean) + eta * _atoms(operator.operator, shown, clean)


@_log_density.register
def _(operator: EmbeddingGaussian, shown: Codes, clean: Codes) -> Table:
    std = operator.noise_std(clean.shape[1])
    scaled = (shown[:, None] - clean) / jnp.where(std > 0, std, 1.0)
    return -0.5 * jnp.sum(scaled**2, axis=2)


@_log_density.register
def _(operator: EmbeddingUniform, shown: Codes, clean: Codes) -> Table:
    half_width = jnp.asarray(operator.gamma) / math.sqrt(clean.shape[1])
    inside = jnp.max(jnp.abs(shown[:, None] - clean), axis=2) <= half_width
    return jnp.where(inside, 0.0, -jnp.inf).astype(clean.dtype)


@_log_density.register
def _(operator: Partly, shown: Codes, clean: Codes) -> Table:
    return _log_density(operator.operator, shown, clean)


def _kept(operator: Dropout, clean: Codes) -> Codes:
    return clean / (1 - jnp.asarray(operator.rate, clean.dtype))


@_shown.register
def _(operator: Dropout, clean: Codes) -> Codes:
    return _kept(operator, clean)


@_shown.register
def _(operator: LabelSmoothing, clean: Codes) -> Codes:
    return jax.vmap(operator.mean)(clean)


@_shown.register
def _(operator: Partly, clean: Codes) -> Codes:
    """The clean code, which unchosen samples keep; if all are chosen, what the operator itself shows."""
    certain = jnp.asarray(operator.eta) >= 1
    return jnp.where(certain, _shown(operator.operator, clean), clean)
