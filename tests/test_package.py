"""What holds for every module and every public name."""

import ast
import importlib
import inspect
import pkgutil
import subprocess
import sys
from importlib import resources

import pytest

import keras_vae_variance

NAMES = [
    info.name
    for info in pkgutil.walk_packages(
        keras_vae_variance.__path__, prefix="keras_vae_variance."
    )
]


def test_import_needs_no_heavy_optional_module():
    """None in `sys.modules` makes an import raise: Keras itself tries two of these."""
    source = (
        "import sys\n"
        "heavy = 'tensorflow_datasets', 'matplotlib', 'sklearn', 'PIL'\n"
        "sys.modules.update(dict.fromkeys(heavy))\n"
        "import keras_vae_variance\n"
        "assert not any(sys.modules[name] for name in heavy)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_is_typed():
    assert resources.files("keras_vae_variance").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", ["keras_vae_variance", *NAMES])
def test_public_names_exist_and_are_documented(name):
    module = importlib.import_module(name)
    assert module.__doc__
    assert len(set(module.__all__)) == len(module.__all__)
    for public in module.__all__:
        value = getattr(module, public)
        if inspect.isclass(value) or inspect.isroutine(value):
            assert value.__doc__, public


def exported():
    """Classes and functions that users reach from `keras_vae_variance`, by name."""
    found = {}
    namespaces = [keras_vae_variance] + [
        value
        for value in vars(keras_vae_variance).values()
        if inspect.ismodule(value) and value.__name__.startswith("keras_vae_variance.")
    ]
    for namespace in namespaces:
        # What only the package's other modules use is no part of the user's names.
        if namespace.__name__.rpartition(".")[2] in ("ops", "data", "running", "steps"):
            continue
        for name in namespace.__all__:
            found[f"{namespace.__name__}.{name}"] = getattr(namespace, name)
    return {name: value for name, value in found.items() if callable(value)}


def is_abstract(cls):
    """Whether other public classes derive from `cls`: users call those instead."""
    others = [value for value in exported().values() if inspect.isclass(value)]
    return any(issubclass(other, cls) and other is not cls for other in others)


def needs_example(value):
    if not inspect.isclass(value):
        return inspect.isfunction(value)
    return not (is_abstract(value) or issubclass(value, (Exception, tuple)))


@pytest.mark.parametrize(
    "name", sorted(name for name, value in exported().items() if needs_example(value))
)
def test_public_name_has_an_example(name):
    assert ">>>" in exported()[name].__doc__


@pytest.mark.parametrize(
    "name", sorted(name for name, value in exported().items() if inspect.isclass(value))
)
def test_public_methods_are_documented(name):
    """By themselves or by the base class whose method they override."""
    cls = exported()[name]
    for method, value in vars(cls).items():
        # Keras's own `build` has no docstring to inherit.
        if method.startswith("_") or method == "build":
            continue
        if inspect.isfunction(value) or isinstance(value, (property, classmethod)):
            assert inspect.getdoc(getattr(cls, method)), method


def test_value_errors_say_what_was_received():
    """Each ValueError tells what the user gave, as Keras's own do."""
    missing = []
    for name in NAMES:
        tree = ast.parse(inspect.getsource(importlib.import_module(name)))
        for node in ast.walk(tree):
            if (
                isinstance(node, ast.Raise)
                and isinstance(node.exc, ast.Call)
                and getattr(node.exc.func, "id", "") == "ValueError"
                and "Received: " not in ast.unparse(node.exc)
            ):
                missing.append(f"{name}, line {node.lineno}")
    assert not missing
