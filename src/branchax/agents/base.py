"""The agent protocol: a policy, and how a batch of experience improves it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from branchax.types import Key, Metrics, Transition


class Sources(NamedTuple):
    """What an update may draw on. A closure that is not called costs nothing once compiled."""

    replay: Callable[[Key], Transition]  # -> [B, ...], real and imagined rows in exact shares


class Agent(NamedTuple):
    """An improver `P`, as pure functions. `act` and `mode` are unbatched."""

    init: Callable[[Key], Any]  # -> P
    act: Callable[[Key, Any, jax.Array], tuple[jax.Array, Any]]  # (key, P, obs [D]) -> action [A], extras
    mode: Callable[[Any, jax.Array], jax.Array]  # (P, obs [D]) -> action [A], for evaluation
    update: Callable[[Key, Any, Sources], tuple[Any, Metrics]]
