"""`branchax render`: the policy in the real world as a film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from branchax.commands.base import aside, check_run
from branchax.commands.flags import Directory, Switch, parse
from branchax.errors import ConfigError


@dataclass(frozen=True)
class RenderOptions:
    """Films one episode of the saved policy: Brax's worlds by MuJoCo's renderer (by EGL where there is no screen), the
    classic ones and Gymnasium's planar bodies by a drawing of its own."""

    run: Directory
    """Directory of the run."""
    out: Path | None = None
    """FILE.gif, or FILE.mp4 where ffmpeg is installed (DIR/plots/policy.gif)."""
    steps: int | None = None
    """At most so many; by default the whole episode."""
    seed: int | None = None
    """By default the run's first."""
    imagined: Switch = False
    """Beside it, what the model imagines from the same start under the same policy."""


def run(arguments: list[str]) -> None:
    """Writes the film and says where."""
    options = parse(RenderOptions, arguments, "branchax render")
    if options.steps is not None and options.steps < 1:
        raise ConfigError(f"steps: {options.steps} is not possible; allowed: >= 1")
    check_run(options.run)
    aside("loading JAX and the policy")

    from branchax.views import render

    path = options.out or options.run / "plots" / "policy.gif"
    steps = render.render(options.run, path, options.steps, options.seed, options.imagined, say=aside)
    print(f"{path} ({steps:,} steps)")
