"""Errors for users: settings that cannot work, and runs that cannot continue."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


class ConfigError(ValueError):
    """A setting that cannot work. `str(error)` names the field, its value and the allowed values."""


class RunError(RuntimeError):
    """A run cannot continue, or a file cannot be used. The message is written for users."""

    exit_code = 1


class WorldFault(RunError):
    """A world's simulator failed or broke a rule. The message is one line."""

    state: Any = None  # of the run as far as it had come, for whoever saves it


def nearest(name: str, known: Iterable[str], most: int = 3, prefix: str = "") -> str:
    """`" (did you mean a or b?)"` for the `most` known names closest to `name`, or `""` when none is close."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f" (did you mean {' or '.join(prefix + x for x in close)}?)" if close else ""
