"""`branchax play`: the saved policy, live in a browser."""

from __future__ import annotations

import os
import sys
import webbrowser
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import tyro

from branchax import pretrained
from branchax.commands.base import aside, check_run
from branchax.commands.flags import Directory, Switch, parse
from branchax.errors import ConfigError


@dataclass(frozen=True)
class PlayOptions:
    """Plays the saved policy in a browser, episode after episode, until Ctrl-C: the real world and, beside it, what the
    model imagines from the same start. Worlds without a drawing are shown as traces of their observations."""

    run: Directory
    """Directory of the run, or the name of a pretrained policy, such as hopper."""
    seed: int | None = None
    """By default the run's first."""
    steps: int | None = None
    """Maximum number of steps per episode. Default: the whole episode."""
    sample: Switch = False
    """Sample actions with exploration noise instead of taking the policy's mode."""
    port: int = 0
    """Port of the page. Default: a free port."""
    browser: bool = True
    """Open a browser, where there is a screen."""
    out: Annotated[Path | None, tyro.conf.arg(metavar="FILE.html")] = None
    """Write a page with three episodes that needs no server, and end."""


def run(arguments: list[str]) -> None:
    """Writes the page, or serves it until Ctrl-C."""
    options = parse(PlayOptions, arguments, "branchax play")
    if options.steps is not None and options.steps < 1:
        raise ConfigError(f"steps: {options.steps} is not possible; allowed: >= 1")
    if not 0 <= options.port < 65_536:
        raise ConfigError(f"port: {options.port} is not possible; allowed: 0 to 65535")
    options = replace(options, run=pretrained.locate(options.run))
    check_run(options.run, options.seed)
    aside("loading JAX and the policy")
    from branchax.views import live

    player, episode = live.episodes_of(options.run, options.seed, options.steps, not options.sample)
    aside("playing the first episode, which is compiled for it")
    if options.out is not None:
        html = live.page(options.run, player, [episode(n) for n in range(3)], live=False)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(html, encoding="utf-8")
        print(f"{options.out} ({options.out.stat().st_size / 1e6:.1f} MB; open it in a browser, no network needed)")
        return
    server = live.server(live.page(options.run, player, [episode(0)], live=True), episode, options.port)
    with server:
        url = f"http://{live.HOST}:{server.server_port}/"
        print(f"{url} (Ctrl-C ends it)", flush=True)
        if options.browser and _has_screen():
            webbrowser.open(url)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("\nended")


def _has_screen() -> bool:
    """Whether a browser would open in a window, and not in this terminal."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
