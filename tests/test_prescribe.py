import json
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from theory.claims.cases import rotation
from theory.conditions import locate, mahalanobis, search_grid
from theory.data import DataError, DataSet
from theory.discretisation import sampling_error
from theory.gaussian import Gaussian, wasserstein2
from theory.image_advice import advise_blur, advise_images, fit_law, path_lengths
from theory.linear import corrupted_moments
from theory.paths import PATHS
from theory.plugin import Population
from theory.prescribe import Settings, prescribe
from theory.spectra import PowerLaw, power_spectrum
from theory.training_sets import entropy_gap, helpful_limit, optimal_noise_std
from theory.whitening import class_statistics, debiased_mean_square, principal_coordinates

QUICK = Settings(retain=1.0, noise_std=(0.05, 0.3), resamples=6, training_sets=1, eta=(0.1,))


def gaussian_classes(n=40, d=4, seed=0, spread=None, shift=1.5):
    """Two classes with the same covariance."""
    rng = np.random.default_rng([seed, 30])
    factor = np.eye(d) if spread is None else spread
    means = shift * rng.standard_normal((2, d))
    points = np.concatenate([means[k] + rng.standard_normal((n + 5 * k, d)) @ factor for k in range(2)])
    return DataSet.from_features(points, np.repeat([0, 1], [n, n + 5]))


def moved(data, matrix, shift):
    return DataSet.from_features(data.features @ matrix + shift, data.labels)


# ---------------------------------------------------------------- coordinates and statistics


def test_whitened_classes_have_unit_pooled_covariance():
    data = gaussian_classes(spread=np.diag([1, 5, 0.1, 2.0]))
    c = principal_coordinates(data, retain=1.0)
    z = c.whitened(data.features)
    within = sum((data.labels == k).sum() * np.cov(z[data.labels == k].T, bias=True) for k in range(2)) / (data.n - 2)
    np.testing.assert_allclose(within, np.eye(4), atol=1e-9)
    np.testing.assert_allclose(c.components @ c.components.T, np.eye(4), atol=1e-12)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-10)
    assert (c.rank, c.data_rank, c.limited_by, c.freedom) == (4, 4, "variance", data.n - 2)


@pytest.mark.parametrize("n", [100, 6])
def test_fewest_components_that_keep_the_variance(n):
    rng = np.random.default_rng(31)
    x = rng.standard_normal((n, 8)) * np.geomspace(10, 0.01, 8)
    data = DataSet.from_features(x, np.arange(n) % 2)
    variances = np.linalg.eigvalsh(np.cov(x.T, bias=True))[::-1]
    for retain in (0.5, 0.9, 0.99):
        c = principal_coordinates(data, retain=retain)
        kept = np.cumsum(variances) / variances.sum()
        assert c.rank == np.argmax(kept >= retain) + 1
        assert c.discarded == pytest.approx(1 - kept[c.rank - 1], abs=1e-9)
        assert c.total_variance == pytest.approx(variances.sum(), rel=1e-9)


def test_directions_without_within_class_variance_are_left_out():
    rng = np.random.default_rng(32)
    labels = np.arange(40) % 2
    x = np.column_stack([10.0 * labels, rng.standard_normal(40), 0.1 * rng.standard_normal(40)])
    c = principal_coordinates(DataSet.from_features(np.column_stack([x[:, 1], x]), labels), retain=1.0)
    assert c.limited_by == "within-class rank"
    assert c.data_rank == 3
    assert c.rank < 3


def test_mean_square_is_estimated_without_bias_and_its_error_is_right():
    rng = np.random.default_rng(33)
    r, sizes, a = 6, (15, 25), 2.0
    freedom, n = sum(sizes) - 2, sum(sizes)
    mu = np.sqrt(a) * np.eye(r)[0]
    found = []
    for _ in range(3000):
        # as in the module's text: m_0 - mu ~ N(0, (1/n_0 - 1/n) I), pooled covariance ~ Wishart / freedom
        mean = mu + rng.standard_normal(r) * np.sqrt(1 / sizes[0] - 1 / n)
        noise = rng.standard_normal((freedom, r))
        plain = mean @ np.linalg.solve(noise.T @ noise / freedom, mean)
        found.append(plain)
    factor = (freedom - r - 1) / freedom
    unclipped = factor * np.array(found) - r * (1 / sizes[0] - 1 / n)
    assert abs(unclipped.mean() - a) <= 4.5 * unclipped.std() / np.sqrt(3000)
    estimate, error = debiased_mean_square(float(np.mean(found)), sizes[0], n, r, freedom)
    assert estimate == pytest.approx(unclipped.mean(), rel=1e-12)
    # first-order formula for the variance, with 1/n_k in place of 1/n_k - 1/n: within a quarter
    assert 0.8 <= error / unclipped.std() <= 1.35


