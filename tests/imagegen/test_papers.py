"""The papers' tables: sound configs, costs that add up, nothing started without data, rehearsals from end to end."""

import dataclasses
import json
import re

import pytest

from imagegen import config as configs
from imagegen import papers
from imagegen.__main__ import main
from imagegen.paper_runs import RATES, cost, run_papers, shared, tables_of
from imagegen.papers import DATA, DIT_IMAGENET, PAPERS, SAMPLES, PaperRun, rehearsal, run_named
from imagegen.sampling import SamplerConfig

DIT_IMAGENET_CEP = dataclasses.replace(DIT_IMAGENET, condition="cep-g", strength=1.0)
ALL = [(table, run) for table, make in PAPERS.items() for run in make()]


@pytest.mark.parametrize("table", PAPERS)
def test_every_run_of_a_table_is_sound_and_so_is_its_rehearsal(table):
    runs = PAPERS[table]()
    assert len({run.name for run in runs}) == len(runs) > 1
    for run in runs:
        assert run.config.data in DATA
        configs.check(dataclasses.replace(run.config, data="digits"))
        small = rehearsal(run)
        configs.check(small.config)
        assert small.config.steps == run.config.steps // 1000
    equal = {(c.network, c.batch, c.steps, c.learning_rate) for c in (run.config for run in runs)}
    assert len(equal) == 1


def test_hours_are_three_passes_an_image_and_sampling_at_half_of_the_matrix_rate():
    run = next(run for run in PAPERS["papers/slight-corruption/dit-xl-2-imagenet"]() if run.name == "cep-g-1")
    assert run.how.guidance == 0.75
    forward = 237.2e9  # DiT-XL/2 at 32 x 32 x 4 (Peebles & Xie count 118.6 G multiplications)
    seconds = (3 * 256 * 400_000 + 2 * 50 * SAMPLES) * forward / RATES["bfloat16"]
    found = cost(run)
    assert found["hours"] == pytest.approx(seconds / 3600, rel=1e-3)
    assert found["images"] == 256 * 400_000
    assert found["checkpoints"] == pytest.approx(675e6 * 4 * 4 * 2, rel=0.01)  # weights, one average, two moments; two
    assert found["samples"] == 50_000 * 256 * 256 * 3


def test_a_dry_run_adds_up_names_what_is_missing_and_starts_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "papers/slight-corruption", "--dry-run"]) == 0
    told = capsys.readouterr().out
    runs = [run for table, run in ALL if table.startswith("papers/slight-corruption/")]
    hours = [float(found) for found in re.findall(r"^  \S+ +\d+ M +(\d+) ", told, re.MULTILINE)]
    assert len(hours) == len(runs)
    total = float(re.search(r"In all (\d+) runs, ([\d,]+) hours", told)[2].replace(",", ""))
    assert total == pytest.approx(sum(hours), abs=len(runs))
    assert "missing: data/cc3m-256-vq-f4; made by python -m imagegen prepare" in told
    assert "FID 6.91, IS 180.77" in told
    assert list(tmp_path.iterdir()) == []
    assert main(["sweep", "papers/ambient-omni/cifar10"]) == 2
    assert "all there before a table of runs starts" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_unknown_tables_and_options_of_the_others_are_refused(tmp_path, capsys):
    assert main(["sweep", "papers/slight-coruption", "--dry-run"]) == 2
    assert "did you mean 'papers/slight-corruption'?" in capsys.readouterr().err
    assert main(["sweep", "digits-paths", "--rehearse"]) == 2
    assert "left out but for papers" in capsys.readouterr().err
    for wrong in (["--seeds", "2"], ["--dry-run", "--rehearse"]):
        assert main(["sweep", "papers/shortest-path", *wrong]) == 2
        assert wrong[0][2:].replace("-", "_") in capsys.readouterr().err
    with pytest.raises(ValueError, match="given together"):
        run_papers({}, tmp_path, weights=tmp_path)  # and no reference
    table = tables_of("papers/slight-corruption/ldm-4-imagenet")
    with pytest.raises(ValueError, match=r"given, to score samples of .*vq-f4"):
        run_papers(table, tmp_path)
    assert set(tables_of("papers")) == set(PAPERS)


