"""mbrl-lib 0.2.0: `python -m benchmarks.peers.torch_mbrl`, in the environment that `mbrl.txt` describes.

It is of 2023, and needs help on a current Python; nothing that is installed is changed for it:

    hydra-core 1.0.3 and omegaconf 2.0, which it pins, fail on Python 3.11      newer ones, against its pins (Makefile)
    the newer hydra builds nested configurations by itself                     `settings_of`: not the activations
    gymnasium 0.26.3, which it pins, reads `np.bool8`, gone from numpy 2       set before it is loaded
    mujoco and glfw are not among its requirements                             `mbrl.txt`
    its wheel has no `conf/action_optimizer` and no `examples/main.py`         settings are put together here
    Hopper-v4 of that gymnasium does not load in mujoco 3                      the loop is InvertedPendulum's
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np

np.bool8 = np.bool_  # type: ignore[attr-defined]

import gymnasium  # noqa: E402
import hydra.utils  # noqa: E402
import mbrl.algorithms.mbpo as mbpo  # noqa: E402
import mbrl.models  # noqa: E402
import mbrl.planning  # noqa: E402
import mbrl.util.common  # noqa: E402
import torch  # noqa: E402
from mbrl.env import termination_fns  # noqa: E402
from mbrl.planning.sac_wrapper import SACAgent  # noqa: E402
from omegaconf import DictConfig, OmegaConf  # noqa: E402

from benchmarks.peers.worker import Once, Paused, serve, timed, versions  # noqa: E402

CONF = Path(mbrl.__file__).parent / "examples" / "conf"


def settings_of(world: gymnasium.Env, seed: int = 0) -> DictConfig:
    """mbrl-lib's own settings of MBPO on InvertedPendulum, as its `main.yaml` puts them together."""
    conf = OmegaConf.create({"seed": seed, "device": "cpu", "log_frequency_agent": 1_000})
    names = {"algorithm": "mbpo", "dynamics_model": "gaussian_mlp_ensemble", "overrides": "mbpo_inv_pendulum"}
    for group, name in names.items():
        conf[group] = OmegaConf.load(CONF / group / f"{name}.yaml")
    conf.dynamics_model._recursive_ = False  # it builds its activations itself
    space: Any = world.action_space
    box = {"_target_": "gymnasium.spaces.Box", "shape": list(space.shape)}
    conf.algorithm.agent.action_space = {**box, "low": float(space.low.min()), "high": float(space.high.max())}
    mbrl.planning.complete_agent_cfg(world, conf.algorithm.agent)
    return conf


class Free(gymnasium.Env):
    """A world of given sizes that is never stepped."""

    def __init__(self, obs: int, action: int) -> None:
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (obs,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1, 1, (action,), np.float32)


def parts(settings: dict[str, Any]) -> tuple[Any, ...]:
    """Configuration, model, buffer of random transitions, agent and the world of given sizes."""
    obs, action = settings["obs"], settings["action"]
    world = Free(obs, action)
    conf = settings_of(world)
    agent = SACAgent(hydra.utils.instantiate(conf.algorithm.agent))
    model = mbrl.util.common.create_one_dim_tr_model(conf, (obs,), (action,))
    rng, rows = np.random.default_rng(0), settings.get("rows", 10_000)
    kinds = {f"{name}_type": np.double for name in ("obs", "action", "reward")}  # as its MBPO has them
    buffer = mbrl.util.common.create_replay_buffer(conf, (obs,), (action,), rng=rng, **kinds)
    before, acts = rng.normal(size=(rows, obs)), rng.uniform(-1, 1, (rows, action))
    mix = rng.normal(size=(obs + action, obs)) / 4
    after, none = before + np.tanh(np.concatenate([before, acts], 1) @ mix), np.zeros(rows, bool)
    buffer.add_batch(before, acts, after, after[:, 0], none, none)
    model.update_normalizer(buffer.get_all())
    return conf, model, buffer, agent, world


def rollouts(settings: dict[str, Any]) -> Once:
    """Imagines once into the model buffer, starts drawn from replay."""
    conf, model, buffer, agent, world = parts(settings)
    count, horizon = settings["rollouts"], settings["horizon"]
    model.set_elite(range(conf.overrides.num_elites))
    imagined = mbrl.util.ReplayBuffer(count * horizon, world.observation_space.shape, world.action_space.shape)
    model_env = mbrl.models.ModelEnv(world, model, termination_fns.no_termination, None, torch.Generator())

    def once() -> None:
        mbpo.rollout_model_and_populate_sac_buffer(model_env, buffer, agent, imagined, True, horizon, count)

    for _ in range(2):
        once()
    return once


