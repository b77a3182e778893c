"""Rewritten captions: in a share of the samples some words are exchanged for others, so that the caption is wrong.

Slight Corruption lets a language model rewrite captions at five levels. A rewriter is any function

    rewriter(caption, level, rng) -> caption            level 1 ... 5; whatever is random comes from rng

`rewrite_words`, built in, exchanges words of small tables for others of the same row: attributes (colours, sizes,
numbers, materials, ages), relations (places, prepositions, actions) and entities (animals, people, vehicles, ...). Of
those in a caption, level

    1    one attribute                         4    every attribute and relation, and one entity
    2    every attribute                       5    every one
    3    every attribute, and one relation

and where a caption has nothing that its level exchanges, one relation or else one entity is. Larger levels change the
words that smaller ones change, and more. A caption without any known word stays as it is.
`LanguageModelRewriter` asks a local model through `transformers`. Captions that were rewritten before, into a file
(`imagegen.rewrites`), are looked up instead.
"""

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from jaxtyping import Bool, Int

from imagegen.data.source import Record, Source, SourceWrapper
from theory._checks import InputError, require, require_between

LEVELS = (1, 2, 3, 4, 5)
"""How much is rewritten."""
ATTRIBUTES = (
    "red green blue yellow orange purple pink brown black white grey gray gold silver",
    "small large big tiny huge little giant",
    "one two three four five six seven eight nine ten",
    "wooden metal plastic glass leather stone paper",
    "old young new ancient modern",
    "happy sad angry calm beautiful ugly",
    "round flat tall short long wide narrow",
    "sunny rainy snowy cloudy foggy",
)
"""Each row's words stand in for one another."""
RELATIONS = (
    "upper left|upper right|lower left|lower right|centre",
    "in front of|behind|next to|on top of|inside|outside|beside|near|far from",
    "on|under|above|below|over|beneath",
    "left|right",
    "with|without",
    "sitting|standing|walking|running|lying|jumping|sleeping|dancing|swimming|flying",
    "holding|wearing|eating|drinking|carrying|throwing|buying|selling|reading|riding|driving|pushing|pulling",
    "day|night|morning|evening",
)
"""As `ATTRIBUTES`; some are several words, parted by bars."""
ENTITIES = (
    "circle square triangle cross star heart",
    "dog cat horse cow bird elephant bear zebra giraffe lion tiger rabbit duck monkey",
    "man woman boy girl",
    "person child player doctor teacher actor singer soldier tourist student artist farmer",
    "car bus train truck boat plane bicycle motorcycle ship",
    "pizza cake sandwich apple banana salad soup bread burger",
    "chair table bed desk lamp mirror clock shelf",
    "house church castle tower bridge school hospital museum restaurant hotel",
    "tree flower bush rock lake mountain forest beach desert field garden island river",
    "shirt dress hat coat jacket suit",
    "guitar piano violin drum ball book phone camera computer bag bottle cup umbrella",
)
"""As `ATTRIBUTES`; also in the plural."""
PLURALS = {"man": "men", "woman": "women", "person": "people", "child": "children", "shelf": "shelves"}
"""Those that are not formed by s or es."""
KINDS = ("attribute", "relation", "entity")
"""In the order in which levels come to them."""
PROMPT = (
    "Rewrite the caption of an image so that it is wrong. On a scale from 1 (one small detail differs) to 5 (every "
    "object, attribute and relation differs) the change is of level {level}. Answer with the new caption alone.\n"
    "Caption: {caption}\nNew caption:"
)
"""What a language model is asked."""


Rewriter = Callable[[str, int, np.random.Generator], str]
"""From a caption, a level 1 ... 5 and a generator to a caption."""


@cache
def _rows() -> dict[str, tuple[str, Sequence[str]]]:
    """Of every known word: its kind and its row. A plural's row is of plurals."""
    attributes, relations = [row.split() for row in ATTRIBUTES], [row.split("|") for row in RELATIONS]
    entities = [row.split() for row in ENTITIES]
    plurals = [[_plural(word) for word in row] for row in entities]
    tables = dict(zip(KINDS, (attributes, relations, entities + plurals), strict=True))
    return {word: (kind, row) for kind, rows in tables.items() for row in rows for word in row}


def _plural(word: str) -> str:
    return PLURALS.get(word, word + ("es" if word.endswith(("s", "sh", "ch")) else "s"))


@cache
def _pattern() -> re.Pattern[str]:
    """Any known word, the longest first, with the article before it."""
    words = "|".join(re.escape(word) for word in sorted(_rows(), key=len, reverse=True))
    return re.compile(rf"(\ban? )?\b({words})\b", re.IGNORECASE)


def rewrite_words(caption: str, level: int, rng: np.random.Generator) -> str:
    """A rewriter: exchanges known words by the rules at the module's top. Raises `ValueError` for another level."""
    require(level in LEVELS, "level", level, "1 ... 5")
    found = list(_pattern().finditer(caption))
    # drawn for every word, whatever the level: larger levels make the same exchanges, and more
    others = [_other(match[2], rng) for match in found]
    chosen = _chosen([_rows()[match[2].lower()][0] for match in found], level, rng.permutation(len(found)))
    for k in sorted(chosen, reverse=True):
        start, end = found[k].span()
        caption = caption[:start] + _with_article(found[k][1], others[k]) + caption[end:]
    return caption


