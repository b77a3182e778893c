"""Memorisation: measures against brute force, exact laws of exact denoisers, pairs, and an answer that follows."""

import copy
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_digits

from sim.empirical import AmbientEmpiricalDenoiser, EmpiricalDenoiser, keep_points
from sim.experiments import memorisation as experiment
from sim.experiments.base import cell_key, plain
from sim.experiments.memorisation import (
    MemorisationConfig,
    cells,
    draw_sets,
    exact_denoiser,
    learn,
    own_denoiser,
    run,
    sampled,
)
from sim.experiments.memorisation_answer import answer, change, details, exposure
from sim.experiments.memorisation_config import OPERATORS
from sim.experiments.memorisation_figures import figures
from sim.experiments.memorisation_network import run_keys, seen_codes
from sim.experiments.memorisation_sets import (
    Sets,
    deal,
    draw,
    estimates,
    measure,
    nearest,
    read_data,
    second_half,
    share_over_repeats,
)
from theory.data import DataSet
from theory.gates import gate_times

pytestmark = pytest.mark.slow  # trains some twenty small networks: minutes of compilation

TINY = MemorisationConfig(
    d=3,
    classes=2,
    per_class=(2, 4),
    corrupted_per_class=2,
    samples_per_class=8,
    repeats=2,
    exact_repeats=2,
    ddim_steps=(2, 4),
    steps=4,
    flips=(0.0, 0.5),
    sigma_min=(0.3,),
    strengths=(("cep", (0.0, 2.0)), ("gate", (0.0, 0.5))),
    width=8,
    depth=1,
    training_steps=8,
    batch=4,
)


@pytest.fixture(scope="module")
def rows():
    """All rows of the tiny grid, as JSON holds them."""
    return [plain({**cell, **run(TINY, cell, cell_key(0, cell))}) for cell in cells(TINY)]


def test_measures_agree_with_brute_force():
    sets = draw(3, 2, 2.0, 6, 10, jax.random.key(0))
    x = np.asarray(jax.random.normal(jax.random.key(1), sets.fresh.shape))
    gaps = np.linalg.norm(x[:, None] - sets.training, axis=2)
    other = np.linalg.norm(x[:, None] - sets.unseen, axis=2)
    usual = np.linalg.norm(sets.fresh[:, None] - sets.unseen, axis=2).min(1)
    found, rising = measure(x, sets), np.sort(gaps, axis=1)
    near = rising[:, 0]
    pairs = [(a < b) + 0.5 * (a == b) for a in gaps.min(0)[[2, 3, 6, 7, 10, 11]] for b in other.min(0)]
    expected = (
        np.mean(3 * near < rising[:, 1]),
        np.mean(near < np.quantile(usual, 0.05)),
        np.mean(near < other.min(1)),
        np.median(near / other.min(1)),
        np.median(other.min(1)) / np.median(usual),
        np.mean(pairs),
        np.mean(sets.labels[gaps.argmin(1)] == sets.fresh_labels),
    )
    np.testing.assert_allclose(found, expected, rtol=1e-12)


def test_fresh_points_are_as_near_to_training_as_to_unseen_points():
    """Exchangeable sets: the mean of `nearer` and `exposed` is 1/2, and the log of the ratio is symmetric about 0."""
    keys = jax.random.split(jax.random.key(2), 60)
    sets = [draw(3, 2, 2.0, 4, 8, key) for key in keys]
    values = np.array([(m.nearer, m.exposed, np.log(m.distance_ratio)) for m in (measure(s.fresh, s) for s in sets)])
    error = values.std(axis=0, ddof=1) / np.sqrt(len(values))
    assert np.all(np.abs(values.mean(axis=0) - (0.5, 0.5, 0.0)) < 4.5 * error)


def test_copies_are_seen_as_copies_and_bad_samples_refused():
    sets = draw(3, 2, 2.0, 6, 10, jax.random.key(0))
    copied = sets.training[np.resize(np.arange(12), 20)]
    found = measure(copied, sets)
    assert (found.memorised, found.close, found.nearer, found.distance_ratio, found.exposed) == (1, 1, 1, 0, 1)
    with pytest.raises(ValueError, match="as the fresh points"):
        measure(copied[:5], sets)
    with pytest.raises(ValueError, match="samples must be finite"):
        measure(np.where(copied > 0, np.nan, copied), sets)


