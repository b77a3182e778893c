"""Operators on vectors: what a condition embedding, or the noise of the network's input, becomes.

The law is given by its characteristic function E exp(i w·X), which determines it, with mean and variance per
coordinate:

    operator            X                                       std per coordinate           source
    EmbeddingUniform    c + δ, δ_j ~ U(−g, g), g = γ/√d_emb     γ/√(3 d_emb)                 CEP-U, SC eq. 8
    EmbeddingGaussian   c + δ, δ_j ~ N(0, γ²/d_emb)             γ/√d_emb                     CEP-G, SC eq. 8
    InputPerturbation   ε + γ ξ (network's input; target ε)     γ                            Ning et al. 2023
    Dropout             c_j / (1 − rate), or 0                  |c_j| √(rate / (1 − rate))   SC, Table 6
    LabelSmoothing      (1 − rate) c + rate / K                 0                            SC, Table 6
    Partly              operator with probability eta, else c                                fixed CEP:
    "chosen samples"

A sampler also takes a sequence of vectors, (m, d): a caption's tokens. Each coordinate of each of them is drawn by
itself, with the d of one vector in the formulas; `Partly` corrupts all of the sequence or none. Laws are one vector's.

JAX, float32 or float64, jit and vmap; values of arguments are checked where they are concrete.
"""

import math
from abc import abstractmethod

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Complex, Float, Key, ScalarLike

from theory._checks import require_between


