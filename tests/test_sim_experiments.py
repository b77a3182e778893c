"""The machinery of experiments: rows that depend on nothing but their cell, kept and not computed twice."""

import dataclasses
import json
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sim.experiments import base
from sim.experiments.base import Experiment, Job, cell_key, cell_name, digest, find_experiments, plain, run_jobs
from sim.experiments.memorisation import EXPERIMENT
from sim.experiments.memorisation_config import MemorisationConfig
from sim.experiments.registry import EXPERIMENTS
from sim.intervals import mean_interval
from sim.results import experiment_result

pytestmark = pytest.mark.slow  # runs small experiments in worker processes: minutes of compilation

TINY = MemorisationConfig(
    studies=("steps", "flips"),
    d=2,
    classes=2,
    per_class=(2,),
    corrupted_per_class=2,
    samples_per_class=4,
    repeats=2,
    exact_repeats=2,
    ddim_steps=(2, 3),
    steps=2,
    flips=(0.0, 0.5),
)


def job(folder, config=TINY, seed=0):
    return Job(EXPERIMENT, config, seed, folder)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """An uninterrupted run by one worker."""
    done = job(tmp_path_factory.mktemp("whole"))
    run_jobs([done], workers=1)
    return done


def test_the_registry_names_each_experiment_as_it_names_itself():
    assert all(name == experiment.name for name, experiment in EXPERIMENTS.items())
    for experiment in EXPERIMENTS.values():
        for config in (experiment.fast, experiment.full):
            names = [cell_name(cell) for cell in experiment.cells(config)]
            assert len(set(names)) == len(names) > 0
            json.dumps(plain(config), allow_nan=False)


