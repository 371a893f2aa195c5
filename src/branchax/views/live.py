"""A policy at play in a browser: a page on this machine that asks for episode after episode, each from a new start.

Each episode is stepped when it is asked for, in the real world and, from the same start, in the model if there is one.
"""

from __future__ import annotations

import functools
import http.server
import json
import threading
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Any

import jax
import numpy as np

from branchax.devices import cache
from branchax.runs import runlog
from branchax.views import bodies, diagnose, play, report
from branchax.views.episodes import collect_frames
from branchax.views.model import Found
from branchax.worlds.catalog import observation_names

SCRIPTS = ("charts.js", "player.js", "play.js", "theme.js")
DIGITS = 4  # of the numbers that are sent
HOST = "127.0.0.1"  # this machine alone


def episodes_of(
    directory: Path, seed: int | None = None, steps: int | None = None, greedy: bool = True
) -> tuple[play.Player, Callable[[int], Found]]:
    """The player of a run's seed, and its n-th episode, ready to be drawn (`collect_frames`).

    Args:
      directory: of the run.
      seed: by default the run's first.
      steps: at most so many; by default the whole episode.
      greedy: the policy's mode, otherwise with its noise.

    Raises:
      ConfigError: when the directory holds no run, no checkpoint yet, or no such seed.
    """
    cache.enable()
    player = play.load(directory, seed)
    world = player.world.spec
    length = min(world.episode_length, steps or world.episode_length)
    keep = bodies.pose if bodies.has_bodies(world.name) else lambda state: ()
    run = play.episodes(player, 1, length, keep)
    has_model = not (diagnose.refusal(player.config) or diagnose.unfit(player))
    imagine = play.imagination(player, length, members=1) if has_model else None
    lock = threading.Lock()  # a browser may ask twice

    @functools.lru_cache(maxsize=8)
    def episode(n: int) -> Found:
        with lock:
            real, starts = run(greedy, jax.random.fold_in(player.key, n))
            real = jax.tree.map(np.asarray, real)
            imagined = None if imagine is None else imagine(np.asarray(starts.obs))
            return runlog.plain(collect_frames(player, real, imagined, length, most=length), DIGITS)

    return player, episode


def page(directory: Path, player: play.Player, episodes: list[Found], live: bool) -> str:
    """The HTML of the page with its first episodes; one that is `live` asks for more."""
    first = episodes[0] | {"episodes": [each for found in episodes for each in found["episodes"]]}
    why = diagnose.refusal(player.config) or diagnose.unfit(player)
    names = observation_names(player.world.spec.name, player.world.spec.obs_size)
    shown = {"player": first, "why_no_model": why, "names": names}
    title = f"{player.world.spec.name} · {directory.resolve().name}"
    about = f"Seed {player.seed} after {player.clock:,} steps."
    data = {"runs": [{"name": directory.resolve().name, "diagnosis": shown}], "live": live, "about": about}
    return report.page(title, data, SCRIPTS, asks=live)


def server(html: str, episode: Callable[[int], Found], port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server of the page at `/` and of its n-th episode at `/episode/n`, for this machine alone; not yet running.

    Port 0 takes a free one. Raises `OSError` when the port is taken.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers what the page asks."""

        def do_GET(self) -> None:
            """The page, an episode, or nothing."""
            head, _, number = self.path.lstrip("/").partition("/")
            if not self.headers.get("Host", "").startswith((HOST, "localhost")):  # a page from elsewhere
                self.send_error(HTTPStatus.FORBIDDEN)
            elif self.path == "/":
                self._answer("text/html; charset=utf-8", html)
            elif head == "episode" and number.isdecimal():
                self._answer("application/json", json.dumps(episode(int(number))["episodes"][0], allow_nan=False))
            else:
                self.send_error(HTTPStatus.NOT_FOUND)

        def _answer(self, kind: str, text: str) -> None:
            body = text.encode()
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Says nothing: the terminal is the command's."""

    return http.server.ThreadingHTTPServer((HOST, port), Handler)