def test_mean_square_is_never_negative():
    assert debiased_mean_square(0.0, 5, 10, 3, 8)[0] == 0.0
    assert debiased_mean_square(0.0, 5, 10, 30, 8)[0] == 0.0


def test_class_statistics_in_data_units():
    data = gaussian_classes(n=30, spread=np.diag([1, 2, 3, 0.0]))
    stats = class_statistics(data, principal_coordinates(data, retain=0.99))
    for k, s in enumerate(stats):
        points = data.features[data.labels == k]
        eigenvalues = np.linalg.eigvalsh(np.cov(points.T, bias=True))[::-1]
        assert (s.n, s.rank, s.name) == (len(points), 3, str(k))
        np.testing.assert_allclose(s.spectrum, eigenvalues[:3], rtol=1e-9)
        assert s.mean_norm == pytest.approx(np.linalg.norm(points.mean(0) - data.features.mean(0)), rel=1e-12)
        assert s.weight == len(points) / data.n


def test_skewness_and_kurtosis_of_known_laws():
    rng = np.random.default_rng(34)
    n = 40000
    x = np.column_stack([np.tile([0.0, 3.0], n)[:n], rng.exponential(size=n)])
    data = DataSet.from_features(x[:, 1:], np.arange(n) % 2)
    (first, _) = class_statistics(data, principal_coordinates(data))
    assert first.skewness == pytest.approx(2, abs=0.3)  # exponential: 2 and 6
    assert first.kurtosis == pytest.approx(6, abs=2)
    normal = DataSet.from_features(rng.standard_normal((n, 3)), np.arange(n) % 2)
    (first, _) = class_statistics(normal, principal_coordinates(normal, retain=1.0))
    assert first.skewness < 5 * math.sqrt(6 / (n / 2))
    assert abs(first.kurtosis) < 5 * math.sqrt(24 / (n / 2))


# ---------------------------------------------------------------- recommendation


def test_locate_on_a_parabola():
    s = np.geomspace(1e-5, 1, 31)
    best, gain, zero = locate(s, 3 * s - 10 * s**2)
    # fine grid of 4001 points over log(1e5): the optimum to one part in 350, the zero by interpolation
    assert best == pytest.approx(0.15, rel=3e-3)
    assert gain == pytest.approx(9 / 40, rel=1e-4)
    assert zero == pytest.approx(0.3, rel=1e-4)
    assert locate(s, -s) == (0.0, 0.0, 0.0)
    assert locate(s, s) == (1.0, pytest.approx(1.0), 1.0)


def test_grid_ends():
    grid = search_grid([10, 40], Settings(noise_std=(1.0,), cond_norm=2.0))
    assert (grid[0], grid[30], grid[31]) == (pytest.approx(1e-3 / 40), 1.0, pytest.approx(1 / 5))


def test_rotation_and_shift_change_nothing():
    data = gaussian_classes(spread=np.diag([1, 2, 3, 0.5]))
    here = prescribe(data, QUICK).conditions
    there = prescribe(moved(data, rotation(4, 7), np.array([5.0, -3, 2, 1])), QUICK).conditions
    for row, other in zip(here.rows, there.rows, strict=True):
        assert row.whitened.value == pytest.approx(other.whitened.value, rel=1e-6, abs=1e-9)
        assert row.plugin.low == pytest.approx(other.plugin.low, rel=1e-6, abs=1e-9)
        assert row.entropy_change == pytest.approx(other.entropy_change, rel=1e-8)
        assert row.entropy_change_here == pytest.approx(other.entropy_change_here, rel=1e-8)
    assert here.plugin.noise_std.value == pytest.approx(there.plugin.noise_std.value, rel=2e-2)
    assert here.flips.change == pytest.approx(there.flips.change, rel=1e-6)


