"""`branchax render`: the policy in the real world as a film."""

from __future__ import annotations

import argparse
from pathlib import Path

from branchax.commands.base import check_installed, parse
from branchax.errors import ConfigError
from branchax.runs import rundir


def run(arguments: list[str]) -> None:
    """Writes the film and says where."""
    parser = argparse.ArgumentParser(
        "branchax render",
        description="Films one episode of the saved policy: Brax's worlds by MuJoCo's renderer (by EGL where"
        " there is no screen), the classic ones by a drawing of its own.",
    )
    parser.add_argument("run", type=Path, metavar="DIR", help="directory of the run")
    parser.add_argument(
        "--out", type=Path, help="FILE.gif, or FILE.mp4 where ffmpeg is installed (DIR/plots/policy.gif)"
    )
    parser.add_argument("--steps", type=int, help="at most so many; by default the whole episode")
    parser.add_argument("--seed", type=int, help="by default the run's first")
    options = parse(parser, arguments)
    if options.steps is not None and options.steps < 1:
        raise ConfigError(f"steps: {options.steps} is not possible; allowed: >= 1")
    check_installed(rundir.load_config(options.run).world)

    from branchax.views import render

    path = options.out or options.run / "plots" / "policy.gif"
    steps = render.render(options.run, path, options.steps, options.seed)
    print(f"{path} ({steps:,} steps)")
