"""Claim: `mbpo` balances Brax's inverted pendulum within 1,500 real steps, for each of the seeds 0, 1, 2.

Each seed is a run of its own, as `make train SEED=n` makes it. The score is the mean of the last three evaluations.

    python -m experiments.inverted_pendulum    # about 2 minutes a seed on a 2-core CPU
"""

from __future__ import annotations

import dataclasses

import numpy as np

from branchax.presets import preset
from branchax.runs import plots
from experiments.harness import RESULTS, curves, publish, run, steps_to

SEEDS, THRESHOLD = (0, 1, 2), 950.0


def main() -> None:
    """Runs, scores, publishes."""
    base = preset("mbpo", "brax/inverted_pendulum")
    directories = [
        run(dataclasses.replace(base, seed=seed), f"brax_inverted_pendulum_mbpo_s{seed}_1") for seed in SEEDS
    ]
    scores = {}
    for seed, directory in zip(SEEDS, directories, strict=True):
        steps, returns = curves(directory)[seed]
        scores[seed] = {
            "last_three": float(np.mean(returns[-3:])),
            "env_steps": float(steps[-1]),
            "solved_at": steps_to(steps, returns, THRESHOLD),
        }
        print(seed, scores[seed])
    plots.curve(directories, RESULTS / "inverted_pendulum.png")
    holds = all(score["last_three"] >= THRESHOLD for score in scores.values())
    print("written to", publish("inverted_pendulum", {"scores": scores, "holds": holds}, {"mbpo": base}, directories))


if __name__ == "__main__":
    main()
