"""Imports run one way, importing changes no global setting, and the wheel ships the three packages alone."""

import ast
import json
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

ROOT = Path(__file__).parents[1]
FLOORS = {"theory": {"sim", "imagegen"}, "sim": {"imagegen"}, "imagegen": set()}


def _imported(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.mark.parametrize("package", FLOORS)
def test_imports_run_from_theory_to_sim_to_imagegen(package):
    files = list((ROOT / package).rglob("*.py"))
    assert files
    for file in files:
        assert not FLOORS[package] & set(_imported(file)), file


SETTINGS = """
import json, logging, os, pkgutil, warnings
import jax, matplotlib, numpy as np

def settings():
    return {
        "jax": {k: str(v) for k, v in sorted(jax.config.values.items())},
        "numpy": [np.geterr(), {k: str(v) for k, v in np.get_printoptions().items()}],
        "random": str(np.random.get_state()[1][:5]),
        "warnings": [str(f) for f in warnings.filters],
        "matplotlib": {k: str(v) for k, v in matplotlib.rcParams.items()},
        "environment": dict(os.environ),
        "logging": logging.getLogger().level,
        "devices started": jax._src.xla_bridge.backends_are_initialized(),  # before jax.distributed could be
    }
"""

IMPORT_ALL = """
before = settings()
for name in PACKAGES:
    package = __import__(name)
    for module in pkgutil.walk_packages(package.__path__, name + "."):
        if not module.name.endswith("__main__"):
            __import__(module.name)
after = settings()
print(json.dumps([[key, before[key], after[key]] for key in before if before[key] != after[key]]))
"""

LIBRARIES = """
import equinox, diffrax, hypothesis, sympy, scipy.stats, ot, sklearn, tqdm, tyro, latex2mathml.converter
import matplotlib.figure, scipy.optimize, scipy.integrate, sklearn.datasets
"""


def test_importing_changes_no_global_setting():
    program = SETTINGS + LIBRARIES + f"PACKAGES = {list(FLOORS)}\n" + IMPORT_ALL
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == []


def test_importing_a_package_is_light():
    """In the order in which they import one another, so that what one brings counts against it too."""
    held = "[m for m in ('ot', 'sklearn', 'matplotlib', 'sympy') if m in sys.modules]"
    program = "import sys\n" + "".join(f"import {name}\nprint('{name}', {held})\n" for name in FLOORS)
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert run.stdout.splitlines() == [f"{name} []" for name in FLOORS], run.stdout + run.stderr


def test_each_package_is_typed_and_configured_for_the_wheel():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == list(FLOORS)
    for package in FLOORS:
        assert (ROOT / package / "py.typed").exists()


def test_the_wheel_ships_the_three_packages_alone(tmp_path):
    """Built by the back end that pip calls, in this process and so without an environment of its own."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path))
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    folders = {name.split("/")[0] for name in names}
    assert {folder for folder in folders if not folder.endswith(".dist-info")} == set(FLOORS)
    assert {f"{package}/py.typed" for package in FLOORS} <= set(names)
    assert "theory/report.css" in names
    assert {str(file.relative_to(ROOT)) for package in FLOORS for file in (ROOT / package).rglob("*.py")} <= set(names)
