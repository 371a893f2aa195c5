"""What an epoch tells the host: metrics for the log, and what was not finite."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from branchax.agents.base import Outcome
from branchax.agents.learner import count_skipped
from branchax.dynamics.base import FitReport, MemberFaults
from branchax.epoch.state import TrainState
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
    done, told = outcome.done, outcome.losses | outcome.metrics
    made = True if done is None else done
    losses = {name: (~jnp.isfinite(x) & made).sum(dtype=jnp.int32) for name, x in outcome.losses.items()}
    gradients = count_skipped(after.agent) - skipped
    counted = {f"{name}_nonfinite": count for name, count in losses.items()}
    counted |= {"collect/nonfinite_rows": after.fault.rows} | ({} if done is None else {"improve/done": done.mean()})
    once = {name: reduce_metric(x) for name, x in imagined.items() if name not in told}
    updates = {name: reduce_metric(x, imagined.get(name), done) for name, x in told.items()}
    metrics = fit.metrics | once | counted | updates
    return Report(metrics, Health(losses, gradients, jax.tree.map(jnp.asarray, fit.faults)))


def reduce_metric(x: Any, before: Any = None, done: jax.Array | None = None) -> jax.Array:
    """A metric of many updates [...] as one number [], which for a mean are those `done` [...] alone.

    `before` is the same metric of what came before the updates, which counts in a maximum and in a sum.
    """
    if isinstance(x, Largest):
        return x.value.max() if before is None else jnp.maximum(x.value.max(), before.value)
    if isinstance(x, Total):
        return x.value.sum() if before is None else x.value.sum() + before.value
    return x.mean() if done is None else jnp.where(done, x, 0.0).sum() / jnp.maximum(done.sum(), 1)
