"""Claim: `mbpo` solves Gymnasium's own InvertedPendulum-v5 within 5,000 env steps; and how far it is on Hopper-v5.

A full episode of InvertedPendulum returns 1,000; solved is the first of three evaluations in a row of at least 950.
Hopper is run for its first 20,000 steps with the paper's updates per step (20), target entropy and horizon (1 until
20,000 steps) on networks sized for a laptop. Beside it stands what others report at 50,000 and 100,000 steps of
Hopper-v2 or v4 (a re-run of MBPO by Kubo et al., github.com/4kubo/erl_lib, 5 seeds); the paper itself has only curves.

    python -m experiments.gymnasium_tasks                       # all of it, or what is missing of it
    python -m experiments.gymnasium_tasks gym/Hopper-v5         # one task
    python -m experiments.gymnasium_tasks --publish             # what has been run
"""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np

from branchax.config import Config
from branchax.host import plots, rundir, runlog
from branchax.presets import preset
from experiments.harness import RESULTS, RUNS, curves, publish, run, steps_to

# task: (real steps, seeds)
TASKS = {"gym/InvertedPendulum-v5": (5_000, (0, 1, 2)), "gym/Hopper-v5": (20_000, (0,))}
SOLVED = 950.0
PUBLISHED = {"gym/Hopper-v5": {"MBPO at 50,000 steps": 1313, "MBPO at 100,000 steps": "3240 ± 438"}}


def config_of(task: str, seed: int) -> Config:
    base = preset("mbpo", task)
    every = 1 if task == "gym/InvertedPendulum-v5" else 4
    return replace(base, env_steps=TASKS[task][0], seed=seed, eval_every=every, eval_episodes=8)


def directory_of(task: str, seed: int) -> str:
    return f"{task.replace('/', '-')}_mbpo_s{seed}_1"


def main() -> None:
    """Runs, scores, publishes."""
    arguments = [a for a in sys.argv[1:] if a != "--publish"]
    if "--publish" not in sys.argv[1:]:
        for task in arguments or TASKS:
            for seed in TASKS[task][1]:
                run(config_of(task, seed), directory_of(task, seed))
        if arguments:
            return
    found, made = {}, []
    for task, (_, seeds) in TASKS.items():
        done = [s for s in seeds if (RUNS / directory_of(task, s) / rundir.METRICS).exists()]
        directories = [RUNS / directory_of(task, s) for s in done]
        scores = {}
        for seed, directory in zip(done, directories, strict=True):
            steps, returns = curves(directory)[seed]
            scores[seed] = {
                "env_steps": float(steps[-1]),
                "last_three": float(np.mean(returns[-3:])),
                "solved_at": steps_to(steps, returns, SOLVED) if "Pendulum" in task else None,
                "curve": {int(s): round(float(r), 1) for s, r in zip(steps, returns, strict=True)},
                "seconds": runlog.read(directory / rundir.METRICS)[-1]["wall_s"],
            }
            print(task, seed, {k: v for k, v in scores[seed].items() if k != "curve"})
        found[task] = {"seeds": scores, "published": PUBLISHED.get(task, {})}
        if directories:
            plots.curve(directories, RESULTS / f"{task.replace('/', '-')}.png")
        made += directories
    configs = {task: config_of(task, 0) for task in TASKS}
    print("written to", publish("gymnasium_tasks", {"tasks": found}, configs, made))


if __name__ == "__main__":
    main()