def test_scale_acts_on_lengths_alone():
    data, c = gaussian_classes(), 7.0
    here, there = prescribe(data, QUICK).conditions, prescribe(moved(data, c * np.eye(4), 0.0), QUICK).conditions
    assert there.plugin.clean == pytest.approx(c**2 * here.plugin.clean, rel=1e-9)
    for row, other in zip(here.rows, there.rows, strict=True):
        assert other.plugin.value == pytest.approx(c**2 * row.plugin.value, rel=1e-6, abs=1e-7)
        assert other.whitened.value == pytest.approx(row.whitened.value, rel=1e-6, abs=1e-9)
        assert other.entropy_change_here == pytest.approx(row.entropy_change_here, rel=1e-8)
    assert there.flips.change[0] == pytest.approx(c**2 * here.flips.change[0], rel=1e-6)


def test_any_linear_map_leaves_the_whitened_part():
    data = gaussian_classes()
    here = prescribe(data, QUICK)
    there = prescribe(moved(data, np.array([[1, 2, 0, 0], [0, 1, 3, 0], [1, 0, 1, 0.5], [0, 0, 0, 2]]), 1.0), QUICK)
    for a, b in zip(here.classes, there.classes, strict=True):
        assert a.mean_square == pytest.approx(b.mean_square, rel=1e-8)
        assert a.whitened_extremes == pytest.approx(b.whitened_extremes, rel=1e-8)
    assert here.conditions.whitened.noise_std.value == pytest.approx(
        there.conditions.whitened.noise_std.value, rel=1e-6
    )


def test_seed_decides_and_another_differs():
    data = gaussian_classes(n=20)
    again = [prescribe(data, QUICK).to_json() for _ in range(2)]
    assert again[0] == again[1]
    other = prescribe(data, Settings(**{**QUICK.__dict__, "seed": 1}))
    assert other.conditions.plugin.clean != prescribe(data, QUICK).conditions.plugin.clean


def test_whitened_optimum_is_the_theory_at_the_estimated_mean():
    data = gaussian_classes(n=30, d=3)
    p = prescribe(data, QUICK)
    for stats, advice in zip(p.classes, p.conditions.classes, strict=True):
        best = optimal_noise_std(stats.n, 3, stats.mean_square, draws=512)
        limit = helpful_limit(stats.n, 3, stats.mean_square, draws=512)
        # same draws; the optimum lies on a grid of ratio 1.0024 in s
        assert advice.whitened.noise_std.value == pytest.approx(best.value, rel=5e-3)
        assert advice.whitened.helpful_limit.value == pytest.approx(limit.value, rel=5e-3)
        assert advice.whitened.noise_std.low <= advice.whitened.noise_std.value <= advice.whitened.noise_std.high
    expected = np.dot([c.weight for c in p.classes], [entropy_gap(c.n, 3, c.mean_square, 0.3) for c in p.classes])
    assert p.conditions.rows[1].entropy_change == pytest.approx(expected, rel=1e-12)


def test_whitened_distance_without_corruption():
    p = prescribe(gaussian_classes(n=12, d=3), QUICK)
    rng = np.random.default_rng(42)
    for stats, advice in zip(p.classes, p.conditions.classes, strict=True):
        model = Population.isotropic(3, stats.mean_square)
        seen = [model.squared_distance(model.training_set(stats.n, rng)) for _ in range(2000)]
        assert abs(np.mean(seen) - advice.whitened.clean) <= 4.5 * np.std(seen) / math.sqrt(2000)


