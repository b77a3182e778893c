"""Rewritten captions: as many words as the level says, of the kinds that it says, by seed and index alone."""

import re
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from random import Random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.data.rewriting import (
    ATTRIBUTES,
    ENTITIES,
    LEVELS,
    RELATIONS,
    LanguageModelRewriter,
    Rewritten,
    rewrite_words,
)
from imagegen.data.shapes import Shapes
from imagegen.data.source import in_memory
from imagegen.data.tokens import train_tokenizer

SHAPES = in_memory(Shapes(40))
SLOTS = ("size", "colour", "background", "place", "on", "shape")
"""Of a caption of shapes: three attributes, two relations, an entity."""
TEMPLATE = re.compile(
    r"an? (?P<size>\w+) (?P<colour>\w+) (?P<shape>\w+) at the (?P<place>.+) (?P<on>\w+) "
    r"an? (?P<background>\w+) background"
)
seeds = st.integers(0, 2**32 - 1)


def changed(before, after):
    """The slots whose words differ."""
    first, second = (TEMPLATE.fullmatch(caption) for caption in (before, after))
    return {slot for slot in SLOTS if first[slot] != second[slot]}


def rewritten(caption, level, seed):
    return rewrite_words(caption, level, np.random.default_rng(seed))


@given(st.integers(0, 39), seeds)
def test_levels_change_what_they_say_and_larger_ones_more(index, seed):
    before = str(SHAPES.extras["caption"][index])
    after = {level: rewritten(before, level, seed) for level in LEVELS}
    slots = {level: changed(before, after[level]) for level in LEVELS}
    attributes, relations = {"size", "colour", "background"}, {"place", "on"}
    counts = {level: [len(slots[level] & kind) for kind in (attributes, relations, {"shape"})] for level in LEVELS}
    assert counts == {1: [1, 0, 0], 2: [3, 0, 0], 3: [3, 1, 0], 4: [3, 2, 1], 5: [3, 2, 1]}
    for level in LEVELS[:-1]:
        assert slots[level] <= slots[level + 1]
        words = (TEMPLATE.fullmatch(after[one]) for one in (level, level + 1))
        first, second = words
        assert all(first[slot] == second[slot] for slot in slots[level])


def test_level_four_changes_one_of_the_entities_and_level_five_all():
    before = "dogs and a cat near a church"
    for seed in range(20):
        four, five = (rewritten(before, level, seed) for level in (4, 5))
        differing = [a != b for a, b in zip(re.sub("far from", "near", four).split(), before.split(), strict=False)]
        assert "near" not in four
        assert sum(word in four.split() for word in ("dogs", "cat", "church")) == 2, (four, differing)
        assert not any(word in five.split() for word in ("dogs", "cat", "church", "near"))


@pytest.mark.parametrize(("before", "pattern"), [
    ("an old man", r"a(n ancient| young| new| modern) man"),
    ("A red kite", r"A(n Orange|n orange| (?!red)\w+) kite"),
    ("Three people", r"(?!Three)[A-Z]\w+ people"),
    ("women", "men|boys|girls"),
    ("a dog", r"an? (?!dog)\w+"),
    ("she is inside", "she is (?!inside)[a-z ]+"),
])  # fmt: skip
def test_articles_capitals_and_plurals_are_kept_right(before, pattern):
    for seed in range(30):
        after = rewritten(before, 1, seed)
        assert re.fullmatch(pattern, after), after
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]", after, re.IGNORECASE)


@given(st.text("Aadgo red-é(\\b|[n", max_size=30), st.sampled_from(LEVELS), seeds)
def test_any_text_is_rewritten_to_text_and_without_known_words_kept(text, level, seed):
    assert isinstance(rewritten(text, level, seed), str)
    nothing = re.sub(r"\w", "q", text)
    assert rewritten(nothing, level, seed) == nothing


