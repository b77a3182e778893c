"""The papers' runs at full size: what each trained, on what, and the score reported for it.

Learning rates, batches, steps and scores are the papers' (SC: Slight Corruption, sections 3 to 5, tables 1 and 6; SPD:
Shortest Path Diffusion and its published configuration; AO: Ambient Diffusion Omni, section 5, in EDM's CIFAR-10
setting). What they leave open (weight decay, warm-up, clipping) is as in `Config`. SC's guidance scale s is w = s - 1.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from imagegen._names import require_one_of
from imagegen.config import Config
from imagegen.sampling import SamplerConfig
from theory._checks import require

ETAS = (0.025, 0.05, 0.075, 0.1, 0.15, 0.2)
"""SC's corruption ratios."""
GAMMAS = (0.1, 0.5, 1.0, 5.0, 10.0)
"""SC's strengths of CEP; 1 is the usual one."""
SAMPLES = 50_000
"""Images of each run that are scored."""


class Data(NamedTuple):
    """Data that a run needs: shape (h, w, c) of what the network sees, classes, side of the images, how many there are
    with those held out, and the command that makes it.
    """

    shape: tuple[int, int, int]
    classes: int
    side: int
    images: int
    made: str

    @property
    def bytes(self) -> int:
        """What it takes on disk at most: of latents mean and deviation of both orientations, in float16; of images the
        pixels, which PNG makes fewer.
        """
        numbers = math.prod(self.shape)
        return self.images * (8 * numbers if self.shape[0] != self.side else numbers)


class PaperRun(NamedTuple):
    """One run: its `name`, config and sampling, and what was reported for it (empty: nothing is known)."""

    name: str
    config: Config
    how: SamplerConfig
    reported: str


def _prepared(
    raw: str, images: int, classes: int, side: int, shape: tuple[int, int, int], autoencoder: str = ""
) -> tuple[str, Data]:
    name = f"data/{raw.lower()}-{side}" + (f"-{autoencoder.lower()}" if autoencoder else "")
    latents = f" --latents {autoencoder}" if autoencoder else ""
    made = f"python -m imagegen prepare {raw} --resolution {side}{latents} --out {name}"
    return name, Data(shape, classes, side, images, made)


_IMAGENET, _CC3M, _CIFAR10 = ("IMAGENET", 1_331_167, 1000), ("CC3M", 3_334_173, 1), ("CIFAR10", 60_000, 10)
"""Folder, images with those held out, classes."""
DATA: dict[str, Data] = dict(
    [
        _prepared(*_IMAGENET, 256, (64, 64, 3), "VQ-F4"),
        _prepared(*_IMAGENET, 256, (32, 32, 4), "KL-F8"),
        _prepared(*_CC3M, 256, (64, 64, 3), "VQ-F4"),
        _prepared(*_IMAGENET, 512, (64, 64, 4), "KL-F8"),
        _prepared(*_IMAGENET, 64, (64, 64, 3)),
        _prepared(*_CIFAR10, 32, (32, 32, 3)),
    ]
)
"""By the name in `Config.data`."""

_LONG: dict[str, Any] = {
    "path": "vp-linear", "predict": "noise", "cosine": False, "warmup": 1000, "ema": (0.9999,), "flip": True,
    "log_every": 100, "checkpoint_every": 5000, "samples_every": 25_000, "learning_rate": 1e-4,
}  # fmt: skip
LDM_IMAGENET = Config(
    **_LONG, compute="bfloat16", data="data/imagenet-256-vq-f4", network="ldm-4", batch=512, steps=178_000
)
"""SC: batch 64 on each of 8 A100, 178K steps, 2.5 days."""
DIT_IMAGENET = Config(
    **_LONG, compute="bfloat16", data="data/imagenet-256-kl-f8", network="dit-xl/2", batch=256, steps=400_000
)
"""SC: batch 32 on each of 8 A100, 400K steps, 2.5 days."""
LDM_CC3M = dataclasses.replace(
    LDM_IMAGENET, data="data/cc3m-256-vq-f4", text="train", text_encoder="text-base", steps=396_000, flip=False
)
"""SC: trainable BERT-base, 396K steps, 7.5 days on 8 A100."""
CIFAR_SPD = Config(**_LONG, data="data/cifar10-32", network="unet-cifar", batch=256, steps=500_000, null_rate=0.0)
"""SPD: batch 256, learning rate 1e-4, average 0.9999, 4000 steps of sampling. How long it trained is not published:
500K steps is ours, as is the network (EDM's U-Net in place of ADM's)."""
IMAGENET_SPD = dataclasses.replace(CIFAR_SPD, data="data/imagenet-64")
"""SPD, class-conditional."""
CIFAR_AO = Config(
    **{**_LONG, "path": "edm", "predict": "edm", "learning_rate": 1e-3}, times="log-normal", data="data/cifar10-32",
    network="unet-cifar", batch=512, steps=39_063, degradation="blur", degraded_share=0.9, null_rate=0.0,
)  # fmt: skip
"""AO: EDM's U-Net, batch 512, 20 million images, a tenth of the data clean. Theirs has no classes."""
IMAGENET_AO = Config(
    **{**_LONG, "path": "edm", "predict": "edm", "flip": False}, times="log-normal", compute="bfloat16",
    data="data/imagenet-512-kl-f8", network="dit-xl/2", batch=2048, steps=458_752, remat=True,
)  # fmt: skip
"""AO: 940 million images in batches of 2048, as for EDM2-XXL; network and learning rate are ours (DiT-XL/2). What 256
images of 1024 tokens keep for the backward pass is more than a GPU holds, so it is computed again."""


