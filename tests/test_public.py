"""The names that the packages hand on: type checkers see what is loaded, and nothing is loaded before its use."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import branchax

FACES = ["branchax", "branchax.agents", "branchax.dynamics", "branchax.epoch", "branchax.worlds"]


def seen_by_checkers(module):
    """The public names of `module` as its text has them: redundant aliases, assignments and functions."""
    tree = ast.parse(Path(module.__file__).read_text())
    (branch,) = (node for node in tree.body if isinstance(node, ast.If))
    for node in branch.body:
        if isinstance(node, ast.ImportFrom):
            yield from (alias.asname for alias in node.names if alias.asname == alias.name)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets)
    if module.__name__ == "branchax.worlds":
        yield "make"


@pytest.mark.parametrize("face", FACES)
def test_type_checkers_see_what_is_handed_on(face):
    module = importlib.import_module(face)
    assert sorted(seen_by_checkers(module)) == module.__all__
    assert set(module.__all__) <= set(dir(module))
    with pytest.raises(AttributeError, match=f"'{face}' has no attribute 'no_such'"):
        _ = module.no_such


@pytest.mark.parametrize("face", FACES)
def test_every_name_is_there_and_no_module_hides_it(face):
    """Importing a submodule sets the package's attribute, which would take the place of a function of that name."""
    module = importlib.import_module(face)
    for name in module.__all__:
        value, path = getattr(module, name), Path(module.__file__).parent / name
        is_module = path.is_dir() or path.with_suffix(".py").exists()
        assert isinstance(value, ModuleType) == is_module, name
        # Which of the two was seen above may depend on what was imported before; the text does not.
        whole = f"from {face} import {name} as {name}" in Path(module.__file__).read_text()
        assert whole == is_module, f"{name} is a submodule's name"


def test_faces_load_no_jax():
    code = f"import sys, {', '.join(FACES)}, branchax.worlds.catalog; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_changelog_has_this_version():
    text = (Path(__file__).parents[1] / "CHANGELOG.md").read_text()
    assert f"## [{branchax.__version__}]" in text
