"""What an agent's updates may draw on: replayed rows, imagined ones, and rollouts of its own."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.agents.base import Ahead, Sources
from branchax.dynamics.base import assign_members
from branchax.epoch.imagine import branch, lift_limits
from branchax.epoch.parts import Parts
from branchax.epoch.state import TrainState
from branchax.rollout import Act, rollout
from branchax.sharding import over_batch, whole
from branchax.types import Key, Row, Trajectory
from branchax.worlds.base import WorldState


def make_sources(parts: Parts, state: TrainState, recent: Trajectory | None, horizon: jax.Array) -> Sources:
    """The sources of the updates from `state` on; `recent` is what was just collected."""
    sizes = parts.sizes
    real = state.real._replace(data=lift_limits(state.real.data))
    transitions = real._replace(data=real.data.transition)

    def plain(key: Key) -> Row:
        return over_batch(whole(replay.sample(key, real, sizes.batch_size)))

    def mixed(key: Key) -> Row:
        imagined: Any = state.imagined
        rows = Row(replay.sample_mixed(key, transitions, imagined, sizes.real_rows, sizes.batch_size))
        return over_batch(whole(rows))

    if parts.dynamics is None:
        return Sources(plain, lambda key, act, window: recent, recent)  # type: ignore[arg-type, return-value]

    def own(key: Key, act: Act, window: int | None) -> Trajectory:
        groups = branch(parts, key, state, act, horizon, window)  # [G, H, B, ...] -> [H, G B, ...]
        return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), groups)

    def weigh(rows: Row) -> jax.Array:
        t = jax.tree.map(lambda x: x[sizes.real_rows :], rows.transition)
        doubt = jax.vmap(functools.partial(parts.model.doubt, state.model))(t.obs, t.action)
        return jnp.concatenate([jnp.ones(sizes.real_rows, doubt.dtype), 1 / (1 + doubt)])

    return Sources(
        replay=mixed if sizes.imagined_capacity else plain,
        rollout=own,
        recent=recent,
        ahead=look_ahead(parts, state, horizon),
        model=state.model,
        weigh=weigh if sizes.rollout.weigh else None,
    )


def look_ahead(parts: Parts, state: TrainState, horizon: jax.Array) -> Ahead:
    """The model, for updates that roll it out from the states of their batch."""
    model, config = parts.model, parts.sizes.rollout
    longest = config.longest() if config.look_ahead is None else config.look_ahead
    steps = horizon if config.look_ahead is None else None

    def start(key: Key, rows: Row, after: bool) -> WorldState:
        if not after:
            return jax.vmap(model.branch)(rows)
        return jax.vmap(model.after)(jax.random.split(key, rows.transition.reward.shape[0]), rows)

    def in_elites(key: Key, act: Act, starts: WorldState) -> Trajectory:
        def one(key: Key, member: jax.Array, start: WorldState) -> Trajectory:
            in_member = model.world(state.model, member)
            return rollout(key, in_member, act, start, longest, horizon=steps)[1]

        elites = model.elites(state.model)
        return jax.vmap(one)(jax.random.split(key, elites.shape[0]), elites, starts)

    def in_mixed(key: Key, act: Act, starts: WorldState) -> Trajectory:
        key_members, key_run = jax.random.split(key)
        elites = model.elites(state.model)
        count = elites.shape[0]
        members = assign_members(key_members, elites, count, longest, config.propagation)

        def one(key: Key, members: Any, start: WorldState) -> Trajectory:
            world = model.world(state.model, None)
            of_member: Any = world if members is None else lambda member: model.world(state.model, member)
            return rollout(key, of_member, act, start, longest, context=members, horizon=steps, products_only=True)[1]

        return jax.vmap(one)(jax.random.split(key_run, count), members, starts)

    return Ahead(jax.eval_shape(model.elites, state.model).shape[0], start, in_elites, in_mixed)
