"""What `branchax export` writes gives the agent's own actions, in processes that have nothing of this library."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from conftest import replace, toy_program

from branchax import build, cli, worlds
from branchax.config import CriticConfig, DQNConfig, PolicyGradientConfig, QLearningConfig
from branchax.deploy import export
from branchax.errors import ConfigError
from branchax.presets import preset
from branchax.runs import train as host

TINY = {"agent__hidden": (16, 8)}
CONFIGS = {
    "sac": replace(preset("sac", "classic/pendulum"), **TINY),
    "sac standardised": replace(
        preset("sac", "classic/pendulum"), agent__normalise_obs=True, agent__activation="silu", **TINY
    ),
    "sac discrete": replace(preset("sac", "classic/cartpole_discrete"), **TINY),
    "td3": replace(preset("td3", "classic/double_pendulum"), **TINY),
    "dqn": replace(
        preset("dqn", "classic/acrobot"),
        agent=DQNConfig(hidden=(16, 8), dueling=True, critic=CriticConfig(members=3, layer_norm=True, pre_norm=True)),
    ),
    "dqn linear": replace(preset("dqn", "classic/chain"), agent=DQNConfig(hidden=())),
    "ppo": replace(preset("ppo", "classic/pendulum"), **TINY),
    "a2c squashed": replace(preset("a2c", "classic/pendulum"), agent=PolicyGradientConfig(hidden=(16,), squash=True)),
    "reinforce discrete": replace(preset("reinforce", "classic/mountain_car"), **TINY),
    "pathwise": replace(preset("v2.0", "classic/pendulum"), **TINY),
    "pathwise deterministic": replace(preset("apg", "classic/double_pendulum"), **TINY),
    "q_learning": replace(preset("q_learning"), agent=QLearningConfig()),
}

# Only the standard library and what is allowed can be imported: not branchax, and nothing that it brings along.
ALONE = """
import json, pathlib, sys
ALLOWED = set(sys.argv[2].split(",")) | sys.stdlib_module_names
class Only:
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        known = name.startswith("_") or name.split(".")[0] in ALLOWED
        return self.finder.find_spec(name, path, target) if known else None
sys.meta_path = [Only(finder) for finder in sys.meta_path]
try:
    import branchax
    sys.exit("branchax could be imported")
except ModuleNotFoundError:
    pass
import numpy as np
"""
WITH_JAX = """
import jax
for folder in pathlib.Path(sys.argv[1]).iterdir():
    policy = jax.export.deserialize((folder / "policy.jaxexport").read_bytes())
    assert policy.platforms == ("cpu", "cuda")
    obs = np.load(folder / "obs.npy")
    np.save(folder / "jax.npy", np.concatenate([policy.call(obs[:3]), policy.call(obs[3:])]))
"""
WITH_NUMPY = """
import importlib.util
assert "jax" not in ALLOWED
for folder in pathlib.Path(sys.argv[1]).iterdir():
    spec = importlib.util.spec_from_file_location("policy", folder / "policy.py")
    policy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(policy)
    act, obs = policy.load(), np.load(folder / "obs.npy")
    actions = act(obs)
    assert actions.dtype == np.float32 and act(obs[0]).shape == actions[0].shape
    np.save(folder / "numpy.npy", actions)
