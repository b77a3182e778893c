"""What is trained: who is confused with whom."""

import jax.numpy as jnp
import numpy as np
import pytest

from imagegen.config import Config, check
from imagegen.model import confusable_groups, make_operators
from imagegen.statistics import Statistics

NAMES = ("cat", "dog", "lorry", "car", "tree")


def test_asymmetric_flips_stay_among_the_classes_named():
    config = Config(flips="asymmetric", flip_share=0.5, flips_drawn="fixed", confusable=("dog/cat", "car/lorry"))
    check(config)
    known = Statistics((2, 2, 1), NAMES, np.array([0.1, 0.3, 0.2, 0.2, 0.2]), np.ones((2, 2)), 1.0)
    flip = make_operators(config, known).label_operator.operator
    expected = np.array(
        [[0.5, 0.5, 0, 0, 0], [0.5, 0.5, 0, 0, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5, 0], [0, 0, 0, 0, 1.0]]
    )
    np.testing.assert_allclose(flip.matrix, expected, atol=1e-7)


@pytest.mark.parametrize(("groups", "message"), [
    (("cat/dgo",), "did you mean 'dog'"), (("cat",), "two classes or more"), (("cat/dog", "dog/car"), "'dog' twice"),
    (("cat/cat",), "'cat' twice"),
])  # fmt: skip
def test_groups_that_make_no_sense_are_refused(groups, message):
    with pytest.raises(ValueError, match=message):
        confusable_groups(groups, NAMES)


def test_classes_in_no_group_keep_their_own_number():
    assert confusable_groups(("tree/cat",), NAMES).tolist() == [4, 1, 2, 3, 4]
    assert jnp.issubdtype(confusable_groups((), NAMES).dtype, jnp.integer)


@pytest.mark.parametrize("flips", ["none", "symmetric"])
def test_confusable_classes_without_asymmetric_flips_are_refused(flips):
    share = 0.0 if flips == "none" else 0.1
    with pytest.raises(ValueError, match="confusable must be given exactly for asymmetric"):
        check(Config(flips=flips, flip_share=share, confusable=("3/8",)))
    with pytest.raises(ValueError, match="confusable must be given exactly for asymmetric"):
        check(Config(flips="asymmetric", flip_share=0.1))
