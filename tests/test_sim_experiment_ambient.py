"""Bad data at the right noise: total variation, generated laws, learners, classifiers, and words that follow rows."""

import copy
import dataclasses
import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sim.affine import affine_image
from sim.experiments import ambient, ambient_flow, ambient_learners, ambient_line, ambient_patches
from sim.experiments.ambient_answer import VERBS, answer, details
from sim.experiments.ambient_compare import cross_fitted
from sim.experiments.base import make_row
from sim.experiments.wording import find
from sim.intervals import Interval, mean_interval
from sim.mixture_denoiser import MixtureDenoiser
from sim.patches import patch_sets
from sim.samplers import SigmaHeun
from sim.times import time_grid
from theory.data import DataError
from theory.gates import GateTimes, buffer_noise
from theory.gaussian import Gaussian, wasserstein2_squared
from theory.mixture import GaussianMixture
from theory.paths import ShortestPath, VPCosine
from theory.total_variation import Line, shifted_gaussians, total_variation

pytestmark = pytest.mark.slow  # runs every kind of cell twice: minutes of compilation

KEY = jax.random.key(3)
TINY = ambient.AmbientConfig(
    n_clean=(12,), levels=(0.2, 2.0, 4), line_repeats=24,
    flow_sigma_min=(0.1, 0.4, 2), flow_repeats=4, flow_steps=12, flow_quantiles=32,
    buffer_ratios=(1.02, 4.0, 3), buffer_weights=(4.0, 16.0), buffer_repeats=8, buffer_flow_repeats=2, buffer_steps=12,
    degradations=(("blur", 1.0),), learners=("linear", "memorising"), side=4, shrink=4, pool=300, patches_clean=20,
    patches_sigma_min=(0.05, 0.4, 2), classifier_levels=(0.1, 1.0, 2), samples=20, patches_repeats=2, patches_steps=8,
)  # fmt: skip


@pytest.fixture(scope="module")
def rows():
    return [make_row(ambient.run, TINY, cell, 0) for cell in ambient.cells(TINY)]


# --- total variation ------------------------------------------------------------------------------------------------


@given(
    st.lists(st.floats(0, 1), min_size=4, max_size=4),
    st.lists(st.floats(0, 1), min_size=3, max_size=3),
    st.floats(0.1, 4),
)
def test_smoothed_total_variation_is_theorys(points, atoms, noise_std):
    """Theory finds roots by bisection and uses distribution functions (exact to 1e-6); the cubic has h = σ/9 at most,
    an error of (h/σ)⁴/384 times ∫ |D''''| σ⁴/2 <= 6: below 3e-6."""
    got = ambient_line.smoothed_total_variation(
        jnp.asarray(points), jnp.asarray(atoms), jnp.full(len(atoms), 1 / len(atoms)), noise_std
    )
    expected = total_variation(Line.points(points), Line.points(atoms), noise_std=noise_std)
    assert abs(float(got) - expected) < 5e-6


def test_two_points_have_the_closed_form():
    got = ambient_line.smoothed_total_variation(jnp.zeros(1), jnp.ones(1), jnp.ones(1), 0.5)
    assert float(got) == pytest.approx(shifted_gaussians(1.0, 0.5), abs=1e-6)
    with pytest.raises(ValueError, match="noise_std"):
        ambient_line.smoothed_total_variation(jnp.zeros(1), jnp.ones(1), jnp.ones(1), 0.0)


def test_the_degraded_law_is_what_is_drawn_and_what_theory_gets():
    points = np.asarray(ambient_line.training_sets("shifted", 4000, 4000, 2, KEY))
    case = ambient_line.line_case("shifted")
    for part, law in ((points[:, :4000], case.clean), (points[:, 4000:], case.degraded)):
        assert abs(part.mean() - law.mean()) < 4 * law.std() / math.sqrt(part.size)
        assert part.std() == pytest.approx(law.std(), rel=4 / math.sqrt(part.size))
    fine = np.linspace(0, 1, 2001)  # TV of the densities, as half the largest-signed mass by distribution functions
    scale, offset = ambient_line.CASES["shifted"]
    cdf = lambda x: np.clip(x, 0, 1) - np.sin(4 * np.pi * np.clip(x, 0, 1)) / (4 * np.pi)  # noqa: E731
    gap = cdf(fine) - cdf((fine - offset) / scale)
    assert case.tv == pytest.approx(0.5 * np.abs(np.diff(gap)).sum(), abs=2e-4)
    with pytest.raises(ValueError, match="one of narrowed"):
        ambient_line.line_case("blurred")


