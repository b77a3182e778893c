"""Records depend on their index alone; whatever cannot be trained on is refused, at its index."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.data.shapes import Shapes
from imagegen.data.source import ArraySource, BatchSource, Source, check_source, in_memory, read_batch

N, SHAPE = 12, (3, 4, 2)
RNG = np.random.default_rng(0)
IMAGES = RNG.uniform(-1, 1, (N, *SHAPE)).astype(np.float32)
LABELS = np.arange(N, dtype=np.int32) % 3
NAMES = ("a", "b", "c")


class Folder:
    """A source that reads one record at a time, as images on a disk; `changes` spoil some."""

    name, shape, classes, class_names = "folder", SHAPE, 3, NAMES

    def __init__(self, changes=None, n=N, labels=LABELS):
        self.changes, self.n, self.labels, self.read = changes or {}, n, labels, []

    def __len__(self):
        return self.n

    def __getitem__(self, index):
        self.read.append(int(index))
        at = index % N
        record = {"image": IMAGES[at], "label": np.int32(at % 3), "index": np.int32(index)}
        return self.changes[index](record) if index in self.changes else record


def arrays(images=IMAGES, labels=LABELS, names=NAMES, extras=None):
    return ArraySource("mine", images, labels, names, extras or {})


def spoiled(value, at=5):
    images = IMAGES.copy()
    images[at, 1, 1, 1] = value
    return images


@given(st.lists(st.integers(0, N - 1), min_size=1))
def test_records_and_batches_agree_in_any_order(indices):
    source = arrays(extras={"caption": np.array([f"image {'x' * i}" for i in range(N)])})
    batch = read_batch(source, np.array(indices))
    assert set(batch) == {"image", "label", "index", "caption"}
    for place, index in enumerate(indices):
        record = source[index]
        np.testing.assert_array_equal(record["image"], IMAGES[index])
        assert record["index"] == index
        assert record["label"] == LABELS[index]
        assert isinstance(record["caption"], str)
        for name, value in record.items():
            np.testing.assert_array_equal(batch[name][place], value)
    assert (batch["image"].dtype, batch["label"].dtype, batch["index"].dtype) == (np.float32, np.int32, np.int32)


def test_arrays_are_copied_and_cannot_be_written_to():
    images = IMAGES.copy()
    source = arrays(images)
    images[:] = 0
    np.testing.assert_array_equal(source[3]["image"], IMAGES[3])
    with pytest.raises(ValueError, match="read-only"):
        source.images[0] = 0


@pytest.mark.parametrize("source", [arrays(), Folder(), Shapes(20)])
def test_sources_follow_the_protocol_and_loops_over_them_end(source):
    assert isinstance(source, Source)
    assert isinstance(source, BatchSource) == isinstance(source, ArraySource)
    check_source(source)
    records = list(source) if not isinstance(source, Folder) else [source[i] for i in range(N)]
    assert [record["index"] for record in records] == list(range(len(source)))
    assert [record["label"] for record in records] == source.labels.tolist()
    if not isinstance(source, Folder):
        for index in (-1, len(source)):
            with pytest.raises(IndexError, match=rf"0 \.\.\. {len(source) - 1}; got {index}"):
                source[index]


def test_in_memory_is_the_same_read_once():
    folder = Folder()
    kept = in_memory(folder)
    assert folder.read == list(range(N))
    assert isinstance(kept, BatchSource)
    for index in range(N):
        for name, value in folder[index].items():
            np.testing.assert_array_equal(kept[index][name], value)
    shapes = Shapes(5)
    assert [record["caption"] for record in in_memory(shapes)] == [record["caption"] for record in shapes]


@given(st.permutations(range(N)), st.integers(1, N))
def test_a_subset_numbers_its_records_anew(indices, size):
    chosen = np.array(indices[:size])
    part = arrays(extras={"place": np.arange(N)}).subset(chosen)
    batch = read_batch(part, np.arange(size))
    np.testing.assert_array_equal(batch["image"], IMAGES[chosen])
    np.testing.assert_array_equal(batch["label"], LABELS[chosen])
    np.testing.assert_array_equal(batch["place"], chosen)
    np.testing.assert_array_equal(batch["index"], np.arange(size))
    assert part.classes == 3


def _with(**fields):
    return lambda record: {**record, **fields}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_with(image=spoiled(np.nan)[5]), "image 5 of 'folder' must be finite; got 1 non-finite of 24 numbers"),
        (_with(image=spoiled(-np.inf)[5]), "image 5 of 'folder' must be finite"),
        (
            _with(image=spoiled(1.00001)[5]),
            r"image 5 of 'folder' must be within \[-1, 1\]; got numbers from .* to 1.00001",
        ),
        (_with(image=spoiled(-255)[5]), "image 5 of 'folder' must be within .* got numbers from -255"),
        (_with(image=IMAGES[5, :2]), r"image 5 of 'folder' must be of shape \(3, 4, 2\); got shape \(2, 4, 2\)"),
        (
            _with(image=IMAGES[5].astype(np.float64)),
            "record 5 of 'folder' must be with an image of float32; got .*float64",
        ),
        (_with(label=np.int32(0)), "record 5 of 'folder' must be of label 2, as `labels` says; got label 0"),
        (_with(index=np.int32(4)), "record 5 of 'folder' must be of index 5; got index 4"),
        (
            lambda record: {"image": record["image"]},
            r"record 5 of 'folder' must be .*; got none for \['label', 'index'\]",
        ),
    ],
)
def test_a_bad_record_is_refused_at_its_index(change, message):
    folder = Folder({5: change})
    for read in (check_source, lambda s: read_batch(s, np.array([1, 5])), in_memory):
        with pytest.raises(ValueError, match=message):
            read(folder)
    assert len(read_batch(folder, np.array([4, 6]))["image"]) == 2


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.where(np.arange(N) == 7, 3, LABELS), r"labels must be in 0 \.\.\. 2; got 3 at index 7\."),
        (np.where(np.arange(N) > 7, -1, LABELS), r"labels must be in 0 \.\.\. 2; got -1 at index 8 \(the first of 4\)"),
        (LABELS.astype(np.int64) + 10**12, "got 1000000000000 at index 0"),
        (LABELS[:5], r"labels must be one per image, shape \(12,\); got shape \(5,\)"),
    ],
)
def test_bad_labels_are_refused_before_any_image_is_read(labels, message):
    folder = Folder(labels=labels)
    with pytest.raises(ValueError, match=message):
        check_source(folder)
    assert folder.read == []
    if len(labels) == N:  # else the annotations would speak first here
        with pytest.raises(ValueError, match=message):
            arrays(labels=labels)


def test_checking_reads_no_more_images_than_the_limit_evenly_spaced():
    n = 10**6
    folder = Folder(n=n, labels=(np.arange(n) % N % 3).astype(np.int32))
    check_source(folder, limit=50)
    assert (len(folder.read), folder.read[0], folder.read[-1]) == (50, 0, n - 1)
    gaps = np.diff(folder.read)
    assert gaps.max() - gaps.min() <= 1
    small = Folder()
    check_source(small, limit=50)
    assert small.read == list(range(N))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: check_source(Folder(n=0, labels=LABELS[:0])), "source 'folder' must be of at least one record"),
        (lambda: check_source(Folder(), limit=0), "limit"),
        (lambda: arrays(IMAGES[:0], LABELS[:0]), r"images must be floats of shape \(n, H, W, C\)"),
        (lambda: arrays(IMAGES[:, :0]), "images must be floats of shape"),
        (lambda: arrays(spoiled(np.nan)), "image 5 of 'mine' must be finite; got 1 non-finite"),
        (lambda: arrays(spoiled(2.0, at=11)), "image 11 of 'mine' must be within"),
        (lambda: arrays(extras={"caption": np.array(["x"])}), r"extras\['caption'\] must be 12 entries"),
        (lambda: arrays(extras={"label": LABELS}), "extras must be of other names"),
        (lambda: arrays().subset(np.array([0, N])), r"indices must be at least one, in 0 \.\.\. 11; got \[ 0 12\]"),
        (lambda: arrays().subset(np.array([-1])), "indices must be"),
        (lambda: arrays().subset(np.array([], int)), "indices must be at least one"),
    ],
)
def test_other_bad_input_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_class_names_must_be_one_per_class():
    folder = Folder()
    folder.classes = 4
    with pytest.raises(ValueError, match="class_names must be one for each of 4 classes; got 3 names"):
        check_source(folder)


def test_rounding_beyond_the_range_is_forgiven():
    assert arrays(spoiled(1 + 5e-7)).images.max() > 1
