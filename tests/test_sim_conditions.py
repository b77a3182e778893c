"""sim.conditions: exact class posteriors against the operators' own samplers, quadrature and closed forms."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from sim.conditions import seen_classes
from theory.corruption import (
    CaptionSwap,
    Dropout,
    EmbeddingGaussian,
    EmbeddingUniform,
    Fixed,
    Fresh,
    InputPerturbation,
    LabelSmoothing,
    Partly,
    symmetric_flip,
)

PRIOR = jnp.array([0.5, 0.3, 0.2])
CODES = jnp.array([[0.0, 0.0], [0.4, -0.2], [1.0, 0.7]])
ONE_HOT = jnp.eye(3)


@eqx.filter_jit
def drawn(operator, codes, n=40_000):
    """n draws of the training code per class, by the operator's own sampler: shape (K, n, d_emb)."""
    keys = jax.random.split(jax.random.key(3), (len(codes), n))
    return jax.vmap(jax.vmap(operator.sample, in_axes=(0, None)))(keys, codes)


def counted(draws, prior, shown, tolerance):
    """(share of each class, its standard error) among draws with every coordinate within `tolerance` of the code."""
    near = np.max(np.abs(draws - np.asarray(shown)), axis=2) <= tolerance
    hits = np.mean(near, axis=1) * np.asarray(prior)
    errors = np.sqrt(np.mean(near, axis=1) / near.shape[1]) * np.asarray(prior)
    return hits / hits.sum(), (errors + hits * errors.sum() / hits.sum()) / hits.sum()


def test_flips_are_the_operators_posterior():
    operator = symmetric_flip(PRIOR, 0.2)
    joint = np.asarray(PRIOR)[:, None] * np.asarray(operator.transition())
    expected = (joint / joint.sum(0)).T
    np.testing.assert_allclose(seen_classes(operator, CODES, PRIOR), expected, rtol=1e-14)
    swap = CaptionSwap(4, 0.5)
    assert seen_classes(swap, jnp.eye(4), jnp.full(4, 0.25)).shape == (4, 4)


@settings(max_examples=12)
@given(gamma=st.floats(0.2, 3.0), shift=st.floats(-1, 1))
def test_gaussian_codes_by_probabilities_of_a_small_box(gamma, shift):
    """The share of class k among codes in a box of half-width h around c is, up to O(h²/std²), row c."""
    codes, h = CODES.at[1, 0].add(shift), 1e-4 * gamma
    std = gamma / np.sqrt(2)
    table = seen_classes(EmbeddingGaussian(gamma), codes, PRIOR)
    boxes = np.asarray(codes)[:, None] - np.asarray(codes)[None]
    # a survival function where the box lies above its mean: a difference of two numbers near 1 would cancel
    side = np.abs(boxes)
    mass = np.prod(norm.sf((side - h) / std) - norm.sf((side + h) / std), axis=2) * np.asarray(PRIOR)
    np.testing.assert_allclose(table, mass / mass.sum(1, keepdims=True), rtol=1e-5, atol=1e-12)


@pytest.mark.parametrize(
    ("operator", "tolerance"),
    [(EmbeddingGaussian(1.0), 0.12), (EmbeddingUniform(0.8), 0.12), (EmbeddingUniform(2.0), 0.12)],
)
def test_continuous_laws_by_draws(operator, tolerance):
    """Draws within 0.12 of the code; densities vary by up to (0.12/std)²/3 ≈ 1 % over the box, uniform ones only at
    an edge: no edge of these cubes is within 0.12 of a code."""
    table, draws = (np.asarray(a) for a in (seen_classes(operator, CODES, PRIOR), drawn(operator, CODES)))
    for c in range(3):
        share, error = counted(draws, PRIOR, CODES[c], tolerance)
        assert np.all(np.abs(table[c] - share) <= 4.5 * error + 0.02), (c, table[c], share, error)


def test_uniform_edges_are_where_they_should_be():
    """Half-width γ/√d_emb in every coordinate: codes at distance (0.4, 0.2) overlap iff it exceeds 0.4."""
    below, above = (
        seen_classes(EmbeddingUniform(float(np.sqrt(2) * g)), CODES[:2], jnp.array([0.25, 0.75])) for g in (0.39, 0.41)
    )
    np.testing.assert_array_equal(below, np.eye(2))
    np.testing.assert_allclose(above, [[0.25, 0.75]] * 2, rtol=1e-15)


NESTED = jnp.array([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 2.0]])


def test_dropout_of_nested_codes_by_draws():
    """Class 0's code is class 1's with a coordinate dropped, so dropout makes them look alike, one way."""
    operator, shown = Dropout(0.3), np.asarray(NESTED) / 0.7
    table, draws = (np.asarray(a) for a in (seen_classes(operator, NESTED, PRIOR), drawn(operator, NESTED)))
    for c in range(3):
        share, error = counted(draws, PRIOR, shown[c], 1e-9)
        assert np.all(np.abs(table[c] - share) <= 4.5 * error + 1e-12), (c, table[c], share)
    np.testing.assert_allclose(table[0, 1], 0.3 * 0.3 / (0.5 + 0.3 * 0.3), rtol=1e-12)
    np.testing.assert_allclose(table[1], [0, 1, 0], atol=1e-15)