def test_the_exact_denoiser_gives_training_points_of_another_class_at_the_rate_of_flips():
    """Its samples follow the empirical law given the seen label: another class with probability eta."""
    sets, eta = draw(4, 2, 3.0, 8, 400, jax.random.key(3)), 0.3
    found = sampled(exact_denoiser(sets, 16, eta), sets, jax.random.key(4), 40)
    assert found.memorised == 1
    assert found.distance_ratio < 1e-9
    assert abs(found.right_class - (1 - eta)) < 4.5 * np.sqrt(eta * (1 - eta) / 800)


def test_repeated_rows_change_no_exact_sample():
    sets = draw(3, 2, 2.0, 4, 8, jax.random.key(0))
    results = [sampled(exact_denoiser(sets, rows), sets, jax.random.key(1), 6) for rows in (8, 16)]
    np.testing.assert_allclose(*results, rtol=1e-9)


def test_gated_points_are_met_no_more_than_unseen_ones_and_are_never_the_end():
    sets = draw(3, 2, 2.0, 8, 60, jax.random.key(5))
    gates = gate_times(experiment.PATH, np.where(second_half(sets.labels), 0.5, 0.0))
    denoiser = EmpiricalDenoiser(experiment.PATH, sets.training, sets.labels, gates=gates)
    key_start, key = jax.random.split(jax.random.key(6))
    times, start = experiment.time_grid(experiment.PATH, 40), experiment.starts(sets, key_start)
    labels = jnp.asarray(sets.fresh_labels)
    x = np.asarray(experiment.sample(denoiser, experiment.PATH, experiment.DDIM(), times, start, key, labels))
    assert not np.any(second_half(sets.labels)[nearest(x, sets.training)])
    assert np.linalg.norm(x - sets.training[nearest(x, sets.training)], axis=1).max() < 1e-9


def test_sampling_stopped_at_the_gate_gives_raw_points_or_copies_off_by_the_noise_once_more():
    """Far-apart points: x' = x_n + σ_n e at the gate (σ² = 2 σ_n² there, weight 4), so v = 2 x_n - x' = x_n - σ_n e."""
    n, d, sigma, path = 16, 8, 0.05, experiment.PATH
    points = 3.0 * np.asarray(jax.random.normal(jax.random.key(0), (n, d)))
    labels = np.arange(n) % 2
    sets = Sets(points, points + 1.0, np.zeros((400, d)), labels, np.arange(400) % 2)
    gates = gate_times(path, np.full(n, sigma))
    kept = keep_points(path, jnp.asarray(points), gates, jax.random.key(1))
    unscaled = np.asarray(kept / path.signal(gates.t_n[0]))
    raw = EmpiricalDenoiser(path, points, labels, gates=gates)
    ambient = AmbientEmpiricalDenoiser(path, points, kept, gates, labels)
    ends = [experiment.stopped(one, sets, jax.random.key(2), 400, gates.t_open[0]) for one in (raw, ambient)]
    assert np.linalg.norm(ends[0] - points[nearest(ends[0], points)], axis=1).max() < 1e-6
    square = np.mean((ends[1] - unscaled[nearest(ends[1], unscaled)]) ** 2) / sigma**2
    assert abs(square - 1) < 4.5 * np.sqrt(2 / (400 * d)) + 0.03  # DDIM's variance at 400 steps is short by about 2 %


def test_codes_seen_in_training():
    labels, key = np.arange(4000) % 4, jax.random.key(0)
    clean = np.eye(4)[labels]
    for operator in ("cep", "dropout", "gate"):
        np.testing.assert_array_equal(seen_codes(operator, 0.7, labels, key), clean)
    wrong = np.mean(seen_codes("flips", 0.3, labels, key).argmax(1) != labels)
    assert abs(wrong - 0.3) < 4.5 * np.sqrt(0.21 / 4000)
    noise = seen_codes("cep fixed", 0.8, labels, key) - clean  # std γ/√d_emb = 0.4
    assert abs(noise.std() / 0.4 - 1) < 4.5 / np.sqrt(2 * noise.size)


