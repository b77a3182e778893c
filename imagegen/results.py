"""What the report shows of image models: digits trained clean and with CEP, and the sweeps run so far.

Training runs in processes of its own, in float32 as its users run it, one per run and all at once.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imagegen.run import read_lines
from imagegen.sweep import results
from imagegen.sweep_answer import answer, details, difference_figure
from imagegen.sweep_theory import predictions
from imagegen.sweeps import SWEEPS
from sim.experiments.wording import shown
from theory._checks import require
from theory.canvas import png
from theory.report import Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

DIGITS = ("digits", "digits-cep")
SAMPLES = 500
FINAL = "final-samples"
STORED = Path(__file__).parent.parent / "experiments"
"""Committed results of the sweeps; not in the wheel."""


def train_digits(folder: Path) -> None:
    """Train the presets of `DIGITS` in `folder`, make and evaluate samples; only the evaluation is done again.

    Raises `RuntimeError` where a run failed; it has said why.
    """
    folder.mkdir(parents=True, exist_ok=True)
    script = "import sys; from imagegen.results import digits_run; digits_run(sys.argv[1], sys.argv[2])"
    environment = {**os.environ, "JAX_ENABLE_X64": "0", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # they share a GPU
    processes = {
        name: subprocess.Popen([sys.executable, "-c", script, name, str(folder / name)], env=environment)
        for name in DIGITS
    }
    failed = [name for name, process in processes.items() if process.wait() != 0]
    if failed:
        raise RuntimeError(f"training failed: {', '.join(failed)} (see above)")


def digits_run(name: str, folder: str) -> None:
    """Train, sample and evaluate one preset, as a user would from the command line."""
    from imagegen.evaluate import evaluate_run
    from imagegen.presets import PRESETS
    from imagegen.samples import make_samples
    from imagegen.sampling import SamplerConfig
    from imagegen.training import train

    run = Path(folder)
    train(PRESETS[name].config, run)
    how, out = SamplerConfig(steps=25), run / FINAL
    file = make_samples(run, number=SAMPLES, classes=(), how=how, ema=None, step=None, seed=0, out=out)
    evaluate_run(run, file)


def digits_result(folder: Path) -> Result:
    """The section on the two runs in `folder`. Raises `ValueError` where one of them is missing."""
    evaluations = {name: _evaluation(folder / name) for name in DIGITS}
    figures = {name: evaluation["figures"] for name, evaluation in evaluations.items()}
    told = ", ".join(f"{shown(_estimate(f['w2_squared_per_class']))} ({name})" for name, f in figures.items())
    recognised = " and ".join(f"{figures[name]['accuracy']['value']:.0%}" for name in DIGITS)
    judge = evaluations[DIGITS[0]]["features"]["accuracy"]["value"]
    text = (
        f"Trained for this page, one seed, equal steps: debiased $W_2^2$ per class {told}; a judge that is right "
        f"on {judge:.0%} of held-out digits recognises {recognised} of the samples. Intervals are of one run's "
        f"{SAMPLES} samples, not over trainings: for those see the sweeps."
    )
    images = [(f"Samples of {name}, a column per class.", (folder / name / FINAL / "samples.png").read_bytes())
              for name in DIGITS]  # fmt: skip
    images.append(("Loss of single batches by step.", png(_losses(folder))))
    points = [
        f"{name}: " + "; ".join(f"{key.replace('_', ' ')} {shown(_estimate(f))}" for key, f in figures[name].items())
        for name in DIGITS
    ]
    return Result("Digits, trained with and without CEP", text, images, points)


def _evaluation(run: Path) -> dict[str, Any]:
    file = run / FINAL / "evaluation.json"
    require(file.exists(), "folder", run, "a run with samples and their evaluation")
    evaluation: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return evaluation


def _estimate(figure: dict[str, float]) -> dict[str, float]:
    return {"value": figure["debiased"], "low": figure["low"], "high": figure["high"]}


def _losses(folder: Path) -> "Figure":
    from theory.canvas import PALETTE, new_figure

    figure, (axes,) = new_figure()
    for name, colour in zip(DIGITS, PALETTE, strict=False):
        lines = read_lines(folder / name / "metrics.jsonl")
        axes.plot([line["step"] for line in lines], [line["loss"] for line in lines], color=colour, label=name)
    axes.set(xlabel="step", ylabel="loss of one batch (velocity)")
    axes.legend()
    return figure


def sweep_result(name: str, found: Sequence[dict[str, Any]]) -> Result:
    """The section on a sweep, from its results so far."""
    first = SWEEPS[name].members()[0]
    figures = [
        (
            f"Paired differences from {first.name} over seeds, with 95 % intervals; left of zero is better.",
            png(difference_figure(name, found, sampling)),
        )
        for sampling in first.samplings
    ]
    seconds = float(np.sum([one["seconds"] for one in found]))
    points = [
        *details(name, found),
        *predictions(name, found),
        f"{len(found)} runs in {seconds / 3600:.1f} hours of their own.",
    ]
    return Result(SWEEPS[name].question, answer(name, found), figures, points)


def image_results(folder: Path) -> Iterator[Result]:
    """All sections: digits trained in `folder`, then every sweep with stored results of two seeds."""
    train_digits(folder)
    yield digits_result(folder)
    for name in SWEEPS:
        found = list(results(name, STORED / name))
        if len({one["seed"] for one in found}) >= 2:
            yield sweep_result(name, found)
