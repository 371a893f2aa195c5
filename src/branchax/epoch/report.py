"""What an epoch tells the host: metrics for the log, and what was not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from branchax.agents.base import Outcome
from branchax.dynamics.base import FitReport, MemberFaults
from branchax.epoch.state import TrainState
from branchax.optimizer import count_skipped
from branchax.types import Largest, Metrics, Total


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
    made, told = outcome.made, outcome.losses | outcome.metrics
    counting = True if made is None else made
    losses = {name: (~jnp.isfinite(x) & counting).sum(dtype=jnp.int32) for name, x in outcome.losses.items()}
    gradients = count_skipped(after.agent) - skipped
    counted = {f"{name}_nonfinite": count for name, count in losses.items()}
    counted |= {"collect/nonfinite_rows": after.fault.rows}
    counted |= {} if outcome.kept is None else {"improve/done": outcome.kept.mean()}
    once = {name: reduce_metric(x) for name, x in imagined.items() if name not in told}
    updates = {name: reduce_metric(x, imagined.get(name), made) for name, x in told.items()}
    metrics = fit.metrics | once | counted | updates
    return Report(metrics, Health(losses, gradients, jax.tree.map(jnp.asarray, fit.faults)))


def reduce_metric(x: Any, before: Any = None, made: jax.Array | None = None) -> jax.Array:
    """A metric of many updates [...] as one number [], of those alone that were `made` [...].

    `before` is the same metric of what came before the updates, which counts in a maximum and in a sum.
    """
    among = jnp.ones((), bool) if made is None else made
    if isinstance(x, Largest):
        largest = jnp.where(among, x.value, -jnp.inf).max()
        return largest if before is None else jnp.maximum(largest, before.value)
    if isinstance(x, Total):
        total = jnp.where(among, x.value, 0.0).sum()
        return total if before is None else total + before.value
    return jnp.mean(x) if made is None else jnp.where(made, x, 0.0).sum() / made.sum()
