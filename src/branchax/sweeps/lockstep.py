"""A group of a sweep: runs that differ in floats alone, in one compiled program.

The lanes of the program are the runs' seeds, run after run (`run.train_together`). A float that is swept is an array
with one entry to a lane, and the program is put together inside the map over lanes from settings that hold its traced
entry (`build.assemble`); so whatever a float does, it does there as well. Which floats can be traced is found out here.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from branchax import build
from branchax.config import Config, value_at
from branchax.devices import cache
from branchax.runs import checkpoint
from branchax.runs.compiling import Floats, program_of
from branchax.runs.faults import NonFinite
from branchax.runs.loop import Run
from branchax.runs.train import train_together
from branchax.sweeps import sweep
from branchax.worlds.base import World


def run_group(directory: Path, points: list[sweep.Point]) -> None:
    """Trains the points of a group, each in its directory, together as far as their floats allow.

    One that comes to nothing is left out (`sweep.FAILED` says why) and not tried again; the others go on.

    Raises as `run.train` does.
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
        for runs in abreast([Run(p.config, directory / p.name, f"branchax sweep ({p.name})") for p in part]):
            train_together(runs, swept if len(runs) > 1 else (), give_up=_note)


def abreast(runs: list[Run]) -> list[list[Run]]:
    """The runs, apart by how far they are where no step was saved in all of them: none has to begin again.

    Nor are more of them together than one program can count the rows of (`Config.most_seeds`).
    """
    saved = [checkpoint.steps(run.checkpoints) for run in runs]
    common = bool(set.intersection(*map(set, saved)))
    apart: dict[int, list[Run]] = {}
    for run, steps in zip(runs, saved, strict=True):
        apart.setdefault(0 if common else max(steps, default=0), []).append(run)
    room = max(runs[0].config.most_seeds // runs[0].config.seeds, 1)
    return [some[i : i + room] for some in apart.values() for i in range(0, len(some), room)]


def _note(run: Run, error: NonFinite) -> None:
    """A signal or a full disk is no verdict on the settings; this is."""
    (run.directory / sweep.FAILED).write_text(f"{error.brief}\n{error}\n", encoding="utf-8")


def traceable(config: Config, world: World, fields: list[str]) -> list[str]:
    """Those of the float fields that an epoch can be traced with, as arguments of the program."""

    def traces(fields: list[str]) -> bool:
        of = program_of(config, fields, world)
        floats = {field: jnp.float32(value_at(config, field)) for field in fields}

        def both(floats: Floats, key: jax.Array) -> Any:
            program = of(floats)
            return program.epoch(program.init(key), jnp.int32(config.rollout.horizon))

        try:
            jax.eval_shape(both, floats, jax.random.key(0))
        except TypeError:  # JAX's, for a tracer whose value is asked for
            return False
        return True

    return fields if traces(fields) else [field for field in fields if traces([field])]
