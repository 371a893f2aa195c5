"""(interface only for now)"""
from __future__ import annotations
from collections.abc import Callable
from typing import Any, NamedTuple
import jax
from branchax.types import Key, Metrics
from branchax.worlds.base import WorldSpec

class Counts(NamedTuple):
    """How much has been done; all [] int32."""
    env_steps: jax.Array
    model_steps: jax.Array
    updates: jax.Array
    epochs: jax.Array

class Fault(NamedTuple):
    """The first non-finite number that a real world returned. It never enters the buffer or the statistics."""
    step: jax.Array  # [] int32, the env step; -1 while there is none
    field: jax.Array  # [] int32, index into Transition._fields

class TrainState(NamedTuple):
    key: Key
    world: Any
    real: Any
    imagined: Any
    model: Any
    agent: Any
    counts: Counts
    fault: Fault

class Program(NamedTuple):
    """A run as pure, unbatched functions; the host vmaps them over seeds and compiles them."""
    spec: WorldSpec
    init: Callable[[Key], TrainState]  # exploration included
    epoch: Callable[[TrainState, jax.Array], tuple[TrainState, Metrics]]  # (state, horizon [] int32)
    evaluate: Callable[[Key, Any], Metrics]  # (key, state.agent) -> {"return": [N], "length": [N]}
