"""States are read from .pth files without PyTorch, and nothing in a file is run."""

import io
import json
import pickle
import struct
import sys
import types
import zipfile

import numpy as np
import pytest
from safetensors.numpy import save_file

from imagegen.state_files import MAGIC, read_state

rng = np.random.default_rng(0)
STORAGES = {"0": rng.standard_normal(24).astype(np.float32), "1": np.arange(7)}
STATE = {"view": STORAGES["0"].reshape(4, 6)[1:, ::2].T, "all": STORAGES["0"].reshape(2, 3, 4), "steps": STORAGES["1"]}
CUTS = {"view": ("0", 6, (3, 3), (2, 6)), "all": ("0", 0, (2, 3, 4), (12, 4, 1)), "steps": ("1", 0, (7,), (1,))}
"""Of each tensor its storage, offset, shape and strides."""


@pytest.fixture
def torch(monkeypatch):
    """Modules by the names that a .pth file's pickle mentions: enough to write such a file."""
    fake, utils = types.ModuleType("torch"), types.ModuleType("torch._utils")
    for name in ("FloatStorage", "LongStorage"):
        setattr(fake, name, type(name, (), {"__module__": "torch"}))

    def _rebuild_tensor_v2():
        raise AssertionError

    _rebuild_tensor_v2.__module__, _rebuild_tensor_v2.__qualname__ = "torch._utils", "_rebuild_tensor_v2"
    utils._rebuild_tensor_v2 = fake.rebuild = _rebuild_tensor_v2
    monkeypatch.setitem(sys.modules, "torch", fake)
    monkeypatch.setitem(sys.modules, "torch._utils", utils)
    return fake


class Tensor:
    """Pickled as PyTorch pickles a tensor."""

    def __init__(self, torch, key, offset, shape, strides):
        kind = torch.FloatStorage if key == "0" else torch.LongStorage
        self.storage = types.SimpleNamespace(identity=("storage", kind, key, "cpu", STORAGES[key].size))
        self.parts = torch.rebuild, (self.storage, offset, shape, strides, False, {})

    def __reduce__(self):
        return self.parts


class Pickler(pickle.Pickler):
    def persistent_id(self, value):
        return getattr(value, "identity", None)


def pickled(value):
    stream = io.BytesIO()
    Pickler(stream, 2).dump(value)
    return stream.getvalue()


def tensors(torch, cuts):
    return {name: Tensor(torch, *cut) for name, cut in cuts.items()}


def write_new(file, content, order=b"little"):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("weights/data.pkl", content)
        archive.writestr("weights/byteorder", order)
        for key, values in STORAGES.items():
            archive.writestr(f"weights/data/{key}", values.tobytes())


def write_old(file, content):
    parts = [pickled(MAGIC), pickled(1001), pickled({"little_endian": True}), content, pickled(list(STORAGES))]
    parts += [struct.pack("<q", values.size) + values.tobytes() for values in STORAGES.values()]
    file.write_bytes(b"".join(parts))


@pytest.mark.parametrize("write", [write_new, write_old])
def test_tensors_are_cut_from_their_storages(write, torch, tmp_path):
    write(tmp_path / "state.pth", pickled(tensors(torch, CUTS)))
    found = read_state(tmp_path / "state.pth")
    assert found.keys() == STATE.keys()
    for name, values in STATE.items():
        np.testing.assert_array_equal(found[name], values)
        assert found[name].dtype == values.dtype


def test_safetensors_are_read(tmp_path):
    arrays = {name: np.ascontiguousarray(values) for name, values in STATE.items()}
    save_file(arrays, tmp_path / "state.safetensors")
    found = read_state(tmp_path / "state.safetensors")
    assert all(np.array_equal(found[name], values) for name, values in arrays.items())


class Runs:
    """What a hostile file would do."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return open, (str(self.file), "w")


@pytest.mark.parametrize("write", [write_new, write_old])
def test_nothing_in_a_file_is_run(write, torch, tmp_path):
    write(tmp_path / "state.pth", pickled({**tensors(torch, CUTS), "x": Runs(tmp_path / "run")}))
    with pytest.raises(ValueError, match=r"asks for (io|_io|builtins)\.open, which is not run"):
        read_state(tmp_path / "state.pth")
    assert not (tmp_path / "run").exists()


OUTSIDE = {
    "beyond the end": ("0", 20, (2, 3), (3, 1)),
    "before the start": ("0", -1, (2,), (1,)),
    "negative strides": ("0", 3, (2,), (-1,)),
    "shape and strides of different length": ("0", 0, (2, 2), (1,)),
}


@pytest.mark.parametrize("case", OUTSIDE)
def test_tensors_outside_of_their_storage_are_refused(case, torch, tmp_path):
    write_new(tmp_path / "state.pth", pickled(tensors(torch, {"x": OUTSIDE[case]})))
    with pytest.raises(ValueError, match="damaged tensors"):
        read_state(tmp_path / "state.pth")


def test_other_files_are_refused(torch, tmp_path):
    file = tmp_path / "state.pth"
    with pytest.raises(ValueError, match="which is no file"):
        read_state(file)
    whole = pickled(tensors(torch, CUTS))
    old = pickled(MAGIC) + pickled(1001) + pickled({})
    contents = {
        "cannot be read": b"not at all",
        "cannot be read ": pickled(1),
        "a list": old + pickled([1, 2]) + pickled([]),
        r"something else under \['epoch'\]": old + pickled({"epoch": 3}) + pickled([]),
    }  # fmt: skip
    for message, content in contents.items():
        file.write_bytes(content)
        with pytest.raises(ValueError, match=message.strip()):
            read_state(file)
    write_new(file, whole, b"big")
    with pytest.raises(ValueError, match="byte order big"):
        read_state(file)
    write_old(file, whole)
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(ValueError, match="damaged tensors"):
        read_state(file)
    (tmp_path / "state.safetensors").write_text(json.dumps({"no": "header"}))
    with pytest.raises(ValueError, match="cannot be read"):
        read_state(tmp_path / "state.safetensors")
