"""The fit of the model to all real data."""

from __future__ import annotations

import jax.numpy as jnp

from branchax import normalize, replay
from branchax.dynamics.base import FitReport
from branchax.epoch.parts import Parts
from branchax.epoch.state import TrainState
from branchax.types import Stream, stream


def fit(parts: Parts, state: TrainState) -> tuple[TrainState, FitReport]:
    """The state with the model fitted to the replay buffer, if there is one, and an agent that knows its statistics."""
    if parts.agent.renew is not None:
        stored = jnp.arange(replay.capacity(state.real)) < state.real.size
        stats = normalize.measure(state.real.data.transition.obs, stored)
        state = state._replace(agent=parts.agent.renew(state.agent, stats))
    if parts.dynamics is None:
        return state, FitReport({})
    key = stream(state.key, Stream.FIT, state.counts.epochs)
    model, report = parts.dynamics.fit(key, state.model, state.real)
    return state._replace(model=model), report