"""


def alone(code, folder, allowed):
    command = [sys.executable, "-I", "-W", "error", "-c", ALONE + code, str(folder), allowed]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder of every kind's policy, at random parameters, with what it does on 50 observations."""
    root = tmp_path_factory.mktemp("policies")
    for name, config in CONFIGS.items():
        draw = np.random.default_rng([*name.encode(), 1])  # its own, so that no other entry moves it
        world = worlds.make(config.world)
        agent = build.build_agent(config, world)
        state = jax.jit(agent.init)(jax.random.key(1))
        # Biases start at zero and last layers near it; a table is all zeros: noise makes every entry count.
        noisy = lambda x, draw=draw: x + 0.3 * draw.normal(size=x.shape).astype(x.dtype) if x.ndim else x  # noqa: E731
        state = jax.tree.map(noisy, state)
        folder = export.write(root / name, config, state, {"seed": 0, "env_steps": 10})
        size = world.spec.obs_size
        obs = np.eye(size)[draw.integers(size, size=50)] if world.spec.tabular else 3 * draw.normal(size=(50, size))
        np.save(folder / "obs.npy", obs.astype(np.float32))
        act = jax.jit(jax.vmap(lambda obs: agent.mode(state, obs)))  # noqa: B023
        np.save(folder / "own.npy", act(obs.astype(np.float32)))
    alone(WITH_JAX, root, "numpy,jax,jaxlib,scipy,ml_dtypes,opt_einsum,flatbuffers")
    alone(WITH_NUMPY, root, "numpy")
    return root


@pytest.mark.parametrize("name", CONFIGS)
def test_the_actions_are_the_agents_own(name, written):
    own = np.load(written / name / "own.npy")
    assert np.ptp(own, axis=0).max() > 0.1, "the action has to depend on the observation"
    np.testing.assert_allclose(np.load(written / name / "jax.npy"), own, atol=1e-5)
    np.testing.assert_allclose(np.load(written / name / "numpy.npy"), own, atol=1e-5)
    spec = json.loads((written / name / "spec.json").read_text())
    assert (spec["action"]["size"], spec["agent"]) == (own.shape[1], CONFIGS[name].agent.kind)
    assert spec["observation"]["size"] == np.load(written / name / "obs.npy").shape[1]
    assert spec["versions"]["jax"] == jax.__version__
    assert spec["action"]["discrete"] == ("one-hot" in spec["action"]["meaning"])


def test_the_command_takes_a_run_and_one_of_its_seeds(tmp_path, monkeypatch, capsys):
    """From the last checkpoint; the toy's state is not an agent's, so what is written from it is looked at alone."""
    config = replace(preset("sac", "classic/lqr"), env_steps=60, explore_steps=20, epoch_steps=10, batch_size=4)
    monkeypatch.setattr("branchax.build.build", toy_program)
    host.train(replace(config, seed=4, seeds=2), tmp_path / "run")
    found = []
    monkeypatch.setattr(export, "write", lambda *arguments: found.append(arguments) or arguments[0])
    for seed in ("4", "5"):
        assert cli.main(["export", str(tmp_path / "run"), "--seed", seed]) == 0
    (folder, saved, first, origin), (_, _, second, _) = found
    assert (folder, saved.seed, origin) == (tmp_path / "run" / "policy", 4, {"seed": 4, "env_steps": 60})
    assert first["walk"].shape == (3,) and not np.allclose(first["walk"], second["walk"])
    assert "policy.jaxexport" in capsys.readouterr().out
    assert cli.main(["export", str(tmp_path / "run"), "--seed", "6"]) == 2
    assert "seed: 6 is not in this run; allowed: 4 to 5" in capsys.readouterr().err
    assert cli.main(["export", str(tmp_path / "none")]) == 2


def test_actions_are_told_in_the_terms_of_gymnasium_s_environments():
    pytest.importorskip("gymnasium")
    config = replace(preset("sac", "gym/Pendulum-v1"), world_args=("g=9.0",))
    spec = export.spec_of(config, build.make_world(config), None, {})
    assert spec["action"]["in_the_world"] == {"low": [-2.0], "high": [2.0]} and spec["world"]["arguments"] == ["g=9.0"]
    assert spec["observation"]["meaning"].startswith("as gym/Pendulum-v1 returns it: Box(")
    json.dumps(spec)


def test_a_planner_is_refused():
    with pytest.raises(ConfigError, match=r"^export: an agent of kind planner has no policy"):
        export.check(preset("pets"), None)
