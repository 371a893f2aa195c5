# %% [markdown]
# # An agent of one's own, in twenty lines
#
# An agent is four pure functions over its own state, whatever that is. This one is evolution strategies (Salimans et
# al. 2017, arXiv:1703.03864) for a linear policy, in imagination: it tries a random direction of its gains both ways,
# in rollouts of the model from the same states with the same noise, and moves along it.

# %%
import jax
import jax.numpy as jnp

import branchax
from branchax.agents.base import Outcome
from branchax.build import build_dynamics, make_world


def make_search(spec, noise=0.1, step_size=0.05):
    def action(gain, obs):
        return jnp.tanh(gain @ obs)

    def worth(key, gain, sources):  # the mean return of imagined rollouts, [H, B]
        t = sources.rollout(key, lambda key, obs: (action(gain, obs), ()), None)
        return jnp.where(t.valid, t.transition.reward, 0.0).sum(0).mean()

    def update(key, gain, sources):
        key_direction, key_rollout = jax.random.split(key)
        direction = jax.random.normal(key_direction, gain.shape)
        up, down = (worth(key_rollout, gain + side * noise * direction, sources) for side in (1, -1))
        return gain + step_size * jnp.sign(up - down) * direction, Outcome({}, {"policy/return": (up + down) / 2})

    return branchax.Agent(
        init=lambda key: jnp.zeros((spec.action_size, spec.obs_size)),
        act=lambda key, gain, obs: (action(gain, obs), ()),
        mode=action,
        update=update,
        learns_from="rollouts",  # it reads `sources.rollout`: fresh rollouts of whatever policy it asks for
    )


# %% [markdown]
# `make_program` takes ready-made parts. The settings of `v2.5` say how long rollouts are, how many there are to an
# update, and how many updates follow a collection.

# %%
config = branchax.preset("v2.5", "classic/lqr")
world = make_world(config)
program = branchax.make_program(config, world, build_dynamics(config, world), make_search(world.spec))
state = jax.jit(program.init)(jax.random.key(0))
evaluate = jax.jit(program.evaluate)
before = evaluate(jax.random.key(1), state.agent)["return"].mean()
state, report = jax.jit(program.epoch, donate_argnums=0)(state, jnp.int32(config.rollout.horizon))
after = evaluate(jax.random.key(1), state.agent)["return"].mean()
print(
    f"return {before:.1f} before, {after:.1f} after {state.counts.updates} updates, {state.counts.env_steps} env steps"
)
