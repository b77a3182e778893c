"""The same weights in CompVis/latent-diffusion's U-Net and in ours give the same output.

    python -m pytest tests/imagegen/test_ldm_parity.py --ldm-reference DIR --reference-python PYTHON

DIR is a checkout of that repository, PYTHON an interpreter with torch and einops (torch never enters this environment).
Skipped without them. The size of the papers is slow: add `-m 'slow or not slow'`.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.networks.ldm_weights import from_reference, of_checkpoint, to_reference
from imagegen.networks.registry import make_network, parameter_count
from imagegen.weight_files import read_state_dict
from tests.imagegen.references import run_reference

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "ldm_reference.py"
TOLERANCE = 1e-4
SIZES = {"small": ("ldm-small", (8, 8, 1)), "ldm-4": ("ldm-4", (64, 64, 3))}


@pytest.fixture
def reference(request):
    """The two options, or a skip that says which is missing."""
    folder, python = (request.config.getoption(name) for name in ("--ldm-reference", "--reference-python"))
    if folder is None or python is None:
        pytest.skip("needs --ldm-reference DIR (a checkout of CompVis/latent-diffusion) and --reference-python PYTHON")
    assert (folder / "ldm").is_dir(), f"--ldm-reference: no ldm in {folder}"
    return folder, python


@pytest.mark.parametrize("model", ["small", pytest.param("ldm-4", marks=pytest.mark.slow)])
def test_the_same_weights_give_the_same_output(model, reference, tmp_path):
    """All weights random (at first the output is exactly 0), read from a checkpoint that torch wrote; two labels, two
    classes, the second one null, as sequences of one token, and sequences of 7. Relative to the largest output.

    Outputs have standard deviation 0.2 and are up to 1; measured differences are 1e-6.
    """
    folder, python = reference
    arguments = ("--reference", folder.resolve(), "--model", model, "--output", tmp_path)
    run_reference(python, SCRIPT, *arguments, seconds=900)
    state, table = of_checkpoint(read_state_dict(tmp_path / "weights.ckpt"))
    (tmp_path / "weights.ckpt").unlink()
    name, shape = SIZES[model]
    network = from_reference(state, eqx.filter_eval_shape(make_network, name, shape, key=jax.random.key(0)))
    with np.load(tmp_path / "values.npz") as held:
        values = dict(held)
    assert parameter_count(network) == values["count"]
    call = eqx.filter_jit(lambda network, *values: jax.vmap(network)(*values))
    x, label = jnp.asarray(np.moveaxis(values["x"], 1, -1)), jnp.asarray(values["t"] / 1000)
    for kind, cond in (("by_class", table[values["y"]]), ("by_tokens", values["tokens"])):
        expected = np.moveaxis(values[kind], 1, -1)
        largest = float(np.max(np.abs(expected)))
        difference = float(np.max(np.abs(call(network, x, label, jnp.asarray(cond)) - expected))) / largest
        print(f"{model} {kind}: difference {difference:.2e} of {largest:.2f}, {parameter_count(network)} parameters")
        assert expected.std() > 0.1
        assert difference < TOLERANCE
    again = to_reference(network)
    assert again.keys() == state.keys()
    assert all(np.array_equal(again[name], state[name]) for name in state)
