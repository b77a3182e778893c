"""Captions as tokens: whole numbers, of a length that is the same for every caption.

    "a red circle"  ->  [CLS] a red circle [SEP] [PAD] ... [PAD]       `length` numbers, int32

A longer caption is cut, its [SEP] kept; the empty caption, [CLS] [SEP] [PAD] ..., is what a guided model is shown for
"no caption", as in latent diffusion (Rombach et al. 2022), whose length of 77 is usual here too. Padding is attended to
as other tokens are, as there: no mask. (Fused attention on GPUs wants even lengths; that of 77 tokens is not fused.)

A tokenizer is a `tokenizer.json` of the `tokenizers` library (a published model's, say), or is trained on a source's
captions: pairs of bytes merged, most frequent first (BPE on bytes, Sennrich et al. 2016, Radford et al. 2019), in lower
case. All 256 bytes are among its tokens, so nothing is unknown to it; and, unlike WordPiece's in that library, its
training gives the same file at every run.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, SupportsIndex

import numpy as np
from jaxtyping import Int

from imagegen.data.files import FileSource
from imagegen.data.source import Record, Source, SourceWrapper
from theory._checks import InputError, require

LENGTH = 77
"""Usual number of tokens."""
VOCABULARY = 30522
"""Largest vocabulary that is trained: as many tokens as BERT's."""
READ = 2**17
"""Captions that a tokenizer is trained on at most, evenly spaced."""
SPECIAL = ("[PAD]", "[CLS]", "[SEP]")
"""Of a trained tokenizer: numbers 0, 1 and 2."""
PADDING = ("[PAD]", "<pad>", "<|endoftext|>")
"""What files call padding (BERT, T5, CLIP), the first that one knows."""


class Vocabulary(NamedTuple):
    """What a network must know of a tokenizer: how many tokens there are, and the tokens of the empty caption."""

    size: int
    empty: Int[np.ndarray, " length"]


@dataclass(frozen=True)
class CaptionTokenizer:
    """From captions to `length` >= 2 tokens each; `text` is the content of a `tokenizer.json`.

    Raises `ValueError` for another length, for a text that is none such, and for one without a token for padding.
    """

    text: str
    length: int = LENGTH

    def __post_init__(self) -> None:
        """Read the text."""
        require(self.length >= 2, "length", self.length, "at least 2, for the tokens at both ends")
        require(self._inner is not None, "tokenizer", "a text that is none", "the content of a tokenizer.json")
        names = self._inner.get_vocab()
        require(bool(set(PADDING) & set(names)), "tokenizer", f"{len(names)} tokens", f"one with any of {PADDING}")
        self.batch([""])  # what its post-processor refuses is refused now

    @cached_property
    def _inner(self) -> Any:
        """The library's object, or None for a text that it cannot read."""
        from tokenizers import Tokenizer

        try:
            inner = Tokenizer.from_str(self.text)
        except Exception:  # the library raises nothing more special
            return None
        names = inner.get_vocab()
        padding = next((name for name in PADDING if name in names), None)
        if padding is not None:
            inner.enable_truncation(self.length)
            inner.enable_padding(length=self.length, pad_id=names[padding], pad_token=padding)
        return inner

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """Number of tokens, one more than the largest, and the empty caption's."""
        return Vocabulary(max(self._inner.get_vocab().values()) + 1, self(""))

    def __call__(self, caption: str) -> Int[np.ndarray, " length"]:
        """The tokens of a caption."""
        return self.batch([caption])[0]

    def batch(self, captions: Sequence[str]) -> Int[np.ndarray, "n length"]:
        """The tokens of n >= 1 captions. Raises `ValueError` where the file makes more of one than `length`."""
        ids = [encoding.ids for encoding in self._inner.encode_batch([str(caption) for caption in captions])]
        longest = max(len(one) for one in ids)
        require(longest == self.length, "length", self.length, f"enough for the {longest} tokens of a short caption")
        return np.asarray(ids, np.int32)


def load_tokenizer(file: Path, length: int = LENGTH) -> CaptionTokenizer:
    """The tokenizer of a `tokenizer.json`. Raises `ValueError` for a file that is missing or none, and a length < 2."""
    require(file.is_file(), "tokenizer", f"'{file}', which is no file", "the path of a tokenizer.json")
    try:
        return CaptionTokenizer(file.read_text(encoding="utf-8"), length)
    except (InputError, UnicodeDecodeError) as error:
        raise InputError(f"'{file}': {error}") from error


def train_tokenizer(
    captions: Sequence[str] | Iterator[str], length: int = LENGTH, *, vocabulary: int = VOCABULARY
) -> CaptionTokenizer:
    """A tokenizer of at most `vocabulary` >= 300 tokens trained on captions (module's top); the same for the same ones.

    Raises `ValueError` for other sizes.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    require(vocabulary >= 300, "vocabulary", vocabulary, "at least 300: 256 bytes, special tokens, some pairs")
    inner = Tokenizer(models.BPE())
    inner.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    inner.train_from_iterator(captions, trainer)
    ends = [(name, inner.token_to_id(name)) for name in SPECIAL[1:]]
    inner.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    return CaptionTokenizer(inner.to_str(), length)


def captions_of(source: Source, limit: int = READ) -> Iterator[str]:
    """Up to `limit` >= 1 captions of a source, evenly spaced. Raises `ValueError` for a record without one."""
    for index in np.unique(np.linspace(0, len(source) - 1, min(limit, len(source))).astype(int)):
        yield caption_of(source, index)


def caption_of(source: Source, index: SupportsIndex) -> str:
    """The caption of one record; its image is not decoded if it is in a file. Raises `ValueError` where it has none."""
    return _caption(source, source.fields(index) if isinstance(source, FileSource) else source[index])


def _caption(source: Source, record: Record) -> str:
    has = "caption" in record
    require(has, "source", f"'{source.name}' without captions", "one whose records have a 'caption', to train on text")
    return str(record["caption"])


@dataclass(frozen=True, eq=False)
class Tokenised(SourceWrapper):
    """`source` with the `tokens` of its captions in its records, int32, shape (length,).

    Raises `ValueError` for a source whose first record has no caption.
    """

    source: Source
    tokenizer: CaptionTokenizer

    def __post_init__(self) -> None:
        """Look for captions."""
        caption_of(self.source, 0)

    def __getitem__(self, index: SupportsIndex) -> Record:
        record = self.source[index]
        return {**record, "tokens": self.tokenizer(_caption(self.source, record))}
