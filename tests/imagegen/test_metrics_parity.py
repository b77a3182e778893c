"""Inception-v3 and the metrics are torch-fidelity's: the same weights and images give the same features and figures.

    python -m pytest tests/imagegen/test_metrics_parity.py --metrics-python PYTHON

PYTHON is an interpreter with torch, torchvision and torch-fidelity (torch never enters this environment). Skipped
without it.
"""

from pathlib import Path

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.fidelity import Moments, frechet, inception_score, kernel_distance, shuffled
from imagegen.inception import load_inception, resize
from sim.neighbours import precision_recall
from tests.imagegen.references import run_reference

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "metrics_reference.py"
TOLERANCE = 1e-4
"""Largest difference over the standard deviation of the expected values."""
NAMES = {"2048": "pool", "spatial": "spatial", "logits_unbiased": "logits"}


@pytest.fixture(scope="module")
def reference(request, tmp_path_factory):
    """What torch-fidelity says, by name, and its files of weights."""
    python = request.config.getoption("--metrics-python")
    if python is None:
        pytest.skip("needs --metrics-python PYTHON, one with torch and torch-fidelity")
    folder = tmp_path_factory.mktemp("metrics")
    run_reference(python, SCRIPT, "--weights", folder / "weights.pth", "--output", folder / "reference.npz")
    with np.load(folder / "reference.npz") as held:
        return {name: held[name] for name in held.files}, folder


@pytest.fixture(scope="module")
def network(reference):
    return load_inception(reference[1] / "weights.pth")


def test_both_layouts_of_the_file_hold_the_same_network(reference, network):
    old = load_inception(reference[1] / "weights-old.pth")
    assert old.sha256 == network.sha256
    for name, layer in network.layers.items():
        np.testing.assert_array_equal(layer.weight, old.layers[name].weight)


@pytest.mark.parametrize("size", ["8x8", "32x48", "299x299", "400x333"])
def test_the_same_weights_and_images_give_the_same_features(reference, network, size):
    held, _ = reference
    images = held[f"images/{size}"]
    resized = resize(jnp.asarray(images[:1], jnp.float32))
    np.testing.assert_allclose(resized, held[f"resized/{size}"], atol=1e-4)  # of bytes
    outputs = eqx.filter_jit(network.__call__)(jnp.asarray(images))
    for theirs, ours in NAMES.items():
        expected = held[f"{theirs}/{size}"]
        difference = float(np.max(np.abs(getattr(outputs, ours) - expected)) / expected.std())
        print(f"{size}, {ours}: largest difference {difference:.1e} of their standard deviation {expected.std():.2f}")
        assert difference < TOLERANCE


def test_the_same_features_give_the_same_metrics(reference):
    held = {name.removeprefix("metrics/"): value for name, value in reference[0].items() if "metrics/" in name}
    made, real = held["made"], held["real"]
    manifolds, score = precision_recall(real, made), inception_score(shuffled(held["logits"]))
    kid = kernel_distance(made, real, subsets=20, size=100)
    ours = {
        "frechet_inception_distance": frechet(Moments.of(made).statistics(), Moments.of(real).statistics()),
        "inception_score_mean": score.mean,
        "inception_score_std": score.std,
        "precision": manifolds.precision,
        "recall": manifolds.recall,
        "kernel_inception_distance_mean": kid.mean,
        "kernel_inception_distance_std": kid.std,
    }
    for name, value in ours.items():
        print(f"{name}: {value:.9g}, torch-fidelity {float(held[name]):.9g}")
        tolerance = 1e-7 if name in ("precision", "recall") else 1e-9  # these are float32 there
        np.testing.assert_allclose(value, held[name], rtol=tolerance)
