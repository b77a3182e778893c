"""Exact small-scale diffusions: every ingredient is exact except the one under study.

Denoisers: `MixtureDenoiser`, `LinearDenoiser`, `EmpiricalDenoiser` (the memorising optimum),
`AmbientEmpiricalDenoiser`, `Guided`, and a network through `Predictor`. Sampling along any path of `theory`:
`time_grid`, `SAMPLERS`, `sample`, `start_from`. The loss: `denoising_loss` in the parameterisations `Noise`, `Data`,
`Velocity`, `EDM`. What an unrestricted learner makes of corrupted conditions: `seen_classes`. Distances of samples,
each beside its own finite-sample bias, are in `sim.distances`, `sim.entropy` and `sim.neighbours`, experiments in
`sim.experiments`. Float32 or float64, as given.
"""

from sim.conditions import seen_classes
from sim.conversions import noise_of, score_of, velocity_of
from sim.denoisers import Clipped, Guided, LinearDenoiser
from sim.empirical import AmbientEmpiricalDenoiser, EmpiricalDenoiser, keep_points
from sim.gating import ambient_pair, gated_pair
from sim.likelihood import log_likelihood
from sim.loss import MinSNR, UniformIn, denoising_loss, uniform
from sim.mixture_denoiser import MixtureDenoiser
from sim.networks import ResidualMLP
from sim.parameterisations import EDM, Data, Flow, Noise, Predictor, Velocity
from sim.samplers import (
    DDIM,
    SAMPLERS,
    Adaptive,
    Ancestral,
    DPMSolverPP2M,
    Euler,
    Heun,
    ReverseSDE,
    SigmaHeun,
)
from sim.sampling import Trajectory, sample, start_from
from sim.times import GRIDS, time_grid
from sim.training import fit

__all__ = [
    "DDIM",
    "EDM",
    "GRIDS",
    "SAMPLERS",
    "Adaptive",
    "AmbientEmpiricalDenoiser",
    "Ancestral",
    "Clipped",
    "DPMSolverPP2M",
    "Data",
    "EmpiricalDenoiser",
    "Euler",
    "Flow",
    "Guided",
    "Heun",
    "LinearDenoiser",
    "MinSNR",
    "MixtureDenoiser",
    "Noise",
    "Predictor",
    "ResidualMLP",
    "ReverseSDE",
    "SigmaHeun",
    "Trajectory",
    "UniformIn",
    "Velocity",
    "ambient_pair",
    "denoising_loss",
    "fit",
    "gated_pair",
    "keep_points",
    "log_likelihood",
    "noise_of",
    "sample",
    "score_of",
    "seen_classes",
    "start_from",
    "time_grid",
    "uniform",
    "velocity_of",
]