def test_curves_agree_with_theorys_expectation_and_crossover(rows):
    for row in rows[:2]:
        for name in ("clean", "everything"):
            value, high = (np.array(row[name][end]) for end in ("value", "high"))
            error = (high - value) / 2.07  # t of 23 degrees of freedom at 97.5 %
            assert np.all(np.abs(value - row[f"theory_{name}"]) < 4.5 * error)
    narrowed, shifted = rows[:2]
    assert 0.2 < narrowed["theory_crossover"] < 2
    assert narrowed["theory_limit"] > 0 > shifted["theory_limit"]
    assert shifted["theory_crossover"] is None
    assert shifted["crossover"]["low"] is None  # and none is found


def test_a_crossover_is_where_the_gain_turns_positive_for_good():
    levels = np.array([1.0, 2.0, 4.0, 8.0])
    gain = Interval(np.array([1.0, -1.0, 1.0, 1.0]), np.array([0.5, -2.0, -1.0, 0.5]), np.array([2.0, 0.5, 2.0, 2.0]))
    found = ambient_line.crossover_interval(levels, gain)
    assert found.value == pytest.approx(math.sqrt(8))
    assert found.low == 0.0  # nowhere is the gain surely negative
    assert 4 < found.high < 8
    assert ambient_line.crossover_interval(levels, Interval(-gain.value, -gain.high, -gain.low)).value == math.inf


# --- generated laws -------------------------------------------------------------------------------------------------


def test_a_users_own_denoiser_on_the_line():
    """The flow of the exact denoiser of N(m, s²) ends in its quantiles up to Heun's error, ~ 1/steps²."""
    path, mean, std = ambient_flow.flow_path(), 0.3, 0.2

    def denoiser(xt, t, cond):
        noise = path.noise(t) ** 2
        return (std**2 * xt + noise * mean) / (std**2 + noise)

    u = (np.arange(64) + 0.5) / 64
    exact = mean + std * np.asarray(jax.scipy.stats.norm.ppf(u))
    errors = []
    for steps in (40, 80):
        times = time_grid(path, steps, "edm")
        got = ambient_flow.generated_quantiles(denoiser, path, times, count=64, mean=mean, std=std)
        errors.append(np.abs(np.asarray(got) - exact).max())
    assert errors[0] < 0.02 * std
    assert 3 < errors[0] / errors[1] < 5.5


def test_distance_to_the_clean_law():
    variance = 1 / 12 - 1 / (8 * math.pi**2)  # ∫ (x - ½)² cos 4πx dx over [0, 1] is 1/(8π²), by parts
    point = ambient_flow.wasserstein2_squared_to_clean(jnp.full(4096, 0.5))
    assert float(point) == pytest.approx(variance, rel=1e-3)
    own = ambient_line.quantile((jnp.arange(64) + 0.5) / 64)
    assert float(ambient_flow.wasserstein2_squared_to_clean(own)) < 1e-12
    assert float(ambient_flow.wasserstein2_squared_to_clean(own + 0.1)) == pytest.approx(0.01)


def test_gated_generation_ends_in_clean_points_alone():
    path, times = ambient_flow.flow_path(), time_grid(ambient_flow.flow_path(), 60, "edm")
    points = jnp.asarray([0.1, 0.8, 0.45, 0.55])
    for sigma_min, allowed in ((0.0, points), (0.3, points[:2]), (math.inf, points[:2])):
        gates = ambient_flow._gates(path, 2, 4, sigma_min, 4.0)
        denoiser = ambient_flow.EmpiricalDenoiser(path, points[:, None], gates=gates)
        ends = ambient_flow.generated_quantiles(denoiser, path, times, count=32, mean=0.475)
        near = np.abs(np.asarray(ends)[:, None] - np.asarray(allowed)).min(axis=1)
        assert np.mean(near < 1e-3) > 0.9
        reached = {float(allowed[k]) for k in np.abs(np.asarray(ends)[:, None] - np.asarray(allowed)).argmin(axis=1)}
        assert reached == set(map(float, allowed))


