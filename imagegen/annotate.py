"""Which noise levels each degraded image may train: sigma_min and sigma_max by classifiers (Ambient Diffusion Omni,
section 3). `imagegen.judges` says how probable it is that a noised image, or crop, is clean: p(σ).

*High noise.* sigma_min is the first level of the grid from which on p >= tau: the image trains all noise above it, so
p must not fall below tau again. (For the set's mean of an ideal classifier, which never falls, it is also the level
at which p first reaches tau.) inf if p < tau at the last level.

*Low noise.* There the best denoiser looks only at a crop; `theory.crops` says how large a one, from a spectrum. It must
do for both kinds: if the crops of both are of one law and neither kind's best denoiser looks further, both kinds have
the same one. (A single pixel may do for clean images and not for blurred ones, whose neighbours tell more; trained on
these, a network would look at them.) The judge is shown such crops, at random places, and sigma_max is the last level
up to which p >= tau all along; 0 if p < tau at the first, and never at a level where the whole image is needed. Below
the first level nothing is judged, and what may train there trains all the way down: so it must be low.

Each image is judged by itself, or (`per="set"`) all degraded ones by their mean p. Clean images have sigma_min = 0.

The `curves` kept in the file: `levels`; `crops`, their sides (null where the whole image is needed); for `whole` images
and for `crop`s, at each level (null: not judged), the mean p of `clean` and of `degraded` images and the `accuracy` on
what the judges had not seen. Where the accuracy is near 1/2 at all levels, the judge has learned nothing, or there is
nothing to learn: that `degraded` images may then train everywhere is the judge's ignorance as much as their quality.
"""

import dataclasses
import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float

from imagegen import annotations
from imagegen import config as configs
from imagegen._names import require_one_of
from imagegen.annotations import Annotations
from imagegen.config import Config
from imagegen.data.source import Source
from imagegen.features import fingerprint, read_all
from imagegen.judges import LEAST, Judgement, View, judge
from imagegen.training_data import training_source
from theory._checks import make_folder, require
from theory.crops import crop_sizes
from theory.spectra import power_spectrum

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PER = ("sample", "set")
LOWEST = 0.1
"""The grid's first level at most."""


@dataclasses.dataclass(frozen=True)
class AnnotateConfig:
    """What is annotated, and how; see the module's top. The data must be as for the training that reads the file."""

    data: str = "digits"
    """As of `train`. Without a degradation, an .npz file that says by booleans `degraded` which are of low quality."""
    resolution: int = 0
    """As of `train`."""
    degradation: str = "none"
    """As of `train`."""
    degraded_share: float = 0.0
    """As of `train`."""
    degradation_strength: float = 1.0
    """As of `train`."""
    tau: float = 0.45
    """Mean probability "clean", below 0.5, from which on an image trains."""
    per: str = "sample"
    """Judge each image by itself (sample), or all degraded ones by their mean (set)."""
    levels: int = 16
    """Noise-to-signal ratios, >= 2, evenly spaced in their logarithm."""
    lowest: float = 0.02
    """The first of them, in (0, 0.1]: below it nothing is judged."""
    highest: float = 10.0
    """The last of them."""
    steps: int = 400
    """Steps of training of each classifier."""
    batch: int = 128
    """Images a step, even: half of them are clean."""
    draws: int = 8
    """Draws of noise, and places of crops, at each level for each image."""
    seed: int = 0
    """As of `train`, and of everything drawn here."""


def check(config: AnnotateConfig) -> None:
    """Raise `InputError` for unknown names and numbers out of range."""
    configs.check(_of_the_data(config))
    require_one_of("per", config.per, PER)
    require(0 < config.tau < 0.5, "tau", config.tau, "above 0 and below 0.5, where the two cannot be told apart")
    for name, least in (("levels", 2), ("steps", 1), ("draws", 1), ("batch", 2)):
        require(getattr(config, name) >= least, name, getattr(config, name), f"at least {least}")
    require(config.batch % 2 == 0, "batch", config.batch, "even: half of it is clean")
    require(0 < config.lowest <= LOWEST, "lowest", config.lowest, f"in (0, {LOWEST}]: nothing is judged below it")
    require(config.lowest < config.highest < math.inf, "highest", config.highest, "finite and above lowest")


def _of_the_data(config: AnnotateConfig) -> Config:
    names = ("data", "resolution", "degradation", "degraded_share", "degradation_strength", "seed")
    return Config(**{name: getattr(config, name) for name in names})


