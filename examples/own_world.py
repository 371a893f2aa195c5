# %% [markdown]
# # A world of one's own, in ten lines
#
# Physics is two functions. `make_world` adds the clock, the time limit and the bookkeeping. This is a bead on a wire,
# pushed by a force of at most 1, that should rest at the origin; it is lost beyond 2 m.

# %%
import jax
import jax.numpy as jnp

import branchax


def lost(obs, action, next_obs):
    return jnp.abs(next_obs[0]) > 2.0


def reset(key):
    bead = jax.random.uniform(key, (2,), minval=-1.0, maxval=1.0)  # position [m], velocity [m/s]
    return bead, bead  # the state, and what is seen of it


def step(key, bead, action):
    after = bead + 0.1 * jnp.stack([bead[1], jnp.clip(action[0], -1.0, 1.0)])
    return after, after, -(after[0] ** 2), lost(bead, action, after)  # state, obs, reward, terminated


def world(episode_length=100):
    return branchax.make_world(branchax.WorldSpec("bead", 2, 1, episode_length, termination=lost), reset, step)


# %% [markdown]
# From a shell, in the directory of this file: `branchax train mbpo --world own_world:world`. From Python, `assemble`
# puts the program of a config together in any world:

# %%
if __name__ == "__main__":
    from branchax.build import assemble

    config = branchax.preset("mbpo")
    program = assemble(config, world())
    epoch = jax.jit(program.epoch, donate_argnums=0)
    state = jax.jit(program.init)(jax.random.key(0))
    for _ in range(2):
        state, report = epoch(state, jnp.int32(config.rollout.horizon))
        print(f"{state.counts.env_steps} env steps, model error {report.metrics['model/holdout_error']:.4f}")
    found = jax.jit(program.evaluate)(jax.random.key(1), state.agent)
    print(f"return {found['return'].mean():.1f}")
