"""Corruption paths x_t = A_t x0 + S_t ε: scalar schedules here, per-frequency ones in
`theory.spectral_paths`, all by name.

    name                 A_t                       S_t²                                source
    OrnsteinUhlenbeck    e^{-hT}, hT = horizon t   1 - A_t²                            SC section 4 (dx = -x dt + √2 dw)
    VPLinear             e^{-B/2}                  1 - A_t², B = β₀ t + (β₁-β₀) t²/2   Song et al. 2021, eq. 33
    VPCosine             cos a_t / cos a_0         1 - A_t², a_t = π/2 (t+s)/(1+s)     Nichol & Dhariwal 2021, eq. 17
    VarianceExploding    1                         σ_t²                                Karras et al. 2022, eq. 5
    Heat                 α_t d_t(f)                1 - α_t²                            Hoogeboom & Salimans 2023
    ShortestPath         (1-D^τ)/(1-D) = A_t²      1 - A_t², τ = 1 - t                 Das et al. 2023 (SPD)
    BuresPath            1 - t                     t² + 2 t (1-t) √D                   optimal transport, see class
    EqualAnglePath       tan²θ/(D+tan²θ) = A_t²    1 - A_t², θ = (π/2) τ               equal steps for DDIM, see class

D is the data's power spectrum. Every path obeys the same laws, which the tests run over `PATHS`.
"""

import math
from collections.abc import Callable
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from theory._checks import is_concrete, require
from theory.path_base import Gain, Path, ScalarPath, SpectralPath, Time
from theory.spectral_paths import BuresPath, EqualAnglePath, Heat, ShortestPath

__all__ = [
    "PATHS",
    "BuresPath",
    "EqualAnglePath",
    "Heat",
    "OrnsteinUhlenbeck",
    "Path",
    "ScalarPath",
    "ShortestPath",
    "SpectralPath",
    "VPCosine",
    "VPLinear",
    "VarianceExploding",
]

Number = float | int | Float[Array, ""]
"""A parameter of a path: a Python number, or a scalar array to differentiate or map over."""


def _require_parameter(name: str, value: Number, low: float, allowed: str, *, open_end: bool = True) -> None:
    if not is_concrete(value):
        return
    number = float(value)
    inside = math.isfinite(number) and (number > low if open_end else number >= low)
    require(inside, name, value, allowed)


class OrnsteinUhlenbeck(ScalarPath):
    """x_t = e^{-u} x0 + √(1 - e^{-2u}) ε with u = `horizon` t: the Ornstein-Uhlenbeck process run for time
    `horizon` > 0.

    Its law at t = 1 is not quite N(0, I), by a factor e^{-2 horizon} in variance: exact in `marginal`,
    ignored by `prior`. Source: SC section 4. Raises `ValueError` unless 0 < horizon < inf.
    """

    horizon: Number = 5.0
    starts_clean: ClassVar[bool] = True
    ends_in_unit_noise: ClassVar[bool] = True

    def __check_init__(self) -> None:
        """Check the horizon."""
        _require_parameter("horizon", self.horizon, 0.0, "finite and > 0")

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """(e^{-2u}, 1 - e^{-2u})."""
        u = 2 * self.horizon * jnp.asarray(t)
        return jnp.exp(-u), -jnp.expm1(-u)

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        return jax.nn.softplus(-log_snr) / (2 * self.horizon)

    @property
    def t_range(self) -> tuple[float, float]:
        """(1e-5, 1)."""
        return 1e-5, 1.0


class VPLinear(ScalarPath):
    """A_t² = exp(-B_t), S_t² = 1 - A_t² with B_t = β_min t + (β_max - β_min) t²/2: DDPM's linear schedule in
    continuous time.

    A_1 = 0.0066 at the defaults, so that its law at t = 1 is not quite N(0, I). Source: Song et al. 2021, eq.
    33 (sub-case of Ho et al. 2020 with 1000 steps). Raises `ValueError` unless 0 < beta_min <= beta_max <
    inf.
    """

    beta_min: Number = 0.1
    beta_max: Number = 20.0
    starts_clean: ClassVar[bool] = True
    ends_in_unit_noise: ClassVar[bool] = True

    def __check_init__(self) -> None:
        """Check the rates."""
        _require_parameter("beta_min", self.beta_min, 0.0, "finite and > 0")
        if is_concrete(self.beta_min):
            lowest = float(self.beta_min)
            _require_parameter("beta_max", self.beta_max, lowest, "finite and >= beta_min", open_end=False)

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """(e^{-B}, 1 - e^{-B})."""
        t = jnp.asarray(t)
        total = self.beta_min * t + (self.beta_max - self.beta_min) * t**2 / 2
        return jnp.exp(-total), -jnp.expm1(-total)

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        total = jax.nn.softplus(-log_snr)
        slope = self.beta_max - self.beta_min
        return 2 * total / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * total))

    @property
    def t_range(self) -> tuple[float, float]:
        """(1e-5, 1)."""
        return 1e-5, 1.0


