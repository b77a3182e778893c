"""The one configuration of a training run: what is trained on what, how it is corrupted, and for how long.

Every field is a plain value, so a config is a JSON file and a line of a table. `check` refuses unknown and
contradictory values before anything is loaded. A run is known by its config: two configs that differ in more than the
`FREE` fields give different weights, so a checkpoint of one is never gone on from with the other.
"""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

from imagegen._names import require_one_of
from theory._checks import InputError, require
from theory._files import write_whole

OPERATORS = ("none", "cep-u", "cep-g", "dropout", "label smoothing")
FLIPS = ("none", "symmetric", "asymmetric")
DRAWN = ("fresh", "fixed")
PATHS = ("vp-linear", "vp-cosine", "edm", "shortest", "equal-angle", "heat")
PREDICTIONS = ("noise", "data", "velocity", "flow", "edm")
WEIGHTS = ("uniform", "min-snr")
TIMES = ("uniform", "log-normal")
COMPUTE = ("float32", "bfloat16")
TRAIN_ON = ("all", "clean", "gated")
TRACK = ("none", "tensorboard", "wandb")
CAPTIONS = ("none", "swap", "rewrite")
PREPARED = "prepared"
"""The `text` of a run on embeddings of captions that were prepared with its data."""
WEIGHT_FILES = (".safetensors", ".pth", ".pt", ".ckpt")


