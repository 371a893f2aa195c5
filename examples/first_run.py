# %% [markdown]
# # A run in five lines
#
# A run is a few pure functions over one state. `build` returns them; nothing is compiled until you say so.

# %%
import jax
import jax.numpy as jnp

import branchax
from branchax.build import build

config = branchax.preset("mbpo", "classic/pendulum")
program = build(config)
state = jax.jit(program.init)(jax.random.key(0))  # explores
epoch = jax.jit(program.epoch, donate_argnums=0)
state, report = epoch(state, jnp.int32(config.rollout.horizon))  # fits the model, then collects, imagines, improves

# %% [markdown]
# # Look at the state
#
# Everything that changes is in it: worlds, buffers, model, agent, counters.

# %%
print(f"{state.counts.env_steps} env steps, {state.counts.model_steps} imagined ones, {state.counts.updates} updates")
last = state.real.data.transition.reward[state.real.cursor - 1]
print(f"{state.real.size} real transitions; the last reward is {last:.2f}")
print(f"the model's error on held-out transitions is {report.metrics['model/holdout_error']:.4f} of their variance")
found = jax.jit(program.evaluate)(jax.random.key(1), state.agent)
print(f"the policy returns {found['return'].mean():.0f} over {found['return'].size} episodes")

# %% [markdown]
# # Many seeds at once
#
# A leading axis of keys is all that it takes. `branchax.run(config, "runs/first")` does the same with checkpoints, a
# log and evaluations, for `config.seeds` of them.

# %%
states = jax.jit(jax.vmap(program.init))(jax.vmap(jax.random.key)(jnp.arange(3)))
print(f"first observations of {states.key.shape[0]} seeds: {states.real.data.transition.obs[:, 0].round(2).tolist()}")