def test_an_interrupted_run_goes_on_where_it_stopped_with_more_workers_and_equal_rows(whole, tmp_path, monkeypatch):
    stopped, finished, handed = job(tmp_path), base._finished, []

    def interrupted(pools, queues):
        for number, name in enumerate(finished(pools, queues)):
            yield name
            if number == 1:
                raise KeyboardInterrupt

    def counted(pools, queues):
        handed.extend(cell for queue in queues for _, cell in queue)
        assert len(pools) == 2
        return finished(pools, queues)

    monkeypatch.setattr(base, "_finished", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_jobs([stopped], workers=1)
    kept = {cell_name(cell) for cell in stopped.cells() if stopped.file(cell).exists()}
    assert 2 <= len(kept) < 4
    monkeypatch.setattr(base, "_finished", counted)
    run_jobs([stopped], workers=2)
    assert {cell_name(cell) for cell in handed} == {cell_name(cell) for cell in stopped.cells()} - kept
    assert stopped.rows() == whole.rows()


def test_nothing_is_run_twice(whole, monkeypatch):
    monkeypatch.setattr(base, "ProcessPoolExecutor", None)
    run_jobs([whole])


def test_rows_do_not_depend_on_order_or_grid(whole):
    cells, other = list(whole.cells()), dataclasses.replace(TINY, ddim_steps=(3,), studies=("steps",))
    for cell in reversed(cells):
        config = other if cell in EXPERIMENT.cells(other) else TINY
        row = plain({**cell, **EXPERIMENT.run(config, cell, cell_key(0, cell))})
        assert row == whole.rows()[cells.index(cell)]


def test_an_unfinished_job_has_no_rows_and_what_a_cell_raises_is_raised(tmp_path):
    with pytest.raises(FileNotFoundError):
        job(tmp_path).rows()
    broken = dataclasses.replace(TINY, ddim_steps=(0,), studies=("steps",))  # a grid of 0 steps is refused in the cell
    with pytest.raises(ValueError, match="steps must be an integer >= 1"):
        run_jobs([job(tmp_path, broken)], workers=1)
    assert not list(tmp_path.glob("**/*.json"))


def test_the_result_says_what_was_run_and_found(whole):
    outcome = base.write_result(whole)
    result = json.loads(outcome.file.read_text(), parse_constant=pytest.fail)
    assert list(result) == ["experiment", "question", "answer", "details", "config", "seed", "versions", "rows"]
    assert result["answer"] == EXPERIMENT.answer(TINY, whole.rows())
    assert result["config"] == plain(TINY)
    assert result["rows"] == whole.rows()
    assert all(row["exact"]["nearer"]["low"] <= row["exact"]["nearer"]["value"] for row in result["rows"])


def test_figures_are_written_and_the_report_has_a_section_per_job(whole, monkeypatch):
    from theory.canvas import new_figure

    answered = dataclasses.replace(
        EXPERIMENT,
        figures=lambda config, rows: {"one": ("caption", new_figure()[0])},
        answer=lambda config, rows: "So.",
    )
    other = dataclasses.replace(whole, experiment=answered)
    section = experiment_result(other)
    assert section.text == "So."
    assert EXPERIMENT.question in section.title
    image = (other.folder / "one.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert section.figures == [("caption", image)]


def test_rows_are_named_by_all_that_they_depend_on(tmp_path, monkeypatch):
    file = tmp_path / "data.npz"
    file.write_bytes(b"first")
    with_file = dataclasses.replace(TINY, data=file)
    names = [digest("a", TINY, 0), digest("b", TINY, 0), digest("a", TINY, 1), digest("a", with_file, 0)]
    names.append(digest("a", dataclasses.replace(TINY, steps=9), 0))
    file.write_bytes(b"second, and longer")
    names.append(digest("a", with_file, 0))
    monkeypatch.setattr(base, "_code", lambda: "other sources")
    names.append(digest("a", TINY, 0))
    assert len(set(names)) == len(names)


def test_each_cell_and_seed_has_its_own_key():
    cells = [{"gamma": 0.5, "n": 20}, {"gamma": 0.5, "n": 2}, {"gamma": 0.25, "n": 20}]
    keys = [jax.random.key_data(cell_key(seed, cell)).tolist() for seed in (0, 1) for cell in cells]
    assert len({tuple(key) for key in keys}) == 6
    assert jax.random.key_data(cell_key(0, dict(cells[0]))).tolist() == keys[0]


def test_values_become_json():
    values = {
        "interval": mean_interval(np.array([1.0, 3.0])),
        "array": jnp.asarray([[1.0, np.nan]]),
        "number": np.float64(2),
        "flag": np.bool_(True),
        "infinite": math.inf,
        "path": Path("a/b"),
        "config": TINY,
        3: (1, 2),
    }
    made = plain(values)
    text = json.loads(json.dumps(made, allow_nan=False))
    assert text == made
    assert text["array"] == [[1.0, None]]
    assert text["interval"]["value"] == 2
    assert (text["number"], text["flag"], text["infinite"], text["path"], text["3"]) == (2, True, None, "a/b", [1, 2])
    assert text["config"]["d"] == 2


def test_grids_without_cells_or_with_one_twice_are_refused(tmp_path):
    for config in (dataclasses.replace(TINY, ddim_steps=(2, 2)), dataclasses.replace(TINY, studies=())):
        with pytest.raises(ValueError, match="distinct"):
            job(tmp_path, config).cells()


def test_each_experiment_stays_in_one_process_where_there_are_several(tmp_path):
    def group(name, count):
        named = Job(dataclasses.replace(EXPERIMENT, name=name), TINY, 0, tmp_path)
        return [(named, {"cell": k}) for k in range(count)]

    def shares(groups, count):
        return [[job.experiment.name for job, _ in share] for share in base._shares(groups, count)]

    assert shares([group("a", 3), group("b", 2), group("c", 1)], 2) == [["a", "a", "a", "c"], ["b", "b"]]
    assert shares([group("a", 5), []], 2) == [["a"] * 3, ["a"] * 2]
    assert shares([group("a", 1)], 2) == [["a"]]


def test_experiments_are_found_once_each():
    found: list[Experiment] = find_experiments(["memorisation", "memorisation"], EXPERIMENTS)
    assert found == [EXPERIMENT]
    with pytest.raises(ValueError, match="did you mean memorisation"):
        find_experiments(["memorizaton"], EXPERIMENTS)