def test_noising_once_costs_most_near_sigma_min(rows):
    (row,) = find(rows, kind="buffer")
    ratio = np.array(row["once"]["value"]) / np.array(row["afresh"]["value"])
    assert ratio[0] > 3 > max(ratio[1:])  # weights of 670, 1.8 and 1.1
    np.testing.assert_allclose(row["opens_at"], [buffer_noise(1.0, w) for w in row["weights"]], rtol=1e-12)


def test_posterior_on_the_grid():
    x, weight, mean = ambient_flow.posterior_on_grid(Line.points([0.0, 1.0]), 0.5)
    np.testing.assert_allclose(mean, 1 / (1 + np.exp((0.5 - np.asarray(x)) / 0.25)), rtol=1e-10, atol=1e-14)
    assert float(weight @ mean) == pytest.approx(0.5, abs=1e-9)


# --- learners -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [VPCosine(), ShortestPath(jnp.asarray([[4.0, 1.0], [1.0, 0.3]]))])
def test_the_gated_linear_learner_is_the_optimum_over_open_points(path):
    points = jax.random.normal(KEY, (30, 2, 2)) * jnp.asarray([[2.0, 1.0], [1.0, 0.5]]) + 0.3
    groups = jnp.asarray([0] * 12 + [1] * 18)
    never = jnp.full(2, -jnp.inf)
    gates = GateTimes(never, never, jnp.asarray([0.0, 0.6]))
    learner = ambient_learners.GatedGaussianDenoiser(path, points, groups, gates)
    xt = jax.random.normal(jax.random.key(1), (2, 2))
    for t, count in ((0.3, 12), (0.6, 30), (0.9, 30)):
        open_points = points[:count].reshape(count, -1)
        cov = jnp.cov(open_points.T, bias=True)
        law = GaussianMixture(jnp.ones(1), open_points.mean(axis=0)[None], cov[None])
        expected = denoise(MixtureDenoiser(path, law), xt, jnp.asarray(t))
        np.testing.assert_allclose(denoise(learner, xt, jnp.asarray(t)), expected, rtol=1e-8, atol=1e-10)
    closed = ambient_learners.GatedGaussianDenoiser(path, points, groups, GateTimes(never, never, -never))
    assert np.all(np.isnan(denoise(closed, xt, jnp.asarray(0.5))))


denoise = eqx.filter_jit(lambda denoiser, xt, t: denoiser(xt, t))


def test_bad_groups_are_refused():
    gates = GateTimes(jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))
    points = jnp.ones((3, 2))
    with pytest.raises(ValueError, match="groups must be below 2"):
        ambient_learners.GatedGaussianDenoiser(VPCosine(), points, jnp.asarray([0, 1, 2]), gates)
    with pytest.raises(ValueError, match="finite"):
        ambient_learners.GatedGaussianDenoiser(VPCosine(), points * jnp.nan, jnp.asarray([0, 1, 1]), gates)


