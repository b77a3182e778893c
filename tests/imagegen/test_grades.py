"""Grades: the lowest scores train at high noise alone, whatever the order of the file; other files are refused."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import expit

from imagegen import annotations
from imagegen.__main__ import main
from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.grades import grade, lowest, quality, read_scores
from imagegen.paths import make_path
from imagegen.prepare import prepare
from imagegen.statistics import statistics_of
from imagegen.training_data import make_gates, training_source
from tests.imagegen.clips import save_clip
from tests.imagegen.disk import write_folder

SIDE = 16


@given(st.lists(st.integers(0, 5), min_size=1, max_size=12), st.data())
def test_no_image_trained_at_high_noise_alone_has_a_higher_score_than_one_trained_everywhere(scores, data):
    count = data.draw(st.integers(0, len(scores)))
    bad = lowest(np.array(scores, float), count)
    assert bad.sum() == count
    by_hand = sorted(range(len(scores)), key=lambda k: (scores[k], -k))[:count]
    assert sorted(by_hand) == np.flatnonzero(bad).tolist()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("grades")
    write_folder(root / "raw")
    prepare(root / "raw", root / "out", resolution=SIDE, threads=1)
    source = make_source(str(root / "raw"), "train", resolution=SIDE)
    scores = {source.key(index): float(value) for index, value in enumerate(np.random.default_rng(1).random(24))}
    lines = [f'"{key}",{score}' for key, score in sorted(scores.items(), key=lambda item: item[1])]
    (root / "scores.csv").write_text("\n".join(["key,score", *lines, "another,0.5"]) + "\n")
    return root, scores


@pytest.mark.parametrize(("data", "resolution"), [("raw", SIDE), ("out", 0)])
def test_images_and_what_was_prepared_of_them_share_their_scores(folders, tmp_path, data, resolution):
    root, scores = folders
    data, out = str(root / data), tmp_path / "annotations.npz"
    noted = grade(data, root / "scores.csv", out, resolution=resolution, bad_share=0.75, sigma_min=0.5)
    config = Config(data=data, resolution=resolution, train_on="gated", annotations=str(out))
    source = training_source(config)
    threshold = np.median(np.sort(list(scores.values()))[17:19])  # 18 of 24 are below
    expected = np.array([scores[source.key(index)] < threshold for index in range(24)])
    np.testing.assert_array_equal(annotations.load(out).degraded, expected)
    np.testing.assert_array_equal(noted.sigma_min, np.where(expected, 0.5, 0.0))
    gates = make_gates(config, source, make_path(config.path, statistics_of(source)))
    assert gates is not None
    by_hand = gates["t_open"][expected]
    assert np.ptp(by_hand) == 0 < by_hand[0]
    assert not gates["t_open"][~expected].any()


def test_other_images_are_not_gated_by_these_grades(folders, tmp_path):
    root, out = folders[0], tmp_path / "annotations.npz"
    grade(str(root / "out"), root / "scores.csv", out)
    write_folder(tmp_path / "other", per_class=9, splits=())
    config = Config(data=str(tmp_path / "other"), resolution=SIDE, train_on="gated", annotations=str(out))
    source = training_source(config)
    with pytest.raises(ValueError, match="made of other images"):
        make_gates(config, source, make_path(config.path, statistics_of(source)))


@pytest.mark.slow
def test_a_graded_folder_trains(folders, tmp_path, small_network, capsys):
    root, out = folders[0], str(tmp_path / "annotations.npz")
    assert main(["grade", str(root / "out"), str(root / "scores.csv"), "--out", out]) == 0
    assert "5 of 24 images train everywhere, 19 from noise-to-signal ratio 0.4 on" in capsys.readouterr().out
    train = ["train", "digits", "--data", str(root / "out"), "--train-on", "gated", "--annotations", out, "--network",
             "small", "--steps", "2", "--warmup", "1", "--batch", "8", "--log-every", "1", "--checkpoint-every", "2",
             "--samples-every", "0"]  # fmt: skip
    assert main([*train, "--out", str(tmp_path / "run")]) == 0


class Bright:
    """What stands for CLIP: bright images are good."""

    def __init__(self):
        self.about, self.seen = {"weights_sha256": "of this test"}, 0

    def images(self, images):
        self.seen += len(images)
        light = images.astype(np.float32).mean((1, 2, 3)) / 255
        return np.stack([light, 1 - light], axis=1)

    def texts(self, captions):
        return np.array([[3.0, 0.0] if "Good" in caption else [0.0, 2.0] for caption in captions], np.float32)


def test_images_are_scored_by_the_probability_of_the_good_prompt_and_scoring_goes_on(folders, tmp_path, monkeypatch):
    root, out = folders[0], tmp_path / "quality.csv"
    monkeypatch.setattr("imagegen.grades.AT_ONCE", 10)
    clip = Bright()
    assert quality(str(root / "raw"), clip, out, resolution=SIDE) == clip.seen == 24
    source = make_source(str(root / "raw"), "train", resolution=SIDE)
    scores = read_scores(out)
    assert list(scores) == [source.key(index) for index in range(24)]
    for index, score in enumerate(scores.values()):
        light = float(np.floor(127.5 * (source[index]["image"] + 1) + 0.5).mean()) / 255
        good, bad = np.array([light, 1 - light]) / np.hypot(light, 1 - light)
        assert score == pytest.approx(expit(100 * (good - bad)), abs=1e-4)
    whole = out.read_bytes()
    out.write_bytes(b"key,score\n")  # interrupted before the first batch
    quality(str(root / "raw"), clip, out, resolution=SIDE)
    assert out.read_bytes() == whole
    clip.seen = 24
    out.write_bytes(whole[: len(whole) // 2])  # cut within a line
    quality(str(root / "raw"), clip, out, resolution=SIDE)
    assert out.read_bytes() == whole
    assert 24 + 10 < clip.seen < 24 + 15
    noted = grade(str(root / "out"), out, tmp_path / "annotations.npz", bad_share=0.5)
    values = np.array(list(scores.values()))
    assert values[noted.degraded].max() <= values[~noted.degraded].min()
    other = Bright()
    other.about = {"weights_sha256": "another"}
    with pytest.raises(ValueError, match="made otherwise"):
        quality(str(root / "raw"), other, out, resolution=SIDE)
    with pytest.raises(ValueError, match=r"ends in \.csv"):
        quality(str(root / "raw"), clip, tmp_path / "quality.txt", resolution=SIDE)


def test_a_clip_on_disk_scores_a_folder(folders, tmp_path, capsys):
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    save_clip(tmp_path)
    out = tmp_path / "quality.csv"
    command = ["quality", str(folders[0] / "raw"), "--resolution", str(SIDE), "--clip", str(tmp_path)]
    assert main([*command, "--out", str(out)]) == 0
    assert "24 images have their scores" in capsys.readouterr().out
    assert np.ptp(list(read_scores(out).values())) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name,score\na,1\n", "columns"),
        ("key,score\na,1\na,2\n", "line 3 .* key 'a' again"),
        ("key,score\na,good\n", "line 2 .* finite number"),
        ("key,score\na,nan\n", "line 2 .* finite number"),
        ("key,score\na\n", "line 2 .* finite number"),
        ("key,score\na,\0\n", "scores must be a CSV file|finite number"),
    ],
)
def test_bad_tables_of_scores_are_refused_by_line(tmp_path, text, message):
    (tmp_path / "scores.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_scores(tmp_path / "scores.csv")


def test_images_without_a_score_and_data_that_are_no_folder_are_refused(folders, tmp_path):
    root, scores = folders
    few = tmp_path / "few.csv"
    few.write_text("key,score\n" + "".join(f"{key},1\n" for key in list(scores)[:20]))
    with pytest.raises(ValueError, match="without 4 of 24 images"):
        grade(str(root / "out"), few, tmp_path / "a.npz")
    with pytest.raises(ValueError, match="data must be a folder"):
        grade("digits", few, tmp_path / "a.npz")
    for wrong, name in (({"bad_share": 1.0}, "bad_share"), ({"sigma_min": 0.0}, "sigma_min")):
        with pytest.raises(ValueError, match=name):
            grade(str(root / "out"), root / "scores.csv", tmp_path / "a.npz", **wrong)
    assert not list(tmp_path.glob("*.npz"))


def test_grades_are_written_over_but_nothing_else_is(folders, tmp_path):
    root, _ = folders
    mine, grades = tmp_path / "mine.npz", tmp_path / "grades.npz"
    np.savez(mine, images=np.zeros((2, 2)))
    before = mine.read_bytes()
    with pytest.raises(ValueError, match="out must be a new file"):
        grade(str(root / "out"), root / "scores.csv", mine)
    assert mine.read_bytes() == before
    for share in (0.5, 0.25):
        grade(str(root / "out"), root / "scores.csv", grades, bad_share=share)
        assert annotations.load(grades).about["config"]["bad_share"] == share
