"""Closed forms, exact laws and decided claims about corruption in diffusion models.

Laws: `Gaussian`, `GaussianMixture`, and distances between them. Paths from data to noise: `PATHS`. Corruption
operators, each with sampler and exact law: `OPERATORS`. What optimal linear denoisers generate: `generated`,
`generated_guided`; its expectation over training sets: `wasserstein_gain`, `entropy_gap`. What samplers make of
Gaussian data: `sampling_error`. Total variation under noise is in `theory.ambient`, claims in
`theory.claims.registry`, advice for data in `theory.prescribe`. Float64 throughout: set `jax_enable_x64` first.
"""

from theory._checks import InputError
from theory.corruption import (
    OPERATORS,
    CaptionSwap,
    Dropout,
    EmbeddingGaussian,
    EmbeddingUniform,
    Fixed,
    Fresh,
    InputPerturbation,
    LabelFlip,
    LabelSmoothing,
    NoiseGate,
    asymmetric_flip,
    corrupted_class_moments,
    symmetric_flip,
)
from theory.discretisation import SAMPLERS, SamplingError, generated_variance, sampling_error
from theory.fisher import (
    centred_distance,
    centred_geodesic,
    diagonal_path_length,
    fisher_rao_connect,
    fisher_rao_distance,
    fisher_rao_geodesic,
    path_length,
)
from theory.flips import flip_change, guided_flip_change
from theory.gaussian import Gaussian, kl, wasserstein2, wasserstein2_squared
from theory.guidance import generated_guided, pooled_moments
from theory.linear import (
    condition_noise_ratio,
    corrupted_moments,
    denoiser_for,
    empirical_moments,
    generated,
    generated_from,
    optimal_denoiser,
    shared_denoiser,
)
from theory.mixture import GaussianMixture
from theory.paths import (
    PATHS,
    BuresPath,
    EqualAnglePath,
    Heat,
    OrnsteinUhlenbeck,
    Path,
    ShortestPath,
    VarianceExploding,
    VPCosine,
    VPLinear,
)
from theory.spectra import PowerLaw, fit_power_law, integer_frequencies, power_spectrum
from theory.training_sets import entropy_gap, helpful_limit, kappa, optimal_noise_std, wasserstein_gain
from theory.wasserstein import distance_bounds, mixture_distance, wasserstein2_1d, wasserstein2_1d_samples

__all__ = [
    "OPERATORS",
    "PATHS",
    "SAMPLERS",
    "BuresPath",
    "CaptionSwap",
    "Dropout",
    "EmbeddingGaussian",
    "EmbeddingUniform",
    "EqualAnglePath",
    "Fixed",
    "Fresh",
    "Gaussian",
    "GaussianMixture",
    "Heat",
    "InputError",
    "InputPerturbation",
    "LabelFlip",
    "LabelSmoothing",
    "NoiseGate",
    "OrnsteinUhlenbeck",
    "Path",
    "PowerLaw",
    "SamplingError",
    "ShortestPath",
    "VPCosine",
    "VPLinear",
    "VarianceExploding",
    "asymmetric_flip",
    "centred_distance",
    "centred_geodesic",
    "condition_noise_ratio",
    "corrupted_class_moments",
    "corrupted_moments",
    "denoiser_for",
    "diagonal_path_length",
    "distance_bounds",
    "empirical_moments",
    "entropy_gap",
    "fisher_rao_connect",
    "fisher_rao_distance",
    "fisher_rao_geodesic",
    "fit_power_law",
    "flip_change",
    "generated",
    "generated_from",
    "generated_guided",
    "generated_variance",
    "guided_flip_change",
    "helpful_limit",
    "integer_frequencies",
    "kappa",
    "kl",
    "mixture_distance",
    "optimal_denoiser",
    "optimal_noise_std",
    "path_length",
    "pooled_moments",
    "power_spectrum",
    "sampling_error",
    "shared_denoiser",
    "symmetric_flip",
    "wasserstein2",
    "wasserstein2_1d",
    "wasserstein2_1d_samples",
    "wasserstein2_squared",
    "wasserstein_gain",
]
