"""What tests share: Hypothesis strategies built from the same constructions as the claims' cases, and all paths."""

import pytest
from hypothesis import strategies as st

from theory.claims.cases import covariance, direction
from theory.paths import PATHS

QUICK_PATHS = ("vp_linear", "variance_exploding", "shortest")
SOME_PATHS = [name if name in QUICK_PATHS else pytest.param(name, marks=pytest.mark.slow) for name in sorted(PATHS)]
"""All paths for `parametrize`; those dearest to compile or nearest to one of the others only with `-m slow`."""

dimensions = st.sampled_from([1, 2, 3, 8])
seeds = st.integers(0, 2**32 - 1)


@st.composite
def covariances(draw, d=None, max_condition=1e8, singular=False):
    """Covariances with largest eigenvalue 1, condition numbers up to `max_condition`, singular ones if asked."""
    d = draw(dimensions) if d is None else d
    condition = max_condition ** draw(st.floats(0, 1))
    rank = draw(st.integers(1, d)) if singular else None
    return covariance(d, condition, draw(seeds), rank)


@st.composite
def vectors(draw, d, max_norm=10.0):
    """Vectors of norm up to `max_norm`, the zero vector among them."""
    return draw(st.floats(0, max_norm)) * direction(d, draw(seeds))
