"""Updates that stop within a budget; `test_on_policy` has those that stop when models disagree."""

import jax
import jax.numpy as jnp
import numpy as np

from branchax.agents.base import Outcome
from branchax.epoch.stopping import stop_early, within_budget

KEYS = jax.random.split(jax.random.key(0), 12)


def count(params, key):
    return params + 1.0, Outcome({}, {"at": params + 1.0}, 3.0)


def test_a_budget_holds_because_the_update_that_breaks_it_is_undone():
    run = stop_early(count, within_budget(lambda old, new: new - old, 4.5), jnp.float32(10.0), every=1, undo=True)
    params, told = jax.jit(run)(jnp.float32(10.0), KEYS)
    assert float(params) == 14.0
    np.testing.assert_array_equal(told.made, [True] * 5 + [False] * 7)
    np.testing.assert_array_equal(told.kept, [True] * 4 + [False] * 8)
    np.testing.assert_array_equal(told.model_steps, [3.0] * 5 + [0.0] * 7)  # the fifth was made, then undone


def test_a_budget_that_is_never_reached_changes_nothing():
    run = stop_early(count, within_budget(lambda old, new: new - old, 99.0), jnp.float32(0.0), every=1, undo=True)
    params, told = jax.jit(run)(jnp.float32(0.0), KEYS)
    assert float(params) == 12.0 and bool(told.kept.all())
    np.testing.assert_array_equal(told.metrics["at"], np.arange(1.0, 13.0))
