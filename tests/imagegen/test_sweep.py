"""Sweeps: what is missing is run, what is there is not; differences are paired by seed, judged by their intervals."""

import dataclasses
import json
from types import SimpleNamespace

import equinox as eqx
import jax
import numpy as np
import pytest

from imagegen import config as configs
from imagegen import sweep as module
from imagegen.__main__ import main
from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.results import STORED, sweep_result
from imagegen.run import average_denoiser
from imagegen.sampling import SamplerConfig
from imagegen.statistics import statistics_of
from imagegen.step import make_task
from imagegen.sweep import missing, results, run_sweep
from imagegen.sweep_answer import FIGURE, answer, details, differences, table, verdict
from imagegen.sweeps import SWEEPS, Member, Sweep

BASE = Config(network="small", batch=32, steps=4, warmup=1, log_every=2, checkpoint_every=4, samples_every=0, keep=1)
SAMPLINGS = {"w=0": SamplerConfig(steps=2)}


@pytest.fixture
def tiny(monkeypatch, small_network):
    members = [
        Member("clean", "clean", 0.0, BASE, SAMPLINGS),
        Member("cep", "cep-g", 1.0, dataclasses.replace(BASE, condition="cep-g", strength=1.0), SAMPLINGS),
    ]
    monkeypatch.setitem(SWEEPS, "tiny", Sweep("Is it?", lambda: members))
    monkeypatch.setattr(module, "SAMPLES", 80)
    return members


@pytest.mark.parametrize("name", SWEEPS)
def test_every_run_of_every_sweep_is_a_sound_config_within_the_budget(name):
    members = SWEEPS[name].members()
    assert len({member.name for member in members}) == len(members)
    for member in members:
        configs.check(member.config)
        assert member.config.steps <= 400
        same = {
            f.name
            for f in dataclasses.fields(Config)
            if getattr(member.config, f.name) != getattr(members[0].config, f.name)
        }
        assert not same & {"network", "steps", "batch", "learning_rate", "ema", "accumulate"}  # equal compute
        assert member.samplings.keys() == members[0].samplings.keys()