class VectorCorruption(eqx.Module):
    """What a vector (condition embedding or noise) becomes: a sampler, and the exact law by its
    characteristic function."""

    @abstractmethod
    def sample(self, key: Key[Array, ""], value: Float[Array, "*m d"]) -> Float[Array, "*m d"]:
        """One draw, in the dtype of `value`."""

    @abstractmethod
    def mean(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """Exact mean."""

    @abstractmethod
    def variance(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """Exact variance of each coordinate."""

    @abstractmethod
    def characteristic(self, value: Float[Array, " d"], frequency: Float[Array, " d"]) -> Complex[Array, ""]:
        """E exp(i frequency · X): the exact joint law."""


class EmbeddingUniform(VectorCorruption):
    """CEP-U (SC, eq. 8): adds U(−γ/√d_emb, γ/√d_emb) to each coordinate; std γ/√(3 d_emb). `gamma` ≥ 0.

    Raises `ValueError` for a negative `gamma`.
    """

    gamma: ScalarLike

    def __check_init__(self) -> None:
        """Refuse a negative strength."""
        require_between("gamma", self.gamma, 0.0, math.inf)

    def noise_std(self, d_emb: int) -> Float[Array, ""]:
        """Standard deviation per coordinate: γ/√(3 d_emb)."""
        return jnp.asarray(self.gamma) / math.sqrt(3 * d_emb)

    def sample(self, key: Key[Array, ""], value: Float[Array, "*m d"]) -> Float[Array, "*m d"]:
        """`value` plus uniform noise."""
        bound = jnp.asarray(self.gamma, value.dtype) / math.sqrt(value.shape[-1])
        return value + bound * jax.random.uniform(key, value.shape, value.dtype, -1.0, 1.0)

    def mean(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """`value`."""
        return value

    def variance(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """γ²/(3 d_emb)."""
        return jnp.full_like(value, self.noise_std(value.size) ** 2)

    def characteristic(self, value: Float[Array, " d"], frequency: Float[Array, " d"]) -> Complex[Array, ""]:
        """Product of sin(g w_j) / (g w_j), turned by the mean."""
        bound = jnp.asarray(self.gamma) / math.sqrt(value.size)
        return jnp.exp(1j * frequency @ value) * jnp.prod(jnp.sinc(bound * frequency / math.pi))


class EmbeddingGaussian(VectorCorruption):
    """CEP-G (SC, eq. 8): adds N(0, γ²/d_emb) to each coordinate, so noise_std = γ/√d_emb. `gamma` ≥ 0.

    Raises `ValueError` for a negative `gamma`.
    """

    gamma: ScalarLike

    def __check_init__(self) -> None:
        """Refuse a negative strength."""
        require_between("gamma", self.gamma, 0.0, math.inf)

    def noise_std(self, d_emb: int) -> Float[Array, ""]:
        """Standard deviation per coordinate: γ/√d_emb."""
        return jnp.asarray(self.gamma) / math.sqrt(d_emb)

    def sample(self, key: Key[Array, ""], value: Float[Array, "*m d"]) -> Float[Array, "*m d"]:
        """`value` plus Gaussian noise."""
        std = self.noise_std(value.shape[-1]).astype(value.dtype)
        return value + std * jax.random.normal(key, value.shape, value.dtype)

    def mean(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """`value`."""
        return value

    def variance(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """γ²/d_emb."""
        return jnp.full_like(value, self.noise_std(value.size) ** 2)

    def characteristic(self, value: Float[Array, " d"], frequency: Float[Array, " d"]) -> Complex[Array, ""]:
        """exp(i w·c − noise_std² ‖w‖² / 2)."""
        return jnp.exp(1j * frequency @ value - 0.5 * self.noise_std(value.size) ** 2 * (frequency @ frequency))


class InputPerturbation(VectorCorruption):
    """Ning et al. 2023: the network sees x_t made with ε + γ ξ, while the target stays ε. `gamma` ≥ 0 per
    coordinate (0.1 there).

    The perturbed noise has variance 1 + γ² and covariance 1 with the target: regressing on it shrinks by 1 /
    (1 + γ²). Raises `ValueError` for a negative `gamma`.
    """

    gamma: ScalarLike

    def __check_init__(self) -> None:
        """Refuse a negative strength."""
        require_between("gamma", self.gamma, 0.0, math.inf)

    def sample(self, key: Key[Array, ""], value: Float[Array, "*m d"]) -> Float[Array, "*m d"]:
        """The noise of the network's input, given the target noise `value`."""
        return value + jnp.asarray(self.gamma, value.dtype) * jax.random.normal(key, value.shape, value.dtype)

    def mean(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """`value`."""
        return value

    def variance(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """γ²."""
        return jnp.full_like(value, jnp.asarray(self.gamma) ** 2)

    def characteristic(self, value: Float[Array, " d"], frequency: Float[Array, " d"]) -> Complex[Array, ""]:
        """exp(i w·ε − γ² ‖w‖² / 2)."""
        return jnp.exp(1j * frequency @ value - 0.5 * jnp.asarray(self.gamma) ** 2 * (frequency @ frequency))

    def target_slope(self) -> Float[Array, ""]:
        """E[ε | perturbed ε] / perturbed ε = 1 / (1 + γ²)."""
        return 1 / (1 + jnp.asarray(self.gamma) ** 2)


class Dropout(VectorCorruption):
    """Dropout on the condition: each coordinate is 0 with probability `rate`, else divided by 1 − rate.
    `rate` in [0, 1).

    Raises `ValueError` for another `rate`.
    """

    rate: ScalarLike = 0.1

    def __check_init__(self) -> None:
        """Refuse a rate outside [0, 1)."""
        require_between("rate", self.rate, 0.0, math.nextafter(1.0, 0.0))

    def sample(self, key: Key[Array, ""], value: Float[Array, "*m d"]) -> Float[Array, "*m d"]:
        """`value` with coordinates dropped independently."""
        kept = jax.random.bernoulli(key, 1 - jnp.asarray(self.rate), value.shape)
        return jnp.where(kept, value / (1 - jnp.asarray(self.rate, value.dtype)), 0)

    def mean(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """`value`: the rescaling keeps it."""
        return value

    def variance(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """c_j² rate / (1 − rate)."""
        return value**2 * jnp.asarray(self.rate) / (1 - jnp.asarray(self.rate))

    def characteristic(self, value: Float[Array, " d"], frequency: Float[Array, " d"]) -> Complex[Array, ""]:
        """Product of rate + (1 − rate) exp(i w_j c_j / (1 − rate))."""
        keep = 1 - jnp.asarray(self.rate)
        return jnp.prod(1 - keep + keep * jnp.exp(1j * frequency * value / keep))


class LabelSmoothing(VectorCorruption):
    """Label smoothing of a one-hot (or soft) class vector of K entries: (1 − rate) c + rate / K, no
    randomness. `rate` in [0, 1].

    It is the mean of a one-hot label that is redrawn uniformly, the same class included, with probability
    `rate`. Raises `ValueError` for another `rate`.
    """

    rate: ScalarLike = 0.1

    def __check_init__(self) -> None:
        """Refuse a rate outside [0, 1]."""
        require_between("rate", self.rate, 0.0, 1.0)

    def sample(self, key: Key[Array, ""], value: Float[Array, "*m d"]) -> Float[Array, "*m d"]:
        """The smoothed vector; the key is not used."""
        return self.mean(value)

    def mean(self, value: Float[Array, "*m d"]) -> Float[Array, "*m d"]:
        """(1 − rate) c + rate / K."""
        rate = jnp.asarray(self.rate, value.dtype)
        return (1 - rate) * value + rate / value.shape[-1]

    def variance(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """Zero."""
        return jnp.zeros_like(value)

    def characteristic(self, value: Float[Array, " d"], frequency: Float[Array, " d"]) -> Complex[Array, ""]:
        """exp(i w · mean)."""
        return jnp.exp(1j * frequency @ self.mean(value))


class Partly(VectorCorruption):
    """`operator` with probability `eta` in [0, 1], else the value itself: fixed CEP's chosen samples, as one
    operator.

    Raises `ValueError` for another `eta`.
    """

    operator: VectorCorruption
    eta: ScalarLike

    def __check_init__(self) -> None:
        """Refuse a ratio outside [0, 1]."""
        require_between("eta", self.eta, 0.0, 1.0)

    def sample(self, key: Key[Array, ""], value: Float[Array, "*m d"]) -> Float[Array, "*m d"]:
        """A chosen value corrupted, another one as it was."""
        key_chosen, key_draw = jax.random.split(key)
        chosen = jax.random.bernoulli(key_chosen, jnp.asarray(self.eta))
        return jnp.where(chosen, self.operator.sample(key_draw, value), value)

    def mean(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """Mixture of the means."""
        return (1 - jnp.asarray(self.eta)) * value + jnp.asarray(self.eta) * self.operator.mean(value)

    def variance(self, value: Float[Array, " d"]) -> Float[Array, " d"]:
        """Variance of the mixture: eta variance + eta (1 − eta) (shift of the mean)²."""
        eta = jnp.asarray(self.eta)
        shift = self.operator.mean(value) - value
        return eta * self.operator.variance(value) + eta * (1 - eta) * shift**2

    def characteristic(self, value: Float[Array, " d"], frequency: Float[Array, " d"]) -> Complex[Array, ""]:
        """Mixture of the characteristic functions."""
        eta = jnp.asarray(self.eta)
        return (1 - eta) * jnp.exp(1j * frequency @ value) + eta * self.operator.characteristic(value, frequency)
