"""Everything public says what it takes, what it returns and what it refuses."""

import ast
import functools
import inspect
import pkgutil
import re
import typing

import pytest

import imagegen
import sim
import theory


def _modules():
    for package in (theory, sim, imagegen):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.rsplit(".", 1)[1].startswith("_"):
                yield __import__(module.name, fromlist=["_"])


def _public():
    """Functions and classes of public modules: those defined there, and those named in their `__all__`."""
    for module in _modules():
        for name, value in vars(module).items():
            ours = (getattr(value, "__module__", None) or "").startswith(("theory.", "sim.", "imagegen."))
            mine = getattr(value, "__module__", None) == module.__name__ or name in getattr(module, "__all__", ())
            if ours and mine and not name.startswith("_") and (inspect.isfunction(value) or inspect.isclass(value)):
                yield f"{value.__module__}.{name}", value


PUBLIC = dict(_public())


@pytest.mark.parametrize("package", [theory, sim, imagegen])
def test_the_public_list_is_complete_and_importable(package):
    assert len(set(package.__all__)) == len(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


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


# --- what is refused is said: "Raises ..." wherever something is required, by itself or one private function deeper

HOOKS = ("__init__", "__check_init__", "__post_init__")
CHECK = re.compile(r"_?require\w*|check_(sizes|setting)")


def _calls(function):
    """Names that a function's own source calls; "require" for a `raise` of ValueError and the like."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func)
        if isinstance(node, ast.Raise) and node.exc and not ast.unparse(node.exc).startswith("AssertionError"):
            yield "require"


def _functions_in(source):
    """Functions and methods of a module's source by name, `Class.method` for these, as syntax trees."""
    body = ast.parse(source).body
    found = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    for owner in (node for node in body if isinstance(node, ast.ClassDef)):
        found |= {f"{owner.name}.{node.name}": node for node in owner.body if isinstance(node, ast.FunctionDef)}
    return found


@functools.cache
def _functions(module):
    return _functions_in(inspect.getsource(__import__(module, fromlist=["_"])))


def refuses(functions, name, *, deeper=True):
    """Whether a function checks what it is given, itself or through a private function beside it."""
    calls = set(_calls(functions[name]))
    if any(CHECK.fullmatch(call) for call in calls):
        return True
    private = {
        call.replace("self.", name.rpartition(".")[0] + ".") for call in calls if re.match(r"(self\.)?_[a-z]", call)
    }
    return deeper and any(refuses(functions, call, deeper=False) for call in private & set(functions))


def _texts():
    """Each public function, class and method: its module, the functions that check for it, and its docstring."""
    for name, value in PUBLIC.items():
        module, _, short = name.rpartition(".")
        if inspect.isfunction(value) and short in _functions(module):
            yield name, module, [short], value.__doc__
        if inspect.isclass(value):
            methods = {key.rpartition(".")[2]: key for key in _functions(module) if key.startswith(f"{short}.")}
            yield name, module, [key for method, key in methods.items() if method in HOOKS], value.__doc__
            for method, key in methods.items():
                if not method.startswith("_"):
                    yield f"{name}.{method}", module, [key], ast.get_docstring(_functions(module)[key]) or ""


REFUSING = {
    name: text
    for name, module, functions, text in _texts()
    if any(refuses(_functions(module), function) for function in functions)
}


def test_the_search_finds_what_checks_its_arguments():
    source = """
def direct(x):
    require(x > 0, "x", x, "positive")
def _inner(x):
    raise ValueError(x)
def outer(x):
    return _inner(x)
def free(x):
    raise AssertionError("never")
class Law:
    def __check_init__(self):
        self._all()
    def _all(self):
        require_finite("x", self.x)
    def mean(self):
        return self.x
"""
    functions = _functions_in(source)
    found = [name for name in functions if refuses(functions, name)]
    assert found == ["direct", "_inner", "outer", "Law.__check_init__", "Law._all"]
    assert len(REFUSING) > 100  # of the real ones: the search has not gone blind


@pytest.mark.parametrize("name", REFUSING)
def test_what_is_refused_is_said(name):
    assert re.search(r"\b[Rr]aises?\b", REFUSING[name]), f"{name} checks its arguments: say what it raises, and when"
