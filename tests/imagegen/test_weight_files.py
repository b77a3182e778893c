"""Files that torch.save wrote are read without torch, and nothing in them is run."""

import base64
import io
import os
import pickle
import zipfile
import zlib
from collections import OrderedDict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imagegen.weight_files import read_state_dict, read_torch
from theory._checks import InputError

NEW = """
eNqlVktz21QUvn7EdtSQOGkgNEAoj1KHtI7lV+w2jRPRKgWV4prHeLIxsqzYmiqWj3ydBGYyEwYSYMcvYLrtmgUsvWRbhukwAwtmWDCsgDVdcK6UOJKC65J
c+1ijx/ed7557z2cVpUCQkEiEHBtRMkFkU2lom+p8TaZyvHVXF4VRsuYau/4dILHyEALUlqE0wCcFyhyetalM1UpNUyj4FcXQdVWhmtFsc++YNdVUa9fxDg
eB2RIEbfhWw9BVGFKogUnjlQ7V9DZXMdVqR9NrFao224ZZ2UxyEIrFymErg2HKdRXCNoQTdUOm79oXOYiUffhMAobLATwqrQ5w0giFM3ckIgWk4D6MSEHJt
w9PfdlgIkYpjJUgWsZikE1N3YLxBuZphBuRxnDDQk7cQYBf8u/DWTwgwaSNfJrCMyWYspANWV+HZ23kgaqbeKkn6pwliodppPRTeI6J8e/B85JvD16w6WYo
vFiC81ZJqqasNeElF59gTZPP9jhftjiT8ApyBii8ak1wDy4wztdszosUYiWYtTgVo9Ok8LqL85bRrPf45iy+FFxCPh+Fy8g3O2vzxCnMlyBhPdACvs9StWR
T3lCpanKQPCyiBUlDyuZMM40+Vv2Mfcja/AsUciXIf2GdXPkcrpZg0apr02iqcM1FloElJCMUCoyMsHVZxnVBshWbTKDwRgmud8rDbNayrldl5W4bbuyAqM
hmHVW2VW7FrHc21CYtsjMUvHp06zZOot2SFSzJzdlP4M0deMtKvA2S5GtX25YwEzc53FotFKtv//D3/UedeFEKR/56tD0XxV3Hoti3v6bIXK+/4uuGuSHTy
qZqtrFJROGip836Dp4l/PbPXz5l0lj0TzhNFo4SHjRPRda1epNVQBRST5rTObJpJqCwBX/4MYX/sQLGSaEnoPoRVQ3mBKJw9SR5D4euUaqrTMPetd/OhTBL
6LEaRsmSy9XmE6Jw5RQCbNbdAv4s4xdjF+MeRhfjVwyygjsB4zxGYoUp3d5ZX0owcxqgdNKtlBeF6DGlJEe6jPOz++Wv2IYMDuBcdnMmRWHxNOVf6xaWu7u
rTMGNiZ/XTlD/1OnqHz7gZQpaD383WMrIAAWLbgVpUciRk6//vQLL/f3tC3l3/cmT1D9z2vr3n+cYOdvL1fOVMW+yFMfUP/i6/v7g/p0hySMDseSjZ2roIB
/L7K+9otVEIf4/Z8Mns7lMdiGVz+azafwkszzPpzOZVCKbTOczuQSf4XOZhQWmcrKrj8dQR8xS6WNiezqdnhs9ptz7HuNFOw10yoX8MED6ubSXxGmC0y6SB
06SY87r5XEa2biLpxQkxw3UC3e6y6gL/jBIPN7nxTpdxI3dHfJgeS/W2f9u7I9ebNKLdXauG/tByINNebHOznNjf/Ji04fY/+5N53gv7MFmvHmdPTPmwnYd
2D57xbmVZ1zgiQgZ0GRFKRS6dNiSgcs95Ijn+I89VfJd5NAiQ5ZbfnPGPrffFoZCNmbEet5+9l+eHrSR
"""
OLD = """
eNp1k8ly00AQhrXYMRFJCDthDbvNYizbeGFzHEISUBISc9GFUsnyYAkUyS2NEqDKVeaQEHgGDjnCW/gZeAKuHDlSlQM9krOBUbk1msXf/0/3TEf4LNlbX6Z
/j7/+ujiW7gjzP0V8t4FLqqMcx7U8l7qGa2srxPMt1wEeF6jDOGNblNpEI07D0h0QNlQJB+m7FtF86z3xQWxDLKnGcdA3XY9CXBFUEXuWQ2FAiakxxnCdJi
SUWBBsa7L1pOUaJvCKGCJ9qlOiNSyDgmCgE5sYFI340nOvQTzSmMIZCcRUbVtu1XRtAnGDup5hprWAWrYvaR6pB5bd0ChxfNfTVrISDCSTaiJUcD29SSAR/
UWatl2dvogGJTigjuCacl4uy9lSPi9nipk8DIZbMVoBSMrQAoWDSwqniEpsHYaUmMKvw/Ank1kaoXCoBqPhZlcssgqHTVQ1E2Zf6hEzoh1dQoigCOtwDBuE
Ho9oJyicrMGpkGbq9isYi2g937M4tGP79K6AXC7J2UIxm4EzKCCgwFlmV1iDcwq/Bucj+AUK4zW4GKaw7umWA5f20SfDtMiFHYXLfymgQAauoIKIClfDhKz
BNaZwPVJIUsD3jVDBcAM8Bzf3Kczhadih39pLL5aKpRz6v410HulppKdSEfUOhUwNZJVnpxWy/yl7S/f0ZUKJJ0Hu3xJE/otyFvI9hbvMP88qWYiaYqRWol
Cuwb2NsHP/IzyowcOwHo7rEHjUH53LFQp5qCCaQ/QEQ3OsulWsLqInI/RjClM1eBKogyw/um3XdeOND9NtmDF0r4k78IlU9ZrBMnHoIuvhZmZ3pxZwg35LN
zB5T1Mf4FkblDApb2FO4f26H9r08DLB/ExlsT7//de3LXbvXrJ71yfZfL8TJPQrutgvk7F+OYj3O/YDJM18sifRa4Vey5W4rtj77FYmup2Z7ZUct1nZ/hri
9j4dNj6BP4wOxiZGF+MHBlfluFGMcYxM9Q+hLUST
"""
"""What torch 2.13 wrote, new and old format, deflated: `torch.save(tree, file)` of

    base = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    state = OrderedDict(whole=base, view=base[1:, ::2].t(), half=torch.tensor([0.5, -2.0]).half(),
        brain=torch.tensor([1.5, -3.0, 65536.0]).bfloat16(), count=torch.tensor(7),
        p=torch.nn.Parameter(torch.tensor([[1.25]])), none=torch.zeros(0, 2))
    tree = {"epoch": 3, "state_dict": state, "callbacks": {ArgumentParser: Namespace(x=1)}, "rate": 1e-3}
"""
FILES = {name: zlib.decompress(base64.b64decode(text)) for name, text in (("new", NEW), ("old", OLD))}
WHOLE = np.arange(12, dtype=np.float32).reshape(3, 4)
EXPECTED = {
    "whole": WHOLE, "view": WHOLE[1:, ::2].T, "half": np.array([0.5, -2.0], np.float16),
    "brain": np.array([1.5, -3.0, 65536.0], np.float32), "count": np.array(7), "p": np.array([[1.25]], np.float32),
    "none": np.zeros((0, 2), np.float32),
}  # fmt: skip
every = pytest.mark.parametrize("format", FILES)


