"""The agent protocol: a policy, and the update that improves it from experience."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from branchax import nn
from branchax.normalize import Stats
from branchax.rollout import Act
from branchax.types import Key, Metrics, Row, Trajectory
from branchax.worlds.base import WorldState

K = TypeVar("K")


class Ahead(NamedTuple):
    """The model, for updates that roll it out from the states of their batch."""

    elites: int  # n
    start: Callable[[Key, Row, bool], WorldState]  # (key, rows [B], after) -> [B, ...], states at or after the rows
    rollout: Callable[[Key, Act, WorldState], Trajectory]  # (key, act, [n, B, ...]) -> [n, H, B, ...], i in elite i
    # The same, but with members drawn by the run's `rollout.propagation`: at each step, or once for all steps.
    mixed: Callable[[Key, Act, WorldState], Trajectory]


class Sources(NamedTuple):
    """The data that an update may use. A closure that is not called costs nothing once compiled."""

    # -> [B, ...], real and imagined rows in exact proportions; `truncated` only where a rollout has left the data
    replay: Callable[[Key], Row]
    # (key, act, window) -> [H, B, ...]: fresh rollouts of `act` in the model, differentiable, cut every `window` steps
    # (`rollout`). Model-free: the steps just collected with the agent's own policy; the arguments are ignored.
    rollout: Callable[[Key, Act, int | None], Trajectory]
    recent: Trajectory | None = None  # [H, W, ...], the steps just collected
    ahead: Ahead | None = None  # None: there is no model
    model: Any = None  # the model's own state, for an agent that plans in it
    weigh: Callable[[Row], jax.Array] | None = None  # rows [B] of `replay` -> their weights [B]; None: equal weights


class Outcome(NamedTuple):
    """What an update reports, besides the new parameters. The epoch logs all of it; names of metrics have no effect."""

    losses: Metrics  # [] each; a non-finite one is a fault of the agent (`FaultConfig.agent`)
    metrics: Metrics
    model_steps: jax.Array | float = 0.0  # [] steps that the update itself took in the model
    # [] bool each, set by the epoch where a rule may stop a round's updates; None: it was made, and kept
    made: jax.Array | None = None
    kept: jax.Array | None = None


# The data that `update` reads: `sources.replay`, or `sources.rollout` (on-policy). An agent that "plans" takes
# `sources.model` and searches in it whenever it acts.
LearnsFrom = Literal["replay", "rollouts", "plans"]


class Valuation(NamedTuple):
    """An agent's estimate of the discounted return after an action, under one of its policies."""

    values: Callable[[Any, jax.Array, jax.Array], jax.Array]  # (P, obs [D], action [A]) -> [C], of each critic
    greedy: bool  # True: under `mode`; False: under `act`
    # (P, obs [D], action [A]) -> []: added to the reward of each later action, such as the entropy in soft values
    bonus: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None


class Layers(NamedTuple):
    """An agent's `mode` as a stack of dense layers, for `deploy.export`."""

    layers: list[nn.Layer]  # with a leading axis [C] for networks whose outputs are averaged
    activation: str  # a name in `nn.ACTIVATIONS`
    head: str  # tanh, argmax (a one-hot vector) or identity
    outputs: slice = slice(None)  # the outputs of the last layer that the mode depends on


class Agent(NamedTuple):
    """An agent with state `P`, as pure functions. `act` and `mode` are unbatched.

    With a `memory`, `act` and `mode` take the policy's memory as last argument and return the next one last.
    """

    init: Callable[[Key], Any]  # -> P
    act: Callable[..., tuple[Any, ...]]  # (key, P, obs [D]) -> action [A], extras
    mode: Callable[..., Any]  # (P, obs [D]) -> action [A], for evaluation
    update: Callable[[Key, Any, Sources], tuple[Any, Outcome]]
    counts: int = 1  # gradient updates in one call of `update`
    learns_from: LearnsFrom = "replay"
    # (P, statistics of all real observations [D]) -> P, called after each fit of the model; None: not called
    renew: Callable[[Any, Stats], Any] | None = None
    warm_up: Callable[[Key, Any, Sources], tuple[Any, Outcome]] | None = None  # an update of only the critics
    warm_ups: int = 0  # number of `warm_up` calls after each fit
    memory: Callable[[Any], Any] | None = None  # P -> the policy's memory at the start of an episode, unbatched
    # (P before, P after, obs [B, D]) -> [] nats: the policy's mean divergence; None: not available
    divergence: Callable[[Any, Any, jax.Array], jax.Array] | None = None
    budget: float | None = None  # largest divergence between two collections, in nats
    valuation: Valuation | None = None  # for diagnostics; None: there is no critic
    layers: Callable[[Any], Layers] | None = None  # P -> the layers of `mode`; None: not a stack of dense layers


def fill_knobs(kind: Callable[..., K], config: Any, **others: Any) -> K:
    """Fills `kind`, a NamedTuple of floats, by name: from `others`, else from `config`. All [] float32."""
    names = kind._fields  # type: ignore[attr-defined]
    return kind(**{name: jnp.float32(others[name] if name in others else getattr(config, name)) for name in names})
