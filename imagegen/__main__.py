"""The command line of `imagegen`: prepare, annotate, quality, grade, rewrite, train, sample, evaluate, export.

`python -m imagegen presets` lists the presets; `train PRESET` trains one, any field of the config overridden by its
option; the same command goes on where it stopped. Exit code 2: a mistake in what was asked; 3: training stopped itself;
4: another host ended; 5: the disk or server of the data stayed away.
"""

import functools
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from imagegen import papers
from imagegen._names import require_one_of
from imagegen.annotate import AnnotateConfig
from imagegen.config import Config, check
from imagegen.data.patience import DataAway
from imagegen.data.skips import BAD_SHARE
from imagegen.data.tokens import LENGTH
from imagegen.hosts import HostLost, Launch, leads, leave_hosts, start_hosts
from imagegen.presets import PRESETS
from theory._checks import InputError, require
from theory._commands import exit_code

RUNS = Path("runs")
SEEDS = 5


def presets() -> int:
    """List the presets: command, time, score to expect; and the papers' runs, which are presets too."""
    for preset in PRESETS.values():
        print(f"{preset.command:40} {preset.time}; {preset.score}")
    for table, make in papers.PAPERS.items():
        runs = [run.name for run in make()]
        print(f"python -m imagegen train {table}/RUN   RUN: {', '.join(runs)}")
    print("Hours, disk, data and scores of the papers' runs: python -m imagegen sweep papers --dry-run")
    return 0


def _train(given: Sequence[str]) -> int:
    """`train PRESET [--out FOLDER] [--FIELD VALUE ...]`: the preset's fields are the defaults of the options.

    The papers' runs are presets by the names TABLE/RUN.
    """
    name, *rest = given or ["--help"]
    if name.startswith("-"):
        name, rest = next(iter(PRESETS)), ["--help"]
    usual = _usual(name)

    def command(
        config: Annotated[Config, tyro.conf.arg(name="")] = usual,
        launch: Annotated[Launch, tyro.conf.arg(name="")] = Launch(),  # noqa: B008 (it is frozen)
        out: Path = RUNS / name,
    ) -> int:
        """Train a preset, any field overridden; the same command goes on from the newest checkpoint.

        Args:
            config: Fields of the run.
            launch: For a run on many hosts: docs/many-hosts.md.
            out: Folder of the run.
        """
        from imagegen.training import train

        papers.require_made(config)
        check(config)
        start_hosts(launch)
        train(config, out)
        if leads():
            print((out / "summary.md").read_text(encoding="utf-8").split("\n\n")[1])
            print(f"wrote {out}")
        return 0

    return tyro.cli(command, prog=f"python -m imagegen train {name}", args=rest)


def _usual(name: str) -> Config:
    """The config of a preset, or of one of the papers' runs."""
    if name.split("/")[0] == "papers":
        return papers.run_named(name).config
    require_one_of("preset", name, PRESETS, other=", or papers/TABLE/RUN")
    return PRESETS[name].config


def annotate(
    config: Annotated[AnnotateConfig, tyro.conf.arg(name="")] = AnnotateConfig(),  # noqa: B008 (it is frozen)
    *,
    out: Path = Path("annotations.npz"),
) -> int:
    """Let classifiers say which noise levels each degraded image may train: OUT, for `train --annotations OUT`.

    Args:
        config: The data, as for `train`, and how they are judged.
        out: The file; a figure is written beside it.
    """
    from imagegen.annotate import run_annotate, told

    print(told(run_annotate(config, out)))
    print(f"wrote {out} and {out.with_suffix('.png')}")
    return 0


def quality(
    data: tyro.conf.Positional[str], *, clip: Path, resolution: int = 0, out: Path = Path("quality.csv")
) -> int:
    """Score the quality of images by CLIP-IQA, for `grade`: OUT, a CSV file with columns `key` and `score`.

    Args:
        data: A folder of images, of tar shards, or of prepared images, as for `train --data`.
        clip: The folder of a CLIP model of transformers.
        resolution: As for `train`: what the images are cropped to before they are scored.
        out: The file; images that it has are not scored again.
    """
    from imagegen.clip import Clip
    from imagegen.grades import quality

    print(f"{quality(data, Clip(clip), out, resolution=resolution)} images have their scores in {out}")
    return 0


