"""Shows a policy in a browser: a page on this machine that loads one episode after another, each from a new start.

Each episode is computed when the page asks for it: in the real world and, from the same start, in the model if there is
one.
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
DIGITS = 4  # significant digits of the numbers that are sent
HOST = "127.0.0.1"  # only this machine


def episodes_of(
    directory: Path, seed: int | None = None, steps: int | None = None, greedy: bool = True
) -> tuple[play.Player, Callable[[int], Found]]:
    """The player of a seed, and a function `n -> the n-th episode`, ready to be drawn (`collect_frames`).

    Args:
      directory: the run's directory.
      seed: by default the run's first.
      steps: the maximum number of steps; by default the whole episode.
      greedy: True: the policy's mode; False: with its exploration noise.

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
    """The HTML of the page with its first episodes; a `live` page loads more from the server."""
    first = episodes[0] | {"episodes": [each for found in episodes for each in found["episodes"]]}
    why = diagnose.refusal(player.config) or diagnose.unfit(player)
    names = observation_names(player.world.spec.name, player.world.spec.obs_size)
    shown = {"player": first, "why_no_model": why, "names": names}
    title = f"{player.world.spec.name} · {directory.resolve().name}"
    about = f"Seed {player.seed} after {player.clock:,} steps."
    data = {"runs": [{"name": directory.resolve().name, "diagnosis": shown}], "live": live, "about": about}
    return report.page(title, data, SCRIPTS, asks=live)


def server(html: str, episode: Callable[[int], Found], port: int = 0) -> http.server.ThreadingHTTPServer:
    """A server for the page at `/` and its n-th episode at `/episode/n`, only for this machine; not yet running.

    Port 0 picks a free port. Raises `OSError` when the port is taken.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        """Answers the requests of the page."""

        def do_GET(self) -> None:
            """Sends the page, an episode, or an error."""
            head, _, number = self.path.lstrip("/").partition("/")
            if self.headers.get("Host", "").partition(":")[0] not in (HOST, "localhost"):  # a page from elsewhere
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
            """Prints nothing: the terminal belongs to the command."""

    return http.server.ThreadingHTTPServer((HOST, port), Handler)
