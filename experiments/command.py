"""What the commands of the experiments share: errors become one line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import NoReturn

from branchax.commands.base import PREEMPTED, REFUSED
from branchax.errors import ConfigError, RunError


def answer(name: str, work: Callable[[], int]) -> int:
    """Runs `work` and returns its exit code; what a user can mend is said in one line."""
    try:
        return work()
    except ConfigError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return REFUSED
    except RunError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code


def leave(code: int, at_once: bool = False) -> NoReturn:
    """Ends the process. At once, or after an interruption, it does not wait for a compilation that is under way."""
    sys.stdout.flush()
    sys.stderr.flush()
    if at_once or code == PREEMPTED:
        os._exit(code)
    sys.exit(code)