def grade(
    data: tyro.conf.Positional[str],
    scores: tyro.conf.Positional[Path],
    *,
    resolution: int = 0,
    bad_share: float = 0.8,
    sigma_min: float = 0.4,
    out: Path = Path("annotations.npz"),
) -> int:
    """Let images of low scores train at high noise alone: OUT, for `train --train-on gated --annotations OUT`.

    Args:
        data: A folder of images, of tar shards, or of prepared data, as for `train --data`.
        scores: A CSV file with columns `key` and `score`, the higher the better, of every training image (`quality`).
        resolution: As for `train`.
        bad_share: The share of the images, those with the lowest scores, that train at high noise alone.
        sigma_min: Noise-to-signal ratio from which on they train.
        out: The file.
    """
    from imagegen.grades import grade, told

    print(told(grade(data, scores, out, resolution=resolution, bad_share=bad_share, sigma_min=sigma_min)))
    print(f"wrote {out}")
    return 0


def rewrite(
    data: tyro.conf.Positional[str],
    out: tyro.conf.Positional[Path],
    *,
    level: int,
    model: Path | None = None,
    split: str = "train",
    resolution: int = 0,
) -> int:
    """Rewrite all captions of a folder once: OUT, for `train --captions rewrite --rewritten OUT`.

    Args:
        data: A folder of tar shards, or of prepared data, as for `train --data`.
        out: The file, .jsonl; captions that it has are not rewritten again.
        level: How much changes, 1 (one attribute) to 5 (all entities, attributes and relations).
        model: The folder of a language model of transformers; by default words are exchanged by rules.
        split: train or test.
        resolution: As for `train`.
    """
    from imagegen.data.rewriting import LanguageModelRewriter, rewrite_words
    from imagegen.rewrites import RULES, model_sha256, rewrite

    rewriter, called = (rewrite_words, RULES) if model is None else (LanguageModelRewriter(model), model_sha256(model))
    count = rewrite(data, out, level=level, rewriter=rewriter, called=called, split=split, resolution=resolution)
    print(f"{count} captions are rewritten in {out}")
    return 0


def sample(
    run: tyro.conf.Positional[Path],
    *,
    number: int = 100,
    classes: tuple[int, ...] = (),
    captions: tuple[str, ...] = (),
    sampler: str = "ddim",
    grid: str = "uniform",
    steps: int = 50,
    guidance: float = 0.0,
    interval: tuple[float, float] = (0.0, 1.0),
    ema: float | None = None,
    step: int | None = None,
    seed: int = 0,
    walk: bool = False,
    decoder: Path | None = None,
    batch: int = 250,
    text_encoder: Path | None = None,
    out: Path | None = None,
) -> int:
    """Make images from a run: a PNG grid and an .npz as ADM's (`arr_0` bytes, `arr_1` labels).

    Args:
        run: Folder of the run.
        number: Images.
        classes: Their classes in turn; by default all.
        captions: Where the run reads text, their captions in turn; by default those of the held-out images.
        sampler: ddim, ancestral_small, ancestral_large, euler, heun, sigma_heun, dpm_solver_pp_2m or reverse_sde.
        grid: Grid of times: uniform, quadratic, edm, log_snr or equal_angle.
        steps: Steps of the sampler.
        guidance: Patina's w >= 0: the usual scale minus 1.
        interval: Times between which guidance acts.
        ema: Decay of the average of weights; by default the last of the run's.
        step: Checkpoint; by default the newest.
        seed: Seed of the noise.
        walk: Instead, images of the first class or caption along a circle of starting noise.
        decoder: Of a run on latents, the folder of their autoencoder.
        batch: Images made at once, for memory; the images after the first batch depend on it.
        text_encoder: Of a run on prepared embeddings, the folder of their text encoder, for CAPTIONS.
        out: Folder; by default RUN/samples-STEP.
    """
    from imagegen.samples import make_samples, make_walk
    from imagegen.sampling import SamplerConfig

    require(number >= 1, "number", number, "at least 1")
    how = SamplerConfig(sampler, grid, steps, guidance, interval)
    make = make_walk if walk else functools.partial(make_samples, batch=batch)
    file = make(run, number=number, classes=classes, captions=captions, how=how, ema=ema, step=step, seed=seed, out=out,
                decoder=decoder, text_encoder=text_encoder)  # fmt: skip
    print(f"wrote {file}")
    return 0


