"""Evaluation of a finished or interrupted run, from its last checkpoint."""

from __future__ import annotations

import dataclasses
import json
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
    directory: str | Path,
    episodes: int | None = None,
    step: int | None = None,
    say: Callable[[str], Any] = warnings.warn,
) -> list[dict[str, Any]]:
    """Runs episodes with the mode of a saved policy; returns one record per seed.

    With as many episodes as the run's own evaluations had, it repeats the last of them exactly (of a run on several
    devices, but for the last digits): the start states follow from the seed and the env step alone. The records are
    also added to `evaluations/<env_steps>.json`, after what was measured before.

    Args:
      directory: a run's directory.
      episodes: how many; by default the run's `eval_episodes`.
      step: the env steps of the checkpoint; by default the last good one.
      say: hears of checkpoints that are passed over because they are damaged.

    Raises:
      ConfigError: when the directory holds no run, or nothing was saved in it (at that step).
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
