"""Cases of the claims on the linear denoiser: a class's moments (m, S) at random, padded to few compiled shapes.

Condition numbers go to 1e8, and S may be singular or zero. For the library's compiled functions a dimension below
`SMALL` is filled up with directions in which the data vanish (m = 0, S = 0): they neither touch the others nor add to
the loss, so that one program serves all small dimensions.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from theory.claims.cases import direction, eigenvalues, rotation
from theory.claims.claim import DIMENSIONS, Case, Integers, Reals, Seeds

EPS = float(np.finfo(float).eps)
SMALL = 8
Vector = Float[np.ndarray, " d"]
Square = Float[np.ndarray, "d d"]

MOMENTS: Mapping[str, Any] = {
    "d": DIMENSIONS,
    "mean_norm": Reals(0.0, 10.0),
    "condition": Reals(1.0, 1e8, log=True),
    "zeros": Integers(0, 3),
    "scale": Reals(1e-2, 1e2, log=True),
    "seed": Seeds(),
}
NOISE: Mapping[str, Any] = {"noise_std": Reals(0.0, 10.0), "cond_norm": Reals(0.1, 10.0, log=True)}
TIME = Reals(0.01, 50.0, log=True)


class Moments(NamedTuple):
    """m, S, a factor L with L Lᵀ = S, and the least and the largest eigenvalue of S."""

    mean: Vector
    cov: Square
    factor: Square
    low: float
    high: float


def moments_of(case: Case) -> Moments:
    """The class's moments; `zeros` of S's eigenvalues vanish."""
    d, seed = case["d"], case["seed"]
    values = case["scale"] * eigenvalues(d, case["condition"], seed, max(d - case["zeros"], 0))
    factor = rotation(d, seed) * np.sqrt(values)
    mean = case["mean_norm"] * direction(d, seed)
    return Moments(mean, factor @ factor.T, factor, float(values[-1]), float(values[0]))


def share_of(case: Case) -> float:
    """s from its definition."""
    noise, norm = case.get("noise_std", 0.0), case.get("cond_norm", 1.0)
    return float(noise**2 / (norm**2 + noise**2))


def gains_at(case: Case) -> tuple[float, float]:
    return float(np.exp(-case["time"])), float(np.sqrt(-np.expm1(-2 * case["time"])))


def pad(values: np.ndarray, *, axes: int = 1) -> np.ndarray:
    """`values` with zeros appended to its last `axes` axes, up to SMALL entries in each; as it is where d > SMALL."""
    short = max(SMALL - values.shape[-1], 0)
    return np.pad(values, [(0, 0)] * (values.ndim - axes) + [(0, short)] * axes)
