"""One page about a run: what was trained, how the loss fell, what it makes."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagegen import config as configs
from imagegen.config import Config
from imagegen.data.skips import told
from imagegen.run import read_lines

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def write_summary(folder: Path) -> Path:
    """Write `summary.md` and `loss.png` of a run that ended; return the page's path."""
    from theory.canvas import save

    config, metrics = configs.load(folder / "config.json"), read_lines(folder / "metrics.jsonl")
    save(loss_figure(metrics), folder / "loss.png")
    last, speed = metrics[-1], read_lines(folder / "speed.jsonl")
    loss = "not finite" if last["loss"] is None else f"{last['loss']:.4f}"
    rate = float(np.median([line["images_per_second"] for line in speed]))
    skipped = f" {last['skipped']} steps were left out for gradients that were not finite." if last["skipped"] else ""
    data = told(folder)
    grids = sorted((folder / "samples").glob("*.png"))
    shown = [f"![Samples of the averaged weights]({grids[-1].relative_to(folder)})", ""] if grids else []
    page = [
        f"# {folder.name}",
        "",
        f"{config.network} on {config.data}, {last['step']} steps of {config.batch} images, {rate:.0f} images/s "
        f"(median). Loss of the last batch {loss}.{skipped}",
        "",
        *([data, ""] if data else []),
        *shown,
        "![Loss by step](loss.png)",
        "",
        *_evaluations(read_lines(folder / "evaluations.jsonl")),
        "| field | value | usual |",
        "|---|---|---|",
        *_fields(config),
        "",
    ]
    file = folder / "summary.md"
    file.write_text("\n".join(page), encoding="utf-8")
    return file


def _evaluations(lines: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of what was evaluated while training, a row for each step."""
    if not lines:
        return []
    done = [line for line in lines if "failed" not in line]
    if not done:
        return [f"No evaluation succeeded; the last, at step {lines[-1]['step']}: {lines[-1]['failed']}", ""]
    names, how = list(done[-1]["figures"]), done[-1]["protocol"]
    cells = [[str(line["step"]), *(_figure(line.get("figures", {}).get(name)) for name in names)] for line in lines]
    told = (
        f"Debiased figures with 95 % intervals of {how['samples']} samples ({how['sampler']}, {how['steps']} steps, "
        f"guidance {how['guidance']:g}, average {how['ema']:g}, seed {how['seed']}, decoder "
        f"{how['decoder']}), beside held-out images {how['sha256']['held_out'][:12]} and training images "
        f"{how['sha256']['train'][:12]} (SHA-256):"
    )
    head = [f"| step | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
    return [told, "", *head, *(f"| {' | '.join(row)} |" for row in cells), ""]


def _figure(values: Mapping[str, float | None] | None) -> str:
    """Empty where a number is missing or not finite (None)."""
    debiased, low, high = (values[name] if values else None for name in ("debiased", "low", "high"))
    if debiased is None or low is None or high is None:
        return ""
    return f"{debiased:.3g} [{low:.3g}, {high:.3g}]"


def _fields(config: Config) -> list[str]:
    usual = dataclasses.asdict(Config())
    return [f"| {name} | {value} | {usual[name]} |" for name, value in dataclasses.asdict(config).items()]


def loss_figure(metrics: Sequence[Mapping[str, Any]]) -> "Figure":
    """Loss and gradient's norm of the batches whose metrics were written, by step."""
    from theory.canvas import BLUE, VERMILION, new_figure

    figure, (upper, lower) = new_figure(rows=2, share_x=True)
    steps = [line["step"] for line in metrics]
    upper.plot(steps, [np.nan if line["loss"] is None else line["loss"] for line in metrics], color=BLUE)
    upper.set(ylabel="loss of one batch")
    norms = [np.nan if line["grad_norm"] is None else line["grad_norm"] for line in metrics]
    lower.plot(steps, norms, color=VERMILION)
    lower.set(xlabel="step", ylabel="norm of the gradient", yscale="log")
    return figure
