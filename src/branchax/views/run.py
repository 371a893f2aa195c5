"""A run as a Python object: its settings, metrics, policy, world and model, and a way to resume it.

run = branchax.load("runs/first")
run.policy(obs), run.metrics, run.model.imagine(obs, 20), run.evaluate(100), run.resume(20_000)
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, ParamSpec

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import ArrayLike

from branchax import pretrained
from branchax.config import Config
from branchax.devices import cache
from branchax.errors import ConfigError
from branchax.runs import evaluate, rundir, runlog, train
from branchax.runs.loop import Callback
from branchax.runs.trackers import Logger
from branchax.types import Key, Trajectory, row_at
from branchax.views import diagnose, play
from branchax.worlds.base import World, WorldState

Parameters = ParamSpec("Parameters")


class Model(NamedTuple):
    """A run's learned model: a world (environment), and rollouts of the policy in it."""

    world: World  # its `step(key, state, action)` goes to the mean of the elites' means, without noise
    start: Callable[[Any], WorldState]  # obs [D] -> the world's state there
    # (obs [B, D] or [D], steps H) -> [n, H, B, ...]: rollouts of the policy's mode from there, in each of n elites
    imagine: Callable[[Any, int], Trajectory]


class Run:
    """A run in its directory, with the policy of one of its seeds.

    Files are read when they are needed. The checkpoint is read only once: `load` the run again to get a later one. A
    run can be passed wherever a directory is expected.
    """

    def __init__(self, directory: str | os.PathLike[str], seed: int | None = None) -> None:
        """Opens the run in a directory; the policy and the model are those of `seed`, by default the run's first."""
        self.directory = Path(directory)
        self._seed = seed

    def __fspath__(self) -> str:
        return str(self.directory)

    def __repr__(self) -> str:
        state = rundir.status(self.directory).get("state", "new")
        done = max((runlog.clock(row) for row in self.metrics), default=0)
        return f"Run({str(self.directory)!r}: {self.config.world}, seed {self.seed}, {state} at {done:,} steps)"

    @property
    def seed(self) -> int:
        """The seed of the policy and the model."""
        return self.config.seed if self._seed is None else self._seed

    @property
    def config(self) -> Config:
        """Every setting, as it was resolved."""
        return rundir.load_config(self.directory)

    @property
    def metrics(self) -> list[runlog.Row]:
        """The rows of `metrics.jsonl`: one per epoch and seed, of all seeds (`runs.runlog`)."""
        return runlog.read(self.directory / rundir.METRICS)

    def frame(self) -> Any:
        """`metrics` as a pandas `DataFrame`. Raises `ConfigError` where pandas is not installed."""
        try:
            pandas = importlib.import_module("pandas")
        except ImportError as error:
            raise ConfigError("frame: needs pandas, which is not installed; `metrics` has the rows") from error
        return pandas.DataFrame(self.metrics)

    @property
    def world(self) -> World:
        """The real world (environment) of the run."""
        return self._player.world

    @functools.cached_property
    def model(self) -> Model:
        """The learned model of the world. Raises `ConfigError` for a run without a learned model."""
        player = self._player
        if why := diagnose.refusal(player.config) or diagnose.unfit(player):
            raise ConfigError(f"model: {self.directory} has none to imagine in: {why}")
        assert player.dynamics is not None
        size = player.world.spec.obs_size

        def start(obs: ArrayLike) -> WorldState:
            assert player.dynamics is not None
            return player.dynamics.branch(row_at(jnp.asarray(_checked(obs, size)[0]), player.world.spec.action_size))

        ahead = functools.cache(lambda steps: play.imagination(player, steps))  # each compiled once

        def imagine(obs: ArrayLike, steps: int) -> Trajectory:
            return ahead(steps)(_checked(obs, size))

        return Model(player.dynamics.world(player.state.model, None), start, imagine)

    def policy(self, obs: ArrayLike) -> np.ndarray:
        """The policy's mode, as in evaluations: obs [D] or [B, D] -> action [A] or [B, A], in the form of `world.step`.

        Continuous actions are scaled so that the actuators' range is [-1, 1]; discrete ones are one-hot. A planner
        starts a new plan at each call.
        """
        return self._choose(obs, self._player.key, greedy=True)

    def act(self, obs: ArrayLike, key: Key) -> np.ndarray:
        """`policy` with exploration noise."""
        return self._choose(obs, key, greedy=False)

    def evaluate(self, episodes: int | None = None) -> list[runlog.Row]:
        """`branchax.evaluate`: one record for each seed of the run, over so many episodes."""
        return evaluate.evaluate(self.directory, episodes)

    def resume(
        self, env_steps: int | None = None, *, callbacks: Sequence[Callback] = (), loggers: Sequence[Logger] = ()
    ) -> Run:
        """Continues training up to `env_steps` in total, by default the run's own; returns the run after that.

        `callbacks` and `loggers` are those of `branchax.run`. Raises the same errors as `branchax.run`.
        """
        rundir.find_modules(self.directory)
        config = self.config
        if env_steps is not None:
            config = dataclasses.replace(config, env_steps=env_steps)
        train.train(config, self.directory, callbacks=callbacks, loggers=loggers)
        return Run(self.directory, self._seed)

    @functools.cached_property
    def _player(self) -> play.Player:
        cache.enable()
        return play.load(self.directory, self._seed)

    @functools.cached_property
    def _actions(self) -> Callable[..., jax.Array]:
        player = self._player

        def actions(key: Key, agent: Any, obs: jax.Array, greedy: jax.Array) -> jax.Array:
            """[B, D] -> [B, A]."""
            count = obs.shape[0]
            carried = play.memory_of(player, agent, count)
            act, memory = play.policy(player, agent, greedy), () if carried is None else (carried,)
            return jax.vmap(act)(jax.random.split(key, count), obs, *memory)[0]

        return jax.jit(actions)

    def _choose(self, obs: ArrayLike, key: Key, greedy: bool) -> np.ndarray:
        rows = _checked(obs, self.world.spec.obs_size)
        with jax.default_matmul_precision(self._player.config.precision):
            found = np.asarray(self._actions(key, self._player.state.agent, jnp.asarray(rows), jnp.asarray(greedy)))
        return found if np.ndim(obs) == 2 else found[0]


def load(directory: str | os.PathLike[str], seed: int | None = None) -> Run:
    """The run in a directory, with the policy of one of its seeds, by default the first.

    The name of a pretrained policy (`branchax.pretrained.names()`) also works: `load("hopper")`.

    Raises:
      ConfigError: when the directory holds no run, or no such seed.
    """
    directory = pretrained.locate(Path(directory))
    config = rundir.load_config(directory)
    config.place_of(seed, directory)
    return Run(directory, seed)


def _holding(train: Callable[Parameters, Path]) -> Callable[Parameters, Run]:
    """`train`, but it returns the `Run` instead of its directory."""

    @functools.wraps(train)
    def run(*arguments: Parameters.args, **named: Parameters.kwargs) -> Run:
        return Run(train(*arguments, **named))

    return run


run = _holding(train.train)


def _checked(obs: ArrayLike, size: int) -> np.ndarray:
    """Observations as float32 [B, D]. Raises `ConfigError` unless they are [D] or [B, D]."""
    rows = np.asarray(obs, np.float32)
    if rows.ndim not in (1, 2) or rows.shape[-1] != size:
        raise ConfigError(f"obs: the shape {rows.shape} is not possible; allowed: ({size},) or (B, {size})")
    return rows.reshape(-1, size)
