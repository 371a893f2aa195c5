"""Claim: `pets` balances `classic/cartpole` (500 steps) within 10 episodes; and model steps per second while planning.

One epoch is 200 real steps, after 100 at random; counted are the training episodes that end after those. Scored by 4
evaluation episodes of 500 steps in the end.

    python -m experiments.planning
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np

from branchax.host import rundir, runlog
from branchax.host.run import collected
from branchax.presets import preset
from experiments.harness import publish, run

SEEDS, EPISODES, SOLVED = (0, 1, 2), 10, 475.0
METHODS = ("pets", "pets_mppi")


def main() -> None:
    """Runs, counts episodes, publishes."""
    found, made, configs = {}, [], {}
    for name in METHODS:
        configs[name] = replace(preset(name, "classic/cartpole"), env_steps=1_100, eval_every=100, checkpoint_every=5)
        found[name] = {}
        for seed in SEEDS:
            directory = run(replace(configs[name], seed=seed), f"classic-cartpole_{name}_s{seed}_1")
            rows, t = runlog.read(directory / rundir.METRICS), collected(directory)
            lengths = np.diff(np.flatnonzero(t.terminated | t.truncated), prepend=-1).tolist()
            epochs = [b["wall_s"] - a["wall_s"] for a, b in itertools.pairwise(rows)]
            steps = (rows[-1]["model_steps"] - rows[-2]["model_steps"]) / 200
            found[name][seed] = {
                "episodes": len(lengths),
                "episodes_after_exploration": int(sum(np.cumsum(lengths) > 100)),
                "lengths": lengths,
                "last_return": rows[-1][runlog.RETURN],
                "seconds_per_epoch_of_200_steps": float(np.median(epochs[1:-1])),
                "model_steps_per_action": steps,
                "model_steps_per_second_fit_included": float(200 * steps / np.median(epochs[1:-1])),
            }
            print(name, seed, found[name][seed])
            made.append(directory)
    in_time = lambda s: s["episodes_after_exploration"] <= EPISODES and s["last_return"] >= SOLVED  # noqa: E731
    solved = {n: [in_time(s) for s in by.values()] for n, by in found.items()}
    print("written to", publish("planning", {"methods": found, "solved": solved}, configs, made))


if __name__ == "__main__":
    main()
