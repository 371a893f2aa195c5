"""The documentation's examples run as they stand, and what it names is there."""

import ast
import importlib
import inspect
import itertools
import json
import pkgutil
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from conftest import replace, toy_program

from branchax import cli, pretrained, worlds
from branchax.commands import USAGE
from branchax.config import flat, to_dict
from branchax.errors import ConfigError
from branchax.presets import PRESETS, preset
from branchax.runs import rundir
from branchax.runs import train as host

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
EXPORT = DOCS / "how-to" / "export.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted(DOCS.rglob("*.md"))]
TARGETS = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)


def fenced(page, language):
    """The blocks of a page in a language."""
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def lines_of(first_word):
    """Every line of the pages' shell blocks that begins with a word, without its comment, and the page's name."""
    for page in PAGES:
        for line in "".join(fenced(page, "sh")).replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == [first_word]:
                yield pytest.param(words[1:], id=f"{page.stem}: {shlex.join(words)}")


PYTHON = {block: page.stem for page in PAGES for block in fenced(page, "python")}


@pytest.fixture
def hill(tmp_path, monkeypatch):
    """The directory in which the world of docs/worlds.md was saved, as the working directory."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "worlds.md").read_text(), re.DOTALL)
    (tmp_path / "hill.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("hill", None)


@pytest.mark.slow
def test_a_world_of_one_s_own_trains_by_its_name(hill, capsys):
    """Without a model, which compiles sooner; `examples/own_world.py` imagines in one (a slow test)."""
    small = "--env-steps 80 --explore-steps 40 --epoch-steps 20 --batch-size 16 --updates-per-step 1 --eval-episodes 2"
    assert (
        cli.main(["train", "sac", "--world", "hill:hill", *small.split(), "--agent.hidden", "8", "--run", "run"]) == 0
    )
    assert cli.main(["evaluate", "run"]) == 0
    world = worlds.make("hill:hill")
    state = world.reset(jax.random.key(0))
    _, t = world.step(jax.random.key(1), state, np.array([0.5], np.float32))
    np.testing.assert_allclose(t.next_obs[1], state.obs[1] + 0.05 * (state.obs[0] + 0.5), rtol=1e-5)


def test_a_world_that_is_not_there_or_is_none_is_named(hill):
    (hill / "other.py").write_text("number = 3\ndef make_it():\n    return 4\n")
    wrong = {
        "missing_module:f": "cannot be imported",
        "other:make_if": "did you mean make_it",
        "other:number": "no function",
    }
    for name, message in {**wrong, "other:make_it": "returned int"}.items():
        with pytest.raises(ConfigError, match=f"^world: .*{message}"):
            worlds.make(name)
    sys.modules.pop("other", None)
    command = [sys.executable, "-m", "branchax", "train", "mbpo", "--world", "other:nothing", "--run", "r"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=hill, check=False)
    assert done.returncode == 2 and "Traceback" not in done.stderr and not (hill / "r").exists()


BROKEN = {
    "raises": ("raise ValueError('no hill today')", "cannot be made: ValueError: no hill today"),
    "sizes": ("spec = spec._replace(obs_size=3)", "obs of reset is float32.2.; allowed: float32.3."),
    "step": ("spec = spec._replace(action_size=0)", "it cannot take a step: "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_world_that_breaks_its_own_spec_is_refused_before_anything_is_compiled(name, hill, capsys):
    change, message = BROKEN[name]
    body = ["world = hill.hill()", "spec = world.spec", change, "return world._replace(spec=spec)"]
    code = "\n".join(["import hill", "def f():", *(f"    {line}" for line in body)])
    (hill / "broken.py").write_text(code)
    sys.modules.pop("broken", None)
    with pytest.raises(ConfigError, match=f"^world: 'broken:f':? {message}"):
        worlds.make("broken:f")
    assert worlds.make("hill:hill", episode_length=7).spec.episode_length == 7


def test_the_presets_of_the_family_exist():
    table = (DOCS / "family.md").read_text().split("## Critics")[0]
    named = set(
        re.findall(r"`([a-z0-9_.]+)`", "\n".join(row.split("|")[-2] for row in table.splitlines() if "|" in row))
    )
    assert len(named) > 20 and named <= PRESETS.keys()


def test_the_readme_has_every_preset_once():
    section = (ROOT / "README.md").read_text().split("\n## Presets\n")[1].split("\n## ")[0]
    rows = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    assert sorted(re.findall(r"`([^`]+)`", " ".join(rows))) == sorted(PRESETS)


@pytest.mark.parametrize("code", [pytest.param(code, id=page) for code, page in PYTHON.items()])
def test_python_blocks_run(code, tmp_path, monkeypatch):
    """Runs of the library are those of a toy program."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("branchax.build.build", toy_program)
    exec(compile(code, "documentation", "exec"), {"__name__": "documentation"})


