"""The experiment on paths: exact Gaussian laws by other routes, frozen paths, displacement, distances, the answer."""

import dataclasses
import itertools
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sim.experiments.base import make_row
from sim.experiments.paths import EXPERIMENT, FAST, FULL, PathsConfig, cells, gaussian_rows, repeat_patches, run
from sim.experiments.paths_answer import (
    MEASURES,
    advantage,
    answer,
    details,
    gaussian_runs,
    largest_deviation,
    ranking,
    reference_error,
    repeats,
    verdict,
)
from sim.experiments.paths_figures import figures
from sim.experiments.paths_frozen import WITHOUT_SLOPES, frozen, sample_frozen, start_frozen
from sim.experiments.paths_gaussian import CLOSED_FORMS, RANDOM, closed_form, prior_error, simulated_variance
from sim.experiments.paths_patches import (
    denoiser_runs,
    frame,
    frozen_follow,
    patch_model,
    path_runs,
)
from sim.experiments.wording import find
from sim.mixture_denoiser import MixtureDenoiser
from sim.monotone import prior_mismatch, transport_error
from sim.samplers import DDIM, SAMPLERS, Adaptive, Ancestral, DPMSolverPP2M, Euler, Heun
from sim.sampling import sample
from sim.times import time_grid
from theory.discretisation import gaussian_errors, generated_variance
from theory.mixture import GaussianMixture
from theory.paths import PATHS, OrnsteinUhlenbeck, VPCosine
from theory.spectra import PowerLaw

pytestmark = pytest.mark.slow  # runs every path and sampler: minutes of compilation

SPECTRUM = jnp.asarray(PowerLaw(1.59, 0.3, 2.0).spectrum((4, 4)))
KEY = jax.random.key(0)
LONGEST = 13


def gaussian_denoiser(path):
    """The dense route: a mixture of one component with the spectrum's covariance on pixels."""
    rows = jnp.eye(16).reshape(16, 4, 4)
    transform = jnp.fft.fft2(rows, norm="ortho").reshape(16, 16)
    cov = (transform.conj() * SPECTRUM.reshape(-1)) @ transform.T
    real = (cov.real + cov.real.T) / 2
    return MixtureDenoiser(path, GaussianMixture(jnp.ones(1), jnp.zeros((1, 16)), real[None]))


def times_for(path, sampler, steps):
    return time_grid(path, steps, first=path.t_range[1] if sampler.needs_signal else 1.0)


@pytest.mark.parametrize("name", ["vp_cosine", "variance_exploding", "shortest"])
def test_simulated_variance_is_theorys_closed_form(name):
    """Rounding: up to 12 steps with gains of up to 80 / 0.002 cancelling on EDM's path, 1e-16 each."""
    path = PATHS[name](SPECTRUM)
    for kind in CLOSED_FORMS:
        times = times_for(path, SAMPLERS[kind], 7)
        found = simulated_variance(SAMPLERS[kind], path, SPECTRUM, times, longest=LONGEST)
        np.testing.assert_allclose(found, closed_form(kind, path, SPECTRUM, times), rtol=1e-10)


def test_samplers_without_closed_form_have_none():
    path = VPCosine()
    assert {name for name in SAMPLERS if closed_form(name, path, SPECTRUM, time_grid(path, 3)) is None} == {
        "sigma_heun",
        "dpm_solver_pp_2m",
        "reverse_sde",
    }


@pytest.mark.parametrize(
    ("name", "kind"),
    [("equal_angle", "heun"), ("equal_angle", "dpm_solver_pp_2m"), ("variance_exploding", "sigma_heun")],
)
def test_the_sampler_run_on_images_generates_the_simulated_variance(name, kind):
    """The whole of `sample` with a dense denoiser on pixels: its Jacobian is symmetric with the generated gains."""
    path, sampler = PATHS[name](SPECTRUM), SAMPLERS[kind]
    times = times_for(path, sampler, 5)
    start = jnp.eye(16).reshape(16, 4, 4)
    out = sample(gaussian_denoiser(path), path, sampler, times, start, KEY).reshape(16, 16)
    signal, noise = path.powers(times[0])
    total = jnp.broadcast_to(signal * SPECTRUM + noise, (4, 4))
    transform = np.fft.fft2(np.asarray(start), norm="ortho").reshape(16, 16)
    gains = np.diag(transform.conj().T @ np.asarray(out) @ transform).real
    expected = simulated_variance(sampler, path, SPECTRUM, times, longest=LONGEST)
    np.testing.assert_allclose(gains**2 * np.asarray(total).ravel(), expected.ravel(), rtol=1e-8)


