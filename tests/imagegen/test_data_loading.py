"""Batches depend on seed and step alone; every record is seen equally often; nothing is left running."""

import contextlib
import gc
import random
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.data.loading import batches, order
from imagegen.data.source import ArraySource, BatchSource, SourceWrapper
from imagegen.sampling import evenly

seeds = st.integers(0, 2**32 - 1)


def make(n, spoiled=None):
    """Images that hold their own index; classes by parity."""
    images = np.broadcast_to((np.arange(n) / n).astype(np.float32)[:, None, None, None], (n, 2, 2, 1)).copy()
    source = ArraySource("ramp", images, np.arange(n) % 2, ("even", "odd"))
    if spoiled is not None:  # as if it had changed after the first check
        images[spoiled] = np.nan
        object.__setattr__(source, "images", images)
    return source


class Lazily(SourceWrapper):
    """The same records, to be read one by one."""

    def __init__(self, source):
        self.source = source

    def __getitem__(self, index):
        return self.source[index]


def take(source, batch, steps, **options):
    with contextlib.closing(batches(source, batch, **options)) as stream:
        return [next(stream) for _ in range(steps)]


def indices(taken):
    return [batch["index"].tolist() for batch in taken]


# --- the order


@given(st.integers(1, 60), seeds, st.integers(0, 2**40))
def test_every_epoch_is_a_permutation(n, seed, epoch):
    found = order(n, seed, epoch * n + np.arange(n))
    np.testing.assert_array_equal(np.sort(found), np.arange(n))


@given(st.integers(1, 40), st.integers(1, 100), seeds, st.integers(1, 4))
def test_every_record_is_seen_equally_often(n, batch, seed, epochs):
    """After whole epochs exactly, and at any time up to one; whatever the batch, larger than the source included."""
    steps = -(-epochs * n // batch)
    seen = np.concatenate(indices(take(make(n), batch, steps, seed=seed)))
    np.testing.assert_array_equal(np.bincount(seen[: epochs * n], minlength=n), epochs)
    assert np.ptp(np.bincount(seen, minlength=n)) <= 1
    assert len(seen) == steps * batch


def test_epochs_and_seeds_have_orders_of_their_own():
    """Seeds next to one another too: grain's seed s + 1 begins with the second epoch of seed s."""
    orders = {tuple(order(20, seed, epoch * 20 + np.arange(20))) for seed in range(30) for epoch in range(30)}
    assert len(orders) == 900


def test_all_orders_are_equally_likely():
    """Chi-squared with 23 degrees of freedom exceeds 58.4 with probability 6e-5."""
    draws = np.concatenate([order(4, seed, np.arange(400)).reshape(-1, 4) for seed in range(24)])
    _, counts = np.unique(draws, axis=0, return_counts=True)
    assert len(counts) == 24
    assert np.sum((counts - 100) ** 2 / 100) < 58.4


def test_the_order_is_pinned():
    """Another order would break every run that is resumed with a newer version."""
    assert order(10, 7, np.arange(20)).tolist() == [8, 4, 3, 6, 2, 1, 0, 5, 9, 7, 7, 9, 6, 1, 4, 8, 3, 2, 5, 0]


# --- batches


@given(st.integers(1, 30), st.integers(1, 6), seeds, st.integers(0, 10**6))
def test_shards_read_the_global_batch(n, size, seed, first_step):
    batch, source = 4 * size, make(n)
    whole = take(source, batch, 3, seed=seed, first_step=first_step)
    for shards in (2, 4):
        parts = [
            take(source, batch, 3, seed=seed, first_step=first_step, shard=shard, shards=shards)
            for shard in range(shards)
        ]
        for step, expected in enumerate(whole):
            for name in expected:
                together = np.concatenate([part[step][name] for part in parts])
                np.testing.assert_array_equal(together, expected[name])


@given(st.integers(1, 15), st.integers(1, 12), seeds, st.integers(0, 6), st.booleans())
def test_a_restart_at_any_step_continues(n, batch, seed, stop, lazy):
    source = Lazily(make(n)) if lazy else make(n)
    whole = indices(take(source, batch, stop + 3, seed=seed))
    assert indices(take(source, batch, 3, seed=seed, first_step=stop)) == whole[stop:]


def test_checking_types_leaves_the_state_alone_that_hypothesis_watches():
    """Else a reading thread that checks the items of a sequence while an example is drawn makes its test fail."""
    before = random.getstate()
    assert evenly([1, 2, 3], 5).tolist() == [1, 2, 3, 1, 2]
    assert random.getstate() == before


def test_a_restart_far_on_is_immediate():
    start = time.perf_counter()
    (found,) = take(make(1000), 8, 1, seed=0, first_step=10**12)
    assert time.perf_counter() - start < 5
    np.testing.assert_array_equal(found["index"], order(1000, 0, 8 * 10**12 + np.arange(8)))


@pytest.mark.parametrize("prepare", [lambda source: source, Lazily])
def test_a_batch_holds_the_records_of_its_indices(prepare):
    source = make(50)
    for batch in take(prepare(source), 16, 10, seed=3):
        np.testing.assert_array_equal(batch["image"], source.images[batch["index"]])
        np.testing.assert_array_equal(batch["label"], batch["index"] % 2)
        assert batch["image"].shape == (16, 2, 2, 1)
        assert (batch["image"].dtype, batch["label"].dtype, batch["index"].dtype) == (np.float32, np.int32, np.int32)


class Counting(ArraySource):
    """How often records and batches are read."""

    reads = 0
    batches = 0

    def __getitem__(self, index):
        type(self).reads += 1
        return super().__getitem__(index)

    def batch(self, indices):
        type(self).batches += 1
        return super().batch(indices)


def test_sources_in_memory_are_read_by_whole_batches_and_no_thread():
    """What makes them fast."""
    small = make(30)
    source = Counting("ramp", small.images, small.labels, small.class_names)
    assert _gone()
    with contextlib.closing(batches(source, 8, seed=0)) as stream:
        for _ in range(5):
            next(stream)
        assert not _grain_threads()
    assert (Counting.reads, Counting.batches) == (0, 5)


def _grain_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("grain-prefetch")]


