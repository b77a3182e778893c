"""What a run trains on: its source, with some images degraded, and the noise gates of the degraded ones."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from jaxtyping import Float

from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.degrade import Degraded, make_degradation
from imagegen.data.source import ArraySource, Source, in_memory
from imagegen.features import read_all
from imagegen.step import GATE
from theory._checks import require
from theory.gates import gate_times
from theory.path_base import Path

Gates = Mapping[str, Float[np.ndarray, " n"]]
"""`t_max`, `t_n` and `t_open` of every training image."""


def training_source(config: Config) -> Source:
    """The training images as they are read. Raises `ValueError` for bad data or a bad file."""
    source = make_source(config.data, "train")
    if config.degradation == "none":
        return source if isinstance(source, ArraySource) else in_memory(source)
    degradation = make_degradation(config.degradation, config.degradation_strength)
    degraded = in_memory(Degraded(source, degradation, config.degraded_share, config.seed))
    if config.train_on != "clean":
        return degraded
    return degraded.subset(np.flatnonzero(~degraded.extras["degraded"]))


def make_gates(config: Config, source: Source, path: Path) -> Gates | None:
    """The gates of all images where the run trains gated: degraded ones open at `sigma_min`; else None.

    Raises `ValueError` where they would never open.
    """
    if config.train_on != "gated":
        return None
    degraded = read_all(source)["degraded"]
    times = gate_times(path, np.where(degraded, config.sigma_min, 0.0))
    opens = bool(np.isfinite(np.asarray(times.t_open)[degraded]).all())
    require(opens, "sigma_min", config.sigma_min, f"low enough for the path {config.path} to open the gate")
    return {name: np.asarray(getattr(times, name), np.float32) for name in GATE}


def gated(batch: dict[str, Any], gates: Gates | None) -> dict[str, Any]:
    """What the step takes of a batch: images, labels, indices, and the gates of these images."""
    taken = {name: batch[name] for name in ("image", "label", "index")}
    return taken if gates is None else {**taken, **{name: values[batch["index"]] for name, values in gates.items()}}