@dataclasses.dataclass(frozen=True)
class Config:
    """A training run; see the module's top. Every field is an option of `python -m imagegen train`."""

    data: str = "digits"
    """`digits`, `photographs`, `shapes`, or an .npz file with `images`, (n, H, W) or (n, H, W, C), unsigned bytes or
    numbers in [-1, 1], `labels` and, where some are of low quality, booleans `degraded`; or a folder: of folders of
    images, one per class (ImageNet), of img2dataset's tar shards (CC3M), or written by `prepare`."""
    resolution: int = 0
    """Side of the images in pixels: required for folders of images and of tar shards, 0 otherwise."""
    bad_share: float = 0.05
    """Stop where more than this share of the images in a folder, in [0, 1], turns out to be unreadable, or is left out
    from the start (a tar shard's dead keys, images without captions, ...): docs/data.md."""
    degradation: str = "none"
    """What a share of the images, chosen by index, has suffered: none, blur, jpeg, motion, mask or box."""
    degraded_share: float = 0.0
    """The share, in [0, 1]."""
    degradation_strength: float = 1.0
    """Its strength: pixels (blur, motion), quality (jpeg), share hidden (mask, box)."""
    train_on: str = "all"
    """all images as they are, the clean ones, or all with the degraded ones gated: trained at high noise alone."""
    sigma_min: float = 0.0
    """Gated: noise-to-signal ratio from which degraded images train, each noised once to it, by its index."""
    flip: bool = False
    """Mirror images left to right at half of their uses, or where gated half of the images, each once for all."""
    network: str = "dit-digits"
    """dit-digits, dit-patches, unet-small, unet-cifar, ldm-small, ldm-4 (the latent diffusion U-Net), or a DiT of size
    s, b, l, xl and patch 2, 4, 8: dit-s/2."""
    compute: str = "float32"
    """Type of the network's arithmetic, float32 or bfloat16; parameters are float32."""
    remat: bool = False
    """Recompute activations in the backward pass, to save memory."""
    text: str = ""
    """Empty: the condition is the class. Else the caption, read by a tokenizer trained on the captions (train) or of
    this tokenizer.json; or as a frozen encoder's embeddings that `prepare` stored (prepared). A DiT then reads them."""
    text_encoder: str = "text-small"
    """The encoder trained with it: text-small or text-base (BERT-base); none is where embeddings were prepared."""
    text_length: int = 77
    """Tokens of a caption; longer ones are cut. Of prepared embeddings: as they were prepared."""
    captions: str = "none"
    """What happens to captions: none, swap (among pairs of samples) or rewrite (other words, by rules or a file)."""
    caption_share: float = 0.0
    """The share of the samples, in [0, 1]."""
    caption_level: int = 1
    """Rewriting: how much changes, 1 (one attribute) to 5 (all entities, attributes and relations)."""
    rewritten: str = ""
    """Rewriting: the file that `python -m imagegen rewrite` wrote for these data, a language model's captions say;
    empty: by rules."""
    path: str = "vp-cosine"
    """The corruption path: vp-linear, vp-cosine, edm, shortest, equal-angle or heat."""
    predict: str = "velocity"
    """What the network predicts: noise, data, velocity, flow or edm."""
    weight: str = "uniform"
    """Weight of the loss: uniform or min-snr."""
    times: str = "uniform"
    """Law of training times: uniform or log-normal."""
    condition: str = "none"
    """Operator on the embedding of a class or of each token: none, cep-u, cep-g, dropout or label smoothing."""
    strength: float = 0.0
    """Its gamma, or rate."""
    condition_drawn: str = "fresh"
    """Drawn afresh at every use (fresh), or once for each sample (fixed)."""
    condition_share: float = 1.0
    """Share of the samples that it acts on, in (0, 1]."""
    flips: str = "none"
    """Label flips: none, symmetric, or asymmetric, among confusable classes."""
    flip_share: float = 0.0
    """Probability of a flip, in [0, 1]."""
    flips_drawn: str = "fixed"
    """Drawn once for each sample (fixed), or afresh at every use (fresh)."""
    confusable: tuple[str, ...] = ()
    """Asymmetric flips: groups of names of classes such as 3/8 and 4/7/9; classes in no group are never flipped."""
    input_perturbation: float = 0.0
    """gamma >= 0 of Ning et al. 2023."""
    null_rate: float = 0.1
    """Share of the uses without a condition, in [0, 1), for guidance."""
    batch: int = 128
    """Images a step, over all devices."""
    accumulate: int = 1
    """Parts that a batch is computed in, one after another."""
    steps: int = 400
    """Steps in all."""
    learning_rate: float = 3e-3
    """Of Adam(W), after the warm-up."""
    warmup: int = 20
    """Steps of linear rise."""
    cosine: bool = True
    """Let the learning rate fall to 0 as a cosine; else it is constant."""
    weight_decay: float = 0.0
    """Of AdamW."""
    clip: float = 1.0
    """Norm that gradients are clipped to."""
    ema: tuple[float, ...] = (0.99,)
    """Decays of the averages of weights, which warm up: within 400 steps all decays above 0.978 give the same."""
    stop_after: int = 10
    """Stop after so many steps in a row with non-finite gradients, seen at a logged step."""
    log_every: int = 20
    """Steps between lines of metrics.jsonl."""
    samples_every: int = 200
    """Steps between grids of samples; 0: none."""
    evaluate_every: int = 0
    """Steps between evaluations of 250 samples of the averaged weights (`imagegen.in_loop`); 0: none."""
    checkpoint_every: int = 100
    """Steps between checkpoints, a multiple of log_every."""
    keep: int = 2
    """Checkpoints kept."""
    track: str = "none"
    """Show the numbers of metrics.jsonl elsewhere too: none, tensorboard or wandb."""
    fsdp: int = 1
    """Devices that parameters are sharded over."""
    seed: int = 0
    """Of everything drawn."""
    annotations: str = ""
    """Gated: a file in which `python -m imagegen annotate`, or `grade`, says for each image of low quality of the same
    data at which noise it trains, in place of sigma_min."""
    start: str = ""
    """A file of weights to start from: .safetensors that `python -m imagegen export` wrote, or a published layout of
    the same network in a .safetensors, .pth, .pt or .ckpt; for text an LDM U-Net's, its text encoder stays as drawn."""


FREE = (
    "log_every", "samples_every", "evaluate_every", "checkpoint_every", "keep", "track", "fsdp", "stop_after", "remat",
    "bad_share",
)  # fmt: skip
"""Fields that may differ between a run and its resumption: they change no weight but by rounding."""


def check(config: Config) -> None:
    """Raise `InputError` for a config with an unknown name, a number out of range, or fields that contradict."""
    from imagegen.data.builtin import require_source
    from imagegen.data.degrade import DEGRADATIONS
    from imagegen.networks.registry import NETWORKS
    from imagegen.networks.text import ENCODERS

    require_source(config.data)
    tables = {
        "network": NETWORKS, "degradation": ("none", *DEGRADATIONS), "train_on": TRAIN_ON, "compute": COMPUTE,
        "path": PATHS, "predict": PREDICTIONS, "weight": WEIGHTS, "times": TIMES, "condition": OPERATORS,
        "condition_drawn": DRAWN, "flips": FLIPS, "flips_drawn": DRAWN, "captions": CAPTIONS,
        "text_encoder": ENCODERS, "track": TRACK,
    }  # fmt: skip
    for name, table in tables.items():
        require_one_of(name, getattr(config, name), table)
    _check_numbers(config)
    _check_agreement(config)


