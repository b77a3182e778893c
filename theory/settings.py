"""What a user may choose in `prescribe`, checked once."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from theory._checks import require
from theory.discretisation import SAMPLERS
from theory.training_sets import condition_share


@dataclass(frozen=True)
class Settings:
    """Choices of `prescribe`; raises `ValueError` naming the field, its value and what is allowed."""

    retain: float = 0.99
    """Fraction of the variance that the principal components keep, in (0, 1]."""
    noise_std: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
    """Corruption strengths to tabulate, per coordinate of the condition embedding, each finite and >= 0."""
    cond_norm: float = 1.0
    """Norm of a clean condition embedding, > 0; converts noise_std to CEP's gamma."""
    d_emb: int = 512
    """Dimension of the condition embedding, >= 1; converts noise_std to CEP's gamma."""
    eta: tuple[float, ...] = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
    """Ratios of flipped labels to tabulate, each in [0, 1]."""
    sampler: str = "ddim"
    """How the paths are sampled: a name in `theory.discretisation.SAMPLERS`."""
    steps: int = 50
    """Steps of the sampler, at least 2."""
    blur_std: float = 1.0
    """The blur, in pixels, whose sigma_min is wanted, >= 0."""
    tau: float = 0.45
    """The classifier's threshold, in (0, 1/2)."""
    resamples: int = 40
    """Bootstrap resamples of the data, >= 2."""
    training_sets: int = 3
    """Pairs of training sets for each resample, >= 1."""
    level: float = 0.9
    """Of the intervals, in (0, 1)."""
    seed: int = 0
    """Of everything random, >= 0."""

    def __post_init__(self) -> None:
        require(0 < self.retain <= 1, "retain", self.retain, "a fraction of the variance in (0, 1]")
        require(_all_within(self.noise_std, 0.0, math.inf), "noise_std", self.noise_std, "finite and at least 0")
        require(len(self.noise_std) > 0, "noise_std", "no value", "one or more values")
        require(0 < self.cond_norm < math.inf, "cond_norm", self.cond_norm, "finite and positive")
        require(self.d_emb >= 1, "d_emb", self.d_emb, "at least 1")
        require(_all_within(self.eta, 0.0, 1.0), "eta", self.eta, "in [0, 1]")
        require(self.sampler in SAMPLERS, "sampler", repr(self.sampler), "one of " + ", ".join(SAMPLERS))
        require(self.steps >= 2, "steps", self.steps, "at least 2")
        require(0 <= self.blur_std < math.inf, "blur_std", self.blur_std, "finite and at least 0 (pixels)")
        require(0 < self.tau < 0.5, "tau", self.tau, "strictly between 0 and 0.5")
        require(self.resamples >= 2, "resamples", self.resamples, "at least 2")
        require(self.training_sets >= 1, "training_sets", self.training_sets, "at least 1")
        require(0 < self.level < 1, "level", self.level, "strictly between 0 and 1")
        require(self.seed >= 0, "seed", self.seed, "at least 0")

    def noise_ratio(self, noise_std: float) -> float:
        """s = noise_std^2 / (cond_norm^2 + noise_std^2), in [0, 1]."""
        return condition_share(noise_std / self.cond_norm)

    def noise_for(self, s: float) -> float:
        """The noise_std with a given s in [0, 1]; infinite for s = 1."""
        return math.inf if s >= 1.0 else self.cond_norm * math.sqrt(s / (1.0 - s))

    def cep_gaussian(self, noise_std: float) -> float:
        """CEP-G's gamma: noise_std = gamma / sqrt(d_emb)."""
        return noise_std * math.sqrt(self.d_emb)

    def cep_uniform(self, noise_std: float) -> float:
        """CEP-U's gamma: Uniform(-gamma, gamma) / sqrt(d_emb) has standard deviation gamma / sqrt(3 d_emb)."""
        return noise_std * math.sqrt(3 * self.d_emb)


def _all_within(values: Sequence[float], low: float, high: float) -> bool:
    return all(math.isfinite(v) and low <= v <= high for v in values)
