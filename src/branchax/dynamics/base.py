"""The dynamics protocol: whatever rollouts can be imagined in."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from branchax.replay import Ring
from branchax.types import Key, Metrics, Row
from branchax.worlds.base import World, WorldState

Member = jax.Array | None  # [] int32: which member predicts; None: the mean of the elites


class MemberFaults(NamedTuple):
    """What was not finite in a fit. All []."""

    rolled_back: jax.Array | int = 0  # members that are what they were before
    left_out: jax.Array | int = 0  # gradient steps that were left out
    which: jax.Array | int = 0  # uint32; bit i: member i


class FitReport(NamedTuple):
    """What a fit tells beside the new model."""

    metrics: Metrics
    faults: MemberFaults = MemberFaults()


class Dynamics(NamedTuple):
    """A model `M` of a world, as pure functions. What it imagines in is again a `World`."""

    init: Callable[[Key], Any]  # -> M
    fit: Callable[[Key, Any, Ring], tuple[Any, FitReport]]  # (key, M, ring of `Row`s) -> M, what it tells
    elites: Callable[[Any], jax.Array]  # M -> [n] int32, the members worth imagining with
    world: Callable[[Any, Member], World]  # the world in which one member predicts
    branch: Callable[[Row], WorldState]  # the state of that world at a stored row (unbatched)
    after: Callable[[Key, Row], WorldState]  # its state at what followed, `row.transition.next_obs`
    doubt: Callable[[Any, jax.Array, jax.Array], jax.Array]  # (M, obs [D], action [A]) -> [], 0 where it is certain
    needs_state: bool  # whether `branch` reads `row.state`, which is then stored with every row
    learned: bool = True  # whether it is made from data, so that its error is worth measuring


def assign_members(key: Key, elites: jax.Array, groups: int, horizon: int, propagation: str) -> Member:
    """Which elite predicts each group of rollouts at each step: [groups, horizon] int32 (PETS, Chua et al. 2018).

    `ts1` draws anew at every step, `tsinf` once per rollout, `mean` passes no member at all. The draws are stratified:
    at each step the groups go round the elites from a random first one, so each group's member is uniform, independent
    over time (`ts1`), and all elites get their share.
    """
    if propagation == "mean":
        return None
    count = elites.shape[0]
    shift = jax.random.randint(key, (horizon if propagation == "ts1" else 1,), 0, count)
    place = (jax.numpy.arange(groups)[:, None] + shift) % count
    return jax.numpy.broadcast_to(elites[place], (groups, horizon))