def test_whitened_prediction_holds_for_data_that_obey_the_model():
    """Training sets drawn from the true law, W2 by the library's own distance: the truth lies within the stated
    range.
    """
    rng = np.random.default_rng(35)
    n, d, noise_std = 30, 3, 0.3
    means = np.array([[1.0, 0, 0], [-1.0, 0, 0]])
    spread = np.array([[2.0, 0, 0], [1.0, 0.5, 0], [0, 1.0, 1.0]])
    data = DataSet.from_features(
        np.concatenate([(m + rng.standard_normal((400, d))) @ spread for m in means]), np.repeat([0, 1], 400)
    )
    # the estimate of a from many points, the prediction for n of them
    stats = class_statistics(data, principal_coordinates(data, retain=1.0))
    small = Settings(noise_std=(noise_std,), resamples=2, training_sets=1, eta=(0.1,), retain=1.0)
    few = np.concatenate([np.flatnonzero(data.labels == k)[:n] for k in range(2)])
    subset = DataSet.from_features(data.features[few], data.labels[few])
    row = prescribe(subset, small).conditions.rows[0]
    s = noise_std**2 / (1 + noise_std**2)
    gains = np.concatenate([_true_gains(math.sqrt(c.mean_square), n, d, s, 1000, rng) for c in stats])
    error = 4.5 * gains.std() / math.sqrt(gains.size)
    assert row.whitened.low - error <= gains.mean() <= row.whitened.high + error


def _true_gains(norm, n, d, s, repeats, rng):
    law = Gaussian(norm * jnp.eye(d)[0], jnp.eye(d))
    points = np.asarray(law.mean) + rng.standard_normal((repeats, n, d))
    means = points.mean(axis=1)
    covs = np.einsum("bni,bnj->bij", points - means[:, None], points - means[:, None]) / n

    def gain(mean, cov):
        clean = wasserstein2(law, Gaussian(mean, cov))
        return clean**2 - wasserstein2(law, corrupted_moments(mean, cov, s)) ** 2

    return np.asarray(jax.jit(jax.vmap(gain))(jnp.asarray(means), jnp.asarray(covs)))


def test_entropy_of_the_model_trained_here():
    data = gaussian_classes(n=25)
    row = prescribe(data, QUICK).conditions.rows[1]
    s = 0.3**2 / (1 + 0.3**2)
    changes = []
    for k in range(2):
        points = jnp.asarray(data.features[data.labels == k] - data.features.mean(0))
        mean, cov = points.mean(0), jnp.cov(points.T, bias=True)
        after = corrupted_moments(mean, cov, s)
        changes.append(float(after.entropy() - Gaussian(mean, cov).entropy()))
    weights = np.bincount(data.labels) / data.n
    assert row.entropy_change_here == pytest.approx(np.dot(weights, changes), rel=1e-9)


def test_mahalanobis_of_a_flat_class_is_infinite():
    points = np.array([[1.0, 0], [2, 0], [3, 0]])
    assert mahalanobis(points) == math.inf
    assert mahalanobis(points[:, :1]) == pytest.approx(4 / (2 / 3))


def test_cond_norm_scales_the_noise_and_gamma_its_dimension():
    data = gaussian_classes(n=20)
    one = prescribe(data, QUICK).conditions
    two = prescribe(data, Settings(**{**QUICK.__dict__, "cond_norm": 2.0, "noise_std": (0.1, 0.6)})).conditions
    assert two.whitened.noise_std.value == pytest.approx(2 * one.whitened.noise_std.value, rel=1e-9)
    assert two.rows[0].plugin.value == pytest.approx(one.rows[0].plugin.value, rel=1e-9)
    assert two.rows[1].entropy_change == pytest.approx(one.rows[1].entropy_change, rel=1e-9)
    settings = Settings(d_emb=64)
    rng = np.random.default_rng(36)
    gamma = settings.cep_uniform(0.2)
    uniform = rng.uniform(-gamma / 8, gamma / 8, 100000)
    # the standard deviation of 1e5 uniform draws is off by 0.2 * sqrt(0.8 / 4e5) = 3e-4
    assert uniform.std() == pytest.approx(0.2, abs=5 * 3e-4)
    assert settings.cep_gaussian(0.2) / np.sqrt(64) == pytest.approx(0.2)
    assert settings.noise_for(settings.noise_ratio(0.7)) == pytest.approx(0.7)
    assert settings.noise_for(1.0) == math.inf


def test_zero_noise_changes_nothing():
    row = prescribe(gaussian_classes(n=10), Settings(noise_std=(0.0,), resamples=2, eta=())).conditions.rows[0]
    assert (row.entropy_change, row.entropy_change_here, row.plugin.value) == (0.0, 0.0, 0.0)
    assert row.whitened.value == pytest.approx(0.0, abs=1e-12)


