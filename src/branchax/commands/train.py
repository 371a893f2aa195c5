"""`branchax train`: a new run, or one that goes on."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from branchax.commands.base import check_installed
from branchax.config import Config, ConfigError, check
from branchax.host import RunError, distributed, rundir
from branchax.host.distributed import Processes
from branchax.presets import PRESETS, preset


@dataclass(frozen=True)
class TrainOptions:
    """What `branchax train` takes beside the preset."""

    # The preset decides which kind of agent it is; its fields are then flags like the others.
    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    run: Path | None = None
    """Directory of the run, new or empty; by default a new one under runs/."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on from the last checkpoint in --run; only --env-steps may then change, and only grow."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = field(default_factory=Processes)


def run(arguments: list[str]) -> None:
    """Checks the settings, then trains."""
    named = arguments[0] if arguments and not arguments[0].startswith("-") else None
    early = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    early.add_argument("--world")
    early.add_argument("--run", type=Path)
    early.add_argument("--resume", action="store_true")
    known, _ = early.parse_known_args([a for a in arguments if a not in ("-h", "--help")])
    wants_help = "-h" in arguments or "--help" in arguments
    if known.resume and known.run is None:
        raise ConfigError("resume: name the run to go on with: --run DIR --resume")
    saved = rundir.load_config(known.run) if known.resume else None
    if named is not None:
        base = preset(named, known.world)
    elif saved is not None:
        base = saved
    elif wants_help:
        base = PRESETS["mbpo"]
    else:
        raise ConfigError(f"preset: missing; branchax train PRESET ..., where PRESET is one of {', '.join(PRESETS)}")
    options = tyro.cli(
        TrainOptions,
        default=TrainOptions(base),
        args=arguments[1:] if named is not None else arguments,
        prog="branchax train PRESET",
        description=f"Trains an agent. PRESET is one of {', '.join(PRESETS)}; its settings are the defaults below.",
    )
    config = options.config
    if config.dataset is not None and saved is None:
        from branchax.host import dataset

        config = dataset.sized(config)
    check(config)
    if saved is not None:
        rundir.check_resume(saved, config)
    check_installed(config.world)
    distributed.check(options.processes, named=options.run is not None)
    directory = options.run or _next_directory(named or "run", config)
    if options.processes == Processes():  # of several, the first one looks
        rundir.prepare(directory, options.resume)
    distributed.start(options.processes)

    from branchax.host.run import train

    try:
        train(config, directory, options.resume, command=shlex.join(["branchax", "train", *arguments]))
    except RunError as error:
        error.add_note(f"the run stopped; the checkpoints in {directory}, if any, are good")
        raise


def _next_directory(name: str, config: Config) -> Path:
    """`runs/<world>_<preset>_s<seed>_<n>` with the first `n` that is free."""
    last = f"-{config.seed + config.seeds - 1}" if config.seeds > 1 else ""
    stem = f"{config.world.replace('/', '-')}_{name}_s{config.seed}{last}"
    number = 1
    while (directory := Path("runs") / f"{stem}_{number}").exists():
        number += 1
    return directory
