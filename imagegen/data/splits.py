"""Splits of data: "train", and "test", which is never trained on. The same on every machine and for every seed."""

import numpy as np
from jaxtyping import Int

from theory._checks import require

SPLITS = ("train", "test")
"""What there is of each source."""


def held_out(labels: Int[np.ndarray, " n"], n_test: int) -> Int[np.ndarray, " n_test"]:
    """Which `n_test` of n samples to hold out, ascending: of each class the same share up to one sample, at random but
    always the same. Raises `ValueError` unless 0 <= n_test <= n.
    """
    require(0 <= n_test <= labels.size, "n_test", n_test, f"in 0 ... {labels.size}")
    shuffled = np.random.default_rng(0).permutation(labels.size)
    place = np.empty(labels.size)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place[members] = (np.arange(members.size) + 0.5) / members.size
    return np.sort(np.argsort(place, kind="stable")[:n_test])
