"""An epoch in a world whose simulators live on the host: pieces to compile, between which the host takes real steps.

    begin, then rounds of (act x n, learn), then finish

They are what `program.epoch` is made of, in the same order; what a round has collected goes into `learn` at once. All
are pure and of one seed. `act` and `look` are small: they are what each real step waits for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.agents.base import Outcome
from branchax.agents.learner import count_skipped
from branchax.dynamics.base import FitReport
from branchax.epoch.collect import add_steps, uniform
from branchax.epoch.parts import Parts
from branchax.epoch.prepare import count_planning, prepare
from branchax.epoch.report import Report, make_report
from branchax.epoch.state import TrainState, no_fault
from branchax.rollout import copies
from branchax.types import Key, Metrics, Stream, Trajectory, Transition, stream
from branchax.worlds.base import HostWorld

Prepared = tuple[FitReport, Metrics]  # what the fit and the imagining tell; None where they come later


class Pieces(NamedTuple):
    """The pieces, with the run's parts filled in."""

    world: HostWorld
    seeds: Callable[..., jax.Array]  # (key, count) -> seeds [count] uint32 of that many simulators
    explore: Callable[..., jax.Array]  # key -> all the exploring actions, [H, W, A]
    act: Callable[..., tuple[Any, ...]]
    look: Callable[..., tuple[Any, ...]]
    add: Callable[..., TrainState]
    begin: Callable[..., tuple[Any, ...]]
    learn: Callable[..., tuple[Any, ...]]
    finish: Callable[..., tuple[TrainState, Report]]
    blank_round: Callable[..., Trajectory]
    cut: Callable[..., TrainState]


def seeds(parts: Parts, key: Key, count: int) -> jax.Array:
    """Seeds [count] uint32 of so many simulators; `key` is that of a component."""
    del parts
    return draw_seeds(key, count)


def draw_seeds(key: Key, count: int) -> jax.Array:
    """`seeds`, in [0, 2^31): what every environment takes."""
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


def look(parts: Parts, params: Any, obs: jax.Array, fresh: jax.Array, memory: Any) -> tuple[jax.Array, Any]:
    """`act` with the mode of the policy, for evaluation: actions [N, A] and memories [N, ...]."""
    agent = parts.agent
    if agent.memory is None:
        return jax.vmap(lambda o: agent.mode(params, o))(obs), ()
    memory = _forget(copies(agent.memory(params), obs.shape[0]), fresh, memory)
    return jax.vmap(lambda o, m: agent.mode(params, o, m))(obs, memory)


def add(parts: Parts, state: TrainState, taken: Trajectory) -> TrainState:
    """Real steps [H, W, ...] into the replay buffer, and nothing else: of the exploration, or before an end."""
    return add_steps(parts, state, taken)[0]


def begin(parts: Parts, state: TrainState, horizon: jax.Array) -> tuple[TrainState, jax.Array, Prepared | None]:
    """What comes before the first real step: the state, gradients left out so far [], what was prepared.

    An epoch of one round prepares after it, as its rollouts are of what it has collected.
    """
    skipped = count_skipped(state.agent)
    state = state._replace(fault=no_fault(state.fault.first))
    if not _prepares_first(parts):
        return state, skipped, None
    state, *prepared = prepare(parts, state, horizon)
    if parts.agent.learns_from == "plans":
        state, _ = parts.stages.improve(parts, state, None, horizon)
    return state, skipped, tuple(prepared)  # type: ignore[return-value]


def learn(
    parts: Parts, state: TrainState, taken: Trajectory, horizon: jax.Array
) -> tuple[TrainState, Prepared | None, Outcome]:
    """A round from the steps on that it has collected [H, W, ...]: the state, what was prepared, the outcomes."""
    prepared = None
    state, recent = add_steps(parts, state, taken)
    if parts.agent.learns_from == "plans":  # planning is what its actions tell of, not its updates
        state, outcome = count_planning(state, recent)
        return state, None, outcome
    if not _prepares_first(parts):
        state, *told = prepare(parts, state, horizon)
        prepared = tuple(told)
    state, outcome = parts.stages.improve(parts, state, recent, horizon)
    return state, prepared, outcome  # type: ignore[return-value]


def finish(
    parts: Parts, state: TrainState, skipped: jax.Array, prepared: Prepared, outcome: Outcome
) -> tuple[TrainState, Report]:
    """The state after the epoch, and its report; `outcome` [rounds, ...]."""
    del parts
    state = state._replace(counts=state.counts._replace(epochs=state.counts.epochs + 1))
    return state, make_report(skipped, state, *prepared, outcome)


def blank_round(parts: Parts, key: Key, state: TrainState) -> Trajectory:
    """A round of steps that were never taken, for its shapes."""
    obs, flag = state.world.obs, jnp.ones(parts.sizes.parallel_worlds, bool)
    action, extras, _ = act(parts, key, state.counts.env_steps, state.agent, obs, flag, None)
    row = Transition(obs, action, jnp.zeros(flag.shape), obs, ~flag, ~flag)
    length = parts.sizes.collect_steps // parts.sizes.parallel_worlds
    return jax.tree.map(lambda x: jnp.broadcast_to(x, (length, *x.shape)), Trajectory(row, flag, (), extras))


def cut(parts: Parts, state: TrainState) -> TrainState:
    """The state whose latest rows are the last of their episodes, by the clock: the simulators were left there."""
    row, ring = state.real.data, state.real
    slots = (ring.cursor - 1 - jnp.arange(parts.sizes.parallel_worlds)) % replay.capacity(ring)
    truncated = row.transition.truncated.at[slots].set(~row.transition.terminated[slots])
    data = row._replace(transition=row.transition._replace(truncated=truncated))
    return state._replace(real=ring._replace(data=data))


PIECES = (seeds, explore, act, look, add, begin, learn, finish, blank_round, cut)


def _prepares_first(parts: Parts) -> bool:
    return parts.agent.learns_from == "plans" or parts.sizes.rounds > 1


def _forget(at_first: Any, fresh: jax.Array, memory: Any) -> Any:
    if memory is None:  # none was carried yet
        return at_first
    choose = lambda f, m: jnp.where(fresh.reshape(-1, *[1] * (m.ndim - 1)), f, m)  # noqa: E731
    return jax.tree.map(choose, at_first, memory)