def test_no_word_stands_in_two_rows():
    words = [word for row in (*ATTRIBUTES, *ENTITIES) for word in row.split()]
    words += [word for row in RELATIONS for word in row.split("|")]
    assert len(words) == len(set(words))
    assert all(len(re.split(r"\||\s" if "|" not in row else r"\|", row)) >= 2 for row in (*ATTRIBUTES, *RELATIONS))


def test_a_share_is_rewritten_by_seed_and_index_alone():
    half, more = (Rewritten(SHAPES, eta, 3, 7) for eta in (0.3, 0.6))
    forward = [half[i] for i in range(40)]
    backward = [half[i] for i in reversed(range(40))][::-1]
    assert [record["caption"] for record in forward] == [record["caption"] for record in backward]
    which = np.array([bool(record["rewritten"]) for record in forward])
    assert which.sum() == 12
    for i, record in enumerate(forward):
        own = SHAPES[i]
        assert (record["caption"] != own["caption"]) == which[i]
        np.testing.assert_array_equal(record["image"], own["image"])
        assert not which[i] or more[i]["caption"] == record["caption"]
    assert [Rewritten(SHAPES, 0.3, 3, 8)[i]["caption"] for i in range(40)] != [r["caption"] for r in forward]


def test_any_function_will_do_as_a_rewriter():
    def shout(caption, level, rng):
        return f"{caption.upper()} {level} {rng.integers(10**9)}"

    source = Rewritten(SHAPES, 1.0, 2, 0, shout)
    assert source[3]["caption"].startswith(f"{SHAPES[3]['caption'].upper()} 2 ")
    assert source[3]["caption"] == source[3]["caption"]


def test_bad_numbers_are_refused():
    for eta, level, seed, message in ((1.5, 1, 0, "eta"), (0.1, 6, 0, "level"), (0.1, 1, -1, "seed")):
        with pytest.raises(ValueError, match=message):
            Rewritten(SHAPES, eta, level, seed)
    with pytest.raises(ValueError, match="level must be 1"):
        rewritten("a dog", 0, 0)


def test_a_language_model_without_its_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="folder with a language model"):
        LanguageModelRewriter(tmp_path / "absent")


def test_threads_take_turns_with_a_language_model(tmp_path, monkeypatch):
    """One whose answer is drawn from a generator that all threads share, as PyTorch's is."""
    shared = SimpleNamespace(rng=None)

    def pipeline(task, model):
        def answer(prompt, **_):
            time.sleep(0.002)  # lets the others run
            return [{"generated_text": f"answer {shared.rng.random()}"}]

        return answer

    fake = SimpleNamespace(set_seed=lambda seed: setattr(shared, "rng", Random(seed)), pipeline=pipeline)
    monkeypatch.setitem(sys.modules, "transformers", fake)
    source = Rewritten(SHAPES, 1.0, 2, 0, LanguageModelRewriter(tmp_path))
    alone = [source[i]["caption"] for i in range(40)]
    assert len(set(alone)) == 40
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(lambda i: source[i]["caption"], range(40))) == alone


@pytest.mark.slow
def test_a_language_model_in_a_local_folder_rewrites(tmp_path):
    """A tiny one with random weights: its answer is nonsense, the same for the same generator."""
    transformers = pytest.importorskip("transformers")
    text = train_tokenizer([str(caption) for caption in SHAPES.extras["caption"]]).text
    (tmp_path / "tokens.json").write_text(text)
    names = {"pad_token": "[PAD]", "eos_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokens.json"), **names)
    config = transformers.GPT2Config(
        vocab_size=len(tokenizer), n_positions=512, n_embd=16, n_layer=1, n_head=2, eos_token_id=2, pad_token_id=0
    )
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    rewriter = LanguageModelRewriter(tmp_path / "model", longest=8)
    first, again, other = (rewriter("a red circle", 3, np.random.default_rng(seed)) for seed in (0, 0, 1))
    assert first == again != other
    with pytest.raises(ValueError, match="level must be"):
        rewriter("a red circle", 9, np.random.default_rng(0))
