"""Every experiment by name."""

from collections.abc import Mapping

from sim.experiments.base import Experiment

EXPERIMENTS: Mapping[str, Experiment] = {}
"""Name -> experiment, in the order of the report."""
