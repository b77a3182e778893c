import io
import warnings

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread
from test_prescribe import smooth_images

from theory import canvas, plots
from theory.data import DataSet
from theory.prescribe import Settings, prescribe


@pytest.fixture(scope="module")
def prescription():
    rng = np.random.default_rng(50)
    images = smooth_images(48) + 0.2 * rng.standard_normal((2, 8, 8))[np.arange(48) % 2]
    settings = Settings(steps=10, sampler="heun", resamples=4, training_sets=1, d_emb=64, retain=0.6)
    return prescribe(DataSet.from_images(images, np.arange(48) % 2), settings)


@pytest.fixture(scope="module")
def drawn(prescription):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return plots.figures(prescription)


def data_axes(figure):
    return figure.axes[0]


def test_one_figure_for_each_result(drawn):
    assert list(drawn) == [
        "spectra",
        "gain_whitened",
        "gain_data_units",
        "entropy",
        "held_out",
        "flips",
        "power_spectrum",
        "path_lengths",
        "path_errors",
        "classifier",
    ]
    for figure in drawn.values():
        assert isinstance(figure, Figure)
        assert data_axes(figure).get_xlabel()
        assert data_axes(figure).get_ylabel() or len(data_axes(figure).get_yticklabels()) == 8


def test_every_figure_becomes_a_picture_of_the_stated_size(drawn):
    width, height = (round(x * canvas.STYLE["figure.dpi"]) for x in canvas.STYLE["figure.figsize"])
    for figure in drawn.values():
        picture = imread(io.BytesIO(canvas.png(figure)))
        assert picture.shape[:2] == (height, width)
        assert picture[..., :3].std() > 0.02  # not blank


def test_save_writes_what_png_gives(drawn, tmp_path):
    path = canvas.save(drawn["flips"], tmp_path / "flips.png")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_nothing_global_changes(prescription):
    before = dict(mpl.rcParams)
    canvas.png(plots.class_spectra(prescription.classes))
    assert dict(mpl.rcParams) == before


def test_gain_curve_shows_the_numbers(prescription, drawn):
    curve, best = prescription.conditions.plugin_curve, prescription.conditions.plugin
    axes = data_axes(drawn["gain_data_units"])
    lines = {line.get_label(): line for line in axes.lines}
    shown = next(line for line in axes.lines if len(line.get_xdata()) == len(curve.noise_std))
    np.testing.assert_array_equal(shown.get_ydata(), curve.gain)
    marker = next(line for label, line in lines.items() if str(label).startswith("best"))
    assert marker.get_xdata()[0] == best.noise_std.value
    assert marker.get_ydata()[0] == best.gain.value
    assert "data units squared" in axes.get_ylabel()
    band = axes.collections[0].get_paths()[0].vertices[:, 1]
    assert band.min() == pytest.approx(min(curve.low))
    assert band.max() == pytest.approx(max(curve.high))


def test_upper_axis_is_gamma(prescription):
    figure = plots.entropy_change(prescription.conditions, prescription.settings)
    canvas.png(figure)
    axes = data_axes(figure)
    (upper,) = axes.child_axes
    assert upper.get_xlim() == pytest.approx(tuple(8 * x for x in axes.get_xlim()))
    assert "d_emb = 64" in upper.get_xlabel()


def test_classifier_curve_marks_sigma_min(prescription, drawn):
    axes = data_axes(drawn["classifier"])
    at = [line.get_xdata()[0] for line in axes.lines if str(line.get_label()).startswith("sigma_min")]
    assert at == [prescription.images.blur.sigma_min]


def test_bars_are_the_paths_in_order(prescription, drawn):
    axes = data_axes(drawn["path_errors"])
    names = [label.get_text() for label in axes.get_yticklabels()]
    by_name = {p.name.replace("_", " "): p for p in prescription.images.paths}
    first, second = axes.containers
    np.testing.assert_allclose([bar.get_width() for bar in first], [by_name[n].kl for n in names])
    np.testing.assert_allclose([bar.get_width() for bar in second], [by_name[n].kl_reverse for n in names])
    lengths = data_axes(drawn["path_lengths"])
    names = [label.get_text() for label in lengths.get_yticklabels()]
    ratios = [100 * (by_name[n].length / by_name[n].geodesic - 1) for n in names]
    np.testing.assert_allclose([bar.get_width() for bar in lengths.containers[0]], ratios, atol=1e-9)


def test_power_spectrum_shows_the_fit(prescription, drawn):
    axes = data_axes(drawn["power_spectrum"])
    law = prescription.images.law
    fit = axes.lines[1]
    np.testing.assert_allclose(fit.get_ydata(), law.c1 / (law.c2 + fit.get_xdata()) ** law.m, rtol=1e-12)


def test_colours_can_be_told_apart():
    """Pairwise distance in lightness-weighted RGB, also with red and green taken as one."""
    rgb = np.array([[int(c[i : i + 2], 16) for i in (1, 3, 5)] for c in plots.PALETTE]) / 255
    confused = np.stack([rgb[:, :2].mean(axis=1), rgb[:, 2], rgb @ [0.3, 0.6, 0.1]], axis=1)
    for colours in (rgb, confused):
        apart = np.linalg.norm(colours[:, None] - colours[None], axis=2) + 9 * np.eye(len(rgb))
        assert apart.min() > 0.1


def test_a_prescription_without_classes_or_images():
    rng = np.random.default_rng(51)
    points = DataSet.from_features(rng.standard_normal((12, 3)), np.zeros(12, int))
    assert list(plots.figures(prescribe(points))) == ["spectra"]


def test_undefined_entropy_is_said():
    rng = np.random.default_rng(52)
    few = DataSet.from_features(rng.standard_normal((8, 12)), np.arange(8) % 2)
    p = prescribe(few, Settings(resamples=2, training_sets=1, retain=1.0, eta=(0.1,)))
    figure = plots.entropy_change(p.conditions, p.settings)
    assert [t.get_text() for t in data_axes(figure).texts] == ["undefined: degenerate classes"]
    assert len(canvas.png(figure)) > 5000


def test_no_corruption_that_helps_is_still_drawn(prescription):
    from theory.conditions import Curve, Interval, Optimum

    nothing = Interval(0.0, 0.0, 0.0)
    curve = Curve((0.01, 0.1, 1.0), (-0.1, -1.0, -2.0), (-0.2, -2.0, -3.0), (0.0, -0.5, -1.0))
    figure = plots.gain_curve(curve, Optimum(nothing, nothing, nothing, 1.0), prescription.settings)
    assert len(canvas.png(figure)) > 5000
