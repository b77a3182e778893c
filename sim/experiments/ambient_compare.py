"""Paired comparisons of a gated distance with clean only and with everything, over repeats of the training set."""

import numpy as np
from jaxtyping import Float

from sim.intervals import mean_interval, paired_difference
from theory._checks import require


def cross_fitted(
    scanned: Float[np.ndarray, "r s"], clean: Float[np.ndarray, " r"], everything: Float[np.ndarray, " r"]
) -> dict:
    """The gain of the best column, chosen for one half of the repeats by the mean of the *other* half: free of the
    optimism of a minimum over a scan, as the halves are independent. (Leaving out one repeat at a time is not free of
    bias: a column is chosen *because* the repeat left out, high in it, is missing.) Gains over clean only and
    everything with intervals; `indices`: the two columns chosen, rising.

    Raises `ValueError` for fewer than 2 repeats.
    """
    require(len(scanned) >= 2, "scanned", f"{len(scanned)} repeats", "at least 2 repeats")
    value, indices = np.empty(len(scanned)), []
    for half in (0, 1):
        indices.append(int(np.argmin(scanned[1 - half :: 2].mean(axis=0))))
        value[half::2] = scanned[half::2, indices[-1]]
    return {"indices": sorted(indices), **compared(value, clean, everything)}


def compared(
    value: Float[np.ndarray, " r"], clean: Float[np.ndarray, " r"], everything: Float[np.ndarray, " r"]
) -> dict:
    """Mean of a distance over repeats, and its gains over clean only and over everything, with intervals."""
    return {
        "value": mean_interval(value),
        "over_clean": paired_difference(clean, value),
        "over_everything": paired_difference(everything, value),
    }
