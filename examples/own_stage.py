# %% [markdown]
# # A stage of one's own
#
# An epoch is made of stages, each a function that is given the run's parts first. Here imagined rollouts start where
# the model is in doubt: of four times as many stored states, those where its members disagree the most.

# %%
import jax
import jax.numpy as jnp

import branchax
from branchax import replay
from branchax.epoch import STAGES, Starts

TRIED = 4  # stored states that are looked at for each start


def draw_doubtful_starts(parts, key, state, count):
    rows = replay.sample(key, state.real, TRIED * count)
    t = rows.transition
    doubt = jax.vmap(lambda obs, action: parts.dynamics.doubt(state.model, obs, action))(t.obs, t.action)
    most = jnp.argsort(-doubt)[:count]
    chosen = jax.tree.map(lambda x: x[most], rows)
    return Starts(jax.vmap(parts.dynamics.branch)(chosen))


stages = STAGES._replace(starts=draw_doubtful_starts)

# %% [markdown]
# From a shell, in the directory of this file: `branchax train mbpo --world classic/pendulum --stages own_stage:stages`.

# %%
if __name__ == "__main__":
    config = branchax.preset("mbpo", "classic/pendulum")
    run = branchax.run(config, "runs/doubtful", stages=stages)
    for found in branchax.evaluate(run):
        print(f"seed {found['seed']}: return {found['eval/return_mean']:.1f} after {found['env_steps']} env steps")