def _check_numbers(config: Config) -> None:
    for name, value in dataclasses.asdict(config).items():
        require(not isinstance(value, float) or math.isfinite(value), name, value, "finite")
    for name in ("degraded_share", "condition_share", "flip_share", "caption_share", "bad_share"):
        require(0 <= getattr(config, name) <= 1, name, getattr(config, name), "in [0, 1]")
    counts = ("batch", "accumulate", "steps", "stop_after", "log_every", "checkpoint_every", "keep", "fsdp")
    for name in counts:
        require(getattr(config, name) >= 1, name, getattr(config, name), "at least 1")
    perhaps = ("warmup", "samples_every", "evaluate_every", "resolution")
    for name in ("strength", "input_perturbation", "weight_decay", "sigma_min", *perhaps):
        require(getattr(config, name) >= 0, name, getattr(config, name), "at least 0")
    for name in ("learning_rate", "clip", "degradation_strength"):
        require(getattr(config, name) > 0, name, getattr(config, name), "above 0")
    require(config.text_length >= 2, "text_length", config.text_length, "at least 2")
    require(1 <= config.caption_level <= 5, "caption_level", config.caption_level, "in 1 ... 5")
    require(0 <= config.null_rate < 1, "null_rate", config.null_rate, "in [0, 1)")
    require(len(config.ema) > 0 and all(0 <= decay < 1 for decay in config.ema), "ema", config.ema, "decays in [0, 1)")
    require(0 <= config.seed < 2**32, "seed", config.seed, "between 0 and 2^32 - 1")


def _check_agreement(config: Config) -> None:
    """What one field says must not be contradicted by another, nor be without effect."""
    pairs = {
        "strength": (config.strength > 0, config.condition != "none", "condition"),
        "flip_share": (config.flip_share > 0, config.flips != "none", "flips"),
        "degraded_share": (config.degraded_share > 0, config.degradation != "none", "degradation"),
        "caption_share": (config.caption_share > 0, config.captions != "none", "captions"),
    }
    usual = Config()
    for name in ("condition_drawn", "condition_share", "flips_drawn", "degradation_strength"):
        parent = name.split("_")[0]
        idle = getattr(config, parent) == "none" and getattr(config, name) != getattr(usual, name)
        require(not idle, name, getattr(config, name), f"left out where {parent} is none")
    require(config.condition_share > 0, "condition_share", config.condition_share, "above 0")
    for name, (strong, chosen, other) in pairs.items():
        allowed = f"above 0 exactly where {other} is not none ({other}={getattr(config, other)!r})"
        require(strong == chosen, name, getattr(config, name), allowed)
    named = bool(config.confusable) == (config.flips == "asymmetric")
    require(named, "confusable", config.confusable, f"given exactly for asymmetric flips (flips={config.flips!r})")
    if config.condition in ("dropout", "label smoothing"):
        require(config.strength < 1, "strength", config.strength, f"below 1 for {config.condition}")
    if config.condition == "label smoothing":
        fresh = config.condition_drawn == "fresh" and config.condition_share == 1
        require(fresh, "condition_drawn, condition_share", (config.condition_drawn, config.condition_share),
                "fresh and 1 for label smoothing, which draws nothing")  # fmt: skip
    _check_text(config)
    if config.train_on == "clean":
        require(config.degraded_share < 1, "degraded_share", config.degraded_share, "below 1 to train on clean images")
    gated = config.train_on == "gated"
    ranges = (config.sigma_min > 0) + (config.annotations != "")
    allowed = "given, one of them, for train_on=gated" if gated else f"left out for train_on={config.train_on}"
    require(ranges == gated, "sigma_min, annotations", (config.sigma_min, config.annotations), allowed)
    some = config.degradation != "none" or config.data.endswith(".npz") or config.annotations != ""
    require(config.train_on == "all" or some, "train_on", config.train_on, "all, where nothing is degraded")
    parts = config.accumulate
    require(config.batch % parts == 0, "batch", config.batch, f"divisible by accumulate={parts}")
    whole = config.checkpoint_every % config.log_every == 0
    require(whole, "checkpoint_every", config.checkpoint_every, f"a multiple of log_every={config.log_every}")
    require(config.warmup < config.steps, "warmup", config.warmup, f"below steps={config.steps}")
    endings = f"a file that ends in {', '.join(WEIGHT_FILES)}"
    require(config.start == "" or config.start.endswith(WEIGHT_FILES), "start", f"'{config.start}'", endings)
    edm = config.times == "log-normal" and config.path in ("shortest", "equal-angle", "heat")
    require(not edm, "times", config.times, f"uniform on the spectral path {config.path}")


