"""Everything public says what it takes, what it returns and what it refuses."""

import inspect
import pkgutil
import typing

import pytest

import theory


def _public():
    for module in pkgutil.walk_packages(theory.__path__, "theory."):
        if module.name.rsplit(".", 1)[1].startswith("_") or module.name.endswith("__main__"):
            continue
        loaded = __import__(module.name, fromlist=["_"])
        for name, value in vars(loaded).items():
            mine = getattr(value, "__module__", None) == module.name
            if mine and not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)):
                yield f"{module.name}.{name}", value


PUBLIC = dict(_public())


def test_the_public_list_is_complete_and_importable():
    assert len(set(theory.__all__)) == len(theory.__all__)
    assert all(hasattr(theory, name) for name in theory.__all__)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_objects_have_docstrings_and_annotations(name):
    value = PUBLIC[name]
    assert inspect.getdoc(value), name
    if inspect.isfunction(value):
        signature = inspect.signature(value)
        unannotated = [p.name for p in signature.parameters.values() if p.annotation is inspect.Parameter.empty]
        assert not unannotated, (name, unannotated)
        assert signature.return_annotation is not inspect.Signature.empty, name
        assert typing.Any not in (signature.return_annotation,), name