def test_strength_nought_is_one_training_whatever_the_operator_and_strengths_differ():
    sets, key = draw_sets(TINY, 4, jax.random.key(0)), jax.random.key(1)
    plain_arms = [learn(TINY, sets, name, 0.0, key) for name in OPERATORS]
    assert all(arm == plain_arms[0] for arm in plain_arms)
    for name, strength in (("cep", 2.0), ("cep fixed", 2.0), ("flips", 1.0), ("dropout", 0.9), ("gate", 1.0)):
        assert learn(TINY, sets, name, strength, key) != plain_arms[0]
    with pytest.raises(ValueError, match="gates repeat no row"):
        learn(TINY, draw_sets(TINY, 2, key), "gate", 0.5, key)


def test_changes_are_those_of_the_arms_and_nought_at_nought(rows):
    (row,) = (row for row in rows if row.get("operator") == "cep")
    for name in experiment.Measures._fields:
        ends = [arm[name]["value"] for arm in row["arms"]]
        assert row["changes"][0][name] == {"value": 0, "low": 0, "high": 0}
        np.testing.assert_allclose(row["changes"][1][name]["value"], ends[1] - ends[0], atol=1e-12)


def test_a_cell_is_a_pure_function_of_config_cell_and_key():
    cell = {"study": "points", "per_class": 2}
    first, again, other = (plain(run(TINY, cell, jax.random.key(k))) for k in (0, 0, 1))
    assert first == again
    assert first != other


def test_real_data_are_dealt_disjointly_equally_and_in_unit_scale():
    data = read_data(None, "digits")
    sets = deal(data, 4, 30, jax.random.key(0))
    everything = np.concatenate(sets[:3])
    assert len(np.unique(everything, axis=0)) == len(everything) == 10 * (2 * 4 + 30)
    np.testing.assert_array_equal(np.bincount(sets.labels), 4)
    digits = load_digits()
    scale = np.sqrt(np.mean((digits.data - digits.data.mean(0)) ** 2))
    for point, label in zip(sets.training[:10], sets.labels, strict=False):
        gaps = np.abs(point * scale + digits.data.mean(0) - digits.data).max(axis=1)
        assert gaps.min() < 0.05  # repeated digits are dropped, which moves the mean a little
        assert digits.target[gaps.argmin()] == label
    assert not np.array_equal(sets.training, deal(data, 4, 30, jax.random.key(1)).training)


def write(file, labels, points=None):
    x = np.random.default_rng(0).normal(size=(len(labels), 5)) if points is None else points
    np.savez(file, features=x, labels=np.asarray(labels))
    return file


def test_a_users_file_limits_the_sizes_and_a_small_or_unlabelled_one_is_refused(tmp_path):
    config = dataclasses.replace(TINY, data=write(tmp_path / "a.npz", np.arange(28) % 2))  # 14 a class: 2 x 2 + 8 fit
    assert [cell["per_class"] for cell in cells(config) if cell["study"] == "points"] == [2]
    row = run(config, {"study": "gates", "sigma_min": 0.5}, jax.random.key(0))
    assert row["n"] == 4
    small = dataclasses.replace(TINY, data=write(tmp_path / "b.npz", np.arange(20) % 2))
    with pytest.raises(ValueError, match="at least 12 in each"):
        cells(small)
    with pytest.raises(ValueError, match="at least 2 classes"):
        cells(dataclasses.replace(TINY, data=write(tmp_path / "c.npz", np.zeros(30, int))))


def test_repeated_points_count_once(tmp_path):
    points = np.repeat(np.random.default_rng(0).normal(size=(40, 5)), 2, axis=0)
    file = write(tmp_path / "twice.npz", np.repeat(np.arange(40) % 2, 2), points)
    assert isinstance(read_data(file, None), DataSet)
    assert read_data(file, None).n == 40


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"per_class": (2, 3)}, "per_class"),
        ({"corrupted_per_class": 3}, "corrupted_per_class"),
        ({"repeats": 1}, "repeats"),
        ({"strengths": (("flip", (0.0,)),)}, "flip"),
        ({"strengths": (("flips", (0.1,)),)}, "beginning with 0"),
    ],
)
def test_bad_configs_are_refused(change, word):
    with pytest.raises(ValueError, match=word):
        dataclasses.replace(TINY, **change)


def test_the_figures_show_every_study_with_labelled_axes(rows):
    drawn = figures(TINY, rows)
    assert list(drawn) == ["number", "corruption", "gates"]
    for caption, figure in drawn.values():
        assert "95 %" in caption
        assert any(axis.get_ylabel() for axis in figure.axes)
    kept = [row for row in rows if row["study"] == "flips"]
    assert figures(TINY, kept) == {}
    assert answer(TINY, kept) == "Not run."
    assert "exact denoiser of flipped labels" in details(TINY, kept)[0]


