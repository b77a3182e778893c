"""Weights saved by diffusers' DiT and U-Net give the same output in ours.

    python -m pytest tests/imagegen/test_diffusers_parity.py --reference-python PYTHON

PYTHON is an interpreter with torch and diffusers (torch never enters this environment). Skipped without it.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.model import Model
from imagegen.networks.registry import make_network
from imagegen.weights import start_from
from tests.imagegen.references import run_reference

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "diffusers_reference.py"
TOLERANCE = 1e-4
NETWORKS = {"dit": "dit-digits", "ldm": "ldm-small"}


@pytest.mark.parametrize("kind", NETWORKS)
def test_saved_weights_give_the_same_output(kind, request, tmp_path):
    """All weights random (at first the output is exactly 0); differences relative to the largest output."""
    python = request.config.getoption("--reference-python")
    if python is None:
        pytest.skip("needs --reference-python PYTHON (with torch and diffusers)")
    run_reference(python, SCRIPT, "--model", kind, "--output", tmp_path)
    with np.load(tmp_path / "values.npz") as held:
        values = dict(held)
    network = make_network(NETWORKS[kind], (8, 8, 1), key=jax.random.key(0))
    model = start_from(Model(network, jnp.zeros((11, network.d_emb))), tmp_path / "model.safetensors")
    cond = model.table[values["y"]] if kind == "dit" else jnp.asarray(values["tokens"])
    call = eqx.filter_jit(lambda network, *values: jax.vmap(network)(*values))
    out = call(model.network, jnp.asarray(np.moveaxis(values["x"], 1, -1)), jnp.asarray(values["t"] / 1000), cond)
    expected = np.moveaxis(values["output"], 1, -1)
    largest = float(np.max(np.abs(expected)))
    difference = float(np.max(np.abs(out - expected))) / largest
    print(f"{kind}: difference {difference:.2e} of {largest:.2f}")
    assert expected.std() > 0.1
    assert difference < TOLERANCE
    if kind == "dit":  # diffusers' own features of the timestep are others: the module says so
        assert np.max(np.abs(np.moveaxis(values["output_own"], 1, -1) - expected)) > 100 * TOLERANCE * largest
