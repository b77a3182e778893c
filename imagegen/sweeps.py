"""The experiments on real images, as tables of runs: what is trained, how it is sampled.

Every run of a sweep differs from its first in the fields named, and is repeated with several seeds; a seed
draws initial weights, batches, noise and what is corrupted, so runs of one seed are paired. Guidance is w >= 0, the
usual scale minus 1.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from imagegen.config import Config
from imagegen.sampling import SamplerConfig

SEEDS = 5
BASE = Config(steps=400, samples_every=0, log_every=40, checkpoint_every=400, keep=1)
CEP = (0.1, 0.5, 1.0, 5.0)
GUIDANCE = (0.0, 0.5, 1.0, 3.0)


class Member(NamedTuple):
    """One run: its `name`, without the seed; what it is of (`group`), and how strong; its config and samplings."""

    name: str
    group: str
    strength: float
    config: Config
    samplings: Mapping[str, SamplerConfig]


class Sweep(NamedTuple):
    """Runs that are compared: the `question`; the runs, the first being what the others are compared with; names of
    `further` references among them.
    """

    question: str
    members: Callable[[], list[Member]]
    further: tuple[str, ...] = ()


def _guided() -> dict[str, SamplerConfig]:
    return {f"w={w:g}": SamplerConfig(steps=25, guidance=w) for w in GUIDANCE}


def _changed(base: Config, **changes: Any) -> Config:
    return dataclasses.replace(base, **changes)


def _conditions() -> list[Member]:
    """Corruption of the condition, by operator and strength; guidance at sampling."""
    made: list[tuple[str, str, float, dict[str, Any]]] = [("clean", "clean", 0.0, {})]
    for kind in ("cep-u", "cep-g"):
        made += [(f"{kind}-{g:g}", kind, g, {"condition": kind, "strength": g}) for g in CEP]
    fixed = {"condition": "cep-g", "condition_drawn": "fixed"}
    made += [(f"fixed-cep-g-{g:g}", "fixed cep-g", g, {**fixed, "strength": g}) for g in CEP]
    chosen = {**fixed, "strength": 1.0, "condition_share": 0.1}
    made.append(("fixed-cep-g-1-on-a-tenth", "fixed cep-g on a tenth", 1.0, chosen))
    for share in (0.025, 0.05, 0.075, 0.15):
        made.append((f"flips-{share:g}", "flips", share, {"flips": "symmetric", "flip_share": share}))
    made += [
        ("dropout-0.1", "dropout", 0.1, {"condition": "dropout", "strength": 0.1}),
        ("label-smoothing-0.1", "label smoothing", 0.1, {"condition": "label smoothing", "strength": 0.1}),
        ("input-perturbation-0.1", "input perturbation", 0.1, {"input_perturbation": 0.1}),
    ]
    return [Member(name, group, x, _changed(BASE, **changes), _guided()) for name, group, x, changes in made]


def _paths() -> list[Member]:
    """The corruption path, at 10, 20 and 50 DDIM steps."""
    samplings = {f"{steps} steps": SamplerConfig(steps=steps) for steps in (10, 20, 50)}
    names = ("vp-cosine", "vp-linear", "shortest", "equal-angle", "heat")
    return [Member(name, name, 0.0, _changed(BASE, path=name), samplings) for name in names]


def _ambient() -> list[Member]:
    """A tenth of the images clean, the others blurred, by 1 pixel (of 8) or half a pixel: trained on the clean, on all,
    or gated at `sigma_min`.
    """
    samplings = {"w=0": SamplerConfig(steps=25)}
    made = []
    for std, ending in ((1.0, ""), (0.5, "-blur-0.5")):
        blurred = _changed(BASE, degradation="blur", degraded_share=0.9, degradation_strength=std)
        made.append(Member(f"everything{ending}", "everything", 0.0, blurred, samplings))
        for x in (0.25, 0.5, 1.0, 2.0):
            gated = _changed(blurred, train_on="gated", sigma_min=x)
            made.append(Member(f"gated-{x:g}{ending}", "gated", x, gated, samplings))
    clean = _changed(made[0].config, train_on="clean")
    return [Member("clean-only", "clean only", 0.0, clean, samplings), *made]


SWEEPS: dict[str, Sweep] = {
    "digits-conditions": Sweep("Does corrupting the condition make a trained image model better?", _conditions),
    "digits-paths": Sweep("Which corruption path trains the better image model?", _paths),
    "digits-ambient": Sweep(
        "Does low-quality data help at the right noise levels?", _ambient, ("everything", "everything-blur-0.5")
    ),
}
"""Sweeps by name."""
