"""Embeddings of captions on disk: as near to what the encoder made as said, and refused where they are not."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.data.decode import Unreadable
from imagegen.data.embeddings import Frozen, filled, load_frozen, save_frozen, stored, unpack_states

sizes = st.integers(1, 6)


@given(st.integers(0, 2**32 - 1), sizes, sizes, st.integers(0, 4), st.floats(-9, 4.5))
def test_states_are_read_as_they_were_within_the_rounding_that_is_stated(seed, n, width, more, power):
    rng = np.random.default_rng(seed)
    states = (rng.normal(size=(n, width)).clip(-2, 2) * 10.0**power).astype(np.float32)
    found = unpack_states(stored(states).tobytes(), n, (n + more, width))
    assert found.shape == (n + more, width)
    assert not found[n:].any()
    np.testing.assert_array_equal(found, filled(states, n + more))
    error = np.abs(found[:n].astype(np.float64) - states)
    assert np.all(error <= np.maximum(2.0**-11 * np.abs(states), 2.0**-25))


@pytest.mark.parametrize("bad", [65520.0, -7e4, np.inf, np.nan])
def test_states_that_float16_cannot_hold_are_refused(bad):
    states = np.ones((2, 3), np.float32)
    states[1, 2] = bad
    with pytest.raises(ValueError, match="states of the text encoder must be below 65520 in size; got 1 of 6 that"):
        stored(states)
    states[1, 2] = 65519.0
    assert stored(states)[1, 2] == 65504


def test_more_tokens_than_places_are_refused():
    with pytest.raises(ValueError, match="must be of at most 3 tokens; got 4 tokens"):
        filled(np.ones((4, 2), np.float32), 3)


@pytest.mark.parametrize(("content", "tokens"), [
    (b"", 1), (b"\0" * 8, 1), (b"\0" * 13, 2), (b"\0" * 18, 3), (b"", -1),
    (np.full(6, np.nan, np.float16).tobytes(), 2),
])  # fmt: skip
def test_other_bytes_are_unreadable(content, tokens):
    """Of two tokens at most, with three numbers each."""
    with pytest.raises(Unreadable, match="states"):
        unpack_states(content, tokens, (2, 3))


def test_what_a_run_knows_of_its_encoder_is_kept(tmp_path):
    frozen, file = Frozen("abc", np.arange(6, dtype=np.float16).reshape(2, 3)), tmp_path / "text.npz"
    save_frozen(frozen, file)
    found = load_frozen(file)
    assert found.encoder == "abc"
    np.testing.assert_array_equal(found.null, frozen.null)
    whole = file.read_bytes()
    for content in (whole[:-30], b"", b"no archive"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match=r"text\.npz' must be what `prepare` wrote of its text encoder; got "):
            load_frozen(file)
    with pytest.raises(ValueError, match="must be what `prepare` wrote of its text encoder"):
        load_frozen(tmp_path / "absent.npz")
