"""Evaluation of a finished or interrupted run, from its last checkpoint."""

from __future__ import annotations

import dataclasses
import json
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from branchax import build
from branchax.devices import cache
from branchax.runs import rundir, runlog
from branchax.runs.compiling import compiled_now, evaluate_at, seed_keys, summarise
from branchax.runs.host_epoch import HostEvaluation
from branchax.runs.restoring import restore
from branchax.sharding import over_seeds


def evaluate(
    directory: str | os.PathLike[str],
    episodes: int | None = None,
    step: int | None = None,
    say: Callable[[str], Any] = warnings.warn,
) -> list[dict[str, Any]]:
    """Runs episodes with the mode of a saved policy; returns one record per seed.

    With the run's own number of evaluation episodes, it repeats the run's last evaluation exactly (except for the last
    digits if the run used several devices): the start states depend only on the seed and the env step. The records are
    also appended to `evaluations/<env_steps>.json`.

    Args:
      directory: a run's directory.
      episodes: how many; by default the run's `eval_episodes`.
      step: the env steps of the checkpoint; by default the last good one.
      say: called with a message for each checkpoint that is skipped because it is damaged.

    Raises:
      ConfigError: when the directory holds no run, or no checkpoint (at that step).
      CheckpointError: when the checkpoint cannot be read.
    """
    directory = Path(directory)
    cache.enable()
    config, state = restore(directory, say, step)
    config = dataclasses.replace(config, eval_episodes=episodes or config.eval_episodes)
    program, keys, saved = build.build(config), seed_keys(config), int(state.counts.env_steps[0])
    arguments = keys, state.counts.env_steps, state.agent
    if program.host is not None:
        result = HostEvaluation(lambda floats: program, ({}, keys), config, state.agent, compiled_now)({}, *arguments)
    else:
        lowered = jax.jit(over_seeds(evaluate_at(program))).lower(*arguments)
        result = cache.compiled(lowered, cache.SOONER["evaluate"])(*arguments)
    numbers = summarise(result)
    records = [
        {
            "seed": config.seed + i,
            **({"env_steps": 0, runlog.OFFLINE: saved} if config.dataset else {"env_steps": saved}),
            "episodes": config.eval_episodes,
            **runlog.plain({name: values[i] for name, values in numbers.items()}),
            "returns": runlog.plain(result["return"][i]),
            "lengths": runlog.plain(result["length"][i]),
        }
        for i in range(config.seeds)
    ]
    path = directory / rundir.EVALUATIONS / f"{saved}.json"
    earlier = json.loads(path.read_text(encoding="utf-8")) if path.exists() else []
    rundir.write_json(path, [record for record in earlier if record not in records] + records)
    return records
