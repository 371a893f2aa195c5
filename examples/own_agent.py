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
from branchax.agents import Outcome


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
# It gets the whole run: checkpoints, exact resume, metrics, curves, a report. The settings of `v2.5` say how long
# rollouts are, how many there are to an update, and how many updates follow a collection. From a shell, in the
# directory of this file: `branchax train v2.5 --world classic/lqr --agent own_agent:make_search`; then `branchax
# evaluate`, `report`, `resume` as with any run.

# %%
if __name__ == "__main__":
    config = branchax.preset("v2.5", "classic/lqr")
    run = branchax.run(config, "runs/search", agent=make_search)
    for found in branchax.evaluate(run):
        print(f"seed {found['seed']}: return {found['eval/return_mean']:.1f} after {found['env_steps']} env steps")
