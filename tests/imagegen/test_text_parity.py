"""The same weights in transformers' BERT and in our encoder give the same embeddings.

    python -m pytest tests/imagegen/test_text_parity.py --text-python PYTHON

PYTHON is an interpreter with torch, safetensors and transformers (which never enter this environment). Skipped without.
"""

from pathlib import Path

import equinox as eqx
import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from imagegen.networks.bert_weights import from_bert
from tests.imagegen.references import run_reference

SCRIPT = Path(__file__).with_name("bert_reference.py")
TOLERANCE = 1e-4


def test_the_same_weights_give_the_same_embeddings(request, tmp_path):
    """Outputs have standard deviation 1; the measured difference is in the report of the test (-rP)."""
    python = request.config.getoption("--text-python")
    if python is None:
        pytest.skip("needs --text-python PYTHON, with torch, safetensors and transformers")
    run_reference(python, SCRIPT, tmp_path)
    encoder = from_bert(load_file(tmp_path / "model.safetensors"), heads=4)
    with np.load(tmp_path / "outputs.npz") as held:
        tokens, expected = held["tokens"], held["outputs"]
    found = eqx.filter_jit(lambda encoder, tokens: jax.vmap(encoder)(tokens))(encoder, tokens)
    assert expected.std() > 0.5
    difference = float(np.max(np.abs(found - expected)))
    print(f"BERT, 3 layers: largest difference {difference:.2e}, outputs up to {np.max(np.abs(expected)):.2f}")
    assert difference < TOLERANCE