def _gone(seconds=5.0):
    end = time.monotonic() + seconds
    while _grain_threads() and time.monotonic() < end:
        time.sleep(0.01)
    return not _grain_threads()


@pytest.mark.parametrize("end", ["close", "drop", "error"])
def test_no_thread_outlives_its_stream(end):
    assert _gone()
    source = Lazily(make(30, spoiled=3 if end == "error" else None))
    stream = batches(source, 8, seed=0)
    if end == "error":
        with pytest.raises(ValueError, match="image 3 of 'ramp'"):
            list(stream)
    else:
        next(stream)
        assert _grain_threads()
    if end == "close":
        stream.close()
    del stream
    gc.collect()
    assert _gone()


# no Hypothesis here: grain's threads disturb its bookkeeping of what was drawn when
@pytest.mark.parametrize(("bad", "seed"), [(0, 0), (19, 1), (7, 2), (12, 3)])
@pytest.mark.parametrize("prepare", [lambda source: source, Lazily], ids=["memory", "lazily"])
def test_an_image_that_turns_bad_is_refused_with_its_index(prepare, bad, seed):
    source = prepare(make(20, spoiled=bad))
    assert isinstance(source, BatchSource) == (prepare is not Lazily)
    before = int(np.flatnonzero(order(20, seed, np.arange(20)) == bad)[0])
    with contextlib.closing(batches(source, 5, seed=seed)) as stream:
        for _ in range(before // 5):
            assert bad not in next(stream)["index"]
        with pytest.raises(ValueError, match=f"image {bad} of 'ramp' must be finite; got 4 non-finite of 4"):
            next(stream)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 0}, "batch must be at least 1"),
        ({"shards": 0}, "shards must be at least 1"),
        ({"shards": 3}, "batch must be a multiple of the 3 shards; got 8"),
        ({"shards": 2, "shard": 2}, r"shard must be in 0 \.\.\. 1; got 2"),
        ({"shard": -1}, "shard must be in"),
        ({"first_step": -1}, "first_step must be at least 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_sizes_are_refused_at_once(options, message):
    arguments = {"batch": 8, "seed": 0, **options}
    with pytest.raises(ValueError, match=message):
        batches(make(20), **arguments)


def test_an_empty_source_is_refused_at_once():
    class Empty:
        name, shape, classes, class_names, labels = "empty", (2, 2, 1), 1, ("a",), np.zeros(0, np.int32)

        def __len__(self):
            return 0

        def __getitem__(self, index):
            raise IndexError

    with pytest.raises(ValueError, match="source 'empty' must be of at least one record"):
        batches(Empty(), 8, seed=0)
