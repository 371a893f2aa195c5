"""The shape of the library: imports point one way, and a few things are nowhere."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "branchax"
FILES = sorted(SOURCE.rglob("*.py"))

# Lowest first. A module may import from its own tier and from those below.
TIERS = [
    {"errors", "public", "pretrained"},
    {"config", "types", "outside"},
    {"worlds.catalog"},
    {"checks", "presets"},
    {"nn", "optimizer", "distributions", "normalize", "returns", "replay", "sharding"},
    {"worlds"},
    {"dynamics"},
    {"rollout", "policies"},
    {"gradients"},
    {"agents"},
    {"epoch"},
    {"own"},
    {"build"},
    {"devices"},
    {"runs"},
    {"deploy", "sweeps", "views", "lab"},
    {"commands"},
    {"cli", "__main__"},
]
BEFORE_JAX = [
    "__init__",
    "__main__",
    "agents.__init__",
    "cli",
    "commands.__init__",
    "commands.base",
    "commands.dataset",
    "commands.diagnose",
    "commands.evaluate",
    "commands.export",
    "commands.flags",
    "commands.lab",
    "commands.list",
    "commands.resume",
    "commands.sweep",
    "commands.plot",
    "commands.render",
    "commands.report",
    "commands.train",
    "commands.doctor",
    "commands.check_world",
    "commands.completion",
    "commands.play",
    "commands.runs",
    "checks.__init__",
    "checks.files",
    "checks.mesh",
    "checks.world",
    "config.__init__",
    "config.agents",
    "config.critic",
    "config.changes",
    "config.fields",
    "config.model",
    "config.names",
    "config.rollout",
    "config.run",
    "devices.__init__",
    "devices.cache",
    "devices.distributed",
    "dynamics.__init__",
    "epoch.__init__",
    "errors",
    "outside",
    "presets.__init__",
    "presets.methods",
    "presets.tasks",
    "pretrained.__init__",
    "public",
    "runs.__init__",
    "runs.entry",
    "runs.rundir",
    "runs.lock",
    "runs.signals",
    "sweeps.__init__",
    "sweeps.sweep",
    "sweeps.launch",
    "sweeps.search",
    "worlds.__init__",
    "worlds.catalog",
]
ALLOWED_BASES = {
    "NamedTuple",
    "Exception",
    "ValueError",
    "RuntimeError",
    "RunError",
    "enum.IntEnum",
    "gymnasium.Env",
    "linen.Module",
    "http.server.BaseHTTPRequestHandler",
    "yaml.SafeLoader",
    "Upkeep",
    "nn.Module",
}


def module_of(file):
    return ".".join(file.relative_to(SOURCE).with_suffix("").parts)


def tier(module):
    """The index of the tier of `a.b`, by its longest listed prefix; -1 for the package itself."""
    found = [(len(name), i) for i, names in enumerate(TIERS) for name in names if f"{module}.".startswith(f"{name}.")]
    assert found or module in ("", "__init__"), f"{module} has no tier: add it to TIERS"
    return max(found)[1] if found else -1


def imports(file, top_level=False):
    """The modules that a file imports, absolute names."""
    tree = ast.parse(file.read_text())
    for node in tree.body if top_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield node.module
            if node.module.split(".")[0] == "branchax":  # `from branchax import nn` imports a module
                yield from (
                    f"{node.module}.{alias.name}" for alias in node.names if _is_module(node.module, alias.name)
                )


def _is_module(package, name):
    path = SOURCE.parent / Path(*package.split(".")) / name
    return path.with_suffix(".py").exists() or path.is_dir()


def own(names):
    return {name.removeprefix("branchax").removeprefix(".") for name in names if name.split(".")[0] == "branchax"}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_point_one_way(file):
    here = module_of(file)
    for there in own(imports(file)) - {""}:
        if here != "__init__":  # the package's lazy names point everywhere
            assert tier(there) <= tier(here), f"{here} imports {there}, which lies above it"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_dynamics_and_agents_do_not_meet(file):
    parts = {name.split(".")[0] for name in own(imports(file))}
    here = module_of(file).split(".")[0]
    assert not (here == "dynamics" and "agents" in parts)
    assert not (here == "agents" and "dynamics" in parts)


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_forbidden_imports(file):
    names = set(imports(file))
    assert not [name for name in names if name.startswith("brax.training")]
    linen = any(name.startswith("flax.linen") for name in names) or "from flax import linen" in file.read_text()
    assert not linen or module_of(file) == "nn"
    assert "pmap" not in file.read_text()


@pytest.mark.parametrize("module", BEFORE_JAX)
def test_no_jax_before_settings_are_checked(module):
    file = SOURCE / Path(*module.split(".")).with_suffix(".py")
    heavy = {"jax", "flax", "optax", "chex", "orbax", "brax", "mujoco", "matplotlib", "numpy"}
    assert not {name.split(".")[0] for name in imports(file, top_level=True)} & heavy
    for there in own(imports(file, top_level=True)) - {""}:
        assert f"{there}.__init__" in BEFORE_JAX or there in BEFORE_JAX, (
            f"{module} imports {there}, which may import JAX"
        )


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_nothing_needs_unix_to_be_imported(file):
    assert not set(imports(file, top_level=True)) & {"fcntl", "resource", "pwd", "grp", "termios"}


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_no_class_hierarchies(file):
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef):
            bases = {ast.unparse(base) for base in node.bases}
            assert bases <= ALLOWED_BASES, f"{node.name} derives from {bases - ALLOWED_BASES}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_public_functions_and_classes_say_what_they_do(file):
    tree = ast.parse(file.read_text())
    assert ast.get_docstring(tree) or not tree.body
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    for node in [*tree.body, *(inner for c in classes for inner in c.body)]:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith("_"):
            assert ast.get_docstring(node), f"{node.name} in {module_of(file)} has no docstring"
