"""The agent protocol: a policy, and how experience improves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax

from branchax import nn
from branchax.normalize import Stats
from branchax.rollout import Act
from branchax.types import Key, Metrics, Row, Trajectory
from branchax.worlds.base import WorldState


class Ahead(NamedTuple):
    """The model, as an update sees it that rolls it out from the states of its batch."""

    elites: int  # n
    start: Callable[[Key, Row, bool], WorldState]  # (key, rows [B], after) -> [B, ...], at the rows or after them
    rollout: Callable[[Key, Act, WorldState], Trajectory]  # (key, act, [n, B, ...]) -> [n, H, B, ...], i in elite i
    # The same with the members that the run's `rollout.propagation` draws: anew at each step, or one for all steps.
    mixed: Callable[[Key, Act, WorldState], Trajectory]


class Sources(NamedTuple):
    """What an update may draw on. A closure that is not called costs nothing once compiled."""

    replay: Callable[[Key], Row]  # -> [B, ...], real and imagined rows in exact shares
    # (key, act, window) -> [H, B, ...]: fresh rollouts of `act` in the model, differentiable, cut every `window` steps
    # (`rollout`). Model-free: what the agent's own policy has just collected, whatever the arguments.
    rollout: Callable[[Key, Act, int | None], Trajectory]
    recent: Trajectory | None = None  # [H, W, ...], what was collected just before
    ahead: Ahead | None = None  # None: there is no model
    model: Any = None  # the model's own state, for an agent that plans in it
    weigh: Callable[[Row], jax.Array] | None = None  # rows [B] of `replay` -> what each counts, [B]; None: all alike


class Outcome(NamedTuple):
    """What an update tells beside the new parameters. The epoch reports all of it, and counts by the types alone."""

    losses: Metrics  # [] each; an epoch in which one is not finite is a fault of the agent
    metrics: Metrics
    model_steps: jax.Array | float = 0.0  # [] that the update itself took in the model


# What `update` reads: `sources.replay`, or `sources.rollout` (on-policy). An agent that "plans" takes `sources.model`
# and searches in it whenever it acts.
LearnsFrom = Literal["replay", "rollouts", "plans"]


class Valuation(NamedTuple):
    """What an agent believes an action is worth: the discounted return from it on, under one of its policies."""

    values: Callable[[Any, jax.Array, jax.Array], jax.Array]  # (P, obs [D], action [A]) -> [C], of each critic
    greedy: bool  # whether the policy is `mode`; otherwise it is `act`
    # (P, obs [D], action [A]) -> []: what each later action adds to its reward, as entropy does in soft values
    bonus: Callable[[Any, jax.Array, jax.Array], jax.Array] | None = None


class Layers(NamedTuple):
    """An agent's `mode` as a stack of dense layers, for those that take a policy away (`deploy.export`)."""

    layers: list[nn.Layer]  # with a leading axis [C] for networks whose mean is taken
    activation: str  # of `nn.ACTIVATIONS`, between the layers
    head: str  # tanh, argmax (a one-hot vector) or identity
    outputs: slice = slice(None)  # the last layer's that the mode depends on


class Agent(NamedTuple):
    """An improver `P`, as pure functions. `act` and `mode` are unbatched.

    With a `memory`, `act` and `mode` take what the policy carries from step to step last, and return it last.
    """

    init: Callable[[Key], Any]  # -> P
    act: Callable[..., tuple[Any, ...]]  # (key, P, obs [D]) -> action [A], extras
    mode: Callable[..., Any]  # (P, obs [D]) -> action [A], for evaluation
    update: Callable[[Key, Any, Sources], tuple[Any, Outcome]]
    counts: int = 1  # gradient updates in one call of `update`
    learns_from: LearnsFrom = "replay"
    # (P, the statistics of all real observations [D]) -> P, after each fit of the model; None: nothing depends on it
    renew: Callable[[Any, Stats], Any] | None = None
    warm_up: Callable[[Key, Any, Sources], tuple[Any, Outcome]] | None = None  # an update of the critics alone ...
    warm_ups: int = 0  # ... and how many of them follow each fit
    memory: Callable[[Any], Any] | None = None  # P -> what the policy carries at the start of an episode, unbatched
    # (P before, P after, obs [B, D]) -> [] nats: how far the policy moved on average; None: it cannot tell
    divergence: Callable[[Any, Any, jax.Array], jax.Array] | None = None
    budget: float | None = None  # nats that it may move by between two collections
    valuation: Valuation | None = None  # for diagnostics; None: it has no critic
    layers: Callable[[Any], Layers] | None = None  # P -> what `mode` computes; None: it is no stack of dense layers
