"""Builds and checks the user's own parts before anything is compiled; errors name the faulty function."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, get_args

import jax

from branchax import outside
from branchax.agents.base import Agent, LearnsFrom
from branchax.config import Config, OwnAgentConfig
from branchax.config.agents import AS_BUILT
from branchax.dynamics.base import Dynamics
from branchax.epoch.parts import Stages
from branchax.epoch.program import STAGES, Program, trace_epoch
from branchax.errors import ConfigError
from branchax.types import Transition, row_at
from branchax.worlds.base import World, WorldSpec, blank_state


def make_own_agent(spec: WorldSpec, config: OwnAgentConfig) -> Agent:
    """Calls the factory named in the settings with a world's spec.

    Raises `ConfigError` if it cannot be found, raises, or does not return an `Agent` for this world.
    """
    name, field = config.factory, "agent.factory"
    agent = _call(name, field, Agent, spec, **outside.arguments_of(config.args, "agent.args"))
    if agent.learns_from not in get_args(LearnsFrom):
        allowed = ", ".join(get_args(LearnsFrom))
        raise ConfigError(f"{field}: {name!r} has learns_from = {agent.learns_from!r}; allowed: {allowed}")
    if config.reads not in (AS_BUILT, agent.learns_from):
        raise ConfigError(f"agent.reads: {config.reads}, but {name!r} reads {agent.learns_from}; start another run")
    key, obs = jax.random.key(0), jax.ShapeDtypeStruct((spec.obs_size,), "float32")
    memory = () if agent.memory is None else (_trace(name, field, "memory", agent.memory, _state(name, agent)),)
    acted = _trace(name, field, "act", agent.act, key, _state(name, agent), obs, *memory)
    if not isinstance(acted, tuple) or len(acted) != 2 + len(memory):
        allowed = "(action, extras)" if not memory else "(action, extras, memory)"
        raise ConfigError(f"{field}: {name!r} has an act that does not return a tuple {allowed}")
    mode = _trace(name, field, "mode", agent.mode, _state(name, agent), obs, *memory)
    for what, action in (("act", acted[0]), ("mode", mode[0] if memory else mode)):
        _check_shape(f"{field}: {name!r} has {what}", action, (spec.action_size,), "float32")
    return agent


def make_own_dynamics(world: World, config: Config) -> Dynamics:
    """Calls the model factory named in the settings. Raises `ConfigError` as `make_own_agent` does."""
    name, field, spec = config.model.factory, "model.factory", world.spec
    dynamics = _call(name, field, Dynamics, world, config.model)
    if config.dataset is not None and dynamics.needs_state:
        raise ConfigError(f"dataset: {name!r} branches at simulator states, but a file has none; allowed: unset")
    if config.plans and dynamics.needs_state:
        raise ConfigError(f"{field}: {name!r} branches at simulator states, but a planner needs observations")
    if world.host is not None and dynamics.needs_state:
        raise ConfigError(f"{field}: {name!r} branches at simulator states, but {config.world} gives none")

    def step(key: jax.Array) -> tuple[Any, Transition]:
        state = world.reset(key) if world.host is None else blank_state(spec)
        row = row_at(state.obs, spec.action_size, state if dynamics.needs_state else None)
        model = dynamics.init(key)
        return dynamics.world(model, dynamics.elites(model)[0]).step(key, dynamics.branch(row), row.transition.action)

    _, t = _trace(name, field, "a step", step, jax.random.key(0))
    for what, x, shape, kind in (
        ("next_obs", t.next_obs, (spec.obs_size,), "float32"),
        ("reward", t.reward, (), "float32"),
        ("terminated", t.terminated, (), "bool"),
    ):
        _check_shape(f"{field}: {name!r} has {what}", x, shape, kind)
    return dynamics


def find_stages(config: Config, world: World) -> Stages:
    """The stages named in the settings, or the library's. Raises `ConfigError` as `make_own_agent` does."""
    if config.stages is None:
        return STAGES
    found = outside.find(config.stages, "stages")
    if not isinstance(found, Stages):
        found = _call(config.stages, "stages", Stages)
    if missing := [field for field, stage in zip(Stages._fields, found, strict=True) if not callable(stage)]:
        raise ConfigError(f"stages: {config.stages!r} has no function for {', '.join(missing)}")
    if found.collect is not STAGES.collect and world.host is not None:
        raise ConfigError(
            f"stages: {config.stages!r} has a collect of its own, and the host takes the steps of {config.world};"
            " allowed: STAGES.collect, or a world of JAX"
        )
    return found


def try_out(config: Config, program: Program) -> None:
    """Traces an epoch of a program with the user's own parts. Raises `ConfigError` if they raise."""
    named = {field: name for field, name in config.own_parts.items() if field != "world"}
    if not named:
        return
    state = _attempt(named, "exploring", program.init, jax.random.key(0))
    epoch = functools.partial(trace_epoch, program)
    after, _ = _attempt(named, "an epoch", epoch, state, jax.ShapeDtypeStruct((), "int32"))
    like = [jax.tree.map(lambda x: (x.shape, x.dtype), tree) for tree in (state, after)]
    if like[0] != like[1]:
        parts = [f for f, a, b in zip(state._fields, *like, strict=True) if a != b]
        raise ConfigError(f"{_names(named)}: an epoch changes the shapes or dtypes of {', '.join(parts)}")


def _names(named: dict[str, str]) -> str:
    return ", ".join(f"{field} {name!r}" for field, name in named.items())


def _attempt(named: dict[str, str], what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return jax.eval_shape(function, *arguments)
    except ConfigError:
        raise
    except Exception as error:
        where = next((x for name in named.values() if (x := outside.describe_error(error, name)).endswith(")")), None)
        raise ConfigError(f"{_names(named)}: cannot trace {what}: {where or outside.describe_error(error)}") from error


def _call(name: str, field: str, kind: type, *arguments: Any, **others: Any) -> Any:
    """Calls a user's function; raises `ConfigError` if it raises or does not return a `kind`."""
    function = outside.find(name, field)
    if not callable(function):
        raise ConfigError(f"{field}: {name!r} is a {type(function).__name__}; allowed: a function")
    try:
        made = function(*arguments, **others)
    except ConfigError:
        raise
    except Exception as error:
        raise ConfigError(f"{field}: {name!r} raised {outside.describe_error(error, name)}") from error
    if not isinstance(made, kind):
        raise ConfigError(f"{field}: {name!r} returned {type(made).__name__}; allowed: {kind.__name__}")
    return made


def _state(name: str, agent: Agent) -> Any:
    return _trace(name, "agent.factory", "init", agent.init, jax.random.key(0))


def _trace(name: str, field: str, what: str, function: Callable[..., Any], *arguments: Any) -> Any:
    try:
        return jax.eval_shape(function, *arguments)
    except Exception as error:
        raise ConfigError(f"{field}: {name!r} cannot trace {what}: {outside.describe_error(error, name)}") from error


def _check_shape(what: str, x: Any, shape: tuple[int, ...], kind: str) -> None:
    got = f"{x.dtype}{list(x.shape)}" if hasattr(x, "shape") else type(x).__name__
    if got != f"{kind}{list(shape)}":
        raise ConfigError(f"{what} {got}; allowed: {kind}{list(shape)}")