def _guided(scale: float) -> SamplerConfig:
    return SamplerConfig(sampler="dpm_solver_pp_2m", grid="log_snr", steps=50, guidance=scale - 1)


def _slight_corruption(base: Config, scale: float, scores: dict[str, str]) -> list[PaperRun]:
    """Clean, the baselines, CEP at every strength, and data corrupted at every ratio: flips, or swapped captions."""
    changes: dict[str, dict[str, Any]] = {
        "clean": {},
        "input-perturbation": {"input_perturbation": 0.1},
        "dropout": {"condition": "dropout", "strength": 0.1},
    }
    if base.text == "":
        changes["label-smoothing"] = {"condition": "label smoothing", "strength": 0.1}
        changes |= {f"flips-{eta:g}": {"flips": "symmetric", "flip_share": eta} for eta in ETAS}
    else:
        changes |= {f"swaps-{eta:g}": {"captions": "swap", "caption_share": eta} for eta in ETAS}
    for kind in ("cep-u", "cep-g"):
        changes |= {f"{kind}-{gamma:g}": {"condition": kind, "strength": gamma} for gamma in GAMMAS}
    how = _guided(scale)
    return [
        PaperRun(name, dataclasses.replace(base, **own), how, scores.get(name, "")) for name, own in changes.items()
    ]


def _ldm_imagenet() -> list[PaperRun]:
    return _slight_corruption(LDM_IMAGENET, 2.0, {
        "clean": "FID 9.44, IS 138.46, precision .71, recall .43",
        "input-perturbation": "FID 9.18, IS 141.77, precision .67, recall .43",
        "cep-u-1": "FID 7.00, IS 170.73, precision .73, recall .45",
        "cep-g-1": "FID 6.91, IS 180.77, precision .76, recall .44",
        "dropout": "FID 8.67, IS 145.80", "label-smoothing": "FID 8.49, IS 146.27",
    })  # fmt: skip


def _dit_imagenet() -> list[PaperRun]:
    return _slight_corruption(DIT_IMAGENET, 1.75, {
        "clean": "FID 6.76, IS 179.67, precision .74, recall .46",
        "input-perturbation": "FID 6.75, IS 182.28, precision .75, recall .45",
        "cep-u-1": "FID 5.51, IS 189.94, precision .77, recall .46",
        "cep-g-1": "FID 5.92, IS 185.21, precision .75, recall .45",
    })  # fmt: skip


def _ldm_cc3m() -> list[PaperRun]:
    return _slight_corruption(LDM_CC3M, 3.0, {
        "clean": "FID 19.85, IS 30.09, precision .61, recall .42",
        "input-perturbation": "FID 19.48, IS 30.17, precision .59, recall .42",
        "cep-u-1": "FID 17.93, IS 30.77, precision .65, recall .41",
        "cep-g-1": "FID 18.59, IS 30.50, precision .67, recall .39",
    })  # fmt: skip


def _shortest(base: Config) -> list[PaperRun]:
    how = SamplerConfig(sampler="ancestral_large", grid="uniform", steps=4000)
    return [PaperRun(path, dataclasses.replace(base, path=path), how, "") for path in ("vp-linear", "shortest", "heat")]


def _ambient_cifar() -> list[PaperRun]:
    """On the clean tenth alone, on all, and gated, by blur and by JPEG quality; each image's gate is `annotate`'s."""
    how = SamplerConfig(sampler="sigma_heun", grid="edm", steps=18)
    made = [PaperRun("clean-tenth", dataclasses.replace(CIFAR_AO, train_on="clean"), how, "FID 8.79")]
    for std, everything, fid in ((0.4, 2.47, 2.44), (0.6, 11.42, 5.34), (0.8, 28.26, 6.0), (1.0, 45.32, 6.16)):
        base = dataclasses.replace(CIFAR_AO, degradation_strength=std)
        made += [PaperRun(f"blur-{std:g}-all", base, how, f"FID {everything:.2f}"),
                 PaperRun(f"blur-{std:g}-gated", _gated(base), how, f"FID {fid:.2f}")]  # fmt: skip
    for quality, fid in ((15, 6.67), (18, 6.43), (25, 6.34), (50, 5.94), (75, 5.57), (90, 4.72)):
        base = dataclasses.replace(CIFAR_AO, degradation="jpeg", degradation_strength=float(quality))
        made.append(PaperRun(f"jpeg-{quality}-gated", _gated(base), how, f"FID {fid:.2f}"))
    return made


