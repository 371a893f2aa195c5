"""Seconds per 1,000 real steps of the whole MBPO loop at the paper's sizes, on `brax/inverted_pendulum`.

7 x (4 x 200) ensemble, SAC 2 x 256 with batches of 256, 10 updates and 400 rollouts per real step, a fit every 250
steps, after 5,000 steps of exploration: the work that mbrl-lib 0.2.0 takes 132 s (a quiet 2-core machine) to 235 s (a
busy one) for. Compilation is timed apart.

    python -m benchmarks.mbpo_paper
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from branchax.build import build
from branchax.config import Config, to_dict, with_field
from branchax.devices import cache
from branchax.presets import preset
from branchax.runs import rundir
from branchax.runs.compiling import seed_keys
from branchax.sharding import over_seeds

# name: (`model.good_error`, real steps). MBPO's own stop goes on for as long as the error falls by 1 % in 5 looks.
STOPS = {"good_error": (3e-4, 1_000), "mbpo_stop": (0.0, 500)}


def seconds(function: Callable[..., Any], *arguments: Any) -> tuple[float, Any]:
    """Wall-clock seconds of a call, and what it returns."""
    start = time.perf_counter()
    out = jax.block_until_ready(function(*arguments))
    return time.perf_counter() - start, out


def measure(config: Config) -> dict[str, Any]:
    """Runs the learning steps of `config`; seconds per epoch and what was done in them."""
    program = build(config)
    init = jax.jit(over_seeds(program.init))
    epoch = jax.jit(over_seeds(program.epoch, (0, None)), donate_argnums=0)
    horizon = jnp.int32(config.rollout.horizon)
    compile_s, compiled = seconds(lambda: epoch.lower(jax.eval_shape(init, seed_keys(config)), horizon).compile())
    state = jax.block_until_ready(init(seed_keys(config)))
    times, rounds, errors = [], [], []
    for _ in range(config.epochs):
        elapsed, (state, metrics) = seconds(compiled, state, horizon)
        times.append(round(elapsed, 3))
        rounds.append(float(metrics["model/fit_rounds"][0]))
        errors.append(float(metrics["model/holdout_error"][0]))
        print(f"{int(state.counts.env_steps[0])} env steps, {elapsed:.2f} s, {rounds[-1]:.0f} rounds", flush=True)
    return {
        "seconds_per_1000_env_steps": round(sum(times) / (config.env_steps - config.explore_steps) * 1_000, 2),
        "epochs_s": times,
        "fit_rounds": rounds,
        "model_holdout_error": errors,
        "compile_epoch_s": round(compile_s, 1),
        "config": to_dict(config),
    }


def main() -> None:
    """Measures both stops and writes `results/mbpo_paper_speed.json`."""
    cache.enable()
    found = {}
    for name, (good_error, steps) in STOPS.items():
        config = with_field(preset("mbpo_paper", "brax/inverted_pendulum"), "model.good_error", good_error)
        found[name] = measure(replace(config, explore_steps=5_000, env_steps=5_000 + steps))
        print(name, found[name]["seconds_per_1000_env_steps"], "s per 1,000 env steps", flush=True)
    made = {"command": "python -m benchmarks.mbpo_paper", "environment": rundir.environment()}
    rundir.write_json(Path("results/mbpo_paper_speed.json"), {**found, "made": made})


if __name__ == "__main__":
    main()
