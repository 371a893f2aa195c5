"""`branchax render`: the policy in the real world as a film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from branchax import pretrained
from branchax.commands.base import aside, check_run
from branchax.commands.flags import Directory, Switch, parse
from branchax.errors import ConfigError


@dataclass(frozen=True)
class RenderOptions:
    """Films one episode of the saved policy: Brax's worlds by MuJoCo's renderer (by EGL where there is no screen), the
    classic ones and Gymnasium's planar bodies by a drawing of its own."""

    run: Directory
    """Directory of the run, or the name of a pretrained policy, such as hopper."""
    out: Path | None = None
    """FILE.gif, or FILE.mp4 where ffmpeg is installed (DIR/plots/policy.gif, or NAME.gif)."""
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
    run = pretrained.locate(options.run)
    check_run(run)
    aside("loading JAX and the policy")

    from branchax.views import render

    named = Path(f"{options.run}.gif") if run != options.run else run / "plots" / "policy.gif"
    path = options.out or named
    steps = render.render(run, path, options.steps, options.seed, options.imagined, say=aside)
    print(f"{path} ({steps:,} steps)")
