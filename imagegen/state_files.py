"""States of networks (arrays by name) from files of other projects: safetensors, and PyTorch's .pth without PyTorch.

A .pth file is a pickle, and a pickle is a program. The one here is run by a reader that knows three things: ordered
mappings, how a tensor is cut from a storage (offset, shape, strides), and the names of number types. Everything else
that a file may ask for is refused before it runs. Both layouts that `torch.save` has had are read:

    since 1.6:  a zip archive with NAME/data.pkl and one entry NAME/data/KEY of bytes per storage
    before:     pickles of a magic number, a version, the machine, the state, and the storages' keys, followed for each
                key by its length (int64) and its bytes
"""

import io
import pickle
import struct
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from theory._checks import InputError, require

TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "|i1", "ByteStorage": "|u1", "BoolStorage": "|b1",
}  # fmt: skip
"""NumPy's names of PyTorch's storages."""
MAGIC = 0x1950A86A20F9469CFC6C
"""The first pickle of a file of the older layout."""
ALLOWED = "a .safetensors file, or a .pth file with a state_dict (tensors by name) and nothing else"


def read_state(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a .safetensors or .pth (.pt) file by name.

    Raises `InputError` for a file that is missing or damaged, and for one that holds anything but tensors by name.
    """
    require(file.is_file(), "weights", f"'{file}', which is no file", ALLOWED)
    try:
        if file.suffix == ".safetensors":
            from safetensors.numpy import load_file

            return load_file(file)
        state = _read_archive(file) if zipfile.is_zipfile(file) else _read_stream(file)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle can fail in any way
        raise InputError(f"'{file}' must be {ALLOWED}; got one that cannot be read ({error}).") from None
    return _checked(state, file)


def _checked(state: Any, file: Path) -> dict[str, np.ndarray]:
    """The state with every tensor cut from its storage."""
    require(isinstance(state, Mapping), f"'{file}'", f"a {type(state).__name__}", ALLOWED)
    other = [name for name, value in state.items() if not (isinstance(name, str) and isinstance(value, _Tensor))]
    require(not other, f"'{file}'", f"something else under {other[:3]}", ALLOWED)
    try:
        return {name: tensor.array() for name, tensor in state.items()}
    except (KeyError, ValueError, TypeError, zlib.error, zipfile.BadZipFile) as error:
        raise InputError(f"'{file}' must be {ALLOWED}; got one with damaged tensors ({error}).") from None


class _Storage(NamedTuple):
    """Where the numbers of tensors are: their type, and a function that reads them."""

    dtype: str
    read: Callable[[], bytes]


class _Tensor(NamedTuple):
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def array(self) -> np.ndarray:
        """A copy of the numbers; `ValueError` where they lie outside of the storage."""
        numbers = np.frombuffer(self.storage.read(), self.storage.dtype)
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.strides, strict=True))
        forward = min((0, *self.strides)) == 0 and min((1, *self.shape)) == 1
        if self.offset < 0 or last >= len(numbers) or not forward:
            raise ValueError(f"shape {self.shape} at {self.offset} of {len(numbers)} numbers")
        steps = tuple(step * numbers.itemsize for step in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps).copy()


def _rebuilt(storage: _Storage, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> _Tensor:
    if not isinstance(storage, _Storage):
        raise pickle.UnpicklingError("a tensor without a storage")
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


class _Reader(pickle.Unpickler):
    """Runs a pickle that may build ordered mappings and tensors, and nothing else; `widths` has the bytes per number of
    each storage that it named.
    """

    def __init__(self, stream: io.BufferedIOBase, read: Callable[[str], bytes]):
        super().__init__(stream)
        self.read = read
        self.widths: dict[str, int] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if module == "torch" and name in TYPES:
            return TYPES[name]
        raise InputError(f"weights must be {ALLOWED}; got a pickle that asks for {module}.{name}, which is not run.")

    def persistent_load(self, identity: Any) -> _Storage:
        kind, dtype, key, *_ = identity
        if kind != "storage" or dtype not in TYPES.values():
            raise pickle.UnpicklingError(f"a reference to {kind}")
        self.widths[str(key)] = np.dtype(dtype).itemsize
        return _Storage(dtype, lambda: self.read(str(key)))


def _read_archive(file: Path) -> Any:
    """The state of the zip layout; storages are read when they are asked for."""
    with zipfile.ZipFile(file) as archive:
        (listing,) = [name for name in archive.namelist() if name.endswith("/data.pkl")]
        folder, content = listing.removesuffix("data.pkl"), archive.read(listing)
        order = archive.read(f"{folder}byteorder") if f"{folder}byteorder" in archive.namelist() else b"little"
    require(order == b"little", f"'{file}'", f"byte order {order.decode()}", "little-endian")

    def read(key: str) -> bytes:
        with zipfile.ZipFile(file) as archive:
            return archive.read(f"{folder}data/{key}")

    return _Reader(io.BytesIO(content), read).load()


def _read_stream(file: Path) -> Any:
    """The state of the older layout."""
    storages: dict[str, bytes] = {}
    with file.open("rb") as stream:
        if _Reader(stream, storages.__getitem__).load() != MAGIC:
            raise pickle.UnpicklingError("no file of torch.save")
        for _ in ("version", "machine"):
            _Reader(stream, storages.__getitem__).load()
        reader = _Reader(stream, storages.__getitem__)
        state = reader.load()
        for key in _Reader(stream, storages.__getitem__).load():
            (count,) = struct.unpack("<q", stream.read(8))
            storages[key] = stream.read(count * reader.widths[key])
    return state
