"""The command line. Bad settings are refused before JAX is loaded; `branchax.commands` does the rest."""

from __future__ import annotations

import gc
import importlib
import io
import os
import sys
from collections.abc import Sequence

from branchax import __version__
from branchax.commands import USAGE
from branchax.commands.base import INTERRUPTED, OK, PREEMPTED, REFUSED
from branchax.devices import distributed
from branchax.errors import ConfigError, RunError, nearest

_LINES = [f"  branchax {name} {line}".rstrip() for name, usage in USAGE.items() for line in usage.split("\n")]
HELP = f"""\
branchax {__version__}: model-based reinforcement learning on short rollouts that branch off real states

{chr(10).join(_LINES)}

`branchax list` shows the presets and the worlds; `branchax train --help` shows every setting.
Try: branchax train mbpo --world brax/inverted_pendulum"""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code (`commands.base`)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    name = arguments[0] if arguments else "--help"
    try:
        if name in ("-h", "--help", "help"):
            print(HELP)
        elif name == "--version":
            print(__version__)
        elif name in USAGE:
            importlib.import_module(f"branchax.commands.{name.replace('-', '_')}").run(arguments[1:])
        else:
            raise ConfigError(f"command: {name!r} is unknown{nearest(name, USAGE)}; known: {', '.join(USAGE)}")
    except ConfigError as error:
        print(f"branchax: {error}", file=sys.stderr)
        return REFUSED
    except RunError as error:
        for line in (str(error), *getattr(error, "__notes__", ())):
            print(f"branchax: {line}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if isinstance(error, BrokenPipeError) or error.filename is None:
            raise
        print(f"branchax: {error.filename2 or error.filename}: {error.strerror}", file=sys.stderr)
        return REFUSED
    except SystemExit as stop:  # tyro has printed its help (0) or what it could not read (2)
        return stop.code if isinstance(stop.code, int) else REFUSED
    except KeyboardInterrupt:
        print(
            "\nbranchax: interrupted. Checkpoints are intact: continue a run with `branchax resume DIR`, a sweep with"
            " the same command",
            file=sys.stderr,
        )
        return INTERRUPTED
    return OK


def entry() -> None:
    """What the `branchax` command calls."""
    # Reading flags and tracing programs make many objects that stay; at its default (700 new ones) the collector goes
    # through them again and again.
    gc.set_threshold(100_000)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a terminal without Unicode shows `?` and goes on
    try:
        code = main()
        sys.stdout.flush()
    except BrokenPipeError:  # `branchax list | head`
        os._exit(OK)
    distributed.leave(code)
    if code in (INTERRUPTED, PREEMPTED):
        sys.stderr.flush()
        os._exit(code)  # compilation in a thread cannot be interrupted, and would be waited for
    sys.exit(code)
