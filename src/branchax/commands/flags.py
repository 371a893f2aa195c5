"""How the commands read their arguments: tyro makes flags of a dataclass; unknown ones are refused before it parses."""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro

from branchax.config.names import find_matches
from branchax.errors import ConfigError, nearest

Options = TypeVar("Options")
Directory = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="DIR")]
Directories = Annotated[tuple[Path, ...], tyro.conf.Positional, tyro.conf.arg(metavar="DIR...")]
Switch = Annotated[bool, tyro.conf.FlagCreatePairsOff]  # a flag without a `--no-` one


def parse(
    options: type[Options],
    arguments: Sequence[str],
    command: str,
    default: Options | None = None,
    known: Iterable[str] | None = None,
    about: str | None = None,
) -> Options:
    """Reads the arguments of a command.

    Args:
      options: a dataclass with the docstrings that `--help` shows.
      arguments: without the command itself.
      command: such as `branchax plot`.
      default: for dataclasses whose defaults depend on what was read before.
      known: the names of all flags (`model.members`); by default those of the fields.
      about: what the command does; by default the dataclass's docstring.

    Raises:
      ConfigError: for an unknown flag; it names the nearest.
      SystemExit: when tyro has printed its help, or a value that it cannot read.
    """
    known = list(names_of(options) if known is None else known)
    arguments = spelled_out(arguments, known)
    check_flags(arguments, known, command)
    found = tyro.cli(
        options,
        default=default,
        args=arguments,
        prog=command,
        description=about,
        config=(tyro.conf.HelptextFromCommentsOff,),  # fields have docstrings; reading the source twice takes time
    )
    return typing.cast(Options, found)


def names_of(options: type[Any]) -> list[str]:
    """The names of a dataclass's flags: its fields, but for those that are given by their position."""
    hints = typing.get_type_hints(options, include_extras=True)
    given = {name for name, hint in hints.items() if tyro.conf.Positional in getattr(hint, "__metadata__", ())}
    return [field.name for field in dataclasses.fields(options) if field.name not in given]


def check_flags(arguments: Sequence[str], known: Iterable[str], command: str) -> None:
    """Raises `ConfigError` for the first flag that is not among the `known` (`model.members`), naming the nearest.

    Before the arguments are parsed: a flag that nobody knows would leave its value behind as a run's directory.
    """
    names = [name.replace("_", "-") for name in (*known, "help")]
    for argument in arguments:
        if not re.match("--?[a-zA-Z]", argument) or argument in ("-h", "-inf"):
            continue  # a value, such as -1
        flag = argument.partition("=")[0].replace("_", "-")
        name = flag.removeprefix("--")
        if name not in names and re.sub(r"(^|\.)no-", r"\1", name) not in names:
            several = [f"--{other}" for other in _meant(name, names)]
            near = f" (did you mean {' or '.join(several)}?)" if several else nearest(name, names, most=1, prefix="--")
            raise ConfigError(f"{flag}: unknown flag{near}; {command} --help shows all")


def spelled_out(arguments: Sequence[str], known: Iterable[str]) -> list[str]:
    """The arguments, with flags that mean one of the `known` (`model.members`) alone by that name: `--lr`, `--tau`."""
    names = [name.replace("_", "-") for name in (*known, "help")]

    def spell(argument: str) -> str:
        flag, equals, value = argument.partition("=")
        if not re.match("--[a-zA-Z]", flag):
            return argument
        name = flag.removeprefix("--").replace("_", "-")
        no = "no-" if name.startswith("no-") and name not in names else ""
        found = _meant(name.removeprefix(no), names)
        if len(found) != 1 or found[0] == name:
            return argument
        group, dot, last = found[0].rpartition(".")
        return f"--{group}{dot}{no}{last}{equals}{value}"

    return [spell(argument) for argument in arguments]


def _meant(name: str, flags: Sequence[str]) -> list[str]:
    """`names.find_matches` for names as flags have them, with hyphens."""
    return [
        x.replace("_", "-") for x in find_matches(name.replace("-", "_"), [flag.replace("-", "_") for flag in flags])
    ]


def read_early(options: type[Options], arguments: Sequence[str], command: str) -> tuple[Options, list[str]]:
    """Reads some flags of many: the options, and the arguments that are left. `--help` is left out."""
    rest = [argument for argument in arguments if argument not in ("-h", "--help")]
    return tyro.cli(options, args=rest, prog=command, return_unknown_args=True, add_help=False)
