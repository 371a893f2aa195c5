"""`branchax sweep`: a grid of settings, each a run."""

from __future__ import annotations

import argparse
import functools
import itertools
import shlex
from pathlib import Path

import tyro

from branchax.checks import check
from branchax.commands.base import PREEMPTED, REFUSED, check_flags, check_installed
from branchax.commands.train import TrainOptions, flags, preset_of
from branchax.config import Config
from branchax.devices.distributed import Processes
from branchax.errors import ConfigError, RunError
from branchax.presets import PRESETS
from branchax.runs.signals import Preempted
from branchax.sweeps import launch, sweep

ABOUT = """\
Trains PRESET once for each point of a grid, into a directory each, and prints a table of the last evaluations. Any
setting of `branchax train` can be in the grid, and those that are not are given as flags, as there. Points that differ
in floats alone are trained in one program; the others are processes. The same command again goes on where
it stopped."""


def run(arguments: list[str]) -> None:
    """Checks every point, then trains them."""
    if arguments[:1] == [sweep.GROUP]:
        _train_group(Path(arguments[1]), int(arguments[2]))
        return
    parser = argparse.ArgumentParser("branchax sweep", description=ABOUT, allow_abbrev=False)
    parser.add_argument("preset", metavar="PRESET", help=f"one of {', '.join(PRESETS)}")
    parser.add_argument(
        "--grid",
        action="append",
        nargs="+",
        required=True,
        metavar="FIELD=A,B",
        help="a setting and its values, as in agent.learning_rate=1e-3,3e-4 or 'model.hidden=64 64,200 200'",
    )
    parser.add_argument("--run", type=Path, metavar="DIR", help="directory of the sweep; a new one under runs/")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes at once (1)")
    parser.add_argument("--launcher", default="local", metavar="|".join(launch.LAUNCHERS), help="who runs them (local)")
    parser.add_argument(
        "--launch",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="of submitit's executor, as in timeout_min=240",
    )
    named = next((a for a in arguments if a in PRESETS), "mbpo")
    of_ours = [flag.removeprefix("--") for action in parser._actions for flag in action.option_strings]
    check_flags(arguments, [*of_ours, *flags(PRESETS[named])], parser.prog)
    options, rest = parser.parse_known_args(arguments)
    if options.jobs < 1:
        raise ConfigError(f"jobs: {options.jobs} is not possible; allowed: >= 1")
    if wrong := [entry for entry in options.launch if "=" not in entry]:
        raise ConfigError(f"launch: {wrong[0]!r} is not possible; allowed: KEY=VALUE")
    settings = dict(entry.split("=", 1) for entry in options.launch)
    launch.check(options.launcher, settings)
    grid = _grid([entry for entries in options.grid for entry in entries])
    configs = [
        _config(options.preset, rest, dict(zip(grid, x, strict=True))) for x in itertools.product(*grid.values())
    ]
    if any(config.dataset for config in configs):
        from branchax.runs import dataset  # which loads NumPy

        configs = [dataset.sized(config) for config in configs]
    for config in configs:
        check(config)
        check_installed(config.world)
    if any(config.wandb for config in configs):
        from branchax.runs import trackers  # which loads NumPy

        trackers.check_wandb()
    points = sweep.plan(grid, configs)
    stem = f"runs/sweep_{configs[0].world.replace('/', '-')}_{options.preset}"
    directory = sweep.directory_of(points, stem, options.run)
    command = shlex.join(["branchax", "sweep", *arguments])
    sweep.save(directory, points, command)
    print(f"{len(points)} runs, {len({point.group for point in points})} processes, into {directory}", flush=True)
    commands = sweep.commands(directory, points)
    try:
        codes = launch.launch(commands, options.jobs, options.launcher, directory / "jobs", settings)
    except Preempted as error:
        sweep.save(directory, points, command)
        error.add_note(f"what was saved in {directory} is good, and the same command goes on from there")
        raise
    sweep.save(directory, points, command)
    sweep.show(directory, points)
    print(f"written to {directory / sweep.SWEEP}; the same command again trains what is missing")
    bad = [code for code in codes if code]
    if bad and set(bad) == {PREEMPTED}:
        raise Preempted(
            f"{len(bad)} of {len(codes)} processes of the sweep were asked to end; the same command goes on"
        )
    if bad and set(bad) == {REFUSED}:
        raise ConfigError(f"sweep: {len(bad)} of {len(codes)} processes refused their settings; see above")
    if bad:
        raise RunError(f"{len(bad)} of {len(codes)} processes of the sweep failed; see above")


def _train_group(directory: Path, group: int) -> None:
    """What one process of a sweep does."""
    from branchax.sweeps.lockstep import run_group

    try:
        run_group(directory, [point for point in sweep.load(directory) if point.group == group])
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error}") from error


def _grid(entries: list[str]) -> dict[str, list[str]]:
    """`["a.b=1,2"]` -> `{"a.b": ["1", "2"]}`."""
    grid: dict[str, list[str]] = {}
    for entry in entries:
        field, _, values = entry.partition("=")
        field = field.removeprefix("--").replace("-", "_")
        if not field or not values or not all(values.split(",")):
            raise ConfigError(f"grid: {entry!r} is not possible; allowed: FIELD=A,B")
        if field in grid:
            raise ConfigError(f"grid: {field} is there twice")
        grid[field] = values.split(",")
        if len(set(grid[field])) < len(grid[field]):
            raise ConfigError(f"grid: {entry!r} has a value twice")
    return grid


def _config(name: str, rest: list[str], settings: dict[str, str]) -> Config:
    """The settings of a point, by way of the flags that `branchax train` would be given."""
    base = preset_of(name, rest, settings.get("world"))
    added = []
    for field, value in settings.items():
        try:
            switch = isinstance(functools.reduce(getattr, field.split("."), base), bool)
        except AttributeError:
            switch = False  # tyro will say that it is unknown, and what is near
        if switch:
            if value.lower() not in ("true", "false"):
                raise ConfigError(f"grid: {field} {value!r} is not possible; allowed: true, false")
            parent, dot, last = field.rpartition(".")
            added.append(f"--{parent}{dot}{'' if value.lower() == 'true' else 'no-'}{last}")
        else:
            added += [f"--{field}", *value.split()]
    options = tyro.cli(TrainOptions, default=TrainOptions(base), args=[*rest, *added], prog="branchax sweep PRESET")
    if options.file is not None or options.force or options.processes != Processes():
        raise ConfigError("sweep: --config, --force and several processes to a run are not for a sweep; name a preset")
    return options.config
