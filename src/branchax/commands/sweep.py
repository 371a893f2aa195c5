"""`branchax sweep`: a grid of settings or a search among them, each a run."""

from __future__ import annotations

import dataclasses
import itertools
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from branchax.commands.base import PREEMPTED, REFUSED, check_found, installed
from branchax.commands.flags import check_flags, names_of, parse, read_early, spelled_out
from branchax.commands.train import Early, Own, TrainOptions, base_of, flags, read_own
from branchax.config import Config, flat, to_dict, value_at
from branchax.config.names import find_matches
from branchax.devices.distributed import Processes
from branchax.errors import ConfigError, RunError, nearest
from branchax.presets import PRESETS
from branchax.runs import entry, rundir
from branchax.runs.signals import Preempted
from branchax.sweeps import launch, search, sweep


@dataclass(frozen=True)
class SweepOptions:
    """Trains PRESET once for each point of a grid, into a directory each, and prints a table of the last evaluations.
    Any setting of `branchax train` can be in the grid; the others are flags, as there. Points that differ only in
    floats share one program; other points run as separate processes. The same command again continues where it
    stopped."""

    grid: Annotated[tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=A,B")] = ()
    """A setting and its values, as in agent.learning_rate=1e-3,3e-4 or 'model.hidden=64 64,200 200'."""
    search: Annotated[
        tuple[tuple[str, ...], ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="FIELD=LOW..HIGH")
    ] = ()
    """In place of a grid: a setting and its range, FIELD=log:LOW..HIGH for one sampled by its logarithm, or choices
    FIELD=A,B. Optuna samples them (the extra `optuna`), and trials that fall behind are stopped."""
    trials: Annotated[int, tyro.conf.arg(metavar="N")] = 20
    """Number of trials in a search."""
    run: Annotated[Path | None, tyro.conf.arg(metavar="DIR")] = None
    """Directory of the sweep; a new one under runs/."""
    jobs: Annotated[int, tyro.conf.arg(metavar="N")] = 1
    """Number of processes that run in parallel."""
    launcher: Annotated[str, tyro.conf.arg(metavar="|".join(launch.LAUNCHERS))] = "local"
    """Where processes run: on this machine (`local`) or on a cluster (`submitit`)."""
    launch: Annotated[tuple[str, ...], tyro.conf.UseAppendAction, tyro.conf.arg(metavar="KEY=VALUE")] = ()
    """Of submitit's executor, as in timeout_min=240."""


def run(arguments: list[str]) -> None:
    """Checks every point, then trains them."""
    if arguments[:1] == [sweep.GROUP]:
        _train_group(Path(arguments[1]), int(arguments[2]))
        return
    name, options, rest, known = _read(arguments)
    if options.jobs < 1:
        raise ConfigError(f"jobs: {options.jobs} is not possible; allowed: >= 1")
    if wrong := [entry for entry in options.launch if "=" not in entry]:
        raise ConfigError(f"launch: {wrong[0]!r} is not possible; allowed: KEY=VALUE")
    settings = dict(entry.split("=", 1) for entry in options.launch)
    launch.check(options.launcher, settings)
    if options.search:
        _search(name, options, rest, known)
        return
    grid = _grid([entry for entries in options.grid for entry in entries], known)
    values = list(itertools.product(*grid.values()))
    configs = [_config(name, rest, dict(zip(grid, x, strict=True))) for x in values]
    configs = [entry.prepare(config) for config in configs]
    for i, config in enumerate(configs):
        check_found(config)
        if (first := configs.index(config)) < i:
            named = (", ".join(map("=".join, zip(grid, values[j], strict=True))) for j in (first, i))
            raise ConfigError(f"grid: {' and '.join(named)} are the same settings")
    if any(config.wandb for config in configs):
        from branchax.runs import trackers  # which loads NumPy

        trackers.check_wandb()
    points = sweep.plan(grid, configs)
    stem = f"runs/sweep_{rundir.named(configs[0].world)}_{name}"
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


def _read(arguments: list[str]) -> tuple[str, SweepOptions, list[str], list[str]]:
    """The preset, what is the sweep's own, the flags that are each run's, and the names of all settings."""
    if {"-h", "--help"} & set(arguments):
        parse(SweepOptions, ["--help"], "branchax sweep PRESET")
    name = arguments[0] if arguments and not arguments[0].startswith("-") else None
    own, _ = read_own(arguments, "branchax sweep PRESET")
    base = own.within(PRESETS.get(name or "", PRESETS["mbpo"]))
    known = [*names_of(SweepOptions), *names_of(Own), *flags(base)]
    arguments = spelled_out(arguments, known)
    check_flags(arguments, known, "branchax sweep")
    if name is None:
        raise ConfigError(f"preset: missing; branchax sweep PRESET ..., where PRESET is one of {', '.join(PRESETS)}")
    options, rest = read_early(SweepOptions, arguments[1:], "branchax sweep PRESET")
    if not options.grid and not options.search:
        raise ConfigError("grid: missing; branchax sweep PRESET --grid FIELD=A,B, or --search FIELD=LOW..HIGH")
    return name, options, rest, known


def _search(name: str, options: SweepOptions, rest: list[str], known: list[str]) -> None:
    """Checks the ends of every range and every choice, then runs the trials."""
    if options.grid or options.jobs > 1 or options.launcher != "local":
        raise ConfigError("search: goes without --grid, --jobs and --launcher; its trials run one after the other")
    if options.trials < 1:
        raise ConfigError(f"trials: {options.trials} is not possible; allowed: >= 1")
    if not installed("optuna"):
        raise ConfigError("search: needs optuna, which is not installed: pip install 'branchax[optuna]'")
    base = _config(name, rest, {})
    entries = _entries([entry for entries in options.search for entry in entries], known, "search")
    settings = set(flat(to_dict(base)))
    for field in entries:
        if field not in settings:
            raise ConfigError(f"search: {field} is unknown{nearest(field, settings)}")
    spaces = [search.space(field, text, base) for field, text in entries.items()]

    def config_of(settings: dict[str, str]) -> Config:
        return entry.prepare(_config(name, rest, settings))

    first = {space.field: space.values[0] for space in spaces}
    ends = [config_of({**first, space.field: value}) for space in spaces for value in space.values]
    for config in ends:
        check_found(config)
    stem = f"runs/search_{rundir.named(ends[0].world)}_{name}"
    directory = search.directory_of(search.describe(spaces, ends), stem, options.run)
    print(f"{options.trials} trials, into {directory}", flush=True)
    try:
        search.run(directory, spaces, options.trials, config_of)
    except Preempted as error:
        error.add_note(f"what was saved in {directory} is good, and the same command goes on from there")
        raise
    print("the same command with more --trials goes on")


def _train_group(directory: Path, group: int) -> None:
    """What one process of a sweep does."""
    from branchax.sweeps.lockstep import run_group

    try:
        run_group(directory, [point for point in sweep.load(directory) if point.group == group])
    except OSError as error:
        raise RunError(f"cannot write to {directory}: {error}") from error


def _entries(entries: list[str], known: list[str], option: str) -> dict[str, str]:
    """`["a.b=1,2"]` -> `{"a.b": "1,2"}`; a short form stands for the one of the `known` settings that it means."""
    read: dict[str, str] = {}
    for given in entries:
        field, _, values = given.partition("=")
        field = field.removeprefix("--").replace("-", "_")
        if not field or not values or not all(values.split(",")):
            raise ConfigError(f"{option}: {given!r} is not possible; allowed: FIELD=A,B")
        found = find_matches(field, known) or [field]  # tyro will say that one is unknown, and what is near
        if len(found) > 1:
            raise ConfigError(f"{option}: {field} is more than one setting (did you mean {' or '.join(found)}?)")
        if found[0] in read:
            raise ConfigError(f"{option}: {found[0]} is there twice")
        read[found[0]] = values
    return read


def _grid(entries: list[str], known: list[str]) -> dict[str, list[str]]:
    """`["a.b=1,2"]` -> `{"a.b": ["1", "2"]}`."""
    grid = {field: values.split(",") for field, values in _entries(entries, known, "grid").items()}
    for field, values in grid.items():
        if len(set(values)) < len(values):
            raise ConfigError(f"grid: {field}={','.join(values)!r} has a value twice")
    return grid


def _config(name: str, rest: list[str], settings: dict[str, str]) -> Config:
    """The settings of a point, by way of the flags that `branchax train` would be given."""
    own, rest = read_own(rest, "branchax sweep PRESET")
    early, _ = read_early(Early, rest, "branchax sweep PRESET")
    base = own.within(base_of(name, dataclasses.replace(early, world=settings.get("world", early.world))))
    added = []
    for field, value in settings.items():
        try:
            switch = isinstance(value_at(base, field), bool)
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
    if options.force or options.processes != Processes():
        raise ConfigError("sweep: --force and several processes to a run are not for a sweep")
    return options.config
