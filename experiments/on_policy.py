"""Claims: what MBRL 2.0 and 2.5 can and cannot do, on worlds with known answers. Five seeds each.

    pendulum_v2.5     PPO on imagined episodes of 200 steps swings the pendulum up (last three evaluations >= -250)
    pendulum_long     v2.0 as it is, back through 200 imagined steps, does not
    pendulum_short    the same with 10 steps from replayed states and a critic does
    lqr_v2.0, lqr_v2.5   both come within 5 % of the optimal cost of the linear-quadratic regulator

The cost on `classic/lqr` is compared with that of the optimal gain (`worlds.lqr.riccati`) from the same 1,000 starts.

    python -m experiments.on_policy                   # all of it, or what is missing of it
    python -m experiments.on_policy pendulum_short    # one part, to run several side by side
"""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np

from branchax import worlds
from branchax.build import build, build_agent
from branchax.config import Config, RolloutConfig, with_field
from branchax.epoch.evaluate import episode_returns
from branchax.presets import preset
from branchax.runs import checkpoint, plots, rundir
from branchax.runs.compiling import seed_keys
from branchax.runs.restoring import load
from branchax.worlds.lqr import double_integrator, riccati
from experiments.harness import RESULTS, curves, publish, run

SEEDS = range(5)
SOLVED = -250.0  # a pendulum that swings up and holds returns -150 on average over starts


def changed(config: Config, **fields: object) -> Config:
    """`config` with fields replaced; `agent__tau` means `agent.tau`."""
    for name, value in fields.items():
        config = with_field(config, name.replace("__", "."), value)
    return config


def configs() -> dict[str, Config]:
    """The runs, by name."""
    pendulum = {"env_steps": 3_200, "eval_episodes": 32}
    # A reward near the optimum is a thousandth of a wild state's: keep the latest data alone, and fit it to the end.
    lqr = {"env_steps": 3_200, "replay_capacity": 800, "model__good_error": 0.0, "model__max_rounds": 60}
    lqr |= {"agent__hidden": (), "rollout__horizon": 50, "eval_episodes": 32, "updates_per_step": 0.5}
    long = changed(preset("v2.0", "classic/pendulum"), **pendulum)
    short = RolloutConfig(start="replay", horizon=10, per_update=60, groups=3)
    return {
        "pendulum_v2.5": changed(preset("v2.5", "classic/pendulum"), **pendulum),
        "pendulum_long": long,
        "pendulum_short": changed(long, rollout=short, agent__critic=True, updates_per_step=1.0),
        "lqr_v2.0": changed(
            preset("v2.0", "classic/lqr"),
            **lqr,
            agent__squash=False,
            agent__learning_rate=1e-2,
        ),
        # Without the entropy's weight the policy's noise is gone before its mean has arrived.
        "lqr_v2.5": changed(
            preset("v2.5", "classic/lqr"), **lqr, agent__learning_rate=3e-3, agent__entropy_weight=0.02
        ),
    }


def runs(name: str, config: Config) -> list[Path]:
    """One run per seed."""
    return [run(replace(config, seed=seed), f"on_policy_{name}_s{seed}_1") for seed in SEEDS]


def excess_cost(directory: Path, episodes: int = 1_000) -> float:
    """How much more the saved policy costs than the optimal one from the same starts, relative."""
    config = rundir.load_config(directory)
    world = worlds.make(config.world)
    program, agent = build(config), build_agent(config, world)
    last = checkpoint.steps(directory / rundir.CHECKPOINTS)[-1]
    state = load(directory, last, config, jax.eval_shape(jax.vmap(program.init), seed_keys(config)))
    params = jax.tree.map(lambda x: x[0], state.agent)
    gain = riccati(double_integrator(), world.spec.episode_length).gain[0]
    policies = lambda key, obs: (agent.mode(params, obs), ()), lambda key, obs: (-gain @ obs, ())
    key = jax.random.key(10**6)
    mine, best = (float(episode_returns(key, world, act, episodes)[0].mean()) for act in policies)
    return mine / best - 1


def main() -> None:
    """Runs, scores, publishes."""
    every = configs()
    if sys.argv[1:]:
        for name in sys.argv[1:]:
            runs(name, every[name])
        return
    made = {name: runs(name, config) for name, config in every.items()}
    found: dict[str, dict] = {}
    for name, directories in made.items():
        last = [float(np.mean(curves(d)[seed][1][-3:])) for seed, d in zip(SEEDS, directories, strict=True)]
        found[name] = {"last_three": last, "mean": float(np.mean(last)), "std": float(np.std(last))}
        if name.startswith("lqr"):
            excess = [excess_cost(d) for d in directories]
            found[name] |= {"excess_cost": excess, "holds": max(excess) <= 0.05}
        else:
            solved = [x >= SOLVED for x in last]
            found[name] |= {"solved": solved, "holds": not any(solved) if name == "pendulum_long" else all(solved)}
        print(name, found[name])
    pendulum = [d for name in ("pendulum_v2.5", "pendulum_long", "pendulum_short") for d in made[name]]
    plots.curve(pendulum, RESULTS / "on_policy_pendulum.png")
    directories = [d for group in made.values() for d in group]
    print("written to", publish("on_policy", {"claims": found, "seeds": list(SEEDS)}, every, directories))


if __name__ == "__main__":
    main()
