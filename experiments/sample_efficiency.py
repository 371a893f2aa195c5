"""Claim: short branched rollouts in a learned model need at most a third of the real steps that SAC needs.

Both learners are the same code with the same networks and the same number of updates per real step; `sac` imagines
nothing. A seed has solved a world at the first of three evaluations in a row that reach the threshold.

    python -m experiments.sample_efficiency    # both worlds, 5 seeds each
"""

from __future__ import annotations

import dataclasses

import numpy as np

from branchax.host import plots
from branchax.presets import preset
from experiments.harness import RESULTS, curves, publish, run, steps_to

SEEDS = 5
# world: (return that counts as solved, real steps for mbpo, real steps for sac)
WORLDS = {"classic/pendulum": (-200.0, 3_000, 9_000), "classic/cartpole": (475.0, 3_000, 9_000)}


def main() -> None:
    """Runs, compares, publishes."""
    found, configs, directories = {}, {}, []
    for world, (threshold, *budgets) in WORLDS.items():
        short = world.replace("/", "_")
        pair = []
        for name, env_steps in zip(("mbpo", "sac"), budgets, strict=True):
            config = dataclasses.replace(preset(name, world), env_steps=env_steps, seeds=SEEDS)
            configs[f"{short}_{name}"] = config
            pair.append(run(config, f"{short}_{name}"))
        plots.curve(pair, RESULTS / f"sample_efficiency_{short}.png")
        directories += pair
        solved = [[steps_to(*curve, threshold) for curve in curves(directory).values()] for directory in pair]
        # A seed that never solved it counts with the whole budget: a lower bound for sac, and unfair to mbpo only.
        means = [
            float(np.mean([budget if s is None else s for s in steps]))
            for steps, budget in zip(solved, budgets, strict=True)
        ]
        found[world] = {
            "threshold": threshold,
            "mbpo_steps": solved[0],
            "sac_steps": solved[1],
            "mbpo_mean": means[0],
            "sac_mean": means[1],
            "ratio": means[0] / means[1],
            "holds": None not in solved[0] and means[0] <= means[1] / 3,
        }
        print(world, found[world])
    print("written to", publish("sample_efficiency", {"solved": found}, configs, directories))


if __name__ == "__main__":
    main()
