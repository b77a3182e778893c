"""Swapped captions: some samples exchange captions in pairs, as `theory.labels.CaptionSwap` says, fixed by the seed.

With a caption goes its embedding, where it was prepared (`imagegen.data.embeddings`). Images and labels stay. Flips of
*labels* are no part of the data: the training step draws them by the sample's index.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import SupportsIndex

import jax
import numpy as np
from jaxtyping import Int

from imagegen.data.files import FileSource
from imagegen.data.source import Record, Source, SourceWrapper
from imagegen.data.tokens import caption_of
from theory._checks import require
from theory.labels import CaptionSwap

TEXT = ("caption", "embedding")
"""Fields that are exchanged."""


@dataclass(frozen=True, eq=False)
class Swapped(SourceWrapper):
    """`source` with the captions of 2⌊eta·n/2⌋ of its n samples exchanged; eta in [0, 1], seed >= 0.

    Raises `ValueError` for another eta or seed, fewer than two samples, and a source without captions.
    """

    source: Source
    eta: float
    seed: int

    def __post_init__(self) -> None:
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        swap = CaptionSwap(len(self.source), self.eta)  # checks both
        caption_of(self.source, swap.n - 1)

    @cached_property
    def permutation(self) -> Int[np.ndarray, " n"]:
        """Whose caption each sample has."""
        return np.asarray(CaptionSwap(len(self.source), self.eta).permutation(jax.random.key(self.seed)))

    def __getitem__(self, index: SupportsIndex) -> Record:
        record = self.source[index]
        other = int(self.permutation[record["index"]])
        if other == record["index"]:
            return record
        others = self.source.fields(other) if isinstance(self.source, FileSource) else self.source[other]
        return {**record, **{name: others[name] for name in TEXT if name in others}}
