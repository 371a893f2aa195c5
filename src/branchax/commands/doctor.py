"""`branchax doctor`: whether a run and this machine are in order, and a fault once more."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from branchax.commands.base import check_run
from branchax.commands.flags import Switch, parse
from branchax.errors import ConfigError, RunError


@dataclass(frozen=True)
class DoctorOptions:
    """Checks this machine, and the checkpoints, state and versions of a run."""

    run: Annotated[Path | None, tyro.conf.Positional, tyro.conf.arg(metavar="[DIR]")] = None
    """Directory of a run."""
    replay: Switch = False
    """Run the epoch of the latest fault in DIR again."""


def run(arguments: list[str]) -> None:
    """Prints what was found. Raises `RunError` when something is wrong."""
    options = parse(DoctorOptions, arguments, "branchax doctor")
    if options.run is not None:
        check_run(options.run)
    elif options.replay:
        raise ConfigError("replay: name the directory of a run: branchax doctor DIR --replay")

    from branchax.views import doctor

    findings = []
    for finding in doctor.machine() if options.run is None else (*doctor.machine(), *doctor.run(options.run)):
        findings.append(finding)
        print(f"  {'ok ' if finding.good else 'BAD'} {finding.about:<11} {finding.said}", flush=True)
    if options.run is not None and options.replay:
        findings.append(doctor.replay(options.run, say=lambda text: print(f"      {text}", flush=True)))
        print(f"  {'ok ' if findings[-1].good else 'BAD'} {findings[-1].about:<11} {findings[-1].said}")
    if bad := sum(not finding.good for finding in findings):
        raise RunError(f"{bad} of {len(findings)} checks failed")