def _check_text(config: Config) -> None:
    """What is said of text must have an effect; what is said of classes cannot be done to captions."""
    from imagegen.networks.registry import TEXT_NETWORKS

    usual = Config()
    for name in ("text_encoder", "text_length", "captions"):
        idle = config.text == "" and getattr(config, name) != getattr(usual, name)
        require(not idle, name, repr(getattr(config, name)), "left out where text is empty: captions are not read")
    idle = config.captions != "rewrite" and config.caption_level != usual.caption_level
    require(not idle, "caption_level", config.caption_level, f"left out for captions={config.captions!r}")
    idle = config.captions != "rewrite" and config.rewritten != ""
    require(not idle, "rewritten", f"'{config.rewritten}'", f"left out for captions={config.captions!r}")
    if config.text == "":
        return
    if not config.text.endswith(".json"):
        require_one_of("text", config.text, ("train", PREPARED), other=", the path of a tokenizer.json, or empty")
    if config.text == PREPARED:
        idle = config.text_encoder != usual.text_encoder
        require(not idle, "text_encoder", config.text_encoder, "left out for prepared embeddings: none is trained")
        as_they_were = "none or swap for prepared embeddings, which are those of the captions as they were"
        require(config.captions != "rewrite", "captions", "rewrite", as_they_were)
    require(config.flips == "none", "flips", repr(config.flips), "none where the condition is text")
    smoothed = config.condition == "label smoothing"
    require(not smoothed, "condition", "'label smoothing'", "another where the condition is text")
    require_one_of("network", config.network, TEXT_NETWORKS)
    require(not config.flip, "flip", config.flip, "left out for text: captions that say left or right would be wrong")
    allowed = "0 for text: the judge names classes, and captions have none"
    require(config.evaluate_every == 0, "evaluate_every", config.evaluate_every, allowed)


def as_json(config: Config) -> str:
    """The config as JSON."""
    return json.dumps(dataclasses.asdict(config), indent=1) + "\n"


def save(config: Config, file: Path) -> None:
    """Write the config as JSON."""
    write_whole(file, as_json(config))


def load(file: Path) -> Config:
    """Read a config as `save` writes it; raises `InputError` for a file that is not one, naming unknown fields."""
    require(file.is_file(), "run", file.parent, "the folder of a run, with a config.json")
    try:
        values: Any = json.loads(file.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise InputError(f"{file} is not JSON: {error}") from error
    require(isinstance(values, dict), str(file), f"JSON of a {type(values).__name__}", "a JSON object")
    usual = dataclasses.asdict(Config())
    for name in values:
        require_one_of(f"a field of {file.name}", name, usual)
    absent = [name for name in usual if name not in values]
    require(not absent, str(file), f"no {', '.join(absent)}", "a config with every field")
    for name, value in values.items():
        _require_type(f"{name} in {file.name}", value, usual[name])
    listed: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }
    return Config(**listed)


def _require_type(name: str, value: object, usual: object) -> None:
    """The value must be of the usual one's type, as JSON has it; a whole number will do for a real one."""
    kinds: tuple[type, ...] = (list,) if isinstance(usual, tuple) else (type(usual),)
    kinds += (int,) * isinstance(usual, float)
    fits = isinstance(value, kinds) and isinstance(value, bool) == isinstance(usual, bool)
    require(fits, name, repr(value), f"of type {kinds[0].__name__}")


def require_same(config: Config, before: Config) -> None:
    """Raise `InputError` where a run's checkpoints are of another config, naming the fields that differ."""
    differing = [
        f"{field.name}={getattr(config, field.name)!r} (the run has {getattr(before, field.name)!r})"
        for field in dataclasses.fields(Config)
        if field.name not in FREE and getattr(config, field.name) != getattr(before, field.name)
    ]
    if differing:
        raise InputError(f"the folder holds a run of another config: {', '.join(differing)}. Choose another --out.")
