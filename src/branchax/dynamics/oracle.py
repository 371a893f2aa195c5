"""The simulator itself as the dynamics. A method's remaining error is then not due to the model."""

from __future__ import annotations

import jax.numpy as jnp

from branchax.dynamics.base import Dynamics, FitReport
from branchax.worlds.base import World, endless


def oracle(world: World) -> Dynamics:
    """A `Dynamics` that imagines in `world` itself, without truncation.

    Nothing is fitted, and rollouts branch off the stored simulator states.
    """
    return Dynamics(
        init=lambda key: (),
        fit=lambda key, model, ring: (model, FitReport({})),
        elites=lambda model: jnp.zeros(1, jnp.int32),
        world=lambda model, member: endless(world),
        branch=lambda row: row.state,
        # In a noisy world this is another sample of the next state, from the same distribution.
        after=lambda key, row: world.step(key, row.state, row.transition.action)[0],
        doubt=lambda model, obs, action: jnp.zeros(()),
        needs_state=True,
        learned=False,
    )
