"""Claims of Das et al. 2023 (SPD, arXiv:2306.00501) about shortest-path diffusion, decided on exactly Gaussian data.

One frequency has variance D; ℓ = log D; v_t is the marginal variance at time t, V what a sampler with N steps generates. The
library's routes are `theory.paths` and `theory.discretisation`; what they are compared with is named in each claim.
"""

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from theory.claims import _shortest_path_proofs as proofs
from theory.claims.claim import (
    Case,
    Choices,
    Claim,
    Domain,
    Integers,
    Outcome,
    Reals,
    Seeds,
    at_most,
    identity,
    worst,
)
from theory.discretisation import generated_variance, sampling_error
from theory.fisher import diagonal_path_length
from theory.gaussian import Gaussian
from theory.path_base import FloatArray, Path
from theory.paths import PATHS, BuresPath, EqualAnglePath, Heat, ShortestPath
from theory.spectra import PowerLaw

EPS = float(np.finfo(np.float64).eps)
CIFAR = PowerLaw(1.59, 0.0086, 2.0)
"""SPD's spectrum of 32 x 32 natural images."""
FREQUENCIES = 3
ENDS_IN_NOISE = ("shortest", "equal_angle", "bures", "vp_cosine", "heat")
"""Paths that start clean and end with no signal at all."""
METRICS = ("kl_generated_data", "kl_data_generated", "wasserstein2")

_log_variance = Reals(1e-4, 1e4, log=True)


def _spectrum(case: Case) -> Float[np.ndarray, " k"]:
    """A few frequencies: the case's D alone for seed 0, else with random others in [1e-4, 1e4]."""
    others = np.full(FREQUENCIES - 1, case["D"])
    if case["seed"]:
        others = 10 ** np.random.default_rng([case["seed"], 11]).uniform(-4, 4, FREQUENCIES - 1)
    return np.array([case["D"], *others])


def _path(name: str, spectrum: Float[np.ndarray, " k"]) -> Path:
    """A path by name; those with a spectrum take the frequencies as independent coordinates."""
    own = {"shortest": ShortestPath, "bures": BuresPath, "equal_angle": EqualAnglePath}
    return own[name](spectrum, basis="pixels") if name in own else PATHS[name](jnp.asarray(spectrum))


def _times(steps: int, seed: int) -> Float[np.ndarray, " k"]:
    """1 = t_0 > ... > t_N = 0: equal steps for seed 0, else random ones, none shorter than 1/(10 N)."""
    widths = np.ones(steps)
    if seed:
        widths = 0.1 + 0.9 * np.random.default_rng([seed, 12]).dirichlet(np.ones(steps)) * steps
    inner = 1 - np.cumsum(widths)[:-1] / widths.sum()
    return np.concatenate([[1.0], inner, [0.0]])
