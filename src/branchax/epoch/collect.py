"""Real steps: how they are taken, and how they enter the replay buffer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.distributions import one_hot
from branchax.epoch.parts import Parts
from branchax.epoch.state import TrainState, first_fault, no_counts, no_fault, without_faults
from branchax.rollout import Act, copies, rollout
from branchax.types import Key, Row, Stream, Trajectory, finite, row_at, stream
from branchax.worlds.base import WorldSpec, WorldState, blank_state


def explore(parts: Parts, key: Key) -> TrainState:
    """The state of a run at its beginning, after `explore_steps` uniformly random real steps. In a world on the
    host nothing is explored yet."""
    world, sizes = parts.world, parts.sizes
    worlds, row = empty_worlds(parts) if world.host is not None else start_worlds(parts, key)
    state = TrainState(
        key=key,
        world=worlds,
        real=replay.init(row, sizes.real_capacity),
        imagined=replay.init(row.transition, sizes.imagined_capacity) if sizes.imagined_capacity else (),
        model=() if parts.dynamics is None else parts.dynamics.init(stream(key, Stream.MODEL)),
        agent=parts.agent.init(stream(key, Stream.AGENT)),
        counts=no_counts(),
        fault=no_fault(row.transition),
    )
    if sizes.offline or world.host is not None:
        return state  # the host fills the buffer
    return take_steps(parts, stream(key, Stream.EXPLORE), state, uniform(world.spec), sizes.explore_steps)[0]


def start_worlds(parts: Parts, key: Key) -> tuple[WorldState, Row]:
    """The real worlds [W, ...] after their resets, and the shapes of a row of the buffer."""
    world = parts.world
    worlds = jax.vmap(world.reset)(jax.random.split(stream(key, Stream.WORLD), parts.sizes.parallel_worlds))
    one = jax.eval_shape(world.step, key, jax.tree.map(lambda x: x[0], worlds), jnp.zeros(world.spec.action_size))
    return worlds, Row(one[1], one[0] if parts.keeps_state else None)


def empty_worlds(parts: Parts) -> tuple[WorldState, Row]:
    """`start_worlds` where the simulators live on the host, which resets them."""
    spec = parts.world.spec
    one = blank_state(spec)
    return copies(one, parts.sizes.parallel_worlds), row_at(one.obs, spec.action_size)


def collect(parts: Parts, state: TrainState) -> tuple[TrainState, Trajectory | None]:
    """The `collect_steps` real steps of a round by the agent's policy: the state after them, and the steps as they
    came, [H, W, ...]. Offline, only the step counter advances."""
    agent, steps = parts.agent, parts.sizes.collect_steps
    if parts.sizes.offline:
        counts = state.counts._replace(env_steps=state.counts.env_steps + steps)
        return state._replace(counts=counts), None
    act = lambda k, obs, *memory: agent.act(k, state.agent, obs, *memory)  # noqa: E731
    key = stream(state.key, Stream.COLLECT, state.counts.env_steps)
    memory = None if agent.memory is None else copies(agent.memory(state.agent), parts.sizes.parallel_worlds)
    return take_steps(parts, key, state, act, steps, memory)


def take_steps(
    parts: Parts, key: Key, state: TrainState, act: Act, steps: int, memory: Any = None
) -> tuple[TrainState, Trajectory]:
    """Takes `steps` real steps over the parallel worlds and adds them to the replay buffer. Returns the state, and the
    steps as they came, [H, W, ...]."""
    length = steps // parts.sizes.parallel_worlds
    worlds, trajectory = rollout(key, parts.world, act, state.world, length, restart=True, memory=memory)
    return add_steps(parts, state._replace(world=worlds), trajectory)


def add_steps(parts: Parts, state: TrainState, trajectory: Trajectory) -> tuple[TrainState, Trajectory]:
    """Adds the finite ones of real steps [H, W, ...] to the replay buffer. Returns the state, and the steps with the
    others blanked."""
    steps = trajectory.valid.size
    rows = Row(trajectory.transition, trajectory.state if parts.keeps_state else None)
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)  # [H, W, ...] -> [H W, ...], oldest first
    good = finite(rows.transition)
    state = state._replace(
        real=replay.add(state.real, rows, good),
        counts=state.counts._replace(env_steps=state.counts.env_steps + steps),
        fault=first_fault(state.fault, state.counts.env_steps, rows.transition),
    )
    return state, without_faults(trajectory, good.reshape(trajectory.valid.shape))


def uniform(spec: WorldSpec) -> Callable[[Key, jax.Array], tuple[jax.Array, Any]]:
    """The exploring policy: every action entry uniform in [-1, 1], or all discrete actions with equal probability."""
    if spec.discrete:
        count = spec.action_size
        return lambda key, obs: (one_hot(jax.random.randint(key, (), 0, count), count), ())
    return lambda key, obs: (jax.random.uniform(key, (spec.action_size,), minval=-1.0, maxval=1.0), ())