def numpy_law(path, times, data):
    """A, S, and the ideal denoiser's gain at each time, for one variance; the clean end added where it lacks."""
    powers = [path.powers(t) for t in times]
    A, S = (np.sqrt(np.array([float(pair[i]) for pair in powers])) for i in (0, 1))
    if not path.starts_clean:
        A, S = np.append(A, 1.0), np.append(S, 0.0)
    return A, S, A * data / (A**2 * data + S**2)


@pytest.mark.parametrize("name", ["vp_cosine", "variance_exploding"])
@pytest.mark.parametrize("data", [0.02, 1.7])
def test_dpm_solver_and_sigma_heun_against_recursions_written_out(name, data):
    """By hand in y = x/A, σ = S/A: dy/dσ = (y - x̂)/σ for Heun; exponential integrator in log σ for DPM-Solver++."""
    path = PATHS[name](SPECTRUM)
    times = time_grid(path, 6, first=path.t_range[1])
    A, S, wiener = numpy_law(path, times, data)
    sigma, start = S / A, np.sqrt(A[0] ** 2 * data + S[0] ** 2)
    spectrum = jnp.full((2, 2), data)

    y = start / A[0]
    for k in range(len(A) - 1):
        slope = (y - wiener[k] * A[k] * y) / sigma[k]
        predicted = y + (sigma[k + 1] - sigma[k]) * slope
        if sigma[k + 1] > 0:
            second = (predicted - wiener[k + 1] * A[k + 1] * predicted) / sigma[k + 1]
            predicted = y + (sigma[k + 1] - sigma[k]) * (slope + second) / 2
        y = predicted
    found = simulated_variance(SAMPLERS["sigma_heun"], path, spectrum, times, longest=LONGEST)
    np.testing.assert_allclose(found, y**2, rtol=1e-9)

    y, before, h_before = start / A[0], None, None
    for k in range(len(A) - 1):
        estimate = wiener[k] * A[k] * y
        used, ratio = estimate, sigma[k + 1] / sigma[k]
        if before is not None and sigma[k + 1] > 0:
            used = estimate + np.log(1 / ratio) / (2 * h_before) * (estimate - before)
        y, before, h_before = ratio * y + (1 - ratio) * used, estimate, np.log(1 / ratio) if ratio > 0 else None
    found = simulated_variance(SAMPLERS["dpm_solver_pp_2m"], path, spectrum, times, longest=LONGEST)
    np.testing.assert_allclose(found, y**2, rtol=1e-9)


def test_reverse_sde_against_the_ornstein_uhlenbeck_process_written_out():
    """dx = -h x dt + √(2h) dw in t: backwards x <- x + Δ (h x + 2h score), noise 2hΔ, none in the last step."""
    path, horizon = OrnsteinUhlenbeck(2.0), 2.0
    times = np.linspace(1.0, 0.0, 9)
    total = variance = float(path.powers(1.0)[0]) * 0.4 + float(path.powers(1.0)[1])
    for late, early in itertools.pairwise(times):
        decay = np.exp(-2 * horizon * late)
        total, step = decay * 0.4 + 1 - decay, late - early
        variance *= (1 + step * horizon * (1 - 2 / total)) ** 2
        variance += 2 * horizon * step if early > 0 else 0.0
    found = simulated_variance(SAMPLERS["reverse_sde"], path, jnp.full((2, 2), 0.4), jnp.asarray(times))
    np.testing.assert_allclose(found, variance, rtol=1e-10)


