"""What a run is made of: sizes, a world, a model of it, an agent, and the stages that an epoch goes through."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax

from branchax.agents.base import Agent, Outcome
from branchax.config import Config, RolloutConfig
from branchax.dynamics.base import Dynamics, FitReport
from branchax.epoch.state import TrainState
from branchax.types import Metrics, Trajectory
from branchax.worlds.base import World, WorldState


class Sizes(NamedTuple):
    """The numbers that an epoch reads. All static: they are shapes and lengths of scans."""

    parallel_worlds: int  # W
    explore_steps: int
    epoch_steps: int
    collect_steps: int  # in a round
    updates_per_round: int
    first_repeats: int  # how many times the first epoch makes them
    batch_size: int
    real_rows: int  # of a batch; the rest is imagined
    real_capacity: int
    imagined_steps: int  # of a rollout, at most, that are stored; 0: rollouts are not stored
    rollouts: int  # in an epoch, or in an update of an agent that learns on its own
    rollout: RolloutConfig
    eval_episodes: int
    offline: bool  # nothing is collected
    drops_rows: bool  # real rows that are not finite are left out of the buffer, and the run goes on

    @property
    def imagined_capacity(self) -> int:
        """Rows of the model buffer."""
        return self.rollouts * self.imagined_steps * self.rollout.keep_epochs

    @property
    def rounds(self) -> int:
        """Rounds of collecting and improving in an epoch."""
        return self.epoch_steps // self.collect_steps


class Starts(NamedTuple):
    """States that rollouts begin in."""

    state: WorldState  # [B, ...], of the model's world
    action: jax.Array | None = None  # [B, A], the first action to take, if it is not the policy's


class Stages(NamedTuple):
    """An epoch's stages as values. Pass another function for one to replace it; each is given the run's `Parts` first.

    `starts` says where imagined rollouts begin; `imagine`, and what an agent's updates imagine, ask it. With
    `rollout.every` it is `improve` that calls `imagine`, before every block of updates.
    """

    # (parts, state) -> state, what a round collected; None offline
    collect: Callable[..., tuple[TrainState, Trajectory | None]]
    # (parts, state) -> state, what the fit tells
    fit: Callable[..., tuple[TrainState, FitReport]]
    # (parts, key, state, count) -> that many starts
    starts: Callable[..., Starts]
    # (parts, state, horizon [] int32) -> state, metrics
    imagine: Callable[..., tuple[TrainState, Metrics]]
    # (parts, state, horizon [] int32) -> state; updates of only the critics, where the agent has them
    warm_up: Callable[..., TrainState]
    # (parts, state, what was collected, horizon [] int32) -> state, outcomes of the updates [N]
    improve: Callable[..., tuple[TrainState, Outcome]]


class Parts(NamedTuple):
    """What a run is made of. A model-free run has no `dynamics`."""

    sizes: Sizes
    world: World
    dynamics: Dynamics | None
    agent: Agent
    stages: Stages

    @property
    def keeps_state(self) -> bool:
        """Whether the replay buffer keeps the simulator's own state beside each transition."""
        return self.dynamics is not None and self.dynamics.needs_state

    @property
    def model(self) -> Dynamics:
        """The dynamics, where there must be some."""
        assert self.dynamics is not None, "a model-free run imagines nothing"
        return self.dynamics


def sizes_of(config: Config, agent: Agent, dynamics: Dynamics | None) -> Sizes:
    """The sizes that a config asks for, with these parts."""
    rollouts = config.rollouts_of(agent.learns_from == "rollouts")
    stores = agent.learns_from == "replay" and dynamics is not None and config.real_rows < config.batch_size
    return Sizes(
        parallel_worlds=config.parallel_worlds,
        explore_steps=config.explore_steps,
        epoch_steps=config.epoch_steps,
        collect_steps=config.collect_steps,
        updates_per_round=config.updates_per_round,
        first_repeats=config.first_repeats,
        batch_size=config.batch_size,
        real_rows=config.real_rows,
        real_capacity=config.real_capacity,
        imagined_steps=config.rollout.reached(config.env_steps) if stores else 0,
        rollouts=rollouts,
        rollout=config.rollout,
        eval_episodes=config.eval_episodes,
        offline=config.dataset is not None,
        drops_rows=config.faults.world == "drop",
    )
