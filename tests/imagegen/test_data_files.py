"""Sources of files: unreadable samples are replaced, counted and named; folders are known by what is in them."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.config import Config
from imagegen.data import directory, source
from imagegen.data.builtin import make_source
from imagegen.data.decode import Unreadable, decode_image
from imagegen.data.directory import from_directory
from imagegen.data.files import Files, FileSource, file_source
from imagegen.data.skips import Skips, left_out, together, told
from imagegen.data.source import ArraySource, Subset, check_source, read_batch
from imagegen.prepare import prepare
from imagegen.statistics import images_of
from imagegen.training_data import make_gates, training_source
from tests.imagegen.disk import (
    CLASSES,
    DAMAGED,
    encoded,
    pictures,
    shapes,
    spoil,
    write_folder,
    write_shard,
    write_shards,
)
from theory.paths import VPCosine

SIDE = 8
PICTURES = [encoded(pixels) for pixels in pictures(5)]


class Listed(Files):
    """Images in memory: `bad` ones are damaged or gone; `reads` counts."""

    def __init__(self, labels, bad=(), classes=3):
        self.class_names = tuple("abcdefgh"[:classes])
        self.labels, self.bad, self.left_out, self.reads = np.array(labels, np.int32), set(bad), (), []

    def key(self, index):
        return f"key-{index}"

    def read(self, index):
        self.reads.append(index)
        if index in self.bad:
            if index % 2:
                raise FileNotFoundError(f"no such file: {index}")
            return DAMAGED, {}
        return PICTURES[index % 5], {"caption": f"caption {index}"}


def listed(labels, bad=(), *, bad_share=1.0, rows=None):
    files = Listed(labels, bad)
    return FileSource("listed", files, np.arange(files.labels.size) if rows is None else rows, SIDE, bad_share)


@given(
    st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=20), st.randoms(use_true_random=False)
)
def test_an_unreadable_sample_is_replaced_by_the_next_readable_one_of_its_class(samples, random):
    """Whatever was read before."""
    labels, bad = [label for label, _ in samples], {k for k, (_, spoiled) in enumerate(samples) if spoiled}
    n, source = len(samples), listed(labels, bad)
    order = list(range(n))
    random.shuffle(order)
    for index in order:
        after = [(index + k) % n for k in range(n)]
        readable = [k for k in after if labels[k] == labels[index] and k not in bad]
        if not readable:
            with pytest.raises(ValueError, match=r"class '.' of 'listed' must be of at least one readable image"):
                source[index]
            continue
        record = source[index]
        assert record["caption"] == f"caption {readable[0]}"
        np.testing.assert_array_equal(record["image"], decode_image(PICTURES[readable[0] % 5], SIDE))
        assert (record["index"], record["label"]) == (index, labels[index])


def test_a_split_replaces_from_its_own_images_alone():
    source = listed([0] * 6, bad=[4], rows=np.array([0, 2, 4]))
    assert [source[k]["caption"] for k in range(3)] == ["caption 0", "caption 2", "caption 0"]
    check_source(source)


def test_each_unreadable_sample_is_read_and_counted_once():
    source = listed([0, 1] * 50, bad=[3, 10, 11])
    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(lambda k: read_batch(source, np.arange(100)), range(8)))
    for batch in batches:
        np.testing.assert_array_equal(batch["image"], batches[0]["image"])
    assert {index: key for index, (key, _) in source.skips.bad.items()} == {3: "key-3", 10: "key-10", 11: "key-11"}
    assert source.skips.bad[3][1] == "no such file: 3"
    assert "Error" in source.skips.bad[10][1]
    before = len(source.files.reads)
    source[10]
    assert source.files.reads[before:] == [12]


@pytest.mark.parametrize(("bad", "stops"), [(10, False), (12, True)])
def test_above_the_share_of_unreadable_images_reading_stops_and_says_so(bad, stops):
    source = listed([0] * 200, bad=range(bad), bad_share=0.05)
    for index in range(99):  # too few to judge
        source.sample(index)
    if stops:
        message = (
            r"'listed' must be readable but for a share of 0.05 \(bad_share\) .* got 12 of the 100 .*\(key-0: .*key-4"
        )
        with pytest.raises(ValueError, match=message):
            source.sample(99)
    else:
        for index in range(99, 200):
            source.sample(index)


def test_a_share_that_is_allowed_ends_nothing_by_chance_before_all_are_seen():
    # 3 % are bad, 5 % allowed: without room for chance every fifth order of the images would end a run
    rng = np.random.default_rng(0)
    for _ in range(30):
        skips, bad = Skips("listed", 2000, 0.05, ()), rng.permutation(2000) < 60
        for index in range(2000):
            skips.note(index, "key", "why") if bad[index] else skips.good(index)
    skips = Skips("listed", 1000, 0.05, ())
    for index in range(999):
        skips.note(index, "key", "why") if index >= 949 else skips.good(index)
    with pytest.raises(ValueError, match="got 51 of the 1000 seen so far"):  # all are seen: no room for chance
        skips.note(999, "key", "why")


def test_a_small_set_is_judged_as_a_whole():
    source = listed([0] * 10, bad=[0], bad_share=0.05)
    for index in range(9):
        source.sample(index)
    with pytest.raises(ValueError, match="got 1 of the 10 seen so far"):
        source.sample(9)


def test_what_is_skipped_is_kept_in_a_file_over_interruptions(tmp_path):
    file, listing = tmp_path / "skipped.jsonl", left_out([("x", "dead"), ("y", "dead"), ("z", "cut")])
    first = Skips("s", 10, 1.0, listing)
    first.note(3, "three", "damaged")
    first.record(file)
    first.note(4, "four", "gone")
    file.write_text(file.read_text() + '{"key": "tor')  # killed here
    second = Skips("s", 10, 1.0, listing)
    second.note(4, "four", "gone")
    second.note(5, "five", "gone")
    second.record(file)
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    assert lines[:2] == [
        {"why": "dead", "count": 2, "first": ["x", "y"]}, {"why": "cut", "count": 1, "first": ["z"]},
    ]  # fmt: skip
    assert {line["key"] for line in lines[2:]} == {"three", "four", "five"}
    assert len(lines) == 5
    assert told(tmp_path) == (
        "Left out of the data: dead (2), cut (1). Unreadable images, replaced by others of their class: 3. "
        "See skipped.jsonl."
    )
    assert told(tmp_path / "elsewhere") == ""


def test_reasons_are_counted_together():
    parts = [*left_out([("a", "dead")] * 7), *left_out([("b", "cut"), ("c", "dead")])]
    assert [(part.why, part.count) for part in together(parts)] == [("dead", 8), ("cut", 1)]
    assert str(together(parts)[0]) == "8 x dead (a, a, a, a, a, ...)"


# --- folders, by what is in them


def test_a_folder_with_splits_is_read_as_it_is_split(tmp_path):
    root = write_folder(tmp_path / "imagenet", per_class=4)
    for split, folder in (("train", "train"), ("test", "val")):
        source = from_directory(root, split, SIDE)
        assert (source.name, source.shape, source.class_names, len(source)) == (
            "imagenet",
            (SIDE,) * 2 + (3,),
            CLASSES,
            12,
        )
        assert {source.key(k) for k in range(12)} == {
            str(path.relative_to(root / folder)) for path in (root / folder).rglob("*.JPEG")
        }
        check_source(source)


@pytest.mark.parametrize("name", ["val", "test"])
def test_a_flat_held_out_folder_is_refused_for_either_split_and_it_says_what_to_do(tmp_path, name):
    """As ImageNet's archives of val and test unpack."""
    root = write_folder(tmp_path / "imagenet", per_class=5, splits=("train",))
    flat = root / name
    flat.mkdir()
    (flat / "ILSVRC2012_val_00000001.JPEG").write_bytes(PICTURES[0])
    message = rf"imagenet/{name}' must be .* one folder of images per class, .* sort its images .*, or rename it"
    for split in ("train", "test"):
        with pytest.raises(ValueError, match=message):
            from_directory(root, split, SIDE)
    with pytest.raises(ValueError, match=message):
        prepare(root, tmp_path / "out", resolution=SIDE)
    assert not (tmp_path / "out").exists()
    flat.rename(root / "flat")
    assert len(from_directory(root, "test", SIDE)) == 3