def estimate(value, half=0.01):
    return {"value": value, "low": value - half, "high": value + half}


def test_the_answer_follows_the_rows(rows):
    told = copy.deepcopy(rows)
    points = [row for row in told if row["study"] == "points"]
    (cep,) = (row for row in told if row.get("operator") == "cep")
    ends = points[0]["learned"], points[-1]["learned"]
    ends[0]["memorised"], ends[1]["memorised"] = estimate(0.9), estimate(0.1)
    cep["changes"][-1]["memorised"], cep["changes"][-1]["right_class"] = estimate(-0.2), estimate(-0.3)
    text = answer(TINY, told)
    for words in ("0.9 [", "less with more points at equal training steps", "γ = 2 changes this share", "by -0.2 [",
                  "lowers that of the right class", "by -0.3 ["):  # fmt: skip
        assert words in text
    ends[0]["memorised"], ends[1]["memorised"] = estimate(0.1), estimate(0.9)
    cep["changes"][-1]["memorised"], cep["changes"][-1]["right_class"] = estimate(0.0), estimate(0.0)
    text = answer(TINY, told)
    for words in ("more with more points", "changes (not resolved)", "is not seen to change that of the right class"):
        assert words in text
    ends[0]["memorised"] = estimate(0.9)
    assert "not seen to change with n" in answer(TINY, told)


def test_the_details_judge_each_arm_of_the_gates_by_itself(rows):
    told = copy.deepcopy(rows)
    exact = [row for row in told if row["study"] == "gates"][-1]
    (gate,) = (row for row in told if row.get("operator") == "gate")
    exact["raw"]["exposed"], exact["kept"]["exposed"] = estimate(0.8), estimate(0.5)
    gate["changes"][-1]["exposed"] = estimate(0.3)
    text = " ".join(details(TINY, told))
    for words in ("denoisers expose those", "and are not seen to expose those", "raises the exposure"):
        assert words in text
    assert exposure(estimate(0.2)) == "keep away from"


def test_a_change_between_independent_shares_is_wider_than_either():
    found = change(estimate(0.5, 0.03), estimate(0.7, 0.04))
    assert (found["low"], found["value"], found["high"]) == pytest.approx((0.15, 0.2, 0.25))


def test_intervals_of_shares_stay_within_their_range_and_are_not_empty_at_its_ends():
    for shares in ((0.0, 0.0, 0.0), (1.0, 1.0), (0.0, 0.02), (0.9, 1.0), (0.4, 0.5)):
        found = share_over_repeats(np.array(shares), 50)
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.low < found.high
    sets = [draw(3, 2, 2.0, 4, 8, key) for key in jax.random.split(jax.random.key(0), 2)]
    copied = estimates([measure(s.training[np.resize(np.arange(8), 16)], s) for s in sets], sets)
    assert (copied["memorised"].value, copied["memorised"].high) == (1, 1)
    assert copied["memorised"].low < 1


def test_no_two_uses_of_a_run_share_a_key():
    keys = jax.random.key_data(jax.numpy.stack(run_keys(jax.random.key(3))))
    assert len({tuple(key) for key in np.asarray(keys).tolist()}) == len(keys)


def test_the_network_and_other_denoisers_start_from_the_same_noise(monkeypatch):
    """What is drawn first differs only by what is sampled from it."""
    seen, starts = [], experiment.starts

    def noted(sets, key):
        seen.append(np.asarray(starts(sets, key)))
        return starts(sets, key)

    monkeypatch.setattr(experiment, "starts", noted)
    monkeypatch.setattr("sim.experiments.memorisation_network.starts", noted)
    run(TINY, {"study": "points", "per_class": 2}, jax.random.key(0))
    first, *others = np.split(np.stack(seen), 3)  # exact, linear, learned; one for each repeat
    for other in others:
        np.testing.assert_array_equal(other, first)


def test_a_users_denoiser_is_measured_as_the_rows_are(rows):
    (row,) = (row for row in rows if row["study"] == "points" and row["per_class"] == 4)
    found = plain(own_denoiser(TINY, 4, lambda s: exact_denoiser(s, len(s.labels))))
    assert found["fresh"] == row["fresh"]
    for name, entry in found["own"].items():
        assert entry == pytest.approx(row["exact"][name], abs=1e-9)
