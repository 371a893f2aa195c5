"""What an epoch does before its updates: fit, imagine, warm up."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from branchax.agents.base import Outcome
from branchax.dynamics.base import FitReport
from branchax.epoch.improve import warm_up
from branchax.epoch.parts import Parts
from branchax.epoch.state import TrainState
from branchax.types import Metrics, Trajectory


def prepare(parts: Parts, state: TrainState, horizon: jax.Array) -> tuple[TrainState, FitReport, Metrics]:
    """The state whose model has been fitted and whose buffer of rollouts is filled; what both tell."""
    state, fitted = parts.stages.fit(parts, state)
    imagined: Metrics = {}
    if parts.sizes.imagined_capacity:
        state, imagined = parts.stages.imagine(parts, state, horizon)
    return warm_up(parts, state, horizon), fitted, imagined


def count_planning(state: TrainState, recent: Trajectory) -> tuple[TrainState, Outcome]:
    """The steps in the model that planning took as `recent` was collected, counted; and what planning tells."""
    outcome = recent.extras
    steps = outcome.model_steps.astype(jnp.uint32).sum()
    return state._replace(counts=state.counts._replace(model_steps=state.counts.model_steps + steps)), outcome
