"""The notebooks parse, use public names and settings that exist, and run from top to bottom (slow)."""

import ast
import importlib
import importlib.util
import json
import re
from pathlib import Path

import pytest

import branchax
from branchax.config import flat, to_dict
from branchax.presets import PRESETS, preset

FOLDER = Path(__file__).parents[1] / "examples" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PUBLIC = ("branchax", "branchax.agents", "branchax.dynamics", "branchax.epoch", "branchax.worlds")


def cells(path, kind="code"):
    return [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == kind]


def tree_of(path):
    """The syntax tree of all code cells, one after the other."""
    return ast.parse("\n".join("".join(cell["source"]) for cell in cells(path)))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_uses_public_names_alone(path):
    tree = tree_of(path)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "branchax":
            assert node.module in PUBLIC
            assert {alias.name for alias in node.names} <= {*importlib.import_module(node.module).__all__, "worlds"}
        elif isinstance(node, ast.Import):
            assert all(alias.name == "branchax" or not alias.name.startswith("branchax") for alias in node.names)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "branchax":
            assert node.attr in branchax.__all__
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "run":
            assert hasattr(branchax.Run, node.attr) and not node.attr.startswith("_")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_settings_exist(path):
    found = 0
    for node in ast.walk(tree_of(path)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "branchax.preset":
            name, world = (ast.literal_eval(argument) for argument in node.args)
            fields = {keyword.arg: ast.literal_eval(keyword.value) for keyword in node.keywords}
            assert name in PRESETS and preset(name, world, **fields).world == world
            found += 1
    assert found
    settings = flat(to_dict(PRESETS["mbpo"]))
    for name in re.findall(r"\bconfig\.([a-z_.]+)", ast.unparse(tree_of(path))):
        assert name in settings, name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_is_committed_as_it_ran(path):
    """From top to bottom, without an error, small, and with nothing of the machine that it ran on."""
    assert path.stat().st_size < 300_000
    ran = cells(path)
    assert [cell["execution_count"] for cell in ran] == list(range(1, len(ran) + 1))
    outputs = [output for cell in ran for output in cell["outputs"]]
    assert sum("image/png" in output.get("data", {}) for output in outputs) >= 2
    assert not any(output["output_type"] == "error" or output.get("name") == "stderr" for output in outputs)
    assert not re.search(r"/(home|root|tmp|work|Users)/", json.dumps(outputs))


def test_links_lead_somewhere():
    for path in NOTEBOOKS:
        for link in re.findall(r"\]\(([^)#\s]+)", "".join("".join(cell["source"]) for cell in cells(path, "markdown"))):
            assert link.startswith("http") or (FOLDER / link).resolve().exists(), f"{path.name}: {link}"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    for package in ("nbclient", "ipykernel", "pandas"):
        pytest.importorskip(package)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    spec = importlib.util.spec_from_file_location("execute", FOLDER / "execute.py")
    execute = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(execute)
    execute.execute(path, tmp_path / path.name)
    assert [len(cell["outputs"]) > 0 for cell in cells(tmp_path / path.name)] == [
        len(cell["outputs"]) > 0 for cell in cells(path)
    ]