def evaluate(
    run: tyro.conf.Positional[Path],
    *,
    samples: Path | None = None,
    seed: int = 0,
    features: str = "classifier",
    weights: Path | None = None,
    reference: Path | None = None,
) -> int:
    """Compare a run's samples with held-out images, every figure beside its bias (docs/metrics.md), written as
    evaluation.json; or by another network on disk, written as evaluation-FEATURES.json.

    Args:
        run: Folder of the run.
        samples: The .npz of `sample`; by default the newest in RUN.
        seed: Seed that cuts the halves (not inception's).
        features: classifier, trained on the spot; clip, for CLIP scores and figures in its features; codebook, for the
            entropy of a VQModel's codes; or inception, for the figures that papers quote, with a REFERENCE.
        weights: The folder of clip's transformers model, or of codebook's diffusers model; or inception's file, .pth
            as torch-fidelity's, or .safetensors.
        reference: For inception, the .npz file of `reference`, or ADM's.
    """
    from imagegen.evaluate import evaluate_run

    require_one_of("features", features, ("classifier", "clip", "codebook", "inception"))
    if features == "inception":
        require(seed == 0, "seed", seed, "left out for inception, whose subsets are always the same")
        return _evaluate_standard(run, samples, weights, reference)
    require(reference is None, "reference", reference, f"left out for {features}")
    require(0 <= seed < 2**32, "seed", seed, "between 0 and 2^32 - 1")
    if features == "classifier":
        require(weights is None, "weights", weights, "left out for classifier")
        return _print_figures(evaluate_run(run, samples, seed=seed))
    return _evaluate_scores(run, samples, features, weights, seed)


def _evaluate_scores(run: Path, samples: Path | None, features: str, weights: Path | None, seed: int) -> int:
    from imagegen.scores import evaluate_clip, evaluate_codebook

    if weights is None:
        raise InputError(f"weights must be given for features={features}: the folder of the model.")
    evaluate_by = evaluate_clip if features == "clip" else evaluate_codebook
    return _print_figures(evaluate_by(run, samples, weights, seed))


def _print_figures(file: Path) -> int:
    page = json.loads(file.read_text(encoding="utf-8"))
    for name, score in page.get("scores", {}).items():
        print(f"{name:28} {score['value']:10.4g} [{score['low']:.4g}, {score['high']:.4g}]")
    if page["figures"]:
        print(f"{'figure':28} {'debiased':>10} {'95 % interval':24} {'ideal':>5} {'bias':>10}")
    for name, figure in page["figures"].items():
        ends, ideal = f"[{figure['low']:.4g}, {figure['high']:.4g}]", figure.get("ideal")
        shown = " " * 5 if ideal is None else f"{ideal:5g}"
        print(f"{name:28} {figure['debiased']:10.4g} {ends:24} {shown} {figure['bias']:10.4g}")
    for name, why in page["left_out"].items():
        print(f"{name:28} left out: {why}")
    print(f"wrote {file}")
    return 0


def _evaluate_standard(run: Path, samples: Path | None, weights: Path | None, reference: Path | None) -> int:
    from imagegen.standard import evaluate_standard

    if weights is None or reference is None:
        raise InputError("weights and reference must be given for features=inception.")
    file = evaluate_standard(run, samples, weights, reference)
    page = json.loads(file.read_text(encoding="utf-8"))
    for name, value in page["figures"].items():
        print(f"{name:28} {value:10.5g}")
    for name, why in page["left_out"].items():
        print(f"{name:28} left out: {why}")
    print(f"{page['protocol']['samples']} samples; wrote {file}, with the protocol")
    return 0


def reference(
    data: tyro.conf.Positional[str],
    *,
    weights: Path,
    split: str = "train",
    resolution: int = 0,
    bad_share: float = BAD_SHARE,
    out: Path = Path("reference.npz"),
) -> int:
    """Inception's statistics of a data set's good images, in ADM's format: OUT, for `evaluate --reference OUT`.

    Args:
        data: The data, as for `train`.
        weights: Inception's, torch-fidelity's .pth file or .safetensors.
        split: train or test.
        resolution: As for `train`.
        bad_share: As for `train`.
        out: The .npz file.
    """
    from imagegen.data.builtin import make_source
    from imagegen.data.latents import LatentSource
    from imagegen.data.source import ArraySource
    from imagegen.evaluate import good
    from imagegen.inception import load_inception
    from imagegen.references import write_reference

    source = make_source(data, split, resolution=resolution, bad_share=bad_share)
    require(not isinstance(source, LatentSource), "data", f"'{data}', latents", "the images themselves")
    clean = good(source) if isinstance(source, ArraySource) else source
    write_reference(clean, load_inception(weights), out, data=data, split=split)
    print(f"wrote {out}")
    return 0


