"""What `theory prescribe` says of the training digits of a sweep, in sentences to be held against its results.

The predictions are of optimal linear denoisers without guidance (conditions), of Gaussians with the digits' spectrum
(paths), and of the ideal classifier of noised images (ambient): of the same data, not of the network. What CEP's gamma
means is relative to the embedding's norm R, which a network learns: noise_std = γ/(R √d_emb), and √3 less for CEP-U.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping

import numpy as np

from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.source import ArraySource
from imagegen.sweep_answer import Results
from imagegen.sweeps import BASE, SWEEPS, Member
from theory.data import DataSet
from theory.image_advice import advise_images
from theory.prescribe import Settings, prescribe

D_EMB = 128
"""Size of the embeddings of the sweeps' network."""


@functools.cache
def _digits() -> DataSet:
    source = make_source(BASE.data, "train")
    assert isinstance(source, ArraySource)
    return DataSet.from_images(source.images, source.labels, name=source.name)


def predictions(sweep: str, results: Results) -> list[str]:
    """Sentences on a sweep of `SWEEPS`; none for one that theory says nothing about. Needs float64."""
    return PREDICTIONS[sweep](results) if sweep in PREDICTIONS and results else []


def _noise_std(member: Member, results: Results) -> list[float]:
    """noise_std of a run with fresh CEP, by the norms that its embeddings had at the end; none for other runs."""
    config: Config = member.config
    own = [one["embedding_norms"][:-1] for one in results if one["name"] == member.name and "failed" not in one]
    if not own or config.condition not in ("cep-u", "cep-g") or config.condition_drawn == "fixed":
        return []
    width = 3 * D_EMB if config.condition == "cep-u" else D_EMB
    return [config.strength / (float(np.mean(own)) * math.sqrt(width))]


def _of_conditions(results: Results) -> list[str]:
    members = SWEEPS["digits-conditions"].members()
    levels = {member.name: level for member in members for level in _noise_std(member, results)}
    shares = tuple(member.config.flip_share for member in members if member.config.flips == "symmetric")
    noise_std = tuple(sorted(levels.values())) or FEW.noise_std
    advice = prescribe(_digits(), dataclasses.replace(FEW, eta=shares, noise_std=noise_std)).conditions
    assert advice is not None
    best, limit, gain = (getattr(advice.plugin, name).value for name in ("noise_std", "helpful_limit", "gain"))
    said = [
        f"`theory prescribe` (linear denoisers, no guidance) expects the most of noise_std {best:.2g}, where W2² falls "
        f"by {gain:.2g} from {advice.plugin.clean:.2g}, and harm from {limit:.2g} on."
    ]
    gains = {row.noise_std: row.plugin.value for row in advice.rows}
    if levels:
        each = (f"{name} (noise_std {level:.2g}) {-gains[level]:+.2g}" for name, level in levels.items())
        said.append(f"By the norms of the embeddings learned, it expects W2² to change so: {', '.join(each)}.")
    flips = zip(advice.flips.eta, advice.flips.change, strict=True)
    told = ", ".join(f"{change:+.2g} for {eta:.1%}" for eta, change in flips)
    return [*said, f"For flipped labels it expects {told}."]


def _of_paths(results: Results) -> list[str]:
    images = advise_images(_digits(), FEW)
    named = {path.name.replace("_", "-"): path for path in images.paths}
    members = [member.config.path for member in SWEEPS["digits-paths"].members()]
    ordered = sorted(members, key=lambda name: named[name].wasserstein2)
    told = ", ".join(f"{name} {named[name].wasserstein2:.2g}" for name in ordered)
    return [
        f"`theory prescribe` (exact denoisers of a Gaussian with the digits' spectrum, {images.steps} DDIM steps) "
        f"expects W2, by sampling alone, in this order: {told}."
    ]


def _of_ambient(results: Results) -> list[str]:
    told = []
    for std in sorted({member.config.degradation_strength for member in SWEEPS["digits-ambient"].members()}):
        images = advise_images(_digits(), dataclasses.replace(FEW, blur_std=std))
        told.append(f"{images.blur.sigma_min:.2g} for a blur of {std:g} pixels")
    return [f"`theory prescribe` (ideal classifier of noised images, tau = {FEW.tau:g}) has sigma_min "
            f"{' and '.join(told)}."]  # fmt: skip


FEW = Settings(d_emb=D_EMB, resamples=4, training_sets=1)
"""Only means are told, so few resamples will do."""
PREDICTIONS: Mapping[str, Callable[[Results], list[str]]] = {
    "digits-conditions": _of_conditions,
    "digits-paths": _of_paths,
    "digits-ambient": _of_ambient,
}
