"""Worlds of one's own as people write them: Python's numbers, nested states, neighbours, other directories."""

import json
import shutil
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from branchax import build, cli, outside, worlds
from branchax.config import Config, OwnAgentConfig
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.runs import rundir
from branchax.worlds.base import WorldSpec, make_world
from branchax.worlds.contract import check_world

FREE = """
    --explore-steps 60 --epoch-steps 40 --collect-steps 4 --batch-size 32 --updates-per-step 1 --eval-episodes 3
    --agent.hidden 8 --env-steps 100
"""


@pytest.fixture(autouse=True)
def own_modules():
    """Takes away what a test imports, and where it was found."""
    before, path = set(sys.modules), list(sys.path)
    yield
    for name in set(sys.modules) - before:
        if "stranger" in name:
            del sys.modules[name]
    outside._FOLDERS.clear()
    sys.path[:] = path


SPEC = WorldSpec("own", 1, 1, 20)
PLAIN = {
    "python's flag": lambda k, x, a: (x, x, -jnp.sum(x**2), False),
    "python's reward": lambda k, x, a: (x, x, 1, jnp.zeros((), bool)),
    "integers": lambda k, x, a: (x, x, jnp.int32(1), (x[0] > 2).astype(jnp.int32)),
    "numpy's": lambda k, x, a: (x, x, np.float64(0.5), np.bool_(False)),
    "a list": lambda k, x, a: (x, [x[0]], 0.5, False),
    "others' precision": lambda k, x, a: (x, x.astype(jnp.float16), np.float64(0.5), False),
    "an integer observation": lambda k, x, a: (x, jnp.zeros(1, jnp.int32), 0.5, False),
}


@pytest.mark.parametrize("name", PLAIN)
def test_plain_numbers_are_taken(name):
    world = make_world(SPEC, lambda k: (jax.random.normal(k, (1,)),) * 2, PLAIN[name])
    assert [v for v in check_world(world, steps=30, batch=3) if v.sure] == []


def test_a_nested_state_of_python_s_numbers_keeps_its_dtypes():
    def step(key, state, action):
        state = {"place": {"x": state["place"]["x"] + action}, "steps": state["steps"] + 1, "gone": 0.5}
        return state, state["place"]["x"], -1, state["steps"] >= 5

    reset = lambda k: ({"place": {"x": jax.random.normal(k, (1,))}, "steps": 0, "gone": 0.0}, np.zeros(1))  # noqa: E731
    world = make_world(SPEC, reset, step)
    assert [v for v in check_world(world, steps=30, batch=3) if v.sure] == []
    state = world.reset(jax.random.key(0))
    assert state.inner["steps"].dtype == jnp.int32 and not state.inner["steps"].weak_type


LAZY = """
import jax.numpy as jnp
from branchax.worlds.base import WorldSpec, make_world

def late(episode_length=20):
    from stranger_gains import GAIN
    def step(key, x, action):
        import stranger_shapes
        y = x + GAIN * action
        return y, y, -jnp.sum(y**2), False
    return make_world(WorldSpec("late", 1, 1, episode_length), lambda key: (jnp.ones(1), jnp.ones(1)), step)

def mapping():
    reset = lambda key: (jnp.ones(1), {"x": jnp.ones(1)})
    step = lambda key, x, action: (x, {"x": x}, 0.0, False)
    return make_world(WorldSpec("mapping", 1, 1, 20), reset, step)
"""


@pytest.fixture
def lazy(tmp_path, monkeypatch):
    """A folder with a world that imports a neighbour when it is called, and one when it is traced."""
    folder = tmp_path / "there"
    folder.mkdir()
    (folder / "stranger_lazy.py").write_text(LAZY)
    (folder / "stranger_gains.py").write_text("GAIN = 0.25\n")
    (folder / "stranger_shapes.py").write_text("")
    monkeypatch.chdir(folder)
    return folder


def test_a_world_may_import_its_neighbours_when_it_is_called_and_when_it_is_traced(lazy):
    world = worlds.make("stranger_lazy:late")
    _, t = world.step(jax.random.key(0), world.reset(jax.random.key(0)), jnp.ones(1))
    assert float(t.next_obs[0]) == 1.25


def test_a_world_may_say_itself_where_its_neighbours_are(lazy):
    (lazy / "lib").mkdir()
    (lazy / "lib" / "stranger_far.py").write_text("from stranger_lazy import late\n")
    told = "import sys\nsys.path.insert(0, 'lib')\nfrom stranger_far import late\n"
    (lazy / "stranger_paths.py").write_text(told)
    assert worlds.make("stranger_paths:late").spec == worlds.make("stranger_lazy:late").spec