def test_few_points_are_noted_and_still_answered():
    rng = np.random.default_rng(37)
    data = DataSet.from_features(rng.standard_normal((12, 20)), np.arange(12) % 2)
    p = prescribe(data, Settings(resamples=2, training_sets=1, retain=1.0))
    assert any("Not more points than" in note for note in p.notes)
    assert p.conditions.rows[0].entropy_change is None
    assert p.conditions.whitened.gain.value > 0
    json.dumps(p.to_json(), allow_nan=False)


def test_two_points_in_a_class():
    rng = np.random.default_rng(38)
    data = DataSet.from_features(rng.standard_normal((4, 3)), np.array([0, 0, 1, 1]))
    p = prescribe(data, Settings(resamples=2, training_sets=1))
    assert p.conditions.classes[0].whitened_check is None
    assert "fewer than 4 points" in p.text()


@pytest.mark.parametrize(
    ("features", "message"),
    [(np.ones((6, 3)), "must vary from point to point"), (np.eye(2)[[0, 0, 0, 1, 1, 1]], "must vary within classes")],
)
def test_data_that_do_not_vary(features, message):
    with pytest.raises(DataError, match=message):
        prescribe(DataSet.from_features(features, np.array([0, 0, 0, 1, 1, 1])))


@pytest.mark.parametrize(
    ("choice", "message"),
    [
        ({"noise_std": (0.1, -0.1)}, r"noise_std must be finite and at least 0; got \(0.1, -0.1\)"),
        ({"noise_std": (math.nan,)}, "noise_std must be finite"),
        ({"noise_std": (math.inf,)}, "noise_std must be finite"),
        ({"noise_std": ()}, "one or more values"),
        ({"retain": 0.0}, r"retain must be a fraction of the variance in \(0, 1\]"),
        ({"retain": 1.5}, "retain must be"),
        ({"cond_norm": 0.0}, "cond_norm must be finite and positive"),
        ({"d_emb": 0}, "d_emb must be at least 1"),
        ({"eta": (1.5,)}, r"eta must be in \[0, 1\]; got \(1.5,\)"),
        ({"eta": (-0.1,)}, r"eta must be in \[0, 1\]"),
        ({"sampler": "magic"}, "sampler must be one of ddim"),
        ({"steps": 1}, "steps must be at least 2"),
        ({"blur_std": -1.0}, "blur_std must be finite and at least 0"),
        ({"tau": 0.5}, "tau must be strictly between 0 and 0.5"),
        ({"resamples": 1}, "resamples must be at least 2"),
        ({"training_sets": 0}, "training_sets must be at least 1"),
        ({"level": 1.0}, "level must be strictly between 0 and 1"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_settings(choice, message):
    with pytest.raises(ValueError, match=message):
        Settings(**choice)


# ---------------------------------------------------------------- images


def smooth_images(n=60, side=8, seed=0):
    """Stationary Gaussian images with a power law."""
    rng = np.random.default_rng([seed, 39])
    gain = np.sqrt(PowerLaw(1.6, 0.5, 2.0).spectrum((side, side)))
    return np.fft.ifft2(gain * np.fft.fft2(rng.standard_normal((n, side, side)))).real


def test_image_advice_on_images_of_a_known_law():
    data = DataSet.from_images(smooth_images(400))
    advice = advise_images(data, Settings(steps=10, sampler="heun"))
    # 400 periodograms: log D of each frequency is off by about 0.05 to 0.07, the fit over 64 frequencies by less
    assert advice.law.m == pytest.approx(2.0, abs=0.15)
    assert advice.fit_error < 0.12
    spectrum = advice.law.spectrum((8, 8))
    by_name = {p.name: p for p in advice.paths}
    assert set(by_name) == set(PATHS)
    assert by_name["shortest"].length == pytest.approx(by_name["shortest"].geodesic, rel=1e-9)
    assert all(p.length >= p.geodesic * (1 - 1e-9) for p in advice.paths)
    # from N(0, D) to N(0, I): sqrt(1/2 sum log^2 D)
    assert by_name["shortest"].geodesic == pytest.approx(np.sqrt(np.sum(np.log(spectrum) ** 2) / 2), rel=1e-6)
    again = sampling_error(PATHS["heat"](jnp.asarray(spectrum)), spectrum, 10, "heun")
    assert by_name["heat"].kl == pytest.approx(float(again.kl_generated_data), rel=1e-12)
    assert by_name["heat"].kl_reverse == pytest.approx(float(again.kl_data_generated), rel=1e-12)
    assert advice.power[0] == pytest.approx(power_spectrum(data.images)[0, 0], rel=1e-12)


def test_scalar_path_length_in_closed_form():
    """One frequency: VP from D to 1 is monotone, its length |log D| / sqrt 2 up to what is left at t = 1."""
    length, geodesic = path_lengths(PATHS["vp_cosine"](jnp.ones((1, 1))), np.full((1, 1), 5.0))
    assert length == pytest.approx(math.log(5) / math.sqrt(2), rel=1e-4)
    assert geodesic == pytest.approx(length, rel=1e-6)


def test_sigma_min_is_where_the_curve_crosses_tau():
    spectrum = PowerLaw(1.6, 0.1, 2.0).spectrum((8, 8))
    blur = advise_blur(spectrum, 0.8, 0.4)
    crossing = np.interp(0.4, blur.probability_clean, np.log(blur.sigma))
    # linear interpolation between grid points 15 % apart
    assert crossing == pytest.approx(np.log(blur.sigma_min), abs=0.02)
    assert np.all(np.diff(blur.probability_clean) >= -1e-12)
    assert advise_blur(spectrum, 1.6, 0.4).sigma_min > blur.sigma_min
    assert advise_blur(spectrum, 0.0, 0.4).sigma_min == 0.0


def test_no_law_where_the_fit_runs_off():
    frequencies = np.fft.fftfreq(8, 1 / 8)
    radius = np.hypot(frequencies[:, None], frequencies)
    assert fit_law(np.exp(-2 * radius)) == (None, None)
    law, error = fit_law(PowerLaw(2.0, 0.3, 1.5).spectrum((8, 8)))
    assert law == pytest.approx((2.0, 0.3, 1.5), rel=1e-4)
    assert error < 1e-5


def test_prescription_of_images_without_labels():
    p = prescribe(DataSet.from_images(smooth_images()), Settings(steps=10, sampler="heun"))
    assert p.conditions is None
    assert p.images is not None
    assert any("one class only" in note for note in p.notes)
    assert "sigma_min" in p.text()


def test_images_without_a_spectrum_are_noted():
    rng = np.random.default_rng(40)
    p = prescribe(DataSet.from_images(rng.standard_normal((12, 1, 3)), np.arange(12) % 2), QUICK)
    assert p.images is None
    assert any("at least 2 x 2 pixels" in note for note in p.notes)


# ---------------------------------------------------------------- what is printed


def test_text_and_json_tell_the_same():
    settings = Settings(steps=10, sampler="heun", resamples=4, training_sets=1)
    p = prescribe(DataSet.from_images(smooth_images(40), np.arange(40) % 2), settings)
    text, written = p.text(), p.to_json()
    assert max(len(line) for line in text.splitlines()) <= 100
    assert json.loads(json.dumps(written, allow_nan=False)) == json.loads(json.dumps(written))
    assert written["conditions"]["whitened"]["noise_std"]["value"] == p.conditions.whitened.noise_std.value
    assert written["settings"]["d_emb"] == 512
    assert set(written["images"]["law"]) == {"c1", "c2", "m"}
    for number in (p.classes[0].mean_norm, p.images.blur.sigma_min, p.conditions.plugin.clean, p.images.paths[0].kl):
        assert f"{number:.3g}" in text
    for name in PATHS:
        assert name in text
    assert "seed 0" in text


def test_infinity_and_the_undefined_in_json():
    rng = np.random.default_rng(41)
    # means next to nothing: every corruption helps
    data = DataSet.from_features(rng.standard_normal((40, 10)), np.arange(40) % 2)
    p = prescribe(data, Settings(resamples=2, training_sets=1, retain=1.0))
    assert p.conditions.whitened.helpful_limit.value == math.inf
    assert p.to_json()["conditions"]["whitened"]["helpful_limit"]["value"] == "inf"
    assert "however large" in p.text()
