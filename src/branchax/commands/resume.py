"""`branchax resume`: a run goes on from its last good checkpoint."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from branchax.commands.flags import Switch, parse
from branchax.commands.train import flags, launch
from branchax.config import Config
from branchax.devices.distributed import Processes
from branchax.errors import ConfigError
from branchax.presets import PRESETS
from branchax.runs import rundir


@dataclass(frozen=True)
class ResumeOptions:
    """What `branchax resume` takes beside the directory."""

    config: Annotated[Config, tyro.conf.arg(name=""), tyro.conf.AvoidSubcommands]
    force: Switch = False
    """Go on even if a setting has changed that the state depends on."""
    processes: Annotated[Processes, tyro.conf.arg(name="")] = field(default_factory=Processes)


def run(arguments: list[str]) -> None:
    """Checks the settings, then trains."""
    named = Path(arguments[0]) if arguments and not arguments[0].startswith("-") else None
    if named is None and not {"-h", "--help"} & set(arguments):
        raise ConfigError("resume: name the directory of a run: branchax resume DIR")
    base = PRESETS["mbpo"] if named is None else rundir.load_config(named)
    options = parse(
        ResumeOptions,
        arguments if named is None else arguments[1:],
        "branchax resume DIR",
        default=ResumeOptions(base),
        known=flags(base),
        about="Goes on with a run. Its settings are the defaults; those that its state does not depend on may change,"
        " and --env-steps may grow.",
    )
    if named is not None:
        launch(options.config, named, options.force, shlex.join(["branchax", "resume", *arguments]), options.processes)