def test_observations_in_a_dict_are_refused_in_words(lazy, capsys):
    assert cli.main(["check-world", "stranger_lazy:mapping"]) == 2
    assert (
        "obs of reset is a dict; allowed: float32[1], such as jnp.concatenate of its parts" in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_run_is_looked_at_from_elsewhere(lazy, tmp_path, monkeypatch, capsys):
    assert cli.main(["train", "sac", "--world", "stranger_lazy:late", *FREE.split(), "--run", "run"]) == 0
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    for code in ("evaluate", "dataset"):
        again = [sys.executable, "-m", "branchax", code, "../there/run", *["data.npz"] * (code == "dataset")]
        done = subprocess.run(again, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    # Another module of that name cannot stand in for it unseen.
    (tmp_path / "elsewhere" / "stranger_lazy.py").write_text("raise RuntimeError('the wrong one')\n")
    assert cli.main(["evaluate", "../there/run"]) == 0
    shutil.move(lazy / "stranger_lazy.py", tmp_path / "gone.py")
    # Curves need no world.
    capsys.readouterr()
    assert cli.main(["plot", "../there/run", "--out", "plots"]) == 0
    assert cli.main(["report", "../there/run", "--out", "report.html"]) == 0


def test_two_modules_of_one_name_are_not_taken_for_each_other(lazy, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(lazy, other)
    for folder in (lazy, other):
        rundir.write_json(folder / "run" / rundir.CONFIG, {"world": "stranger_lazy:late"})
        rundir.write_json(folder / "run" / rundir.ENVIRONMENT, {rundir.FOUND_IN: {"world": str(folder)}})
    rundir.find_modules(lazy / "run")
    with pytest.raises(ConfigError, match=f"^world: .* of {other} cannot be used beside the one of {lazy}"):
        rundir.find_modules(other / "run")


def test_a_run_finds_its_own_agent_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "stranger_agent.py").write_text("def make_agent(spec): ...\n")
    monkeypatch.chdir(tmp_path / "there")
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = "stranger_agent:make_agent"
    config = Config(agent=OwnAgentConfig(factory=name))
    outside.find(name, "agent.factory")
    assert rundir.record(tmp_path / "run", config, "") == []
    assert json.loads((tmp_path / "run" / rundir.ENVIRONMENT).read_text())[rundir.FOUND_IN] == {
        "agent.factory": str(tmp_path / "there")
    }
    del sys.modules["stranger_agent"]  # as in another process, in another folder
    sys.path[:] = [x for x in sys.path if "there" not in x]
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="cannot be imported"):
        outside.find(name, "agent.factory")
    rundir.find_modules(tmp_path / "run")
    assert callable(outside.find(name, "agent.factory"))


def test_gymnasium_s_own_modules_are_found_where_one_works(lazy, capsys):
    entry = "gymnasium.envs.classic_control:PendulumEnv"
    (lazy / "stranger_env.py").write_text(
        f"import gymnasium\ngymnasium.register('Stranger-v0', entry_point='{entry}', max_episode_steps=50)\n"
    )
    (lazy / "stranger_bad.py").write_text("raise RuntimeError('no licence')\n")
    assert worlds.gymnasium_spec("stranger_env:Stranger-v0").max_episode_steps == 50
    assert cli.main(["check-world", "gym/stranger_bad:X-v0"]) == 2
    assert "cannot be imported: RuntimeError: no licence" in capsys.readouterr().err


def test_check_world_takes_what_train_takes(capsys, monkeypatch):
    for name, message in {
        "gym/CliffWalking-v1": "episode_length: unset is not possible",
        "classic/pendulm": "did you mean classic/pendulum",
        "playground/CartpoleBalanc": "playground/CartpoleBalanc",
    }.items():
        assert cli.main(["check-world", name]) == 2
        assert message in capsys.readouterr().err
    made = worlds.make
    monkeypatch.setattr(worlds, "make", lambda name, *rest: made("classic/lqr", *rest))  # as Playground is not here
    monkeypatch.setattr("branchax.commands.check_world.check_installed", lambda name: None)
    assert cli.main(["check-world", "playground/CartpoleBalance", "--episode-length", "30"]) == 0


def in_doubles():
    return make_world(SPEC, lambda k: (jax.random.uniform(k, (1,), jnp.float64),) * 2, PLAIN["python's flag"])


def test_64_bits_are_refused_in_a_line(capsys):
    with jax.enable_x64(True):
        with pytest.raises(ConfigError, match=r"^jax_enable_x64: True is not possible for classic/pendulum"):
            build.build(preset("sac", "classic/pendulum"))
        assert cli.main(["check-world", "classic/pendulum"]) == 2
        assert "unset JAX_ENABLE_X64" in capsys.readouterr().err
        assert cli.main(["check-world", f"{__name__}:in_doubles"]) == 2
        assert capsys.readouterr().err.startswith(f"branchax: jax_enable_x64: True is not possible for {__name__}:")
