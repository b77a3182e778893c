"""Disks that are away: waited for, never taken for unreadable samples; if they stay away, a command can be repeated."""

import errno
import os

import numpy as np
import pytest

from imagegen.__main__ import main
from imagegen.data import patience, records, tars
from imagegen.data.directory import from_directory
from imagegen.data.files import Files, FileSource
from imagegen.data.folder import ImageFolder
from imagegen.data.patience import DataAway, Patience, is_away
from imagegen.prepare import prepare
from tests.imagegen.disk import CLASSES, encoded, pictures, write_folder, write_shards

SIDE, N = 8, 12
PICTURES = [encoded(pixels) for pixels in pictures(N)]


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """What would have been waited."""
    slept = []
    monkeypatch.setattr(patience.time, "sleep", slept.append)
    return slept


class OnDisk(Files):
    """Images on a disk that fails by `fails(index, reads so far)`, which returns an error or None."""

    class_names, left_out = ("a", "b"), ()

    def __init__(self, fails):
        self.labels, self.fails, self.reads = np.arange(N, dtype=np.int32) % 2, fails, []

    def key(self, index):
        return f"key-{index}"

    def read(self, index):
        self.reads.append(index)
        error = self.fails(index, len(self.reads))
        if error is not None:
            raise error
        return PICTURES[index], {"caption": str(index)}


def on_disk(fails):
    return FileSource("far", OnDisk(fails), np.arange(N), SIDE, 0.0)


@pytest.mark.parametrize(
    "number", [errno.ESTALE, errno.ETIMEDOUT, errno.EIO, errno.ENOTCONN, errno.EHOSTUNREACH, errno.EMFILE]
)
def test_after_an_outage_the_sample_is_read_and_nothing_is_skipped(number, pauses, capsys):
    source = on_disk(lambda index, reads: OSError(number, os.strerror(number)) if reads <= 4 else None)
    assert source[3]["caption"] == "3"
    assert source.files.reads == [3] * 5
    assert not source.skips.bad
    assert pauses == sorted(pauses) == list(patience.PAUSES[:4])
    assert capsys.readouterr().err.count("warning: 'far' cannot be read") == 1  # the others came in its pause


def test_a_disk_that_stays_away_ends_the_reading_without_a_skip(pauses):
    source = on_disk(lambda index, reads: OSError(errno.ESTALE, "Stale file handle") if reads > 1 else None)
    assert source[0]["caption"] == "0"
    with pytest.raises(DataAway, match=r"'far' stayed away for 291 s \(.*Stale file handle\)"):
        source[3]
    with pytest.raises(DataAway):
        source.fields(3)
    assert not source.skips.bad
    assert sum(pauses) == 2 * sum(patience.PAUSES)
    assert sum(patience.PAUSES) > 240
    assert not issubclass(DataAway, (OSError, ValueError))


def test_a_file_that_fails_alone_is_skipped_though_its_error_is_the_disks():
    files = OnDisk(lambda index, reads: OSError(errno.EIO, "Input/output error") if index == 3 else None)
    source = FileSource("far", files, np.arange(N), SIDE, 0.5)
    assert source[3]["caption"] == "5"
    assert {index: key for index, (key, _) in source.skips.bad.items()} == {3: "key-3"}


def test_a_disk_that_comes_back_with_the_last_try_costs_no_sample():
    tries = len(patience.PAUSES)
    source = on_disk(lambda index, reads: OSError(errno.EIO, "Input/output error") if reads <= tries else None)
    assert source[3]["caption"] == "3"
    assert not source.skips.bad


@pytest.mark.parametrize("error", [
    PermissionError(errno.EACCES, "Permission denied"), FileNotFoundError("none"), IsADirectoryError(errno.EISDIR, "")
])  # fmt: skip
def test_what_is_the_files_own_is_neither_waited_for_nor_told(error, pauses, capsys):
    def others():
        raise AssertionError("not asked")

    def read():
        raise error

    with pytest.raises(type(error)):
        Patience("far")(read, others)
    assert pauses == []
    assert capsys.readouterr().err == ""


def test_a_missing_file_says_that_the_disk_is_away_where_its_folder_is_gone_or_empty(tmp_path):
    def error(file):
        with pytest.raises(FileNotFoundError) as found:
            file.read_bytes()
        return found.value

    (tmp_path / "class").mkdir()
    assert is_away(error(tmp_path / "class/a.png"))
    assert is_away(error(tmp_path / "gone/a.png"))
    (tmp_path / "class/b.png").touch()
    assert not is_away(error(tmp_path / "class/a.png"))


def test_an_unmounted_folder_is_away_and_a_deleted_image_is_not(tmp_path, monkeypatch):
    root = write_folder(tmp_path / "data", per_class=4, splits=("train", "val"))
    source = from_directory(root, "train", SIDE, 0.5)
    expected = source[1]["image"]
    (root / "train" / source.key(0)).unlink()
    np.testing.assert_array_equal(source[0]["image"], expected)
    root.rename(tmp_path / "elsewhere")
    with pytest.raises(DataAway):
        source[1]
    back = iter([None, None, lambda: (tmp_path / "elsewhere").rename(root)])
    monkeypatch.setattr(patience.time, "sleep", lambda seconds: (next(back, None) or (lambda: None))())
    np.testing.assert_array_equal(source[1]["image"], expected)
    assert list(source.skips.bad) == [0]


def test_a_shard_whose_handle_has_gone_stale_is_opened_anew(tmp_path, monkeypatch):
    source = from_directory(write_shards(tmp_path / "cc3m", n=20), "train", SIDE)
    expected, (kept,) = source[0], source.files._open.values()
    pread = os.pread

    def stale(handle, size, place):
        if handle == kept:
            raise OSError(errno.ESTALE, "Stale file handle")
        return pread(handle, size, place)

    monkeypatch.setattr(tars.os, "pread", stale)
    np.testing.assert_array_equal(source[0]["image"], expected["image"])
    assert not source.skips.bad
    assert kept not in source.files._open.values()


def test_prepared_shards_that_are_away_are_waited_for_and_opened_anew(tmp_path):
    root = write_folder(tmp_path / "raw", per_class=4)
    prepare(root, tmp_path / "out", resolution=SIDE)
    source = from_directory(tmp_path / "out", "train")
    (tmp_path / "out").rename(tmp_path / "elsewhere")
    with pytest.raises(DataAway, match="No such file or directory"):  # what ArrayRecord itself says
        source[0]
    (tmp_path / "elsewhere").rename(tmp_path / "out")
    expected = source[0]["image"]

    class Stale:
        def __getitem__(self, index):
            raise RuntimeError(f"pread() failed: {os.strerror(errno.ESTALE)}; reading it")

    vars(source.files)["_records"] = Stale()
    np.testing.assert_array_equal(source[0]["image"], expected)
    assert records._system_error(RuntimeError("chunk data hash mismatch"), tmp_path) is None
    assert not source.skips.bad


def test_the_command_line_ends_with_a_code_of_its_own_and_goes_on_later(tmp_path, monkeypatch, capsys):
    root = write_folder(tmp_path / "raw", per_class=4)
    command = ["prepare", str(root), "--resolution", str(SIDE), "--out", str(tmp_path / "out")]
    with monkeypatch.context() as away:

        def read(self, index):
            raise OSError(errno.ETIMEDOUT, "Connection timed out")

        away.setattr(ImageFolder, "read", read)
        assert main(command) == 5
    assert "error: the disk or server of 'raw' stayed away" in capsys.readouterr().err
    assert main(command) == 0
    assert len(from_directory(tmp_path / "out", "train")) == 4 * len(CLASSES)
