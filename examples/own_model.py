# %% [markdown]
# # A model of one's own
#
# A model is a function `(World, ModelConfig) -> Dynamics`. The ensemble takes any network in place of its plain one:
# this one normalises each hidden layer and drops a tenth of its units while it is fitted.

# %%
import branchax
from branchax import nn
from branchax.dynamics import make_ensemble


def network(in_size, hidden, out_size, **options):
    return nn.mlp(in_size, hidden, out_size, **options | {"layer_norm": True, "dropout": 0.1})


def make_dynamics(world, config):
    return make_ensemble(world, config, network=network)


# %% [markdown]
# A model that is no ensemble at all fills in the fields of `branchax.dynamics.base.Dynamics` itself: `init` and `fit`,
# the `world` in which one of its members predicts, and where that world starts from a stored row. From a shell, in the
# directory of this file: `branchax train mbpo --world classic/pendulum --model own_model:make_dynamics`.

# %%
if __name__ == "__main__":
    config = branchax.preset("mbpo", "classic/pendulum")
    run = branchax.run(config, "runs/normed", dynamics=make_dynamics)
    for found in branchax.evaluate(run):
        print(f"seed {found['seed']}: return {found['eval/return_mean']:.1f} after {found['env_steps']} env steps")