@pytest.mark.parametrize(
    "write", [lambda root: write_folder(root, 10, splits=()), lambda root: write_shards(root, n=30)]
)
def test_without_splits_the_same_fifth_is_held_out(tmp_path, write, monkeypatch):
    root = write(tmp_path / "data")
    train, test = (from_directory(root, split, SIDE) for split in ("train", "test"))
    keys = [{source.key(k) for k in range(len(source))} for source in (train, test)]
    assert (len(keys[0]), len(keys[1])) == (24, 6)
    assert not keys[0] & keys[1]
    assert np.ptp(np.bincount(test.labels)) == 0
    monkeypatch.setattr(directory, "MOST_HELD_OUT", 3)
    assert len(from_directory(root, "test", SIDE)) == 3


def test_captions_come_with_their_images(tmp_path):
    root = write_shards(tmp_path / "cc3m", n=20)
    source = make_source(str(root), resolution=SIDE)
    batch = read_batch(source, np.arange(len(source)))
    for k in range(len(source)):
        content, fields = source.files.read(int(source.rows[k]))
        np.testing.assert_array_equal(batch["image"][k], decode_image(content, SIDE))
        assert batch["caption"][k] == fields["caption"]
    assert len(set(batch["caption"])) > 10


@pytest.mark.parametrize(("prepare", "message"), [
    (lambda root: None, "got an empty folder"),
    (lambda root: (root / "a.jpg").touch(), r"got 0 folders, 1 images and 0 other files \(a.jpg\)"),
    (lambda root: (root / "train").mkdir(), "got an empty folder"),
    (lambda root: (root / "class").mkdir(), "got no image in any"),
    (lambda root: (root / "a.tar").touch(), "damaged or truncated shard"),
])  # fmt: skip
def test_other_folders_are_refused_and_it_says_what_was_found(tmp_path, prepare, message):
    prepare(tmp_path)
    with pytest.raises(ValueError, match=message):
        make_source(str(tmp_path), resolution=SIDE)


