"""Exact small-scale diffusions: every ingredient is exact except the one under study.

Denoisers: `MixtureDenoiser`, `LinearDenoiser`, `EmpiricalDenoiser` (the memorising optimum),
`AmbientEmpiricalDenoiser`, `Guided`, and a network through `Predictor`. Sampling along any path of `theory`:
`time_grid`, `SAMPLERS`, `sample`, `start_from`. The loss: `denoising_loss` in the parameterisations `Noise`, `Data`,
`Velocity`, `EDM`. What an unrestricted learner makes of corrupted conditions: `seen_classes`. Distances of samples,
each beside its own finite-sample bias, are in `sim.distances`, `sim.entropy` and `sim.neighbours`, experiments in
`sim.experiments`. Float32 or float64, as given.
"""

from sim.conditions import seen_classes
from sim.denoisers import Clipped, Guided, LinearDenoiser, MixtureDenoiser, noise_of, score_of, velocity_of
from sim.empirical import AmbientEmpiricalDenoiser, EmpiricalDenoiser, keep_points
from sim.gating import GateTimes, ambient_pair, gate_times
from sim.likelihood import log_likelihood
from sim.loss import denoising_loss, min_snr, uniform
from sim.parameterisations import EDM, Data, Noise, Predictor, Velocity
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
    "GateTimes",
    "Guided",
    "Heun",
    "LinearDenoiser",
    "MixtureDenoiser",
    "Noise",
    "Predictor",
    "ReverseSDE",
    "SigmaHeun",
    "Trajectory",
    "Velocity",
    "ambient_pair",
    "denoising_loss",
    "gate_times",
    "keep_points",
    "log_likelihood",
    "min_snr",
    "noise_of",
    "sample",
    "score_of",
    "seen_classes",
    "start_from",
    "time_grid",
    "uniform",
    "velocity_of",
]
