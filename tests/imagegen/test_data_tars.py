"""Tar shards: an index that finds what reading the whole archive finds; damage is left out, by name and reason."""

import json
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.data import tars as module
from imagegen.data.decode import Unreadable
from imagegen.data.tars import TarShards
from tests.imagegen.disk import read_shard, shapes, spoil, write_shard, write_shards

SAMPLES = dict(shapes(6))


def found(files):
    return {files.key(k): (files.read(k)[0], files.read(k)[1]["caption"]) for k in range(files.labels.size)}


def extracted(*shards):
    """By the whole archive."""
    return {
        f"{shard.stem}/{key}": (parts["jpg"], parts["txt"].decode())
        for shard in shards
        for key, parts in read_shard(shard).items()
        if "jpg" in parts and parts.get("txt")
    }


def reasons(files):
    return {part.why: part.count for part in files.left_out}


@given(
    st.lists(st.sets(st.sampled_from(["jpg", "txt", "json"])), min_size=6, max_size=6),
    st.randoms(use_true_random=False),
)
def test_the_index_finds_what_reading_the_archive_finds(tmp_path_factory, kept, random):
    """Members of several keys in any order, some of them missing."""
    root = tmp_path_factory.mktemp("shards")
    members = [
        (key, {ending: parts[ending]})
        for (key, parts), endings in zip(SAMPLES.items(), kept, strict=True)
        for ending in sorted(endings)
    ]
    random.shuffle(members)
    shard = write_shard(root / "00000.tar", [*members, ("last", SAMPLES["000000000"])])
    files = TarShards(root)
    assert found(files) == extracted(shard)
    dead = sum(bool(endings) and "jpg" not in endings for endings in kept)
    bare = sum("jpg" in endings and "txt" not in endings for endings in kept)
    counts = reasons(files)
    assert counts.get("a caption or data without image (dead key)", 0) == dead
    assert counts.get("an image without caption", 0) == bare
    assert (files.class_names, set(files.labels)) == (("image",), {0})


@given(st.floats(0.3, 1.0))
def test_of_a_shard_cut_off_anywhere_the_whole_samples_are_left(tmp_path_factory, share):
    root = tmp_path_factory.mktemp("shards")
    shard = write_shard(root / "00000.tar", SAMPLES.items())
    everything = extracted(shard)
    with tarfile.open(shard) as archive:
        ends = {}
        for member in archive:
            ends.setdefault(f"00000/{member.name[:9]}", {})[member.name[10:]] = member.offset_data + member.size
        end = archive.offset
    cut = int(share * end)
    with shard.open("r+b") as file:
        file.truncate(cut)
    whole = [key for key, parts in ends.items() if max(parts["jpg"], parts["txt"]) <= cut]
    assert whole, "the first sample lies in the first 30 %"
    files = TarShards(root)
    left = found(files)
    assert left == {key: everything[key] for key in left}
    # one whose JSON alone is cut off is left out too
    assert set(whole) - set(left) <= {key for key in whole if cut < ends[key]["json"]}
    assert any("truncated shard" in why for why in reasons(files))


def test_a_damaged_header_is_noticed_and_what_came_before_is_kept(tmp_path):
    shard = write_shard(tmp_path / "00000.tar", SAMPLES.items())
    everything = extracted(shard)
    with tarfile.open(shard) as archive:
        place = archive.getmember("000000003.jpg").offset
    with shard.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 512)
    files = TarShards(tmp_path)
    assert found(files) == {key: everything[key] for key in list(everything)[:3]}
    assert reasons(files) == {"a damaged or truncated shard (no end of archive)": 1}


def test_what_img2dataset_leaves_behind_is_counted(tmp_path):
    root = write_shards(tmp_path / "cc3m", n=40, per_shard=10)
    whole, undecodable = spoil(root)
    (root / "00000_stats.json").write_text("{}")
    (root / "00004.tar").write_bytes(b"not a tar file")
    files = TarShards(root)
    assert [files.key(k) for k in range(files.labels.size)] == whole
    assert undecodable[0] in whole  # only decoding tells
    counts = reasons(files)
    assert counts["an image without caption"] == 2
    assert counts["a caption or data without image (dead key)"] == 1
    assert counts["cut off by the end of the shard"] == 1
    damaged = {part.why: part.first for part in files.left_out if "damaged" in part.why}
    assert sorted(key for first in damaged.values() for key in first) == ["00003", "00004"]


def test_a_shard_is_scanned_once_and_anew_after_a_change(tmp_path, monkeypatch):
    root, scanned, scan = write_shards(tmp_path, n=12, per_shard=4), [], module._scan
    monkeypatch.setattr(module, "_scan", lambda shard: scanned.append(shard.name) or scan(shard))
    for _ in range(2):
        assert found(TarShards(root)) == extracted(*sorted(root.glob("*.tar")))
    assert scanned == ["00000.tar", "00001.tar", "00002.tar"]
    assert sorted(path.name for path in root.iterdir()) == scanned  # nothing is written beside the data
    write_shard(root / "00001.tar", list(SAMPLES.items())[:2])
    assert found(TarShards(root)) == extracted(*sorted(root.glob("*.tar")))
    assert scanned[3:] == ["00001.tar"]


def test_labels_are_the_classes_in_the_order_of_their_numbers(tmp_path):
    samples = dict(shapes(16, label=True))
    files = TarShards(write_shard(tmp_path / "a/0.tar", samples.items()).parent)
    assert files.class_names == tuple(map(str, range(16)))  # 10 after 9
    expected = [json.loads(samples[files.key(k).partition("/")[2]]["json"])["label"] for k in range(16)]
    np.testing.assert_array_equal(files.labels, expected)
    samples["000000002"]["json"] = b"{"
    files = TarShards(write_shard(tmp_path / "b/0.tar", samples.items()).parent)
    assert reasons(files) == {"no label, where others have one": 1}
    assert files.labels.size == 15
    with pytest.raises(ValueError, match=r"must be of the 2 classes known; got \['10', '11', '12'\]"):
        TarShards(tmp_path / "a", ("0", "1"))


@pytest.mark.parametrize("most", [0, 1, 512])
def test_however_many_shards_are_kept_open_all_are_read(tmp_path, monkeypatch, most):
    monkeypatch.setattr(module, "OPEN", most)
    root = write_shards(tmp_path, n=12, per_shard=3)
    files = TarShards(root)
    assert found(files) == extracted(*sorted(root.glob("*.tar")))
    assert len(files._open) == min(most, 4)


def test_a_shard_that_shrank_meanwhile_is_unreadable_there(tmp_path):
    root = write_shards(tmp_path, n=4, per_shard=4)
    files = TarShards(root)
    with (root / "00000.tar").open("r+b") as file:
        file.truncate(3000)
    files.read(0)
    with pytest.raises(Unreadable, match="the shard ends within it"):
        files.read(3)


def test_shards_without_any_sample_are_refused_and_it_says_why(tmp_path):
    write_shard(tmp_path / "00000.tar", [("a", {"jpg": b"x"}), ("b", {"txt": b"y"})])
    with pytest.raises(ValueError, match=r"1 x an image without caption \(00000/a\); 1 x a caption or data without"):
        TarShards(tmp_path)