@pytest.mark.parametrize(("name", "options", "message"), [
    (".", {}, "resolution must be the side of the images in pixels, .*; got 0"),
    ("digits", {"resolution": 8}, r"resolution must be 0 \(left out\) for 'digits'"),
    ("nowhere/at-all", {}, "data must be one of 'digits', .* or that of a folder; got 'nowhere/at-all'"),
    (".", {"split": "val", "resolution": 8}, "split must be one of 'train', 'test'"),
])  # fmt: skip
def test_what_contradicts_the_data_is_refused(name, options, message):
    with pytest.raises(ValueError, match=message):
        make_source(name, **options)


# --- training on many images reads few


@pytest.fixture
def many(monkeypatch):
    """10^5 images by a config's `data`, most of them never read."""
    files = Listed(np.arange(10**5) % 3)
    big = FileSource("many", files, np.arange(10**5), SIDE)
    monkeypatch.setattr("imagegen.training_data.make_source", lambda *given, **options: big)
    return files


def test_of_a_large_folder_only_some_images_are_read_before_training(many, monkeypatch):
    monkeypatch.setattr("imagegen.statistics.LARGEST", 100)
    blurred = Config(degradation="blur", degraded_share=0.5, train_on="gated", sigma_min=0.5)
    found = training_source(blurred)
    assert file_source(found).files is many
    gates = make_gates(blurred, found, VPCosine())
    assert np.mean(gates["t_n"] > 0) == 0.5
    assert images_of(found, 100).shape == (100, SIDE, SIDE, 3)
    assert len(many.reads) <= 101
    clean = training_source(Config(degradation="blur", degraded_share=0.5, train_on="clean"))
    assert isinstance(clean, Subset)
    assert len(clean) == 50_000
    record = clean[1234]
    assert (record["index"], bool(record["degraded"])) == (1234, False)
    assert record["label"] == clean.labels[1234] == clean.indices[1234] % 3