def _ambient_imagenet() -> list[PaperRun]:
    """All images alike, and the four fifths of lower quality (`imagegen.grades`) at high noise alone."""
    how = SamplerConfig(sampler="sigma_heun", grid="edm", steps=32)
    gated = dataclasses.replace(IMAGENET_AO, train_on="gated", annotations="data/imagenet-512.quality.npz")
    return [PaperRun("all", IMAGENET_AO, how, "EDM2-XXL: test FID 2.88"),
            PaperRun("gated", gated, how, "EDM2-XXL, with crops: test FID 2.78")]  # fmt: skip


def _gated(base: Config) -> Config:
    file = f"data/cifar10-32.{base.degradation}-{base.degradation_strength:g}.npz"
    return dataclasses.replace(base, train_on="gated", annotations=file)


PAPERS: dict[str, Callable[[], list[PaperRun]]] = {
    "papers/slight-corruption/ldm-4-imagenet": _ldm_imagenet,
    "papers/slight-corruption/dit-xl-2-imagenet": _dit_imagenet,
    "papers/slight-corruption/ldm-4-cc3m": _ldm_cc3m,
    "papers/shortest-path/cifar10": lambda: _shortest(CIFAR_SPD),
    "papers/shortest-path/imagenet-64": lambda: _shortest(IMAGENET_SPD),
    "papers/ambient-omni/cifar10": _ambient_cifar,
    "papers/ambient-omni/imagenet-512": _ambient_imagenet,
}
"""Tables of runs by name; `papers/slight-corruption` stands for all that begin so."""


SOURCES = {
    "papers/slight-corruption": "Slight Corruption, sections 3 to 5, tables 1 and 6",
    "papers/shortest-path": "Shortest Path Diffusion, the published configuration",
    "papers/ambient-omni": "Ambient Diffusion Omni, section 5",
}
"""Where the runs of a table, and what is reported for them, come from."""


def named(name: str) -> dict[str, list[PaperRun]]:
    """The runs TABLE/RUN of that name, or whose names begin with it, by table; none where there is no such."""
    found = {
        table: [run for run in make() if f"{table}/{run.name}/".startswith(f"{name}/")]
        for table, make in PAPERS.items()
    }
    return {table: runs for table, runs in found.items() if runs}


def run_named(name: str) -> PaperRun:
    """The run TABLE/RUN. Raises `InputError` for another name, suggesting the nearest."""
    table, last = (name, "") if name in PAPERS else name.rsplit("/", 1)
    require_one_of("table of runs", table, PAPERS)
    runs = {run.name: run for run in PAPERS[table]()}
    require_one_of(f"run of {table}", last, runs)
    return runs[last]


def require_made(config: Config) -> None:
    """Raise `InputError` where the data of a paper's run are not there yet, with the command that makes them."""
    known = DATA.get(config.data)
    if known is not None and not Path(config.data).exists():
        require(False, "data", f"'{config.data}', which is not there", f"prepared first, by `{known.made}`")


SMALL = {"dit-xl/2": "dit-digits", "ldm-4": "ldm-small", "unet-cifar": "unet-small"}
"""What rehearses the networks."""


def rehearsal(run: PaperRun) -> PaperRun:
    """The run at a thousandth of its steps, with a small network, on generated shapes: does it work from end to end?

    Degraded images of gated runs train from a noise-to-signal ratio of 1 on; where it is scores that say which images
    are of low quality, four fifths are blurred.
    """
    config = run.config
    changes: dict[str, Any] = {
        "data": "shapes", "network": SMALL[config.network], "steps": config.steps // 1000, "batch": config.batch // 32,
        "warmup": 1, "compute": "float32", "log_every": 10, "checkpoint_every": 50, "samples_every": 0,
    }  # fmt: skip
    if config.text:
        changes |= {"text_encoder": "text-small", "text_length": 16}
    if config.annotations:
        changes |= {"annotations": "", "sigma_min": 1.0}
        if config.degradation == "none":  # shapes have no scores of quality
            changes |= {"degradation": "blur", "degraded_share": 0.8}
    how = dataclasses.replace(run.how, steps=min(10, run.how.steps))
    return run._replace(config=dataclasses.replace(config, **changes), how=how)
