"""What a network predicts, and how a denoiser is made of it: noise, data, velocity, flow, EDM, on any path.

x_t = A x0 + S ε, per frequency on spectral paths, r = √(A² + S²). A parameterisation is a target F = a ε + b x0 whose
coefficients depend on (A, S) alone. With the determinant Δ = a A - b S,

    x0 = (a x_t - S F) / Δ = p x_t + q F,   q = -S/Δ,

so an error of F is an error of x0 times S/|Δ|: a squared error summed with weight 1 in F ("uniform in F") is one of x0
with weight Δ²/S². The SNR is A²/S².

    name       a          b           |Δ|        weight on x0    source
    Noise      1          0           A          SNR             Ho et al. 2020, eq. 14
    Data       0          1           S          1
    Velocity   A/r        -S/r        r          SNR + 1         Salimans & Ho 2022, appendix D (r = 1 there)
    Flow       1          -1          A + S      (1 + √SNR)²     Liu et al. 2023 (A = 1 - t, S = t there)
    EDM        -A σ_d/m   S/(σ_d m)   m/σ_d      SNR + σ_d⁻²     Karras et al. 2022, eqs. 7, 8; m² = S² + A² σ_d²

Velocity is the rotation by the angle with cosine A/r: also on paths that do not preserve the variance no coefficient
exceeds 1, and neither end divides by zero. Flow is defined on every path as well; it is the path's own velocity only
for A = 1 - t, S = t. EDM, written in x_t rather than x_t/A, divides by m alone. It is the velocity of x0/σ_d, of
opposite sign. Noise loses x0 where A = 0: see the class.

What the network sees is x_t, divided by the largest r over the frequencies (1 on variance-preserving paths), or for
EDM x_t/m, and a noise label: t, or for EDM log(σ)/4 at the path's reference frequency, σ = S/A.

One sample at a time; types follow the arguments: float32 in, float32 out.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._checks import require, require_positive
from theory.path_base import Gain, Path, Sample, Time, mix

Network = Callable[[Sample, Float[Array, ""], Any], Sample]
"""`network(input, noise_label, cond)` for one sample; returns an array of the input's shape."""


class Parameterisation(eqx.Module):
    """Abstract: what a network predicts. A new one is a small final class with the five formulas below.

    `signal` A and `noise` S are gains of equal shape, scalars or one per frequency.
    """

    @abc.abstractmethod
    def encode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(a, b) of the target F = a ε + b x0; finite at both ends. Scalars where they depend on no frequency."""

    @abc.abstractmethod
    def decode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(p, q) of x0 = p x_t + q F."""

    @abc.abstractmethod
    def determinant(self, signal: Gain, noise: Gain) -> Gain:
        """|Δ| >= 0: the error of x0 is S/|Δ| times the error of F."""

    @abc.abstractmethod
    def input_gain(self, signal: Gain, noise: Gain) -> Gain:
        """Factor that turns x_t into the network's input."""

    @abc.abstractmethod
    def label(self, path: Path, t: Time) -> Float[Array, ""]:
        """The number by which the network knows the noise level; finite on [0, 1]."""

    def target(self, path: Path, x0: Sample, eps: Sample, t: Time) -> Sample:
        """F for the clean sample `x0` and the noise `eps` (same shape) at time `t`."""
        noise_part, data_part = self.encode(path.signal(t), path.noise(t))
        return mix(path, (noise_part, eps), (data_part, x0))

    def to_data(self, path: Path, output: Sample, xt: Sample, t: Time) -> Sample:
        """x̂0 for the network's `output` F at x_t."""
        skip, gain = self.decode(path.signal(t), path.noise(t))
        return mix(path, (skip, xt), (gain, output))

    def network_input(self, path: Path, xt: Sample, t: Time) -> Sample:
        """x_t as the network sees it."""
        return mix(path, (self.input_gain(path.signal(t), path.noise(t)), xt))


class _Plain(Parameterisation):
    """Abstract: the network sees x_t over the largest r, and t."""

    def input_gain(self, signal: Gain, noise: Gain) -> Gain:
        """1 / max r, one number for all frequencies: 1 on variance-preserving paths, 1/√(1 + σ²) on exploding ones."""
        return 1 / jnp.max(jnp.hypot(signal, noise))

    def label(self, path: Path, t: Time) -> Float[Array, ""]:
        """The time itself."""
        return jnp.asarray(t)


class Noise(_Plain):
    """F = ε. Where the signal is below the rounding of x_t (A < r times machine epsilon) `to_data` gives 0: nothing of
    x0 can be read off a noise prediction there.
    """

    def encode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(1, 0)."""
        return _number(1.0, signal), _number(0.0, signal)

    def decode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(1/A, -S/A); (0, 0) where there is no signal left."""
        seen = signal > jnp.finfo(signal.dtype).eps * noise
        inverse = jnp.where(seen, 1 / jnp.where(seen, signal, 1.0), 0.0)
        return inverse, -noise * inverse

    def determinant(self, signal: Gain, noise: Gain) -> Gain:
        """A."""
        return signal


