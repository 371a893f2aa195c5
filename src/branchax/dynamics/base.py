"""The dynamics protocol: a model in which rollouts are imagined."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from branchax.replay import Ring
from branchax.types import Key, Metrics, Row
from branchax.worlds.base import World, WorldState

Member = jax.Array | None  # [] int32: which member predicts; None: the mean of the elites


class MemberFaults(NamedTuple):
    """Non-finite numbers in a fit. All []."""

    rolled_back: jax.Array | int = 0  # number of members that were rolled back
    left_out: jax.Array | int = 0  # number of skipped gradient steps
    which: jax.Array | int = 0  # uint32; bit i: member i is affected


class FitReport(NamedTuple):
    """What a fit reports, besides the new model."""

    metrics: Metrics
    faults: MemberFaults = MemberFaults()


class Dynamics(NamedTuple):
    """A model `M` of a world, as pure functions. An imagined world is again a `World`."""

    init: Callable[[Key], Any]  # -> M
    fit: Callable[[Key, Any, Ring], tuple[Any, FitReport]]  # (key, M, ring of `Row`s) -> M, report
    elites: Callable[[Any], jax.Array]  # M -> [n] int32, the members to imagine with
    # the imagined world of one member; without a clock: `truncated` says that a rollout left what the model knows
    world: Callable[[Any, Member], World]
    branch: Callable[[Row], WorldState]  # the state of that world at a stored row (unbatched)
    after: Callable[[Key, Row], WorldState]  # its state after that row, at `row.transition.next_obs`
    doubt: Callable[[Any, jax.Array, jax.Array], jax.Array]  # (M, obs [D], action [A]) -> uncertainty []; 0: certain
    needs_state: bool  # whether `branch` reads `row.state`, which is then stored with every row
    learned: bool = True  # whether the model is fitted to data, so that its error is worth measuring


def assign_members(key: Key, elites: jax.Array, groups: int, horizon: int, propagation: str) -> Member:
    """Which elite predicts each group of rollouts at each step: [groups, horizon] int32 (PETS, Chua et al. 2018).

    `ts1` draws at every step, `tsinf` once per rollout, `mean` returns `None`. The draws are stratified: at each step
    the groups cycle through the elites from a random first one. So each group's member is uniform and (`ts1`)
    independent over time, and all elites are used equally often.
    """
    if propagation == "mean":
        return None
    count = elites.shape[0]
    shift = jax.random.randint(key, (horizon if propagation == "ts1" else 1,), 0, count)
    place = (jax.numpy.arange(groups)[:, None] + shift) % count
    return jax.numpy.broadcast_to(elites[place], (groups, horizon))
