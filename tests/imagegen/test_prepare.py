"""Prepared data: what the files hold, byte for byte the same however often it stopped; trained on as raw images are."""

import hashlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from imagegen import prepare as module
from imagegen.__main__ import main
from imagegen.config import Config
from imagegen.data.builtin import make_source
from imagegen.data.decode import Unreadable
from imagegen.data.records import pack, unpack
from imagegen.data.source import check_source
from imagegen.prepare import prepare
from imagegen.run import read_lines
from imagegen.training import train
from tests.imagegen.disk import CLASSES, DAMAGED, read_shard, spoil, write_folder, write_shard, write_shards
from theory._files import locked, written_whole

SIDE = 16


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    root = write_shards(tmp_path_factory.mktemp("raw") / "cc3m", n=80, per_shard=20, label=True)
    spoil(root)
    return root


@pytest.fixture(scope="module")
def prepared(raw, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, prepare(raw, out, resolution=SIDE, per_shard=16, threads=1, bad_share=0.5)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("split", ["train", "test"])
def test_prepared_samples_are_those_of_the_files_without_the_unreadable(raw, prepared, split):
    out, manifest = prepared
    found, expected = make_source(str(out), split), make_source(str(raw), split, resolution=SIDE, bad_share=0.5)
    check_source(found)
    assert (found.shape, found.class_names) == (expected.shape, expected.class_names)
    good = [k for k in range(len(expected)) if expected.sample(k) is not None]
    assert len(found) == len(good) == manifest["splits"][split]["count"]
    for place, index in enumerate(good):
        assert found.key(place) == expected.key(index)
        record, other = found[place], expected[index]
        assert (record["caption"], record["label"]) == (other["caption"], other["label"])
        np.testing.assert_array_equal(record["image"], other["image"])
    assert manifest["splits"][split]["skipped"] == [list(bad) for bad in expected.skips.bad.values()]
    left = {part.why: part.count for part in expected.files.left_out}
    assert {why: count for why, count, _ in manifest["splits"][split]["left_out"]} == left
    assert len(left) >= 4


def test_the_manifest_says_what_was_stored(prepared):
    out, manifest = prepared
    assert json.loads((out / "manifest.json").read_text()) == json.loads(json.dumps(manifest))
    assert (manifest["resolution"], manifest["content"]) == (SIDE, "png")
    files = [shard for split in manifest["splits"].values() for shard in split["shards"]]
    assert [len(manifest["splits"][split]["shards"]) for split in ("train", "test")] == [4, 1]
    for shard in files:
        content = (out / shard["file"]).read_bytes()
        assert (len(content), hashlib.sha256(content).hexdigest()) == (shard["bytes"], shard["sha256"])
    assert sum(len(split["skipped"]) for split in manifest["splits"].values()) == 1


@pytest.mark.parametrize("threads", [1, 2])
def test_an_interrupted_preparation_goes_on_and_ends_the_same(raw, prepared, tmp_path, monkeypatch, threads):
    finish, finished = module._finish, []

    def interrupted(shard, *given):
        if len(finished) == 3:
            raise KeyboardInterrupt
        finished.append(shard.file.name)
        finish(shard, *given)

    monkeypatch.setattr(module, "_finish", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(raw, tmp_path / "out", resolution=SIDE, per_shard=16, threads=threads, bad_share=0.5)
    assert not (tmp_path / "out/manifest.json").exists()
    kept = {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in finished}
    monkeypatch.setattr(module, "_finish", finish)
    prepare(raw, tmp_path / "out", resolution=SIDE, per_shard=16, threads=threads, bad_share=0.5)
    assert contents(tmp_path / "out") == contents(prepared[0])
    assert {name: (tmp_path / "out" / name).stat().st_mtime_ns for name in finished} == kept


class Means:
    """Stores the mean colour of each image: another encoder."""

    content = "means"
    batches = ()

    def about(self, side):
        return {}

    def __call__(self, images):
        self.batches = (*self.batches, len(images))
        return [image.mean((0, 1)).tobytes() for image in images]


def test_an_encoder_is_given_batches_and_its_contents_are_stored(tmp_path, monkeypatch):
    import grain

    monkeypatch.setattr(module, "BATCH", 8)
    root, encoder = write_folder(tmp_path / "raw", per_class=10, splits=()), Means()
    manifest = prepare(root, tmp_path / "out", resolution=SIDE, encoder=encoder, threads=1)
    assert encoder.batches == (8, 8, 8, 6)
    assert manifest["content"] == "means"
    source = make_source(str(root), resolution=SIDE)
    records = grain.sources.ArrayRecordDataSource([str(tmp_path / "out/train-00000.arrayrecord")])
    for k in (0, 11, 23):
        header, content = unpack(records[k])
        assert header == {"key": source.key(k), "label": int(source.labels[k])}
        np.testing.assert_array_equal(np.frombuffer(content, np.float32), source[k]["image"].mean((0, 1)))
    with pytest.raises(ValueError, match=r"content of '.*' must be one of 'png', 'latents'; got 'means'"):
        make_source(str(tmp_path / "out"))


def test_what_cannot_be_prepared_is_refused(raw, prepared, tmp_path):
    out, _ = prepared
    before = contents(out)
    with pytest.raises(ValueError, match=r"what is prepared in .* must be the same; .* got resolution 8 \(there 16\)"):
        prepare(raw, out, resolution=8, per_shard=16, bad_share=0.5)
    with pytest.raises(ValueError, match="which is prepared already"):
        prepare(out, tmp_path / "again", resolution=8)
    there = sorted(raw.iterdir())
    with pytest.raises(ValueError, match="which holds other files"):
        prepare(raw, raw, resolution=8, bad_share=0.5)
    assert sorted(raw.iterdir()) == there
    with pytest.raises(ValueError, match=r"resolution must be 16, as '.*' was prepared, or left out; got 8"):
        make_source(str(out), resolution=8)
    assert contents(out) == before
    for wrong in ({"threads": 0}, {"per_shard": 0}):
        with pytest.raises(ValueError, match="must be at least 1; got 0"):
            prepare(raw, tmp_path / "new", resolution=8, **wrong)


def test_too_many_unreadable_images_end_the_preparation(tmp_path):
    root = write_folder(tmp_path / "raw", per_class=10, splits=())
    for k in range(4):
        (root / CLASSES[1] / f"{CLASSES[1]}_{k}.JPEG").write_bytes(DAMAGED)
    with pytest.raises(ValueError, match=r"readable but for a share of 0.05 .* got \d of the .* seen so far"):
        prepare(root, tmp_path / "out", resolution=SIDE)
    assert not (tmp_path / "out/manifest.json").exists()


@pytest.mark.parametrize("damage", ["short", "gone", "bytes", "manifest"])
def test_damaged_shards_are_refused_and_damaged_records_replaced(tmp_path, damage):
    root = write_folder(tmp_path / "raw", per_class=40, splits=(), classes=CLASSES[:1])
    prepare(root, tmp_path / "out", resolution=SIDE)
    file = tmp_path / "out/train-00000.arrayrecord"
    content = file.read_bytes()
    if damage == "short":
        file.write_bytes(content[:-1])
    elif damage == "gone":
        file.unlink()
    elif damage == "manifest":
        (tmp_path / "out/manifest.json").write_text("{}")
    else:
        file.write_bytes(content[:5000] + bytes(1000) + content[6000:])
    if damage != "bytes":
        message = "must be what `prepare` wrote" if damage == "manifest" else "bytes, as when it was prepared"
        with pytest.raises(ValueError, match=message):
            make_source(str(tmp_path / "out"))
        return
    source, whole = make_source(str(tmp_path / "out"), bad_share=0.5), make_source(str(root), resolution=SIDE)
    read = [source.sample(k) for k in range(len(source))]
    bad = [k for k, found in enumerate(read) if found is None]
    assert 1 <= len(bad) <= 5
    for k, found in enumerate(read):
        if found is not None:
            np.testing.assert_array_equal(found[0], whole[k]["image"])
    assert source[bad[0]]["index"] == bad[0]


@pytest.mark.parametrize("damage", ["absent", "cut", "another", "shorter"])
def test_a_shard_without_its_listing_is_refused_by_name_and_prepared_anew_alone(raw, prepared, tmp_path, damage):
    out = shutil.copytree(prepared[0], tmp_path / "out")
    listing = out / "train-00001.json"
    content = json.loads(listing.read_text())
    if damage == "absent":
        listing.unlink()
    elif damage == "cut":
        listing.write_text(listing.read_text()[:-9])
    elif damage == "another":
        listing.write_text("[]")
    else:
        listing.write_text(json.dumps(content | {"keys": content["keys"][1:]}))
    with pytest.raises(ValueError, match=r"train-00001\.json' must be what `prepare` wrote; the same `prepare`"):
        make_source(str(out))
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.arrayrecord")}
    prepare(raw, out, resolution=SIDE, per_shard=16, threads=1, bad_share=0.5)
    after = {file.name: file.stat().st_mtime_ns for file in out.glob("*.arrayrecord")}
    assert [name for name in before if before[name] != after[name]] == ["train-00001.arrayrecord"]
    assert contents(out) == contents(prepared[0])


def test_a_listing_of_another_length_than_in_the_manifest_is_refused(prepared, tmp_path):
    out = shutil.copytree(prepared[0], tmp_path / "out")
    listing = out / "test-00000.json"
    content = json.loads(listing.read_text())
    listing.write_text(json.dumps(content | {name: content[name][1:] for name in ("keys", "labels")}))
    count = len(content["keys"])
    with pytest.raises(ValueError, match=rf"must be a list of {count}, as in manifest.json; got {count - 1} keys"):
        make_source(str(out), "test")
    make_source(str(out), "train")


HOLD = """
import sys
from pathlib import Path
from theory._files import locked
with locked("out", Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_preparation_in_the_same_folder_is_refused_until_the_first_has_ended(raw, prepared, tmp_path):
    """However it ended: the lock goes with the process, the file stays."""
    out = shutil.copytree(prepared[0], tmp_path / "out")
    (out / "train-00000.json").unlink()  # the first one is about to write it
    command = [sys.executable, "-c", HOLD, str(out / module.LOCKED)]
    root = str(Path(module.__file__).parents[1])
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as other:
        assert other.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=r"out must be a folder that no other process is writing to; got .*out,"):
            prepare(raw, out, resolution=SIDE, per_shard=16, bad_share=0.5)
        assert not (out / "train-00000.json").exists()
        other.kill()
    assert (out / module.LOCKED).exists()
    prepare(raw, out, resolution=SIDE, per_shard=16, bad_share=0.5)
    assert contents(out) == contents(prepared[0])


def test_a_file_is_left_as_it_was_by_a_block_that_ends_early(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"before")
    with pytest.raises(TypeError), written_whole(file) as stream:
        stream.writelines([b"half", None])
    assert file.read_bytes() == b"before"
    with written_whole(file) as stream:
        stream.write(b"after")
    assert file.read_bytes() == b"after"
    assert list(tmp_path.iterdir()) == [file]


def test_a_lock_is_free_again_after_an_error(tmp_path):
    with pytest.raises(RuntimeError), locked("out", tmp_path / "lock"):
        raise RuntimeError
    with locked("out", tmp_path / "lock"), pytest.raises(ValueError, match="out must be a folder that no other"):
        locked("out", tmp_path / "lock").__enter__()


@pytest.mark.parametrize("record", [b"", b"\x05\0\0\0{}", pack({}, b"")[:4]])
def test_bytes_that_are_no_record_are_unreadable(record):
    with pytest.raises(Unreadable):
        unpack(record)


# --- the documented commands

QUICK = {"network": "small", "steps": 4, "warmup": 1, "batch": 8, "log_every": 2, "checkpoint_every": 2,
         "samples_every": 0}  # fmt: skip


def options(**fields):
    return [text for name, value in fields.items() for text in (f"--{name.replace('_', '-')}", str(value))]


def trained(run, **fields):
    train(Config(**QUICK, **fields), run, jax.devices()[:1])
    return read_lines(run / "metrics.jsonl")


@pytest.mark.slow
def test_prepared_images_train_to_the_same_numbers_as_raw_ones(tmp_path, small_network, capsys):
    raw, out = write_folder(tmp_path / "raw", per_class=10), tmp_path / "out"
    assert main(["prepare", str(raw), *options(resolution=SIDE, out=out)]) == 0
    assert "train: 30 images in 1 shards\ntest: 30 images in 1 shards\n" in capsys.readouterr().out
    lines = trained(tmp_path / "a", data=str(raw), resolution=SIDE)
    assert trained(tmp_path / "b", data=str(out)) == lines
    assert lines[-1]["step"] == 4


@pytest.fixture(scope="module")
def spoiled(raw, tmp_path_factory, small_network):
    """A run on shards with images that cannot be decoded, its data, and its metrics."""
    root, run = shutil.copytree(raw, tmp_path_factory.mktemp("spoiled") / "cc3m"), tmp_path_factory.mktemp("run")
    samples = read_shard(root / "00001.tar")
    for key in list(samples)[:3]:
        samples[key]["jpg"] = DAMAGED
    write_shard(root / "00001.tar", samples.items())
    data = {"data": str(root), "resolution": SIDE, "bad_share": 0.2}
    return run, data, trained(run, **data)


@pytest.mark.slow
def test_spoiled_shards_train_and_the_page_says_what_was_skipped(spoiled):
    run, data, lines = spoiled
    assert lines[-1]["step"] == 4
    source = make_source(data["data"], resolution=SIDE, bad_share=0.2)
    for k in range(len(source)):
        source.sample(k)
    assert len(source.skips.bad) >= 2
    noted = read_lines(run / "skipped.jsonl")
    assert {line["key"] for line in noted if "key" in line} == {key for key, _ in source.skips.bad.values()}
    counts = {part.why: part.count for part in source.files.left_out}
    assert {line["why"]: line["count"] for line in noted if "count" in line} == counts
    page = (run / "summary.md").read_text()
    assert "an image without caption (2), a caption or data without image (dead key) (1)" in page
    assert f"Unreadable images, replaced by others of their class: {len(source.skips.bad)}." in page


@pytest.mark.slow
def test_a_run_on_spoiled_shards_goes_on_with_the_same_numbers(spoiled, tmp_path):
    run, data, lines = spoiled
    again = shutil.copytree(run, tmp_path / "again")
    shutil.rmtree(again / "checkpoints/4")  # as if it had stopped before: what came after step 2 is done again
    assert trained(again, **data) == lines
    assert read_lines(again / "skipped.jsonl") == read_lines(run / "skipped.jsonl")


@pytest.mark.slow
@pytest.mark.parametrize("first_prepared", [False, True], ids=["raw", "prepared"])
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_spoiled_data_train_by_the_documented_commands(kind, first_prepared, tmp_path, small_network, capsys):
    """A class-folder with an undecodable image and a text file; captions in shards as `spoil` leaves them."""
    if kind == "folder":
        data = write_folder(tmp_path / "raw", per_class=10)
        (data / "train" / CLASSES[1] / f"{CLASSES[1]}_3.JPEG").write_bytes(DAMAGED)
        (data / "train" / CLASSES[2] / "notes.txt").write_text("of the photographer")
        command, expected = ["train", "digits"], ("no image by its name (1)",)
    else:
        data = write_shards(tmp_path / "raw", n=80, per_shard=20)
        spoil(data)
        command = ["train", "shapes-text", *options(text_encoder="small", text_length=8)]
        expected = ("an image without caption (2)", "(dead key) (1)", "truncated")
    crop = options(resolution=SIDE, bad_share=0.2)
    if first_prepared:
        assert main(["prepare", str(data), *crop, *options(out=tmp_path / "out")]) == 0
        assert "1 unreadable" in capsys.readouterr().out
        data, crop = tmp_path / "out", []
    assert main([*command, *options(data=data, **QUICK, out=tmp_path / "run"), *crop]) == 0
    said = capsys.readouterr().out
    page = (tmp_path / "run" / "summary.md").read_text()
    assert all(part in text for part in expected for text in (said, page))
    assert read_lines(tmp_path / "run" / "metrics.jsonl")[-1]["step"] == 4
    assert main(["sample", str(tmp_path / "run"), *options(number=4, steps=2)]) == 0


def test_too_many_unreadable_images_stop_a_run_with_one_line(tmp_path, small_network, capsys):
    root = write_folder(tmp_path / "raw", per_class=10)
    for k in range(4):
        (root / "train" / CLASSES[1] / f"{CLASSES[1]}_{k}.JPEG").write_bytes(DAMAGED)
    run = options(data=root, resolution=SIDE, **QUICK, out=tmp_path / "run")
    assert main(["train", "digits", *run]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "readable but for a share of 0.05 (bad_share)" in line
    assert f"{CLASSES[1]}/{CLASSES[1]}_0.JPEG: OSError" in line or "UnidentifiedImageError" in line
