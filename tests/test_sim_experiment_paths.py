"""The experiment on paths: exact Gaussian laws by other routes, frozen paths, displacement, distances, the answer."""

import dataclasses
import itertools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sim.denoisers import MixtureDenoiser
from sim.distances import wasserstein2_squared
from sim.experiments.base import cell_key, plain
from sim.experiments.paths import EXPERIMENT, FAST, FULL, PathsConfig, cells, run
from sim.experiments.paths_answer import advantage, answer, largest_deviation, ranking, verdict
from sim.experiments.paths_figures import figures
from sim.experiments.paths_frozen import WITHOUT_SLOPES, frozen, sample_frozen, start_frozen
from sim.experiments.paths_gaussian import CLOSED_FORMS, RANDOM, closed_form, prior_error, simulated_variance
from sim.experiments.paths_patches import (
    band_powers,
    bands,
    debiased_distance,
    detail,
    discretisation_error,
    halves,
    patch_model,
    patch_sets,
)
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
    """Maps that commute are optimal couplings: E |few - flow|² = Σ (√V - √D)²; both within 5 standard errors."""
    path, variances = VPCosine(), jnp.array([0.1, 0.5, 2.0])

    def make(path):
        def denoiser(xt, t, cond):
            signal, noise = path.powers(t)
            return jnp.sqrt(signal) * variances / (signal * variances + noise) * xt

        return denoiser

    data = jax.random.normal(KEY, (500, 3)) * jnp.sqrt(variances)
    found = discretisation_error(make, path, DDIM(), 6, data, jax.random.key(1), fine=200)
    times = time_grid(path, 6, first=path.t_range[1])
    expected = float(gaussian_errors(generated_variance(path, variances, times, "ddim"), variances).wasserstein2) ** 2
    half = (found.displacement.high - found.displacement.value) / 1.96
    assert abs(found.displacement.value - expected) < 5 * half
    assert found.reference.value < 0.01 * expected
    assert found.few.shape == (500, 3)


def test_displacement_refuses_noise_and_odd_references():
    path, data = VPCosine(), jnp.zeros((4, 2))
    with pytest.raises(ValueError, match="sampler"):
        discretisation_error(lambda p: lambda x, t, c: x, path, Ancestral(), 3, data, KEY)
    with pytest.raises(ValueError, match="fine"):
        discretisation_error(lambda p: lambda x, t, c: x, path, DDIM(), 3, data, KEY, fine=7)


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


def test_bands_cover_each_frequency_once_and_their_powers_add_up():
    images = jax.random.normal(KEY, (5, 8, 8))
    assert np.bincount(bands((8, 8)).ravel()).tolist() == [1, 4, 8, 51]
    np.testing.assert_allclose(band_powers(images).sum(), jnp.mean(jnp.sum(images**2, axis=(1, 2))), rtol=1e-12)
    assert band_powers(detail(images))[0] < 1e-25


def test_debiased_distance_is_zero_on_equal_laws_and_sees_shrinkage_that_the_raw_one_rewards():
    """Standard error over 20 repeats."""
    found, shrunk, raw = [], [], []
    for key in jax.random.split(KEY, 20):
        x, y = jax.random.normal(key, (2, 40, 4, 4))
        own = wasserstein2_squared(*halves(y))
        found.append(debiased_distance(x, y, own))
        shrunk.append(debiased_distance(0.6 * x, y, own))
        raw.append(
            wasserstein2_squared(halves(0.6 * x)[0], halves(y)[0]) - wasserstein2_squared(halves(x)[0], halves(y)[0])
        )
    assert abs(np.mean(found)) < 4 * np.std(found) / np.sqrt(20)
    assert np.mean(shrunk) > 4 * np.std(shrunk) / np.sqrt(20)
    assert np.mean(raw) < 0


TINY = dataclasses.replace(
    FAST,
    side=4,
    paths=("vp_cosine", "equal_angle"),
    samplers=("ddim", "ancestral_small"),
    steps=(3, 6),
    checked_steps=(6,),
    patch_paths=("shortest", "equal_angle"),
    patch_samplers=("ddim", "ancestral_small"),
    patch_steps=(3, 6),
    fine=200,
    components=2,
    points=60,
    draws=12,
    repeats=2,
)


@pytest.fixture(scope="module")
def rows():
    return [plain({**cell, **run(TINY, cell, cell_key(0, cell))}) for cell in cells(TINY)]


def test_a_tiny_run_agrees_with_theory_and_is_deterministic(rows):
    assert largest_deviation(rows) < 1e-10
    cell = cells(TINY)[-1]
    again = plain({**cell, **run(TINY, cell, cell_key(0, cell))})
    assert again == rows[-1]
    other = plain({**cell, **run(TINY, cell, cell_key(1, cell))})
    assert other["runs"] != rows[-1]["runs"]


