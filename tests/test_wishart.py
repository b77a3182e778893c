"""Exact eigenvalue moments of Wishart matrices, and the continued fraction behind rank-one changes."""

import math

import numpy as np
import pytest
from scipy.special import gamma

from theory.wishart import (
    _chi_squares,
    _resolvent,
    draw_resolvent_at,
    draw_resolvents,
    kappa,
    mean_root,
    root_moment,
)

EPS = np.finfo(float).eps


@pytest.mark.parametrize(("d", "alpha"), [(1, 0), (2, 0), (2, 1), (3, 2), (8, 5), (9, 4), (64, 2), (63, 900), (257, 3)])
@pytest.mark.parametrize("swapped", [False, True])
def test_integer_moments_are_the_known_polynomials(d, alpha, swapped):
    dof = d + alpha
    args = (d, dof) if swapped else (dof, d)  # dof < d: the positive eigenvalues are those of the smaller matrix
    assert root_moment(*args, 0.0) == pytest.approx(d, rel=1e-11)
    assert root_moment(*args, 1.0) == pytest.approx(d * dof, rel=1e-11)
    assert root_moment(*args, 2.0) == pytest.approx(d * dof * (d + dof + 1), rel=1e-11)
    if alpha >= 2:
        assert root_moment(*args, -1.0) == pytest.approx(d / (alpha - 1), rel=1e-9)
    else:
        assert root_moment(*args, -1.0) == math.inf


@pytest.mark.parametrize("n", [3, 4, 10, 1000])
def test_one_dimension_is_a_chi_square(n):
    exact = math.sqrt(n / 2) * gamma((n - 2) / 2) / gamma((n - 1) / 2) if n < 100 else 1 + 10 / (8 * n)
    assert kappa(n, 1) == pytest.approx(exact, rel=1e-11 if n < 100 else 5 / n**2)
    exact = math.sqrt(2 / n) * gamma(n / 2) / gamma((n - 1) / 2) if n < 100 else 1 - 6 / (8 * n)
    assert mean_root(n, 1) == pytest.approx(exact, rel=1e-11 if n < 100 else 5 / n**2)


@pytest.mark.parametrize("n", [5, 6, 9, 40])
def test_two_dimensions_against_bartlett(n):
    """tr W^(1/2) = sqrt(tr W + 2 sqrt det W) for 2 x 2, and tr W^(-1/2) is that over sqrt det W."""
    rng, count = np.random.default_rng(n), 200_000
    a, b = rng.chisquare(n - 1, count), rng.chisquare(n - 2, count)
    root_det = np.sqrt(a * b)
    roots = np.sqrt(a + b + rng.standard_normal(count) ** 2 + 2 * root_det) / np.sqrt(n) / 2
    for samples, exact in ((roots, mean_root(n, 2)), (roots * n / root_det, kappa(n, 2))):
        assert abs(samples.mean() - exact) < 6 * samples.std() / math.sqrt(count)


@pytest.mark.parametrize("d", [1, 2, 7, 64])
def test_large_n_expansions(d):
    n = 100 * d**2 + 5000
    assert (kappa(n, d) - 1) * n == pytest.approx((3 * d + 7) / 8, abs=2 * (d + 2) ** 2 / n)
    assert (1 - mean_root(n, d)) * n == pytest.approx((d + 5) / 8, abs=2 * (d + 2) ** 2 / n)


def test_kappa_is_infinite_up_to_d_plus_one_points():
    assert kappa(4, 3) == math.inf == kappa(2, 64)
    assert math.isfinite(kappa(5, 3))


def test_many_points_in_many_dimensions_stay_exact():
    assert root_moment(9_999, 512, 1.0) == pytest.approx(512 * 9_999, rel=1e-11)
    assert root_moment(10**6, 512, 1.0) == pytest.approx(512 * 10**6, rel=1e-10)
    assert 1 < math.sqrt(10_000 / 9_999) < kappa(10_000, 512) < 1.03


@pytest.mark.parametrize(("dof", "d"), [(0, 3), (1, 1), (1, 3), (2, 5), (4, 4), (6, 3), (3, 1)])
def test_continued_fraction_is_a_resolvent_of_the_bidiagonal_form(dof, d):
    a, b = _chi_squares(dof, d, 5, 3)
    times = np.array([1e-3, 0.7, 40.0])
    g = _resolvent(times, a, b)
    for row in range(5):
        factor = np.zeros((d, d))
        for k in range(a.shape[1]):
            factor[k, k] = math.sqrt(a[row, k])
            if k + 1 < d:
                factor[k + 1, k] = math.sqrt(b[row, k])
        for j, t in enumerate(times):
            dense = np.linalg.inv(factor @ factor.T + t * np.eye(d))[0, 0]
            assert g[row, j] == pytest.approx(dense, rel=1e-9)


@pytest.mark.parametrize(("dof", "d"), [(0, 3), (2, 5), (4, 4), (9, 3), (1, 1), (300, 4)])
def test_added_root_trace_of_draws_is_that_of_dense_matrices(dof, d):
    draws = draw_resolvents(dof, d, 64, 1)
    a, b = _chi_squares(dof, d, 64, 1)
    for size in (1e-6, 0.3, 50.0, 1e5):
        added = draws.added(np.full(64, size))
        for row in range(0, 64, 16):
            factor = np.diag(np.sqrt(np.append(a[row], np.zeros(d - a.shape[1]))))
            for k in range(min(a.shape[1], d - 1)):
                factor[k + 1, k] = math.sqrt(b[row, k])
            block = np.concatenate([factor, math.sqrt(size) * np.eye(d)[:, :1]], axis=1)
            roots = [np.linalg.svd(x, compute_uv=False).sum() for x in (block, factor)]
            noise = 20 * d * EPS * roots[0]  # of the singular values
            assert abs(added[row] - (roots[0] - roots[1])) < 1e-8 * added[row] + noise


def test_slope_and_curvature_are_derivatives():
    draws = draw_resolvents(9, 3, 64, 0)
    r, h = np.full(64, 2.0), 1e-4
    difference = (draws.added(r + h) - draws.added(r - h)) / (2 * h)
    np.testing.assert_allclose(draws.slope(r), difference, rtol=1e-7)
    np.testing.assert_allclose(draws.curvature(r), (draws.slope(r + h) - draws.slope(r - h)) / (2 * h), rtol=1e-7)


def test_resolvent_at_one_time_belongs_to_the_same_draws():
    draws = draw_resolvents(9, 3, 64, 2)
    middle = draws.times.size // 2
    at = draw_resolvent_at(9, 3, 64, 2, time=float(draws.times[middle]))
    np.testing.assert_allclose(at, draws.values[:, middle], rtol=1e-13)
    np.testing.assert_allclose(draws.first, _chi_squares(9, 3, 64, 2)[0][:, 0])


@pytest.mark.parametrize("call", [lambda: kappa(1, 2), lambda: kappa(3, 0), lambda: mean_root(2.5, 1)])
def test_sizes_are_checked(call):
    with pytest.raises(Exception, match=r"n must be|d must be|Type-check"):
        call()


def test_bad_powers_are_refused():
    with pytest.raises(ValueError, match="power"):
        root_moment(5, 2, 0.3)
    with pytest.raises(ValueError, match="dof"):
        root_moment(0, 2, 0.5)
