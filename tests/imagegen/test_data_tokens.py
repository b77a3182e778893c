"""Tokens of captions: of one length, the same at every training, nothing lost that fits."""

import json
import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from imagegen.data.shapes import Shapes
from imagegen.data.source import ArraySource, in_memory
from imagegen.data.tokens import (
    CaptionTokenizer,
    Tokenised,
    captions_of,
    load_tokenizer,
    train_tokenizer,
)

SOURCE = in_memory(Shapes(64))
CAPTIONS = [str(caption) for caption in SOURCE.extras["caption"]]
TOKENIZER = train_tokenizer(CAPTIONS, 24)
NAMES = {number: name for name, number in Tokenizer.from_str(TOKENIZER.text).get_vocab().items()}


def written(tokens):
    """The text that tokens stand for, by the library's decoder of bytes, special ones left out."""
    return decoders.ByteLevel().decode([NAMES[int(number)] for number in tokens if number > 2])


def test_the_same_captions_give_the_same_file():
    """Unlike WordPiece's training in that library, whose ties fall as a table in memory happens to be ordered."""
    assert {train_tokenizer(CAPTIONS, 24).text for _ in range(3)} == {TOKENIZER.text}
    assert train_tokenizer(CAPTIONS[:32], 24).text != TOKENIZER.text


def test_a_caption_stands_between_its_ends_and_is_padded():
    tokens = TOKENIZER("a large Red circle")
    assert tokens.dtype == np.int32
    assert [NAMES[number] for number in tokens[:6]] == ["[CLS]", "Ġa", "Ġlarge", "Ġred", "Ġcircle", "[SEP]"]
    assert tokens[6:].tolist() == [0] * 18
    assert TOKENIZER.vocabulary.size == len(NAMES) == max(NAMES) + 1
    assert TOKENIZER.vocabulary.empty.tolist() == [1, 2] + [0] * 22
    np.testing.assert_array_equal(TOKENIZER.batch(CAPTIONS), [TOKENIZER(caption) for caption in CAPTIONS])


@given(st.text(st.characters(exclude_characters="[]", exclude_categories=["Cs"]), max_size=20))
def test_nothing_of_any_text_is_lost_but_what_is_cut(text):
    tokens = TOKENIZER(text)
    normal = unicodedata.normalize("NFC", text).lower()
    found = written(tokens)
    assert tokens.shape == (24,)
    if tokens[-1] == 0:
        assert found.removeprefix(" ") == normal.removeprefix(" ")
    else:  # cut, perhaps within a character
        assert tokens[-1] == 2
        assert normal.removeprefix(" ").startswith(found.removeprefix(" ").rstrip("\ufffd"))


def test_a_long_caption_is_cut_before_its_end_token():
    tokens = TOKENIZER(" ".join(["circle"] * 50))
    assert tokens[0] == 1
    assert tokens[-1] == 2
    assert len(set(tokens[1:-1].tolist())) == 1


def test_frequent_words_are_one_token_each():
    numbers = TOKENIZER.batch(CAPTIONS)
    words = [len(caption.split()) for caption in CAPTIONS]
    np.testing.assert_array_equal((numbers > 2).sum(1), words)


def test_a_published_file_is_read_with_its_own_numbers(tmp_path):
    vocabulary = {"<pad>": 3, "<unk>": 0, "a": 1, "circle": 2, "red": 9}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    inner.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load_tokenizer(tmp_path / "tokenizer.json", 6)
    assert tokenizer("a blue circle").tolist() == [1, 0, 2, 3, 3, 3]
    assert tokenizer.vocabulary.size == 10
    assert tokenizer.vocabulary.empty.tolist() == [3] * 6


def test_what_cannot_be_used_is_refused(tmp_path):
    (tmp_path / "bad.json").write_text("{}")
    no_padding = json.loads(Tokenizer(models.WordLevel({"a": 0}, unk_token="a")).to_str())
    (tmp_path / "none.json").write_text(json.dumps(no_padding))
    for file, message in (("bad.json", "bad.json.*tokenizer must be"), ("absent.json", "which is no file"),
                          ("none.json", "one with any of")):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            load_tokenizer(tmp_path / file)
    with pytest.raises(ValueError, match="length must be at least 2"):
        CaptionTokenizer(TOKENIZER.text, 1)
    with pytest.raises(ValueError, match="vocabulary must be at least 300"):
        train_tokenizer(CAPTIONS, vocabulary=100)
    silent = ArraySource("silent", SOURCE.images, SOURCE.labels, SOURCE.class_names)
    with pytest.raises(ValueError, match="'silent' without captions"):
        Tokenised(silent, TOKENIZER)
    with pytest.raises(ValueError, match="'silent' without captions"):
        train_tokenizer(captions_of(silent))


def test_records_and_batches_have_the_tokens_of_their_captions():
    tokenised = in_memory(Tokenised(SOURCE, TOKENIZER))
    np.testing.assert_array_equal(tokenised.extras["tokens"], TOKENIZER.batch(CAPTIONS))
    assert tokenised[5]["tokens"].dtype == np.int32
    assert list(captions_of(SOURCE, 3)) == [CAPTIONS[0], CAPTIONS[31], CAPTIONS[63]]