@pytest.fixture(scope="module")
def toy_run(tmp_path_factory):
    """The directory of a run."""
    config = replace(preset("sac", "classic/lqr"), env_steps=60, explore_steps=20, epoch_steps=10, batch_size=4)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("branchax.build.build", toy_program)
        return host.train(config, tmp_path_factory.mktemp("toy") / "run")


@pytest.fixture
def documented(toy_run, tmp_path, monkeypatch):
    """A directory with what the commands name, and nothing that takes long behind them; what was begun is listed."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(toy_run, tmp_path / "DIR")
    rng, n = np.random.default_rng(0), 600
    rows = {"observations": (n, 3), "actions": (n, 1), "rewards": n, "next_observations": (n, 3)}
    data = {name: rng.uniform(-1, 1, size).astype(np.float32) for name, size in rows.items()}
    np.savez(tmp_path / "data.npz", **data, terminations=np.zeros(n, bool))
    begun = []

    def begin(name, result):
        monkeypatch.setattr(name, lambda *arguments, **options: begun.append(name) or result)

    record = {"seed": 0, "env_steps": 1, "episodes": 1, "eval/return_mean": 0.0, "eval/return_std": 0.0}
    begin("branchax.runs.train.train_together", None)
    begin("branchax.runs.evaluate.evaluate", [record | {"eval/length_mean": 0.0}])
    begin("branchax.deploy.export.export", tmp_path)
    begin("branchax.sweeps.launch.launch", [])
    begin("branchax.runs.restoring.collected", SimpleNamespace(reward=np.zeros(3)))
    begin("branchax.runs.dataset.save", None)
    begin("branchax.lab.run.gradients", None)
    return begun


@pytest.mark.parametrize("words", list(lines_of("branchax")))
def test_commands_are_understood(words, documented, tmp_path, capsys):
    """By the command line itself, up to where the work begins."""
    assert words[0] in USAGE
    if words[0] == "dataset":
        (tmp_path / "data.npz").unlink()
    if words[0] in ("play", "runs", "completion", "plot", "report", "render", "diagnose", "doctor", "check-world"):
        return  # their own tests run them
    words = ["classic/pendulum" if word == "NAME" or ":" in word else word for word in words]
    if words[0] != "train":
        words = ["DIR" if word.startswith("runs/") else word for word in words]
    assert cli.main(words) == 0, capsys.readouterr().err
    assert documented or words[0] not in ("train", "evaluate", "export", "sweep", "lab", "dataset")


def test_make_targets_experiments_and_extras_are_there():
    text = "\n".join(page.read_text() for page in PAGES)
    targets = {words.values[0][0] for words in lines_of("make")} | set(re.findall(r"`make ([a-z-]+)", text))
    assert len(targets) > 5 and {target.partition("-")[0] for target in targets} <= {
        target.partition("-")[0] for target in TARGETS
    }
    for folder, target in (("experiments", "experiment"), ("benchmarks", "bench")):
        names = set(re.findall(rf"make {target} NAME=(\w+)", text))
        assert names and all((ROOT / folder / f"{name}.py").exists() for name in names)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"(?:'\.|branchax)\[([a-z0-9]+)\]", text)) <= set(extras)


def test_links_pictures_and_the_navigation_lead_somewhere():
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not link.startswith("http"):
                assert page.parent.joinpath(link).exists(), f"{page}: {link}"
        for name in re.findall(r'--8<-- "(.*)"', page.read_text()):
            assert (ROOT / name).exists(), f"{page}: {name}"
    for name in re.findall(r": (\S+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE):
        assert (DOCS / name).exists(), f"mkdocs.yml: {name}"


def test_every_target_is_explained():
    done = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in set(TARGETS):
        assert re.search(rf"^  {target} +\S", done.stdout, re.MULTILINE), target
    done = subprocess.run(["make", "-n", "export"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and "RUN=runs/" in done.stderr


def test_make_refuses_a_variable_that_it_does_not_know():
    def dry(*given):
        return subprocess.run(["make", "-n", "train", *given], cwd=ROOT, capture_output=True, text=True, check=False)

    for given, advice in {
        "STEP=100": "did you mean STEPS?",
        "seed=1": "did you mean SEED?",
        "XYZZY=1": "allowed: ",
    }.items():
        done = dry(given)
        assert done.returncode == 2 and f"{given.partition('=')[0]} is unknown; {advice}" in done.stderr
    makefile = (ROOT / "Makefile").read_text()
    shown = set(re.findall(r"\b([A-Z]+)=", "".join(re.findall("^[a-z-]+:.*##.*", makefile, re.MULTILINE)))) | set(
        re.findall(r"^([A-Z]+) +\?=", makefile, re.MULTILINE)
    )
    assert {"STEPS", "FULL"} <= shown
    done = dry(*(f"{name}=python3" for name in shown), "SHELL=/bin/sh")
    assert done.returncode == 0, done.stderr


def test_the_gate_runs_every_check():
    gate = subprocess.run(["make", "-n", "test"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for words in ("ruff format --check", "ruff check", "basedpyright", "-m pytest"):
        assert words in gate
    assert "make test" in (ROOT / ".ci" / "run").read_text().splitlines()
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    assert subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout == gate


def test_the_table_of_pretrained_policies_is_the_package_s():
    rows = re.findall(r"^\| `(\w+)` \| (\S+) \| `\w+`, ([\d,]+).* \| `(\S+)` \|$", EXPORT.read_text(), re.MULTILINE)
    assert sorted(name for name, *_ in rows) == pretrained.names()
    returns = json.loads((ROOT / "results" / "pretrained.json").read_text())["returns"]
    for name, mean, steps, world in rows:
        config = rundir.load_config(pretrained.FOLDER / name)
        assert (world, steps, mean) == (config.world, f"{config.env_steps:,}", f"{returns[name]:,.0f}"), name
        assert (DOCS / "films" / f"{name}.gif").exists()


ALGORITHMS = sorted((DOCS / "algorithms").glob("*.md"))


def written(value):
    """A setting's value as the tables have it: as one types it after the flag."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list | tuple):
        return " ".join(written(x) for x in value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def explained(config, path):
    """The docstring of a setting, in one line."""
    *parts, name = path.split(".")
    for part in parts:
        config = getattr(config, part)
    for kind in type(config).__mro__[:-1]:
        (tree,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        for line, after in itertools.pairwise(tree.body):
            if isinstance(line, ast.AnnAssign) and line.target.id == name:
                return " ".join(after.value.value.split())
    raise AssertionError(f"{path} has no docstring")


@pytest.mark.parametrize("page", ALGORITHMS, ids=lambda page: page.stem)
def test_an_algorithm_s_page_has_its_parts_and_its_presets_settings(page):
    text = page.read_text()
    parts = ["Idea", "Use it", "Settings", "Measured", "Against the paper"]
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == parts
    body = dict(zip(parts, re.split(r"^## .*$", text, flags=re.MULTILINE)[1:], strict=True))
    assert "$$" in body["Idea"] and "branchax train" in body["Use it"]
    assert "](../../results/" in body["Measured"] and "make " in body["Measured"]
    checked, columns = 0, []
    for line in body["Settings"].splitlines():
        cells = [cell.strip().strip("`") for cell in line.strip("| ").split(" | ")]
        if line.startswith("| setting |"):
            presets = [PRESETS[name] for name in cells[1:-1]]
            columns = [flat(to_dict(config)) for config in presets]
        elif line.startswith("| `") and columns:
            for settings, cell in zip(columns, cells[1:-1], strict=True):
                assert cells[0] in settings, cells[0]
                assert cell == written(settings[cells[0]]), f"{cells[0]}: {cell}"
                checked += 1
            assert line.endswith(f"| {explained(presets[0], cells[0])} |"), cells[0]
    assert checked > 10


def test_equations_are_mathematics_that_github_shows_as_well():
    for page in DOCS.rglob("*.md"):
        text = re.sub(r"^``` ?.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        blocks = text.split("$$")
        assert len(blocks) % 2, f"{page}: an equation does not end"
        for latex in blocks[1::2]:
            # Markdown takes a backslash before punctuation for itself, where GitHub reads it first.
            assert not re.search(r"\\[,;:!{}|%#]", latex.replace("\\\\", "")) and "<" not in latex, f"{page}: {latex}"
            assert latex.count(r"\begin") == latex.count(r"\end") and latex.count("{") == latex.count("}")
        assert not re.search(r"^    \S.*(?:gamma|sum_|γ|Σ)", "".join(blocks[::2]), re.MULTILINE), page


def test_the_api_has_every_public_name():
    text = "\n".join(page.read_text() for page in (DOCS / "api").glob("*.md"))
    shown = set(re.findall(r"^::: (\S+)$", text, re.MULTILINE)) | set(
        re.findall(r"heading: (branchax\S+)$", text, re.MULTILINE)
    )
    homes = {"branchax.Config": "branchax.config.Config"}
    for face in ("branchax", "branchax.agents", "branchax.dynamics", "branchax.worlds", "branchax.epoch"):
        for name in importlib.import_module(face).__all__:
            whole = f"{face}.{name}"
            elsewhere = face == "branchax" and f"`{whole}`" in text  # a link to the page that has it
            assert homes.get(whole, whole) in shown or elsewhere, whole
    for name in shown:
        assert pkgutil.resolve_name(name) is not None


@pytest.mark.slow
def test_the_site_is_built_with_its_links_and_loads_nothing_from_the_web(tmp_path):
    """As `make docs` does."""
    for name in ("zensical", "mkdocstrings_handlers.python", "math_core"):
        pytest.importorskip(name)
    command = [sys.executable, ".ci/build_docs.py", str(tmp_path / "built")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "built" / "site"
    assert len(list(site.rglob("*.html"))) > 30
    assert "<math" in (site / "gradients.html").read_text() and "$$" not in (site / "gradients.html").read_text()
    assert "Raises" in (site / "api" / "branchax.html").read_text()
    assert (site / "search.js").read_text().startswith("var __index")  # what a page from the disk searches in
