"""A whole run as three pure functions over one state: `init`, `epoch` and `evaluate`.

An epoch is fit -> imagine -> (collect -> improve) x n, as nested scans with static lengths (MBPO, algorithm 2):

    fit       the model to all real data                                                   dynamics.fit
    imagine   many short rollouts branched off real states, into the model buffer          rollout, in the model's world
    collect   a few real steps, into the replay buffer                                     rollout, in the real world
    improve   the agent on batches with an exact share of real rows                        agent.update

Only batches that mix real and imagined rows need the model buffer. An agent that learns on rollouts of its own policy
(PPO, the pathwise gradient) imagines afresh for each update, or takes what was just collected when there is no model;
one whose targets or gradients look ahead (MVE, STEVE, SVG) rolls the model out from the states of its batch; a planner
takes the model itself, before it collects. Otherwise an epoch that collects only once does so first.

Everything that changes lives in `TrainState`: `sharding.over_seeds` trains many at once, saving it resumes exactly.
This module takes ready-made parts and knows no names; `build.py` makes the parts.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from branchax import replay
from branchax.agents.base import Agent, Ahead, Sources
from branchax.agents.until import until, while_agreed, within
from branchax.config import Config
from branchax.distributions import one_hot
from branchax.dynamics.base import Dynamics, assign_members
from branchax.dynamics.uncertainty import gate
from branchax.replay import Ring
from branchax.rollout import Act, copies, episode_returns, rollout
from branchax.sharding import over_batch, side_by_side, whole
from branchax.types import Key, Metrics, Row, Stream, Trajectory, Transition, finite, stream
from branchax.worlds.base import World, WorldSpec, WorldState


class Counts(NamedTuple):
    """How much has been done; all []."""

    env_steps: jax.Array  # int32; offline, the steps that the schedule has gone on by
    model_steps: jax.Array  # uint32: long rollouts by the thousand pass 2^31
    updates: jax.Array  # int32
    epochs: jax.Array  # int32


class Fault(NamedTuple):
    """The rows of the last epoch in which a real world returned a number that is not finite.

    They never enter the buffer, nor any statistics, and the world starts a new episode after each.
    """

    step: jax.Array  # [] int32, the env step of the first; -1 while there is none
    field: jax.Array  # [] int32, index into `Transition._fields`
    rows: jax.Array  # [] int32, how many there are
    first: Transition  # the first, unbatched


class TrainState(NamedTuple):
    """Everything a run needs to go on. `imagined` and `model` are `()` in a model-free run."""

    key: Key  # [] the seed's root key; never advanced, every draw is `stream(key, component, count)`
    world: WorldState  # [W, ...] the real worlds
    real: Ring  # of `Row`
    imagined: Ring | tuple[()]  # of `Transition`
    model: Any
    agent: Any
    counts: Counts
    fault: Fault


class Parts(NamedTuple):
    """What an epoch is made of, for whoever runs or times its parts alone; the last two are of use with a model."""

    collect: Callable[[TrainState], tuple[TrainState, Trajectory | None]]  # one round, and what was collected
    improve: Callable[[TrainState, Trajectory | None, jax.Array], tuple[TrainState, Metrics]]  # the updates of a round
    fit: Callable[[TrainState], tuple[TrainState, Metrics]]
    imagine: Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]  # into the model buffer; (state, horizon)


class Program(NamedTuple):
    """A run as pure, unbatched functions; the host takes them over seeds (`sharding.over_seeds`) and compiles them."""

    spec: WorldSpec
    init: Callable[[Key], TrainState]  # exploration included
    epoch: Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]  # (state, horizon [] int32)
    evaluate: Callable[[Key, Any], Metrics]  # (key, state.agent) -> {"return": [N], "length": [N]}
    parts: Parts | None = None


def make_program(config: Config, world: World, dynamics: Dynamics | None, agent: Agent) -> Program:
    """Composes ready-made parts into a run; only sizes are read from `config`. A model-free run has no `dynamics`."""
    keeps_state = dynamics is not None and dynamics.needs_state
    buffers = dynamics is not None and config.stores_imagined

    def collect(key: Key, state: TrainState, act: Act, steps: int, memory: Any = None) -> tuple[TrainState, Trajectory]:
        """`steps` real env steps over the parallel worlds, into the replay buffer; also as they came, [H, W, ...]."""
        length = steps // config.parallel_worlds
        worlds, trajectory = rollout(key, world, act, state.world, length, restart=True, memory=memory)
        rows = Row(trajectory.transition, trajectory.state if keeps_state else None)
        rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), rows)  # [H, W, ...] -> [H W, ...], oldest first
        good = finite(rows.transition)
        state = state._replace(
            world=worlds,
            real=replay.add(state.real, rows, good),
            counts=state.counts._replace(env_steps=state.counts.env_steps + steps),
            fault=first_fault(state.fault, state.counts.env_steps, rows.transition),
        )
        return state, without_faults(trajectory, good.reshape(trajectory.valid.shape))

    def init(key: Key) -> TrainState:
        keys = jax.random.split(stream(key, Stream.WORLD), config.parallel_worlds)
        worlds = jax.vmap(world.reset)(keys)
        one = jax.eval_shape(world.step, key, jax.tree.map(lambda x: x[0], worlds), jnp.zeros(world.spec.action_size))
        row = Row(one[1], one[0] if keeps_state else None)
        zero = jnp.zeros((), jnp.int32)
        state = TrainState(
            key=key,
            world=worlds,
            real=replay.init(row, config.real_capacity),
            imagined=replay.init(row.transition, config.imagined_capacity) if buffers else (),
            model=() if dynamics is None else dynamics.init(stream(key, Stream.MODEL)),
            agent=agent.init(stream(key, Stream.AGENT)),
            # One array each: donated buffers must not be shared.
            counts=Counts(jnp.copy(zero), jnp.zeros((), jnp.uint32), jnp.copy(zero), jnp.copy(zero)),
            fault=no_fault(row.transition),
        )
        if config.dataset is not None:
            return state  # the host fills the buffer
        return collect(stream(key, Stream.EXPLORE), state, uniform(world.spec), config.explore_steps)[0]

    def branch(
        key: Key, state: TrainState, dynamics: Dynamics, act: Act, horizon: jax.Array, window: int | None = None
    ) -> Trajectory:
        """Rollouts of `act` in the model, off real states or initial ones, in groups [G, H, B, ...]."""
        groups, longest = config.rollout.groups, config.rollout.longest()
        key_members, key_groups = jax.random.split(key)
        members = assign_members(key_members, dynamics.elites(state.model), groups, longest, config.rollout.propagation)

        def world_of(member: Any) -> World:
            return dynamics.world(state.model, member)

        def group(x: tuple[Key, Any]) -> Trajectory:
            key_start, key_run = jax.random.split(x[0])
            count = config.rollouts // groups
            first = None
            if config.rollout.start == "replay":
                rows: Row = replay.sample(key_start, state.real, count)
                start = jax.vmap(dynamics.branch)(rows)
                first = rows.transition.action[None] if config.rollout.first_action == "replayed" else None
            else:
                start = jax.vmap(world_of(None).reset)(jax.random.split(key_start, count))
            model_world = world_of if members is not None else world_of(None)
            return rollout(
                key_run,
                model_world,
                act,
                over_batch(start),
                longest,
                context=x[1],
                horizon=horizon,
                window=window,
                actions=first,
            )[1]

        def doubted(x: tuple[Key, Any]) -> tuple[Trajectory, jax.Array]:
            trajectory = group(x)
            t = trajectory.transition
            doubt = functools.partial(dynamics.doubt, state.model)
            return trajectory, jax.vmap(jax.vmap(doubt))(t.obs, t.action)

        uncertain = config.rollout.gate != "none" or config.rollout.penalty > 0
        x, at_once = (jax.random.split(key_groups, groups), members), side_by_side(config.rollout)
        if not uncertain:
            return jax.lax.map(group, x, batch_size=at_once)
        trajectory, doubt = jax.lax.map(doubted, x, batch_size=at_once)
        return gate(trajectory, doubt, horizon, config.rollout)

    def imagine(state: TrainState, horizon: jax.Array) -> tuple[TrainState, Metrics]:
        """Stores the valid steps of branched rollouts."""
        assert dynamics is not None
        key = stream(state.key, Stream.IMAGINE, state.counts.epochs)
        key_else = jax.random.fold_in(key, 1)
        act = lambda k, obs: agent.act(k, state.agent, obs)  # noqa: E731
        trajectory = branch(key, state, dynamics, act, horizon)
        rows, valid = jax.tree.map(
            lambda x: x.reshape(-1, *x.shape[3:]), (trajectory.transition, trajectory.valid)
        )  # [G, H, B, ...] -> [G H B, ...]
        valid = valid & finite(rows)
        assert isinstance(state.imagined, Ring)
        steps = valid.sum()
        share = jnp.maximum(steps, 1)
        metrics = {
            "imagine/steps": steps.astype(jnp.float32),
            "imagine/length_mean": steps / config.rollouts,
            "imagine/reward_mean": jnp.where(valid, rows.reward, 0.0).sum() / share,
            "imagine/terminated": (valid & rows.terminated).sum() / share,
            "imagine/obs_max": jnp.where(valid[:, None], jnp.abs(rows.next_obs), 0.0).max(),
        }
        # The epochs before this one, as long as rollouts are now; older rows come from older policies and models.
        kept = replay.keep_latest(state.imagined, (config.rollout.keep_epochs - 1) * config.rollouts * horizon)
        counts = state.counts._replace(model_steps=state.counts.model_steps + steps.astype(jnp.uint32))
        added = replay.add(kept, rows, valid)
        # Where gates have ruled out every step, or none was finite, the batches' imagined share is real.
        added = replay.or_else(added, replay.sample(key_else, state.real, config.batch_size).transition)
        return state._replace(imagined=added._replace(data=over_batch(added.data)), counts=counts), metrics

    def sources(state: TrainState, recent: Trajectory | None, horizon: jax.Array) -> Sources:
        """What the agent's updates may draw on: exact shares of real and imagined rows, and rollouts of its own."""
        real = state.real._replace(data=state.real.data.transition)
        plain = lambda key: over_batch(whole(replay.sample(key, state.real, config.batch_size)))  # noqa: E731
        if dynamics is None:
            return Sources(plain, lambda key, act, window: recent, recent)  # type: ignore[arg-type, return-value]

        model = dynamics

        def imagined(key: Key, act: Act, window: int | None) -> Trajectory:
            groups = branch(key, state, model, act, horizon, window)  # [G, H, B, ...] -> [H, G B, ...]
            return jax.tree.map(lambda x: jnp.moveaxis(x, 0, 1).reshape(x.shape[1], -1, *x.shape[3:]), groups)

        def start(key: Key, rows: Row, after: bool) -> WorldState:
            if not after:
                return jax.vmap(model.branch)(rows)
            return jax.vmap(model.after)(jax.random.split(key, rows.transition.reward.shape[0]), rows)

        def in_elites(key: Key, act: Act, starts: WorldState) -> Trajectory:
            def one(key: Key, member: jax.Array, start: WorldState) -> Trajectory:
                in_member = model.world(state.model, member)
                return rollout(key, in_member, act, start, config.rollout.longest(), horizon=horizon)[1]

            elites = model.elites(state.model)
            return jax.vmap(one)(jax.random.split(key, elites.shape[0]), elites, starts)

        def mixed(key: Key) -> Row:
            buffer: Any = state.imagined
            rows = Row(replay.sample_mixed(key, real, buffer, config.real_rows, config.batch_size))
            return over_batch(whole(rows))

        elites = jax.eval_shape(model.elites, state.model).shape[0]
        ahead = Ahead(elites, start, in_elites)
        return Sources(mixed if buffers else plain, imagined, recent, ahead, state.model)

    def improve(state: TrainState, recent: Trajectory | None, horizon: jax.Array) -> tuple[TrainState, Metrics]:
        """The updates that follow one round of collecting, as a scan."""
        key = stream(state.key, Stream.IMPROVE, state.counts.env_steps)
        draws = sources(state, recent, horizon)
        count = config.updates_per_round // agent.counts
        update = jax.named_scope("update")(lambda params, k: agent.update(k, params, draws))
        improve_all = lambda params, keys: jax.lax.scan(update, params, keys)  # noqa: E731
        if dynamics is not None and config.rollout.validate_every is not None:
            key, key_look = jax.random.split(key)
            returns_of = functools.partial(member_returns, key_look, state, dynamics, horizon)
            look = while_agreed(returns_of, config.rollout.validate_share)
            improve_all = until(update, look, returns_of(state.agent), config.rollout.validate_every, undo=False)
        elif agent.divergence is not None and agent.budget is not None:
            key, key_look = jax.random.split(key)
            obs = replay.sample(key_look, state.real, config.batch_size).transition.obs
            moved = agent.divergence
            look = within(lambda old, new: moved(old, new, obs), agent.budget)
            improve_all = until(update, look, state.agent, every=1, undo=True)
        params, metrics = improve_all(state.agent, jax.random.split(key, count))
        done = metrics.get("improve/done", jnp.ones(count))  # 0 for the updates that were left out
        counts = state.counts._replace(updates=state.counts.updates + agent.counts * done.sum().astype(jnp.int32))
        taken = metrics.get("imagine/steps" if agent.on_policy else "ahead/steps")
        if dynamics is not None and taken is not None:
            steps = (done * taken).astype(jnp.uint32).sum()
            counts = counts._replace(model_steps=counts.model_steps + steps)
        return state._replace(agent=params, counts=counts), metrics

    def member_returns(key: Key, state: TrainState, dynamics: Dynamics, horizon: jax.Array, params: Any) -> jax.Array:
        """The mean return of the policy's mode in each elite's model, from the same starts with the same noise: [n]."""
        act = lambda k, obs: (agent.mode(params, obs), ())  # noqa: E731
        key_start, key_run = jax.random.split(key)

        def in_member(member: jax.Array) -> jax.Array:
            model_world = dynamics.world(state.model, member)
            start = jax.vmap(model_world.reset)(jax.random.split(key_start, config.rollouts))
            t = rollout(key_run, model_world, act, over_batch(start), config.rollout.longest(), horizon=horizon)[1]
            return jnp.where(t.valid, t.transition.reward, 0.0).sum(0).mean()

        return jax.lax.map(in_member, dynamics.elites(state.model))

    def collect_and_improve(state: TrainState, horizon: jax.Array) -> tuple[TrainState, Metrics]:
        state, recent = collect_round(state)
        return improve(state, recent, horizon)

    def collect_round(state: TrainState) -> tuple[TrainState, Trajectory | None]:
        if config.dataset is not None:
            counts = state.counts._replace(env_steps=state.counts.env_steps + config.collect_steps)
            return state._replace(counts=counts), None
        act = lambda k, obs, *memory: agent.act(k, state.agent, obs, *memory)  # noqa: E731
        key = stream(state.key, Stream.COLLECT, state.counts.env_steps)
        memory = None if agent.memory is None else copies(agent.memory(state.agent), config.parallel_worlds)
        return collect(key, state, act, config.collect_steps, memory)

    def fit(state: TrainState) -> tuple[TrainState, Metrics]:
        if dynamics is None:
            return state, {}
        model, metrics = dynamics.fit(stream(state.key, Stream.FIT, state.counts.epochs), state.model, state.real)
        return state._replace(model=model), metrics

    def fit_and_imagine(state: TrainState, horizon: jax.Array) -> tuple[TrainState, Metrics]:
        state, metrics = fit(state)
        if not buffers:
            return state, metrics
        state, dreamt = imagine(state, horizon)
        return state, metrics | dreamt

    def epoch(state: TrainState, horizon: jax.Array) -> tuple[TrainState, Metrics]:
        state = state._replace(fault=no_fault(state.fault.first))
        rounds = config.epoch_steps // config.collect_steps
        if config.plans:  # in the model of all data so far, as PETS does
            state, metrics = fit_and_imagine(state, horizon)
            state, _ = improve(state, None, horizon)
            state, recent = collect_round(state)
            improved = {} if recent is None else recent.extras
            steps = improved.get("plan/steps", jnp.zeros(())).astype(jnp.uint32).sum()
            state = state._replace(counts=state.counts._replace(model_steps=state.counts.model_steps + steps))
        elif rounds == 1:
            state, recent = collect_round(state)
            state, metrics = fit_and_imagine(state, horizon)
            state, improved = improve(state, recent, horizon)
        else:
            state, metrics = fit_and_imagine(state, horizon)
            state, improved = jax.lax.scan(lambda s, _: collect_and_improve(s, horizon), state, None, length=rounds)
        # Of each loss, how many of the epoch's updates found it not finite.
        metrics |= {f"{k}_nonfinite": (~jnp.isfinite(v)).sum() for k, v in improved.items() if k.endswith("loss")}
        metrics |= {"collect/nonfinite_rows": state.fault.rows}
        # Means over the epoch's updates; the largest of what is a maximum or a running count.
        metrics |= {k: (jnp.max if k.endswith(("_max", "skipped_steps")) else jnp.mean)(v) for k, v in improved.items()}
        return state._replace(counts=state.counts._replace(epochs=state.counts.epochs + 1)), metrics

    def evaluate(key: Key, params: Any) -> Metrics:
        def act(_: Key, obs: jax.Array, *memory: Any) -> tuple[Any, ...]:
            if agent.memory is None:
                return agent.mode(params, obs), ()
            action, later = agent.mode(params, obs, *memory)
            return action, (), later

        memory = None if agent.memory is None else agent.memory(params)
        total, length = episode_returns(key, world, act, config.eval_episodes, memory=memory)
        return {"return": total, "length": length}

    return Program(world.spec, init, epoch, evaluate, Parts(collect_round, improve, fit, imagine))