def export(run: tyro.conf.Positional[Path], *, out: Path, ema: float | None = None) -> int:
    """Write a run's averaged weights as one .safetensors file, config and statistics in it, for `train --start OUT`.

    Args:
        run: Folder of the run.
        out: The file.
        ema: Decay of the average of weights; by default the last of the run's.
    """
    from imagegen.weights import export_run

    export_run(run, out, ema=ema)
    print(f"wrote {out}")
    return 0


def sweep(
    name: tyro.conf.Positional[str],
    *,
    out: Path | None = None,
    seeds: int = SEEDS,
    share: tuple[int, int] = (0, 1),
    dry_run: bool = False,
    rehearse: bool = False,
    fsdp: int = 1,
    accumulate: int = 1,
    remat: bool = False,
    decoder: Path | None = None,
    weights: Path | None = None,
    reference: Path | None = None,
) -> int:
    """Run what is missing of a sweep (`imagegen.sweeps.SWEEPS`), a result file per run; print and draw what it found.

    Or the papers' runs at full size (`imagegen.papers.PAPERS`): papers/slight-corruption, papers/shortest-path,
    papers/ambient-omni, one of their tables, or one run of a table, papers/.../RUN.

    Args:
        name: digits-conditions, digits-paths, digits-ambient, or papers/...
        out: Folder of the results; by default results/NAME.
        seeds: Repeats (not of the papers' runs).
        share: K N: every N-th of the runs from number K on, for N processes at once.
        dry_run: Print what would run and start nothing; of papers' runs hours, disk and missing data too.
        rehearse: Papers' runs at a thousandth of the steps, small networks, generated shapes.
        fsdp: Papers' runs: as for `train`.
        accumulate: Papers' runs: as for `train`.
        remat: Papers' runs: as for `train`, of all runs.
        decoder: Papers' runs: the folder of the autoencoder, for latents.
        weights: Papers' runs: Inception's, to score them by FID.
        reference: Papers' runs: the .npz file of `reference`, or ADM's.
    """
    if name.split("/")[0] == "papers":
        require(seeds == SEEDS, "seeds", seeds, "left out for papers/...: a run each")
        require(not (dry_run and rehearse), "dry_run, rehearse", "both", "one of them")
        fits = {"fsdp": fsdp, "accumulate": accumulate} | ({"remat": True} if remat else {})
        files = {"decoder": decoder, "weights": weights, "reference": reference}
        return _papers(name, out or Path("results"), share, dry_run, rehearse, fits, files)
    only = (rehearse, fsdp, accumulate, remat, decoder, weights, reference)
    names, allowed = "rehearse, fsdp, accumulate, remat, decoder, weights, reference", "left out but for papers/..."
    require(only == (False, 1, 1, False, None, None, None), names, only, allowed)
    from imagegen.sweep import missing, results, run_sweep
    from imagegen.sweep_answer import write_answer

    folder = out or Path("results") / name
    if not dry_run:
        run_sweep(name, folder, seeds=seeds, share=share)
        print(write_answer(name, list(results(name, folder, seeds=seeds)), folder))
    left = missing(name, folder, seeds=seeds)
    said = f"{folder}: {len(left)} runs are missing, such as {left[0]}" if left else f"{folder}: complete"
    print(said)
    return 0


def _papers(
    name: str,
    folder: Path,
    share: tuple[int, int],
    dry_run: bool,
    rehearse: bool,
    fits: dict[str, Any],
    files: dict[str, Path | None],
) -> int:
    """`fits` are fields of all runs that say how they fit on the devices at hand."""
    from imagegen.paper_runs import REHEARSED, answer, plan, run_papers, shared, tables_of
    from imagegen.papers import SAMPLES, rehearsal

    tables = {
        table: [run._replace(config=replace(run.config, **fits)) for run in runs]
        for table, runs in shared(tables_of(name), share).items()
    }
    if not rehearse:
        print(plan(tables))
    if dry_run:
        return 0
    if rehearse:
        tables = {table: [rehearsal(run) for run in runs] for table, runs in tables.items()}
    number, folder = (REHEARSED, folder / "rehearsal") if rehearse else (SAMPLES, folder)
    print(answer(run_papers(tables, folder, samples=number, **files)))
    return 0