def test_the_prior_costs_nothing_where_the_path_ends_in_it_and_its_gap_elsewhere():
    for name in ("shortest", "bures", "equal_angle", "heat"):
        assert float(prior_error(PATHS[name](SPECTRUM), SPECTRUM, 1.0).kl_generated_data) < 1e-20
    path = OrnsteinUhlenbeck(1.0)
    total = np.exp(-2.0) * np.asarray(SPECTRUM) + 1 - np.exp(-2.0)
    expected = np.sum(1 / total - 1 + np.log(total)) / 2  # KL is the same before and after the invertible flow
    np.testing.assert_allclose(prior_error(path, SPECTRUM, 1.0).kl_generated_data, expected, rtol=1e-10)
    late = PATHS["shortest"](SPECTRUM)
    assert 0 < float(prior_error(late, SPECTRUM, late.t_range[1]).kl_generated_data) < 1e-6


class Bent(eqx.Module):
    """A denoiser that is not linear and knows the time through `path.powers` alone."""

    path: eqx.Module

    def __call__(self, xt, t, cond):
        signal, noise = self.path.powers(t)
        gain = jnp.sqrt(signal) / (signal + noise)
        return jnp.tanh(self.path.from_basis(gain * self.path.to_basis(xt)))


@pytest.mark.parametrize("name", ["variance_exploding", "shortest"])
def test_a_frozen_path_takes_the_steps_of_the_path(name):
    path = PATHS[name](SPECTRUM)
    grids = [time_grid(path, steps, first=path.t_range[1]) for steps in (4, 6)]
    table, legs = frozen(path, grids, (4, 4))
    assert [leg.steps for leg in legs] == [4, 6]
    start = start_frozen(table, jax.random.normal(KEY, (3, 4, 4)), KEY)
    for sampler, number in ((DPMSolverPP2M(), 0), (Ancestral(), 1)):
        assert isinstance(sampler, WITHOUT_SLOPES)
        direct = sample(Bent(path), path, sampler, grids[number], start, KEY)
        found = sample_frozen(Bent(table), table, legs[number], sampler, start, KEY)
        np.testing.assert_allclose(found, direct, rtol=1e-8, atol=1e-9)


def test_displacement_on_gaussian_data_is_the_squared_wasserstein_distance():
    """Maps that commute are optimal couplings: E |few - flow|² = Σ (√V - √D)², here per pixel; 5 standard errors of a
    mean of 500 squares of spread as their mean, times √2 for chi-squared."""
    path, variances = VPCosine(), jnp.array([[0.1, 0.5], [2.0, 1.0]])

    def make(path):
        def denoiser(xt, t, cond):
            signal, noise = path.powers(t)
            return jnp.sqrt(signal) * variances / (signal * variances + noise) * xt

        return denoiser

    data, fresh = jax.random.normal(KEY, (2, 500, 2, 2)) * jnp.sqrt(variances)
    samplers = {"ddim": DDIM(), "random": Ancestral()}
    found = denoiser_runs(make, path, samplers, data, fresh, jax.random.key(1), steps=(6,), fine=100)
    times = time_grid(path, 6, first=path.t_range[1])
    expected = float(gaussian_errors(generated_variance(path, variances, times, "ddim"), variances).wasserstein2) ** 2
    few, random = found.runs
    assert abs(few["displacement"] - expected) < 5 * expected * np.sqrt(2 / 500)
    assert found.reference["displacement"] < 0.01 * expected
    assert random["displacement"] is None
    assert all(np.isfinite(run["w2"]) and np.isfinite(run["w2_detail"]) for run in found.runs)
    with pytest.raises(ValueError, match="fine"):
        denoiser_runs(make, path, samplers, data, fresh, KEY, fine=7)