def uniform(spec: WorldSpec) -> Callable[[Key, jax.Array], tuple[jax.Array, Any]]:
    """The exploring policy: every action entry uniform in [-1, 1], or each of the discrete actions as likely."""
    if spec.discrete:
        count = spec.action_size
        return lambda key, obs: (one_hot(jax.random.randint(key, (), 0, count), count), ())
    return lambda key, obs: (jax.random.uniform(key, (spec.action_size,), minval=-1.0, maxval=1.0), ())


def no_fault(row: Any) -> Fault:
    """Nothing has gone wrong; `row` is like a transition, unbatched."""
    minus, zero = jnp.full((), -1, jnp.int32), jnp.zeros((), jnp.int32)
    blank = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), row)
    return Fault(minus, zero, jnp.copy(zero), blank)  # one array each: donated buffers must not be shared


def first_fault(fault: Fault, env_steps: jax.Array, rows: Transition) -> Fault:
    """`fault` with the non-finite ones among rows [N, ...] taken from step `env_steps` on."""
    bad = jnp.stack([~finite(x) for x in rows], -1)  # [N, fields]: `finite` takes any pytree of rows
    row, field = jnp.argmax(bad.any(-1)), jnp.argmax(bad, -1)
    found = bad.any() & (fault.step < 0)
    return Fault(
        jnp.where(found, env_steps + row.astype(jnp.int32), fault.step),
        jnp.where(found, field[row].astype(jnp.int32), fault.field),
        fault.rows + bad.any(-1).sum(dtype=jnp.int32),
        jax.tree.map(lambda old, new: jnp.where(found, new[row], old), fault.first, rows),
    )


def without_faults(trajectory: Trajectory, good: jax.Array) -> Trajectory:
    """The trajectory [H, W, ...] with the rows that are not `good` [H, W] made invalid: blank steps, cut by the clock.

    Blank, and not only invalid, because zero times NaN is NaN.
    """
    t = trajectory.transition

    def keep(x: jax.Array, blank: jax.Array) -> jax.Array:
        return jnp.where(good.reshape(*good.shape, *[1] * (x.ndim - 2)), x, blank)

    blank = jax.tree.map(jnp.zeros_like, t)
    obs = keep(t.obs, blank.obs)
    blank = blank._replace(obs=obs, next_obs=obs, truncated=jnp.ones_like(good))
    transition = jax.tree.map(keep, t, blank)
    return trajectory._replace(transition=transition, valid=trajectory.valid & good)
