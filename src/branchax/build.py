"""Config -> parts: the one place where names become objects."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable
from typing import Any

import jax

from branchax import outside, worlds
from branchax.agents.base import Agent
from branchax.agents.dqn import make_dqn
from branchax.agents.pathwise import make_pathwise
from branchax.agents.planner import make_planner
from branchax.agents.policy_gradient import make_policy_gradient
from branchax.agents.q_learning import make_q_learning
from branchax.agents.sac import make_sac
from branchax.agents.td3 import make_td3
from branchax.checks import check, check_actions, needs_table
from branchax.config import Config, OwnAgentConfig, PlannerConfig, with_own
from branchax.dynamics.base import Dynamics
from branchax.dynamics.fit import make_ensemble
from branchax.dynamics.oracle import oracle
from branchax.dynamics.tabular import make_table
from branchax.epoch.program import Program, make_program
from branchax.errors import ConfigError
from branchax.own import find_stages, make_own_agent, make_own_dynamics
from branchax.types import row_at
from branchax.worlds.base import World, WorldSpec, WorldState


def build(config: Config, world: World | None = None) -> Program:
    """The program of a checked config: pure functions, nothing compiled yet. `world`, if given, stands in for its own.

    Raises:
      ConfigError: as `check` does, and for what only the built world can tell.
    """
    check(config)
    return assemble(config, world or make_world(config))


def make_world(config: Config) -> World:
    """The world that a config names, built under the config's precision, as the program reuses what it traces."""
    with jax.default_matmul_precision(config.precision):
        return worlds.make(config.world, config.backend, config.episode_length, config.world_args)


def assemble(config: Config, world: World, wrapped: Callable[[Agent], Agent] = lambda agent: agent) -> Program:
    """The program of a checked config in its world, with its agent as `wrapped` returns it.

    Floats of the config may be traced arrays [], as long as nothing in it has to know them to be built: that is how
    `vmap` sweeps them (`sweeps/lockstep.py`). One that must be known (a float that is rounded to a count, or that
    switches a part of the program on) raises JAX's own `TypeError`.
    """
    worlds.check_precision(config.world)
    if config.env_workers and world.host is None:
        raise ConfigError(
            f"env_workers: {config.env_workers} is not possible for {config.world}, which is compiled; allowed: 0"
        )
    dynamics = build_dynamics(config, world)
    agent = wrapped(build_agent(config, world, dynamics))
    return make_program(config, world, dynamics, agent, find_stages(config, world))


def check_buffer(config: Config, program: Program) -> None:
    """Raises `ConfigError` where imagined episodes begin at stored ones' beginnings, which the buffer may not hold."""
    starts_over = config.rollout.start == "initial" or config.rollout.validate_every is not None
    if config.model_free or program.host is None or not starts_over or config.dataset is not None:
        return
    least = config.parallel_worlds * (program.spec.episode_length + 1)
    if config.replay_capacity is not None and config.real_capacity < least:
        raise ConfigError(
            f"replay_capacity: {config.replay_capacity} is not possible on {config.world}, which is stepped on the"
            f" host: imagined episodes begin where stored ones did; allowed: >= {least}, or unset"
        )


def build_dynamics(config: Config, world: World) -> Dynamics | None:
    """The model to imagine in, or None when nothing is imagined."""
    if config.model_free:
        return None
    kinds = {
        "oracle": oracle,
        "tabular": make_table,
        "ensemble": lambda world: make_ensemble(world, config.model),
        "own": lambda world: make_own_dynamics(world, config),
    }
    if config.model.exact and world.host is not None:
        raise ConfigError(
            f"model.kind: {config.model.kind} is not possible on {config.world}, which is stepped on the host and"
            " cannot be asked from every state; allowed: ensemble, or a world of JAX (brax/hopper)"
        )
    return kinds[config.model.kind](world)


def plan_in(dynamics: Dynamics | None, spec: WorldSpec, config: PlannerConfig) -> Agent:
    """The planner that searches in a learned model, which needs the observation alone to branch off."""
    assert dynamics is not None, "a planner plans in a model"

    def branch(obs: jax.Array) -> WorldState:
        return dynamics.branch(row_at(obs, spec.action_size))

    return make_planner(spec, config, dynamics.init, dynamics.elites, dynamics.world, branch)


AGENTS: dict[str, Callable[[WorldSpec, Any], Agent]] = {
    "sac": make_sac,
    "td3": make_td3,
    "dqn": make_dqn,
    "q_learning": make_q_learning,
    "policy_gradient": make_policy_gradient,
    "pathwise": make_pathwise,
    "own": make_own_agent,
}


def build_agent(config: Config, world: World, dynamics: Dynamics | None = None) -> Agent:
    """The improver. Raises `ConfigError` when it cannot act in the world, or has to differentiate what it cannot."""
    check_actions(config, world.spec.discrete)
    if needs_table(config) and not world.spec.tabular:
        raise ConfigError(f"world: {config.world} is not possible; allowed: a world of few states, for a table")
    if config.through_model and config.model.exact and not world.spec.differentiable:
        raise ConfigError(
            f"model.kind: oracle is not possible on {world.spec.name} with backend {config.backend}; allowed:"
            " ensemble, because the pathwise gradient goes back through the model, and this simulator's derivatives"
            " do not exist or mean nothing. Without them: presets ppo, v2.5, oracle_mbpo"
        )
    makers: dict[str, Callable[[WorldSpec, Any], Agent]] = AGENTS | {"planner": functools.partial(plan_in, dynamics)}
    agent = makers[config.agent.kind](world.spec, config.agent)
    if agent.memory is not None and agent.learns_from != "plans" and dynamics is not None:
        raise ConfigError(
            f"rollout.horizon: {config.rollout.horizon} is not possible for an agent with a memory, which rollouts in"
            " a model do not carry; allowed: 0"
        )
    whole = config.updates_per_round % agent.counts == 0
    if not whole:
        raise ConfigError(
            f"updates_per_step: {config.updates_per_step} is not possible; allowed: a number whose product with"
            f" collect_steps = {config.collect_steps} is a multiple of {agent.counts}, the updates that go together"
        )
    return agent


def settle(config: Config) -> Config:
    """`config` with the data that an agent of one's own learns from, which is known once it is built; checked again."""
    if config.agent.traits.learns_from is not None or not isinstance(config.agent, OwnAgentConfig):
        return config
    agent = build_agent(config, make_world(config))
    config = dataclasses.replace(config, agent=dataclasses.replace(config.agent, reads=agent.learns_from))
    check(config)
    return config


def with_parts(
    config: Config, world: Any = None, agent: Any = None, dynamics: Any = None, stages: Any = None
) -> Config:
    """`config` with parts of one's own, each a function that makes it, or its name `module:function`; None: as it is.

    They are found again by these names, in this process even where they cannot be imported (`outside`). An agent may be
    a `functools.partial` with keywords, which are recorded.
    """
    if world is not None:
        config = dataclasses.replace(config, world=outside.name_of(world, "world"))
    args = None
    if isinstance(agent, functools.partial):
        if agent.args:
            raise ConfigError("agent: a partial with positional arguments is not possible; allowed: keywords")
        args = tuple(f"{name}={json.dumps(value)}" for name, value in agent.keywords.items())
        agent = agent.func
    named = None if agent is None else outside.name_of(agent, "agent")
    config = with_own(config, named, None if dynamics is None else outside.name_of(dynamics, "dynamics"), args)
    return config if stages is None else dataclasses.replace(config, stages=outside.name_of(stages, "stages"))
