"""Config -> parts: the one place where names become objects."""

from __future__ import annotations

from branchax import worlds
from branchax.agents.base import Agent
from branchax.agents.sac import make_sac
from branchax.config import Config, check
from branchax.dynamics.base import Dynamics
from branchax.dynamics.fit import make_ensemble
from branchax.dynamics.oracle import oracle
from branchax.train import Program, make_program
from branchax.worlds.base import World


def build(config: Config) -> Program:
    """The program of a checked config: pure functions, nothing compiled yet.

    Raises:
      ConfigError: as `check` does, and for what only the built world can tell.
    """
    check(config)
    world = worlds.make(config.world, backend=config.backend, episode_length=config.episode_length)
    return make_program(config, world, build_dynamics(config, world), build_agent(config, world))


def build_dynamics(config: Config, world: World) -> Dynamics | None:
    """The model to imagine in, or None when nothing is imagined."""
    if config.model_free:
        return None
    return oracle(world) if config.model.kind == "oracle" else make_ensemble(world, config.model)


def build_agent(config: Config, world: World) -> Agent:
    """The improver."""
    return make_sac(world.spec, config.agent)
