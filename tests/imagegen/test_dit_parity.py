"""The same weights in facebookresearch/DiT and in ours give the same output.

    python -m pytest tests/imagegen/test_dit_parity.py --reference DIR --reference-python PYTHON

DIR is a checkout of that repository, PYTHON an interpreter with torch, torchvision and timm (torch never enters this
environment). Skipped without them. The largest, XL/2, is slow: add `-m 'slow or not slow'`.
"""

from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.networks.dit_weights import from_reference, to_reference
from tests.imagegen.references import run_reference

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "dit_reference.py"
TOLERANCE = 1e-4
HEADS = {"DiT-S/2": 6, "DiT-XL/2": 16}


@pytest.fixture
def reference(request):
    """The two options, or a skip that says which is missing."""
    folder, python = (request.config.getoption(name) for name in ("--reference", "--reference-python"))
    if folder is None or python is None:
        pytest.skip("needs --reference DIR (a checkout of facebookresearch/DiT) and --reference-python PYTHON")
    assert (folder / "models.py").is_file(), f"--reference: no models.py in {folder}"
    return folder, python


@pytest.mark.parametrize("model", ["DiT-S/2", pytest.param("DiT-XL/2", marks=pytest.mark.slow)])
def test_the_same_weights_give_the_same_output(model, reference, tmp_path):
    """All weights random (at first the output is exactly 0); two labels, a class and the null class, learned variances.

    Outputs have standard deviation 1.2 and are up to 4.6; measured differences are 2.1e-5 (S/2) and 2.2e-5 (XL/2).
    """
    folder, python = reference
    file = tmp_path / "reference.npz"
    run_reference(python, SCRIPT, "--reference", folder.resolve(), "--model", model, "--output", file)
    with np.load(file) as held:
        state = {name.removeprefix("state/"): held[name] for name in held.files if name.startswith("state/")}
        x, t, y, expected = (held[name] for name in ("x", "t", "y", "output"))
    file.unlink()
    network, table = from_reference(state, heads=HEADS[model])
    call = eqx.filter_jit(lambda network, *values: jax.vmap(network)(*values))
    out = call(network, jnp.asarray(np.moveaxis(x, 1, -1)), jnp.asarray(t / 1000), table[y])
    expected = np.moveaxis(expected, 1, -1)
    assert expected.std() > 0.5
    difference = float(np.max(np.abs(out - expected)))
    print(f"{model}: largest difference {difference:.2e}, outputs up to {np.max(np.abs(expected)):.2f}")
    assert difference < TOLERANCE
    again = to_reference(network, table)
    assert again.keys() == state.keys()
    assert all(np.array_equal(again[name], state[name]) for name in state if name != "pos_embed")
