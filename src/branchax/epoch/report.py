"""What an epoch tells the host: metrics for the log, and what was not finite."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from branchax.agents.base import Outcome
from branchax.agents.learner import count_skipped
from branchax.dynamics.base import FitReport, MemberFaults
from branchax.epoch.state import TrainState
from branchax.types import Largest, Metrics


class Health(NamedTuple):
    """What was not finite in an epoch, apart from the real world's rows (`TrainState.fault`). All [] int32."""

    losses: dict[str, jax.Array]  # of each loss of the agent, the updates in which it was not finite
    gradients: jax.Array  # of the agent, left out
    members: MemberFaults  # of the model


class Report(NamedTuple):
    """What an epoch tells."""

    metrics: Metrics  # [] each
    health: Health


def make_report(skipped: jax.Array, after: TrainState, fit: FitReport, imagined: Metrics, outcome: Outcome) -> Report:
    """The report of an epoch before which `skipped` gradients had been left out; its updates had an `outcome` [...]."""
    losses = {name: (~jnp.isfinite(x)).sum(dtype=jnp.int32) for name, x in outcome.losses.items()}
    gradients = count_skipped(after.agent) - skipped
    counted = {f"{name}_nonfinite": count for name, count in losses.items()}
    updates = {name: reduce_metric(x) for name, x in (outcome.losses | outcome.metrics).items()}
    metrics = fit.metrics | imagined | counted | {"collect/nonfinite_rows": after.fault.rows} | updates
    return Report(metrics, Health(losses, gradients, jax.tree.map(jnp.asarray, fit.faults)))


def reduce_metric(x: jax.Array | Largest) -> jax.Array:
    """A metric of many updates [...] as one number []."""
    return x.value.max() if isinstance(x, Largest) else x.mean()
