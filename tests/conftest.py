"""Float64 for theory and sim, Hypothesis profiles, and jaxtyping annotations enforced by beartype."""

import os

# Most of the time of these tests is compilation of programs that run once: do not optimise them.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0".strip()

import jax
import matplotlib
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook

jax.config.update("jax_enable_x64", True)
matplotlib.use("Agg")
install_import_hook(["theory", "sim"], "beartype.beartype")

_quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much]}
settings.register_profile("ci", max_examples=30, derandomize=True, **_quiet)
settings.register_profile("attack", max_examples=1000, **_quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))