def test_the_linear_learner_generates_the_moments_of_all_points_where_all_are_open():
    """Up to Heun's error, whose order is tested above; and the map is the sampler's."""
    path = ambient_patches.patch_path()
    points = jax.random.normal(KEY, (40, 3)) * jnp.asarray([1.0, 0.5, 0.2]) + 1.0
    groups, gates = (jnp.arange(40) >= 10).astype(int), ambient_learners.scan_gates(path, np.array([0.0, math.inf]))
    times = time_grid(path, 48, "edm")
    made = ambient_learners.generated_gaussians(path, points, groups, gates, times, path.noise(times[0]))
    for k, part in enumerate((points, points[:10])):
        cov = np.cov(part.T, bias=True)
        np.testing.assert_allclose(made.mean[k], part.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(made.cov[k], cov, atol=0.03 * np.trace(cov))
    assert np.abs(made.cov[0] - made.cov[1]).max() > 0.1
    learner = ambient_learners.GatedGaussianDenoiser(path, points, groups, jax.tree.map(lambda a: a[0], gates))
    mean, std = learner.moments(times[0])[0], path.noise(times[0])
    image = affine_image(learner, path, SigmaHeun(), times, mean, std)
    np.testing.assert_allclose(image.cov, made.cov[0], rtol=1e-9)
    z = np.sqrt(3) * np.concatenate([np.eye(3), -np.eye(3)])  # six points of mean 0 and covariance I
    ends = np.asarray(ambient_learners.flow(learner, path, times, mean + std * jnp.asarray(z)))
    np.testing.assert_allclose(ends.mean(axis=0), image.mean, atol=1e-9)
    np.testing.assert_allclose(np.cov(ends.T, bias=True), image.cov, atol=1e-9)


def test_the_linear_learners_distance_is_that_of_what_it_generates():
    """Its Gaussian's variances per cosine frequency are those of samples' (5 standard errors of 4000 samples)."""
    pool = ambient_patches.PatchSets(
        *(np.random.default_rng(0).uniform(-1, 1, (2, 40, 4, 4))), *np.zeros((2, 40, 3), int)
    )
    task = ambient_patches.patch_task(pool, "blur", 1.0, 20, 20, 20, 1, 0)
    path = ambient_patches.patch_path()
    times, gates = time_grid(path, 12, "edm"), ambient_learners.scan_gates(path, np.array([0.1]))
    (distance,), variances = ambient_patches._linear(task, 0, gates, times)
    points, groups = ambient_patches._points(task, 0)
    made = ambient_learners.generated_gaussians(path, points, groups, gates, times, path.noise(times[0]))
    z = np.random.default_rng(1).multivariate_normal(made.mean[0], made.cov[0], 4000)
    sampled = ambient_patches.cosine_transform(z.reshape(-1, 4, 4)).var(axis=0)
    np.testing.assert_allclose(variances[0], sampled, rtol=5 * math.sqrt(2 / 4000), atol=1e-12)
    flat = task.reference.reshape(40, -1)
    truth = Gaussian(flat.mean(axis=0), np.cov(flat.T))
    expected = wasserstein2_squared(Gaussian(made.mean[0], made.cov[0]), truth)
    assert float(distance) == pytest.approx(float(expected), rel=1e-9)


def test_a_users_denoiser_is_judged_as_the_memorising_learner():
    """The memorising learner's own denoiser, given as a user's would be: the same samples but for the start's mean."""
    pool = ambient_patches.PatchSets(
        *(np.random.default_rng(0).uniform(-1, 1, (2, 60, 4, 4))), *np.zeros((2, 60, 3), int)
    )
    task = ambient_patches.patch_task(pool, "blur", 1.0, 20, 20, 20, 1, 0)
    path, key = ambient_patches.patch_path(), jax.random.key(1)
    points, _ = ambient_patches._points(task, 0)
    gates = ambient_learners.scan_gates(path, np.array([math.inf]))
    (row,), _ = ambient_patches._memorising(task, 0, gates, time_grid(path, 24, "edm"), key)
    denoiser = ambient_flow.EmpiricalDenoiser(path, points[:20], refine=0)
    own = ambient_patches.generated_distance(denoiser, task.test[0], key)
    assert own == pytest.approx(row, rel=1e-3)
    worse = ambient_patches.generated_distance(lambda xt, t, cond: jnp.zeros_like(xt), task.test[0], key)
    assert worse > own


# --- classifiers and data -------------------------------------------------------------------------------------------


def test_classifiers_need_more_noise_for_worse_data():
    rng = np.random.default_rng(1)
    white = rng.normal(size=(1200, 4, 4))
    ideal = [ambient_patches.ideal_sigma_min(white, scale * white) for scale in (1.0, 0.8, 0.4)]
    assert ideal[0] == 0.0 < ideal[1] < ideal[2]
    levels = np.geomspace(0.25, 8.0, 6)
    learned = ambient_patches.learned_sigma_min(white[:400], 0.4 * white[400:], levels)
    assert ideal[2] / 2 <= learned <= 2 * ideal[2]  # the grid's step, and where sampling may put it
    same = ambient_patches.learned_sigma_min(white[:400], white[400:], levels)
    assert same == levels[0]
    assert ambient_patches.learned_sigma_min(white[:400], 0.01 * white[400:], levels[:1]) == math.inf
    with pytest.raises(ValueError, match="at least 4"):
        ambient_patches.learned_sigma_min(white[:3], white, levels)


def test_a_task_keeps_its_sets_apart():
    pool = patch_sets(4, 200, 200, shrink=4)
    task = ambient_patches.patch_task(pool, "blur", 1.0, 10, 50, 40, 2, 0)
    good = {row.tobytes() for row in task.originals}
    bad = {row.tobytes() for row in task.degraded}
    for train, both in zip(task.train, task.test, strict=True):
        assert all(row.tobytes() in good for row in train[:10])
        assert all(row.tobytes() in bad for row in train[10:])
        assert len({row.tobytes() for row in both}) == 80
    assert np.abs(task.train.mean(axis=(2, 3))).max() < 1e-12
    for sizes, message in (((100, 200, 40), "at most the 200"), ((10, 50, 150), "at most half of the 200")):
        with pytest.raises(ValueError, match=message):
            ambient_patches.patch_task(pool, "blur", 1.0, *sizes, 2, 0)
    with pytest.raises(ValueError, match="one of blur"):
        ambient_patches.patch_task(pool, "fog", 1.0, 10, 50, 40, 2, 0)


def test_a_users_images_are_used_as_far_as_they_go_and_refused_before_anything_runs(tmp_path):
    file, rng = tmp_path / "mine.npz", np.random.default_rng(0)
    config = dataclasses.replace(TINY, data=file, degraded_per_clean=2)
    np.savez(file, images=rng.uniform(-1, 1, (6, 9, 8)))
    assert ambient.patch_sizes(config, ambient.patch_pool(config)) == (20, 20)
    assert ambient.cells(config)
    np.savez(file, images=rng.uniform(-1, 1, (6, 6, 6)))  # 3 x 9 = 27 patches of each kind
    with pytest.raises(ValueError, match=r"data must be images with 30 patches of 4 x 4 .* got 27 and 27"):
        ambient.cells(config)
    np.savez(file, images=rng.uniform(-1, 1, (8, 6, 6)))
    assert ambient.patch_sizes(config, ambient.patch_pool(config)) == (12, 18)
    np.savez(file, features=rng.normal(size=(9, 4)), labels=np.zeros(9, int))
    with pytest.raises(DataError, match="must be a set of images"):
        ambient.cells(config)


def test_bands_cover_all_frequencies_but_the_constant():
    variances = np.random.default_rng(0).random((2, 8, 8))
    np.testing.assert_allclose(
        ambient_patches.bands(variances).sum(axis=-1), variances.sum(axis=(1, 2)) - variances[:, 0, 0]
    )


# --- comparisons, the experiment as a whole, and its words ----------------------------------------------------------


def test_cross_fitting_removes_the_optimism_of_a_scan():
    rng = np.random.default_rng(0)
    noise, clean, everything = rng.normal(size=(400, 30)), np.zeros(400), np.zeros(400)
    found = cross_fitted(noise, clean, everything)
    best = noise.mean(axis=0).min()
    assert best < -1.5 / math.sqrt(400)  # the scan's minimum looks better than 0, which all columns are
    assert abs(found["value"].value) < 4.5 / math.sqrt(400)
    noise[:, 7] -= 1
    found = cross_fitted(noise, clean, everything + 5)
    assert found["indices"] == [7, 7]
    assert found["over_clean"].value == pytest.approx(1, abs=4.5 / math.sqrt(400))
    assert found["over_everything"].low > 5.5
    with pytest.raises(ValueError, match="2 repeats"):
        cross_fitted(noise[:1], clean[:1], everything[:1])


def test_the_words_name_the_levels_at_which_the_best_was_measured(rows):
    """Each half of the repeats is measured at the level best for the other: neither need be the best of all."""
    scan = np.array([[1.0, 5.0, 2.0], [5.0, 1.0, 2.0], [1.0, 5.0, 2.0], [5.0, 1.0, 2.0]])
    found = cross_fitted(scan, np.zeros(4), np.zeros(4))
    assert found["indices"] == [0, 1]
    assert found["value"].value == 5.0
    (row,) = copy.deepcopy(find(rows, kind="flow", case="narrowed"))
    row["best"]["indices"] = [0, 1]
    assert "half of the training sets (0.1 and 0.4)" in details(TINY, [row])[0]


def test_rows_are_deterministic_and_their_ends_meet(rows):
    assert make_row(ambient.run, TINY, ambient.cells(TINY)[0], 0) == rows[0]
    assert len(find(rows, kind="flow")[0]["gated"]["value"]) == 2
    patches = find(rows, kind="patches")
    assert [row["learner"] for row in patches] == ["linear", "memorising"]
    fine = np.array(patches[0]["bands"]["value"])[:, -1]
    assert fine[0] < fine[-1]  # blur takes the finest frequencies away, clean data have them
    assert np.shape(patches[0]["bands"]["value"]) == (2 + 4, 3)


def test_the_words_follow_the_rows(rows):
    said = answer(TINY, rows)
    assert "12 clean points with 108 degraded ones beat the former alone" in said
    assert "at no noise that lasts up to σ = 2 (theory never) for shifted data" in said
    assert len(said.split()) <= 65
    turned = copy.deepcopy(rows)
    turned[1]["crossover"] = {"value": 0.0, "low": 0.0, "high": 0.0}
    turned[0]["crossover"] = {"value": 0.5, "low": 0.3, "high": None}
    other = answer(TINY, turned)
    assert "at every noise up to σ = 2 (theory never) for shifted" in other
    assert "undecidedly at noise up to σ = 2" in other
    for low, high, sign in ((1, 2, 1), (-2, -1, -1), (-1, 1, 0)):
        for row in find(turned, kind="flow"):
            row["best"]["over_clean"] = {"value": 0.0, "low": low, "high": high}
        assert any(f"{VERBS[sign]} clean only" in sentence for sentence in details(TINY, turned))


def test_wins_are_counted(rows):
    turned = copy.deepcopy(rows)
    for row, low in zip(find(turned, kind="patches"), (1.0, -1.0), strict=True):
        for name in ("best", "ideal", "learned"):
            row[name]["over_clean"] = row[name]["over_everything"] = {"value": 0.0, "low": low, "high": 2.0}
    assert "both clean only and everything in 1 of 2 cases" in answer(TINY, turned)
    assert any("1 at the scan's best sigma_min, 1 at the ideal" in sentence for sentence in details(TINY, turned))


def test_figures(rows):
    made = ambient.figures(TINY, rows)
    assert set(made) == {"ambient_line", "ambient_patches", "ambient_generated"}
    for caption, figure in made.values():
        assert len(caption) > 50
        assert all(axis.get_ylabel() for axis in figure.axes)
    line = made["ambient_line"][1]
    labels = [[text.get_text() for text in axis.get_legend().get_texts()] for axis in line.axes]
    assert "crossover, theory" in labels[0]
    assert "crossover, theory" not in labels[1]
    only = ambient.figures(TINY, find(rows, kind="line"))
    assert set(only) == {"ambient_line"}
    assert answer(TINY, []) == ""
    assert details(TINY, []) == []


def test_configs_are_whole():
    for config in (ambient.FAST, ambient.FULL):
        cells = ambient.cells(config)
        assert {cell["kind"] for cell in cells} == {"line", "flow", "buffer", "patches"}
        assert len({str(cell) for cell in cells}) == len(cells)
        assert config.patches_clean * (1 + config.degraded_per_clean) <= config.pool
        assert 2 * config.samples <= config.pool
        for field in dataclasses.fields(config):
            assert f"`{field.name}`" in ambient.AmbientConfig.__doc__, field.name
    assert mean_interval(np.array([1.0, 2.0])).value == 1.5
