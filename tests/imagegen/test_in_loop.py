"""Evaluation in the loop: the same lines however often training stopped, and figures of the averaged weights."""

import dataclasses

import jax
import numpy as np
import pytest

from imagegen import in_loop
from imagegen.config import Config, check
from imagegen.data.builtin import make_source
from imagegen.data.source import ArraySource
from imagegen.evaluate import evaluate_samples
from imagegen.in_loop import SAMPLES, evaluation, prepare
from imagegen.run import average_denoiser, read_lines
from imagegen.sampling import generate, sampling_key
from imagegen.statistics import statistics_of
from imagegen.step import make_task
from imagegen.summary import _evaluations
from imagegen.training import train

pytestmark = pytest.mark.usefixtures("small_network")
SMALL = Config(network="small", batch=32, steps=6, warmup=2, log_every=2, checkpoint_every=4, samples_every=0,
               evaluate_every=5)  # fmt: skip


@pytest.fixture(scope="module")
def beside():
    return prepare(SMALL)


@pytest.mark.slow
def test_a_line_holds_the_main_figures_of_the_averaged_weights_and_how_they_came(beside):
    task, state = make_task(SMALL, statistics_of(make_source("digits")))
    denoiser = average_denoiser(task, state)
    line = evaluation(beside, denoiser, SMALL, 7)
    images = generate(denoiser, (8, 8, 1), np.arange(SAMPLES) % 10, sampling_key(0), in_loop.HOW)
    train_images, test_images = (make_source("digits", split) for split in ("train", "test"))
    page = evaluate_samples(images, np.arange(SAMPLES) % 10, train_images, test_images, beside.features)
    assert (line["step"], set(line["figures"])) == (7, set(in_loop.FIGURES))
    for name, figure in line["figures"].items():
        assert figure == {part: page["figures"][name][part] for part in ("debiased", "low", "high")}
    assert line["protocol"]["samples"] == SAMPLES
    assert line["protocol"]["ema"] == 0.99
    assert line["protocol"]["sha256"] == page["sha256"]


def test_images_are_those_of_up_to_25_classes_and_good_ones(monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(60), 12)
    images = rng.uniform(-1, 1, (720, 4, 4, 1)).astype(np.float32)
    names = tuple(map(str, range(60)))
    degraded = np.arange(720) % 3 == 0
    sources = {
        "train": ArraySource("many", images, labels, names, {"degraded": degraded}),
        "test": ArraySource("many", images[labels != 0], labels[labels != 0], names),
    }
    monkeypatch.setattr(in_loop, "make_source", lambda data, split, **how: sources[split])
    found = prepare(dataclasses.replace(SMALL, data="many.npz"))
    classes = np.unique(found.conds)
    assert (len(found.conds), len(classes), 0 in classes) == (SAMPLES, 25, False)
    assert np.array_equal(np.unique(found.train.labels), classes)
    assert len(found.train) == 25 * 8
    assert len(found.test) == 25 * 12
    monkeypatch.setattr(in_loop, "LARGEST", 100)
    assert len(prepare(dataclasses.replace(SMALL, data="many.npz")).test) == 100


def test_data_with_too_few_held_out_images_are_refused_before_training(monkeypatch, tmp_path):
    few = make_source("digits", "test").subset(np.arange(20))
    monkeypatch.setattr(in_loop, "make_source", lambda data, split, **how: few)
    with pytest.raises(ValueError, match="evaluate_every must be 0 for data with fewer than 40 held-out images"):
        train(SMALL, tmp_path / "run", jax.devices()[:1])
    assert not (tmp_path / "run").exists()
    with pytest.raises(ValueError, match="evaluate_every must be at least 0"):
        check(dataclasses.replace(SMALL, evaluate_every=-1))
    with pytest.raises(ValueError, match="evaluate_every must be 0 for text: the judge names classes"):
        check(dataclasses.replace(SMALL, text="train"))


@pytest.mark.slow
def test_an_interrupted_run_leaves_the_same_lines(beside, monkeypatch, tmp_path):
    """Evaluations at 5 and 6, a checkpoint at 4, stopped after 5 in the middle of a line."""
    figures = {"w2_squared": {"debiased": 1.5, "low": 1.0, "high": 2.0}}
    how = {"samples": 250, "sampler": "ddim", "steps": 25, "guidance": 0.0, "ema": 0.99, "seed": 0,
           "decoder": "none", "sha256": {"train": "1" * 64, "held_out": "2" * 64}}  # fmt: skip

    def quick(beside, denoiser, config, step):
        weight = float(jax.tree.leaves(denoiser)[0].sum())
        return {"step": step, "figures": figures, "protocol": how, "weight": weight}

    def interrupted(beside, denoiser, config, step):
        if step == 6:
            raise KeyboardInterrupt
        return quick(beside, denoiser, config, step)

    monkeypatch.setattr(in_loop, "prepare", lambda config: beside)
    monkeypatch.setattr(in_loop, "evaluation", quick)
    train(SMALL, tmp_path / "whole", jax.devices()[:1])
    lines = read_lines(tmp_path / "whole" / "evaluations.jsonl")
    assert [line["step"] for line in lines] == [5, 6]
    assert len({line["weight"] for line in lines}) == 2
    monkeypatch.setattr(in_loop, "evaluation", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(SMALL, tmp_path / "cut", jax.devices()[:1])
    with (tmp_path / "cut" / "evaluations.jsonl").open("a") as stream:
        stream.write('{"step": 6, "fig')
    monkeypatch.setattr(in_loop, "evaluation", quick)
    train(SMALL, tmp_path / "cut", jax.devices()[:1])
    assert read_lines(tmp_path / "cut" / "evaluations.jsonl") == lines
    page = (tmp_path / "cut" / "summary.md").read_text()
    assert "| 5 | 1.5 [1, 2] |" in page
    assert "of 250 samples (ddim, 25 steps, guidance 0, average 0.99, seed 0, decoder none), beside" in page
    assert "held-out images 222222222222 and training images 111111111111 (SHA-256)" in page


def test_evaluations_that_failed_are_told_in_the_summary():
    failed = {"step": 10, "failed": "samples must be finite"}
    how = {"samples": 250, "sampler": "ddim", "steps": 25, "guidance": 0.0, "ema": 0.99, "seed": 0, "decoder": "none",
           "sha256": {"train": "1" * 64, "held_out": "2" * 64}}  # fmt: skip
    done = {"step": 5, "figures": {"w2_squared": {"debiased": 1.5, "low": 1.0, "high": 2.0}}, "protocol": how}
    told = _evaluations([done, failed])
    assert told[-3:] == ["| 5 | 1.5 [1, 2] |", "| 10 |  |", ""]
    assert _evaluations([failed])[0] == "No evaluation succeeded; the last, at step 10: samples must be finite"
