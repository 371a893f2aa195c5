"""The documentation's examples run as they stand."""

import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from branchax import cli, worlds
from branchax.config import ConfigError

DOCS = Path(__file__).parents[1] / "docs"


@pytest.fixture
def hill(tmp_path, monkeypatch):
    """The directory in which the world of docs/worlds.md was saved, as the working directory."""
    (code,) = re.findall(r"```python\n(.*?)```", (DOCS / "worlds.md").read_text(), re.DOTALL)
    (tmp_path / "hill.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("hill", None)


def test_a_world_of_one_s_own_trains_by_its_name(hill, capsys):
    small = "--env-steps 80 --explore-steps 40 --epoch-steps 20 --batch-size 16 --updates-per-step 1 --eval-episodes 2"
    small += " --model.members 2 --model.elites 1 --model.hidden 8 --model.max-rounds 2 --agent.hidden 8"
    small += " --rollout.per-step 6 --rollout.groups 2 --run run"
    assert cli.main(["train", "mbpo", "--world", "hill:hill", *small.split()]) == 0
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
    "sizes": ("spec = spec._replace(obs_size=3)", "has obs float32.2.; allowed: float32.3."),
    "step": ("spec = spec._replace(action_size=0)", "cannot take a step: "),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_world_that_breaks_its_own_spec_is_refused_before_anything_is_compiled(name, hill, capsys):
    change, message = BROKEN[name]
    body = ["world = hill.hill()", "spec = world.spec", change, "return world._replace(spec=spec)"]
    code = "\n".join(["import hill", "def f():", *(f"    {line}" for line in body)])
    (hill / "broken.py").write_text(code)
    sys.modules.pop("broken", None)
    with pytest.raises(ConfigError, match=f"^world: 'broken:f' {message}"):
        worlds.make("broken:f")
    assert worlds.make("hill:hill", episode_length=7).spec.episode_length == 7


def test_the_presets_of_the_family_exist():
    from branchax.presets import PRESETS

    table = (DOCS / "family.md").read_text().split("## Critics")[0]
    named = set(
        re.findall(r"`([a-z0-9_.]+)`", "\n".join(row.split("|")[-2] for row in table.splitlines() if "|" in row))
    )
    assert len(named) > 20 and named <= PRESETS.keys()
