"""The fit of the model to all real data."""

from __future__ import annotations

from branchax.dynamics.base import FitReport
from branchax.epoch.parts import Parts
from branchax.epoch.state import TrainState
from branchax.types import Stream, stream


def fit(parts: Parts, state: TrainState) -> tuple[TrainState, FitReport]:
    """The state with the model fitted to the replay buffer; as it was in a model-free run."""
    if parts.dynamics is None:
        return state, FitReport({})
    key = stream(state.key, Stream.FIT, state.counts.epochs)
    model, report = parts.dynamics.fit(key, state.model, state.real)
    return state._replace(model=model), report