def test_a_users_own_denoiser_gets_the_numbers_of_the_rows():
    """The code of the rows on the path itself, as a user's denoiser needs it, against the frozen path: the same start,
    the same steps, to rounding of the path's gains."""
    train, test = jax.random.normal(KEY, (2, 24, 4, 4))
    model = patch_model("empirical", train, test)
    shared = frame(model, 12, jax.random.key(2))
    samplers, sizes = {"ddim": DDIM(), "ancestral": Ancestral()}, (("uniform",), (3, 5), 16)
    path = PATHS["shortest"](model.spectrum)
    rows = path_runs(partial(frozen_follow, model.make_denoiser), path, shared, samplers, *sizes)
    follow = lambda *given: own_follow(model.make_denoiser, *given)  # noqa: E731
    direct = path_runs(follow, path, shared, samplers, *sizes)
    for one, other in zip([rows.reference, *rows.runs], [direct.reference, *direct.runs], strict=True):
        assert one.keys() == other.keys()
        for name in MEASURES:
            np.testing.assert_allclose(one[name] or 0.0, other[name] or 0.0, rtol=1e-6, atol=1e-8)
    own = denoiser_runs(model.make_denoiser, path, samplers, shared.data, shared.fresh, KEY, steps=(3, 5), fine=16)
    assert [run.keys() for run in own.runs] == [run.keys() for run in rows.runs]


def own_follow(make_denoiser, path, grids, shared):
    table, _ = frozen(path, grids, shared.data.shape[1:])
    denoiser, start = make_denoiser(path), start_frozen(table, shared.data, shared.key_noise)
    return lambda sampler, number: sample(denoiser, path, sampler, grids[number], start, shared.key_run)


LINE = GaussianMixture(jnp.array([0.4, 0.6]), jnp.array([[-1.0], [0.8]]), jnp.array([[[0.3]], [[0.4]]]))


def line_error(sampler, times):
    """W2 on the line, free of sampling noise, from the exact marginal."""
    path = VPCosine()
    denoiser = MixtureDenoiser(path, LINE)
    start = path.marginal(LINE, times[0])
    return transport_error(lambda z: sample(denoiser, path, sampler, times, z, KEY), start, LINE, most=1024)


@pytest.mark.parametrize("sampler", [Heun(), DPMSolverPP2M()], ids=lambda s: type(s).__name__)
def test_wasserstein_error_on_the_line_falls_at_the_samplers_order(sampler):
    """Times uniform in log-SNR between noise levels 10 and 1/30 and one step to 0, in W2: order 2 of the inner steps
    dominates."""
    errors = []
    for steps in (16, 32):
        times = time_grid(VPCosine(), steps, "uniform", first=0.9)
        errors.append(line_error(sampler, times).value)
    assert 1.6 < np.log2(errors[0] / errors[1]) < 2.6, errors


def test_wasserstein_error_on_the_line_of_the_adaptive_reference_is_below_1e_12():
    result = line_error(Adaptive(rtol=1e-13, atol=1e-15), jnp.array([0.9, 0.0]))
    assert result.value < 1e-12, result


def test_the_prior_mismatch_on_the_line_is_no_sampling_error():
    path = OrnsteinUhlenbeck(1.0)
    assert prior_mismatch(path, LINE) > 1e-3
    assert prior_mismatch(VPCosine(), LINE) < 1e-8


TINY = dataclasses.replace(
    FAST,
    gaussian_side=4,
    side=4,
    paths=("shortest", "equal_angle"),
    samplers=("ddim", "ancestral_small"),
    steps=(3, 6),
    checked_steps=(6,),
    patch_paths=("shortest", "equal_angle"),
    patch_samplers=("ddim", "ancestral_small"),
    patch_steps=(3, 6),
    fine=(60, 200),
    components=2,
    points=60,
    draws=12,
    repeats=2,
)


@pytest.fixture(scope="module")
def rows():
    return [make_row(run, TINY, cell, 0) for cell in cells(TINY)]


def test_a_tiny_run_agrees_with_theory_and_is_deterministic(rows):
    assert largest_deviation(rows) < 1e-10
    cell = cells(TINY)[-1]
    assert make_row(run, TINY, cell, 0) == rows[-1]
    assert make_row(run, TINY, cell, 1)["runs"] != rows[-1]["runs"]


