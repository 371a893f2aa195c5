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

Each stage is a function of its own (`STAGES`), and `make_program` takes others in their place. Everything that changes
lives in `TrainState`: `sharding.over_seeds` trains many at once, saving it resumes exactly. Nothing here knows a name;
`build.py` makes the parts. In a world whose simulators live on the host, `init` explores nothing, and the host loop
goes through the same epoch in pieces (`epoch/rounds.py`, `epoch/host.py`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from branchax.agents.base import Agent, Outcome
from branchax.config import Config
from branchax.dynamics.base import Dynamics
from branchax.epoch import collect, evaluate, fit, host, imagine, improve, rounds
from branchax.epoch.parts import Parts, Stages, sizes_of
from branchax.epoch.report import Report
from branchax.epoch.rounds import Prepared
from branchax.epoch.state import TrainState
from branchax.types import Key, Metrics
from branchax.worlds.base import World, WorldSpec

STAGES = Stages(
    collect=collect.collect,
    fit=fit.fit,
    starts=imagine.draw_starts,
    imagine=imagine.imagine,
    warm_up=improve.warm_up,
    improve=improve.improve,
)


class Program(NamedTuple):
    """A run as pure, unbatched functions; the host takes them over seeds (`sharding.over_seeds`) and compiles them."""

    spec: WorldSpec
    init: Callable[[Key], TrainState]  # exploration included
    epoch: Callable[[TrainState, jax.Array], tuple[TrainState, Report]]  # (state, horizon [] int32)
    evaluate: Callable[[Key, Any], Metrics]  # (key, state.agent) -> {"return": [N], "length": [N]}
    stages: Stages | None = None  # each with the run's parts filled in, for whoever runs or times them alone
    host: host.Pieces | None = None  # in a world of the host's: what the host loop puts real steps between


def make_program(
    config: Config, world: World, dynamics: Dynamics | None, agent: Agent, stages: Stages = STAGES
) -> Program:
    """Composes ready-made parts into a run; a model-free run has no `dynamics`.

    Of `config` only sizes are read, and the precision at which matrix products are traced.
    """
    parts = Parts(sizes_of(config, agent, dynamics), world, dynamics, agent, stages)

    def bind(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def bound(*arguments: Any) -> Any:
            with jax.default_matmul_precision(config.precision):
                return function(parts, *arguments)

        return bound

    return Program(
        world.spec,
        bind(collect.explore),
        bind(epoch),
        bind(evaluate.evaluate),
        Stages(*map(bind, stages)),
        None if world.host is None else host.make_pieces(world.host, bind),
    )


def epoch(parts: Parts, state: TrainState, horizon: jax.Array) -> tuple[TrainState, Report]:
    """One epoch: (state, horizon [] int32) -> the state after it, and its report."""
    state, skipped, prepared = rounds.begin(parts, state, horizon)

    def one_round(state: TrainState, _: None) -> tuple[TrainState, tuple[Prepared | None, Outcome]]:
        state, recent = parts.stages.collect(parts, state)
        state, *told = rounds.learn(parts, state, recent, horizon)
        return state, tuple(told)  # type: ignore[return-value]

    if parts.sizes.rounds == 1:
        state, (told, outcome) = one_round(state, None)
    else:
        state, (told, outcome) = jax.lax.scan(one_round, state, None, length=parts.sizes.rounds)
    prepared = prepared or told
    assert prepared is not None, "an epoch prepares before its rounds, or in its only one"
    return rounds.finish(state, skipped, prepared, outcome)


def trace_epoch(program: Program, state: TrainState, horizon: jax.Array) -> tuple[TrainState, Report]:
    """An epoch to trace for its shapes and errors: where the host takes the real steps, of a round without any."""
    if program.host is None:
        return program.epoch(state, horizon)
    pieces = program.host
    state, skipped, prepared = pieces.begin(state, horizon)
    state, told, outcome = pieces.learn(state, pieces.blank_round(state.key, state), horizon)
    return pieces.finish(state, skipped, prepared or told, outcome)
