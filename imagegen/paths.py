"""The corruption path of a run, by name, made for the training images where it depends on their spectrum."""

import jax
import jax.numpy as jnp

from imagegen.statistics import Statistics
from theory.path_base import Path
from theory.paths import EqualAnglePath, Heat, ShortestPath, VarianceExploding, VPCosine, VPLinear

SCALAR = {"vp-linear": VPLinear, "vp-cosine": VPCosine}
SPECTRAL = {"shortest": ShortestPath, "equal-angle": EqualAnglePath}
BLUR = 20 / 64
"""Largest blur of the heat path, in image sides: Hoogeboom & Salimans' 20 pixels of 64."""


def make_path(name: str, statistics: Statistics) -> Path:
    """The path of this name (`imagegen.config.PATHS`), float32: `shortest` and `equal-angle` for the images' spectrum,
    `heat` for their grid, the others scalar.
    """
    if name in SCALAR:
        return SCALAR[name]()
    if name == "edm":
        return VarianceExploding(sigma_min=0.002, sigma_max=80.0)
    if name == "heat":
        grid = statistics.shape[:2]
        heat = Heat.on_grid(grid, blur_max=BLUR * max(grid))
        return jax.tree.map(lambda leaf: leaf.astype(jnp.float32) if isinstance(leaf, jax.Array) else leaf, heat)
    return SPECTRAL[name](jnp.asarray(statistics.spectrum, jnp.float32))
