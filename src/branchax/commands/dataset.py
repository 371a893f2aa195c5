"""`branchax dataset`: what a run has collected, as a file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from branchax.commands.base import aside, check_run
from branchax.commands.flags import Directory, parse
from branchax.errors import ConfigError
from branchax.runs import rundir


@dataclass(frozen=True)
class DatasetOptions:
    """Writes the real transitions that a run has collected, of all its seeds."""

    run: Directory
    """Directory of the run."""
    file: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FILE")]
    """What to write, an .npz; it must not exist yet."""


def run(arguments: list[str]) -> None:
    """Writes the file."""
    options = parse(DatasetOptions, arguments, "branchax dataset")
    if options.file.exists():
        raise ConfigError(f"dataset: {options.file} exists already; name another file")
    check_run(options.run)

    from branchax.build import make_world
    from branchax.runs import dataset
    from branchax.runs.restoring import collected

    transitions = collected(options.run, say=aside)
    dataset.save(options.file, transitions, make_world(rundir.load_config(options.run)).spec)
    print(f"{transitions.reward.shape[0]:,} transitions written to {options.file}")
