"""Settings of the test processes: theory and sim in float64; imagegen by itself, in float32, as its users run it.

Hypothesis profiles, and jaxtyping annotations enforced by beartype.
"""

import importlib
import os
import random
import tempfile
from pathlib import Path
from unittest import mock

# Most of the time goes into compiling programs that run once, so they are not optimised; one thread for each of the
# test processes, which would fight over the cores otherwise.
FLAGS = "--xla_backend_optimization_level=0 --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()

import jax
import matplotlib
from hypothesis import HealthCheck, settings
from jaxtyping import install_import_hook
from threadpoolctl import threadpool_limits

IMAGEGEN = Path(__file__).parent / "imagegen"
LONGEST = ("notebooks", "sim_command_line", "sim_experiment_conditions", "sim_training", "command_line", "train",
           "floors", "evaluate")  # fmt: skip
"""Files that take long for their number of tests: begun first, so that no process waits for another at the end."""

matplotlib.use("Agg")
threadpool_limits(1)
# beartype draws which item of a sequence it checks. Threads that read data do so while Hypothesis draws examples, and
# it gives up when the state of `random` changes meanwhile: so beartype gets a generator of its own.
with mock.patch.object(random, "getrandbits", random.Random(0).getrandbits):
    importlib.import_module("beartype._check.code.codemain")
install_import_hook(["theory", "sim", "imagegen"], "beartype.beartype")

_quiet = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.filter_too_much]}
settings.register_profile("ci", max_examples=15, derandomize=True, **_quiet)
settings.register_profile("attack", max_examples=1000, **_quiet)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def _imagegen_alone(config):
    return bool(config.args) and all(Path(arg.split("::")[0]).resolve().is_relative_to(IMAGEGEN) for arg in config.args)


def pytest_configure(config):
    alone = _imagegen_alone(config)
    jax.config.update("jax_enable_x64", not alone)
    if alone:
        jax.config.update("jax_num_cpu_devices", 8)
        # many of these tests train the same network anew: each program is compiled once
        config.compiled = tempfile.TemporaryDirectory()
        jax.config.update("jax_compilation_cache_dir", config.compiled.name)


def pytest_ignore_collect(collection_path, config):
    """`pytest tests` leaves imagegen's to a process of their own, `pytest tests/imagegen`: see the Makefile."""
    return True if collection_path == IMAGEGEN and not _imagegen_alone(config) else None


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: item.path.stem.removeprefix("test_") not in LONGEST)
