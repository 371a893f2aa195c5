"""Measures the accuracy of a run's critic: its values against the returns that followed."""

from __future__ import annotations

import math

import jax
import numpy as np

from branchax.agents.base import Valuation
from branchax.types import Trajectory
from branchax.views.model import ROWS, Found
from branchax.views.play import Player

TAIL = 0.01  # a return is complete when what is cut off weighs less than this


def measure_critic(player: Player, valuation: Valuation, real: Trajectory, tail: int) -> Found:
    """Predicted values against the discounted returns that followed, at up to `ROWS` steps of the policy's episodes.

        G_t = r_t + discount (1 - terminated_t) (bonus_{t+1} + G_{t+1})

    Only steps that are followed by a termination or by `tail` more steps count, so that the rest of the return weighs
    less than `TAIL`. The time limit does not end episodes here, as values in training ignore it, too. The result is
    empty if no step counts: a simulator on the host with its own time limit may end all episodes earlier.
    """
    discount, (length, count) = player.config.agent.discount, real.valid.shape
    t, agent = real.transition, player.state.agent
    flat = lambda x: x.reshape(length * count, -1)  # noqa: E731

    def valued(obs: jax.Array, action: jax.Array) -> tuple[jax.Array, jax.Array]:
        bonus = jax.numpy.zeros(()) if valuation.bonus is None else valuation.bonus(agent, obs, action)
        return valuation.values(agent, obs, action), bonus

    with jax.default_matmul_precision(player.config.precision):
        values, bonus = jax.jit(jax.vmap(valued))(flat(t.obs), flat(t.action))
    values, bonus = np.asarray(values).reshape(length, count, -1), np.asarray(bonus).reshape(length, count)
    gained, later = np.zeros((length, count)), np.zeros(count)
    for i in reversed(range(length)):
        gained[i] = np.where(real.valid[i], t.reward[i] + discount * np.where(t.terminated[i], 0.0, later), 0.0)
        later = bonus[i] + gained[i]
    ends = (t.terminated & real.valid).any(0)
    left = np.asarray(real.valid)[::-1].cumsum(0)[::-1]  # steps from here on
    where = np.argwhere(real.valid & (ends | (left >= tail)))
    if not len(where):
        return {}
    where = where[np.random.default_rng(3).permutation(len(where))[:ROWS]]
    predicted, actual = values[where[:, 0], where[:, 1]].mean(-1), gained[where[:, 0], where[:, 1]]
    return {
        "predicted": predicted,
        "actual": actual,
        "bias": (predicted - actual).mean(),
        "error": np.sqrt(((predicted - actual) ** 2).mean()),
        "discount": discount,
        "soft": valuation.bonus is not None,
    }


def tail_of(discount: float) -> int | None:
    """Number of steps after which a discounted return is complete up to `TAIL`; None if it is more than 1000."""
    if discount <= 0:
        return 1
    steps = math.ceil(math.log(TAIL) / math.log(discount)) if discount < 1 else 10**9
    return steps if steps <= 1000 else None