def model_fit(settings: dict[str, Any]) -> Once:
    """Fits for so many passes over 4 rows in 5, each with a look at the fifth."""
    conf, model, buffer, *_ = parts(settings)
    conf.overrides.num_epochs_train_model = settings["rounds"]
    conf.overrides.patience = settings["rounds"] + 1
    trainer = mbrl.models.ModelTrainer(model, conf.overrides.model_lr, conf.overrides.model_wd)

    def once() -> None:
        mbrl.util.common.train_model_and_save_model_and_data(model, trainer, conf.overrides, buffer)

    for _ in range(2):
        once()
    return once


def sac(settings: dict[str, Any]) -> Once:
    """So many updates, without the logger that its MBPO hands in."""
    _, _, buffer, agent, world = parts(settings)
    imagined = mbrl.util.ReplayBuffer(len(buffer), world.observation_space.shape, world.action_space.shape)
    imagined.add_batch(*buffer.get_all().astuple())  # in float32, as its MBPO has imagined rows

    def once() -> None:
        for i in range(settings["updates"]):
            agent.sac_agent.update_parameters(imagined, settings["batch"], i, None, reverse_mask=True)

    for _ in range(2):
        once()
    return once


class Turns(gymnasium.Wrapper):
    """The world that learns: stands still before the first step, and before each round of 250 after the exploration."""

    def __init__(self, world: gymnasium.Env, explore: int, every: int, paused: Paused) -> None:
        super().__init__(world)
        self.explore, self.every, self.paused, self.steps = explore, every, paused, 0

    def step(self, action: Any) -> Any:
        """A step, perhaps after a pause."""
        after = self.steps - self.explore
        if after >= 0 and after % self.every == 0:
            self.paused.pause()
        self.steps += 1
        return self.env.step(action)


class Scored(gymnasium.Wrapper):
    """The world that is evaluated in: keeps the return of the last episode."""

    total = last = 0.0

    def reset(self, **arguments: Any) -> Any:
        """Starts to add up."""
        self.total = 0.0
        return self.env.reset(**arguments)

    def step(self, action: Any) -> Any:
        """Adds up."""
        out = self.env.step(action)
        self.total += float(out[1])
        self.last = self.total
        return out


def training(settings: dict[str, Any]) -> tuple[Once, Once]:
    """Its MBPO on InvertedPendulum as it is: the exploration, and then 250 steps, their updates and an evaluation."""
    said: dict[str, Any] = {"fit_sample_members": 0}
    scored = Scored(gymnasium.make("InvertedPendulum-v4"))
    conf = settings_of(scored, settings.get("seed", 0))
    conf.algorithm.initial_exploration_steps = settings["explore"]
    train = mbrl.models.ModelTrainer.train

    def counted(self: Any, data: Any, *arguments: Any, **named: Any) -> Any:
        out = train(self, data, *arguments, **named)
        said["fit_sample_members"] += len(out[0]) * data.num_stored * len(self.model)
        return out

    mbrl.models.ModelTrainer.train = counted
    holder: list[Turns] = []

    def run(paused: Paused) -> None:
        torch.manual_seed(conf.seed)
        world = Turns(gymnasium.make("InvertedPendulum-v4"), settings["explore"], 250, paused)
        world.reset(seed=conf.seed)
        holder.append(world)
        with tempfile.TemporaryDirectory() as folder:
            mbpo.train(world, scored, termination_fns.inverted_pendulum, conf, silent=True, work_dir=folder)

    paused = Paused(run)

    def once() -> dict[str, Any]:
        said["fit_sample_members"] = 0
        paused.go()
        return {**said, "env_steps": holder[0].steps, "return": scored.last}

    return paused.go, once


def loop(settings: dict[str, Any]) -> Once:
    """250 real steps of the whole loop, from the first fit on."""
    explore, once = training(settings)
    explore()
    return once


def ceiling(_: dict[str, Any]) -> Once:
    """The fastest large matrix product."""
    a = torch.randn(2_048, 2_048)

    def once() -> dict[str, Any]:
        return {"gflops": 2 * 2_048**3 / min(timed(lambda: a @ a)[0] for _ in range(6)) / 1e9}

    return once


if __name__ == "__main__":
    tasks = {"imagine": rollouts, "fit": model_fit, "sac": sac, "loop": loop, "ceiling": ceiling}
    names = ("mbrl", "torch", "hydra-core", "omegaconf", "gymnasium", "mujoco", "numpy")
    serve(tasks, {"versions": versions(*names), "threads": torch.get_num_threads()})
