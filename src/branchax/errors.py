"""The errors that are meant for users: settings that cannot work, and runs that cannot go on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ConfigError(ValueError):
    """A setting that cannot work. `str(error)` names the field, its value and what is allowed."""


class RunError(RuntimeError):
    """Something that a run could not survive, or a file that cannot be used; the message is for its user."""

    exit_code = 1


def nearest(name: str, known: Iterable[str], most: int = 3, prefix: str = "") -> str:
    """`" (did you mean a or b?)"` for the `most` known names closest to `name`, or `""` when none is close."""
    close = difflib.get_close_matches(name, list(known), n=most, cutoff=0.5)
    return f" (did you mean {' or '.join(prefix + x for x in close)}?)" if close else ""
