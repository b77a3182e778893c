"""Every experiment by name."""

from collections.abc import Mapping

from sim.experiments import ambient, conditions, memorisation, paths
from sim.experiments.base import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {
    part.EXPERIMENT.name: part.EXPERIMENT for part in (conditions, paths, ambient, memorisation)
}
"""Name -> experiment, in the order of the report."""
