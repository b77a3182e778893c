"""Batches from a source: shuffled, endless, exactly resumable, the same for any number of hosts.

The records are put in one endless order, one epoch after another, each a fresh permutation π_e of the n records drawn
from (seed, e) alone. Position p holds record π_e(r) with e = ⌊p/n⌋, r = p mod n, and the global batch of step s is

    positions s·B, ..., s·B + B - 1,   of which shard k of K reads the k-th K-th.

So a step's batch depends on (seed, step) alone: a run that stopped continues at any step, on any number of hosts. The
rest of an epoch is carried into the next: after k·n positions every record has been seen exactly k times; no batch is
partial or dropped, and a batch may be larger than the source.

π_e sorts raw 64-bit numbers of Philox, a stream that NumPy keeps for good: a run can be resumed with another version.
(Grain's own `shuffle` takes 45 µs per index, so 6 ms per batch of 128, as much as a step on small images. Grain sees
whole batches here: it reads ahead, by threads of its own, and stops them.)
"""

import functools
import sys
from collections.abc import Generator

import numpy as np
from jaxtyping import Int

from imagegen.data.source import Batch, BatchSource, Source, read_batch
from theory._checks import require
from theory._cores import cores

THREADS = 16
"""Threads at most that read ahead, a batch each and another one ready, from sources that are not in memory; no more
than there are processors.
"""


def batches(
    source: Source, batch: int, *, seed: int, first_step: int = 0, shard: int = 0, shards: int = 1
) -> Generator[Batch, None, None]:
    """The batches of this `shard` (0 ... shards - 1) from `first_step` >= 0 on, without end: arrays of batch / shards
    records each, in the order said at the module's top.

    Sources in memory (`BatchSource`) are read on the spot, others ahead by threads; `close()` of what is returned, or
    its end of life, stops them. Records are checked as they come. Raises `ValueError` for an empty source, sizes out of
    their ranges, and a batch that `shards` does not divide; while reading, for a bad record, naming its index.
    """
    require(len(source) >= 1, f"source '{source.name}'", "0 records", "of at least one record")
    require(batch >= 1, "batch", batch, "at least 1")
    require(shards >= 1, "shards", shards, "at least 1")
    require(batch % shards == 0, "batch", batch, f"a multiple of the {shards} shards")
    require(0 <= shard < shards, "shard", shard, f"in 0 ... {shards - 1}")
    require(first_step >= 0, "first_step", first_step, "at least 0")
    require(seed >= 0, "seed", seed, "at least 0")
    return _read(source, _Steps(len(source), seed, batch, shard, shards), first_step)


def _read(source: Source, steps: "_Steps", first_step: int) -> Generator[Batch, None, None]:
    import grain

    threads = 0 if isinstance(source, BatchSource) else min(THREADS, cores())
    ahead = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=2 * threads)
    iterator = iter(grain.MapDataset.source(steps).map(functools.partial(read_batch, source)).to_iter_dataset(ahead))
    grain.experimental.set_next_index(iterator, first_step)
    try:
        yield from iterator
    finally:
        iterator.close()


class _Steps:
    """The indices that one shard reads, by step: a random-access source for grain."""

    def __init__(self, n: int, seed: int, batch: int, shard: int, shards: int) -> None:
        self.n, self.seed, self.batch, self.size = n, seed, batch, batch // shards
        self.offset = shard * self.size

    def __len__(self) -> int:
        return sys.maxsize // self.batch  # no end that a run could reach

    def __getitem__(self, step: int) -> Int[np.ndarray, " b"]:
        start = step * self.batch + self.offset
        return order(self.n, self.seed, np.arange(start, start + self.size))


def order(n: int, seed: int, positions: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    """The records, 0 ... n - 1, at these positions >= 0 of the endless order (module's top)."""
    epochs, ranks = np.divmod(positions, n)
    records = np.empty_like(positions)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        records[here] = _permutation(n, seed, int(epoch))[ranks[here]]
    return records


@functools.lru_cache(maxsize=8)
def _permutation(n: int, seed: int, epoch: int) -> Int[np.ndarray, " n"]:
    bits = np.random.Philox(np.random.SeedSequence((seed, epoch))).random_raw(n)
    return np.argsort(bits, kind="stable")
