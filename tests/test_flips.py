"""Label flips: exact small cases, the population limit, and the bound."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from theory.flips import flip_change, flip_change_bound, flipped_moments, guided_flip_change


@pytest.mark.parametrize(("a", "eta"), [(1.0, 0.125), (0.3, 0.5), (9.0, 0.05)])
def test_two_points_in_one_dimension_by_hand(a, eta):
    """S^(1/2) = |x1 - x2|/2: E is 1/√π with equal labels, half a folded normal's mean with unequal ones."""
    shift = math.sqrt(a)
    folded = math.sqrt(2) * (math.sqrt(2 / math.pi) * math.exp(-(shift**2)) + math.sqrt(2) * shift * math.erf(shift))
    exact = 4 * eta * a - 4 * eta * (1 - eta) * (folded / 2 - 1 / math.sqrt(math.pi))
    change = flip_change(2, 1, a, eta)
    assert abs(change.value - exact) < 5 * change.standard_error
    assert change.standard_error < 0.1 * exact


def test_no_flips_change_nothing_and_all_flips_move_the_mean():
    assert flip_change(5, 3, 2.0, 0.0) == (0.0, 0.0)
    everything = flip_change(5, 3, 2.0, 1.0)
    assert everything.value == pytest.approx(4 * 2.0, rel=1e-12)


@given(st.integers(2, 50), st.sampled_from([1, 2, 3, 8]), st.floats(0.01, 10), st.floats(0.01, 1))
def test_flips_hurt_by_at_least_the_bound(n, d, a, eta):
    change = flip_change(n, d, a, eta, draws=256)
    bound = flip_change_bound(n, d, a, eta)
    assert bound > 4 * a * eta**2 * (1 - 1e-12)
    assert change.value > bound * (1 - 1e-10) - 6 * change.standard_error


def test_bound_by_hand():
    """n = 2, d = 1: E tr S^(1/2) = 1/√π."""
    assert flip_change_bound(2, 1, 3.0, 0.25) == pytest.approx(12 * 0.25 * (0.25 + 0.75 * (1 - 1 / math.sqrt(math.pi))))


@pytest.mark.parametrize("a", [0.5, 4.0])
def test_many_points_reach_the_population(a):
    exact = guided_flip_change(a, 0.1, 0.0)
    change = flip_change(10_000, 1, a, 0.1)
    # curvature of the root in a mean of n points: of order (1 + a)²/n
    assert abs(change.value - exact) < 5 * change.standard_error + (1 + a) ** 2 / 10_000


def test_population_without_guidance_is_elementary():
    a, eta = 2.0, 0.05
    exact = 4 * eta**2 * a + (math.sqrt(1 + 4 * eta * (1 - eta) * a) - 1) ** 2
    assert guided_flip_change(a, eta, 0.0) == pytest.approx(exact, rel=1e-12)
    assert flipped_moments(a, eta) == pytest.approx((0.9 * math.sqrt(2), 1.38))


def test_with_guidance_a_few_flips_help_and_many_hurt():
    assert guided_flip_change(1.0, 0.05, 1.0) < 0 < guided_flip_change(1.0, 0.5, 1.0)
    assert guided_flip_change(1.0, 0.05, 0.0) > 0


def test_errors_do_not_depend_on_chance_alone():
    first, again, other = (flip_change(9, 2, 1.0, 0.1, seed=seed) for seed in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda: flip_change(1, 2, 1.0, 0.1), "n"),
        (lambda: flip_change(5, 2, -1.0, 0.1), "mean_square"),
        (lambda: flip_change(5, 2, 1.0, 1.1), "eta"),
        (lambda: flip_change(5, 2, 1.0, math.nan), "eta"),
        (lambda: flip_change(5, 2, 1.0, 0.1, draws=3), "draws"),
        (lambda: flip_change_bound(5, 2, 1.0, -0.1), "eta"),
        (lambda: guided_flip_change(1.0, 0.1, -1.0), "guidance"),
    ],
)
def test_bad_input_names_the_argument(call, name):
    with pytest.raises(ValueError, match=rf"^{name} must be"):
        call()