def run_annotate(config: AnnotateConfig, out: Path) -> Annotations:
    """Annotate the images that a run with the same fields trains on; write the file `out` and a figure beside it.

    What each judge says is kept in a folder beside `out` until all is written: interrupted, the same call goes on.
    Raises `InputError` for a config that is refused, data that are bad or not of both kinds, and a bad `out`.
    """
    from theory.canvas import save

    check(config)
    annotations.require_out(out)
    source = training_source(_of_the_data(config))
    _kinds(read_all(source))
    make_folder("out", out.parent)
    kept = out.with_suffix(".parts")
    noted = annotate_source(source, config, kept)
    annotations.save(noted, out)
    save(annotations_figure(noted), out.with_suffix(".png"))
    shutil.rmtree(kept, ignore_errors=True)
    return noted


def annotate_source(source: Source, config: AnnotateConfig, kept: Path | None = None) -> Annotations:
    """The annotations of a source whose records say which are `degraded`; of the config, what is not of the data.

    `kept`: a folder where each judge's part is kept, under a name that only equal images and configs share. Raises
    `InputError` for fewer than `LEAST` images of a kind, and for bad records.
    """
    batch = read_all(source)
    images, degraded = batch["image"], _kinds(batch)
    about = {"config": dataclasses.asdict(config), "fingerprint": fingerprint(source, batch)}
    own = None if kept is None else kept / hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]
    levels = np.geomspace(config.lowest, config.highest, config.levels)
    whole = max(source.shape[:2])
    crops = np.maximum(*(crop_sizes(power_spectrum(images[degraded == kind]), levels) for kind in (True, False)))
    local = crops < whole
    how: dict[str, Any] = {name: getattr(config, name) for name in ("steps", "batch", "draws", "seed")}

    def judged(view: View, name: str) -> Judgement:
        return judge(images, degraded, view, **how, name=name, parts=None if own is None else own / name)

    seen = judged(View(levels, np.full(levels.size, whole)), "whole images")
    near = judged(View(levels[local], crops[local]), "crops") if local.any() else None
    low = first_from(levels, _by(config.per, seen, degraded), config.tau)
    high = last_up_to(levels[local], _by(config.per, near, degraded), config.tau) if near else np.zeros(len(images))
    curves = {
        "levels": levels.tolist(),
        "crops": [int(side) if inside else None for side, inside in zip(crops, local, strict=True)],
        "whole": _curves(seen, degraded, levels.size),
        "crop": _curves(near, degraded, levels.size),
    }
    low, high = (np.where(degraded, level, 0.0) for level in (low, high))
    return Annotations(degraded, low, high, {**about, "curves": curves})


def _kinds(batch: dict[str, Any]) -> Bool[np.ndarray, " n"]:
    """Which images are degraded."""
    degraded: Bool[np.ndarray, " n"] = np.asarray(batch.get("degraded", np.zeros(len(batch["image"]))), bool)
    counts = int(np.sum(degraded)), int(np.sum(~degraded))
    for count, kind, field in zip(counts, ("degraded", "clean"), ("more", "less"), strict=True):
        require(count >= LEAST, "data", f"{count} {kind} images of {degraded.size}",
                f"at least {LEAST} degraded and as many clean images (try a degradation with {field} degraded_share, "
                "or `degraded` in an .npz file)")  # fmt: skip
    return degraded


def _by(per: str, judged: Judgement, degraded: Bool[np.ndarray, " n"]) -> Float[np.ndarray, "n k"]:
    """p of each image, or for each the mean over the degraded ones."""
    if per == "sample":
        return judged.probability
    mean = judged.probability[degraded].mean(axis=0)
    return np.broadcast_to(mean, judged.probability.shape)


def first_from(
    levels: Float[np.ndarray, " k"], probability: Float[np.ndarray, "n k"], tau: float
) -> Float[np.ndarray, " n"]:
    """The first of the rising levels from which on `probability` >= tau; inf where it is less at the last."""
    stays = np.logical_and.accumulate((probability >= tau)[:, ::-1], axis=1)[:, ::-1]
    return np.where(stays.any(axis=1), levels[np.argmax(stays, axis=1)], np.inf)