def report(*, out: Path = Path("report"), results: Path = Path("results"), full: bool = False, seed: int = 0) -> int:
    """Everything on one page, OUT/index.html: claims, experiments, and digits trained with and without CEP.

    Args:
        out: Folder of the page.
        results: Folder of the experiments' results and of the runs; what is finished there is used.
        full: Full experiments (hours) rather than fast ones.
        seed: Seed of everything drawn but the digits' training.
    """
    from imagegen.results import image_results
    from sim.__main__ import make_report, prepare

    prepare()
    return make_report(out, results, full, seed, lambda: image_results(results / "runs"))


def train() -> int:
    """Train a preset: `train PRESET [--out FOLDER] [--FIELD VALUE ...]`; `train --help` explains every field."""
    raise AssertionError("main reads the preset before its options")


def prepare(
    data: tyro.conf.Positional[Path],
    *,
    resolution: int,
    out: Path,
    bad_share: float = BAD_SHARE,
    latents: Path | None = None,
    text_encoder: Path | None = None,
    text_length: int = LENGTH,
) -> int:
    """Crop a folder of images (ImageNet) or tar shards (CC3M) once, and store them for `train --data OUT`.

    Args:
        data: The folder, as for `train --data`.
        resolution: Side of the images in pixels.
        out: Folder to store them in, as PNG, with a manifest.json.
        bad_share: Stop where more than this share of the images is left out from the start, or turns out unreadable.
        latents: Store latents instead, of the autoencoder in this folder (diffusers' AutoencoderKL or VQModel).
        text_encoder: Store embeddings of the captions too, by the text encoder in this folder (transformers' BERT,
            CLIP's text model or T5's encoder), for `train --text prepared`.
        text_length: Tokens of a caption that is encoded; longer ones are cut.
    """
    from imagegen.prepare import prepare
    from imagegen.pretrained import Autoencoder
    from imagegen.text_encoders import FrozenEncoder

    idle = text_encoder is None and text_length != LENGTH
    require(not idle, "text_length", text_length, "left out where captions are not encoded: no text_encoder")
    encoder = None if latents is None else Autoencoder(latents)
    text = None if text_encoder is None else FrozenEncoder(text_encoder, text_length)
    manifest = prepare(data, out, resolution=resolution, bad_share=bad_share, encoder=encoder, text=text)
    splits = manifest["splits"]
    for name, split in splits.items():
        reasons = [f"{count} x {why}" for why, count, _ in split["left_out"]]
        reasons += [f"{len(split['skipped'])} unreadable"] * bool(split["skipped"])
        told = f"; left out: {', '.join(reasons)}" if reasons else ""
        print(f"{name}: {split['count']} images in {len(split['shards'])} shards{told}")
    print(f"wrote {out}")
    return 0


COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare": prepare,
    "train": train,
    "presets": presets,
    "annotate": annotate,
    "quality": quality,
    "grade": grade,
    "rewrite": rewrite,
    "sample": sample,
    "evaluate": evaluate,
    "reference": reference,
    "export": export,
    "sweep": sweep,
    "report": report,
}


INTERRUPTED = {
    "prepare": "interrupted; finished shards are kept, the same command goes on with the others",
    "train": "interrupted; the same command goes on from the newest checkpoint, if there is one",
    "quality": "interrupted; scored images are kept, the same command goes on with the others",
    "rewrite": "interrupted; rewritten captions are kept, the same command goes on with the others",
    "annotate": "interrupted; what finished judges said is kept, the same command goes on with the next",
    "sample": "interrupted; finished parts are kept, the same command goes on from them",
    "reference": "interrupted; what is finished is kept, the same command goes on from it",
    "sweep": "interrupted; finished runs are kept, the same command goes on with the next",
    "report": "interrupted; what is finished is kept, the same command goes on from it",
}
"""What is said after Ctrl-C, where something is kept."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code."""
    from imagegen.training import Stopped

    given = list(sys.argv[1:] if arguments is None else arguments)

    def command() -> int:
        if given[:1] == ["train"]:
            return _train(given[1:])
        return tyro.extras.subcommand_cli_from_dict(
            COMMANDS, prog="python -m imagegen", description=__doc__, args=given or ["--help"]
        )

    try:
        return exit_code(command, INTERRUPTED.get(given[0] if given else "", "interrupted"))
    except Stopped as error:
        print(f"error: {error}", file=sys.stderr)
        return 3
    except HostLost as error:
        print(f"error: {error}", file=sys.stderr)
        return 4
    except DataAway as error:
        print(f"error: {error}", file=sys.stderr)
        return 5


if __name__ == "__main__":
    leave_hosts(main())
