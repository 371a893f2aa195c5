"""The agent protocol: a policy, and how a batch of experience improves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from branchax.rollout import Act
from branchax.types import Key, Metrics, Trajectory, Transition


class Sources(NamedTuple):
    """What an update may draw on. A closure that is not called costs nothing once compiled."""

    replay: Callable[[Key], Transition]  # -> [B, ...], real and imagined rows in exact shares
    # (key, act, window) -> [H, B, ...]: fresh rollouts of `act` in the model, differentiable, cut every `window` steps
    # (`rollout`). Model-free: what the agent's own policy has just collected, whatever the arguments.
    rollout: Callable[[Key, Act, int | None], Trajectory]


class Agent(NamedTuple):
    """An improver `P`, as pure functions. `act` and `mode` are unbatched."""

    init: Callable[[Key], Any]  # -> P
    act: Callable[[Key, Any, jax.Array], tuple[jax.Array, Any]]  # (key, P, obs [D]) -> action [A], extras
    mode: Callable[[Any, jax.Array], jax.Array]  # (P, obs [D]) -> action [A], for evaluation
    update: Callable[[Key, Any, Sources], tuple[Any, Metrics]]
    on_policy: bool = False  # whether `update` reads `sources.rollout`, and not `sources.replay`