def last_up_to(
    levels: Float[np.ndarray, " k"], probability: Float[np.ndarray, "n k"], tau: float
) -> Float[np.ndarray, " n"]:
    """The last of the rising levels up to which `probability` >= tau; 0 where it is less at the first."""
    count = np.logical_and.accumulate(probability >= tau, axis=1).sum(axis=1)
    return np.where(count > 0, levels[count - 1], 0.0)


def _curves(judged: Judgement | None, degraded: Bool[np.ndarray, " n"], k: int) -> dict[str, list[float | None]]:
    """Means and accuracy at k levels, null at those beyond the ones judged."""
    if judged is None:
        return {name: [None] * k for name in ("clean", "degraded", "accuracy")}
    rows = {
        "clean": judged.probability[~degraded].mean(axis=0),
        "degraded": judged.probability[degraded].mean(axis=0),
        "accuracy": judged.accuracy,
    }
    return {name: [*row.tolist(), *[None] * (k - row.size)] for name, row in rows.items()}


def told(noted: Annotations) -> str:
    """What was found, in three lines."""
    low, high = noted.sigma_min[noted.degraded], noted.sigma_max[noted.degraded]
    curves, finite = noted.about["curves"], low[np.isfinite(low)]
    span = f" (of the others {finite.min():.3g} to {finite.max():.3g})" if finite.size else ""
    at = [f"{right:.0%} at {level:.2g}" for level, right in zip(*_few(curves), strict=True)]
    return (
        f"sigma_min of {low.size} degraded images: median {np.median(low):.3g}; {np.sum(np.isinf(low))} never{span}\n"
        f"sigma_max: median {np.median(high):.3g}, largest {high.max():.3g}; {np.sum(high > 0)} above 0\n"
        f"held-out accuracy: {', '.join(at)}"
    )


def _few(curves: dict[str, Any]) -> tuple[list[float], list[float]]:
    """Up to eight levels, and the accuracy on whole images there."""
    places = np.unique(np.linspace(0, len(curves["levels"]) - 1, 8).round().astype(int))
    return [curves["levels"][k] for k in places], [curves["whole"]["accuracy"][k] for k in places]


def annotations_figure(noted: Annotations) -> "Figure":
    """Mean probability "clean" by noise level, and how many images have which sigma_min and sigma_max."""
    from theory.canvas import BLACK, BLUE, VERMILION, new_figure

    curves, tau = noted.about["curves"], noted.about["config"]["tau"]
    figure, (upper, lower) = new_figure(rows=2)
    for kind, colour in (("clean", BLUE), ("degraded", VERMILION)):
        for seen, line in (("whole", "o-"), ("crop", "^--")):
            values = np.array([np.nan if p is None else p for p in curves[seen][kind]])
            if np.isfinite(values).any():
                upper.plot(curves["levels"], values, line, color=colour, markersize=4, label=f"{kind}, {seen}")
    upper.axhline(tau, color=BLACK, linewidth=0.8, linestyle=":")
    upper.annotate(f"tau = {tau:g}", (1, tau), (-2, -3), xycoords=("axes fraction", "data"),
                   textcoords="offset points", ha="right", va="top", fontsize=9)  # fmt: skip
    upper.set(xscale="log", xlabel="noise-to-signal ratio σ", ylabel='mean probability "clean"', ylim=(-0.02, 1.02))
    upper.legend(loc="upper right")
    _counts(lower, noted)
    return figure


def _counts(axes: "Axes", noted: Annotations) -> None:
    """Bars for each level of the grid, and apart from them those of 0 and of inf."""
    from theory.canvas import BLUE, ORANGE

    levels = np.array(noted.about["curves"]["levels"])
    width = 0.4
    for values, offset, colour, name in ((noted.sigma_min, width / 2, BLUE, "sigma_min"),
                                         (noted.sigma_max, -width / 2, ORANGE, "sigma_max")):  # fmt: skip
        own = values[noted.degraded]
        place = np.where(own == 0, 0, np.where(np.isinf(own), levels.size + 3, np.searchsorted(levels, own) + 2))
        counts = np.bincount(place, minlength=levels.size + 4)
        axes.bar(np.arange(counts.size) + offset, counts, width, color=colour, label=name)
    shown = np.unique(np.linspace(0, levels.size - 1, min(5, levels.size)).round().astype(int))
    names = ["0", *[f"{levels[k]:.2g}" for k in shown], "never"]
    axes.set_xticks([0, *shown + 2, levels.size + 3], names)
    axes.set(xlabel="noise-to-signal ratio", ylabel="degraded images")
    axes.legend()
