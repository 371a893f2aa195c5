"""Seconds per 1,000 real steps of the whole MBPO loop at the paper's sizes, on `brax/inverted_pendulum`.

7 x (4 x 200) ensemble, SAC 2 x 256 with batches of 256, 10 updates and 400 rollouts per real step, a fit every 250
steps, after 5,000 steps of exploration: the work that mbrl-lib 0.2.0 takes 132 s (a quiet 2-core machine) to 235 s (a
busy one) for. Compilation is timed apart.

    python -m benchmarks.mbpo_paper
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from branchax.build import build
from branchax.config import to_dict
from branchax.host import cache, rundir
from branchax.host.run import seed_keys
from branchax.presets import preset

STEPS = 2_000


def seconds(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Wall-clock seconds of a call, and what it returns."""
    start = time.perf_counter()
    out = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, out


def main() -> None:
    """Runs 2,000 learning steps and writes `results/mbpo_paper_speed.json`."""
    cache.enable()
    base = preset("mbpo_paper", "brax/inverted_pendulum")
    config = replace(base, explore_steps=5_000, env_steps=5_000 + STEPS)
    program = build(config)
    init = jax.jit(jax.vmap(program.init))
    epoch = jax.jit(jax.vmap(program.epoch, in_axes=(0, None)), donate_argnums=0)
    horizon = jnp.int32(config.rollout.horizon)
    compile_s, compiled = seconds(lambda: epoch.lower(jax.eval_shape(init, seed_keys(config)), horizon).compile())
    state = jax.block_until_ready(init(seed_keys(config)))
    times, rounds, errors = [], [], []
    for _ in range(config.epochs):
        elapsed, (state, metrics) = seconds(compiled, state, horizon)
        times.append(round(elapsed, 3))
        rounds.append(float(metrics["model/fit_rounds"][0]))
        errors.append(float(metrics["model/holdout_error"][0]))
        print(f"{int(state.counts.env_steps[0]):6d} env steps  {elapsed:6.2f} s  {rounds[-1]:3.0f} rounds of fitting")
    half = len(times) // 2
    data = {
        "seconds_per_1000_env_steps": round(sum(times) / STEPS * 1_000, 2),
        "first_1000": round(sum(times[:half]), 2),
        "second_1000": round(sum(times[half:]), 2),
        "epochs_s": times,
        "fit_rounds": rounds,
        "model_holdout_error": errors,
        "compile_epoch_s": round(compile_s, 1),
        "made": {"command": "python -m benchmarks.mbpo_paper " + " ".join(sys.argv[1:]), "seeds": [config.seed]},
        "environment": rundir.environment(),
        "config": to_dict(config),
    }
    rundir.write_json(Path("results/mbpo_paper_speed.json"), data)
    print(f"{data['seconds_per_1000_env_steps']} s per 1,000 env steps")


if __name__ == "__main__":
    main()
