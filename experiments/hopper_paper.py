"""MBPO on `brax/hopper` at its paper's sizes on one accelerator: 125,000 real steps, 20 updates for each, 8 seeds.

7 x (4 x 200), SAC 2 x 256, 400 rollouts per step of 1 to 15 steps by the paper's schedule, a fit every 250 steps and
5,000 random steps before (Janner et al. 2019, appendix C). Three things are not the paper's: the simulator (Brax's
generalized backend); real steps are taken in 5 worlds at a time, 100 updates after each five, because a step of the
physics is a chain of some 2,000 small kernels, however few worlds there are; and `--precision default` (TF32), unless
`--precision highest` is given.

    python -m experiments.hopper_paper [--seeds 8] [--env-steps 125000] [--precision default]

A run that was cut off goes on where it was. Seconds are those between the first and the last epoch; compilation apart.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

from branchax.config import Config
from branchax.presets import preset
from branchax.runs import plots, rundir, runlog
from branchax.runs.statistics import bootstrap, interquartile_mean
from experiments.harness import RESULTS, RUNS, curves, publish, run

WORLDS_AT_ONCE = 5


def config_of(seeds: int, env_steps: int, precision: str) -> Config:
    """The run."""
    config = replace(
        preset("mbpo_paper", "brax/hopper"),
        seeds=seeds,
        env_steps=env_steps,
        explore_steps=5_000,
        parallel_worlds=WORLDS_AT_ONCE,
        collect_steps=WORLDS_AT_ONCE,
        eval_every=40,
        eval_episodes=10,
        checkpoint_every=100,
        checkpoints_kept=1,
    )
    return replace(config, precision=precision)  # type: ignore[arg-type]


def speed(directory: Path, config: Config) -> dict[str, float]:
    """Seconds per 1,000 real steps of all seeds together, and what the whole run takes at the mean of them."""
    rows = [row for row in runlog.read(directory / rundir.METRICS) if row["seed"] == config.seed]
    first, last = rows[0], rows[-1]
    if first is last:
        raise SystemExit(f"{directory} has no epoch yet")
    per_step = (last["wall_s"] - first["wall_s"]) / (last["env_steps"] - first["env_steps"])
    return {
        "env_steps": last["env_steps"],
        "minutes": last["wall_s"] / 60,
        "first_epoch_at_s": first["wall_s"],
        "seconds_per_1000_env_steps": 1_000 * per_step,
        "seconds_per_seed_and_env_step": per_step / config.seeds,
        "model_steps": config.seeds * last["model_steps"],
        "updates_per_s": config.seeds * config.updates_per_step / per_step,
    }


def main() -> None:
    """Runs, publishes."""
    parser = argparse.ArgumentParser("python -m experiments.hopper_paper", description=__doc__)
    parser.add_argument("--seeds", type=int, default=8)
    parser.add_argument("--env-steps", type=int, default=125_000)
    parser.add_argument("--precision", default="default", choices=("highest", "default"))
    parser.add_argument("--publish", action="store_true", help="only write what has been run so far")
    options = parser.parse_args()
    config = config_of(options.seeds, options.env_steps, options.precision)
    name = f"brax_hopper_paper_{options.precision}_x{options.seeds}"
    directory = RUNS / name
    if not options.publish:
        directory = run(config, name)
    each = list(curves(directory).values())
    steps, returns = each[0][0], np.array([r for _, r in each])
    low, high = bootstrap(interquartile_mean, returns)
    found = {
        **speed(directory, config),
        "evaluated_at": steps.tolist(),
        "returns": returns.tolist(),
        "iqm": interquartile_mean(returns).tolist(),
        "interval": [low.tolist(), high.tolist()],
    }
    print({key: value for key, value in found.items() if key not in ("returns", "evaluated_at")})
    suffix = "" if (options.seeds, options.precision) == (8, "default") else f"_{options.precision}_x{options.seeds}"
    path = RESULTS / f"hopper_paper{suffix}.json"
    plots.curve([directory], path.with_suffix(".png"))
    flags = f" --seeds {options.seeds} --env-steps {options.env_steps} --precision {options.precision}"
    print("written to", publish(f"hopper_paper{flags}", found, {"mbpo": config}, [directory], path=path))


if __name__ == "__main__":
    main()
