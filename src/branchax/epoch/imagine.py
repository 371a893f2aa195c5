"""Imagined rollouts: where they branch off, which member of the model predicts them, and what of them is stored."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.dynamics.base import assign_members
from branchax.dynamics.uncertainty import gate
from branchax.epoch.parts import Parts, Starts
from branchax.epoch.state import TrainState
from branchax.replay import Ring
from branchax.rollout import Act, rollout
from branchax.sharding import over_batch, side_by_side
from branchax.types import Key, Largest, Metrics, Row, Stream, Total, Trajectory, finite, stream
from branchax.worlds.base import World, WorldState


def draw_starts(parts: Parts, key: Key, state: TrainState, count: int) -> Starts:
    """`count` states: replayed real ones, drawn uniformly (3.0), or fresh initial ones (2.0, 2.5)."""
    config, dynamics = parts.sizes.rollout, parts.model
    if config.start == "initial":
        if parts.world.host is not None:
            return Starts(first_states(parts, key, state, count))
        reset = dynamics.world(state.model, None).reset
        return Starts(jax.vmap(reset)(jax.random.split(key, count)))
    rows: Row = replay.sample(key, state.real, count)
    start = jax.vmap(dynamics.branch)(rows)
    return Starts(start, rows.transition.action if config.first_action == "replayed" else None)


def first_states(parts: Parts, key: Key, state: TrainState, count: int) -> WorldState:
    """`count` states of the model's world that real episodes began in, where no program can reset the real one."""
    worlds = 1 if parts.sizes.offline else parts.sizes.parallel_worlds  # a dataset has one episode after the other
    rows = first_rows(key, state.real, worlds, parts.sizes.drops_rows, count)
    return jax.vmap(parts.model.branch)(rows)


def first_rows(key: Key, ring: Ring, worlds: int, dropped: bool, count: int) -> Row:
    """`count` rows, drawn from the first rows of the stored episodes; `worlds` parallel worlds wrote in turn.

    A row goes on from the row `worlds` places before it, unless that one ended its episode. Where rows may have been
    `dropped`, rows of a world may be nearer: then it is any of the `worlds` rows before, if its next observation is the
    row's. All others begin an episode, but for the oldest ones of a full ring, whose earlier rows are gone. If no
    episode begins in the ring, its oldest row is taken.
    """
    t, slots = ring.data.transition, replay.capacity(ring)
    age = (ring.cursor - 1 - jnp.arange(slots)) % slots  # 0: the latest

    def mark(back: jax.Array, goes_on: jax.Array) -> jax.Array:
        before = (jnp.arange(slots) - back) % slots
        same = ~(t.terminated | t.truncated)[before] & (age < ring.size - back)
        return goes_on | (same & (t.next_obs[before] == t.obs).all(-1) if dropped else same)

    goes_on = jax.lax.fori_loop(1 if dropped else worlds, worlds + 1, mark, jnp.zeros(slots, bool))
    known = (age < ring.size - worlds) | (ring.size < slots)
    begins = ~goes_on & known & (age < ring.size)
    place = jnp.cumsum(jnp.where(begins.any(), begins, age == ring.size - 1))
    wanted = jax.random.randint(key, (count,), 1, jnp.maximum(place[-1], 1) + 1)
    return replay.take(ring, jnp.minimum(jnp.searchsorted(place, wanted), slots - 1))


def branch(
    parts: Parts, key: Key, state: TrainState, act: Act, horizon: jax.Array, window: int | None = None
) -> Trajectory:
    """Rollouts of `act` in the model from the run's `starts`, in groups [G, H, B, ...]."""
    config, dynamics = parts.sizes.rollout, parts.model
    groups, longest = config.groups, config.longest()
    key_members, key_groups = jax.random.split(key)
    members = assign_members(key_members, dynamics.elites(state.model), groups, longest, config.propagation)

    def world_of(member: Any) -> World:
        return dynamics.world(state.model, member)

    def group(x: tuple[Key, Any]) -> Trajectory:
        key_start, key_run = jax.random.split(x[0])
        starts = parts.stages.starts(parts, key_start, state, parts.sizes.rollouts // groups)
        return rollout(
            key_run,
            world_of if members is not None else world_of(None),
            act,
            over_batch(starts.state),
            longest,
            context=x[1],
            horizon=horizon,
            window=window,
            actions=None if starts.action is None else starts.action[None],
        )[1]

    def doubted(x: tuple[Key, Any]) -> tuple[Trajectory, jax.Array]:
        trajectory = group(x)
        t = trajectory.transition
        doubt = functools.partial(dynamics.doubt, state.model)
        return trajectory, jax.vmap(jax.vmap(doubt))(t.obs, t.action)

    x, at_once = (jax.random.split(key_groups, groups), members), side_by_side(config)
    if config.gate == "none" and config.penalty == 0:
        return jax.lax.map(group, x, batch_size=at_once)
    trajectory, doubt = jax.lax.map(doubted, x, batch_size=at_once)
    return gate(trajectory, doubt, horizon, config)


def lift_limits(rows: Row) -> Row:
    """Real rows as updates see them: without the mark of a time limit. In a batch, `truncated` marks imagined rows that
    have left the range of the data."""
    t = rows.transition
    return rows._replace(transition=t._replace(truncated=jnp.zeros_like(t.truncated)))


def imagine(parts: Parts, state: TrainState, horizon: jax.Array, key: Key | None = None) -> tuple[TrainState, Metrics]:
    """Stores the valid steps of branched rollouts of the agent's policy, `horizon` [] long.

    `key` is the epoch's own unless there is one.
    """
    sizes = parts.sizes
    key = stream(state.key, Stream.IMAGINE, state.counts.epochs) if key is None else key
    key_else = jax.random.fold_in(key, 1)
    act = lambda k, obs: parts.agent.act(k, state.agent, obs)  # noqa: E731
    trajectory = branch(parts, key, state, act, horizon)
    # [G, H, B, ...] -> [G h B, ...], without the steps that no horizon of this run reaches.
    rows, valid = jax.tree.map(
        lambda x: x[:, : sizes.imagined_steps].reshape(-1, *x.shape[3:]), (trajectory.transition, trajectory.valid)
    )
    valid = valid & finite(rows)
    assert isinstance(state.imagined, Ring)
    steps = valid.sum()
    share = jnp.maximum(steps, 1)
    metrics = {
        "imagine/steps": Total(steps.astype(jnp.float32)),
        "imagine/length_mean": steps / sizes.rollouts,
        "imagine/reward_mean": jnp.where(valid, rows.reward, 0.0).sum() / share,
        "imagine/terminated": (valid & rows.terminated).sum() / share,
        "imagine/left": (valid & rows.truncated).sum() / share,
        "imagine/obs_max": Largest(jnp.where(valid[:, None], jnp.abs(rows.next_obs), 0.0).max()),
    }
    # The epochs before this one, as long as rollouts are now; older rows come from older policies and models.
    kept = replay.keep_latest(state.imagined, (sizes.rollout.keep_epochs - 1) * sizes.rollouts * horizon)
    counts = state.counts._replace(model_steps=state.counts.model_steps + steps.astype(jnp.uint32))
    added = replay.add(kept, rows, valid)
    # Where gates have ruled out every step, or none was finite, the batches' imagined share is real.
    added = replay.fill_if_empty(added, lift_limits(replay.sample(key_else, state.real, sizes.batch_size)).transition)
    return state._replace(imagined=added._replace(data=over_batch(added.data)), counts=counts), metrics