def _other(word: str, rng: np.random.Generator) -> str:
    """Another word of the row, with a capital where there was one."""
    row = [other for other in _rows()[word.lower()][1] if other != word.lower()]
    other = row[rng.integers(len(row))]
    return other[0].upper() + other[1:] if word[0].isupper() else other


def _chosen(kinds: Sequence[str], level: int, order: Int[np.ndarray, " words"]) -> set[int]:
    """Which of the words are exchanged: of each kind none, the first one in `order`, or all."""
    of = {kind: [int(k) for k in order if kinds[k] == kind] for kind in KINDS}
    wanted = {1: (1, 0, 0), 2: (None, 0, 0), 3: (None, 1, 0), 4: (None, None, 1), 5: (None, None, None)}[level]
    chosen = {k for kind, count in zip(KINDS, wanted, strict=True) for k in of[kind][:count]}
    return chosen or set((of["relation"] + of["entity"])[:1])


def _with_article(article: str | None, word: str) -> str:
    """The word after the article that suits it, if there was one."""
    if article is None:
        return word
    return f"{article[0]}{'n' * (word[0].lower() in 'aeiou')} {word}"


class LanguageModelRewriter:
    """Asks a language model in a local `folder` (`transformers`, of the `pretrained` extra), as `PROMPT` says.

    What it answers depends on the generator, the model and the versions of the libraries; keep the captions that are
    made. Threads take turns: what is drawn comes from a generator that all of a process share. Raises `ValueError` for
    a folder that is missing and where `transformers` is not installed.
    """

    def __init__(self, folder: Path, *, longest: int = 64) -> None:
        """Load the model; `longest` >= 1: tokens of an answer."""
        require(folder.is_dir(), "folder", f"'{folder}', which is none", "a folder with a language model")
        require(longest >= 1, "longest", longest, "at least 1")
        try:
            import transformers
        except ImportError as error:
            raise InputError(
                "A language model needs transformers: pip install 'patina-diffusion[pretrained]'."
            ) from error
        self._transformers, self._longest, self._lock = transformers, longest, threading.Lock()
        self._pipeline: Any = transformers.pipeline("text-generation", model=str(folder))

    def __call__(self, caption: str, level: int, rng: np.random.Generator) -> str:
        """The answer's first line, or the caption itself where that is empty. Raises `ValueError` for another level."""
        require(level in LEVELS, "level", level, "1 ... 5")
        prompt, seed = PROMPT.format(level=level, caption=caption), int(rng.integers(2**31))
        with self._lock:
            self._transformers.set_seed(seed)
            answer = self._pipeline(prompt, max_new_tokens=self._longest, do_sample=True, return_full_text=False)
        lines = answer[0]["generated_text"].strip().splitlines()
        return lines[0].strip() if lines else caption


@dataclass(frozen=True, eq=False)
class Rewritten(SourceWrapper):
    """`source` with the captions of round(eta·n) of its n samples rewritten at a `level`; eta in [0, 1], seed >= 0.

    Which ones: the first of a permutation drawn from the seed, so that a larger eta rewrites the same ones and more;
    how: by the seed and the sample's index alone, or as `made` says by index. The records say whether: `rewritten`.
    Raises `ValueError` for another eta, level or seed, and a source without captions.
    """

    source: Source
    eta: float
    level: int
    seed: int
    rewriter: Rewriter = rewrite_words
    made: Mapping[int, str] | None = None

    def __post_init__(self) -> None:
        """Check the numbers, and look for captions."""
        require_between("eta", self.eta, 0.0, 1.0)
        require(self.level in LEVELS, "level", self.level, "1 ... 5")
        require(self.seed >= 0, "seed", self.seed, "at least 0")
        captioned = "caption" in self.source[0]
        require(captioned, "source", f"'{self.source.name}' without captions", "one whose records have a 'caption'")

    @cached_property
    def rewritten(self) -> Bool[np.ndarray, " n"]:
        """Which captions are rewritten."""
        n = len(self.source)
        return np.isin(np.arange(n), _rng(self.seed, 0, 3).permutation(n)[: round(self.eta * n)])

    def __getitem__(self, index: SupportsIndex) -> Record:
        record = self.source[index]
        number = int(record["index"])
        if not self.rewritten[number]:
            return {**record, "rewritten": np.bool_(False)}
        if self.made is not None:
            return {**record, "caption": self.made[number], "rewritten": np.bool_(True)}
        caption = self.rewriter(str(record["caption"]), self.level, rewriting_rng(self.seed, number))
        return {**record, "caption": caption, "rewritten": np.bool_(True)}


def rewriting_rng(seed: int, index: int) -> np.random.Generator:
    """What a rewriter draws from, for the sample of this index."""
    return _rng(seed, index, 4)


def _rng(seed: int, index: int, purpose: int) -> np.random.Generator:
    """`purpose`: 3 to choose, 4 to rewrite; others are a generated source's and `Degraded`'s."""
    return np.random.default_rng((seed, index, purpose))
