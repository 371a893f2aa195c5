"""`branchax lab`: compares gradient estimators."""

from __future__ import annotations

import shlex
import sys

from branchax.commands.base import INTERRUPTED, check_installed
from branchax.commands.flags import parse
from branchax.errors import ConfigError, nearest


def run(arguments: list[str]) -> None:
    """Measures gradient estimators."""
    from branchax.lab import options as lab  # which loads no JAX

    experiments, named = ("gradients",), [a for a in arguments[:1] if not a.startswith("-")]
    if named and named[0] not in experiments:
        raise ConfigError(f"lab: {named[0]!r} is unknown{nearest(named[0], experiments)}; known: gradients")
    if not named and not {"-h", "--help"} & set(arguments):
        raise ConfigError("lab: say what to measure: branchax lab gradients ...")
    estimators = "\n".join(f"  {name:<21} {about}" for name, about in lab.ESTIMATORS.items())
    about = f"Measures bias, variance, direction and cost of gradient estimators, by horizon.\n{estimators}"
    options = parse(lab.LabOptions, arguments[len(named) :], "branchax lab gradients", about=about)
    lab.check(options)
    check_installed(options.world)
    with lab.directory_of(options) as directory:
        from branchax.lab.run import gradients

        try:
            gradients(options, directory, command=shlex.join(["branchax", "lab", *arguments]))
        except KeyboardInterrupt:
            print(f"\nbranchax: interrupted; {directory} has the horizons that were done, if any", file=sys.stderr)
            raise SystemExit(INTERRUPTED) from None
