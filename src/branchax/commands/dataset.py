"""`branchax dataset`: what a run has collected, as a file."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from branchax.commands.base import check_installed, parse
from branchax.errors import ConfigError
from branchax.runs import rundir


def run(arguments: list[str]) -> None:
    """Writes the file."""
    parser = argparse.ArgumentParser(
        "branchax dataset", description="Writes the real transitions that a run has collected, of all its seeds."
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="directory of the run")
    parser.add_argument("file", type=Path, metavar="FILE", help="what to write, an .npz; it must not exist yet")
    options = parse(parser, arguments)
    if options.file.exists():
        raise ConfigError(f"dataset: {options.file} exists already; name another file")
    check_installed(rundir.load_config(options.run).world)

    from branchax.runs import dataset
    from branchax.runs.restoring import collected

    transitions = collected(options.run, say=lambda text: print(text, file=sys.stderr))
    dataset.save(options.file, transitions)
    print(f"{transitions.reward.shape[0]:,} transitions written to {options.file}")