def test_gaussian_images_give_the_numbers_of_the_independent_derivation():
    """32 x 32, 50 steps of DDIM: KL(generated‖data) 0.61 on the equal-angle path, 5.37 on the shortest."""
    config = dataclasses.replace(TINY, gaussian_side=FULL.gaussian_side, steps=(50,), samplers=("ddim",))
    for name, expected in (("equal_angle", 0.61), ("shortest", 5.37)):
        (found,) = gaussian_rows(config, name)["runs"]
        assert round(float(found["kl_generated_data"]), 2) == expected


def test_every_repeat_has_patches_of_its_own():
    """An interval over repeats that share a fit is one given that fit."""
    first, second = (repeat_patches(TINY, k).train for k in (0, 1))
    assert first.shape == second.shape
    assert not np.array_equal(first, second)


def test_a_tiny_run_has_displacements_for_deterministic_samplers_only(rows):
    patch_rows = [row for row in rows if row["model"] != "gaussian"]
    assert len(patch_rows) == 4
    for row in patch_rows:
        for entry in row["runs"]:
            assert (entry["displacement"] is None) == isinstance(SAMPLERS[entry["sampler"]], RANDOM)
        moved = {(e["path"], e["steps"]): e["displacement"] for e in find(row["runs"], sampler="ddim")}
        for path in TINY.patch_paths:
            assert moved[path, 6] < moved[path, 3]
            if row["model"] == "mixture":  # with few training points half the steps may still end at another one
                assert row["references"][path]["displacement"] < 0.1 * moved[path, 6]


def test_figures_and_words_are_made_of_the_rows(rows):
    drawn = figures(TINY, rows)
    assert set(drawn) == {"gaussian", "patches"}
    assert len(drawn["gaussian"][1].axes) == 2
    said = answer(TINY, rows)
    assert said.startswith("Under DDIM at 6 steps the equal-angle path has KL")
    assert "on the mixture" in said
    assert "on the training patches themselves" in said
    assert len(said.split()) <= 60
    assert any("ddim equal_angle" in sentence for sentence in details(TINY, rows))
    assert answer(TINY, []) == ""
    assert details(TINY, []) == []


def patch_rows(equal, shortest, reference=0.0):
    """Rows of repeats with these values at 6 steps of DDIM, of every measure."""

    def one(k):
        entry = {"sampler": "ddim", "grid": "uniform", "steps": 6}
        values = {"equal_angle": equal[k], "shortest": shortest[k]}
        runs = [{**entry, "path": p, **dict.fromkeys(MEASURES, v)} for p, v in values.items()]
        reference_of = dict.fromkeys(MEASURES, reference)
        return {"model": "mixture", "repeat": k, "references": dict.fromkeys(values, reference_of), "runs": runs}

    return [one(k) for k in range(3)]


CASES = {
    "better": ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9]),
    "worse": ([2.0, 2.2, 1.9], [1.0, 1.1, 0.9]),
    "not told apart": ([1.0, 2.1, 0.9], [2.0, 1.1, 1.0]),
}
SMALL = dataclasses.replace(TINY, patch_steps=(6,), patch_samplers=("ddim",))


@pytest.mark.parametrize("word", CASES)
def test_the_words_follow_the_rows(word):
    made = patch_rows(*CASES[word])
    for measure in MEASURES:
        gap = advantage(made, "mixture", "ddim", "uniform", 6, measure)
        assert verdict(gap) == word
        np.testing.assert_allclose(gap.value, np.mean(CASES[word][1]) - np.mean(CASES[word][0]), rtol=1e-12)
    assert f"{word} on the mixture" in answer(SMALL, made)
    sentence = details(SMALL, made)[0]
    assert sentence.count(word) == 3
    best, tied = ranking(SMALL, made, "mixture", "ddim", 6)
    assert best.startswith("shortest" if np.mean(CASES[word][1]) < np.mean(CASES[word][0]) else "equal_angle")
    assert bool(tied) == (word == "not told apart")


def test_no_verdict_by_displacement_where_the_reference_is_known_too_badly():
    """The reference's error a fifth of the smaller displacement: the distances are judged, the displacement is not."""
    made = patch_rows(*CASES["worse"], reference=0.2)
    assert reference_error(made, "mixture", "shortest") == pytest.approx(0.2)
    sentence = details(SMALL, made)[0]
    assert "not judged (the reference is known to 20.0% only)" in sentence
    assert sentence.count("worse") == 2
    assert "not judged" not in details(SMALL, patch_rows(*CASES["worse"], reference=0.05))[0]