class Data(_Plain):
    """F = x0: the network is the denoiser."""

    def encode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(0, 1)."""
        return _number(0.0, signal), _number(1.0, signal)

    def decode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(0, 1)."""
        return _number(0.0, signal), _number(1.0, signal)

    def determinant(self, signal: Gain, noise: Gain) -> Gain:
        """S."""
        return noise


class Velocity(_Plain):
    """F = (A ε - S x0)/r: x_t/r turned by a quarter."""

    def encode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(A/r, -S/r)."""
        r = jnp.hypot(signal, noise)
        return signal / r, -noise / r

    def decode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(A/r², -S/r)."""
        r = jnp.hypot(signal, noise)
        return signal / r / r, -noise / r

    def determinant(self, signal: Gain, noise: Gain) -> Gain:
        """Magnitude r."""
        return jnp.hypot(signal, noise)


class Flow(_Plain):
    """F = ε - x0, as rectified flow and flow matching predict."""

    def encode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(1, -1)."""
        return _number(1.0, signal), _number(-1.0, signal)

    def decode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(1, -S) / (A + S)."""
        total = signal + noise
        return 1 / total, -noise / total

    def determinant(self, signal: Gain, noise: Gain) -> Gain:
        """A + S."""
        return signal + noise


class EDM(Parameterisation):
    """Karras et al.'s preconditioning, x̂0 = c_skip x_t/A + c_out F(c_in x_t/A; log(σ)/4) with σ = S/A per frequency.

    c_skip = σ_d²/(σ² + σ_d²), c_out = σ σ_d/√(σ² + σ_d²), c_in = 1/√(σ² + σ_d²) (table 1). Input and target have unit
    variance where the data have variance σ_d². Their weight 1/c_out² is uniform in F.

    **Arguments:** `sigma_data` σ_d > 0: a number, or one per frequency (the root of the data's spectrum). Raises
    `ValueError` unless positive and finite.
    """

    sigma_data: float | Float[Array, "..."] = 0.5

    def __check_init__(self) -> None:
        """Check the scale of the data."""
        require_positive("sigma_data", self.sigma_data)

    def _scaled(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(m, A σ_d)."""
        data = signal * self.sigma_data
        return jnp.hypot(noise, data), data

    def encode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(-A σ_d/m, S/(σ_d m))."""
        total, data = self._scaled(signal, noise)
        return -data / total, noise / (self.sigma_data * total)

    def decode(self, signal: Gain, noise: Gain) -> tuple[Gain, Gain]:
        """(c_skip/A, c_out) = (A σ_d²/m², S σ_d/m)."""
        total, data = self._scaled(signal, noise)
        return data / total * (self.sigma_data / total), noise / total * self.sigma_data

    def determinant(self, signal: Gain, noise: Gain) -> Gain:
        """m/σ_d."""
        return self._scaled(signal, noise)[0] / self.sigma_data

    def input_gain(self, signal: Gain, noise: Gain) -> Gain:
        """c_in/A = 1/m."""
        return 1 / self._scaled(signal, noise)[0]

    def label(self, path: Path, t: Time) -> Float[Array, ""]:
        """c_noise = log(σ)/4 = -λ/8 at the path's reference frequency, t clipped to `path.t_range`."""
        return -path.reference_log_snr(jnp.clip(jnp.asarray(t), *path.t_range)) / 8


PARAMETERISATIONS: dict[str, Callable[[], Parameterisation]] = {
    "noise": Noise,
    "data": Data,
    "velocity": Velocity,
    "flow": Flow,
    "edm": EDM,
}
"""Every parameterisation at its defaults, by name."""


class Predictor(eqx.Module):
    """A network made into a denoiser `(xt, t, cond) -> x0_hat` for one sample.

    **Arguments:** `network(input, noise_label, cond)` returns an array of the sample's shape; `path`;
    `parameterisation`: what the network predicts.

    Raises `ValueError` where the output has another shape, or an array in the parameterisation is not of the path's
    grid.
    """

    network: Network
    path: Path
    parameterisation: Parameterisation

    def __check_init__(self) -> None:
        """Check that the parameterisation's arrays fit the path."""
        for leaf in jax.tree.leaves(self.parameterisation):
            fits = jnp.shape(leaf) in ((), self.path.grid)
            require(fits, "parameterisation", f"an array of shape {jnp.shape(leaf)}", f"of scalars or {self.path.grid}")

    def output(self, xt: Sample, t: Time, cond: Any = None) -> Sample:
        """What the network predicts at `xt`, in the sample's dtype. Raises `ValueError` where it has another shape."""
        seen = self.parameterisation.network_input(self.path, xt, t)
        output = self.network(seen, self.parameterisation.label(self.path, t), cond)
        require(output.shape == xt.shape, "network's output", f"shape {output.shape}", f"of the sample's, {xt.shape}")
        return output.astype(xt.dtype)

    def __call__(self, xt: Sample, t: Time, cond: Any = None) -> Sample:
        """x̂0 at `xt`."""
        return self.parameterisation.to_data(self.path, self.output(xt, t, cond), xt, t)


def _number(value: float, like: Gain) -> Float[Array, ""]:
    return jnp.asarray(value, like.dtype)
