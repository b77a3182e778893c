"""Weights out of .safetensors files, and of those that `torch.save` writes (.pth, .pt, .ckpt), without torch and
without running their code.

A file of torch 1.6 or later is a zip: `NAME/data.pkl`, a pickle, and a file `NAME/data/KEY` for each storage, which is
a flat array. An older one is a row of pickles (a magic number, a version, facts of the system, the object, the
storages' keys), then for each key its length (8 bytes) and numbers. In both a tensor is a storage, an offset, a shape
and strides.

A pickle can name any function to be called while it is read. Here tensors, parameters and ordered dictionaries are
made, and whatever else is named (callbacks of a trainer, an optimiser's options, NumPy's numbers) becomes an empty
stand-in: nothing of it is imported or called.
"""

import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np

from theory._checks import InputError, require

__all__ = ["read_arrays", "read_state_dict", "read_torch"]

MAGIC = 0x1950A86A20F9469CFC6C
"""The first object of a file older than torch 1.6."""
TYPES = {
    "DoubleStorage": "<f8", "FloatStorage": "<f4", "HalfStorage": "<f2", "LongStorage": "<i8", "IntStorage": "<i4",
    "ShortStorage": "<i2", "CharStorage": "<i1", "ByteStorage": "<u1", "BoolStorage": "?", "BFloat16Storage": "<u2",
}  # fmt: skip
"""The numbers of each kind of storage; those of bfloat16 are read as the upper halves of float32."""


class _Kind(NamedTuple):
    """The class of a storage, by name."""

    name: str


class _Storage(NamedTuple):
    key: str
    kind: str


class _Tensor(NamedTuple):
    """A tensor whose numbers are not read yet."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _StandIn:
    """Of anything that is none of the weights' business: takes whatever it is given, keeps nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def __setstate__(self, _: Any) -> None: ...

    def __setitem__(self, _: Any, __: Any) -> None: ...

    def add(self, _: Any) -> None: ...

    def append(self, _: Any) -> None: ...

    def extend(self, _: Any) -> None: ...


def _tensor(storage: Any, offset: Any, shape: Any, strides: Any, *_: Any) -> _Tensor:
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _parameter(data: Any, *_: Any) -> Any:
    return data