def test_of_large_images_fewer_are_read(many, monkeypatch):
    monkeypatch.setattr("imagegen.statistics.NUMBERS", 10 * SIDE * SIDE * 3 + 1)
    assert len(images_of(training_source(Config()))) == 10


def test_what_must_be_in_memory_refuses_a_large_folder(many, monkeypatch):
    from imagegen.features import read_all

    monkeypatch.setattr("imagegen.features.WHOLE", 10**7)
    with pytest.raises(ValueError, match=r"100000 images of shape \(8, 8, 3\)"):
        read_all(training_source(Config()))
    assert many.reads == []


def test_a_reference_is_some_of_a_folder(tmp_path, monkeypatch):
    from imagegen import evaluate

    root = write_folder(tmp_path / "imagenet", per_class=10)
    monkeypatch.setattr(evaluate, "REFERENCE", 9)
    train, test = evaluate.reference_images(Config(data=str(root), resolution=SIDE))
    for found in (train, test):
        assert isinstance(found, ArraySource)
        np.testing.assert_array_equal(np.bincount(found.labels), [3, 3, 3])
    monkeypatch.setattr(source, "NUMBERS", 6 * SIDE * SIDE * 3)
    assert len(evaluate.reference_images(Config(data=str(root), resolution=SIDE))[0]) == 6


def test_spoiled_shards_are_read_without_any_error(tmp_path):
    root = write_shards(tmp_path / "cc3m", n=60)
    whole, undecodable = spoil(root)
    found = from_directory(root, "train", SIDE, 0.1)
    batch = read_batch(found, np.arange(len(found)))
    assert np.isfinite(batch["image"]).all()
    held_out = from_directory(root, "test", SIDE, 0.5)
    read_batch(held_out, np.arange(len(held_out)))
    assert len(found) + len(held_out) == len(whole)
    noted = [*found.skips.bad.values(), *held_out.skips.bad.values()]
    assert [key for key, _ in noted] == undecodable


@pytest.mark.parametrize(("share", "refused"), [(0.1, True), (0.2, False), (0.0, True), (1.0, False)])
def test_more_left_out_by_the_listing_than_the_share_stops_at_the_start(tmp_path, share, refused):
    """Of 20 samples, 4 without caption: a fifth."""
    root, samples = tmp_path / "cc3m", dict(shapes(20))
    for key in list(samples)[:4]:
        del samples[key]["txt"]
    write_shard(root / "train/00000.tar", samples.items())
    write_shard(root / "val/00000.tar", list(shapes(5)))
    if not refused:
        assert len(from_directory(root, "train", SIDE, share)) == 16
        return
    message = rf"data '.*train' must be whole samples but for a share of {share:g} .*; got 4 of 20 that are not: "
    for split in ("train", "test"):  # whichever is read first
        with pytest.raises(ValueError, match=f"{message}4 x an image without caption .00000/000000000, "):
            from_directory(root, split, SIDE, share)


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_that_is_none_is_refused_at_the_start(tmp_path, share):
    with pytest.raises(ValueError, match=r"bad_share must be in \[0, 1\]"):
        from_directory(write_folder(tmp_path, per_class=2), "train", SIDE, share)


def test_prepared_data_are_not_stopped_for_what_was_left_out_before(tmp_path):
    root, samples = tmp_path / "cc3m", dict(shapes(20))
    del samples["000000003"]["jpg"]
    write_shard(root / "00000.tar", samples.items())
    prepare(root, tmp_path / "out", resolution=SIDE, bad_share=0.05)
    found = from_directory(tmp_path / "out", "train", 0, 0.0)
    assert sum(part.count for part in found.files.left_out) == 1


def test_unreadable_is_no_error_of_input():
    """So that nothing takes it for a mistake in what was asked."""
    assert not issubclass(Unreadable, ValueError)
