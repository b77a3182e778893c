"""Captions as a frozen text encoder sees them, prepared once (`imagegen.prepare`, `imagegen.text_encoders`).

    "a red circle"  ->  e_1, ..., e_n, 0, ..., 0       `length` vectors of `width` numbers

Of each caption the encoder's last hidden states e at its own n tokens are stored, behind the image or latent of its
record, whose header says n as `tokens`; when it is read they are filled up with zeros. A network attends to all of
them, and the operators on the condition act on all, as on a trained encoder's padding. No caption, in training and in
guidance, is the empty caption seen by the same encoder.

They are stored as float16, half of the disk: CC3M's three million captions, about 12 tokens each, seen by BERT-base are
55 GB. An encoder ends in a norm, so its states are of size 1 to 100; what is read differs from them by at most 2⁻¹¹ of
their size, and where they are smaller than 2⁻¹⁴ by at most 2⁻²⁵. What float16 cannot hold (from 65520 on) is refused.
"""

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Float16

from imagegen.data.decode import Unreadable
from theory._checks import InputError, require
from theory._files import write_whole

FROZEN = "text.npz"
"""The file, in a prepared folder and in that of a run, with what must be known of the encoder."""


class Frozen(NamedTuple):
    """What a network must know of a frozen encoder: the SHA-256 that it is known by (`encoder`), and the empty caption
    as it sees it.
    """

    encoder: str
    null: Float16[np.ndarray, "length width"]


@runtime_checkable
class CaptionEncoder(Protocol):
    """What is stored of captions, of `length` tokens at most: `imagegen.text_encoders.FrozenEncoder`, say."""

    length: int

    def about(self) -> dict[str, Any]:
        """What the manifest says of it: `encoder`, a name that no other one has; `length` and `width`."""

    def __call__(self, captions: Sequence[str]) -> Sequence[Float[np.ndarray, "n width"]]:
        """The states of each caption's n tokens, n <= length. It is called by several threads at once."""


def stored(states: Float[np.ndarray, "n width"]) -> Float16[np.ndarray, "n width"]:
    """The states as they are stored. Raises `InputError` for those that float16 cannot hold."""
    with np.errstate(over="ignore"):
        found = states.astype(np.float16)
    bad = int(found.size - np.count_nonzero(np.isfinite(found)))
    require(bad == 0, "states of the text encoder", f"{bad} of {found.size} that are not", "below 65520 in size")
    return found


def filled(states: Float[np.ndarray, "n width"], length: int) -> Float16[np.ndarray, "length width"]:
    """The states of one caption, as they are stored, and zeros up to `length`. Raises `InputError` for more of them."""
    n, width = states.shape
    require(n <= length, "states of the text encoder", f"{n} tokens", f"of at most {length} tokens")
    return np.concatenate([stored(states), np.zeros((length - n, width), np.float16)])


def unpack_states(content: bytes, tokens: int, shape: tuple[int, int]) -> Float16[np.ndarray, "length width"]:
    """The states of `tokens` tokens from their bytes, filled up to `shape` (length, width). Raises `Unreadable` for
    other bytes.
    """
    length, width = shape
    if len(content) != 2 * tokens * width or not 0 <= tokens <= length:
        raise Unreadable(f"no states of {tokens} tokens, of at most {length}, with {width} numbers each")
    states = np.frombuffer(content, np.float16).reshape(tokens, width)
    if not np.isfinite(states).all():
        raise Unreadable("states that are not finite")
    return filled(states, length)


def save_frozen(frozen: Frozen, file: Path) -> None:
    """Write it, whole or not at all."""
    stream = io.BytesIO()
    np.savez(stream, encoder=np.array(frozen.encoder), null=frozen.null)
    write_whole(file, stream.getvalue())


def load_frozen(file: Path) -> Frozen:
    """Read what `save_frozen` wrote. Raises `InputError` for a file that is missing or another."""
    try:
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return Frozen(str(archive["encoder"]), archive["null"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise InputError(f"'{file}' must be what `prepare` wrote of its text encoder; got {error}.") from None