def test_a_tiny_run_has_displacements_for_deterministic_samplers_only(rows):
    patch_rows = [row for row in rows if row["model"] != "gaussian"]
    assert len(patch_rows) == 4
    for row in patch_rows:
        for entry in row["runs"]:
            random = isinstance(SAMPLERS[entry["sampler"]], RANDOM)
            assert (entry["moved"] is None) == random
        moved = {(e["path"], e["steps"]): sum(e["moved"]) for e in row["runs"] if e["moved"]}
        for path in TINY.patch_paths:
            assert moved[path, 6] < moved[path, 3]
            if row["model"] == "mixture":  # with few training points half the steps may still end at another one
                assert sum(row["references"][path]["moved"]) < 0.1 * moved[path, 6]


def test_figures_and_answer_are_made_of_the_rows(rows):
    drawn = figures(TINY, rows)
    assert set(drawn) == {"gaussian", "patches"}
    assert len(drawn["gaussian"][1].axes) == 2
    text = answer(TINY, rows)
    assert "ddim equal_angle" in text
    assert "mixture" in text
    assert "empirical" in text


def patch_rows(equal, shortest):
    """Rows of two repeats with these excesses at 6 steps of DDIM."""

    def one(k):
        entry = {"sampler": "ddim", "grid": "uniform", "steps": 6, "power": [1.0] * 4}
        values = {"equal_angle": equal[k], "shortest": shortest[k]}
        runs = [{**entry, "path": p, "moved": [v, 0, 0, 0], "w2": v + 2, "w2_detail": v + 1} for p, v in values.items()]
        return {
            "model": "mixture",
            "repeat": k,
            "references": {p: {"w2": 2.0, "w2_detail": 1.0} for p in values},
            "runs": runs,
        }

    return [one(k) for k in range(3)]


CASES = {
    "better": ([1.0, 1.1, 0.9], [2.0, 2.2, 1.9]),
    "worse": ([2.0, 2.2, 1.9], [1.0, 1.1, 0.9]),
    "undecided": ([1.0, 2.1, 0.9], [2.0, 1.1, 1.0]),
}


@pytest.mark.parametrize("word", CASES)
def test_the_answer_follows_the_rows(word, rows):
    config = dataclasses.replace(
        TINY, patch_steps=(6,), patch_paths=("shortest", "equal_angle"), patch_samplers=("ddim",)
    )
    made = [row for row in rows if row["model"] == "gaussian"] + patch_rows(*CASES[word])
    for measure in ("excess", "detail", "displacement"):
        gap = advantage(made, "mixture", "ddim", "uniform", 6, measure)
        assert verdict(gap) == word
        np.testing.assert_allclose(gap.value, np.mean(CASES[word][1]) - np.mean(CASES[word][0]), rtol=1e-12)
    sentence = re.search(r"DDIM on the mixture model.*?\.( |$)", answer(config, made)).group()
    assert sentence.count(word) == 3
    best, tied = ranking(config, made, "mixture", "ddim", 6)
    assert best.startswith("shortest" if np.mean(CASES[word][1]) < np.mean(CASES[word][0]) else "equal_angle")
    assert bool(tied) == (word == "undecided")


def test_the_gaussian_sentence_names_the_least_error(rows):
    swapped = [dict(row) for row in rows if row["model"] == "gaussian"]
    for row in swapped:
        row["runs"] = [{**r, "kl_generated_data": 1e-3 if row["path"] == "vp_cosine" else 1.0} for r in row["runs"]]
    assert "ddim vp_cosine" in answer(TINY, swapped)


def test_own_images_take_the_place_of_the_photographs(tmp_path):
    file = tmp_path / "images.npz"
    images = np.random.default_rng(0).uniform(-1, 1, (10, 6, 7))
    np.savez(file, images=images)
    train, test = patch_sets(4, 20, data=file)
    assert train.shape == test.shape == (20, 4, 4)
    for some, source in ((train, images[:5]), (test, images[5:])):
        shift = float(np.asarray(train).mean())
        assert abs(shift) < 1e-12
        windows = np.lib.stride_tricks.sliding_window_view(source, (4, 4), axis=(1, 2)).reshape(-1, 16)
        differences = np.asarray(some[0]).reshape(16) - windows
        assert np.min(np.ptp(differences, axis=1)) < 1e-6
    with pytest.raises(ValueError, match="data"):
        patch_sets(8, 20, data=file)


def test_bad_input_is_refused_by_name():
    path = PATHS["shortest"](SPECTRUM)
    with pytest.raises(ValueError, match=r"times\[0\]"):
        simulated_variance(Euler(), path, SPECTRUM, time_grid(path, 3))
    with pytest.raises(ValueError, match="spectrum"):
        simulated_variance(DDIM(), path, jnp.ones((3, 3)), time_grid(path, 3))
    with pytest.raises(ValueError, match="kind"):
        patch_model("photograph", jnp.zeros((4, 4, 4)), jnp.zeros((4, 4, 4)))
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
