"""An epoch in a world whose simulators live on the host: pieces to compile, between which the host takes real steps.

    begin, then rounds of (act x n, learn), then finish

`begin` and `finish` are those of `program.epoch`, and so is `learn`, after it has stored the steps. All are pure and of
one seed. `act` and `act_greedily` are small: they are what each real step waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.agents.base import Outcome
from branchax.epoch import rounds
from branchax.epoch.collect import add_steps, uniform
from branchax.epoch.parts import Parts
from branchax.epoch.report import Report
from branchax.epoch.state import TrainState
from branchax.rollout import copies
from branchax.types import Key, Stream, Trajectory, Transition, choose, stream
from branchax.worlds.base import HostWorld


class Pieces(NamedTuple):
    """The pieces, with the run's parts filled in."""

    world: HostWorld
    explore: Callable[..., jax.Array]  # key -> all the exploring actions, [H, W, A]
    act: Callable[..., tuple[Any, ...]]
    act_greedily: Callable[..., tuple[Any, ...]]
    add: Callable[..., TrainState]
    begin: Callable[..., tuple[Any, ...]]
    learn: Callable[..., tuple[Any, ...]]
    finish: Callable[..., tuple[TrainState, Report]]
    blank_round: Callable[..., Trajectory]
    truncate_latest: Callable[..., TrainState]


def make_pieces(world: HostWorld, bind: Callable[[Callable[..., Any]], Callable[..., Any]]) -> Pieces:
    """The pieces of a world of the host's; `bind` fills the run's parts in."""
    return Pieces(
        world,
        explore=bind(explore),
        act=bind(act),
        act_greedily=bind(act_greedily),
        add=bind(add),
        begin=bind(rounds.begin),
        learn=bind(learn),
        finish=rounds.finish,
        blank_round=bind(blank_round),
        truncate_latest=bind(truncate_latest),
    )


def draw_seeds(key: Key, count: int) -> jax.Array:
    """Seeds [count] uint32 of so many simulators, in [0, 2^31): what every environment takes."""
    return jax.vmap(lambda k: jax.random.bits(k, (), jnp.uint32))(jax.random.split(key, count)) >> 1


def explore(parts: Parts, key: Key) -> jax.Array:
    """The actions of the exploration, [H, W, A]; `key` is the seed's."""
    shape = parts.sizes.explore_steps // parts.sizes.parallel_worlds, parts.sizes.parallel_worlds
    blank, draw = jnp.zeros(parts.world.spec.obs_size), uniform(parts.world.spec)
    keys = jax.random.split(stream(key, Stream.EXPLORE), shape)
    return jax.vmap(jax.vmap(lambda k: draw(k, blank)[0]))(keys)


def act(
    parts: Parts, key: Key, env_steps: jax.Array, params: Any, obs: jax.Array, fresh: jax.Array, memory: Any
) -> tuple[jax.Array, Any, Any]:
    """Actions [W, A] at obs [W, D], extras, and the memories [W, ...] afterwards.

    Args:
      parts: the run's.
      key: the seed's.
      env_steps: [] how many there were before; the draws follow from it.
      params: the agent.
      obs: what the worlds show.
      fresh: [W] bool, where an episode or a collection begins, so that the policy remembers nothing.
      memory: what it carries [W, ...], `()` for one that remembers nothing.
    """
    agent, count = parts.agent, obs.shape[0]
    keys = jax.random.split(stream(key, Stream.COLLECT, env_steps), count)
    if agent.memory is None:
        return *jax.vmap(lambda k, o: agent.act(k, params, o))(keys, obs), ()
    memory = _forget(copies(agent.memory(params), count), fresh, memory)
    return jax.vmap(lambda k, o, m: agent.act(k, params, o, m))(keys, obs, memory)  # type: ignore[return-value]


def act_greedily(parts: Parts, params: Any, obs: jax.Array, fresh: jax.Array, memory: Any) -> tuple[jax.Array, Any]:
    """`act` with the mode of the policy, for evaluation: actions [N, A] and memories [N, ...]."""
    agent = parts.agent
    if agent.memory is None:
        return jax.vmap(lambda o: agent.mode(params, o))(obs), ()
    memory = _forget(copies(agent.memory(params), obs.shape[0]), fresh, memory)
    return jax.vmap(lambda o, m: agent.mode(params, o, m))(obs, memory)


def add(parts: Parts, state: TrainState, taken: Trajectory) -> TrainState:
    """Adds real steps [H, W, ...] to the replay buffer, and learns nothing: while exploring, or before an end."""
    return add_steps(parts, state, taken)[0]


def learn(
    parts: Parts, state: TrainState, taken: Trajectory, horizon: jax.Array
) -> tuple[TrainState, rounds.Prepared | None, Outcome]:
    """`rounds.learn` from the steps of a round [H, W, ...], which enter the replay buffer first."""
    return rounds.learn(parts, *add_steps(parts, state, taken), horizon)


def blank_round(parts: Parts, key: Key, state: TrainState) -> Trajectory:
    """A round of steps that were never taken, for its shapes."""
    obs, flag = state.world.obs, jnp.ones(parts.sizes.parallel_worlds, bool)
    action, extras, _ = act(parts, key, state.counts.env_steps, state.agent, obs, flag, None)
    row = Transition(obs, action, jnp.zeros(flag.shape), obs, ~flag, ~flag)
    length = parts.sizes.collect_steps // parts.sizes.parallel_worlds
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (length, *x.shape)), Trajectory(row, flag, (), extras))


def truncate_latest(parts: Parts, state: TrainState) -> TrainState:
    """The state whose latest rows are the last of their episodes, by the clock: the simulators were left there."""
    row, ring = state.real.data, state.real
    slots = (ring.cursor - 1 - jnp.arange(parts.sizes.parallel_worlds)) % replay.capacity(ring)
    truncated = row.transition.truncated.at[slots].set(~row.transition.terminated[slots])
    data = row._replace(transition=row.transition._replace(truncated=truncated))
    return state._replace(real=ring._replace(data=data))


def _forget(at_first: Any, fresh: jax.Array, memory: Any) -> Any:
    if memory is None:  # none was carried yet
        return at_first
    return choose(fresh, at_first, memory)
