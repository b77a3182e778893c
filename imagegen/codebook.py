"""Entropy of the codes that a codebook gives images: how many different things the images show, in small parts.

Each image is encoded by a VQModel (`imagegen.pretrained`), and every place of its latent gets the number of the nearest
vector of the codebook. With p_k the share of code k among all places of all images,

    H = - Σ_k p_k log p_k        nats, 0 ... log K

(SC measures the diversity of samples by an entropy over such codes, eq. 41). From few images H is too small, since rare
codes are not met. N independent places would make it too small by (K₊ - 1)/(2N) at first order, K₊ codes being met
(Miller 1955); but the places of one image depend on one another, so that the bias is taken from the jackknife instead,
which leaves out whole images (Quenouille 1956): images in `GROUPS` = 20 groups at random, one group at a time. Both are
first-order corrections: with far fewer places than codes neither suffices, and H can be compared between equally many
images only. So as many real images as samples are taken.
"""

from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int

from sim.intervals import Estimate, jackknife_estimate
from theory._checks import require

GROUPS = 20
"""Groups of the jackknife."""
Counts = Int[np.ndarray, "g K"]
"""How often each code is met, in each group of images."""


@runtime_checkable
class Quantiser(Protocol):
    """What has a codebook: `imagegen.pretrained.Autoencoder`, of a VQModel. `sha256` tells which weights it has,
    `codebook` is K.
    """

    codebook: int
    sha256: str

    def encode(
        self, images: Float[np.ndarray, "b h w 3"]
    ) -> tuple[Float[np.ndarray, "b h2 w2 c"], Float[np.ndarray, "b h2 w2 c"]]:
        """Mean and deviation of the latents of images in [-1, 1]; the mean is what has codes."""

    def codes(self, latents: Float[np.ndarray, "b h2 w2 c"]) -> Int[np.ndarray, "b h2 w2"]:
        """The codes of latents, 0 ... K - 1."""


def random_groups(n: int, taken: int, rng: np.random.Generator) -> Int[np.ndarray, " n"]:
    """For each of n images its group, 0 ... `GROUPS` - 1, as equally large as can be; -1 but for `taken` of them.

    At random, for images often stand in the order of their classes. Raises `ValueError` unless `GROUPS` <= taken <= n.
    """
    require(GROUPS <= taken <= n, "images", f"{taken} of {n}", f"at least {GROUPS}, for the jackknife")
    groups = np.full(n, -1)
    groups[rng.permutation(n)[:taken]] = np.arange(taken) % GROUPS
    return groups


def add_codes(counts: Counts, codes: Int[np.ndarray, "b h w"], groups: Int[np.ndarray, " b"]) -> None:
    """Count the codes of b images of these groups in `counts`, in place; those of group -1 are left out."""
    for one, group in zip(codes, groups, strict=True):
        if group >= 0:
            counts[group] += np.bincount(one.reshape(-1), minlength=counts.shape[1])


def entropy(counts: Counts) -> float:
    """Entropy in nats of the shares of the codes in all groups together, as it is, not corrected."""
    total = counts.sum(axis=0)
    shares = total[total > 0] / total.sum()
    return float(-np.sum(shares * np.log(shares)))


def miller_madow_bias(counts: Counts) -> float:
    """-(K₊ - 1)/(2N), the bias of `entropy` at first order if all N places were independent."""
    total = counts.sum(axis=0)
    return -float(np.count_nonzero(total) - 1) / (2 * float(total.sum()))


def entropy_figures(samples: Counts, real: Counts) -> dict[str, dict[str, Any]]:
    """Figures like those of `imagegen.figures`, in nats, of codes counted in groups of independent images:

    - `codebook_entropy`: of the samples; `codebook_entropy_real`: of the real images. `bias` is the jackknife's,
      `miller_madow_bias` that of independent places, `codes` how many are met, `places` among how many;
    - `codebook_entropy_difference`: samples less real images (ideal 0).

    Raises `ValueError` for a side without two groups.
    """
    sides = {"codebook_entropy": samples, "codebook_entropy_real": real}
    figures = {name: {**_figure(_estimate(entropy, counts)), **_counted(counts)} for name, counts in sides.items()}
    difference = _estimate(lambda a, b: entropy(a) - entropy(b), samples, real)
    return {**figures, "codebook_entropy_difference": {**_figure(difference), "ideal": 0.0}}


def _estimate(statistic: Any, *sides: Counts) -> Estimate:
    return jackknife_estimate(statistic, sides, groups=len(sides[0]))


def _figure(estimate: Estimate) -> dict[str, Any]:
    return {**estimate._asdict(), "debiased": estimate.debiased}


def _counted(counts: Counts) -> dict[str, Any]:
    total = counts.sum(axis=0)
    met = {"codes": int(np.count_nonzero(total)), "places": int(total.sum())}
    return {"miller_madow_bias": miller_madow_bias(counts), **met}