KNOWN: dict[tuple[str, str], Callable[..., Any]] = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch._utils", "_rebuild_tensor_v2"): _tensor,
    ("torch._utils", "_rebuild_tensor"): _tensor,
    ("torch._utils", "_rebuild_parameter"): _parameter,
}
"""All that a pickle may call."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module == "torch" and name in TYPES:
            return _Kind(name)
        return KNOWN.get((module, name), _StandIn)

    def persistent_load(self, pid: Any) -> Any:
        sound = isinstance(pid, tuple) and len(pid) >= 3 and pid[0] == "storage" and isinstance(pid[1], _Kind)
        if not sound:
            raise pickle.UnpicklingError("a storage of an unknown type")
        return _Storage(str(pid[2]), pid[1].name)


def read_arrays(file: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """The arrays of a file by name, and its metadata: of a .safetensors file, or as `read_state_dict`, without any.

    Raises `InputError` for a file that is missing or cannot be read.
    """
    from safetensors import SafetensorError, safe_open

    if file.suffix != ".safetensors":
        return read_state_dict(file), {}
    require(file.is_file(), "file", f"'{file}', which is no file", "a file of weights")
    try:
        with safe_open(file, framework="np") as opened:
            arrays = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 (no mapping)
            return arrays, opened.metadata() or {}
    except SafetensorError as error:
        raise InputError(f"'{file}' cannot be read as safetensors: {error}") from error


def read_torch(file: Path) -> object:
    """What the file holds: dictionaries and lists as they are, tensors as arrays (bfloat16 as float32).

    Raises `InputError` for a file that is missing, damaged, or not written by `torch.save`.
    """
    require(file.is_file(), "file", f"'{file}', which is no file", "a file written by torch.save")
    try:
        return _read_zip(file) if zipfile.is_zipfile(file) else _read_old(file)
    except InputError:
        raise
    except Exception as error:  # a damaged pickle may raise anything
        raise InputError(f"'{file}' cannot be read as a file of torch.save: {error or type(error).__name__}") from error


def read_state_dict(file: Path) -> dict[str, np.ndarray]:
    """The arrays of a file of `torch.save` by name: of the mapping that it holds, or of the one within this under
    `ema` (facebookresearch/DiT), `state_dict` (Lightning) or `model`.

    Raises `InputError` as `read_torch` does, and where there are no arrays.
    """
    held: Any = read_torch(file)
    for name in ("ema", "state_dict", "model"):
        if isinstance(held, Mapping) and isinstance(held.get(name), Mapping):
            held = held[name]
            break
    found = held.items() if isinstance(held, Mapping) else ()
    arrays = {name: value for name, value in found if isinstance(name, str) and isinstance(value, np.ndarray)}
    require(bool(arrays), "file", f"'{file}' without arrays", "a file with a state_dict")
    return arrays


def _read_zip(file: Path) -> Any:
    with zipfile.ZipFile(file) as opened:
        inside = [name for name in opened.namelist() if name.endswith("/data.pkl")]
        require(len(inside) == 1, "file", f"'{file}', a zip with other contents", "a file written by torch.save")
        folder = inside[0].removesuffix("data.pkl")
        order = folder + "byteorder"
        little = order not in opened.namelist() or opened.read(order) == b"little"
        require(little, "file", f"'{file}' with the highest bytes first", "one with the lowest bytes first")
        with opened.open(inside[0]) as stream:
            tree = _Unpickler(stream).load()
        numbers: dict[_Storage, np.ndarray] = {}

        def read(storage: _Storage) -> np.ndarray:
            if storage not in numbers:
                content = opened.read(f"{folder}data/{storage.key}")
                numbers[storage] = _decoded(np.frombuffer(content, TYPES[storage.kind]), storage.kind)
            return numbers[storage]

        return _filled(tree, read)


def _read_old(file: Path) -> Any:
    with file.open("rb") as stream:
        known = _Unpickler(stream).load() == MAGIC
        require(known, "file", f"'{file}' of another format", "a file written by torch.save")
        for _ in range(2):  # the version, and facts of the system
            _Unpickler(stream).load()
        tree, keys = (_Unpickler(stream).load() for _ in range(2))
        kinds = {storage.key: storage.kind for storage in _storages(tree)}
        numbers = {str(key): _read_numbers(stream, kinds[str(key)]) for key in keys}
    return _filled(tree, lambda storage: numbers[storage.key])


def _read_numbers(stream: IO[bytes], kind: str) -> np.ndarray:
    (count,) = struct.unpack("<q", stream.read(8))
    dtype = np.dtype(TYPES[kind])
    return _decoded(np.frombuffer(stream.read(count * dtype.itemsize), dtype, count), kind)


def _decoded(numbers: np.ndarray, kind: str) -> np.ndarray:
    return (numbers.astype("<u4") << 16).view("<f4") if kind == "BFloat16Storage" else numbers


def _storages(tree: Any) -> list[_Storage]:
    """All storages within mappings, lists and tuples."""
    if isinstance(tree, _Tensor):
        return [tree.storage]
    inner = list(tree.values()) if isinstance(tree, Mapping) else tree if isinstance(tree, list | tuple) else []
    return [storage for item in inner for storage in _storages(item)]


def _filled(tree: Any, read: Callable[[_Storage], np.ndarray]) -> Any:
    """The same with arrays for tensors."""
    if isinstance(tree, _Tensor):
        return _array(tree, read(tree.storage))
    if isinstance(tree, Mapping):
        return {key: _filled(value, read) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return [_filled(item, read) for item in tree]
    return tree


def _array(tensor: _Tensor, numbers: np.ndarray) -> np.ndarray:
    """A tensor's own numbers. Raises `InputError` where they lie outside of the storage."""
    if 0 in tensor.shape:
        return np.zeros(tensor.shape, numbers.dtype)
    last = tensor.offset + sum((size - 1) * step for size, step in zip(tensor.shape, tensor.strides, strict=True))
    inside = min(tensor.offset, *tensor.strides, 0) == 0 and last < numbers.size
    require(inside, "file", f"a tensor of shape {tensor.shape} beyond its {numbers.size} numbers", "whole")
    strides = [step * numbers.itemsize for step in tensor.strides]
    view = np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.shape, strides, writeable=False)
    return np.ascontiguousarray(view).reshape(tensor.shape)
