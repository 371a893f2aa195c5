"""The far end of a pipe: a process that loads one library, prepares a task, and then does it when it is told to.

A line of JSON comes in on standard input, and one goes out on what was standard output (which the library's own prints
no longer reach). Standard library alone: this file runs in every peer's environment.

    {"prepare": NAME, "settings": {...}}  loads, compiles and warms up   -> {"seconds": ..., ...}
    {"once": NAME}                        does the work of the task once -> {"seconds": ..., ...}

A task is a function from settings to another, without arguments, that does the work once and returns what there is to
say about it (`None`: nothing). Seconds are wall clock, and end when results are there.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import sys
import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

Once = Callable[[], "dict[str, Any] | None"]
Task = Callable[[dict[str, Any]], Once]


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """Wall-clock seconds of a call, and what it returns."""
    begun = time.perf_counter()
    out = function()
    return time.perf_counter() - begun, out


def versions(*packages: str) -> dict[str, str]:
    """Of the packages that figures come from."""
    return {name: importlib.metadata.version(name) for name in packages}


def serve(tasks: dict[str, Task], about: dict[str, Any]) -> None:
    """Answers until standard input ends; the first line out is `about`. An error is answered too, with its trace."""
    pipe = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def say(answer: dict[str, Any]) -> None:
        print(json.dumps(answer), file=pipe, flush=True)

    say(about)
    ready: dict[str, Once] = {}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if (name := request.get("prepare")) is not None:
                seconds, ready[name] = timed(lambda: tasks[name](request["settings"]))  # noqa: B023
                found = None
            else:
                seconds, found = timed(ready[request["once"]])
            say({"seconds": seconds, **(found or {})})
        except Exception:
            say({"error": traceback.format_exc()})


class Paused:
    """A whole training loop of a library, run in a thread, that stands still at `pause()` until `go()` is called.

    So a loop that a library offers as one call can be timed piece by piece, and take turns with another process.
    """

    def __init__(self, loop: Callable[[Paused], Any]) -> None:
        self.turn, self.done = threading.Semaphore(0), threading.Semaphore(0)
        self.error: BaseException | None = None

        def run() -> None:
            try:
                self.turn.acquire()
                loop(self)
            except BaseException as error:
                self.error = error
            self.done.release()

        threading.Thread(target=run, daemon=True).start()

    def pause(self) -> None:
        """Called by the loop."""
        self.done.release()
        self.turn.acquire()

    def go(self) -> None:
        """Lets the loop go on to its next pause. Raises what the loop has raised."""
        self.turn.release()
        self.done.acquire()
        if self.error is not None:
            raise self.error