def test_a_sweep_runs_what_is_missing_and_refuses_results_of_another_config(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(
        module, "run_member", lambda m, seed, device: {"name": m.name, "seed": seed, **module._made(m, seed)}
    )
    run_sweep("tiny", tmp_path, seeds=1, share=(0, 2))
    assert [file.name for file in sorted(tmp_path.iterdir())] == ["clean-s0.json"]
    assert missing("tiny", tmp_path, seeds=1) == ["cep-s0"]
    before = (tmp_path / "clean-s0.json").stat().st_mtime_ns
    run_sweep("tiny", tmp_path, seeds=1)
    assert (tmp_path / "clean-s0.json").stat().st_mtime_ns == before
    assert [one["name"] for one in results("tiny", tmp_path, seeds=1)] == ["clean", "cep"]
    changed = json.loads((tmp_path / "clean-s0.json").read_text())
    changed["config"]["learning_rate"] = 1.0
    (tmp_path / "clean-s0.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match="results of other configs"):
        run_sweep("tiny", tmp_path, seeds=1)


@pytest.mark.parametrize("name", SWEEPS)
def test_stored_results_are_those_of_todays_configs(name):
    """Fields that have come since they were stored had their usual values then."""
    stored = list(results(name, STORED / name))
    assert len(stored) == len(list((STORED / name).iterdir())) > 0


@pytest.mark.slow
def test_a_run_of_a_sweep_is_trained_sampled_and_evaluated(tiny):
    found = [module.run_member(member, 3, jax.devices()[0]) for member in tiny]
    assert all(np.isfinite(one["evaluations"]["w=0"]["figures"][FIGURE]["debiased"]) for one in found)
    assert [one["config"]["seed"] for one in found] == [3, 3]
    assert found[0]["losses"] != found[1]["losses"]
    assert len(found[0]["losses"]) == 2
    assert len(found[0]["embedding_norms"]) == 11


def test_a_run_whose_samples_are_not_finite_is_told_as_failed(tiny, monkeypatch):
    task, state = make_task(BASE, statistics_of(make_source("digits", "train")))
    broken = eqx.tree_at(
        lambda d: d.model.table, average_denoiser(task, state), replace_fn=lambda table: table * np.nan
    )
    monkeypatch.setattr(module, "train", lambda *arguments: None)
    monkeypatch.setattr(module, "load_run", lambda folder: SimpleNamespace(denoiser=broken))
    found = module.run_member(tiny[0], 0)
    assert found["failed"].startswith("sampling w=0: denoiser: not finite")
    assert found["evaluations"] == {}


def test_the_command_prints_draws_and_keeps_what_was_found(tiny, tmp_path, monkeypatch, capsys):
    def run(member, seed, device):
        figures = {FIGURE: {"debiased": 0.1 * seed + (member.name == "cep")}}
        found = {"name": member.name, "seed": seed, "evaluations": {"w=0": {"figures": figures}}, "seconds": 1.0}
        return found | module._made(member, seed)

    monkeypatch.setattr(module, "run_member", run)
    assert main(["sweep", "tiny", "--out", str(tmp_path), "--seeds", "3"]) == 0
    assert "0 better, 1 worse, 0 undecided (3 seeds" in capsys.readouterr().out
    assert "| cep | 1" in (tmp_path / "answer.md").read_text()
    assert (tmp_path / "differences-w-0.png").exists()


def fake(name, seed, value):
    figures = {FIGURE: {"debiased": value}}
    return {"name": name, "seed": seed, "evaluations": {"w=0": {"figures": figures}}, "seconds": 60.0}


def test_differences_are_paired_and_judged_by_their_intervals(tiny):
    # seeds differ by tens, runs by one: only a paired difference sees it
    found = [fake("clean", seed, 10.0 * seed + 0.01 * seed) for seed in range(4)]
    found += [fake("cep", seed, 10.0 * seed - 1) for seed in range(5)]
    (one,) = differences("tiny", found)
    gaps = np.array([-1 - 0.01 * seed for seed in range(4)])
    half = 3.182446305 * gaps.std(ddof=1) / 2  # Student's quantile with 3 degrees of freedom
    np.testing.assert_allclose(
        [one.interval.value, one.interval.low, one.interval.high], gaps.mean() + np.array([0, -half, half])
    )
    assert (one.seeds, verdict(one)) == (4, "better")
    assert "1 better, 0 worse, 0 undecided (4 seeds" in answer("tiny", found)
    assert any("better than clean: cep" in text for text in details("tiny", found))
    assert table("tiny", found).splitlines()[-1].startswith("| cep | -1.02 [-1.04, ")
    worse = [fake(one["name"], one["seed"], -one["evaluations"]["w=0"]["figures"][FIGURE]["debiased"]) for one in found]
    assert verdict(differences("tiny", worse)[0]) == "worse"
    assert "at w=0 the lowest mean of 2 is clean's" in answer("tiny", worse)
    assert differences("tiny", [*found, {"name": "cep", "seed": 5, "evaluations": {}, "failed": "so"}]) == []
    section = sweep_result("digits-paths", [])
    assert section.text == "Not run with two seeds yet."


def test_guided_runs_are_held_against_the_first_without_guidance(tiny, monkeypatch):
    both = {"w=0": SamplerConfig(steps=2), "w=1": SamplerConfig(steps=2, guidance=1.0)}
    both_ways = Sweep("Is it?", lambda: [member._replace(samplings=both) for member in tiny])
    monkeypatch.setitem(SWEEPS, "tiny", both_ways)

    def run(name, seed, plain, guided):
        figures = {way: {"figures": {FIGURE: {"debiased": x}}} for way, x in (("w=0", plain), ("w=1", guided))}
        return {"name": name, "seed": seed, "evaluations": figures, "seconds": 1.0}

    found = [run("clean", s, s + 1.0, s + 2.0 + 0.01 * s) for s in range(3)]
    found += [run("cep", s, s + 1.0, s + 1.5 + 0.01 * s) for s in range(3)]
    (text,) = (point for point in details("tiny", found) if "without guidance" in point)
    assert text.startswith("Of 2 guided runs and samplings, held against clean without guidance, none is seen")
    assert "the closest is cep at w=1, 0.51 [" in text
    found[3:] = [run("cep", s, s + 1.0, s + 0.5 + 0.01 * s) for s in range(3)]
    assert any("better are cep at w=1 -0.49" in point for point in details("tiny", found))
    other = Sweep("Is it?", lambda: [m._replace(samplings={"9 steps": both["w=0"]}) for m in tiny])
    monkeypatch.setitem(SWEEPS, "tiny", other)
    assert details("tiny", []) == []


def test_one_seed_is_no_comparison(tiny):
    assert differences("tiny", [fake("clean", 0, 1.0), fake("cep", 0, 0.5), fake("cep", 1, 0.5)]) == []


@pytest.mark.parametrize(("changes", "message"), [
    ({"share": (2, 2)}, "share must be"), ({"seeds": 0}, "seeds must be at least 1"),
])  # fmt: skip
def test_bad_shares_and_seeds_are_refused(tiny, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        run_sweep("tiny", tmp_path / "new", **changes)
    assert not (tmp_path / "new").exists()