def test_a_run_has_a_name_as_a_preset_and_says_what_data_it_wants(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    name = "papers/slight-corruption/dit-xl-2-imagenet/cep-g-1"
    assert run_named(name).config == DIT_IMAGENET_CEP
    assert main(["train", name, "--fsdp", "8"]) == 2
    made = "python -m imagegen prepare IMAGENET --resolution 256 --latents KL-F8 --out data/imagenet-256-kl-f8"
    assert f"data must be prepared first, by `{made}`" in capsys.readouterr().err
    for wrong, near in (
        (f"{name}2", "did you mean 'cep-g-1"),
        ("papers/slight-corruption/dit-xl", "dit-xl-2-imagenet"),
    ):
        assert main(["train", wrong]) == 2
        assert near in capsys.readouterr().err
    assert main(["presets"]) == 0
    assert "papers/slight-corruption/dit-xl-2-imagenet/RUN   RUN: clean, " in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_a_run_of_a_table_can_be_swept_alone(capsys):
    assert main(["sweep", "papers/slight-corruption/dit-xl-2-imagenet/cep-g-1", "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "In all 1 runs" in told
    assert "from Slight Corruption" in told
    assert "FID 5.92" in told
    # two orientations of mean and deviation, two bytes each
    assert f"at most {2 * 2 * 2 * 32 * 32 * 4 * (1_281_167 + 50_000) / 1e9:.0f} GB" in told


@pytest.mark.parametrize("n", [1, 3, 100])
def test_shares_are_all_runs_each_once(n):
    tables = tables_of("papers")
    parts = [shared(tables, (k, n)) for k in range(n)]
    names = [(table, run.name) for part in parts for table, runs in part.items() for run in runs]
    assert sorted(names) == sorted((table, run.name) for table, run in ALL)
    with pytest.raises(ValueError, match="0 <= K < N"):
        shared(tables, (n, n))


def tiny(run):
    """The rehearsal with a network that compiles fast, and a few steps of it."""
    config = dataclasses.replace(
        rehearsal(run).config, network="small", steps=4, batch=8, log_every=2, checkpoint_every=2
    )
    return run._replace(config=config, how=SamplerConfig(steps=2))


@pytest.mark.slow
def test_runs_are_trained_sampled_and_scored_once(tmp_path, monkeypatch, small_network, capsys):
    monkeypatch.setattr(papers, "rehearsal", tiny)
    runs = PAPERS["papers/slight-corruption/dit-xl-2-imagenet"]()
    few = [run for run in runs if run.name in ("clean", "cep-u-1")]
    monkeypatch.setitem(PAPERS, "papers/slight-corruption/dit-xl-2-imagenet", lambda: few)
    command = ["sweep", "papers/slight-corruption/dit-xl-2-imagenet", "--rehearse", "--out", str(tmp_path)]
    assert main(command) == 0
    told = capsys.readouterr().out
    assert re.search(r"cep-u-1 +debiased W2² per class \d.*reported: FID 5.51", told)
    folder = tmp_path / "rehearsal/papers/slight-corruption/dit-xl-2-imagenet"
    page = json.loads((folder / "cep-u-1.json").read_text())
    assert page["config"]["condition"] == "cep-u"
    before = (folder / "cep-u-1.json").stat().st_mtime_ns
    monkeypatch.setattr("imagegen.paper_runs.train", lambda *given: pytest.fail("trained again"))
    assert main(command) == 0
    assert (folder / "cep-u-1.json").stat().st_mtime_ns == before


@pytest.mark.slow
@pytest.mark.parametrize(("table", "run"), ALL, ids=[f"{table}/{run.name}" for table, run in ALL])
def test_every_run_goes_from_end_to_end_at_a_thousandth_of_its_steps(table, run: PaperRun, tmp_path, small_network):
    small = rehearsal(run)
    changed = dataclasses.replace(small.config, network="small" if not small.config.text else "dit-digits", batch=8)
    (file,) = run_papers({table: [small._replace(config=changed)]}, tmp_path, samples=160)
    assert json.loads(file.read_text())["scores"]["figures"]["w2_squared_per_class"]["debiased"] > 0