class VPCosine(ScalarPath):
    """A_t = cos a_t / cos a_0, S_t² = 1 - A_t², a_t = (π/2)(t + s)/(1 + s), with `offset` s = 0.008 (0: S_t =
    sin(π t/2)).

    S_t² is computed as sin(a_t - a_0) sin(a_t + a_0) / cos² a_0, which does not cancel near t = 0. Source:
    Nichol & Dhariwal 2021, eq. 17, without their clipping at t = 1. Raises `ValueError` unless 0 <= offset <
    inf.
    """

    offset: Number = 0.008
    starts_clean: ClassVar[bool] = True
    ends_in_unit_noise: ClassVar[bool] = True

    def __check_init__(self) -> None:
        """Check the offset."""
        _require_parameter("offset", self.offset, 0.0, "finite and >= 0", open_end=False)

    def _start(self) -> Number:
        return math.pi / 2 * self.offset / (1 + self.offset)

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """(cos² a_t / cos² a_0, 1 - that)."""
        t = jnp.asarray(t)
        a0, width = self._start(), math.pi / 2 / (1 + self.offset)
        scale = jnp.cos(a0) ** 2
        signal = jnp.sin(width * (1 - t)) ** 2 / scale
        return signal, jnp.sin(width * t) * jnp.sin(width * t + 2 * a0) / scale

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        a0, width = self._start(), math.pi / 2 / (1 + self.offset)
        tangent = jnp.sqrt(jnp.tan(a0) ** 2 + jnp.exp(-log_snr) / jnp.cos(a0) ** 2)
        return (jnp.arctan(tangent) - a0) / width

    @property
    def t_range(self) -> tuple[float, float]:
        """(1e-5, 1 - 1e-4)."""
        return 1e-5, 1 - 1e-4


class VarianceExploding(ScalarPath):
    """x_t = x0 + σ_t ε, σ_t = (σ_max^{1/ρ} t + σ_min^{1/ρ} (1 - t))^ρ: a uniform grid in t is the grid of
    EDM.

    x_0 still has noise `sigma_min`; the law at t = 1 is data plus noise, so `prior` depends on the data.
    σ_min = 0 is allowed. Source: Karras et al. 2022, eq. 5. Raises `ValueError` unless 0 <= sigma_min <
    sigma_max < inf and rho >= 1.
    """

    sigma_min: Number = 0.002
    sigma_max: Number = 80.0
    rho: Number = 7.0
    starts_clean: ClassVar[bool] = False
    ends_in_unit_noise: ClassVar[bool] = False

    def __check_init__(self) -> None:
        """Check the noise levels."""
        _require_parameter("sigma_min", self.sigma_min, 0.0, "finite and >= 0", open_end=False)
        if is_concrete(self.sigma_min):
            _require_parameter("sigma_max", self.sigma_max, float(self.sigma_min), "finite and > sigma_min")
        _require_parameter("rho", self.rho, 1.0, "finite and >= 1", open_end=False)

    def _ends(self) -> tuple[Number, Number]:
        return self.sigma_min ** (1 / self.rho), self.sigma_max ** (1 / self.rho)

    def powers(self, t: Time) -> tuple[Gain, Gain]:
        """(1, σ_t²)."""
        t = jnp.asarray(t)
        low, high = self._ends()
        noise = (high * t + low * (1 - t)) ** (2 * self.rho)
        return jnp.ones_like(noise), noise

    def _times_at(self, log_snr: Float[Array, ""]) -> Gain:
        low, high = self._ends()
        return (jnp.exp(-log_snr / (2 * self.rho)) - low) / (high - low)

    @property
    def t_range(self) -> tuple[float, float]:
        """(0.01, 1): with sigma_min > 0 log-SNR is finite at 0 too, and grids may start there."""
        positive = is_concrete(self.sigma_min) and self.sigma_min > 0
        return (0.0, 1.0) if positive else (0.01, 1.0)


PATHS: dict[str, Callable[[Float[Array, "..."]], Path]] = {
    "ornstein_uhlenbeck": lambda spectrum: OrnsteinUhlenbeck(),
    "vp_linear": lambda spectrum: VPLinear(),
    "vp_cosine": lambda spectrum: VPCosine(),
    "variance_exploding": lambda spectrum: VarianceExploding(),
    "heat": lambda spectrum: Heat.on_grid(spectrum.shape),
    "shortest": lambda spectrum: ShortestPath(spectrum),
    "bures": lambda spectrum: BuresPath(spectrum),
    "equal_angle": lambda spectrum: EqualAnglePath(spectrum),
}
"""A path with its usual parameters for data with a given power spectrum (positive, even, in FFT order), by
name."""
