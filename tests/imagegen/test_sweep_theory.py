"""What theory says of a sweep's digits stands beside its results."""

import re

import jax
import pytest

from imagegen.sweep_theory import predictions
from imagegen.sweeps import SWEEPS


def said(sweep, results=({"name": "nothing yet"},)):
    with jax.enable_x64(True):
        return " ".join(predictions(sweep, results))


@pytest.mark.slow
def test_noise_is_relative_to_the_norm_that_embeddings_have_learned():
    norms = {"embedding_norms": [2.0] * 10 + [100.0]}  # the last is the null condition's
    text = said("digits-conditions", [{"name": "cep-g-1", **norms}, {"name": "cep-u-1", **norms}])
    assert "cep-g-1 (noise_std 0.044)" in text  # 1/(2 √128)
    assert "cep-u-1 (noise_std 0.026)" in text
    assert all(f"for {share}" in text for share in ("2.5%", "5.0%", "7.5%", "15.0%"))


@pytest.mark.slow
def test_more_blur_needs_more_noise():
    half, one = (
        float(value) for value in re.search(r"sigma_min ([\d.]+) .* and ([\d.]+) for", said("digits-ambient")).groups()
    )
    assert 0 < half < one


def test_paths_are_told_in_the_order_of_their_error():
    pairs = re.findall(r"([a-z-]+) ([\d.]+\d)(?=[,.])", said("digits-paths").rsplit(":", 1)[1])
    assert {name for name, _ in pairs} == {member.config.path for member in SWEEPS["digits-paths"].members()}
    errors = [float(error) for _, error in pairs]
    assert errors == sorted(errors)


def test_nothing_is_said_of_a_sweep_without_results():
    assert said("digits-paths", []) == ""
