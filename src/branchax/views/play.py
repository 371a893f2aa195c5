"""Plays a saved policy: whole episodes in the real world, and imagined ones from the same starts in the model."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from branchax import build
from branchax.agents.base import Agent
from branchax.config import Config
from branchax.deploy import export
from branchax.dynamics.base import Dynamics
from branchax.epoch.host import draw_seeds
from branchax.epoch.state import Counts, TrainState, no_counts
from branchax.errors import ConfigError
from branchax.rollout import Act, copies, rollout
from branchax.runs import rundir
from branchax.runs.restoring import restore
from branchax.sharding import of_seed
from branchax.types import Key, Stream, Trajectory, Transition, row_at, stream
from branchax.worlds.base import World, WorldState, endless


class Kept(NamedTuple):
    """Stands in for the `TrainState` of a run that has only its exported policy."""

    counts: Counts
    agent: tuple[()] = ()
    model: tuple[()] = ()


class Player(NamedTuple):
    """One seed of a run at its last checkpoint, with its world, model and agent."""

    config: Config
    seed: int
    world: World
    dynamics: Dynamics | None  # None: model-free, or only the policy was kept
    agent: Agent
    state: TrainState | Kept  # of this seed only
    key: Key  # [], the key of the run's evaluation at this step; training never uses it

    @property
    def clock(self) -> int:
        """The env steps of the checkpoint; offline, the steps of the schedule."""
        return int(self.state.counts.env_steps)


def load(directory: Path, seed: int | None = None) -> Player:
    """The seed (by default the run's first) at the run's last checkpoint.

    In a folder without checkpoints, such as that of a pretrained policy, it is the seed of the exported policy.

    Raises:
      ConfigError: when the directory holds no run, no checkpoint yet, or no such seed.
      CheckpointError: when the checkpoint cannot be read.
    """
    if (directory / export.POLICY / export.JAX).exists() and not (directory / rundir.CHECKPOINTS).exists():
        return _load_exported(directory, seed)
    config, states = restore(directory)
    seed = config.seed if seed is None else seed
    state: TrainState = of_seed(states, config.place_of(seed, directory))
    world = build.make_world(config)
    dynamics = build.build_dynamics(config, world)
    key = stream(jax.random.key(seed), Stream.EVALUATE, state.counts.env_steps)
    return Player(config, seed, world, dynamics, build.build_agent(config, world, dynamics), state, key)


def _load_exported(directory: Path, seed: int | None) -> Player:
    """The exported policy of a run that has no checkpoints."""
    config, folder = rundir.load_config(directory), directory / export.POLICY
    told = json.loads((folder / export.SPEC).read_text(encoding="utf-8"))
    if seed not in (None, told["seed"]):
        raise ConfigError(f"seed: {seed} is not in {directory}; allowed: {told['seed']}, whose policy was exported")
    program = jax.export.deserialize(bytearray((folder / export.JAX).read_bytes()))

    @jax.custom_batching.custom_vmap
    def act(obs: jax.Array) -> jax.Array:
        """[..., D] -> [..., A]."""
        return program.call(obs.reshape(-1, obs.shape[-1])).reshape(*obs.shape[:-1], -1)

    @act.def_vmap
    def _(size: int, batched: list[bool], obs: jax.Array) -> tuple[jax.Array, bool]:
        del size, batched  # an exported program does not support `vmap`, but takes any number of rows
        return act(obs), True

    def mode(agent: Any, obs: jax.Array) -> jax.Array:
        del agent
        return act(obs)

    def refuse(*arguments: Any) -> Any:
        raise ConfigError(f"run: {directory} keeps only a policy's mode; to train it again, use its config.json")

    agent = Agent(init=refuse, act=lambda key, agent, obs: (mode(agent, obs), ()), mode=mode, update=refuse)
    world = build.make_world(config)
    counts = no_counts()._replace(env_steps=jnp.int32(told["env_steps"]))
    key = stream(jax.random.key(told["seed"]), Stream.EVALUATE, counts.env_steps)
    return Player(config, told["seed"], world, None, agent, Kept(counts), key)


def policy(player: Player, agent: Any, greedy: jax.Array | bool) -> Act:
    """The policy with parameters `agent`: its mode if `greedy` [], else a sample. Planners have only a mode.

    Of a policy with a memory, the mode and the sample each return their own; the one that acts is kept.
    """

    def act(key: Key, obs: jax.Array, *memory: Any) -> tuple[Any, ...]:
        mode = player.agent.mode(agent, obs, *memory)
        action, *later = mode if memory else (mode,)
        if player.agent.learns_from == "plans":
            return action, (), *later
        sampled, _, *sampled_later = player.agent.act(key, agent, obs, *memory)
        choose = lambda x, y: jnp.where(greedy, x, y)  # noqa: E731
        action, later = jax.tree.map(choose, (action, later), (sampled, sampled_later))
        return action, (), *later

    return act


def memory_of(player: Player, agent: Any, count: int) -> Any:
    """The policy's memory at the start of `count` episodes, [count, ...]; None for a policy without memory."""
    return None if player.agent.memory is None else copies(player.agent.memory(agent), count)


def episodes(
    player: Player, count: int, length: int, keep: Callable[[WorldState], Any]
) -> Callable[..., tuple[Trajectory, Any]]:
    """A function `greedy -> (trajectory [H, B, ...], starts [B, ...])`, compiled at its first call.

    It runs `count` episodes in parallel in the real world. They have the same starts as the run's own evaluation at
    this step, if that has `count` episodes; a call `(greedy, key)` draws other starts. A termination ends an episode.
    The time limit does not, so that a discounted return can be measured beyond it. The trajectory's `state` is the
    result of `keep`.
    """
    if player.world.host is not None:
        return _host_episodes(player, count, length)

    def run(key: Key, agent: Any, greedy: jax.Array) -> tuple[Trajectory, Any]:
        key_reset, key_run = jax.random.split(key)
        starts = jax.vmap(player.world.reset)(jax.random.split(key_reset, count))
        act = policy(player, agent, greedy)
        memory, world = memory_of(player, agent, count), endless(player.world)
        trajectory = rollout(key_run, world, act, starts, length, memory=memory)[1]
        return trajectory._replace(state=jax.vmap(jax.vmap(keep))(trajectory.state)), starts

    compiled = jax.jit(run)

    def play(greedy: bool, key: Key | None = None) -> tuple[Trajectory, Any]:
        with jax.default_matmul_precision(player.config.precision):
            return compiled(player.key if key is None else key, player.state.agent, jnp.asarray(greedy))

    return play


def _host_episodes(player: Player, count: int, length: int) -> Callable[..., tuple[Trajectory, Any]]:
    """`episodes` in a world that is stepped on the host. It does not return states, and the simulator's own time limit
    still ends episodes."""
    config = player.config
    longest = max(length, player.world.spec.episode_length)
    host = build.make_world(dataclasses.replace(config, episode_length=longest)).host
    assert host is not None

    @jax.jit
    def choose(key: Key, agent: Any, obs: jax.Array, greedy: jax.Array, memory: Any) -> tuple[jax.Array, Any]:
        act = policy(player, agent, greedy)
        action, _, *later = jax.vmap(act)(jax.random.split(key, count), obs, *memory)
        return action, tuple(later)

    def play(greedy: bool, key: Key | None = None) -> tuple[Trajectory, Any]:
        begun = player.key if key is None else key
        fleet = host.make(count, 0, True)
        try:
            obs = starts = host.reset(fleet, np.asarray(draw_seeds(begun, count)))
            carried, rows, valid = memory_of(player, player.state.agent, count), [], [np.ones(count, bool)]
            memory = () if carried is None else (carried,)
            for t in range(length):
                action, memory = choose(
                    jax.random.fold_in(begun, t), player.state.agent, obs, jnp.asarray(greedy), memory
                )
                after, later, reward, terminated, truncated = host.step(fleet, np.asarray(action))
                rows.append(Transition(*map(np.asarray, (obs, action, reward, after, terminated, truncated))))  # type: ignore[arg-type]
                valid.append(valid[-1] & ~terminated & ~truncated)
                obs = later
        finally:
            host.close(fleet)
        taken: Any = jax.tree.map(lambda *x: np.stack(x), *rows)
        alive: Any = np.stack(valid[:-1])
        return Trajectory(taken, alive, (), ()), WorldState((), jnp.asarray(starts), jnp.zeros(count, jnp.int32))

    return play


def imagine(player: Player, obs: np.ndarray, length: int, members: int | None = None) -> Trajectory:
    """Rollouts [n, H, B, ...] of the policy's mode in the model, starting at obs [B, D], for each of n elites.

    The elites are the first `members`, by default all. Each predicts its rollouts from start to end (TS-infinity). A
    predicted termination ends a rollout, and with `model.beyond` "end" so does leaving the range of the data.
    """
    return imagination(player, length, members)(obs)


def imagination(player: Player, length: int, members: int | None = None) -> Callable[[np.ndarray], Trajectory]:
    """`imagine` as a function of observations [B, D], compiled at its first call."""
    dynamics = player.dynamics
    assert dynamics is not None, "a model-free run imagines nothing"

    def run(key: Key, model: Any, agent: Any, obs: jax.Array) -> Trajectory:
        act, carried = policy(player, agent, True), memory_of(player, agent, obs.shape[0])
        starts = jax.vmap(lambda x: dynamics.branch(row_at(x, player.world.spec.action_size)))(obs)

        def one(key: Key, member: jax.Array) -> Trajectory:
            trajectory = rollout(key, dynamics.world(model, member), act, starts, length, memory=carried)[1]
            return trajectory._replace(state=(), extras=())

        elites = dynamics.elites(model)[:members]
        return jax.vmap(one)(jax.random.split(key, elites.shape[0]), elites)

    compiled, key = jax.jit(run), jax.random.fold_in(player.key, 1)

    def imagined(obs: np.ndarray) -> Trajectory:
        with jax.default_matmul_precision(player.config.precision):
            found = compiled(key, player.state.model, player.state.agent, jnp.asarray(obs))
        return jax.tree.map(np.asarray, found)

    return imagined


def open_loop(player: Player, obs: np.ndarray, actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The model's predictions (only `next_obs`) for recorded actions [H, B, A], starting at obs [B, D].

    Returns:
      [n, H, B, D], a sample from each elite, which predicts its rollouts from start to end; and [H, B, D], without
      noise, where each step is the mean of the elites' means (a table has no mean, so it draws a sample).
    """
    dynamics = player.dynamics
    assert dynamics is not None, "a model-free run imagines nothing"

    def run(key: Key, model: Any, obs: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        starts = jax.vmap(lambda x: dynamics.branch(row_at(x, player.world.spec.action_size)))(obs)

        def one(key: Key, member: jax.Array | None) -> jax.Array:
            world = endless(dynamics.world(model, member))
            return rollout(key, world, None, starts, len(actions), actions=actions)[1].transition.next_obs

        elites = dynamics.elites(model)
        sampled = jax.vmap(one)(jax.random.split(key, elites.shape[0]), elites)
        return sampled, one(key, None)

    with jax.default_matmul_precision(player.config.precision):
        key = jax.random.fold_in(player.key, 2)
        sampled, mean = jax.jit(run)(key, player.state.model, jnp.asarray(obs), jnp.asarray(actions))
    return np.asarray(sampled), np.asarray(mean)


def one_step(player: Player, obs: np.ndarray, actions: np.ndarray, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples of the model at obs [N, D], actions [N, A]: next_obs [draws, N, D], reward [draws, N].

    Elites take turns, so that each has an equal share of the draws.
    """
    dynamics = player.dynamics
    assert dynamics is not None, "a model-free run imagines nothing"

    def run(key: Key, model: Any, obs: jax.Array, actions: jax.Array) -> tuple[jax.Array, jax.Array]:
        elites = dynamics.elites(model)

        def draw(key: Key, member: jax.Array) -> tuple[jax.Array, jax.Array]:
            step = dynamics.world(model, member).step
            starts = jax.vmap(lambda x: dynamics.branch(row_at(x, player.world.spec.action_size)))(obs)
            t = jax.vmap(step)(jax.random.split(key, obs.shape[0]), starts, actions)[1]
            return t.next_obs, t.reward

        members = elites[jnp.arange(draws) % elites.shape[0]]
        return jax.lax.map(lambda x: draw(*x), (jax.random.split(key, draws), members))

    with jax.default_matmul_precision(player.config.precision):
        key = jax.random.fold_in(player.key, 3)
        next_obs, reward = jax.jit(run)(key, player.state.model, jnp.asarray(obs), jnp.asarray(actions))
    return np.asarray(next_obs), np.asarray(reward)


def doubt(player: Player, obs: np.ndarray, actions: np.ndarray | None = None) -> np.ndarray:
    """The model's uncertainty [N] at obs [N, D] under actions [N, A], by default the policy's mode there, as at the
    start of an episode.

    For an ensemble, it is the disagreement of the elites: the spread of their means in standard units
    (`uncertainty.disagreement`), even if the run itself uses another measure to gate rollouts. For a table, it is 1 for
    pairs that were never seen.
    """
    model = dataclasses.replace(player.config.model, uncertainty="disagreement")
    dynamics = build.build_dynamics(dataclasses.replace(player.config, model=model), player.world)
    assert dynamics is not None, "a model-free run imagines nothing"

    def run(model: Any, agent: Any, obs: jax.Array, actions: jax.Array | None) -> jax.Array:
        if actions is None:
            carried = memory_of(player, agent, obs.shape[0])
            memory = () if carried is None else (carried,)
            actions = jax.vmap(lambda x, *m: policy(player, agent, True)(player.key, x, *m)[0])(obs, *memory)
        return jax.vmap(lambda o, a: dynamics.doubt(model, o, a))(obs, actions)

    with jax.default_matmul_precision(player.config.precision):
        return np.asarray(jax.jit(run)(player.state.model, player.state.agent, jnp.asarray(obs), actions))
