"""A group of a sweep: runs that differ only in floats, in one compiled program.

The lanes of the program are the seeds of all runs, one run after the other (`runs.train.train_together`). A swept float
is an array with one entry per lane. The program is assembled inside the map over lanes, from settings with the traced
entry (`build.assemble`), so a float has the same effect as in a run on its own. This file finds which floats can be
traced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from branchax import build
from branchax.config import Config, value_at
from branchax.devices import cache
from branchax.epoch.program import trace_epoch
from branchax.runs import checkpoint
from branchax.runs.compiling import Floats, program_of
from branchax.runs.faults import NonFinite
from branchax.runs.loop import Run
from branchax.runs.train import train_together
from branchax.sweeps import sweep
from branchax.worlds.base import World


def run_group(directory: Path, points: list[sweep.Point]) -> None:
    """Trains the points of a group, each in its directory, in as few programs as their floats allow.

    A point that fails is dropped (`sweep.FAILED` has the reason) and not tried again; the others continue.

    Raises as `runs.train.train` does.
    """
    cache.enable()
    points = [point for point in points if not sweep.is_over(directory / point.name, point.config)]
    fields = [f for f in points[0].settings if len({value_at(p.config, f) for p in points}) > 1] if points else []
    swept: list[str] = []
    if fields:
        config = points[0].config
        swept = traceable(config, build.make_world(config), fields)
    parts: dict[Any, list[sweep.Point]] = {}
    for point in points:
        parts.setdefault(tuple(value_at(point.config, f) for f in fields if f not in swept), []).append(point)
    for part in parts.values():
        for runs in split_by_progress([Run(p.config, directory / p.name, f"branchax sweep ({p.name})") for p in part]):
            train_together(runs, swept if len(runs) > 1 else (), give_up=_note)


def split_by_progress(runs: list[Run]) -> list[list[Run]]:
    """Groups runs that can resume from a common checkpoint, so that none restarts.

    Groups are capped at `Config.most_seeds`, because row counters are 32-bit.
    """
    saved = [checkpoint.steps(run.checkpoints) for run in runs]
    common = bool(set.intersection(*map(set, saved)))
    apart: dict[int, list[Run]] = {}
    for run, steps in zip(runs, saved, strict=True):
        apart.setdefault(0 if common else max(steps, default=0), []).append(run)
    room = max(runs[0].config.most_seeds // runs[0].config.seeds, 1)
    return [some[i : i + room] for some in apart.values() for i in range(0, len(some), room)]


def _note(run: Run, error: NonFinite) -> None:
    """Records that these settings failed. Signals or a full disk are not recorded: the settings may still work."""
    (run.directory / sweep.FAILED).write_text(f"{error.brief}\n{error}\n", encoding="utf-8")


def traceable(config: Config, world: World, fields: list[str]) -> list[str]:
    """The float fields that can be traced, as arguments of an epoch's program."""

    def traces(fields: list[str]) -> bool:
        of = program_of(config, fields, world)
        floats = {field: jnp.float32(value_at(config, field)) for field in fields}

        def both(floats: Floats, key: jax.Array) -> Any:
            program = of(floats)
            return trace_epoch(program, program.init(key), jnp.int32(config.rollout.horizon))

        try:
            jax.eval_shape(both, floats, jax.random.key(0))
        except TypeError:  # raised by JAX if the program needs a tracer's value
            return False
        return True

    return fields if traces(fields) else [field for field in fields if traces([field])]
