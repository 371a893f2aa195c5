"""The fit of the model to all real data."""

from __future__ import annotations

from branchax.epoch.parts import Parts
from branchax.epoch.state import TrainState
from branchax.types import Metrics, Stream, stream


def fit(parts: Parts, state: TrainState) -> tuple[TrainState, Metrics]:
    """The state with the model fitted to the replay buffer; as it was in a model-free run."""
    if parts.dynamics is None:
        return state, {}
    key = stream(state.key, Stream.FIT, state.counts.epochs)
    model, metrics = parts.dynamics.fit(key, state.model, state.real)
    return state._replace(model=model), metrics