def test_ranking_takes_the_least_distance_not_the_one_nearest_zero():
    """A debiased distance below zero is less, as the intervals of differences count it."""
    made = patch_rows([-0.5, -0.6, -0.4], [0.1, 0.0, 0.2])
    assert ranking(SMALL, made, "mixture", "ddim", 6) == ("equal_angle (uniform)", [])
    assert repeats(made, "mixture", "shortest", "ddim", "uniform", 6, "w2").tolist() == [0.1, 0.0, 0.2]


def test_the_gaussian_sentence_names_the_least_error(rows):
    swapped = [dict(row) for row in rows if row["model"] == "gaussian"]
    for row in swapped:
        row["runs"] = [{**r, "kl_generated_data": 1e-3 if row["path"] == "vp_cosine" else 1.0} for r in row["runs"]]
    assert "ddim vp_cosine" in details(TINY, swapped)[0]
    assert len(gaussian_runs(swapped)) == len(gaussian_runs(rows))


def test_a_users_images_take_the_place_of_the_photographs_as_far_as_they_go(tmp_path):
    file, rng = tmp_path / "images.npz", np.random.default_rng(0)
    own = dataclasses.replace(
        TINY, data=file, patch_paths=("shortest",), patch_samplers=("ddim",), points=500, draws=99
    )
    np.savez(file, images=rng.uniform(-1, 1, (16, 5, 6)))  # 8 images of 2 x 3 patches for training
    row = run(own, cells(own)[-1], KEY)
    assert len(repeat_patches(own, 0).train) == 48
    assert np.isfinite(row["runs"][0]["w2"])
    for images, message in (
        (rng.uniform(size=(6, 5, 6)), "with 32 patches of 4 x 4 pixels"),
        (np.ones((9, 3, 3)), "4 x 4"),
    ):
        np.savez(file, images=images)
        with pytest.raises(ValueError, match=message):
            cells(own)
    np.savez(file, features=np.ones((9, 3)), labels=np.zeros(9, int))
    with pytest.raises(ValueError, match="must be a set of images"):
        cells(own)


def test_bad_input_is_refused_by_name():
    path = PATHS["shortest"](SPECTRUM)
    with pytest.raises(ValueError, match=r"times\[0\]"):
        simulated_variance(Euler(), path, SPECTRUM, time_grid(path, 3))
    with pytest.raises(ValueError, match="spectrum"):
        simulated_variance(DDIM(), path, jnp.ones((3, 3)), time_grid(path, 3))
    with pytest.raises(ValueError, match="kind"):
        patch_model("photograph", jnp.zeros((4, 4, 4)), jnp.zeros((4, 4, 4)))
    model = patch_model("empirical", jnp.zeros((4, 4, 4)), jnp.zeros((4, 4, 4)))
    with pytest.raises(ValueError, match="draws must be at most the 4 patches"):
        frame(model, 6, KEY)
    table, (leg,) = frozen(path, [time_grid(path, 3)], (4, 4))
    with pytest.raises(ValueError, match="sampler"):
        sample_frozen(lambda x, t, c: x, table, leg, Heun(), jnp.zeros((1, 4, 4)), KEY)
    with pytest.raises(ValueError, match="finite"):
        sample_frozen(lambda x, t, c: x * jnp.nan, table, leg, DDIM(), jnp.zeros((1, 4, 4)), KEY)


def test_both_configs_name_things_that_exist():
    for config in (FAST, FULL):
        assert isinstance(config, PathsConfig)
        assert set(config.paths) | set(config.patch_paths) <= set(PATHS)
        assert set(config.samplers) | set(config.patch_samplers) <= set(SAMPLERS)
        assert all(isinstance(SAMPLERS[name], WITHOUT_SLOPES) for name in config.patch_samplers)
        assert len(cells(config)) == len(config.paths) + 2 * config.repeats
    assert EXPERIMENT.name == "paths"