def written(folder, content):
    file = folder / "weights.pth"
    file.write_bytes(content)
    return file


@every
def test_what_torch_wrote_is_read(format, tmp_path):
    file = written(tmp_path, FILES[format])
    found = read_state_dict(file)
    assert found.keys() == EXPECTED.keys()
    for name, value in EXPECTED.items():
        assert (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        np.testing.assert_array_equal(found[name], value)
    held = read_torch(file)
    assert (held["epoch"], held["rate"]) == (3, 1e-3)
    assert held["callbacks"].keys().isdisjoint({"x"})


def zipped(tree):
    """A zip as torch writes it, of an object without tensors."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as opened:
        opened.writestr("archive/data.pkl", pickle.dumps(tree, protocol=2))
    return content.getvalue()


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return os.system, (f"touch {self.file}",)


def test_nothing_is_run(tmp_path):
    for content in (zipped({"evil": Evil(tmp_path / "run")}), pickle.dumps(Evil(tmp_path / "run"), protocol=2)):
        with pytest.raises(ValueError, match=r"'.*weights\.pth'"):
            read_state_dict(written(tmp_path, content))
    assert not (tmp_path / "run").exists()
    pickle.loads(pickle.dumps(Evil(tmp_path / "run")))  # the command does what it says
    assert (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["ema", "state_dict", "model"])
def test_arrays_are_found_where_trainers_put_them(name, tmp_path, monkeypatch):
    arrays = {"a": np.ones(2)}
    monkeypatch.setattr("imagegen.weight_files.read_torch", lambda file: {name: arrays, "opt": {"b": np.ones(3)}})
    assert read_state_dict(tmp_path).keys() == {"a"}
    monkeypatch.setattr("imagegen.weight_files.read_torch", lambda file: arrays)
    assert read_state_dict(tmp_path).keys() == {"a"}


@pytest.mark.parametrize(("content", "message"), [
    (None, "which is no file"),
    (b"", "cannot be read as a file of torch.save"),
    (b"no pickle", "cannot be read as a file of torch.save"),
    (pickle.dumps({"a": 1}), "of another format"),
    (zipped({"epoch": 1}), "without arrays"),
    (zipped([1, 2]), "without arrays"),
    (FILES["new"][:500], "cannot be read as a file of torch.save"),
    (FILES["old"][:-3], "cannot be read as a file of torch.save"),
])  # fmt: skip
def test_other_files_are_refused(content, message, tmp_path):
    file = tmp_path / "absent.pth" if content is None else written(tmp_path, content)
    with pytest.raises(ValueError, match=message):
        read_state_dict(file)


def test_a_tensor_beyond_its_numbers_is_refused(tmp_path):
    """The view starts at the fifth of 12 numbers; 0x28 is claimed."""
    offset = FILES["old"].index(b"view") + FILES["old"][FILES["old"].index(b"view") :].index(b"K\x04")
    broken = FILES["old"][:offset] + b"K\x28" + FILES["old"][offset + 2 :]
    with pytest.raises(ValueError, match=r"shape \(2, 2\) beyond its 12 numbers"):
        read_state_dict(written(tmp_path, broken))


@given(st.sampled_from(sorted(FILES)), st.data())
def test_damage_is_refused_or_unseen_and_never_crashes(tmp_path_factory, format, data):
    content = bytearray(FILES[format])
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    file = written(tmp_path_factory.mktemp("damaged"), bytes(content))
    try:
        found = read_state_dict(file)
    except InputError:  # any other error fails the test
        return
    assert all(isinstance(value, np.ndarray) for value in found.values())


def test_an_ordered_dictionary_is_a_mapping(tmp_path):
    assert read_torch(written(tmp_path, zipped(OrderedDict(a=1)))) == {"a": 1}