def test_what_changes_nothing_for_an_unrestricted_learner():
    """One-hot codes: CEP-U below √d_emb, dropout, label smoothing, input perturbation, CEP on a part of the samples."""
    for operator in (
        EmbeddingUniform(0.999 * np.sqrt(3)),
        Dropout(0.7),
        LabelSmoothing(0.9),
        InputPerturbation(5.0),
        Partly(EmbeddingGaussian(10.0), 0.99),
        Partly(EmbeddingUniform(10.0), 0.5),
        Partly(Dropout(0.5), 0.5),
        EmbeddingGaussian(0.0),
        EmbeddingUniform(0.0),
    ):
        np.testing.assert_allclose(seen_classes(operator, ONE_HOT, PRIOR), np.eye(3), atol=1e-15, err_msg=str(operator))


def test_what_changes_something():
    everything = np.broadcast_to(PRIOR, (3, 3))
    for operator in (EmbeddingUniform(1.001 * np.sqrt(3)), LabelSmoothing(1.0), Partly(EmbeddingUniform(2.0), 1.0)):
        np.testing.assert_allclose(seen_classes(operator, ONE_HOT, PRIOR), everything, rtol=1e-14)
    even = jnp.full(3, 1 / 3)
    table = seen_classes(EmbeddingGaussian(1.5), ONE_HOT, even)
    ratio = np.exp(-3 / 1.5**2)  # |c - c'|² = 2 and std² = γ²/3: exp(-2/(2 γ²/3))
    np.testing.assert_allclose(table[0], np.array([1, ratio, ratio]) / (1 + 2 * ratio), rtol=1e-14)


def test_atoms_beat_densities():
    """Two classes share a code: the atom at it is shared by prior, however strong the noise on the others."""
    codes = jnp.array([[0.0, 1.0], [0.0, 1.0], [0.1, 1.0]])
    table = seen_classes(Partly(EmbeddingGaussian(3.0), 0.9), codes, PRIOR)
    np.testing.assert_allclose(table, [[5 / 8, 3 / 8, 0], [5 / 8, 3 / 8, 0], [0, 0, 1]], rtol=1e-14)


def test_partly_dropout_counts_both_atoms():
    """Code 0 is what dropout makes of code 1 (kept coordinates doubled), so seeing it may be either."""
    codes, prior = jnp.array([[2.0, 0.0], [1.0, 3.0]]), jnp.array([0.4, 0.6])
    table = seen_classes(Partly(Dropout(0.5), 0.2), codes, prior)
    own, other = 0.4 * 0.8, 0.6 * 0.2 * 0.25  # (4, 0) ≠ (2, 0): class 0 reaches its code only untouched
    np.testing.assert_allclose(table[0], [own / (own + other), other / (own + other)], rtol=1e-12)


@settings(max_examples=8)
@given(gamma=st.floats(0, 3), rate=st.floats(0, 0.9), eta=st.floats(0, 1), seed=st.integers(0, 99))
def test_rows_are_probabilities(gamma, rate, eta, seed):
    codes = jax.random.normal(jax.random.key(seed), (4, 3))
    prior = jax.nn.softmax(jax.random.normal(jax.random.key(seed + 1), (4,)))
    inner = (EmbeddingGaussian(gamma), EmbeddingUniform(gamma), Dropout(rate), LabelSmoothing(rate))
    for operator in (*inner, InputPerturbation(gamma), Partly(inner[0], eta), Partly(inner[2], eta)):
        table = np.asarray(seen_classes(operator, codes, prior))
        assert np.all(table >= 0)
        np.testing.assert_allclose(table.sum(1), 1, rtol=1e-12)
        assert np.all(np.diag(table) > 0)


def test_wrappers_have_the_law_of_what_they_wrap():
    table = seen_classes(EmbeddingGaussian(1.0), CODES, PRIOR)
    for wrapped in (Fresh(EmbeddingGaussian(1.0)), Fixed(EmbeddingGaussian(1.0))):
        np.testing.assert_array_equal(seen_classes(wrapped, CODES, PRIOR), table)


def test_traceable_in_the_strength():
    strengths = jnp.array([0.0, 0.5, 2.0])
    tables = jax.vmap(lambda g: seen_classes(EmbeddingGaussian(g), CODES, PRIOR))(strengths)
    for table, g in zip(tables, strengths, strict=True):
        np.testing.assert_allclose(table, seen_classes(EmbeddingGaussian(float(g)), CODES, PRIOR), rtol=1e-14)


def test_bad_input():
    with pytest.raises(ValueError, match="codes must be of shape"):
        seen_classes(EmbeddingGaussian(1.0), CODES[0], PRIOR)
    with pytest.raises(ValueError, match="codes must be finite"):
        seen_classes(EmbeddingGaussian(1.0), CODES.at[0, 0].set(jnp.nan), PRIOR)
    with pytest.raises(ValueError, match="prior must be of sum 1"):
        seen_classes(EmbeddingGaussian(1.0), CODES, PRIOR / 2)
