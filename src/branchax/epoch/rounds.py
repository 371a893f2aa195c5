"""The pieces of an epoch, in their order: begin, rounds that learn from what they have collected, finish.

`program.epoch` scans the rounds. In a world whose simulators live on the host, the host takes the real steps between
the same pieces (`epoch/host.py`).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from branchax.agents.base import Outcome
from branchax.dynamics.base import FitReport
from branchax.epoch.parts import Parts
from branchax.epoch.report import Report, make_report
from branchax.epoch.state import TrainState, no_fault
from branchax.optimizer import count_skipped
from branchax.types import Metrics, Trajectory

Prepared = tuple[FitReport, Metrics]  # what the fit and the rollouts report


def begin(parts: Parts, state: TrainState, horizon: jax.Array) -> tuple[TrainState, jax.Array, Prepared | None]:
    """What comes before the first real step: the state, the gradients skipped so far [], and what was prepared.

    An epoch of several rounds prepares here; one of a single round after collecting (`learn`), as its rollouts branch
    off what it has collected. A planner takes its model here, and collects with it, as PETS does.
    """
    skipped = count_skipped(state.agent)
    state = state._replace(fault=no_fault(state.fault.first))
    if not _prepares_first(parts):
        return state, skipped, None
    state, prepared = prepare(parts, state, horizon)
    if parts.agent.learns_from == "plans":
        state, _ = parts.stages.improve(parts, state, None, horizon)
    return state, skipped, prepared


def learn(
    parts: Parts, state: TrainState, recent: Trajectory | None, horizon: jax.Array
) -> tuple[TrainState, Prepared | None, Outcome]:
    """The rest of a round after its steps [H, W, ...] are collected. Returns the state, what was prepared, and the
    outcomes."""
    if parts.agent.learns_from == "plans":
        return _count_planning(state, recent)
    prepared = None
    if not _prepares_first(parts):
        state, prepared = prepare(parts, state, horizon)
    state, outcome = parts.stages.improve(parts, state, recent, horizon)
    return state, prepared, outcome


def finish(state: TrainState, skipped: jax.Array, prepared: Prepared, outcome: Outcome) -> tuple[TrainState, Report]:
    """The state after the epoch, and its report; `outcome` [...] of all updates."""
    state = state._replace(counts=state.counts._replace(epochs=state.counts.epochs + 1))
    return state, make_report(skipped, state, *prepared, outcome)


def prepare(parts: Parts, state: TrainState, horizon: jax.Array) -> tuple[TrainState, Prepared]:
    """Fits the model, fills the buffer of rollouts, and warms the critics up; also returns their metrics."""
    state, fitted = parts.stages.fit(parts, state)
    imagined: Metrics = {}
    # With `every`, the first block of updates imagines for itself, and only the critics' warm-up needs rollouts now.
    needed = parts.sizes.rollout.every is None or parts.agent.warm_up is not None
    if parts.sizes.imagined_capacity and needed:
        state, imagined = parts.stages.imagine(parts, state, horizon)
    return parts.stages.warm_up(parts, state, horizon), (fitted, imagined)


def _prepares_first(parts: Parts) -> bool:
    return parts.agent.learns_from == "plans" or parts.sizes.rounds > 1


def _count_planning(state: TrainState, recent: Trajectory | None) -> tuple[TrainState, None, Outcome]:
    """A planner's round: it learns nothing, and its real steps report what planning took and found."""
    if recent is None:  # offline
        return state, None, Outcome({}, {})
    outcome = recent.extras
    steps = outcome.model_steps.astype(jnp.uint32).sum()
    counts = state.counts._replace(model_steps=state.counts.model_steps + steps)
    return state._replace(counts=counts), None, outcome
